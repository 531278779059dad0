"""In which precision to compute: :func:`choose_precision`, :func:`precision_gain`.

Hides what devices can compute in half precision, and which part of a model would.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from tfft.backbones.base import is_opened
from tfft.errors import PlanError, did_you_mean, listed
from tfft.heads import Logits
from tfft.keras_compat import flatten_layers, is_functional

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
WORTH = 1.2  # half precision must make a step on a CPU this much faster to be chosen: three digits instead of seven
_CPU_FLAGS = ("avx512_bf16", "amx_bf16")
_BATCH, _SIDE, _LENGTH, _STEPS = 8, 96, 32, 3

Device = Literal["cpu", "gpu", "tpu"]


@dataclasses.dataclass(frozen=True)
class Precision:
    """What :func:`choose_precision` returns.

    Attributes:
        policy: for ``keras.config.set_dtype_policy``.
        reason: why, in words.
    """

    policy: str
    reason: str

    def __str__(self) -> str:
        return f"{self.policy}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Gain:
    """Which part of a model mixed precision would change.

    Attributes:
        layers: names of the layers whose matrix products and convolutions would be in half precision.
        fixed: names of the blocks opened from SavedModels: they compute in the types that were saved.
        parameters: share of the model's parameters that is in ``layers``.
    """

    layers: tuple[str, ...]
    fixed: tuple[str, ...]
    parameters: float

    def __str__(self) -> str:
        text = f"{len(self.layers)} layers with {self.parameters:.0%} of the parameters would compute in half precision"
        if self.fixed:
            text += f"; {len(self.fixed)} blocks of a SavedModel compute in the types their publisher saved"
        return text


def precision_gain(model: keras.Model) -> Gain:
    """Says which layers of a built model gain from a mixed precision policy.

    Use it before choosing one: a policy reaches Keras' own layers only. The blocks of an opened SavedModel
    are graphs with fixed types, and the logits of tfft's heads are float32 always.

    Args:
        model: any built Keras model. Made under a mixed policy, it shows which layers follow it. Made under
            float32 it shows which would; layers that were given float32 by name are not told from others.

    Returns:
        The layers, the blocks that stay, and the share of the parameters.

    Example:
        >>> print(precision_gain(tfft.build(tfft.load_backbone("efficientnet-lite0"), head)))
    """
    every = list({id(layer): layer for layer in _layers(model)}.values())
    mixed = any(_is_mixed(layer) for layer in every)
    gaining = [layer for layer in every if _gains(layer, mixed)]
    inside = {id(v): math.prod(v.shape) for layer in gaining for v in layer.weights}
    total = sum(math.prod(v.shape) for v in model.weights)
    return Gain(
        tuple(layer.name for layer in gaining),
        tuple(layer.name for layer in every if is_opened(layer)),
        sum(inside.values()) / total if total else 0.0,
    )


def choose_precision(wish: str = "auto", *, model: keras.Model | None = None) -> Precision:
    """Returns the precision to compute in on this machine, with the reason.

    Use it before the model is built: a Keras layer takes its types from the policy at the time it is made.
    Mixed precision keeps variables in float32 and computes in half precision (Micikevicius et al., "Mixed
    precision training", 2018).

    GPUs gain from compute capability 7.0 on (float16) and 8.0 on (bfloat16, which needs no scaling of the
    loss), TPUs with bfloat16. CPUs compute float16 more slowly than float32. With AVX512-BF16 or AMX they
    multiply matrices in bfloat16 at twice the speed and more, but whether a network gains depends on what it
    has besides, so ``"auto"`` stays with float32 unless a model is given and its own training step is
    measured to be 1.2 times as fast.

    Args:
        wish: ``"auto"``, or a policy, which is checked.
        model: the network that will be trained, built under float32; with it ``"auto"`` looks whether it has
            layers that gain, and measures on CPUs with bfloat16. Left as it is.

    Returns:
        Policy and reason.

    Raises:
        PlanError: when the wish is no policy, or the device or the model does not gain from it.

    Example:
        >>> precision = choose_precision()
        >>> keras.config.set_dtype_policy(precision.policy)
    """
    if wish not in ("auto", *POLICIES):
        choices = ("auto", *POLICIES)
        raise PlanError(f"precision must be one of {listed(choices)}, got {wish!r}.{did_you_mean(wish, choices)}")
    if wish == "float32":
        return Precision(wish, "as asked for.")
    device, capability = find_device()
    suited, reason = suited_policies(device, capability, _cpu_flags())
    if wish != "auto" and wish not in suited:
        raise PlanError(f"precision={wish!r} gains nothing here: {reason} Use 'auto' or 'float32'.")
    if model is not None and suited and not precision_gain(model).layers:
        nothing = f"no layer of {model.name!r} would compute in half precision: {precision_gain(model)}."
        if wish != "auto":
            raise PlanError(f"precision={wish!r} gains nothing here: {nothing} Use 'auto' or 'float32'.")
        return Precision("float32", nothing)
    if wish != "auto":
        return Precision(wish, f"as asked for. {reason}")
    if not suited or (device == "cpu" and model is None):
        more = " Whether this network gains was not measured: pass model=." if suited else ""
        return Precision("float32", reason + more)
    return Precision(suited[0], reason) if device != "cpu" else _measured(model, reason)


def find_device() -> tuple[Device, tuple[int, int] | None]:
    """Returns the kind of device that TensorFlow trains on, and the lowest compute capability of the GPUs."""
    if tf.config.get_visible_devices("TPU"):
        return "tpu", None
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return "cpu", None
    found = [tf.config.experimental.get_device_details(gpu).get("compute_capability") for gpu in gpus]
    return "gpu", None if None in found else min(found)


def suited_policies(
    device: Device, capability: tuple[int, int] | None, cpu_flags: Sequence[str] = ()
) -> tuple[tuple[str, ...], str]:
    """Returns the mixed policies that a device can gain from, best first, and why, in words.

    Args:
        device: from :func:`find_device`.
        capability: compute capability of a GPU; None where it is not known.
        cpu_flags: what the processor says it can do.
    """
    if device == "tpu":
        return ("mixed_bfloat16",), "TPUs multiply matrices in bfloat16."
    if device == "gpu":
        if capability is None:
            return (), "the GPU does not tell its compute capability."
        name = ".".join(map(str, capability))
        if capability >= (8, 0):
            return ("mixed_bfloat16", "mixed_float16"), f"the GPU has compute capability {name}, bfloat16 from 8.0 on."
        if capability >= (7, 0):
            return ("mixed_float16",), f"the GPU has compute capability {name}: float16 from 7.0, bfloat16 from 8.0 on."
        return (), f"the GPU has compute capability {name}, half precision gains from 7.0 on."
    flags = [flag for flag in _CPU_FLAGS if flag in cpu_flags]
    slow = "CPUs compute float16 more slowly than float32"
    if not flags:
        return (), f"{slow}, and this one has no instructions for bfloat16 ({' or '.join(_CPU_FLAGS)})."
    return ("mixed_bfloat16",), f"{slow}; this one has instructions for bfloat16 ({listed(flags)})."


def _cpu_flags() -> list[str]:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux: TensorFlow has bfloat16 kernels for CPUs there only
        return []
    return next((line.split() for line in lines if line.startswith("flags")), [])


def _layers(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yields the layers of a model and of the models in it, in order, and the parts of composite layers."""
    if isinstance(layer, keras.Model):
        for inner in layer.layers:
            yield from _layers(inner)
    else:
        yield from flatten_layers(layer)


def _gains(layer: keras.layers.Layer, mixed: bool) -> bool:
    """Tells whether a layer multiplies by a kernel in a type that a policy decides."""
    if is_opened(layer) or not any(len(v.shape) > 1 for v in layer.weights):
        return False
    if (
        isinstance(layer, keras.layers.Embedding) or len(flatten_layers(layer)) > 1
    ):  # looks up; its parts are asked themselves
        return False
    return _is_mixed(layer) if mixed else _follows(layer)


def _is_mixed(layer: keras.layers.Layer) -> bool:
    return layer.dtype_policy.name.startswith("mixed")


def _follows(layer: keras.layers.Layer) -> bool:
    """Tells whether a layer made under float32 would have been made in half precision under a mixed policy."""
    return layer.dtype_policy.name == "float32" and not is_opened(layer) and not isinstance(layer, Logits)


# ------------------------------------------------------------------- measuring


def _measured(model: keras.Model, reason: str) -> Precision:
    if not is_functional(model) or any(t.dtype == "string" for t in model.inputs):
        return Precision("float32", f"{reason} {model.name!r} could not be measured: it has no graph, or takes text.")
    full, half = step_seconds(model)
    result = f"a training step of {model.name!r} takes {half * 1e3:.3g} ms in bfloat16, {full * 1e3:.3g} ms in float32"
    policy = "mixed_bfloat16" if half * WORTH <= full else "float32"
    return Precision(policy, f"{reason} Measured: {result}, for {_BATCH} examples.")


def step_seconds(model: keras.Model) -> tuple[float, float]:
    """Measures a forward and backward pass of 8 examples, through copies of a model.

    Args:
        model: functional or sequential, made under float32; it is left as it is, and so are Python's
            random numbers, which Keras draws the copies' weights from.

    Returns:
        Seconds in float32 and in mixed bfloat16, the best of three each.
    """
    drawn = random.getstate()
    try:
        steps = [_step(made_with(model, policy)) for policy in ("float32", "mixed_bfloat16")]
    finally:
        random.setstate(drawn)
    times = [[_timed(step) for step in steps] for _ in range(_STEPS + 1)]  # in turn: what else runs slows both
    full, half = (min(column) for column in zip(*times[1:], strict=True))  # the first ones traced
    return full, half


def made_with(model: keras.Model, policy: str) -> keras.Model:
    """Returns a copy of a model with new weights, its layers made as under a policy; frozen ones stay frozen."""

    def make(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if _follows(layer) and "dtype" in config:
            config["dtype"] = policy
        return type(layer).from_config(config)

    nested = any(isinstance(layer, keras.Model) for layer in model.layers)
    return keras.models.clone_model(model, clone_function=make, recursive=nested)


def _step(model: keras.Model) -> Callable[[], Any]:
    inputs = keras.tree.pack_sequence_as(model.input, [_example(t) for t in model.inputs])

    @tf.function
    def step() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            outputs = keras.tree.flatten(model(inputs, training=True))
            loss = tf.add_n([tf.reduce_mean(tf.square(tf.cast(t, tf.float32))) for t in outputs])
        found = tape.gradient(loss, [v.value for v in model.trainable_variables])
        return [tf.reduce_sum(tf.convert_to_tensor(g)) for g in found if g is not None] or [loss]

    return step


def _example(tensor: keras.KerasTensor) -> tf.Tensor:
    """Random numbers for one input; sizes that are open are small."""
    rest = tensor.shape[1:]
    shape = (_BATCH, *(n or (_SIDE if len(rest) > 2 else _LENGTH) for n in rest))
    if keras.backend.is_float_dtype(tensor.dtype):
        return tf.random.stateless_normal(shape, (0, 1), dtype=tensor.dtype)
    return tf.zeros(shape, tensor.dtype)


def _timed(step: Callable[[], Any]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began
