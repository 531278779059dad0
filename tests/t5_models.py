"""T5 for tests: a tiny folder in the layout of Hugging Face, and the model as loops over positions in numpy."""

from __future__ import annotations

import io
import json
import math
import pathlib

import numpy as np
from safetensors.numpy import save_file

WIDTH, HEADS, HEAD_WIDTH, INNER, ENCODERS, DECODERS = 16, 3, 6, 24, 3, 2  # heads * head width is not the width


def vocabulary(texts, size=60) -> bytes:
    """A SentencePiece vocabulary with the tokens of T5: <pad> 0, </s> 1, <unk> 2, and no start."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=written, vocab_size=size, hard_vocab_limit=False, pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return written.getvalue()


def tensors_of(gated: bool, tied: bool, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under the names of Hugging Face."""
    random, own = np.random.default_rng(seed), HEADS * HEAD_WIDTH

    def draw(*shape, scale=0.3):
        return random.normal(0, scale, shape).astype(np.float32)

    found = {"shared.weight": draw(rows, WIDTH, scale=1.0)}
    if not tied:
        found["lm_head.weight"] = draw(rows, WIDTH)
    for stack, blocks in (("encoder", ENCODERS), ("decoder", DECODERS)):
        found[f"{stack}.embed_tokens.weight"] = found["shared.weight"].copy()
        found[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = draw(32, HEADS, scale=1.0)
        found[f"{stack}.final_layer_norm.weight"] = 1 + draw(WIDTH)
        for block in range(blocks):
            parts = ["SelfAttention", "EncDecAttention"] if stack == "decoder" else ["SelfAttention"]
            for at, part in enumerate(parts):
                name = f"{stack}.block.{block}.layer.{at}"
                found |= {f"{name}.{part}.{one}.weight": draw(own, WIDTH) for one in "qkv"}
                found[f"{name}.{part}.o.weight"] = draw(WIDTH, own)
                found[f"{name}.layer_norm.weight"] = 1 + draw(WIDTH)
            name = f"{stack}.block.{block}.layer.{len(parts)}"
            for wide in ("wi_0", "wi_1") if gated else ("wi",):
                found[f"{name}.DenseReluDense.{wide}.weight"] = draw(INNER, WIDTH)
            found[f"{name}.DenseReluDense.wo.weight"] = draw(WIDTH, INNER)
            found[f"{name}.layer_norm.weight"] = 1 + draw(WIDTH)
    return found


def write_folder(path: pathlib.Path, texts, *, gated: bool, tied: bool) -> dict[str, np.ndarray]:
    """Write a folder and return its tensors."""
    import sentencepiece

    path.mkdir()
    proto = vocabulary(texts)
    (path / "spiece.model").write_bytes(proto)
    rows = sentencepiece.SentencePieceProcessor(model_proto=proto).get_piece_size() + 4  # as T5 has spare rows
    tensors = tensors_of(gated, tied, rows)
    save_file(tensors, path / "model.safetensors")
    config = {
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": rows, "d_model": WIDTH,
        "d_kv": HEAD_WIDTH, "d_ff": INNER, "num_heads": HEADS, "num_layers": ENCODERS, "num_decoder_layers": DECODERS,
        "relative_attention_num_buckets": 32, "feed_forward_proj": "gated-gelu" if gated else "relu",
        "tie_word_embeddings": tied, "layer_norm_epsilon": 1e-6, "dropout_rate": 0.1, "decoder_start_token_id": 0,
        "eos_token_id": 1, "pad_token_id": 0, "n_positions": 512,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    return tensors


def bucket(relative: int, two_sided: bool, buckets: int = 32, distance: int = 128) -> int:
    """The bucket of one relative position (key minus query), as the paper's code has it."""
    found = 0
    if two_sided:
        buckets //= 2
        if relative > 0:
            found += buckets
        relative = abs(relative)
    else:
        relative = max(-relative, 0)
    exact = buckets // 2
    if relative < exact:
        return found + relative
    ranged = exact + int(math.log(relative / exact) / math.log(distance / exact) * (buckets - exact) + 1e-9)
    return found + min(ranged, buckets - 1)


def logits_of(tensors, gated, tied, source, target) -> np.ndarray:
    """Logits [T, V] for one pair of token lists, in float64."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}layer_norm.weight"]

    def attention(name, x, y, stack=None, causal=False):
        q, k, v = x @ w[f"{name}.q.weight"].T, y @ w[f"{name}.k.weight"].T, y @ w[f"{name}.v.weight"].T
        table = None if stack is None else w[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        heads = []
        for head in range(HEADS):
            own = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
            scores = q[:, own] @ k[:, own].T
            if table is not None:
                places = [[bucket(j - i, stack == "encoder") for j in range(len(y))] for i in range(len(x))]
                scores += table[np.array(places), head]
            if causal:
                scores[np.triu_indices(len(x), 1)] = -np.inf
            e = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(e / e.sum(-1, keepdims=True) @ v[:, own])
        return np.concatenate(heads, -1) @ w[f"{name}.o.weight"].T

    def forward(name, x):
        if not gated:
            return np.maximum(x @ w[f"{name}.wi.weight"].T, 0) @ w[f"{name}.wo.weight"].T
        a = x @ w[f"{name}.wi_0.weight"].T
        gelu = 0.5 * a * (1 + np.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3)))
        return (gelu * (x @ w[f"{name}.wi_1.weight"].T)) @ w[f"{name}.wo.weight"].T

    x = w["shared.weight"][source]
    for at in range(ENCODERS):
        name = f"encoder.block.{at}.layer"
        normal = norm(x, f"{name}.0.")
        x = x + attention(f"{name}.0.SelfAttention", normal, normal, "encoder")
        x = x + forward(f"{name}.1.DenseReluDense", norm(x, f"{name}.1."))
    memory = norm(x, "encoder.final_")
    y = w["shared.weight"][target]
    for at in range(DECODERS):
        name = f"decoder.block.{at}.layer"
        normal = norm(y, f"{name}.0.")
        y = y + attention(f"{name}.0.SelfAttention", normal, normal, "decoder", causal=True)
        y = y + attention(f"{name}.1.EncDecAttention", norm(y, f"{name}.1."), memory)
        y = y + forward(f"{name}.2.DenseReluDense", norm(y, f"{name}.2."))
    y = norm(y, "decoder.final_")
    return y @ w["shared.weight"].T / math.sqrt(WIDTH) if tied else y @ w["lm_head.weight"].T
