"""Head for regression."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import DataError
from tfft.heads import ConvexLoss, Head, as_names
from tfft.losses import ScaledSquaredError

_DIGITS = 1e-6  # a spread below this share of the mean is rounding: float32 has seven digits


@dataclasses.dataclass(frozen=True)
class RegressionHead(Head):
    """One unit per number; the labels are float [B] or [B, units].

    Served: ``value`` float32 [B, units].

    Attributes:
        means: Mean of each value over the training examples; None for a last layer in the units of the labels, as
            heads of earlier versions have it. The layer output is multiplied by the spread and added to the mean.
        spreads: Standard deviation of each value over the training examples.
        medians: Median of each value over the training examples: a baseline for the mean absolute error.
    """

    needs_names: ClassVar[bool] = False
    convex_loss: ClassVar[ConvexLoss | None] = "squared"

    means: tuple[float, ...] | None = None
    spreads: tuple[float, ...] | None = None
    medians: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("means", "spreads", "medians"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(float(value) for value in values))
        super().__post_init__()

    def problems(self) -> list[str]:
        """Return what is wrong with the fields, one sentence each."""
        problems = super().problems()
        given = [values for values in (self.means, self.spreads, self.medians) if values is not None]
        if given and ([len(values) for values in given] != [self.units] * 3 or not np.isfinite(given).all()):
            problems.append(f"means, spreads and medians must be {self.units} finite numbers each, received {given}")
        elif self.spreads is not None and min(self.spreads) <= 0:
            problems.append(f"spreads must be above 0, received {list(self.spreads)}")
        return problems

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for YAML and JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in super().to_dict().items()}

    def fitted_to(self, labels: Any) -> RegressionHead:
        """Return the head with mean, spread and median of training labels, and a unit for each of their values.

        The last layer, the loss, weight decay and rates then mean the same whatever the unit of the labels is.

        Args:
            labels: Float [N] or [N, units].

        Raises:
            DataError: When a value is the same for all examples, or the head has another number of units.

        Example:
            >>> head = tfft.heads.regression().fitted_to(prices)
            >>> head.means, head.spreads
            ((301245.5,), (98770.1,))
        """
        values = np.asarray(labels, np.float64)
        values = values.reshape(len(values), -1)
        count = values.shape[1]
        if self.class_names is not None and count != self.units:
            raise DataError(f"Expected {self.units} values per example, one per name. Received: {count}.")
        means, spreads = values.mean(axis=0), values.std(axis=0)
        constant = np.flatnonzero(~(spreads > _DIGITS * np.abs(means)))
        if len(constant):
            raise DataError(constant_targets(values[:, constant[0]], self._name(int(constant[0]))))
        medians = np.median(values, axis=0)
        return dataclasses.replace(
            self,
            units=count,
            means=tuple(means.tolist()),
            spreads=tuple(spreads.tolist()),
            medians=tuple(medians.tolist()),
        )

    def _name(self, unit: int) -> str:
        return "" if self.class_names is None else self.class_names[unit]

    def to_units(self, logits: Any) -> Any:
        """Return logits times the spread plus the mean."""
        if self.means is None:
            return logits
        means, spreads = (keras.ops.convert_to_tensor(values, logits.dtype) for values in (self.means, self.spreads))
        return logits * spreads + means

    def scaled(self, targets: np.ndarray) -> np.ndarray:
        """Return targets [N, units] as the last layer has to compute them, before :meth:`to_units`."""
        return targets if self.means is None else (targets - np.array(self.means)) / np.array(self.spreads)

    def loss(self, *, soft: bool = False) -> keras.losses.Loss:
        """Return the squared error, in units of the spread where the head knows it."""
        if self.spreads is None:
            return keras.losses.MeanSquaredError(name="squared_error")
        return ScaledSquaredError(self.spreads, name="squared_error")

    def metrics(self, *, soft: bool = False) -> list[keras.metrics.Metric]:
        """Return ``error``, the mean absolute error in the units of the labels."""
        return [keras.metrics.MeanAbsoluteError(name="error")]

    def example_scores(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray | None:
        """Return the negative absolute error of each example, a mean over its numbers."""
        error = np.abs(labels.reshape(logits.shape) - logits)
        return -error.reshape(len(error), -1).mean(axis=-1)

    def postprocess(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the numbers unchanged."""
        return {"value": tf.cast(logits, tf.float32)}


def constant_targets(values: Sequence[float] | np.ndarray, name: str = "") -> str:
    """Return the sentence for targets that are all the same."""
    of = f" of {name!r}" if name else ""
    return (
        f"Expected targets that differ from example to example. Received: {len(values)} training targets{of}, "
        f"all {float(values[0]):g}. There is nothing to learn from them: give another column of targets, or more "
        "examples."
    )


def regression(names: Sequence[str] | int = 1, *, dropout: float = 0.2, l2: float = 0.0) -> RegressionHead:
    """Create a head for one or more numbers per example, trained with the squared error.

    Call :meth:`RegressionHead.fitted_to` with the training labels, as :func:`tfft.finetune` does: without mean and
    spread of the targets no learning rate fits prices and shares alike.

    Args:
        names: Number of values, or their names.
        dropout: As in :func:`tfft.heads.classification`.
        l2: As in :func:`tfft.heads.classification`.

    Returns:
        A head with one unit per value.

    Example:
        >>> head = tfft.heads.regression(["price", "area"]).fitted_to(labels)
    """
    if isinstance(names, int):
        return RegressionHead("regression", None, names, dropout, l2)
    named = as_names(names)
    return RegressionHead("regression", named, len(named), dropout, l2)
