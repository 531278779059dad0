"""Variables of a block of a SavedModel: :class:`VariableSpec`, :func:`kind_of`, :func:`check_size`."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

import tensorflow as tf

from tfft.errors import UnsafeModelError

_MOST_BYTES = 2**36  # of the variables of one block in a file


@dataclasses.dataclass(frozen=True)
class VariableSpec:
    """One variable of a block.

    Attributes:
        name: Its name in the SavedModel.
        shape: Its shape.
        dtype: Name of its type.
        trainable: False where the publisher keeps it fixed (statistics, tables, counters).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool


def kind_of(name: str) -> str:
    """Return the kind of a variable by its name.

    Returns:
        ``"norm"`` for scale and shift of a normalization, ``"bias"``, or ``"other"``.
    """
    *_, layer, leaf = ["", *re.split(r"[/.]", name)]  # Keras writes exported names with dots
    if leaf in {"gamma", "beta"} or re.search(r"(norm|bn)(_?\d+)?$|(^|_)bn", layer, re.I):
        return "norm"
    return "bias" if re.fullmatch(r"bias(es)?(_\d+)?|b", leaf) else "other"


def check_size(specs: Sequence[VariableSpec], where: str) -> None:
    """Refuse variables that no machine holds, before memory is set aside for them.

    Raises:
        UnsafeModelError: If they are too large, or a side is negative.
    """
    size = sum(math.prod(spec.shape) * tf.as_dtype(spec.dtype).size for spec in specs)
    if size > _MOST_BYTES or any(n < 0 for spec in specs for n in spec.shape):
        raise UnsafeModelError(f"The {where} declares variables of {size:,} bytes; at most {_MOST_BYTES:,} are made.")
