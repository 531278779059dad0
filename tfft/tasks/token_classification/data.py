"""Sentences with tagged words, from files or lists: :func:`load_tagged`, :class:`TokenExamples`.

Implementation notes: the data comes as CoNLL columns or JSON lines; sentences become strings again.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.data.batches import BatchOptions, assemble, on_cpu
from tfft.data.examples import Splits
from tfft.errors import DataError, PlanError, did_you_mean, join_names, quantity, raise_problems
from tfft.modalities.text.examples import TextExamples
from tfft.specs import AudioSpec, InputSpec

OUTSIDE, PADDING = "O", -1

_BLANK = re.compile("[ \t\n\r\f\v]+")  # separators of words; other white space is part of a word
_PREFIX = re.compile(r"[BIESLU](-.*)?", re.DOTALL)
_INSIDE = re.compile(r"([BI])-(.*)", re.DOTALL)
_SHOWN = 10  # problems in one message
_JSON = (".jsonl", ".json", ".ndjson")


@dataclasses.dataclass(frozen=True, eq=False)
class TokenExamples(TextExamples):
    """Sentences and the tags of their words; each text is its words joined by spaces.

    ``labels`` are int32 [N, W], W the number of words of the longest sentence: index into ``class_names``, -1 for
    padding. ``class_names`` are the tags, ``"O"`` first if present, then sorted.
    """

    pairs: np.ndarray | None = None
    labels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.int32))
    class_names: tuple[str, ...] = ()

    @property
    def words(self) -> int:
        """Number of words in all sentences."""
        return int((self.labels >= 0).sum())

    @property
    def counts(self) -> dict[str, int]:
        """Number of words with each tag."""
        totals = np.bincount(self.labels[self.labels >= 0], minlength=len(self.class_names))
        return dict(zip(self.class_names, totals.tolist(), strict=True))

    @property
    def lengths(self) -> np.ndarray | None:
        """None: sentences keep the drawn order."""
        return None

    def batches(self, spec: InputSpec | AudioSpec | None, options: BatchOptions) -> tf.data.Dataset:
        """Make a dataset of (string [B], int32 [B, W]), W the words of the longest sentence of the batch."""
        options.refuse(("augment", "views", "sampling"), "tagged words")
        texts = on_cpu(np.array([text.encode() for text in self.texts]))
        dataset = assemble(lambda at: tf.gather(texts, at), self.labels, options)

        def cut(inputs: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            longest = tf.reduce_max(tf.reduce_sum(tf.cast(labels >= 0, tf.int32), axis=1))
            return inputs, labels[:, :longest]

        return dataset.map(cut, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


@dataclasses.dataclass(frozen=True)
class TagReport:
    """Statistics of tagged sentences; ``print`` it.

    Attributes:
        words: Number of training words.
        counts: Number of words with each tag.
        notes: Remarks, one sentence each.
    """

    words: int
    counts: Mapping[str, int]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count:,}" for name, count in self.counts.items())
        return "\n".join((f"words: {self.words:,} ({counts})", *self.notes))


@dataclasses.dataclass(frozen=True)
class _Sentence:
    words: tuple[str, ...]
    tags: tuple[str, ...]
    where: str


def load_tagged(
    source: str | os.PathLike[str] | Sequence[Any] | Mapping[str, Any],
    *,
    words: str = "tokens",
    tags: str = "tags",
    validation: float = 0.2,
    seed: int = 0,
) -> Splits[TokenExamples]:
    """Load sentences with tagged words, and split them.

    Use it for :func:`tfft.heads.token_classification`. A file is read by its ending: ``.jsonl``, ``.ndjson`` and
    ``.json`` hold one JSON object per line, with a list of words and one of tags; any other is in CoNLL columns: a
    word and its tag on each line (the first column and the last, separated by tabs or spaces), an empty line behind
    each sentence, lines with ``-DOCSTART-`` left out.

    Args:
        source: A file; ``{"train": file, "validation": file}``; or ``(sentences, tags)``, two lists of lists of str.
        words: Name of the list of words in JSON lines.
        tags: Name of the list of tags in JSON lines.
        validation: Share of the sentences to hold out, above 0 and below 1. The choice is by a hash of the words, so
            a sentence that occurs twice is not on both sides; sentences with a tag that no other has are not held
            out. Has no effect if there are two files.
        seed: Picks another draw.

    Raises:
        DataError: Listing, with their lines, sentences with unequal numbers of words and tags, without words, with
            words that are empty or contain spaces, and tags that only validation has.

    Example:
        >>> data = load_tagged({"train": "train.conll", "validation": "dev.conll"})
        >>> head = tfft.heads.token_classification(data.class_names)
        >>> model.fit(to_dataset(data.train, shuffle=True), validation_data=to_dataset(data.validation))
    """
    if not 0 < validation < 1:
        raise PlanError(f"validation must be above 0 and below 1, received {validation!r}")
    problems: list[str] = []
    if isinstance(source, Mapping):
        parts = _files(source)
        train, held = (_read(Path(parts[name]), words, tags, problems) for name in ("train", "validation"))
        split_from = f"the files {parts['train']} and {parts['validation']}"
    else:
        every, name = _every(source, words, tags, problems)
        raise_problems(DataError, "The tagged sentences cannot be used", problems, limit=_SHOWN)
        train, held = _divided(every, validation, seed)
        split_from = f"{validation:.0%} of the sentences of {name}, drawn with seed {seed}"
    known = {tag for sentence in train for tag in sentence.tags}
    problems += _unknown(held, known)
    raise_problems(DataError, "The tagged sentences cannot be used", problems, limit=_SHOWN)
    for part, what in ((train, "training"), (held, "validation")):
        if not part:
            raise DataError(f"There are no {what} sentences in {split_from}.")
    names = tuple(sorted(known, key=lambda tag: (tag != OUTSIDE, tag)))
    if len(names) < 2:
        raise DataError(f"All words have the tag {join_names(names)}, so there is nothing to learn: expected two tags.")
    notes = _notes(train, "training") + _notes(held, "validation") + _mixed(names)
    packed = _packed(train, names)
    report = TagReport(packed.words, packed.counts, tuple(notes))
    return Splits(packed, _packed(held, names), split_from, task="token_classification", report=report)


def read_tagged(
    source: str | os.PathLike[str] | Sequence[Any],
    class_names: Sequence[str],
    *,
    words: str = "tokens",
    tags: str = "tags",
) -> TokenExamples:
    """Read tagged sentences without dividing them, for a model that knows its tags.

    Args:
        source: A file or two lists, as :func:`load_tagged` takes them.
        class_names: The tags of the model.
        words: Name of the list of words in JSON lines.
        tags: Name of the list of tags in JSON lines.

    Raises:
        DataError: As :func:`load_tagged`, and for tags that the model does not know.
    """
    problems: list[str] = []
    sentences, name = _every(source, words, tags, problems)
    problems += _unknown(sentences, set(class_names))
    raise_problems(DataError, "The tagged sentences cannot be used", problems, limit=_SHOWN)
    if not sentences:
        raise DataError(f"There are no sentences in {name}.")
    return _packed(sentences, tuple(class_names))


def _files(source: Mapping[str, Any]) -> Mapping[str, Any]:
    if set(source) != {"train", "validation"}:
        hints = "".join(did_you_mean(str(name), ("train", "validation")) for name in source)
        raise DataError(f"Expected the files 'train' and 'validation', received {join_names(source)}.{hints}")
    return source


def _every(source: Any, words: str, tags: str, problems: list[str]) -> tuple[list[_Sentence], str]:
    if isinstance(source, (str, os.PathLike)):
        return _read(Path(source), words, tags, problems), str(source)
    if not isinstance(source, Sequence) or len(source) != 2:
        raise DataError(
            "Expected a file, {'train': file, 'validation': file} or a pair (sentences, tags) of two lists of lists, "
            f"received {type(source).__name__}."
        )
    sentences, of_sentences = source
    if len(sentences) != len(of_sentences):
        raise DataError(f"Received {len(sentences)} sentences, but tags of {len(of_sentences)}.")
    pairs = enumerate(zip(sentences, of_sentences, strict=True))
    return _checked(((*pair, f"sentence {at}") for at, pair in pairs), problems), "the lists"


def _read(path: Path, words: str, tags: str, problems: list[str]) -> list[_Sentence]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{error.object[error.start]:02x} at position {error.start} is not UTF-8. Save "
            "the file as UTF-8."
        ) from error
    except OSError as error:
        parent = path.parent if path.parent.is_dir() else Path(".")
        hint = did_you_mean(path.name, [entry.name for entry in parent.iterdir()])
        raise DataError(f"The file {str(path)!r} cannot be read: {error.strerror or error}.{hint}") from error
    lines = [line.rstrip("\r") for line in text.split("\n")]  # other line ends may be part of a word
    rows = _json_rows(path, lines, words, tags, problems) if path.suffix in _JSON else _columns(path, lines, problems)
    return _checked(rows, problems)


def _json_rows(
    path: Path, lines: list[str], words: str, tags: str, problems: list[str]
) -> Iterable[tuple[Any, Any, str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"{where}: not JSON ({error.msg} at column {error.colno}); expected one object per line")
            continue
        names = list(row) if isinstance(row, dict) else []
        missing = [name for name in (words, tags) if name not in names]
        if missing:
            hints = "".join(did_you_mean(name, names) for name in missing)
            problems.append(
                f"{where}: no list {join_names(map(repr, missing))}; there is {join_names(names) or 'none'}.{hints}"
            )
            continue
        yield row[words], row[tags], where


def _columns(path: Path, lines: list[str], problems: list[str]) -> Iterable[tuple[list[str], list[str], str]]:
    words: list[str] = []
    tags: list[str] = []
    start = width = 0
    for number, line in enumerate([*lines, ""], 1):
        cells = [cell.strip(" ") for cell in line.split("\t")] if "\t" in line else _BLANK.split(line.strip(" \t"))
        if cells == [""] or cells[0] == "-DOCSTART-":
            if words:
                yield words, tags, f"{path}, line {start}"
            words, tags = [], []
            continue
        start = start if words else number
        if len(cells) < 2 or (words and len(cells) != width):
            expected = f"{width} columns as on line {start}" if words else "a word and its tag"
            problems.append(f"{path}, line {number}: expected {expected}, received {len(cells)}: {line[:40]!r}")
            cells = [*cells, OUTSIDE]  # so that one bad line is one problem
        width = width if words else len(cells)
        words.append(cells[0])
        tags.append(cells[-1])


def _checked(rows: Iterable[tuple[Any, Any, str]], problems: list[str]) -> list[_Sentence]:
    found = []
    for words, tags, where in rows:
        wrong = _faults(words, tags)
        problems += [f"{where}: {fault}" for fault in wrong]
        if not wrong:
            found.append(_Sentence(tuple(words), tuple(tags), where))
    return found


def _faults(words: Any, tags: Any) -> list[str]:
    for what, values in (("words", words), ("tags", tags)):
        if isinstance(values, str) or not isinstance(values, Sequence) or not all(isinstance(v, str) for v in values):
            return [f"the {what} must be a list of str, received {values!r:.60}"]
    if len(words) != len(tags):
        return [f"{quantity(len(words), 'word')}, but {quantity(len(tags), 'tag')}"]
    if not words:
        return ["a sentence without words"]
    faults = [f"word {i + 1} is empty" for i, word in enumerate(words) if not word]
    faults += [f"word {i + 1} contains a space: {word!r}" for i, word in enumerate(words) if _BLANK.search(word)]
    return faults + [f"the tag of word {i + 1} is empty" for i, tag in enumerate(tags) if not tag]


def _divided(sentences: list[_Sentence], share: float, seed: int) -> tuple[list[_Sentence], list[_Sentence]]:
    """Hold out equal sentences together, in the order of their hashes, but none that alone has a tag."""
    if len(sentences) < 2:
        raise DataError(f"Expected at least 2 sentences to hold some out, received {len(sentences)}.")
    groups: dict[str, list[_Sentence]] = {}
    for one in sentences:
        rank = hashlib.sha256(f"{seed}/{' '.join(one.words)}".encode()).hexdigest()
        groups.setdefault(rank, []).append(one)
    left = collections.Counter(tag for group in groups.values() for tag in _tags(group))  # groups that have it
    wanted, count = max(1, round(len(sentences) * share)), 0
    held: set[int] = set()
    for rank in sorted(groups)[:-1]:
        own = _tags(groups[rank])
        if count < wanted and all(left[tag] > 1 for tag in own):
            held.update(map(id, groups[rank]))
            left.subtract(own)
            count += len(groups[rank])
    return [one for one in sentences if id(one) not in held], [one for one in sentences if id(one) in held]


def _tags(group: list[_Sentence]) -> set[str]:
    return {tag for one in group for tag in one.tags}


def _unknown(sentences: list[_Sentence], known: set[str]) -> list[str]:
    first: dict[str, str] = {}
    for sentence in sentences:
        for at, tag in enumerate(sentence.tags):
            if tag not in known:
                first.setdefault(tag, f"{sentence.where}, word {at + 1} ({sentence.words[at]!r})")
    return [
        f"{where}: the tag {tag!r} is in no training sentence.{did_you_mean(tag, known)}"
        for tag, where in first.items()
    ]


def _notes(sentences: list[_Sentence], what: str) -> list[str]:
    broken = [place for sentence in sentences for place in _loose(sentence)]
    if not broken:
        return []
    verb = "does" if len(broken) == 1 else "do"
    found = f"{quantity(len(broken), 'I- tag')} in the {what} sentences {verb} not follow"
    return [f"{found} a word of the same type, the first: {broken[0]}. Each is read as the beginning of an entity."]


def _loose(sentence: _Sentence) -> Iterable[str]:
    before = ""
    for at, tag in enumerate(sentence.tags):
        match = _INSIDE.fullmatch(tag)
        if match and match[1] == "I" and before != match[2]:
            yield f"{sentence.where}, word {at + 1} ({sentence.words[at]!r}, {tag})"
        before = match[2] if match else ""


def _mixed(names: tuple[str, ...]) -> list[str]:
    inside = [name for name in names if name != OUTSIDE]
    plain = [name for name in inside if not _PREFIX.fullmatch(name)]
    if not plain or len(plain) == len(inside):
        return []
    return [f"Some tags have no prefix such as B- and I- ({join_names(plain)}), others do: is that meant?"]


def _packed(sentences: list[_Sentence], names: tuple[str, ...]) -> TokenExamples:
    number = {name: at for at, name in enumerate(names)}
    labels = np.full((len(sentences), max(len(one.words) for one in sentences)), PADDING, np.int32)
    for row, one in enumerate(sentences):
        labels[row, : len(one.tags)] = [number[tag] for tag in one.tags]
    texts = np.array([" ".join(one.words) for one in sentences], object)
    return TokenExamples(texts, None, labels, names, tuple(one.where for one in sentences))
