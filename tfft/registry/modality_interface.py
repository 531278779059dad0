"""Interface of a modality: :class:`Modality`, and its way to load a source: :class:`Match`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tfft.errors import DataError, join_names
from tfft.registry.request_interface import PageInput, Parts
from tfft.registry.task_interface import FeatureLevel

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import keras
    import numpy as np
    import tensorflow as tf

    from tfft.backbones.base import Backbone
    from tfft.data.examples import Examples, Splits
    from tfft.data.tfds.task_files import TaskFiles
    from tfft.exporting.loader import ServingInput
    from tfft.exporting.prediction import RequestItem
    from tfft.features.engines import Staged
    from tfft.features.sources import Source, Views
    from tfft.inspection.findings import DataReport, Finding
    from tfft.models import ModelInput
    from tfft.specs import InputSpec

# Settings that are harmless if they do not apply: decoding, skipping, storing and progress.
_HARMLESS = frozenset({"validation", "seed", "strict", "check", "progress", "store"})
_TABLES_ONLY = (
    " Folders and arrays are read for classification: a table with a column of files (image= or audio=) can hold "
    "labels of another task."
)


@dataclasses.dataclass(frozen=True)
class Match:
    """Way of a modality to load a source.

    Attributes:
        form: Description of the source for a sentence, such as "a folder of images".
        load: Function ``load(source, **settings)`` that returns :class:`tfft.data.Splits`.
        settings: Names of the settings that apply to it.
        certainty: 3 if a setting requires it, 2 if the source looks like it, 1 if it is possible; the highest of all
            modalities wins.
        has_names: Whether its examples have names, so that the file of an earlier split can be used.
        joinable: Whether its parts can be joined and dealt into folds although they have no names.
        reads_datasets: Whether it reads two datasets of batches into memory, which otherwise stay as they are.
    """

    form: str
    load: Callable[..., Any]
    settings: frozenset[str]
    certainty: int = 2
    has_names: bool = False
    joinable: bool = False
    reads_datasets: bool = False

    def check(self, settings: Mapping[str, Any]) -> None:
        """Check that all settings apply to the source.

        Args:
            settings: Settings that differ from their defaults.

        Raises:
            DataError: If some do not; the message names all of them, and those that apply.
        """
        wrong = {name: value for name, value in settings.items() if name not in self.settings | _HARMLESS}
        from tfft.registry import AUTO, asked_task  # which imports this class

        asked = asked_task(wrong.get("task", AUTO))
        if asked is None or asked.labels_from_folders:
            wrong.pop("task", None)
        if "validation" in settings and not isinstance(settings["validation"], (int, float)) and not self.has_names:
            wrong["validation"] = settings["validation"]
        if not wrong:
            return
        given = ", ".join(f"{name}={value!r}" for name, value in wrong.items())
        has = "do not apply" if len(wrong) > 1 else "does not apply"
        valid = join_names(sorted((self.settings | {"validation", "seed"}) - {"progress", "store"}))
        raise DataError(
            f"{given} {has} to {self.form}. Settings that apply: {valid}. Leave it out, or pass another source."
            f"{_TABLES_ONLY if 'task' in wrong else ''}"
        )


@dataclasses.dataclass(frozen=True)
class Adapted:
    """Examples in the form that a backbone takes.

    Attributes:
        splits: Examples.
        settings: Settings for reading that were chosen for the backbone.
        notes: Remarks, one line each.
        backbone: The backbone, fitted to the examples, such as one with a vocabulary learned from them; None for the
            backbone as it is.
    """

    splits: Splits[Any]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    backbone: Backbone | None = None


class Modality:
    """Kind of example: how it is found, read, checked, passed to a backbone, and served.

    Attributes:
        name: ``"image"``, ``"text"``, ``"audio"``.
        item: Singular noun for messages, such as "image".
        items: Plural of it.
        columns: Names of the settings for its table columns, such as ``("text",)``.
        settings: Names of the settings for reading that only this modality has, such as ``("sample_rate",)``.
        request: Name of the JSON entry of a prediction that identifies its input.
        augmentations: Names of its augmentations, for ``augment=``.
        may_be_grouped: Whether examples often come from few unnamed sources, such as speakers.
        labelled_settings: Names of settings of a run that :meth:`read_labelled` takes besides the columns of a table.
        build_options: Names of the options of :func:`tfft.build` that only this modality has.
        numeric: Whether examples are numeric, so that any Keras model may take them directly.
        default_backbone: Handle of the backbone that ``backbone="auto"`` opens; None for none.
    """

    name: ClassVar[str]
    item: ClassVar[str]
    items: ClassVar[str]
    columns: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[frozenset[str]] = frozenset()
    request: ClassVar[str] = "file"
    augmentations: ClassVar[tuple[str, ...]] = ()
    may_be_grouped: ClassVar[bool] = False
    labelled_settings: ClassVar[tuple[str, ...]] = ()
    build_options: ClassVar[frozenset[str]] = frozenset()
    numeric: ClassVar[bool] = True
    default_backbone: ClassVar[str | None] = None

    # --- data

    def matches(self, source: Any, settings: Mapping[str, Any]) -> Match | None:
        """Return the way to load a source of this modality; None for other sources.

        Args:
            source: Source for :func:`tfft.data.load`, except TensorFlow Datasets.
            settings: Explicit settings for reading.
        """
        return None

    def load(self, source: Any, settings: Mapping[str, Any]) -> Splits[Any]:
        """Load a source and split it into training and validation examples.

        Args:
            source: As in :meth:`matches`.
            settings: Explicit settings for reading.

        Raises:
            DataError: If the source is of another kind, or a setting does not apply to it.
        """
        match = self.match(source, settings)
        return match.load(source, **{name: value for name, value in settings.items() if name in match.settings})

    def match(self, source: Any, settings: Mapping[str, Any]) -> Match:
        """Return the way to load a source.

        Args:
            source: As in :meth:`matches`.
            settings: Explicit settings for reading.

        Raises:
            DataError: If the source is of another kind, or a setting does not apply to it.
        """
        match = self.matches(source, settings)
        if match is None:
            raise DataError(f"Expected {self.items}, received {type(source).__name__}.")
        match.check(settings)
        return match

    def own_format(self, source: Any) -> str | None:
        """Return the name of a format that only this reader of a task reads, if a source certainly has it.

        :func:`tfft.data.load` then asks for the task instead of taking the source for something else.

        Args:
            source: As in :meth:`matches`.
        """
        return None

    def read_labelled(self, source: Any, class_names: Sequence[str], settings: Mapping[str, Any]) -> Examples:
        """Load a source for a model with known classes, without splitting it.

        Args:
            source: As in :meth:`matches`.
            class_names: Class names of the model, in the order of its outputs.
            settings: Settings for reading; ``task`` is that of the model.
        """
        raise NotImplementedError

    def tfds_files(self, info: Any, settings: Mapping[str, Any]) -> TaskFiles:
        """Return how examples of TensorFlow Datasets become the files of a task; for readers of tasks.

        Args:
            info: ``builder.info`` of the dataset.
            settings: Explicit settings for reading, of which ``image`` and ``label`` may name features.

        Raises:
            DataError: If the dataset has no such features.
        """
        raise NotImplementedError

    def is_split(self, source: Any) -> bool:
        """Whether a source marks its training part."""
        return False

    def adapt(self, splits: Splits[Any], backbone: Backbone, settings: Mapping[str, Any]) -> Adapted:
        """Return the examples in the form that a backbone takes, such as recordings at its sample rate.

        Args:
            splits: Examples of which nothing that depends on the backbone has been read.
            backbone: Backbone for the examples.
            settings: Explicit settings for reading.
        """
        return Adapted(splits)

    def fitted(self, examples: Examples, model: keras.Model) -> Examples:
        """Return labelled examples in the form that a trained model takes; by default as they are.

        Args:
            examples: Result of :meth:`read_labelled`, or a part of what :meth:`load` gives.
            model: Trained model.
        """
        return examples

    def array_source(self, values: Any, labels: Any, staged: Staged, batch_size: int, views: Views) -> Source | None:
        """Return augmented arrays as a source of features; None if the model takes another modality."""
        return None

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
        """Check a source that may not be loadable.

        Args:
            source: Source, as in :func:`tfft.check`, like all that follow.
            columns: Named columns, by role.
            backbone: Backbone for the check of labels.
            seed: Seed for the split and the probe.
            store: File that stores the statistics of files.
            progress: Function called with (files read, files in total).

        Returns:
            The report; None if the source must be loaded first, for :meth:`findings`.
        """
        return None

    def findings(self, splits: Splits[Any], *, notes: list[str]) -> Iterator[Finding]:
        """Yield findings about the examples.

        Args:
            splits: Loaded splits; no file is read again.
            notes: List to which a sentence is added for each skipped check.
        """
        return iter(())

    def counts(self, splits: Splits[Any]) -> dict[str, dict[str, int]]:
        """Return the number of examples per class, by part."""
        return {"train": splits.train.counts, "validation": splits.validation.counts}

    def example_names(self, examples: Examples) -> Sequence[str]:
        """Return the names of the examples for reports."""
        return examples.places

    def preview(
        self, examples: Examples, image: InputSpec, *, augment: Any, rows: int, columns: int, seed: int
    ) -> tuple[bytes, int, int] | None:
        """Draw a grid of examples as training sees them.

        Args:
            examples: Examples to choose from.
            image: Size and fitting of each image.
            augment: Augmentation, as in :func:`tfft.finetune`.
            rows: Number of examples to draw.
            columns: Number of images per row.
            seed: Seed for the choice and the views.

        Returns:
            A PNG file, its height and its width; None if examples cannot be drawn.
        """
        return None

    def thumbnail(self, path: str) -> bytes | None:
        """Return a 96 x 96 thumbnail of a file as JPEG, for reports; None if there is none."""
        return None

    def notes(self, splits: Splits[Any], backbone: Backbone) -> Iterator[str]:
        """Yield remarks about examples and a backbone, such as the number of truncated texts."""
        return iter(())

    # --- model

    def why_not(self, backbone: Backbone) -> str | None:
        """Return the reason why a backbone does not fit this modality; None if it does."""
        return None

    def fits(self, backbone: Backbone, options: Mapping[str, Any]) -> int:
        """Return how surely a backbone is meant for this modality; the highest of all wins.

        Args:
            backbone: Any backbone.
            options: Options of :func:`tfft.build`, such as ``audio``.

        Returns:
            A number; 0 for a backbone that does not fit.
        """
        return 0 if self.why_not(backbone) else 1

    def model_options(self, splits: Splits[Any]) -> dict[str, Any]:
        """Return the options of :func:`tfft.build` for a model of these examples."""
        return {}

    def attach_input(
        self, backbone: Backbone, network: keras.Model, level: FeatureLevel = "pooled", **options: Any
    ) -> ModelInput:
        """Add the model's inputs and their preprocessing to a backbone.

        Args:
            backbone: Backbone that :meth:`why_not` accepts.
            network: Its model, a layer of the new model.
            level: Level of features that the head takes; pooling happens later if features still have positions.
            **options: Options of :func:`tfft.build`; those of other modalities are ignored.

        Raises:
            BackboneError: If the backbone does not fit this modality, or the options.
        """
        raise NotImplementedError

    def input_of(self, model: keras.Model) -> Any:
        """Return the input spec of a built model, such as its size; None for another modality."""
        return None

    # --- serving

    def serving(self, model: keras.Model, inputs: Mapping[str, tf.TensorSpec], **options: Any) -> ServingInput | None:
        """Return the serving input of a model for this modality; None if its inputs are of another kind.

        Args:
            model: Any Keras model.
            inputs: Inputs of the model by name.
            **options: Options of :func:`tfft.export`, such as ``input_spec``.
        """
        return None

    def served(self, signatures: Mapping[str, Any], assets: Path) -> ServingInput | None:
        """Return the serving input of an exported model for this modality; None for another one.

        Args:
            signatures: Signatures of the model by name.
            assets: Folder of its assets.
        """
        return None

    def read_items(self, items: Sequence[Any], spec: Any) -> Iterator[RequestItem]:
        """Yield inputs for the model's signature, or the reason why an item cannot be used.

        Args:
            items: Paths; for texts the texts.
            spec: Spec of the model, from :meth:`serving` or :meth:`served`.
        """
        raise NotImplementedError

    def file_suffixes(self) -> tuple[str, ...]:
        """Return the suffixes, in lowercase, of the files that a served model takes from a folder."""
        return ()

    def request_noun(self, spec: Any) -> str:
        """Return a plural noun for the inputs of a served model, such as "image files"."""
        return self.items

    def columns_of(self, spec: Any) -> tuple[str, ...]:
        """Return the usual names of the table columns for a served model."""
        return self.columns

    def item_of_row(self, fields: Sequence[Any], folder: Path) -> Any:
        """Return the item in the fields of a row, for :meth:`read_items`; None if they are empty.

        Args:
            fields: Non-empty fields of :meth:`columns_of`.
            folder: Folder for relative paths.
        """
        [path] = fields
        return str(folder / path.strip()) if isinstance(path, str) else None

    def items_of_command(
        self, model: str, spec: Any, files: Sequence[str], texts: Sequence[str], second: Sequence[str]
    ) -> list[Any]:
        """Return the items of a ``tfft predict`` command, for :meth:`read_items`.

        Args:
            model: Path of the model, for messages.
            spec: Spec of the model.
            files: Paths of the files.
            texts: Values of ``--text``.
            second: Values of ``--text-pair``.

        Raises:
            DataError: If the model takes other inputs.
        """
        if texts or second:
            raise DataError(f"The model in {model} takes {self.request_noun(spec)}, not --text.")
        return list(files)

    def page_inputs(self, spec: Any) -> tuple[PageInput, ...]:
        """Return the fields of a page for trying a model, one for each value of an item; by default one for a file.

        Args:
            spec: Spec of the model, from :meth:`serving` or :meth:`served`.
        """
        return (PageInput("file", self.item.capitalize()),)

    # --- explanations, see tfft.explain

    def parts(self, value: Any, spec: Any) -> Parts | None:
        """Return the parts of an example that can be left out; None for a modality without such parts.

        Args:
            value: Value of an item, as :meth:`read_items` reads it.
            spec: Spec of the model, from :meth:`serving` or :meth:`served`.
        """
        return None

    def heatmap(self, model: keras.Model, value: Any, column: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return an image of an example and its evidence for a class; None if only parts can be left out.

        Args:
            model: Keras model that answers.
            value: Value of an item, as :meth:`read_items` reads it.
            column: Number of the class.

        Returns:
            uint8 [H, W, 3], and float32 [H, W] from 0 to 1.
        """
        return None

    # --- commands

    def example_arguments(self, spec: Any) -> str:
        """Return example arguments for ``tfft predict MODEL``."""
        return f"{self.item.upper()}..."
