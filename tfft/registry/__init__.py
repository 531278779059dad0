"""Registry of tasks and modalities by name.

A task defines the meaning of labels, a modality the kind of examples. Both are objects of the classes :class:`Task` and
:class:`Modality`, one folder each under ``tfft/tasks`` and ``tfft/modalities``, imported on first use. Training,
evaluation, export and inspection get them from here and import none of them directly, so a new one requires no change
elsewhere. Another package adds its own with :func:`register_task` and :func:`register_modality`, or through the entry
point groups ``tfft.tasks`` and ``tfft.modalities``.

This package imports neither TensorFlow nor Keras.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any, Generic, TypeVar

from tfft.errors import PlanError, did_you_mean, join_names
from tfft.registry.modality_interface import Adapted, Match, Modality
from tfft.registry.report_interface import ReportBuilder, ReportCurves, ReportPicture, ReportSection
from tfft.registry.request_interface import PageInput, Parts
from tfft.registry.task_interface import Default, Evaluator, ExampleResult, FeatureLevel, Metric, ScoreDisplay, Task

__all__ = [
    "AUTO",
    "Adapted",
    "Default",
    "Evaluator",
    "ExampleResult",
    "FeatureLevel",
    "Match",
    "Metric",
    "PageInput",
    "Parts",
    "ReportBuilder",
    "ReportCurves",
    "ReportPicture",
    "ReportSection",
    "ScoreDisplay",
    "Modality",
    "Task",
    "asked_task",
    "infer_task",
    "modality",
    "modality_names",
    "register_modality",
    "register_task",
    "task",
    "task_name",
    "task_names",
    "task_or_plain",
]

AUTO = "auto"  # the task is inferred from the labels

T = TypeVar("T", Task, Modality)


class _Registry(Generic[T]):
    """Objects by name; those of tfft are imported on first use."""

    def __init__(self, what: str, group: str, built_in: Mapping[str, str], aliases: Mapping[str, str]) -> None:
        self._what, self._group = what, group
        self._lazy, self._aliases = dict(built_in), dict(aliases)
        self._objects: dict[str, T] = {}
        self._found_entry_points = False

    def names(self) -> tuple[str, ...]:
        """Return all names, those of tfft first."""
        self._find_entry_points()
        return tuple(dict.fromkeys((*self._lazy, *self._objects)))

    def canonical(self, name: Any) -> str:
        """Return the canonical name for a name or an alias, without importing the object.

        Raises:
            PlanError: For an unknown name, with the nearest one.
        """
        known = self.names()
        found = self._aliases.get(name, name) if isinstance(name, str) else name
        if found not in known:
            raise PlanError(
                f"Expected a {self._what}: {join_names(known)}. Received: {name!r}.{did_you_mean(str(name), known)}"
            )
        return found

    def get(self, name: str) -> T:
        """Return an object by name, importing it on first use.

        Raises:
            PlanError: For an unknown name, with the nearest one.
        """
        name = self.canonical(name)
        if name not in self._objects:
            module, _, attribute = self._lazy[name].partition(":")
            self._objects[name] = getattr(importlib.import_module(module), attribute)
        return self._objects[name]

    def add(self, value: T, *aliases: str) -> Callable[[], None]:
        """Register an object under its name and return a function that removes it."""
        name = value.name
        if name in self.names():
            raise PlanError(f"The {self._what} {name!r} is registered already. Fix: use another name.")
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
        "object_detection": "tfft.tasks.object_detection:OBJECT_DETECTION",
        "semantic_segmentation": "tfft.tasks.semantic_segmentation:SEMANTIC_SEGMENTATION",
        "transcription": "tfft.tasks.transcription:TRANSCRIPTION",
        "speech_synthesis": "tfft.tasks.speech_synthesis:SPEECH_SYNTHESIS",
        "text_to_text": "tfft.tasks.text_to_text:TEXT_TO_TEXT",
    },
    {"tokens": "token_classification"},  # in saved heads and plans
)
_MODALITIES: _Registry[Modality] = _Registry(
    "kind of data",
    "tfft.modalities",
    {
        "image": "tfft.modalities.image.modality:IMAGE",
        "spoken_text": "tfft.tasks.speech_synthesis.reader:SPOKEN_TEXT",  # before text: a voice takes texts, too
        "text": "tfft.modalities.text.modality:TEXT",
        "audio": "tfft.modalities.audio.modality:AUDIO",
    },
    {},
)


def task(name: str) -> Task:
    """Return a task by name, including names in saved heads and plans.

    Raises:
        PlanError: For an unknown name, with the nearest one and all tasks.

    Example:
        >>> task("multilabel").solves_head
        True
    """
    return _TASKS.get(name)


def task_or_plain(name: str) -> Task:
    """Return a task by name, or one with the methods that every task has, for a model whose task is unknown."""
    return task(name) if name in task_names() else Task()


def task_name(name: str) -> str:
    """Return the canonical name of a task, without importing it.

    Raises:
        PlanError: For an unknown name, with the nearest one and all tasks.

    Example:
        >>> task_name("tokens")
        'token_classification'
    """
    return _TASKS.canonical(name)


def task_names() -> tuple[str, ...]:
    """Return the names of all tasks."""
    return _TASKS.names()


def asked_task(name: str) -> Task | None:
    """Return the task of a setting; None for ``"auto"``, which leaves it to the labels.

    Raises:
        PlanError: For an unknown name, with the nearest one.
    """
    return None if name == AUTO else task(name)


def infer_task(values: Sequence[Any]) -> Task:
    """Return the task that label values fit best.

    Args:
        values: Label values, as for :meth:`Task.infer`.

    Raises:
        PlanError: If they fit none.
    """
    every = [task(name) for name in task_names()]
    fits = [one.infer(values) for one in every]
    if not max(fits):
        raise PlanError(f"The labels fit none of the tasks {join_names(task_names())}. Fix: pass the task as task=.")
    return every[fits.index(max(fits))]


def register_task(value: Task, *aliases: str) -> Callable[[], None]:
    """Register a custom task.

    Args:
        value: Task.
        *aliases: Further names, such as one in older plans.

    Returns:
        A function that removes it, for tests.

    Raises:
        PlanError: If the name is taken.
    """
    return _TASKS.add(value, *aliases)


def modality(name: str) -> Modality:
    """Return a modality by name.

    Raises:
        PlanError: For an unknown name, with the nearest one and all modalities.
    """
    return _MODALITIES.get(name)


def modality_names() -> tuple[str, ...]:
    """Return the names of all modalities."""
    return _MODALITIES.names()


def register_modality(value: Modality, *aliases: str) -> Callable[[], None]:
    """Register a custom modality; see :func:`register_task`."""
    return _MODALITIES.add(value, *aliases)
