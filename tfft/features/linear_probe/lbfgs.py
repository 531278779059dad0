"""L-BFGS for several convex functions in parallel, in NumPy: :func:`minimize`.

Implementation notes: recursion of Nocedal ("Updating quasi-Newton matrices with limited storage", 1980) with a line
search. Near a minimum values differ by less than their rounding, and slopes decide instead: the approximate Wolfe
condition of Hager and Zhang ("A new conjugate gradient method with guaranteed descent and an efficient line search",
2005). The decrease of a step is half the sum of its slopes, as for a parabola. SciPy's L-BFGS-B finds the same minima,
but brings a second BLAS with threads of its own; the two compete for the cores at every step (on two cores a step of a
probe took 35 ms instead of 11), and it handles one function only.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable

import numpy as np

_ENOUGH = 1e-4  # share of the decrease predicted by the slope (Armijo 1966)
_ROUNDING = 30.0  # errors of a value, in units of the precision
_SHORTENINGS = 20
_MEMORY = 10  # pairs of step and gradient change to store


@dataclasses.dataclass(frozen=True)
class Minimum:
    """Minima of the functions.

    Attributes:
        values: Minimizers [F, n].
        steps: Steps of the slowest function.
        converged: Whether every function met the tolerance.
    """

    values: np.ndarray
    steps: int
    converged: bool


def minimize(
    objective: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    start: np.ndarray,
    *,
    tolerance: float,
    steps: int,
) -> Minimum:
    """Minimize F smooth convex functions of n unknowns each, evaluated together but stepped separately.

    A function is done when its last step, and by the quadratic model all remaining decrease, is at most ``tolerance``
    times its value. Scale the unknowns so that the curvature is near 1 along each.

    Args:
        objective: Function from points [A, n] and the numbers [A] of the functions to values [A] and gradients [A, n].
        start: Start [F, n]; its type is that of the computation.
        tolerance: Tolerance relative to the value of a function.
        steps: Maximum number of steps.

    Returns:
        A :class:`Minimum`.

    Example:
        >>> minimize(lambda x, _: ((x**2).sum(1), 2 * x), np.ones((3, 5)), tolerance=1e-9, steps=100).converged
        True
    """
    values, gradients = objective(start, np.arange(len(start)))
    runs = [_Run(*state, collections.deque(maxlen=_MEMORY)) for state in zip(start, values, gradients, strict=True)]
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
        """Find the next direction, or stop if no decrease remains."""
        if not self.moving:
            return
        self.direction = self._direction()
        self.slope = _dot(self.gradient, self.direction)
        enough = tolerance * abs(self.value)
        self.done = -self.slope / 2 <= enough and (self.gained <= enough or not self.pairs)
        self.moving = not self.done

    def accept(self, point: np.ndarray, value: float, gradient: np.ndarray, gained: float) -> None:
        step, change = point - self.point, gradient - self.gradient
        product = _dot(step, change)
        if product > 1e-10 * _dot(step, step):  # positive wherever a function is strictly convex
            self.pairs.append((step, change, product))
        self.gained = gained
        self.point, self.value, self.gradient = point, value, gradient

    def _direction(self) -> np.ndarray:
        """Return the product of gradient and estimated inverse Hessian, by the two-loop recursion."""
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


def _is_enough(run: _Run, value: float, slope: float, promised: float, slack: float) -> bool:
    """Whether the value has fallen or, where it has changed by rounding only, the slope says that it has."""
    if value <= run.value + _ENOUGH * promised + slack * abs(run.value):
        return True
    rounding = _ROUNDING * float(np.finfo(run.point.dtype).eps) * abs(run.value)
    return value <= run.value + rounding and slope <= (2 * _ENOUGH - 1) * run.slope


def _step(
    objective: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], runs: list[_Run], slack: float
) -> None:
    """Move every unfinished run, each as far as its own slope allows."""
    lengths = {number: 1.0 for number, run in enumerate(runs) if run.moving}
    for _ in range(_SHORTENINGS):
        tried = np.array(list(lengths))
        points = np.stack([runs[n].point + lengths[n] * runs[n].direction for n in tried])
        for number, point, value, gradient in zip(tried, points, *objective(points, tried), strict=True):
            run, length = runs[number], lengths[number]
            promised = length * run.slope
            slope = _dot(gradient, run.direction)
            if _is_enough(run, float(value), slope, promised, slack):
                run.accept(point, float(value), gradient, -length * (run.slope + slope) / 2)
                del lengths[number]
            else:  # to the minimum of the parabola through the known values
                lowest = -promised / (2 * (value - run.value - promised)) if np.isfinite(value) else 0.0
                lengths[number] = length * float(np.clip(lowest, 0.1, 0.5))
        if not lengths:
            return
    for number in lengths:
        runs[number].moving = False
