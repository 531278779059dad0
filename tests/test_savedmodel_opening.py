"""Opening SavedModels of many makes: same numbers, sensible blocks, and clear refusals."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import savedmodels
import tensorflow as tf

import tfft
from tfft import testing
from tfft.backbones.base import Backbone
from tfft.backbones.savedmodel import open_savedmodel
from tfft.backbones.savedmodel.layer import SavedModelBlock
from tfft.errors import BackboneError, BlockError, SavedModelError, UnsafeModelError

OUTPUT = {"signature_only": "features"}
BLOCKS = {
    "plain_convnet": ["stem", "block0", "block1", "block2", "head"],
    "residual": ["stem", "block0", "block1", "block2"],
    "depthwise": ["stem", "block0", "block1"],
    "branches": ["stem", "mixed0", "mixed1"],
    "swish": ["block0", "block1", "block2"],
    "dropout_and_batchnorm": ["block0", "block1", "block2"],
    "transformer": ["embeddings", "transformer_layer_0", "transformer_layer_1", "pooler"],
    "tied_weights": ["model"],
    "weight_norm": ["block0", "block1", "block2"],
    "lstm": ["block0", "block1", "head"],
    "lookup": ["embeddings"],
    "keras3_export": ["stem", "block0", "block1", "block2", "head"],
    "signature_only": ["stem", "block0", "block1", "block2", "head"],
    "slim_tf1": ["block1_unit_1", "block1_unit_2", "block2_unit_1", "block2_unit_2"],
    "slim_tf1_reference": ["block1_unit_1", "block1_unit_2", "block2_unit_1", "block2_unit_2"],
}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Makes each SavedModel once, on demand."""
    folder = tmp_path_factory.mktemp("savedmodels")

    def make(name: str) -> pathlib.Path:
        path = folder / name
        if not path.exists():
            savedmodels.MAKERS[name](path)
        return path

    return make


def blocks_of(model: keras.Model) -> list[SavedModelBlock]:
    return [layer for layer in model.layers if isinstance(layer, SavedModelBlock)]


def original(path: pathlib.Path, name: str):
    """The SavedModel as TensorFlow runs it, without anything of tfft."""
    if name.startswith("slim"):
        loaded = tf.saved_model.load(str(path), tags=[])
        return lambda x: loaded.signatures["default"](images=x)["default"]
    loaded = tf.saved_model.load(str(path))

    def call(x):
        if name == "signature_only":
            return loaded.signatures["serving_default"](pixels=tf.constant(x))["features"]
        if name == "keras3_export":
            return loaded.serve(x)
        result = loaded(keras.tree.map_structure(tf.constant, x))
        return result["default"] if isinstance(result, dict) else result

    call.keep = loaded
    return call


def open_one(path: pathlib.Path, **kwargs):
    return open_savedmodel(path, output=OUTPUT.get(path.name), **kwargs)


@pytest.mark.daily("plain_convnet", "slim_tf1", "lookup")
@pytest.mark.parametrize("name", sorted(savedmodels.MAKERS))
def test_contract(made, name):
    path = made(name)
    opened = open_one(path)
    assert [layer.name for layer in blocks_of(opened.model)] == BLOCKS[name]
    backbone = Backbone(name, opened.model, str(path))
    reference = original(path, name)
    contract = testing.check_backbone(
        backbone, reference=lambda x: reference(keras.tree.map_structure(tf.constant, x)), tolerance=1e-6
    )
    assert "output equals the original" in contract.passed
    assert "loss falls when all trains" in contract.passed
    assert not contract.refused


@pytest.mark.nightly
def test_contract_notices_a_wrong_backbone(made):
    opened = open_one(made("residual"))
    wrong = original(made("plain_convnet"), "plain_convnet")
    with pytest.raises(testing.ContractError, match="output equals the original"):
        testing.check_backbone(Backbone("mixed up", opened.model, ""), reference=lambda x: wrong(tf.constant(x))[:, :8])


def test_publisher_keeps_variables_fixed(made):
    (block, *_) = blocks_of(open_one(made("weight_norm")).model)
    block.trainable = True
    trainable = {n for n, v in zip(block.variable_names, block.weights, strict=True) if v.trainable}
    assert trainable == {"block0/conv/v", "block0/conv/g"}


@pytest.mark.slow
def test_selecting_variables_inside_a_block(made):
    block = blocks_of(open_one(made("plain_convnet")).model)[1]
    block.set_trainable_variables("norm")
    assert {v.name for v in block.trainable_weights} == {"block0_bn.gamma", "block0_bn.beta"}
    again = SavedModelBlock.from_config(block.get_config())
    assert [v.trainable for v in again.weights] == [v.trainable for v in block.weights]
    block.trainable = False
    assert block.trainable_weights == []
    block.trainable = True
    assert len(block.trainable_weights) == 2
    with pytest.raises(BlockError, match=r"has no variable nothing\. It has: .*block0_conv/kernel"):
        block.set_trainable_variables(["nothing"])


@pytest.mark.daily("plain_convnet")
@pytest.mark.parametrize("name", ["plain_convnet", "residual", "branches", "depthwise"])
def test_training_graph_is_the_publishers(made, name):
    opened = open_one(made(name), batch_norm="train")
    x = tf.constant(testing.sample_inputs(opened.model, 8))
    theirs = tf.saved_model.load(str(made(name)))
    ours = opened.model(x, training=True)
    np.testing.assert_allclose(ours, theirs(x, training=True), atol=1e-6)
    assert np.abs(ours - opened.model(x, training=False)).max() > 0.01
    for layer in blocks_of(opened.model):  # both ran once: the moving statistics must agree too
        for path, value in zip(layer.variable_names, layer.weights, strict=True):
            want = next(v for v in theirs.variables if v.name.split(":")[0] == path)
            np.testing.assert_allclose(value, want, atol=1e-6, err_msg=path)


@pytest.mark.nightly
def test_only_trainable_blocks_move_their_statistics(made):
    model = open_one(made("residual"), batch_norm="train").model
    *frozen, last = blocks_of(model)
    for layer in frozen:
        layer.trainable = False
    before = {v.path: v.numpy() for v in model.weights}
    model.compile("adam", "mse")
    model.fit(testing.sample_inputs(model, 8), np.zeros((8, 8)), verbose=0)
    moved = {v.path for v in model.weights if not np.array_equal(before[v.path], v.numpy())}
    assert moved == {v.path for v in last.weights}
    assert any("moving_mean" in path for path in moved)


@pytest.mark.nightly
def test_statistics_stay_fixed_by_default(made):
    model = open_one(made("residual")).model
    before = {v.path: v.numpy() for v in model.weights}
    model.compile("adam", "mse")
    model.fit(testing.sample_inputs(model, 8), np.zeros((8, 8)), verbose=0)
    moved = {v.path for v in model.weights if not np.array_equal(before[v.path], v.numpy())}
    assert moved
    assert not any("moving" in path for path in moved)


@pytest.mark.nightly
def test_dropout_needs_to_be_asked_for_together_with_statistics(made):
    path = made("dropout_and_batchnorm")
    with pytest.raises(BackboneError, match="also draws random numbers.*backbone_dropout=True"):
        open_one(path, batch_norm="train")
    with pytest.raises(BackboneError, match="also moves 6 BatchNorm statistics.*batch_norm='train'"):
        open_one(path, backbone_dropout=True)
    model = open_one(path, batch_norm="train", backbone_dropout=True).model
    x = tf.constant(testing.sample_inputs(model, 4))
    assert np.abs(model(x, training=True) - model(x, training=True)).max() > 1e-3


@pytest.mark.slow
def test_dropout_of_a_transformer(made):
    model = open_one(made("transformer"), backbone_dropout=True).model
    x = keras.tree.map_structure(tf.constant, testing.sample_inputs(model, 4))
    assert np.abs(model(x, training=True) - model(x, training=True)).max() > 1e-3
    np.testing.assert_array_equal(model(x, training=False), model(x, training=False))


def test_training_graph_that_was_not_saved(made):
    with pytest.raises(BackboneError, match="which this SavedModel was saved without"):
        open_one(made("weight_norm"), batch_norm="train")
    with pytest.raises(BackboneError, match="Expected batch_norm='fixed' or 'train'"):
        open_one(made("weight_norm"), batch_norm="yes")


@pytest.mark.slow
def test_regularization_losses_follow_the_slice(made):
    model = open_one(made("plain_convnet")).model
    x = tf.constant(testing.sample_inputs(model, 2))
    model(x)
    kernels = [v for v in model.weights if v.path.endswith("kernel")]
    expected = 1e-4 * sum(float(tf.reduce_sum(v.value**2)) for v in kernels)
    assert sum(float(loss) for loss in model.losses) == pytest.approx(expected, rel=1e-5)
    for layer in blocks_of(model)[:-1]:
        layer.trainable = False
    model(x)
    assert len(model.losses) == 1


@pytest.mark.slow
def test_outputs_are_chosen_by_name(made):
    path = made("transformer")
    sequence = open_savedmodel(path, output="sequence_output")
    assert sequence.model.output.shape == (None, None, 8)
    assert [layer.name for layer in blocks_of(sequence.model)] == BLOCKS["transformer"][:-1]
    assert "1 variable does not contribute to output 'sequence_output'" in sequence.notes[0]
    first = open_savedmodel(path, output="encoder_outputs/0")
    assert [layer.name for layer in blocks_of(first.model)] == ["embeddings", "transformer_layer_0"]
    with pytest.raises(
        BackboneError, match=r"no output 'pooled_outptu'. Did you mean 'pooled_output'\? It has: .*\(None, 8\)"
    ):
        open_savedmodel(path, output="pooled_outptu")
    with pytest.raises(BackboneError, match=r"several outputs; choose one with output=. It has: features \(None, 12\)"):
        open_savedmodel(made("signature_only"))


@pytest.mark.slow
def test_wrong_signature_lists_what_there_is(made):
    with pytest.raises(BackboneError, match="no signature 'serv'. Did you mean 'serve'.*serving_default"):
        open_savedmodel(made("keras3_export"), signature="serv")


def test_meta_graphs_are_chosen_by_tags(made):
    opened = open_savedmodel(made("slim_tf1"), tags=["train"])
    assert len(blocks_of(opened.model)) == 4
    with pytest.raises(SavedModelError, match=r"no meta graph with tags \['gpu'\]. It has: \[\[\], \['train'\]\]"):
        open_savedmodel(made("slim_tf1"), tags=["gpu"])


@pytest.mark.slow
def test_image_size_of_a_flexible_model(made):
    model = open_one(made("plain_convnet")).model
    assert model.input.shape == (None, None, None, 3)
    theirs = tf.saved_model.load(str(made("plain_convnet")))
    for size in (16, 47):
        x = tf.random.stateless_uniform([2, size, size, 3], [1, 2])
        np.testing.assert_allclose(model(x), theirs(x, training=False), atol=1e-6)


@pytest.mark.nightly
@pytest.mark.process
def test_keras_file_loads_in_a_fresh_process_that_only_imports_tfft(made, tmp_path):
    model = open_one(made("lookup")).model
    model.layers[-1].set_trainable_variables("none")
    model.save(tmp_path / "words.keras")
    sentences = np.array(["good bad", "two unknown words"], dtype=object)
    np.save(tmp_path / "expected.npy", model(tf.constant(sentences)))
    code = (
        "import sys, tfft; assert 'keras' not in sys.modules; import keras, numpy as np, tensorflow as tf\n"
        f"m = keras.saving.load_model({str(tmp_path / 'words.keras')!r})\n"
        "assert not m.trainable_weights\n"
        "y = m(tf.constant(['good bad', 'two unknown words']))\n"
        f"np.testing.assert_array_equal(y, np.load({str(tmp_path / 'expected.npy')!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


class _StraightThrough(tf.Module):
    """Rounds in the forward pass and lets the gradient through: a custom gradient that differs on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.random.stateless_normal([6, 4], [1, 2]), name="block0/kernel")

    @tf.function(input_signature=[tf.TensorSpec([None, 6], tf.float32)])
    def __call__(self, x):
        @tf.custom_gradient
        def rounded(t):
            return tf.round(t), lambda upstream: upstream

        return rounded(x @ self.kernel)


def test_gradients_that_differ_on_purpose_freeze_the_model(tmp_path):
    tf.saved_model.save(
        _StraightThrough(),
        str(tmp_path / "rounding"),
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=True),
    )
    opened = open_savedmodel(tmp_path / "rounding")
    assert "custom gradients that differ" in opened.notes[-1]
    (block,) = blocks_of(opened.model)
    block.trainable = True
    assert block.trainable_weights == []
    with pytest.raises(BlockError, match="Nothing in the chosen blocks can train"):
        tfft.unfreeze(opened.model, "all")
    assert opened.model.trainable_weights == []


class _Writer(tf.Module):
    def __init__(self, target: str) -> None:
        super().__init__()
        self.target, self.kernel = target, tf.Variable(tf.ones([2, 2]))

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32)])
    def __call__(self, x):
        with tf.control_dependencies([tf.io.write_file(self.target, "written")]):
            return x @ self.kernel


def test_a_model_that_writes_files_is_not_loaded(tmp_path):
    target = tmp_path / "target.txt"
    tf.saved_model.save(_Writer(str(target)), str(tmp_path / "writer"))
    with pytest.raises(UnsafeModelError, match=r"WriteFile .*trust=True"):
        open_savedmodel(tmp_path / "writer")
    assert not target.exists()


class _Reader(tf.Module):
    def __init__(self, secret: str) -> None:
        super().__init__()
        self.secret, self.kernel = secret, tf.Variable(tf.ones([2, 2]), name="block0/kernel")

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32)])
    def __call__(self, x):
        return x @ self.kernel + tf.cast(tf.strings.length(tf.io.read_file(self.secret)), tf.float32)


def test_a_keras_file_with_a_hostile_block_is_refused(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("12345")
    tf.saved_model.save(_Reader(str(secret)), str(tmp_path / "reader"))
    model = open_savedmodel(tmp_path / "reader", trust=True).model
    np.testing.assert_array_equal(model(tf.zeros([1, 2])), [[5.0, 5.0]])
    model.save(tmp_path / "reader.keras")
    with pytest.raises((UnsafeModelError, TypeError), match="ReadFile"):
        keras.saving.load_model(tmp_path / "reader.keras")
    again = keras.saving.load_model(tmp_path / "reader.keras", safe_mode=False)
    np.testing.assert_array_equal(again(tf.zeros([1, 2])), [[5.0, 5.0]])


def test_what_is_no_savedmodel_says_so(tmp_path):
    with pytest.raises(SavedModelError, match=r"holds no saved_model.pb"):
        open_savedmodel(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xfe not a protobuf")
    with pytest.raises(SavedModelError, match="cannot be parsed|holds no model"):
        open_savedmodel(tmp_path)


@pytest.mark.slow
def test_an_export_of_a_frozen_model_opens_frozen_and_can_be_unfrozen(tmp_path):
    model = savedmodels.convnet()
    model.trainable = False
    model.export(tmp_path / "frozen", verbose=False)
    opened = open_savedmodel(tmp_path / "frozen")
    assert [layer.name for layer in blocks_of(opened.model)] == BLOCKS["plain_convnet"]
    assert opened.model.trainable_weights == []
    tfft.unfreeze(opened.model, 1)
    assert {v.name for v in opened.model.trainable_weights} == {"head_conv.kernel", "head_bn.gamma", "head_bn.beta"}


@pytest.mark.slow
def test_damaged_weights_are_reported(made, tmp_path):
    import shutil

    shutil.copytree(made("residual"), tmp_path / "damaged")
    (data,) = (tmp_path / "damaged" / "variables").glob("*.data-*")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(SavedModelError, match="TensorFlow cannot load"):
        open_savedmodel(tmp_path / "damaged")


def test_top_level_names_resolve():
    assert tfft.errors.SavedModelError is SavedModelError
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tfft.nonsense
