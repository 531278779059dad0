"""Text backbones in SavedModels: encoders of TF Hub with their preprocessor, and models that take strings.

Hides which output of an encoder holds the features of all tokens, and how many tokens it can take.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tfft.backbones.base import Backbone
from tfft.backbones.load_options import TokenPooling
from tfft.backbones.savedmodel import open_preprocessor
from tfft.backbones.savedmodel.preprocessor import LENGTH
from tfft.errors import BackboneError, join_names
from tfft.layers.tokenize import Tokenize
from tfft.specs import Pooling, TextSpec

MASK = "input_mask"
_LIMIT = 512  # tokens, if there is no table of position embeddings to read it from
_POOLINGS: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "pooled_output": "none"}


def preferred_outputs(pooling: str | None) -> tuple[str, ...]:
    """Return the outputs of an encoder that hold what is pooled, the best first."""
    return ("pooled_output",) if pooling == "pooled_output" else ("sequence_output",)


def takes_strings(backbone: Backbone) -> bool:
    """Whether a model takes texts as they are: one input, [B] of strings."""
    inputs = backbone.model.inputs
    return len(inputs) == 1 and inputs[0].dtype == "string" and len(inputs[0].shape) == 1


def with_strings(backbone: Backbone) -> Backbone:
    """Return a model that takes texts as they are with its text specification."""
    spec = TextSpec(_LIMIT, "none", "as the model gives it")
    return dataclasses.replace(backbone, text_spec=spec)


def with_preprocessor(
    backbone: Backbone, folder: Path, *, max_length: int | None, pooling: TokenPooling | None, trust: bool
) -> Backbone:
    """Put a preprocessor in front of an encoder.

    Args:
        backbone: The encoder, from ids and mask [B, L] to the features of all tokens, or to one row for each text.
        folder: Folder of the preprocessor.
        max_length: Maximum number of tokens of a text; 128 by default.
        pooling: ``"cls"``, ``"mean"`` or ``"pooled_output"``; by default the mean of all tokens where the encoder
            gives them.
        trust: True loads the preprocessor in spite of what the scan found.

    Raises:
        BackboneError: When the encoder takes something else, or an argument does not fit.
    """
    inputs = {t.name: t for t in backbone.model.inputs}
    if MASK not in inputs:
        raise BackboneError(
            f"preprocessor= is for encoders with an input {MASK!r}; {backbone.name} takes {join_names(inputs)}."
        )
    spec = _text_spec(backbone, pooling)
    limit, fixed = spec.max_length, inputs[MASK].shape[1]
    length = fixed or max_length or min(LENGTH, limit)
    if length > limit or (fixed and max_length not in (None, fixed)):
        takes = f"exactly {fixed}" if fixed else f"at most {limit}"
        raise BackboneError(f"{backbone.name} takes {takes} tokens of a text, received max_length={max_length!r}.")
    asked = None if length == LENGTH else length
    packer = open_preprocessor(folder, list(inputs), max_length=asked, trust=trust)
    tokenizer = Tokenize(packer, {key: key for key in inputs}, MASK, length, fixed=bool(fixed), name="tokens")
    note = f"At most {length} tokens of a text are used; the model takes up to {limit}. "
    note += f"Pooling: {spec.pooling}, {spec.source}."
    return dataclasses.replace(backbone, tokenizer=tokenizer, text_spec=spec, notes=(*backbone.notes, note))


def _text_spec(backbone: Backbone, pooling: TokenPooling | None) -> TextSpec:
    """How the features of an encoder become one vector per text, and how many tokens it takes."""
    if pooling not in (None, *_POOLINGS):
        raise BackboneError(
            f"pooling must be one of {join_names(_POOLINGS)} for an encoder of TF Hub, received {pooling!r}."
        )
    limit, of_tokens = _limit(backbone), len(backbone.model.output.shape) == 3
    if pooling in ("cls", "mean") and not of_tokens:
        raise BackboneError(
            f"pooling={pooling!r} needs the features of all tokens, and {backbone.name} gives one vector per text. "
            "Choose the output that has them with output=, or leave pooling out."
        )
    if pooling == "pooled_output" and of_tokens:
        raise BackboneError(
            f"pooling='pooled_output' needs one vector per text, and this output of {backbone.name} has the features "
            "of all tokens. Leave output= out, or choose the pooling 'cls' or 'mean'."
        )
    if not of_tokens:
        return TextSpec(limit, "none", "as asked for" if pooling else "as the encoder gives it")
    if pooling == "cls" or pooling == "mean":
        return TextSpec(limit, pooling, "as asked for")
    return TextSpec(limit, "mean", "since the first token of an encoder that was not tuned for it says little")


def _limit(backbone: Backbone) -> int:
    """Rows of the table of positions; an encoder fails, or gives nonsense, on longer texts."""
    for variable in backbone.model.weights:
        if "position_embedding" in variable.path and len(variable.shape) == 2:
            return int(variable.shape[0])
    return _LIMIT
