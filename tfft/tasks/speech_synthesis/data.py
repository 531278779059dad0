"""Clips with their texts: :class:`SpokenTexts`, :func:`load_voice`, :func:`read_voice`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import tensorflow as tf

from tfft.data.batches import BatchOptions, assemble, on_cpu
from tfft.data.examples import Examples, Splits, divide
from tfft.data.split import SplitOptions
from tfft.errors import DataError, raise_problems
from tfft.modalities.audio.decode import RecordingFacts, check_rates, recording_facts
from tfft.specs import AudioSpec, InputSpec
from tfft.tasks.speech_synthesis.clips import ClipStore
from tfft.tasks.speech_synthesis.head import DURATIONS_INPUT, TEXT_INPUT, VoiceStatistics
from tfft.tasks.speech_synthesis.layers import split_texts
from tfft.tasks.speech_synthesis.mel import voice_spec
from tfft.tasks.speech_synthesis.problems import clip_problems, symbol_notes, text_problems
from tfft.tasks.speech_synthesis.sources import Row, Rows, read_rows

TASK = "speech_synthesis"
_SHOWN = 20  # problems in one message
_PER_CLIP = ("texts", "clip_names", "clip_places")
_COLUMNS = ("audio", "text", "root", "encoding", "delimiter")


@dataclasses.dataclass(frozen=True, eq=False)
class SpokenTexts(Examples):
    """Texts and the clips of one speaker who says them.

    Attributes:
        texts: Texts, or phonemes separated by spaces.
        store: Frames and durations of all clips that were loaded together, which are read on first use.
        positions: Positions of these clips in the store, int [N].
        labels: Number of symbols of each text, int32 [N]; the targets are read batch by batch.
        class_names: Symbols.
        names: Name of each clip.
        places: ``file:line`` of each.
    """

    modality: ClassVar[str] = "spoken_text"
    texts: tuple[str, ...]
    store: ClipStore
    positions: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    clip_names: tuple[str, ...] = ()
    clip_places: tuple[str, ...] = ()
    skipped: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the clips, relative to their folder."""
        return self.clip_names

    @property
    def places(self) -> tuple[str, ...]:
        """Lines of the table."""
        return self.clip_places

    @property
    def counts(self) -> dict[str, int]:
        """Number of times each symbol occurs."""
        found = Counter(int(number) for at in self.positions for number in self.store.symbols[at])
        return {name: found[at] for at, name in enumerate(self.class_names)}

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each clip."""
        return self.store.frame_counts[self.positions]

    @property
    def head_facts(self) -> VoiceStatistics:
        """Levels and durations, for the head."""
        return self.store.statistics(self.positions, len(self.class_names))

    @property
    def title(self) -> str:
        """Description for messages."""
        return "texts with clips given in memory"

    def take(self, positions: np.ndarray) -> Self:
        """Return the clips at some positions."""
        pick = [int(at) for at in positions]
        parts: dict[str, Any] = {name: tuple(getattr(self, name)[at] for at in pick) for name in _PER_CLIP}
        return dataclasses.replace(self, positions=self.positions[pick], labels=self.labels[pick], **parts)

    def join(self, other: Self) -> Self:
        """Return these clips followed by others of the same source."""
        parts: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in _PER_CLIP}
        parts |= {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("positions", "labels")}
        return dataclasses.replace(self, **parts)

    def read(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compute the frames, and the durations if they are not given, of all clips."""
        self.store.read(progress)

    def batches(self, spec: InputSpec | AudioSpec | None, options: BatchOptions) -> tf.data.Dataset:
        """Make a dataset of ({text: string [B], durations: int32 [B, S]}, float32 [B, T, bands + 3])."""
        options.refuse(("augment", "views", "sampling"), "texts with clips")
        self.store.read()
        texts, places = on_cpu(np.array([text.encode() for text in self.texts], object)), self.positions
        channels = self.store.audio.bands + 3

        def read(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return self.store.batch(places[at])

        def fetch(at: tf.Tensor) -> Any:
            durations, targets = tf.numpy_function(read, [at], (tf.int32, tf.float32))
            durations = tf.ensure_shape(durations, [None, None])
            targets = tf.ensure_shape(targets, [None, None, channels])
            return {TEXT_INPUT: tf.gather(texts, at), DURATIONS_INPUT: durations}, targets

        dataset = assemble(fetch, self.labels, options, lengths=self.lengths)
        return dataset.map(lambda inputs, _: inputs).prefetch(tf.data.AUTOTUNE)

    def feature_source(self, staged: Any, batch_size: int, views: Any = None) -> Any:
        """Raise an error: the features of a voice depend on durations and are not kept."""
        raise DataError("The features of a voice are not cached. Train it with tfft.finetune, or model.fit on batches.")

    def fingerprint(self, *others: Self) -> str:
        """Return a hash of texts, clips and order."""
        found = hashlib.sha256(self.store.key.encode())
        for part in (self, *others):
            found.update(part.positions.astype("<i8").tobytes() + b"|")
        return found.hexdigest()

    def renumbered(self, numbers: np.ndarray, class_names: tuple[str, ...]) -> Self:
        """Return the same texts with the numbers that a model has for their symbols."""
        store = self.store.renumbered(numbers)
        return dataclasses.replace(self, store=store, class_names=class_names)


def load_voice(source: Any, *, sample_rate: int | None = None, **settings: Any) -> Splits[SpokenTexts]:
    """Load the clips of one speaker with their texts, and split them.

    Args:
        source: A folder in the form of LJSpeech (``metadata.csv`` with ``id|text|normalized``, ``wavs/``), or a table
            with columns of clips and texts; a column ``phonemes`` (names separated by spaces) replaces the text, and a
            column ``durations``, or a file ``.dur`` beside a clip, gives the seconds of each symbol.
        sample_rate: Samples per second of the voice. Defaults to that of the clips.
        **settings: ``audio``, ``text``, ``root``, ``encoding``, ``delimiter`` of a table; ``validation``, ``seed`` and
            ``group``; ``store`` and ``progress``.

    Returns:
        The clips; equal texts stay on one side.

    Raises:
        DataError: If clips or texts cannot be used; the message lists all with file and line.

    Example:
        >>> splits = load_voice("ljspeech/")
        >>> splits.class_names[:4]
        ('<begin>', '<end>', ' ', 'a')
    """
    split = SplitOptions(**{name: settings[name] for name in ("validation", "seed") if name in settings})
    examples, rows = _loaded(source, sample_rate, settings, None)
    same = [row.text for row in rows.rows]
    if len(set(same)) < 2:
        raise DataError(
            f"Expected at least 2 different texts in {rows.name}, one of them to hold out. Received: {len(same)} "
            f"clips of {same[0][:40]!r}."
        )
    held_out, words = split.hold_out(examples.names, f"the clips of {rows.name}", groups=same)
    splits = divide(examples, held_out, words, task=TASK, root=rows.root)
    notes = [*rows.notes, *symbol_notes(splits.train.counts, splits.validation.counts)]
    return dataclasses.replace(splits, report="\n".join([_summary(examples), *notes]))


def read_voice(
    source: Any, class_names: Sequence[str], *, sample_rate: int | None = None, **settings: Any
) -> SpokenTexts:
    """Read all clips of a source, without splitting them, for a model with known symbols.

    Args:
        source: As in :func:`load_voice`.
        class_names: Symbols of the model.
        sample_rate: Samples per second of the model.
        **settings: As in :func:`load_voice`.

    Raises:
        DataError: As in :func:`load_voice`, and for symbols that the model does not know.
    """
    return _loaded(source, sample_rate, settings, tuple(class_names))[0]


def _loaded(
    source: Any, sample_rate: int | None, settings: Mapping[str, Any], class_names: tuple[str, ...] | None
) -> tuple[SpokenTexts, Rows]:
    problems: list[str] = []
    columns = {name: settings.get(name) for name in _COLUMNS}
    found = read_rows(source, columns, problems)
    facts = recording_facts([row.audio for row in found.rows], settings.get("progress"), settings.get("store"))
    given = [row.durations is not None for row in found.rows]
    symbols = _symbols(found, edges=not any(given))
    problems += text_problems(found, symbols, class_names)
    problems += clip_problems(found.rows, facts, symbols, sample_rate)
    raise_problems(DataError, f"The clips of {found.name} cannot be used", problems, limit=_SHOWN)
    if len(found.rows) < 2:
        raise DataError(f"Expected at least 2 clips with texts in {found.name}. Received: {len(found.rows)}.")
    audio = voice_spec(sample_rate or facts[0].rate)
    check_rates(facts, audio)
    names = class_names or tuple(sorted({one for text in symbols for one in text}, key=_order))
    number = {name: at for at, name in enumerate(names)}
    numbers = tuple(np.array([number[one] for one in text], np.int32) for text in symbols)
    seconds = None if not all(given) else tuple(np.array(row.durations) for row in found.rows)
    store = ClipStore(tuple(facts), numbers, audio, seconds, settings.get("store"), found.separator, not any(given))
    below = tuple(os.path.relpath(row.audio, found.root).replace(os.sep, "/") for row in found.rows)
    labels = np.array([len(one) for one in numbers], np.int32)
    examples = SpokenTexts(
        tuple(row.text for row in found.rows), store, np.arange(len(labels)), labels, names, below,
        tuple(row.place for row in found.rows),
    )  # fmt: skip
    return examples, found


def _order(symbol: str) -> tuple[bool, str]:
    return len(symbol) < 2 or not symbol.startswith("<"), symbol  # the silence at both ends first


def _symbols(found: Rows, edges: bool) -> list[list[str]]:
    """Return the symbols of all texts, as the model will split them."""
    if not found.rows:
        return []
    texts = tf.constant([row.text.encode() for row in found.rows])
    return [[one.decode() for one in text] for text in split_texts(texts, found.separator, edges).to_list()]


def _summary(examples: SpokenTexts) -> str:
    facts: Sequence[RecordingFacts] = examples.store.facts
    minutes = sum(one.seconds for one in facts) / 60
    symbols = "phonemes" if examples.store.separator else "characters"
    durations = "found by an aligner" if examples.store.seconds is None else "given"
    rate, longest = examples.store.audio.sample_rate, max(one.seconds for one in facts)
    return (
        f"voice: {len(facts):,} clips, {minutes:.1f} minutes at {rate:,} samples per second, longest {longest:.1f} s; "
        f"{len(examples.class_names)} symbols ({symbols}), durations {durations}"
    )


__all__ = ["Row", "SpokenTexts", "load_voice", "read_voice"]
