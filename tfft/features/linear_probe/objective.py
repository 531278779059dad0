"""Optimum of a head's loss on features: :class:`Problem`, :func:`fit`, in the coordinates of a :class:`Basis`.

Implementation notes: all folds are solved at once, so that they share one matrix product. The unknowns are coordinates
along the principal axes of the features, scaled by the curvature there, so that L-BFGS (Liu and Nocedal, "On the
limited memory BFGS method for large scale optimization", 1989) needs few steps at any penalty: the Hessian of the
multinomial loss is close to the covariance of the features times a curvature p (1 - p) of each class (Böhning,
"Multinomial logistic regression algorithm", 1992, bounds it by 1/2), which is measured at the start of a fit. The final
solution of a large problem takes most of its steps in float32, whose gradients are exact enough, and the last ones in
float64. With 77 classes, a rotation to the axes of the mean covariance of their probabilities (as in K-FAC, Martens and
Grosse 2015) saved a fifth of the steps; one that weights rows by their uncertainty saved none.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, TypedDict

import numpy as np

from tfft.features.linear_probe.lbfgs import Minimum, minimize
from tfft.features.linear_probe.threads import in_order, one_blas_thread
from tfft.heads import Head

_WIDEST_ROTATION = 4096  # beyond it finding the axes costs more than it saves
_NO_VARIANCE = 1e-12  # of the largest: what rounding leaves along axes that the rows do not span
_BLOCK_LOGITS, _BLOCK_FEATURES = 2**17, 2**21  # logits that stay in the cache of a core
_BLOCK_ROWS = 512  # at least, or adding the gradients of the blocks takes longer than computing them
_JOINT_COLUMNS = 512  # enough for full speed of the matrix product; more only takes memory
_THREADED_EIGEN = 2e9  # additions and products: some 30 ms on one core
_CURVATURE_ROWS = 2000
_LARGE_WORK = 2e7  # products of rows and kernel; for fewer, exact steps take milliseconds


class _Stop(TypedDict):
    """Stopping criterion of a minimization."""

    tolerance: float
    steps: int


_SWEEP_STOP: _Stop = {"tolerance": 1e-4, "steps": 200}  # a hundredth of it moves held-out losses by a percent or less
_ROUGH_STOP: _Stop = {"tolerance": 3e-4, "steps": 200}  # for many rows and classes
_FINAL_STOP: _Stop = {"tolerance": 1e-8, "steps": 1000}


@dataclasses.dataclass(frozen=True)
class Basis:
    """Centred features along their principal axes; made by :func:`find_basis`.

    Attributes:
        mean: [D], subtracted.
        vectors: Orthonormal axes [D, r], so that an L2 penalty is the same in both coordinates; None for the columns.
        variances: Variances along the axes, [r].
    """

    mean: np.ndarray
    vectors: np.ndarray | None
    variances: np.ndarray

    def project(self, features: np.ndarray, rows: np.ndarray | None, dtype: Any) -> np.ndarray:
        """Return rows (None: all) of features [N, D] in these coordinates, [n, r]."""
        count = len(features) if rows is None else len(rows)
        out = np.empty((count, len(self.variances)), dtype)
        vectors = None if self.vectors is None else self.vectors.astype(dtype)
        for part in blocks(count, features.shape[1]):
            block = np.asarray(features[part if rows is None else rows[part]], np.float64)
            block = (block - self.mean).astype(dtype)
            out[part] = block if vectors is None else block @ vectors
        return out

    def to_raw(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert [F, U, r + 1] to kernels [F, U, D] and biases [F, U] for raw features."""
        kernel = values[..., :-1] if self.vectors is None else values[..., :-1] @ self.vectors.T
        return kernel, values[..., -1] - kernel @ self.mean

    def pull(self, gradient: np.ndarray, total: np.ndarray) -> np.ndarray:
        """Convert the gradient for a raw kernel, [F, U, D], and its bias, [F, U], to that of the values."""
        along = gradient - total[..., None] * self.mean
        return along if self.vectors is None else along @ self.vectors


def find_basis(features: np.ndarray, rows: np.ndarray) -> Basis:
    """Centre by all features, read in blocks, and find the axes from some rows.

    Args:
        features: Finite features [N, D].
        rows: Sorted row numbers [n].

    Returns:
        A basis of all D axes or, if ``rows`` is every row, of the axes that they span; of the unchanged columns if
        finding axes would take too long.
    """
    mean, variances = _moments(features)
    plain = Basis(mean, None, variances)
    count, wide = len(rows), features.shape[1]
    whole = count == len(features)
    if min(count, wide) > _WIDEST_ROTATION or (count < wide and not whole):
        return plain
    little = 10 * min(count, wide) ** 3 < _THREADED_EIGEN
    with one_blas_thread() if little else contextlib.nullcontext():
        if count < wide:  # the axes of few rows come from their products with one another
            block = plain.project(features, rows, np.float64)
            gram = block @ block.T
        else:
            gram = np.zeros((wide, wide))
            for part in blocks(count, wide):
                block = plain.project(features, rows[part], np.float64)
                gram += block.T @ block
        variances, own = np.linalg.eigh(gram / count)
    spanned = variances >= _NO_VARIANCE * max(variances[-1], 0) if whole else np.full(len(variances), True)
    variances, own = np.maximum(variances[spanned], 1e-300), own[:, spanned]
    vectors = block.T @ own / np.sqrt(count * variances) if count < wide else own
    return Basis(mean, vectors, variances)


@dataclasses.dataclass
class Problem:
    """Loss of several heads (folds) on the same rows, each with its own weights of the rows.

    Attributes:
        rows: [N, d]; float32 rows in a basis are computed in float32, all others in float64.
        targets: int [N] for classification, float [N, U] for the others.
        weights: [F, N], each row with the sum 1.
        head: Head that defines the loss.
        basis: Coordinates of the values if rows are raw features; None if rows are in them already.
    """

    rows: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    head: Head
    basis: Basis | None = None

    def __post_init__(self) -> None:
        self.dtype = np.float32 if self.basis is None and self.rows.dtype == np.float32 else np.float64
        self.large = self.rows.size * self.head.units >= _LARGE_WORK
        self.gain = 1 if self.head.convex_loss == "softmax" else self.head.units  # the others' loss is a mean of units

    def value_and_gradient(
        self, values: np.ndarray, l2: float = 0.0, folds: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return weighted loss plus penalty of each fold, [F], and the gradients; values are [F, U, r + 1]."""
        every = self.weights if folds is None or len(folds) == len(self.weights) else self.weights[folds]
        kernel, bias = self._raw(values)
        gradient, total, loss = (
            np.zeros(kernel.shape, self.dtype),
            np.zeros(bias.shape, self.dtype),
            np.zeros(len(values)),
        )

        def compute(part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
            weights = every[:, part]
            own = np.flatnonzero(weights.any(1))  # not the folds that all these rows are held out of
            block = np.asarray(self.rows[part], self.dtype)
            losses, slopes = self._terms(_logits(kernel[own], bias[own], block), self.targets[part])
            weights = weights[own]
            slopes *= weights.astype(self.dtype)[:, None]
            flat = slopes.reshape(-1, len(block)) @ block
            return own, np.sum(losses * weights, 1), slopes.sum(-1), flat.reshape(len(own), *kernel.shape[1:])

        work = 4.0 * self.rows.size * kernel.shape[0] * kernel.shape[1]
        for own, losses, slopes, part in in_order(compute, self._blocks(len(self.rows), len(values)), work):
            loss[own] += losses
            total[own] += slopes
            gradient[own] += part
        if self.basis is not None:
            gradient = self.basis.pull(gradient, total)
        kernel = values[..., :-1]
        gradient = np.concatenate([gradient + 2 * l2 * kernel, total[..., None]], -1)
        return loss + l2 * np.einsum("fud,fud->f", kernel, kernel, dtype=np.float64), gradient

    def score(self, values: np.ndarray, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return loss and hits of each row, [N], by the head of the fold that it is held out of; 0 for -1."""
        losses, hits = np.zeros(len(self.rows)), np.zeros(len(self.rows))
        kernel, bias = self._raw(values)

        def compute(job: tuple[int, np.ndarray]) -> None:
            number, rows = job
            logits = _logits(kernel[number : number + 1], bias[number : number + 1], self.rows[rows])
            hits[rows] = self._hits(logits, self.targets[rows])[0]
            losses[rows] = self._terms(logits, self.targets[rows])[0][0]

        held = [np.flatnonzero(fold == number) for number in range(len(values))]
        jobs = [(number, rows[part]) for number, rows in enumerate(held) for part in self._blocks(len(rows), 1)]
        for _ in in_order(compute, jobs, 2.0 * self.rows.size * kernel.shape[1]):
            pass
        return losses, hits

    def curvature(self, values: np.ndarray) -> np.ndarray:
        """Return the mean curvature for each unit, [U], from some rows: it scales the unknowns, no more."""
        curvature, weight = np.zeros(values.shape[1]), 0.0
        kernel, bias = self._raw(values)
        rows = np.arange(0, len(self.rows), -(-len(self.rows) // _CURVATURE_ROWS))
        for part in self._blocks(len(rows), len(values)):
            own = rows[part]
            logits = _logits(kernel, bias, np.asarray(self.rows[own], self.dtype))
            slopes = np.minimum(np.abs(self._terms(logits, self.targets[own])[1]) * self.gain, 1)
            slopes *= 1 - slopes  # p (1 - p), whether the target is 0 or 1
            weights: np.ndarray[Any, Any] = self.weights[:, own].astype(self.dtype)
            curvature += np.einsum("fun,fn->u", slopes, weights)
            weight += float(weights.sum())
        return curvature / (self.gain * max(weight, 1e-300))

    def _raw(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kernel, bias = (values[..., :-1], values[..., -1]) if self.basis is None else self.basis.to_raw(values)
        return kernel.astype(self.dtype), bias.astype(self.dtype)

    def _blocks(self, count: int, folds: int) -> Iterator[slice]:
        rows = max(_BLOCK_LOGITS // (folds * self.head.units), _BLOCK_ROWS)
        return _parts(count, min(rows, _BLOCK_FEATURES // self.rows.shape[1]))

    def _terms(self, logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the losses [F, n] and their slopes by the logits [F, U, n]; may overwrite the logits."""
        if self.head.convex_loss == "softmax":
            return _softmax_terms(logits, targets, self.head.label_smoothing)
        target = targets.T.astype(self.dtype)
        if self.head.convex_loss == "squared":
            logits -= target
            return np.mean(logits**2, 1), logits * (2 / self.head.units)
        return _sigmoid_terms(logits, target, self.head.label_smoothing)

    def _hits(self, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        if self.head.convex_loss == "softmax":
            return logits.argmax(1) == targets
        return np.mean((logits > 0) == (targets.T > 0.5), 1)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Values [F, U, r + 1] at the optimum, the number of steps, and whether the tolerance was met."""

    values: np.ndarray
    steps: int
    converged: bool


def fit(
    problem: Problem,
    l2: float,
    variances: np.ndarray,
    start: np.ndarray | None = None,
    *,
    final: bool = False,
) -> Fitted:
    """Minimize a problem plus ``l2`` times the squared kernel by L-BFGS; biases are not penalized.

    Args:
        problem: Problem of any kind but regression, see :class:`Ridge`.
        l2: Strength, 0 or more.
        variances: Variances of the basis, [r].
        start: Start [F, U, r + 1]; None for a zero kernel and biases at the class frequencies.
        final: Whether to use a tight tolerance instead of one that suffices to compare strengths.

    Returns:
        The values at the optimum.
    """
    if start is None:
        start = _without_features(problem, len(variances))
    curvature = problem.curvature(start)
    curvature = np.maximum(curvature, 1e-3 * max(curvature.max(), 1e-6))[:, None]  # a class that never occurs has none
    sizes = 1 / np.sqrt(np.append(curvature * variances + 2 * l2 + 1e-12, curvature, axis=1))
    with one_blas_thread():
        found = [
            _minimize(dataclasses.replace(problem, weights=problem.weights[group]), start[group], l2, sizes, final)
            for group in _parts(len(start), _JOINT_COLUMNS // start.shape[1])
        ]
    values = np.concatenate([part.values for part in found]).reshape(start.shape) * sizes
    if problem.head.convex_loss == "softmax":  # what all classes share changes the penalty only: less is exactly best
        values -= values.mean(1, keepdims=True)
    return Fitted(values, max(part.steps for part in found), all(part.converged for part in found))


class Ridge:
    """Ridge regression in closed form: prepared once for a problem, solved for any strength.

    Args:
        problem: Regression problem.
    """

    def __init__(self, problem: Problem) -> None:
        units = problem.head.units
        project = (lambda block: block) if problem.basis is None else lambda b: problem.basis.project(b, None, float)
        wide = problem.rows.shape[1] if problem.basis is None else len(problem.basis.variances)
        patterns, pattern = np.unique(problem.weights, axis=1, return_inverse=True)  # few: rows of a fold share one
        sums = np.zeros((patterns.shape[1], wide + units + 1, wide + units + 1))
        for part in blocks(len(problem.rows), problem.rows.shape[1]):
            block = np.asarray(project(problem.rows[part]), np.float64)
            block = np.concatenate([block, problem.targets[part], np.ones((len(block), 1))], 1)
            for number in range(len(sums)):
                own = block[pattern[part] == number]
                sums[number] += own.T @ own
        moments = np.einsum("fp,pij->fij", patterns, sums)
        means = moments[:, -1:, :-1]
        moments = moments[:, :-1, :-1] - means.transpose(0, 2, 1) * means
        self._gram, self._cross = moments[:, :wide, :wide], moments[:, :wide, wide:]
        self._means, self._units = means[:, 0], units

    def fit(self, l2: float) -> Fitted:
        """Return the values at the optimum of mean squared error plus ``l2`` times the squared kernel."""
        wide = self._gram.shape[1]
        least = 1e-12 * max(float(np.trace(self._gram[0])) / wide, 1e-12)
        found = []
        for gram, cross, mean in zip(self._gram, self._cross, self._means, strict=True):
            kernel = np.linalg.solve(gram + max(l2 * self._units, least) * np.eye(wide), cross)
            found.append(np.append(kernel.T, (mean[wide:] - mean[:wide] @ kernel)[:, None], 1))
        return Fitted(np.stack(found), 0, True)


def blocks(count: int, wide: int) -> Iterator[slice]:
    """Divide the rows of features [count, wide] into slices that take little memory."""
    return _parts(count, _BLOCK_FEATURES // wide)


def _parts(count: int, size: int) -> Iterator[slice]:
    size = max(size, 1)
    return (slice(low, min(low + size, count)) for low in range(0, count, size))


def _logits(kernel: np.ndarray, bias: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Return the logits [F, U, n] of rows [n, d]; classes first: sums over them then run along memory."""
    logits = kernel.reshape(-1, kernel.shape[-1]) @ block.T
    logits += bias.reshape(-1, 1)
    return logits.reshape(*bias.shape, len(block))


def _minimize(problem: Problem, start: np.ndarray, l2: float, sizes: np.ndarray, final: bool) -> Minimum:
    if not final:
        return _stage(problem, start / sizes, l2, sizes, _ROUGH_STOP if problem.large else _SWEEP_STOP)
    scaled, before = start / sizes, 0
    if problem.basis is None and problem.large:  # rows in memory: most steps in float32, on a copy
        near = _stage(
            dataclasses.replace(problem, rows=problem.rows.astype(np.float32)), scaled, l2, sizes, _FINAL_STOP
        )
        scaled, before = near.values, near.steps
    found = _stage(problem, scaled, l2, sizes, _FINAL_STOP)
    return dataclasses.replace(found, steps=before + found.steps)


def _stage(problem: Problem, start: np.ndarray, l2: float, sizes: np.ndarray, stop: _Stop) -> Minimum:
    """Minimize over values in units of their sizes, with the precision of the problem."""
    shape = (-1, *sizes.shape)
    sizes = sizes.astype(problem.dtype)

    def objective(points: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, gradients = problem.value_and_gradient(points.reshape(shape) * sizes, l2, folds)
        return values, (gradients * sizes).reshape(points.shape)

    return minimize(objective, start.astype(problem.dtype).reshape(len(start), -1), **stop)


def _without_features(problem: Problem, wide: int) -> np.ndarray:
    """Return a zero kernel with its best biases; half a pseudo-example per class keeps them finite."""
    folds, units, smoothing = len(problem.weights), problem.head.units, problem.head.label_smoothing
    half = 0.5 / len(problem.targets)
    values = np.zeros((folds, units, wide + 1))
    if problem.head.convex_loss == "softmax":
        shares = np.stack([np.bincount(problem.targets, weights, units) for weights in problem.weights])
        values[..., -1] = np.log((1 - smoothing) * shares + smoothing / units + half)
    else:
        shares = (1 - smoothing) * (problem.weights @ problem.targets) + smoothing / 2
        values[..., -1] = np.log(shares + half) - np.log(1 - shares + half)
    return values


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count, wide = features.shape
    shift = np.asarray(features[next(blocks(count, wide))], np.float64).mean(
        0
    )  # near the mean, so that squares keep their digits
    first, second = np.zeros(wide), np.zeros(wide)
    for part in blocks(count, wide):
        block = np.asarray(features[part], np.float64) - shift
        first += block.sum(0)
        second += np.einsum("nd,nd->d", block, block)
    return shift + first / count, np.maximum(second / count - (first / count) ** 2, 0)


def _softmax_terms(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    own = (slice(None), labels, np.arange(len(labels)))
    logits -= logits.max(1)[:, None]
    losses = -(1 - smoothing) * logits[own]
    if smoothing:
        losses -= smoothing * logits.mean(1)
    np.exp(logits, out=logits)
    total = logits.sum(1)
    losses += np.log(total)
    logits /= total[:, None]
    logits[own] -= 1 - smoothing
    if smoothing:
        logits -= smoothing / logits.shape[1]
    return losses, logits


def _sigmoid_terms(logits: np.ndarray, target: np.ndarray, smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    target = target * (1 - smoothing) + smoothing / 2
    soft = np.logaddexp(0, logits)
    slopes = np.exp(logits - soft)
    slopes -= target
    return np.mean(soft - logits * target, 1), slopes / logits.shape[1]
