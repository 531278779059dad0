"""Recordings with transcripts: :func:`load_transcripts`, :func:`read_transcripts`, :class:`TranscribedRecordings`."""

from __future__ import annotations

import collections
import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf

from tfft.data.batches import BatchOptions
from tfft.data.examples import Skipped, Splits, divide
from tfft.data.file_table import FileRows, common_folder, unique_names
from tfft.data.label_parsing import has_value
from tfft.data.options import ReadOptions, options_from
from tfft.data.path_lookup import PathLookup
from tfft.data.split import SplitOptions
from tfft.errors import DataError, in_number, join_names, raise_problems
from tfft.features.engines import Staged
from tfft.features.sources import ArraySource, Source, Views
from tfft.modalities.audio.decode import RecordingFacts
from tfft.modalities.audio.examples import AudioExamples, with_waveforms
from tfft.modalities.audio.folder import RECORDINGS, AudioOptions
from tfft.specs import AudioSpec, InputSpec
from tfft.tasks.transcription import TRANSCRIPTION
from tfft.tasks.transcription.batches import clip_batches, clip_views
from tfft.tasks.transcription.forms import Columns, Rows, read_source
from tfft.tasks.transcription.text import PADDING, STRANGE, Normalization, alphabet, encode, outside

LONGEST = 30.0  # seconds of a clip, unless seconds= says otherwise
USUAL_RATE = 16_000  # speech has little above 8 kHz

_RANGE = 80.0  # decibels: consonants are quiet
_SHOWN, _PLACES = 20, 5
_QUIET = 0.01  # peak of a recording with hardly any sound


@dataclasses.dataclass(frozen=True, eq=False)
class TranscribedRecordings(AudioExamples):
    """Recordings with transcripts; the labels are the numbers of the characters, int32 [N, L].

    Attributes:
        texts: Normalized transcripts.
        sources: ``file:line`` of each transcript.
    """

    texts: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def places(self) -> tuple[str, ...]:
        """Places of the transcripts."""
        return self.sources

    @property
    def lengths(self) -> np.ndarray:
        """Lengths of the recordings in milliseconds, int [N]."""
        return np.array([round(1000 * fact.seconds) for fact in self.facts], np.int64)

    @property
    def counts(self) -> dict[str, int]:
        """Number of times each character occurs."""
        return TRANSCRIPTION.counts(self.labels, self.class_names)

    def take(self, positions: np.ndarray) -> Self:
        """Return the recordings at some positions."""
        texts, sources = (tuple(own[i] for i in positions) for own in (self.texts, self.sources))
        return dataclasses.replace(super().take(positions), texts=texts, sources=sources)

    def join(self, other: Self) -> Self:
        """Return these recordings followed by others of the same source."""
        texts, sources = self.texts + other.texts, self.sources + other.sources
        return dataclasses.replace(super().join(other), texts=texts, sources=sources)

    def for_classes(self, class_names: Sequence[str], where: str) -> Self:
        """Return the recordings with the numbers of a model's alphabet; other characters count as errors."""
        if not class_names or not self.class_names or tuple(class_names) == self.class_names:
            return self
        groups = [str(marked) for marked in self.labels.min(axis=1, initial=PADDING)]
        labels = labels_of(self.texts, class_names, groups if any(int(one) < PADDING for one in groups) else None)
        return dataclasses.replace(self, labels=labels, class_names=tuple(class_names))

    def batches(self, spec: InputSpec | AudioSpec | None, options: BatchOptions) -> tf.data.Dataset:
        """Build a dataset of (float32 [B, any], int32 [B, any]), each batch as long as its longest clip."""
        if isinstance(spec, AudioSpec) and spec.sample_rate != self.spec.sample_rate:
            same = dataclasses.replace(self.spec, sample_rate=spec.sample_rate)
            return self.with_spec(same, self.source.store).clips(options)
        return self.clips(options)

    def clips(self, options: BatchOptions) -> tf.data.Dataset:
        """Build the dataset of :meth:`batches` at the rate of these recordings."""
        return clip_batches(self.waves, self.labels, self.spec, options, self.lengths)

    def feature_source(self, staged: Staged, batch_size: int, views: Views | None = None) -> Source:
        """Return the waves in the form that the model takes."""
        audio = staged.audio or self.spec

        def vary(values: Any, labels: np.ndarray, views: Views, rows: range | None) -> tf.data.Dataset:
            return clip_views(values, labels, audio, views, BatchOptions(batch_size, seed=views.seed, rows=rows))

        return ArraySource(self.waves, self.labels, staged, batch_size, views, vary)


@dataclasses.dataclass(frozen=True)
class TranscriptReport:
    """Statistics of recordings with transcripts; ``print`` it.

    Attributes:
        hours: Hours of training recordings.
        normalization: How the transcripts are written, in words.
        alphabet: Characters of the training transcripts.
        spec: Rate and length of the clips.
        notes: Remarks, one sentence each.
    """

    hours: float
    normalization: str
    alphabet: str
    spec: AudioSpec
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        spec = self.spec
        lines = [
            f"recordings: {self.hours:.2f} hours for training, {spec.sample_rate} samples per second, clips of up to "
            f"{spec.seconds:g} s",
            f"transcripts: {self.normalization}; {len(self.alphabet)} characters: {self.alphabet!r}",
        ]
        return "\n".join([*lines, *self.notes])


def load_transcripts(
    source: Any,
    *,
    audio: str | int | None = None,
    text: str | int | None = None,
    letter_case: str = "lower",
    punctuation: str = "drop",
    root: str | os.PathLike[str] | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    **settings: Any,
) -> Splits[TranscribedRecordings]:
    """Load recordings with transcripts, and split them.

    Read are: a table (``.csv``, ``.tsv``, ``.jsonl``, DataFrame) with a column of recordings and one of transcripts,
    such as those of Common Voice; ``metadata.csv`` of LJSpeech with ``wavs/`` beside it; folders like LibriSpeech's,
    with ``*.trans.txt``; a folder with a ``.txt`` file beside each recording; manifests of NeMo (``.json``). The
    alphabet is that of the training transcripts.

    Args:
        source: One of these.
        audio: Column with the recordings. Defaults to a usual name, such as ``path`` or ``file``.
        text: Column with the transcripts. Defaults to a usual name, such as ``sentence`` or ``text``.
        letter_case: ``"lower"`` or ``"keep"``, see :class:`tfft.tasks.transcription.text.Normalization`.
        punctuation: ``"drop"`` or ``"keep"``.
        root: Folder of the recordings of a table. Defaults to that of the table, or ``wavs/`` or ``clips/`` beside it.
        encoding: Encoding of tables and text files. Defaults to that of a byte-order mark, UTF-8 or a guess.
        delimiter: Delimiter between the fields of a table. Inferred by default.
        **settings: ``sample_rate`` (by default the most common one, at most 16,000) and ``seconds`` (longer recordings
            are left out; by default 30), and all of :class:`tfft.data.SplitOptions` and
            :class:`tfft.data.options.ReadOptions`. ``group`` is a column of a table with the speakers; for LibriSpeech
            any value takes the speakers of the files.

    Raises:
        DataError: If recordings or transcripts cannot be used; the message lists all problems with file and line.
        DependencyError: If a package is missing; the message has the command that installs it.

    Example:
        >>> splits = load_transcripts("clips.csv", audio="file", text="sentence", group="speaker")
        >>> "".join(splits.class_names)
        ' abcdefghijklmnopqrstuvwxyz'
    """
    waves, split, reading = options_from(settings, AudioOptions, SplitOptions, ReadOptions)
    columns = Columns(audio, text, split.group, root, encoding, delimiter)
    normal = Normalization(letter_case, punctuation)  # type: ignore[arg-type]
    found = _read(source, columns, normal, waves, reading)
    pairs = RECORDINGS.find_duplicates(found.facts)
    held_out, words = split.hold_out(found.names, found.rows.name, groups=found.rows.groups, pairs=pairs.positions)
    texts = found.texts
    names = alphabet([text for text, held in zip(texts, held_out, strict=True) if not held])
    examples = found.examples(names)
    splits = divide(
        examples, held_out, words, groups=found.rows.groups, duplicates=pairs,
        root=common_folder(found.rows.paths, found.rows.root), task=TRANSCRIPTION.name,
    )  # fmt: skip
    spec = _spec(found.facts, waves)
    splits = with_waveforms(splits, spec, reading.store)
    notes = _notes(found, spec)
    if strange := outside(splits.validation.texts, names):
        notes.append(f"outside of the alphabet, only in held-out transcripts, and counted as errors: {strange}")
    hours = sum(fact.seconds for fact in splits.train.facts) / 3600
    return dataclasses.replace(splits, report=TranscriptReport(hours, normal.words, "".join(names), spec, tuple(notes)))


def read_transcripts(
    source: Any,
    class_names: Sequence[str],
    *,
    audio: str | int | None = None,
    text: str | int | None = None,
    letter_case: str = "lower",
    punctuation: str = "drop",
    group: str | int | None = None,
    root: str | os.PathLike[str] | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    **settings: Any,
) -> TranscribedRecordings:
    """Read recordings with transcripts without splitting them, for a model with a known alphabet.

    Args:
        source: As in :func:`load_transcripts`, like all that follow.
        class_names: Alphabet of the model; other characters count as errors.
        audio: Column with the recordings.
        text: Column with the transcripts.
        letter_case: Normalization of the model.
        punctuation: Normalization of the model.
        group: Column with the speakers, for the intervals.
        root: Folder of the recordings of a table.
        encoding: Encoding of tables and text files.
        delimiter: Delimiter between the fields of a table.
        **settings: ``sample_rate``, ``seconds``, ``strict``, ``store`` and ``progress``.

    Raises:
        DataError: As in :func:`load_transcripts`.
    """
    waves, reading = options_from(settings, AudioOptions, ReadOptions)
    columns = Columns(audio, text, group, root, encoding, delimiter)
    normal = Normalization(letter_case, punctuation)  # type: ignore[arg-type]
    found = _read(source, columns, normal, waves, reading)
    return found.examples(tuple(class_names)).with_spec(_spec(found.facts, waves), reading.store)


@dataclasses.dataclass(frozen=True, eq=False)
class _Found:
    """Usable recordings with their transcripts."""

    rows: FileRows
    facts: tuple[RecordingFacts, ...]
    names: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        return self.rows.labels

    def examples(self, class_names: tuple[str, ...]) -> TranscribedRecordings:
        rows = self.rows
        return TranscribedRecordings(
            rows.paths, labels_of(rows.labels, class_names, rows.groups), class_names, rows.skipped, self.facts,
            self.names, texts=rows.labels, sources=rows.places,
        )  # fmt: skip


def labels_of(texts: Sequence[str], class_names: Sequence[str], groups: Sequence[str] | None) -> np.ndarray:
    """Return the numbers of characters, int32 [N, L]; behind each text its group g as ``-(2 + g)``, if there are any.

    Args:
        texts: Normalized transcripts.
        class_names: Alphabet.
        groups: Group of each; None for none.
    """
    labels = encode(texts, class_names)
    if groups is None:
        return labels
    labels = np.pad(labels, ((0, 0), (0, 1)), constant_values=PADDING)
    _, numbers = np.unique(np.array(groups), return_inverse=True)
    labels[np.arange(len(texts)), [len(text) for text in texts]] = -(2 + numbers)
    return labels


def _read(source: Any, columns: Columns, normal: Normalization, waves: AudioOptions, reading: ReadOptions) -> _Found:
    """Read transcripts and the statistics of the recordings; what cannot be used is skipped, or named by an error."""
    rows = _file_rows(read_source(source, columns), normal)
    if not rows.paths:
        first = f"the first: {rows.skipped[0]}" if rows.skipped else "it is empty"
        raise DataError(f"No row of {rows.name} has a recording and a transcript; {first}.")
    facts = RECORDINGS.read_facts(rows.paths, reading.progress, reading.store)
    limit = waves.seconds or LONGEST
    facts = [
        fact if fact.reason or fact.seconds <= limit + 1e-3 else dataclasses.replace(
            fact, reason=f"lasts {fact.seconds:.1f} s, more than {limit:g}: cut it into clips, or set seconds="
        )
        for fact in facts
    ]  # fmt: skip
    rows = rows.usable(facts, reading.strict)
    known = tuple(fact for fact in facts if fact.reason is None)
    names = unique_names(rows.paths, common_folder(rows.paths, rows.root))
    return _Found(rows, known, names)


def _notes(found: _Found, spec: AudioSpec) -> list[str]:
    """Return remarks on recordings that are almost silent and on those of other sample rates, with their lines."""
    notes = []
    quiet = [at for at, fact in enumerate(found.facts) if fact.peak < _QUIET]
    if quiet:
        where = join_names([found.rows.places[at] for at in quiet], limit=_PLACES)
        sound = in_number(f"{len(quiet)} recordings are almost silent")
        notes.append(
            f"{sound} (at most {_QUIET:.0%} of full scale): {where}. Listen to them, and remove these rows if they "
            "contain no speech"
        )
    other = [at for at, fact in enumerate(found.facts) if fact.rate != spec.sample_rate]
    if other:
        rates = collections.Counter(found.facts[at].rate for at in other).most_common()
        counts = ", ".join(f"{count} with {rate:,}" for rate, count in rates)
        where = join_names([found.rows.places[at] for at in other], limit=_PLACES)
        notes.append(
            f"other sample rates than {spec.sample_rate:,} are resampled: {counts}, such as {where}. Those of lower "
            "rates lack high frequencies; sample_rate= chooses another rate for all"
        )
    return notes


def _file_rows(found: Rows, normal: Normalization) -> FileRows:
    """Return rows with normalized transcripts and the files that they name."""
    lookup = PathLookup(found.root, RECORDINGS.suffixes)
    skipped, used, texts, problems = list(found.skipped), [], [], []
    for at, (path, text) in enumerate(zip(found.paths, found.texts, strict=True)):
        place, written = found.places[at], str(text) if has_value(text) else ""
        if STRANGE in written:
            problems.append(
                f"{place} has a character that was lost in another encoding: {written[:40]!r}. Correct the text"
            )
            continue
        normalized = normal(written)
        if not has_value(path):
            skipped.append(Skipped(place, "has no recording"))
        elif not normalized:
            why = f": {written!r} is all punctuation (punctuation='keep' keeps it)" if written.strip() else ""
            skipped.append(Skipped(place, f"has an empty transcript{why}"))
        else:
            used.append(at)
            texts.append(normalized)
    raise_problems(DataError, f"The transcripts of {found.name} cannot be used", problems, limit=_SHOWN)
    paths = tuple(lookup.find(str(found.paths[at]).strip()) for at in used)
    skipped += _unlisted(found, lookup, paths)
    groups = None if found.groups is None else tuple(found.groups[at] for at in used)
    places = tuple(found.places[at] for at in used)
    return FileRows(found.name, str(found.root), paths, tuple(texts), groups, places, tuple(skipped), lookup)


def _unlisted(found: Rows, lookup: PathLookup, paths: Sequence[str]) -> list[Skipped]:
    """Return recordings in a folder of recordings that a table does not list; only where it lists most of them."""
    if not found.listed or not paths:
        return []
    folder, listed = os.path.dirname(paths[0]), set(map(os.path.abspath, paths))
    if not os.path.isdir(folder):
        return []
    files = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    there = [path for path in files if path.lower().endswith(RECORDINGS.suffixes)]
    left = [path for path in there if os.path.abspath(path) not in listed]
    if len(left) > len(there) / 2:
        return []
    return [Skipped(path, f"has no transcript in {found.name}") for path in left]


def _spec(facts: Sequence[RecordingFacts], options: AudioOptions) -> AudioSpec:
    """Return the requested sample rate, or the most common one up to 16,000, and the length of the longest clip."""
    rates = [fact.rate for fact in facts]
    rate = options.sample_rate or min(USUAL_RATE, max(set(rates), key=rates.count))
    longest = max(fact.seconds for fact in facts)
    return AudioSpec(rate, max(0.1, math.ceil(100 * longest) / 100), range=_RANGE)
