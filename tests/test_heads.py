"""Heads: layers, loss, metrics and served outputs that cannot disagree."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfft import heads
from tfft.errors import PlanError
from tfft.heads import Head, Logits
from tfft.losses import FocalCrossentropy, SparseCrossentropy

RNG = np.random.default_rng(1)
NAMES = ("ant", "bee", "Käfer")
HEADS = {
    "classification": heads.classification(NAMES, l2=1e-3, label_smoothing=0.1),
    "binary": heads.binary(["ant", "bee"]),
    "multilabel": heads.multilabel(NAMES, label_smoothing=0.1),
    "regression": heads.regression(["x", "y"], dropout=0.0),
}


def labels_for(head, count):
    if head.task == "classification":
        return RNG.integers(0, head.units, count)
    if head.task == "binary":
        return RNG.integers(0, 2, count)
    if head.task == "multilabel":
        return RNG.integers(0, 2, (count, head.units)).astype(np.float32)
    return RNG.normal(size=(count, head.units)).astype(np.float32)


def model_of(head):
    features = keras.Input((5,))
    return keras.Model(features, head.attach(features))


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_classification_loss_is_the_closed_form(smoothing):
    head = heads.classification(NAMES, label_smoothing=smoothing)
    logits, labels = RNG.normal(size=(7, 3)).astype(np.float32), labels_for(head, 7)
    target = np.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    expected = -(target * np.log(softmax(logits))).sum(-1).mean()
    assert float(head.loss()(labels, logits)) == pytest.approx(expected, abs=1e-6)
    assert float(head.loss()(labels[:, None], logits)) == pytest.approx(expected, abs=1e-6)
    weights = np.arange(7.0)
    each = -(target * np.log(softmax(logits))).sum(-1)
    assert float(head.loss()(labels, logits, weights)) == pytest.approx((each * weights).sum() / 7, abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_binary_losses_are_the_closed_form(kind, smoothing):
    head = getattr(heads, kind)(["ant", "bee"], label_smoothing=smoothing)
    logits, labels = RNG.normal(size=(7, head.units)).astype(np.float32), labels_for(head, 7)
    target = labels.reshape(7, -1) * (1 - smoothing) + smoothing / 2
    p = 1 / (1 + np.exp(-logits))
    expected = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
    assert float(head.loss()(labels, logits)) == pytest.approx(expected, abs=1e-6)


def test_a_label_outside_of_the_classes_is_no_silent_zero():
    with pytest.raises(tf.errors.InvalidArgumentError, match="label"):
        heads.classification(NAMES).loss()(np.array([3]), np.zeros((1, 3), np.float32))


@pytest.mark.parametrize("kind", ["classification", "binary"])
def test_metric_and_served_label_agree(kind):
    head = HEADS[kind]
    logits, labels = RNG.normal(size=(50, head.units)).astype(np.float32), labels_for(head, 50)
    [metric] = head.metrics()
    metric.update_state(labels, logits)
    answer = head.postprocess(logits)
    served = np.array([name.decode() for name in answer["label"].numpy()])
    assert float(metric.result()) == pytest.approx(np.mean(served == np.array(head.class_names)[labels]))
    best = answer["probabilities"].numpy().argmax(-1)
    np.testing.assert_array_equal(served, np.array(head.class_names)[best])
    np.testing.assert_allclose(answer["probabilities"].numpy().sum(-1), 1, atol=1e-6)
    assert answer["probabilities"].shape == (50, len(head.class_names))
    np.testing.assert_array_equal(answer["logits"], logits)
    assert metric.name == "accuracy"


def test_binary_tie_is_the_same_in_metric_and_answer():
    head = heads.binary("bee")
    assert head.class_names == ("not bee", "bee")
    answer = head.postprocess(np.zeros((1, 1), np.float32))
    [metric] = head.metrics()
    metric.update_state(np.array([0]), np.zeros((1, 1), np.float32))
    assert answer["label"].numpy()[0] == b"not bee"
    assert float(metric.result()) == 1.0


def test_multilabel_and_regression_answers():
    logits = np.array([[-1.0, 0.0, 2.0]], np.float32)
    answer = HEADS["multilabel"].postprocess(logits)
    assert answer["labels_above_threshold"].numpy().tolist() == [[False, False, True]]
    np.testing.assert_allclose(answer["probabilities"], 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert set(HEADS["regression"].postprocess(logits[:, :2])) == {"value"}
    [metric] = HEADS["multilabel"].metrics()
    metric.update_state(np.array([[0, 0, 0]]), logits)
    assert float(metric.result()) == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", HEADS)
def test_answers_are_the_same_in_a_graph_and_row_by_row(kind):
    head = HEADS[kind]
    logits = RNG.normal(size=(4, head.units)).astype(np.float32)
    signature = [tf.TensorSpec([None, head.units], tf.float32)]
    answer = tf.function(head.postprocess, input_signature=signature)(logits)
    for name, values in head.postprocess(logits).items():
        rows = np.stack([head.postprocess(logits[i : i + 1])[name].numpy()[0] for i in range(4)])
        if values.dtype.is_floating:  # the sigmoid kernel rounds by position in the batch
            np.testing.assert_allclose(answer[name], values, rtol=1e-6)
            np.testing.assert_allclose(rows, values, rtol=1e-6)
        else:
            np.testing.assert_array_equal(answer[name], values)
            np.testing.assert_array_equal(rows, values)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", HEADS)
def test_every_head_trains_on_a_planted_signal_and_survives_saving(kind, tmp_path):
    head = HEADS[kind]
    keras.utils.set_random_seed(0)
    labels = labels_for(head, 64)
    if head.task in ("classification", "binary"):
        features = np.eye(5, dtype=np.float32)[labels]
    else:
        features = np.pad(labels, ((0, 0), (0, 5 - head.units)))
    model = model_of(head)
    model.compile(keras.optimizers.Adam(0.1), **head.compile_args())
    before = model.evaluate(features, labels, verbose=0)
    model.fit(features, labels, epochs=25, verbose=0)
    after = model.evaluate(features, labels, verbose=0, return_dict=True)
    assert after["loss"] < before[0] / 2
    assert after.get("accuracy", 1.0) == 1.0
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    assert heads.from_model(reloaded) == head
    np.testing.assert_array_equal(reloaded.predict(features, verbose=0), model.predict(features, verbose=0))
    assert reloaded.evaluate(features, labels, verbose=0, return_dict=True)["loss"] == pytest.approx(after["loss"])
    assert [layer.name for layer in reloaded.layers[1:]] == ["dropout", "logits"]


def test_l2_is_added_to_the_loss_once_also_after_a_round_trip():
    head = heads.classification(NAMES, l2=0.5)
    model = model_of(head)
    kernel = model.get_layer("logits").kernel.numpy()
    assert float(sum(model.losses)) == pytest.approx(0.5 * (kernel**2).sum(), rel=1e-5)
    copy = Logits.from_config(model.get_layer("logits").get_config())
    assert copy.kernel_regularizer.l2 == pytest.approx(0.5)
    assert copy.head == head
    assert not model_of(heads.classification(NAMES)).losses


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_head_round_trips_through_plain_values(head):
    assert Head.from_dict(head.to_dict()) == head


def test_logits_stay_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        logits = model_of(HEADS["classification"])(np.ones((2, 5), np.float32))
    finally:
        keras.config.set_dtype_policy("float32")
    assert logits.dtype == tf.float32


def test_loss_round_trips():
    loss = SparseCrossentropy.from_config(SparseCrossentropy(0.3, name="x").get_config())
    assert loss.label_smoothing == 0.3
    assert loss.name == "x"


def test_the_head_is_found_inside_of_another_model_and_missed_with_advice():
    inner = model_of(HEADS["binary"])
    outer = keras.Sequential([keras.Input((5,)), inner])
    assert heads.from_model(outer) == HEADS["binary"]
    with pytest.raises(PlanError, match="no tfft head"):
        heads.from_model(keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)]))


def test_everything_wrong_is_reported_together():
    with pytest.raises(PlanError, match="5 problems") as caught:
        heads.classification(["a", "a", ""], dropout=1.0, l2=-1, label_smoothing=1.5)
    for word in ("more than once: a", "empty", "dropout", "l2", "label_smoothing"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: heads.classification(["one"]), "at least 2 names, received 1"),
        (lambda: heads.classification("ab"), "Expected a list of names"),
        (lambda: heads.binary(["a", "b", "c"]), "two class names"),
        (lambda: heads.multilabel([]), "at least 1"),
        (lambda: heads.regression(0), "units must be at least 1"),
        (
            lambda: Head.from_dict({"kind": "classifier", "class_names": ("a", "b"), "units": 2}),
            "Expected a task: classif",
        ),
        (lambda: Head.from_dict({"kind": "multilabel", "class_names": None, "units": 2}), "class_names is missing"),
        (lambda: heads.classification(NAMES, dropout=float("nan")), "dropout"),
    ],
)
def test_wrong_arguments_are_refused(make, match):
    with pytest.raises(PlanError, match=match):
        make()


def soft_of(head, labels):
    if head.task == "classification":
        return np.eye(head.units, dtype=np.float32)[labels]
    return labels.reshape(len(labels), head.units).astype(np.float32)


@pytest.mark.parametrize("loss", heads.LOSSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.15])
@pytest.mark.parametrize("kind", ["classification", "binary", "multilabel"])
def test_soft_labels_of_one_class_have_the_loss_and_accuracy_of_whole_ones(kind, smoothing, loss):
    head = getattr(heads, kind)(NAMES[:2] if kind == "binary" else NAMES, label_smoothing=smoothing, loss=loss)
    logits, labels = 3 * RNG.normal(size=(9, head.units)).astype(np.float32), labels_for(head, 9)
    soft = soft_of(head, labels)
    assert float(head.loss(soft=True)(soft, logits)) == pytest.approx(float(head.loss()(labels, logits)), abs=1e-6)
    [plain], [shared] = head.metrics(), head.metrics(soft=True)
    plain.update_state(labels, logits)
    shared.update_state(soft, logits)
    assert float(plain.result()) == pytest.approx(float(shared.result()))
    assert shared.name == "accuracy"
    between = 0.3 * soft + 0.7 * np.roll(soft, 1, axis=0)
    expected = 0.3 * head.loss(soft=True)(soft, logits) + 0.7 * head.loss(soft=True)(np.roll(soft, 1, axis=0), logits)
    assert float(head.loss(soft=True)(between, logits)) == pytest.approx(float(expected), abs=1e-5)


def test_the_larger_share_is_the_label_that_accuracy_asks_for():
    [metric] = heads.binary("bee").metrics(soft=True)
    metric.update_state(np.array([[0.3], [0.8], [0.6]], np.float32), np.array([[-1.0], [1.0], [-1.0]], np.float32))
    assert float(metric.result()) == pytest.approx(2 / 3)
    [metric] = heads.classification(NAMES).metrics(soft=True)
    metric.update_state(np.array([[0.3, 0.7, 0.0], [0.6, 0.0, 0.4]], np.float32), np.eye(3, dtype=np.float32)[[1, 1]])
    assert float(metric.result()) == pytest.approx(1 / 2)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["classification", "binary", "multilabel"])
def test_a_model_compiled_for_soft_labels_trains_and_survives_saving(kind, tmp_path):
    head = HEADS[kind]
    keras.utils.set_random_seed(0)
    labels = labels_for(head, 64)
    soft = soft_of(head, labels)
    features = np.pad(soft, ((0, 0), (0, 5 - head.units)))
    model = model_of(head)
    model.compile(keras.optimizers.Adam(0.1), **head.compile_args(soft=True))
    model.fit(features, soft, epochs=25, verbose=0)
    after = model.evaluate(features, soft, verbose=0, return_dict=True)
    assert after["accuracy"] == 1.0
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").evaluate(features, soft, verbose=0, return_dict=True)
    assert again == pytest.approx(after)


@pytest.mark.parametrize("kind", ["classification", "binary", "multilabel"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_focal_loss_without_gamma_is_cross_entropy_and_with_it_the_closed_form(kind, smoothing):
    head = getattr(heads, kind)(NAMES[:2] if kind == "binary" else NAMES, label_smoothing=smoothing, loss="focal")
    plain = Head.from_dict({**head.to_dict(), "loss_name": "cross_entropy"})
    independent = kind != "classification"
    logits, labels = 2 * RNG.normal(size=(11, head.units)).astype(np.float32), labels_for(head, 11)
    none = FocalCrossentropy(0.0, smoothing, independent)
    assert float(none(labels, logits)) == pytest.approx(float(plain.loss()(labels, logits)), abs=1e-6)
    target = soft_of(head, labels)
    if independent:
        p, target = 1 / (1 + np.exp(-logits)), target * (1 - smoothing) + smoothing / 2
        each = (target * (1 - p) ** 2 * np.log(p) + (1 - target) * p**2 * np.log(1 - p)).mean(-1)
    else:
        p, target = softmax(logits), target * (1 - smoothing) + smoothing / head.units
        each = (target * (1 - p) ** 2 * np.log(p)).sum(-1)
    assert float(head.loss()(labels, logits)) == pytest.approx(-each.mean(), abs=1e-6)
    assert float(head.loss()(labels, logits)) < 0.9 * float(plain.loss()(labels, logits))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("independent", [False, True])
def test_focal_loss_keeps_a_finite_gradient_at_any_logit(gamma, independent):
    logits = tf.constant([[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0], [80.0, -80.0], [-80.0, 80.0]])
    labels = tf.constant([[1.0, 0.0]] * 5)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = FocalCrossentropy(gamma, independent=independent)(labels, logits)
    gradient = tape.gradient(loss, logits).numpy()
    assert np.isfinite(float(loss))
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(np.sign(gradient[[1, 4]]), [[-1, 1], [-1, 1]])  # what is very wrong still learns
    assert np.abs(gradient[[0, 3]]).max() < 1e-6


def test_focal_loss_refuses_labels_outside_and_round_trips():
    with pytest.raises(tf.errors.InvalidArgumentError, match="label"):
        heads.classification(NAMES, loss="focal").loss()(np.array([3]), np.zeros((1, 3), np.float32))
    loss = FocalCrossentropy.from_config(FocalCrossentropy(1.5, 0.1, True, name="x").get_config())
    assert (loss.gamma, loss.label_smoothing, loss.independent, loss.name) == (1.5, 0.1, True, "x")
    with pytest.raises(PlanError, match="gamma.*received -1"):
        FocalCrossentropy(-1)


def test_the_loss_is_part_of_the_head_and_old_heads_have_none():
    head = heads.classification(NAMES, loss="focal")
    assert Head.from_dict(head.to_dict()) == head
    assert isinstance(heads.from_model(model_of(head)).loss(), FocalCrossentropy)
    old = {name: value for name, value in head.to_dict().items() if name != "loss_name"}
    assert Head.from_dict(old) == heads.classification(NAMES)
    with pytest.raises(PlanError, match="loss must be one of cross_entropy, focal, received 'fokal'. Did you mean"):
        heads.binary("bee", loss="fokal")
