"""The head for one class per pixel: loss, metrics and scores against loops, and a task that it learns."""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfft
from tfft import heads, registry
from tfft.backbones import Backbone
from tfft.data import to_dataset
from tfft.errors import DataError, PlanError
from tfft.evaluation import Scores, evaluate
from tfft.heads import ModelFeatures
from tfft.specs import InputSpec
from tfft.tasks.semantic_segmentation import VOID
from tfft.tasks.semantic_segmentation.data import load_masks
from tfft.tasks.semantic_segmentation.evaluator import (
    SegmentationEvaluator,
    bootstrap_interval,
    boundary_counts,
    mean_iou,
)
from tfft.tasks.semantic_segmentation.layers import UpsampleLike
from tfft.tasks.semantic_segmentation.losses import PixelAccuracy, PixelMeanIoU, SegmentationLoss, subsampled

L = keras.layers
TASK = registry.task("semantic_segmentation")
RNG = np.random.default_rng(0)


def drawn(shape=(3, 5, 6), classes=4, void=0.2):
    labels = RNG.integers(0, classes, shape)
    return np.where(RNG.random(shape) < void, VOID, labels).astype(np.int32), RNG.normal(size=(*shape, classes)).astype(
        np.float32
    )


def softmax(row):
    e = np.exp(row - row.max())
    return e / e.sum()


def loss_by_loops(labels, logits, weights=None, gamma=0.0, smoothing=0.0):
    """The loss of each picture, pixel by pixel."""
    classes, found = logits.shape[-1], []
    for mask, cells in zip(labels, logits, strict=True):
        total, weighed = 0.0, 0.0
        common, predicted, true = np.zeros(classes), np.zeros(classes), np.zeros(classes)
        for row, column in np.ndindex(mask.shape):
            label = mask[row, column]
            if label == VOID:
                continue
            p = softmax(cells[row, column].astype(float))
            terms = -((1 - p) ** gamma) * np.log(p)
            weight = 1.0 if weights is None else weights[label]
            total += weight * ((1 - smoothing) * terms[label] + smoothing * terms.mean())
            weighed += weight
            common[label] += p[label]
            true[label] += 1
            predicted += p
        dice = [(2 * common[c] + 1) / (predicted[c] + true[c] + 1) for c in range(classes) if true[c]]
        found.append(total / weighed + 1 - np.mean(dice) if weighed else 0.0)
    return np.array(found)


# --- loss


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"class_weights": [1.0, 2.0, 0.5, 9.0]},
        {"gamma": 2.0},
        {"label_smoothing": 0.1, "class_weights": [1, 1, 3, 4]},
    ],
)
def test_the_loss_is_that_of_loops(settings):
    labels, logits = drawn()
    labels[2][labels[2] == 3] = VOID  # a class that one picture does not show
    wanted = loss_by_loops(
        labels, logits, settings.get("class_weights"), settings.get("gamma", 0), settings.get("label_smoothing", 0)
    )
    np.testing.assert_allclose(SegmentationLoss(**settings, reduction=None)(labels, logits), wanted, rtol=1e-5)
    np.testing.assert_allclose(SegmentationLoss(**settings)(labels, logits), wanted.mean(), rtol=1e-5)
    again = SegmentationLoss.from_config(SegmentationLoss(**settings).get_config())
    np.testing.assert_allclose(again(labels, logits), wanted.mean(), rtol=1e-5)


def test_pictures_without_labels_are_finite_and_void_has_no_gradient():
    labels, logits = drawn()
    labels[1] = VOID
    given = tf.Variable(logits * 1000)  # very wrong and very sure
    with tf.GradientTape() as tape:
        each = SegmentationLoss(class_weights=[1.0, 2.0, 3.0, 4.0], reduction=None)(labels, given)
    gradient = tape.gradient(each, given).numpy()
    assert each.numpy()[1] == 0
    assert np.isfinite(each).all()
    assert np.isfinite(gradient).all()
    assert (gradient[labels == VOID] == 0).all()
    assert (np.abs(gradient[0][labels[0] != VOID]).max(axis=-1) > 0).any()
    assert float(SegmentationLoss()(np.full((2, 4, 4), VOID), np.zeros((2, 4, 4, 3), np.float32))) == 0


def test_larger_masks_are_sampled_in_the_middle_of_each_cell():
    labels, _ = drawn((2, 12, 16))
    _, logits = drawn((2, 3, 4))
    middles = np.array([[[one[4 * i + 2, 4 * j + 2] for j in range(4)] for i in range(3)] for one in labels])
    np.testing.assert_array_equal(subsampled(labels, logits), middles)
    np.testing.assert_allclose(SegmentationLoss()(labels, logits), loss_by_loops(middles, logits).mean(), rtol=1e-5)
    np.testing.assert_array_equal(subsampled(middles, logits), middles)
    uneven = RNG.integers(0, 4, (1, 13, 10))
    wanted = uneven[0][np.ix_([int((i + 0.5) * 13 / 3) for i in range(3)], [int((j + 0.5) * 10 / 4) for j in range(4)])]
    np.testing.assert_array_equal(subsampled(uneven, logits)[0], wanted)


def test_the_loss_of_a_batch_is_the_mean_of_its_parts():
    labels, logits = drawn((6, 5, 4))
    loss = SegmentationLoss(class_weights=[1.0, 2.0, 3.0, 4.0])
    parts = [loss(labels[at : at + 2], logits[at : at + 2]) for at in (0, 2, 4)]
    np.testing.assert_allclose(loss(labels, logits), np.mean(parts), rtol=1e-6)


def test_labels_without_a_class_are_refused():
    labels, logits = drawn()
    labels[0, 0, 0] = 7
    with pytest.raises(tf.errors.InvalidArgumentError, match="7"):
        SegmentationLoss()(labels, logits)


# --- metrics


def confusion(labels, found, classes):
    table = np.zeros((classes, classes), int)
    for true, given in zip(labels.ravel(), found.ravel(), strict=True):
        if true != VOID:
            table[true, given] += 1
    return table


def iou_by_loops(table):
    union = [table[c].sum() + table[:, c].sum() - table[c, c] for c in range(len(table))]
    return np.mean([table[c, c] / union[c] for c in range(len(table)) if union[c]])


def test_metrics_stream_over_batches_and_ignore_void():
    labels, logits = drawn((6, 12, 16), classes=5)
    labels[labels == 4] = 0
    logits[..., 4] = -9  # a class that is neither there nor predicted
    _, cells = drawn((6, 3, 4), classes=5)
    cells[..., 4] = -9
    middles = labels[:, 2::4, 2::4]
    for given, true in ((logits, labels), (cells, middles)):
        table = confusion(true, given.argmax(-1), 5)
        iou, accuracy = PixelMeanIoU(5), PixelAccuracy()
        for at in (0, 2, 4):
            iou.update_state(labels[at : at + 2], given[at : at + 2])
            accuracy.update_state(labels[at : at + 2], given[at : at + 2])
        np.testing.assert_allclose(iou.result(), iou_by_loops(table), rtol=1e-5)
        np.testing.assert_allclose(accuracy.result(), np.trace(table) / table.sum(), rtol=1e-5)
    weighed, accuracy = PixelMeanIoU.from_config(iou.get_config()), PixelAccuracy()
    for metric in (weighed, accuracy):
        metric.update_state(labels, logits, sample_weight=np.array([1, 0, 0, 0, 0, 0]))
    table = confusion(labels[:1], logits[:1].argmax(-1), 5)
    np.testing.assert_allclose(weighed.result(), iou_by_loops(table), rtol=1e-5)
    np.testing.assert_allclose(accuracy.result(), np.trace(table) / table.sum(), rtol=1e-5)


# --- scores


def boundary_by_loops(true, found, classes, reach):
    counts = np.zeros((4, classes), int)
    height, width = true.shape

    def edges(mask, c):
        rows = []
        for i, j in np.ndindex(mask.shape):
            near = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
            near = [(a, b) for a, b in near if 0 <= a < height and 0 <= b < width]
            if mask[i, j] == c and any(mask[a, b] not in (c, VOID) for a, b in near):
                rows.append((i, j))
        return rows

    for c in range(classes):
        ours, theirs = edges(true, c), edges(found, c)
        for at, (one, other) in enumerate(((ours, theirs), (theirs, ours))):
            counts[2 * at, c] = len(one)
            counts[2 * at + 1, c] = sum(any(max(abs(i - a), abs(j - b)) <= reach for a, b in other) for i, j in one)
    return counts


def test_boundaries_are_those_of_loops():
    for size in ((9, 11), (40, 5), (1, 6)):
        true = RNG.integers(0, 3, size).repeat(1)
        true = np.where(RNG.random(true.shape) < 0.1, VOID, true).reshape(size)
        found = np.where(true == VOID, VOID, np.roll(true, 1, axis=-1))
        found = np.where((found == VOID) & (true != VOID), 0, found)
        np.testing.assert_array_equal(boundary_counts(true, found, 4), boundary_by_loops(true, found, 4, 1))
    large = np.zeros((300, 400), int)
    large[:, 200:] = 1
    for shift, matched in ((0, 1), (4, 1), (5, 0)):  # 0.75 % of 500 is 3.75, and edges are two pixels wide
        counts = boundary_counts(large, np.roll(large, shift, axis=1)[:, :], 2)[:, 1:2]
        if shift:
            counts = boundary_counts(large[:, 100:300], np.roll(large, shift, axis=1)[:, 100:300], 2)[:, 1:2]
        reach = round(0.0075 * np.hypot(300, 400 if not shift else 200))
        assert (counts[1] == counts[0]).all() == (shift <= reach), (shift, matched)


def test_scores_are_those_of_loops():
    names = ("a", "b", "c", "d")
    labels, logits = drawn((5, 12, 16))
    labels[labels == 3] = 2
    logits[..., 3] = -9
    evaluator = SegmentationEvaluator(heads.semantic_segmentation(names))
    for at in (0, 3):
        evaluator.check(labels[at : at + 3])
        evaluator.update(labels[at : at + 3], logits[at : at + 3])
    scores = evaluator.result(5, 1.5)
    found = logits.argmax(-1)
    table = confusion(labels, found, 4)
    np.testing.assert_array_equal(scores.confusion, table)
    assert scores.metric == "mean_iou"
    np.testing.assert_allclose(scores.value, iou_by_loops(table))
    np.testing.assert_allclose(scores.accuracy, np.trace(table) / table.sum())
    common = np.zeros_like(table)
    common[:, table.sum(axis=1).argmax()] = table.sum(axis=1)
    np.testing.assert_allclose(scores.majority_baseline, iou_by_loops(common))
    for c, row in enumerate(scores.per_class[:3]):
        true, given = labels == c, (found == c) & (labels != VOID)
        np.testing.assert_allclose(row.f1, 2 * (true & given).sum() / (true.sum() + given.sum()))
        np.testing.assert_allclose(row.iou, (true & given).sum() / (true | given).sum())
        np.testing.assert_allclose(scores.measures[f"iou of {row.name}"], row.iou)
    assert scores.per_class[3].iou is None
    assert "iou of d" not in scores.measures
    np.testing.assert_allclose(scores.measures["mean_dice"], np.mean([row.f1 for row in scores.per_class[:3]]))
    counts = sum(
        boundary_by_loops(true, np.where(true == VOID, VOID, given), 4, 1)
        for true, given in zip(labels, found, strict=True)
    )[:, :3]
    recall, precision = counts[1] / counts[0], counts[3] / counts[2]
    np.testing.assert_allclose(scores.measures["boundary_f1"], np.mean(2 * recall * precision / (recall + precision)))
    low, high = scores.interval
    assert low < scores.value < high
    again = Scores.from_dict(json.loads(json.dumps(scores.to_dict())))
    assert str(again) == str(scores)
    assert scores.summary.startswith(f"mean IoU {scores.value:.4f} (95 % interval")
    assert "5 images), majority class 0." in scores.summary
    assert "iou of a" not in str(scores)


def test_the_interval_resamples_pictures():
    right = np.array([[[10, 0], [10, 0], [10, 0]], [[0, 0], [10, 0], [0, 10]]] * 10)  # half of the pictures all wrong
    low, high = bootstrap_interval(right)
    draws = np.random.default_rng(1).integers(0, 20, (4000, 20))
    values = [mean_iou(right[rows].sum(axis=0)) for rows in draws]
    np.testing.assert_allclose((low, high), np.quantile(values, (0.025, 0.975)), atol=0.03)
    assert bootstrap_interval(right[:1]) == (0.0, 1.0)


def test_labels_that_are_no_masks_are_refused():
    evaluator = SegmentationEvaluator(heads.semantic_segmentation(["a", "b"]))
    with pytest.raises(DataError, match=r"Expected masks \[B, H, W\] of integers. Received: float32 \(1, 2, 2\)"):
        evaluator.check(np.zeros((1, 2, 2), np.float32))
    with pytest.raises(DataError, match=r"values 0 to 1, and 255 for pixels without a label. Received: 2, 9"):
        evaluator.check(np.array([[[0, 2], [9, 255]]]))
    evaluator.update(np.full((1, 4, 4), VOID), np.zeros((1, 1, 1, 2), np.float32))
    with pytest.raises(DataError, match="No pixel of the dataset has a label"):
        evaluator.result(1, 0.0)


# --- head


def test_bad_heads_are_refused_with_all_reasons():
    with pytest.raises(PlanError, match=r"(?s)width must be.*received 0.*class_weights must be 2 numbers above 0"):
        heads.semantic_segmentation(["a", "b"], width=0, class_weights=[1.0])
    with pytest.raises(PlanError, match="at most 255 classes fit into a mask of bytes, received 300"):
        heads.semantic_segmentation([f"c{i}" for i in range(300)])
    head = heads.semantic_segmentation(["a", "b"])
    with pytest.raises(PlanError, match="soft=True does not apply"):
        head.compile_args(soft=True)
    with pytest.raises(PlanError, match="Expected feature maps by stride"):
        head.attach(keras.Input((4, 4, 8)))
    given = heads.semantic_segmentation(["a", "b"], class_weights=[1.0, 2.0])
    assert given.fitted_to(np.zeros((1, 4, 4), int)) is given


def test_the_decoder_takes_maps_of_any_size_and_has_few_parameters():
    head = heads.semantic_segmentation([f"c{i}" for i in range(11)])
    inputs = {stride: keras.Input((None, None, width)) for stride, width in ((4, 24), (8, 40), (16, 112), (32, 320))}
    model = keras.Model(list(inputs.values()), head.attach(ModelFeatures(inputs)))
    assert 100_000 < model.count_params() < 120_000
    sides = [(25, 23), (13, 12), (7, 6), (4, 3)]  # of a picture whose sides are no multiples of 32
    maps = [tf.random.normal([2, *side, t.shape[-1]]) for side, t in zip(sides, inputs.values(), strict=True)]
    assert model(maps).shape == (2, 25, 23, 11)
    coarse = RNG.normal(size=(1, 3, 4, 2)).astype(np.float32)
    wanted = tf.image.resize(coarse, (5, 7), "bilinear")
    np.testing.assert_array_equal(UpsampleLike()(coarse, np.zeros((1, 5, 7, 9), np.float32)), wanted)
    symbolic = UpsampleLike()(keras.KerasTensor((None, 3, 4, 2)), keras.KerasTensor((None, 5, None, 9)))
    assert symbolic.shape == (None, 5, None, 2)


def test_served_masks_are_those_of_enlarged_logits():
    head = heads.semantic_segmentation(["a", "b", "c"])
    _, logits = drawn((2, 3, 4), classes=3)
    served = {name: value.numpy() for name, value in head.postprocess(tf.constant(logits)).items()}
    large = tf.image.resize(logits, (12, 16), "bilinear").numpy()
    np.testing.assert_array_equal(served["mask"], large.argmax(-1))
    assert served["mask"].dtype == np.uint8
    np.testing.assert_allclose(served["probabilities"].sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(served["shares"], [[(one == c).mean() for c in range(3)] for one in served["mask"]])
    line = TASK.format_prediction("street.jpg", {"shares": {"road": 0.25, "car": 0.0, "sky": 0.75}})
    assert line == "street.jpg: sky 75.0 %, road 25.0 %"
    assert TASK.format_prediction("x", {"shares": [0.25, 0.75]}) == "x: class 1 75.0 %, class 0 25.0 %"


def test_the_check_of_an_export_accepts_other_classes_at_ties_alone():
    from tfft.exporting.parity import _near_ties

    logits = np.zeros((1, 2, 2, 3), np.float32)
    logits[0, :, 0] = [5, 5, -9]  # a tie of the first two classes on the left, none on the right
    logits[0, :, 1] = [9, -9, 0]
    expected = {
        name: value.numpy() for name, value in heads.semantic_segmentation(["a", "b", "c"]).postprocess(logits).items()
    }
    ties = _near_ties(expected, expected["mask"], 1e-5)
    assert ties[0, :, 0].all()
    assert not ties[0, :, 4:].any()


def test_mixed_precision_gives_float32_logits_and_finite_gradients():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs = {stride: keras.Input((64 // stride, 64 // stride, 8)) for stride in TASK.strides}
        head = heads.semantic_segmentation(["a", "b", "c"], width=8)
        model = keras.Model(list(inputs.values()), head.attach(ModelFeatures(inputs)))
    finally:
        keras.config.set_dtype_policy("float32")
    maps = [RNG.normal(size=(2, *tensor.shape[1:])).astype(np.float32) for tensor in inputs.values()]
    labels = np.full((2, 16, 16), VOID)
    labels[0, :8] = 1
    with tf.GradientTape() as tape:
        logits = model(maps, training=True)
        loss = head.loss()(labels, logits)
    assert logits.dtype == loss.dtype == tf.float32
    assert all(np.isfinite(g).all() for g in tape.gradient(loss, [v.value for v in model.trainable_variables]))


# --- a planted task


SIDE, NAMES = 64, ("background", "bright", "dark")


def small_backbone():
    """An untrained convolutional network with maps at the strides 4 to 32."""
    inputs = x = keras.Input((SIDE, SIDE, 3))
    for at, width in enumerate((8, 16, 16, 16, 16)):
        x = L.Conv2D(width, 3, 2, "same", activation="relu", name=f"block{at}_conv")(x)
    return Backbone("small", keras.Model(inputs, x), "test", InputSpec(SIDE, SIDE, resize="stretch"))


def write_lines(folder, count=40):
    """Pictures with bright and dark bars, 4 to 8 pixels wide, on noise; masks are void beside the bars of some."""
    random = np.random.default_rng(3)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(NAMES))
    for i in range(count):
        picture = random.normal(120, 10, (SIDE, SIDE, 3))
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for c, value in ((1, 220), (2, 30)):
            start, width = 4 * random.integers(0, 15), 4 * random.integers(1, 3)
            rows = np.s_[start : start + width] if random.random() < 0.5 else np.s_[:, start : start + width]
            picture[rows], mask[rows] = value, c
        mask[:4, :4] = VOID
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{i}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A model that learned thin bars with plain fit; all of its weights train, since the network was not trained."""
    splits = load_masks(write_lines(tmp_path_factory.mktemp("lines") / "data"))
    keras.utils.set_random_seed(0)
    head = heads.semantic_segmentation(splits.class_names, width=24).fitted_to(splits.train.labels)
    model = tfft.build(small_backbone(), head)
    tfft.unfreeze(model, "all")
    spec = model.get_layer("preprocess").spec
    held_out = to_dataset(splits.validation, spec, batch_size=8)
    images, masks = next(iter(to_dataset(splits.train, spec, batch_size=64)))
    model.compile(keras.optimizers.Adam(0.01), **heads.from_model(model).compile_args())
    history = model.fit(images, masks, batch_size=8, epochs=12, verbose=0).history
    history |= {f"val_{name}": value for name, value in model.evaluate(held_out, verbose=0, return_dict=True).items()}
    return model, splits, held_out, history


slow_fixtures = ("learned",)


@pytest.mark.slow
def test_thin_lines_are_learned_by_plain_fit(learned):
    model, splits, held_out, history = learned
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    assert history["val_mean_iou"] > 0.9
    scores = evaluate(model, splits.validation)
    assert scores.value > 0.9
    assert scores.measures["boundary_f1"] > 0.9
    assert scores.majority_baseline < 0.4
    assert scores.accuracy > 0.95
    np.testing.assert_allclose(scores.loss, history["val_loss"], rtol=0.01)
    assert evaluate(model, held_out).to_dict() == scores.to_dict()


@pytest.mark.nightly
def test_a_keras_file_keeps_model_head_loss_and_metrics(learned, tmp_path):
    model, _, held_out, _ = learned
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert heads.from_model(again) == heads.from_model(model)
    images = next(iter(held_out))[0]
    np.testing.assert_array_equal(again.predict(images, verbose=0), model.predict(images, verbose=0))
    first, second = (one.evaluate(held_out, verbose=0, return_dict=True) for one in (model, again))
    assert first == pytest.approx(second)
    assert set(first) == {"loss", "mean_iou", "accuracy"}


@pytest.mark.slow
@pytest.mark.process
def test_an_export_gives_the_same_masks_in_a_fresh_process(learned, tmp_path):
    from tfft.exporting import open_export, predict_each

    model, splits, _, _ = learned
    done = tfft.export(model, tmp_path / "served" / "1", examples=list(splits.validation.paths[:4]))
    assert done.largest_difference < 1e-5
    served = open_export(done.path)
    answer = served.predict_bytes([pathlib.Path(path).read_bytes() for path in splits.validation.paths])
    assert answer["mask"].shape == (len(splits.validation), SIDE, SIDE)
    assert answer["mask"].dtype == np.uint8
    for path, row in zip(splits.validation.paths, answer["mask"], strict=True):
        truth = np.asarray(Image.open(path.replace("images", "masks")))
        assert (row == truth)[truth != VOID].mean() > 0.9
    [found] = predict_each(served, [splits.validation.paths[0]])
    assert set(found.outputs["shares"]) == set(NAMES)
    assert TASK.format_prediction("0.png", found.answer).startswith("0.png: background ")


@pytest.mark.slow
def test_finetune_trains_on_kept_maps_and_masks_and_measures_other_data(tmp_path):
    from tfft.recipes.labelled import labelled_data

    folder = write_lines(tmp_path / "data", 24)
    keras.utils.set_random_seed(0)
    run = tfft.finetune(
        small_backbone(), folder, task="semantic_segmentation", augment="flip", views=2, head_epochs=2,
        out=tmp_path / "run", export_to=False, cache=tmp_path / "cache", verbose=False,
    )  # fmt: skip
    plan = run.plan
    assert (plan.batch_size, plan.dropout, plan.image_size) == (8, 0.1, (SIDE, SIDE))
    assert [phase.unfreeze for phase in plan.phases] == ["none"]
    assert {"mean_iou", "val_mean_iou"} <= set(run.history.rows[0])
    assert not [note for note in run.history.notes if "every epoch runs the whole model" in note]
    assert run.final_scores.metric == "mean_iou"
    again = tfft.load_run(tmp_path / "run")
    assert again.final_scores.to_dict() == run.final_scores.to_dict()
    dataset, _, words = labelled_data(again, folder)
    assert words.startswith("held-out examples")
    assert evaluate(again.model, dataset).to_dict() == run.final_scores.to_dict()
    other, _, words = labelled_data(again, write_lines(tmp_path / "other", 3))
    assert words.startswith("all examples in")
    assert evaluate(again.model, other).examples == 3
