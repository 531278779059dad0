"""What an exported model can be asked: functions with named inputs and outputs around a Keras model.

Hidden here: how the task's postprocessing joins the model (labels, probabilities), how encoded images
reach it, and which variables and tables the SavedModel has to carry.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import heads
from tfft.backbones.text_ops import note_on, ops_of
from tfft.errors import ExportError, TfftError
from tfft.exporting.loader import BYTES_SIGNATURE, answer_bytes, answer_texts, answer_waves, text_inputs
from tfft.layers.log_mel import audio_of, decode_wav
from tfft.layers.preprocess import decode_image, preprocess_of, scale_pixels
from tfft.specs import AudioSpec, InputSpec

ARRAY_SIGNATURE = "serving_default"


@dataclasses.dataclass(frozen=True, eq=False)
class Serving:
    """The functions of one model, before they are written.

    Attributes:
        functions: ``serving_default`` and, for images, ``serve_bytes``: concrete functions.
        reference: what ``serving_default`` has to answer: named arrays to named arrays, through ``model.predict``.
        decode: encoded image to the array ``reference`` takes, or None without ``serve_bytes``.
        class_names: in the order of the logits; empty where there are none.
        task: name of the head's task, or ``"outputs"`` where the model's outputs are passed on as they are.
        input_spec: size and pixel range of the images; None where the input is not an image.
        notes: what was left out and why, one sentence each.
        audio: rate and length of the recordings; None where the input is none.
    """

    functions: Mapping[str, tf.types.experimental.ConcreteFunction]
    reference: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
    decode: Callable[[bytes], np.ndarray] | None
    class_names: tuple[str, ...]
    task: str
    input_spec: InputSpec | None
    notes: tuple[str, ...] = ()
    audio: AudioSpec | None = None

    @property
    def text_inputs(self) -> tuple[str, ...]:
        """Names of its inputs where the model takes texts: one, or two for pairs; else nothing."""
        return text_inputs(self.functions[ARRAY_SIGNATURE])

    def predict_texts(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Answers for texts, or for pairs, as the exported model would; only where there are ``text_inputs``."""
        return answer_texts(self.functions[ARRAY_SIGNATURE], texts, pairs)

    def predict_bytes(self, encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Answers for encoded images or recordings as the exported model would; only where there is a ``decode``."""
        return answer_bytes(self.functions[BYTES_SIGNATURE], encoded)

    def predict_waves(self, waves: np.ndarray) -> dict[str, np.ndarray]:
        """Answers for waves [n, samples] as the exported model would; only where there is ``audio``."""
        return answer_waves(self.functions[ARRAY_SIGNATURE], waves)


def serving_functions(
    model: keras.Model,
    *,
    class_names: Sequence[str] | None = None,
    input_spec: InputSpec | None = None,
) -> Serving:
    """Wraps a model as the functions that will be served, without writing anything.

    Args:
        model: a built functional or Sequential Keras model.
        class_names: names of the classes; taken from the head of a model that tfft built.
        input_spec: for a model that tfft did not build: the pixels its image input expects, which
            ``serve_bytes`` then delivers.

    Returns:
        The functions and the reference that they are compared with.

    Raises:
        ExportError: when the model's inputs, outputs or class names do not allow it.
    """
    inputs = _inputs(model)
    postprocess, task, names = _postprocess(model, class_names)

    def answer(values: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        return postprocess(model(_arrange(model, values), training=False))

    def reference(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # The check runs on the CPU, where the fresh process runs: a GPU's convolutions round differently.
        with tf.device("/CPU:0"):
            tensors = {name: tf.constant(value) for name, value in values.items()}  # NumPy has no string type
            outputs = model.predict(_arrange(model, tensors), batch_size=_rows(values), verbose=0)
            return {name: value.numpy() for name, value in postprocess(outputs).items()}

    functions = {ARRAY_SIGNATURE: _trace(lambda **values: answer(values), inputs)}
    spec, prepare, note = _image_contract(model, inputs, input_spec)
    decode, audio = None, audio_of(model)
    if audio is not None:
        [name] = inputs
        functions[BYTES_SIGNATURE] = _trace(_audio_function(answer, name, audio), _AUDIO_INPUT)
        decode, note = (lambda encoded: decode_wav(tf.constant(encoded), audio).numpy()), ""
    if prepare is not None:
        functions[BYTES_SIGNATURE] = _trace(_bytes_function(answer, next(iter(inputs)), spec, prepare), _BYTES_INPUT)
        decode = lambda encoded: prepare(decode_image(tf.constant(encoded), spec)).numpy()  # noqa: E731
    for name, function in functions.items():
        _check_batch_dimension(name, function)
    if all(tensor.dtype == tf.string and tensor.shape.rank == 1 for tensor in inputs.values()):
        note = ""  # it takes texts: nobody expects image files
    notes = tuple(text for text in (note, note_on(ops_of(functions))) if text)
    return Serving(functions, reference, decode, names, task, spec, notes, audio)


def _rows(values: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(values.values())))


_BYTES_INPUT = {"image_bytes": tf.TensorSpec([None], tf.string, name="image_bytes")}


def _bytes_function(answer: Callable, input_name: str, spec: InputSpec, prepare: Callable) -> Callable:
    pixels = tf.TensorSpec([spec.height, spec.width, spec.channels], tf.uint8)

    def serve_bytes(**values: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.map_fn(lambda one: decode_image(one, spec), values["image_bytes"], fn_output_signature=pixels)
        return answer({input_name: prepare(images)})

    return serve_bytes


_AUDIO_INPUT = {"audio_bytes": tf.TensorSpec([None], tf.string, name="audio_bytes")}


def _audio_function(answer: Callable, input_name: str, spec: AudioSpec) -> Callable:
    clip = tf.TensorSpec([spec.samples], tf.float32)

    def serve_bytes(**values: tf.Tensor) -> dict[str, tf.Tensor]:
        waves = tf.map_fn(lambda one: decode_wav(one, spec), values["audio_bytes"], fn_output_signature=clip)
        return answer({input_name: waves})

    return serve_bytes


def _inputs(model: keras.Model) -> dict[str, tf.TensorSpec]:
    tensors = getattr(model, "inputs", None)
    if not tensors:
        raise ExportError(
            f"The model {model.name!r} has no known inputs. Expected a functional or Sequential model that is built; "
            f"received {type(model).__name__}. Fix: wrap it, inputs = keras.Input(...); "
            f"keras.Model(inputs, model(inputs))."
        )
    specs = {}
    for name, tensor in zip(_input_names(model), _flat_inputs(model), strict=True):
        if tensor.shape[0] is not None:
            raise ExportError(
                f"The input {name!r} has a fixed batch of {tensor.shape[0]}. A server chooses the batch, "
                f"so build the model with keras.Input(shape=...) and without batch_size."
            )
        specs[name] = tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
    return specs


def _flat_inputs(model: keras.Model) -> list[keras.KerasTensor]:
    structure = _structure(model, "input")  # model.inputs sorts a dict's inputs, the user's dict need not
    return list(structure.values()) if isinstance(structure, dict) else list(model.inputs)


def _input_names(model: keras.Model) -> list[str]:
    if preprocess_of(model) is not None and len(model.inputs) == 1:
        return ["images"]
    structure = _structure(model, "input")
    names = list(structure) if isinstance(structure, dict) else [tensor.name for tensor in model.inputs]
    return [re.sub(r"\W", "_", name) for name in names]  # a signature's arguments are Python names


def _arrange(model: keras.Model, values: Mapping[str, Any]) -> Any:
    ordered = [values[name] for name in _input_names(model)]
    structure = _structure(model, "input")
    if isinstance(structure, dict):
        return dict(zip(structure, ordered, strict=True))
    return ordered if isinstance(structure, (list, tuple)) else ordered[0]


def _structure(model: keras.Model, side: str) -> Any:
    """Returns the inputs or outputs as the model nests them; a Sequential model has no such attribute."""
    return getattr(model, f"{side}s")[0] if isinstance(model, keras.Sequential) else getattr(model, side)


def _trace(function: Callable, inputs: Mapping[str, tf.TensorSpec]) -> tf.types.experimental.ConcreteFunction:
    return tf.function(function, autograph=False).get_concrete_function(**inputs)


def _check_batch_dimension(name: str, function: tf.types.experimental.ConcreteFunction) -> None:
    for key, tensor in function.structured_outputs.items():
        if tensor.shape.rank is not None and (tensor.shape.rank == 0 or tensor.shape[0] is not None):
            raise ExportError(
                f"The output {key!r} of {name} has the shape {tensor.shape}. Its first dimension has to be the batch, "
                f"one row per example, or a server cannot split a batch among its callers."
            )


def _image_contract(
    model: keras.Model, inputs: Mapping[str, tf.TensorSpec], given: InputSpec | None
) -> tuple[InputSpec | None, Callable | None, str]:
    """Returns the images the model takes, what turns decoded pixels into its input, and a note."""
    preprocess = preprocess_of(model)
    if preprocess is not None:
        return preprocess.spec, lambda pixels: pixels, ""
    spec = next(iter(inputs.values()))
    is_image = len(inputs) == 1 and spec.shape.rank == 4 and spec.shape[-1] in (1, 3)
    if not is_image:
        return None, None, f"{BYTES_SIGNATURE} left out: the model's input is not one image."
    height, width, channels = spec.shape[1:]
    if height is None or width is None:
        return None, None, f"{BYTES_SIGNATURE} left out: the model's image size is open."
    if given is not None:
        given = dataclasses.replace(given, height=height, width=width, channels=channels)
        return given, lambda pixels: tf.cast(scale_pixels(tf.cast(pixels, tf.float32), given), spec.dtype), ""
    if spec.dtype == tf.uint8 or any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers):
        source = "the model itself: it scales pixels from 0 to 255"
        found = InputSpec(height, width, channels, value_range=(0.0, 255.0), source=source)
        return found, lambda pixels: tf.cast(pixels, spec.dtype), ""
    note = f"{BYTES_SIGNATURE} left out: nothing says which pixel range the model expects; pass input_spec=."
    return None, None, note


def _postprocess(
    model: keras.Model, class_names: Sequence[str] | None
) -> tuple[Callable[[Any], dict[str, tf.Tensor]], str, tuple[str, ...]]:
    head = _head(model)
    if head is None and class_names is None:
        return _as_named(model), "outputs", ()
    if head is None:
        head, to_logits = _assumed_head(model, tuple(class_names))
        return lambda outputs: head.postprocess(to_logits(outputs)), head.task, tuple(class_names)
    own = tuple(head.class_names or ())
    if class_names is not None and tuple(class_names) != own:
        if len(class_names) != len(own):
            raise ExportError(
                f"class_names has {len(class_names)} names, the model's head has {len(own)} classes: {', '.join(own)}."
            )
        head = dataclasses.replace(head, class_names=tuple(class_names))
    return head.postprocess, head.task, tuple(head.class_names or ())


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
    """Returns the head that class names and the last activation imply, and what undoes that activation."""
    outputs = model.outputs
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise ExportError(
            f"class_names needs a model with one output of shape [batch, classes]; "
            f"received {[tuple(tensor.shape) for tensor in outputs]}. "
            f"Leave class_names away to export the outputs as they are."
        )
    units, activation = outputs[0].shape[1], _last_activation(model)
    if activation == "sigmoid":
        expected = 2 if units == 1 else units
        head = heads.binary if units == 1 else heads.multilabel
        to_logits = lambda p: tf.math.log(tf.maximum(p, _TINY)) - tf.math.log(tf.maximum(1.0 - p, _TINY))  # noqa: E731
    else:
        expected, head = units, heads.classification
        to_logits = (lambda p: tf.math.log(tf.maximum(p, _TINY))) if activation == "softmax" else tf.convert_to_tensor
    if len(class_names) != expected:
        raise ExportError(f"class_names has {len(class_names)} names, the model's output has {units} columns.")
    return head(class_names), to_logits


_TINY = float(np.finfo(np.float32).tiny)


def _last_activation(model: keras.Model) -> str:
    operation = model.outputs[0]._keras_history.operation
    if isinstance(operation, keras.Model):
        return _last_activation(operation)
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(operation, "activation", None), "__name__", "linear")
