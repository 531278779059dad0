"""Feature maps by stride: the deepest map at each, for any image size, as outputs that train."""

import keras
import numpy as np
import pytest
import savedmodels
import tensorflow as tf

import tfft
from tfft.backbones import feature_maps, load_backbone, pyramid
from tfft.errors import BackboneError

L = keras.layers


def found(backbone, size=None):
    return {stride: (one.block, one.shape) for stride, one in feature_maps(backbone, size).items()}


@pytest.fixture
def opened(tmp_path):
    def make(name, **options):
        savedmodels.MAKERS[name](tmp_path / name)
        return load_backbone(tmp_path / name, **options)

    return make


@pytest.mark.nightly
def test_lite0_has_the_maps_that_detectors_take():
    backbone = load_backbone("efficientnet-lite0")
    costs = [layer.flops for layer in backbone.model.layers[1:]]
    maps = found(backbone, (288, 384))
    assert {stride: maps[stride] for stride in (8, 16, 32)} == {
        8: ("block4", (36, 48, 40)),
        16: ("block10", (18, 24, 112)),
        32: ("block15", (9, 12, 320)),
    }
    assert found(backbone)[32] == ("block15", (7, 7, 320))
    assert found(backbone, 250)[32] == ("block15", (8, 8, 320))  # not a multiple of any stride
    assert [layer.flops for layer in backbone.model.layers[1:]] == costs  # estimates are for other shapes


@pytest.mark.nightly
def test_a_model_of_the_maps_runs_and_trains_the_blocks_in_front_of_each():
    backbone = load_backbone("efficientnet-lite0")
    maps = pyramid(backbone)
    assert list(maps) == [8, 16, 32]
    neck = keras.Model(backbone.model.input, list(maps.values()))
    images = tf.random.stateless_uniform([1, 64, 96, 3], [0, 1])
    with tf.GradientTape() as tape:
        outputs = neck(images)
        loss = sum(tf.reduce_mean(out**2) for out in outputs)
    assert [tuple(out.shape) for out in outputs] == [(1, 8, 12, 40), (1, 4, 6, 112), (1, 2, 3, 320)]
    assert all(gradient is not None for gradient in tape.gradient(loss, neck.trainable_variables))
    with tf.GradientTape() as tape:
        first = tf.reduce_mean(neck(images)[0] ** 2)
    gradients = tape.gradient(first, neck.trainable_variables)
    moved = {v.path for v, g in zip(neck.trainable_variables, gradients, strict=True) if g is not None}
    assert any(path.startswith("block4/") for path in moved)
    assert not any(path.startswith("block5/") for path in moved)


@pytest.mark.representative("weight_norm-wanted3")
@pytest.mark.daily("depthwise-wanted2", "plain_convnet-wanted0")
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("plain_convnet", {2: ("stem", (16, 24, 4)), 4: ("block2", (8, 12, 8))}),  # the head pools
        ("swish", {2: ("block0", (16, 16, 6)), 4: ("block1", (8, 8, 6))}),
        ("depthwise", {2: ("block0", (16, 16, 8))}),
        ("weight_norm", {2: ("block0", (16, 16, 6)), 4: ("block1", (8, 8, 8))}),
    ],
)
def test_opened_savedmodels(opened, name, wanted):
    backbone = opened(name)
    size = (32, 48) if backbone.input_spec.flexible else None
    assert found(backbone, size) == wanted
    neck = keras.Model(backbone.model.input, list(pyramid(backbone, list(wanted), size).values()))
    outputs = keras.tree.flatten(neck(np.zeros((2, *(size or (32, 32)), 3), "float32")))
    assert [tuple(out.shape[1:]) for out in outputs] == [shape for _, shape in wanted.values()]


@pytest.mark.nightly
def test_keras_applications():
    backbone = load_backbone("keras:ResNet50:random")
    assert found(backbone, (64, 96)) == {
        4: ("conv2_block3", (16, 24, 256)),
        8: ("conv3_block4", (8, 12, 512)),
        16: ("conv4_block6", (4, 6, 1024)),
        32: ("conv5_block3", (2, 3, 2048)),  # pooled at its end; the map before counts
    }
    maps = found(load_backbone("mobilenet_v2:random"), 32)
    assert {stride: block for stride, (block, _) in maps.items()} == {
        2: "expanded_conv", 4: "block_2", 8: "block_5", 16: "block_12", 32: "Conv_1"
    }  # fmt: skip


def functional(size=None):
    x = inputs = keras.Input((size, size, 3))
    for i in range(3):
        x = L.ReLU(name=f"block{i}_relu")(L.Conv2D(4 + i, 3, 2, "same", name=f"block{i}_conv")(x))
    return keras.Model(inputs, x, name="mine")


def test_a_map_of_a_nested_model_is_an_output_of_the_whole():
    inner = functional()
    whole = keras.Sequential([keras.Input((None, None, 3)), L.Rescaling(1 / 255), inner, L.GlobalMaxPooling2D()])
    backbone = load_backbone(whole)
    assert found(backbone, 64) == {2: ("block0", (32, 32, 4)), 4: ("block1", (16, 16, 5)), 8: ("block2", (8, 8, 6))}
    neck = keras.Model(backbone.model.input, list(pyramid(backbone, (2, 8)).values()))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype("float32")
    np.testing.assert_allclose(neck(pixels)[1], inner(pixels / 255), rtol=1e-5, atol=1e-6)
    assert {id(v) for v in neck.variables} == {id(v) for v in inner.variables}


def test_the_last_block_at_a_stride_counts_also_behind_an_addition():
    x = inputs = keras.Input((64, 64, 3))
    x = L.Conv2D(8, 3, 4, "same", name="stem_conv")(x)
    for i in range(2):
        x = x + L.Conv2D(8, 3, padding="same", name=f"block{i}_conv")(x)  # no layer: an operation
    network = keras.Model(inputs, L.GlobalAveragePooling2D()(x))
    maps = feature_maps(load_backbone(network))
    assert {stride: (one.block, one.shape) for stride, one in maps.items()} == {4: ("block1", (16, 16, 8))}
    assert maps[4].tensor is network.layers[-1].input


@pytest.mark.slow
def test_a_backbone_of_keras_hub_says_its_own_maps():
    keras_hub = pytest.importorskip("keras_hub")
    network = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[7], stackwise_num_filters=[64, 64, 64, 64],
        stackwise_num_blocks=[1, 1, 1, 1], stackwise_num_strides=[1, 2, 2, 2], block_type="basic_block",
    )  # fmt: skip
    maps = found(load_backbone(network), 64)
    assert {stride: (maps[stride][0], maps[stride][1][:2]) for stride in (4, 8, 16, 32)} == {
        4: ("P2", (16, 16)), 8: ("P3", (8, 8)), 16: ("P4", (4, 4)), 32: ("P5", (2, 2))
    }  # fmt: skip


@pytest.mark.slow
def test_what_has_no_maps_is_refused_with_what_there_is(opened):
    backbone = load_backbone(functional())
    with pytest.raises(BackboneError, match=r"no feature map at stride 16, 32\. It has.*8 \(block2\) 28 x 28 x 6"):
        pyramid(backbone)
    with pytest.raises(BackboneError, match="32 x 32 pixels only. Received: image_size=64"):
        feature_maps(load_backbone(functional(32)), 64)
    with pytest.raises(BackboneError, match="takes one image. Received: 'transformer', with .*input_mask"):
        feature_maps(opened("transformer", output="sequence_output"))
    dense = keras.Sequential([keras.Input((8, 8, 3)), L.Flatten(), L.Dense(4, name="block0_dense")])
    with pytest.raises(BackboneError, match=r"Received: 'flat', which gives block0 4 at 8 x 8 pixels"):
        feature_maps(load_backbone(dense, name="flat"))
    valid = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(4, 7, 2, name="block0_conv")])
    with pytest.raises(BackboneError, match="block0 109 x 109 x 4 at 224 x 224"):
        feature_maps(load_backbone(valid))
    assert tfft.backbones.pyramid is pyramid  # no module hides it
