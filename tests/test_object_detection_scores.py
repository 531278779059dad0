"""COCO scores of detections: against pycocotools' own summary, its matches on drawn images, and images made by hand."""

import contextlib
import io

import numpy as np
import pytest

from tfft import heads, registry
from tfft.errors import DataError, DependencyError
from tfft.evaluation import Scores
from tfft.tasks.object_detection.confusion import mistakes, overlaps
from tfft.tasks.object_detection.evaluator import DetectionEvaluator, baseline
from tfft.tasks.object_detection.matching import Found, match

CLASSES, SIZE = 3, np.array([200.0, 300.0])
TASK = registry.task("object_detection")


def image(objects=(), detections=(), size=SIZE):
    """Rows (class, top, left, bottom, right) of objects, and (class, score, top, left, bottom, right) of detections."""
    labels = np.array([(*row, *size) for row in objects], np.float32).reshape(-1, 7)
    found = np.array(sorted(detections, key=lambda row: -row[1]), np.float32).reshape(-1, 6)
    return Found(labels, found[:, 2:], found[:, 1], found[:, 0].astype(int), size)


def random_images(count=30, seed=0):
    """Objects of all sizes, some of them in crowds, and detections near them, elsewhere, doubled and confused."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        objects, detections = [], []
        for _ in range(rng.integers(0, 5)):
            kind, side = int(rng.integers(CLASSES)), rng.uniform(0.05, 0.6, 2)
            low = rng.uniform(0, 1 - side)
            box = np.concatenate([low, low + side])
            objects.append((kind if rng.random() < 0.85 else -2 - kind, *box))
            for _ in range(rng.integers(0, 3)):
                moved = np.clip(box + rng.normal(0, 0.15, 4) * np.tile(side, 2), 0, 1)
                called = kind if rng.random() < 0.9 else int(rng.integers(CLASSES))
                detections.append((called, float(rng.random()), *np.sort(moved.reshape(2, 2), axis=0).reshape(-1)))
        for _ in range(rng.integers(0, 2)):
            corners = np.sort(rng.random((2, 2)), axis=0)
            detections.append((int(rng.integers(CLASSES)), float(rng.random()), *corners.reshape(-1)))
        images.append(image(objects, detections))
    return images


@pytest.fixture(scope="module")
def images():
    return random_images()


@pytest.fixture(scope="module")
def matches(images):
    return match(images, CLASSES)


def test_scores_are_those_of_pycocotools_from_its_own_files(images, matches):
    """The same images as JSON of COCO, loaded and summarized as everyone does."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, results = [], []
    for at, one in enumerate(images):
        for kind, top, left, bottom, right, height, width in one.labels.tolist():
            box = [left * width, top * height, (right - left) * width, (bottom - top) * height]
            annotations.append({
                "id": len(annotations) + 1, "image_id": at + 100, "bbox": box, "area": box[2] * box[3],
                "category_id": 7 + int(kind if kind >= 0 else -2 - kind), "iscrowd": int(kind < 0),
            })  # fmt: skip
        for box, score, kind in zip(one.boxes.tolist(), one.scores.tolist(), one.classes.tolist(), strict=True):
            top, left, bottom, right = box
            places = [left * 300, top * 200, (right - left) * 300, (bottom - top) * 200]
            results.append({"image_id": at + 100, "category_id": 7 + kind, "score": score, "bbox": places})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": at + 100} for at in range(len(images))], "annotations": annotations,
            "categories": [{"id": 7 + kind} for kind in range(CLASSES)],
        }  # fmt: skip
        truth.createIndex()
        expected = COCOeval(truth, truth.loadRes(results), "bbox")
        expected.evaluate()
        expected.accumulate()
        expected.summarize()
    found = [
        matches.average_precision(), matches.average_precision(0), matches.average_precision(5),
        *(matches.average_precision(size=at) for at in (1, 2, 3)), matches.average_recall,
    ]  # fmt: skip
    np.testing.assert_allclose(found, expected.stats[[0, 1, 2, 3, 4, 5, 8]], atol=1e-9)
    assert 0.1 < found[0] < found[1] < 0.9


def test_a_draw_of_images_is_measured_like_these_images(images, matches):
    ones = np.ones(len(images), int)
    for kind, one in enumerate(matches.classes):
        values = one.average_precisions(ones, matches.recalls)
        assert values.mean() == pytest.approx(matches.average_precision(kind=kind), abs=1e-9)
    drawn = np.random.default_rng(1).integers(len(images), size=len(images))
    again = match([images[at] for at in np.sort(drawn)], CLASSES)
    weights = np.bincount(drawn, minlength=len(images))
    values = [one.average_precisions(weights, matches.recalls) for one in matches.classes]
    assert np.mean(values) == pytest.approx(again.average_precision(), abs=2e-3)  # equal scores, in another order


def test_the_bootstrap_repeats_and_surrounds_the_score(matches):
    drawn = matches.bootstrap(200)
    np.testing.assert_array_equal(drawn, matches.bootstrap(200))
    assert drawn.shape == (200, 2)
    low, high = np.quantile(drawn[:, 0], (0.025, 0.975))
    assert low < matches.average_precision() < high
    more = match(random_images(120, seed=0), CLASSES).bootstrap(200)
    assert np.std(more[:, 0]) < 0.75 * np.std(drawn[:, 0])  # four times as many images, half as wide


def test_a_class_without_objects_does_not_count():
    found = match([image([(0, 0.1, 0.1, 0.5, 0.5)], [(0, 0.9, 0.1, 0.1, 0.5, 0.5), (2, 0.8, 0.1, 0.1, 0.2, 0.2)])], 3)
    assert found.average_precision() == pytest.approx(1.0)
    assert found.average_precision(kind=2) is None
    assert found.average_precision(size=1) is None
    assert match([image()], 3).average_precision() is None


def test_confusions_and_kinds_of_false_detections():
    objects = [(0, 0.0, 0.0, 0.2, 0.2), (0, 0.4, 0.4, 0.6, 0.6), (1, 0.7, 0.7, 0.9, 0.9), (2, 0.0, 0.7, 0.2, 0.9),
               (-3, 0.7, 0.0, 1.0, 0.3)]  # fmt: skip
    detections = [
        (0, 0.9, 0.0, 0.0, 0.2, 0.2),  # right
        (0, 0.8, 0.0, 0.0, 0.2, 0.19),  # once more
        (0, 0.7, 0.45, 0.45, 0.7, 0.7),  # beside it
        (2, 0.9, 0.7, 0.7, 0.9, 0.9),  # class 1
        (1, 0.9, 0.3, 0.0, 0.4, 0.1),  # nothing there
        (1, 0.9, 0.75, 0.05, 0.9, 0.2),  # in a crowd
        (2, 0.2, 0.0, 0.7, 0.2, 0.9),  # right, but below the threshold
    ]
    confusion, kinds = mistakes([image(objects, detections)], np.array([0.5, 0.5, 0.5]))
    assert dict(kinds) == {"background": 1, "location": 1, "duplicate": 1, "class": 1}
    expected = np.zeros((4, 4), int)
    expected[0, 0] = 1
    expected[0, 3] = 1  # the second object of class 0
    expected[1, 2] = 1
    expected[2, 3] = 1
    expected[3, 0], expected[3, 1] = 2, 1
    np.testing.assert_array_equal(confusion, expected)
    iou, within = overlaps(np.array([[0, 0, 0.5, 0.5]]), np.array([[0, 0, 1, 0.5], [0.5, 0.5, 1, 1]]))
    np.testing.assert_allclose([iou, within], [[[0.5, 0]], [[1, 0]]], atol=1e-9)


def test_the_baseline_is_high_only_where_objects_have_their_place():
    rng = np.random.default_rng(0)
    fixed = [image([(0, *np.clip([0.2, 0.3, 0.7, 0.8] + rng.normal(0, 0.01, 4), 0, 1))]) for _ in range(20)]
    assert baseline(fixed, 1) > 0.6
    places = rng.uniform(0, 0.9, (60, 2))
    anywhere = [image([(0, *place, *(place + 0.1))]) for place in places]
    assert baseline(anywhere, 1) < 0.05
    assert baseline(fixed, 2) == pytest.approx(baseline(fixed, 1))
    assert baseline(fixed * 30, 1) > 0.6  # of a sample


# --- evaluator


def output_of(boxes, scores, classes=2):
    """A model's output that has these detections: boxes [B, P, 4], scores [B, P, C]."""
    scores = np.clip(np.asarray(scores, np.float32), 1e-6, 1 - 1e-6)
    parts = [np.log(scores / (1 - scores)), boxes, np.full((*scores.shape[:2], 2), 0.5)]
    return np.concatenate(parts, axis=-1).astype(np.float32)


@pytest.fixture(scope="module")
def head():
    return heads.object_detection(["cat", "dog"])


def labelled(*rows):
    labels = np.zeros((1, len(rows) + 1, 7), np.float32)
    labels[..., 0], labels[..., 5:] = -1, (100, 200)
    labels[0, : len(rows), :5] = np.reshape(rows, (-1, 5))
    return labels


def test_perfect_detections_have_an_interval_for_all_that(head):
    evaluator = TASK.evaluator(head)
    assert isinstance(evaluator, DetectionEvaluator)
    for at in range(6):
        low = 0.1 * at
        labels = labelled((at % 2, low, low, low + 0.4, low + 0.3))
        scores = [[[0.9, 0.0] if at % 2 == 0 else [0.0, 0.9], [0.0, 0.0]]]
        evaluator.check(labels)
        evaluator.update(labels, output_of(np.tile(labels[:, :1, 1:5], (1, 2, 1)), scores))
    found = evaluator.result(6, 0.5)
    assert (found.value, found.metric, found.measures["map50"]) == (pytest.approx(1.0), "map", pytest.approx(1.0))
    assert found.interval[0] == pytest.approx(0.61, abs=0.01)  # Wilson's, 6 of 6
    assert [row.measures["threshold"] for row in found.per_class] == pytest.approx([0.9, 0.9])
    assert found.measures["false_background"] == found.measures["missed"] == 0
    assert found.majority_baseline < 1.0
    assert not found.learned_nothing
    np.testing.assert_array_equal(found.confusion, np.diag([3, 3, 0]))
    assert found.summary.startswith("mAP 1.0000 (95 % interval 0.6")
    assert "the same boxes in every image" in found.summary
    again = Scores.from_dict(found.to_dict())
    assert (again.summary, str(again)) == (found.summary, str(found))
    assert "ap50" in str(found)


def test_size_and_batches_do_not_matter(head):
    rng = np.random.default_rng(2)
    low = rng.uniform(0, 0.5, (8, 5, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.4, (8, 5, 2))], axis=-1).astype(np.float32)
    labels = np.concatenate([rng.integers(-1, 2, (8, 5, 1)), boxes, np.full((8, 5, 2), 64)], axis=-1)
    labels = labels.astype(np.float32)
    labels[:, 0, 0] = 0
    output = output_of(np.clip(boxes + rng.normal(0, 0.03, boxes.shape), 0, 1), rng.random((8, 5, 2)))
    results = []
    for parts in ([slice(0, 8)], [slice(0, 3), slice(3, 8)]):
        evaluator = TASK.evaluator(head)
        for part in parts:
            evaluator.update(labels[part], output[part])
        results.append(evaluator.result(8, 0.0))
    assert results[0].to_dict() == results[1].to_dict()
    assert 0 < results[0].value < 1
    assert results[0].interval[0] < results[0].value < results[0].interval[1]


def test_what_is_missed_and_false_is_counted(head):
    evaluator = TASK.evaluator(head)
    labels = labelled((0, 0.1, 0.1, 0.5, 0.5), (1, 0.6, 0.6, 0.9, 0.9))
    evaluator.update(labels, output_of(labels[:, [0, 2], 1:5], [[[0.8, 0.0], [0.0, 0.0]]]))
    found = evaluator.result(1, 0.0)
    assert found.value == pytest.approx(0.5)
    assert [(row.name, row.examples, row.predicted, row.recall) for row in found.per_class] == [
        ("cat", 1, 1, 1.0), ("dog", 1, 0, 0.0)
    ]  # fmt: skip
    assert found.most_confused == [("dog", "background", 1)]
    assert found.measures["missed"] == 1


def test_labels_that_are_no_boxes_are_refused(head):
    evaluator = TASK.evaluator(head)
    good = labelled((0, 0.1, 0.2, 0.5, 0.6), (-3, 0.0, 0.0, 1.0, 1.0))
    evaluator.check(good)
    with pytest.raises(DataError, match=r"labels float32 \[B, M, 7\].*Received: float32 \(1, 7\)\. Pad with rows"):
        evaluator.check(good[:, 0])
    with pytest.raises(DataError, match="labels of 2 classes, 0 to 1. Received: class 2. Evaluate with the classes"):
        evaluator.check(labelled((2, 0.1, 0.2, 0.5, 0.6)))
    with pytest.raises(DataError, match="Received: class 4"):
        evaluator.check(labelled((-6, 0.1, 0.2, 0.5, 0.6)))
    with pytest.raises(DataError, match=r"within 0 to 1.*Received: \[10\.0, 20\.0, 50\.0, 60\.0\] and 0 more. Divide"):
        evaluator.check(labelled((0, 10, 20, 50, 60)))
    with pytest.raises(DataError, match="the top above the bottom"):
        evaluator.check(labelled((0, 0.5, 0.2, 0.1, 0.6)))
    nameless = good.copy()
    nameless[..., 5:] = 0
    with pytest.raises(DataError, match="height and width of the image in pixels"):
        evaluator.check(nameless)
    evaluator.update(labelled(), output_of(np.zeros((1, 2, 4)), np.zeros((1, 2, 2))))
    with pytest.raises(DataError, match="No image of the dataset has an object"):
        evaluator.result(1, 0.0)


def test_without_pycocotools_a_run_stops_before_it_trains(monkeypatch):
    monkeypatch.setattr("tfft.tasks.object_detection.installed_version", lambda package: None)
    with pytest.raises(DependencyError, match=r'package .pycocotools.*pip install "tfft\[detection\]"'):
        TASK.make_head(["cat"], dropout=0.0, l2=0.0, label_smoothing=0.0, loss="cross_entropy")
    with pytest.raises(DependencyError, match="pycocotools"):
        TASK.evaluator(heads.object_detection(["cat"]))
