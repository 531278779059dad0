"""Contract tests for backbones, heads, tasks and exports.

tfft's own tests run these on every kind of model; run them on your own backbone before you use it. They train for a few
steps on random data of the right shape, so they take seconds.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tfft.errors import TfftError, join_names, require_platform

require_platform()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from tfft import heads, registry  # noqa: E402
from tfft.backbones.base import Backbone, Block, blocks_of, find_backbone  # noqa: E402
from tfft.freezing import unfreeze  # noqa: E402
from tfft.models import build  # noqa: E402


class ContractError(TfftError, AssertionError):
    """A backbone breaks part of the contract; the message lists all failed checks."""


@dataclasses.dataclass(frozen=True)
class Contract:
    """Outcome of a contract runner.

    Attributes:
        passed: Names of the checks that held.
        refused: Checks that do not apply, with the reason the model itself gave.
    """

    passed: tuple[str, ...]
    refused: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{len(self.passed)} checks passed: {', '.join(self.passed)}"]
        lines += [f"refused: {name} ({reason})" for name, reason in self.refused.items()]
        return "\n".join(lines)


def sample_inputs(model: keras.Model, examples: int = 4, *, seed: int = 0) -> Any:
    """Return random inputs of the shape and type a model takes.

    Args:
        model: Any functional model.
        examples: Size of the batch.
        seed: Of the random numbers.

    Returns:
        An array, or a nest of arrays, [examples, ...]. Unknown sides become 32 pixels, unknown
        lengths 8; integers are 0 or 1, strings two words.
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

    return keras.tree.map_structure(one, model.input)


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
        backbone: From :func:`tfft.load_backbone`, or your own.
        reference: The original model as a function of the inputs; None skips that one check.
        tolerance: Largest difference of outputs, relative to the largest output where that is above 1.

    Returns:
        What passed and what was refused.

    Raises:
        ContractError: With every check that failed.

    Example:
        >>> check_backbone(tfft.load_backbone("my_savedmodel/"))
    """
    return _report(backbone.name, _checks(backbone, reference, tolerance))


def _report(what: str, checks: Iterator[tuple[str, Callable[[], str | None]]]) -> Contract:
    passed: list[str] = []
    failed: list[str] = []
    refused: dict[str, str] = {}
    for name, check in checks:
        try:
            reason = check()
        except Exception as error:  # a contract runner reports whatever goes wrong
            failed.append(f"{name}: {type(error).__name__}: {error}")
        else:
            refused.update({name: reason} if reason else {})
            passed += [] if reason else [name]
    if failed:
        raise ContractError(f"{what} breaks {len(failed)} promises:\n  - " + "\n  - ".join(failed))
    return Contract(tuple(passed), refused)


def check_head(head: heads.Head, *, width: int = 8) -> Contract:
    """Check that a head's loss, metrics, logits and serving outputs agree with each other.

    Args:
        head: From :mod:`tfft.heads`, or one of your own.
        width: Of the features it is put behind.

    Returns:
        What passed.

    Raises:
        ContractError: With every check that failed.

    Example:
        >>> print(check_head(heads.binary("spam")))
        6 checks passed: ...
    """
    return _report(f"The {head.task} head", _head_checks(head, width))


def check_task(
    task: registry.Task | str, class_names: Sequence[str] = ("O", "B-a", "B-b"), **settings: Any
) -> Contract:
    """Check what tfft relies on in a task: its head, its evaluator, its labels and its words for a prediction.

    Run it on a task of your own, after :func:`tfft.registry.register_task`.

    Args:
        task: A registered task, or its name.
        class_names: For its head.
        **settings: Further arguments of :meth:`tfft.registry.Task.make_head`.

    Returns:
        What passed and what does not apply.

    Raises:
        ContractError: With every check that failed.

    Example:
        >>> print(check_task("multilabel"))
        10 checks passed: ...
    """
    task = registry.task(task) if isinstance(task, str) else task
    head = task.make_head(tuple(class_names), **{"dropout": 0.0, "l2": 0.0} | settings)
    return _report(f"The task {task.name}", _task_checks(task, head))


def _head_checks(head: heads.Head, width: int) -> Iterator[tuple[str, Callable[[], str | None]]]:
    task, trained = registry.task(head.task), _trained(head, width)
    served = {name: np.asarray(value) for name, value in head.postprocess(trained.logits).items()}

    def learns() -> None:
        first, last = trained.losses[0], trained.losses[-1]
        _expect(bool(np.isfinite(trained.losses).all()) and last < 0.7 * first, f"the loss went {first} -> {last}")

    def agrees() -> str | None:
        found = task.score_served(head, served, trained.labels)
        for name, value in found.items():
            metric = trained.measured[name]
            _expect(abs(value - metric) < 1e-4, f"served {name} {value}, metric {metric}")
        return None if found else "the task has no score for served outputs"

    def evaluates() -> None:
        evaluator = task.evaluator(head)
        evaluator.check(trained.labels)
        evaluator.update(trained.labels, trained.logits)
        scores = evaluator.result(len(trained.labels), trained.measured["loss"])
        _expect(scores.task == head.task, f"the scores are of the task {scores.task!r}")
        _expect(bool(np.isfinite([scores.value, *scores.interval]).all()), f"the scores are not finite: {scores}")
        if "accuracy" in trained.measured and scores.accuracy is not None:
            difference = abs(scores.accuracy - trained.measured["accuracy"])
            _expect(difference < 1e-4, f"evaluated {scores.accuracy}, metric {trained.measured['accuracy']}")
        _expect(type(scores).from_dict(scores.to_dict()).summary == scores.summary, "the scores do not survive to_dict")

    def probabilities() -> str | None:
        if "probabilities" not in served:
            return "there are none"
        p = served["probabilities"]
        _expect(bool(((p >= 0) & (p <= 1)).all()), "outside of 0 to 1")
        _expect("label" not in served or np.allclose(p.sum(-1), 1, atol=1e-5), "rows do not sum to 1")
        return None

    def independent() -> None:
        for name, value in head.postprocess(trained.logits[::-1].copy()).items():
            _expect(np.array_equal(np.asarray(value)[::-1], served[name]), f"{name} depends on other rows")

    def remembered() -> None:
        again = keras.Model.from_config(trained.model.get_config())
        _expect(heads.from_model(again) == head, "the model's config forgets the head")

    yield "loss falls", learns
    yield "serving agrees with the metric", agrees
    yield "evaluation agrees with the metric", evaluates
    yield "probabilities", probabilities
    yield "rows are independent", independent
    yield "config keeps the head", remembered


def _task_checks(task: registry.Task, head: heads.Head) -> Iterator[tuple[str, Callable[[], str | None]]]:
    def named() -> None:
        _expect(registry.task(task.name) is task, f"{task.name!r} is not registered")
        _expect(head.task == task.name, f"its head is of the task {head.task!r}")
        _expect(
            type(head) is task.head_class(), f"its head is a {type(head).__name__}, not {task.head_class().__name__}"
        )

    def plain() -> None:
        values = head.to_dict()
        _expect(values["kind"] == (task.head_kind or task.name), f"its head is written as {values['kind']!r}")
        _expect(heads.Head.from_dict(values) == head, "the head does not survive to_dict")

    def made() -> None:
        _expect(callable(getattr(heads, task.name)), f"tfft.heads has no {task.name}")

    def shown() -> None:
        line = task.format_prediction("name", {"value": 1.0})
        _expect(isinstance(line, str) and "\n" not in line, f"a prediction is not one line: {line!r}")

    yield "registered", named
    yield "head as plain values", plain
    yield "factory in tfft.heads", made
    yield "prediction in one line", shown
    yield from _head_checks(head, 8)


@dataclasses.dataclass(frozen=True, eq=False)
class _Trained:
    """A head that learned random labels that it can learn."""

    model: keras.Model
    labels: np.ndarray
    logits: np.ndarray
    losses: Sequence[float]
    measured: dict[str, float]


_SHAPES = {"pooled": (), "sequence": (5,), "spatial": (4, 4)}  # of the features of one example, without their width


def _trained(head: heads.Head, width: int) -> _Trained:
    task = registry.task(head.task)
    shapes = {0: (*_SHAPES.get(task.feature_level, ()), width)}
    if task.feature_level == "pyramid":
        side = 2 * max(task.strides)  # pixels of the picture
        shapes = {stride: (side // stride, side // stride, width) for stride in task.strides}
    random = np.random.default_rng(0)
    maps = {stride: random.normal(size=(64, *shape)).astype("float32") for stride, shape in shapes.items()}
    scores = maps[min(maps)] @ np.random.default_rng(1).normal(size=(width, max(head.units, 2)))
    labels = task.sample_labels(head, scores)
    keras.utils.set_random_seed(0)
    inputs = {stride: keras.Input(shape) for stride, shape in shapes.items()}
    taken = heads.ModelFeatures(inputs if task.feature_level == "pyramid" else inputs[0])
    if not task.trains_head:  # its weights are those of the backbone
        taken = heads.ModelFeatures(keras.layers.Dense(head.units, name="backbone")(inputs[0]))
    features = list(maps.values())
    model = keras.Model(list(inputs.values()), head.attach(taken))
    model.compile(keras.optimizers.Adam(0.05), **head.compile_args())
    _build_optimizer(model)
    losses = model.fit(features, labels, epochs=40, batch_size=64, verbose=0).history["loss"]
    logits = model.predict(features, verbose=0)
    return _Trained(model, labels, logits, losses, model.evaluate(features, labels, verbose=0, return_dict=True))


def check_export(
    path: str | pathlib.Path, model: keras.Model, *, examples: Any = None, tolerance: float = 1e-5
) -> Contract:
    """Check an export that is already in place: layout, signatures, and answers equal to the model's.

    :func:`tfft.export` makes the same comparison before it puts a version in place; this one can be
    run again after copying it to a server.

    Args:
        path: The version folder.
        model: The Keras model it was made from.
        examples: What to compare on, as :func:`tfft.export` takes them; random inputs by default.
        tolerance: Largest allowed ``|served - expected| / (1 + |expected|)``.

    Returns:
        What passed.

    Raises:
        ContractError: With every check that failed.
    """
    from tfft.exporting.parity import check
    from tfft.exporting.signatures import serving_functions

    folder = pathlib.Path(path)

    def layout() -> None:
        _expect(folder.name.isdecimal(), f"a server reads folders named by a number, this is {folder.name!r}")
        for name in ("saved_model.pb", "variables/variables.index", "assets/model_card.md"):
            _expect((folder / name).is_file(), f"{name} is missing")

    def same() -> None:
        check(folder, serving_functions(model), examples, tolerance)

    return _report(str(folder), iter({"layout": layout, "answers equal the model's": same}.items()))


def _checks(backbone: Backbone, reference: Any, tolerance: float) -> Iterator[tuple[str, Callable[[], str | None]]]:
    x = sample_inputs(backbone.model)
    if reference is not None:
        yield "output equals the original", lambda: _same(_run(backbone.model, x), reference(x), tolerance)
    yield "blocks cover the variables", lambda: _covered(backbone)
    yield "rows are independent", lambda: _rows(backbone.model, x, tolerance)
    yield "config makes the same model", lambda: _cloned(backbone.model, x)
    for optimizer in ("adam", "sgd", "adamw"):
        yield f"freezing under {optimizer}", functools.partial(_freezing, backbone, optimizer)
    yield "loss falls when all trains", lambda: _learns(backbone)
    yield "keras file", lambda: _keras_file(backbone)
    yield "export", lambda: _exported(backbone, x, tolerance)
    yield "mixed precision", lambda: _mixed(backbone, x)


def _run(model: keras.Model, x: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(keras.tree.map_structure(tf.constant, x), training=False))


def _same(ours: Any, theirs: Any, tolerance: float) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    limit = tolerance * max(1.0, float(np.max(np.abs(theirs), initial=0.0)))
    worst = float(np.max(np.abs(ours - theirs), initial=0.0))
    _expect(worst <= limit, f"differs by {worst:.3g}, at most {limit:.3g} is accepted")


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _covered(backbone: Backbone) -> None:
    owned = [id(v) for block in backbone.blocks for v in block.variables]
    _expect(len(owned) == len(set(owned)), "a variable is in two blocks")
    missing = [v.path for v in backbone.model.weights if id(v) not in set(owned)]
    _expect(not missing, f"in no block: {join_names(missing)}")
    names = [block.name for block in backbone.blocks]
    _expect(len(names) == len(set(names)), f"two blocks have one name: {join_names(names)}")


def _rows(model: keras.Model, x: Any, tolerance: float) -> str | None:
    if keras.tree.flatten(model.input)[0].shape[0] is not None:
        return "the batch size is fixed"
    whole = _run(model, x)
    for i in range(4):
        one = _run(model, keras.tree.map_structure(lambda a, i=i: a[i : i + 1], x))
        open_length = one.ndim > 2 and model.output_shape[1] is None  # alone, a row may be shorter
        _same(one, whole[i : i + 1, : one.shape[1]] if open_length else whole[i : i + 1], max(tolerance, 1e-4))
    return None


def _cloned(model: keras.Model, x: Any) -> None:
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    _same(_run(clone, x), _run(model, x), 0.0)


def _task(backbone: Backbone) -> tuple[keras.Model, Any, np.ndarray]:
    model = build(backbone, heads.regression(2, dropout=0.0))
    x = sample_inputs(model, 8)
    y = np.random.default_rng(1).normal(size=(8, 2)).astype("float32")
    return model, x, y


def _build_optimizer(model: keras.Model) -> None:
    """Create the variables of the optimizer: a step that creates them itself is traced twice."""
    model.optimizer.build(model.trainable_variables)


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
    _build_optimizer(model)
    expected = {id(v) for v in model.trainable_weights}
    before = _values(model)
    model.fit(x, y, epochs=2, batch_size=4, verbose=0)
    moved = {key for key, value in _values(model).items() if value != before[key]}
    names = {id(v): v.path for v in model.weights}
    inside = {id(v) for v in find_backbone(model).weights}
    wrong = [names[k] for k in moved if k in inside and k not in chosen]
    _expect(not wrong, f"frozen, but moved: {join_names(wrong)}")
    still = [names[k] for k in expected if k not in moved]
    # SGD leaves a variable alone whose gradient is zero on this data (the unused rows of a table are fine).
    _expect(optimizer == "sgd" or not still, f"trainable, but did not move: {join_names(still)}")
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
    _build_optimizer(model)
    losses = model.fit(x, y, epochs=12, batch_size=8, verbose=0).history["loss"]
    backbone.model.set_weights(start)
    _expect(bool(np.all(np.isfinite(losses))), f"the loss is not finite: {losses}")
    _expect(losses[-1] < losses[0], f"the loss did not fall: {losses[0]:.4g} -> {losses[-1]:.4g}")
    return None


def _keras_file(backbone: Backbone) -> None:
    model, x, _ = _task(backbone)
    unfreeze(model, [block.name for block in _trainable_blocks(model)[-1:]] or "none")
    flags = [v.trainable for v in model.weights]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.keras")
        model.save(path)
        again = keras.saving.load_model(path)
    _same(_run(again, x), _run(model, x), 0.0)
    same = all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))
    _expect(same, "weights differ after loading")
    _expect([v.trainable for v in again.weights] == flags, "freezing differs after loading")


def _exported(backbone: Backbone, x: Any, tolerance: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        backbone.model.export(folder, verbose=False)
        loaded = tf.saved_model.load(folder)
        _same(loaded.serve(keras.tree.map_structure(tf.constant, x)), _run(backbone.model, x), tolerance)


def _mixed(backbone: Backbone, x: Any) -> str | None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build(backbone, heads.regression(2, dropout=0.0))
        result = _run(model, sample_inputs(model))
        _expect(bool(np.all(np.isfinite(result))), "not finite")
    except TfftError as error:
        return str(error)
    finally:
        keras.config.set_dtype_policy(before)
    return None
