"""Backbones that are compared on data with a planted signal: who is dropped, who is recommended, and what is said."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from v0_cases import FIXTURES

import tfft
from tfft.backbones.available import available_backbones
from tfft.cli import main
from tfft.errors import BackboneError, PlanError
from tfft.evaluation import paired_difference
from tfft.recommendation.sampling import nested_order

SIDE = 8


def colours(count, seed=0):
    """Images of noise whose mean red value says the class, not always rightly."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = random.normal(128, 20, (count, SIDE, SIDE, 3))
    images[..., 0] += ((2 * labels - 1) * 12 + random.normal(0, 8, count))[:, None, None]
    return images.clip(0, 255).astype(np.uint8), labels


def network(name, channels, work=0):
    """A network whose features are the means of some channels; it may do a lot of work for nothing."""
    image = keras.Input((SIDE, SIDE, 3), name="image")
    means = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 64)(image))
    kernel = np.zeros((3, 2), np.float32)
    kernel[channels, np.arange(len(channels))] = 1
    found = keras.layers.Dense(2, name="mix")
    features = found(means)
    if work:
        busy = keras.layers.Conv2D(work, 3, padding="same")(image)
        for _ in range(3):
            busy = keras.layers.Conv2D(work, 3, padding="same", activation="relu")(busy)
        busy = keras.layers.GlobalAveragePooling2D()(busy)
        features = features + 0 * keras.layers.Dense(2, kernel_initializer="zeros")(busy)
    model = keras.Model(image, features, name=name)
    found.set_weights([kernel, np.zeros(2, np.float32)])
    return model


@pytest.fixture(scope="module")
def data():
    return colours(300)


def compare(data, *models, **settings):
    return tfft.recommend(data, list(models), cache="memory", verbose=False, **settings)


@pytest.mark.slow
def test_a_backbone_without_the_signal_is_dropped_and_held_out_examples_give_the_score(data, capsys):
    found = tfft.recommend(data, [network("green", [1, 2]), network("red", [0, 1])], cache="memory")
    assert found.best == "red"
    red, green = found.candidates
    assert green.dropped
    assert green.difference.high < 0
    assert not red.dropped
    assert found.scores.examples == 60
    assert found.scores.value > 0.7
    assert 0.45 < found.guess < 0.55
    assert "200 examples: red" in capsys.readouterr().out
    assert "red is recommended." in str(found)
    assert "green (dropped)" in str(found)


@pytest.mark.nightly
def test_equal_backbones_cannot_be_distinguished_and_the_faster_is_recommended(data):
    found = compare(data, network("slow", [0, 1], work=64), network("fast", [0, 1]))
    assert found.best == "fast"
    assert "cannot be distinguished" in found.sentence
    assert not any(each.dropped for each in found.candidates)
    assert {each.score for each in found.candidates} == {found.candidates[0].score}


@pytest.mark.slow
def test_random_labels_are_noticed(data):
    labels = np.random.default_rng(1).permutation(data[1])
    found = compare((data[0], labels), network("red", [0, 1]))
    assert found.sentence.startswith("No backbone is better than guessing on 200 examples")


@pytest.mark.slow
def test_numbers_are_compared_by_their_error(data):
    images, _ = data
    targets = images[..., 0].mean(axis=(1, 2)).astype(np.float32)
    found = compare((images, targets), network("red", [0, 1]), network("green", [1, 2]), task="regression")
    assert found.best == "red"
    assert found.metric == "mean_absolute_error"
    assert found.candidates[0].score < 0.2 * found.candidates[1].score
    assert found.guess == pytest.approx(np.abs(targets - targets.mean()).mean(), rel=0.1)


@pytest.mark.slow
def test_what_cannot_be_opened_is_left_out_with_its_reason(data, tmp_path):
    found = compare(data, network("red", [0, 1]), str(tmp_path / "nothing"))
    assert list(found.left_out) == [str(tmp_path / "nothing")]
    assert "left out:" in str(found)
    with pytest.raises(BackboneError, match="No candidate can be used.*There is no file or folder"):
        compare(data, str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"candidates": "efficientnet-lite0"}, "Expected a list of backbones. Received: 'efficientnet-lite0'"),
        ({"candidates": []}, "Expected at least one backbone"),
        ({"max_examples": 3}, "max_examples: Expected an int of at least 40. Received: 3"),
        ({"candidates": [1], "sedd": 3}, "seed"),
    ],
)
def test_wrong_arguments(data, arguments, sentence):
    with pytest.raises(PlanError, match=sentence):
        tfft.recommend(data, **arguments)


def test_a_head_without_a_linear_probe_is_refused_at_once():
    with pytest.raises(PlanError, match="the head of token_classification has to be trained"):
        tfft.recommend(FIXTURES / "tagged.jsonl", ["nothing"], "token_classification", text="words", label="ner")


def test_datasets_cannot_be_sampled(data):
    parts = [tf.data.Dataset.from_tensor_slices(colours(count)).batch(8) for count in (64, 32)]
    with pytest.raises(PlanError, match="which a tf.data.Dataset cannot give"):
        compare((*parts, ["a", "b"]), network("red", [0, 1]))


def test_too_few_examples():
    with pytest.raises(PlanError, match="at least 40 training examples to compare backbones, received 16"):
        compare(colours(20), network("red", [0, 1]))


@pytest.mark.nightly
def test_the_command_prints_the_same(data, tmp_path, capsys):
    folder = tmp_path / "photos"
    for at, (image, label) in enumerate(zip(*colours(100), strict=True)):
        (folder / "ab"[label]).mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(folder / "ab"[label] / f"{at}.png", image, scale=False)
    for name, channels in (("red", [0, 1]), ("green", [1, 2])):
        network(name, channels).save(tmp_path / f"{name}.keras")
    models = [str(tmp_path / f"{name}.keras") for name in ("green", "red")]
    assert main(["recommend", str(folder), "--candidates", *models, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"] == "red.keras"
    assert [each["examples"] for each in found["candidates"]] == [80, 80]


@pytest.mark.nightly
def test_minutes_fine_tune_the_best_and_the_largest(data):
    found = compare(data, network("red", [0, 1]), network("large", [0, 2], work=16), minutes=3)
    assert {each.fine_tuned is None for each in found.candidates} == {False}
    assert "fine-tuned" in str(found)
    first = max(found.candidates, key=lambda each: each.fine_tuned.value)
    assert found.candidates[[each.name for each in found.candidates].index(found.best)].fine_tuned.value == (
        first.fine_tuned.value
    )


def test_intervals_of_differences_hold():
    """Two candidates of equal quality, right on 80 % of the examples each: 95 % of the intervals contain 0."""
    random, held = np.random.default_rng(0), 0
    for _ in range(1000):
        both = random.random((2, 200)) < 0.8
        found = paired_difference(*both.astype(float))
        held += found.low <= 0 <= found.high
    assert 935 <= held <= 985


def test_a_few_more_right_answers_are_not_certain():
    right = np.ones(200)
    other = right.copy()
    other[:3] = 0
    found = paired_difference(right, other)
    assert found.mean == pytest.approx(0.015)
    assert found.low < 0 < found.high


def test_every_beginning_of_the_order_has_the_shares_of_the_classes():
    strata = np.repeat([0, 1, 2], [60, 30, 10])
    order = nested_order(strata, 100, 0)
    assert sorted(order) == list(range(100))
    for size in (10, 20, 50):
        assert np.bincount(strata[order[:size]], minlength=3).tolist() == pytest.approx(
            [0.6 * size, 0.3 * size, 0.1 * size], abs=1
        )
    assert not np.array_equal(order, nested_order(strata, 100, 1))


def test_backbones_on_this_machine(tmp_path, monkeypatch):
    from tfft.backbones.fetch.remote import hub_cache_entry

    monkeypatch.setenv("KERAS_HOME", str(tmp_path / ".keras"))
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "hub"))
    assert available_backbones("image") == ["efficientnet-lite0"]
    [preset] = tfft.list_backbones("mobilenet-v2-035-224")
    place = hub_cache_entry(preset.handle)
    place.mkdir(parents=True)
    (place / "saved_model.pb").write_bytes(b"")
    weights = tmp_path / ".keras" / "models"
    weights.mkdir(parents=True)
    for name in ("mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", "resnet50v2_weights_notop.h5"):
        (weights / name).write_bytes(b"")
    (weights / "vgg16_weights_tf_dim_ordering_tf_kernels.h5").write_bytes(b"")  # with its classifier
    found = available_backbones("image")
    assert found == ["efficientnet-lite0", preset.name, "keras:MobileNetV2", "keras:ResNet50V2"]
    assert available_backbones("text") in ([], ["minilm"])
