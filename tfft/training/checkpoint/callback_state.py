"""State of callbacks between epochs: :class:`CallbackStates`.

Implementation notes: state is extracted also from callbacks without ``get_state``, including Keras' own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.config.stored_settings import current_names
from tfft.errors import PlanError
from tfft.training.callbacks import OnWhole
from tfft.training.checkpoint.serialization import UnpackableError, pack, unpack
from tfft.training.progress import Progress

_KERAS_OWN = ("_model", "params", "_params", "validation_data")  # attributes of every callback, which fit sets
_SET_AGAIN = ("min_delta",)  # Keras turns its sign in the first epoch of each process, with ``monitor_op``

Packed = tuple[Any, dict[str, np.ndarray]]  # a value, and the arrays in it


class CallbackStates:
    """Save and restore the state that callbacks have accumulated since training began.

    For a callback with ``get_state()`` and ``set_state(value)``, these are called; the value may consist of None,
    numbers, strings, arrays, lists, tuples and dicts, and is restored inside ``fit``, after ``on_train_begin``, with
    the weights of the same moment. For other callbacks, including Keras' own, every attribute is saved that holds such
    values or a variable and has changed since :meth:`begin`. So the settings of the restarted program apply.

    Args:
        callbacks: Callbacks in order.

    Attributes:
        notes: State that cannot be saved, one sentence per callback.

    Raises:
        PlanError: If one of them restores state of its own.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        found = [c.callback if isinstance(c, OnWhole) else c for c in callbacks]
        self._callbacks = [c for c in found if not isinstance(c, Progress)]  # which depends on the terminal
        if any(isinstance(c, keras.callbacks.BackupAndRestore) for c in self._callbacks):
            raise PlanError(
                "keras.callbacks.BackupAndRestore would restore an older state than the checkpoints: remove it "
                "from the callbacks."
            )
        self._before: list[dict[str, Packed]] = [{} for _ in self._callbacks]
        self.notes: list[str] = []

    def prepare(self, states: Sequence[Mapping[str, Any]], *, inside: bool) -> None:
        """Let files that callbacks write continue at their position; called before ``on_train_begin``.

        Args:
            states: States from :meth:`collect`.
            inside: Whether a ``fit`` resumes; False for one that begins.
        """
        for callback, state in zip(self._callbacks, states, strict=False):
            if not isinstance(callback, keras.callbacks.CSVLogger) or state.get("bytes") is None:
                continue
            callback.append = callback.append or inside  # else Keras starts the file anew
            exists = callback.append and os.path.exists(callback.filename)
            if exists and os.path.getsize(callback.filename) > state["bytes"]:
                os.truncate(callback.filename, state["bytes"])  # removes rows of epochs that run again

    def begin(self) -> None:
        """Record the current state of the callbacks: after ``on_train_begin``, or before anything."""
        self._before = [{} if has_state(c) else _values(c) for c in self._callbacks]
        for callback in self._callbacks:
            if has_state(callback) or type(callback).__module__.startswith(("keras.", "tfft.")):
                continue
            lost = [f"{name} ({type(value).__name__})" for name, value in _opaque(callback)]
            if lost:
                self.notes.append(
                    f"{type(callback).__name__} loses its {', '.join(lost)} when training resumes: give the class "
                    "get_state() and set_state(state) if that matters"
                )

    def collect(self, arrays: MutableMapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Return the states; arrays are added to ``arrays``."""
        return [self._state(i, callback, arrays) for i, callback in enumerate(self._callbacks)]

    def misfits(self, states: Sequence[Mapping[str, Any]]) -> list[str]:
        """Describe a difference between the saved and the current callbacks, if any."""
        was, now = (
            [current_names({"class": s["class"]})["class"] for s in states],
            [type(c).__name__ for c in self._callbacks],
        )
        return (
            [] if was == now else [f"the callbacks were {', '.join(was) or 'none'} and are {', '.join(now) or 'none'}"]
        )

    def restore(self, states: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]) -> None:
        """Restore the state of each callback."""
        for callback, state, before in zip(self._callbacks, states, self._before, strict=True):
            value = unpack(state["value"], arrays)
            if state["own"]:
                callback.set_state(value)
                continue
            for name, packed in before.items():
                if name not in value and not _same(packed, _values(callback).get(name)):
                    value[name] = unpack(*packed)  # it has changed since, by a hook that is called once more
            for name, content in value.items():
                variable = _variable(vars(callback).get(name))
                if variable is not None:
                    variable.assign(content)
                else:
                    setattr(callback, name, content)

    def _state(self, i: int, callback: Any, arrays: MutableMapping[str, np.ndarray]) -> dict[str, Any]:
        name = type(callback).__name__
        if has_state(callback):
            try:
                return {"class": name, "own": True, "value": pack(callback.get_state(), arrays, f"callbacks/{i}")}
            except UnpackableError as error:
                raise PlanError(
                    f"{name}.get_state() returned {error}; it may return None, numbers, strings, arrays, and lists, "
                    "tuples and dicts of those."
                ) from error
        before = self._before[i]
        changed = {k: unpack(*v) for k, v in _values(callback).items() if not _same(v, before.get(k))}
        state = {"class": name, "own": False, "value": pack(changed, arrays, f"callbacks/{i}")}
        if isinstance(callback, keras.callbacks.CSVLogger) and callback.csv_file is not None:
            state["bytes"] = os.path.getsize(callback.filename)
        return state


def has_state(callback: Any) -> bool:
    """Whether a callback defines its own state."""
    return callable(getattr(callback, "get_state", None)) and callable(getattr(callback, "set_state", None))


def _variable(value: Any) -> Any:
    """Return the variable that an attribute holds or is, or None."""
    if isinstance(value, (keras.random.SeedGenerator, tf.random.Generator)):
        return value.state
    return value if isinstance(value, (keras.Variable, tf.Variable)) else None


def _values(callback: Any) -> dict[str, Packed]:
    """Return all attributes that can be saved, with their current values."""
    found: dict[str, Packed] = {}
    for name, value in vars(callback).items():
        variable = _variable(value)
        arrays: dict[str, np.ndarray] = {}
        if name in _KERAS_OWN or (name in _SET_AGAIN and hasattr(callback, "monitor_op")):
            continue
        try:
            packed = pack(value if variable is None else variable, arrays, "in")
        except UnpackableError:
            continue
        found[name] = packed, {key: np.array(array) for key, array in arrays.items()}
    return found


def _same(one: Packed, other: Packed | None) -> bool:
    if other is None or repr(one[0]) != repr(other[0]):  # which tells types, and that NaN is NaN
        return False
    pairs = zip(one[1].values(), other[1].values(), strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def _opaque(callback: Any) -> list[tuple[str, Any]]:
    """Return attributes that cannot be saved and may hold state; functions and descriptive values do not."""
    kept = _values(callback)
    return [
        (name, value)
        for name, value in vars(callback).items()
        if name not in kept
        and name not in _KERAS_OWN
        and not callable(value)
        and not isinstance(value, (os.PathLike, tf.data.Dataset))
    ]
