"""Head for object detection: its layers, what is served, and a detector that learns planted objects."""

import io

import detection_models
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfft
from tfft import heads, registry, testing
from tfft.config import RunConfig
from tfft.errors import DataError, PlanError
from tfft.heads import ModelFeatures
from tfft.tasks.object_detection.drawing import draw_boxes
from tfft.tasks.object_detection.geometry import points_of
from tfft.tasks.object_detection.head import ObjectDetectionHead

TASK = registry.task("object_detection")


def attached(head, channels=(4, 6, 8), side=16):
    """The head alone, on maps at strides 8, 16 and 32."""
    keras.utils.set_random_seed(1)
    sizes = [None, None, None] if side is None else [side, side // 2, side // 4]
    inputs = {8 * 2**at: keras.Input((size, size, channels[at])) for at, size in enumerate(sizes)}
    return keras.Model(list(inputs.values()), head.attach(ModelFeatures(inputs)))


def maps_for(count=2, side=(16, 16), channels=(4, 6, 8), seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(count, side[0] // 2**at, side[1] // 2**at, channels[at]) for at in range(3)]
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


@pytest.fixture(scope="module")
def small():
    return attached(heads.object_detection(["a", "b", "c"], width=8), side=None)


# --- layers


def test_maps_share_their_kernels_and_have_their_own_norms(small):
    names = [layer.name for layer in small.layers]
    for name in ("class_0_conv", "class_1_conv", "box_0_conv", "box_1_conv", "distances", "logits"):
        assert names.count(name) == 1
    norms = [name for name in names if name.endswith("_norm")]
    assert len(norms) == 3 + 2 + 4 * 3  # lateral, smooth, and two towers of two
    assert {f"class_0_{stride}_norm" for stride in (8, 16, 32)} <= set(norms)
    assert small.get_layer("class_0_conv").depthwise_kernel.shape == (3, 3, 8, 1)


@pytest.mark.parametrize("side", [(16, 16), (12, 20), (11, 17)])
def test_one_model_takes_several_sizes(small, side):
    rows, columns = side
    maps = [np.zeros((1, -(-rows // 2**at), -(-columns // 2**at), c), "float32") for at, c in enumerate((4, 6, 8))]
    points = points_of(small(maps))
    cells = sum(one.shape[1] * one.shape[2] for one in maps)
    assert points.logits.shape == (1, cells, 3)
    boxes, centres = np.asarray(points.boxes[0]), np.asarray(points.centres[0])
    assert (boxes[:, :2] < centres).all()
    assert (boxes[:, 2:] > centres).all()
    # A new box reaches 3 cells to each side, and each class has the probability 0.01.
    reach = (boxes[: rows * columns, 2:] - boxes[: rows * columns, :2]) * side
    np.testing.assert_allclose(reach, 2 * np.log1p(np.exp(3)), rtol=1e-3)
    np.testing.assert_allclose(tf.sigmoid(points.logits), 0.01, rtol=1e-3)


def test_fixed_maps_give_a_fixed_shape():
    assert attached(heads.object_detection(["a"], width=4)).output.shape == (None, 256 + 64 + 16, 7)


@pytest.mark.nightly
def test_mixed_precision_ends_in_float32():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = attached(heads.object_detection(["a", "b"], width=8))
        model.compile("adam", **heads.from_model(model).compile_args())
        labels = np.array([[[0, 0.1, 0.1, 0.5, 0.6, 64, 64]], [[-1, 0, 0, 0, 0, 64, 64]]], "float32")
        assert model.get_layer("class_0_conv").compute_dtype == "float16"
        result = model.evaluate(maps_for(), labels, verbose=0, return_dict=True)
    finally:
        keras.config.set_dtype_policy(before)
    assert np.isfinite(list(result.values())).all()
    assert model.output.dtype == "float32"


@pytest.mark.nightly
def test_a_model_is_the_same_from_its_file(small, tmp_path):
    small.save(tmp_path / "head.keras")
    again = keras.saving.load_model(tmp_path / "head.keras")
    np.testing.assert_array_equal(again.predict(maps_for(), verbose=0), small.predict(maps_for(), verbose=0))
    assert heads.from_model(again) == heads.from_model(small)
    assert heads.from_model(again).width == 8


def test_weight_decay_of_the_class_logits_can_be_set():
    model = attached(heads.object_detection(["a", "b"], width=4))
    assert not model.losses
    heads.set_l2(model, 0.5)
    kernel = model.get_layer("logits").kernel
    assert float(sum(model.losses)) == pytest.approx(0.5 * float(tf.reduce_sum(kernel**2)), rel=1e-5)
    assert heads.from_model(model).l2 == 0.5


@pytest.mark.slow
def test_dropout_is_of_the_class_features():
    model = attached(heads.object_detection(["a"], width=4, dropout=0.5))
    assert model.get_layer("dropout").rate == 0.5
    plain, dropped = (points_of(model(maps_for(), training=training)) for training in (False, True))
    assert not np.allclose(plain.logits, dropped.logits)


def test_settings_that_make_no_sense_are_reported_together():
    with pytest.raises(PlanError) as caught:
        ObjectDetectionHead(
            "object_detection", ("a",), 1, loss_name="focal", label_smoothing=0.1, width=0, score_threshold=1.0
        )
    said = str(caught.value)
    for part in ("received loss='focal': leave it out", "no label_smoothing, received 0.1", "width must be at least 1",
                 "score_threshold must be 0 or more and below 1, received 1.0"):  # fmt: skip
        assert part in said
    with pytest.raises(
        PlanError, match=r"feature maps by stride.*Received: one tensor \(None, 8, 8, 4\)\. tfft\.build"
    ):
        heads.object_detection(["a"]).attach(keras.Input((8, 8, 4)))
    with pytest.raises(PlanError, match="boxes, so soft=True"):
        heads.object_detection(["a"]).loss(soft=True)
    with pytest.raises(PlanError, match="Received: the text 'raccoon'"):
        heads.object_detection("raccoon")


# --- task


def test_labels_are_encoded_and_counted():
    values = [
        [("dog", 0.1, 0.2, 0.5, 0.6, 100, 200), ("cat", 0.0, 0.0, 1.0, 1.0, 100, 200, True)],
        [],
        [("cat", 0.3, 0.3, 0.4, 0.4, 50, 50)],
    ]
    names = TASK.class_names(values)
    assert names == ("cat", "dog")
    labels = TASK.encode(values, names)
    assert labels.shape == (3, 2, 7)
    assert labels.dtype == np.float32
    np.testing.assert_allclose(labels[0], [[1, 0.1, 0.2, 0.5, 0.6, 100, 200], [-2, 0, 0, 1, 1, 100, 200]])
    assert labels[1:, :, 0].tolist() == [[-1, -1], [0, -1]]
    assert TASK.counts(labels, names) == {"cat": 1, "dog": 1}
    assert TASK.encode([[]], names).shape == (1, 1, 7)


def test_settings_for_one_label_per_image_are_refused():
    found = list(TASK.unsupported(RunConfig(class_weight="balanced", label_smoothing=0.1, loss="focal", resize="crop")))
    assert len(found) == 4
    assert any("resize='crop' would move boxes" in one for one in found)
    assert not list(TASK.unsupported(RunConfig(resize="stretch")))
    assert TASK.resize == "stretch"


def test_a_prediction_is_one_line_and_can_be_drawn(tmp_path):
    served = {
        "detection_boxes": np.array([[0.1, 0.2, 0.9, 0.8], [0, 0, 0.5, 0.5], [0, 0, 0, 0]]),
        "detection_scores": np.array([0.97, 0.1, 0.0]), "detection_classes": np.array([0, 0, 0]),
        "detection_labels": np.array([b"raccoon", b"raccoon", b""], object), "num_detections": np.array(2),
    }  # fmt: skip
    outputs = TASK.plain_outputs(served)
    assert outputs["num_detections"] == len(outputs["detection_boxes"]) == 2
    assert outputs["detection_labels"] == ["raccoon", "raccoon"]
    line = TASK.format_prediction("raccoon-1.jpg", outputs)
    assert line == "raccoon-1.jpg: 1 object: raccoon 0.97 (top 10, left 20, bottom 90, right 80 %)"
    assert TASK.format_prediction("a.jpg", outputs | {"detection_scores": [0.2, 0.1]}) == "a.jpg: no object"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    drawn = np.asarray(Image.open(io.BytesIO(TASK.draw(tmp_path / "a.png", outputs))))
    assert drawn.shape == (40, 60, 3)
    assert drawn[4:36, 12].any(axis=-1).all()  # the left side
    assert not drawn[:3].any()  # the weak box is not drawn
    empty = {key: [] for key in outputs if key.startswith("detection_")}
    assert not np.asarray(Image.open(io.BytesIO(TASK.draw(tmp_path / "a.png", empty)))).any()


def test_a_class_has_one_colour_in_all_pictures(tmp_path):
    Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(tmp_path / "a.png")
    boxes = [[0.0, 0.0, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9]]
    outputs = {"detection_boxes": boxes, "detection_scores": [0.9, 0.8], "detection_labels": ["cat", "dog"]}
    both = TASK.draw(tmp_path / "a.png", outputs | {"detection_classes": [0, 1]})
    alone = TASK.draw(
        tmp_path / "a.png",
        {
            "detection_boxes": boxes[1:],
            "detection_scores": [0.8],
            "detection_labels": ["dog"],
            "detection_classes": [1],
        },
    )
    both, alone = (np.asarray(Image.open(io.BytesIO(one))) for one in (both, alone))
    np.testing.assert_array_equal(both[48:], alone[48:])
    assert both[2, 30].any()
    assert not alone[2, 30].any()


def test_truth_is_thin_and_predictions_are_thick():
    picture, box = np.zeros((100, 100, 3), np.uint8), np.array([[0.2, 0.2, 0.8, 0.8]])
    truth, predicted = draw_boxes(picture, box, ["a"]), draw_boxes(picture, box, ["a"], [0.9])
    assert not picture.any()
    right = slice(75, 82)  # far from the label
    assert truth[50, right].any(axis=-1).sum() == 1
    assert predicted[50, right].any(axis=-1).sum() == 3
    two = draw_boxes(picture, np.array([[0.1, 0.1, 0.4, 0.4], [0.6, 0.6, 0.9, 0.9]]), ["a", "b"])
    assert not np.array_equal(two[39, 20], two[89, 70])
    with pytest.raises(DataError, match="Expected an image uint8"):
        draw_boxes(picture.astype(np.float32), box, ["a"])
    with pytest.raises(DataError, match="Received: 1 boxes, 2 labels, 1 scores"):
        draw_boxes(picture, box, ["a", "b"], [0.5])


# --- what is served


def suppressed_by_loops(output, classes, score_threshold, iou_threshold, most=100):
    """Detections of one picture: greedy in each class, then the best of all classes."""
    probability = 1 / (1 + np.exp(-output[:, :classes].astype(float)))
    boxes, kept = output[:, classes : classes + 4], []
    for kind in range(classes):
        own: list = []
        for at in np.argsort(-probability[:, kind], kind="stable"):
            if probability[at, kind] <= score_threshold or len(own) == most:
                break
            if all(iou_of(boxes[at], boxes[other]) <= iou_threshold for other in own):
                own.append(at)
        kept += [(float(probability[at, kind]), kind, np.clip(boxes[at], 0, 1)) for at in own]
    return sorted(kept, key=lambda one: -one[0])[:most]


def iou_of(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.prod(np.maximum(high - low, 0))
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


@pytest.mark.slow
def test_what_is_served_is_a_greedy_suppression():
    rng = np.random.default_rng(5)
    head = heads.object_detection(["a", "b", "c"])
    low = rng.uniform(-0.2, 0.8, (3, 150, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.05, 0.5, (3, 150, 2))], axis=-1)
    output = np.concatenate([rng.normal(-2, 2, (3, 150, 3)), boxes, np.zeros((3, 150, 2))], -1).astype("float32")
    output[2, :, :3] = -9  # nothing
    serve = tf.function(head.postprocess, input_signature=[tf.TensorSpec([None, None, 9], tf.float32)])
    served = {name: value.numpy() for name, value in serve(output).items()}
    shapes = {name: (value.shape, value.dtype) for name, value in served.items()}
    assert shapes == {
        "detection_boxes": ((3, 100, 4), np.float32), "detection_scores": ((3, 100), np.float32),
        "detection_classes": ((3, 100), np.int32), "detection_labels": ((3, 100), object),
        "num_detections": ((3,), np.int32),
    }  # fmt: skip
    for at in range(3):
        expected = suppressed_by_loops(output[at], 3, 0.02, 0.6)
        count = served["num_detections"][at]
        assert count == len(expected)
        np.testing.assert_allclose(served["detection_scores"][at, :count], [one[0] for one in expected], rtol=1e-5)
        assert served["detection_classes"][at, :count].tolist() == [one[1] for one in expected]
        for box, one in zip(served["detection_boxes"][at], expected, strict=False):
            np.testing.assert_allclose(box, one[2], atol=1e-6)
        names = [b"abc"[one[1] : one[1] + 1] for one in expected]
        assert served["detection_labels"][at].tolist() == names + [b""] * (100 - count)
        assert not served["detection_boxes"][at, count:].any()
    assert served["num_detections"].tolist()[2] == 0
    assert served["num_detections"][0] == 100  # more would be found


@pytest.mark.nightly
def test_the_contract_of_tasks():
    contract = testing.check_task("object_detection", ["a", "b"], width=16)
    assert {"loss falls", "serving agrees with the metric", "evaluation agrees with the metric", "rows are independent",
            "config keeps the head"} <= set(contract.passed)  # fmt: skip
    assert set(contract.refused) == {"probabilities"}


# --- a detector that learns


@pytest.fixture(scope="module")
def planted():
    """A tiny network, from random weights, trained on squares and rings for half a minute."""
    model = detection_models.detector()
    images, labels = detection_models.pictures(256, 1)
    schedule = keras.optimizers.schedules.CosineDecay(6e-3, 16 * 14)
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=0.01), **heads.from_model(model).compile_args())
    history = model.fit(images, labels, batch_size=16, epochs=14, verbose=0)
    return model, history.history


@pytest.mark.nightly
def test_planted_objects_are_found(planted):
    model, history = planted
    images, labels = detection_models.pictures(64, 2)
    scores = tfft.evaluate(model, (images, labels))
    assert scores.measures["map50"] >= 0.9, str(scores)
    assert scores.value >= 0.5
    assert scores.majority_baseline < 0.2
    assert scores.interval[0] < scores.value < scores.interval[1]
    assert history["average_precision"][-1] > 0.9 > 0.5 > history["average_precision"][0]
    measured = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert measured["average_precision"] == pytest.approx(scores.measures["map50"], abs=0.03)
    assert measured["loss"] == pytest.approx(scores.loss, rel=0.02)


@pytest.mark.slow
@pytest.mark.process
def test_an_exported_detector_serves_the_same_boxes(planted, tmp_path):
    model, _ = planted
    images, _ = detection_models.pictures(5, 3)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(again.predict(images, verbose=0), model.predict(images, verbose=0))
    exported = tfft.export(again, tmp_path / "served" / "1", examples=images)
    assert exported.largest_difference < 1e-5
    expected = heads.from_model(model).postprocess(model.predict(images, verbose=0))
    served = tf.saved_model.load(str(exported.path)).signatures["serving_default"](images=tf.constant(images))
    assert served.keys() == expected.keys()
    assert int(tf.reduce_sum(served["num_detections"])) > 5
    for name, value in expected.items():
        if name == "detection_labels":
            assert served[name].numpy().tolist() == value.numpy().tolist()
        else:
            np.testing.assert_allclose(served[name], value, atol=1e-5)
    loaded = tfft.exporting.open_export(exported.path)
    assert (loaded.task, list(loaded.class_names)) == ("object_detection", ["square", "ring"])
