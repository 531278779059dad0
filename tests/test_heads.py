"""Heads: layers, loss, metrics and served outputs that cannot disagree."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfft import heads
from tfft.errors import PlanError
from tfft.heads import Head, Logits, SparseCrossentropy

RNG = np.random.default_rng(1)
NAMES = ("ant", "bee", "Käfer")
HEADS = {
    "classification": heads.classification(NAMES, l2=1e-3, label_smoothing=0.1),
    "binary": heads.binary(["ant", "bee"]),
    "multilabel": heads.multilabel(NAMES, label_smoothing=0.1),
    "regression": heads.regression(["x", "y"], dropout=0.0),
}


def labels_for(head, count):
    if head.kind == "classification":
        return RNG.integers(0, head.units, count)
    if head.kind == "binary":
        return RNG.integers(0, 2, count)
    if head.kind == "multilabel":
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
    assert answer["labels_above_half"].numpy().tolist() == [[False, False, True]]
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


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_trains_on_a_planted_signal_and_survives_saving(kind, tmp_path):
    head = HEADS[kind]
    keras.utils.set_random_seed(0)
    labels = labels_for(head, 64)
    if head.kind in ("classification", "binary"):
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
    assert heads.of(reloaded) == head
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
    assert heads.of(outer) == HEADS["binary"]
    with pytest.raises(PlanError, match="no tfft head"):
        heads.of(keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)]))


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
        (lambda: Head("classifier", ("a", "b"), 2), "kind must be one of"),
        (lambda: Head("classification", None, 2), "class_names is missing"),
        (lambda: heads.classification(NAMES, dropout=float("nan")), "dropout"),
    ],
)
def test_wrong_arguments_are_refused(make, match):
    with pytest.raises(PlanError, match=match):
        make()
