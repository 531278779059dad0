"""Several convex functions minimised side by side by L-BFGS, in NumPy alone: :func:`minimise`.

Hides the recursion of Nocedal ("Updating quasi-Newton matrices with limited storage", 1980) and its line search.
SciPy's L-BFGS-B gives the same minima, but brings a second BLAS with threads of its own; the two take the cores from
each other at every step (on two cores a step of a probe took 35 ms in place of 11), and it handles one function.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable

import numpy as np

_ENOUGH = 1e-4  # of the decrease that the slope promises (Armijo 1966)
_SHORTENINGS = 20


@dataclasses.dataclass(frozen=True)
class Minimum:
    """Where the functions are least.

    Attributes:
        values: [F, n].
        steps: taken by the function that needed most.
        converged: whether every function met the tolerance.
    """

    values: np.ndarray
    steps: int
    converged: bool


def minimise(
    objective: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    start: np.ndarray,
    *,
    tolerance: float,
    steps: int,
    memory: int = 10,
) -> Minimum:
    """Minimise F smooth convex functions of n unknowns each, evaluated together but stepped one by one.

    A function is done when its last step, and by the quadratic model all that is left to gain, is at most
    ``tolerance`` times its value. Unknowns should be scaled so that the curvature is near 1 along each.

    Args:
        objective: from points [A, n] and the numbers [A] of the functions to their values [A] and gradients [A, n].
        start: [F, n]; its type is that of the computation.
        tolerance: relative to the value of a function.
        steps: at most.
        memory: pairs of step and change of gradient that are kept.

    Returns:
        A :class:`Minimum`.

    Example:
        >>> minimise(lambda x, _: ((x**2).sum(1), 2 * x), np.ones((3, 5)), tolerance=1e-9, steps=100).converged
        True
    """
    values, gradients = objective(start, np.arange(len(start)))
    runs = [_Run(*state, collections.deque(maxlen=memory)) for state in zip(start, values, gradients, strict=True)]
    taken = 0
    for _ in range(steps):
        for run in runs:
            run.aim(tolerance)
        if not any(run.moving for run in runs):
            break
        _step(objective, runs, 0.1 * tolerance)
        taken += 1
    for run in runs:
        run.aim(tolerance)
    return Minimum(np.stack([run.point for run in runs]), taken, all(run.done for run in runs))


@dataclasses.dataclass
class _Run:
    point: np.ndarray
    value: float
    gradient: np.ndarray
    pairs: collections.deque
    gained: float = np.inf
    moving: bool = True
    done: bool = False

    def aim(self, tolerance: float) -> None:
        """Find the next direction, or that there is nothing left to gain."""
        if not self.moving:
            return
        self.direction = self._direction()
        self.slope = _dot(self.gradient, self.direction)
        enough = tolerance * abs(self.value)
        self.done = -self.slope / 2 <= enough and (self.gained <= enough or not self.pairs)
        self.moving = not self.done

    def accept(self, point: np.ndarray, value: float, gradient: np.ndarray) -> None:
        step, change = point - self.point, gradient - self.gradient
        product = _dot(step, change)
        if product > 1e-10 * _dot(step, step):  # positive wherever a function is strictly convex
            self.pairs.append((step, change, product))
        self.gained = self.value - value
        self.point, self.value, self.gradient = point, value, gradient

    def _direction(self) -> np.ndarray:
        """The two loops over the pairs: the gradient times an estimate of the inverse Hessian."""
        found, shares = -self.gradient, []
        for step, change, product in reversed(self.pairs):
            share = _dot(step, found) / product
            found -= share * change
            shares.append(share)
        if self.pairs:
            _, change, product = self.pairs[-1]
            found *= product / _dot(change, change)
        for (step, change, product), share in zip(self.pairs, reversed(shares), strict=True):
            found += (share - _dot(change, found) / product) * step
        return found


def _dot(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.einsum("i,i->", left, right))  # BLAS would wake its threads for each of these


def _step(
    objective: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], runs: list[_Run], slack: float
) -> None:
    """Move every run that is not done, each as far as its own slope allows."""
    lengths = {number: 1.0 for number, run in enumerate(runs) if run.moving}
    for _ in range(_SHORTENINGS):
        tried = np.array(list(lengths))
        points = np.stack([runs[n].point + lengths[n] * runs[n].direction for n in tried])
        for number, point, value, gradient in zip(tried, points, *objective(points, tried), strict=True):
            run, length = runs[number], lengths[number]
            promised = length * run.slope
            if value <= run.value + _ENOUGH * promised + slack * abs(run.value):  # slack is for rounding
                run.accept(point, float(value), gradient)
                del lengths[number]
            else:  # to the lowest point of the parabola through what is known
                lowest = -promised / (2 * (value - run.value - promised)) if np.isfinite(value) else 0.0
                lengths[number] = length * float(np.clip(lowest, 0.1, 0.5))
        if not lengths:
            return
    for number in lengths:
        runs[number].moving = False
