"""SavedModels whose convolution and activation TensorFlow fuses into an operation that has no kernel with oneDNN."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfft


def mish(x: tf.Tensor) -> tf.Tensor:
    return x * tf.tanh(tf.nn.softplus(x))


class Network(tf.Module):
    """Convolution, normalization and activation; then two convolutions, their sum and Mish."""

    def __init__(self, activation) -> None:
        super().__init__()
        random = np.random.default_rng(0)
        self.first = tf.Variable(random.normal(0, 0.3, (3, 3, 3, 8)), dtype=tf.float32, name="first/kernel")
        self.second = tf.Variable(random.normal(0, 0.3, (3, 3, 8, 8)), dtype=tf.float32, name="second/kernel")
        self.bias = tf.Variable(random.normal(0, 0.3, 8), dtype=tf.float32, name="second/bias")
        self.norm = [tf.Variable(random.uniform(0.5, 1.5, 8), dtype=tf.float32, name=f"first_bn/{n}") for n in "abcd"]
        self.activation = activation

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3])])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        x = tf.nn.conv2d(x, self.first, 1, "SAME")
        x = self.activation(tf.compat.v1.nn.fused_batch_norm(x, *self.norm, is_training=False)[0])
        return tf.reduce_mean(mish(tf.nn.bias_add(tf.nn.conv2d(x, self.second, 1, "SAME"), self.bias) + x), [1, 2])


@pytest.mark.parametrize("activation", [tf.tanh, mish], ids=["tanh", "mish"])
def test_an_activation_without_a_fused_kernel(activation, tmp_path):
    network = Network(activation)
    tf.saved_model.save(network, str(tmp_path / "saved"))
    images = np.random.default_rng(1).random((4, 8, 8, 3), np.float32)
    tf.config.run_functions_eagerly(True)  # operation by operation, as written
    try:
        expected = network(tf.constant(images)).numpy()
    finally:
        tf.config.run_functions_eagerly(False)
    backbone = tfft.load_backbone(str(tmp_path / "saved"), input_range=(0, 1))
    np.testing.assert_allclose(backbone.model.predict(images, verbose=0), expected, atol=1e-5)

    backbone.model.trainable = True
    head = keras.Sequential([backbone.model, keras.layers.Dense(1)])
    head.compile("sgd", "mse")
    history = head.fit(images, np.arange(4.0)[:, None], epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    head.export(str(tmp_path / "served"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(images), head.predict(images, verbose=0), atol=1e-5)
