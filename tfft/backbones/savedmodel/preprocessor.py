"""From a folder with a text preprocessor of TF Hub to one Keras layer: :func:`open_preprocessor`.

Hides how such a SavedModel is called (``tokenize`` and ``bert_pack_inputs``, or as a whole), and that it becomes a
graph which the layer carries along: a ``.keras`` file needs neither the SavedModel nor its vocabulary file.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfft.backbones.savedmodel.graph import flatten
from tfft.backbones.savedmodel.layer import SavedModelBlock
from tfft.backbones.savedmodel.layer_builder import Maker
from tfft.backbones.savedmodel.loading import load
from tfft.backbones.savedmodel.partition import Analysis, whole
from tfft.backbones.savedmodel.tf1 import modernized
from tfft.errors import BackboneError, SavedModelError, join_names, reason_of
from tfft.layers.held import deserialized

LENGTH = 128  # tokens that a preprocessor of TF Hub gives by default


@keras.saving.register_keras_serializable(package="tfft")
class HubPreprocessor(keras.layers.Layer):
    """Makes the inputs of an encoder of texts, as a preprocessor of TF Hub does.

    Made by :func:`open_preprocessor`.

    Args:
        keys: Names of the encoder's inputs.
        one: Layer from texts [B] to the inputs, stacked [len(keys), B, L].
        two: The same from two such tensors, for pairs; None where the preprocessor takes none.
        sequence_length: Length that every text is padded or cut to.
        **kwargs: As for any Keras layer.
    """

    def __init__(
        self,
        keys: Sequence[str],
        one: SavedModelBlock | Mapping[str, Any],
        two: SavedModelBlock | Mapping[str, Any] | None,
        sequence_length: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.keys, self.sequence_length = tuple(keys), int(sequence_length)
        self.one: SavedModelBlock = deserialized(one)
        self.two: SavedModelBlock | None = deserialized(two)
        self.supports_jit = False
        self.trainable = False

    def build(self, texts_shape: Any) -> None:
        """Has nothing to build: what it is made of is ready."""

    def call(self, texts: Any) -> dict[str, tf.Tensor]:
        """Return int32 [B, L] by key for texts [B], or for a pair of such tensors."""
        if not isinstance(texts, (tuple, list)):
            stacked = self.one(texts)
        elif self.two is None:
            raise BackboneError("The preprocessor of this backbone takes one text, not pairs. Join the two into one.")
        else:
            stacked = self.two(list(texts))
        return dict(zip(self.keys, tf.unstack(stacked, num=len(self.keys)), strict=True))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values, the graphs among them."""
        parts = {
            name: None if part is None else keras.saving.serialize_keras_object(part)
            for name, part in (("one", self.one), ("two", self.two))
        }
        return {**super().get_config(), "keys": list(self.keys), **parts, "sequence_length": self.sequence_length}


def open_preprocessor(
    path: str | os.PathLike[str], keys: Sequence[str], *, max_length: int | None = None, trust: bool = False
) -> HubPreprocessor:
    """Open a text preprocessor in the form of TF Hub's Common SavedModel API.

    Args:
        path: Its folder.
        keys: Names of the encoder's inputs, all of which it has to return.
        max_length: Tokens per text. Defaults to 128, the only length of some preprocessors.
        trust: True loads it in spite of the findings of the scan.

    Returns:
        The layer.

    Raises:
        SavedModelError: When it is not a SavedModel, or returns something else.
        UnsafeModelError: When it may reach outside of itself.
        BackboneError: When ``max_length`` is not possible.
        DependencyError: When tensorflow-text is needed and missing.
    """
    folder = pathlib.Path(path)
    loaded, _ = load(folder, None, trust)
    length = LENGTH if max_length is None else max_length
    call = _packing(loaded, folder, length, max_length is not None)
    one = _traced(loaded, folder, call, keys, 1, trust)
    try:
        two = _traced(loaded, folder, call, keys, 2, trust)
    except SavedModelError:
        two = None
    return HubPreprocessor(keys, one, two, length, name="preprocessor")


def _packing(loaded: Any, folder: pathlib.Path, length: int, asked: bool) -> Callable[[Sequence[tf.Tensor]], Any]:
    """How texts are cut and packed: in two steps, which lets the length be chosen and pairs be packed, or in one."""
    tokenize, pack = (getattr(loaded, name, None) for name in ("tokenize", "bert_pack_inputs"))
    if callable(tokenize) and callable(pack):

        def packed(texts: Sequence[tf.Tensor]) -> Any:
            return pack([tokenize(text) for text in texts], seq_length=tf.constant(length, tf.int32))

        return packed
    if asked:
        raise BackboneError(
            f"The preprocessor {str(folder)!r} cannot be set to {length} tokens: it has no tokenize and "
            "bert_pack_inputs. Is it a text preprocessor of TF Hub?"
        )
    if not callable(loaded):
        raise SavedModelError(
            f"{str(folder)!r} is not a text preprocessor: expected a SavedModel that can be called, or one with "
            "tokenize "
            "and bert_pack_inputs."
        )
    return lambda texts: loaded(texts[0] if len(texts) == 1 else list(texts))


def _traced(
    loaded: Any,
    folder: pathlib.Path,
    call: Callable[[Sequence[tf.Tensor]], Any],
    keys: Sequence[str],
    count: int,
    trust: bool,
) -> SavedModelBlock:
    def stacked(*texts: tf.Tensor) -> tf.Tensor:
        found = call(texts)
        names = list(found) if isinstance(found, Mapping) else []
        missing = [key for key in keys if key not in names]
        if missing:
            raise SavedModelError(
                f"The preprocessor {str(folder)!r} does not fit the encoder, which takes {join_names(missing)}: "
                "it gives "
                f"{join_names(names) or 'no dict'}."
            )
        return tf.stack([tf.cast(found[key], tf.int32) for key in keys])

    specs = [tf.TensorSpec([None], tf.string, name=f"text_{i}") for i in range(count)]
    try:
        flat = modernized(flatten(stacked, specs, list(getattr(loaded, "variables", None) or [])), loaded)
    except SavedModelError:
        raise
    except Exception as error:  # TensorFlow raises several classes where no saved function fits
        raise SavedModelError(
            f"The preprocessor {str(folder)!r} cannot be called with texts: {reason_of(error)}"
        ) from error
    analysis = Analysis(flat, flat.outputs[0])
    maker = Maker(loaded, analysis, None, trust, (len(keys), None, None), False)
    (layer,) = maker.layers([whole(analysis, f"pieces_{count}", "")], None, "fixed")
    return layer
