"""A LiteRT model (``.tflite``) as a frozen Keras layer: :class:`LiteRTModel`, and its scan, :func:`check_litert`.

Implementation notes: the file is parsed with the schema of its format before the interpreter, which is native code,
sees it. Only operations that LiteRT itself defines are let through: a custom operation could be anything, and those of
the Flex delegate are all of TensorFlow, file access among it.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import DependencyError, SavedModelError, UnsafeModelError, join_names

_CUSTOM = frozenset({"CUSTOM", "DELEGATE", "STABLEHLO_CUSTOM_CALL"})
_MOST_VALUES = 2**31 - 1  # of one tensor
_PLAIN = frozenset({"float32", "float16", "float64", "int32", "int64", "uint8", "int8", "int16", "bool"})


def check_litert(content: bytes, where: str) -> None:
    """Refuse a LiteRT model that holds more than operations of LiteRT itself.

    Args:
        content: The file.
        where: What it is, for the message.

    Raises:
        SavedModelError: It is not a LiteRT model, or a damaged one.
        UnsafeModelError: It holds custom operations, or claims tensors that no machine holds.
        DependencyError: LiteRT is not installed.
    """
    schema = _package("schema_py_generated")
    if len(content) < 8 or content[4:8] != b"TFL3":
        raise SavedModelError(f"{where} is not a LiteRT model: it lacks the file identifier TFL3.")
    try:
        found = list(dict.fromkeys(_findings(schema.Model.GetRootAs(content, 0), schema)))
    except Exception as error:  # reading a damaged flatbuffer fails in as many ways as there are to index bytes
        raise SavedModelError(f"{where} is damaged: {type(error).__name__}: {error}") from error
    if found:
        raise UnsafeModelError(
            f"{where} contains operations that LiteRT does not define, or invalid tensors: {join_names(found)}. "
            "It is never opened. Convert the original model again with built-in operations only (TFLITE_BUILTINS)."
        )


def _findings(model: Any, schema: Any) -> list[str]:
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    found = []
    for i in range(model.OperatorCodesLength()):
        operator = model.OperatorCodes(i)
        code = max(operator.BuiltinCode(), operator.DeprecatedBuiltinCode())
        custom = (operator.CustomCode() or b"").decode("utf-8", "replace")
        if names.get(code, "CUSTOM") in _CUSTOM or custom:
            kind = "an operation of TensorFlow through the Flex delegate" if custom.startswith("Flex") else "custom"
            found.append(f"{custom or names.get(code, code)} ({kind})")
    if not model.SubgraphsLength():
        raise ValueError("it holds no graph")
    for i in range(model.SubgraphsLength()):
        graph = model.Subgraphs(i)
        for j in range(graph.TensorsLength()):
            shape = [int(graph.Tensors(j).Shape(k)) for k in range(graph.Tensors(j).ShapeLength())]
            if any(n < 0 for n in shape) or int(np.prod(shape, dtype=object)) > _MOST_VALUES:
                found.append(f"tensor {j} of graph {i} with the shape {shape}")
    return found


def _package(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"ai_edge_litert.{module}")
    except ImportError as error:
        raise DependencyError(
            "A .tflite file is run by LiteRT, which is not installed (it has no Windows version). On Linux and macOS: "
            "pip install ai-edge-litert"
        ) from error


@keras.saving.register_keras_serializable(package="tfft")
class LiteRTModel(keras.layers.Layer):
    """A LiteRT model that computes features; it has no weights, and no gradient passes through it.

    Args:
        content: The ``.tflite`` file, in base64.
        output: Name of the tensor that it gives. Defaults to the only output.
        name: Name of the layer.

    Call arguments:
        inputs: One tensor, or a list of them in the order of the file. Quantized models take and give float32: the
            layer scales on both sides; unsigned bytes (pixels) stay what they are.
    """

    why_not_exported = (
        "it contains a LiteRT model (.tflite), which only LiteRT can run and no SavedModel can hold. Save it as a "
        ".keras file and serve it with tfft, or start from the SavedModel or Keras model that the file was made of"
    )

    def __init__(self, content: str, *, output: str | None = None, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(autocast=False, trainable=False, **{k: v for k, v in kwargs.items() if k != "trainable"})
        self._content, self._output = content, output
        data = base64.b64decode(content)
        check_litert(data, f"The LiteRT model in the layer {self.name!r}")
        self._runner = _Runner(data, output)
        self.supports_jit = False
        self.built = True

    @property
    def input_specs(self) -> list[tuple[str, tuple[int | None, ...], str]]:
        """Name, shape and type of each input."""
        return [(d["name"], _shape(d), _outside(d)) for d in self._runner.inputs]

    def call(self, inputs: Any) -> Any:
        """Run the interpreter on a batch."""
        tensors = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        spec = self.compute_output_spec(inputs)
        dtypes = [_outside(d) for d in self._runner.inputs]
        tensors = [tf.cast(t, d) for t, d in zip(tensors, dtypes, strict=True)]
        found = tf.numpy_function(self._runner, tensors, tf.as_dtype(spec.dtype), stateful=False)
        return tf.ensure_shape(found, spec.shape)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Shape and type of the features."""
        return keras.KerasTensor(_shape(self._runner.output), _outside(self._runner.output))

    def get_config(self) -> dict[str, Any]:
        """Return the file and the name of the output."""
        config = super().get_config()
        for key in ("dtype", "trainable"):
            config.pop(key, None)
        return {**config, "content": self._content, "output": self._output}


class _Runner:
    """The interpreter of one model, called with arrays; one call at a time."""

    def __init__(self, content: bytes, output: str | None) -> None:
        self._lock = threading.Lock()
        package = _package("interpreter")
        plain = package.Interpreter(model_content=content)
        self.inputs: list[dict[str, Any]] = plain.get_input_details()
        self.output = _chosen(plain, output)
        self._interpreter = plain
        if self.output["index"] not in [d["index"] for d in plain.get_output_details()]:
            # What is inside is kept only where no delegate takes parts of the graph for itself.
            self._interpreter = package.Interpreter(
                model_content=content,
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=package.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
        self._batched: bool | None = None
        self._allocated = 0

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """Compute the features of a batch; one example per call where the graph takes no batches."""
        with self._lock:
            if self._batched is None:
                self._batched = self._takes_batches(arrays)
            if self._batched:
                return self._run(arrays)
            rows = [self._run([a[i : i + 1] for a in arrays]) for i in range(len(arrays[0]))]
            empty = [0, *(n or 0 for n in _shape(self.output)[1:])]
            return np.concatenate(rows) if rows else np.zeros(empty, _outside(self.output))

    def _takes_batches(self, arrays: Sequence[np.ndarray]) -> bool:
        """Whether, by a trial, two examples together give what each gives alone."""
        two = [np.concatenate([a[:1], a[-1:]]) for a in arrays]
        if not len(arrays[0]):
            return False
        alone = [self._run([a[i : i + 1] for a in two]) for i in range(2)]
        try:
            together = self._run(two)
        except (RuntimeError, ValueError):  # a fixed shape somewhere in the graph
            self._allocated = 0
            return False
        expected = np.concatenate(alone)
        return together.shape == expected.shape and np.allclose(together, expected, rtol=1e-4, atol=1e-5)

    def _run(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        model, count = self._interpreter, len(arrays[0])
        if count != self._allocated:
            for details, array in zip(self.inputs, arrays, strict=True):
                model.resize_tensor_input(details["index"], array.shape)
            model.allocate_tensors()
            self._allocated = count
        for details, array in zip(self.inputs, arrays, strict=True):
            model.set_tensor(details["index"], _quantized(array, details))
        model.invoke()
        return _plain(model.get_tensor(self.output["index"]), self.output)


def _chosen(model: Any, output: str | None) -> dict[str, Any]:
    outputs = model.get_output_details()
    by_name = {d["name"]: d for d in [*model.get_tensor_details(), *outputs] if d["name"]}
    if output is None and len(outputs) == 1:
        return outputs[0]
    if output in by_name:
        return by_name[output]
    shown = join_names([f"{d['name']} {_shape(d)}" for d in outputs])
    wrong = f"has no tensor {output!r}" if output is not None else "has several outputs; choose one with output="
    raise SavedModelError(f"The LiteRT model {wrong}. Its outputs are: {shown}.")


def _shape(details: dict[str, Any]) -> tuple[int | None, ...]:
    """The shape with an open batch; LiteRT writes 1 for it."""
    sizes = [int(n) for n in details.get("shape_signature", details["shape"])]
    if not sizes:
        raise SavedModelError(f"The tensor {details['name']!r} of the LiteRT model is a scalar; it has no batch.")
    return (None, *(n if n >= 0 else None for n in sizes[1:]))


def _outside(details: dict[str, Any]) -> str:
    """The type that a tensor has in Keras: float32 for what is quantized, but for pixels."""
    name = np.dtype(details["dtype"]).name
    if name not in _PLAIN:
        raise SavedModelError(f"The tensor {details['name']!r} of the LiteRT model is of the type {name}.")
    return "float32" if _scale(details) and (name != "uint8" or len(details["shape"]) != 4) else name


def _scale(details: dict[str, Any]) -> float:
    return float(details["quantization"][0])


def _quantized(array: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    dtype = np.dtype(details["dtype"])
    if array.dtype == dtype or not _scale(details):
        return array.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.round(array / _scale(details)) + details["quantization"][1], limits.min, limits.max).astype(dtype)


def _plain(array: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    if array.dtype.name == _outside(details):
        return array
    return ((array.astype("float32") - details["quantization"][1]) * _scale(details)).astype("float32")
