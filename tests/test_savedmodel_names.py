"""Names of inputs, outputs, blocks and parts of opened SavedModels."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras2

import tfft
from tfft.backbones.savedmodel import open_savedmodel
from tfft.errors import BackboneError, SavedModelError

L = keras2.layers


def mixed_table(kind):
    """Two inputs and two outputs, of shapes that fit each other."""
    layers = kind.layers
    width, age = kind.Input((4,), name="width"), kind.Input((4,), name="age")
    x = layers.Concatenate(name="join")([layers.Dense(5, name="hidden1")(width), age])
    return kind.Model([width, age], [layers.Dense(2, name="price")(x), layers.Dense(2, name="colour")(x)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    place = tmp_path_factory.mktemp("names")
    keras2.utils.set_random_seed(2)
    model = mixed_table(keras2)
    model.save(place / "table", save_format="tf")
    mixed_table(keras).export(place / "table3", verbose=False)
    root = tf.Module()
    for name, width in (("query_model", 5), ("candidate_model", 3)):
        layers = [L.Dense(width, input_shape=(4,), name="dense_hidden"), L.Dense(2, name="dense_out")]
        setattr(root, name, keras2.Sequential(layers))
    tf.saved_model.save(root, str(place / "towers"))
    return place, model, root


@pytest.mark.slow
def test_inputs_and_outputs_have_the_names_of_the_signature(saved):
    place, model, _ = saved
    random = np.random.default_rng(0)
    table = {name: random.normal(size=(3, 4)).astype("float32") for name in ("width", "age")}
    theirs = dict(zip(["price", "colour"], model([table["width"], table["age"]]), strict=True))
    for name, number in (("price", "0"), ("colour", "1")):
        for output in (name, number):
            opened = open_savedmodel(place / "table", output=output)
            assert opened.output == name
            assert {tensor.name for tensor in opened.model.inputs} == {"width", "age"}
            np.testing.assert_allclose(opened.model(table), theirs[name], atol=1e-6)
    with pytest.raises(
        BackboneError, match=r"choose one with output=. It has: price \(None, 2\) float32, colour \(None, 2\)"
    ):
        open_savedmodel(place / "table")
    assert open_savedmodel(place / "table3", output="output_1").output == "output_1"


@pytest.mark.slow
def test_models_below_the_root_open_by_name(saved):
    place, _, root = saved
    with pytest.raises(SavedModelError, match="with signature=: candidate_model, query_model"):
        open_savedmodel(place / "towers")
    with pytest.raises(BackboneError, match="Did you mean 'query_model'"):
        open_savedmodel(place / "towers", signature="query")
    opened = open_savedmodel(place / "towers", signature="query_model")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    np.testing.assert_allclose(opened.model(x), root.query_model(x), atol=1e-6)
    assert [layer.name for layer in opened.model.layers[1:]] == ["dense_hidden", "dense_out"]


def test_the_quantizer_at_the_end_is_no_block_of_its_own(tmp_path):
    class Quantized(tf.Module):
        def __init__(self):
            self.kernels = [
                tf.Variable(tf.ones([4, 4]) * 0.1, name=f"quant_{name}/kernel") for name in ("first", "last")
            ]
            self.limit = tf.Variable(6.0, trainable=False, name="quant_output/output_max")

        @tf.function(input_signature=[tf.TensorSpec([None, 4])])
        def __call__(self, x):
            for kernel in self.kernels:
                x = tf.nn.relu(x @ kernel)
            return tf.quantization.fake_quant_with_min_max_vars(x, 0.0, self.limit)

    tf.saved_model.save(Quantized(), str(tmp_path / "quantized"))
    model = open_savedmodel(tmp_path / "quantized").model
    assert [layer.name for layer in model.layers[1:]] == ["quant_first", "quant_last"]
    tfft.unfreeze(model, 1)
    assert [v.name for v in model.trainable_weights] == ["quant_last.kernel"]


@pytest.mark.slow
def test_a_model_in_one_block_says_why(tmp_path):
    a = keras2.Input((4,))
    branches = [L.Dense(3, name=f"{side}_branch")(a) for side in ("left", "middle", "right")]
    keras2.Model(a, L.Add()(branches)).save(tmp_path / "branches", save_format="tf")
    (block,) = tfft.load_backbone(tmp_path / "branches").blocks
    assert "no single tensor" in block.note
