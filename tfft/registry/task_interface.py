"""What a task answers: :class:`Task`, :class:`Evaluator`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np

    from tfft.evaluation.scores import Scores
    from tfft.heads import Head
    from tfft.registry.modality_interface import Modality

FeatureLevel = Literal["pooled", "sequence", "spatial", "pyramid"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """The measurement that decides which of two models is better: best epoch, WiSE-FT, soups.

    Attributes:
        name: of the logged metric without ``val_``, such as ``"accuracy"``; the loss decides between equal values, and
            alone where the metric is not logged.
        higher_is_better: False for errors.
    """

    name: str
    higher_is_better: bool = True


@dataclasses.dataclass(frozen=True)
class Default:
    """A setting of training that a task has another default for.

    Attributes:
        value: the default.
        reason: why, for the reasons of a plan.
    """

    value: Any
    reason: str


class Task:
    """What a label means: how it is read, predicted, trained, scored and shown.

    A subclass sets the class attributes and overrides what differs; the methods below hold what most tasks share.

    Attributes:
        name: as users write it, ``task="multilabel"``.
        head_kind: name of the task in the config of saved heads; the name itself unless history says otherwise.
        modalities: names of the kinds of data that it can be learned from; empty for all.
        feature_level: what the head takes of a backbone: one vector per example (``"pooled"``), one per token or frame
            (``"sequence"``), a feature map (``"spatial"``) or feature maps of several strides (``"pyramid"``).
        exclusive_classes: whether each example has exactly one of several classes, as class weights, balanced sampling,
            nearest class means and training on pairs of examples need.
        labels_from_folders: whether the name of a folder can be the label of the files in it.
        solves_head: whether the best head on frozen features can be computed (a linear probe); else it is trained.
        head_reason: why the head is trained, for the reasons of a plan, where it is.
        caches_features: whether the frozen part of the model may run once for all epochs.
        moves_with_pixels: whether flips and crops of an image have to be applied to its labels too (boxes, masks).
        checks_label_errors: whether a probe can name labels that look wrong.
        selection: the measurement that picks the best epoch.
    """

    name: ClassVar[str]
    head_kind: ClassVar[str] = ""
    modalities: ClassVar[frozenset[str]] = frozenset()
    feature_level: ClassVar[FeatureLevel] = "pooled"
    exclusive_classes: ClassVar[bool] = False
    labels_from_folders: ClassVar[bool] = False
    solves_head: ClassVar[bool] = True
    head_reason: ClassVar[str] = "trained: for this task the best head cannot be computed"
    caches_features: ClassVar[bool] = True
    moves_with_pixels: ClassVar[bool] = False
    checks_label_errors: ClassVar[bool] = False
    selection: ClassVar[Metric] = Metric("accuracy")

    # --- labels

    @property
    def reader(self) -> Modality | None:
        """What reads its data where labels come in files of their own (CoNLL, COCO); None where every modality does."""
        return None

    def infer(self, values: Sequence[Any]) -> int:
        """Return how well label values fit, for ``task="auto"``: 0 for not at all; the highest of all tasks wins."""
        return 0

    def class_names(self, values: Sequence[Any]) -> tuple[str, ...]:
        """Return the names of the classes among label values, in the order of their numbers; empty for numbers."""
        return ()

    def label_problems(self, values: Sequence[Any], class_names: Sequence[str], places: Sequence[str]) -> list[str]:
        """Return what is wrong with label values, one sentence each with its place (``table.csv:12``)."""
        return []

    def learning_problems(self, values: Sequence[Any], class_names: Sequence[str], *, split: bool) -> list[str]:
        """Return why nothing can be learned from label values as a whole, such as a single class.

        Args:
            values: of the training examples.
            class_names: from :meth:`class_names`.
            split: whether some of the examples are still to be held out.
        """
        return []

    def encode(self, values: Sequence[Any], class_names: Sequence[str]) -> np.ndarray:
        """Return checked label values as the array that a model is trained on, one row per example."""
        raise NotImplementedError

    def strata(self, labels: np.ndarray) -> np.ndarray | None:
        """Return the class of each example, int [N], for a split that keeps the shares; None where there is none."""
        return None

    def counts(self, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, int]:
        """Return the number of examples of each class; empty where labels are no classes."""
        return {}

    # --- model

    def head_factory(self) -> Callable[..., Head]:
        """Return the function that ``tfft.heads`` has under the name of the task."""
        return self.make_head

    def make_head(self, class_names: Sequence[str], **settings: Any) -> Head:
        """Make the head for a configuration.

        Args:
            class_names: from :meth:`class_names`.
            **settings: ``dropout``, ``l2``, ``label_smoothing`` and ``loss`` of the configuration; a task ignores what
                has no meaning for it, and :meth:`unsupported` says so.
        """
        raise NotImplementedError

    def head_class(self) -> type[Head]:
        """Return the class of its heads, which reads them back from a saved model."""
        raise NotImplementedError

    # --- training and evaluation

    def unsupported(self, config: Any) -> Iterator[str]:
        """Yield a sentence for each setting that has no meaning for this task."""
        for name in () if self.exclusive_classes else ("class_weight", "sampling"):
            if getattr(config, name, None):
                yield f"{name} is for examples of one class each, and the task is {self.name}: leave it out"

    def phase_defaults(self) -> Mapping[str, Default]:
        """Return defaults of training that differ for this task, by the name of the setting, such as ``dropout``."""
        return {}

    def evaluator(self, head: Head) -> Evaluator:
        """Return a new object that counts over batches and gives the scores."""
        raise NotImplementedError

    # --- what a person sees

    def format_prediction(self, name: str, outputs: Mapping[str, Any]) -> str:
        """Return one prediction as a line of text.

        Args:
            name: of what was asked about, such as a file.
            outputs: plain values by name, from :attr:`tfft.exporting.Prediction.answer`.

        Returns:
            The most probable class with the next ones in parentheses, where there are ``label``, ``probability`` and
            ``top``; else all outputs as JSON.
        """
        if "label" not in outputs or "probability" not in outputs:
            return f"{name}: {json.dumps(outputs, ensure_ascii=False)}"
        others = ", ".join(f"{label} {probability:.3f}" for label, probability in outputs.get("top", ())[1:])
        line = f"{name}: {outputs['label']} {outputs['probability']:.3f}"
        return f"{line}  ({others})" if others else line

    # --- contract tests, see tfft.testing.check_task

    def sample_labels(self, head: Head, scores: np.ndarray) -> np.ndarray:
        """Return labels that a linear head can learn.

        Args:
            head: that is to learn them.
            scores: random linear functions of the features, float [N, ..., at least 2 and as many as the head's units].
        """
        raise NotImplementedError

    def score_served(self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Mapping[str, float]:
        """Compute the head's metrics from what a server answers, to compare the two; by their name."""
        return {}


class Evaluator:
    """Counts and sums over batches, so that memory does not grow with the dataset."""

    def check(self, labels: np.ndarray) -> None:
        """Refuse labels that the head has no output for.

        Raises:
            DataError: with the labels at fault.
        """

    def weight(self, labels: np.ndarray, logits: np.ndarray) -> int:
        """Return how many items of a batch the mean loss is over: the examples, unless a label has several parts."""
        return len(labels)

    def update(self, labels: np.ndarray, logits: np.ndarray) -> None:
        """Add a batch."""
        raise NotImplementedError

    def result(self, count: int, loss: float) -> Scores:
        """Return the scores of all batches, with a 95 % interval."""
        raise NotImplementedError
