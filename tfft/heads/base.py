"""Base class of all heads: :class:`Head`, :class:`ModelFeatures`, :class:`ServedModel`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import keras
import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.errors import PlanError, did_you_mean, join_names, raise_problems

if TYPE_CHECKING:
    from tfft.backbones.base import Backbone

LOGITS_LAYER, DROPOUT_LAYER = "logits", "dropout"
RAW_SIGNATURE = "raw"  # outputs without the operations that small runtimes lack

LOSSES = ("cross_entropy", "focal")
FOCAL_GAMMA = 2.0

OUTSIDE = "O"  # tag of a word outside of any entity

ConvexLoss = Literal["softmax", "sigmoid", "squared"]
Answer = Callable[[Any], dict[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True, eq=False)
class ModelFeatures:
    """Features of a backbone for a head.

    Attributes:
        values: One tensor, or tensors by their stride in pixels for heads that need several resolutions.
        word_starts: For words, int [B, W]: -1 without a word, -2 for a word beyond the model's limit, else 0 or more,
            as from :class:`tfft.layers.word_alignment.TokenizeWords`. None: all words are present.
    """

    values: keras.KerasTensor | Mapping[int, keras.KerasTensor]
    word_starts: keras.KerasTensor | None = None

    @property
    def tensor(self) -> keras.KerasTensor:
        """The only tensor.

        Raises:
            PlanError: If there are several.
        """
        if isinstance(self.values, Mapping):
            raise PlanError(
                f"Expected one tensor of features. Received: one for each stride of {join_names(self.values)}."
            )
        return self.values

    @property
    def maps(self) -> dict[int, keras.KerasTensor]:
        """The tensors by stride, the finest first.

        Raises:
            PlanError: If there is one tensor without a stride.
        """
        if not isinstance(self.values, Mapping):
            raise PlanError(
                "Expected feature maps by stride, ModelFeatures({8: ..., 16: ..., 32: ...}). Received: one tensor "
                f"{tuple(self.values.shape)}. tfft.build(backbone, head) makes them."
            )
        return dict(sorted(self.values.items()))

    @classmethod
    def of(cls, features: Any) -> ModelFeatures:
        """Wrap a tensor (or tensors by stride) as features; return features unchanged."""
        return features if isinstance(features, cls) else cls(features)


@dataclasses.dataclass(frozen=True, eq=False)
class ServedModel:
    """Model that answers requests, and the conversions of its outputs.

    Attributes:
        model: Keras model with the inputs of a request.
        answer: Function from the model's outputs to the outputs of ``serving_default`` (and ``serve_bytes``): named
            tensors, one row per example, in TensorFlow operations.
        further: Functions of the same kind for further signatures, by name, such as :data:`RAW_SIGNATURE`.
        sized: Function instead of ``answer`` whose outputs have the size of each image, such as masks: from the
            model's outputs, and rows and columns of each image as it was given, upright, int32 [B, 2]. None if no
            output depends on them.
    """

    model: keras.Model
    answer: Answer
    further: Mapping[str, Answer] = dataclasses.field(default_factory=dict)
    sized: Callable[[Any, tf.Tensor], dict[str, tf.Tensor]] | None = None


@dataclasses.dataclass(frozen=True)
class Head:
    """Task-specific output of a model; see :func:`classification`, :func:`binary`, :func:`multilabel`,
    :func:`regression`, :func:`token_classification` or :func:`object_detection`.

    Your own task derives from this class and overrides :meth:`loss`, :meth:`metrics` and :meth:`postprocess`; further
    fields need a default and become part of the saved config.

    Attributes:
        task: Name of its task, such as ``"classification"``.
        class_names: Names in the order of the labels; for regression the names of the values, or None.
        units: Number of units in the last layer; 1 for binary.
        dropout: Dropout rate of the features.
        l2: L2 penalty of the last layer's kernel.
        label_smoothing: Share of the target that is spread over all classes.
        loss_name: ``"cross_entropy"`` or ``"focal"``; regression always uses the squared error.
    """

    least_names: ClassVar[int] = 1
    needs_names: ClassVar[bool] = True
    convex_loss: ClassVar[ConvexLoss | None] = None  # that a linear probe minimizes; None: the head has to be trained

    task: str
    class_names: tuple[str, ...] | None
    units: int
    dropout: float = 0.2
    l2: float = 0.0
    label_smoothing: float = 0.0
    loss_name: str = "cross_entropy"

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", registry.task(self.task).name)
        if self.class_names is not None:
            object.__setattr__(self, "class_names", tuple(str(name) for name in self.class_names))
        raise_problems(PlanError, f"The {self.task} head cannot be made", self.problems())

    @property
    def definition(self) -> registry.Task:
        """Task of the head, for its architecture if the task has several."""
        return registry.task(self.task).with_architecture(getattr(self, "architecture", None))

    @property
    def selection(self) -> registry.Metric:
        """Metric that selects the better of two models."""
        return self.definition.selection

    @property
    def feature_level(self) -> registry.FeatureLevel:
        """Features that it takes from a backbone, see :class:`tfft.registry.Task`."""
        return self.definition.feature_level

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides in pixels of the feature maps that it takes, if it takes a pyramid."""
        return self.definition.strides

    @property
    def resize(self) -> Literal["crop", "stretch", "pad"] | None:
        """Resizing that the task prescribes for images; None for that of the run."""
        return self.definition.resize

    @property
    def modalities(self) -> frozenset[str]:
        """Modalities that its task supports; empty for all."""
        return self.definition.modalities

    @property
    def reader(self) -> registry.Modality | None:
        """Modality that reads the data of its task, if labels have files of their own."""
        return self.definition.reader

    @property
    def facts(self) -> dict[str, object]:
        """Facts for the card of an export that only this head knows."""
        return {}

    def loss(self, *, soft: bool = False) -> keras.losses.Loss:
        """Return the loss for this head's labels and logits.

        Args:
            soft: Whether labels are shares, float [B, units], as from :func:`tfft.data.apply_mixup` and
                :func:`tfft.data.one_hot`. For labels of one class the value is the same.
        """
        raise NotImplementedError(f"{type(self).__name__}.loss")

    def metrics(self, *, soft: bool = False) -> list[keras.metrics.Metric]:
        """Return new metrics for this head's labels and logits.

        Args:
            soft: As in :meth:`loss`. For soft labels, the class with the largest share is the correct one.
        """
        raise NotImplementedError(f"{type(self).__name__}.metrics")

    def example_scores(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray | None:
        """Return the score of each example, higher is better, whose mean selects the best epoch; None if it has none.

        Args:
            labels: Labels of a batch, as the loss takes them; one-hot for soft labels.
            logits: Outputs of the model for the batch.

        Returns:
            Float [B], such as 1 for a correct class and 0 for a wrong one.
        """
        return None

    def compile_args(self, *, soft: bool = False) -> dict[str, Any]:
        """Return ``loss`` and ``metrics`` for ``model.compile``.

        Args:
            soft: Whether labels are shares, as in :meth:`loss`; also those of the validation examples.

        Example:
            >>> model.compile(optimizer="adam", **head.compile_args())
        """
        return {"loss": self.loss(soft=soft), "metrics": self.metrics(soft=soft)}

    def attach(self, features: keras.KerasTensor | ModelFeatures) -> keras.KerasTensor:
        """Add the layers ``dropout`` and ``logits`` to features.

        Args:
            features: [B, width] with a known width; or :class:`ModelFeatures`.

        Returns:
            float32 logits [B, units].
        """
        from tfft.heads.logits import Logits  # which needs this module

        dropped = keras.layers.Dropout(self.dropout, name=DROPOUT_LAYER)(ModelFeatures.of(features).tensor)
        return Logits(self, name=LOGITS_LAYER)(dropped)

    def backbone_for(self, backbone: Backbone) -> Backbone:
        """Return the backbone in the form that the head takes; by default as it is.

        Args:
            backbone: Backbone of a model that is built.

        Raises:
            BackboneError: If it lacks what the head needs, such as a decoder.
        """
        return backbone

    def fitted_to(self, labels: Any) -> Head:
        """Return the head with statistics of the training labels that it needs: for regression mean, spread and median.

        Args:
            labels: Labels of all training examples, as the task has them.
        """
        return self

    def scaled(self, targets: Any) -> Any:
        """Return targets as the last layer has to compute them, before :meth:`to_units`."""
        return targets

    def to_units(self, logits: Any) -> Any:
        """Return what the last layer computed in the units of the labels; only numbers have any."""
        return logits

    @property
    def threshold_count(self) -> int:
        """Number of thresholds that the head may have; 0 where predictions depend on none."""
        return 0

    def with_thresholds(self, thresholds: Sequence[float]) -> Head:
        """Return the head with other thresholds.

        Args:
            thresholds: As many probabilities as :attr:`threshold_count`.

        Raises:
            PlanError: If the head has none.
        """
        raise PlanError(f"Expected a head with thresholds. Received: {self.task} with {self.units} outputs.")

    def decided(self, logits: Any) -> Any:
        """Return logits whose sign, or whose largest one, is the answer: those given, unless the head has thresholds.

        Args:
            logits: Array or tensor [..., units].
        """
        return logits

    def postprocess(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Convert logits to served outputs, with TensorFlow ops and independently for each row.

        Args:
            logits: Output of the model.

        Returns:
            Outputs by name, one row per example.

        Example:
            >>> head.postprocess(model.predict(photos))["label"].numpy()
            array([b'bees', b'ants'], dtype=object)
        """
        raise NotImplementedError(f"{type(self).__name__}.postprocess")

    def served(self, model: keras.Model) -> ServedModel:
        """Return what an export serves: by default the model itself, with :meth:`postprocess`.

        Override it if requests have other inputs than training, if the answer needs more than one call of the model
        (such as decoding), for outputs in the size of each image, or for further signatures.

        Args:
            model: Model that ends in this head.
        """
        return ServedModel(model, self.postprocess)

    @property
    def tolerances(self) -> Mapping[str, float]:
        """Differences that the check of an export accepts, by output, where computing amplifies rounding."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for YAML and JSON; the task is written as ``kind``."""
        task = registry.task(self.task)
        values = dataclasses.asdict(self)
        del values["task"]
        names = None if self.class_names is None else list(self.class_names)
        return {"kind": task.head_kind or task.name, **values, "class_names": names}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Head:
        """Build the head of a task from the result of :meth:`to_dict`.

        Raises:
            PlanError: For an unknown task, or invalid values.
        """
        fields = dict(values)
        task = registry.task(fields.pop("kind")).with_architecture(fields.get("architecture"))
        return task.head_class()(task=task.name, **fields)

    def problems(self) -> list[str]:
        """Return the problems of the fields, one sentence each."""
        problems = []
        if self.loss_name not in LOSSES:
            hint = did_you_mean(self.loss_name, LOSSES)
            problems.append(f"loss must be one of {join_names(LOSSES)}, received {self.loss_name!r}.{hint}")
        problems += self.name_problems()
        if self.units < 1 or (self.class_names is not None and self.units != self.units_for(self.class_names)):
            problems.append(f"units must be at least 1 and as many as names, received {self.units}")
        for field in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, field) < 1:
                problems.append(f"{field} must be 0 or more and below 1, received {getattr(self, field)!r}")
        if not 0 <= self.l2 < float("inf"):
            problems.append(f"l2 must be 0 or more, received {self.l2!r}")
        return problems

    def name_problems(self) -> list[str]:
        """Return the problems of the class names."""
        names = self.class_names
        if names is None:
            return ["class_names is missing"] if self.needs_names else []
        problems = []
        if len(names) < self.least_names:
            problems.append(f"{self.task} needs at least {self.least_names} names, received {len(names)}")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            problems.append(f"names must differ, received more than once: {join_names(twice)}")
        if any(not name for name in names):
            problems.append("names must not be empty")
        return problems

    @staticmethod
    def units_for(class_names: tuple[str, ...]) -> int:
        """Return the number of units in the last layer for some classes."""
        return len(class_names)


def as_names(names: Any) -> tuple[str, ...]:
    """Return a list of names as a tuple; a single string is an error, not a list of letters.

    Raises:
        PlanError: For a string.
    """
    if isinstance(names, str):
        raise PlanError(f"Expected a list of names. Received: the text {names!r}. Write [{names!r}, ...].")
    return tuple(names)
