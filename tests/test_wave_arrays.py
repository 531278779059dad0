"""Waveforms in memory and in datasets: every form gives the same clips, runs train on them, and faults are named."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfft
from tfft import heads
from tfft.backbones.base import Backbone
from tfft.data.batches import BatchOptions
from tfft.errors import DataError
from tfft.modalities.audio import load_waves
from tfft.specs import InputSpec

RATE = 4000
LABELS = np.arange(24) % 2


def tones():
    """Two tones with noise, float32 [24, 2000]."""
    random = np.random.default_rng(0)
    t = np.arange(2000) / RATE
    waves = 0.4 * np.sin(2 * np.pi * np.where(LABELS, 900, 300)[:, None] * t) + random.normal(0, 0.05, (24, 2000))
    return waves.astype(np.float32)


WAVES = tones()


def dataset(waves, labels=LABELS, class_names=("low", "high"), batch=5):
    made = tf.data.Dataset.from_tensor_slices((waves, labels))
    made = made.batch(batch) if batch else made
    made.class_names = class_names
    return made


FORMS = {
    "arrays": (WAVES, LABELS),
    "channels": (np.stack([WAVES, WAVES], -1), LABELS),
    "int16": ((WAVES * 32768).round().astype(np.int16), LABELS),
    "clips": (list(WAVES), ["ab"[at] for at in LABELS]),
    "two parts": ((WAVES, LABELS), (WAVES, LABELS)),
    "dataset": dataset(WAVES[..., None]),
    "single examples": dataset(WAVES, batch=None),
    "two datasets": (dataset(WAVES), dataset(WAVES)),
    "with names": (dataset(WAVES, class_names=()), dataset(WAVES, class_names=()), ["low", "high"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_clips(form):
    splits = tfft.data.load(FORMS[form], sample_rate=RATE)
    assert splits.modality == "audio"
    assert splits.train.spec == tfft.AudioSpec(RATE, 0.5)
    given = {"clips": ("a", "b")}.get(form, ("low", "high") if "dataset" in form or "names" in form else ("0", "1"))
    assert splits.class_names == (("low", "high") if form == "single examples" else given)
    held = splits.validation
    rows = [np.abs(WAVES - wave).max(axis=1).argmin() for wave in held.waves]
    np.testing.assert_allclose(held.waves, WAVES[rows], atol=1e-4)
    np.testing.assert_array_equal(held.labels, LABELS[rows])
    inputs, labels = next(iter(splits.train.batches(None, BatchOptions(4))))
    assert inputs.shape == (4, 2000)
    assert labels.dtype == tf.int32
    assert len(held) == (24 if form in ("two parts", "two datasets", "with names") else 4)


def test_clips_of_other_lengths_are_padded_and_cut():
    clips = [wave[: 1000 + 100 * (at % 3)] for at, wave in enumerate(WAVES)]
    longest = load_waves((clips, LABELS), sample_rate=RATE).train
    assert longest.source.shape == (24, 1200)
    assert not longest.source[0, 1000:].any()
    cut = load_waves((clips, LABELS), sample_rate=RATE, seconds=0.1).train
    np.testing.assert_array_equal(cut.source, WAVES[:, :400])


def network():
    """A network for images, which receives spectrograms."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((32, 32, 3))
    for at in range(2):
        x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name=f"block{at}_conv")(x)
    return Backbone("tiny", keras.Model(inputs, x, name="tiny"), "test", InputSpec(32, 32, source="the test"))


@pytest.mark.slow
@pytest.mark.daily("spectrograms")
@pytest.mark.parametrize("backbone", ["spectrograms", "frames"])
def test_a_run_learns_from_waveforms(backbone):
    opened = network() if backbone == "spectrograms" else "speech-encoder-small"
    parts = (dataset(WAVES), dataset(WAVES[:10], LABELS[:10]))
    run = tfft.finetune(opened, parts, sample_rate=RATE, plan="linear_probe", verbose=False, cache="memory")
    assert run.class_names == ("low", "high")
    assert run.final_scores.accuracy == 1
    assert heads.from_model(run.model).class_names == ("low", "high")
    channels = dataset(np.stack([WAVES, WAVES], -1)[:10], LABELS[:10])
    for form in (parts[1], (WAVES[:10], LABELS[:10]), channels, channels.unbatch().batch(5, drop_remainder=True)):
        assert tfft.evaluate(run.model, form).loss == pytest.approx(run.final_scores.loss, rel=1e-4, abs=1e-5)


def test_what_are_no_waveforms_is_named():
    for waves, message in (
        (WAVES * 20000, r"in -1 to 1, or int16. Received: numbers up to .*Divide 16-bit samples by 32768"),
        (np.where(WAVES > 0.4, np.nan, WAVES), "finite numbers in -1 to 1, or int16. Received: numbers up to nan"),
        (WAVES[:, :0], r"Expected waveforms \[N, samples\].*float32 \(24, 0\)"),
        (WAVES[:5], "Expected one label for each clip. Received: 5 clips and labels: 24"),
    ):
        with pytest.raises(DataError, match=message):
            tfft.data.load((waves, LABELS), sample_rate=RATE)
    with pytest.raises(DataError, match="received shape .*waveforms need their sample_rate="):
        tfft.data.load((WAVES, LABELS))
    with pytest.raises(DataError, match="Expected at least 2 clips per class"):
        tfft.data.load(dataset(WAVES[:3], [0, 0, 1]), sample_rate=RATE)
    endless = dataset(WAVES).repeat()
    with pytest.raises(DataError, match="repeats without end"):
        tfft.data.load(endless, sample_rate=RATE)
