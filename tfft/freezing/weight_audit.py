"""Audit that training changed exactly the trainable variables: :func:`audit`.

Implementation notes: digests instead of copies are stored, so the audit of a large model needs little memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import keras
import ml_dtypes
import numpy as np

from tfft.backbones.base import is_opened
from tfft.errors import AuditError, join_names
from tfft.keras_compat import flatten_layers, own_trainable_variables, own_weights

_SPACINGS = 4.0  # a step of half of one shows; a schedule's steps are smaller than the rate for a part of the time
# A step of these is about as large as the rate, whatever the gradient is.
_STEPS_OF_RATE = (keras.optimizers.Adam, keras.optimizers.RMSprop, keras.optimizers.Nadam, keras.optimizers.Lion)


@dataclasses.dataclass(frozen=True)
class AuditReport:
    """Changes of a model's variables since the snapshot.

    Attributes:
        frozen: Number of frozen variables.
        trainable: Number of trainable variables.
        free: Number of variables that may change or not: statistics of trainable layers.
        frozen_moved: Paths of frozen variables that changed: a fault.
        trainable_unchanged: Paths of trainable variables that did not change: a fault.
        allowed_unchanged: Paths of unchanged variables that were allowed, or whose values are so large that a step at
            the learning rate is below their precision.
        free_moved: Number of free variables that changed.
    """

    frozen: int
    trainable: int
    free: int
    frozen_moved: tuple[str, ...]
    trainable_unchanged: tuple[str, ...]
    allowed_unchanged: tuple[str, ...]
    free_moved: int

    @property
    def ok(self) -> bool:
        """Whether the audit passes."""
        return not self.frozen_moved and not self.trainable_unchanged

    @property
    def summary(self) -> str:
        """One line with the counts."""
        line = (
            f"{self.frozen - len(self.frozen_moved)} of {self.frozen} frozen variables unchanged, "
            f"{self.trainable - len(self.trainable_unchanged) - len(self.allowed_unchanged)} of {self.trainable} "
            "trainable ones changed"
        )
        return line + (f", {self.free_moved} of {self.free} statistics moved" if self.free else "")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AuditReport:
        """Make a report from :meth:`to_dict`'s result."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)

    def __str__(self) -> str:
        return self.summary


class Audit:
    """Snapshot of a model's variables, to compare with the model later. Made by :func:`audit`.

    Attributes:
        report: The result of the last :meth:`check` or :meth:`compare`; None before it.
        unchanged: The trainable variables that the last comparison found unchanged.
    """

    def __init__(self, model: keras.Model, allow_unchanged: str | None) -> None:
        self._model = model
        self._allow = re.compile(allow_unchanged) if allow_unchanged else None
        self._kinds = _kinds(model)
        self._digests = [_digest(variable) for variable, _ in self._kinds]
        self.report: AuditReport | None = None
        self.unchanged: list[keras.Variable] = []

    def compare(self) -> AuditReport:
        """Compare and return the result without raising."""
        found: dict[str, list[str]] = {"frozen": [], "trainable": [], "free": []}
        self.unchanged, rate = [], _rate(self._model)
        for (variable, kind), digest in zip(self._kinds, self._digests, strict=True):
            moved = _digest(variable) != digest
            if moved == (kind != "trainable"):
                found[kind].append(variable.path)
                self.unchanged += [variable] if kind == "trainable" else []
        unchanged = found["trainable"]
        still = {v.path for v in self.unchanged if rate is not None and not step_shows(v, rate)}
        allowed = [path for path in unchanged if path in still or (self._allow and self._allow.search(path))]
        kinds = [kind for _, kind in self._kinds]
        self.report = AuditReport(
            frozen=kinds.count("frozen"),
            trainable=kinds.count("trainable"),
            free=kinds.count("free"),
            frozen_moved=tuple(found["frozen"]),
            trainable_unchanged=tuple(path for path in unchanged if path not in allowed),
            allowed_unchanged=tuple(allowed),
            free_moved=len(found["free"]),
        )
        return self.report

    def check(self) -> AuditReport:
        """Compare, and raise an error if a frozen variable changed or a trainable one did not.

        Returns:
            The report, if the audit passes.

        Raises:
            AuditError: If the audit fails; the message lists every variable at fault.
        """
        report = self.compare()
        if report.ok:
            return report
        lines = ["The audit found that training did not follow the trainable flags:"]
        if report.frozen_moved:
            lines.append(
                f"  {len(report.frozen_moved)} of {report.frozen} frozen variables changed: "
                f"{join_names(report.frozen_moved)}."
            )
        if report.trainable_unchanged:
            lines.append(
                f"  {len(report.trainable_unchanged)} of {report.trainable} trainable variables did not change: "
                f"{join_names(report.trainable_unchanged)}."
            )
        lines.append(
            "  Keras ignores a `trainable` that was set after a fit without a new compile: use tfft.unfreeze, or call "
            "model.compile after setting it. Allow variables without a gradient with allow_unchanged=."
        )
        raise AuditError("\n".join(lines))

    def __enter__(self) -> Audit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.check()


def audit(model: keras.Model, *, allow_unchanged: str | None = None) -> Audit:
    """Take a snapshot of a model, to check after training that exactly the trainable variables changed.

    Use it around ``fit``. The current flags define the frozen variables. Statistics of trainable layers
    (BatchNormalization) may change or not; optimizer and random state are ignored.

    Args:
        model: Any built Keras model.
        allow_unchanged: Regular expression to search in the paths of unchanged trainable variables, for those that
            truly have no gradient; None allows none.

    Returns:
        An audit; ``.check()`` compares, and so does leaving its ``with`` block.

    Raises:
        AuditError: From ``.check()``: lists every frozen variable that moved and every trainable one
            that did not.

    Example:
        >>> with tfft.audit(model):
        ...     model.fit(train)
    """
    return Audit(getattr(model, "model", model), allow_unchanged)


def step_shows(variable: keras.Variable, steps: Any) -> bool:
    """Return whether steps of some size change a variable: a number moves only by a step of half its spacing or more.

    The spacing of float32 is 0.002 at 30,000, that of bfloat16 0.008 at 1.

    Args:
        variable: Any of floating type.
        steps: Size of a step, one number or one for each element.
    """
    values = np.abs(np.asarray(keras.ops.convert_to_numpy(variable), np.float64))
    about = ml_dtypes.finfo(keras.backend.standardize_dtype(variable.dtype))
    spacing = float(about.eps) * 2.0 ** np.floor(np.log2(np.maximum(values, float(about.tiny))))
    return bool(np.any(np.asarray(steps) > _SPACINGS * spacing))


def _rate(model: keras.Model) -> float | None:
    """Return the constant learning rate of a model; None where there is none, or steps may be larger."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "optimizer", optimizer)  # inside of one that scales rates or losses
    if not isinstance(optimizer, _STEPS_OF_RATE):
        return None
    rate = optimizer.get_config()["learning_rate"]
    return float(rate) if isinstance(rate, (int, float, np.number)) and rate > 0 else None  # a schedule ends near 0


def _digest(variable: keras.Variable) -> bytes:
    value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
    return hashlib.sha256(value.reshape(-1).view(np.uint8).data).digest()


def _kinds(model: keras.Model) -> list[tuple[keras.Variable, str]]:
    trains = {id(v) for v in model.trainable_weights}
    kinds: dict[int, tuple[keras.Variable, str]] = {}
    for layer in flatten_layers(model):
        could_train = {id(v) for v in own_trainable_variables(layer)}
        for variable in own_weights(layer):
            if id(variable) in kinds:
                continue
            if id(variable) in trains:
                kind = "trainable"
            elif id(variable) in could_train or not _updates_itself(layer):
                kind = "frozen"
            else:
                kind = "free"
            kinds[id(variable)] = (variable, kind)
    return list(kinds.values())


def _updates_itself(layer: keras.layers.Layer) -> bool:
    """Whether a layer may change its non-trainable variables in training: only if it trains."""
    if is_opened(layer):
        return bool(layer.trainable_weights) and getattr(layer, "batch_norm", "fixed") == "train"
    return bool(layer.trainable)
