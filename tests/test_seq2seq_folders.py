"""Hugging Face folders of encoder-decoders: T5 against loops in numpy, BART, and both the whole way."""

from __future__ import annotations

import json
import shutil

import keras
import numpy as np
import pytest
import t5_models
import tensorflow as tf
from safetensors.numpy import load_file, save_file
from test_text_to_text import sentences

import tfft
from tfft.data.batches import BatchOptions
from tfft.errors import BackboneError, HandleError
from tfft.tasks.text_to_text.adapting import adapted_pairs
from tfft.tasks.text_to_text.data import load_pairs
from tfft.tasks.text_to_text.decoding import TextGenerator

pytest.importorskip("keras_hub")
pytest.importorskip("sentencepiece")
pytestmark = pytest.mark.text

TEXTS = [text for side in sentences(200) for text in side]
VERSIONS = {"1.0": {"gated": False, "tied": True}, "1.1": {"gated": True, "tied": False}}


@pytest.fixture(scope="module", params=list(VERSIONS))
def t5(request, tmp_path_factory):
    """A tiny T5 with random weights, its tensors, and what is particular of its version."""
    folder, kind = tmp_path_factory.mktemp("folders") / "t5", VERSIONS[request.param]
    return folder, t5_models.write_folder(folder, TEXTS, **kind), kind


@pytest.mark.slow
def test_logits_of_t5_are_those_of_loops(t5):
    folder, tensors, kind = t5
    backbone = tfft.load_backbone(folder)
    names = ["encoder1", "encoder2", "encoder3", "decoder1", "decoder2"]
    assert [b.name for b in backbone.blocks] == ["embeddings", *names]
    random, rows = np.random.default_rng(0), len(tensors["shared.weight"])
    pairs = [(random.integers(3, rows, s), random.integers(0, rows, t)) for s, t in ((150, 140), (9, 5))]
    padded = {}
    for part, side in (("encoder", 0), ("decoder", 1)):
        ids, mask = np.zeros((2, len(pairs[0][side])), np.int32), np.zeros((2, len(pairs[0][side])), np.int32)
        for row, pair in enumerate(pairs):
            ids[row, : len(pair[side])], mask[row, : len(pair[side])] = pair[side], 1
        padded |= {f"{part}_token_ids": ids, f"{part}_padding_mask": mask}
    found = backbone.model({name: padded[name] for name in backbone.model.input}, training=False).numpy()
    for row, (source, target) in enumerate(pairs):
        expected = t5_models.logits_of(tensors, **kind, source=source, target=target)
        np.testing.assert_allclose(found[row, : len(target)], expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.daily("1.0")
def test_t5_decodes_with_kept_keys_as_without(t5):
    folder, tensors, kind = t5
    model = tfft.build(tfft.load_backbone(folder, max_length=20), tfft.heads.text_to_text(), modality="text")
    generator = TextGenerator.of(model, tfft.heads.from_model(model))
    source = np.array([[5, 9, 13, 7, 1], [6, 4, 1, -1, -1]], np.int32)
    tokens = tf.function(generator.tokens, autograph=False)(tf.constant(source))[0].numpy()
    for row, length in enumerate((5, 3)):
        written = [0]
        while len(written) < 20 and (len(written) == 1 or written[-1] != 1):
            logits = t5_models.logits_of(tensors, **kind, source=source[row, :length], target=np.array(written))
            written.append(int(logits[-1].argmax()))
        assert written[1:] == [t for t in tokens[row].tolist() if t >= 0]


@pytest.mark.daily("1.0")
def test_t5_is_saved_with_its_vocabulary(t5, tmp_path):
    model = tfft.build(tfft.load_backbone(t5[0]), tfft.heads.text_to_text(), modality="text")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    batch = {"source": np.array([[5, 9, 1]]), "target": np.array([[0, 8, 7, 3]])}
    np.testing.assert_array_equal(again(batch), model(batch))
    spare = model.get_layer("tokens").read(np.array([[8, len(t5[1]["shared.weight"]) - 1, 7]]))  # a row without a token
    assert spare == model.get_layer("tokens").read(np.array([[8, 7]]))
    assert again.get_layer("tokens").read(np.array([[0, 8, 7, 3, 1]])) == model.get_layer("tokens").read(
        np.array([[0, 8, 7, 3, 1]])
    )


@pytest.fixture
def broken(tmp_path):
    """A folder of T5 to be damaged, and a function that changes its settings."""
    folder = tmp_path / "t5"
    t5_models.write_folder(folder, TEXTS, gated=False, tied=True)

    def change(**settings):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **settings}))
        return folder

    return change


def test_settings_of_t5_that_do_not_fit_the_weights_are_all_named(broken):
    with pytest.raises(
        HandleError, match="(?s)d_model and d_ff say that .*wo.weight has the shape .16, 999.*num_decod"
    ):
        tfft.load_backbone(broken(d_ff=999, num_decoder_layers=3))
    with pytest.raises(HandleError, match="(?s)d_kv is None, expected an integer.*feed_forward_proj is 'gated-silu'"):
        tfft.load_backbone(broken(d_kv=None, feed_forward_proj="gated-silu"))


def test_weights_of_t5_that_are_missing_or_left_over_are_named(broken):
    folder = broken()
    tensors = load_file(folder / "model.safetensors")
    lost = "decoder.block.1.layer.1.EncDecAttention.k.weight"
    tensors["decoder.block.1.layer.1.EncDecAttention.x.weight"] = tensors.pop(lost)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(HandleError, match=f"(?s){lost} is missing.*x.weight is unexpected"):
        tfft.load_backbone(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(HandleError, match="has no .safetensors file.*safe_serialization=True"):
        tfft.load_backbone(folder)


@pytest.mark.slow
def test_a_vocabulary_of_another_t5_is_refused(broken):
    folder = broken()
    (folder / "spiece.model").write_bytes(t5_models.vocabulary([f"word{at} {at * 7919}" for at in range(2000)], 400))
    with pytest.raises(BackboneError, match=r"vocabulary of .* has \d+ tokens, but the weights have .*another model"):
        tfft.load_backbone(folder)
    (folder / "spiece.model").write_bytes(b"nothing")
    with pytest.raises(HandleError, match="is not a T5 vocabulary.*Expected a SentencePiece model"):
        tfft.load_backbone(folder)
    (folder / "spiece.model").unlink()
    with pytest.raises(HandleError, match="spiece.model, the vocabulary, is missing"):
        tfft.load_backbone(folder)


# --- a frozen encoder


@pytest.mark.daily("1.0")
def test_outputs_of_a_frozen_encoder_replace_it(t5):
    splits = load_pairs(sentences(60))
    adapted = adapted_pairs(splits, tfft.load_backbone(t5[0], max_length=60))
    model = tfft.build(adapted.backbone, tfft.heads.text_to_text(), modality="text")
    train, held_out, options = adapted.splits.train, adapted.splits.validation, BatchOptions(8, True, 3)
    tfft.unfreeze(model, 3)
    assert "Blocks of the encoder train" in train.trainable_part(model, held_out, options)
    tfft.unfreeze(model, "all")
    assert train.trainable_part(model, held_out, options) == ""
    tfft.unfreeze(model, 2)
    decoder, batches, _ = train.trainable_part(model, held_out, options)
    assert {id(v) for v in decoder.trainable_weights} == {id(v) for v in model.trainable_weights}
    assert not any("encoder" in layer.name for layer in decoder.layers)
    assert len(batches) == len(train.batches(None, options))
    for (inputs, labels), (plain, expected) in zip(batches.take(2), train.batches(None, options), strict=False):
        np.testing.assert_array_equal(labels, expected)
        logits = model(plain, training=False)
        np.testing.assert_allclose(decoder(inputs, training=False), logits, atol=1e-5 * np.abs(logits).max())


@pytest.mark.nightly
def test_a_training_is_the_same_with_the_outputs_kept(tmp_path):
    t5_models.write_folder(tmp_path / "t5", TEXTS, **VERSIONS["1.0"])
    runs = [
        tfft.finetune(
            str(tmp_path / "t5"), sentences(60), task="text_to_text", epochs=2, unfreeze=1, learning_rate=1e-3,
            max_length=60, cache=cache, batch_size=8, export_to=False, verbose=False,
        )
        for cache in ("memory", None)
    ]  # fmt: skip
    kept, plain = (run.model.get_weights() for run in runs)
    for one, other in zip(kept, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    start = tfft.load_backbone(tmp_path / "t5", max_length=60).model.get_layer("decoder2").get_weights()
    found = runs[0].model.get_layer("backbone").get_layer("decoder2").get_weights()
    assert max(np.abs(a - b).max() for a, b in zip(start, found, strict=True)) > 1e-3
    assert runs[0].final_scores.loss == pytest.approx(runs[1].final_scores.loss, rel=1e-5)


# --- BART


def bart_tensors(rows, width=32, inner=64, layers=2, positions=82, seed=0):
    """Random weights under the names of Hugging Face."""
    random = np.random.default_rng(seed)

    def draw(*shape):
        return random.normal(0, 0.15, shape).astype(np.float32)

    found = {"model.shared.weight": draw(rows, width), "final_logits_bias": np.zeros((1, rows), np.float32)}
    for stack in ("encoder", "decoder"):
        at = f"model.{stack}"
        norms = [f"{at}.layernorm_embedding"]
        found[f"{at}.embed_positions.weight"] = draw(positions, width)
        for layer in (f"{at}.layers.{number}" for number in range(layers)):
            parts = ["self_attn", "encoder_attn"] if stack == "decoder" else ["self_attn"]
            dense = {f"{layer}.{part}.{one}_proj": (width, width) for part in parts for one in ("q", "k", "v", "out")}
            dense |= {f"{layer}.fc1": (inner, width), f"{layer}.fc2": (width, inner)}
            for name, shape in dense.items():
                found |= {f"{name}.weight": draw(*shape), f"{name}.bias": draw(shape[0])}
            norms += [f"{layer}.{part}_layer_norm" for part in (*parts, "final")]
        for name in norms:
            found |= {f"{name}.weight": 1 + draw(width), f"{name}.bias": draw(width)}
    return found


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    """A tiny BART with random weights in the layout of Hugging Face."""
    folder = tmp_path_factory.mktemp("bart")
    letters = sorted({letter for text in TEXTS for letter in text if letter.isascii() and letter != " "})
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [*marks, *letters, "Ġ", "Ã", "¼", "¶", "on", "ei"]
    (folder / "vocab.json").write_text(json.dumps({piece: at for at, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\no n\ne i\n")
    save_file(bart_tensors(len(pieces)), folder / "model.safetensors")
    config = {
        "model_type": "bart", "vocab_size": len(pieces), "d_model": 32, "num_hidden_layers": 2, "encoder_layers": 2,
        "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64, "dropout": 0.1, "max_position_embeddings": 80, "activation_function": "gelu",
        "scale_embedding": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_weights_of_bart_are_those_of_the_folder(bart):
    backbone, tensors = tfft.load_backbone(bart), load_file(bart / "model.safetensors")
    assert [b.name for b in backbone.blocks] == ["embeddings", "encoder1", "encoder2", "decoder1", "decoder2"]
    held = {tuple(np.round(np.sort(w.numpy().ravel())[:9], 6)) for w in backbone.model.weights}
    for name, value in tensors.items():
        value = value[2:] if name.endswith("embed_positions.weight") else value  # the first two are for padding
        assert name == "final_logits_bias" or tuple(np.round(np.sort(value.ravel())[:9], 6)) in held, name


def test_a_bart_whose_stacks_differ_is_refused(bart, tmp_path):
    config = json.loads((bart / "config.json").read_text())
    shutil.copytree(bart, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(
        json.dumps({**config, "decoder_layers": 1, "scale_embedding": True})
    )
    with pytest.raises(HandleError, match="(?s)decoder_layers is 1 and encoder_layers 2.*scale_embedding is True"):
        tfft.load_backbone(tmp_path / "other")


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:The low-rank updates in")
@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_folder_goes_the_whole_way(kind, tmp_path, bart):
    folder = tmp_path / "t5"
    if kind == "bart":
        folder = bart
    else:
        t5_models.write_folder(folder, TEXTS, **VERSIONS["1.1"])
    run = tfft.finetune(
        str(folder), sentences(80), task="text_to_text", plan=tfft.plans.lp_ft(lora_rank=4), epochs=2, unfreeze=2,
        learning_rate=1e-2, max_length=60, export_to=tmp_path / "served" / "1", verbose=False,
    )  # fmt: skip
    audit = run.history.audits[run.plan.phases[-1].name]
    assert not audit.frozen_moved
    assert run.history.rows[-1]["loss"] < run.history.rows[0]["loss"]
    texts = ["red dog", "blue cat"]
    generator = TextGenerator.of(run.model, tfft.heads.from_model(run.model))
    generator.tokenizer.prepare()
    live = [t.decode() for t in tf.function(generator.texts)(tf.constant(texts))[0].numpy()]
    served = tfft.exporting.open_export(tmp_path / "served").predict(texts)["generated_text"]
    assert [t.decode() for t in served] == live
