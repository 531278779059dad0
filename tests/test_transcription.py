"""Transcription: the loss against an oracle, decoding, rates, the head and its scores, padding, distribution."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import jiwer
import keras
import numpy as np
import pytest
import speech_data
import tensorflow as tf

import tfft
from tfft import heads, registry
from tfft.errors import DataError, PlanError
from tfft.layers.log_mel import MelFrames
from tfft.losses import ABSENT
from tfft.modalities.audio import read_recording
from tfft.specs import AudioSpec
from tfft.tasks.transcription.data import labels_of
from tfft.tasks.transcription.decoding import beam, frames_of, greedy
from tfft.tasks.transcription.evaluator import TranscriptEvaluator, error_interval
from tfft.tasks.transcription.head import TranscriptionHead
from tfft.tasks.transcription.loss import CtcLoss
from tfft.tasks.transcription.metric import CharacterErrorRate
from tfft.tasks.transcription.parts import quiet_parts
from tfft.tasks.transcription.text import Normalization, decode, encode, least_frames

ALPHABET = " abc"
BLANK = len(ALPHABET)


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def collapsed(path):
    return tuple(at for i, at in enumerate(path) if at != BLANK and (i == 0 or at != path[i - 1]))


def probabilities(logits):
    """The probability of every text, by summing over all alignments."""
    p, found = softmax(logits.astype(np.float64)), {}
    for path in itertools.product(range(BLANK + 1), repeat=len(p)):
        text = collapsed(path)
        found[text] = found.get(text, 0.0) + np.prod(p[np.arange(len(p)), path])
    return found


@pytest.fixture(scope="module")
def batch():
    """Logits of three clips of 5, 4 and 3 frames, padded to 6, and their texts."""
    logits = np.random.default_rng(0).normal(scale=2.0, size=(3, 6, BLANK + 1)).astype(np.float32)
    for row, frames in enumerate((5, 4, 3)):
        logits[row, frames:] = ABSENT
    return logits, ["ab", "aa", "c a"]


def test_loss_is_that_of_a_sum_over_all_alignments(batch):
    logits, texts = batch
    labels = encode(texts, ALPHABET)
    found = CtcLoss(reduction=None)(labels, logits).numpy()
    for row, frames in enumerate((5, 4, 3)):
        text = tuple(ALPHABET.index(one) for one in texts[row])
        wanted = -np.log(probabilities(logits[row, :frames])[text]) / len(text)
        assert found[row] == pytest.approx(wanted, rel=1e-4)


def test_loss_leaves_padding_groups_and_characters_outside_of_the_alphabet_aside(batch):
    logits, texts = batch
    plain = CtcLoss(reduction=None)(encode(texts, ALPHABET), logits).numpy()
    marked = np.pad(encode(texts, ALPHABET), ((0, 0), (0, 2)), constant_values=-1)
    marked[0, 2], marked[1, 2], marked[1, 3] = -7, BLANK, -7
    np.testing.assert_allclose(CtcLoss(reduction=None)(marked, logits), plain, rtol=1e-5)


def test_loss_of_transcripts_that_do_not_fit_is_0_and_that_of_an_empty_one_is_silence(batch):
    logits, _ = batch
    labels = encode(["aaa", "aaa", ""], ALPHABET)  # of 5, 4 and 3 frames; "aaa" needs 5
    with tf.GradientTape() as tape:
        given = tf.constant(logits)
        tape.watch(given)
        found = CtcLoss(reduction=None)(labels, given)
    assert found[0] > 0
    assert found[1] == 0
    assert float(found[2]) == pytest.approx(-np.log(softmax(logits[2, :3])[:, BLANK]).sum(), rel=1e-5)
    gradient = tape.gradient(found, given).numpy()
    assert np.isfinite(gradient).all()
    assert not gradient[1].any()
    assert gradient[0, :5].any()
    assert not gradient[0, 5:].any()


def test_greedy_decoding_is_a_loop(batch):
    logits, _ = batch
    rows, likely = greedy(tf.constant(logits))
    for row, frames in enumerate((5, 4, 3)):
        best = logits[row, :frames].argmax(-1)
        assert tuple(rows[row].numpy().tolist()) == collapsed(best.tolist())
        assert float(likely[row]) == pytest.approx(np.log(softmax(logits[row, :frames]).max(-1)).sum(), rel=1e-4)
    assert frames_of(tf.constant(logits)).numpy().tolist() == [5, 4, 3]


def test_beam_search_finds_the_most_probable_text_where_greedy_does_not():
    # Two frames, blank 0.6 and "a" 0.4 each: greedy says nothing (0.36), "a" has 0.64 (Graves, 2012, figure 7.5).
    logits = np.full((1, 3, BLANK + 1), -20.0, np.float32)
    logits[0, :2, BLANK], logits[0, :2, 1] = np.log(0.6), np.log(0.4)
    logits[0, 2] = ABSENT
    assert greedy(tf.constant(logits))[0].to_list() == [[]]
    rows, likely = beam(tf.constant(logits), 8)
    assert rows.to_list() == [[1]]
    assert np.exp(likely[0]) == pytest.approx(0.64, abs=1e-3)


def test_beam_search_agrees_with_all_texts(batch):
    logits, _ = batch
    rows, likely = beam(tf.constant(logits), 200)
    for row, frames in enumerate((5, 4, 3)):
        every = probabilities(logits[row, :frames])
        best = max(every, key=every.get)
        assert tuple(rows[row].numpy().tolist()) == best
        assert np.exp(likely[row]) == pytest.approx(every[best], rel=1e-3)


def test_rate_of_characters_is_that_of_jiwer_over_batches():
    random = np.random.default_rng(1)
    truth = ["abc", "a b c", "ccba", "b"]
    labels = encode(truth, ALPHABET)
    logits = random.normal(size=(4, 12, BLANK + 1)).astype(np.float32)
    metric = CharacterErrorRate()
    metric.update_state(labels[:3], logits[:3])
    metric.update_state(labels[3:], logits[3:])
    written = [decode(row.numpy(), ALPHABET) for row in greedy(tf.constant(logits))[0]]
    assert metric.result().numpy() == pytest.approx(jiwer.cer(truth, written))
    strange = CharacterErrorRate()  # "x" is outside of the alphabet: never right
    strange.update_state(encode(["x"], ALPHABET), np.eye(BLANK + 1, dtype=np.float32)[None, [BLANK]] * 9)
    assert strange.result().numpy() == 1.0


def test_normalization():
    plain, kept = Normalization(), Normalization("keep", "keep")
    assert plain("Well-known,  isn\u2019t it?  'Yes'") == "well known isn't it yes"
    assert plain("E\u0301cole") == "\u00e9cole"
    assert kept(" Well-known,  isn't it? ") == "Well-known, isn't it?"
    with pytest.raises(PlanError, match="letter_case: Expected lower, keep. Received: 'upper'"):
        Normalization("upper")


def test_numbers_of_characters():
    labels = encode(["ab", "cx"], "abc")
    assert labels.tolist() == [[0, 1], [2, 3]]
    assert decode(np.array([2, 3, -9, -1]), "abc") == "c\ufffd"
    assert least_frames("aabb") == 6


def test_head_names_all_problems():
    with pytest.raises(PlanError, match="(?s)one loss.*label_smoothing.*beam_width must be an integer"):
        TranscriptionHead("transcription", ("a",), 2, loss_name="focal", label_smoothing=0.1, beam_width=0)
    with pytest.raises(PlanError, match="at most 400, received 500"):
        heads.transcription([chr(0x4E00 + at) for at in range(500)])
    with pytest.raises(PlanError, match="soft=True"):
        heads.transcription("ab").loss(soft=True)


def logits_for(texts, alphabet=ALPHABET):
    """Logits whose greedy text is given: each character in a frame of its own, blanks between."""
    length = 2 * max(map(len, texts)) + 1
    found = np.full((len(texts), length, len(alphabet) + 1), -5.0, np.float32)
    found[..., -1] = 0.0
    for row, text in enumerate(texts):
        for at, one in enumerate(text):
            found[row, 2 * at + 1, alphabet.index(one)] = 5.0
    return found


def test_evaluator_counts_as_jiwer_and_shows_the_worst():
    head = heads.transcription(ALPHABET)
    truth, written = ["a b c", "abc", "ab", "b a"], ["a c c", "abc", "ba", "b a"]
    evaluator = TranscriptEvaluator(head)
    evaluator.update(encode(truth[:2], ALPHABET), logits_for(written[:2]))
    evaluator.update(encode(truth[2:], ALPHABET), logits_for(written[2:]))
    scores = evaluator.result(4, 1.0)
    assert scores.value == pytest.approx(jiwer.wer(truth, written))
    assert scores.metric == "word_error_rate"
    assert scores.measures["character_error_rate"] == pytest.approx(jiwer.cer(truth, written))
    assert scores.majority_baseline == pytest.approx(jiwer.wer(truth, ["a b c"] * 4))
    assert scores.lower_is_better
    assert not scores.learned_nothing
    assert scores.measures["right"] == 0.5
    assert scores.interval[0] < scores.value < scores.interval[1]
    assert "the 2 clips with the most wrong characters" in str(scores)
    assert "REF: a b c" in str(scores)
    assert type(scores).from_dict(scores.to_dict()).notes == scores.notes


def test_single_clips_are_ranked_by_their_characters():
    outputs = {"text": np.array([b"a c", b"ab"], object)}
    labels = labels_of(["a b", "ab"], ALPHABET, ["x", "y"])
    found = registry.task("transcription").example_results(heads.transcription(ALPHABET), outputs, labels)
    assert [(one.label, one.prediction, one.correct) for one in found] == [("a b", "a c", False), ("ab", "ab", True)]
    assert found[0].error == pytest.approx(1 / 3)


def test_evaluator_names_labels_without_a_character():
    evaluator = TranscriptEvaluator(heads.transcription(ALPHABET))
    with pytest.raises(DataError, match="Received: 6, 7. Encode the transcripts with the alphabet"):
        evaluator.check(np.array([[6, 7, 4, -1, -9]]))
    with pytest.raises(DataError, match="an integer for each character"):
        evaluator.check(np.zeros((2, 3), np.float32))


def test_interval_over_speakers_is_wider_where_they_differ():
    errors = np.array([(0, 10)] * 50 + [(8, 10)] * 50)
    by_clip = error_interval(errors)
    by_speaker = error_interval(errors, np.repeat([-2, -3], 50))
    assert by_clip[0] < 0.4 < by_clip[1]
    assert by_speaker[0] < 0.05
    assert by_speaker[1] > 0.75
    assert error_interval(np.array([(0, 20)] * 5))[1] > 0.0  # few clips without a mistake prove little


# --- frames and the encoder -------------------------------------------------------------------------------------


SPEC = AudioSpec(8000, 1.0, range=80.0)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    from tfft.backbones.speech_encoder import speech_encoder

    backbone = speech_encoder(width=16, blocks=2, heads=2, kernel_size=5)
    found = tfft.build(backbone, heads.transcription(ALPHABET), audio=SPEC)
    for variable in found.weights:  # what a training leaves: no zeros where weights began at 0
        if variable.name in ("beta", "bias"):
            variable.assign(np.random.default_rng(1).normal(scale=0.1, size=variable.shape))
    return found


@pytest.mark.representative("231", "4003")
@pytest.mark.parametrize("samples", [100, 231, 1999, 4003])
def test_a_clip_gives_the_same_alone_and_in_a_padded_batch(model, samples):
    random = np.random.default_rng(samples)
    wave = (0.1 * random.normal(size=samples)).astype(np.float32)
    wave[-30:] += 3.0  # behind the last whole window, where there is one
    waves = np.zeros((3, 8000), np.float32)
    waves[0, :samples], waves[1], waves[2, :5000] = wave, random.normal(size=8000), random.normal(size=5000)
    alone, together = model(wave[None]).numpy()[0], model(waves).numpy()[0]
    there = int(frames_of(tf.constant(alone[None]))[0])
    np.testing.assert_allclose(together[:there], alone[:there], atol=2e-5)
    assert (together[there:] == ABSENT).all()
    head, labels = heads.from_model(model), encode(["a", "b", "c"], ALPHABET)
    one = head.loss()(labels[:1], alone[None])
    assert float(CtcLoss(reduction=None)(labels, model(waves))[0]) == pytest.approx(float(one), abs=1e-4)
    text = head.postprocess(model(waves))["text"][0]
    assert text == head.postprocess(alone[None])["text"][0]


def test_frames_are_counted_as_windows(model):
    frames = MelFrames(SPEC)(np.random.default_rng(0).normal(size=(2, 8000)).astype(np.float32))
    assert frames.shape == (2, 98, 64)
    assert float(tf.reduce_max(frames)) == 1.0
    assert model(np.ones((1, 8000), np.float32)).shape == (1, 25, BLANK + 1)
    silence = model(np.zeros((2, 800), np.float32)).numpy()
    assert (silence[:, 0] > ABSENT / 2).all()
    assert (silence[:, 1:] == ABSENT).all()


@pytest.mark.slow
def test_file_of_the_model_keeps_everything(model, tmp_path):
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    waves = np.random.default_rng(0).normal(size=(2, 3000)).astype(np.float32)
    np.testing.assert_array_equal(again(waves), model(waves))
    assert heads.from_model(again) == heads.from_model(model)


# --- recordings longer than the model takes


def with_pauses(seconds, rate, pauses, seed=0):
    """Noise of some seconds with 0.3 seconds of near silence around each pause, in seconds."""
    wave = (0.1 * np.random.default_rng(seed).normal(size=round(seconds * rate))).astype(np.float32)
    for pause in pauses:
        wave[round((pause - 0.15) * rate) : round((pause + 0.15) * rate)] *= 0.01
    return wave


def test_long_recordings_are_divided_in_their_pauses():
    spec, pauses = AudioSpec(1000, 3.0, window=0.03), (2.6, 5.2, 7.9)
    wave = with_pauses(10.0, 1000, pauses)
    parts = quiet_parts(wave, spec)
    np.testing.assert_array_equal(np.concatenate(parts), wave)
    ends = np.cumsum([len(part) for part in parts])[:-1] / 1000
    np.testing.assert_allclose(ends, pauses, atol=0.06)
    assert max(map(len, parts)) <= spec.samples
    assert [len(part) for part in quiet_parts(wave[:3000], spec)] == [3000]
    wave[3000:9000] = 0  # a part of silence has no words
    assert 0 < sum(map(len, quiet_parts(wave, spec))) < 7000
    assert not quiet_parts(np.zeros(3000, np.float32), spec)[0].any()


@pytest.mark.slow
def test_prediction_covers_the_whole_of_a_long_recording(model, tmp_path):
    files = [str(speech_data.write_wav(tmp_path / f"{at}.wav", with_pauses(seconds, 8000, (21, 44), at)))
             for at, seconds in enumerate((1.0, 62.0))]  # fmt: skip
    (tmp_path / "none.wav").write_bytes(b"")
    served = tfft.exporting.serving_functions(model)
    short, bad, long = tfft.exporting.predict_each(served, [files[0], str(tmp_path / "none.wav"), files[1]])
    assert bad.error == "is empty (0 bytes)"
    wave, head = read_recording(files[1])[1], heads.from_model(model)
    cuts = [0, *np.cumsum([len(part) for part in quiet_parts(wave, served.input_spec)])]
    assert len(cuts) == 4
    found = [head.postprocess(model(wave[None, a:b], training=False)) for a, b in itertools.pairwise(cuts)]
    texts = [one["text"][0].numpy().decode() for one in found]
    assert long.outputs["text"] == " ".join(text for text in texts if text)
    assert len(long.outputs["text"]) > len(texts[0])
    scores = [float(one["score"][0]) for one in found]
    assert long.outputs["score"] == pytest.approx(np.prod(scores) ** (1 / 3), rel=1e-4)
    assert (
        short.outputs["text"] == head.postprocess(model(read_recording(files[0])[1][None]))["text"][0].numpy().decode()
    )


_MIRRORED = """
import sys, keras, numpy as np, tensorflow as tf
import tfft
from tfft import heads
from tfft.backbones.speech_encoder import speech_encoder
from tfft.tasks.transcription.text import encode
if sys.argv[1] == "mirrored":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
else:
    strategy = tf.distribute.get_strategy()
random = np.random.default_rng(0)
waves = random.normal(size=(16, 2000)).astype("float32")
waves[::2, 1500:] = 0
labels = encode(["ab", "c a", "abc", "b"] * 4, " abc")
with strategy.scope():
    keras.utils.set_random_seed(0)
    backbone = speech_encoder(width=8, blocks=1, heads=2, kernel_size=3, dropout=0.0)
    model = tfft.build(backbone, heads.transcription(" abc", dropout=0.0), audio=tfft.AudioSpec(8000, 1.0))
    tfft.unfreeze(model, "all")
    model.compile(keras.optimizers.SGD(0.1), **heads.from_model(model).compile_args())
data = tf.data.Dataset.from_tensor_slices((waves, labels)).batch(8)
history = model.fit(data, epochs=2, verbose=0).history
np.savez(sys.argv[2], *model.get_weights(), loss=history["loss"], rate=history["character_error_rate"])
"""


@pytest.mark.nightly
def test_two_copies_learn_as_one(tmp_path):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    found = {}
    for how in ("mirrored", "plain"):
        file = tmp_path / f"{how}.npz"
        subprocess.run([sys.executable, "-c", _MIRRORED, how, str(file)], env=environment, check=True, timeout=300)
        with np.load(file) as values:
            found[how] = {name: values[name] for name in values.files}
    for name, value in found["plain"].items():
        np.testing.assert_allclose(found["mirrored"][name], value, atol=1e-5, err_msg=name)
