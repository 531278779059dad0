"""Transcription from recordings to exported text: a planted language, an opened backbone, a stopped training."""

from __future__ import annotations

import json
import pathlib

import jiwer
import keras
import numpy as np
import pytest
import speech_data
import tensorflow as tf

import tfft
from tfft import cli, heads
from tfft.backbones.speech_encoder import speech_encoder
from tfft.layers.waveform import DropPadding
from tfft.losses import ABSENT
from tfft.modalities.audio import read_recording

pytestmark = pytest.mark.slow
slow_fixtures = ("run",)

COLUMNS = {"task": "transcription", "audio": "file", "text": "sentence"}


def small(width=48, blocks=1):
    keras.utils.set_random_seed(0)
    return speech_encoder(width=width, blocks=blocks, heads=2, kernel_size=7, dropout=0.0)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return speech_data.write_table(tmp_path_factory.mktemp("tones"), 160)


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    return tfft.finetune(
        small(), table, group="speaker", epochs=30, learning_rate=4e-3, augment=[], batch_size=8, validation=0.25,
        out=tmp_path_factory.mktemp("runs") / "asr", cache=None, verbose=False, **COLUMNS,
    )  # fmt: skip


def test_a_language_of_tones_is_learned(run):
    scores = run.final_scores
    assert scores.measures["character_error_rate"] <= 0.02
    assert scores.value < 0.1 < scores.majority_baseline
    assert scores.examples == 40
    assert run.plan.name == "from_scratch"
    assert len(run.plan.phases) == 1
    assert all(v.trainable for v in run.model.weights if "seed" not in v.path)
    best = min(row["val_character_error_rate"] for row in run.history.rows)
    assert best == pytest.approx(scores.measures["character_error_rate"], abs=1e-6)


def test_the_command_line_and_the_export_write_what_the_model_does(run, table, capsys):
    files = [str(table.parent / "wavs" / f"{at:03d}.wav") for at in range(6)]
    found = []
    for model in (run.folder, run.folder / "export" / "1"):
        assert cli.main(["predict", str(model), *files]) == 0
        found.append(capsys.readouterr().out.splitlines())
    waves = [read_recording(file)[1] for file in files]
    head = heads.from_model(run.model)
    texts = [head.postprocess(run.model(wave[None]))["text"][0].numpy().decode() for wave in waves]
    assert found[0] == found[1] == [f"{file}: {text}" for file, text in zip(files, texts, strict=True)]
    served = tf.saved_model.load(str(run.folder / "export" / "1"))
    padded = np.zeros((6, 20000), np.float32)
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    arrays = served.signatures["serving_default"](audio=tf.constant(padded))
    contents = tf.constant([pathlib.Path(file).read_bytes() for file in files])
    encoded = served.signatures["serve_bytes"](audio_bytes=contents)
    for outputs in (arrays, encoded):
        assert [text.decode() for text in outputs["text"].numpy()] == texts
        assert outputs["score"].shape == (6,)
        assert 0.5 < outputs["score"].numpy().min() <= 1.0
    np.testing.assert_allclose(arrays["score"], encoded["score"], atol=1e-5)
    card = (run.folder / "export" / "1" / "assets" / "model_card.md").read_text()
    assert "lowercase, without punctuation" in card
    assert "Decoding: greedy" in card
    assert run.export.largest_difference < 1e-5


@pytest.mark.nightly
def test_held_out_clips_and_other_data_are_measured(run, table, tmp_path, capsys):
    assert cli.main(["evaluate", str(run.folder), str(table), "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert own["data"].startswith("held-out examples")
    assert own["examples"] == 40
    assert own["measures"]["word_error_rate"] == pytest.approx(run.final_scores.value)
    other = speech_data.write_table(tmp_path, 8, seed=5)
    assert cli.main(["evaluate", str(run.folder), str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["examples"] == 8
    assert found["measures"]["groups"] == 4
    assert cli.main(["predict", str(run.folder), *sorted(map(str, (tmp_path / "wavs").iterdir())), "--json"]) == 0
    written = [one["text"] for one in json.loads(capsys.readouterr().out)["predictions"]]
    assert found["measures"]["word_error_rate"] == pytest.approx(jiwer.wer(speech_data.sentences(8, 5), written))


def test_the_check_reports_transcripts(table, capsys):
    arguments = ["check", str(table), "--task", "transcription", "--audio", "file", "--text", "sentence", "--json"]
    assert cli.main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["counts"]) == {"train", "validation"}
    assert report["counts"]["train"] == {"recordings": 128}
    assert "sentences" in {one["kind"] for one in report["findings"]}


class Stop(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise RuntimeError("stopped")


@pytest.mark.nightly
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path):
    table = speech_data.write_table(tmp_path / "data", 20)
    settings = {"epochs": 3, "batch_size": 4, "verbose": False, "export_to": False, **COLUMNS}
    with pytest.raises(RuntimeError, match="stopped"):
        tfft.finetune(small(16), table, out=tmp_path / "stopped", callbacks=[Stop(7)], **settings)
    resumed = tfft.finetune(small(16), table, out=tmp_path / "stopped", callbacks=[Stop(-1)], **settings)
    whole = tfft.finetune(small(16), table, out=tmp_path / "whole", callbacks=[Stop(-1)], **settings)
    for one, other in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


class Frames(tf.Module):
    """From waves [B, samples] to features [B, T, 8], as an audio model that was trained elsewhere."""

    def __init__(self):
        random = np.random.default_rng(2)
        self.first = tf.Variable(random.normal(0, 0.1, (129, 24)).astype("float32"), name="first/kernel")
        self.second = tf.Variable(random.normal(0, 0.3, (24, 16)).astype("float32"), name="second/kernel")
        self.variables_ = [self.first, self.second]

    @tf.function(input_signature=[tf.TensorSpec([None, 16000], tf.float32, name="waves")])
    def __call__(self, waves):
        spectrum = tf.abs(tf.signal.stft(waves, 256, 240))
        return tf.nn.relu(tf.math.log(1.0 + spectrum) @ self.first) @ self.second


@pytest.mark.nightly
def test_frozen_features_of_an_opened_backbone_are_kept_and_its_last_block_trains(tmp_path, capsys):
    tf.saved_model.save(Frames(), str(tmp_path / "frames"))
    table = speech_data.write_table(tmp_path / "data", 24)
    run = tfft.finetune(
        str(tmp_path / "frames"), table, sample_rate=8000, unfreeze=1, epochs=2, head_epochs=10, batch_size=8,
        learning_rate=(3e-2, 1e-3), augment=[], cache="memory", export_to=False, **COLUMNS,
    )  # fmt: skip
    said = capsys.readouterr().out
    assert [phase.name for phase in run.plan.phases] == ["frozen", "fine-tune"]
    assert "every epoch runs the whole model" not in said
    assert run.history.audits["frozen"].ok
    assert run.history.audits["fine-tune"].ok
    losses = [row["loss"] for row in run.history.rows if row["phase"] == "frozen"]
    assert losses[-1] < 0.9 * losses[0]
    assert any(isinstance(layer, DropPadding) for layer in run.model.layers)
    waves = np.zeros((2, 16000), np.float32)
    waves[0, :8000], waves[1] = 0.1, 0.1
    logits = run.model.predict(waves, verbose=0)
    there = logits.max(-1) > ABSENT / 2
    assert there[1].all()
    assert there[0].sum() == -(-8000 * there.shape[1] // 16000)
