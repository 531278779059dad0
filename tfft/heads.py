"""The task part of a model: layers, loss, metrics and what a server answers, kept in one place.

Hides how the four fit together, because they fail silently when they do not: a metric that expects
probabilities and gets logits reports nonsense. The model ends in logits; the loss, the metrics and
:meth:`Head.postprocess` all start from them. The head is stored in the config of its last layer, so
a saved model knows its own classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tfft.errors import PlanError, did_you_mean, listed, raise_problems, require_platform
from tfft.keras_compat import flatten_layers, inbound_nodes, producer

require_platform()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from tfft.losses import (  # noqa: E402
    ABSENT,
    FocalCrossentropy,
    SparseCrossentropy,
    TagAccuracy,
    TagCrossentropy,
    soft_binary_accuracy,
)
from tfft.registry import FeatureLevel  # noqa: E402

LOGITS_LAYER, DROPOUT_LAYER = "logits", "dropout"

LOSSES = ("cross_entropy", "focal")

OUTSIDE = "O"  # the tag of a word that belongs to no entity

_KINDS = ("classification", "binary", "multilabel", "regression", "tokens")
_FOCUS = 2.0  # gamma of the focal loss


@dataclasses.dataclass(frozen=True)
class Head:
    """What a model is trained to tell; make one with :func:`classification`, :func:`binary`,
    :func:`multilabel`, :func:`regression` or :func:`tokens`.

    Labels are whole numbers [B] for classification and binary (the index into ``class_names``),
    float [B, n] of 0 and 1 for multilabel, float [B] or [B, units] for regression, whole numbers [B, W] for tokens:
    one for each word, -1 for padding.

    Attributes:
        kind: ``"classification"``, ``"binary"``, ``"multilabel"``, ``"regression"`` or ``"tokens"``.
        class_names: names in the order of the labels; for regression the names of the values, or None.
        units: width of the last layer; 1 for binary.
        dropout: share of features dropped while training.
        l2: weight decay of the last layer's kernel.
        label_smoothing: share of the target that is spread over all classes.
        loss_name: ``"cross_entropy"`` or ``"focal"``; regression takes squared error whatever it says.
    """

    kind: Literal["classification", "binary", "multilabel", "regression", "tokens"]
    class_names: tuple[str, ...] | None
    units: int
    dropout: float = 0.2
    l2: float = 0.0
    label_smoothing: float = 0.0
    loss_name: str = "cross_entropy"

    def __post_init__(self) -> None:
        if self.class_names is not None:
            object.__setattr__(self, "class_names", tuple(str(name) for name in self.class_names))
        raise_problems(PlanError, f"The {self.kind} head cannot be made", _problems(self))

    @property
    def feature_level(self) -> FeatureLevel:
        """What it takes of a backbone, see :class:`tfft.registry.Task`."""
        return "sequence" if self.kind == "tokens" else "pooled"

    @property
    def modalities(self) -> frozenset[str]:
        """Kinds of data that its task can be learned from; empty for all."""
        return frozenset({"text"} if self.kind == "tokens" else ())

    def loss(self, *, soft: bool = False) -> keras.losses.Loss:
        """Returns the loss that takes this head's labels and logits.

        Args:
            soft: True for labels that are shares, float [B, units], as :func:`tfft.data.mixed` and
                :func:`tfft.data.one_hot` give them. For labels of one class it has the same value either way.
        """
        if self.kind == "regression":
            return keras.losses.MeanSquaredError(name="squared_error")
        if self.kind == "tokens":
            self._refuse(soft)
            gamma = _FOCUS if self.loss_name == "focal" else 0.0
            return TagCrossentropy(gamma, self.label_smoothing, name="focal" if gamma else "crossentropy")
        if self.loss_name == "focal":
            return FocalCrossentropy(_FOCUS, self.label_smoothing, self.kind != "classification", name="focal")
        if self.kind == "classification" and not soft:
            return SparseCrossentropy(label_smoothing=self.label_smoothing, name="crossentropy")
        kind = keras.losses.BinaryCrossentropy
        if self.kind == "classification":
            kind = keras.losses.CategoricalCrossentropy
        return kind(from_logits=True, label_smoothing=self.label_smoothing, name="crossentropy")

    def metrics(self, *, soft: bool = False) -> list[keras.metrics.Metric]:
        """Returns new metrics that take this head's labels and logits: ``accuracy``, for regression ``error``.

        For multilabel, accuracy is the share of single labels that are right, for tokens that of labelled words. Of
        soft labels the class with the largest share counts as the right one.

        Args:
            soft: as in :meth:`loss`.
        """
        if self.kind == "regression":
            return [keras.metrics.MeanAbsoluteError(name="error")]
        if self.kind == "tokens":
            self._refuse(soft)
            return [TagAccuracy(name="accuracy")]
        if self.kind == "classification":
            kind = keras.metrics.CategoricalAccuracy if soft else keras.metrics.SparseCategoricalAccuracy
            return [kind(name="accuracy")]
        if soft:  # Keras would ask for a label that is exactly 0 or 1
            return [keras.metrics.MeanMetricWrapper(soft_binary_accuracy, name="accuracy")]
        return [keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")]  # logit 0 is probability 1/2

    def compile_args(self, *, soft: bool = False) -> dict[str, Any]:
        """Returns ``loss`` and ``metrics`` for ``model.compile``.

        Args:
            soft: True for labels that are shares, as in :meth:`loss`; of the validation examples too.

        Example:
            >>> model.compile(optimizer="adam", **head.compile_args())
        """
        return {"loss": self.loss(soft=soft), "metrics": self.metrics(soft=soft)}

    def attach(self, features: keras.KerasTensor, word_starts: keras.KerasTensor | None = None) -> keras.KerasTensor:
        """Puts the layers ``dropout`` and ``logits`` behind features.

        Args:
            features: [B, width], width known; for tokens [B, W, width], of words.
            word_starts: for tokens, int [B, W]: -1 where there is no word, -2 where it could not be seen, else 0 or
                more, as :class:`tfft.layers.word_alignment.TokenizeWords` gives them. None: all words are there.

        Returns:
            float32 logits [B, units], for tokens [B, W, units].
        """
        dropped = keras.layers.Dropout(self.dropout, name=DROPOUT_LAYER)(features)
        if word_starts is not None:
            return WordLogits(self, name=LOGITS_LAYER)(dropped, word_starts)
        return Logits(self, name=LOGITS_LAYER)(dropped)

    def _refuse(self, soft: bool) -> None:
        if soft:
            raise PlanError("The tags of words are whole numbers, so soft=True has no meaning for them. Leave it out.")

    def postprocess(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Turns logits into what a server answers. TensorFlow ops only, row i depends on row i only.

        Args:
            logits: [B, units], what the model predicts.

        Returns:
            For classification and binary: ``probabilities`` float32 [B, classes], ``label``
            tf.string [B], ``logits``. For multilabel: ``probabilities`` [B, n],
            ``labels_above_half`` bool [B, n], ``logits``. For regression: ``value`` [B, units]. For tokens as for
            classification, but [B, W, classes] and [B, W]; where there is no word, ``""`` and zeros.

        Example:
            >>> head.postprocess(model.predict(photos))["label"].numpy()
            array([b'bees', b'ants'], dtype=object)
        """
        logits = tf.cast(logits, tf.float32)
        if self.kind == "regression":
            return {"value": logits}
        if self.kind == "multilabel":
            probabilities = tf.sigmoid(logits)
            return {"probabilities": probabilities, "labels_above_half": logits > 0.0, "logits": logits}
        if self.kind == "binary":
            probabilities = tf.concat([tf.sigmoid(-logits), tf.sigmoid(logits)], axis=-1)
            best = tf.cast(logits[:, 0] > 0.0, tf.int64)
        else:
            probabilities = tf.nn.softmax(logits)
            best = tf.argmax(logits, axis=-1)
        label = tf.gather(tf.constant(self.class_names, tf.string), best)
        if self.kind == "tokens":
            there = tf.reduce_max(logits, axis=-1) > ABSENT / 2
            label = tf.where(there, label, "")
            probabilities = tf.where(there[..., None], probabilities, 0.0)
        return {"probabilities": probabilities, "label": label, "logits": logits}

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, fit for YAML and JSON."""
        names = None if self.class_names is None else list(self.class_names)
        return {**dataclasses.asdict(self), "class_names": names}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Head:
        """Builds a head from :meth:`to_dict`'s result."""
        return cls(**values)


def classification(
    class_names: Sequence[str],
    *,
    dropout: float = 0.2,
    l2: float = 0.0,
    label_smoothing: float = 0.0,
    loss: str = "cross_entropy",
) -> Head:
    """One of several classes for each example; the labels are whole numbers.

    Args:
        class_names: at least two, in the order of the labels; ``splits.class_names`` of loaded data.
        dropout: share of features dropped while training, 0 or more and below 1.
        l2: weight decay of the kernel, 0 or more.
        label_smoothing: share of the target spread over all classes, 0 or more and below 1.
        loss: ``"cross_entropy"``, or ``"focal"``, which gives examples that are right already less weight; for
            classes of very different size, see :class:`FocalCrossentropy`.

    Returns:
        A :class:`Head` with one logit per class.

    Raises:
        PlanError: listing everything that is wrong.

    Example:
        >>> head = classification(["ants", "bees"], l2=1e-4)
    """
    names = _as_names(class_names)
    return Head("classification", names, len(names), dropout, l2, label_smoothing, loss)


def binary(
    class_names: Sequence[str] | str,
    *,
    dropout: float = 0.2,
    l2: float = 0.0,
    label_smoothing: float = 0.0,
    loss: str = "cross_entropy",
) -> Head:
    """Yes or no for each example, with a single logit; the labels are 0 and 1.

    Args:
        class_names: the names of 0 and 1; or the name of 1 alone, ``"bee"`` giving ``"not bee"``, ``"bee"``.
        dropout: as in :func:`classification`.
        l2: as in :func:`classification`.
        label_smoothing: share of the target moved towards 1/2.
        loss: as in :func:`classification`.

    Returns:
        A :class:`Head` with one logit.
    """
    names = (f"not {class_names}", class_names) if isinstance(class_names, str) else tuple(class_names)
    return Head("binary", names, 1, dropout, l2, label_smoothing, loss)


def multilabel(
    class_names: Sequence[str],
    *,
    dropout: float = 0.2,
    l2: float = 0.0,
    label_smoothing: float = 0.0,
    loss: str = "cross_entropy",
) -> Head:
    """Any number of labels for each example; the targets are rows of 0 and 1.

    Args:
        class_names: in the order of the columns.
        dropout: as in :func:`classification`.
        l2: as in :func:`classification`.
        label_smoothing: share of each target moved towards 1/2.
        loss: as in :func:`classification`.

    Returns:
        A :class:`Head` with one logit per label.
    """
    names = _as_names(class_names)
    return Head("multilabel", names, len(names), dropout, l2, label_smoothing, loss)


def regression(names: Sequence[str] | int = 1, *, dropout: float = 0.2, l2: float = 0.0) -> Head:
    """One or more numbers for each example, learned by squared error.

    Args:
        names: how many values, or their names.
        dropout: as in :func:`classification`.
        l2: as in :func:`classification`.

    Returns:
        A :class:`Head` with one unit per value.
    """
    if isinstance(names, int):
        return Head("regression", None, names, dropout, l2)
    named = _as_names(names)
    return Head("regression", named, len(named), dropout, l2)


def tokens(
    tag_names: Sequence[str],
    *,
    dropout: float = 0.2,
    l2: float = 0.0,
    label_smoothing: float = 0.0,
    loss: str = "cross_entropy",
) -> Head:
    """One of several tags for each word of a sentence: names of people and places, parts of speech.

    The model takes sentences whose words are separated by blanks. A word that is cut into pieces is judged by its
    first one. Words behind the end of what the backbone can take are not seen: they are left out of training and
    answered with ``"O"`` where there is such a tag, and ``""`` where there is none.

    Args:
        tag_names: in the order of the labels, such as ``["O", "B-PER", "I-PER"]``; ``tagged.tag_names`` of loaded data.
        dropout: as in :func:`classification`.
        l2: as in :func:`classification`.
        label_smoothing: as in :func:`classification`.
        loss: as in :func:`classification`.

    Returns:
        A :class:`Head` with one logit per tag and word.

    Example:
        >>> head = tokens(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
    """
    names = _as_names(tag_names)
    return Head("tokens", names, len(names), dropout, l2, label_smoothing, loss)


def of(model: keras.Model) -> Head:
    """Finds the head of a model that :func:`tfft.build` made, also after saving and loading.

    Args:
        model: any Keras model that holds a ``Logits`` layer, also inside of another model.

    Returns:
        Its :class:`Head`.

    Raises:
        PlanError: when there is none.
    """
    found = _logits_layers(model)
    if not found:
        names = listed([layer.name for layer in model.layers], limit=10)
        raise PlanError(
            f"The model {model.name!r} has no tfft head, so its classes are not known. Expected a last layer "
            f"{LOGITS_LAYER!r} as tfft.build makes it; received the layers {names}. "
            "Make the model with tfft.build(backbone, tfft.heads.classification(class_names))."
        )
    return found[-1].head


def set_l2(model: keras.Model, l2: float) -> None:
    """Gives the head of a model another weight decay; a compiled model follows with its next ``compile``.

    Args:
        model: with one head of tfft; changed in place.
        l2: weight decay of the last layer's kernel, 0 or more.

    Raises:
        PlanError: when the model has no head, or ``l2`` is out of range.

    Example:
        >>> set_l2(model, 1e-3)
    """
    of(model)
    layer = _logits_layers(model)[-1]
    layer.head = dataclasses.replace(layer.head, l2=float(l2))
    regularizer = keras.regularizers.L2(l2) if l2 else None
    layer.kernel_regularizer = regularizer  # what is saved
    layer.kernel.regularizer = regularizer  # what is trained with


@keras.saving.register_keras_serializable(package="tfft")
class Logits(keras.layers.Dense):
    """The last layer: a Dense layer in float32 that carries the :class:`Head` in its config.

    Args:
        head: a head, or its ``to_dict()``.
        **kwargs: as for ``keras.layers.Dense``; units and regularizer come from the head.
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
        """Puts the layer behind others, and makes sure that those which are frozen are so inside too."""
        if isinstance(inputs, keras.KerasTensor):
            _freeze_inside(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor as plain values."""
        return {**super().get_config(), "head": self.head.to_dict()}


def _freeze_inside(tensor: keras.KerasTensor) -> None:
    """Freezes the layers inside of frozen layers, in everything that a tensor was computed by.

    A layer that is made of layers, as those of transformers are, forgets in a file that it is frozen: Keras loads it
    as such, but builds what is inside as trainable, and the model counts and trains that. The head is called when all
    in front of it has been built, also when a file is loaded.
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
    """The last layer of a model that tags words: it also says which words it could not see.

    Where there is no word, all logits are :data:`tfft.losses.ABSENT`. Where a word could not be seen, the tag ``"O"``
    has the logit 0 and all others that number, so that it is answered with ``"O"``; without that tag it is as if
    there were no word. Loss, metrics and :meth:`Head.postprocess` go by that, also behind an export.

    Args:
        head: as for :class:`Logits`.
        **kwargs: as for :class:`Logits`.
    """

    def build(self, features_shape: Any, word_starts_shape: Any = None) -> None:
        """Makes the kernel for features of a known width."""
        super().build(features_shape)

    def call(self, features: Any, word_starts: Any) -> Any:
        """Returns logits [B, W, units] from features [B, W, D] and the starts of words [B, W]."""
        ops = keras.ops
        names = self.head.class_names
        unseen = [0.0 if name == OUTSIDE else ABSENT for name in names]
        starts = ops.convert_to_tensor(word_starts)[..., None]
        other = ops.where(starts == -2, ops.convert_to_tensor(unseen, self.compute_dtype), ABSENT)
        return ops.where(starts >= 0, super().call(features), other)

    def compute_output_shape(self, features_shape: Any, word_starts_shape: Any = None) -> Any:
        """Returns the shape of the features with the tags in place of their width."""
        return super().compute_output_shape(features_shape)


def _as_names(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise PlanError(f"Expected a list of names, received the text {names!r}. Write [{names!r}, ...].")
    return tuple(names)


def _problems(head: Head) -> list[str]:
    problems = []
    if head.kind not in _KINDS:
        problems.append(f"kind must be one of {listed(_KINDS)}, received {head.kind!r}")
    if head.loss_name not in LOSSES:
        hint = did_you_mean(head.loss_name, LOSSES)
        problems.append(f"loss must be one of {listed(LOSSES)}, received {head.loss_name!r}.{hint}")
    names = head.class_names
    if names is None and head.kind != "regression":
        problems.append("class_names is missing")
    if names is not None:
        problems += _name_problems(head.kind, names)
    if head.units < 1 or (names is not None and head.kind != "binary" and head.units != len(names)):
        problems.append(f"units must be at least 1 and as many as names, received {head.units}")
    for field in ("dropout", "label_smoothing"):
        if not 0 <= getattr(head, field) < 1:
            problems.append(f"{field} must be 0 or more and below 1, received {getattr(head, field)!r}")
    if not 0 <= head.l2 < float("inf"):
        problems.append(f"l2 must be 0 or more, received {head.l2!r}")
    return problems


def _name_problems(kind: str, names: tuple[str, ...]) -> list[str]:
    problems = []
    least = 2 if kind in ("classification", "tokens") else 1
    if kind == "binary" and len(names) != 2:
        problems.append(f"binary needs two class names, those of 0 and 1, or the name of 1; received {listed(names)}")
    elif len(names) < least:
        problems.append(f"{kind} needs at least {least} names, received {len(names)}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        problems.append(f"names must differ, received more than once: {listed(twice)}")
    if any(not name for name in names):
        problems.append("names must not be empty")
    return problems


def _logits_layers(model: keras.Model) -> list[Logits]:
    found: list[Logits] = []
    for layer in model.layers:
        if isinstance(layer, Logits):
            found.append(layer)
        elif isinstance(layer, keras.Model):
            found += _logits_layers(layer)
    return found
