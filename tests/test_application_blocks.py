"""Every network of ``keras.applications`` opens into the blocks of the table, whatever was built before it."""

import ctypes
import gc

import keras
import numpy as np
import pytest
from application_blocks import BLOCKS

import tfft
from tfft.backbones import load_backbone
from tfft.backbones.base import Backbone, blocks_of, names_of
from tfft.backbones.catalog import APPLICATIONS
from tfft.backbones.feature_pyramid import feature_maps

# One of each family but the Inceptions, whose convolutions without padding leave no map that lies over the image.
FAMILIES = ["ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "MobileNet", "MobileNetV2"]
FAMILIES += ["MobileNetV3Small", "NASNetMobile", "ResNet50", "ResNet50V2", "VGG16", "Xception"]


@pytest.fixture(autouse=True)
def give_memory_back():
    """Some of these networks have hundreds of megabytes, which the process would keep."""
    yield
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def owned_once(backbone):
    found = [id(v) for block in backbone.blocks for v in block.variables]
    assert len(found) == len(set(found))
    assert set(found) == {id(v) for v in backbone.model.weights}


def test_the_table_holds_every_network():
    assert set(BLOCKS) == {app.name for app in APPLICATIONS}
    assert all(len(set(names)) == len(names) for names in BLOCKS.values())


@pytest.mark.daily("MobileNetV3Small")
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_a_network(name):
    backbone = load_backbone(f"keras:{name}:random", name="mine")
    assert backbone.model.name == "mine"
    assert names_of(backbone.blocks) == BLOCKS[name]
    assert all(any(v.trainable for v in block.variables) for block in backbone.blocks)  # each can be trained
    owned_once(backbone)


@pytest.mark.daily("ConvNeXtTiny", "InceptionResNetV2")
@pytest.mark.nightly
@pytest.mark.parametrize("name", ["ConvNeXtTiny", "NASNetMobile", "InceptionResNetV2"])
def test_blocks_survive_the_config(name):
    model = load_backbone(f"keras:{name}:random").model
    assert names_of(blocks_of(keras.Model.from_config(model.get_config()))) == BLOCKS[name]


@pytest.mark.representative("VGG16")
@pytest.mark.parametrize("name", FAMILIES)
def test_pyramids_of_networks(name):
    maps = feature_maps(load_backbone(f"keras:{name}:random"))
    assert {8, 16, 32} <= set(maps)
    order = [BLOCKS[name].index(found.block) for found in maps.values()]
    assert order == sorted(order)


def cells(count=4):
    """A network whose cells read the two cells before them, with the names that NASNet gives."""
    image = keras.Input((8, 8, 3))
    before = x = keras.layers.Conv2D(4, 3, padding="same", name="stem_conv1")(image)
    for i in range(count):
        joined = keras.layers.Conv2D(4, 1, name=f"adjust_conv_projection_{i}")(before)
        own = keras.layers.SeparableConv2D(4, 3, padding="same", name=f"separable_conv_1_normal_left1_{i}")(x)
        before, x = x, keras.layers.Concatenate(name=f"normal_concat_{i}")([joined, own])
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x), name="cells")


def test_cells_that_read_two_cells_are_blocks():
    model = cells()
    assert names_of(blocks_of(model)) == ["stem_conv1", "normal_0", "normal_1", "normal_2", "normal_3"]
    owned_once(Backbone("cells", model, ""))
    tfft.unfreeze(model, 2)
    assert {v.path.split("/")[0][-1] for v in model.trainable_weights} == {"2", "3"}
    prefix, suffix = tfft.features.split_frozen(model)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(suffix(prefix(images)), model(images), atol=1e-6)
    assert sum(len(layer.weights) > 0 for layer in suffix.layers) == 4


def test_small_nested_models_are_layers_of_blocks():
    """As the downsampling of ConvNeXt: a Sequential among layers, in a network of stages."""
    image = x = keras.Input((8, 8, 3))
    x = keras.Sequential([keras.layers.Conv2D(4, 2, 2), keras.layers.LayerNormalization()], name="net_a_stem")(x)
    for stage in range(2):
        if stage:
            down = [keras.layers.LayerNormalization(), keras.layers.Conv2D(4, 2, 2)]
            x = keras.Sequential(down, name="net_a_downsampling_block_0")(x)
        for i in range(2):
            y = keras.layers.Conv2D(4, 3, padding="same", name=f"net_a_stage_{stage}_block_{i}_depthwise_conv")(x)
            y = keras.layers.LayerNormalization(name=f"net_a_stage_{stage}_block_{i}_layernorm")(y)
            x = x + keras.layers.Dense(4, name=f"net_a_stage_{stage}_block_{i}_pointwise_conv")(y)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(keras.layers.LayerNormalization()(x)))
    expected = [
        "stem",
        "stage_0_block_0",
        "stage_0_block_1",
        "downsampling_block_0",
        "stage_1_block_0",
        "stage_1_block_1",
    ]
    assert names_of(blocks_of(model)) == expected
    backbone = load_backbone(model)
    assert {stride: found.block for stride, found in feature_maps(backbone).items()} == {
        2: "stage_0_block_1",
        4: "stage_1_block_1",
    }
    tfft.unfreeze(model, "stem")
    assert len(model.trainable_weights) == 4


def test_a_block_of_statistics_joins_its_neighbour():
    norm = keras.layers.Normalization(name="pixels")
    norm.adapt(np.ones((2, 8, 8, 3)))
    layers = [keras.layers.Conv2D(2, 3, name=f"block{i}_conv") for i in range(2)]
    model = keras.Sequential([keras.Input((8, 8, 3)), norm, *layers])
    assert names_of(blocks_of(model)) == ["block0", "block1"]
    assert [len(block.variables) for block in blocks_of(model)] == [5, 2]
