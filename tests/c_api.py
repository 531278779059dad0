"""Runs a SavedModel through TensorFlow's C API, on which TensorFlow Serving's loader is built.

A script: ``c_api.py LIBRARY CALL RESULT``. Python's TensorFlow is not imported; the library is loaded
with ctypes. ``CALL`` is pickled: the model's folder, feeds ``{tensor name: array}`` and fetches
(tensor names); ``RESULT`` receives the pickled ``{tensor name: array}``.
"""

from __future__ import annotations

import ctypes
import pickle
import sys

import numpy as np

_STRING = 7  # TF_DataType; a TF_TString takes 24 bytes
_TYPES = {1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 9: np.int64, 10: np.bool_}
_CODES = {np.dtype(kind): code for code, kind in _TYPES.items()}


class Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def load_library(path: str) -> ctypes.CDLL:
    """Opens the library and declares what returns a pointer or takes a struct."""
    library = ctypes.CDLL(path)
    pointers = (
        "TF_NewStatus TF_NewGraph TF_NewSessionOptions TF_LoadSessionFromSavedModel TF_GraphOperationByName "
        "TF_AllocateTensor TF_TensorData TF_StringGetDataPointer"
    )
    for name in pointers.split():
        getattr(library, name).restype = ctypes.c_void_p
    library.TF_Message.restype = ctypes.c_char_p
    library.TF_Dim.restype = ctypes.c_int64
    library.TF_StringGetSize.restype = library.TF_TensorByteSize.restype = ctypes.c_size_t
    return library


class Session:
    """A SavedModel loaded into a session."""

    def __init__(self, library: ctypes.CDLL, folder: str) -> None:
        self._c, self._status = library, ctypes.c_void_p(library.TF_NewStatus())
        self._graph = ctypes.c_void_p(library.TF_NewGraph())
        tags = (ctypes.c_char_p * 1)(b"serve")
        options = ctypes.c_void_p(library.TF_NewSessionOptions())
        session = library.TF_LoadSessionFromSavedModel(
            options, None, folder.encode(), tags, 1, self._graph, None, self._status
        )
        self._check()
        self._session = ctypes.c_void_p(session)

    def run(self, feeds: dict[str, np.ndarray], fetches: list[str]) -> dict[str, np.ndarray]:
        inputs = (Output * len(feeds))(*[self._endpoint(name) for name in feeds])
        values = (ctypes.c_void_p * len(feeds))(*[self._to_tensor(value) for value in feeds.values()])
        outputs = (Output * len(fetches))(*[self._endpoint(name) for name in fetches])
        results = (ctypes.c_void_p * len(fetches))()
        self._c.TF_SessionRun(
            self._session, None, inputs, values, len(feeds), outputs, results, len(fetches), None, 0, None, self._status
        )
        self._check()
        return {name: self._to_array(ctypes.c_void_p(tensor)) for name, tensor in zip(fetches, results, strict=True)}

    def _check(self) -> None:
        if self._c.TF_GetCode(self._status):
            raise RuntimeError(self._c.TF_Message(self._status).decode())

    def _endpoint(self, name: str) -> Output:
        operation, index = name.split(":")
        found = self._c.TF_GraphOperationByName(self._graph, operation.encode())
        if not found:
            raise RuntimeError(f"no operation {operation!r} in the graph")
        return Output(found, int(index))

    def _to_tensor(self, value: np.ndarray) -> int:
        dims = (ctypes.c_int64 * value.ndim)(*value.shape)
        if value.dtype == object:
            tensor = self._c.TF_AllocateTensor(_STRING, dims, value.ndim, ctypes.c_size_t(24 * value.size))
            start = self._c.TF_TensorData(ctypes.c_void_p(tensor))
            for i, item in enumerate(value.ravel()):
                place = ctypes.c_void_p(start + 24 * i)
                self._c.TF_StringInit(place)
                self._c.TF_StringCopy(place, item, ctypes.c_size_t(len(item)))
            return tensor
        value = np.ascontiguousarray(value)
        tensor = self._c.TF_AllocateTensor(_CODES[value.dtype], dims, value.ndim, ctypes.c_size_t(value.nbytes))
        ctypes.memmove(self._c.TF_TensorData(ctypes.c_void_p(tensor)), value.ctypes.data, value.nbytes)
        return tensor

    def _to_array(self, tensor: ctypes.c_void_p) -> np.ndarray:
        shape = [self._c.TF_Dim(tensor, i) for i in range(self._c.TF_NumDims(tensor))]
        start, kind = self._c.TF_TensorData(tensor), self._c.TF_TensorType(tensor)
        if kind == _STRING:
            places = [ctypes.c_void_p(start + 24 * i) for i in range(int(np.prod(shape)))]
            items = [ctypes.string_at(self._c.TF_StringGetDataPointer(p), self._c.TF_StringGetSize(p)) for p in places]
            return np.array(items, dtype=object).reshape(shape)
        raw = ctypes.string_at(start, self._c.TF_TensorByteSize(tensor))
        return np.frombuffer(raw, _TYPES[kind]).reshape(shape)


if __name__ == "__main__":
    with open(sys.argv[2], "rb") as file:
        folder, feeds, fetches = pickle.load(file)
    answer = Session(load_library(sys.argv[1]), folder).run(feeds, fetches)
    assert "tensorflow" not in sys.modules
    with open(sys.argv[3], "wb") as file:
        pickle.dump(answer, file)
