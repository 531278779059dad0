"""Tries the ranges of pixels that a model might take on an image that looks like a photograph.

The image is drawn, not stored: discs of any size that cover each other have the statistics of photographs (the dead
leaves model; Lee, Mumford and Huang, 2001).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfft.backbones.savedmodel.classifier import scores_of
from tfft.backbones.savedmodel.graph import FlatGraph, attribute, data_inputs, node_of
from tfft.backbones.savedmodel.input_scaling import LAYERS, Scaling
from tfft.backbones.savedmodel.partition import Analysis
from tfft.backbones.savedmodel.running import run_graph

Range = tuple[float, float]
_SIDE, _LARGEST = 128, 224  # of the image where the model takes any size; a larger one is enlarged


def drawn_image(height: int, width: int, channels: int) -> np.ndarray:
    """Return an image with the statistics of photographs, float64 [height, width, channels] in 0 to 1."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:height, 0:width]
    side = max(height, width)
    image = np.zeros((height, width, 3))
    image[:] = (0.5 + 0.3 * (0.5 - rows / height))[..., None]  # light comes from above
    for _ in range(400):
        radius = min(0.02 / np.sqrt(random.random()), 0.35) * side  # many small things, few large ones
        inside = (rows - random.random() * height) ** 2 + (columns - random.random() * width) ** 2 < radius**2
        light = np.clip(random.normal(0.42, 0.24), 0, 1)
        image[inside] = np.clip(light + random.normal(0, 0.06, 3), 0, 1)  # colours of things are mostly weak
    image = np.clip(image + random.normal(0, 0.02, image.shape), 0, 1)
    if channels == 1:
        return image.mean(-1, keepdims=True)
    return np.concatenate([image, np.ones((height, width, channels - 3))], -1)


def _image_for(spec: tf.TensorSpec) -> np.ndarray:
    """The drawn image in the size and with the channels that an input takes."""
    height, width, channels = (n or side for n, side in zip(spec.shape[1:], (_SIDE, _SIDE, 3), strict=True))
    small = drawn_image(min(height, _LARGEST), min(width, _LARGEST), channels)
    rows, columns = (np.arange(n) * m // n for n, m in zip((height, width), small.shape, strict=False))
    return small[rows][:, columns]


def _run(
    analysis: Analysis, spec: tf.TensorSpec, ref: str, ranges: Sequence[Range], images: Sequence[np.ndarray] = ()
) -> dict[Range, np.ndarray]:
    """Compute a tensor for an image and its mirror image, or others, in each range; nothing where it fails."""
    if not images:
        image = _image_for(spec)
        images = [image, image[:, ::-1]]
    batch = np.stack(images)[np.arange(spec.shape[0] or len(images)) % len(images)]
    scaled = [tf.constant(low + batch * (high - low), spec.dtype) for low, high in ranges]
    try:
        if spec.shape[0] is None:  # the graph is imported only once
            values = tf.split(run_graph(analysis.flat, [ref], [tf.concat(scaled, 0)])[0], len(ranges))
        else:
            values = [run_graph(analysis.flat, [ref], [pixels])[0] for pixels in scaled]
    except (tf.errors.OpError, ValueError):  # images of this size are not taken, or examples depend on each other
        return {}
    found = {r: np.asarray(value, np.float64) for r, value in zip(ranges, values, strict=True)}
    return found if all(np.all(np.isfinite(value)) for value in found.values()) else {}


def compare_ranges(analysis: Analysis, spec: tf.TensorSpec, ranges: Sequence[Range]) -> dict[Range, float]:
    """Return by how much the output differs from that for the first range, for each other one.

    Args:
        analysis: Analysis of the graph.
        spec: Spec of its only input, images.
        ranges: Ranges of pixels.

    Returns:
        The distance as a share of the larger of the two; empty where the model cannot be run on the image.
    """
    found = _run(analysis, spec, analysis.output, ranges)
    wanted = found.pop(ranges[0], np.zeros(1))
    lengths = {r: max(float(np.linalg.norm(ours)), float(np.linalg.norm(wanted)), 1e-12) for r, ours in found.items()}
    return {r: float(np.linalg.norm(ours - wanted)) / lengths[r] for r, ours in found.items()}


def response_of_scores(analysis: Analysis, spec: tf.TensorSpec, ranges: Sequence[Range]) -> dict[Range, float]:
    """Return how much the scores of a classifier's classes depend on the image, for each range.

    Args:
        analysis: Analysis of the whole graph.
        spec: Spec of its only input, images.
        ranges: Ranges of pixels.

    Returns:
        The largest change of a score, before Softmax or Sigmoid and less the mean over the classes, from one image
        to its negative, to half its light and to black, on average; empty where the model is not a classifier, or was
        never trained: the biases of a new one are zero.
    """
    scores = scores_of(analysis)
    own = [analysis.flat.variables[name] for name in analysis.order if name in analysis.flat.variables]
    if not scores.ref or not any(np.any(np.asarray(v)) for v in own if v.shape.rank == 1 and v.dtype.is_floating):
        return {}
    image = _image_for(spec)
    images = [image, 1 - image, image[::-1] / 2, 0 * image]
    batches = [images] if spec.shape[0] is None else [[one] for one in images]
    runs = [_run(analysis, spec, scores.ref, ranges, batch) for batch in batches]
    if not all(runs):
        return {}
    found = {}
    for value_range in ranges:
        rows = np.concatenate([run[value_range][: len(batch)] for run, batch in zip(runs, batches, strict=True)])
        change = (rows[1:] - rows[0]).reshape(len(rows) - 1, -1)
        shared = change / 2 if scores.activation == "Sigmoid" else change.mean(-1, keepdims=True)
        found[value_range] = float(np.abs(change - shared).max(-1).mean())
    return found


def measured_scaling(analysis: Analysis, spec: tf.TensorSpec) -> Scaling | None:
    """Measure on images of one colour what the first layer gets, where its graph cannot be followed.

    Args:
        analysis: Analysis of the graph.
        spec: Spec of its only input, images or one image without a batch axis.

    Returns:
        The factor and the offset of each channel; None where what is done to a pixel is not that.
    """
    flat, channels = analysis.flat, spec.shape[-1]
    layers = (
        n for n in analysis.order if flat.nodes[n].op in LAYERS and analysis.data[node_of(flat.nodes[n].input[0])]
    )
    name = next(layers, "")
    ref = data_inputs(flat.nodes[name])[0] if name else ""
    if not name or analysis.tensor(ref).shape.rank != 4 or analysis.tensor(ref).shape[3] != channels:
        return None
    black, white = np.zeros(channels), np.full(channels, 255.0)
    colours = [black, *np.eye(channels), white, white / 2, white * (np.arange(channels) + 1) / (channels + 1)]
    batch = [] if spec.shape.rank == 3 else [spec.shape[0] or 1]
    size = [n or side for n, side in zip(spec.shape[-3:-1], (_SIDE, _SIDE), strict=True)]
    images = [np.broadcast_to(c, (*batch, *size, channels)) for c in colours]
    try:
        values = [np.asarray(run_graph(flat, [ref], [tf.constant(p, spec.dtype)])[0], np.float64) for p in images]
    except (tf.errors.OpError, ValueError):
        return None
    middle = np.stack([v[0, v.shape[1] // 2, v.shape[2] // 2] for v in values])
    shift, factors = middle[0], middle[1 : channels + 1] - middle[0]
    expected = np.stack(colours) @ factors + shift
    tolerance = 0.02 * np.ptp(middle) + 1e-6
    source = np.abs(factors).argmax(axis=0)
    alone = np.count_nonzero(np.abs(factors) > 1e-3 * np.abs(factors).max(), axis=0)
    if not np.allclose(expected, middle, rtol=0, atol=tolerance) or np.any(alone != 1) or len(set(source)) != channels:
        return None
    scale = factors[source, np.arange(channels)]
    return Scaling(scale, shift, source, 3, place=name).by_input()


def fit_of_statistics(analysis: Analysis, spec: tf.TensorSpec, ranges: Sequence[Range]) -> dict[Range, float]:
    """Return how badly each range fits the statistics that the first BatchNorm was trained with.

    Args:
        analysis: Analysis of the graph.
        spec: Spec of its only input, images.
        ranges: Ranges of pixels.

    Returns:
        For each range the median over the channels of the absolute logarithm of found to stored deviation, plus that
        of the distance of the means in stored deviations; empty where there is no BatchNorm, or it was never trained.
    """
    found = _first_batch_norm(analysis)
    if found is None:
        return {}
    entering, mean, variance = found
    stored_mean, stored = (np.asarray(t, np.float64) for t in run_graph(analysis.flat, [mean, variance]))
    if np.allclose(stored_mean, 0) and np.allclose(stored, 1):
        return {}
    fits = {}
    for value_range, values in _run(analysis, spec, entering, ranges).items():
        axes = tuple(range(values.ndim - 1))
        contrast = np.abs(np.log((values.std(axis=axes) + 1e-9) / (np.sqrt(stored) + 1e-9)))
        offset = np.abs(values.mean(axis=axes) - stored_mean) / (np.sqrt(stored) + 1e-9)
        fits[value_range] = float(np.median(contrast) + np.median(offset))
    return fits


def _first_batch_norm(analysis: Analysis) -> tuple[str, str, str] | None:
    """What enters the first BatchNorm behind a layer, and its stored mean and variance, as references."""
    flat: FlatGraph = analysis.flat
    for name in analysis.order:
        node = flat.nodes[name]
        if not analysis.data[name] or not analysis.own[name]:
            continue
        refs = data_inputs(node)
        if node.op.startswith("FusedBatchNorm"):
            usual = not attribute(node, "data_format").s.startswith(b"NC") and not attribute(node, "is_training").b
            return (refs[0], refs[3], refs[4]) if usual else None
        if node.op == "Mul" and (found := _written_out(analysis, refs)) is not None:
            return found
    return None


def _written_out(analysis: Analysis, refs: Sequence[str]) -> tuple[str, str, str] | None:
    """The same for x * inv + (beta - mean * inv) with inv = rsqrt(variance + epsilon) * gamma, as Keras 3 saves it."""
    flat = analysis.flat
    data = [ref for ref in refs if analysis.data[node_of(ref)]]
    factor = [ref for ref in refs if not analysis.data[node_of(ref)]]
    if len(data) != 1 or len(factor) != 1:
        return None
    inverse = flat.nodes[node_of(factor[0])]
    roots = [inverse, *(flat.nodes[node_of(ref)] for ref in data_inputs(inverse))]
    root = next((node for node in roots if node.op == "Rsqrt"), None)
    if root is None:
        return None
    total = flat.nodes[node_of(data_inputs(root)[0])]
    means = [
        ref
        for user in flat.consumers[inverse.name]
        if flat.nodes[user].op == "Mul" and not analysis.data.get(user, True)
        for ref in data_inputs(flat.nodes[user])
        if node_of(ref) != inverse.name
    ]
    return (data[0], means[0], data_inputs(total)[0]) if total.op in ("AddV2", "Add") and len(means) == 1 else None
