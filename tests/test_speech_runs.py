"""Whole runs of a planted voice: training, export, prediction, another voice, evaluation, an interruption."""

import argparse
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from planted_voice import LENGTH, LETTERS, QUICK, RATE, STEP, ljspeech, recognize, small, texts
from v0_cases import _determinism_ends  # noqa: F401

import tfft
from tfft.backbones.voice import symbol_table
from tfft.errors import DataError
from tfft.modalities.audio.wav import read_wav


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ljspeech(tmp_path_factory.mktemp("voice") / "tones", texts(64))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "voice"
    return tfft.finetune(small(), data, out=out, epochs=30, learning_rate=4e-3, **QUICK)


@pytest.mark.slow
def test_a_planted_voice_is_learned_and_speaks(run, tmp_path):
    scores = run.final_scores
    assert scores.value < 0.35 * scores.measures["mean_spectrum"]
    assert scores.measures["duration_error_ms"] < 20
    served = tfft.exporting.open_export(run.export.path)
    asked = ["edcba", "bad"]  # unseen
    found = served.predict(asked)
    lengths = found["length"]
    for row, text in enumerate(asked):
        wave = found["audio"][row][: lengths[row]]
        assert lengths[row] == pytest.approx((len(text) * LENGTH + 6) * STEP, abs=4 * STEP)
        assert recognize(wave) == text
        assert not found["audio"][row][lengths[row] :].any()


@pytest.mark.nightly
def test_export_equals_the_model_in_another_process(run):
    script = (
        "import sys, json, tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "a = model.signatures['serving_default'](text=tf.constant(['abc', 'e']))\n"
        "w = model.signatures['serve_wav'](text=tf.constant(['abc', 'e']))['wav'].numpy()\n"
        "print(json.dumps([a['log_mel'].numpy().tolist(), a['audio'].numpy().tolist(), a['length'].numpy().tolist(),"
        " [x.hex() for x in w]]))"
    )
    environment = {**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(run.export.path)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    mel, audio, length, files = json.loads(done.stdout.splitlines()[-1])
    head = tfft.heads.from_model(run.model)
    model = head.text_model(run.model)
    expected = {k: v.numpy() for k, v in head.postprocess(model.predict(tf.constant(["abc", "e"]), verbose=0)).items()}
    np.testing.assert_allclose(mel, expected["log_mel"], atol=1e-4)
    assert length == expected["length"].tolist()
    for row, file in enumerate(files):
        samples, rate = read_wav(bytes.fromhex(file))
        assert rate == RATE
        np.testing.assert_allclose(samples[:, 0], np.array(audio[row][: length[row]]), atol=1e-4)
    card = (run.export.path / "assets" / "model_card.md").read_text()
    assert "8000 samples per second" in card


@pytest.mark.nightly
def test_another_voice_from_a_run_with_a_frozen_encoder(run, tmp_path):
    other = ljspeech(tmp_path / "other", [*texts(30, seed=1), "aff", "fba"], shift=1.2)
    before = {v.path: v.numpy() for v in run.model.get_layer("backbone").weights}
    again = tfft.finetune(
        run.folder, other, unfreeze="duration_predictor|decoder.*|mel", epochs=6, head_epochs=2, export_to=False,
        learning_rate=1e-3, callbacks=[], **{**QUICK, "verbose": True},
    )  # fmt: skip
    table = symbol_table(again.model.get_layer("backbone"))
    assert table.vocabulary == ["<begin>", "<end>", *LETTERS, "f"]
    after = {v.path: v.numpy() for v in again.model.get_layer("backbone").weights}
    moved = {path.split("/")[0] for path in before if not np.array_equal(before[path], after[path])}
    assert not any(name.startswith(("symbol_table", "encoder")) for name in moved)
    assert {"decoder0", "decoder1", "mel"} <= moved
    assert again.final_scores.value < again.frozen_scores.value


@pytest.mark.nightly
def test_predict_writes_wav_files(run, tmp_path, capsys):
    from tfft.cli import main

    for place in (run.folder, run.export.path):
        out = tmp_path / place.name
        assert main(["predict", str(place), "--text", "abc", "--text", "dea", "--out", str(out)]) == 0
        assert sorted(file.name for file in out.iterdir()) == ["abc.wav", "dea.wav"]
        samples, rate = read_wav((out / "abc.wav").read_bytes())
        assert rate == RATE
        assert 0.5 < len(samples) / rate < 1.2
    assert "abc: " in capsys.readouterr().out
    with pytest.raises(DataError, match="--out: .* exists"):
        _predict(run, out)


def _predict(run, out):
    from tfft.commands import prediction

    options = argparse.Namespace(
        model=str(run.folder), files=[], text=["abc"], text_pair=None, out=str(out), draw=None, top=3, json=False
    )
    prediction.run(options, lambda *_: None)


@pytest.mark.slow
def test_evaluation_of_a_run(run, data):
    from tfft.recipes.labelled import labelled_data

    loaded = tfft.load_run(run.folder)
    dataset, _, words = labelled_data(loaded, data)
    assert words.startswith("held-out examples")
    scores = tfft.evaluate(loaded.model, dataset)
    assert scores.value == pytest.approx(run.final_scores.value, rel=1e-4)
    assert "the mean spectrum" in scores.summary
    assert "nothing was learned" not in scores.summary


class Interrupted(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    def __init__(self, at):
        super().__init__()
        self.at, self.steps = at, 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps == self.at:
            raise Interrupted


@pytest.mark.nightly
def test_an_interrupted_training_goes_on_to_the_same_weights(data, tmp_path):
    weights = []
    for name, at in (("stopped", 9), ("stopped", None), ("whole", None)):
        keras.utils.set_random_seed(1)
        how = {"epochs": 2, "learning_rate": 1e-3, "deterministic": True, "export_to": False}
        how |= {"callbacks": [Interrupt(at)], "out": tmp_path / name}
        if at is None:
            weights.append(tfft.finetune(small(dropout=0.1), data, **how, **QUICK).model.get_weights())
        else:
            with pytest.raises(Interrupted):
                tfft.finetune(small(dropout=0.1), data, **how, **QUICK)
    for resumed, straight in zip(*weights, strict=True):
        np.testing.assert_array_equal(resumed, straight)
