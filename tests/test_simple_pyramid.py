"""Maps of several strides from a Vision Transformer, which has one."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_dense_recipes import boxes

import tfft
from tfft.backbones import load_backbone, pyramid
from tfft.backbones.base import Backbone
from tfft.backbones.feature_pyramid import single_map
from tfft.errors import BackboneError
from tfft.specs import InputSpec

L = keras.layers
SIZE = (64, 96)


@keras.saving.register_keras_serializable(package="tests")
class FirstTokens(L.Layer):
    """Puts tokens in front of others, as a class token."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def build(self, shape):
        self.tokens = self.add_weight(shape=(1, self.count, shape[-1]), initializer="random_normal", name="tokens")

    def call(self, x):
        return tf.concat([tf.repeat(self.tokens, tf.shape(x)[0], axis=0), x], axis=1)

    def compute_output_shape(self, shape):
        return (shape[0], shape[1] + self.count, shape[2])

    def get_config(self):
        return {**super().get_config(), "count": self.count}


def transformer(tokens=1, patch=16, width=12, size=SIZE):
    """A small Vision Transformer with random weights."""
    x = inputs = keras.Input((*size, 3))
    x = L.Conv2D(width, patch, patch, name="block0_patches")(x)
    x = L.Reshape((-1, width), name="block0_tokens")(x)
    if tokens:
        x = FirstTokens(tokens, name="block0_first")(x)
    for at in (1, 2):
        y = L.MultiHeadAttention(2, 6, name=f"block{at}_attention")(x, x)
        x = L.LayerNormalization(name=f"block{at}_norm")(L.Add(name=f"block{at}_add")([x, y]))
    spec = InputSpec(*size, value_range=(-1.0, 1.0), source="the test")
    return Backbone("vit", keras.Model(inputs, x, name="vit"), "test", spec)


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_the_last_tokens_become_maps_of_all_strides(tokens):
    keras.utils.set_random_seed(0)
    backbone = transformer(tokens)
    maps = pyramid(backbone, (4, 8, 16, 32))
    assert {stride: tuple(one.shape[1:]) for stride, one in maps.items()} == {
        4: (16, 24, 8), 8: (8, 12, 8), 16: (4, 6, 12), 32: (2, 3, 12),
    }  # fmt: skip
    model = keras.Model(backbone.model.input, maps)
    image = np.random.default_rng(0).normal(size=(1, *SIZE, 3)).astype(np.float32)
    found = {stride: one.numpy()[0] for stride, one in model(image).items()}
    patches = backbone.model(image).numpy()[0, tokens:].reshape(4, 6, 12)
    np.testing.assert_allclose(found[16], patches, rtol=1e-6)
    np.testing.assert_allclose(found[32], patches.reshape(2, 2, 3, 2, 12).max(axis=(1, 3)), rtol=1e-6)
    kernel, bias = (value.numpy() for value in model.get_layer("pyramid_8_0_up").weights)
    for row, column in ((0, 0), (3, 5), (7, 11)):  # each cell has one source: a kernel of 2 at a stride of 2
        wanted = kernel[row % 2, column % 2] @ patches[row // 2, column // 2] + bias
        np.testing.assert_allclose(found[8][row, column], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_new_layers_train_with_the_head_and_the_backbone_stays():
    keras.utils.set_random_seed(0)
    model = tfft.build(transformer(), tfft.heads.object_detection(("cat",), width=8))
    names = {variable.path.split("/")[0] for variable in model.trainable_variables}
    assert "pyramid_8_0_up" in names
    assert not any(name.startswith("block") for name in names)
    prefix, _ = tfft.features.split_frozen(model)
    kept = [tuple(one.shape[1:]) for one in prefix.outputs]
    assert kept == [(4, 6, 12), (2, 3, 12)]  # the map and what is pooled from it, not the enlarged ones
    assert model.output_shape[1] == 8 * 12 + 4 * 6 + 2 * 3


def test_one_stride_of_convolutions_is_enlarged_too_and_other_backbones_are_not():
    x = inputs = keras.Input((*SIZE, 3))
    x = L.Conv2D(6, 16, 16, name="block0_conv")(x)
    x = L.Conv2D(6, 3, padding="same", name="block1_conv")(x)
    backbone = load_backbone(keras.Model(inputs, x))
    assert single_map(backbone, (8, 16, 32)).stride == 16
    assert single_map(backbone, (16,)) is None  # which it has
    assert list(pyramid(backbone)) == [8, 16, 32]
    x = L.Conv2D(6, 3, 2, "same", name="block2_conv")(x)
    two = load_backbone(keras.Model(inputs, x))
    assert single_map(two, (8, 16, 32)) is None
    with pytest.raises(BackboneError, match="has no feature map at stride 8"):
        pyramid(two)


@pytest.mark.slow
def test_the_transformer_of_keras_hub_has_a_pyramid():
    keras_hub = pytest.importorskip("keras_hub")
    model = keras_hub.models.ViTBackbone(
        image_shape=(64, 64, 3), patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8
    )
    maps = pyramid(load_backbone(model), (8, 16, 32))
    assert {stride: tuple(one.shape[1:]) for stride, one in maps.items()} == {
        8: (8, 8, 8), 16: (4, 4, 8), 32: (2, 2, 8),
    }  # fmt: skip


@pytest.mark.nightly
def test_a_detector_on_a_transformer_trains_and_is_saved(tmp_path):
    keras.utils.set_random_seed(0)
    run = tfft.finetune(
        transformer(size=(96, 96)), boxes(tmp_path / "data", 10), "object_detection", unfreeze="none", head_epochs=1,
        views=2, batch_size=4, out=tmp_path / "run", export_to=False, cache=tmp_path / "kept", verbose=False,
    )  # fmt: skip
    again = tfft.load_run(tmp_path / "run")
    images = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), np.uint8)
    np.testing.assert_array_equal(again.model.predict(images, verbose=0), run.model.predict(images, verbose=0))
