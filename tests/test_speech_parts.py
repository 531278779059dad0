"""Parts of speech synthesis against dense oracles: frames, vocoder, symbols, durations, losses."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from planted_voice import LENGTH, RATE, SPEC, STEP, TONES, loudest, small, tones
from v0_cases import _determinism_ends  # noqa: F401

import tfft
from tfft import testing
from tfft.backbones.voice import symbol_table, voice
from tfft.errors import BackboneError, PlanError
from tfft.layers.voice_blocks import LengthRegulator, SymbolEmbedding
from tfft.tasks.speech_synthesis.aligner import align, monotonic_durations
from tfft.tasks.speech_synthesis.clips import frames_of
from tfft.tasks.speech_synthesis.head import speech_synthesis
from tfft.tasks.speech_synthesis.layers import SplitSymbols
from tfft.tasks.speech_synthesis.losses import DurationError, MelCepstralDistortion, SpeechLoss
from tfft.tasks.speech_synthesis.mel import frame_count, inverse_mel_matrix, log_mel_frames, mel_to_linear
from tfft.tasks.speech_synthesis.vocoder import GriffinLim, first_angles, griffin_lim


def test_log_mel_frames_equal_a_loop():
    wave = np.random.default_rng(0).normal(0, 0.1, 2000).astype(np.float32)
    found = log_mel_frames(tf.constant(wave[None]), SPEC).numpy()[0]
    assert len(found) == frame_count(2000, SPEC) == 8
    window = np.hanning(1025)[:-1]
    matrix = tf.signal.linear_to_mel_weight_matrix(80, 513, RATE, 0.0, RATE / 2).numpy()
    for t in range(8):
        place = t * STEP + STEP // 2 - 512 + np.arange(1024)
        frame = np.where((place >= 0) & (place < 2000), wave[np.clip(place, 0, 1999)], 0)
        expected = np.log(np.maximum(np.abs(np.fft.rfft(frame * window)) @ matrix, 1e-5))
        np.testing.assert_allclose(found[t], expected, atol=2e-4)


def test_mel_to_linear_is_the_nonnegative_pseudo_inverse():
    mel = np.random.default_rng(0).normal(-2, 1, (1, 3, 80)).astype(np.float32)
    expected = np.maximum(np.exp(mel) @ inverse_mel_matrix(SPEC), 0)
    np.testing.assert_allclose(mel_to_linear(tf.constant(mel), SPEC), expected, rtol=1e-4, atol=1e-5)
    assert (expected == 0).any()


def inverse_stft(spectrum, window, step):
    """Overlap and add, divided by the sum of squared windows."""
    total, length = np.zeros((len(spectrum) - 1) * step + len(window)), len(window)
    norm = np.zeros(len(total))
    for t, row in enumerate(spectrum):
        total[t * step : t * step + length] += np.fft.irfft(row) * window
    for t in range(-length // step, len(spectrum) + length // step):  # as if there were frames on both sides
        start, stop = max(0, t * step), min(len(total), t * step + length)
        if start < stop:
            norm[start:stop] += window[start - t * step : stop - t * step] ** 2
    return total / norm


@pytest.mark.parametrize("momentum", [0.0, 0.99])
def test_griffin_lim_equals_a_numpy_loop(momentum):
    window, frames = np.hanning(1025)[:-1], 9
    magnitude = np.abs(np.random.default_rng(0).normal(0, 1, (frames, 513))).astype(np.float32)
    angles = first_angles(tf.constant(frames), 1024, STEP).numpy().astype(np.complex128)
    previous = np.zeros_like(angles)
    for _ in range(3):
        wave = inverse_stft(magnitude * angles, window, STEP)
        rebuilt = np.stack([np.fft.rfft(wave[t * STEP : t * STEP + 1024] * window) for t in range(frames)])
        moved = rebuilt - momentum / (1 + momentum) * previous
        angles, previous = moved / (np.abs(moved) + 1e-16), rebuilt
    expected = inverse_stft(magnitude * angles, window, STEP)[384 : 384 + frames * STEP]
    found = griffin_lim(tf.constant(magnitude[None]), SPEC, 3, momentum).numpy()[0]
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.slow
def test_griffin_lim_restores_a_tone_and_rows_are_independent():
    waves = [tones("ab"), tones("cdea")]
    mels = [log_mel_frames(tf.constant(wave[None]), SPEC).numpy()[0] for wave in waves]
    mels[0] = mels[0][:-6]  # it ends in a tone
    batch = np.zeros((2, len(mels[1]), 80), np.float32)
    batch[0, : len(mels[0])], batch[1] = mels
    counts = tf.constant([len(mel) for mel in mels])
    layer = GriffinLim(SPEC, 8)
    found = layer(tf.constant(batch), counts).numpy()
    alone = layer(tf.constant(mels[0][None]), counts[:1]).numpy()[0]
    np.testing.assert_allclose(found[0, : len(alone)], alone, atol=1e-6)
    assert not found[0, len(alone) :].any()
    assert loudest(found[1], 3 + LENGTH) == pytest.approx(TONES["d"], abs=20)
    again = GriffinLim.from_config(layer.get_config())
    np.testing.assert_array_equal(again(tf.constant(batch), counts), found)


def test_symbols_are_split_and_unknown_ones_left_out():
    layer = SplitSymbols(["<begin>", "<end>", "é", "a", " "], [1, 2, 3, 4, 5])
    found = layer(tf.constant(["  É a\t", "?", ""])).numpy()
    assert found.tolist() == [[1, 3, 5, 4, 2], [1, 2, 0, 0, 0], [1, 2, 0, 0, 0]]
    phones = SplitSymbols(["hh", "ax"], [7, 9], " ", False)
    assert phones(tf.constant(["hh ax xx hh", ""])).numpy().tolist() == [[7, 9, 7], [0, 0, 0]]
    assert phones(tf.constant([""])).numpy().tolist() == [[0]]


def test_length_regulator_equals_a_loop():
    random = np.random.default_rng(0)
    features = random.normal(size=(3, 4, 2)).astype(np.float32)
    durations = np.array([[2, 1, 3, 0], [1, 1, 1, 1], [0, 0, 0, 0]], np.int32)
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], np.float32)[..., None]
    logs = random.normal(size=(3, 4, 1)).astype(np.float32)
    found = LengthRegulator()(*map(tf.constant, (features, logs, mask, durations))).numpy()
    assert found.shape == (3, 6, 6)
    for row, counts in enumerate(durations):
        expected = [
            [*features[row, s], (t + 0.5) / n, math.log(n), logs[row, s, 0], 1 / n]
            for s, n in enumerate(counts)
            for t in range(n)
        ]
        np.testing.assert_allclose(found[row, : len(expected)], np.array(expected).reshape(-1, 6), rtol=1e-5)
        assert not found[row, len(expected) :].any()


def test_absent_durations_are_predicted_and_rounded():
    features, mask = np.ones((1, 3, 1), np.float32), np.ones((1, 3, 1), np.float32)
    logs = np.log(np.array([[[2.4], [0.1], [2.6]]], np.float32))
    found = LengthRegulator()(*map(tf.constant, (features, logs, mask, -np.ones((1, 3), np.int32)))).numpy()
    assert found.shape[1] == 2 + 1 + 3  # at least one frame


def test_cheapest_path_equals_all_paths():
    random = np.random.default_rng(0)
    cost = random.normal(size=(2, 3, 6))
    found = monotonic_durations(cost, np.array([3, 2]), np.array([6, 4]))

    def every(symbols, frames):
        if symbols == 1:
            return [[frames]]
        return [[n, *rest] for n in range(1, frames - symbols + 2) for rest in every(symbols - 1, frames - n)]

    for row, (symbols, frames) in enumerate([(3, 6), (2, 4)]):
        price = {
            tuple(path): sum(cost[row, s, t] for t, s in enumerate(np.repeat(np.arange(symbols), path)))
            for path in every(symbols, frames)
        }
        assert tuple(found[row, :symbols]) == min(price, key=price.get)
    assert found[1, 2] == 0


def test_aligner_finds_planted_durations():
    random = np.random.default_rng(0)
    means, mels, symbols, planted = random.normal(size=(5, 8)), [], [], []
    for _ in range(30):
        ids = random.integers(0, 5, 6)
        ids[1:] = np.where(ids[1:] == ids[:-1], (ids[1:] + 1) % 5, ids[1:])
        ids = ids[np.concatenate([[True], ids[1:] != ids[:-1]])]
        count = random.integers(2, 9, len(ids))
        mels.append(means[np.repeat(ids, count)] + random.normal(0, 0.1, (count.sum(), 8)))
        symbols.append(ids.astype(np.int32))
        planted.append(count)
    found = align(mels, symbols)
    wrong = np.concatenate([np.abs(a - b) for a, b in zip(found, planted, strict=True)])
    assert wrong.mean() < 0.05
    assert all(one.sum() == len(mel) for one, mel in zip(found, mels, strict=True))


def test_seconds_become_frames_that_add_up():
    random = np.random.default_rng(0)
    for _ in range(50):
        count = random.integers(1, 9)
        frames = int(random.integers(count, 40))
        found = frames_of(random.random(count) ** 4, frames)
        assert found.sum() == frames
        assert found.min() >= 1


def targets():
    random = np.random.default_rng(0)
    true = random.normal(size=(2, 5, 83)).astype(np.float32)
    true[..., -2] = [[0.5, 0.5, 1, 0, 0], [1 / 3, 1 / 3, 1 / 3, 0.5, 0.5]]
    true[..., -1] = [[0, 0, 1, 0, 0], [1, 1, 1, 0, 0]]
    return true, random.normal(size=(2, 5, 82)).astype(np.float32)


def test_loss_and_metrics_equal_loops():
    true, given = targets()
    spread = np.linspace(0.5, 2, 80)
    losses, distances, errors, weights = [], [], [], []
    for row in range(2):
        mel, logs, weight, own = [], 0.0, 0.0, []
        for t in range(5):
            w = true[row, t, -2]
            if w > 0:
                mel.append(np.mean(np.abs(true[row, t, :80] - given[row, t, :80]) / spread))
                logs, weight = logs + w * (true[row, t, 80] - given[row, t, 80]) ** 2, weight + w
                difference = true[row, t, :80] - given[row, t, :80]
                cepstrum = [
                    sum(2 * difference[b] * math.cos(math.pi * k * (b + 0.5) / 80) for b in range(80)) / 80
                    for k in range(1, 14)
                ]
                own.append(10 / math.log(10) * math.sqrt(2 * sum(c * c for c in cepstrum)))
                errors.append(w * abs(math.exp(true[row, t, 80]) - math.exp(given[row, t, 80])))
                weights.append(w)
        losses.append(np.mean(mel) + logs / weight)
        distances.append(np.mean(own))
    assert float(SpeechLoss(spread)(true, given)) == pytest.approx(np.mean(losses), rel=1e-5)
    metric, duration = MelCepstralDistortion(), DurationError()
    metric.update_state(true, given)
    duration.update_state(true, given)
    assert float(metric.result()) == pytest.approx(np.mean(distances), rel=1e-4)
    head = speech_synthesis("ab")
    np.testing.assert_allclose(head.example_scores(true, given), -np.array(distances), rtol=1e-4)
    evaluator = tfft.registry.task("speech_synthesis").evaluator(head)
    evaluator.check(true)
    evaluator.update(true, given)
    scores = evaluator.result(2, 0.0)
    assert scores.value == pytest.approx(np.mean(distances), rel=1e-4)
    step = 1000 * 256 / 16000
    assert scores.measures["duration_error_ms"] == pytest.approx(step * sum(errors) / sum(weights), rel=1e-5)
    assert float(duration.result()) == pytest.approx(sum(errors) / sum(weights), rel=1e-5)


def test_padding_changes_neither_loss_nor_metric():
    true, given = targets()
    wide = [np.pad(values, ((0, 0), (0, 3), (0, 0))) for values in (true, given)]
    wide[1][:, 5:] = 7.0
    assert float(SpeechLoss()(*wide)) == pytest.approx(float(SpeechLoss()(true, given)), rel=1e-6)
    for metric in (MelCepstralDistortion(), DurationError()):
        found = []
        for pair in ((true, given), wide):
            metric.reset_state()
            metric.update_state(*pair)
            found.append(float(metric.result()))
        assert found[1] == pytest.approx(found[0], rel=1e-6)


@pytest.mark.nightly
def test_contracts():
    print(testing.check_task("speech_synthesis", ["<begin>", "<end>", "a"]))
    contract = testing.check_backbone(voice(width=16, encoder_blocks=1, decoder_blocks=1, capacity=10))
    assert "rows are independent" in contract.passed
    assert not contract.refused


def test_symbols_keep_their_rows():
    backbone = small()
    table = symbol_table(backbone.model)
    assert table.extend("cab") == ["c", "a", "b"]
    assert table.extend("da") == ["d"]
    assert table.rows_of("dc") == [4, 1]
    assert SymbolEmbedding.from_config(table.get_config()).vocabulary == ["c", "a", "b", "d"]
    with pytest.raises(PlanError, match="Expected at most 20 symbols in all. Received: 4 known ones and 26 new ones"):
        table.extend("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    inputs = keras.Input((8, 8, 3))
    other = tfft.load_backbone(keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs)))
    with pytest.raises(BackboneError, match="is not an acoustic model"):
        tfft.build(other, speech_synthesis("ab"), symbols="ab")
