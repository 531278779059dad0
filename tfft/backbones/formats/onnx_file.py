"""ONNX models through the converter onnx2keras: :func:`from_onnx`.

The converter's Keras model has Lambda layers, which no ``.keras`` file should hold. So it is exported as a SavedModel,
and that is opened: it is scanned, cut into blocks and carries no foreign code. Converters err in silence; the result is
compared with ONNX's own reference implementation, and refused where it differs.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.backbones.base import Backbone
from tfft.backbones.load_options import LoadOptions
from tfft.backbones.savedmodel import folder_scan, open_savedmodel
from tfft.backbones.savedmodel.backbone import input_contract
from tfft.errors import DependencyError, SavedModelError, TfftError, UnsafeModelError, join_names

_STANDARD = frozenset({"", "ai.onnx"})
_TOLERANCE = 1e-3  # of the largest value: two implementations of one network, rounding in another order
_FREE = 64  # pixels of a side that the file leaves open
_NORMALIZES = 15  # operator set whose batch normalization is that of inference
_SERVE = "serve"


def from_onnx(path: Path, options: LoadOptions) -> Backbone:
    """Open an ONNX model with one input as a backbone whose weights can be trained.

    Args:
        path: The file.
        options: As :func:`tfft.backbones.load_backbone` takes them.

    Returns:
        The backbone. Images are channels-last, whatever the file has.

    Raises:
        DependencyError: Onnx2keras is not installed.
        UnsafeModelError: The file refers to other files, or to operations outside of the standard.
        SavedModelError: The file is damaged, or cannot be converted, or computes something else once it is.
    """
    onnx, convert = _packages()
    if path.stat().st_size > folder_scan.MOST_PROTO:
        raise SavedModelError(
            f"{str(path)!r} is larger than {folder_scan.MOST_PROTO:,} bytes, so it is not an ONNX model."
        )
    try:
        proto = onnx.load_model_from_string(path.read_bytes())  # never follows a path inside of the file
        _check(proto, onnx, path)
        sample, expected = _reference(proto, path)
        model = convert(proto, [_input(proto).name], verbose=False, change_ordering=sample.ndim == 4)
        with tempfile.TemporaryDirectory() as folder:
            _export(model, sample.ndim == 4, folder)
            opened = open_savedmodel(folder, name=path.stem, signature=_SERVE)
    except TfftError:
        raise
    except Exception as error:  # the converter fails with whatever its code meets
        said = (str(error).strip().splitlines() or [""])[0]
        raise SavedModelError(
            f"{str(path)!r} cannot be converted by onnx2keras: {type(error).__name__}: {said[:300]}. Try "
            "onnx2tf in a separate environment: onnx2tf -i model.onnx -o folder, and load the folder."
        ) from error
    _compare(opened.model, sample, expected, path)
    spec, notes = input_contract(opened.model, None, opened.pixels)
    notes = (f"Converted from ONNX by onnx2keras ({len(opened.model.weights)} variables).", *opened.notes, *notes)
    return Backbone(options.name or path.stem, opened.model, str(path), spec, notes)


def _packages() -> tuple[Any, Any]:
    try:
        return importlib.import_module("onnx"), importlib.import_module("onnx2keras").onnx_to_keras
    except ImportError as error:
        raise DependencyError("An ONNX model is converted by onnx2keras: pip install onnx2keras") from error


def _check(proto: Any, onnx: Any, path: Path) -> None:
    """Refuse what reaches outside of the file, before anything of it is computed."""
    elsewhere = [t.name for t in _tensors(proto.graph) if t.data_location == onnx.TensorProto.EXTERNAL]
    foreign = {f"{n.op_type} ({n.domain})" for n in proto.graph.node if n.domain not in _STANDARD}
    inner = [n.op_type for n in proto.graph.node for a in n.attribute if a.HasField("g") or a.graphs]
    found = [f"weights in other files ({join_names(elsewhere, limit=3)})"] if elsewhere else []
    found += [f"operations outside of the standard: {join_names(sorted(foreign))}"] if foreign else []
    found += ["functions of its own"] if proto.functions else []
    if found:
        raise UnsafeModelError(f"{str(path)!r} is not opened. It has {join_names(found)}.")
    if inner:
        raise SavedModelError(f"{str(path)!r} has loops or conditions ({join_names(inner)}), which are not converted.")
    onnx.checker.check_model(proto)


def _tensors(graph: Any) -> Iterator[Any]:
    """All constants of a graph without inner graphs, wherever the format has a place for one."""
    sparse = list(graph.sparse_initializer)
    yield from graph.initializer
    for attribute in (a for node in graph.node for a in node.attribute):
        yield from [attribute.t, *attribute.tensors]
        sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def _input(proto: Any) -> Any:
    weights = {t.name for t in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(proto.graph.output) != 1:
        raise SavedModelError(
            f"Expected an ONNX model with one input and one output. Received: {len(inputs)} and "
            f"{len(proto.graph.output)}."
        )
    return inputs[0]


def _reference(proto: Any, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A random batch of two, and what ONNX's own implementation computes of it."""
    dims = _input(proto).type.tensor_type.shape.dim
    shape = [d.dim_value or _FREE for d in dims]
    if not shape or dims[0].dim_value > 1:
        raise SavedModelError(f"The input of {str(path)!r} has no batch dimension, or a fixed one: {shape}.")
    version = max((o.version for o in proto.opset_import if o.domain in _STANDARD), default=_NORMALIZES)
    if version < _NORMALIZES:  # before it, the reference implementation takes the statistics of the batch
        proto = importlib.import_module("onnx.version_converter").convert_version(proto, _NORMALIZES)
    evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator(proto)
    rows = np.random.default_rng(0).random([2, *shape[1:]]).astype("float32")
    found = [evaluator.run(None, {_input(proto).name: rows[i : i + 1]})[0] for i in range(2)]
    return rows, np.concatenate(found)


def _export(model: keras.Model, images: bool, folder: str) -> None:
    """Write the converted model as a SavedModel with plain names, without the converter's Lambda layers."""
    root = tf.train.Checkpoint()  # any trackable object takes attributes
    root.keep = [v.value for v in model.variables]
    root.variables = [v.value for v in model.variables]
    root.trainable_variables = [v.value for v in model.trainable_variables]
    shape = model.inputs[0].shape
    spec = tf.TensorSpec([None, *shape[1:]], tf.float32, name="images" if images else "inputs")
    root.serve = tf.function(lambda x: keras.tree.flatten(model([x], training=False))[0], input_signature=[spec])
    tf.saved_model.save(root, folder)


def _compare(model: keras.Model, sample: np.ndarray, expected: np.ndarray, path: Path) -> None:
    entering = np.moveaxis(sample, 1, -1) if sample.ndim == 4 else sample
    found = np.asarray(model(entering, training=False))
    if expected.ndim == 4:
        expected = np.moveaxis(expected, 1, -1)
    difference = float(np.max(np.abs(found - expected))) if found.shape == expected.shape else float("inf")
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise SavedModelError(
            f"onnx2keras converts {str(path)!r} incorrectly: the result differs from ONNX's reference "
            "implementation by "
            f"{difference:.3g}. Convert it with onnx2tf in a separate environment, and load the folder."
        )
