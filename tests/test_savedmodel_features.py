"""Which tensor of a SavedModel becomes the features, and which endpoint is called for it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfft
from tfft.backbones.savedmodel import open_savedmodel
from tfft.errors import BackboneError, SavedModelError

v1 = tf.compat.v1
K2, L = tf_keras.layers, keras.layers


def block_names(model):
    return [layer.name for layer in model.layers if getattr(layer, "is_tfft_block", False)]


# ------------------------------------------------------------------------------------- classifiers


def classifier(activation: str):
    tf_keras.utils.set_random_seed(3)
    return tf_keras.Sequential(
        [
            K2.Conv2D(4, 3, activation="relu", input_shape=(16, 16, 3)),
            K2.GlobalAveragePooling2D(),
            K2.Dense(6, activation="relu", name="hidden"),
            K2.Dropout(0.5),
            K2.Dense(3, activation=activation, name="predictions"),
        ]
    )


@pytest.fixture(scope="module")
def softmax(tmp_path_factory):
    model = classifier("softmax")
    path = tmp_path_factory.mktemp("made") / "softmax"
    model.save(path, save_format="tf")
    return path, model


IMAGES = np.random.default_rng(0).random((3, 16, 16, 3), np.float32)


def test_features_of_a_classifier_are_what_goes_into_its_last_layer(softmax):
    path, theirs = softmax
    opened = open_savedmodel(path)
    hidden = tf_keras.Model(theirs.input, theirs.get_layer("hidden").output)
    np.testing.assert_allclose(opened.model(IMAGES), hidden(IMAGES), atol=1e-6)
    assert block_names(opened.model) == ["conv", "hidden"]
    [note] = [note for note in opened.notes if "classifier" in note]
    assert "'predictions' (Softmax)" in note
    assert "(None, 6)" in note
    assert "output='probabilities'" in note


def test_probabilities_can_be_asked_for(softmax):
    path, theirs = softmax
    opened = open_savedmodel(path, output="probabilities")
    np.testing.assert_allclose(opened.model(IMAGES), theirs(IMAGES), atol=1e-6)
    assert block_names(opened.model) == ["conv", "hidden", "predictions"]


@pytest.mark.representative("hidden-6", "predictions-3")
@pytest.mark.parametrize(("block", "width"), [("conv", 4), ("hidden", 6), ("predictions", 3)])
def test_the_end_of_any_block_can_be_the_output(softmax, block, width):
    path, theirs = softmax
    opened = open_savedmodel(path, output=block)
    assert opened.output == block
    assert opened.model.output.shape == (None, width)
    if block == "conv":
        wanted = tf_keras.Model(theirs.input, theirs.layers[1].output)(IMAGES)
        np.testing.assert_allclose(opened.model(IMAGES), wanted, atol=1e-6)


def test_an_unknown_output_names_outputs_and_blocks(softmax):
    with pytest.raises(BackboneError, match=r"no output 'hiden'\. Did you mean 'hidden'\? .*: conv, hidden, predict"):
        open_savedmodel(softmax[0], output="hiden")


def test_the_training_graph_ends_at_the_same_tensor(softmax):
    path, theirs = softmax
    opened = open_savedmodel(path, batch_norm="train", backbone_dropout=True)
    weights = [block.trainable_weights for block in opened.model.layers if block.weights]
    assert [len(w) for w in weights] == [2, 2]
    dropped = np.asarray(opened.model(IMAGES, training=True))
    hidden = np.asarray(tf_keras.Model(theirs.input, theirs.get_layer("hidden").output)(IMAGES))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], 2 * hidden[kept], atol=1e-6)


@pytest.mark.slow
def test_weights_before_the_classifier_train_and_are_kept_in_a_file(softmax, tmp_path):
    model = tfft.build(tfft.load_backbone(softmax[0], input_range=(0, 1)), tfft.heads.classification(["a", "b"]))
    tfft.unfreeze(model, "all")
    before = [w.numpy() for w in model.trainable_weights]
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pixels = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), np.uint8)
    model.fit(pixels, np.array([0, 1, 0, 1]), verbose=0)
    assert all(np.abs(a - b.numpy()).max() > 0 for a, b in zip(before, model.trainable_weights, strict=True))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again(pixels), model(pixels))


@pytest.mark.representative("keras3", "sigmoid", "slim")
@pytest.mark.daily("convolution", "several_positions")
@pytest.mark.parametrize("kind", ["sigmoid", "keras3", "convolution", "several_positions", "slim"])
def test_classifiers_of_other_makes(kind, tmp_path):
    rng = np.random.default_rng(0)
    if kind == "sigmoid":
        model = tf_keras.Sequential([K2.Dense(5, "relu", input_shape=(4,)), K2.Dense(1, "sigmoid")])
        model.save(tmp_path / "m", save_format="tf")
        x, wanted = rng.random((2, 4), np.float32), lambda x: model.layers[0](x)
    elif kind == "keras3":
        model = keras.Sequential([L.Input((4,)), L.Dense(5, "relu"), L.Dense(3, "softmax")])
        model.export(tmp_path / "m", verbose=False)
        x, wanted = rng.random((2, 4), np.float32), lambda x: model.layers[0](x)
    elif kind == "convolution":  # as MobileNet of keras.applications
        inputs = tf_keras.Input((8, 8, 3))
        pooled = K2.GlobalAveragePooling2D(keepdims=True)(K2.Conv2D(5, 3)(inputs))
        end = K2.Activation("softmax")(K2.Reshape((2,))(K2.Conv2D(2, 1)(pooled)))
        tf_keras.Model(inputs, end).save(tmp_path / "m", save_format="tf")
        x, wanted = rng.random((2, 8, 8, 3), np.float32), tf_keras.Model(inputs, pooled)
    elif kind == "several_positions":  # a tag for each word
        inputs = tf_keras.Input((6,), dtype="int32")
        vectors = K2.Embedding(9, 4)(inputs)
        tf_keras.Model(inputs, K2.Dense(3, "softmax")(vectors)).save(tmp_path / "m", save_format="tf")
        x, wanted = rng.integers(0, 9, (2, 6), np.int32), tf_keras.Model(inputs, vectors)
    else:
        with v1.Graph().as_default(), v1.Session() as session:
            image = v1.placeholder(tf.float32, [None, 4], "images")
            hidden = tf.nn.relu(image @ v1.get_variable("fc1/weights", [4, 5]))
            logits = tf.nn.bias_add(hidden @ v1.get_variable("fc2/weights", [5, 3]), v1.get_variable("fc2/biases", [3]))
            session.run(v1.global_variables_initializer())
            end = tf.reshape(tf.nn.softmax(tf.reshape(logits, [-1, 3])), tf.shape(logits))
            v1.saved_model.simple_save(session, str(tmp_path / "m"), {"images": image}, {"scores": end})
            x = rng.random((2, 4), np.float32)
            values = session.run(hidden, {image: x})
        wanted = lambda x: values  # noqa: E731
    opened = open_savedmodel(tmp_path / "m")
    assert any("classifier" in note for note in opened.notes)
    np.testing.assert_allclose(opened.model(x), wanted(x), atol=1e-6)


def test_a_linear_model_keeps_its_output(tmp_path):
    model = tf_keras.Sequential([K2.Dense(3, "softmax", input_shape=(4,))])
    model.save(tmp_path / "m", save_format="tf")
    opened = open_savedmodel(tmp_path / "m")
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(opened.model(x), model(x), atol=1e-6)
    assert "its probabilities are its only features" in opened.notes[0]


def test_attention_at_the_end_is_no_classifier(tmp_path):
    inputs = keras.Input((4, 5))
    x = L.Dense(6)(inputs)
    keras.Model(inputs, L.Softmax()(L.Dot(axes=2)([x, x]))).export(tmp_path / "m", verbose=False)
    opened = open_savedmodel(tmp_path / "m")
    assert opened.model.output.shape == (None, 4, 4)
    with pytest.raises(BackboneError, match="output='probabilities' is for a model that ends in a classifier"):
        open_savedmodel(tmp_path / "m", output="probabilities")


# ------------------------------------------------------------------------- endpoints and outputs


class _Two(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable(2.0, name="scale/w")

    @tf.function(input_signature=[tf.TensorSpec([])])
    def one(self, x):
        return {"y": x * self.w}

    @tf.function(input_signature=[tf.TensorSpec([None, 3])])
    def many(self, x):
        return {"y": x * self.w}

    @tf.function(input_signature=[tf.TensorSpec([None, 3])])
    def names(self, x):
        return {"name": tf.strings.as_string(x * self.w)}


@pytest.fixture
def two(tmp_path):
    def save(**signatures):
        model = _Two()
        tf.saved_model.save(model, tmp_path / "m", signatures={k: getattr(model, v) for k, v in signatures.items()})
        return tmp_path / "m"

    return save


@pytest.mark.parametrize("default", ["one", "names"])
def test_the_only_signature_that_fits_is_taken(two, default):
    opened = open_savedmodel(two(serving_default=default, batch="many"))
    np.testing.assert_array_equal(opened.model(np.ones((2, 3), np.float32)), np.full((2, 3), 2))
    assert opened.endpoint == "signature 'batch'(x: float32 (None, 3)) -> y: float32 (None, 3)"
    assert "signature 'batch'" in opened.notes[0]
    assert ("takes no batch" if default == "one" else "no floating-point numbers") in opened.notes[0]


def test_several_signatures_that_fit_are_named(two):
    with pytest.raises(
        BackboneError, match=r"--signature\)\. These fit: signature 'a'\(x: float32 \(None, 3\)\) -> y: f"
    ):
        open_savedmodel(two(serving_default="one", a="many", b="many"))


def test_a_model_that_takes_one_number_says_so(two):
    class One(tf.Module):
        def __init__(self):
            super().__init__()
            self.w = tf.Variable(2.0)

        @tf.function(input_signature=[tf.TensorSpec([])])
        def __call__(self, x):
            return x * self.w

    path = two(serving_default="one")
    tf.saved_model.save(One(), path)
    with pytest.raises(SavedModelError, match="per_example=True"):
        open_savedmodel(path)


def test_inspect_takes_a_signature(two, capsys):
    from tfft.cli import main

    assert main(["inspect", str(two(serving_default="one", a="many", b="many")), "--signature", "b"]) == 0
    shown = capsys.readouterr().out
    assert "Called: signature 'b'(x: float32 (None, 3)) -> y: float32 (None, 3)" in shown
    assert "scale" in shown or "mul" in shown


def test_a_default_that_takes_nothing_is_passed_over(tmp_path):
    class Version(_Two):
        @tf.function(input_signature=[])
        def version(self):
            return {"version": tf.constant(1.0)}

    model = Version()
    tf.saved_model.save(model, tmp_path / "m", signatures={"serving_default": model.version, "batch": model.many})
    assert "since serving_default takes no tensor" in open_savedmodel(tmp_path / "m").notes[0]


class _Answers(tf.Module):
    def __init__(self, floats):
        super().__init__()
        self.w, self.floats = tf.Variable(tf.ones([4, 3]), name="dense/kernel"), floats

    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def __call__(self, x):
        scores = x @ self.w
        found = {"classes": tf.strings.as_string(scores), "id": tf.argmax(scores, -1)}
        return found | {f"scores{i}": scores for i in range(self.floats)}


@pytest.mark.slow
def test_the_only_output_of_floats_is_taken_and_strings_are_no_features(tmp_path):
    tf.saved_model.save(_Answers(1), tmp_path / "one")
    opened = open_savedmodel(tmp_path / "one")
    assert opened.output == "scores0"
    assert opened.model.output.shape == (None, 3)
    assert "classes (None, 3) string, id (None,) int64, scores0 (None, 3) float32" in opened.notes[0]
    with pytest.raises(BackboneError, match="'classes' holds no floating-point numbers, so it cannot be features"):
        open_savedmodel(tmp_path / "one", output="classes")
    tf.saved_model.save(_Answers(2), tmp_path / "two")
    with pytest.raises(
        BackboneError, match=r"several outputs.*classes \(None, 3\) string.*scores1 \(None, 3\) float32"
    ):
        open_savedmodel(tmp_path / "two")
