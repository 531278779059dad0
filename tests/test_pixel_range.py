"""The range of pixels that a SavedModel takes, read off its graph."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfft
from tfft.backbones.fetch.resolver import resolve
from tfft.backbones.savedmodel import open_savedmodel
from tfft.backbones.savedmodel.pixel_range import range_of
from tfft.backbones.savedmodel.range_check import drawn_image

K2, L = tf_keras.layers, keras.layers
BORDER = [[0, 0], [1, 1], [1, 1], [0, 0]]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Scaled(tf.Module):
    """A function of images, then a convolution."""

    def __init__(self, scale, channels=3):
        super().__init__()
        make = tf.random.Generator.from_seed(1)
        self.kernel = tf.Variable(make.normal([3, 3, channels, 4]), name="stem/kernel")
        self.scale = scale

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])], autograph=False)
    def __call__(self, x):
        return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(self.scale(x), self.kernel, 2, "SAME")), (1, 2))


def caffe(x):
    return x[..., ::-1] - [103.9, 116.8, 123.7]


def caffe_of_tf1(x):
    red, green, blue = tf.split(x, 3, axis=3)
    return tf.concat([blue - 103.9, green - 116.8, red - 123.7], axis=3)


GRAPHS = {
    "divided by 255": (lambda x: x / 255, (0, 255)),
    "times 1 / 255": (lambda x: x * (1 / 255), (0, 255)),
    "to -1 to 1": (lambda x: x / 127.5 - 1, (0, 255)),
    "less 127, by 128": (lambda x: (x - 127) / 128, (0, 255)),
    "twice less one": (lambda x: 2 * x - 1, (0, 1)),
    "less one half, twice": (lambda x: (x - 0.5) * 2.0, (0, 1)),
    "less one half": (lambda x: x - 0.5, (0, 1)),
    "times 255": (lambda x: 255 * x, (0, 1)),
    "from -1 to 1": (lambda x: (x + 1) * 127.5, (-1, 1)),
    "one half of one more": (lambda x: x * 0.5 + 0.5, (-1, 1)),
    "up and down again": (lambda x: (x * 255) / 255, (0, 1)),
    "statistics of ImageNet": (lambda x: (x - MEAN) / STD, (0, 1)),
    "the same of 255": (lambda x: (x / 255 - MEAN) / STD, (0, 255)),
    "caffe": (caffe, (0, 255)),
    "caffe of TF1": (caffe_of_tf1, (0, 255)),
    "caffe of 0 to 1": (lambda x: caffe(x * 255), (0, 1)),
    "mean only": (lambda x: x - 255 * MEAN, (0, 255)),
    "resized": (lambda x: tf.image.resize(x, (20, 20)) / 255, (0, 255)),
    "resized and padded": (lambda x: tf.pad(tf.image.resize(x, (20, 20)) / 127.5 - 1, BORDER), (0, 255)),
    "cast": (lambda x: tf.cast(tf.cast(x, tf.float16), tf.float32) / 255, (0, 255)),
    "mirrored or not": (lambda x: tf.where(tf.reduce_mean(x) > 0.5, x[:, :, ::-1], x) / 255, (0, 255)),
    "integers": (lambda x: tf.cast(tf.cast(x, tf.uint8), tf.float32), (0, 255)),
    "channels first and back": (lambda x: tf.transpose(tf.transpose(x, [0, 3, 1, 2]) / 255, [0, 2, 3, 1]), (0, 255)),
    "standardized": (tf.image.per_image_standardization, (0, 255)),
    "clipped": (lambda x: tf.clip_by_value(x, 0, 255) / 255, (0, 255)),
    "gathered": (lambda x: (tf.gather(x, [2, 1, 0], axis=-1) - 127.5) / 127.5, (0, 255)),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_a_model_that_scales_itself_tells_its_range(name, tmp_path):
    scale, wanted = GRAPHS[name]
    tf.saved_model.save(Scaled(scale), tmp_path / "m")
    pixels = open_savedmodel(tmp_path / "m").pixels
    assert (pixels.known, pixels.value_range) == (True, wanted), pixels


@pytest.mark.parametrize("make", ["keras2", "keras3"])
@pytest.mark.parametrize("kind", ["unit", "signed", "adapted to 255", "adapted to 1"])
def test_layers_of_keras(make, kind, tmp_path):
    layers = K2 if make == "keras2" else L
    first = {
        "unit": lambda: layers.Rescaling(1 / 255),
        "signed": lambda: layers.Rescaling(1 / 127.5, offset=-1),
        "adapted to 255": lambda: layers.Normalization(mean=255 * MEAN, variance=(255 * STD) ** 2),
        "adapted to 1": lambda: layers.Normalization(mean=MEAN, variance=STD**2),
    }[kind]()
    if make == "keras2":
        model = tf_keras.Sequential([tf_keras.Input((16, 16, 3)), first, K2.Conv2D(4, 3), K2.GlobalMaxPool2D()])
        model.save(tmp_path / "m", save_format="tf")
    else:
        model = keras.Sequential([keras.Input((16, 16, 3)), first, L.Conv2D(4, 3), L.GlobalMaxPool2D()])
        model.export(tmp_path / "m", verbose=False)
    backbone = tfft.load_backbone(tmp_path / "m")
    assert backbone.input_spec.value_range == ((0, 1) if kind == "adapted to 1" else (0, 255))
    assert "since the model scales pixels itself" in backbone.input_spec.source
    assert backbone.notes[-1].startswith("The pixel range is [0, ")


def test_statistics_of_the_data_in_variables(tmp_path):
    mean, variance = tf.Variable(255 * MEAN[None, None, None], dtype="float32"), tf.Variable(tf.fill([3], 4000.0))
    root = Scaled(lambda x: (x - mean) / tf.maximum(tf.sqrt(variance), 1e-7))
    root.mean, root.variance = mean, variance
    tf.saved_model.save(root, tmp_path / "m")
    assert open_savedmodel(tmp_path / "m").pixels.value_range == (0, 255)


@pytest.mark.slow
def test_a_batchnorm_in_front_tells_what_it_was_trained_on(tmp_path):
    model = tf_keras.Sequential([tf_keras.Input((8, 8, 3)), K2.BatchNormalization(), K2.Conv2D(4, 3), K2.Flatten()])
    model.save(tmp_path / "new", save_format="tf")
    assert not open_savedmodel(tmp_path / "new").pixels.known
    model.layers[0].set_weights([np.ones(3), np.zeros(3), 255 * MEAN, (255 * STD) ** 2])
    model.save(tmp_path / "trained", save_format="tf")
    pixels = open_savedmodel(tmp_path / "trained").pixels
    assert pixels.value_range == (0, 255)
    assert "was trained on pixels with mean (123.7, 116.3, 103.5)" in pixels.source


def test_without_scaling_the_range_is_assumed_loudly(tmp_path):
    tf.saved_model.save(Scaled(lambda x: x), tmp_path / "m")
    backbone = tfft.load_backbone(tmp_path / "m")
    assert backbone.input_spec.value_range == (0, 1)
    assert backbone.input_spec.source.startswith("assumed: [0, 1], the convention of TF Hub, since it does nothing")
    warning = backbone.notes[-1]
    assert warning.startswith("WARNING: The pixel range is assumed")
    assert "would differ with [-1, 1] by" in warning
    assert "with [0, 255] by 100%" in warning
    given = tfft.load_backbone(tmp_path / "m", input_range=(-1, 1))
    assert given.input_spec.value_range == (-1, 1)
    assert not any("pixel range" in note for note in given.notes)


def turned_and_scaled(x):
    """Channels turned in one way of a condition, which no name tells apart from the other."""
    return tf.cond(tf.shape(x)[1] > 3, lambda: x[..., ::-1] / 127.5 - 1, lambda: tf.zeros_like(x))


@pytest.mark.parametrize(
    ("scale", "wanted"),
    [
        (turned_and_scaled, (0, 255)),
        (lambda x: x / 255 + 0 * tf.sin(x), (0, 255)),
        (lambda x: tf.map_fn(lambda picture: picture * 2 - 1, x), (0, 1)),
        (lambda x: tf.quantization.fake_quant_with_min_max_args(x / 127.5 - 1, -1, 1), (0, 255)),
        (lambda x: tf.math.divide_no_nan(x, tf.reduce_max(tf.abs(x), (1, 2, 3), keepdims=True)), None),
        (lambda x: tf.image.rgb_to_hsv(x / 255), None),
    ],
)
def test_what_cannot_be_followed_is_measured(scale, wanted, tmp_path):
    tf.saved_model.save(Scaled(scale), tmp_path / "m")
    pixels = open_savedmodel(tmp_path / "m").pixels
    assert pixels.known == (wanted is not None), pixels
    assert pixels.value_range == (wanted or (0, 1)), pixels


def test_what_cannot_be_followed_is_named(tmp_path):
    tf.saved_model.save(Scaled(lambda x: tf.sin(x) * tf.random.stateless_uniform([], [1, 2])), tmp_path / "m")
    pixels = open_savedmodel(tmp_path / "m").pixels
    assert not pixels.known
    assert "what it does to them in 'Sin' cannot be followed" in pixels.warning


def test_input_range_wins_over_what_the_graph_says(tmp_path):
    tf.saved_model.save(Scaled(lambda x: x / 255), tmp_path / "m")
    backbone = tfft.load_backbone(tmp_path / "m", input_range=(0, 1))
    assert backbone.input_spec.value_range == (0, 1)
    assert backbone.input_spec.source == "given: input_range=(0, 1)"


def test_the_features_are_those_of_the_model_on_its_own_pixels(tmp_path):
    theirs = Scaled(lambda x: x / 255)
    tf.saved_model.save(theirs, tmp_path / "m")
    backbone = tfft.load_backbone(tmp_path / "m", image_size=16)
    model = tfft.build(backbone, tfft.heads.classification(["a", "b"]))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    features = keras.Model(model.input, model.get_layer("dropout").input)(pixels)
    np.testing.assert_allclose(features, theirs(pixels.astype("float32")), rtol=1e-4)


@pytest.mark.parametrize(
    ("scale", "shift", "wanted"),
    [(1, 0, None), (2, 0, (-0.5, 0.5)), (0, 3, None), (-1 / 255, 1, (0, 255)), (1 / 0.31, -0.13 / 0.31, (0, 1))],
)
def test_factors_and_offsets(scale, shift, wanted):
    found = range_of(np.full(3, float(scale)), np.full(3, float(shift)))
    assert found == (None if wanted == (-0.5, 0.5) else wanted)


# -------------------------------------------------------------------- statistics of the first BatchNorm


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFFT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        return tf.saved_model.load(str(resolve("efficientnet-lite0")))


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("hide", "wanted"),
    [
        (lambda x: tf.sign(x) * tf.abs(x) ** 1.07, (0, 1)),
        (lambda x: tf.sign(x + 1) * tf.abs((x + 1) / 2) ** 1.07, (-1, 1)),
        (lambda x: tf.sign(x) * tf.abs(x / 255) ** 1.07, (0, 255)),
    ],
)
def test_statistics_tell_the_range_where_the_scaling_is_hidden(lite0, hide, wanted, tmp_path):
    root = tf.Module()
    root.network = lite0
    root.run = tf.function(
        lambda x: lite0(hide(x)), input_signature=[tf.TensorSpec([None, 64, 64, 3])], autograph=False
    )
    tf.saved_model.save(root, tmp_path / "m", signatures=root.run)
    pixels = open_savedmodel(tmp_path / "m").pixels
    assert pixels.value_range == wanted, pixels
    assert "estimated" in pixels.source
    assert not pixels.known


def test_the_drawn_picture_resembles_a_photograph():
    picture = drawn_image(96, 128, 3)
    assert picture.shape == (96, 128, 3)
    assert 0.35 < picture.mean() < 0.55
    assert 0.18 < picture.std() < 0.3
    np.testing.assert_array_equal(picture, drawn_image(96, 128, 3))
    spectrum = np.abs(np.fft.fft2(picture[:, :96].mean(-1))) ** 2
    low, high = spectrum[2, :8].mean(), spectrum[32, :8].mean()
    assert low > 30 * high  # falls with the frequency, as in photographs
    assert drawn_image(8, 8, 1).shape == (8, 8, 1)
    assert drawn_image(8, 8, 4).shape == (8, 8, 4)


def _classifier(folder, size, bias=0.1, hidden=tf.nn.relu, end=tf.nn.softmax, classes=6, strength=30, constant=0.0):
    """A network without scaling whose scores change by some tens from picture to picture for pixels of a size."""
    make = tf.random.Generator.from_seed(4)
    root = tf.Module()
    root.kernel = tf.Variable(make.normal([3, 3, 3, 8]) / (5 * size), name="conv/kernel")
    root.dense = tf.Variable(make.normal([8, classes]) * strength, name="dense/kernel")
    root.bias = tf.Variable([bias] + [0.0] * (classes - 2) + [constant - bias][: classes - 1], name="dense/bias")

    @tf.function(input_signature=[tf.TensorSpec([None, 16, 16, 3], name="x")], autograph=False)
    def call(x):
        maps = hidden(tf.nn.conv2d(x, root.kernel, 2, "SAME"))
        return end(tf.nn.bias_add(tf.reduce_mean(maps, (1, 2)) @ root.dense, root.bias))

    root.__call__ = call
    tf.saved_model.save(root, str(folder))
    backbone = tfft.load_backbone(folder)
    return backbone.input_spec, [note for note in backbone.notes if "pixel range" in note]


@pytest.mark.parametrize(
    "options",
    [{}, {"constant": 200.0}, {"end": tf.nn.sigmoid, "classes": 1}, {"end": tf.identity}, {"strength": 500}],
    ids=["softmax", "a large bias", "sigmoid", "no softmax", "very sure of itself"],
)
def test_the_scores_of_a_classifier_tell_of_whole_pixels(tmp_path, options):
    found, notes = _classifier(tmp_path / "m", 255, **options)
    assert found.value_range == (0, 255)
    assert found.source.startswith("estimated: [0, 255], since with it the scores of its classes change by")
    assert notes[0].startswith("WARNING")


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (1, {}),
        (1, {"end": tf.identity}),
        (1, {"end": tf.nn.sigmoid, "classes": 1}),
        (255, {"bias": 0.0}),
        (255, {"hidden": tf.nn.tanh}),
        (25.5, {"hidden": tf.nn.relu6}),
        (255, {"end": tf.identity, "classes": 2}),
    ],
    ids=["unit pixels", "unit, no softmax", "unit, sigmoid", "never trained", "saturates", "is cut off", "a box"],
)
def test_scores_that_say_nothing_are_not_taken(tmp_path, size, options):
    found, notes = _classifier(tmp_path / "m", size, **options)
    assert found.value_range == (0, 1)
    assert found.source.startswith("assumed")
    assert notes[0].startswith("WARNING")
