"""Sound waves to a ``tf.data.Dataset``, as they are or varied: :func:`from_waves`.

Hides whether they are in memory or in a file, and how a wave is shifted and masked. A view is a pure function of seed,
position and number, as those of pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfft.data.batches import Fetch, assemble
from tfft.data.sampling import classes_to_balance, rows
from tfft.errors import DataError
from tfft.modalities.audio.waveform_store import Waves
from tfft.specs import AudioSpec, Augmentation, augmentation, check_kind


def from_waves(
    waves: np.ndarray | Waves,
    labels: np.ndarray,
    spec: AudioSpec,
    *,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
    epoch: tf.Variable | None = None,
    augment: Augmentation | str | Sequence[str] | None = None,
    views: int | None = None,
    sampling: str | None = None,
) -> tf.data.Dataset:
    """Makes a dataset of waves and labels, for ``model.fit`` and ``evaluate``.

    Args:
        waves: float32 [N, samples] in -1 to 1, such as one of :attr:`RecordingSplits.waves`; :class:`tfft.data.Waves`
            and a ``np.memmap`` are read batch by batch.
        labels: whole numbers [N], one class each; float [N, K] of 0 and 1 for several labels, float [N] for numbers.
        spec: with the rate of the waves.
        batch_size: as in :func:`tfft.data.to_dataset`, like all that is not named here.
        shuffle: as in :func:`tfft.data.to_dataset`.
        seed: as in :func:`tfft.data.to_dataset`.
        epoch: as in :func:`tfft.data.to_dataset`.
        augment: ``"shift"``, ``"mask"``, both in a list, or an :class:`~tfft.specs.Augmentation`: each showing of a
            wave is another view of it, see :func:`vary_wave`; the first one is the wave as it is. None for none.
        views: how many views there are, used in turn; None for another one each time.
        sampling: as in :func:`tfft.data.to_dataset`.

    Returns:
        Dataset of (float32 [B, samples], int32 [B] or float32), its length known.

    Raises:
        DataError: when waves and labels cannot belong together.
        PlanError: for changes that are not for recordings.

    Example:
        >>> splits = tfft.data.load_recordings("digits/")
        >>> train = from_waves(splits.waves[0], splits.train.labels, splits.spec, shuffle=True)
    """
    if waves.ndim != 2 or not len(waves) or len(labels) != len(waves):
        raise DataError(f"Expected waves [N, samples] and labels [N], received {waves.shape} and {np.shape(labels)}.")
    labels = np.asarray(labels)
    labels = labels.astype(np.float32 if labels.dtype.kind == "f" else np.int32)
    fetch, count = _fetching(waves), len(labels)
    changes = augmentation(augment)
    if changes is None:
        return assemble(lambda at: fetch(at % count), labels, batch_size, shuffle, seed, epoch, sampling=sampling)
    order = rows(count, shuffle, seed, epoch, views, classes_to_balance(sampling, labels))
    return _varied(order, count, fetch, labels, spec, changes, seed, batch_size)


def wave_views(
    waves: np.ndarray | Waves,
    labels: np.ndarray,
    spec: AudioSpec,
    changes: Augmentation,
    views: int,
    *,
    batch_size: int = 32,
    seed: int = 0,
) -> tf.data.Dataset:
    """Makes one pass over all views of all waves: view 0 of each, then view 1 of each, and so on.

    Args:
        waves: float32 [N, samples], as :func:`from_waves` takes them.
        labels: [N].
        spec: with the rate of the waves.
        changes: what varies.
        views: how many.
        batch_size: as in :func:`from_waves`.
        seed: as in :func:`from_waves`.

    Returns:
        Dataset of (float32 [B, samples], labels [B]) with ``views * N`` examples.
    """
    count = views * len(labels)
    return _varied(tf.data.Dataset.range(count), count, _fetching(waves), labels, spec, changes, seed, batch_size)


@tf.autograph.experimental.do_not_convert
def vary_wave(wave: tf.Tensor, spec: AudioSpec, changes: Augmentation, seed: tf.Tensor, view: tf.Tensor) -> tf.Tensor:
    """Makes one view of one wave.

    View 0 is the wave as it is. The others begin earlier or later, silence filling the gap (``shift``), and are silent
    for some time and in some band of the mel scale (``mask``): the two masks of SpecAugment (Park et al., 2019), laid
    on the wave, so that the model and its preprocessing are the same with and without.

    Args:
        wave: float32 [samples].
        spec: with its rate.
        changes: what may vary.
        seed: int [2], of this wave.
        view: int scalar, from 0.

    Returns:
        float32 [samples].
    """

    def varied() -> tf.Tensor:
        numbers = tf.random.stateless_uniform([5], tf.random.fold_in(seed, view))
        found = wave
        if changes.shift:
            found = _shifted(found, (2 * numbers[0] - 1) * changes.shift)
        if changes.mask:
            found = _without_band(found, spec, changes.mask * numbers[1], numbers[2])
            share = changes.mask * numbers[3]
            place = tf.linspace(0.0, 1.0, tf.shape(found)[0])
            start = numbers[4] * (1 - share)
            found = tf.where((place >= start) & (place < start + share), 0.0, found)
        return found

    return tf.ensure_shape(tf.cond(view > 0, varied, lambda: wave), wave.shape)


def _fetching(waves: np.ndarray | Waves) -> Fetch:
    """Returns what gives float32 [b, samples] for int64 positions [b]."""
    if isinstance(waves, np.memmap) and waves.dtype == np.float32:
        waves = Waves(waves, np.arange(len(waves)))
    if not isinstance(waves, Waves):
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


def _without_band(wave: tf.Tensor, spec: AudioSpec, share: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    spectrum = tf.signal.rfft(wave)
    half = spec.sample_rate / 2
    hertz = tf.linspace(0.0, half, tf.shape(spectrum)[0])
    mel = tf.math.log1p(hertz / 700.0) / math.log1p(half / 700.0)  # 0 to 1
    start = place * (1 - share)
    kept = tf.cast((mel < start) | (mel >= start + share), tf.complex64)
    return tf.signal.irfft(spectrum * kept, [tf.shape(wave)[0]])


def _varied(
    order: tf.data.Dataset,
    length: int,
    fetch: Fetch,
    labels: np.ndarray,
    spec: AudioSpec,
    changes: Augmentation,
    seed: int,
    batch_size: int,
) -> tf.data.Dataset:
    check_kind(changes, sounds=True)
    count = len(labels)
    with tf.device("CPU:0"):
        targets = tf.constant(labels)

    def one(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        position, view = row % count, row // count
        own = tf.random.fold_in(tf.constant([seed, count], tf.int64), position)
        return vary_wave(fetch(position[None])[0], spec, changes, own, view), targets[position]

    dataset = order.map(one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).batch(batch_size)
    # Behind flat_map the length is lost, and Keras needs it to know where an epoch ends.
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(math.ceil(length / batch_size)))
    return dataset.prefetch(tf.data.AUTOTUNE)
