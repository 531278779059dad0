"""Interface of a task: :class:`Task`, :class:`Evaluator`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import keras
    import numpy as np

    from tfft.evaluation.scores import Scores
    from tfft.heads import Head
    from tfft.registry.modality_interface import Modality
    from tfft.registry.report_interface import ReportBuilder

FeatureLevel = Literal["pooled", "sequence", "spatial", "pyramid"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """Metric that selects the better of two models: best epoch, WiSE-FT, soups.

    Attributes:
        name: Name of the logged metric without ``val_``, such as ``"accuracy"``; the loss breaks ties, and decides
            alone if the metric is not logged.
        higher_is_better: False for errors.
    """

    name: str
    higher_is_better: bool = True


@dataclasses.dataclass(frozen=True)
class ScoreDisplay:
    """Words for the scores of a task, for :class:`tfft.evaluation.Scores`.

    Attributes:
        metric: Name of the main score.
        higher_is_better: False for errors.
        baseline: Prediction of ``majority_baseline`` for every example.
        baselines: Predictions of further baselines, by the name of their measure.
        details: Further measures at the end of the summary, as a format such as ``"at an IoU of 0.5 {map50:.4f}"``.
        row: Noun for a row of the table.
        table: Title of the table.
        count: Title of the column with the number of items of a row.
        columns: Titles of the columns after the recall: ``"f1"`` or ``"dice"``, then possibly ``"iou"``.
    """

    metric: str
    higher_is_better: bool = True
    baseline: str = "majority class"
    baselines: Mapping[str, str] = dataclasses.field(default_factory=dict)
    details: str = ""
    row: str = "class"
    table: str = "per class"
    count: str = "examples"
    columns: tuple[str, ...] = ("f1",)


@dataclasses.dataclass(frozen=True)
class ExampleResult:
    """Prediction for one labelled example, for the report of a run.

    Attributes:
        label: True label as text.
        prediction: Predicted label as text.
        error: How wrong the prediction is, from 0; the largest errors are shown first.
        confidence: Probability of the predicted label, 0 to 1; None if the task has none.
        correct: Whether label and prediction agree; None if there is no right or wrong.
    """

    label: str
    prediction: str
    error: float
    confidence: float | None = None
    correct: bool | None = None


@dataclasses.dataclass(frozen=True)
class Default:
    """Task-specific default of a training setting.

    Attributes:
        value: Default.
        reason: Reason, for the reasons of a plan.
    """

    value: Any
    reason: str


class Task:
    """Meaning of a label: how it is read, predicted, trained, scored and shown.

    A subclass sets the class attributes and overrides methods; the base methods fit most tasks.

    Attributes:
        name: Name for users, ``task="multilabel"``.
        head_kind: Name of the task in the config of saved heads; usually the same.
        modalities: Names of the supported modalities; empty for all.
        feature_level: Features for the head: one vector per example (``"pooled"``), one per token or frame
            (``"sequence"``), a feature map (``"spatial"``) or feature maps of several strides (``"pyramid"``).
        exclusive_classes: Whether each example has exactly one of several classes, which class weights, balanced
            sampling, nearest class means and contrastive training require.
        numeric_labels: Whether a label is a number, or a row of numbers, and not a class.
        labels_from_folders: Whether a folder name can be the label of its files.
        solves_head: Whether the best head on frozen features can be computed (a linear probe); else it is trained.
        trains_head: Whether the head has weights of its own, so that plans train it before the backbone.
        head_reason: Reason for training the head, for the reasons of a plan.
        caches_features: Whether the frozen part of the model may run once for all epochs.
        strides: Strides in pixels of the feature maps for the level ``"pyramid"``.
        image_pixels: Number of pixels that images should have, in the median shape of the data, where the backbone
            takes any size; None for the size that the backbone was trained at.
        resize: Resizing of images to the size of the model, unless the user sets it; None for that of the backbone.
        moves_with_pixels: Whether flips and crops of an image also apply to its labels (boxes, masks).
        checks_label_errors: Whether a probe can find labels that look wrong.
        selection: Metric that selects the best epoch.
        input_columns: Names of the settings for columns that it reads together, such as ``audio`` and ``text``.
        head_settings: Names of the settings of a run that :meth:`make_head` takes, besides those of all tasks.
    """

    name: ClassVar[str]
    head_kind: ClassVar[str] = ""
    modalities: ClassVar[frozenset[str]] = frozenset()
    feature_level: ClassVar[FeatureLevel] = "pooled"
    exclusive_classes: ClassVar[bool] = False
    numeric_labels: ClassVar[bool] = False
    labels_from_folders: ClassVar[bool] = False
    solves_head: ClassVar[bool] = True
    trains_head: ClassVar[bool] = True
    head_reason: ClassVar[str] = "trained: for this task the best head cannot be computed"
    caches_features: ClassVar[bool] = True
    strides: ClassVar[tuple[int, ...]] = (8, 16, 32)
    image_pixels: ClassVar[int | None] = None
    resize: ClassVar[Literal["crop", "stretch", "pad"] | None] = None
    moves_with_pixels: ClassVar[bool] = False
    checks_label_errors: ClassVar[bool] = False
    selection: ClassVar[Metric] = Metric("accuracy")
    input_columns: ClassVar[frozenset[str]] = frozenset()
    head_settings: ClassVar[tuple[str, ...]] = ()

    @property
    def feature_dtype(self) -> Literal["float32", "float16"]:
        """Type in which cached features are stored; feature maps have a hundred times the size of pooled features."""
        return "float16" if self.feature_level == "pyramid" else "float32"

    @property
    def architectures(self) -> tuple[str, ...]:
        """Names of the heads that ``architecture=`` chooses from, the default first; empty for one head."""
        return ()

    def with_architecture(self, name: str | None) -> Task:
        """Return the task with what differs for one of its :attr:`architectures`, such as defaults of plans.

        Args:
            name: Name of the architecture; None for the default.
        """
        return self

    def preferred_image_size(self, shape: tuple[float, float]) -> tuple[int, int] | None:
        """Return the height and width in pixels for images of a median shape; None for those of the backbone.

        They have about :attr:`image_pixels` in that shape, are whole cells of the coarsest feature map, and not larger
        than the images.
        """
        if self.image_pixels is None:
            return None
        cell, scale = self.strides[-1], min(1.0, math.sqrt(self.image_pixels / (shape[0] * shape[1])))
        height, width = (max(cell, round(side * scale / cell) * cell) for side in shape)
        return height, width

    # --- labels

    @property
    def reader(self) -> Modality | None:
        """Modality that reads its data, if labels have their own files (CoNLL, COCO); None if every modality does."""
        return None

    def infer(self, values: Sequence[Any]) -> int:
        """Return how well label values fit, for ``task="auto"``: 0 for not at all; the highest of all tasks wins."""
        return 0

    def class_names(self, values: Sequence[Any]) -> tuple[str, ...]:
        """Return the class names among label values, in the order of their numbers; empty for numbers."""
        return ()

    def label_problems(self, values: Sequence[Any], class_names: Sequence[str], places: Sequence[str]) -> list[str]:
        """Return the problems of label values, one sentence each with its place (``table.csv:12``)."""
        return []

    def array_problems(self, labels: np.ndarray, class_names: Sequence[str]) -> list[str]:
        """Return the problems of labels in memory that move with the pixels, one sentence each.

        Args:
            labels: Labels of all examples, as the head of the task takes them.
            class_names: Names that the caller gave.
        """
        return []

    def learning_problems(self, values: Sequence[Any], class_names: Sequence[str], *, split: bool) -> list[str]:
        """Return reasons why label values as a whole cannot be trained on, such as a single class.

        Args:
            values: Values of the training examples.
            class_names: Result of :meth:`class_names`.
            split: Whether some of the examples are still to be held out.
        """
        return []

    def encode(self, values: Sequence[Any], class_names: Sequence[str]) -> np.ndarray:
        """Return checked label values as the array for training, one row per example."""
        raise NotImplementedError

    def strata(self, labels: np.ndarray) -> np.ndarray | None:
        """Return the class of each example, int [N], for a stratified split; None if there are no classes."""
        return None

    def counts(self, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, int]:
        """Return the number of examples per class; empty if labels are not classes."""
        return {}

    # --- model

    def head_factory(self) -> Callable[..., Head]:
        """Return the factory function of ``tfft.heads`` for the task."""
        return self.make_head

    def make_head(self, class_names: Sequence[str], **settings: Any) -> Head:
        """Build the head for a configuration.

        Args:
            class_names: Result of :meth:`class_names`.
            **settings: ``dropout``, ``l2``, ``label_smoothing`` and ``loss`` of the configuration; a task ignores
                settings that do not apply, which :meth:`unsupported` reports.
        """
        raise NotImplementedError

    def head_class(self) -> type[Head]:
        """Return the class of its heads, for loading a saved model."""
        raise NotImplementedError

    # --- training and evaluation

    def unsupported(self, config: Any) -> Iterator[str]:
        """Yield a sentence for each setting that does not apply to this task."""
        for name in () if self.exclusive_classes else ("class_weight", "sampling"):
            if getattr(config, name, None):
                yield f"{name} is for examples of one class each, and the task is {self.name}: leave it out"

    def phase_defaults(self) -> Mapping[str, Default]:
        """Return task-specific defaults of :class:`tfft.RunConfig` by setting, such as ``dropout``."""
        return {}

    def phase_settings(self) -> Mapping[str, Any]:
        """Return settings of :class:`tfft.Phase` for the phases that train, such as ``optimizer``."""
        return {}

    def evaluator(self, head: Head) -> Evaluator:
        """Return a new evaluator, which counts over batches and computes the scores."""
        raise NotImplementedError

    # --- what a person sees

    def score_display(self, metric: str) -> ScoreDisplay:
        """Return the words for scores.

        Args:
            metric: Name of the main score, :attr:`tfft.evaluation.Scores.metric`.
        """
        higher = self.selection.higher_is_better if metric == self.selection.name else True
        return ScoreDisplay(metric.replace("_", " "), higher_is_better=higher)

    def plain_outputs(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the served outputs of one example as plain values; None to convert each output by itself.

        Args:
            row: Served outputs by name, arrays without the batch axis.
        """
        return None

    def join_parts(self, rows: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> dict[str, Any]:
        """Make one answer of those for the consecutive parts of an input that is longer than the model takes.

        Only a task whose :attr:`reader` divides inputs needs it.

        Args:
            rows: Served outputs of each part by name, arrays without the batch axis.
            class_names: Class names of the model.
        """
        raise NotImplementedError

    def draw(self, file: str, outputs: Mapping[str, Any]) -> bytes | None:
        """Draw a prediction on its input, for ``tfft predict --draw``; None for tasks with nothing to draw.

        Args:
            file: Path of the input.
            outputs: Plain values by name, as in :meth:`format_prediction`.

        Returns:
            A PNG file.
        """
        return None

    def file_of(self, outputs: Mapping[str, Any]) -> tuple[str, bytes] | None:
        """Return a prediction as a file, for ``tfft predict --out FOLDER``; None for tasks whose answers are values.

        Args:
            outputs: Plain values by name, as in :meth:`format_prediction`.

        Returns:
            Suffix, such as ``".wav"``, and content.
        """
        return None

    def format_prediction(self, name: str, outputs: Mapping[str, Any]) -> str:
        """Format one prediction as a line of text.

        Args:
            name: Name of the input, such as a file.
            outputs: Plain values by name, from :attr:`tfft.exporting.Prediction.answer`.

        Returns:
            The most probable class with the next ones in parentheses, if there are ``label``, ``probability`` and
            ``top``; else all outputs as JSON.
        """
        if "label" not in outputs or "probability" not in outputs:
            return f"{name}: {json.dumps(outputs, ensure_ascii=False)}"
        others = ", ".join(f"{label} {probability:.3f}" for label, probability in outputs.get("top", ())[1:])
        line = f"{name}: {outputs['label']} {outputs['probability']:.3f}"
        return f"{line}  ({others})" if others else line

    def example_results(
        self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray
    ) -> list[ExampleResult] | None:
        """Compare predictions with labels one by one, for the report of a run.

        Args:
            head: Head of the model.
            outputs: Served outputs by name, one row per example.
            labels: True labels in the same order.

        Returns:
            One result per example; None for tasks whose predictions are not shown in a report.
        """
        return None

    def class_scores(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Return a score of each class from served outputs, for explanations; None for tasks without such scores.

        Args:
            outputs: Served outputs by name, one row per example.

        Returns:
            float64 [B, classes]: log-odds of classes, or the predicted numbers.
        """
        return None

    def report_builder(self, head: Head) -> ReportBuilder | None:
        """Return a new object that makes sections of the report of a run, such as drawn images; None for none.

        Args:
            head: Head of the model.
        """
        return None

    # --- contract tests, see tfft.testing.check_task

    def sample_labels(self, head: Head, scores: np.ndarray) -> np.ndarray:
        """Return labels that a linear head can learn.

        Args:
            head: Head to train.
            scores: Random linear functions of the features, float [N, ..., at least 2 and as many as the head's units].
        """
        raise NotImplementedError

    def score_served(self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Mapping[str, float]:
        """Compute the head's metrics by name from served outputs, to compare the two."""
        return {}


class Evaluator:
    """Counts and sums over batches, so that memory does not grow with the dataset."""

    def check(self, labels: np.ndarray) -> None:
        """Raise an error for labels without an output in the head.

        Raises:
            DataError: With the labels at fault.
        """

    def observe(self, model: keras.Model, inputs: Any) -> None:
        """Receive the model and the inputs of a batch before :meth:`update`, for what logits do not show.

        A model of texts decodes here. By default, nothing happens.

        Args:
            model: Model that is evaluated.
            inputs: Inputs of the batch.
        """

    def weight(self, labels: np.ndarray, logits: np.ndarray) -> int:
        """Return the number of items in a batch for the mean loss: the examples, unless a label has several parts."""
        return len(labels)

    def update(self, labels: np.ndarray, logits: np.ndarray) -> None:
        """Add a batch."""
        raise NotImplementedError

    def result(self, count: int, loss: float) -> Scores:
        """Return the scores of all batches, with a 95 % interval."""
        raise NotImplementedError
