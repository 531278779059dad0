"""RetinaNet and DeepLabV3 of KerasHub as heads: against loops, from files, in exports, and on planted objects."""

import math
import sys

import detection_models
import keras
import numpy as np
import pytest
import tensorflow as tf
import test_dense_contracts as contracts
import test_dense_recipes
import test_semantic_segmentation as segmentation

import tfft
from tfft import heads
from tfft.errors import DependencyError, PlanError
from tfft.heads import ModelFeatures
from tfft.keras_compat import flatten_layers
from tfft.layers import keras_hub_layers
from tfft.tasks.object_detection.retinanet import RetinaNetLoss, match

pytest.importorskip("keras_hub")

RNG = np.random.default_rng(5)
ANCHORS = 9  # of a cell


def attached(head, sides=((8, 12), (4, 6), (2, 3)), strides=(8, 16, 32)):
    """A head alone, on maps of 3 channels."""
    keras.utils.set_random_seed(1)
    inputs = {stride: keras.Input((*side, 3)) for stride, side in zip(strides, sides, strict=True)}
    return keras.Model(list(inputs.values()), head.attach(ModelFeatures(inputs)))


def maps(*sides, count=2):
    return [RNG.normal(size=(count, *side, 3)).astype("float32") for side in sides]


@pytest.fixture(scope="module")
def retinanet():
    return attached(heads.object_detection(["a", "b"], architecture="retinanet", width=32), [(None, None)] * 3)


# --- RetinaNet


@pytest.mark.representative("16")
@pytest.mark.daily("8")
@pytest.mark.parametrize("rows", [8, 16])
def test_new_boxes_are_about_the_anchors_of_maps_of_any_size(retinanet, rows):
    output = np.asarray(retinanet(maps((rows, 12), (rows // 2, 6), (rows // 4, 3))))
    coarse = -(-rows // 8), 2
    cells = [(rows, 12), (rows // 2, 6), (rows // 4, 3), coarse, (-(-coarse[0] // 2), 1)]
    assert output.shape == (2, ANCHORS * sum(a * b for a, b in cells), 2 + 8)
    boxes, centres, sizes = output[..., 2:6], output[..., 6:8], output[..., 8:]
    np.testing.assert_allclose(np.median(1 / (1 + np.exp(-output[..., :2]))), 0.01, rtol=0.05)
    moved = ((boxes[..., :2] + boxes[..., 2:]) / 2 - centres) / sizes
    grown = np.log((boxes[..., 2:] - boxes[..., :2]) / sizes)
    for value in (moved, grown):
        assert np.abs(np.median(value, axis=(0, 1))).max() < 0.1
        assert 0 < np.abs(value).max() < 1
    at = 0
    for height, width in cells:
        own = np.s_[0, at : at + ANCHORS * height * width]
        wanted = [[(row + 0.5) / height, (column + 0.5) / width] for row in range(height) for column in range(width)]
        np.testing.assert_allclose(centres[own], np.repeat(wanted, ANCHORS, axis=0), rtol=1e-5)
        areas = np.sort(np.prod(sizes[own] * [height, width], axis=-1)[:ANCHORS])
        np.testing.assert_allclose(areas, np.repeat([(4 * 2 ** (n / 3)) ** 2 for n in range(3)], 3), rtol=1e-5)
        at += ANCHORS * height * width


@pytest.mark.slow
def test_fixed_maps_give_a_fixed_shape():
    model = attached(heads.object_detection(["a"], architecture="retinanet", width=32))
    points = ANCHORS * (96 + 24 + 6 + 1 * 2 + 1 * 1)
    assert model.output.shape == (None, points, 1 + 8)
    assert model(maps((8, 12), (4, 6), (2, 3))).shape == (2, points, 1 + 8)
    names = [layer.name for layer in model.layers]
    assert (names.count("classes"), names.count("boxes")) == (1, 1)  # all maps share them


def test_the_width_is_that_of_the_paper_unless_given():
    assert heads.object_detection(["a"], architecture="retinanet").width == 256
    assert heads.semantic_segmentation(["a", "b"], architecture="deeplab_v3").width == 256
    assert (heads.object_detection(["a"]).width, heads.semantic_segmentation(["a", "b"]).width) == (96, 96)


def overlap(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def matched_by_loops(labels, anchors):
    """For each anchor the row of its object, or "negative" or "between"."""
    objects = [at for at, row in enumerate(labels) if row[0] >= 0]
    found = []
    for anchor in anchors:
        best = max(objects, key=lambda at: overlap(anchor, labels[at][1:5]), default=None)
        iou = 0 if best is None else overlap(anchor, labels[best][1:5])
        found.append(best if iou >= 0.5 else "between" if iou >= 0.4 else "negative")
    for at in reversed(objects):  # the first object comes first
        found[max(range(len(anchors)), key=lambda p: overlap(anchors[p], labels[at][1:5]))] = at
    return found


def problem():
    """Labels of three pictures with crowds and padding, and an output of 60 anchors and two classes."""
    labels = np.full((3, 4, 7), -1, np.float32)
    labels[..., 1:] = 0
    labels[0, :3, :5] = [[0, 0.1, 0.1, 0.4, 0.5], [1, 0.5, 0.45, 0.95, 0.9], [1, 0.5, 0.5, 0.51, 0.51]]
    labels[1, :2, :5] = [[-3, 0.0, 0.0, 0.6, 0.6], [0, 0.3, 0.3, 0.8, 0.7]]
    centres, sizes = RNG.uniform(0.1, 0.9, (60, 2)), RNG.uniform(0.2, 0.6, (60, 2))
    moved = RNG.normal(0, 0.02, (3, 60, 4)) + np.concatenate([centres - sizes / 2, centres + sizes / 2], -1)
    anchors = np.broadcast_to(np.concatenate([centres, sizes], -1), (3, 60, 4))
    return labels, np.concatenate([RNG.normal(size=(3, 60, 2)), moved, anchors], -1).astype(np.float32)


def loss_by_loops(labels, output):
    """The loss of each picture, anchor by anchor, before its divisor, and the number of positive anchors."""
    found, positive = [], 0
    for rows, points in zip(labels, output, strict=True):
        centres, sizes = points[:, 6:8], points[:, 8:]
        owners = matched_by_loops(rows, np.concatenate([centres - sizes / 2, centres + sizes / 2], -1))
        total = 0.0
        for point, owner in zip(points, owners, strict=True):
            centre, size, box = point[6:8], point[8:], point[2:6]
            if isinstance(owner, int):
                positive += 1
                truth = rows[owner][1:5]
                for axis in (0, 1):
                    middle = (box[axis] + box[axis + 2] - truth[axis] - truth[axis + 2]) / 2 / size[axis]
                    side = math.log((box[axis + 2] - box[axis]) / (truth[axis + 2] - truth[axis]))
                    for d in (middle, side):
                        total += 0.5 * d * d if abs(d) < 1 else abs(d) - 0.5
            for kind in (0, 1) if owner != "between" else ():
                p = 1 / (1 + math.exp(-point[kind]))
                if isinstance(owner, int) and rows[owner][0] == kind:
                    total -= 0.25 * (1 - p) ** 2 * math.log(p)
                elif not any(
                    row[0] == -2 - kind and row[1] < centre[0] < row[3] and row[2] < centre[1] < row[4] for row in rows
                ):
                    total -= 0.75 * p**2 * math.log(1 - p)
        found.append(total)
    return np.array(found), positive


def test_anchors_are_matched_as_by_loops():
    labels, output = problem()
    found = match(labels, output[..., 6:8], output[..., 8:])
    states = set()
    for at in range(3):
        corners = np.concatenate(
            [output[at, :, 6:8] - output[at, :, 8:] / 2, output[at, :, 6:8] + output[at, :, 8:] / 2], -1
        )
        for anchor, owner in enumerate(matched_by_loops(labels[at], corners)):
            states.add(owner if isinstance(owner, str) else "positive")
            assert bool(found.positive[at, anchor]) == isinstance(owner, int)
            assert bool(found.between[at, anchor]) == (owner == "between")
            if isinstance(owner, int):
                np.testing.assert_array_equal(found.boxes[at, anchor], labels[at, owner, 1:5])
                assert found.classes[at, anchor] == labels[at, owner, 0]
    assert states == {"positive", "between", "negative"}
    tiny = found.positive[0] & (found.boxes[0, :, 2] == labels[0, 2, 3])  # an object smaller than every anchor
    assert bool(tf.reduce_any(tiny))


def test_the_loss_is_that_of_loops():
    labels, output = problem()
    wanted, positive = loss_by_loops(labels, output)
    assert positive > 5
    np.testing.assert_allclose(RetinaNetLoss(reduction=None)(labels, output), wanted * 3 / positive, rtol=1e-4)
    empty, _ = loss_by_loops(labels[2:], output[2:])
    np.testing.assert_allclose(RetinaNetLoss()(labels[2:], output[2:]), empty[0], rtol=1e-4)  # divided by 1


def test_weight_decay_is_of_the_class_kernels(retinanet):
    model = attached(heads.object_detection(["a"], architecture="retinanet", width=32, l2=0.5))
    kernels = [v for v in model.get_layer("classes").trainable_variables if "kernel" in v.path]
    wanted = 0.5 * sum(float(tf.reduce_sum(v**2)) for v in kernels)
    assert len(kernels) == 5
    assert float(sum(model.losses)) == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(PlanError, match="'logits' has no weights. Pass l2= to the head"):
        heads.set_l2(retinanet, 0.5)


# --- both


def same_from_its_file(model, values, file):
    model.save(file)
    again = keras.saving.load_model(file)
    np.testing.assert_array_equal(again(values), model(values))
    assert heads.from_model(again) == heads.from_model(model)
    assert "keras_hub." not in str(model.get_config())  # files name no module of KerasHub


@pytest.mark.slow
def test_a_retinanet_is_the_same_from_its_file(retinanet, tmp_path):
    same_from_its_file(retinanet, maps((8, 12), (4, 6), (2, 3)), tmp_path / "head.keras")


@pytest.mark.slow
def test_a_decoder_is_the_same_from_its_file(tmp_path):
    sides = ((16, 24), (8, 12), (4, 6), (2, 3))
    head = heads.semantic_segmentation(["a", "b"], architecture="deeplab_v3", width=8)
    same_from_its_file(attached(head, sides, (4, 8, 16, 32)), maps(*sides), tmp_path / "head.keras")


def test_the_decoder_takes_maps_of_any_size():
    head = heads.semantic_segmentation(["a", "b", "c"], architecture="deeplab_v3", width=8)
    model = attached(head, [(None, None)] * 4, (4, 8, 16, 32))
    for rows in (16, 21):  # 21 rows become 11, 6 and 3
        sides = [(-(-rows // 2**at), -(-24 // 2**at)) for at in range(4)]
        assert model(maps(*sides)).shape == (2, rows, 24, 3)
    inside = flatten_layers(model.get_layer("atrous_pooling"))
    norms = [layer for layer in inside if isinstance(layer, keras.layers.BatchNormalization)]
    assert [layer.momentum for layer in norms] == [0.9] * 6
    before = [norm.moving_mean.numpy() for norm in norms]
    model(maps(*sides))
    assert all(np.array_equal(norm.moving_mean, old) for norm, old in zip(norms, before, strict=True))
    model(maps(*sides), training=True)
    assert not any(np.array_equal(norm.moving_mean, old) for norm, old in zip(norms, before, strict=True))


@pytest.mark.slow
def test_mixed_precision_gives_float32_and_finite_gradients():
    boxes = np.array([[[0, 0.1, 0.1, 0.5, 0.6, 64, 64]], [[-1, 0, 0, 0, 0, 64, 64]]], "float32")
    cells = RNG.integers(0, 2, (2, 16, 24))
    sides = ((16, 24), (8, 12), (4, 6), (2, 3))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        detector = attached(heads.object_detection(["a", "b"], architecture="retinanet", width=32))
        decoder = attached(
            heads.semantic_segmentation(["a", "b"], architecture="deeplab_v3", width=8), sides, (4, 8, 16, 32)
        )
    finally:
        keras.config.set_dtype_policy(before)
    assert detector.get_layer("classes").compute_dtype == "float16"
    for model, given, labels in ((detector, maps(*sides[1:]), boxes), (decoder, maps(*sides), cells)):
        with tf.GradientTape() as tape:
            output = model(given, training=True)
            loss = heads.from_model(model).loss()(labels, output)
        assert output.dtype == tf.float32
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_unknown_architectures_are_refused_before_any_work(tmp_path):
    data = tmp_path / "none"
    for task, name, expected in (
        ("object_detection", "retinanett", "one of tfft, retinanet, received 'retinanett'. Did you mean 'retinanet'"),
        ("semantic_segmentation", "retinanet", "one of tfft, deeplab_v3, received 'retinanet'"),
        ("classification", "retinanet", "Expected task='object_detection', task='semantic_segmentation'"),
        ("auto", "deeplab_v3", "Expected task='object_detection', task='semantic_segmentation'"),
    ):
        with pytest.raises(PlanError, match=expected):
            tfft.finetune("efficientnet-lite0", data, task=task, architecture=name)
    with pytest.raises(PlanError, match="Did you mean 'deeplab_v3'"):
        heads.semantic_segmentation(["a", "b"], architecture="deeplab")
    with pytest.raises(PlanError, match="multiple of 32, received 40"):
        heads.object_detection(["a"], architecture="retinanet", width=40)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(PlanError, match="Received: 9 x 12, 5 x 6, 3 x 3 cells. Use an image_size in multiples of 32"):
        attached(heads.object_detection(["a"], architecture="retinanet", width=32), ((9, 12), (5, 6), (3, 3)))


def test_a_missing_keras_hub_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)  # an import of it now fails
    for factory, name in ((heads.object_detection, "retinanet"), (heads.semantic_segmentation, "deeplab_v3")):
        with pytest.raises(DependencyError, match=f"{name}.*needs the package 'keras-hub'.*pip install"):
            attached(factory(["a", "b"], architecture=name))
    attached(heads.object_detection(["a", "b"], width=4))
    monkeypatch.undo()
    with pytest.raises(DependencyError, match=r"with Other in models\.retinanet, as .*Received: .*pip install"):
        keras_hub_layers._part("retinanet", "Other")


# --- planted objects


@pytest.fixture(scope="module")
def detector():
    """A tiny network under a RetinaNet, all of it trained on squares and rings."""
    model = detection_models.detector(architecture="retinanet", width=32, size=64)
    images, labels = detection_models.pictures(160, 1, side=64)
    schedule = keras.optimizers.schedules.CosineDecay(6e-3, 20 * 10)
    model.compile(keras.optimizers.Adam(schedule), **heads.from_model(model).compile_args())
    model.fit(images, labels, batch_size=8, epochs=10, verbose=0)
    return model


@pytest.mark.nightly
@pytest.mark.process
def test_a_retinanet_finds_planted_objects_and_its_export_too(detector, tmp_path):
    scores = tfft.evaluate(detector, detection_models.pictures(48, 2, side=64))
    assert scores.measures["map50"] >= 0.35, str(scores)
    assert scores.majority_baseline < 0.05
    images, _ = detection_models.pictures(4, 3, side=64)
    detector.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    exported = tfft.export(again, tmp_path / "served" / "1", examples=images)
    served = tf.saved_model.load(str(exported.path)).signatures["serving_default"](images=tf.constant(images))
    expected = heads.from_model(detector).postprocess(detector.predict(images, verbose=0))
    assert served.keys() == expected.keys()
    assert int(tf.reduce_sum(served["num_detections"])) > 3
    for name in ("detection_boxes", "detection_scores", "detection_classes"):
        np.testing.assert_allclose(served[name], expected[name], atol=1e-4)


@pytest.mark.nightly
@pytest.mark.process
def test_deeplab_learns_planted_bars_and_its_export_gives_them(tmp_path):
    splits = segmentation.load_masks(segmentation.write_lines(tmp_path / "data"))
    keras.utils.set_random_seed(0)
    head = heads.semantic_segmentation(splits.class_names, architecture="deeplab_v3", width=24)
    model = tfft.build(segmentation.small_backbone(), head.fitted_to(splits.train.labels))
    tfft.unfreeze(model, "all")
    images, masks = next(iter(tfft.data.to_dataset(splits.train, model.get_layer("preprocess").spec, batch_size=64)))
    model.compile(keras.optimizers.Adam(0.01), **heads.from_model(model).compile_args())
    model.fit(images, masks, batch_size=8, epochs=12, verbose=0)
    scores = tfft.evaluate(model, splits.validation)
    assert scores.value > 0.8 > 0.4 > scores.majority_baseline, str(scores)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    done = tfft.export(again, tmp_path / "served" / "1", examples=list(splits.validation.paths[:4]))
    assert done.largest_difference < 1e-4
    served = tf.saved_model.load(str(done.path)).signatures["serving_default"](images=tf.cast(images[:4], tf.uint8))
    expected = heads.from_model(model).served(model).sized(model(images[:4]), tf.constant([[64, 64]] * 4))
    assert np.mean(served["mask"] == expected["mask"]) > 0.999  # two classes may be equally probable


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("task", "write", "name", "metric"),
    [
        ("object_detection", test_dense_recipes.boxes, "retinanet", "map"),
        ("semantic_segmentation", test_dense_recipes.masks, "deeplab_v3", "mean_iou"),
    ],
)
def test_a_run_keeps_maps_resumes_and_loads(task, write, name, metric, tmp_path):
    data = write(tmp_path / "data", contracts.PICTURES)
    settings = {**contracts.SHORT, "unfreeze": "none", "deterministic": True, "export_to": False}

    def run(out, **more):
        return tfft.finetune(
            contracts.backbone(), data, task, architecture=name, cache=tmp_path / "cache", out=tmp_path / out,
            **settings, **more,
        )  # fmt: skip

    whole = run("whole")
    assert heads.from_model(whole.model).architecture == name
    assert any((tmp_path / "cache").iterdir())
    assert not [note for note in whole.history.notes if "every epoch runs the whole model" in note]
    with pytest.raises(contracts.Power):
        run("stopped", callbacks=[contracts.Fail(1)])
    resumed = run("stopped")
    for one, other in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    again = tfft.load_run(tmp_path / "stopped")
    assert again.plan.architecture == name
    assert again.final_scores.metric == metric
    assert again.final_scores.to_dict() == whole.final_scores.to_dict()
