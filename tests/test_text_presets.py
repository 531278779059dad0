"""Text networks of several families, each as a small KerasHub preset: one interface for all of them."""

import io
import shutil

import keras
import keras_hub
import numpy as np
import pytest
import sentencepiece
import tensorflow as tf

import tfft
from tfft import heads

pytestmark = pytest.mark.text

SIZES = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 32}
TEXTS = np.array(["a quick brown fox", "", "wörld 你好 😀", "the the the the quick"], object)


def byte_pairs(*marks):
    letters = [*marks, *(chr(code) for code in range(33, 127)), *"ĠÃ¶ä½łå¥ðŁĺĢ"]
    merges = ["t h", "th e", "Ġ the", "q u"]
    pieces = dict.fromkeys([*letters, *(pair.replace(" ", "") for pair in merges)])
    return {"vocabulary": {piece: number for number, piece in enumerate(pieces)}, "merges": merges}


def sentence_pieces(**marks):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps", "over the lazy dog and on"] * 3),
        model_writer=model, vocab_size=32, minloglevel=2, **marks,
    )  # fmt: skip
    return model.getvalue()


def roberta():
    tokenizer = keras_hub.models.RobertaTokenizer(**byte_pairs("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    return keras_hub.models.RobertaBackbone(tokenizer.vocabulary_size(), **SIZES), tokenizer


def gpt2():
    tokenizer = keras_hub.models.GPT2Tokenizer(**byte_pairs("<|endoftext|>"))
    return keras_hub.models.GPT2Backbone(tokenizer.vocabulary_size(), **SIZES), tokenizer


def distilbert():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "a", "##x", "fo", "##o"]
    tokenizer = keras_hub.models.DistilBertTokenizer(pieces, lowercase=True)
    return keras_hub.models.DistilBertBackbone(tokenizer.vocabulary_size(), **SIZES), tokenizer


def albert():
    marks = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}
    names = {"pad_piece": "<pad>", "unk_piece": "<unk>", "bos_piece": "[CLS]", "eos_piece": "[SEP]"}
    proto = sentence_pieces(**marks, **names, user_defined_symbols="[MASK]")
    tokenizer = keras_hub.models.AlbertTokenizer(proto)
    network = keras_hub.models.AlbertBackbone(tokenizer.vocabulary_size(), **SIZES, embedding_dim=8)
    return network, tokenizer


def deberta():
    marks = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    names = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    tokenizer = keras_hub.models.DebertaV3Tokenizer(sentence_pieces(**marks, **names, user_defined_symbols="[MASK]"))
    return keras_hub.models.DebertaV3Backbone(tokenizer.vocabulary_size(), **SIZES, bucket_size=8), tokenizer


@pytest.mark.nightly
def test_deberta_gives_what_keras_hub_gives_and_is_exported(tmp_path):
    keras.utils.set_random_seed(0)
    for part in deberta():
        part.save_to_preset(str(tmp_path / "preset"))
    backbone = tfft.load_backbone(tmp_path / "preset", max_length=16)
    theirs = keras_hub.models.Backbone.from_preset(str(tmp_path / "preset"))
    tokens = backbone.tokenizer(tf.constant(TEXTS))
    np.testing.assert_array_equal(backbone.model(tokens), theirs(tokens))
    model = tfft.build(backbone, heads.classification(["a", "b"], dropout=0.0))
    tfft.export(model, tmp_path / "served")  # compares both in a process of its own


def answering(model):
    """A function of a model that is traced once, whatever the number of texts."""
    signature = [tf.TensorSpec([None], tf.string)]
    asked = tf.function(lambda texts: model(texts, training=False), input_signature=signature, autograph=False)
    return lambda texts: asked(tf.constant(texts)).numpy()


@pytest.mark.daily("gpt2-last")
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("make", "pooling"), [(roberta, "mean"), (distilbert, "mean"), (albert, "mean"), (deberta, "mean"), (gpt2, "last")]
)
def test_a_preset_is_opened_trained_saved_and_found_again_without_its_folder(make, pooling, tmp_path):
    keras.utils.set_random_seed(0)
    preset = tmp_path / "preset"
    for part in make():
        part.save_to_preset(str(preset))
    backbone = tfft.load_backbone(preset, max_length=16)
    assert backbone.text_spec.pooling == pooling
    assert backbone.text_spec.max_length == 32
    assert len(backbone.blocks) >= 2
    model = tfft.build(backbone, heads.classification(["a", "b"], dropout=0.0))
    assert not [v for v in model.trainable_variables if "logits" not in v.path]
    asked = answering(model)
    known = asked(TEXTS)
    alone = np.concatenate([asked(TEXTS[i : i + 1]) for i in range(len(TEXTS))])
    np.testing.assert_allclose(known, alone, atol=1e-5)  # padding changes nothing
    assert np.abs(known - known[:1]).max() > 1e-3
    tfft.unfreeze(model, 1)
    before = {v.path: v.numpy() for v in model.variables}
    model.compile("adam", **heads.from_model(model).compile_args())
    model.optimizer.build(model.trainable_variables)  # within a step it would have the step traced twice
    model.fit(TEXTS, np.array([0, 1, 0, 1]), verbose=0)
    moved = {v.path for v in model.variables if not np.array_equal(before[v.path], v.numpy())}
    assert moved - {path for path in moved if "logits" in path}
    assert moved <= {v.path for v in model.trainable_variables}
    model.save(tmp_path / "model.keras")
    shutil.rmtree(preset)
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(answering(again)(TEXTS), asked(TEXTS))
    assert len(again.trainable_variables) == len(model.trainable_variables)
