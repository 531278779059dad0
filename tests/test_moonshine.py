"""The encoder of KerasHub's Moonshine for transcription: outputs, padding, freezing, training, export."""

from __future__ import annotations

import io

import keras
import numpy as np
import pytest
import speech_data
import tensorflow as tf

import tfft
from tfft import heads
from tfft.errors import DataError
from tfft.tasks.transcription.data import load_transcripts
from tfft.tasks.transcription.frames import check_fit

keras_hub = pytest.importorskip("keras_hub")
sentencepiece = pytest.importorskip("sentencepiece")
pytestmark = pytest.mark.text


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A folder with a tiny Moonshine of random weights, and its network."""
    keras.utils.set_random_seed(0)
    network = keras_hub.models.MoonshineBackbone(
        vocabulary_size=40, filter_dim=32, encoder_num_layers=2, decoder_num_layers=1, hidden_dim=32,
        intermediate_dim=64, encoder_num_heads=2, decoder_num_heads=2, initializer_range=0.2,
    )  # fmt: skip
    for variable in network.weights:
        if variable.name in ("gamma", "beta", "bias"):
            variable.assign(variable + np.random.default_rng(1).normal(0, 0.1, variable.shape))
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(speech_data.sentences(50)), model_writer=written, vocab_size=20,
        hard_vocab_limit=False, bos_id=1, eos_id=2, unk_id=0, minloglevel=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("moonshine")
    network.save_to_preset(str(folder))
    keras_hub.models.MoonshineTokenizer(written.getvalue()).save_to_preset(str(folder))
    return folder, network


@pytest.fixture(scope="module")
def backbone(preset):
    return tfft.load_backbone(f"keras_hub:{preset[0]}")


def test_features_are_those_of_keras_hub_for_a_clip_alone(preset, backbone):
    wave = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    expected = preset[1]({
        "encoder_input_values": wave[None, :, None], "encoder_padding_mask": np.ones((1, 16000), bool),
        "decoder_token_ids": np.ones((1, 2), np.int32), "decoder_padding_mask": np.ones((1, 2), bool),
    })["encoder_sequence_output"]  # fmt: skip
    np.testing.assert_allclose(backbone.model(wave[None]), expected, atol=2e-5)
    assert [block.name for block in backbone.blocks] == ["front", "encoder1", "encoder2"]


def test_padding_changes_nothing(backbone):
    random = np.random.default_rng(1)
    waves = random.normal(0, 0.1, (3, 12000)).astype(np.float32)
    waves[1, 7000:], waves[2, 300:] = 0, 0
    together = backbone.model(waves).numpy()
    for row, samples in enumerate((12000, 7000, 300)):
        alone = backbone.model(waves[row : row + 1, :samples]).numpy()[0]
        assert len(alone) == backbone.model.get_layer("front").frames_of(samples)
        np.testing.assert_allclose(together[row, : len(alone)], alone, atol=1e-4)
        assert not together[row, len(alone) :].any()


def test_transcripts_longer_than_the_frames_are_named(backbone, tmp_path):
    table = speech_data.write_table(tmp_path, 12)
    lines = table.read_text().split("\n")
    lines[3] = f"wavs/002.wav,{'abcdef ' * 30},s0"
    table.write_text("\n".join(lines))
    splits = load_transcripts(table, audio="file", text="sentence")
    with pytest.raises(DataError, match=r"clips.csv:4: .*002.wav lasts .* frames, and its 209 characters need 209"):
        check_fit(splits, backbone)


@pytest.mark.daily("blocks")
@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:The low-rank updates in")
@pytest.mark.daily("blocks")
@pytest.mark.parametrize("how", ["blocks", "lora"])
def test_the_whole_way(preset, how, tmp_path):
    table = speech_data.write_table(tmp_path / "data", 40)
    settings = {"unfreeze": 1, "head_epochs": 4} if how == "blocks" else {"plan": tfft.plans.lp_ft(lora_rank=4)}
    run = tfft.finetune(
        f"keras_hub:{preset[0]}", table, task="transcription", audio="file", text="sentence", epochs=2, augment=[],
        batch_size=8, learning_rate=3e-3, cache="memory", export_to=tmp_path / "served" / "1", verbose=False,
        **settings,
    )  # fmt: skip
    assert all(audit.ok for audit in run.history.audits.values())
    losses = [row["loss"] for row in run.history.rows]
    assert losses[-1] < losses[0]
    assert run.final_scores.metric == "word_error_rate"
    assert run.export.largest_difference < 1e-4
    wave = np.zeros((1, 16000), np.float32)
    wave[0, :9000] = np.random.default_rng(0).normal(0, 0.1, 9000)
    served = tf.saved_model.load(str(tmp_path / "served" / "1")).signatures["serving_default"](audio=wave)["text"]
    assert served[0] == heads.from_model(run.model).postprocess(run.model(wave))["text"][0]
