"""SavedModels whose inputs have no rank, no known width, a fixed batch or no batch at all."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfft
from tfft.backbones.savedmodel import open_savedmodel
from tfft.errors import BackboneError

v1 = tf.compat.v1


def save_tf1(path, make):
    with v1.Graph().as_default(), v1.Session() as session:
        inputs, outputs = make()
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        v1.saved_model.simple_save(session, str(path), inputs, outputs)


class Network(tf.Module):
    """A function with a kernel, for an input of any shape."""

    def __init__(self, spec, run, *shape):
        super().__init__()
        values = np.random.default_rng(0).normal(size=shape) * 0.3
        self.kernel = tf.Variable(values, dtype=tf.float32, name="block0/kernel")
        self.call = tf.function(lambda x: run(x, self.kernel), input_signature=[spec])


def saved(path, spec, run, *shape):
    network = Network(spec, run, *shape)
    tf.saved_model.save(network, path, signatures=network.call)
    return network


def train(backbone, x):
    """One step of everything; returns how many of its weights moved."""
    model = tfft.build(backbone, tfft.heads.classification(["a", "b"]))
    tfft.unfreeze(model, "all")
    before = [w.numpy() for w in model.trainable_weights]
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, np.arange(len(x)) % 2, batch_size=3, verbose=0)
    return model, sum(not np.array_equal(a, b) for a, b in zip(before, model.trainable_weights, strict=True))


# --------------------------------------------------------------------------------- ranks and widths


@pytest.mark.parametrize(
    ("first", "shape"),
    [
        (lambda x: x @ v1.get_variable("w", [4, 3]), (None, 4)),
        (lambda x: ((x - 1.0) / 2.0) @ v1.get_variable("w", [4, 3]), (None, 4)),
        (lambda x: tf.nn.conv2d(x, v1.get_variable("w", [3, 3, 3, 2]), 1, "SAME"), (None, None, None, 3)),
        (lambda x: tf.reshape(x, [-1, 6]) * v1.get_variable("w", [6]), (None, 6)),
        (lambda x: x * v1.get_variable("w", []), (None, None)),
    ],
)
def test_an_input_without_a_rank_gets_what_the_graph_asks_for(first, shape, tmp_path):
    def make():
        x = v1.placeholder(tf.float32, name="x")
        return {"x": x}, {"y": first(x)}

    save_tf1(tmp_path / "m", make)
    opened = open_savedmodel(tmp_path / "m")
    assert opened.model.inputs[0].shape == shape
    assert "'x' has no rank" in opened.notes[0]


def test_strings_without_a_rank_are_a_batch(tmp_path):
    def make():
        x = v1.placeholder(tf.string, name="x")
        ids = tf.strings.to_hash_bucket_fast(x, 10)
        return {"x": x}, {"y": tf.gather(v1.get_variable("table", [10, 4]), ids)}

    save_tf1(tmp_path / "m", make)
    backbone = tfft.load_backbone(tmp_path / "m")
    assert backbone.model.inputs[0].shape == (None,)
    assert "taken as a batch of strings" in backbone.notes[0]
    assert backbone.text_spec is not None
    assert backbone.model(tf.constant(["a", "b", "c"])).shape == (3, 4)


@pytest.mark.representative(
    "spec1-<lambda>-kernel1-shape1", "spec2-<lambda>-kernel2-shape2", "spec3-<lambda>-kernel3-shape3",
    "spec4-<lambda>-kernel4-shape4",
)  # fmt: skip
@pytest.mark.parametrize(
    ("spec", "run", "kernel", "shape"),
    [
        ([None] * 4, lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"), (3, 3, 3, 8), (None, None, None, 3)),
        ([None] * 4, lambda x, k: tf.nn.conv2d(x / 255 - 0.5, k, 1, "SAME"), (3, 3, 1, 8), (None, None, None, 1)),
        (
            [None, 32, 32, None],
            lambda x, k: tf.nn.depthwise_conv2d(tf.image.resize(x, (8, 8)), k, [1, 1, 1, 1], "SAME"),
            (3, 3, 4, 1),
            (None, 32, 32, 4),
        ),
        ([None, None, None], lambda x, k: tf.nn.conv1d(x, k, 1, "SAME"), (3, 5, 2), (None, None, 5)),
        ([None, None], lambda x, k: x @ k, (7, 2), (None, 7)),
    ],
)
def test_a_width_that_is_open_comes_from_the_first_kernel(spec, run, kernel, shape, tmp_path):
    network = saved(tmp_path / "m", tf.TensorSpec(spec), run, *kernel)
    opened = open_savedmodel(tmp_path / "m")
    assert opened.model.inputs[0].shape == shape
    x = np.random.default_rng(0).random([n or 9 for n in shape], np.float32)
    np.testing.assert_allclose(opened.model(x), network.call(x), atol=1e-6)


def test_a_reshape_says_nothing_of_the_width_of_rows(tmp_path):
    saved(tmp_path / "m", tf.TensorSpec([None, None]), lambda x, k: tf.reshape(x, [-1, 4]) @ k, 4, 2)
    assert open_savedmodel(tmp_path / "m").model.input_shape == (None, None)


@pytest.mark.slow
def test_pictures_with_open_channels_train(tmp_path):
    saved(tmp_path / "m", tf.TensorSpec([None] * 4), lambda x, k: tf.nn.conv2d(x, k, 2, "SAME"), 3, 3, 3, 8)
    backbone = tfft.load_backbone(tmp_path / "m", input_range=(0, 1), image_size=16)
    assert backbone.input_spec.channels == 3
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    assert train(backbone, pixels)[1] == 3


# ------------------------------------------------------------------------------------ fixed batches


def with_reshape(x, k):
    return tf.reshape(tf.nn.conv2d(x, k, 1, "SAME"), [1, 512])


def with_statistics(x, k):
    """The mean over the batch too: rows of a larger batch would depend on each other."""
    y = tf.nn.relu(tf.nn.conv2d(x, k, 1, "SAME"))
    return tf.reshape(y - tf.reduce_mean(y), [1, 512])


def without_batch(x, k):
    return tf.reduce_mean(tf.nn.conv2d(x[tf.newaxis], k, 1, "SAME"), (0, 1, 2))


IMAGES = np.random.default_rng(0).random((6, 8, 8, 3), np.float32)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)


@pytest.mark.daily(
    "shape0-with_reshape-options0-its graph takes a batch of any size",
    "shape2-without_batch-options2-called once for each example of a batch",
)  # fmt: skip
@pytest.mark.parametrize(
    ("shape", "run", "options", "note"),
    [
        ([1, 8, 8, 3], with_reshape, {}, "its graph takes a batch of any size"),
        ([1, 8, 8, 3], with_statistics, {}, "called once for each example of a batch"),
        ([8, 8, 3], without_batch, {"per_example": True}, "called once for each example of a batch"),
    ],
)
def test_one_example_at_a_time_becomes_a_batch(shape, run, options, note, tmp_path):
    network = saved(tmp_path / "m", tf.TensorSpec(shape), run, 3, 3, 3, 8)
    backbone = tfft.load_backbone(tmp_path / "m", input_range=(0, 1), **options)
    assert backbone.model.input_shape == (None, 8, 8, 3)
    assert any(note in said for said in backbone.notes)
    rows = IMAGES[:, None] if len(shape) == 4 else IMAGES
    wanted = np.stack([np.ravel(network.call(row)) for row in rows])
    np.testing.assert_allclose(backbone.model(IMAGES), wanted, atol=1e-6)
    assert [block.name for block in backbone.blocks] == ["block0"]
    model, moved = train(backbone, PIXELS)
    assert moved == 3
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again.predict(PIXELS, verbose=0), model.predict(PIXELS, verbose=0), atol=1e-6)


def test_a_fixed_number_of_rows_is_freed_or_told(tmp_path):
    saved(tmp_path / "a", tf.TensorSpec([4, 8]), lambda x, k: tf.reshape(x @ k, [4, 3, 1]), 8, 3)
    assert open_savedmodel(tmp_path / "a").model.output.shape == (None, 3, 1)
    saved(tmp_path / "b", tf.TensorSpec([8, 8, 3]), without_batch, 3, 3, 3, 8)
    opened = open_savedmodel(tmp_path / "b")
    assert "takes exactly 8 rows. If they are one example, pass per_example=True" in opened.notes[0]


def recurrent(x, k):
    """Steps over time with a state of eight rows, as Keras 2 saves LSTM layers with a fixed batch_size."""
    state = tf.zeros([8, 4])
    _, state = tf.while_loop(
        lambda i, s: i < 5, lambda i, s: (i + 1, tf.tanh(tf.reshape(x, [8, 5, 4])[:, i] @ k + s)), [0, state]
    )
    return state


def with_places(x, k):
    return tf.reshape(x, [8, 20]) @ tf.tile(k, [5, 1]) + tf.range(8.0)[:, tf.newaxis]


@pytest.mark.daily("1")
@pytest.mark.parametrize("count", [1, 11])
def test_a_fixed_number_of_examples_takes_batches_in_groups(count, tmp_path):
    network = saved(tmp_path / "m", tf.TensorSpec([8, 5, 4]), recurrent, 4, 4)
    backbone = tfft.load_backbone(tmp_path / "m")
    assert backbone.model.input_shape == (None, 5, 4)
    assert "in groups of 8" in backbone.notes[0]
    series = np.random.default_rng(0).normal(size=(count, 5, 4)).astype("float32")
    wanted = network.call(np.resize(series, (16, 5, 4))[:8]).numpy()[:count]
    np.testing.assert_allclose(backbone.model(series)[:8], wanted, atol=1e-6)
    assert backbone.model(series).shape == (count, 4)
    model, moved = train(backbone, series)
    assert moved == 3
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again.predict(series, verbose=0), model.predict(series, verbose=0), atol=1e-6)


def test_rows_that_depend_on_their_place_are_no_examples(tmp_path):
    saved(tmp_path / "m", tf.TensorSpec([8, 5, 4]), with_places, 4, 4)
    assert "takes exactly 8 rows" in open_savedmodel(tmp_path / "m").notes[0]


def test_a_single_number_for_each_example(tmp_path):
    saved(tmp_path / "m", tf.TensorSpec([]), lambda x, k: x * k, 5)
    opened = open_savedmodel(tmp_path / "m", per_example=True)
    assert opened.model.input_shape == (None,)
    assert opened.model(np.array([1.0, 2.0], np.float32)).shape == (2, 5)


def test_waveforms_of_a_fixed_length_stay_as_they_are(tmp_path):
    saved(tmp_path / "m", tf.TensorSpec([160]), lambda x, k: tf.reshape(x, [10, 16]) @ k, 16, 3)
    opened = open_savedmodel(tmp_path / "m")
    assert opened.model.input_shape == (160,)
    assert opened.notes == ()


def test_per_example_is_for_savedmodels():
    with pytest.raises(BackboneError, match="per_example= is for SavedModels"):
        tfft.load_backbone("keras:MobileNetV2:random", per_example=True)
