"""Language models: windows, perplexity, what trains, what is written."""

import json
import math
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from test_text_presets import byte_pairs

import tfft
from tfft import cli
from tfft.errors import BackboneError, DataError, ExportError, PlanError
from tfft.keras_compat import flatten_layers
from tfft.layers.lora import pairs_of
from tfft.tasks import causal_lm
from tfft.tasks.causal_lm.data import tokens_of

pytestmark = pytest.mark.text
slow_fixtures = ("preset",)


def pattern(count=40, seed=0):
    """Each line counts up the letters from one of four starts."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, 4, count)
    return ["".join(chr(97 + (s * 6 + i) % 24) for i in range(int(random.integers(8, 20)))) for s in starts]


def byte_tokenizer():
    """As GPT-2's: the mark of start and end is the last piece, not the first, which fills what is empty."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2's names of bytes: others are moved upwards
    letters = [chr(code) for code in shown] + [chr(256 + place) for place in range(256 - len(shown))]
    merges = byte_pairs()["merges"]
    pieces = [*letters, *(pair.replace(" ", "") for pair in merges), "<|endoftext|>"]
    return keras_hub.models.GPT2Tokenizer({piece: number for number, piece in enumerate(pieces)}, merges)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A tiny GPT-2 that has learned to count downwards: low-rank updates need something to update."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("gpt2") / "preset"
    tokenizer = byte_tokenizer()
    backbone = keras_hub.models.GPT2Backbone(
        tokenizer.vocabulary_size(), num_layers=2, num_heads=2, hidden_dim=32, intermediate_dim=64,
        max_sequence_length=32, dropout=0.0,
    )  # fmt: skip
    untrained, counting = folder.with_name("untrained"), [text[::-1] for text in pattern(60, seed=1)]
    for part in (backbone, tokenizer):
        part.save_to_preset(str(untrained))
    learned = causal_lm.finetune(
        untrained, counting, lora_rank=0, epochs=30, learning_rate=1e-2, max_length=24, verbose=False
    ).model  # fmt: skip
    for part in (learned.backbone, tokenizer):
        part.save_to_preset(str(folder))
    return folder


@pytest.fixture(scope="module")
def run(preset, tmp_path_factory):
    out = tmp_path_factory.mktemp("language") / "run"
    return causal_lm.finetune(
        preset, pattern(), out=out, lora_rank=8, epochs=30, learning_rate=1e-2, max_length=24, verbose=False
    )


def test_windows_hold_everything_once_and_nothing_is_predicted_across_documents():
    tokenizer = byte_tokenizer()
    texts = ["the quick", "a", "", "brown fox"]
    pieces = [tokens_of(text, tokenizer) for text in texts]
    stream = np.concatenate(pieces)
    batches = list(causal_lm.windows(texts, tokenizer, 8, batch_size=2).as_numpy_iterator())
    inputs, following, weights = (np.concatenate([b[i] if i else b[0]["token_ids"] for b in batches]) for i in range(3))
    present = np.concatenate([b[0]["padding_mask"] for b in batches]).astype(bool)
    np.testing.assert_array_equal(inputs[present], stream[:-1])
    np.testing.assert_array_equal(following[present], stream[1:])
    assert not weights[~present].any()
    assert present[:-1].all()  # only the last window has padding
    starts = np.cumsum([len(one) for one in pieces])[:-1]
    np.testing.assert_array_equal(np.flatnonzero(weights[present] == 0), starts - 1)
    assert weights.sum() == sum(len(one) - 1 for one in pieces)
    shuffled = causal_lm.windows(texts, tokenizer, 8, shuffle=True, seed=1)
    first, second = ([b[0]["token_ids"].tolist() for b in shuffled.as_numpy_iterator()] for _ in range(2))
    assert first != second
    again = causal_lm.windows(texts, tokenizer, 8, shuffle=True, seed=1)
    assert [b[0]["token_ids"].tolist() for b in again.as_numpy_iterator()] == first


def test_perplexity_is_that_of_the_logits(preset):
    model = causal_lm.causal_lm(preset, max_length=16)
    texts = ["abc", "the quick brown fox and then some more of the same kind", ""]
    found = causal_lm.perplexity(model, texts, batch_size=2)
    losses, count = [], 0
    for text in texts:
        cut = tokens_of(text, model.preprocessor.tokenizer)
        for start in range(0, len(cut) - 1, 16):
            part = cut[start : start + 17]
            ids = part[None, :-1]
            logits = np.array(model({"token_ids": ids, "padding_mask": np.ones_like(ids)}))[0]
            logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
            losses.append(-logits[np.arange(len(part) - 1), part[1:]].sum())
            count += len(part) - 1
    assert found.value == pytest.approx(math.exp(sum(losses) / count), rel=1e-4)
    assert (found.pieces, found.documents) == (count, 3)
    assert found.interval[0] < found.value < found.interval[1]


def test_the_pattern_is_learned_by_the_updates_alone(run, preset):
    assert run.after.value < 0.5 * run.unigram.value
    assert run.after.value < run.before.value
    original = causal_lm.causal_lm(preset, lora_rank=0)
    changed = {
        new.path
        for old, new in zip(original.variables, run.model.variables, strict=True)
        if not np.array_equal(old.numpy(), new.numpy())
    }
    assert changed
    assert all("kernel" in path for path in changed)
    assert not [path for path in changed if "embedding" in path]
    assert not [pair for layer in flatten_layers(run.model) for pair in pairs_of(layer)]
    run.model.compile(sampler="greedy")
    assert run.model.generate("abcde", max_length=12).startswith("abcdefgh")


def test_only_updates_train(preset):
    model = causal_lm.causal_lm(preset, lora_rank=4)
    assert {v.path.rsplit("lora_", 1)[-1] for v in model.trainable_variables} == {"a", "b"}


@pytest.mark.nightly
@pytest.mark.process
def test_a_run_is_read_again_in_another_process(run):
    folder = run.folder
    assert {p.name for p in folder.iterdir()} == {"model.keras", "metrics.json", "settings.json", "history.csv"}
    assert json.loads((folder / "metrics.json").read_text())["after"]["value"] == run.after.value
    script = """
import sys, keras_hub
from tfft.tasks import causal_lm
model = causal_lm.load(sys.argv[1])
model.compile(sampler="greedy")
print(causal_lm.perplexity(model, sys.argv[2:]).value)
print(model.generate("abcde", max_length=16))
"""
    texts = pattern(4, seed=3)
    run.model.compile(sampler="greedy")
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), *texts], check=True, capture_output=True, text=True
    )
    value, *text = done.stdout.splitlines()
    assert float(value) == pytest.approx(causal_lm.perplexity(run.model, texts).value, rel=1e-5)
    assert "\n".join(text) == run.model.generate("abcde", max_length=16)


@pytest.mark.nightly
def test_an_export_writes_as_the_model_does(run, tmp_path):
    before = run.model.sampler
    exported = causal_lm.export(run.model, tmp_path / "served", max_length=16, examples=["abc", "ghijkl"])
    assert exported.path == tmp_path / "served" / "1"
    assert run.model.sampler is before
    served = tfft.exporting.open_export(exported.path)
    found = served.signatures["serving_default"](text=tf.constant(["abcde", "b", ""]))["generated_text"].numpy()
    assert found[0].decode().startswith("abcdefgh")
    run.model.compile(sampler="greedy")
    assert [one.decode() for one in found] == run.model.generate(["abcde", "b", ""], max_length=16)
    assert "causal language model" in (exported.path / "assets" / "model_card.md").read_text()
    with pytest.raises(ExportError, match="Version 1 already exists"):
        causal_lm.export(run.model, exported.path)
    with pytest.raises(ExportError, match="max_length must be 2 to 24"):
        causal_lm.export(run.model, tmp_path / "other", max_length=400)


@pytest.mark.nightly
def test_the_command_line_trains_writes_and_exports(preset, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("\n\n".join(pattern(12)))
    out, served = str(tmp_path / "run"), str(tmp_path / "served")
    command = ["language", str(tmp_path / "lines.txt"), "--backbone", str(preset), "--out", out, "--epochs", "1"]
    assert cli.main([*command, "--max-length", "16", "--export", served]) == 0
    shown = capsys.readouterr().out
    assert "held-out perplexity" in shown
    assert f"Exported to {served}/1" in shown
    assert cli.main(["predict", out, "--text", "abc", "--text", "xyz", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["predictions"]
    assert [row["text"] for row in rows] == ["abc", "xyz"]
    assert all(row["generated_text"].startswith(row["text"]) for row in rows)
    assert cli.main(command) == 2
    assert "is not empty" in capsys.readouterr().err


def test_documents_come_from_files_folders_and_lists(tmp_path):
    (tmp_path / "poems.txt").write_text("one\nline two\n\n\nthree \n  \nfour")
    assert causal_lm.read_documents(tmp_path / "poems.txt") == ["one\nline two", "three ", "four"]
    (tmp_path / "many").mkdir()
    for name in ("b", "a"):
        (tmp_path / "many" / f"{name}.txt").write_text(f"{name}\n\nstill {name}\n")
    assert causal_lm.read_documents(tmp_path / "many") == ["a\n\nstill a", "b\n\nstill b"]
    (tmp_path / "bad.txt").write_bytes(b"fine\nnot caf\xe9\n")
    with pytest.raises(DataError, match=r"bad.txt:2 is not UTF-8: byte 7 of the line is 0xe9"):
        causal_lm.read_documents(tmp_path / "bad.txt")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(DataError, match="Found 0 documents. Expected two or more"):
        causal_lm.read_documents(tmp_path / "empty.txt")
    with pytest.raises(DataError, match="does not exist"):
        causal_lm.read_documents(tmp_path / "gone.txt")
    with pytest.raises(DataError, match="Documents must be texts, received 3"):
        causal_lm.read_documents(["a", 3])


def test_what_cannot_be_used_is_said(preset, tmp_path):
    with pytest.raises(BackboneError, match="max_length must be 4 to 32"):
        causal_lm.causal_lm(preset, max_length=33)
    tokenizer = keras_hub.models.BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"], lowercase=True)
    encoder = keras_hub.models.BertBackbone(6, 1, 1, 4, 8, max_sequence_length=8)
    for part in (encoder, tokenizer):
        part.save_to_preset(str(tmp_path / "bert"))
    with pytest.raises(BackboneError, match="is a BertBackbone, which cannot be used as a language model"):
        causal_lm.causal_lm(tmp_path / "bert")
    with pytest.raises(PlanError, match=r"(?s)epochs must be an integer.*learning_rate.*validation must be a share"):
        causal_lm.finetune(preset, ["a", "b"], epochs=0, learning_rate=-1.0, validation=2.0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(PlanError, match="is not empty"):
        causal_lm.finetune(preset, ["a", "b"], out=tmp_path / "full")
    with pytest.raises(DataError, match="All documents are equal"):
        causal_lm.finetune(preset, ["a", "a"], verbose=False)
    with pytest.raises(DataError, match=r"holds no model.keras"):
        causal_lm.load(tmp_path)
