"""Text backbones through KerasHub: Hugging Face folders and KerasHub presets, read without PyTorch.

Hides which tokenizer and which packing of tokens a family needs, and where a folder says how its features are pooled.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfft.backbones.base import Backbone
from tfft.backbones.huggingface import check_sizes, read_json, with_vocabulary
from tfft.backbones.keras_hub_pairs import check_bart, from_bart, is_encoder_decoder
from tfft.backbones.keras_hub_preset import read_tokenizer
from tfft.backbones.keras_hub_speech import from_moonshine, is_moonshine
from tfft.backbones.load_options import TokenPooling
from tfft.backbones.t5_folder import from_t5_folder, is_t5_folder
from tfft.errors import BackboneError, HandleError, join_names, missing_package, raise_problems
from tfft.layers.relative_positions import rebuildable
from tfft.layers.start_end_packer import StartEndPieces
from tfft.layers.tokenize import Tokenize
from tfft.specs import Pooling, TextSpec

INSTALL = 'pip install "tfft[text]"'
# What pooling= takes, and what tfft then does itself.
POOLINGS: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "last": "last", "pooled_output": "none"}

_USUAL = (
    128  # tokens that are read unless max_length says otherwise: most sentences, at a quarter of BERT's cost for 512
)
_LEAST = 3
_ADDED = (".token_type_embeddings.weight", ".position_embeddings.weight")
# What a sentence-transformers folder says, and how tfft calls it.
_SAID: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}


def from_preset(
    preset: str,
    *,
    max_length: int | None = None,
    pooling: TokenPooling | None = None,
    dropout: bool = False,
    name: str | None = None,
) -> Backbone:
    """Open a text model that KerasHub reads: encoders such as BERT, decoders such as GPT-2.

    Args:
        preset: Folder with ``config.json``, ``model.safetensors`` and a vocabulary, as Hugging Face has them; or what
            ``keras_hub.models.Backbone.from_preset`` takes.
        max_length: Maximum number of tokens of a text; 128 by default, or what the model takes if that is less.
        pooling: ``"cls"``, ``"mean"``, ``"last"`` or ``"pooled_output"``; by default what the folder says, else the
            mean for encoders and the last token for decoders.
        dropout: True keeps the model's own dropout in training.
        name: Name of the backbone.

    Returns:
        A backbone from the ids of tokens to their features [B, L, D], with its tokenizer.

    Raises:
        DependencyError: When KerasHub or what it needs is not installed.
        HandleError: When KerasHub cannot read the preset.
        BackboneError: When the vocabulary does not fit, or an argument is out of range.
    """
    hub = _keras_hub(preset)
    how = {} if dropout else {"dropout": 0.0}
    check_sizes(Path(preset))
    if is_t5_folder(Path(preset)):
        return from_t5_folder(Path(preset), max_length=max_length, dropout=dropout, name=name)
    check_bart(Path(preset))
    network = _read(preset, "weights", hub.models.Backbone.from_preset, preset, **how)
    _add_token_types(Path(preset), network)
    if is_encoder_decoder(network):
        with with_vocabulary(preset) as place:
            tokenizer = _read(preset, "vocabulary", functools.partial(read_tokenizer, hub), place)
        origin = preset if Path(preset).is_dir() else f"keras_hub:{preset}"
        opened = from_moonshine if is_moonshine(network) else from_bart
        return opened(network, tokenizer, name or Path(preset).name.replace(":", "_"), origin, max_length)
    limit = int(getattr(network, "max_sequence_length", None) or 512)
    decoder = not any("segment" in t.name for t in network.inputs) and _is_causal(network)
    length = min(_USUAL, limit) if max_length is None else max_length
    problems = (
        [] if pooling in (None, *POOLINGS) else [f"pooling must be one of {join_names(POOLINGS)}, received {pooling!r}"]
    )
    if isinstance(length, bool) or not isinstance(length, int) or not _LEAST <= length <= limit:
        problems.append(f"max_length must be {_LEAST} to {limit} for this model. Received: {max_length!r}")
    raise_problems(BackboneError, f"{preset} cannot be opened", problems)
    spec = _spec(Path(preset), limit, pooling, decoder)
    with with_vocabulary(preset) as place:
        packer = _packer(hub, preset, place, length)
    notes = _fit_of_vocabulary(preset, network, packer)
    rebuildable(network)
    names = {t.name: t.name for t in network.inputs}
    tokenizer = Tokenize(packer, names, "padding_mask", length, name="tokens")
    model = keras.Model(network.input, _output(network, pooling), name=network.name)
    short = name or Path(preset).name.replace(":", "_")
    note = f"At most {length} tokens of a text are used; the model takes up to {limit}."
    note += f" Pooling: {spec.pooling}, {spec.source}."
    origin = preset if Path(preset).is_dir() else f"keras_hub:{preset}"
    return Backbone(short, model, origin, None, (note, *notes), tokenizer, spec)


def read_preset(preset: str, what: str, kind: str) -> Any:
    """Read a preset as a KerasHub task with its preprocessor.

    Args:
        preset: Folder or name.
        what: It is, for messages.
        kind: Name of the task's class in ``keras_hub.models``, such as ``"CausalLM"``.

    Raises:
        DependencyError: When KerasHub or what it needs is not installed.
        BackboneError: When the preset is of a family without such a task.
        HandleError: When KerasHub cannot read it.
    """
    hub = _keras_hub(preset)
    task = getattr(hub.models, kind)
    try:
        with with_vocabulary(preset) as place:
            return task.from_preset(place)
    except Exception as error:  # KerasHub, safetensors and Keras each raise their own
        network = _read(preset, "weights", hub.models.Backbone.from_preset, preset)
        fitting = [
            name for name, one in vars(hub.models).items()
            if isinstance(one, type) and issubclass(one, task) and getattr(one, "backbone_cls", None) is type(network)
        ]  # fmt: skip
        said = (str(error).strip() or repr(error)).splitlines()[0]
        if not fitting:
            raise BackboneError(
                f"{preset} is a {type(network).__name__}, which cannot be used as a {what}: expected a decoder, such "
                "as GPT-2, OPT, Gemma or Llama."
            ) from error
        raise HandleError(f"KerasHub cannot read {preset} as a {what}: {said}") from error


def _keras_hub(preset: str) -> Any:
    try:
        import safetensors  # noqa: F401  KerasHub reads it but does not install it
    except ImportError:
        missing_package("safetensors", f"The model {preset!r}", INSTALL)
    try:
        return importlib.import_module("keras_hub")
    except ImportError as error:
        package = error.name or "keras_hub"
        package = "keras-hub" if package.split(".")[0] == "keras_hub" else package
        missing_package(package, f"The text model {preset!r}", INSTALL)
    except Exception as error:  # tensorflow-text of another TensorFlow fails when it loads its operations
        import tensorflow as tf

        minor = ".".join(tf.__version__.split(".")[:2])
        raise HandleError(
            f"KerasHub cannot be imported: {str(error).splitlines()[0]}. If that is about tensorflow-text, it must be "
            f"of the same version as TensorFlow {tf.__version__}: pip install 'tensorflow-text=={minor}.*'"
        ) from error


def _read(preset: str, what: str, read: Any, place: str, **settings: Any) -> Any:
    try:
        return read(place, **settings)
    except Exception as error:  # KerasHub, safetensors and Keras each raise their own
        if settings and isinstance(error, TypeError):
            return _read(preset, what, read, place)  # a family without such a setting
        said = (str(error).strip() or repr(error)).splitlines()[0]
        held = ""
        if Path(preset).is_dir():
            held = (
                f" The folder holds {join_names(sorted(p.name for p in Path(preset).iterdir()), limit=12)}; expected "
            )
            held += "config.json, model.safetensors, tokenizer_config.json and the vocabulary."
        raise HandleError(f"KerasHub cannot read the {what} of {preset}: {said}.{held}") from error


def _add_token_types(folder: Path, network: keras.Model) -> None:
    """Add the embedding of the one token type that RoBERTa has to those of its positions.

    KerasHub leaves it out (for XLM-RoBERTa it does not). It is zero as Facebook published the models, and is not in
    what others trained from them.
    """
    if read_json(folder / "config.json").get("model_type") != "roberta":
        return
    held: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with importlib.import_module("safetensors").safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():
                if name.endswith(_ADDED):
                    held[name.rsplit(".", 2)[1]] = np.asarray(tensors.get_tensor(name), np.float32)
    if len(held) < 2:
        return
    types, known = held["token_type_embeddings"], held["position_embeddings"][2:]
    positions = network.embeddings.position_embedding.position_embeddings
    if len(types) == 1 and np.array_equal(known, positions):  # else somebody has added it already
        positions.assign_add(types[0])


def _packer(hub: Any, preset: str, place: str, length: int) -> keras.layers.Layer:
    settings = {}
    folder = Path(place)
    if (folder / "vocab.txt").is_file():
        config = read_json(folder / "tokenizer_config.json")
        strip = config.get("strip_accents")
        # Hugging Face strips accents from lower-case models by default; KerasHub does not read that setting.
        settings["strip_accents"] = bool(config.get("do_lower_case", True)) if strip is None else bool(strip)
        if config.get("tokenize_chinese_chars") is False:
            settings["split_on_cjk"] = False
    tokenizer = _read(preset, "vocabulary", hub.tokenizers.Tokenizer.from_preset, place, **settings)
    made = next(
        (
            kind
            for kind in vars(hub.models).values()
            if isinstance(kind, type)
            and issubclass(kind, hub.models.TextClassifierPreprocessor)
            and getattr(kind, "tokenizer_cls", None) is type(tokenizer)
        ),
        None,
    )
    return StartEndPieces(tokenizer, length) if made is None else made(tokenizer, sequence_length=length)


def _fit_of_vocabulary(preset: str, network: keras.Model, packer: Any) -> list[str]:
    tokens, rows = packer.tokenizer.vocabulary_size(), getattr(network, "vocabulary_size", None)
    if rows is None or tokens == rows:
        return []
    if tokens > rows:
        raise BackboneError(
            f"The vocabulary of {preset} has {tokens:,} tokens, but the weights have {rows:,}: it belongs to another "
            "model. Take the vocabulary that came with the weights."
        )
    return [f"The vocabulary has {tokens:,} tokens and the weights {rows:,} rows; the rest is unused."]


def _output(network: keras.Model, pooling: str | None) -> keras.KerasTensor:
    outputs = network.output
    if not isinstance(outputs, dict):
        if pooling == "pooled_output":
            raise BackboneError(f"{network.name} has no pooled output: choose another pooling, such as 'mean'.")
        return outputs
    key = "pooled_output" if pooling == "pooled_output" else "sequence_output"
    if key not in outputs:
        raise BackboneError(f"{network.name} has no output {key!r}; it has {join_names(outputs)}.")
    return outputs[key]


def _spec(folder: Path, limit: int, pooling: TokenPooling | None, decoder: bool) -> TextSpec:
    if pooling is not None:
        return TextSpec(limit, POOLINGS[pooling], "as asked for")
    said = folder / "1_Pooling" / "config.json"
    if said.is_file():
        config = read_json(said)
        found = next((how for key, how in _SAID.items() if config.get(key)), None)
        if found is not None:
            return TextSpec(limit, found, "as the folder specifies")
    if decoder:
        return TextSpec(limit, "last", "since each token of a decoder depends only on those before it")
    return TextSpec(limit, "mean", "since the first token of an encoder that was not tuned for it says little")


def _is_causal(network: keras.Model) -> bool:
    """Whether a later token has no influence on the features of an earlier one."""
    shapes = {t.name: np.ones((1, 4), "int32") for t in network.inputs}
    other = dict(shapes, token_ids=np.array([[1, 1, 1, 2]], "int32"))
    first, second = (keras.ops.convert_to_numpy(_features(network(x, training=False)))[0, 0] for x in (shapes, other))
    return bool(np.array_equal(first, second))


def _features(outputs: Any) -> Any:
    return outputs["sequence_output"] if isinstance(outputs, dict) else outputs
