"""Serving signatures of a Keras model: functions with named inputs and outputs.

Implementation notes: the functions include the task's postprocessing (labels, probabilities) and the modality's
decoding of files, and the SavedModel must contain all variables and tables that they use.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import heads, registry
from tfft.backbones.text_ops import note_on, ops_of
from tfft.errors import ExportError, TfftError
from tfft.exporting.loader import ARRAY_SIGNATURE, BYTES_SIGNATURE, EncodedInput, Served, ServingInput
from tfft.keras_compat import producer
from tfft.specs import InputSpec

_NO_KIND = f"{BYTES_SIGNATURE} left out: the model's input is not one image."


@dataclasses.dataclass(frozen=True, eq=False)
class Serving(Served):
    """Serving functions of one model, before export.

    Attributes:
        signatures: ``serving_default``; where files are taken, ``serve_bytes``; and where the head has raw outputs,
            ``raw``: concrete functions.
        reference: Function with the expected answers of ``serving_default``: named arrays to named arrays, through
            ``model.predict``. If outputs have the size of images, a second argument gives the sizes, int32 [B, 2].
        class_names: Class names in the order of the logits; empty if there are none.
        serving_input: How the model takes examples of its modality; None if that is unknown.
        task: Name of the head's task, or ``"outputs"`` where the model's outputs are passed on as they are.
        notes: Omissions and their reasons, one sentence each.
        facts: Facts of the head for the card.
        tolerances: See :attr:`tfft.heads.Head.tolerances`.
        sized: Whether outputs have the size of each image, see :attr:`tfft.heads.ServedModel.sized`.
        model: The Keras model.
    """

    signatures: Mapping[str, Any]
    reference: Callable[..., dict[str, np.ndarray]]
    class_names: tuple[str, ...]
    task: str
    serving_input: ServingInput | None = None  # type: ignore[assignment]
    notes: tuple[str, ...] = ()
    facts: Mapping[str, object] = dataclasses.field(default_factory=dict)
    tolerances: Mapping[str, float] = dataclasses.field(default_factory=dict)
    sized: bool = False
    model: keras.Model | None = None

    @property
    def encoded(self) -> EncodedInput | None:
        """Input for the contents of files; None without ``serve_bytes``."""
        return None if self.serving_input is None else self.serving_input.encoded


def serving_functions(
    model: keras.Model,
    *,
    class_names: Sequence[str] | None = None,
    input_spec: InputSpec | None = None,
    fixed_size: bool = False,
) -> Serving:
    """Wrap a model as serving functions, without writing anything.

    Args:
        model: A built functional or Sequential Keras model.
        class_names: Names of the classes; taken from the head of a model that tfft built.
        input_spec: For a model that tfft did not build: the pixels its image input expects, which
            ``serve_bytes`` then delivers.
        fixed_size: Whether arrays of images have the model's size, so that nothing is resized. Defaults to any size.

    Returns:
        The functions and the reference that they are compared with.

    Raises:
        ExportError: If the model's inputs, outputs or class names do not allow it.
    """
    _inputs(model)  # a model that was never built is an error
    head, served = _served(model, class_names)
    inputs = _inputs(served.model)
    taken = serving_input(served.model, inputs, input_spec=input_spec)
    if taken is not None:
        renamed = {taken.names.get(name, name): spec for name, spec in inputs.items()}
        inputs = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in renamed.items()}
        if fixed_size and taken.encoded is not None and isinstance(taken.spec, InputSpec):
            image = [None, taken.spec.height, taken.spec.width, taken.spec.channels]
            inputs = {
                name: tf.TensorSpec(image if spec.shape.rank == 4 else spec.shape, spec.dtype, name=name)
                for name, spec in inputs.items()
            }
    signatures = _signatures(served, inputs, taken)
    notes = ((_NO_KIND,) if taken is None else taken.notes, (note_on(ops_of(signatures)),))
    said = tuple(text for part in notes for text in part if text)
    reference = _reference(served, tuple(inputs))
    if head is None:
        return Serving(signatures, reference, (), "outputs", taken, said, model=model)
    names, sized = tuple(head.class_names or ()), served.sized is not None
    return Serving(signatures, reference, names, head.task, taken, said, head.facts, head.tolerances, sized, model)


def _signatures(
    served: heads.ServedModel, inputs: Mapping[str, tf.TensorSpec], taken: ServingInput | None
) -> dict[str, tf.types.experimental.ConcreteFunction]:
    shorten = (lambda value: value) if taken is None or taken.shorten is None else taken.shorten

    def outputs_of(values: Mapping[str, Any]) -> Any:
        return served.model(_arrange(served.model, [shorten(values[name]) for name in inputs]), training=False)

    def answer(values: Mapping[str, Any], sizes: Any = None) -> dict[str, tf.Tensor]:
        return _answer(served, outputs_of(values), next(iter(values.values())), sizes)

    signatures = {ARRAY_SIGNATURE: _trace(lambda **values: answer(values), inputs)}
    if taken is not None and taken.encoded is not None:
        one = {taken.encoded.name: tf.TensorSpec([None], tf.string, name=taken.encoded.name)}
        decoded = _bytes_function(answer, next(iter(inputs)), taken.encoded, served.sized is not None)
        signatures[BYTES_SIGNATURE] = _trace(decoded, one)
    for name, further in served.further.items():
        signatures[name] = _trace(lambda further=further, **values: further(outputs_of(values)), inputs)
    for name, function in signatures.items():
        _check_batch_dimension(name, function)
    return signatures


def _answer(served: heads.ServedModel, outputs: Any, images: Any, sizes: Any) -> dict[str, tf.Tensor]:
    """Return the answer of a model; without sizes, that of images as they were given."""
    if served.sized is None:
        return served.answer(outputs)
    shape = tf.shape(images)
    given = tf.tile(shape[None, 1:3], [shape[0], 1]) if sizes is None else tf.cast(sizes, tf.int32)
    return served.sized(outputs, given)


def _reference(served: heads.ServedModel, names: Sequence[str]) -> Callable[..., dict[str, np.ndarray]]:
    def reference(values: Mapping[str, np.ndarray], sizes: Any = None) -> dict[str, np.ndarray]:
        # The check runs on the CPU, where the fresh process runs: a GPU's convolutions round differently.
        with tf.device("/CPU:0"):
            tensors = [tf.constant(values[name]) for name in names]  # NumPy has no string type
            ordered = _arrange(served.model, tensors)
            outputs = served.model.predict(ordered, batch_size=len(tensors[0]), verbose=0)
            found = _answer(served, outputs, tensors[0], sizes)
            return {name: np.asarray(value) for name, value in found.items()}

    return reference


def serving_input(
    model: keras.Model, inputs: Mapping[str, tf.TensorSpec] | None = None, **options: Any
) -> ServingInput | None:
    """Return how a model takes examples, from the first modality that knows its inputs; None if none does.

    Args:
        model: Any functional or Sequential Keras model.
        inputs: Inputs of the model by name, if they are known.
        **options: Options such as ``input_spec``, see :func:`serving_functions`.
    """
    given = _inputs(model) if inputs is None else inputs
    kinds = map(registry.modality, registry.modality_names())
    inputs_by_kind = (kind.serving(model, given, **options) for kind in kinds)
    return next((found for found in inputs_by_kind if found is not None), None)


def _bytes_function(answer: Callable, input_name: str, encoded: EncodedInput, sized: bool) -> Callable:
    def serve_bytes(**values: tf.Tensor) -> dict[str, tf.Tensor]:
        files = values[encoded.name]
        decoded = {input_name: encoded.prepare(tf.map_fn(encoded.decode, files, fn_output_signature=encoded.decoded))}
        if not sized or encoded.size is None:
            return answer(decoded)
        return answer(decoded, tf.map_fn(encoded.size, files, fn_output_signature=tf.TensorSpec([2], tf.float32)))

    return serve_bytes


def _inputs(model: keras.Model) -> dict[str, tf.TensorSpec]:
    tensors = getattr(model, "inputs", None)
    if not tensors:
        raise ExportError(
            f"The model {model.name!r} has no known inputs. Expected a functional or Sequential model that is built; "
            f"received {type(model).__name__}. Fix: wrap it, inputs = keras.Input(...); "
            "keras.Model(inputs, model(inputs))."
        )
    specs = {}
    for name, tensor in zip(_input_names(model), _flat_inputs(model), strict=True):
        if tensor.shape[0] is not None:
            raise ExportError(
                f"The input {name!r} has a fixed batch of {tensor.shape[0]}. A server chooses the batch, "
                "so build the model with keras.Input(shape=...) and without batch_size."
            )
        specs[name] = tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
    return specs


def _flat_inputs(model: keras.Model) -> list[keras.KerasTensor]:
    structure = _structure(model, "input")  # model.inputs sorts a dict's inputs, the user's dict need not
    return list(structure.values()) if isinstance(structure, dict) else list(model.inputs)


def _input_names(model: keras.Model) -> list[str]:
    structure = _structure(model, "input")
    names = list(structure) if isinstance(structure, dict) else [tensor.name for tensor in model.inputs]
    plain = [re.sub(r"\W", "_", name) for name in names]  # a signature's arguments are Python names
    return [f"input_{name}" if name[:1].isdigit() else name for name in plain]


def _arrange(model: keras.Model, ordered: Sequence[Any]) -> Any:
    structure = _structure(model, "input")
    if isinstance(structure, dict):
        return dict(zip(structure, ordered, strict=True))
    return list(ordered) if isinstance(structure, (list, tuple)) else ordered[0]


def _structure(model: keras.Model, side: str) -> Any:
    """Return the inputs or outputs as the model nests them; a Sequential model has no such attribute."""
    return getattr(model, f"{side}s")[0] if isinstance(model, keras.Sequential) else getattr(model, side)


def _trace(function: Callable, inputs: Mapping[str, tf.TensorSpec]) -> tf.types.experimental.ConcreteFunction:
    return tf.function(function, autograph=False).get_concrete_function(**inputs)


def _check_batch_dimension(name: str, function: tf.types.experimental.ConcreteFunction) -> None:
    for key, tensor in function.structured_outputs.items():
        if tensor.shape.rank is not None and (tensor.shape.rank == 0 or tensor.shape[0] is not None):
            raise ExportError(
                f"The output {key!r} of {name} has the shape {tensor.shape}. Its first dimension has to be the batch, "
                "one row per example, or a server cannot split a batch among its callers."
            )


def _served(model: keras.Model, class_names: Sequence[str] | None) -> tuple[heads.Head | None, heads.ServedModel]:
    """Return the head of a model, or the one that class names imply, and the model that answers requests."""
    head = _head(model)
    if head is None:
        if class_names is None:
            return None, heads.ServedModel(model, _as_named(model))
        assumed, to_logits = _assumed_head(model, tuple(class_names))
        return assumed, heads.ServedModel(model, lambda outputs: assumed.postprocess(to_logits(outputs)))
    own = tuple(head.class_names or ())
    if class_names is not None and tuple(class_names) != own:
        if len(class_names) != len(own):
            raise ExportError(
                f"class_names has {len(class_names)} names, the model's head has {len(own)} classes: {', '.join(own)}."
            )
        head = dataclasses.replace(head, class_names=tuple(class_names))
    return head, head.served(model)


def _head(model: keras.Model) -> heads.Head | None:
    try:
        return heads.from_model(model)
    except TfftError:
        return None


def _as_named(model: keras.Model) -> Callable[[Any], dict[str, tf.Tensor]]:
    structure = _structure(model, "output")
    keys = list(structure) if isinstance(structure, dict) else None

    def named(outputs: Any) -> dict[str, tf.Tensor]:
        values = [outputs[key] for key in keys] if keys else keras.tree.flatten(outputs)
        names = keys or (["outputs"] if len(values) == 1 else [f"output_{i}" for i in range(len(values))])
        return {name: tf.convert_to_tensor(value) for name, value in zip(names, values, strict=True)}

    return named


def _assumed_head(model: keras.Model, class_names: tuple[str, ...]) -> tuple[heads.Head, Callable]:
    """Return the head that class names and the last activation imply, and what undoes that activation."""
    outputs = model.outputs
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise ExportError(
            "class_names needs a model with one output of shape [batch, classes]; "
            f"received {[tuple(tensor.shape) for tensor in outputs]}. "
            "Leave class_names out to export the outputs as they are."
        )
    units, activation = outputs[0].shape[1], _last_activation(model)
    if activation == "sigmoid":
        expected = 2 if units == 1 else units
        task = "binary" if units == 1 else "multilabel"
        to_logits = lambda p: tf.math.log(tf.maximum(p, _TINY)) - tf.math.log(tf.maximum(1.0 - p, _TINY))  # noqa: E731
    else:
        expected, task = units, "classification"
        to_logits = (lambda p: tf.math.log(tf.maximum(p, _TINY))) if activation == "softmax" else tf.convert_to_tensor
    if len(class_names) != expected:
        raise ExportError(f"class_names has {len(class_names)} names, the model's output has {units} columns.")
    return registry.task(task).make_head(class_names), to_logits


_TINY = float(np.finfo(np.float32).tiny)


def _last_activation(model: keras.Model) -> str:
    operation = producer(model.outputs[0])
    if isinstance(operation, keras.Model):
        return _last_activation(operation)
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(operation, "activation", None), "__name__", "linear")
