"""Pairs of texts that do not fit an encoder-decoder: each is named with its line and a remedy before training."""

from __future__ import annotations

import pytest
import t5_models
from test_text_to_text import WORDS, sentences

import tfft
from tfft.errors import BackboneError, DataError
from tfft.tasks.text_to_text.adapting import adapted_pairs
from tfft.tasks.text_to_text.data import load_pairs

keras_hub = pytest.importorskip("keras_hub")
pytest.importorskip("sentencepiece")
pytestmark = pytest.mark.text


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders") / "t5"
    t5_models.write_folder(folder, [text for side in sentences(200) for text in side], gated=False, tied=True)
    return folder


def write(path, sources, targets):
    rows = "".join(f"{source}\t{target}\n" for source, target in zip(sources, targets, strict=True))
    path.write_text(f"en\tde\n{rows}", encoding="utf-8")
    return path


def test_a_language_that_the_vocabulary_does_not_cover(t5, tmp_path):
    sources, targets = sentences(40)
    targets[7] = "".join(chr(0x4E00 + at) + " " for at in range(30))
    splits = load_pairs(write(tmp_path / "a.tsv", sources, targets), validation=0.1)
    [note] = [n for n in adapted_pairs(splits, tfft.load_backbone(t5)).notes if "unknown" in n]
    assert note.startswith(tuple("123456789"))
    assert "% of the target tokens are unknown to the vocabulary, most in" in note
    assert "a.tsv:9" in note
    assert "Use a model trained on this language" in note
    notes = adapted_pairs(load_pairs(sentences(40)), tfft.load_backbone(t5)).notes
    assert not [note for note in notes if "unknown" in note]


def test_a_pair_of_thousands_of_tokens_and_a_target_beyond_the_positions(t5, tmp_path):
    sources, targets = sentences(60)
    sources[4], targets[11] = " ".join(["dog"] * 10_000), " ".join(["hund"] * 600)
    splits = load_pairs(write(tmp_path / "a.tsv", sources, targets))
    found = adapted_pairs(splits, tfft.load_backbone(t5, max_length=512))
    said = "\n".join(map(str, found.splits.skipped))
    assert "a.tsv:6 has a source of" in said
    assert "a.tsv:13 has a target of" in said
    assert "and the model takes 512" in said
    with pytest.raises(DataError, match=r"\d+ of 48 pairs are longer.*a.tsv:2 has a .*pass a larger max_length="):
        adapted_pairs(splits, tfft.load_backbone(t5, max_length=4))
    with pytest.raises(BackboneError, match="max_length must be 4 to 512, as .* was trained. Received: 513"):
        tfft.load_backbone(t5, max_length=513)


def test_empty_targets_are_counted_with_their_lines(tmp_path):
    sources, targets = sentences(60)
    targets[2] = ""
    found = load_pairs(write(tmp_path / "a.tsv", sources, targets))
    assert "a.tsv:4 has an empty side (de)" in "\n".join(map(str, found.skipped))
    with pytest.raises(DataError, match=r"(?s)60 pairs of .*a.tsv cannot be used|a.tsv has no pair with two texts"):
        load_pairs(write(tmp_path / "b.tsv", sources, [""] * 60).rename(tmp_path / "a.tsv"))


def test_a_text_in_another_encoding_is_read_or_its_line_is_named(tmp_path, capsys):
    sources, targets = sentences(40)
    rows = "".join(f"{source}\t{target} für Öl\n" for source, target in zip(sources, targets, strict=True))
    (tmp_path / "a.tsv").write_bytes(f"en\tde\n{rows}".encode("cp1252"))
    assert all("für Öl" in text for text in load_pairs(tmp_path / "a.tsv").train.labels)
    assert "is read with the encoding cp1252" in capsys.readouterr().err
    with pytest.raises(DataError, match="a.tsv.*utf-8.*encoding="):
        load_pairs(tmp_path / "a.tsv", encoding="utf-8")


@pytest.mark.slow
def test_a_vocabulary_that_does_not_fit_the_weights_of_a_bart(tmp_path):
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted({letter for word in WORDS for letter in word})]
    network = keras_hub.models.BartBackbone(
        vocabulary_size=len(pieces) - 3, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=8,
        max_sequence_length=16,
    )  # fmt: skip
    network.save_to_preset(str(tmp_path))
    vocabulary = {piece: at for at, piece in enumerate([*pieces, "on"])}
    keras_hub.models.BartTokenizer(vocabulary=vocabulary, merges=["o n"]).save_to_preset(str(tmp_path))
    with pytest.raises(
        BackboneError, match="tokens, but the weights have .*: it belongs to another model. Take the voc"
    ):
        tfft.load_backbone(f"keras_hub:{tmp_path}")
