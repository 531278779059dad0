"""Graphs of TensorFlow 1: tables, loops and conditions in the old form, and variables without names."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf1_models

from tfft.backbones.savedmodel import open_savedmodel
from tfft.backbones.savedmodel.resources import check_carried
from tfft.errors import SavedModelError


def opened_and_original(tmp_path, make):
    path = tmp_path / make.__name__
    tf1_models.save(path, make)
    return open_savedmodel(path, name="m"), tf.saved_model.load(str(path)).signatures["serving_default"]


def inputs_like(model):
    return np.random.default_rng(5).normal(size=(3, *model.input.shape[1:])).astype("float32")


def ops_of(model):
    graphs = [layer._graphs.value[0].graph_def for layer in model.layers[1:]]
    return {node.op for g in graphs for nodes in [g.node, *(f.node_def for f in g.library.function)] for node in nodes}


@pytest.mark.daily("loop", "loop_of_references", "phase")
@pytest.mark.parametrize("name", ["loop", "loop_of_references", "nested", "phase"])
def test_loops_and_conditions_of_tf1_compute_the_same_and_train(tmp_path, name):
    opened, original = opened_and_original(tmp_path, getattr(tf1_models, name))
    model = opened.model
    x = inputs_like(model)
    expected = original(tf.constant(x))["y"].numpy()
    np.testing.assert_allclose(model(x), expected, atol=1e-6)
    assert not ops_of(model) & {"Enter", "Merge", "Switch", "NextIteration", "Exit", "LoopCond"}
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again(x), expected, atol=1e-6)
    before = again.get_weights()
    again.compile(keras.optimizers.SGD(0.1), "mse")
    again.fit(x, expected + 1, verbose=0)
    assert len(before) == 2
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, again.get_weights(), strict=True))


@pytest.mark.slow
def test_gradients_of_a_loop_are_right(tmp_path):
    model = opened_and_original(tmp_path, tf1_models.loop)[0].model
    x = tf.constant(inputs_like(model))
    w, k = (v.value for v in model.trainable_variables)
    with tf.GradientTape() as ours:
        y = model(x)
    with tf.GradientTape() as written:
        h = x
        for _ in range(3):
            h = tf.tanh(h @ w)
        z = h @ k
    for a, b in zip(ours.gradient(y, [w, k]), written.gradient(z, [w, k]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_a_loop_that_cannot_be_differentiated_is_frozen_for_good(tmp_path):
    opened, original = opened_and_original(tmp_path, tf1_models.recurrent)
    x = inputs_like(opened.model)
    np.testing.assert_allclose(opened.model(x), original(tf.constant(x))["y"], atol=1e-6)
    assert not opened.model.trainable_variables
    assert len(opened.model.variables) == 2
    assert any("can only be used frozen" in note for note in opened.notes)


def test_the_learning_phase_is_folded(tmp_path):
    model = opened_and_original(tmp_path, tf1_models.phase)[0].model
    assert [layer.name for layer in model.layers[1:]] == ["dense", "dense_1"]
    assert not ops_of(model) & {"If", "StatelessIf", "RandomUniform", "PlaceholderWithDefault"}


def test_a_table_that_is_a_node_travels_with_the_layer(tmp_path):
    model = opened_and_original(tmp_path, tf1_models.table)[0].model
    assert "HashTableV2" not in ops_of(model)
    assert len(model.layers[-1].get_config()["tables"]) == 1
    words = tf.constant(["b", "a", "?"])
    np.testing.assert_array_equal(model(words), model.variables[0].numpy()[[2, 1, 0]])


@pytest.mark.nightly
def test_a_table_of_tf1_works_in_a_fresh_process(tmp_path):
    model = opened_and_original(tmp_path, tf1_models.table)[0].model
    model.save(tmp_path / "m.keras")
    code = (
        "import sys, keras, tensorflow as tf, tfft; m = keras.saving.load_model(sys.argv[1]);"
        "print(float(tf.reduce_sum(m(tf.constant(['b', 'a', '?'])))))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.keras")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == pytest.approx(float(np.sum(model.variables[0].numpy())), abs=1e-5)


def test_what_is_not_carried_is_seen_when_a_block_is_made(tmp_path):
    graph = tf.compat.v1.GraphDef()
    node = graph.node.add(name="vocabulary", op="HashTableV2")
    with pytest.raises(SavedModelError, match=r"block 'a' depends on .*vocabulary \(HashTableV2\)"):
        check_carried(graph, "block 'a'")
    (tmp_path / "saved_model.pb").write_bytes(b"")
    (tmp_path / "assets").mkdir()
    asset = tmp_path / "assets" / "words.txt"
    asset.write_text("a\n")
    node.op = "Const"
    node.attr["dtype"].type = tf.string.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(str(asset)))
    with pytest.raises(SavedModelError, match=r"vocabulary \(the file .*words.txt\)"):
        check_carried(graph, "block 'a'")
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto("/"))  # a separator, and no file
    check_carried(graph, "block 'a'")


def test_a_bias_belongs_to_its_product_and_layers_without_names_are_numbered(tmp_path):
    model = opened_and_original(tmp_path, tf1_models.bare_names)[0].model
    assert [layer.name for layer in model.layers[1:]] == ["conv", "conv_1", "dense", "dense_1"]
    assert [len(layer.weights) for layer in model.layers[1:]] == [2, 2, 2, 2]


def test_only_what_is_left_out_is_noted(tmp_path):
    opened = opened_and_original(tmp_path, tf1_models.beside)[0]
    assert [n for n in opened.notes if "left out" in n] == [
        "1 variable does not contribute to output 'y' and is left out (unused)."
    ]
