"""Last layers of models, which store their head: :class:`Logits`, :class:`WordLogits`, :class:`TokenLogits`,
:func:`from_model`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

from tfft.errors import PlanError, join_names
from tfft.heads.base import LOGITS_LAYER, OUTSIDE, Head
from tfft.keras_compat import flatten_layers, inbound_nodes, producer
from tfft.losses import ABSENT


def from_model(model: keras.Model) -> Head:
    """Return the head of a model from :func:`tfft.build`, also after saving and loading.

    Args:
        model: Any Keras model with a ``Logits`` layer, also inside a nested model.

    Returns:
        Its :class:`Head`.

    Raises:
        PlanError: If there is none.
    """
    found = logits_layers(model)
    if not found:
        names = join_names([layer.name for layer in model.layers], limit=10)
        raise PlanError(
            f"The model {model.name!r} has no tfft head, so its classes are not known. Expected a last layer "
            f"{LOGITS_LAYER!r} as tfft.build makes it; received the layers {names}. "
            "Make the model with tfft.build(backbone, tfft.heads.classification(class_names))."
        )
    return found[-1].head


def set_l2(model: keras.Model, l2: float) -> None:
    """Set the weight decay of a model's head; a compiled model uses it after its next ``compile``.

    Args:
        model: Model with one head of tfft; changed in place.
        l2: L2 penalty of the last layer's kernel, 0 or more.

    Raises:
        PlanError: If the model has no head, the last layer of the head has no kernel, or ``l2`` is out of range.

    Example:
        >>> set_l2(model, 1e-3)
    """
    from_model(model)
    layer = logits_layers(model)[-1]
    if not layer.weights:
        raise PlanError(
            f"Expected a head whose last layer has a kernel. Received: {layer.head.task}, whose layer {layer.name!r} "
            "has no weights. Pass l2= to the head, and build the model again."
        )
    layer.head = dataclasses.replace(layer.head, l2=float(l2))
    regularizer = keras.regularizers.L2(l2) if l2 else None
    layer.kernel_regularizer = regularizer  # what is saved
    layer.kernel.regularizer = regularizer  # what is trained with


@keras.saving.register_keras_serializable(package="tfft")
class Logits(keras.layers.Dense):
    """Last layer: a Dense layer in float32 with the :class:`Head` in its config.

    Args:
        head: Head, or its ``to_dict()``.
        **kwargs: As for ``keras.layers.Dense``; units and regularizer come from the head.
    """

    def __init__(self, head: Head | Mapping[str, Any], **kwargs: Any) -> None:
        self_head = head if isinstance(head, Head) else Head.from_dict(head)
        kwargs["units"] = self_head.units
        kwargs["dtype"] = kwargs.get("dtype") or "float32"  # logits in half precision spoil the loss
        if self_head.l2 and kwargs.get("kernel_regularizer") is None:
            kwargs["kernel_regularizer"] = keras.regularizers.L2(self_head.l2)
        super().__init__(**kwargs)
        self.head = self_head

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the layer, and make sure that nested layers of frozen layers are frozen too."""
        for tensor in keras.tree.flatten(inputs):
            if isinstance(tensor, keras.KerasTensor):
                _freeze_inside(tensor)
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return logits, or values in the units of the labels."""
        return self.head.to_units(super().call(inputs, training=training))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "head": self.head.to_dict()}


def _freeze_inside(tensor: keras.KerasTensor) -> None:
    """Freeze the nested layers of frozen layers, in the whole graph of a tensor.

    A composite layer, such as those of transformers, loses the frozen state of its nested layers in a file: Keras loads
    it as frozen, but builds its nested layers as trainable, and the model would train them. The head is called after
    all layers before it are built, also when a file is loaded.
    """
    waiting, seen = [tensor], set()
    while waiting:
        operation = producer(waiting.pop())
        if id(operation) in seen:
            continue
        seen.add(id(operation))
        for layer in flatten_layers(operation) if isinstance(operation, keras.layers.Layer) else ():
            if not layer.trainable and not isinstance(layer, keras.Model):
                for inner in flatten_layers(layer, include_self=False):
                    inner.trainable = False
        for node in inbound_nodes(operation):
            waiting += node.input_tensors


@keras.saving.register_keras_serializable(package="tfft")
class WordLogits(Logits):
    """Last layer of a model for token classification, which also marks words that it could not see.

    Without a word, all logits are :data:`tfft.losses.ABSENT`. For a word beyond the model's limit, the tag ``"O"`` has
    the logit 0 and all others that number, so that ``"O"`` is predicted; without that tag it counts as no word. Loss,
    metrics and :meth:`Head.postprocess` follow this, also in an export.

    Args:
        head: As for :class:`Logits`.
        **kwargs: As for :class:`Logits`.
    """

    def build(self, features_shape: Any, word_starts_shape: Any = None) -> None:
        """Create the kernel for features of a known width."""
        super().build(features_shape)

    def call(self, features: Any, word_starts: Any) -> Any:  # type: ignore[override]
        """Return logits [B, W, units] from features [B, W, D] and the starts of words [B, W]."""
        ops = keras.ops
        names = self.head.class_names or ()
        unseen = [0.0 if name == OUTSIDE else ABSENT for name in names]
        starts = ops.convert_to_tensor(word_starts)[..., None]
        other = ops.where(starts == -2, ops.convert_to_tensor(unseen, self.compute_dtype), ABSENT)
        return ops.where(starts >= 0, super().call(features), other)

    def compute_output_shape(self, features_shape: Any, word_starts_shape: Any = None) -> Any:
        """Return the shape of the features with the tags instead of their width."""
        return super().compute_output_shape(features_shape)


@keras.saving.register_keras_serializable(package="tfft")
class TokenLogits(Logits):
    """Last layer of an encoder-decoder: the logits of the backbone in float32, and the head in its config.

    Args:
        head: As for :class:`Logits`.
        **kwargs: As for :class:`Logits`.
    """

    def build(self, input_shape: Any) -> None:
        """Create nothing: the weights are those of the backbone."""
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the inputs in float32."""
        return keras.ops.cast(inputs, "float32")

    def save_own_variables(self, store: Any) -> None:
        """Save nothing, unlike a Dense layer."""

    def load_own_variables(self, store: Any) -> None:
        """Load nothing, unlike a Dense layer."""

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the inputs."""
        return input_shape


def logits_layers(model: keras.Model) -> list[Logits]:
    """Return the layers of a model that end in a head, also inside nested models."""
    found: list[Logits] = []
    for layer in model.layers:
        if isinstance(layer, Logits):
            found.append(layer)
        elif isinstance(layer, keras.Model):
            found += logits_layers(layer)
    return found
