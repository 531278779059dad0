"""Hugging Face folders of T5 as encoder-decoders: :func:`from_t5_folder`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfft.backbones.base import Backbone
from tfft.backbones.huggingface import read_json
from tfft.errors import BackboneError, HandleError, join_names, raise_problems
from tfft.layers.pair_tokenizer import NETWORK_INPUTS, PairTokenizer
from tfft.layers.t5_blocks import T5Decoder, T5Embeddings, T5Encoder
from tfft.layers.transformer_blocks import TiedLogits
from tfft.specs import TextSpec

MODEL_TYPES = ("t5", "mt5")
VOCABULARY = "spiece.model"

_USUAL, _POSITIONS = 128, 512  # tokens of a text unless max_length says otherwise; tokens that T5 was trained on
_LEAST = 4
_FORWARD = {"relu": ("relu", False), "gated-gelu": ("gelu", True)}
_SIZES = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
_SHARED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # the same matrix under other names


def is_t5_folder(folder: Path) -> bool:
    """Whether a folder holds a T5 in the layout of Hugging Face."""
    return folder.is_dir() and read_json(folder / "config.json").get("model_type") in MODEL_TYPES


def from_t5_folder(
    folder: Path, *, max_length: int | None = None, dropout: bool = False, name: str | None = None
) -> Backbone:
    """Open a T5 of Hugging Face, of version 1.0 (ReLU, tied embeddings) or 1.1 (gated GELU, an output matrix).

    Its blocks are ``embeddings``, ``encoder1``, …, ``decoder1``, … The position biases, which all blocks of a stack
    share, belong to ``embeddings``.

    Args:
        folder: With ``config.json``, ``.safetensors`` files and ``spiece.model``.
        max_length: Most tokens of each text, at most what ``n_positions`` says. Defaults to 128.
        dropout: Whether the model keeps its own dropout in training.
        name: Name of the backbone. Defaults to that of the folder.

    Raises:
        HandleError: If files are missing, or the weights do not fit the settings; the message names all of them.
        BackboneError: For a vocabulary of another model, or a length out of range.
        DependencyError: If KerasHub is missing.
    """
    config = _config(folder)
    tensors = _tensors(folder)
    limit = int(config.get("n_positions") or _POSITIONS)
    length = min(_USUAL, limit) if max_length is None else max_length
    if not _LEAST <= length <= limit:
        raise BackboneError(f"max_length must be {_LEAST} to {limit}, as {folder} was trained. Received: {max_length}.")
    _check_sizes(config, tensors, folder)
    network = _network(config, dropout)
    _load(network, tensors, folder)
    tokenizer = _tokenizer(folder, config)
    start, end = int(config.get("decoder_start_token_id") or 0), int(config.get("eos_token_id", 1))
    pairs = PairTokenizer(
        tokenizer, start=(start,), end=end, source_end=(end,), source_length=length, target_length=length,
        name="tokens",
    )  # fmt: skip
    note = f"At most {length} tokens of a source and of a target are used; the model takes up to {limit}."
    spec = TextSpec(limit, "none", "as an encoder-decoder")
    return Backbone(
        name or folder.name, network, str(folder), None, (note,), text_spec=spec, pair_tokenizer=pairs
    )  # fmt: skip


def _config(folder: Path) -> dict[str, Any]:
    """Return the settings of a T5, checked."""
    config = read_json(folder / "config.json")
    problems = [
        f"{name} is {config.get(name)!r}, expected an integer above 0"
        for name in _SIZES
        if isinstance(config.get(name), bool) or not isinstance(config.get(name), int) or config[name] < 1
    ]
    kind = config.get("feed_forward_proj", "relu")
    if kind not in _FORWARD:
        problems.append(f"feed_forward_proj is {kind!r}, expected {join_names(_FORWARD)}")
    if not (folder / VOCABULARY).is_file():
        problems.append(f"{VOCABULARY}, the vocabulary, is missing: it is in the folder that was published")
    raise_problems(HandleError, f"{folder} cannot be opened as a T5", problems)
    return {"num_decoder_layers": config["num_layers"], "feed_forward_proj": kind, **config}


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise HandleError(
            f"{folder} has no .safetensors file. Received: {join_names(sorted(p.name for p in folder.iterdir()))}. "
            "Save the model with model.save_pretrained(folder, safe_serialization=True)."
        )
    found: dict[str, np.ndarray] = {}
    for file in files:
        try:
            loaded = importlib.import_module("safetensors.numpy").load_file(file)
        except Exception as error:  # its own classes, OSError, ValueError; numpy knows no bfloat16
            raise HandleError(f"{file} cannot be read: {error}. Expected weights in float32 or float16.") from error
        found |= {name: np.asarray(value, np.float32) for name, value in loaded.items()}
    return found


def _check_sizes(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], folder: Path) -> None:
    """Refuse settings that claim another network than the weights are, before it is built.

    Raises:
        HandleError: With all settings at fault.
    """
    width, inner, heads = config["d_model"], config["d_ff"], config["num_heads"]
    first = "encoder.block.0.layer"
    shapes = {
        "vocab_size and d_model": ("shared.weight", (config["vocab_size"], width)),
        "num_heads, d_kv and d_model": (f"{first}.0.SelfAttention.q.weight", (heads * config["d_kv"], width)),
        "d_model and d_ff": (f"{first}.1.DenseReluDense.wo.weight", (width, inner)),
        "relative_attention_num_buckets and num_heads": (
            f"{first}.0.SelfAttention.relative_attention_bias.weight",
            (config.get("relative_attention_num_buckets", 32), heads),
        ),
    }
    problems = [
        f"{names} say that {tensor} has the shape {shape}, and it has {tensors[tensor].shape}"
        for names, (tensor, shape) in shapes.items()
        if tensor in tensors and tensors[tensor].shape != shape
    ]
    for setting, stack in (("num_layers", "encoder"), ("num_decoder_layers", "decoder")):
        begins = f"{stack}.block."
        blocks = {name.removeprefix(begins).split(".")[0] for name in tensors if name.startswith(begins)}
        if len(blocks) != config[setting]:
            problems.append(f"{setting} is {config[setting]!r}, and the weights are those of {len(blocks)} blocks")
    raise_problems(HandleError, f"{folder / 'config.json'} does not fit the weights beside it", problems)


def _network(config: Mapping[str, Any], dropout: bool) -> keras.Model:
    """Return a chain of blocks from the tokens of source and target to logits [B, T, V]."""
    rate = float(config.get("dropout_rate", 0.1)) if dropout else 0.0
    activation, gated = _FORWARD[config["feed_forward_proj"]]
    inputs = {n: keras.Input((None,), dtype="int32", name=n) for n in NETWORK_INPUTS}
    state = T5Embeddings(
        config["vocab_size"], config["d_model"], config["num_heads"],
        int(config.get("relative_attention_num_buckets", 32)), bool(config.get("tie_word_embeddings", True)), rate,
        name="embeddings",
    )(*inputs.values())  # fmt: skip
    for kind, stem, count in (
        (T5Encoder, "encoder", config["num_layers"]), (T5Decoder, "decoder", config["num_decoder_layers"])
    ):  # fmt: skip
        for number in range(1, count + 1):
            state = kind(
                config["d_model"], config["num_heads"], config["d_kv"], config["d_ff"], activation, gated, rate,
                float(config.get("layer_norm_epsilon", 1e-6)), int(config.get("relative_attention_max_distance", 128)),
                number == count, name=f"{stem}{number}",
            )(*state)  # fmt: skip
    return keras.Model(inputs, TiedLogits(name="logits_of_matrix")(*state[:4]), name="t5")


def _targets(network: keras.Model) -> dict[str, tuple[keras.Variable, bool]]:
    """Return the variable for each tensor of Hugging Face, and whether its axes are swapped."""
    shared = network.get_layer("embeddings")
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    found = {
        "shared.weight": (shared.embeddings, False),
        f"encoder.{bias}": (shared.encoder_bias, False),
        f"decoder.{bias}": (shared.decoder_bias, False),
    }
    if shared.output_matrix is not None:
        found["lm_head.weight"] = (shared.output_matrix, False)
    for layer in network.layers:
        if not isinstance(layer, (T5Encoder, T5Decoder)):
            continue
        stack = "decoder" if isinstance(layer, T5Decoder) else "encoder"
        at = f"{stack}.block.{int(layer.name.removeprefix(stack)) - 1}.layer"
        dense = {f"{at}.0.SelfAttention.{n}": part for n, part in zip("qkvo", _own(layer), strict=True)}
        norms = {f"{at}.0": layer.norm_self}
        number = 1
        if isinstance(layer, T5Decoder):
            cross = (layer.ask, layer.answer_key, layer.answer_value, layer.mix_cross)
            dense |= {f"{at}.1.EncDecAttention.{n}": part for n, part in zip("qkvo", cross, strict=True)}
            norms[f"{at}.1"] = layer.norm_cross
            number = 2
        wide = {"wi": layer.wide} if layer.gate is None else {"wi_0": layer.wide, "wi_1": layer.gate}
        dense |= {f"{at}.{number}.DenseReluDense.{n}": part for n, part in {**wide, "wo": layer.narrow}.items()}
        norms[f"{at}.{number}"] = layer.norm_forward
        found |= {f"{n}.weight": (part.kernel, True) for n, part in dense.items()}
        found |= {f"{n}.layer_norm.weight": (part.scale, False) for n, part in norms.items()}
        if layer.norm_last is not None:
            found[f"{stack}.final_layer_norm.weight"] = (layer.norm_last.scale, False)
    return found


def _own(layer: Any) -> tuple[Any, ...]:
    return layer.query, layer.key, layer.value, layer.mix


def _load(network: keras.Model, tensors: dict[str, np.ndarray], folder: Path) -> None:
    """Assign the weights; report all tensors that are missing, left over, or of another shape."""
    targets, problems = _targets(network), []
    for name, (variable, swapped) in targets.items():
        value = tensors.get(name)
        if value is None and name == "shared.weight":
            value = next((tensors[other] for other in _SHARED if other in tensors), None)
        if value is None:
            problems.append(f"{name} is missing")
            continue
        value = value.T if swapped else value
        if value.shape != tuple(variable.shape):
            expected = tuple(variable.shape)[::-1] if swapped else tuple(variable.shape)
            problems.append(f"{name} has the shape {value.T.shape if swapped else value.shape}, expected {expected}")
            continue
        variable.assign(value)
    unused = set(tensors) - set(targets) - {*_SHARED, "lm_head.weight"}
    problems += [f"{name} is unexpected" for name in sorted(unused)]
    raise_problems(HandleError, f"The weights in {folder} do not fit its config.json", problems, limit=8)


def _tokenizer(folder: Path, config: Mapping[str, Any]) -> keras.layers.Layer:
    hub = importlib.import_module("keras_hub")
    try:
        tokenizer = hub.models.T5Tokenizer(proto=(folder / VOCABULARY).read_bytes())
        count = tokenizer.vocabulary_size()
    except Exception as error:  # TensorFlow and KerasHub raise their own
        said = (str(error).strip() or repr(error)).splitlines()[0]
        raise HandleError(
            f"{folder / VOCABULARY} is not a T5 vocabulary: {said}. Expected a SentencePiece model with the tokens "
            "'<pad>' and '</s>'."
        ) from error
    if count > config["vocab_size"]:
        raise BackboneError(
            f"The vocabulary of {folder} has {count:,} tokens, but the weights have {config['vocab_size']:,}: it "
            "belongs to another model. Take the vocabulary that came with the weights."
        )
    return tokenizer
