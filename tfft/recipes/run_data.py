"""Data of a run from any source: :class:`RunData`, :func:`load_run_data`.

Implementation notes: the examples and their modality handle the differences between folders, tables, arrays, texts and
``tf.data.Dataset``.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.backbones.base import Backbone
from tfft.config import Plan, SharedSettings
from tfft.console.profile import stage
from tfft.console.progress import ReadingProgress, reading_bar
from tfft.data import BatchOptions, Splits, load
from tfft.data.dataset_examples import ready_splits
from tfft.data.examples import Examples
from tfft.data.keras_sequences import with_datasets
from tfft.data.loader import explicit, load_copy, modality_of, stays_batches
from tfft.data.tfds.source import is_tfds, local_copy
from tfft.errors import PlanError, join_names, quantity, raise_problems, unknown_name
from tfft.inspection import DataReport, Finding, check_splits
from tfft.io.cache_dir import cache_dir
from tfft.specs import OF_SEVERAL, InputSpec, augmentation, changes_of

_Config = TypeVar("_Config", bound=SharedSettings)
_NAMED = 3  # skipped files in the summary of the data


@dataclasses.dataclass(frozen=True, eq=False)
class RunData:
    """Labelled and split examples, before their size and batches are chosen.

    Attributes:
        splits: Examples.
        modality: Modality of the examples; None for a ``tf.data.Dataset``.
        name: Name of the source, for the plan.
        given: Whether the caller passed splits or datasets, which are used as they are.
    """

    splits: Splits[Any]
    modality: registry.Modality | None
    name: str
    given: bool = False

    @property
    def task(self) -> str:
        """Task of the labels."""
        return self.splits.task

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of the labels."""
        return self.splits.class_names

    @property
    def is_ready(self) -> bool:
        """Whether the caller passed batches, which are neither shuffled nor augmented."""
        return self.modality is None

    @property
    def is_text(self) -> bool:
        """Whether the examples are texts."""
        return self.modality is not None and not self.modality.numeric

    @property
    def default_backbone(self) -> str:
        """Handle of the backbone to open if none was given.

        Raises:
            PlanError: If there is none for such examples.
        """
        default = None if self.modality is None else self.modality.default_backbone
        if default is None:
            what = "datasets of batches" if self.modality is None else self.modality.items
            raise PlanError(f"No backbone is the default for {what}: name one. tfft.list_backbones() shows some.")
        return default

    @property
    def is_grouped(self) -> bool:
        """Whether held-out examples are, or may be, of other groups than the training examples, such as speakers."""
        return self.splits.groups is not None or (self.modality is not None and self.modality.may_be_grouped)

    @functools.cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of training examples per class; empty if the labels are not single classes."""
        return _class_counts(self.splits, 0)

    @functools.cached_property
    def unseen(self) -> tuple[str, ...]:
        """Classes without a validation example."""
        counts = _class_counts(self.splits, 1)
        return tuple(name for name, count in zip(self.class_names, counts, strict=False) if not count)

    @functools.cached_property
    def checked(self) -> DataReport | None:
        """Report of the data check; None if there is nothing to check."""
        return check_splits(self.splits, self.name) if self.splits.train.places else None

    @property
    def report(self) -> str:
        """Summary of the data to print."""
        lines = [] if self.splits.report is None else [str(self.splits.report)]
        lines += map(str, self._worth_a_look)
        named = {item.name for finding in self._worth_a_look for item in finding.items}
        if others := [each for each in self.splits.skipped if str(each.path) not in named]:
            more = "; ..." if len(others) > _NAMED else ""
            lines.append(f"{quantity(len(others), 'file')} skipped: {'; '.join(map(str, others[:_NAMED]))}{more}")
        return "\n".join(lines)

    @property
    def _worth_a_look(self) -> list[Finding]:
        """Findings of the data check that are more than notes."""
        return [] if self.checked is None else [each for each in self.checked.findings if each.level != "note"]

    def training(self, spec: InputSpec | None, plan: Plan, epoch: tf.Variable) -> tf.data.Dataset:
        """Return the training dataset; a variable with the epoch determines its order."""
        options = BatchOptions(
            plan.batch_size, True, plan.seed, epoch, plan.augment, plan.views if plan.augment else None, plan.sampling
        )
        return self.splits.train.batches(spec, options)

    def validation(self, spec: InputSpec | None, batch_size: int) -> tf.data.Dataset:
        """Return the validation dataset."""
        return self.splits.validation.batches(spec, BatchOptions(batch_size))

    def evaluation(self, spec: InputSpec | None, batch_size: int) -> tf.data.Dataset:
        """Return the validation dataset for scores, whose labels may have another size than those for training."""
        return self.splits.validation.evaluation_batches(spec, BatchOptions(batch_size))

    @property
    def has_own_evaluation(self) -> bool:
        """Whether :meth:`evaluation` has other labels than :meth:`validation`, such as masks in their own size."""
        return type(self.splits.validation).evaluation_batches is not Examples.evaluation_batches

    def deduplicated(self, spec: InputSpec | None, batch_size: int) -> tf.data.Dataset | None:
        """Return the validation dataset without duplicates of training examples; None if there are none."""
        validation, leaked = self.splits.validation, self.splits.leaked
        if not 0 < len(leaked) < len(validation):
            return None
        clean = np.setdiff1d(np.arange(len(validation)), leaked)
        return validation.take(clean).evaluation_batches(spec, BatchOptions(batch_size))

    def adapted(self, backbone: Backbone, config: _Config, verbose: bool) -> tuple[RunData, _Config, Backbone]:
        """Return the examples in the form that a backbone takes, the settings chosen for it, and the backbone.

        Args:
            backbone: Backbone that the examples are for.
            config: Settings of the user.
            verbose: Print the choices, and show a progress bar while files are read.

        Raises:
            PlanError: If the backbone takes another modality.
            BackboneError: If the modality that it takes is unknown.
        """
        if self.modality is None:
            return self, config, backbone
        settings = {name: getattr(config, name, None) for name in self.modality.settings}
        adapted = self.modality.adapt(self.splits, backbone, {**settings, "fixed": self.given})
        if verbose:
            for note in adapted.notes:
                print(note, flush=True)
        with reading_bar(verbose) as progress:
            adapted.splits.train.read(progress)
        data = dataclasses.replace(self, splits=adapted.splits)
        return data, dataclasses.replace(config, **adapted.settings), adapted.backbone or backbone

    def model_options(self, backbone: Backbone) -> dict[str, Any]:
        """Options of :func:`tfft.build` for these examples; none for a backbone that keeps its own inputs."""
        if self.modality is None or self.modality.why_not(backbone) is not None:
            return {}
        return {"modality": self.modality.name, **self.modality.model_options(self.splits)}

    def notes(self, backbone: Backbone, image_size: tuple[int, int] = (0, 0)) -> list[str]:
        """Return remarks about the examples and a backbone, to print.

        Args:
            backbone: Backbone of the run.
            image_size: Height and width of the images in this run; (0, 0) for those of the backbone.
        """
        if backbone.input_spec is not None and all(image_size):
            height, width = image_size
            spec = dataclasses.replace(backbone.input_spec, height=height, width=width)
            backbone = dataclasses.replace(backbone, input_spec=spec)
        return [] if self.modality is None else list(self.modality.notes(self.splits, backbone))

    def check_backbone(self, backbone: Backbone) -> None:
        """Raise PlanError if a backbone takes another modality."""
        if self.modality is None or (why := self.modality.why_not(backbone)) is None:
            return
        kinds = [registry.modality(name) for name in registry.modality_names()]
        takes = [kind for kind in kinds if kind.fits(backbone, {})]
        if not takes and self.modality.numeric:  # a user's own Keras model keeps its inputs
            return
        fix = f"give {takes[0].items}" if takes else f"tfft.list_backbones(kind={self.modality.name!r}) shows some"
        raise PlanError(f"The data holds {self.modality.items}, and the backbone {why}: {fix}.")


@stage("read and check the data")
def load_run_data(data: Any, config: SharedSettings, progress: ReadingProgress | None = None) -> RunData:
    """Load data in any accepted form.

    Args:
        data: Source for :func:`tfft.data.load`, or its result; or ``(train, validation, class_names)`` with two
            datasets of batches.
        config: Settings, such as the validation split, the seed and the columns of a table.
        progress: Function called with (files read, files in total) while images or recordings are read.

    Raises:
        DataError: If the form is unknown or the data cannot be used.
        PlanError: If a setting does not apply to the data.
    """
    asked, data = config.given("reading"), with_datasets(data)
    if isinstance(data, Splits):
        return _run_data(data, data.root, config, given=True)
    if stays_batches(data, explicit(asked)):
        registry.Match("tf.data datasets", ready_splits, frozenset({"task"})).check(explicit(asked))
        _check_ready(config)
        splits = ready_splits(data[0], data[1], data[2] if len(data) > 2 else None, task=config.task)
        return RunData(splits, None, splits.train.title, given=True)
    check_supported(config)
    reading: dict[str, Any] = {**asked, "store": cache_dir() / "files.sqlite", "progress": progress}
    if is_tfds(data):
        copy = local_copy(data, reading)
        return _run_data(load_copy(copy, reading), copy.name, config)
    in_memory = "" if config.image is None and config.audio is None else "a table in memory"
    name = os.fspath(data) if isinstance(data, (str, os.PathLike)) else in_memory
    return _run_data(load(data, **reading), name, config)


def _run_data(splits: Splits[Any], name: str, config: SharedSettings, given: bool = False) -> RunData:
    if not splits.modality:  # the caller's own splits of datasets
        _check_ready(config)
        return RunData(splits, None, splits.train.title, given=True)
    modality = modality_of(splits)
    if (changes := augmentation(config.augment)) is not None:
        wrong = [change for change in changes_of(changes) if change not in modality.augmentations]
        if wrong:
            valid = join_names(modality.augmentations) or "no augmentation"
            raise PlanError(
                f"augment={join_names(wrong)} cannot augment {modality.items}. For {modality.items}, expected: {valid}."
            )
    return RunData(splits, modality, name or splits.train.title, given)


def _check_ready(config: SharedSettings) -> None:
    """Raise PlanError if a setting changes examples that come in batches already."""
    problems = []
    if config.augment:
        problems.append(
            "augment= expects images in a folder or arrays. For a tf.data.Dataset, augment in its own map()"
        )
    if config.sampling:
        problems.append("sampling= expects a folder or arrays. A tf.data.Dataset has its own order: leave sampling out")
    raise_problems(PlanError, "These settings cannot be used", problems)


def check_supported(config: SharedSettings) -> None:
    """Check that all settings apply to the task.

    Raises:
        PlanError: If some do not; the message names all of them.
    """
    task = registry.asked_task(config.task)
    problems = [] if task is None else list(task.with_architecture(config.architecture).unsupported(config))
    problems += [*_architecture(config.architecture, task), *_combinations(config.augment, task)]
    raise_problems(PlanError, "These settings cannot be used", problems)


def _architecture(name: str | None, task: registry.Task | None) -> Iterator[str]:
    """Yield a sentence if the task has no head of this name."""
    if name is None or (task is not None and name in task.architectures):
        return
    if task is not None and task.architectures:
        yield unknown_name("architecture", name, task.architectures)
        return
    able = join_names(f"task={each!r}" for each in registry.task_names() if registry.task(each).architectures)
    yield f"architecture={name!r} chooses among the heads of a task. Expected {able}: leave it out"


def _combinations(augment: Any, task: registry.Task | None) -> Iterator[str]:
    """Yield a sentence for each augmentation that combines images whose labels the task cannot join."""
    changes = augmentation(augment)
    for name in () if changes is None else [one for one in OF_SEVERAL if getattr(changes, one)]:
        readers = {each: registry.task(each).reader for each in registry.task_names()}
        able = [each for each, reader in readers.items() if reader is not None and name in reader.augmentations]
        if task is None or task.name not in able:
            expected = join_names([f"task={each!r}" for each in able])
            own = "" if name == "mosaic" else f"; classes of whole images are mixed by {name}_alpha= of a phase"
            yield f"augment={name!r} combines several images. Expected {expected}, whose labels can follow{own}"


def _class_counts(splits: Splits[Any], part: int) -> tuple[int, ...]:
    if not registry.task(splits.task).exclusive_classes:
        return ()
    labels = (splits.train, splits.validation)[part].labels
    return tuple(np.bincount(labels, minlength=len(splits.class_names)).tolist())
