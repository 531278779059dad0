"""Keras convolutions and the fixed BatchNorm behind them as one layer while a model trains: :func:`fold_norms`.

Blocks of SavedModels do the same inside, see :mod:`tfft.backbones.savedmodel.training_rewrites`.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfft.errors import BackboneError
from tfft.features.functional_graph import Step, flatten, merge_calls, steps_of
from tfft.layers.fast_gradients import FoldedConvolution, is_product, use_fast_gradients


def fold_norms(model: keras.Model) -> keras.Model:
    """Return a model that computes the same with quicker gradients, and shares the variables.

    Args:
        model: Model to fit, built. BatchNorm layers whose statistics move, layers that are called more than once and
            convolutions with an activation stay as they are.

    Returns:
        A new model to fit in its place; ``model`` itself if there is nothing to rewrite or it would not pay (see
        :func:`tfft.layers.fast_gradients.use_fast_gradients`).

    Example:
        >>> fast = fold_norms(model)
        >>> fast.compile("adam", "mse")
        >>> fast.fit(dataset)  # trains the variables of ``model``
    """
    if not use_fast_gradients() or tf.distribute.has_strategy():
        return model
    try:
        flat = flatten(model)
    except BackboneError:  # no graph is known
        return model
    steps = steps_of(flat)
    merged = dict(_chains(steps, {id(t) for t in flat.outputs}))
    return merge_calls(flat, merged) if merged else model


def _chains(steps: Sequence[Step], ends: set[int]) -> Any:
    """Yield the calls to merge: the key of the last one, the first one, and their layer."""
    readers = collections.Counter(id(t) for step in steps for t in step.inputs)
    calls = collections.Counter(id(step.operation) for step in steps)
    made = {id(t): step for step in steps for t in step.outputs}
    done = set()
    for step in steps:
        first = made.get(id(step.inputs[0])) if len(step.inputs) == 1 else None
        if first is None or not _is_fixed_norm(step.operation) or not _is_linear(first.operation):
            continue
        inside = id(first.outputs[0])
        if readers[inside] == 1 and inside not in ends and calls[id(first.operation)] == calls[id(step.operation)] == 1:
            done.add(first.key)
            yield step.key, (first, FoldedConvolution(first.operation, step.operation, name=f"{first.name}_folded"))
    for step in steps:
        if step.key not in done and calls[id(step.operation)] == 1 and _is_linear(step.operation):
            if is_product(step.operation):
                yield step.key, (step, FoldedConvolution(step.operation, None, name=f"{step.name}_product"))


def _is_linear(layer: Any) -> bool:
    """Whether a layer is a plain convolution in 32-bit numbers, with channels last and without activation."""
    return (
        type(layer) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
        and layer.activation is keras.activations.linear
        and layer.data_format == "channels_last"
        and layer.compute_dtype == "float32"
        and layer.quantization_mode is None
        and not getattr(layer, "lora_enabled", False)
    )


def _is_fixed_norm(layer: Any) -> bool:
    """Whether a layer is a BatchNorm over channels whose statistics do not move in training."""
    return (
        type(layer) is keras.layers.BatchNormalization
        and not layer.trainable
        and layer.axis in (-1, 3)
        and layer.compute_dtype == "float32"
    )
