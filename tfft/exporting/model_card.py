"""Model card of an export: inputs, outputs and origin."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import keras
import tensorflow as tf

from tfft.backbones.base import blocks_of, find_backbone
from tfft.errors import installed_version
from tfft.exporting.signatures import Serving


def model_card(model: keras.Model, serving: Serving, extra: Mapping[str, object] | None = None) -> str:
    """Format the card of a model as Markdown.

    Args:
        model: The Keras model.
        serving: Its functions.
        extra: Further facts, such as scores; nested mappings become nested lists.

    Returns:
        The text.
    """
    backbone = find_backbone(model)
    facts: dict[str, object] = {
        "Task": serving.task,
        "Backbone": backbone.name,
        "Blocks": len(blocks_of(model)),
        "Parameters": f"{model.count_params():,}",
        "Made on": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        **{name[:1].upper() + name[1:]: value for name, value in {**serving.facts, **(extra or {})}.items()},
    }
    parts = [f"# Model card: {model.name}", "\n".join(_bullets(facts)), "## Inputs and outputs"]
    parts.append("\n".join(f"- `{name}`: {text}" for name, text in describe_functions(serving).items()))
    if serving.serving_input is not None and serving.serving_input.card is not None:
        heading, sentence = serving.serving_input.card
        parts += [f"## {heading}", sentence]
    if serving.class_names:
        parts += ["## Classes", "\n".join(f"{i}. {name}" for i, name in enumerate(serving.class_names))]
    parts += [f"Note: {note}" for note in serving.notes]
    return "\n\n".join(parts) + "\n"


def describe_functions(serving: Serving) -> dict[str, str]:
    """Return one line for each signature: inputs and outputs with type and shape."""
    return {
        name: f"{_tensors(function.structured_input_signature[1])} -> {_tensors(function.structured_outputs)}"
        for name, function in serving.signatures.items()
    }


def versions() -> dict[str, str]:
    """Return the versions of tfft, TensorFlow and Keras that run now."""
    own = installed_version("tfft") or "unknown"  # run from a checkout that is not installed
    return {"tfft": own, "TensorFlow": tf.__version__, "Keras": keras.__version__}


def _tensors(tensors: Mapping[str, tf.Tensor]) -> str:
    return ", ".join(
        f"{name} {describe_tensor(tensor.dtype, tensor.shape)}" for name, tensor in sorted(tensors.items())
    )


def describe_tensor(dtype: tf.DType, shape: tf.TensorShape) -> str:
    """Return type and shape in words, such as ``"float32 [?, 3]"``."""
    return f"{dtype.name} {_shape(shape)}"


def _shape(shape: tf.TensorShape) -> str:
    return "any shape" if shape.rank is None else "[" + ", ".join("?" if n is None else str(n) for n in shape) + "]"


def _bullets(facts: Mapping[str, object], indent: str = "") -> list[str]:
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}- {name}:", *_bullets(value, indent + "  ")]
        else:
            values = value if isinstance(value, (list, tuple)) else [value]
            shown = [f"{one:.4f}" if isinstance(one, float) else str(one) for one in values]
            lines.append(f"{indent}- {name}: {', '.join(shown)}")
    return lines
