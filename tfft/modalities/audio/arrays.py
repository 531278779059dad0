"""Labelled waveforms in memory: :func:`load_waves`, :class:`WaveArrays`."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.data.batches import BatchOptions
from tfft.data.dataset_examples import is_ready
from tfft.data.examples import Examples, Skipped, Splits
from tfft.data.labelled_arrays import are_pairs, check_lengths, divide_arrays
from tfft.errors import DataError
from tfft.features.engines import Staged
from tfft.features.sources import Source, Views
from tfft.modalities.audio.batches import wave_batches
from tfft.modalities.audio.examples import wave_source
from tfft.specs import AudioSpec, InputSpec

_FULL_SCALE = 32768.0  # of 16-bit samples
_LOUD = 2.0  # floats beyond it are not in -1 to 1; a little more comes from resampling


@dataclasses.dataclass(frozen=True, eq=False)
class WaveArrays(Examples):
    """Selection of the waveforms in an array; they are copied on access only.

    Attributes:
        source: All waveforms, float32 [M, samples].
        positions: Positions of these among them, int [N].
        labels: As the task defines them.
        class_names: Names of the labels; empty for numbers.
        spec: Sample rate and length of the waveforms.
        skipped: Nothing.
    """

    modality: ClassVar[str] = "audio"
    source: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    spec: AudioSpec
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def waves(self) -> np.ndarray:
        """The selected waveforms, a new array at each access."""
        return self.source[self.positions]

    @property
    def inputs(self) -> Any:
        """The waveforms."""
        return self.waves

    @property
    def title(self) -> str:
        """Description for messages."""
        return f"waveforms {self.source.shape}"

    def take(self, positions: np.ndarray) -> Self:
        """Return the examples at some positions."""
        return dataclasses.replace(self, positions=self.positions[positions], labels=self.labels[positions])

    def join(self, other: Self) -> Self:
        """Return these examples followed by others of the same array."""
        if other.source is not self.source:
            return super().join(other)
        positions = np.concatenate([self.positions, other.positions])
        return dataclasses.replace(self, positions=positions, labels=np.concatenate([self.labels, other.labels]))

    def batches(self, spec: InputSpec | AudioSpec | None, options: BatchOptions) -> tf.data.Dataset:
        """Build a dataset of (float32 [B, samples], labels)."""
        return wave_batches(self.waves, self.labels, self.spec, options)

    def feature_source(self, staged: Staged, batch_size: int, views: Views | None = None) -> Source:
        """Return the waveforms in the form that the model takes."""
        return wave_source(self.waves, self.labels, staged, batch_size, views)

    def fingerprint(self, *others: Self) -> str:
        """Hash the classes, the rate, all waveforms and their labels."""
        found = hashlib.sha256(repr((self.class_names, self.spec)).encode())
        for part in (self, *others):
            found.update(part.waves.tobytes())
            found.update(part.labels.tobytes())
        return found.hexdigest()


def load_waves(
    source: Any,
    *,
    sample_rate: int,
    seconds: float | None = None,
    validation: float = 0.2,
    seed: int = 0,
    task: str = registry.AUTO,
) -> Splits[WaveArrays]:
    """Split waveforms in memory into training and validation examples.

    Use it for arrays from other packages, and for datasets as ``keras.utils.audio_dataset_from_directory`` makes them.

    Args:
        source: ``(waves, labels)``: waves float in -1 to 1 or int16, [N, samples] or [N, samples, channels], or a list
            of clips of any lengths; labels as :func:`tfft.data.forms.label_column` takes them.
            ``((waves, labels), (waves, labels))``, to learn from and to hold out. Or a ``tf.data.Dataset`` of both, or
            ``(train, validation)`` or ``(train, validation, class_names)`` of two, which are read into memory.
        sample_rate: Samples per second of the waveforms; nothing is resampled.
        seconds: Clip length; longer clips are cut and shorter ones padded with silence. Defaults to the longest.
        validation: Share of each class to hold out; of no effect where the source has two parts.
        seed: Seed for the draw.
        task: What the labels are; ``"auto"`` looks at them.

    Raises:
        DataError: If waveforms and labels do not match, are not in -1 to 1, or a class has fewer than two clips.

    Example:
        >>> waves = np.random.default_rng(0).uniform(-1, 1, (20, 8000)).astype("float32")
        >>> splits = load_waves((waves, ["low", "high"] * 10), sample_rate=8000)
        >>> len(splits.train), splits.train.spec.seconds
        (16, 1.0)
    """
    found, class_names = _pairs(source)
    pairs = [_clips_of(inputs, labels) for inputs, labels in found]
    longest = max(len(clip) for clips, _ in pairs for clip in clips)
    samples = longest if seconds is None else max(1, round(seconds * sample_rate))
    whole = np.zeros((sum(len(clips) for clips, _ in pairs), samples), np.float32)
    for row, clip in zip(whole, (clip for clips, _ in pairs for clip in clips), strict=True):
        row[: len(clip)] = clip[:samples]
    spec = AudioSpec(sample_rate, samples / sample_rate)

    def make(labels: np.ndarray, class_names: tuple[str, ...]) -> WaveArrays:
        return WaveArrays(whole, np.arange(len(whole)), labels, class_names, spec)

    return divide_arrays(
        [labels for _, labels in pairs], make, items="clips", validation=validation, seed=seed, task=task,
        class_names=class_names,
    )  # fmt: skip


def holds_waves(source: Any) -> bool:
    """Whether a source may be waveforms in memory, if a sample rate is given with it."""
    if isinstance(source, tf.data.Dataset) or is_ready(source):
        return True
    pair = isinstance(source, (tuple, list)) and len(source) == 2
    return pair and hasattr(source[0], "__len__") and not isinstance(source[0], (str, bytes))


def _pairs(source: Any) -> tuple[Sequence[tuple[Any, Any]], Sequence[str]]:
    """Return waveforms and labels of one part or two, and the names of the classes if datasets have them."""
    if isinstance(source, tf.data.Dataset):
        names = getattr(source, "class_names", ())
        return [_read(source, names)], names
    if not is_ready(source):
        return (source if are_pairs(source) else [source]), ()
    train, validation, *given = source
    own = [tuple(given[0]) if given else getattr(part, "class_names", ()) for part in (train, validation)]
    return [_read(train, own[0]), _read(validation, own[1] or own[0])], own[0]


def _read(dataset: tf.data.Dataset, names: Sequence[str]) -> tuple[list[np.ndarray], list[Any]]:
    """Read a dataset of waveforms and labels; integers become the names of their classes."""
    spec = dataset.element_spec
    if isinstance(spec, Mapping) or not isinstance(spec, tuple) or len(spec) != 2:
        raise DataError(f"Expected a dataset of (waves, labels). Received: elements of {spec}.")
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise DataError("Expected a finite dataset. Received: one that repeats without end: use dataset.take(steps).")
    clips: list[np.ndarray] = []
    labels: list[Any] = []
    for waves, own in _batches(dataset):
        clips += list(waves)
        labels += [str(names[label]) for label in own] if len(names) and own.dtype.kind in "iu" else list(own)
    if not clips:
        raise DataError("Expected at least one batch. Received: the dataset holds no examples.")
    return clips, labels


def _batches(dataset: tf.data.Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    waves, labels = dataset.element_spec
    single = labels.shape.rank == 0 or waves.shape.rank == 1
    return iter((dataset.batch(1) if single else dataset).as_numpy_iterator())


def _clips_of(inputs: Any, labels: Any) -> tuple[Sequence[np.ndarray], Any]:
    """Return float32 clips [samples] of waveforms in any form, and their labels."""
    ragged = isinstance(inputs, (list, tuple))
    clips = [_mono(np.asarray(clip)) for clip in inputs] if ragged else _mono(np.asarray(inputs), batched=True)
    check_lengths(clips, labels, "clips")
    largest = float(np.max([np.abs(clip).max(initial=0) for clip in clips], initial=0))  # NaN stays NaN
    if not len(clips) or not largest <= _LOUD:
        received = f"numbers up to {largest:.4g}" if len(clips) else "no clips"
        raise DataError(
            f"Expected waveforms [N, samples] with finite numbers in -1 to 1, or int16. Received: {received}. Divide "
            "16-bit samples by 32768."
        )
    return list(clips), labels


def _mono(waves: np.ndarray, *, batched: bool = False) -> np.ndarray:
    """Return waveforms as float32 with the mean of their channels."""
    if waves.dtype == np.int16:
        waves = waves / np.float32(_FULL_SCALE)
    if waves.dtype.kind not in "f" or waves.ndim not in (1 + batched, 2 + batched) or not waves.size:
        raise DataError(
            f"Expected waveforms {'[N, samples] or [N, samples, channels]' if batched else '[samples]'}, float or "
            f"int16. Received: {waves.dtype} {waves.shape}."
        )
    return (waves.mean(axis=-1) if waves.ndim == 2 + batched else waves).astype(np.float32)
