"""Which pixels a SavedModel takes, read off what it does to them itself: :func:`find_pixel_range`.

Many models scale pixels inside. One that divides by 255 takes 0 to 255; one that takes twice the value less one takes
0 to 1. Where a model does nothing to its pixels, three ranges are possible. Then the statistics of its first BatchNorm
may tell them apart on an image with the statistics of photographs; else the convention of TF Hub is assumed, loudly.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from tfft.backbones.savedmodel.input_scaling import Scaling, find_scaling
from tfft.backbones.savedmodel.partition import Analysis
from tfft.backbones.savedmodel.range_check import (
    compare_ranges,
    fit_of_statistics,
    measured_scaling,
    response_of_scores,
)

Range = tuple[float, float]
RANGES: tuple[Range, ...] = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))  # that models take, the smallest first
# Ranges that networks use inside: pixels scaled to one of these, or minus the mean of the training data.
_EXACT: tuple[Range, ...] = ((0, 1), (-1, 1), (-0.5, 0.5), (0, 255), (-127.5, 127.5))
_CENTERED: tuple[Range, ...] = ((-0.45, 0.55), (-115, 140))
# Most misfit of a range, and its least advantage over the others, for the statistics of a BatchNorm to decide. The
# published EfficientNet-Lite0 has 0.1 to 0.5 with its own range on images of 224 to 64 pixels, over 1.4 with others.
_FITS, _CLEAR = 0.7, 0.8
# Trained with cross-entropy, a classifier changes its scores by some units or tens from one image to another: by 3 to
# 161 in 16 public ones in their own range, by 0.03 to 3 in a range that is 255 times too small, by 430 to 6,400 in one
# that is too large. The range whose change is nearest to the middle is taken, as a ratio.
_USUAL = 25.0
_CHECK = "A wrong range spoils every result: pass input_range= as documented by the publisher of the model."
_BEYOND = (0.0, 2550.0)  # ten times as much, which a network that saturates or normalizes does not notice


@dataclasses.dataclass(frozen=True)
class PixelRange:
    """Pixels that a model takes.

    Attributes:
        value_range: What black and white become.
        source: Where that comes from, in words.
        known: False where it is assumed.
        warning: What the user should check; empty where it is known.
    """

    value_range: Range
    source: str
    known: bool = True
    warning: str = ""


def find_pixel_range(analysis: Analysis, spec: tf.TensorSpec, whole: Analysis | None = None) -> PixelRange | None:
    """Return the range of the pixels that a model takes; None for a model that takes something else.

    Args:
        analysis: Analysis of its graph.
        spec: Spec of its only input.
        whole: Analysis of its graph with the classifier at the end, where the features are in front of one.
    """
    placeholders = analysis.flat.inputs
    if len(placeholders) != 1 or spec.shape.rank not in (3, 4) or not spec.dtype.is_floating:
        return None
    if placeholders[0] not in analysis.data or spec.shape[-1] not in (1, 3, 4):
        return None
    if spec.shape.rank == 3:  # one image; a series of vectors looks the same until a layer takes images
        alone = measured_scaling(analysis, spec)
        return None if alone is None else _read_off(alone)
    found = find_scaling(analysis, placeholders[0], spec.shape[3])
    if isinstance(found, str):
        found = measured_scaling(analysis, spec) or found
    if isinstance(found, Scaling):
        known = _read_off(found)
        if known is not None:
            return known
        why = f"{_does(found)} before {_short(found.place)!r}"
    else:
        why = f"what it does to them in {_short(found)!r} cannot be followed"
    return _estimated(analysis, spec, why, whole or analysis)


def _read_off(found: Scaling) -> PixelRange | None:
    """The range that a scaling makes sense for."""
    place = _short(found.place)
    if found.kind == "standardized":
        return PixelRange((0.0, 255.0), f"the model standardizes each image itself before {place!r}; any range will do")
    if found.integers:
        return PixelRange((0.0, 255.0), "[0, 255], since the model casts its pixels to integers")
    if found.statistics is not None:
        mean, spread = found.statistics
        value_range = _of_statistics(mean, spread)
        if value_range is not None:
            what = f"pixels with mean {_numbers(mean)} and deviation {_numbers(spread)}"
            return PixelRange(value_range, f"{_text(value_range)}, since the BatchNorm {place!r} was trained on {what}")
    value_range = range_of(found.scale, found.shift)
    if value_range is None and found.largest is not None and _nothing(found.scale, found.shift):
        value_range = range_of(*found.largest)  # scaled up and down again: the larger range counts
        if value_range is not None:
            up = f"it first takes {_formula(*found.largest)}"
            return PixelRange(value_range, f"{_text(value_range)}, since the model scales pixels itself: {up}")
    if value_range is None:
        return None
    low, high = (found.scale * end + found.shift for end in value_range)
    inner = f"[{_numbers(low)}, {_numbers(high)}]"
    return PixelRange(
        value_range, f"{_text(value_range)}, since the model scales pixels itself: {_does(found)}, {inner}"
    )


def range_of(scale: np.ndarray, shift: np.ndarray) -> Range | None:
    """Return the range of pixels that makes sense of a factor and an offset; None where none or several do.

    Args:
        scale: Factor of each channel.
        shift: What is added after that.
    """
    if _nothing(scale, shift) or not (np.all(np.isfinite(scale)) and np.all(scale != 0)):
        return None
    changing = [r for r in RANGES if _changes(r, scale, shift)]
    exact = [r for r in changing if any(_maps(r, scale, shift, to, 0.02, 0.02) for to in _EXACT)]
    if len(exact) == 1:
        return exact[0]
    centered = [r for r in changing if any(_maps(r, scale, shift, to, 0.1, 0.2) for to in _CENTERED)]
    if len(centered) == 1:
        return centered[0]
    return _of_statistics(-shift / scale, 1 / np.abs(scale)) if np.any(shift != 0) else None


def _nothing(scale: np.ndarray, shift: np.ndarray) -> bool:
    return np.allclose(scale, 1, atol=1e-3) and np.allclose(shift, 0, atol=1e-3)


def _changes(value_range: Range, scale: np.ndarray, shift: np.ndarray) -> bool:
    """Whether a scaling moves an end of a range by more than a few hundredths of it; models do not scale by less."""
    width = value_range[1] - value_range[0]
    return any(np.abs(scale * end + shift - end).max() > 0.03 * width for end in value_range)


def _maps(value_range: Range, scale: np.ndarray, shift: np.ndarray, to: Range, width: float, place: float) -> bool:
    """Whether a scaling brings a range to another one, up to shares of its width."""
    low, high = np.sort([scale * end + shift for end in value_range], axis=0)
    span = to[1] - to[0]
    return bool(np.all(np.abs(high - low - span) <= width * span) and np.all(np.abs(low - to[0]) <= place * span))


def _of_statistics(mean: np.ndarray, spread: np.ndarray) -> Range | None:
    """The smallest range that pixels with this mean and deviation can have.

    Numbers between L and H with the mean m deviate by sqrt((m - L) (H - m)) at most (Bhatia and Davis, 2000), and
    images fill more than a few hundredths of their range.
    """
    for low, high in RANGES:
        possible = spread**2 <= 1.1 * (mean - low) * (high - mean)
        if np.all(possible) and np.all(spread >= 0.04 * (high - low)):
            return low, high
    return None


def _estimated(analysis: Analysis, spec: tf.TensorSpec, why: str, whole: Analysis) -> PixelRange:
    """The range by the first BatchNorm, by the scores of a classifier, or by convention."""
    fits = fit_of_statistics(analysis, spec, RANGES)
    ranked = sorted(fits, key=lambda r: fits[r])
    if fits and fits[ranked[0]] <= _FITS and fits[ranked[1]] - fits[ranked[0]] >= _CLEAR:
        best = ranked[0]
        source = f"estimated: {_text(best)}, since only with it the first BatchNorm gets what it was trained on"
        return PixelRange(best, source, False, f"The pixel range is {source}. input_range= sets another.")
    by_scores = _by_scores(whole, spec)
    if by_scores is not None:
        return by_scores
    source = f"assumed: [0, 1], the convention of TF Hub, since {why}"
    differences = compare_ranges(analysis, spec, RANGES)
    shares = [f"with {_text(r)} by {d:.0%}" for r, d in differences.items()]
    warning = f"WARNING: The pixel range is {source}."
    if shares and max(differences.values()) < 0.01:
        return PixelRange(RANGES[0], source, False, f"{warning[9:]} Its features hardly depend on it.")
    if shares:
        warning += f" The features of an image would differ {', '.join(shares)}."
    return PixelRange(RANGES[0], source, False, f"{warning} {_CHECK}")


def _by_scores(whole: Analysis, spec: tf.TensorSpec) -> PixelRange | None:
    """Return [0, 255] if the scores of a classifier change with the image by a usual amount only in that range."""
    response = response_of_scores(whole, spec, [RANGES[0], RANGES[-1], _BEYOND])
    if not response or response[_BEYOND] < 5 * response[RANGES[-1]]:
        return None
    least, most = (max(response[r], 1e-9) for r in (RANGES[0], RANGES[-1]))
    apart = {r: max(value / _USUAL, _USUAL / value) for r, value in ((RANGES[0], least), (RANGES[-1], most))}
    if apart[RANGES[-1]] >= apart[RANGES[0]]:
        return None
    changes = f"change by {most:.2g} from image to image, with [0, 1] by {least:.2g}"
    source = f"estimated: [0, 255], since with it the scores of its classes {changes}"
    warning = f"WARNING: The pixel range is {source}; training brings them some tens apart."
    return PixelRange(RANGES[-1], source, False, f"{warning} {_CHECK}")


def _does(found: Scaling) -> str:
    if _nothing(found.scale, found.shift):
        return "it does nothing to its pixels"
    return f"it takes {_formula(found.scale, found.shift)}"


def _formula(scale: np.ndarray, shift: np.ndarray) -> str:
    factor = float(np.mean(scale))
    divides = np.ptp(scale) == 0 and 0 < abs(factor) < 0.5
    times = f"x / {1 / factor:.4g}" if divides else "x" if np.all(scale == 1) else f"{_numbers(scale)} x"
    if np.allclose(shift, 0):
        return times
    offset = _numbers(shift)
    return f"{times} - {offset[1:]}" if offset.startswith("-") else f"{times} + {offset}"


def _numbers(values: np.ndarray) -> str:
    values = np.round(np.ravel(values), 4) + 0.0
    shown = [f"{v:.4g}" for v in (values[:1] if np.ptp(values) < 1e-4 else values)]
    return shown[0] if len(shown) == 1 else f"({', '.join(shown)})"


def _text(value_range: Range) -> str:
    return f"[{value_range[0]:g}, {value_range[1]:g}]"


def _short(place: str) -> str:
    parts = [part for part in place.split("/") if "PartitionedCall" not in part]
    return "/".join(parts[-2:]) or place
