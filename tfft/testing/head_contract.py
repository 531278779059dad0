"""Contracts of a head and of a task: :func:`check_head`, :func:`check_task`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfft import heads, registry
from tfft.testing.contract import Contract, build_optimizer, expect, report


def check_head(head: heads.Head, *, width: int = 8) -> Contract:
    """Check that a head's loss, metrics, logits and serving outputs agree with each other.

    Args:
        head: Head from :mod:`tfft.heads`, or one of your own.
        width: Width of the features it is put behind.

    Returns:
        What passed.

    Raises:
        ContractError: With every check that failed.

    Example:
        >>> print(check_head(heads.binary("spam")))
        6 checks passed: ...
    """
    return report(f"The {head.task} head", _head_checks(head, width))


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
    return report(f"The task {task.name}", _task_checks(task, head))


def _head_checks(head: heads.Head, width: int) -> Iterator[tuple[str, Callable[[], str | None]]]:
    task, trained = registry.task(head.task), _trained(head, width)
    served = {name: np.asarray(value) for name, value in head.postprocess(trained.logits).items()}

    def learns() -> None:
        first, last = trained.losses[0], trained.losses[-1]
        expect(bool(np.isfinite(trained.losses).all()) and last < 0.7 * first, f"the loss went {first} -> {last}")

    def agrees() -> str | None:
        found = task.score_served(head, served, trained.labels)
        for name, value in found.items():
            metric = trained.measured[name]
            expect(abs(value - metric) < 1e-4, f"served {name} {value}, metric {metric}")
        return None if found else "the task has no score for served outputs"

    def evaluates() -> None:
        evaluator = task.evaluator(head)
        evaluator.check(trained.labels)
        evaluator.update(trained.labels, trained.logits)
        scores = evaluator.result(len(trained.labels), trained.measured["loss"])
        expect(scores.task == head.task, f"the scores are of the task {scores.task!r}")
        expect(bool(np.isfinite([scores.value, *scores.interval]).all()), f"the scores are not finite: {scores}")
        if "accuracy" in trained.measured and scores.accuracy is not None:
            difference = abs(scores.accuracy - trained.measured["accuracy"])
            expect(difference < 1e-4, f"evaluated {scores.accuracy}, metric {trained.measured['accuracy']}")
        expect(type(scores).from_dict(scores.to_dict()).summary == scores.summary, "the scores do not survive to_dict")

    def independent() -> None:
        for name, value in head.postprocess(trained.logits[::-1].copy()).items():
            expect(_same_rows(np.asarray(value)[::-1], served[name]), f"{name} depends on other rows")

    def remembered() -> None:
        again = keras.Model.from_config(trained.model.get_config())
        expect(heads.from_model(again) == head, "the model's config forgets the head")

    yield "loss falls", learns
    yield "serving agrees with the metric", agrees
    yield "evaluation agrees with the metric", evaluates
    yield "probabilities", lambda: _check_probabilities(served)
    yield "rows are independent", independent
    yield "config keeps the head", remembered


def _check_probabilities(served: Mapping[str, np.ndarray]) -> str | None:
    if "probabilities" not in served:
        return "there are none"
    p = served["probabilities"]
    expect(bool(((p >= 0) & (p <= 1)).all()), "outside of 0 to 1")
    expect("label" not in served or np.allclose(p.sum(-1), 1, atol=1e-5), "rows do not sum to 1")
    return None


def _same_rows(first: np.ndarray, second: np.ndarray) -> bool:
    if first.dtype.kind != "f":
        return np.array_equal(first, second)
    return np.allclose(first, second, rtol=1e-5, atol=1e-6)  # processors round by the place in a vector register


def _task_checks(task: registry.Task, head: heads.Head) -> Iterator[tuple[str, Callable[[], str | None]]]:
    def named() -> None:
        expect(registry.task(task.name) is task, f"{task.name!r} is not registered")
        expect(head.task == task.name, f"its head is of the task {head.task!r}")
        expect(
            type(head) is task.head_class(), f"its head is a {type(head).__name__}, not {task.head_class().__name__}"
        )

    def plain() -> None:
        values = head.to_dict()
        expect(values["kind"] == (task.head_kind or task.name), f"its head is written as {values['kind']!r}")
        expect(heads.Head.from_dict(values) == head, "the head does not survive to_dict")

    def made() -> None:
        expect(callable(getattr(heads, task.name)), f"tfft.heads has no {task.name}")

    def shown() -> None:
        line = task.format_prediction("name", {"value": 1.0})
        expect(isinstance(line, str) and "\n" not in line, f"a prediction is not one line: {line!r}")

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
        side = 2 * max(task.strides)  # pixels of the image
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
    build_optimizer(model)
    losses = model.fit(features, labels, epochs=40, batch_size=64, verbose=0).history["loss"]
    logits = model.predict(features, verbose=0)
    return _Trained(model, labels, logits, losses, model.evaluate(features, labels, verbose=0, return_dict=True))
