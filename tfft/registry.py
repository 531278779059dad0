"""Tasks and modalities by name: the one place where they are listed, and what each has to answer.

A task says what a label means, a modality what an example is. Both are objects of the two classes below, one folder
each under ``tfft/tasks`` and ``tfft/modalities``, imported when they are first asked for. Everything that trains,
evaluates, exports or inspects gets them from here and imports none of them by itself, so that a new one changes no
other file. A package outside of tfft adds its own with :func:`register_task` and :func:`register_modality`, or through
the entry point groups ``tfft.tasks`` and ``tfft.modalities``.

This module imports neither TensorFlow nor Keras.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from tfft.errors import DataError, PlanError, did_you_mean, listed

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import keras
    import numpy as np
    import tensorflow as tf

    from tfft.backbones.base import Backbone
    from tfft.data.examples import Examples, Splits
    from tfft.evaluation.scores import Scores
    from tfft.exporting.loader import ServingInput
    from tfft.exporting.prediction import RequestItem
    from tfft.heads import Head
    from tfft.inspection.findings import DataReport, Finding
    from tfft.models import ModelInput
    from tfft.specs import InputSpec

AUTO = "auto"  # the task is told by the labels

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
        has_own_format: whether its labels come in files of their own (CoNLL, COCO), and not in a column or as the name
            of a folder.
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
    has_own_format: ClassVar[bool] = False
    labels_from_folders: ClassVar[bool] = False
    solves_head: ClassVar[bool] = True
    head_reason: ClassVar[str] = "trained: for this task the best head cannot be computed"
    caches_features: ClassVar[bool] = True
    moves_with_pixels: ClassVar[bool] = False
    checks_label_errors: ClassVar[bool] = False
    selection: ClassVar[Metric] = Metric("accuracy")

    # --- labels

    def infer(self, values: Sequence[Any]) -> int:
        """Returns how well label values fit, for ``task="auto"``: 0 for not at all; the highest of all tasks wins."""
        return 0

    def class_names(self, values: Sequence[Any]) -> tuple[str, ...]:
        """Returns the names of the classes among label values, in the order of their numbers; empty for numbers."""
        return ()

    def label_problems(self, values: Sequence[Any], class_names: Sequence[str], places: Sequence[str]) -> list[str]:
        """Returns what is wrong with label values, one sentence each with its place (``table.csv:12``)."""
        return []

    def learning_problems(self, values: Sequence[Any], class_names: Sequence[str], *, split: bool) -> list[str]:
        """Returns why nothing can be learned from label values as a whole, such as a single class.

        Args:
            values: of the training examples.
            class_names: from :meth:`class_names`.
            split: whether some of the examples are still to be held out.
        """
        return []

    def encode(self, values: Sequence[Any], class_names: Sequence[str]) -> np.ndarray:
        """Returns checked label values as the array that a model is trained on, one row per example."""
        raise NotImplementedError

    def strata(self, labels: np.ndarray) -> np.ndarray | None:
        """Returns the class of each example, int [N], for a split that keeps the shares; None where there is none."""
        return None

    def counts(self, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, int]:
        """Returns the number of examples of each class; empty where labels are no classes."""
        return {}

    # --- model

    def head_factory(self) -> Callable[..., Head]:
        """Returns the function that ``tfft.heads`` has under the name of the task."""
        return self.make_head

    def make_head(self, class_names: Sequence[str], **settings: Any) -> Head:
        """Makes the head for a configuration.

        Args:
            class_names: from :meth:`class_names`.
            **settings: ``dropout``, ``l2``, ``label_smoothing`` and ``loss`` of the configuration; a task ignores what
                has no meaning for it, and :meth:`unsupported` says so.
        """
        raise NotImplementedError

    def head_class(self) -> type[Head]:
        """Returns the class of its heads, which reads them back from a saved model."""
        raise NotImplementedError

    # --- training and evaluation

    def unsupported(self, config: Any) -> Iterator[str]:
        """Yields a sentence for each setting that has no meaning for this task."""
        for name in () if self.exclusive_classes else ("class_weight", "sampling"):
            if getattr(config, name, None):
                yield f"{name} is for examples of one class each, and the task is {self.name}: leave it out"

    def phase_defaults(self) -> Mapping[str, Default]:
        """Returns defaults of training that differ for this task, by the name of the setting, such as ``dropout``."""
        return {}

    def evaluator(self, head: Head) -> Evaluator:
        """Returns a new object that counts over batches and gives the scores."""
        raise NotImplementedError

    # --- what a person sees

    def format_prediction(self, name: str, outputs: Mapping[str, Any]) -> str:
        """Returns one prediction as a line of text.

        Args:
            name: of what was asked about, such as a file.
            outputs: plain values by name, from :attr:`tfft.exporting.FilePrediction.answer`.

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
        """Returns labels that a linear head can learn.

        Args:
            head: that is to learn them.
            scores: random linear functions of the features, float [N, ..., at least 2 and as many as the head's units].
        """
        raise NotImplementedError

    def score_served(self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Mapping[str, float]:
        """Computes the head's metrics from what a server answers, to compare the two; by their name."""
        return {}


class Evaluator:
    """Counts and sums over batches, so that memory does not grow with the dataset."""

    def check(self, labels: np.ndarray) -> None:
        """Refuses labels that the head has no output for.

        Raises:
            DataError: with the labels at fault.
        """

    def weight(self, labels: np.ndarray, logits: np.ndarray) -> int:
        """Returns how many items of a batch the mean loss is over: the examples, unless a label has several parts."""
        return len(labels)

    def update(self, labels: np.ndarray, logits: np.ndarray) -> None:
        """Adds a batch."""
        raise NotImplementedError

    def result(self, count: int, loss: float) -> Scores:
        """Returns the scores of all batches, with a 95 % interval."""
        raise NotImplementedError


class Modality:
    """What an example is: how it is found, read, checked, fed to a backbone, and served.

    Attributes:
        name: ``"image"``, ``"text"``, ``"audio"``.
        item: singular noun for messages, such as "image".
        items: plural of it.
        columns: names of the settings that name its columns in a table, such as ``("text",)``.
        settings: names of the settings of reading that only this modality takes, such as ``("sample_rate",)``.
        request: name of the entry of a prediction that says what was asked about, in JSON.
    """

    name: ClassVar[str]
    item: ClassVar[str]
    items: ClassVar[str]
    columns: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[frozenset[str]] = frozenset()
    request: ClassVar[str] = "file"

    # --- data

    def matches(self, source: Any, config: Any) -> int:
        """Returns how surely a source holds this kind of data, 0 for not at all; the highest of all wins.

        Args:
            source: as :func:`tfft.data.load` takes it.
            config: the settings of reading that were given.
        """
        return 0

    def load(self, source: Any, config: Any, **reading: Any) -> Splits:
        """Reads a source and splits it into training and validation examples."""
        raise NotImplementedError

    def read_labelled(self, source: Any, class_names: Sequence[str], config: Any, **reading: Any) -> Examples:
        """Reads a source for a model that knows its classes, without splitting it."""
        raise NotImplementedError

    def adapt(self, splits: Splits, backbone: Backbone, config: Any) -> Splits:
        """Returns the examples as a backbone takes them, such as recordings at its sample rate."""
        return splits

    # --- checks

    def check_source(
        self,
        source: Any,
        columns: Mapping[str, Any],
        *,
        backbone: str | os.PathLike[str] | Backbone | None,
        seed: int,
        store: str | os.PathLike[str] | None,
        progress: Callable[[int, int], None] | None,
    ) -> DataReport | None:
        """Looks at a source that can be checked in a state that cannot be loaded.

        Args:
            source: as :func:`tfft.check` takes it, like all that follows.
            columns: those that were named, by role.
            backbone: for the check of labels.
            seed: of the split and the probe.
            store: file in which is kept what reading files told.
            progress: called with (files read, files in all).

        Returns:
            The report; None where the source is to be loaded first, and :meth:`findings` asked.
        """
        return None

    def findings(self, splits: Splits, *, notes: list[str]) -> Iterator[Finding]:
        """Yields what is wrong, odd or worth knowing in the examples.

        Args:
            splits: that were read; no file is read again.
            notes: gets a sentence for each thing that was not looked for.
        """
        return iter(())

    def counts(self, splits: Splits) -> dict[str, dict[str, int]]:
        """Returns the number of examples of each class, by part."""
        return {"train": splits.train.counts, "validation": splits.validation.counts}

    def example_names(self, examples: Examples) -> Sequence[str]:
        """Returns what examples are called in reports."""
        return examples.paths

    def preview(
        self, examples: Examples, image: InputSpec, *, augment: Any, rows: int, columns: int, seed: int
    ) -> tuple[bytes, int, int] | None:
        """Draws examples as training will see them, side by side.

        Args:
            examples: to choose from.
            image: size and fitting of each picture.
            augment: how they are varied, as :func:`tfft.finetune` takes it.
            rows: examples that are drawn.
            columns: pictures in a row.
            seed: of the choice and of the views.

        Returns:
            A PNG file, its height and its width; None where examples cannot be drawn.
        """
        return None

    def thumbnail(self, path: str) -> bytes | None:
        """Returns a small picture of a file as JPEG, 96 x 96, for reports; None where there is none to be had."""
        return None

    # --- model

    def why_not(self, backbone: Backbone) -> str | None:
        """Returns why a backbone cannot take this kind of data, as a sentence; None where it can."""
        return None

    def fits(self, backbone: Backbone, options: Mapping[str, Any]) -> int:
        """Returns how surely a model of a backbone is meant to take this kind of data; the highest of all wins.

        Args:
            backbone: any.
            options: of :func:`tfft.build`, such as ``audio``.

        Returns:
            0 for not at all.
        """
        return 0 if self.why_not(backbone) else 1

    def model_options(self, splits: Splits) -> dict[str, Any]:
        """Returns the options of :func:`tfft.build` for a model of these examples."""
        return {}

    def attach_input(
        self, backbone: Backbone, network: keras.Model, level: FeatureLevel = "pooled", **options: Any
    ) -> ModelInput:
        """Puts the model's inputs, and what has to happen to them, in front of a backbone.

        Args:
            backbone: that :meth:`why_not` has nothing against.
            network: its model, a layer of the model to be.
            level: what the head takes; pooling over all positions is done behind this, where features still have some.
            **options: of :func:`tfft.build`; those of other kinds of data are left alone.

        Raises:
            BackboneError: when the backbone cannot take this kind of data, or not as the options say.
        """
        raise NotImplementedError

    # --- serving

    def serving(self, model: keras.Model, inputs: Mapping[str, tf.TensorSpec], **options: Any) -> ServingInput | None:
        """Returns how a model takes this kind of data; None where its inputs are something else.

        Args:
            model: any Keras model.
            inputs: of it, by name.
            **options: of :func:`tfft.export`, such as ``input_spec``.
        """
        return None

    def served(self, signatures: Mapping[str, Any], assets: Path) -> ServingInput | None:
        """Returns how an exported model takes this kind of data; None where it takes something else.

        Args:
            signatures: of the model, by name.
            assets: the folder of its assets.
        """
        return None

    def read_items(self, items: Sequence[Any], spec: Any) -> Iterator[RequestItem]:
        """Yields what a model is asked about as its signature takes it, or the reason why it cannot.

        Args:
            items: paths; for texts the texts.
            spec: of the model, from :meth:`serving` or :meth:`served`.
        """
        raise NotImplementedError

    def request_noun(self, spec: Any) -> str:
        """Returns what a served model is given, in the plural, such as "image files"."""
        return self.items

    def columns_of(self, spec: Any) -> tuple[str, ...]:
        """Returns the columns of a table that a served model is given, by their usual names."""
        return self.columns

    def item_of_row(self, fields: Sequence[Any], folder: Path) -> Any:
        """Returns what the fields of a row name, as :meth:`read_items` takes it; None where they name nothing.

        Args:
            fields: those of :meth:`columns_of`, each of which holds something.
            folder: of relative paths.
        """
        [path] = fields
        return str(folder / path.strip()) if isinstance(path, str) else None

    def items_of_command(
        self, model: str, spec: Any, files: Sequence[str], texts: Sequence[str], second: Sequence[str]
    ) -> list[Any]:
        """Returns what ``tfft predict`` is asked about, as :meth:`read_items` takes it.

        Args:
            model: that is asked, for messages.
            spec: of the model.
            files: that were named.
            texts: of ``--text``.
            second: of ``--text-pair``.

        Raises:
            DataError: when the model takes something else.
        """
        if texts or second:
            raise DataError(f"The model in {model} takes {self.request_noun(spec)}, not --text.")
        return list(files)

    def example_arguments(self, spec: Any) -> str:
        """Returns what could be written behind ``tfft predict MODEL``."""
        return f"{self.item.upper()}..."


T = TypeVar("T", Task, Modality)


class _Registry(Generic[T]):
    """Objects by name; those of tfft are imported when they are first asked for."""

    def __init__(self, what: str, group: str, built_in: Mapping[str, str], aliases: Mapping[str, str]) -> None:
        self._what, self._group = what, group
        self._lazy, self._aliases = dict(built_in), dict(aliases)
        self._objects: dict[str, T] = {}
        self._found_entry_points = False

    def names(self) -> tuple[str, ...]:
        """Returns all names, those of tfft first."""
        self._find_entry_points()
        return tuple(dict.fromkeys((*self._lazy, *self._objects)))

    def canonical(self, name: Any) -> str:
        """Returns the name of an object by this name or an alias, without importing it.

        Raises:
            PlanError: for an unknown name, with the nearest one.
        """
        known = self.names()
        found = self._aliases.get(name, name) if isinstance(name, str) else name
        if found not in known:
            raise PlanError(
                f"Expected a {self._what}: {listed(known)}. Received: {name!r}.{did_you_mean(str(name), known)}"
            )
        return found

    def get(self, name: str) -> T:
        """Returns an object by its name; imports it where it was not asked for before.

        Raises:
            PlanError: for an unknown name, with the nearest one.
        """
        name = self.canonical(name)
        if name not in self._objects:
            module, _, attribute = self._lazy[name].partition(":")
            self._objects[name] = getattr(importlib.import_module(module), attribute)
        return self._objects[name]

    def add(self, value: T, *aliases: str) -> Callable[[], None]:
        """Registers an object under its name and returns a function that removes it again."""
        name = value.name
        if name in self.names():
            raise PlanError(f"The {self._what} {name!r} is registered already. Fix: give yours another name.")
        self._objects[name] = value
        self._aliases.update(dict.fromkeys(aliases, name))

        def remove() -> None:
            self._objects.pop(name, None)
            for alias in aliases:
                self._aliases.pop(alias, None)

        return remove

    def _find_entry_points(self) -> None:
        if not self._found_entry_points:
            self._found_entry_points = True
            for entry in metadata.entry_points(group=self._group):
                self._lazy.setdefault(entry.name, entry.value)


_TASKS: _Registry[Task] = _Registry(
    "task",
    "tfft.tasks",
    {
        "classification": "tfft.tasks.classification:CLASSIFICATION",
        "binary": "tfft.tasks.classification:BINARY",
        "multilabel": "tfft.tasks.multilabel:MULTILABEL",
        "regression": "tfft.tasks.regression:REGRESSION",
        "token_classification": "tfft.tasks.token_classification:TOKEN_CLASSIFICATION",
    },
    {"tokens": "token_classification"},  # in saved heads and plans
)
_MODALITIES: _Registry[Modality] = _Registry(
    "kind of data",
    "tfft.modalities",
    {
        "image": "tfft.modalities.image.modality:IMAGE",
        "text": "tfft.modalities.text.modality:TEXT",
        "audio": "tfft.modalities.audio.modality:AUDIO",
    },
    {},
)


def task(name: str) -> Task:
    """Returns a task by name, also by the name that saved heads and plans have for it.

    Raises:
        PlanError: for an unknown name, with the nearest one and all there are.

    Example:
        >>> task("multilabel").solves_head
        True
    """
    return _TASKS.get(name)


def task_name(name: str) -> str:
    """Returns the name of a task by any of its names, without importing it.

    Raises:
        PlanError: for an unknown name, with the nearest one and all there are.

    Example:
        >>> task_name("tokens")
        'token_classification'
    """
    return _TASKS.canonical(name)


def task_names() -> tuple[str, ...]:
    """Returns the names of all tasks."""
    return _TASKS.names()


def asked_task(name: str) -> Task | None:
    """Returns the task of a setting; None for ``"auto"``, which leaves it to the labels.

    Raises:
        PlanError: for an unknown name, with the nearest one.
    """
    return None if name == AUTO else task(name)


def infer_task(values: Sequence[Any]) -> Task:
    """Returns the task that label values fit best.

    Args:
        values: as :meth:`Task.infer` takes them.

    Raises:
        PlanError: when they fit none.
    """
    every = [task(name) for name in task_names()]
    fits = [one.infer(values) for one in every]
    if not max(fits):
        raise PlanError(f"The labels fit none of the tasks {listed(task_names())}. Fix: say which it is with task=.")
    return every[fits.index(max(fits))]


def register_task(value: Task, *aliases: str) -> Callable[[], None]:
    """Adds a task of your own.

    Args:
        value: the task.
        *aliases: further names, such as one in older plans.

    Returns:
        A function that removes it again, for tests.

    Raises:
        PlanError: when there is one of this name.
    """
    return _TASKS.add(value, *aliases)


def modality(name: str) -> Modality:
    """Returns a kind of data by name.

    Raises:
        PlanError: for an unknown name, with the nearest one and all there are.
    """
    return _MODALITIES.get(name)


def modality_names() -> tuple[str, ...]:
    """Returns the names of all kinds of data."""
    return _MODALITIES.names()


def register_modality(value: Modality, *aliases: str) -> Callable[[], None]:
    """Adds a kind of data of your own; see :func:`register_task`."""
    return _MODALITIES.add(value, *aliases)
