"""Kinds of SavedModels that strangers publish: open, with the right pixels, and whole in a file of their own."""

from __future__ import annotations

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from found_models import FOUND

import tfft
from tfft import testing
from tfft.errors import BackboneError, SavedModelError, UnsafeModelError


@pytest.mark.representative("no_batch")
@pytest.mark.daily("quantization_aware", "tf1_labelled_iterator", "two_towers")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", FOUND)
def test_a_kind_that_strangers_publish_is_right_once_it_is_open(name, tmp_path):
    kind = FOUND[name]
    kind.make(tmp_path / "m")
    backbone = tfft.load_backbone(tmp_path / "m", **kind.options)
    if kind.value_range is not None:
        assert backbone.input_spec.value_range == kind.value_range
    assert backbone.can_train == kind.trains
    x = keras.tree.map_structure(tf.constant, (kind.inputs or (lambda: testing.sample_inputs(backbone.model, 4)))())
    wanted = backbone.model(x)
    assert len(wanted) == 4
    assert kind.width in (None, wanted.shape[-1])
    shutil.rmtree(tmp_path / "m")
    backbone.model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again(x), wanted, rtol=1e-4, atol=1e-5)


def _closed(function, weight):
    return lambda x: function(x, weight)


def _saved(folder, **signatures):
    root = tf.Module()
    root.w = tf.Variable(tf.ones([2, 3]), name="dense/kernel")
    specs = [tf.TensorSpec([None, 2], name="x")]
    functions = {name: tf.function(_closed(f, root.w), input_signature=specs) for name, f in signatures.items()}
    for name, function in functions.items():
        setattr(root, name, function)
    tf.saved_model.save(root, str(folder), functions)


def test_one_number_for_each_example_is_a_feature(tmp_path):
    FOUND["one_number_out"].make(tmp_path / "m")
    model = tfft.build(tfft.load_backbone(tmp_path / "m"), tfft.heads.classification(["a", "b"]))
    assert model(tf.constant([0.5, -1.0, 2.0])).shape == (3, 2)


@pytest.mark.daily("draws_its_code")
@pytest.mark.parametrize("name", ["draws_its_code", "keras3_draws_its_code"])
def test_noise_of_an_autoencoder_is_left_at_its_mean(name, tmp_path):
    FOUND[name].make(tmp_path / "m")
    backbone = tfft.load_backbone(tmp_path / "m")
    assert any("adds random numbers" in note and "mean, 0" in note for note in backbone.notes)
    x = np.tile([[0.3, -1.0, 2.0, 0.7]], [4, 1]).astype("float32")
    found = backbone.model(x).numpy()
    np.testing.assert_allclose(found, np.tile(found[:1], [4, 1]), atol=1e-6)  # the noise differs from row to row
    if name == "draws_its_code":  # linear in the noise, so that its mean is what many draws come to
        drawn = tf.reduce_mean(tf.saved_model.load(str(tmp_path / "m"))(np.tile(x[:1], [40_000, 1])), 0)
        np.testing.assert_allclose(found[0], drawn, atol=0.1)


@pytest.mark.nightly
def test_augmentation_that_stays_on_in_inference_does_nothing_once_it_is_open(tmp_path):
    FOUND["keras3_augmentation"].make(tmp_path / "m")
    backbone = tfft.load_backbone(tmp_path / "m")
    assert any("augments its inputs at random in inference" in note for note in backbone.notes)
    x = np.random.default_rng(0).uniform(0, 255, [1, 16, 16, 3]).astype("float32")
    conv, dense = (
        [next(v for v in backbone.model.variables if v.path.endswith(f"{layer}.{part}")) for part in ("kernel", "bias")]
        for layer in ("conv1", "embedding")
    )
    maps = tf.reduce_mean(tf.nn.conv2d(x / 255, conv[0].value, 1, "VALID") + conv[1].value, (1, 2))
    np.testing.assert_allclose(backbone.model(x), maps @ dense[0].value + dense[1].value, atol=1e-3)


def test_random_numbers_that_have_no_mean_are_named_with_the_blocks_in_front_of_them(tmp_path):
    _saved(tmp_path, serving_default=lambda x, w: _dropped(x @ w) @ tf.transpose(w))
    with pytest.raises(SavedModelError, match=r"draws random numbers in inference \(RandomUniform.*Another output"):
        tfft.load_backbone(tmp_path)


def test_a_state_that_every_call_changes_is_named(tmp_path):
    root = tf.Module()
    root.w = tf.Variable(tf.ones([2, 3]), name="dense/kernel")
    root.state = tf.Variable(tf.zeros([3]), trainable=False, name="lstm/state")
    specs = [tf.TensorSpec([None, 2], name="x")]
    root.run = tf.function(lambda x: x @ root.w + root.state.assign_add(tf.ones([3])), input_signature=specs)
    tf.saved_model.save(root, str(tmp_path), {"serving_default": root.run})
    with pytest.raises(SavedModelError, match=r"changes its own variables .*lstm/state.*stateful=False"):
        tfft.load_backbone(tmp_path)


def _dropped(x):
    return x * tf.cast(tf.random.uniform(tf.shape(x)) > 0.5, tf.float32)


def test_a_module_whose_function_was_never_saved_says_so(tmp_path):
    root = tf.Module()
    root.conv1 = tf.Variable(tf.ones([3, 3]))
    tf.saved_model.save(root, str(tmp_path))
    with pytest.raises(SavedModelError, match=r"holds no function, .* was never saved\. .*signatures=tf\.function"):
        tfft.load_backbone(tmp_path)


def _without_unknown(folder, clean):
    """Saves a model of words whose embedding has no row for words that its table does not know."""
    keys = tf.lookup.KeyValueTensorInitializer(["x", "y"], [0, 1], tf.string, tf.int32)
    table, rows = tf.lookup.StaticHashTable(keys, -1), tf.Variable(tf.random.stateless_normal([2, 3], [1, 2]))
    root = tf.Module()
    root.keep = [table, rows]
    words = tf.TensorSpec([None], tf.string, name="words")
    root.__call__ = tf.function(lambda words: tf.gather(rows, table.lookup(clean(words))), input_signature=[words])
    tf.saved_model.save(root, str(folder))


def test_a_table_without_a_row_for_the_unknown_is_opened_with_the_words_it_knows(tmp_path):
    _without_unknown(tmp_path / "m", tf.strings.lower)
    backbone = tfft.load_backbone(tmp_path / "m")
    assert any(
        n.startswith("WARNING: The model takes only words and numbers that its tables know") for n in backbone.notes
    )
    model = tfft.build(backbone, tfft.heads.classification(["a", "b"]))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    words = tf.constant(["y", "x", "X"])
    np.testing.assert_allclose(again(words), model(words), atol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="-1 is not in"):
        model(tf.constant(["z"]))


def test_a_table_without_a_row_for_the_unknown_is_named_where_its_words_are_not_found(tmp_path):
    _without_unknown(tmp_path, lambda words: tf.strings.join([words, "!"]))
    with pytest.raises(SavedModelError, match=r"fails on every input .* Its tables give -1 .*num_oov_indices=1"):
        tfft.load_backbone(tmp_path)


def test_missing_variables_and_pointers_in_their_place_are_named(tmp_path):
    _saved(tmp_path, serve=lambda x, w: x @ w)
    (data,) = (tmp_path / "variables").glob("variables.data-*")
    data.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 24\n")
    with pytest.raises(SavedModelError, match=r"data-00000-of-00001 is a pointer of Git LFS .*`git lfs pull`"):
        tfft.load_backbone(tmp_path)
    shutil.rmtree(tmp_path / "variables")
    with pytest.raises(SavedModelError, match=r"Received: no variables.index and no variables.data-\*"):
        tfft.load_backbone(tmp_path)
    (tmp_path / "saved_model.pb").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(SavedModelError, match="saved_model.pb is a pointer of Git LFS"):
        tfft.load_backbone(tmp_path)


def test_whole_numbers_without_scores_behind_them_are_no_features(tmp_path):
    _saved(tmp_path, serving_default=lambda x, w: {"y": tf.cast(x @ w, tf.int64)})
    with pytest.raises(BackboneError, match=r"gives no floating-point numbers.*output=: dense"):
        tfft.load_backbone(tmp_path)


def test_a_training_graph_without_a_signature_says_so(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        w = tf.compat.v1.get_variable("w", [2, 2], use_resource=False)
        tf.compat.v1.train.GradientDescentOptimizer(0.1).minimize(tf.reduce_sum(w))
        session.run(tf.compat.v1.global_variables_initializer())
        builder = tf.compat.v1.saved_model.builder.SavedModelBuilder(str(tmp_path / "m"))
        builder.add_meta_graph_and_variables(session, ["tag"])
        builder.save()
    with pytest.raises(UnsafeModelError, match=r"does not open it: it has no signature and no function"):
        tfft.load_backbone(tmp_path / "m")
