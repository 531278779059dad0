"""Batches of recordings and transcripts: clips of similar length together, cut to the longest, and augmented views.

Implementation notes: trailing zeros of a wave are padding, so a view leaves none that the recording does not have.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfft.data.batches import BatchOptions, MakeView, assemble, assemble_views
from tfft.features.sources import Views
from tfft.layers.log_mel import used_samples
from tfft.modalities.audio.batches import fetching, without_band
from tfft.modalities.audio.waveform_store import WaveformArray
from tfft.specs import AudioSpec, Augmentation, augmentation, check_kind

_MASKS = 2  # in time
_QUIET = 1e-4  # in place of a last sample that a mask would make padding


def clip_batches(
    waves: np.ndarray | WaveformArray,
    labels: np.ndarray,
    spec: AudioSpec,
    options: BatchOptions,
    lengths: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Build a dataset of waves and transcripts, each batch as long as its longest clip.

    Args:
        waves: float32 [N, samples]; a :class:`tfft.modalities.audio.WaveformArray` is read batch by batch.
        labels: int32 [N, L].
        spec: Spec of the waves.
        options: Batch size, order and augmentation.
        lengths: Lengths of the clips, [N]: those of similar length share batches.

    Returns:
        Dataset of (float32 [B, any], int32 [B, any]) with a known length.
    """
    options.refuse(("sampling",), "transcripts")
    fetch, changes = fetching(waves), augmentation(options.augment)
    if changes is None:
        dataset = assemble(lambda at: fetch(at % len(labels)), labels, options, lengths=lengths)
    else:
        dataset = assemble_views(_view_maker(waves, spec, changes), labels, options, lengths=lengths)
    return dataset.map(_cut, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


def clip_views(
    waves: np.ndarray | WaveformArray, labels: np.ndarray, spec: AudioSpec, views: Views, options: BatchOptions
) -> tf.data.Dataset:
    """Build a dataset of all views of all clips, uncut: view 0 of each, then view 1 of each, and so on."""
    return assemble_views(_view_maker(waves, spec, views.changes), labels, options, every=views.count)


@tf.autograph.experimental.do_not_convert
def vary_clip(wave: tf.Tensor, spec: AudioSpec, changes: Augmentation, seed: tf.Tensor, view: tf.Tensor) -> tf.Tensor:
    """Make one view of one clip whose transcript stays right.

    View 0 is the clip itself. The others start later, after silence (``shift``, up to that share of the clip, as far as
    there is room), lack a part of the mel scale (``mask``, up to that share) and two short stretches (up to half as
    many seconds as ``mask`` says): the masks of SpecAugment (Park et al., 2019) on the wave. Differences: a stretch is
    shorter than there, since no language model guesses a word that a mask covers, and nothing is cut off.

    Args:
        wave: Waveform, float32 [samples].
        spec: Spec with the sample rate.
        changes: Augmentation.
        seed: Seed for this clip, int [2].
        view: Number of the view, int scalar, from 0.

    Returns:
        float32 [samples].
    """
    samples, used = tf.shape(wave)[0], used_samples(wave[None])[0]

    def varied() -> tf.Tensor:
        numbers = tf.random.stateless_uniform([3 + 2 * _MASKS], tf.random.fold_in(seed, view))
        found = wave[:used]
        if changes.mask:
            found = without_band(found, spec, changes.mask * numbers[1], numbers[2])
            for mask in range(_MASKS):
                found = _silenced(found, spec, changes.mask / 2 * numbers[3 + 2 * mask], numbers[4 + 2 * mask])
            last = found[-1:]
            found = tf.concat([found[:-1], tf.where(last == 0.0, _QUIET, last)], axis=0)
        late = tf.cast(numbers[0] * changes.shift * tf.cast(used, tf.float32), tf.int32)
        late = tf.minimum(late, samples - used)
        return tf.pad(found, [[late, samples - used - late]])

    return tf.ensure_shape(tf.cond((view > 0) & (used > 0), varied, lambda: wave), wave.shape)


def _silenced(wave: tf.Tensor, spec: AudioSpec, seconds: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    count = tf.shape(wave)[0]
    length = tf.minimum(tf.cast(seconds * spec.sample_rate, tf.int32), count)
    start = tf.cast(place * tf.cast(count - length, tf.float32), tf.int32)
    at = tf.range(count)
    return tf.where((at >= start) & (at < start + length), 0.0, wave)


def _view_maker(waves: np.ndarray | WaveformArray, spec: AudioSpec, changes: Augmentation) -> MakeView:
    check_kind(changes, sounds=True)
    fetch = fetching(waves)

    def make(position: tf.Tensor, label: tf.Tensor, seed: tf.Tensor, view: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return vary_clip(fetch(position[None])[0], spec, changes, seed, view), label

    return make


def _cut(waves: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cut a batch to its longest clip and its longest transcript, at least one sample and one character."""
    at = tf.range(1, tf.shape(labels)[1] + 1)
    longest = tf.reduce_max(tf.where(labels != -1, at, 0))
    return waves[:, : tf.maximum(tf.reduce_max(used_samples(waves)), 1)], labels[:, : tf.maximum(longest, 1)]
