"""SavedModels that take serialized tf.Examples, and those that fail on most inputs."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfft
from tfft.backbones.savedmodel import open_savedmodel
from tfft.errors import SavedModelError

v1 = tf.compat.v1


def message(**features):
    example = tf.train.Example()
    for key, value in features.items():
        held = example.features.feature[key]
        lists = {bytes: held.bytes_list, float: held.float_list, int: held.int64_list}
        if value:
            lists[type(value[0])].value.extend(value)
    return example.SerializeToString()


def train(backbone, inputs, count):
    model = tfft.build(backbone, tfft.heads.classification(["a", "b"]))
    tfft.unfreeze(model, "all")
    before = [w.numpy() for w in model.trainable_weights]
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(inputs, np.arange(count) % 2, verbose=0)
    return [not np.array_equal(a, b) for a, b in zip(before, model.trainable_weights, strict=True)]


@pytest.mark.daily("resource")
@pytest.mark.parametrize("resource", [True, False], ids=["resource", "reference"])
def test_an_estimator_of_tf1_takes_its_features(resource, tmp_path):
    with v1.Graph().as_default(), v1.Session() as session:
        strings = v1.placeholder(tf.string, [None], "input_example_tensor")
        parsed = v1.io.parse_example(
            strings, {"a": v1.FixedLenFeature([4], tf.float32), "b": v1.FixedLenFeature([], tf.int64)}
        )
        with v1.variable_scope("net", use_resource=resource):
            kernel, table = v1.get_variable("dense/kernel", [4, 3]), v1.get_variable("table", [2, 3])
            hidden = tf.tanh(parsed["a"] @ kernel + tf.gather(table, parsed["b"]))
            scores = tf.nn.softmax(hidden @ v1.get_variable("logits/kernel", [3, 2]))
        classes = tf.tile(tf.constant([["x", "y"]]), [tf.shape(strings)[0], 1])
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(
            session, str(tmp_path / "m"), {"examples": strings}, {"scores": scores, "classes": classes}
        )
        a = np.random.default_rng(0).random((3, 4), np.float32)
        wire = [message(a=row.tolist(), b=[i % 2]) for i, row in enumerate(a)]
        wanted = session.run(hidden, {strings: wire})
    backbone = tfft.load_backbone(tmp_path / "m")
    assert backbone.notes[0] == (
        "It takes serialized tf.Examples; its parser is left out, and the features are the inputs: "
        "a: float32 (4,), b: int64 ()."
    )
    assert {t.name: t.shape for t in backbone.model.inputs} == {"a": (None, 4), "b": (None,)}
    inputs = {"a": a, "b": np.array([0, 1, 0])}
    np.testing.assert_allclose(backbone.model(inputs), wanted, atol=1e-6)
    assert train(backbone, inputs, 3) == [True] * 4


class Mixed(tf.Module):
    """Features of variable length, as TFX parses them."""

    def __init__(self):
        super().__init__()
        make = tf.random.Generator.from_seed(1)
        self.table = tf.Variable(make.normal([10, 4]), name="words/table")
        self.kernel = tf.Variable(make.normal([2, 4]), name="dense/kernel")

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")], autograph=False)
    def serve(self, examples):
        parsed = tf.io.parse_example(
            examples,
            {
                "words": tf.io.VarLenFeature(tf.string),
                "counts": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
                "size": tf.io.FixedLenFeature([2], tf.float32),
            },
        )
        words = tf.sparse.to_dense(parsed["words"], "")
        some = tf.cast(tf.not_equal(words, ""), tf.float32)[..., tf.newaxis]
        vectors = tf.gather(self.table, tf.strings.to_hash_bucket_fast(words, 10)) * some
        total = tf.cast(tf.reduce_sum(parsed["counts"], axis=1), tf.float32)
        return {"y": tf.reduce_sum(vectors, 1) + parsed["size"] @ self.kernel + total[:, tf.newaxis]}


@pytest.mark.slow
def test_features_of_any_length_become_rows_that_are_filled_up(tmp_path):
    model = Mixed()
    tf.saved_model.save(model, tmp_path / "m", signatures=model.serve)
    opened = open_savedmodel(tmp_path / "m")
    assert "Rows of any length are filled up with '' or -1." in opened.notes[0]
    rows = [
        {"words": [b"a", b"good"], "counts": [3, 4, 5], "size": [0.5, 1.0]},
        {"words": [], "counts": [7], "size": [0.0, 2.0]},
        {"words": [b"bad"], "counts": [], "size": [1.0, 1.0]},
    ]
    wanted = model.serve(tf.constant([message(**row) for row in rows]))["y"]
    inputs = {
        "words": tf.constant([["a", "good"], ["", ""], ["bad", ""]]),
        "counts": tf.constant([[3, 4, 5], [7, -1, -1], [-1, -1, -1]], tf.int64),
        "size": tf.constant([row["size"] for row in rows]),
    }
    np.testing.assert_allclose(opened.model(inputs), wanted, atol=1e-6)
    opened.model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again(inputs), wanted, atol=1e-6)


@pytest.mark.slow
def test_the_parser_is_in_no_block(tmp_path):
    model = Mixed()
    tf.saved_model.save(model, tmp_path / "m", signatures=model.serve)
    blocks = [layer for layer in open_savedmodel(tmp_path / "m").model.layers if getattr(layer, "is_tfft_block", False)]
    ops = {node.op for block in blocks for node in block._graphs.value[0].graph_def.node}
    assert not any(op.startswith("Parse") for op in ops)


def test_one_serialized_example_at_a_time(tmp_path):
    class Single(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernel = tf.Variable(tf.random.stateless_normal([4, 3], [1, 2]), name="dense/kernel")

        @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
        def serve(self, example):
            parsed = tf.io.parse_single_example(example, {"a": tf.io.FixedLenFeature([4], tf.float32)})
            return {"y": tf.reshape(parsed["a"], [1, 4]) @ self.kernel}

    model = Single()
    tf.saved_model.save(model, tmp_path / "m", signatures=model.serve)
    opened = open_savedmodel(tmp_path / "m")
    a = np.random.default_rng(0).random((3, 4), np.float32)
    assert opened.model.input_shape == (None, 4)
    np.testing.assert_allclose(opened.model(a), a @ model.kernel.numpy(), atol=1e-6)


# ------------------------------------------------------------------------- inputs that a model takes


def saved(path, spec, run, shape):
    class Network(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernel = tf.Variable(tf.random.stateless_normal(shape, [1, 2]), name="block0/kernel")

        @tf.function(input_signature=[spec], autograph=False)
        def __call__(self, x):
            return run(x, self.kernel)

    network = Network()
    tf.saved_model.save(network, path)
    return network


def decoded(strings):
    return tf.map_fn(lambda s: tf.image.decode_png(s, 3), strings, fn_output_signature=tf.uint8)


@pytest.mark.parametrize(
    ("spec", "run", "shape", "x"),
    [
        (tf.TensorSpec([None, 3], tf.int32), lambda x, k: tf.gather(k, x), [1, 4], np.zeros((2, 3), np.int32)),
        (tf.TensorSpec([None], tf.string), lambda x, k: tf.strings.to_number(x)[:, None] * k, [1, 4], ["3", "0.5"]),
        (
            tf.TensorSpec([None], tf.string),
            lambda x, k: tf.reduce_mean(tf.cast(decoded(x), tf.float32), (1, 2)) @ k,
            [3, 4],
            [tf.io.encode_png(tf.fill([5, 5, 3], tf.cast(v, tf.uint8))).numpy() for v in (7, 200)],
        ),
    ],
    ids=["one entry", "numbers in words", "encoded pictures"],
)
def test_another_sample_is_tried_where_the_model_fails_on_the_first(spec, run, shape, x, tmp_path):
    network = saved(tmp_path / "m", spec, run, shape)
    opened = open_savedmodel(tmp_path / "m")
    np.testing.assert_allclose(opened.model(tf.constant(x)), network(tf.constant(x)), rtol=1e-6)


def test_a_model_that_fails_on_everything_says_so(tmp_path):
    def run(x, k):
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x > 5), ["only above five"])]):
            return x @ k

    saved(tmp_path / "m", tf.TensorSpec([None, 4]), run, [4, 2])
    with pytest.raises(
        SavedModelError, match=r"itself fails on every input that was tried \(float32 \(None, 4\)\): Inv"
    ):
        open_savedmodel(tmp_path / "m")
