"""Hugging Face folders as they really come: vocabularies in one file, and what KerasHub leaves out of RoBERTa."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file, save_file
from test_text_presets import byte_pairs
from text_models import WORDS, tiny_bert_folder

import tfft
from tfft.backbones.huggingface import check_sizes
from tfft.errors import HandleError

pytestmark = pytest.mark.text

TEXTS = tf.constant(["the film is good", "Café, ZÜRICH!", "", "你好 xs", "nothing known"])


def said(folder):
    backbone = tfft.load_backbone(folder, max_length=16)
    tokens = backbone.tokenizer(TEXTS)
    return {name: value.numpy() for name, value in tokens.items()}, np.asarray(backbone.model(tokens))


def same(one, other):
    for name, value in one[0].items():
        np.testing.assert_array_equal(value, other[0][name], err_msg=name)
    np.testing.assert_array_equal(one[1], other[1])


@pytest.fixture
def bert(tmp_path):
    return tiny_bert_folder(tmp_path / "bert")


def whole(folder, model, **more):
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, **more}))


@pytest.mark.daily("True")
@pytest.mark.parametrize("lowercase", [True, False])
def test_a_vocabulary_in_tokenizer_json_is_the_same(bert, lowercase):
    (bert / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lowercase}))
    known = said(bert)
    (bert / "vocab.txt").unlink()
    (bert / "tokenizer_config.json").unlink()  # the normalizer says the same
    vocabulary = {word: number for number, word in enumerate(WORDS) if number > 4}
    marks = [{"id": number, "content": word} for number, word in enumerate(WORDS[:5])]
    normal = {"type": "BertNormalizer", "lowercase": lowercase, "strip_accents": None, "handle_chinese_chars": True}
    whole(bert, {"type": "WordPiece", "vocab": vocabulary}, added_tokens=marks, normalizer=normal)
    before = sorted(path.name for path in bert.iterdir())
    same(said(bert), known)
    assert sorted(path.name for path in bert.iterdir()) == before  # nothing is written into a folder of others


@pytest.mark.nightly
def test_what_the_settings_say_goes_before_the_normalizer(bert):
    (bert / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "strip_accents": False}))
    known = said(bert)
    (bert / "vocab.txt").unlink()
    normal = {"type": "BertNormalizer", "lowercase": False, "strip_accents": True}
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    whole(bert, {"type": "WordPiece", "vocab": vocabulary}, normalizer=normal)
    same(said(bert), known)


def roberta(path, types=None):
    """A small RoBERTa: the weights of a BERT under other names, with positions from 2 on and one token type."""
    pairs = byte_pairs("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tiny_bert_folder(path, list(pairs["vocabulary"]), longest=34)
    (path / "vocab.txt").unlink()
    weights = {f"roberta.{name}": value for name, value in load_file(path / "model.safetensors").items()}
    row = np.zeros((1, 16), np.float32) if types is None else types
    weights["roberta.embeddings.token_type_embeddings.weight"] = row
    save_file(weights, path / "model.safetensors")
    config = json.loads((path / "config.json").read_text())
    config |= {"model_type": "roberta", "type_vocab_size": 1, "hidden_dropout_prob": 0.1}
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    (path / "vocab.json").write_text(json.dumps(pairs["vocabulary"]))
    (path / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs["merges"]]) + "\n")
    return path, pairs


@pytest.mark.nightly
def test_the_token_type_of_roberta_is_not_left_out(tmp_path):
    row = np.random.default_rng(1).normal(0, 0.5, (1, 16)).astype(np.float32)
    (typed, _), (plain, _) = roberta(tmp_path / "typed", row), roberta(tmp_path / "plain")
    without = said(plain)
    weights = load_file(plain / "model.safetensors")
    weights["roberta.embeddings.position_embeddings.weight"] += row  # what it comes to: each piece has a position
    save_file(weights, plain / "model.safetensors")
    found = said(typed)
    np.testing.assert_allclose(found[1], said(plain)[1], atol=1e-6)
    assert np.abs(found[1] - without[1]).max() > 0.1


@pytest.mark.nightly
def test_byte_pairs_in_tokenizer_json_are_the_same(tmp_path):
    folder, pairs = roberta(tmp_path / "roberta")
    known = said(folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    for merges in ([pair.split(" ") for pair in pairs["merges"]], pairs["merges"]):  # both forms are written
        whole(folder, {"type": "BPE", "vocab": pairs["vocabulary"], "merges": merges})
        same(said(folder), known)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, "kind 'Unigram', expected 'WordPiece' or 'BPE'.*spiece.model"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0, "b": 7}}}, "not numbered from 0 without gaps"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}}}, "cannot be read: 'merges'"),
        ({"model": 3}, "kind None"),
        ([1, 2], "holds no settings, expected a JSON object"),
    ],
)
def test_vocabularies_that_cannot_be_read(bert, content, says):
    (bert / "vocab.txt").unlink()
    (bert / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(HandleError, match=says):
        tfft.load_backbone(bert)


@pytest.mark.nightly
def test_links_in_a_folder_are_followed(bert, tmp_path):
    """Caches of the hub hold links to files elsewhere."""
    known = said(bert)
    (bert / "vocab.txt").unlink()
    whole(bert, {"type": "WordPiece", "vocab": {word: number for number, word in enumerate(WORDS)}})
    held = tmp_path / "snapshot"
    held.mkdir()
    shutil.move(bert, tmp_path / "blobs")
    for path in (tmp_path / "blobs").iterdir():
        (held / path.name).symlink_to(path)
    same(said(held), known)


def test_settings_may_not_claim_more_than_the_weights_have(bert, tmp_path):
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(
        json.dumps(config | {"num_hidden_layers": 10**6, "max_position_embeddings": 10**6})
    )
    with pytest.raises(
        HandleError, match=r"(?s)2 problems.*num_hidden_layers is 1000000.*max_position_embeddings is 1"
    ):
        tfft.load_backbone(bert)
    rotary = tmp_path / "rotary"  # as Mistral's: more positions than any of its weights has rows
    rotary.mkdir()
    save_file({"model.embed_tokens.weight": np.zeros((100, 8), np.float32)}, rotary / "model.safetensors")
    settings = {"model_type": "mistral", "vocab_size": 100, "hidden_size": 8, "max_position_embeddings": 32768}
    (rotary / "config.json").write_text(json.dumps(settings))
    check_sizes(rotary)
    (rotary / "config.json").write_text(json.dumps(settings | {"hidden_size": 101}))
    with pytest.raises(HandleError, match="hidden_size is 101, expected an integer of at most 100"):
        check_sizes(rotary)
