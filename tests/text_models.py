"""Tiny text models, made as others make theirs: a Hugging Face folder of BERT with a vocabulary of a few words."""

from __future__ import annotations

import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] good bad film the a is was not very ##ly ##s fine poor great awful one two . , ! "
    "cafe zurich 你 好 x ##x story plot actor"
).split()


def tiny_bert_folder(
    path: pathlib.Path, words: list[str] | None = None, *, width: int = 16, layers: int = 2, longest: int = 32
) -> pathlib.Path:
    """Writes config, weights, vocabulary and tokenizer settings of a small random BERT."""
    words = list(WORDS if words is None else words)
    path.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {}

    def dense(name: str, rows: int, columns: int) -> None:
        weights[f"{name}.weight"] = random.normal(0, 0.3, (rows, columns)).astype(np.float32)
        weights[f"{name}.bias"] = np.zeros(rows, np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ones(width, np.float32), np.zeros(width, np.float32)

    for name, rows in (("word", len(words)), ("position", longest), ("token_type", 2)):
        weights[f"embeddings.{name}_embeddings.weight"] = random.normal(0, 0.5, (rows, width)).astype(np.float32)
    norm("embeddings.LayerNorm")
    for i in range(layers):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            dense(f"{layer}.attention.self.{part}", width, width)
        dense(f"{layer}.attention.output.dense", width, width)
        norm(f"{layer}.attention.output.LayerNorm")
        dense(f"{layer}.intermediate.dense", 2 * width, width)
        dense(f"{layer}.output.dense", width, 2 * width)
        norm(f"{layer}.output.LayerNorm")
    dense("pooler.dense", width, width)
    save_file(weights, path / "model.safetensors")
    config = {
        "model_type": "bert", "architectures": ["BertModel"], "vocab_size": len(words), "hidden_size": width,
        "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 2 * width,
        "max_position_embeddings": longest, "type_vocab_size": 2,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "tokenizer_class": "BertTokenizer"}))
    (path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return path


def reviews(count: int = 60, seed: int = 0) -> tuple[list[str], list[str]]:
    """Sentences that are good or bad by one of their words."""
    random, texts, labels = np.random.default_rng(seed), [], []
    for i in range(count):
        words = list(random.choice(["the", "film", "is", "a", "story", "very", "plot", "was"], random.integers(2, 12)))
        label = ("bad", "good")[i % 2]
        word = random.choice({"good": ["good", "fine", "great"], "bad": ["bad", "poor", "awful"]}[label])
        words.insert(int(random.integers(0, len(words) + 1)), str(word))
        texts.append(f"{' '.join(words)} {'.!,'[i % 3]}")
        labels.append(label)
    return texts, labels
