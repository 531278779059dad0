"""Backbones that take one example, or a fixed number, at a time, given a batch: :class:`EachExample`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfft.layers.waveform import EachWave


@keras.saving.register_keras_serializable(package="tfft")
class EachExample(EachWave):
    """Runs a model that takes one example at a time on each example of a batch, one after the other.

    The model's layers stay what they are: its blocks can be frozen and trained one by one. A model that takes a fixed
    number of examples gets them in groups; the last group is filled up with examples of the batch.

    Args:
        network: Functional model of one example, with a first axis of 1 or without a batch axis; or of ``rows``
            examples; or its serialized form.
        batch_axis: Whether the network's inputs have that first axis.
        rows: Number of examples that the network takes at a time. Defaults to 1.
        **kwargs: As for any Keras layer.

    Call arguments:
        inputs: As the network's, with a first axis of any length.

    Output shape:
        [B, ...], the network's output without a first axis of 1.
    """

    def __init__(self, network: Any, batch_axis: bool = True, rows: int = 1, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        self.batch_axis, self.rows = batch_axis, rows

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Return the features of each example."""
        if self.rows > 1:
            return self._in_groups(inputs, training)
        shape = self._row_shape()
        drop = len(shape) < len(self.network.output.shape)

        def one(example: Any) -> tf.Tensor:
            if self.batch_axis:
                example = tf.nest.map_structure(lambda t: t[tf.newaxis], example)
            features = self.network(example, training=training)
            return features[0] if drop else features

        return tf.map_fn(one, inputs, fn_output_signature=tf.TensorSpec(shape, self.network.output.dtype))

    def _in_groups(self, inputs: Any, training: bool | None) -> tf.Tensor:
        count = tf.shape(keras.tree.flatten(inputs)[0])[0]
        groups = -(-count // self.rows)
        filled = tf.range(groups * self.rows) % tf.maximum(count, 1)

        def grouped(tensor: tf.Tensor) -> tf.Tensor:
            return tf.reshape(tf.gather(tensor, filled), [groups, self.rows, *tensor.shape[1:]])

        output = self.network.output
        features = tf.map_fn(
            lambda group: self.network(group, training=training),
            tf.nest.map_structure(grouped, inputs),
            fn_output_signature=tf.TensorSpec(output.shape, output.dtype),
        )
        return tf.reshape(features, [groups * self.rows, *output.shape[1:]])[:count]

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> keras.KerasTensor:
        """Return shape and type."""
        batch = keras.tree.flatten(inputs)[0].shape[0]
        return keras.KerasTensor((batch, *self._row_shape()), self.network.output.dtype)

    def _row_shape(self) -> tuple[int | None, ...]:
        shape = tuple(self.network.output.shape)
        return shape[1:] if shape and (self.batch_axis or (shape[0] == 1 and len(shape) > 1)) else shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "batch_axis": self.batch_axis, "rows": self.rows}
