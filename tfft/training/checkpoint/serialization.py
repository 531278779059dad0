"""Conversion of values to plain ones with separate arrays, and back: :func:`pack`, :func:`unpack`."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class UnpackableError(Exception):
    """A value of a type that cannot be serialized."""


def pack(value: Any, arrays: MutableMapping[str, np.ndarray], prefix: str) -> Any:
    """Return a value for JSON; arrays are added to ``arrays``, and their names to the result.

    Args:
        value: None, numbers, strings, arrays, tensors and variables, and lists, tuples and dicts of those.
        arrays: Mapping that receives one entry per array.
        prefix: Prefix of the names of those entries.

    Returns:
        The argument for :func:`unpack`.

    Raises:
        UnpackableError: If it contains other types.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (keras.Variable, tf.Variable, tf.Tensor)):
        value = keras.ops.convert_to_numpy(value)
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.kind in "OSUMm" or array.dtype.names is not None:
            raise UnpackableError(f"an array of {array.dtype}")
        name = f"{prefix}/{len(arrays)}"
        arrays[name] = array
        return {"scalar" if isinstance(value, np.generic) else "array": name}
    if type(value) in (list, tuple):
        return {type(value).__name__: [pack(v, arrays, prefix) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[pack(k, arrays, prefix), pack(v, arrays, prefix)] for k, v in value.items()]}
    raise UnpackableError(f"a {type(value).__name__}")


def unpack(packed: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return the value that :func:`pack` was given; tensors and variables become arrays."""
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "array":
        return arrays[content]
    if kind == "scalar":
        return arrays[content][()]
    if kind == "dict":
        return {unpack(k, arrays): unpack(v, arrays) for k, v in content}
    items = [unpack(v, arrays) for v in content]
    return tuple(items) if kind == "tuple" else items
