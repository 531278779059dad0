"""What callbacks remember between epochs: :class:`CallbackStates`.

Hides how state is taken out of callbacks that were not made for it, Keras' own among them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.config import current_names
from tfft.errors import PlanError
from tfft.training.callbacks import OnWhole
from tfft.training.checkpoint.serialization import UnpackableError, pack, unpack
from tfft.training.progress import Progress

_KERAS_OWN = ("_model", "params", "_params", "validation_data")  # what every callback has and fit sets anew
_SET_AGAIN = ("min_delta",)  # Keras turns its sign in the first epoch of each process, with ``monitor_op``

Packed = tuple[Any, dict[str, np.ndarray]]  # a value, and the arrays in it


class CallbackStates:
    """Takes down and brings back what callbacks have come to remember since training began.

    A callback with ``get_state()`` and ``set_state(value)`` is asked; the value may be made of None, numbers, strings,
    arrays, lists, tuples and dicts, and is given back inside of ``fit``, after ``on_train_begin``, when the weights are
    those of that moment. Of any other one, Keras' own among them, every attribute that holds such values,
    or a variable, and that changed since :meth:`begin`, is kept. So the settings that a program gives a callback when
    it is run again are those that hold.

    Args:
        callbacks: in order.

    Attributes:
        notes: what of which callback cannot be kept, one sentence each.

    Raises:
        PlanError: one of them brings back state of its own.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        found = [c.callback if isinstance(c, OnWhole) else c for c in callbacks]
        self._callbacks = [c for c in found if not isinstance(c, Progress)]  # which depends on who is watching
        if any(isinstance(c, keras.callbacks.BackupAndRestore) for c in self._callbacks):
            raise PlanError(
                "keras.callbacks.BackupAndRestore would bring back an older state than the checkpoints do: remove it "
                "from the callbacks."
            )
        self._before: list[dict[str, Packed]] = [{} for _ in self._callbacks]
        self.notes: list[str] = []

    def prepare(self, states: Sequence[Mapping[str, Any]], *, inside: bool) -> None:
        """Let files that callbacks write go on where they were; called before ``on_train_begin``.

        Args:
            states: from :meth:`collect`.
            inside: of a ``fit`` that goes on; False for one that begins.
        """
        for callback, state in zip(self._callbacks, states, strict=False):
            if not isinstance(callback, keras.callbacks.CSVLogger) or state.get("bytes") is None:
                continue
            callback.append = callback.append or inside  # else Keras starts the file anew
            exists = callback.append and os.path.exists(callback.filename)
            if exists and os.path.getsize(callback.filename) > state["bytes"]:
                os.truncate(callback.filename, state["bytes"])  # rows of epochs that are run again

    def begin(self) -> None:
        """Notes how the callbacks are now: after ``on_train_begin``, or before anything."""
        self._before = [{} if has_state(c) else _values(c) for c in self._callbacks]
        for callback in self._callbacks:
            if has_state(callback) or type(callback).__module__.startswith(("keras.", "tfft.")):
                continue
            lost = [f"{name} ({type(value).__name__})" for name, value in _opaque(callback)]
            if lost:
                self.notes.append(
                    f"{type(callback).__name__} will not have its {', '.join(lost)} after a restart: give the class "
                    "get_state() and set_state(state) if that matters"
                )

    def collect(self, arrays: MutableMapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Return the states; arrays go into ``arrays``."""
        return [self._state(i, callback, arrays) for i, callback in enumerate(self._callbacks)]

    def misfits(self, states: Sequence[Mapping[str, Any]]) -> list[str]:
        """Tells whether states are of other callbacks, in words."""
        was, now = (
            [current_names({"class": s["class"]})["class"] for s in states],
            [type(c).__name__ for c in self._callbacks],
        )
        return (
            [] if was == now else [f"the callbacks were {', '.join(was) or 'none'} and are {', '.join(now) or 'none'}"]
        )

    def restore(self, states: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]) -> None:
        """Give each callback its state."""
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
    """Tells whether a callback decides itself what is kept."""
    return callable(getattr(callback, "get_state", None)) and callable(getattr(callback, "set_state", None))


def _variable(value: Any) -> Any:
    """Return the variable that an attribute holds or is, or None."""
    if isinstance(value, (keras.random.SeedGenerator, tf.random.Generator)):
        return value.state
    return value if isinstance(value, (keras.Variable, tf.Variable)) else None


def _values(callback: Any) -> dict[str, Packed]:
    """Return all attributes that can be kept, as they are at this moment."""
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
    """Return attributes that cannot be kept and may hold state: not functions, and not what describes something."""
    kept = _values(callback)
    return [
        (name, value)
        for name, value in vars(callback).items()
        if name not in kept
        and name not in _KERAS_OWN
        and not callable(value)
        and not isinstance(value, (os.PathLike, tf.data.Dataset))
    ]
