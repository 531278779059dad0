"""Rules for choosing a learning rate from a loss curve: :func:`rules`.

Implementation notes: four rules of fastai.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfft.errors import PlanError

RULES = ("steep", "minimum", "valley", "slide")
LEAST_STEPS = 20

_TAIL = 5  # last points, which are the ones that diverge
_LEAST = 5  # points that a rule needs
_FLAT = 0.01  # of the loss: a fall smaller than that is none
# Standard deviations. Of 3000 curves of pure noise over 100 rates, 5 in 100 fell by more than 1.43 of them.
_CHANCE = 1.5
_SHADE = 1e-3  # of the whole fall: differences under it are noise of rounding
_WINDOW, _LEVEL = 15, 0.005  # of slide: points between the slopes that it compares, and how much they may differ


def smooth(losses: Sequence[float], beta: float) -> np.ndarray:
    """Return the exponential mean up to each loss, divided by the sum of its weights.

    Args:
        losses: [N].
        beta: Weight of the past, 0 to 1.
    """
    means, mean = [], 0.0
    for k, loss in enumerate(losses):
        mean = beta * mean + (1 - beta) * loss
        means.append(mean / (1 - beta ** (k + 1)))
    return np.array(means)


def rules(lrs: np.ndarray, losses: np.ndarray, smoothed: np.ndarray, steps: int) -> dict[str, float]:
    """Return the rate that each rule finds, by its name.

    Args:
        lrs: [N] rates, rising by one factor.
        losses: [N].
        smoothed: [N].
        steps: Number of rates that were meant to be tried; a tenth of that is dropped at the beginning.

    Raises:
        PlanError: If there are too few points, or no fall.
    """
    first, last = steps // 10, len(lrs) - _TAIL
    if last - first < _LEAST:
        raise PlanError(
            f"The loss was too large or NaN after {len(lrs)} of {steps} rates: too few for a suggestion. "
            "Give a smaller start."
        )
    kept, means = lrs[first:last], smoothed[first:last]
    # Smoothing lags behind, so whether there is a fall is asked of plain means of a few losses.
    plain = np.lib.stride_tricks.sliding_window_view(losses[:last], max(first, _LEAST)).mean(-1)
    noise = float(np.std(losses[: max(first, _LEAST)]))
    fall = means[0] - means.min()
    if not (plain[0] - plain.min() > max(_FLAT * abs(plain[0]), _CHANCE * noise) and fall > 0):
        raise PlanError(
            f"The loss does not fall between the rates {kept[0]:.1e} and {kept[-1]:.1e}: its mean goes from "
            f"{plain[0]:.4g} to {plain.min():.4g} at best, and it varies by {noise:.2g} from batch to batch. Either "
            "the rates are all too small or too large (give another start and end), the batches are too small, or what "
            "trains is at its optimum already, such as a solved head."
        )
    return {
        "steep": _steep(kept, means),
        "minimum": float(kept[means.argmin()]) / 10,
        "valley": _valley(kept, means, _SHADE * fall),
        "slide": _slide(kept, means / abs(means[0])),
    }


def _steep(lrs: np.ndarray, means: np.ndarray) -> float:
    return float(lrs[(np.diff(means) / np.diff(np.log(lrs))).argmin()])


def _valley(lrs: np.ndarray, means: np.ndarray, shade: float) -> float:
    """The longest falling subsequence; its middle, counted back from its end.

    As in fastai, it is taken to begin its number of points before its end, not at its first point: that one
    lies anywhere on the flat part, where chance decides.
    """
    length = np.ones(len(means), int)
    for i in range(1, len(means)):
        above = length[:i][means[:i] - means[i] > shade]
        length[i] = 1 + above.max(initial=0)
    end = int(length.argmax())
    section = int(length[end]) / 3
    return float(lrs[max(end - int(length[end]), 0) + int(section) + int(section / 2)])


def _slide(lrs: np.ndarray, relative: np.ndarray) -> float:
    slope = np.gradient(relative)
    window = min(_WINDOW, len(lrs) // 3)
    right, left = -1, -1 - window
    found = lrs[left]
    while left >= -len(lrs) and abs(slope[right] - slope[left]) > _LEVEL:
        found = lrs[left]
        right, left = right - 1, left - 1
    return float(found)
