"""Heat maps of Grad-CAM: in the place that decides, for every kind of model, and equal to the usual recipe."""

import keras
import numpy as np
import pytest
import savedmodels
import tensorflow as tf

from tfft import heads, models
from tfft.backbones import Backbone, load_backbone
from tfft.errors import BackboneError, DataError, PlanError
from tfft.inspection import grad_cam
from tfft.specs import InputSpec

L = keras.layers
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def network(pooling="none"):
    """A backbone whose feature map shows red in one channel and blue in another."""
    inputs = keras.Input((None, None, 3))
    maps = L.Conv2D(3, 1, use_bias=False, name="colours")(L.AveragePooling2D(4)(inputs))
    model = keras.Model(inputs, maps if pooling == "none" else L.GlobalAveragePooling2D()(maps))
    model.get_layer("colours").set_weights([np.eye(3, dtype=np.float32)[None, None]])
    return model


def told_apart(resize="stretch", pooling="none", head=heads.classification):
    spec = InputSpec(32, 32, value_range=(0.0, 1.0), resize=resize, source="the test")
    backbone = Backbone("colours", network(pooling), "test", spec)
    model = models.build(backbone, head(["red", "blue"], dropout=0.0))
    kernel = [[1.0, -1.0], [0.0, 0.0], [-1.0, 1.0]] if head is heads.classification else [[-1.0], [0.0], [1.0]]
    logits = model.get_layer("logits")
    for variable in logits.weights:
        variable.assign(np.reshape(kernel, variable.shape) if len(variable.shape) == 2 else np.zeros(variable.shape))
    return model


def corners(size=(32, 32)):
    """Red at the top left, blue at the bottom right."""
    image = np.zeros((1, *size, 3), np.uint8)
    image[:, : size[0] // 4, : size[1] // 4, 0] = 250
    image[:, -size[0] // 4 :, -size[1] // 4 :, 2] = 200
    return image


def place(heat):
    rows, columns = heat.shape
    halves = {"top left": heat[: rows // 2, : columns // 2], "bottom right": heat[rows // 2 :, columns // 2 :]}
    return max(halves, key=lambda name: halves[name].sum())


@pytest.mark.parametrize("pooling", ["none", "pooled inside"])
@pytest.mark.parametrize("head", [heads.classification, heads.binary])
def test_the_map_is_where_the_class_is(pooling, head):
    model = told_apart(pooling=pooling, head=head)
    image = corners()
    for name, where in (("red", "top left"), ("blue", "bottom right"), (0, "top left"), (1, "bottom right")):
        [heat] = grad_cam(model, image, name)
        assert heat.shape == (32, 32)
        assert heat.dtype == np.float32
        assert (heat.min(), heat.max()) == (0, pytest.approx(1, abs=0.2))
        assert place(heat) == where
    [predicted] = grad_cam(model, image)
    assert place(predicted) == "top left"  # there is more of it
    assert not grad_cam(model, np.zeros_like(image)).any()


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_a_map_lies_on_the_image_as_it_was_given(resize):
    image = np.zeros((1, 32, 64, 3), np.uint8)
    image[:, 20:, 34:44, 2] = 255
    [heat] = grad_cam(told_apart(resize), image, "blue")
    assert heat.shape == (32, 64)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert (abs(row - 27), abs(column - 38)) <= (8, 8)
    if resize == "crop":
        assert not heat[:, :16].any()
        assert not heat[:, 48:].any()


def test_it_is_the_usual_recipe_where_that_works():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((32, 32, 3))
    maps = L.Conv2D(6, 3, activation="relu", name="last")(L.Conv2D(4, 3, strides=2, activation="relu")(inputs))
    model = keras.Model(inputs, L.Dense(4, activation="softmax")(L.GlobalAveragePooling2D()(maps)))
    images = (IMAGES / 255).astype(np.float32)
    both = keras.Model(inputs, [maps, model.output])
    with tf.GradientTape() as tape:
        found, _ = both(images)
        kernel, bias = model.layers[-1].kernel, model.layers[-1].bias
        logits = tf.reduce_mean(found, axis=(1, 2)) @ kernel + bias
        score = logits[:, 2]
    weights = tf.reduce_mean(tape.gradient(score, found), axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * found, -1)).numpy()
    heat = heat / np.maximum(heat.max(axis=(1, 2), keepdims=True), 1e-30)
    wanted = tf.image.resize(heat[..., None], (32, 32))[..., 0]
    np.testing.assert_allclose(grad_cam(model, images, 2), wanted, atol=1e-5)
    assert model.layers[-1].activation is keras.activations.softmax
    np.testing.assert_allclose(grad_cam(model, images, 2, layer="last"), wanted, atol=1e-5)


@pytest.mark.daily("plain_convnet")
@pytest.mark.parametrize("name", ["plain_convnet", "residual"])
def test_opened_savedmodels_have_maps(name, tmp_path):
    savedmodels.MAKERS[name](tmp_path / name)
    model = models.build(load_backbone(tmp_path / name), heads.classification(["a", "b", "c"]))
    found = grad_cam(model, IMAGES, "b")
    assert found.shape == (3, 32, 32)
    assert ((found >= 0) & (found <= 1)).all()
    assert found.any()


def test_what_cannot_be_explained_is_said():
    model = told_apart()
    with pytest.raises(PlanError, match="has no class 'rde'. Did you mean 'red'"):
        grad_cam(model, IMAGES, "rde")
    unnamed = keras.Sequential([keras.Input(IMAGES.shape[1:]), L.Conv2D(2, 3), L.GlobalAveragePooling2D()])
    with pytest.raises(PlanError, match=r"has no class 'red'. It has no class names: pass a class number\."):
        grad_cam(unnamed, IMAGES, "red")
    with pytest.raises(PlanError, match="Expected a class from 0 to 1. Received: 2"):
        grad_cam(model, IMAGES, 2)
    with pytest.raises(DataError, match=r"Received: shape \(32, 32, 3\). For one image: image\[None\]"):
        grad_cam(model, IMAGES[0])
    with pytest.raises(DataError, match="multiply by 255"):
        grad_cam(model, IMAGES / 255)
    with pytest.raises(BackboneError, match="no layer 'colour'.*Did you mean 'colours'"):
        grad_cam(model, IMAGES, layer="colour")
    flat = keras.Sequential([keras.Input((8,)), L.Dense(2)])
    with pytest.raises(BackboneError, match=r"no feature map \[batch"):
        grad_cam(flat, IMAGES)
