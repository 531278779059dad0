"""Sweep of the L2 penalty of a linear probe on held-out examples: :class:`Sweep`, :func:`hold_out`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from tfft.errors import DataError
from tfft.features.linear_probe.objective import Basis, Problem, Ridge, fit
from tfft.features.linear_probe.targets import checked_targets, classes_of
from tfft.heads import Head

SWEEP_EXAMPLES = 20_000  # maximum for the sweep: enough to find a strength to half a power of ten
_SWEEP_LOGITS = 2_000_000  # ... and at fewer where there are many classes, but at ten of each
_SWEEP_VALUES = 2**27  # ... and at fewer where features are very wide: half a gigabyte
_STRENGTHS = 10.0 ** -np.arange(9)  # of the total variance of the features: from no influence to hardly a penalty
_HALF_POWER = 10**0.5
_CLEAR_RISE = 5.0  # standard errors


@dataclasses.dataclass(frozen=True)
class Trial:
    """One strength of the penalty, evaluated on held-out examples.

    Attributes:
        l2: Strength.
        loss: Loss of the head, the mean over folds.
        loss_error: Standard error of that mean over the folds; over the examples with a single validation set.
        accuracy: Accuracy (for multi-label: of single labels); None for regression.
        accuracy_error: Its standard error.
    """

    l2: float
    loss: float
    loss_error: float
    accuracy: float | None
    accuracy_error: float | None

    def __str__(self) -> str:
        right = "" if self.accuracy is None else f"  accuracy {self.accuracy:.4f} ± {self.accuracy_error:.4f}"
        return f"l2 {self.l2:9.3g}  held-out loss {self.loss:.4f} ± {self.loss_error:.4f}{right}"


class Sweep:
    """Sweep of strengths on held-out rows, with the best one and a start for the fit on all rows.

    The weights of a problem have the sum 1, so its strengths are those of the caller divided by the mean row weight.
    """

    def __init__(
        self, problem: Problem, fold: np.ndarray, weights: np.ndarray, variances: np.ndarray, verbose: bool
    ) -> None:
        self._problem, self._fold, self._variances, self._verbose = problem, fold, variances, verbose
        self._weights, self._mean = weights, float(weights.mean())
        self._ridge = Ridge(problem) if problem.head.convex_loss == "squared" else None
        self._done: dict[float, tuple[Trial, np.ndarray]] = {}
        self._losses: dict[float, np.ndarray] = {}
        self.steps = 0

    @property
    def table(self) -> tuple[Trial, ...]:
        """All trials, strong to weak."""
        return tuple(self._done[l2][0] for l2 in sorted(self._done, reverse=True))

    @property
    def best(self) -> Trial:
        """The trial with the least held-out loss."""
        return min(self.table, key=lambda trial: trial.loss)

    @property
    def start(self) -> np.ndarray:
        """The mean of the folds at the best strength, [1, U, r + 1]."""
        return self._done[self.best.l2][1].mean(0, keepdims=True)

    def run(self) -> None:
        """Follow the path until the loss has risen twice or clearly, then search around its minimum."""
        total = max(float(self._variances.sum()), 1e-12) / self._problem.gain
        for strength in _STRENGTHS * (total * self._mean):
            self._try(strength)
            if self.best.l2 > 50 * strength or self._clearly_worse(strength):  # two powers past it
                break
        best = self.best.l2
        self._try(best * _HALF_POWER)
        self._try(best / _HALF_POWER)

    def _try(self, l2: float) -> None:
        if self._ridge is None:
            fitted = fit(self._problem, l2 / self._mean, self._variances, self._guess(l2))
        else:
            fitted = self._ridge.fit(l2)
        losses, hits = self._problem.score(fitted.values, self._fold)
        regression = self._problem.head.convex_loss == "squared"
        trial = Trial(l2, *self._judge(losses * self._weights), *((None, None) if regression else self._judge(hits)))
        self._done[l2] = (trial, fitted.values)
        self._losses[l2] = (losses * self._weights)[self._fold >= 0]
        self.steps += fitted.steps
        if self._verbose:
            print(trial, flush=True)

    def _clearly_worse(self, l2: float) -> bool:
        """Whether the same held-out examples have a higher loss than at the best strength, beyond any doubt."""
        rise = self._losses[l2] - self._losses[self.best.l2]
        return bool(rise.mean() > _CLEAR_RISE * rise.std() / np.sqrt(len(rise)))

    def _guess(self, l2: float) -> np.ndarray | None:
        """Extrapolate the two nearest solutions linearly over the logarithm of the strength."""
        near = sorted(self._done, key=lambda done: abs(np.log(done / l2)))[:2]
        found = [self._done[done][1] for done in near]
        if len(near) < 2:
            return found[0] if near else None
        return found[0] + (found[1] - found[0]) * (np.log(l2 / near[0]) / np.log(near[1] / near[0]))

    def _judge(self, scores: np.ndarray) -> tuple[float, float]:
        own = [scores[self._fold == number] for number in range(self._fold.max() + 1)]
        means = own[0] if len(own) == 1 else np.array([np.mean(part) for part in own])
        error = np.std(means, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.nan
        return float(np.mean(means)), float(error)


def hold_out(
    features: np.ndarray,
    targets: np.ndarray,
    sample: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray] | None,
    basis: Basis,
    head: Head,
    folds: int,
    weigh: Callable[[np.ndarray], np.ndarray],
    generator: np.random.Generator,
    own: np.ndarray,
) -> tuple[Problem, np.ndarray, np.ndarray]:
    """Return the rows of the sweep in float32, the fold that each is held out of (-1: never), and its weight."""
    if validation is None:
        fold = _folds(targets[sample], head, folds, generator)
        order = np.argsort(fold, kind="stable")  # a fold is left out of whole blocks of rows
        fold, sample, own = fold[order], sample[order], own[order]
    rows, swept = basis.project(features, sample, np.float32), targets[sample]
    if validation is not None:
        other = checked_targets(*validation, head, "validation features", features.shape[1])
        chosen = sample_rows(other, features.shape[1], head, generator)
        rows = np.concatenate([rows, basis.project(validation[0], chosen, np.float32)])
        swept = np.concatenate([swept, other[chosen]])
        fold = np.repeat([-1, 0], [len(sample), len(chosen)])
    trains = fold != np.arange(fold.max() + 1)[:, None]
    weights = weigh(swept) * np.concatenate([own, np.ones(len(swept) - len(own))])
    shares = trains * weights
    return Problem(rows, swept, shares / shares.sum(1, keepdims=True), head), fold, weights


def _folds(targets: np.ndarray, head: Head, folds: int, generator: np.random.Generator) -> np.ndarray:
    """Assign the rows of each class to folds in turn, so that a class with two rows is never missing in training."""
    order = generator.permutation(len(targets))
    classes = classes_of(targets, head)[order]
    order = order[np.argsort(classes, kind="stable")]
    alone = np.isin(classes_of(targets, head), np.flatnonzero(np.bincount(classes) == 1))
    dealt = order[~alone[order]]
    if len(dealt) < 2:
        raise DataError(
            f"{len(targets)} examples, no two of one class, leave none to choose l2 on. Pass l2=, for example l2=0.01."
        )
    fold = np.full(len(targets), -1)
    fold[dealt] = np.arange(len(dealt)) % min(folds, len(dealt))
    return fold


def sample_rows(targets: np.ndarray, width: int, head: Head, generator: np.random.Generator) -> np.ndarray:
    """Draw the rows of the sweep, sorted: the same share of each class, but at least ten if available."""
    limit = min(SWEEP_EXAMPLES, max(_SWEEP_LOGITS // head.units, 10 * head.units), max(_SWEEP_VALUES // width, 100))
    if len(targets) <= limit:
        return np.arange(len(targets))
    order = generator.permutation(len(targets))
    classes = classes_of(targets, head)[order]
    order = order[np.argsort(classes, kind="stable")]
    sizes = np.bincount(classes)
    sizes = sizes[sizes > 0]
    rank = np.concatenate([np.arange(size) for size in sizes])
    share = np.maximum(rank - 9, 0) / np.repeat(sizes, sizes)
    return np.sort(order[np.argsort(share, kind="stable")[:limit]])
