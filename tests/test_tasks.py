"""Tasks: each is one object with one registry line, those of tfft as well as one that a test adds from outside."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import weight_models
from extension_task import GRADES, Ordinal, OrdinalHead

import tfft
from tfft import heads, registry, testing, training
from tfft.config import Phase
from tfft.data.label_parsing import parse_labels
from tfft.errors import DataError, PlanError
from tfft.evaluation import Scores, evaluate
from tfft.heads import Head, ModelFeatures
from tfft.registry import Metric, infer_task
from tfft.weight_averaging.selection import selection_of, selection_score

RNG = np.random.default_rng(7)


@pytest.fixture
def ordinal():
    task = Ordinal()
    remove = registry.register_task(task)
    yield task
    remove()


@pytest.mark.nightly
def test_a_task_from_outside_keeps_the_contract(ordinal):
    contract = testing.check_task(ordinal, GRADES)
    assert {"registered", "loss falls", "serving agrees with the metric", "config keeps the head"} <= set(
        contract.passed
    )
    assert set(contract.refused) == {"probabilities"}


@pytest.mark.nightly
def test_a_task_from_outside_trains_evaluates_saves_and_exports(ordinal, tmp_path, capsys):
    labels = RNG.integers(0, 4, 48).astype(np.int32)
    images = np.clip(RNG.normal(30, 4, (48, 32, 32, 3)) + 60 * labels[:, None, None, None], 0, 255).astype(np.uint8)
    head = heads.ordinal(GRADES, l2=1e-5, dropout=0.0)
    assert isinstance(head, OrdinalHead)
    model = weight_models.of_keras(head=head)
    tfft.unfreeze(model, "all")
    model.compile(keras.optimizers.Adam(0.01), **heads.from_model(model).compile_args())
    model.fit(images, labels, epochs=30, verbose=0)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
    scores = evaluate(model, dataset)
    assert scores.value < 0.3
    assert scores.summary.startswith("mean absolute error")
    with pytest.raises(DataError, match="grades from 0 to 3"):
        evaluate(model, dataset.map(lambda x, y: (x, y + 1)))

    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert heads.from_model(again) == head
    np.testing.assert_array_equal(again.predict(images, verbose=0), model.predict(images, verbose=0))

    exported = tfft.export(model, tmp_path / "served" / "1", examples=images[:4])
    served = tfft.exporting.open_export(exported.path)
    assert served.task == "ordinal"
    (tmp_path / "one.png").write_bytes(tf.io.encode_png(images[0]).numpy())
    from tfft.__main__ import main

    assert main(["predict", str(exported.path), str(tmp_path / "one.png")]) == 0
    assert capsys.readouterr().out.strip() == f"{tmp_path / 'one.png'} is {GRADES[labels[0]]}"


def test_without_its_task_a_head_is_named_and_not_guessed(ordinal):
    values = heads.ordinal(GRADES).to_dict()
    assert values["kind"] == "ordinal"
    assert values["scale"] == 1.0
    assert "task" not in json.loads(json.dumps(values))
    assert Head.from_dict(values) == heads.ordinal(GRADES)
    with pytest.raises(PlanError, match=r"Expected a task: classification, .*Received: 'ordinals'. Did you mean"):
        Head.from_dict({**values, "kind": "ordinals"})


def test_a_task_from_outside_reads_labels_and_changes_plans(ordinal):
    parsed = parse_labels([["fair", "good", "poor"], ["good"]], [["t:1", "t:2", "t:3"], ["v:1"]], task="ordinal")
    assert parsed.class_names == ("poor", "fair", "good")
    assert [part.tolist() for part in parsed.parts] == [[1, 2, 0], [2]]
    with pytest.raises(DataError, match="t:2 has the grade 'bad'"):
        parse_labels([["fair", "bad"]], [["t:1", "t:2"]], task="ordinal")
    plan = tfft.plans.recommend(
        tfft.plans.DatasetStats(examples=600, classes=4, blocks=5, smallest=4), tfft.config.RunConfig(task="ordinal")
    )
    assert plan.dropout == 0.0
    assert plan.reasons["dropout"] == "0: grades are learned without"
    assert plan.name == "lp_ft"  # few_shot computes a head
    assert not any(phase.solves_head for phase in plan.phases)
    with pytest.raises(PlanError, match="which the task ordinal does not have"):
        tfft.plans.recommend(
            tfft.plans.DatasetStats(examples=600, classes=4, blocks=5),
            tfft.config.RunConfig(task="ordinal"),
            plan=tfft.plans.few_shot(),
        )
    with pytest.raises(PlanError, match="class_weight does not apply to grades"):
        tfft.finetune("none", "nowhere/", task="ordinal", class_weight="balanced", verbose=False)


# --- the tasks of tfft


UNSCORED = {"speech_synthesis", "text_to_text"}  # what they serve has no metric of training


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.task_names())
def test_every_task_keeps_the_contract(name):
    names = ("O", "B-a") if name == "binary" else ("O", "B-a", "B-b")
    contract = testing.check_task(name, names)
    assert {"loss falls", "evaluation agrees with the metric"} <= set(contract.passed)
    assert ("serving agrees with the metric" in contract.passed) == (name not in UNSCORED)


@pytest.mark.nightly
def test_a_task_that_breaks_its_promises_is_named():
    class Broken(type(registry.task("classification"))):
        name = "broken"

        def format_prediction(self, name, outputs):
            return "two\nlines"

    remove = registry.register_task(Broken())
    try:
        with pytest.raises(testing.ContractError, match="(?s)registered: .*prediction in one line: "):
            testing.check_task("broken")
    finally:
        remove()


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b", "a", "b"], "classification"),
        (["1", "2", "1", "2"], "classification"),
        (["1", "2.5", "1", "2"], "regression"),
        (["1", "a", "2.5", "a"], "classification"),
        ([["a", "b"], ["a"], "c", "d"], "multilabel"),
        ([["a"], ["2.5"], ["1"]], "multilabel"),
    ],
)
def test_labels_tell_their_task(values, task):
    assert infer_task(values).name == task


def test_the_old_name_of_token_classification_still_reads():
    assert registry.task("tokens") is registry.task("token_classification")
    head = Head.from_dict({"kind": "tokens", "class_names": ["O", "X"], "units": 2, "loss_name": "focal"})
    assert head == heads.token_classification(["O", "X"], loss="focal")
    assert head.to_dict()["kind"] == "tokens"
    with pytest.raises(AttributeError, match="has no attribute 'tokens'"):
        heads.tokens  # noqa: B018
    old = {"kind": "tokens", "examples": 3, "loss": 1.0, "accuracy": 0.5, "interval": [0, 1], "per_class": [],
           "confusion": None, "metric": "accuracy", "majority": None, "measures": {}}  # fmt: skip
    scores = Scores.from_dict(old)
    assert scores.task == "token_classification"
    assert "3 sentences" in scores.summary
    assert Scores.from_dict(scores.to_dict()).summary == scores.summary


def test_binary_is_asked_for_and_never_guessed():
    columns, places = [["no", "yes", "no", "yes"]], [[f"t:{i}" for i in range(4)]]
    assert parse_labels(columns, places).task == "classification"
    parsed = parse_labels(columns, places, task="binary")
    assert (parsed.task, parsed.labels.tolist()) == ("binary", [0, 1, 0, 1])
    with pytest.raises(DataError, match="binary needs two classes, and the labels have 3"):
        parse_labels([["a", "b", "c"] * 2], [[f"t:{i}" for i in range(6)]], task="binary")


def test_features_of_several_strides_are_no_single_tensor():
    tensor = keras.Input((4,))
    assert ModelFeatures.of(tensor).tensor is tensor
    with pytest.raises(PlanError, match="one for each stride of 8, 16"):
        ModelFeatures({8: tensor, 16: tensor}).tensor  # noqa: B018


# --- the best epoch


def test_a_score_follows_the_metric_and_its_direction():
    iou, error = Metric("mean_iou"), Metric("mean_absolute_error", higher_is_better=False)
    good, bad = ({"loss": 1.0, "mean_iou": v, "accuracy": 1 - v, "mean_absolute_error": -v} for v in (0.6, 0.4))
    assert selection_score(good, iou) > selection_score(bad, iou)
    assert selection_score(good) < selection_score(bad)
    low, high = ({"val_loss": 1.0, "val_mean_absolute_error": v} for v in (0.1, 0.2))
    assert selection_score(low, error, "val_") > selection_score(high, error, "val_")
    assert selection_score({"loss": 1.0, "mean_iou": float("nan")}, iou) < selection_score(bad, iou)
    assert selection_score({"loss": 1.0, "sparse_categorical_accuracy": 0.5}) == (0.5, -1.0)


@pytest.mark.daily("lower-3")
@pytest.mark.parametrize(("better", "best"), [("higher", 2), ("lower", 3)])
def test_the_head_says_which_epoch_is_the_best(ordinal, better, best):
    """The metric is scripted: epoch 2 has the highest value, epoch 3 the lowest; loss and accuracy say otherwise."""
    values = iter([0.5, 0.9, 0.1, 0.6])

    class Scripted(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_scripted"] = next(values)
            logs["val_accuracy"] = 0.5 + epoch / 10

    ordinal.__class__.selection, kept = Metric("scripted", higher_is_better=better == "higher"), ordinal.selection
    try:
        model = weight_models.of_keras(head=heads.ordinal(GRADES))
        assert selection_of(model).name == "scripted"
        data = weight_models.dataset(16)
        history = training.train(
            model, data, data, [Phase("head", "none", 4, 1e-2)], callbacks=[Scripted()], verbose=False
        )
    finally:
        ordinal.__class__.selection = kept
    assert history.best == {"head": best}


@pytest.mark.parametrize("name", ["multilabel", "regression", "token_classification", "semantic_segmentation"])
def test_what_needs_one_class_for_each_example_is_refused_for_other_tasks(name):
    found = list(registry.task(name).unsupported(tfft.config.RunConfig(class_weight="balanced", sampling="balanced")))
    assert [sentence.split()[0] for sentence in found] == ["class_weight", "sampling"]
    assert not list(registry.task("binary").unsupported(tfft.config.RunConfig(class_weight="balanced")))


def test_a_task_that_selects_by_an_error_shows_less_as_better():
    class Grades(registry.Task):
        selection = registry.Metric("mean_absolute_error", higher_is_better=False)

    assert not Grades().score_display("mean_absolute_error").higher_is_better
    assert Grades().score_display("accuracy").higher_is_better
