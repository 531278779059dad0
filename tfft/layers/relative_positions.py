"""Relative position table of DeBERTa as a layer that Keras can rebuild: :class:`RelativePositions`.

Implementation notes: KerasHub's layer builds its nested layers only when it is called, so a ``.keras`` file with it can
be written but not loaded.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

_THEIRS = "RelativeEmbedding"


@keras.saving.register_keras_serializable(package="tfft")
class RelativePositions(keras.layers.Layer):
    """Return the normalized embedding of every distance between two tokens, the same for each text.

    As in DeBERTa v3 (He et al., 2021), computed as in KerasHub's ``RelativeEmbedding``, which :func:`rebuildable`
    replaces by this layer.

    Args:
        hidden_dim: Width of the features.
        bucket_size: Number of distance buckets in either direction.
        layer_norm_epsilon: Epsilon of the normalization.
        kernel_initializer: Initializer of the embeddings.
        **kwargs: As for any Keras layer.

    Returns:
        [B, 2 * bucket_size, hidden_dim], from features [B, ...].
    """

    def __init__(
        self,
        hidden_dim: int,
        bucket_size: int,
        layer_norm_epsilon: float = 1e-5,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_dim, self.bucket_size, self.layer_norm_epsilon = hidden_dim, bucket_size, layer_norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        shape = (2 * bucket_size, hidden_dim)
        self.rel_embeddings = self.add_weight(shape=shape, initializer=self.kernel_initializer, name="rel_embedding")
        self.layer_norm = keras.layers.LayerNormalization(
            epsilon=layer_norm_epsilon, dtype=self.dtype_policy, name="rel_embeddings_layer_norm"
        )

    def build(self, _: Any) -> None:
        """Create the weights of the normalization, which do not depend on the input."""
        self.layer_norm.build((None, 2 * self.bucket_size, self.hidden_dim))

    def call(self, inputs: Any) -> Any:
        """Repeat the table for each text."""
        table = self.layer_norm(ops.convert_to_tensor(self.rel_embeddings)[None])
        return ops.repeat(table, ops.shape(inputs)[0], axis=0)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape for inputs of a shape."""
        return (input_shape[0], 2 * self.bucket_size, self.hidden_dim)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "bucket_size": self.bucket_size,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def rebuildable(network: keras.Model) -> None:
    """Replace KerasHub's layer by :class:`RelativePositions`, with the same variables and name.

    Args:
        network: Network from KerasHub; changed in place. Only networks of DeBERTa have such a layer.
    """
    for layer in network.layers:
        if type(layer).__name__ == _THEIRS and type(layer).__module__.startswith("keras_hub."):
            layer.__class__ = RelativePositions
