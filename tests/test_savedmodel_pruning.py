"""Code that no prediction runs is cut out of a SavedModel, and the rest opens; what reaches it is refused."""

from __future__ import annotations

import gc
import re

import hostile_models
import hostile_parts
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfft.backbones import load_backbone
from tfft.backbones.savedmodel.loading import load
from tfft.errors import BackboneError, DependencyError, SavedModelError, UnsafeModelError

v1 = tf.compat.v1


def adapt_step(path):
    """A function that nobody calls takes an iterator, as Keras 2 writes it for Normalization."""
    module = tf.Module()
    module.kernel = tf.Variable(tf.random.stateless_normal([4, 3], [1, 2]), name="kernel")
    module.__call__ = tf.function(lambda x: x @ module.kernel, input_signature=[tf.TensorSpec([None, 4])])
    spec = tf.data.IteratorSpec(tf.TensorSpec([None, 4]))
    module.adapt_step = tf.function(lambda iterator: tf.reduce_sum(iterator.get_next()), input_signature=[spec])
    module.adapt_step.get_concrete_function()
    tf.saved_model.save(module, str(path))


def keras2_lookup(path):
    """Tables among the variables, which are None when they are restored."""
    look = tf_keras.layers.StringLookup(output_mode="one_hot")
    look.adapt([["a"], ["b"]])
    words = tf_keras.Input((1,), dtype="string")
    tf_keras.Model(words, tf_keras.layers.Dense(2)(look(words))).save(path, save_format="tf")


def on_device(path):
    """Signatures that save and infer, as LiteRT's guide to training on devices makes them."""
    module = tf.Module()
    module.kernel = tf.Variable(tf.random.stateless_normal([4, 3], [1, 2]), name="kernel")
    infer = tf.function(lambda x: {"y": x @ module.kernel}, input_signature=[tf.TensorSpec([None, 4], name="x")])

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def save(path):
        tf.raw_ops.Save(filename=path, tensor_names=["kernel"], data=[module.kernel.read_value()])
        return {"path": path}

    module.infer, module.save = infer, save
    tf.saved_model.save(module, str(path), signatures={"infer": infer, "save": save})


def _tf1(path, extra):
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], "x")
        y = x @ v1.get_variable("w", [4, 3], use_resource=True)
        extra(y)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path), {"x": x}, {"y": y})


def tf1_reference_optimizer(path):
    """Optimizers of reference variables have operations of their own."""
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], "x")
        y = x @ v1.get_variable("w", [4, 3], use_resource=False)
        v1.train.GradientDescentOptimizer(0.1).minimize(tf.reduce_sum(y))
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path), {"x": x}, {"y": y})


def tf1_summaries(path):
    _tf1(path, lambda y: v1.summary.scalar("mean", tf.reduce_mean(y)))


def tf1_input_pipeline(path):
    dataset = lambda: v1.data.Dataset.from_tensor_slices(tf.ones([8, 4])).batch(2)  # noqa: E731
    _tf1(path, lambda y: v1.data.make_initializable_iterator(dataset()).get_next())


def tf1_copied_inputs(path):
    """The signature names a copy of what the pipeline gives, which nothing reads."""
    with v1.Graph().as_default(), v1.Session() as session:
        data = v1.data.Dataset.from_tensor_slices(tf.ones([8, 4])).batch(2)
        x = v1.data.make_initializable_iterator(data).get_next()
        y = x @ v1.get_variable("w", [4, 3])
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path), {"x": tf.identity(x, "inputs")}, {"y": y})


LEFT_OUT = {
    adapt_step: r"adapt_step \(IteratorGetNext\)",
    keras2_lookup: r"_adapt_function \(.*IteratorGetNext\)",
    on_device: r"save \(Save\)",
    tf1_reference_optimizer: r"operations that nothing needs \(ApplyGradientDescent\)",
    tf1_summaries: r"operations that nothing needs \(ScalarSummary\)",
    tf1_input_pipeline: r"operations that nothing needs \(BatchDatasetV2, IteratorGetNext",
}


@pytest.mark.representative("on_device", "tf1_reference_optimizer", "tf1_summaries", "tf1_input_pipeline")
@pytest.mark.daily("adapt_step")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("make", LEFT_OUT, ids=lambda make: make.__name__)
def test_it_opens_without_what_is_never_run(tmp_path, make):
    make(tmp_path / "m")
    backbone = load_backbone(tmp_path / "m")
    [note] = [note for note in backbone.notes if note.startswith("Left out")]
    assert re.search(LEFT_OUT[make], note), note
    trusted = load_backbone(tmp_path / "m", trust=True)
    assert not [note for note in trusted.notes if note.startswith("Left out")]
    inputs = np.array([["a"], ["c"]]) if make is keras2_lookup else np.random.default_rng(0).normal(size=(5, 4))
    inputs = tf.constant(inputs, backbone.model.inputs[0].dtype)
    np.testing.assert_array_equal(backbone.model(inputs), trusted.model(inputs))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_inputs_that_no_output_reads_are_named(tmp_path):
    tf1_copied_inputs(tmp_path / "m")
    with pytest.raises(UnsafeModelError, match=r"no output reads the inputs of .* 'serving_default' \(inputs"):
        load_backbone(tmp_path / "m")


@pytest.mark.slow
def test_what_was_left_out_is_not_in_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    hostile_models.with_step(tmp_path / "m", str(tmp_path / "target"))
    loaded, [note] = load(tmp_path / "m", None, trust=False)
    assert "step (WriteFile)" in note
    assert not hasattr(loaded, "step")
    [copy] = tmp_path.glob("tfft-savedmodel-*")
    assert b"WriteFile" in (tmp_path / "m" / "saved_model.pb").read_bytes()
    assert b"WriteFile" not in (copy / "saved_model.pb").read_bytes()
    trusted, notes = load(tmp_path / "m", None, trust=True)
    assert hasattr(trusted, "step")
    assert not notes
    assert not (tmp_path / "target").exists()
    del loaded  # and the copy with it
    gc.collect()
    assert not copy.exists()


def test_an_endpoint_that_is_asked_for_is_not_left_out(tmp_path):
    hostile_models.with_step(tmp_path / "m", str(tmp_path / "target"), serving_default="__call__", train="step")
    assert load_backbone(tmp_path / "m", signature="serving_default").blocks
    for name in ("train", "step"):
        with pytest.raises(UnsafeModelError, match="WriteFile"):
            load_backbone(tmp_path / "m", signature=name)


class Normal(tf.experimental.ExtensionType):
    __name__ = "own.distributions.Normal"
    mean: tf.Tensor


def test_a_missing_package_is_named(tmp_path):
    """A function that gives a type of TensorFlow Probability, which TensorFlow leaves out without the package."""
    module = tf.Module()
    module.__call__ = tf.function(lambda x: Normal(x * 2.0), input_signature=[tf.TensorSpec([None, 2])])
    tf.saved_model.save(module, str(tmp_path / "m"))
    file = tmp_path / "m" / "saved_model.pb"
    file.write_bytes(file.read_bytes().replace(b"own.distributions.Normal", b"tfp.distributions.Normal"))
    with pytest.raises(
        DependencyError, match=r"types of tensorflow-probability. .*`pip install tensorflow-probability`"
    ):
        load_backbone(tmp_path / "m")


def test_a_missing_package_of_an_operation_is_named(tmp_path):
    hostile_models.with_step(tmp_path / "m", str(tmp_path / "target"))
    with hostile_models.changed(tmp_path / "m") as meta:
        body = next(f for f in meta.graph_def.library.function if "inference___call__" in f.signature.name)
        body.node_def.add(name="forest", op="SimpleMLInferenceOp")
    with pytest.raises(UnsafeModelError, match=r"SimpleMLInferenceOp .* the package tensorflow_decision_forests"):
        load_backbone(tmp_path / "m")


@pytest.mark.parametrize("name", hostile_parts.REACHED)
def test_a_part_that_is_reached_after_all_is_refused(tmp_path, monkeypatch, name):
    options = hostile_parts.make(name, tmp_path / "m", str(tmp_path / "target"))
    if name == "by_a_path":  # which the rest of the model does not have
        with pytest.raises(BackboneError, match="no signature 'keep.write'"):
            load_backbone(tmp_path / "m", **options)
        return
    monkeypatch.setattr(tf.saved_model, "load", lambda *a, **k: pytest.fail("it was loaded"))
    with pytest.raises(UnsafeModelError, match=r"WriteFile \(__inference_write_.*: writes files\)"):
        load_backbone(tmp_path / "m", **options)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("name", hostile_parts.TF1)
def test_a_node_that_is_reached_after_all_is_refused(tmp_path, name):
    hostile_parts.TF1[name](tmp_path / "m", str(tmp_path / "target"))
    with pytest.raises(UnsafeModelError, match=r"(WriteFile|ReadFile) \(hidden: (writes|reads) files\)"):
        load_backbone(tmp_path / "m")
    assert not (tmp_path / "target").exists()


def test_a_pipeline_in_front_of_what_is_fed_does_not_exist_in_the_process(tmp_path):
    hostile_parts.file_in_front(tmp_path / "m")
    loaded, [note] = load(tmp_path / "m", None, trust=False)
    assert "what is in front of the input 'images' (ReadFile)" in note
    kinds = {op.name: op.type for op in loaded.graph.get_operations()}
    assert kinds["images"] == "Placeholder"
    assert "ReadFile" not in kinds.values()


@pytest.mark.parametrize("make", hostile_parts.NAMED_LIKE_A_SAVER, ids=lambda make: make.__name__)
def test_a_value_is_never_taken_from_what_only_has_its_name(tmp_path, make):
    make(tmp_path / "m", str(tmp_path / "target"))
    with pytest.raises(SavedModelError, match="value of '.*PartitionedCall.* cannot be read"):
        load_backbone(tmp_path / "m")
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


def test_only_the_meta_graph_that_is_loaded_counts(tmp_path):
    hostile_parts.two_meta_graphs(tmp_path / "m", str(tmp_path / "target"))
    with pytest.raises(UnsafeModelError, match=r"WriteFile \(hidden: writes files\)"):
        load_backbone(tmp_path / "m", tags=["train"])
    assert "the meta graph ['train']" in " ".join(load_backbone(tmp_path / "m").notes)
