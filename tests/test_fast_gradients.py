"""Rewritten graphs train as the plain ones do: same loss, same gradients, same weights after ten steps."""

from __future__ import annotations

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from savedmodels import convnet, reusable, settle_statistics

import tfft
from tfft.layers.fast_gradients import PLAIN_GRADIENTS, FoldedConvolution, use_fast_gradients
from tfft.training.folding import fold_norms

STEPS, SWITCH = 10, pytest.mark.parametrize(("value", "fast"), [("1", False), ("0", True), ("", True)])


def network() -> keras.Model:
    """Every pattern that is rewritten, and those that are not; without an activation that has an edge."""
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(16, 3, strides=2, padding="same", name="biased")(x)
    x = L.Activation("tanh")(L.BatchNormalization(name="biased_bn")(x))
    x = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False, name="depthwise")(x)
    x = L.Activation("tanh")(L.BatchNormalization(scale=False, name="depthwise_bn")(x))
    x = L.Conv2D(192, 1, use_bias=False, name="widen")(x)
    x = L.Activation("tanh")(L.BatchNormalization(center=False, name="widen_bn")(x))
    x = L.Conv2D(192, 1, name="product")(x)  # 36,864 numbers, without a BatchNorm
    shared = L.Conv2D(8, 1, name="shared")(x)
    x = L.Add()([L.BatchNormalization(name="shared_bn")(shared), shared])
    x = L.Conv2D(8, 1, activation="tanh", name="active")(x)
    model = keras.Model(inputs, L.GlobalAveragePooling2D()(L.BatchNormalization(name="active_bn")(x)))
    settle_statistics(model)
    return model


class Fused(tf.Module):
    """Three convolutions with ``FusedBatchNormV3`` behind them, as Keras 2 and TensorFlow 1 write it."""

    def __init__(self) -> None:
        super().__init__()
        random = np.random.default_rng(5)
        self.kernels, self.norms = {}, {}
        for name, shape in (("conv1", (3, 3, 3, 16)), ("depthwise", (3, 3, 16, 2)), ("widen", (1, 1, 32, 1024))):
            self.kernels[name] = tf.Variable(random.normal(0, 0.3, shape), dtype=tf.float32, name=f"{name}/kernel")
            channels = shape[2] * shape[3] if name == "depthwise" else shape[3]
            for leaf in ("gamma", "beta", "moving_mean", "moving_variance"):
                self.norms[f"{name}/{leaf}"] = tf.Variable(
                    random.uniform(0.5, 1.5, channels), leaf[0] != "m", dtype=tf.float32, name=f"{name}_bn/{leaf}"
                )
        self.bias = tf.Variable(random.normal(0, 0.3, 16), dtype=tf.float32, name="conv1/bias")

    def norm(self, x: tf.Tensor, name: str) -> tf.Tensor:
        parts = [self.norms[f"{name}/{leaf}"] for leaf in ("gamma", "beta", "moving_mean", "moving_variance")]
        return tf.tanh(tf.compat.v1.nn.fused_batch_norm(x, *parts, epsilon=1e-3, is_training=False)[0])

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3])])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        x = self.norm(tf.nn.bias_add(tf.nn.conv2d(x, self.kernels["conv1"], 2, "SAME"), self.bias), "conv1")
        x = self.norm(tf.nn.depthwise_conv2d(x, self.kernels["depthwise"], [1] * 4, "SAME"), "depthwise")
        return tf.reduce_mean(self.norm(tf.nn.conv2d(x, self.kernels["widen"], 1, "VALID"), "widen"), [1, 2])


def write_keras(folder: str) -> None:
    network().export(folder, verbose=False)


def write_fused(folder: str) -> None:
    tf.saved_model.save(Fused(), folder)


@pytest.fixture(scope="module", params=[write_keras, write_fused], ids=["keras 3", "fused"])
def opened(request, tmp_path_factory) -> keras.Model:
    folder = str(tmp_path_factory.mktemp("network") / "saved")
    request.param(folder)
    return tfft.load_backbone(folder, input_range=(0, 1)).model


def batch() -> tuple[tf.Tensor, tf.Tensor]:
    random = np.random.default_rng(0)
    return tf.constant(random.random((16, 8, 8, 3), np.float32)), tf.constant(random.random((16, 1), np.float32))


def gradients(model: keras.Model) -> tuple[tf.Tensor, list[tf.Tensor]]:
    images, wanted = batch()

    @tf.function
    def step() -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(images, training=True) - wanted) ** 2)
        return loss, tape.gradient(loss, [v.value for v in model.trainable_variables])

    return step()


def trained(model: keras.Model, start: list[np.ndarray]) -> list[np.ndarray]:
    model.set_weights(start)
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    model.fit(*batch(), batch_size=16, epochs=STEPS, shuffle=False, verbose=0)
    return [v.numpy() for v in model.trainable_variables]


def assert_close(found: list, wanted: list) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert np.abs(a - b).max() <= 1e-5 * max(np.abs(b).max(), 1e-3)


def operations(model: keras.Model, training: bool) -> collections.Counter:
    images, _ = batch()
    graph = tf.function(lambda: model(images, training=training)).get_concrete_function().graph
    functions = [graph.as_graph_def().node, *(f.node_def for f in graph.as_graph_def().library.function)]
    return collections.Counter(node.op for nodes in functions for node in nodes)


@SWITCH
def test_the_switch(value, fast, monkeypatch):
    monkeypatch.setenv(PLAIN_GRADIENTS, value)
    assert use_fast_gradients() == fast


@pytest.mark.daily("fused")
def test_blocks_of_a_savedmodel_train_as_before(opened, monkeypatch):
    start = opened.get_weights()
    fast = operations(opened, training=True)
    loss, found = gradients(opened)
    weights = trained(opened, start)
    opened.set_weights(start)
    monkeypatch.setenv(PLAIN_GRADIENTS, "1")
    plain = operations(opened, training=True)
    if "FusedBatchNormV3" in plain:
        assert plain["FusedBatchNormV3"] == 3
        assert not fast["FusedBatchNormV3"]
        assert fast["Einsum"] == 1
        assert not plain["Einsum"]
    else:  # kernels are multiplied by the scale, and the results of three convolutions are not
        assert fast["Identity"] > plain["Identity"]
        assert fast["Einsum"] == 1
        assert not plain["Einsum"]
    wanted_loss, wanted = gradients(opened)
    assert_close([loss, *found], [wanted_loss, *wanted])
    assert_close(weights, trained(opened, start))
    assert not np.array_equal(weights[0], start[0])
    opened.set_weights(start)


def test_inference_runs_the_graph_of_the_publisher(opened, monkeypatch):
    fast = operations(opened, training=False)
    assert not fast["Einsum"]
    monkeypatch.setenv(PLAIN_GRADIENTS, "1")
    assert fast == operations(opened, training=True)


def test_groups_of_channels_are_no_matrix_product(tmp_path):
    module = tf.Module()
    module.kernel = tf.Variable(tf.random.stateless_normal((1, 1, 128, 512), (1, 2)), name="grouped/kernel")
    module.last = tf.Variable(tf.random.stateless_normal((512, 3), (3, 4)), name="dense/kernel")
    specs = [tf.TensorSpec([None, 4, 4, 256], name="x")]

    def run(x):  # two groups of 128 channels
        return tf.reduce_mean(tf.nn.conv2d(x, module.kernel, 1, "SAME"), [1, 2]) @ module.last

    module.__call__ = tf.function(run, input_signature=specs)
    tf.saved_model.save(module, str(tmp_path / "saved"))
    model = tfft.load_backbone(str(tmp_path / "saved")).model
    x = tf.random.stateless_normal((2, 4, 4, 256), (5, 6))
    np.testing.assert_array_equal(model(x, training=True), model(x, training=False))


@pytest.mark.nightly
def test_statistics_that_move_keep_their_operation(tmp_path):
    reusable(tmp_path, convnet(), regularize=True)
    model = tfft.load_backbone(str(tmp_path), input_range=(0, 1), batch_norm="train").model
    before = [v.numpy() for v in model.non_trainable_variables]
    images = tf.random.stateless_uniform((4, 32, 32, 3), (1, 2))
    model(images, training=True)
    moved = [v.path for v, old in zip(model.non_trainable_variables, before, strict=True) if (v.numpy() != old).any()]
    assert len(moved) == 10
    assert all("moving" in path for path in moved)


@pytest.mark.nightly
def test_keras_models_train_as_before(monkeypatch):
    model = network()
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.trainable = False
    fast, start = fold_norms(model), model.get_weights()
    folded = [layer.name for layer in fast.layers if isinstance(layer, FoldedConvolution)]
    assert folded == ["biased_folded", "depthwise_folded", "widen_folded", "product_product"]
    assert {id(v) for v in fast.weights} == {id(v) for v in model.weights}
    loss, found = gradients(fast)
    wanted_loss, wanted = gradients(model)
    assert [v.path for v in fast.trainable_variables] == [v.path for v in model.trainable_variables]
    assert_close([loss, *found], [wanted_loss, *wanted])
    fast.compile(keras.optimizers.Adam(1e-3), "mse")
    fast.fit(*batch(), batch_size=16, epochs=STEPS, shuffle=False, verbose=0)
    weights = [v.numpy() for v in model.trainable_variables]
    assert not np.array_equal(weights[0], start[0])
    assert_close(weights, trained(model, start))
    monkeypatch.setenv(PLAIN_GRADIENTS, "1")
    assert fold_norms(model) is model


def test_nothing_is_folded_where_statistics_move_or_numbers_are_short():
    model = network()
    folded = [layer.name for layer in fold_norms(model).layers if isinstance(layer, FoldedConvolution)]
    assert folded == ["product_product"]
    half = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(8, 3, dtype="mixed_float16")])
    assert fold_norms(half) is half


@pytest.mark.nightly
def test_a_run_trains_the_same_with_plain_gradients(monkeypatch):
    images, _ = batch()
    labels = np.arange(16) % 2
    results = []
    for plain in ("1", "0"):
        monkeypatch.setenv(PLAIN_GRADIENTS, plain)
        keras.utils.set_random_seed(0)
        backbone = tfft.load_backbone(network(), input_range=(0, 255))
        run = tfft.finetune(
            backbone, ((images.numpy() * 255).astype("uint8"), labels), plan="full", epochs=2, validation=0.25,
            export_to=False, cache=None, verbose=False, seed=1,
        )  # fmt: skip
        results.append([np.asarray(v) for v in run.model.trainable_variables])
    assert len(results[0]) == len(results[1]) > 4
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
