"""SavedModels that were saved while a part was frozen, as in the middle of transfer learning: all of it can train."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras2

import tfft
from tfft import heads
from tfft.backbones.savedmodel import open_savedmodel

L = keras2.layers


def network():
    keras2.utils.set_random_seed(3)
    image = keras2.Input((8, 8, 3))
    x = L.BatchNormalization(name="block1_bn")(L.Conv2D(4, 3, name="block1_conv")(image))
    x = L.BatchNormalization(name="block2_bn")(L.Conv2D(4, 3, name="block2_conv")(x))
    return keras2.Model(image, L.Dense(2, name="block3_dense")(L.GlobalAveragePooling2D()(x)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Keras 2 models with the first block, half of the first block, or everything frozen."""
    place = tmp_path_factory.mktemp("frozen")
    frozen = {"block": ["block1_conv", "block1_bn"], "half": ["block1_conv"], "all": None}
    for name, layers in frozen.items():
        model = network()
        for layer in model.layers if layers is None else map(model.get_layer, layers):
            layer.trainable = False
        model.save(place / name, save_format="tf")
    return place


def weights(model, block):
    layer = model.get_layer(block)
    return dict(zip(layer.variable_names, [v.numpy() for v in layer.weights], strict=True))


def fitted(model):
    model.compile(keras.optimizers.SGD(0.1), "mse")
    random = np.random.default_rng(1)
    model.fit(random.normal(size=(8, 8, 8, 3)).astype("f"), random.normal(size=(8, 2)).astype("f"), verbose=0)
    return model


def changed(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.slow
def test_a_block_opens_as_it_was_saved_and_a_note_names_it(saved):
    opened = open_savedmodel(saved / "block")
    assert [layer.trainable for layer in opened.model.layers[1:]] == [False, True, True]
    assert any("Frozen when the model was saved" in note and "block1." in note for note in opened.notes)
    before = weights(opened.model, "block1")
    fitted(opened.model)
    assert not changed(before, weights(opened.model, "block1"))


@pytest.mark.slow
def test_what_was_frozen_trains_once_it_is_unfrozen(saved, tmp_path):
    model = open_savedmodel(saved / "block").model
    tfft.unfreeze(model, "all")
    model.save(tmp_path / "unfrozen.keras")
    model = keras.saving.load_model(tmp_path / "unfrozen.keras")
    before = weights(model, "block1")
    fitted(model)
    moved = changed(before, weights(model, "block1"))
    # The bias in front of a fixed BatchNorm trains too; statistics never do.
    assert {name.split("/")[-1] for name in moved} == {"kernel", "bias", "gamma", "beta"}
    tfft.freeze(model)
    assert not model.get_layer("block1").trainable_weights


@pytest.mark.nightly
def test_a_block_that_was_frozen_in_part_opens_so(saved):
    model = open_savedmodel(saved / "half").model
    before = weights(model, "block1")
    fitted(model)
    moved = changed(before, weights(model, "block1"))
    assert {name.split("/")[-1] for name in moved} == {"gamma", "beta"}
    tfft.unfreeze(model, "block1")
    before = weights(model, "block1")
    fitted(model)
    assert "kernel" in {name.split("/")[-1] for name in changed(before, weights(model, "block1"))}


def test_a_model_that_was_frozen_wholly_can_be_built_and_trained(saved):
    backbone = tfft.load_backbone(str(saved / "all"), input_range=(0, 1))
    assert sum(block.trainable_parameters for block in backbone.blocks) == 0
    model = tfft.build(backbone, heads.classification(["a", "b"]))
    tfft.unfreeze(model, 1)
    assert [block.name for block in backbone.blocks if block.trainable_parameters] == ["block3"]


def test_a_statistic_with_the_flag_of_a_weight_stays_fixed(tmp_path):
    class Norm(tf.Module):
        def __init__(self):
            self.w = tf.Variable(tf.ones([4, 3]), name="block0/w")
            self.mean = tf.Variable(tf.ones([3]), name="block0/moving_mean")
            self.variables_ = [self.w, self.mean]

        @tf.function(input_signature=[tf.TensorSpec([None, 4])])
        def __call__(self, x):
            return x @ self.w - self.mean

    root = tf.train.Checkpoint()
    root.norm = Norm()
    root.__call__ = root.norm.__call__
    root.variables, root.trainable_variables = [root.norm.w, root.norm.mean], [root.norm.w]
    tf.saved_model.save(root, str(tmp_path / "norm"))
    model = open_savedmodel(tmp_path / "norm").model
    tfft.unfreeze(model, "all")
    assert [v.name for v in model.trainable_weights] == ["block0.w"]
