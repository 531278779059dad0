"""Boxes, assignment, loss and the streaming metric of a detector, each against loops over single numbers."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfft.tasks.object_detection.assignment import assign
from tfft.tasks.object_detection.geometry import Points, centres_within, giou, iou, points_of
from tfft.tasks.object_detection.layers import DetectionLogits, TopDownSum, decode
from tfft.tasks.object_detection.loss import DetectionLoss
from tfft.tasks.object_detection.metric import AveragePrecision

RNG = np.random.default_rng(3)


# --- oracles: plain Python on one box, one cell, one object at a time


def area_of(box):
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def iou_of(a, b):
    shared = area_of([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    union = area_of(a) + area_of(b) - shared
    return shared / union if union else 0.0


def giou_of(a, b):
    shared = area_of([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    union = area_of(a) + area_of(b) - shared
    hull = area_of([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    return shared / union - (hull - union) / hull


def contains(box, centre):
    return box[0] < centre[0] < box[2] and box[1] < centre[1] < box[3]


def assigned_by_loops(labels, probability, boxes, centres):
    """Quality, class and box of each cell of one picture."""
    cells, claims = len(centres), {}
    for m, row in enumerate(labels):
        if row[0] < 0:
            continue
        inside = [p for p in range(cells) if contains(row[1:5], centres[p])]
        alone = not inside
        if alone:
            middle = [(row[1] + row[3]) / 2, (row[2] + row[4]) / 2]
            inside = [min(range(cells), key=lambda p: sum((centres[p] - middle) ** 2))]
        fit = {p: max(probability[p, int(row[0])] ** 0.5 * iou_of(row[1:5], boxes[p]) ** 4, 1e-30) for p in inside}
        for p in sorted(fit, key=lambda p: -fit[p])[:10]:
            claims.setdefault(p, []).append((iou_of(row[1:5], boxes[p]) + 2 * alone, m, fit[p]))
    quality, classes, truth = np.zeros(cells), np.zeros(cells, int), np.zeros((cells, 4))
    owned = {p: max(found, key=lambda claim: claim[0]) for p, found in claims.items()}
    for m, row in enumerate(labels):
        mine = {p: fit for p, (_, owner, fit) in owned.items() if owner == m}
        best = max([iou_of(row[1:5], boxes[p]) for p in mine] + [0.1])
        for p, fit in mine.items():
            quality[p], classes[p], truth[p] = fit / max(mine.values()) * best, int(row[0]), row[1:5]
    return quality, classes, truth


def loss_by_loops(labels, output):
    total, normalizer = 0.0, 0.0
    for rows, points in zip(labels.astype(float), output.astype(float), strict=True):
        logits, boxes, centres = points[:, :-6], points[:, -6:-2], points[:, -2:]
        probability = 1 / (1 + np.exp(-logits))
        quality, classes, truth = assigned_by_loops(rows, probability, boxes, centres)
        normalizer += quality.sum()
        for p in range(len(points)):
            for c in range(logits.shape[1]):
                target = quality[p] if classes[p] == c else 0.0
                weight = target or 0.75 * probability[p, c] ** 2
                if not target and any(row[0] == -2 - c and contains(row[1:5], centres[p]) for row in rows):
                    continue
                entropy = -target * math.log(probability[p, c]) - (1 - target) * math.log(1 - probability[p, c])
                total += weight * entropy
            if quality[p]:
                total += 2 * quality[p] * (1 - giou_of(truth[p], boxes[p]))
    return total / max(normalizer, 1.0)


def random_boxes(*shape):
    corners = np.sort(RNG.random((*shape, 2, 2)), axis=-2)
    return corners.reshape(*shape, 4).astype("float32")


def output_of(pictures=2, classes=3, sides=((8, 8), (4, 4)), spread=2.0):
    """A model's output with random logits and boxes around the centres of cells."""
    parts = [decode(tf.constant(RNG.uniform(0.1, 4, (pictures, *side, 4)), tf.float32)) for side in sides]
    places = np.concatenate([np.reshape(part, (pictures, -1, 6)) for part in parts], axis=1)
    logits = RNG.normal(-1, spread, (*places.shape[:2], classes))
    return np.concatenate([logits, places], axis=-1).astype("float32")


def labels_of(*pictures):
    """Rows (class, top, left, bottom, right) of each picture, padded."""
    labels = np.full((len(pictures), max(1, *map(len, pictures)), 7), -1, "float32")
    for at, rows in enumerate(pictures):
        for to, row in enumerate(rows):
            labels[at, to] = (*row, 64, 64)
    return labels


CASES = {
    "two objects that overlap": [[(0, 0.1, 0.1, 0.6, 0.7), (2, 0.3, 0.2, 0.9, 0.9)], [(1, 0.5, 0.5, 0.8, 0.9)]],
    "an empty picture": [[], [(1, 0.2, 0.2, 0.5, 0.6)]],
    "no object": [[], []],
    "the whole picture": [[(0, 0.0, 0.0, 1.0, 1.0)], [(1, 0.0, 0.0, 1.0, 1.0), (2, 0.0, 0.0, 1.0, 1.0)]],
    "less than a cell": [[(0, 0.26, 0.26, 0.28, 0.29)], [(1, 0.501, 0.501, 0.503, 0.503), (0, 0.4, 0.4, 0.6, 0.6)]],
    "a crowd region": [[(-2, 0.1, 0.1, 0.6, 0.6), (1, 0.3, 0.3, 0.7, 0.7)], [(-4, 0.0, 0.0, 1.0, 1.0)]],
    "many objects": [
        [(at % 3, *box) for at, box in enumerate(random_boxes(12))],
        [(0, *box) for box in random_boxes(5)],
    ],
}


def test_overlaps_are_those_of_single_boxes():
    a, b = random_boxes(40), random_boxes(40)
    a[0], b[0] = [0, 0, 0.2, 0.2], [0.5, 0.5, 1, 1]  # far apart
    a[1], b[1] = [0.2, 0.2, 0.6, 0.6], [0.3, 0.3, 0.4, 0.4]  # one within the other
    np.testing.assert_allclose(iou(a, b), [iou_of(*pair) for pair in zip(a, b, strict=True)], atol=1e-6)
    np.testing.assert_allclose(giou(a, b), [giou_of(*pair) for pair in zip(a, b, strict=True)], atol=1e-6)
    assert iou(a[:, None], b[None]).shape == (40, 40)
    nothing = tf.zeros(4)
    with tf.GradientTape() as tape:
        tape.watch(nothing)
        value = giou(nothing, tf.zeros(4)) + iou(nothing, tf.zeros(4))
    assert np.isfinite([float(value), *tape.gradient(value, nothing)]).all()


def test_boxes_are_decoded_around_the_centres_of_the_cells():
    distances = RNG.uniform(0, 3, (2, 3, 5, 4)).astype("float32")
    decoded = decode(tf.constant(distances)).numpy()
    for row in range(3):
        for column in range(5):
            y, x = (row + 0.5) / 3, (column + 0.5) / 5
            top, left, bottom, right = distances[1, row, column]
            expected = [y - top / 3, x - left / 5, y + bottom / 3, x + right / 5, y, x]
            np.testing.assert_allclose(decoded[1, row, column], expected, rtol=1e-5, atol=1e-6)
    # At 64 x 96 pixels a cell of a map with stride 8 is 8 pixels.
    pixels = decode(tf.ones([1, 8, 12, 4])).numpy()[0, 2, 3, :4] * [64, 96, 64, 96]
    np.testing.assert_allclose(pixels, [20 - 8, 28 - 8, 20 + 8, 28 + 8], rtol=1e-5)


@pytest.mark.parametrize("sides", [((6, 7), (3, 4)), ((5, 5), (2, 2)), ((4, 4), (1, 1))])
def test_a_coarser_map_is_added_to_a_finer_one_of_any_size(sides):
    (h, w), (rows, columns) = sides
    fine, coarse = (RNG.random((2, *side, 3)).astype("float32") for side in sides)
    row, column = ((np.arange(h) + 0.5) * rows / h).astype(int), ((np.arange(w) + 0.5) * columns / w).astype(int)
    expected = fine + coarse[:, row][:, :, column]
    np.testing.assert_allclose(TopDownSum()(fine, coarse), expected, rtol=1e-6)
    half = TopDownSum(dtype="mixed_float16")(fine, coarse)
    assert half.dtype == tf.float16


@pytest.mark.parametrize("case", CASES)
def test_the_assignment_is_that_of_single_cells(case):
    labels, output = labels_of(*CASES[case]), output_of()
    points = points_of(tf.constant(output))
    found = assign(tf.constant(labels), points)
    for at in range(2):
        probability = 1 / (1 + np.exp(-output[at, :, :3].astype(float)))
        quality, classes, truth = assigned_by_loops(labels[at], probability, output[at, :, 3:7], output[at, :, 7:])
        np.testing.assert_allclose(found.quality[at], quality, rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(found.classes[at], classes)
        np.testing.assert_allclose(np.asarray(found.boxes[at])[quality > 0], truth[quality > 0])


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_that_of_single_cells(case):
    labels, output = labels_of(*CASES[case]), output_of()
    expected = loss_by_loops(labels, output)
    assert float(DetectionLoss()(labels, output)) == pytest.approx(expected, rel=1e-4)
    padded = np.concatenate([labels, np.full((2, 5, 7), -1, "float32")], axis=1)
    assert float(DetectionLoss()(padded, output)) == pytest.approx(expected, rel=1e-4)


def test_an_object_without_a_cell_inside_has_the_nearest_before_all_others():
    labels = labels_of([(0, 0.0, 0.0, 1.0, 1.0), (1, 0.26, 0.26, 0.28, 0.28)])
    output = output_of(1, sides=((4, 4), (2, 2)))
    found = assign(tf.constant(labels), points_of(tf.constant(output)))
    # Of the centres, (0.25, 0.25) in the map of 2 x 2 is the nearest.
    assert found.classes[0, 16] == 1
    assert found.quality[0, 16] >= 0.1
    assert int(tf.reduce_sum(tf.cast((found.quality > 0) & (found.classes == 1), tf.int32))) == 1


def test_a_crowd_region_is_no_background_for_its_own_class_only():
    centres = output_of(1)[..., -2:]
    crowd = (0.2, 0.2, 0.7, 0.7)
    output = tf.Variable(output_of(1))
    with tf.GradientTape() as tape:
        loss = DetectionLoss()(labels_of([(-3, *crowd)]), output)
    slopes = tape.gradient(loss, output).numpy()[0]
    inside = np.array([contains(crowd, centre) for centre in centres[0]])
    assert (slopes[inside, 1] == 0).all()
    assert (slopes[inside][:, [0, 2]] != 0).all()
    assert (slopes[~inside, :3] != 0).all()


EXTREMES = [
    (0, 0.5, 0.5, 0.5001, 0.5001),
    (1, 0.0, 0.0, 1.0, 1.0),
    (2, 0.999, 0.999, 1.0, 1.0),
    (0, 0.3, 0.3, 0.3, 0.3),
]


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("rows", [[], EXTREMES[:1], EXTREMES[1:2], EXTREMES])
def test_loss_and_gradient_are_finite(rows, scale):
    raw = tf.Variable(RNG.normal(size=(1, 20, 7)).astype("float32") * scale)
    with tf.GradientTape() as tape:
        places = [decode(tf.nn.softplus(tf.reshape(part, [1, side, side, 4])))
                  for side, part in ((4, raw[:, :16, 3:]), (2, raw[:, 16:, 3:]))]  # fmt: skip
        flat = tf.concat([tf.reshape(part, [1, -1, 6]) for part in places], axis=1)
        loss = DetectionLoss()(labels_of(rows), tf.concat([raw[..., :3], flat], axis=-1))
    gradient = tape.gradient(loss, raw)
    assert np.isfinite(float(loss))
    assert np.isfinite(gradient).all()
    assert float(loss) > 0 or scale == 100.0


def test_the_gradient_does_not_pass_through_the_assignment():
    labels, output = labels_of(*CASES["two objects that overlap"]), output_of()
    variable = tf.Variable(output)
    with tf.GradientTape() as tape:
        loss = DetectionLoss()(labels, variable)
    slopes = tape.gradient(loss, variable).numpy()
    found = assign(tf.constant(labels), points_of(tf.constant(output)))
    assert (slopes[..., 3:7][np.asarray(found.quality) == 0] == 0).all()
    # The target is fixed, so the slope of a positive logit is quality * (p - quality) / total.
    at = np.unravel_index(np.argmax(found.quality), found.quality.shape)
    q, c = float(found.quality[at]), int(found.classes[at])
    p = 1 / (1 + math.exp(-output[at][c]))
    assert slopes[at][c] == pytest.approx(q * (p - q) / max(1, float(tf.reduce_sum(found.quality))), rel=1e-4)


def test_the_batch_is_normalized_as_a_whole():
    labels, output = labels_of(*CASES["an empty picture"]), output_of()
    each = DetectionLoss(reduction=None)(labels, output).numpy()
    assert each.shape == (2,)
    assert float(DetectionLoss()(labels, output)) == pytest.approx(each.mean(), rel=1e-6)
    assert float(DetectionLoss(dtype="float32")(labels, output.astype("float16"))) == pytest.approx(
        each.mean(), rel=0.02
    )


# --- metric


def average_precision_by_loops(labels, found, classes):
    """As Pascal VOC: the strongest detection of the object that it overlaps most is correct."""
    values = []
    for c in range(classes):
        objects = sum(int((rows[:, 0] == c).sum()) for rows in labels)
        if not objects:
            continue
        every = sorted(((s, at, tuple(b)) for at, one in enumerate(found) for b, s, k in one if k == c), reverse=True)
        taken, correct, wrong, curve = set(), 0, 0, []
        for _, at, box in every:
            own = [(iou_of(box, row[1:5]), to) for to, row in enumerate(labels[at]) if row[0] == c]
            most, to = max(own, default=(0.0, -1))
            if most >= 0.5 and (at, to) not in taken:
                taken.add((at, to))
                correct += 1
            elif most >= 0.5 or not any(row[0] == -2 - c and iou_in(box, row[1:5]) >= 0.5 for row in labels[at]):
                wrong += 1
            curve.append((correct / objects, correct / max(correct + wrong, 1)))
        recalls = [0.0] + [r for r, _ in curve]
        best = [max(p for _, p in curve[at:]) for at in range(len(curve))]
        values.append(sum((b - a) * p for a, b, p in zip(recalls, recalls[1:], best, strict=False)))
    return float(np.mean(values))


def iou_in(box, other):
    shared = area_of([max(box[0], other[0]), max(box[1], other[1]), min(box[2], other[2]), min(box[3], other[3])])
    return shared / area_of(box)


def near(boxes, amount):
    moved = np.clip(boxes + RNG.normal(0, amount, boxes.shape), 0, 1).reshape(*boxes.shape[:-1], 2, 2)
    return np.sort(moved, axis=-2).reshape(boxes.shape).astype("float32")


def test_the_streaming_metric_equals_a_count_of_single_detections():
    pictures, per_picture, most = 24, 6, 18
    truth = random_boxes(pictures, per_picture)
    labels = np.zeros((pictures, per_picture, 7), "float32")
    labels[..., 0], labels[..., 1:5] = RNG.integers(-2, 3, (pictures, per_picture)), truth
    boxes = np.concatenate([near(truth, 0.02), near(truth, 0.05), random_boxes(pictures, per_picture)], axis=1)
    kinds = np.tile(np.where(labels[..., 0] == -2, 0, np.maximum(labels[..., 0], 0)), (1, 3)).astype("int32")
    # One score for each bin, so that the bins hide no order.
    scores = ((RNG.permutation(pictures * most) % 128 + 0.5) / 128).reshape(pictures, most).astype("float32")
    scores = np.where(RNG.random(scores.shape) < 0.2, 0, scores)
    order = np.argsort(-scores, axis=1)
    boxes, kinds, scores = (
        np.take_along_axis(v, o, 1) for v, o in ((boxes, order[..., None]), (kinds, order), (scores, order))
    )
    metric = AveragePrecision(3)
    for at in range(0, pictures, 8):
        part = slice(at, at + 8)
        metric.update_detections(labels[part], boxes[part], scores[part], kinds[part])
    found = [[(b, s, k) for b, s, k in zip(*rows, strict=True) if s] for rows in zip(boxes, scores, kinds, strict=True)]
    expected = average_precision_by_loops(labels, found, 3)
    assert 0.2 < expected < 0.9
    assert float(metric.result()) == pytest.approx(expected, abs=0.03)  # several detections share a bin
    metric.reset_state()
    assert float(metric.result()) == 0.0


def test_the_metric_suppresses_boxes_of_one_class_and_not_of_another():
    box = [0.2, 0.2, 0.6, 0.6]
    output = np.array([[[3, 2, *box, 0.4, 0.4], [2.5, -9, *box, 0.4, 0.4]]], "float32")
    metric = AveragePrecision(2)
    metric.update_state(labels_of([(0, *box), (1, *box)]), output)
    assert float(metric.result()) == 1.0
    assert float(tf.reduce_sum(metric.wrong.value)) == 0.0  # the second box of class 0 was suppressed
    again = AveragePrecision.from_config(metric.get_config())
    assert again.get_config() == metric.get_config()


def test_centres_on_an_edge_are_outside():
    centres = tf.constant([[[0.25, 0.25], [0.5, 0.5]]])
    assert centres_within(centres, tf.constant([[[0.25, 0.0, 1.0, 1.0]]])).numpy().tolist() == [[[False, True]]]


def test_the_last_layer_takes_maps_of_open_and_of_fixed_sizes():
    from tfft import heads

    head = heads.object_detection(["a", "b"])
    fixed = [keras.Input((8, 8, 5)), keras.Input((4, 4, 5))], [keras.Input((8, 8, 4)), keras.Input((4, 4, 4))]
    assert DetectionLogits(head)(*fixed).shape == (None, 80, 8)
    free = [keras.Input((None, None, 5))], [keras.Input((None, None, 4))]
    layer = DetectionLogits(head)
    assert layer(*free).shape == (None, None, 8)
    maps, distances = RNG.random((2, 3, 5, 5)).astype("float16"), np.ones((2, 3, 5, 4), "float32")
    result = layer([maps], [distances])
    assert result.dtype == tf.float32
    expected = maps.astype("float32").reshape(2, 15, 5) @ layer.kernel.numpy() + layer.bias.numpy()
    np.testing.assert_allclose(result[..., :2], expected, rtol=1e-5)
    assert layer.bias.numpy() == pytest.approx(-math.log(99))
    points = points_of(result)
    assert isinstance(points, Points)
    np.testing.assert_allclose(points.centres[0, 7], [0.5, 0.5])
