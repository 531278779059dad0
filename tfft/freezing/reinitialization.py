"""Reinitialization of the last blocks of a backbone: :func:`reinitialize`.

Implementation notes: Keras layers use their own initializers; variables of a SavedModel, which has none, follow rules
by name and shape.
"""

from __future__ import annotations

import contextlib
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.backbones.base import Backbone, Block, is_opened
from tfft.errors import BlockError, PlanError, join_names, raise_problems
from tfft.freezing.batch_norm import STATISTIC, batch_norms, has_statistics, moves_statistics, recompute
from tfft.freezing.selection import select
from tfft.freezing.weight_values import is_floating
from tfft.keras_compat import own_trainable_variables

Initializer = Callable[..., Any]
_Change = tuple[keras.Variable, Any]

_KERNEL = re.compile(r"(\w+_)?(kernel|weights?|filters?)(_\d+)?|w", re.I)
_ATTENTION = re.compile(r"transformer|attention|encoder|bert|query|key|value|pooler", re.I)
_DEPTHWISE = re.compile(r"depthwise|(^|[_/.])dw(conv)?\d*([_/.]|$)", re.I)


def reinitialize(
    model: keras.Model,
    blocks: int,
    *,
    seed: int = 0,
    dataset: tf.data.Dataset | None = None,
    initializers: Mapping[str, Initializer] | None = None,
) -> list[keras.Variable]:
    """Give the last blocks of a backbone new random weights.

    Use it if the last blocks are too specific to the pretraining task, which makes fine-tuning on little data unstable
    (for BERT one to five of them). Call it before :func:`tfft.regularizers.add_l2_sp`, and train these blocks
    afterwards: a trained head no longer fits their features.

    Keras layers get what their own initializers draw. Blocks of a SavedModel, which come without any, get kernels from
    a truncated normal distribution with variance ``2 / fan_in`` (convolutions, He 2015) or ``1 / fan_in`` (dense
    layers), embeddings and kernels of transformers with a standard deviation of 0.02 (as BERT was), biases and
    offsets 0, scales 1. Numbers that the publisher keeps fixed stay, except for running statistics.

    Those of BatchNormalization belonged to the old weights. Where they train they start at mean 0 and variance 1, as
    in a new layer, and follow. Where they are fixed, which is tfft's default, nothing would ever correct them:
    then ``dataset`` is needed, and they become the statistics of the new weights on it. Blocks of a SavedModel that was
    opened with fixed statistics compute no others, and are refused.

    Zhang et al., Revisiting Few-sample BERT Fine-tuning (2021).

    Args:
        model: Built model; changed in place.
        blocks: Number of last blocks, as in :func:`tfft.freezing.select`; 0 does nothing. A model without a backbone
            inside counts as a backbone as a whole, with its last layer as the last block.
        seed: Seed for the new values.
        dataset: Batches of inputs or (inputs, labels) to take BatchNorm statistics from, for all BatchNormalization
            in these blocks, whether it trains or not; needed where it is fixed.
        initializers: For variables of a SavedModel by a regular expression, searched in their names; the first that
            is found counts, before all rules above.

    Returns:
        The variables that were set.

    Raises:
        BlockError: If the backbone has fewer blocks, ``blocks`` is not an int, or a layer cannot be rebuilt.
        PlanError: Lists every variable that no rule is known for, and every layer whose statistics would stay wrong.

    Example:
        >>> tfft.unfreeze(model, 3)
        >>> tfft.freezing.reinitialize(model, 2, dataset=train)
    """
    if isinstance(blocks, bool) or not isinstance(blocks, int):
        raise BlockError(f"blocks must be an int, the number of last blocks, received {blocks!r}.")
    network = model.model if isinstance(model, Backbone) else model
    chosen = select(network, blocks)
    layers = [layer for block in chosen for layer in block.layers if layer.weights]
    _check_statistics(chosen, dataset)
    changes: list[_Change] = []
    problems: list[str] = []
    for number, layer in enumerate(layers):
        draw = _seeds(seed, number)
        if is_opened(layer):
            changes += _opened(layer, draw, initializers or {}, problems)
        else:
            changes += _native(layer, draw)
    raise_problems(
        PlanError,
        "The initializers of these variables are unknown; pass initializers={'name': keras.initializers...}",
        problems,
    )
    for variable, value in changes:
        variable.assign(value)
    if dataset is not None:
        norms = [norm for layer in layers if not is_opened(layer) for norm in batch_norms(layer)]
        opened = [layer for layer in layers if is_opened(layer) and moves_statistics(layer)]
        recompute(network, dataset, norms, opened)
    return [variable for variable, _ in changes]


def _seeds(seed: int, number: int) -> Iterator[int]:
    """Give every layer its own seeds, so that values do not depend on the number of layers before it."""
    generator = np.random.default_rng([seed, number])
    while True:
        yield int(generator.integers(1, 2**31))


def _check_statistics(chosen: list[Block], dataset: tf.data.Dataset | None) -> None:
    problems = []
    for block in chosen:
        for layer in block.layers:
            if is_opened(layer):
                if has_statistics(layer) and layer.batch_norm != "train":
                    problems.append(
                        f"block {block.name!r} of the SavedModel was opened with batch_norm='fixed' and computes no "
                        "other statistics: open the backbone with load_backbone(..., batch_norm='train')"
                    )
                elif has_statistics(layer) and not moves_statistics(layer):
                    problems.append(
                        f"block {block.name!r} is frozen, so it computes no statistics: "
                        "tfft.unfreeze(model, blocks) first"
                    )
            elif dataset is None and any(not norm.trainable for norm in batch_norms(layer)):
                problems.append(
                    f"the statistics of {layer.name!r} are fixed: give dataset=, to take those of the new weights "
                    "from, or let them train with tfft.unfreeze(..., batch_norm='train')"
                )
    raise_problems(PlanError, "BatchNorm statistics would not fit the new weights", problems)


def _native(layer: keras.layers.Layer, draw: Iterator[int]) -> list[_Change]:
    """Make the layer again from its config, and return what the new one starts with."""
    try:
        with _python_seed(next(draw)):  # Keras draws the seeds of initializers without one from Python's generator
            fresh = type(layer).from_config(layer.get_config())
            if not fresh.built:
                fresh.build_from_config(layer.get_build_config())
        pairs = list(zip(layer.weights, fresh.weights, strict=True))
        wrong = [v.path for v, new in pairs if tuple(v.shape) != tuple(new.shape)]
        if wrong:
            raise ValueError(f"it would have different shapes: {join_names(wrong)}")
    except Exception as error:  # whatever a layer of the user raises
        raise BlockError(
            f"The layer {layer.name!r} ({type(layer).__name__}) cannot be rebuilt to find its initial values: {error} "
            "It needs a get_config and, if it makes variables in its own way, a get_build_config."
        ) from error
    return [(v, keras.ops.convert_to_numpy(new)) for v, new in pairs if is_floating(v)]


@contextlib.contextmanager
def _python_seed(seed: int) -> Iterator[None]:
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _opened(layer: Any, draw: Iterator[int], given: Mapping[str, Initializer], problems: list[str]) -> list[_Change]:
    changes: list[_Change] = []
    could_train = {id(v) for v in own_trainable_variables(layer)}  # also while they are frozen
    for name, variable in zip(layer.variable_names, layer.weights, strict=True):
        seed = next(draw)
        own = next((make for pattern, make in given.items() if re.search(pattern, name)), None)
        if own is not None:
            changes.append((variable, own(tuple(variable.shape), dtype=variable.dtype)))
        elif STATISTIC.search(name):
            changes.append((variable, np.full(variable.shape, float("var" in name.lower()), variable.dtype)))
        elif id(variable) in could_train:
            start = _start_of(name, tuple(variable.shape), seed)
            if start is None:
                problems.append(f"{name!r} of block {layer.name!r}, shape {tuple(variable.shape)}")
            else:
                changes.append((variable, start(tuple(variable.shape), dtype=variable.dtype)))
    return changes


def _start_of(name: str, shape: tuple[int, ...], seed: int) -> Initializer | None:
    """Return how a variable of a SavedModel starts, by its name and shape; None where that is not clear."""
    leaf = re.split(r"[/.]", name)[-1]
    if re.fullmatch(r"(beta|bias(es)?|b)(_\d+)?", leaf, re.I):
        return keras.initializers.Zeros()
    if re.fullmatch(r"(gamma|scale)(_\d+)?", leaf, re.I):
        return keras.initializers.Ones()
    if len(shape) < 2:
        return None
    if "embedding" in name.lower():
        return keras.initializers.TruncatedNormal(stddev=0.02, seed=seed)
    if not _KERNEL.fullmatch(leaf):
        return None
    if len(shape) in (2, 3) and _ATTENTION.search(name):
        return keras.initializers.TruncatedNormal(stddev=0.02, seed=seed)
    fan_in = math.prod(shape[:-1])
    if len(shape) >= 4 and (_DEPTHWISE.search(name) or shape[-1] == 1):
        fan_in = math.prod(shape[:-2])  # each channel is convolved by itself
    gain = 1.0 if len(shape) == 2 else 2.0
    # The standard deviation of a normal distribution that is cut at two of its own, as Keras' VarianceScaling has it.
    return keras.initializers.TruncatedNormal(stddev=math.sqrt(gain / fan_in) / 0.87962566103423978, seed=seed)
