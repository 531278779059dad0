"""``tf.data`` pipelines of waveforms, with or without augmentation: :func:`from_waves`.

Implementation notes: waveforms may be in memory or in a file. A view is a pure function of seed, position and number,
as for images.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.data.batches import BatchOptions, Fetch, MakeView, as_targets, assemble, assemble_views
from tfft.errors import DataError
from tfft.modalities.audio.waveform_store import WaveformArray
from tfft.specs import AudioSpec, Augmentation, augmentation, check_kind


def from_waves(
    waves: np.ndarray | WaveformArray, labels: np.ndarray, spec: AudioSpec, **settings: Any
) -> tf.data.Dataset:
    """Build a dataset of waveforms and labels, for ``model.fit`` and ``evaluate``.

    Args:
        waves: float32 [N, samples] in -1 to 1, such as ``splits.train.waves``; a :class:`WaveformArray`
            and a ``np.memmap`` are read batch by batch.
        labels: Integers [N] for classes; float [N, K] of 0 and 1 for multi-label, float [N] for regression.
        spec: Spec with the sample rate of the waveforms.
        **settings: Settings of :class:`tfft.data.BatchOptions`. ``augment`` takes ``"shift"``, ``"mask"``, a list of
            both, or an :class:`~tfft.specs.Augmentation`: each repeat of a waveform is another view, see
            :func:`vary_wave`; the first one is the waveform itself.

    Returns:
        Dataset of (float32 [B, samples], int32 [B] or float32) with a known length.

    Raises:
        DataError: If waveforms and labels have different lengths or wrong shapes.
        PlanError: For augmentation that does not apply to recordings.

    Example:
        >>> splits = tfft.data.load("digits/")
        >>> train = from_waves(splits.train.waves, splits.train.labels, splits.train.spec, shuffle=True)
    """
    return wave_batches(waves, labels, spec, BatchOptions(**settings))


def wave_batches(
    waves: np.ndarray | WaveformArray, labels: np.ndarray, spec: AudioSpec, options: BatchOptions
) -> tf.data.Dataset:
    """Implement :func:`from_waves`."""
    if waves.ndim != 2 or not len(waves) or len(labels) != len(waves):
        raise DataError(f"Expected waves [N, samples] and labels [N]. Received: {waves.shape} and {np.shape(labels)}.")
    targets, fetch = as_targets(np.asarray(labels)), fetching(waves)
    changes = augmentation(options.augment)
    if changes is None:
        return assemble(lambda at: fetch(at % len(targets)), targets, options)
    return assemble_views(_view_maker(fetch, spec, changes), targets, options)


def wave_views(
    waves: np.ndarray | WaveformArray,
    labels: np.ndarray,
    spec: AudioSpec,
    changes: Augmentation,
    count: int,
    options: BatchOptions,
) -> tf.data.Dataset:
    """Build a dataset of all views of all waveforms: view 0 of each, then view 1 of each, and so on.

    Args:
        waves: Waveforms as in :func:`from_waves`, float32 [N, samples].
        labels: Labels [N].
        spec: Spec with the sample rate.
        changes: Augmentation.
        count: Number of views.
        options: Batch size and seed.

    Returns:
        Dataset of (float32 [B, samples], labels [B]) with ``count * N`` examples.
    """
    return assemble_views(_view_maker(fetching(waves), spec, changes), labels, options, every=count)


@tf.autograph.experimental.do_not_convert
def vary_wave(wave: tf.Tensor, spec: AudioSpec, changes: Augmentation, seed: tf.Tensor, view: tf.Tensor) -> tf.Tensor:
    """Make one view of one waveform.

    View 0 is the waveform itself. The others start earlier or later, padded with silence (``shift``), and are silent
    for some time and in some mel bands (``mask``): the two masks of SpecAugment (Park et al., 2019), applied to the
    waveform so that the model and its preprocessing do not change.

    Args:
        wave: Waveform, float32 [samples].
        spec: Spec with the sample rate.
        changes: Augmentation.
        seed: Seed for this waveform, int [2].
        view: Number of the view, int scalar, from 0.

    Returns:
        float32 [samples].
    """

    def varied() -> tf.Tensor:
        numbers = tf.random.stateless_uniform([5], tf.random.fold_in(seed, view))
        found = wave
        if changes.shift:
            found = _shifted(found, (2 * numbers[0] - 1) * changes.shift)
        if changes.mask:
            found = without_band(found, spec, changes.mask * numbers[1], numbers[2])
            share = changes.mask * numbers[3]
            place = tf.linspace(0.0, 1.0, tf.shape(found)[0])
            start = numbers[4] * (1 - share)
            found = tf.where((place >= start) & (place < start + share), 0.0, found)
        return found

    return tf.ensure_shape(tf.cond(view > 0, varied, lambda: wave), wave.shape)


def fetching(waves: np.ndarray | WaveformArray) -> Fetch:
    """Return a function from int64 positions [b] to float32 [b, samples]."""
    if isinstance(waves, np.memmap) and waves.dtype == np.float32:
        waves = WaveformArray(waves, np.arange(len(waves)))
    if not isinstance(waves, WaveformArray):
        with tf.device("CPU:0"):
            held = tf.constant(waves, tf.float32)
        return lambda at: tf.gather(held, at)

    @tf.autograph.experimental.do_not_convert
    def read(at: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(lambda at: waves[at], [at], tf.float32), [None, waves.shape[1]])

    return read


def _shifted(wave: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    count = tf.shape(wave)[0]
    by = tf.cast(tf.round(share * tf.cast(count, tf.float32)), tf.int32)
    return tf.pad(wave, [[tf.maximum(by, 0), tf.maximum(-by, 0)]])[tf.maximum(-by, 0) :][:count]


def without_band(wave: tf.Tensor, spec: AudioSpec, share: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Return a waveform without a part of the mel scale, float32 [samples].

    Args:
        wave: Waveform, float32 [samples].
        spec: Spec with the sample rate.
        share: Width of the part, as a share of the scale.
        place: Place of the part, 0 for the lowest frequencies to 1 for the highest.
    """
    spectrum = tf.signal.rfft(wave)
    half = spec.sample_rate / 2
    hertz = tf.linspace(0.0, half, tf.shape(spectrum)[0])
    mel = tf.math.log1p(hertz / 700.0) / math.log1p(half / 700.0)  # 0 to 1
    start = place * (1 - share)
    kept = tf.cast((mel < start) | (mel >= start + share), tf.complex64)
    return tf.signal.irfft(spectrum * kept, [tf.shape(wave)[0]])


def _view_maker(fetch: Fetch, spec: AudioSpec, changes: Augmentation) -> MakeView:
    check_kind(changes, sounds=True)

    def make(position: tf.Tensor, label: tf.Tensor, seed: tf.Tensor, view: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return vary_wave(fetch(position[None])[0], spec, changes, seed, view), label

    return make
