"""Nearest-mean classifier as a linear head, without training: :func:`nearest_mean_head`.

The nearest mean becomes a kernel and a bias, so that it fits the layer ``logits`` of any model. It is the classifier of
prototypical networks (Snell, Swersky and Zemel, "Prototypical networks for few-shot learning", 2017) and of SimpleShot
(Wang et al., "SimpleShot: Revisiting nearest-neighbor classification for few-shot learning", 2019).

Both distances are linear. For the Euclidean distance, ``-|x - m_k|^2 / 2`` is ``m_k . x - |m_k|^2 / 2`` up to a term
that all classes share. The cosine of ``x - c`` with a direction ``d_k`` is ``d_k . x - d_k . c`` up to a positive
factor that all classes share; so the label is exactly that of the cosine, and only the confidence grows with the norm
of ``x - c``.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import numpy as np

from tfft import registry
from tfft.data.labels import label_problems, labels_of
from tfft.errors import DataError, PlanError, did_you_mean, join_names, raise_problems
from tfft.heads import Head

Distance = Literal["cosine", "euclidean"]

_HALVINGS = 60  # bisection steps over the exponent of the scale
_SURE = 2.0  # logit difference of two prototypes if no class has a second example to fit the scale


@dataclasses.dataclass(frozen=True, eq=False)
class Prototypes:
    """Class means as a linear head, for :func:`tfft.features.set_head_weights`.

    Attributes:
        kernel: float64 [D, units], for unscaled features.
        bias: float64 [units].
        means: float64 [classes, D]: the mean of each class or, for the cosine, its unit direction.
        centre: [D], subtracted first for the cosine; zeros for the Euclidean distance.
        scale: Factor of the logits.
        distance: ``"cosine"`` or ``"euclidean"``.
        loss: Mean leave-one-out cross-entropy; NaN if no class has two examples.
        accuracy: Leave-one-out accuracy.
        judged: Number of these examples: those of classes with more than one.
    """

    kernel: np.ndarray
    bias: np.ndarray
    means: np.ndarray
    centre: np.ndarray
    scale: float
    distance: Distance
    loss: float
    accuracy: float
    judged: int

    def __str__(self) -> str:
        text = f"nearest mean of {len(self.means)} classes, {self.distance} distance, scale {self.scale:.3g}"
        if not self.judged:
            return f"{text}; no class has two examples to evaluate it"
        return (
            f"{text}; left out one by one, {self.judged} examples: accuracy {self.accuracy:.4f}, loss {self.loss:.4f}"
        )


def nearest_mean_head(
    features: np.ndarray,
    labels: np.ndarray,
    head: Head,
    *,
    distance: Distance = "cosine",
    centre: np.ndarray | None = None,
    scale: float | None = None,
) -> Prototypes:
    """Compute a nearest-mean head; nothing is trained or tuned on held-out data.

    Use it with one to five examples per class, too few for a linear probe, or to add a class immediately: the means of
    the other classes stay (for the cosine with the same ``centre``), and so do their columns at a given ``scale``. With
    more examples a linear probe is better if classes are many or similar.

    Labels do not depend on the scale; probabilities do. By default, it minimizes the leave-one-out cross-entropy (in
    closed form), with one pseudo-example of each class added to the targets (Laplace's rule), so that it stays finite
    if all predictions are right.

    Args:
        features: Features [N, D] of any float type.
        labels: Integers [N]; at least one of every class.
        head: Head for classification or binary, from :mod:`tfft.heads`.
        distance: ``"cosine"``: features are centred and normalized, then averaged, and the direction counts; better for
            features of deep networks, whose norm contains little class information (Wang et al. 2019; on
            EfficientNet-Lite0 with 1 to 60 examples per class never less accurate in twelve cases). ``"euclidean"``:
            plain means and distances; linear discriminant analysis with the same isotropic covariance for all classes.
        centre: [D], subtracted for the cosine. Defaults to the mean of ``features``. Not for the Euclidean distance,
            where it has no effect.
        scale: Positive factor of the logits; None to fit it.

    Returns:
        :class:`Prototypes`, for :func:`tfft.features.set_head_weights`.

    Raises:
        DataError: If features and labels do not match, or a class has no example.
        PlanError: If the head has another task, or a setting is out of range.

    Example:
        >>> found = nearest_mean_head(features.arrays, features.labels, tfft.heads.from_model(model))
        >>> tfft.features.set_head_weights(model, found)
    """
    count = _classes(head)
    _check_settings(distance, centre, scale)
    labels = _checked(features, labels, head, count)
    values = np.asarray(features, np.float64)
    own = np.zeros(values.shape[1]) if distance == "euclidean" else _centre(values, centre)
    points = values - own
    if distance == "cosine":
        points = _unit(points)
    sizes = np.bincount(labels, minlength=count)
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, labels, points)
    means = _unit(sums) if distance == "cosine" else sums / sizes[:, None]
    logits, seen = _left_out(values - own, points, labels, sums, sizes, distance)
    if scale is None:
        scale = _scale(logits[seen], labels[seen]) if seen.any() else _guess(means, values - own, distance)
    kernel = scale * means
    offset = means @ own if distance == "cosine" else np.sum(means**2, 1) / 2
    bias = -scale * offset
    if head.units < count:  # one logit for two classes
        kernel, bias = kernel[1:] - kernel[:1], bias[1:] - bias[:1]
    judged = int(seen.sum())
    loss = float(_losses(scale * logits[seen], labels[seen]).mean()) if judged else np.nan
    right = float(np.mean(logits[seen].argmax(1) == labels[seen])) if judged else np.nan
    return Prototypes(kernel.T.copy(), bias, means, own, float(scale), distance, loss, right, judged)


def _left_out(
    values: np.ndarray, points: np.ndarray, labels: np.ndarray, sums: np.ndarray, sizes: np.ndarray, distance: Distance
) -> tuple[np.ndarray, np.ndarray]:
    """Return the leave-one-out logits [N, K] at scale 1, and which examples have them.

    Only the mean of its own class changes. The centre is that of all examples, which one example hardly changes.
    """
    each, seen = np.arange(len(labels)), sizes[labels] > 1
    rest = sums[labels] - points
    if distance == "cosine":
        logits = values @ _unit(sums).T
        logits[each, labels] = np.einsum("nd,nd->n", values, _unit(rest))
    else:
        means = sums / sizes[:, None]
        logits = values @ means.T - np.sum(means**2, 1) / 2
        rest /= np.maximum(sizes[labels] - 1, 1)[:, None]
        logits[each, labels] = np.einsum("nd,nd->n", values, rest) - np.einsum("nd,nd->n", rest, rest) / 2
    return logits, seen


def _scale(logits: np.ndarray, labels: np.ndarray) -> float:
    """Find the best factor of logits by bisection: the loss is convex in it, so its slope changes sign once."""
    count, classes = logits.shape
    target = np.full(logits.shape, 1.0 / (count + classes))
    target[np.arange(count), labels] += count / (count + classes)
    logits = logits - logits.max(1, keepdims=True)
    spread = float(np.mean(-logits)) or 1.0
    low, high = np.log(1e-6 / spread), np.log(1e6 / spread)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        powers = np.exp(np.exp(middle) * logits)
        slope = np.sum((powers / powers.sum(1, keepdims=True) - target) * logits)
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(np.exp((low + high) / 2))


def _guess(means: np.ndarray, values: np.ndarray, distance: Distance) -> float:
    """Return the scale for one example per class, where prototypes differ by a fixed logit."""
    if distance == "cosine":
        own = np.einsum("nd,nd->n", values, _unit(values))  # the lengths
        typical = float(np.mean(own[:, None] * (1 - _unit(values) @ means.T)))
    else:
        typical = float(np.mean(np.sum((means[:, None] - means[None]) ** 2, -1))) / 2
    return _SURE / typical if typical > 0 else 1.0


def _losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels]


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


def _centre(values: np.ndarray, centre: np.ndarray | None) -> np.ndarray:
    if centre is None:
        return values.mean(0)
    centre = np.asarray(centre, np.float64)
    if centre.shape != values.shape[1:] or not np.all(np.isfinite(centre)):
        raise DataError(f"centre must be {values.shape[1]} finite numbers, received an array {centre.shape}.")
    return centre


def _classes(head: Head) -> int:
    if not registry.task(head.task).exclusive_classes or head.class_names is None:
        raise PlanError(
            f"A nearest-mean head expects one of several classes; the head is {head.task}. Use "
            "tfft.features.fit_linear_probe."
        )
    return len(head.class_names)


def _check_settings(distance: str, centre: np.ndarray | None, scale: float | None) -> None:
    problems, known = [], get_args(Distance)
    if distance not in known:
        hint = did_you_mean(str(distance), known)
        problems.append(f"distance must be one of {join_names(known)}, received {distance!r}.{hint}")
    if centre is not None and distance == "euclidean":
        problems.append("centre changes nothing in Euclidean distance; leave it out")
    number = isinstance(scale, (int, float, np.number)) and not isinstance(scale, bool)
    if scale is not None and not (number and 0 < scale < float("inf")):
        problems.append(f"scale must be a number above 0 or None, received {scale!r}")
    raise_problems(PlanError, "The means cannot be made a head", problems)


def _checked(features: np.ndarray, labels: np.ndarray, head: Head, count: int) -> np.ndarray:
    problems = []
    labels = labels_of(labels)
    fits = isinstance(features, np.ndarray) and features.ndim == 2 and features.size and features.dtype.kind == "f"
    if not fits:
        received = f"{features.dtype} {features.shape}" if isinstance(features, np.ndarray) else type(features).__name__
        problems.append(f"features must be an array of floats [N, D], received {received}")
    elif len(features) != len(labels):
        problems.append(f"there must be one label for each row, received {len(features)} rows, {len(labels)} labels")
    elif not np.all(np.isfinite(features)):
        problems.append("features hold values that are NaN or infinite")
    wrong = label_problems(labels, count, "labels")
    if not wrong:
        sizes = np.bincount(labels.astype(np.int64), minlength=count)
        names = head.class_names or ()
        missing = [names[k] for k in np.flatnonzero(sizes == 0)]
        wrong = [f"no example has the class {join_names(missing)}, so it has no mean"] if missing else []
    raise_problems(DataError, "The means of the classes cannot be found", problems + wrong)
    return labels.astype(np.int64)
