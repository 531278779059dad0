"""KerasHub's Moonshine for transcription, by CTC and by its decoder: outputs, padding, freezing, training, export."""

from __future__ import annotations

import dataclasses
import io
import re

import keras
import numpy as np
import pytest
import speech_data
import tensorflow as tf

import tfft
from tfft import heads, registry
from tfft.backbones.base import blocks_of
from tfft.cli import main as commands
from tfft.data.batches import BatchOptions
from tfft.decoding import CachedStepper, beam_search, stepper_of
from tfft.errors import BackboneError, DataError, PlanError
from tfft.recipes.labelled import labelled_data
from tfft.tasks.transcription.adapting import adapted_recordings
from tfft.tasks.transcription.data import load_transcripts
from tfft.tasks.transcription.frames import check_fit
from tfft.tasks.transcription.generator import TranscriptGenerator

keras_hub = pytest.importorskip("keras_hub")
sentencepiece = pytest.importorskip("sentencepiece")
pytestmark = pytest.mark.text


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A folder with a tiny Moonshine of random weights, and its network."""
    keras.utils.set_random_seed(0)
    network = keras_hub.models.MoonshineBackbone(
        vocabulary_size=40, filter_dim=32, encoder_num_layers=2, decoder_num_layers=2, hidden_dim=32,
        intermediate_dim=64, encoder_num_heads=2, decoder_num_heads=2, initializer_range=0.2,
    )  # fmt: skip
    for variable in network.weights:
        if variable.name in ("gamma", "beta", "bias"):
            variable.assign(variable + np.random.default_rng(1).normal(0, 0.1, variable.shape))
    written, texts = io.BytesIO(), speech_data.sentences(50)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts, *(f"{text.upper()}." for text in texts)]), model_writer=written, vocab_size=30,
        hard_vocab_limit=False, bos_id=1, eos_id=2, unk_id=0, minloglevel=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("moonshine")
    network.save_to_preset(str(folder))
    keras_hub.models.MoonshineTokenizer(written.getvalue()).save_to_preset(str(folder))
    return folder, network


@pytest.fixture(scope="module")
def backbone(preset):
    return tfft.load_backbone(f"keras_hub:{preset[0]}")


@pytest.fixture(scope="module")
def whole(backbone):
    return backbone.with_decoder()


def test_features_are_those_of_keras_hub_for_a_clip_alone(preset, backbone):
    wave = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    expected = preset[1]({
        "encoder_input_values": wave[None, :, None], "encoder_padding_mask": np.ones((1, 16000), bool),
        "decoder_token_ids": np.ones((1, 2), np.int32), "decoder_padding_mask": np.ones((1, 2), bool),
    })["encoder_sequence_output"]  # fmt: skip
    np.testing.assert_allclose(backbone.model(wave[None]), expected, atol=2e-5)
    assert [block.name for block in backbone.blocks] == ["front", "encoder1", "encoder2"]


def network_inputs(wave, ids):
    """What KerasHub's network takes for a clip alone, and texts of which the first token is present."""
    return {
        "encoder_input_values": wave[None, :, None], "encoder_padding_mask": np.ones((1, len(wave)), bool),
        "decoder_token_ids": ids, "decoder_padding_mask": ids > 0,
    }  # fmt: skip


def noise(seed, samples=16000):
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def test_logits_are_those_of_keras_hub_for_a_clip_alone(preset, whole):
    ids = np.array([[1, 5, 9, 3, 7]], np.int32)
    network = preset[1]
    found = network(network_inputs(noise(0), ids))["decoder_sequence_output"]
    expected = network.token_embedding(found, reverse=True)
    logits = whole.model({"waves": noise(0)[None], "decoder_token_ids": ids})
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    names = ["front", "encoder1", "encoder2", "embeddings", "decoder1", "decoder2"]
    assert [block.name for block in whole.blocks] == names
    assert whole.with_decoder() is whole


@pytest.mark.slow
def test_greedy_decoding_is_that_of_keras_hub_for_a_clip_alone(preset, whole):
    task = keras_hub.models.MoonshineAudioToText(preset[1])
    task.compile(sampler="greedy", run_eagerly=True)
    stepper, different = stepper_of(whole.model), set()
    assert isinstance(stepper, CachedStepper)
    decode = tf.function(lambda waves: beam_search(stepper, waves, (1,), 2, 7)[0])
    for seed in range(2):
        inputs = network_inputs(noise(seed, 4000), np.array([[1, *[0] * 7]], np.int32))
        [expected] = np.asarray(task.generate(inputs, stop_token_ids=[2])["decoder_token_ids"]).tolist()
        [tokens] = decode(noise(seed, 4000)[None]).numpy().tolist()
        assert tokens == expected[1 : 1 + len(tokens)]
        assert len(tokens) == 7 or tokens[-1] == 2
        different.add(tuple(tokens))
    assert len(different) > 1


@pytest.mark.nightly
def test_keras_hub_begins_with_two_start_tokens_if_it_packs_the_prompt(preset, whole):
    converter, tokenizer = keras_hub.layers.MoonshineAudioConverter(), whole.target_tokenizer
    packer = keras_hub.models.MoonshineAudioToTextPreprocessor(
        converter, tokenizer.tokenizer, decoder_sequence_length=9
    )
    task = keras_hub.models.MoonshineAudioToText(preset[1], packer)
    task.compile(sampler="greedy", run_eagerly=True)
    [text] = task.generate({"audio": noise(1)[None]}, stop_token_ids=[2])
    twice, _ = beam_search(stepper_of(whole.model), tf.constant(noise(1)[None]), (1, 1), 2, 7)
    assert tokenizer.read(twice.numpy()) == [text.strip()]


def test_padding_changes_no_logits_and_no_step(whole):
    waves, ids = np.stack([noise(1, 12000), noise(2, 12000)]), np.array([[1, 5, 9, 3], [1, 7, 0, 0]], np.int32)
    waves[1, 7000:] = 0
    together = whole.model({"waves": waves, "decoder_token_ids": ids}).numpy()
    alone = whole.model({"waves": waves[1:, :7000], "decoder_token_ids": ids[1:, :2]}).numpy()
    np.testing.assert_allclose(together[1:, :2], alone, atol=1e-4)
    stepper = stepper_of(whole.model)
    fixed, carried = stepper.begin(tf.constant(waves), 1)
    for count in range(1, 5):
        logits, carried = stepper.step(fixed, carried, tf.constant(ids[:, :count]))
        np.testing.assert_allclose(logits, together[:, count - 1], atol=1e-4)


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
def test_the_whole_way_by_ctc(preset, how, tmp_path):
    table = speech_data.write_table(tmp_path / "data", 40)
    settings = {"architecture": "ctc"}
    settings |= {"unfreeze": 1, "head_epochs": 4} if how == "blocks" else {"plan": tfft.plans.lp_ft(lora_rank=4)}
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


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, backbone):
    """Clips of four speakers, adapted to the backbone."""
    table = speech_data.write_table(tmp_path_factory.mktemp("clips"), 24)
    splits = load_transcripts(table, audio="file", text="sentence", group="speaker")
    return adapted_recordings(splits, backbone, {})


def test_a_backbone_with_a_decoder_uses_it_unless_ctc_is_asked_for(adapted, backbone, tmp_path):
    assert adapted.settings["architecture"] == "encoder_decoder"
    assert adapted.backbone.target_tokenizer is not None
    assert adapted.splits.class_names == ()
    splits = load_transcripts(speech_data.write_table(tmp_path, 12), audio="file", text="sentence")
    by_ctc = adapted_recordings(splits, backbone, {"architecture": "ctc"})
    assert by_ctc.backbone is None
    assert by_ctc.splits.class_names == splits.class_names
    whole = adapted_recordings(splits, backbone.with_decoder(), {})
    assert whole.backbone.target_tokenizer.target_length < 256
    with pytest.raises(BackboneError, match=r"without its decoder for architecture='ctc'.*with_decoder\(\) of"):
        adapted_recordings(splits, backbone.with_decoder(), {"architecture": "ctc"})
    small = tfft.load_backbone("speech-encoder-small")
    assert adapted_recordings(splits, small, {}).splits.class_names == splits.class_names
    with pytest.raises(BackboneError, match="pretrained decoder and its vocabulary.*speech-encoder-small, which has"):
        adapted_recordings(splits, small, {"architecture": "encoder_decoder"})
    with pytest.raises(PlanError, match="one of ctc, encoder_decoder, received 'decoder'"):
        heads.transcription("ab", architecture="decoder")


def test_labels_are_the_next_tokens_and_name_the_group(adapted):
    part, tokenizer = adapted.splits.train, adapted.backbone.target_tokenizer
    seen = 0
    for inputs, labels in part.batches(None, BatchOptions(5)):
        target, labels = inputs["target"].numpy(), labels.numpy()
        assert (target[:, 0] == 1).all()
        for row, after in zip(target, labels, strict=True):
            length = int((after >= 0).sum())
            assert row[1:length].tolist() == after[: length - 1].tolist()
            assert (row[length:] == -1).all()
            assert after[length - 1] == 2
            assert after.min() in (-2, -3, -4, -5)  # the speakers
        assert set(tokenizer.read(labels)) <= set(part.texts)
        seen += len(labels)
    assert seen == len(part)
    assert {int(row.min()) for row in part.labels} == {-2 - int(g[1:]) for g in adapted.splits.groups[: len(part)]}


def with_limit(backbone, length):
    """The backbone with a decoder that takes fewer tokens."""
    known = backbone.encoder_decoder
    return dataclasses.replace(
        backbone, encoder_decoder=dataclasses.replace(known, tokenizer=known.tokenizer.with_length(length))
    )


def test_long_transcripts_and_unknown_tokens_are_reported_before_training(backbone, tmp_path):
    table = speech_data.write_table(tmp_path, 24)
    lines = table.read_text().split("\n")
    lines[3] = f"wavs/002.wav,{'abc ' * 20},s0"
    lines[5] = "wavs/004.wav,xyz xyz,s0"
    table.write_text("\n".join(lines))
    splits = load_transcripts(table, audio="file", text="sentence", group="speaker", validation=0.3, seed=1)
    assert any(path.endswith("004.wav") for path in splits.train.paths)
    found = adapted_recordings(splits, with_limit(backbone, 30), {})
    notes, [skipped] = "\n".join(found.notes), found.splits.skipped
    assert re.search(r"clips.csv:4 has a transcript of \d+ tokens, and the model takes 30$", str(skipped))
    assert f"1 transcript skipped: {skipped}" in notes
    parts = found.splits.train, found.splits.validation
    assert sum(map(len, parts)) == 23
    assert "abc abc" not in " ".join(text for part in parts for text in part.texts)
    speakers = [f"s{-2 - int(row.min())}" for part in parts for row in part.labels]
    assert list(found.splits.groups) == speakers
    assert re.search(r"\d% of the transcript tokens are unknown to the vocabulary, most in .*clips.csv:6", notes)
    with pytest.raises(DataError, match=r"18 of 18 transcripts are longer than the model takes: .*clips.csv:2 has"):
        adapted_recordings(splits, with_limit(backbone, 3), {})


def decoder_model(adapted, **settings):
    head = heads.transcription(architecture="encoder_decoder", **settings)
    return tfft.build(adapted.backbone, head, audio=adapted.splits.train.spec)


def test_label_smoothing_waits_for_the_backbone_to_decide():
    for architecture, refused in ((None, False), ("ctc", True), ("encoder_decoder", False)):
        config = tfft.RunConfig(task="transcription", architecture=architecture, label_smoothing=0.1)
        problems = list(registry.task("transcription").with_architecture(architecture).unsupported(config))
        assert bool(problems) == refused, architecture


@pytest.mark.slow
def test_scores_compare_normalized_texts_and_count_unknown_tokens_as_errors(adapted):
    model = decoder_model(adapted)
    head, tokenizer = heads.from_model(model), adapted.backbone.target_tokenizer
    inputs, labels = next(iter(adapted.splits.validation.batches(None, BatchOptions(2))))
    evaluator = head.definition.evaluator(head)
    evaluator.observe(model, inputs)
    evaluator.update(labels.numpy(), None)
    assert len(evaluator.truth) == 2
    assert set(evaluator.truth) <= set(adapted.splits.validation.texts)
    tokens = TranscriptGenerator.known(model, head).decode(model.get_layer("clip")(inputs["audio"]))
    plain = tokenizer.read(tokens.numpy())
    assert evaluator.written == [head.normalization(text) for text in plain] != plain
    evaluator.written, evaluator.truth, evaluator.groups = ["a\u2047 c", "b"], [], []
    known = [int(tokenizer.ragged([letter])[0][-1]) for letter in "ab"]
    rows = np.array([[known[0], tokenizer.unknown, 2, -3], [known[1], 2, -1, -1]], np.int32)
    evaluator.update(rows, None)
    assert evaluator.truth == ["a\ufffd", "b"]
    assert evaluator.groups == [-3, -1]
    assert evaluator.weight(rows, None) == 5
    scores = evaluator.result(2, 1.0)
    assert scores.measures["outside_of_alphabet"] == 1
    assert scores.measures["right"] == 0.5
    with pytest.raises(DataError, match=r"Expected labels \[B, L\]"):
        evaluator.check(rows[0])


@pytest.mark.slow
def test_a_decoder_is_frozen_trained_and_saved(adapted, tmp_path):
    model = decoder_model(adapted, label_smoothing=0.1)
    tfft.unfreeze(model, ["decoder2"])
    before = [np.array(v) for v in model.weights]
    model.compile("adam", **heads.from_model(model).compile_args())
    inputs, labels = next(iter(adapted.splits.train.batches(None, BatchOptions(4))))
    model.train_on_batch(inputs, labels)
    trained = {id(v) for v in model.trainable_variables}
    assert len(trained) == 16
    for variable, old in zip(model.weights, before, strict=True):
        assert np.array_equal(variable, old) == (id(variable) not in trained), variable.path
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert heads.from_model(again) == heads.from_model(model)
    assert again.get_layer("tokens").target_length == adapted.backbone.target_tokenizer.target_length < 256
    np.testing.assert_allclose(again(inputs), model(inputs), atol=1e-5)
    assert [block.name for block in blocks_of(again)] == [block.name for block in adapted.backbone.blocks]
    served = heads.from_model(again).served(again)
    answer = tf.function(lambda waves: served.answer(served.model(waves)))(inputs["audio"][:2])
    generator = TranscriptGenerator.known(model, heads.from_model(model))
    expected = generator.tokenizer.read(generator.decode(model.get_layer("clip")(inputs["audio"][:2])).numpy())
    assert [text.decode() for text in answer["text"].numpy()] == expected
    assert ((answer["score"] > 0) & (answer["score"] <= 1)).numpy().all()


def decoder_run(preset, folder, **settings):
    """A short run of the decoder; the folder holds its data, and the run with its export."""
    table = speech_data.write_table(folder / "data", 12)
    return tfft.finetune(
        f"keras_hub:{preset[0]}", table, task="transcription", audio="file", text="sentence", epochs=2, batch_size=5,
        learning_rate=3e-3, augment=[], out=folder / "run", verbose=False, **settings,
    )  # fmt: skip


@pytest.mark.nightly
@pytest.mark.daily("blocks")
@pytest.mark.filterwarnings("ignore:The low-rank updates in")
@pytest.mark.parametrize("how", ["blocks", "lora"])
def test_the_whole_way_by_the_decoder(preset, how, tmp_path):
    run = decoder_run(
        preset, tmp_path, **({"unfreeze": 2} if how == "blocks" else {"plan": tfft.plans.lp_ft(lora_rank=4)})
    )
    assert run.plan.architecture == "encoder_decoder"
    assert [phase.name for phase in run.plan.phases] == ["fine-tune"]
    [audit] = run.history.audits.values()
    assert audit.ok
    assert min(audit.frozen, audit.trainable) > 0
    losses = [row["loss"] for row in run.history.rows]
    assert losses[-1] < losses[0]
    assert run.final_scores.metric == "word_error_rate"
    assert set(run.export.signatures) == {"serving_default", "serve_bytes"}
    assert run.export.largest_difference < 1e-4


@pytest.mark.nightly
def test_a_run_of_the_decoder_is_loaded_measured_and_predicts(preset, tmp_path, capsys):
    run = decoder_run(preset, tmp_path, unfreeze="all", beam_width=3, letter_case="keep", group="speaker")
    again, table = tfft.load_run(tmp_path / "run"), tmp_path / "data" / "clips.csv"
    assert heads.from_model(again.model).beam_width == 3
    assert heads.from_model(again.model).class_names is None
    dataset, _, words = labelled_data(again, table)
    assert "held-out" in words
    assert tfft.evaluate(again.model, dataset).value == pytest.approx(run.final_scores.value)
    loaded = load_transcripts(table, audio="file", text="sentence", letter_case="keep", group="speaker")
    assert tfft.evaluate(again.model, loaded.validation).value == pytest.approx(run.final_scores.value)
    files = [str(tmp_path / "data" / "wavs" / f"{at:03d}.wav") for at in range(2)]
    answers = list(tfft.exporting.predict_each(tfft.exporting.open_export(run.export.path), files))
    capsys.readouterr()
    assert commands(["predict", str(tmp_path / "run"), *files]) == 0
    expected = [f"{file}: {answer.answer['text']}" for file, answer in zip(files, answers, strict=True)]
    assert [line.strip() for line in capsys.readouterr().out.strip().split("\n")] == list(map(str.strip, expected))
    assert commands(["evaluate", str(tmp_path / "run"), str(table)]) == 0
    assert "word error rate" in capsys.readouterr().out
    assert tfft.write_report(run, tmp_path / "report.html")
