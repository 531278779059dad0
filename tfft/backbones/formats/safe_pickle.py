"""A reader of pickles that cannot execute code: tensors, containers and plain values, opcode by opcode.

Python's own unpickler imports and calls what a file names; even without imports it can be made to fill
the memory with a dozen bytes, or to count for ever. The reader here is an interpreter of its own: it has no way to
import, every name it knows stands for one of its own functions, and it counts what it does.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any, BinaryIO, cast

from tfft.errors import UnsafeModelError

Call = Callable[..., Any]
_MOST_BYTES = 2**26  # of one pickle: names, shapes and strides, not the numbers
_MOST_OPCODES = 5_000_000
_MOST_KEY = 64  # parts of a tuple that is a key
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8".split()
)
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_TUPLE": tuple}


class _Mark:
    """Where on the stack the parts of a container begin."""


class Name:
    """A function or class that a pickle names.

    Args:
        title: As the pickle writes it, ``module.name``.
        call: Function to call instead; None for a name that is only mentioned.
    """

    __slots__ = ("call", "title")

    def __init__(self, title: str, call: Call | None) -> None:
        self.title, self.call = title, call


def read_pickle(file: BinaryIO, known: Mapping[str, Call | None], load: Call, what: str) -> Any:
    """Read one pickle, up to its end and not further.

    Args:
        file: Open for reading bytes.
        known: Functions to call instead of ``module.name``; all other names are refused.
        load: Makes an object of the identifier of one that is stored outside of the pickle.
        what: The file, for messages.

    Returns:
        Dicts, lists, tuples, plain values, and what ``known`` and ``load`` made.

    Raises:
        UnsafeModelError: For a name that is not known.
        pickle.UnpicklingError, ValueError: For bytes that are not such a pickle.
    """
    machine = _Machine(known, load, what)
    bounded = cast(IO[bytes], _Bounded(file))  # it reads, and does nothing else that a file does
    for count, (opcode, argument, _) in enumerate(pickletools.genops(bounded)):
        if count > _MOST_OPCODES:
            raise pickle.UnpicklingError(f"more than {_MOST_OPCODES:,} steps")
        if opcode.name == "STOP":
            return machine.pop()
        machine.step(opcode.name, argument)
    raise EOFError("the pickle has no end")


class _Bounded(io.RawIOBase):
    """The bytes of one pickle, no more than an honest one has."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, _MOST_BYTES

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            raise pickle.UnpicklingError(f"a part of {size:,} bytes, where at most {self._left:,} are left")
        self._left -= size
        return self._file.read(size)

    def readline(self, size: int | None = -1) -> bytes:
        found = self._file.readline(self._left)
        self._left -= len(found)
        return found

    def tell(self) -> int:
        return _MOST_BYTES - self._left


class _Machine:
    """The stack and the memory of an unpickler."""

    def __init__(self, known: Mapping[str, Call | None], load: Call, what: str) -> None:
        self._known, self._load, self._what = known, load, what
        self._stack: list[Any] = []
        self._memory: dict[int, Any] = {}

    def pop(self) -> Any:
        if not self._stack or isinstance(self._stack[-1], _Mark):
            raise pickle.UnpicklingError("a value is missing")
        return self._stack.pop()

    def _top(self, kind: type | tuple[type, ...]) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise pickle.UnpicklingError("a container is missing")
        return self._stack[-1]

    def _to_mark(self) -> list[Any]:
        parts: list[Any] = []
        while self._stack:
            part = self._stack.pop()
            if isinstance(part, _Mark):
                return parts[::-1]
            parts.append(part)
        raise pickle.UnpicklingError("the start of a container is missing")

    def step(self, name: str, argument: Any) -> None:
        """Does what one opcode says."""
        stack = self._stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memory[argument] = self._top(object)
        elif name == "MEMOIZE":
            self._memory[len(self._memory)] = self._top(object)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memory[argument])
        else:
            handler = _HANDLERS.get(name)
            if handler is None:
                raise pickle.UnpicklingError(f"the step {name}, which files of tensors do not need")
            handler(self, argument)

    # ------------------------------------------------------------------- containers

    def _mark(self, _: Any) -> None:
        self._stack.append(_Mark())

    def _ignore(self, _: Any) -> None:
        pass

    def _drop(self, _: Any) -> None:
        self._stack.pop()

    def _double(self, _: Any) -> None:
        self._stack.append(self._top(object))

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._to_mark()))

    def _drop_to_mark(self, _: Any) -> None:
        self._to_mark()

    def _list(self, _: Any) -> None:
        self._stack.append(self._to_mark())

    def _dict(self, _: Any) -> None:
        parts = self._to_mark()
        self._stack.append({})
        self._set(parts)

    def _short_tuple(self, count: int) -> None:
        parts = [self.pop() for _ in range(count)][::-1]
        self._stack.append(tuple(parts))

    def _append(self, _: Any) -> None:
        value = self.pop()
        self._top(list).append(value)

    def _extend(self, _: Any) -> None:
        values = self._to_mark()
        self._top(list).extend(values)

    def _set_one(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def _set_many(self, _: Any) -> None:
        self._set(self._to_mark())

    def _set(self, parts: list[Any]) -> None:
        target = self._top(dict)
        if len(parts) % 2:
            raise pickle.UnpicklingError("a key without a value")
        for key, value in zip(parts[::2], parts[1::2], strict=True):
            flat = key if isinstance(key, tuple) and len(key) <= _MOST_KEY else (key,)
            if not all(part is None or isinstance(part, (str, bytes, int, float)) for part in flat):
                raise pickle.UnpicklingError("a key that is not a plain value")
            target[key] = value

    # ------------------------------------------------------------------ names, calls

    def _global(self, argument: str) -> None:
        self._named(*argument.split(" ", 1))

    def _stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise pickle.UnpicklingError("a name that is not text")
        self._named(module, name)

    def _named(self, module: str, name: str = "") -> None:
        title = f"{module}.{name}"
        if title not in self._known:
            raise UnsafeModelError(
                f"{self._what} asks for {title[:200]}, which is neither a tensor nor a container. A pickle that "
                "names other things can run any program when it is opened, so it was not read. If you trust where "
                "it comes from, open it with PyTorch and save its state dict alone: "
                "torch.save(model.state_dict(), path), or as .safetensors."
            )
        self._stack.append(Name(title, self._known[title]))

    def _call(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or function.call is None or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("a call of something that is not a function")
        self._stack.append(function.call(*arguments))

    def _build(self, _: Any) -> None:
        # What a state dict carries beside its tensors (the versions of layers); nothing is ever set on an object.
        state = self.pop()
        if not isinstance(self._top(dict), dict) or not isinstance(state, dict):
            raise pickle.UnpicklingError("a state for something that has none")

    def _persistent(self, _: Any) -> None:
        self._stack.append(self._load(self.pop()))


_HANDLERS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": _Machine._ignore,
    "FRAME": _Machine._ignore,
    "MARK": _Machine._mark,
    "POP": _Machine._drop,
    "POP_MARK": _Machine._drop_to_mark,
    "DUP": _Machine._double,
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine, _: machine._short_tuple(1),
    "TUPLE2": lambda machine, _: machine._short_tuple(2),
    "TUPLE3": lambda machine, _: machine._short_tuple(3),
    "LIST": _Machine._list,
    "FROZENSET": _Machine._list,
    "DICT": _Machine._dict,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._extend,
    "ADDITEMS": _Machine._extend,
    "SETITEM": _Machine._set_one,
    "SETITEMS": _Machine._set_many,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._call,
    "NEWOBJ": _Machine._call,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}
