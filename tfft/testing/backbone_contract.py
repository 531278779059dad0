"""Contract of a backbone: :func:`check_backbone`."""

from __future__ import annotations

import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import heads
from tfft.backbones.base import Backbone, Block, blocks_of, find_backbone
from tfft.errors import TfftError, join_names
from tfft.freezing import unfreeze
from tfft.models import build
from tfft.testing.contract import Contract, build_optimizer, expect, expect_same, report


def sample_inputs(model: keras.Model, examples: int = 4, *, seed: int = 0) -> Any:
    """Return random inputs of the shape and type a model takes.

    Args:
        model: Any functional model.
        examples: Size of the batch.
        seed: Seed for the random numbers.

    Returns:
        An array, or a nest of arrays, [examples, ...]. Unknown sides become 32 pixels, unknown
        lengths 8; integers are 0 or 1, or all 0 where the model has a table with one row, strings two words.
    """
    random = np.random.default_rng(seed)

    def one(tensor: keras.KerasTensor) -> np.ndarray:
        rest = [n if n is not None else (32 if len(tensor.shape) == 4 else 8) for n in tensor.shape[1:]]
        shape = (examples, *rest)
        if tensor.dtype == "string":
            return np.resize(np.array(["a good", "two bad words"], dtype=object), shape)
        if "uint8" in tensor.dtype:
            return random.integers(0, 256, shape, dtype=np.uint8)
        if "int" in tensor.dtype or tensor.dtype == "bool":
            ones = random.integers(0, 2, shape)
            if ones.ndim > 1:
                ones[:, :1] = 1  # a mask of zeros hides everything
            return ones.astype(tensor.dtype)
        return random.random(shape).astype("float32")

    inputs = keras.tree.map_structure(one, model.input)
    if not any(_is_id(array) for array in keras.tree.flatten(inputs)):
        return inputs
    zeros = keras.tree.map_structure(lambda array: array * 0 if _is_id(array) else array, inputs)
    return inputs if _takes(model, inputs) or not _takes(model, zeros) else zeros


def _is_id(array: np.ndarray) -> bool:
    return array.dtype in (np.int32, np.int64)


def _takes(model: keras.Model, inputs: Any) -> bool:
    """Whether a model takes inputs; TensorFlow fails on an id beyond the rows of a table."""
    try:
        _run(model, inputs)
    except (ValueError, TypeError, tf.errors.OpError):
        return False
    return True


def check_backbone(
    backbone: Backbone,
    *,
    reference: Callable[[Any], Any] | None = None,
    tolerance: float = 1e-5,
) -> Contract:
    """Check the contract of a backbone.

    Output equal to the original; every variable in exactly one block; frozen blocks bit-equal under
    Adam, SGD and AdamW while every trainable variable moves; finite gradients; independent rows;
    ``.keras`` round trip with weights, freezing and predictions; cloning from the config; a
    SavedModel export with the same output; mixed precision works or is refused with a reason.

    Args:
        backbone: Backbone from :func:`tfft.load_backbone`, or your own.
        reference: The original model as a function of the inputs; None skips that one check.
        tolerance: Largest difference of outputs, relative to the largest output where that is above 1.

    Returns:
        What passed and what was refused.

    Raises:
        ContractError: With every check that failed.

    Example:
        >>> check_backbone(tfft.load_backbone("my_savedmodel/"))
    """
    return report(backbone.name, _checks(backbone, reference, tolerance))


def _checks(backbone: Backbone, reference: Any, tolerance: float) -> Iterator[tuple[str, Callable[[], str | None]]]:
    x = sample_inputs(backbone.model)
    if reference is not None:
        yield "output equals the original", lambda: expect_same(_run(backbone.model, x), reference(x), tolerance)
    yield "blocks cover the variables", lambda: _covered(backbone)
    yield "rows are independent", lambda: _rows(backbone.model, x, tolerance)
    yield "config makes the same model", lambda: _cloned(backbone.model, x)
    for optimizer in ("adam", "sgd", "adamw"):
        yield f"freezing under {optimizer}", functools.partial(_freezing, backbone, optimizer)
    yield "loss falls when all trains", lambda: _learns(backbone)
    yield "keras file", lambda: _keras_file(backbone)
    yield "export", lambda: _exported(backbone, x, tolerance)
    yield "mixed precision", lambda: _mixed(backbone, x)


def _covered(backbone: Backbone) -> None:
    owned = [id(v) for block in backbone.blocks for v in block.variables]
    expect(len(owned) == len(set(owned)), "a variable is in two blocks")
    missing = [v.path for v in backbone.model.weights if id(v) not in set(owned)]
    expect(not missing, f"in no block: {join_names(missing)}")
    names = [block.name for block in backbone.blocks]
    expect(len(names) == len(set(names)), f"two blocks have one name: {join_names(names)}")


def _rows(model: keras.Model, x: Any, tolerance: float) -> str | None:
    if keras.tree.flatten(model.input)[0].shape[0] is not None:
        return "the batch size is fixed"
    whole = _run(model, x)
    for i in range(4):
        one = _run(model, keras.tree.map_structure(lambda a, i=i: a[i : i + 1], x))
        open_length = one.ndim > 2 and model.output_shape[1] is None  # alone, a row may be shorter
        expect_same(one, whole[i : i + 1, : one.shape[1]] if open_length else whole[i : i + 1], max(tolerance, 1e-4))
    return None


def _cloned(model: keras.Model, x: Any) -> None:
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    expect_same(_run(clone, x), _run(model, x), 0.0)


def _task(backbone: Backbone) -> tuple[keras.Model, Any, np.ndarray]:
    model = build(backbone, heads.regression(2, dropout=0.0))
    x = sample_inputs(model, 8)
    y = np.random.default_rng(1).normal(size=(8, 2)).astype("float32")
    return model, x, y


def _values(model: keras.Model) -> dict[int, bytes]:
    return {id(v): np.asarray(keras.ops.convert_to_numpy(v)).tobytes() for v in model.weights}


def _freezing(backbone: Backbone, optimizer: str) -> None:
    start = backbone.model.get_weights()
    model, x, y = _task(backbone)
    last = _trainable_blocks(model)[-1:]
    unfreeze(model, [block.name for block in last] or "none")
    chosen = {id(v) for block in last for v in block.variables}
    keras.utils.set_random_seed(0)
    model.compile(keras.optimizers.get({"class_name": optimizer, "config": {"learning_rate": 0.01}}), "mse")
    build_optimizer(model)
    expected = {id(v) for v in model.trainable_weights}
    before = _values(model)
    model.fit(x, y, epochs=2, batch_size=4, verbose=0)
    moved = {key for key, value in _values(model).items() if value != before[key]}
    names = {id(v): v.path for v in model.weights}
    inside = {id(v) for v in find_backbone(model).weights}
    wrong = [names[k] for k in moved if k in inside and k not in chosen]
    expect(not wrong, f"frozen, but moved: {join_names(wrong)}")
    still = [names[k] for k in expected if k not in moved]
    # SGD leaves a variable alone whose gradient is zero on this data (the unused rows of a table are fine).
    expect(optimizer == "sgd" or not still, f"trainable, but did not move: {join_names(still)}")
    backbone.model.set_weights(start)


def _trainable_blocks(model: keras.Model) -> list[Block]:
    return [block for block in blocks_of(model) if any(_publisher_trains(layer) for layer in block.layers)]


def _publisher_trains(layer: Any) -> bool:
    was, layer.trainable = layer.trainable, True
    found = bool(layer.trainable_weights)
    layer.trainable = was
    return found


def _learns(backbone: Backbone) -> str | None:
    start = backbone.model.get_weights()
    model, x, y = _task(backbone)
    if not _trainable_blocks(model):
        return "nothing in it can be trained"
    unfreeze(model, "all")
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    build_optimizer(model)
    losses = model.fit(x, y, epochs=12, batch_size=8, verbose=0).history["loss"]
    backbone.model.set_weights(start)
    expect(bool(np.all(np.isfinite(losses))), f"the loss is not finite: {losses}")
    expect(losses[-1] < losses[0], f"the loss did not fall: {losses[0]:.4g} -> {losses[-1]:.4g}")
    return None


def _keras_file(backbone: Backbone) -> None:
    model, x, _ = _task(backbone)
    unfreeze(model, [block.name for block in _trainable_blocks(model)[-1:]] or "none")
    flags = [v.trainable for v in model.weights]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.keras")
        model.save(path)
        again = keras.saving.load_model(path)
    expect_same(_run(again, x), _run(model, x), 0.0)
    same = all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))
    expect(same, "weights differ after loading")
    expect([v.trainable for v in again.weights] == flags, "freezing differs after loading")


def _exported(backbone: Backbone, x: Any, tolerance: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        backbone.model.export(folder, verbose=False)
        loaded = tf.saved_model.load(folder)
        expect_same(loaded.serve(keras.tree.map_structure(tf.constant, x)), _run(backbone.model, x), tolerance)


def _mixed(backbone: Backbone, x: Any) -> str | None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build(backbone, heads.regression(2, dropout=0.0))
        result = _run(model, sample_inputs(model))
        expect(bool(np.all(np.isfinite(result))), "not finite")
    except TfftError as error:
        return str(error)
    finally:
        keras.config.set_dtype_policy(before)
    return None


def _run(model: keras.Model, x: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(keras.tree.map_structure(tf.constant, x), training=False))
