"""Phases on features computed once: the same numbers as without, who sees which model, and a head that is solved."""

import keras
import numpy as np
import pytest
import savedmodels
import tensorflow as tf

from tfft import data, heads, models
from tfft.backbones import load_backbone
from tfft.config import Phase
from tfft.errors import PlanError
from tfft.evaluation import evaluate
from tfft.freezing import unfreeze
from tfft.specs import Augmentation, InputSpec
from tfft.training import FeatureSource, train

SPEC = InputSpec(32, 32, value_range=(-1.0, 1.0), source="the test")
PHASES = (Phase("frozen", "none", 2, 1e-2), Phase("fine-tune", 1, 3, 1e-2))
LP_FT = (Phase("frozen", "none", 0, 0.0, head="linear_probe"), PHASES[1])


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    random, root = np.random.default_rng(0), tmp_path_factory.mktemp("photos")
    for name, colour in {"blue": (60, 80, 150), "green": (70, 140, 80), "red": (160, 70, 70)}.items():
        (root / name).mkdir()
        for i in range(12):
            pixels = np.clip(random.normal(0, 60, (30, 40, 3)) + colour, 0, 255).astype(np.uint8)
            (root / name / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return data.load(root, validation=0.25)


def opened(name, folder):
    if not (folder / name).exists():
        savedmodels.MAKERS[name](folder / name)
    keras.utils.set_random_seed(5)
    return models.build(load_backbone(folder / name), heads.classification(["a", "b", "c"], dropout=0.0))


def run(
    model,
    splits,
    phases,
    *,
    cached,
    augment=None,
    views=1,
    batch_norm=None,
    callbacks=(),
    cache="memory",
    l2="auto",
    after_phase=None,
):
    spec = next(layer.spec for layer in model.layers if layer.name == "preprocess")
    with tf.device("CPU:0"):
        epoch = tf.Variable(0, dtype=tf.int64)
    varied = {"augment": augment, "views": views}
    training = data.to_dataset(splits.train, spec, batch_size=8, shuffle=True, seed=3, epoch=epoch, **varied)
    held_out = data.to_dataset(splits.validation, spec, batch_size=8)
    source = FeatureSource(splits.train, splits.validation, 8, seed=3, cache=cache, **varied) if cached else None
    return train(
        model, training, held_out, phases, source=source, epoch=epoch, verbose=False, batch_norm=batch_norm,
        callbacks=callbacks, l2=l2, after_phase=after_phase,
    )  # fmt: skip


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "augment"), [("plain_convnet", None), ("residual", Augmentation(flip=True, crop=0.4))]
)
def test_cached_and_uncached_phases_give_the_same_weights(name, augment, splits, tmp_path):
    weights, histories = [], []
    for cached in (True, False):
        model = opened(name, tmp_path)
        before = model.get_weights()
        histories.append(run(model, splits, PHASES, cached=cached, augment=augment, views=2 if augment else 1))
        weights.append(model.get_weights())
    moved = [i for i, (a, b) in enumerate(zip(before, weights[0], strict=True)) if not np.array_equal(a, b)]
    assert len(moved) > 2
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for one, other in zip(*(h.rows for h in histories), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert one["val_loss"] == pytest.approx(other["val_loss"], abs=1e-4)
    assert not histories[0].notes


@pytest.mark.nightly
def test_the_comparison_can_fail(splits, tmp_path):
    """Other views, all else equal: the weights differ, so the test above would notice."""
    weights = []
    for views in (2, 3):
        model = opened("plain_convnet", tmp_path)
        run(model, splits, PHASES, cached=True, augment="crop", views=views)
        weights.append(model.get_weights())
    assert max(np.abs(a - b).max() for a, b in zip(*weights, strict=True)) > 1e-3


@pytest.mark.nightly
def test_statistics_that_move_are_not_cached_and_it_is_said(splits, tiny_model):
    moving = next(layer for layer in tiny_model._flatten_layers() if layer.name == "block0_bn")
    before = [np.array(v) for v in moving.weights]
    history = run(tiny_model, splits, [Phase("all", "all", 1, 1e-3)], cached=True, batch_norm="train")
    assert "every epoch runs the whole model" in history.notes[0]
    assert any(not np.array_equal(a, v) for a, v in zip(before, moving.weights, strict=True))


@pytest.mark.nightly
def test_callbacks_see_the_whole_model(splits, tiny_model, tmp_path):
    class Watch(keras.callbacks.Callback):
        epochs, batches = 0, 0

        def on_train_batch_end(self, batch, logs=None):
            Watch.batches += 1

        def on_epoch_end(self, epoch, logs=None):
            assert self.model is tiny_model
            images = np.zeros((1, 32, 32, 3), np.uint8)
            assert self.model(images).shape == (1, 3)
            assert self.model.optimizer.iterations > 0
            Watch.epochs += 1
            if self.epochs == 3:
                self.model.stop_training = True

    saved = keras.callbacks.ModelCheckpoint(tmp_path / "whole.keras")
    phases = [Phase("frozen", "none", 2, 1e-2), Phase("fine-tune", 1, 5, 1e-2)]
    history = run(tiny_model, splits, phases, cached=True, callbacks=[Watch(), saved])
    assert [row["phase"] for row in history.rows] == ["frozen", "frozen", "fine-tune"]  # stopped from outside
    assert Watch.batches == 3 * 4
    loaded = keras.saving.load_model(tmp_path / "whole.keras")
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3)).astype(np.uint8)
    assert loaded.predict(images, verbose=0).shape == (3, 3)


@pytest.mark.nightly
def test_a_solved_head_is_the_best_one(splits, tiny_model):
    before = {v.path: v.numpy() for v in tiny_model.weights}
    history = run(tiny_model, splits, LP_FT[:1], cached=True)
    head = heads.from_model(tiny_model)
    assert head.l2 > 0
    assert f"l2={head.l2:.3g}" in history.notes[0]
    logits = tiny_model.get_layer("logits")
    assert logits.kernel.regularizer.l2 == pytest.approx(head.l2)
    moved = {v.path for v in tiny_model.weights if not np.array_equal(v.numpy(), before[v.path])}
    assert moved == {"logits/kernel", "logits/bias"}
    [row] = history.rows
    dataset = data.to_dataset(splits.train, SPEC, batch_size=8)
    loss = tiny_model.evaluate(dataset, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(row["loss"], abs=1e-5)  # the whole model has the loss of the probe, with its penalty
    best = [v.numpy() for v in tiny_model.trainable_variables]
    for step in (0.3, -0.3):  # it is a minimum
        for variable, value in zip(tiny_model.trainable_variables, best, strict=True):
            variable.assign(value * (1 + step))
            assert tiny_model.evaluate(dataset, verbose=0, return_dict=True)["loss"] > loss
            variable.assign(value)


@pytest.mark.nightly
def test_fine_tuning_goes_on_from_the_solved_head(splits, tiny_model):
    history = run(tiny_model, splits, LP_FT, cached=True)
    assert [row["phase"] for row in history.rows] == ["frozen"] + ["fine-tune"] * 3
    random = heads.classification(["a", "b", "c"]).loss()(np.zeros(1), np.zeros((1, 3)))
    assert history.rows[1]["loss"] < float(random)  # a new head would begin at log 3
    assert history.audits["fine-tune"].trainable == 3


@pytest.mark.slow
def test_a_phase_hands_on_its_part_whose_scores_are_those_of_the_whole_model(splits, tiny_model):
    scores = []

    def compare(phase, history, part):
        if part is not None:
            assert part.model is not tiny_model
            of_part = evaluate(part.model, part.validation, head=heads.from_model(tiny_model)).to_dict()
            scores.append([of_part, evaluate(tiny_model, splits.validation).to_dict()])

    low_rank = Phase("updates", 1, 1, 1e-2, lora_rank=2)
    run(tiny_model, splits, [*LP_FT, low_rank], cached=True, after_phase=compare)
    assert len(scores) == 2  # low-rank updates are merged, so the part that had them is gone
    assert scores[0][1] != scores[1][1]
    for of_part, whole in scores:
        assert of_part.pop("loss") == pytest.approx(whole.pop("loss"), abs=1e-5)
        assert of_part == whole


@pytest.mark.nightly
def test_a_head_is_solved_on_a_plain_dataset_too(splits, tiny_model):
    history = run(tiny_model, splits, LP_FT[:1], cached=False, l2=0.01)  # in whatever order it comes
    weights = tiny_model.get_layer("logits").get_weights()
    other = models_like(tiny_model)
    run(other, splits, LP_FT[:1], cached=True, l2=0.01)
    for one, two in zip(weights, other.get_layer("logits").get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-3)
    assert history.rows[0]["val_accuracy"] > 0.5


def models_like(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    unfreeze(copy, "none")
    return copy


@pytest.mark.slow
def test_a_solved_phase_has_a_frozen_backbone(splits, tiny_model):
    with pytest.raises(PlanError, match="head='linear_probe' needs unfreeze='none'. Received: unfreeze=2"):
        run(tiny_model, splits, [Phase("frozen", 2, 0, 0.0, head="linear_probe")], cached=True)


@pytest.mark.nightly
def test_features_that_would_fill_the_disk_are_not_kept(splits, tiny_model, monkeypatch, tmp_path):
    monkeypatch.setattr("tfft.training.suffix._SHARE_OF_DISK", 1e-12)
    history = run(tiny_model, splits, PHASES[:1], cached=True, cache=tmp_path)
    assert "The features in front of the first layer that trains take" in history.notes[0]
    assert list(tmp_path.iterdir()) == []
