"""SavedModels that were saved for images of one size, opened for images of another."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfft
from tfft.errors import BackboneError
from tfft.recipes.preparing import open_backbone

L = keras.layers


def convolutions(size):
    """Convolutions in every form that keeps no size, with a gate as in squeeze-and-excite."""
    x = inputs = keras.Input((*size, 3))
    x = L.Conv2D(8, 3, strides=2, padding="same", activation="swish", name="block0_conv")(x)
    gate = L.Conv2D(8, 1, activation="sigmoid", name="block0_gate")(L.GlobalAveragePooling2D(keepdims=True)(x))
    x = L.Multiply()([x, gate])
    x = L.DepthwiseConv2D(3, strides=2, padding="same", name="block1_conv")(x)
    x = L.ReLU(6.0)(L.BatchNormalization(name="block1_bn")(x))
    x = L.MaxPooling2D(2, padding="same")(x)
    return keras.Model(inputs, L.Dense(5, name="block2_dense")(L.GlobalAveragePooling2D()(x)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model of images of 32 x 32 pixels, and one with its weights for any size."""
    keras.utils.set_random_seed(2)
    fixed, free = convolutions((32, 32)), convolutions((None, None))
    random = np.random.default_rng(0)
    free.set_weights([random.uniform(0.1, 0.6, w.shape).astype("float32") for w in free.get_weights()])
    fixed.set_weights(free.get_weights())
    folder = tmp_path_factory.mktemp("sizes") / "model"
    fixed.export(folder, verbose=False)
    return folder, free


@pytest.mark.slow
def test_convolutions_are_opened_for_another_size(saved, tmp_path):
    folder, free = saved
    backbone = tfft.load_backbone(folder, image_size=(48, 64))
    assert (backbone.input_spec.image_size, backbone.input_spec.flexible) == ((48, 64), True)
    assert "saved for images of 32 x 32 pixels; its convolutions take any size" in " ".join(backbone.notes)
    for size in ((48, 64), (32, 32), (37, 29)):
        images = np.random.default_rng(1).random((3, *size, 3)).astype("float32")
        np.testing.assert_allclose(backbone.model(images), free(images), atol=1e-5)
    backbone.model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(1).random((2, 48, 64, 3)).astype("float32")
    np.testing.assert_array_equal(loaded(images), backbone.model(images))


@pytest.mark.nightly
def test_its_maps_have_the_strides_of_the_new_size(saved):
    backbone = tfft.load_backbone(saved[0], image_size=64)
    maps = tfft.backbones.feature_maps(backbone, (96, 64))
    assert {stride: found.shape[:2] for stride, found in maps.items()}.items() >= {2: (48, 32)}.items()


@pytest.mark.slow
def test_without_a_size_it_keeps_its_own(saved):
    backbone = tfft.load_backbone(saved[0])
    assert (backbone.input_spec.image_size, backbone.input_spec.flexible) == ((32, 32), False)
    assert not any("any size" in note for note in backbone.notes)


@pytest.mark.slow
def test_a_dense_task_opens_it_for_the_size_of_the_images(saved):
    sizes = {
        task: open_backbone(saved[0], tfft.RunConfig(), task, (96.0, 130.0)).input_spec.image_size
        for task in ("classification", "object_detection")
    }
    assert sizes == {"classification": (32, 32), "object_detection": (96, 128)}


def flattened(x):
    return L.Dense(4)(L.Flatten()(x))


def positions(x):
    return x + tf.constant(np.random.default_rng(0).random((1, 16, 16, 8)), tf.float32)


def tokens(x):
    return L.Reshape((256, 8))(x)


@pytest.mark.parametrize(("end", "reason"), [(flattened, r"\(Reshape\)"), (positions, "16"), (tokens, r"\(Reshape\)")])
def test_what_knows_its_size_is_refused_with_the_reason(end, reason, tmp_path):
    inputs = keras.Input((32, 32, 3))
    x = L.Conv2D(8, 3, strides=2, padding="same")(inputs)
    keras.Model(inputs, end(x)).export(tmp_path / "model", verbose=False)
    with pytest.raises(
        BackboneError, match=rf"images of 32 x 32 pixels only.*cannot be used at another size.*{reason}"
    ):
        tfft.load_backbone(tmp_path / "model", image_size=64)
    opened = open_backbone(tmp_path / "model", tfft.RunConfig(), "semantic_segmentation", (64.0, 64.0))
    assert opened.input_spec.image_size == (32, 32)  # the size that suits the task is a wish
