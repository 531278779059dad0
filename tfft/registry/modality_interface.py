"""What a modality answers: :class:`Modality`, and how it reads a source: :class:`Match`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tfft.errors import DataError, join_names
from tfft.registry.task_interface import FeatureLevel

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import keras
    import tensorflow as tf

    from tfft.backbones.base import Backbone
    from tfft.data.examples import Examples, Splits
    from tfft.exporting.loader import ServingInput
    from tfft.exporting.prediction import RequestItem
    from tfft.features.engines import Staged
    from tfft.features.sources import Source, Views
    from tfft.inspection.findings import DataReport, Finding
    from tfft.models import ModelInput
    from tfft.specs import InputSpec

# Settings that ask for nothing where there is nothing to do: no file to decode, to skip, to remember or to wait for.
_HARMLESS = frozenset({"validation", "seed", "strict", "check", "progress", "store"})
_TABLES_ONLY = (
    " Folders and arrays are read for classification: a table with a column of files (image= or audio=) can hold "
    "labels of another task."
)


@dataclasses.dataclass(frozen=True)
class Match:
    """How a modality reads a source.

    Attributes:
        form: what the source is, words for a sentence, such as "a folder of images".
        load: reads it, ``load(source, **settings)``, and returns :class:`tfft.data.Splits`.
        settings: names of the settings that mean something for it.
        certainty: 3 where a setting says so, 2 where the source looks like it, 1 where nothing speaks against it; the
            highest of all modalities wins.
        has_names: whether its examples have names, so that the file of an earlier split can be read.
        joinable: whether its parts can be put together and dealt into folds although they have no names.
    """

    form: str
    load: Callable[..., Any]
    settings: frozenset[str]
    certainty: int = 2
    has_names: bool = False
    joinable: bool = False

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuses settings that mean nothing for the source.

        Args:
            settings: those that are not left as they are by default.

        Raises:
            DataError: naming all of them, and those that there are.
        """
        wrong = {name: value for name, value in settings.items() if name not in self.settings | _HARMLESS}
        from tfft.registry import AUTO, asked_task  # which knows this class

        asked = asked_task(wrong.get("task", AUTO))
        if asked is None or asked.labels_from_folders:
            wrong.pop("task", None)
        if "validation" in settings and not isinstance(settings["validation"], (int, float)) and not self.has_names:
            wrong["validation"] = settings["validation"]
        if not wrong:
            return
        given = ", ".join(f"{name}={value!r}" for name, value in wrong.items())
        has = "mean" if len(wrong) > 1 else "means"
        valid = join_names(sorted((self.settings | {"validation", "seed"}) - {"progress", "store"}))
        raise DataError(
            f"{given} {has} nothing for {self.form}, which takes {valid}. Leave it out, or give another source."
            f"{_TABLES_ONLY if 'task' in wrong else ''}"
        )


@dataclasses.dataclass(frozen=True)
class Adapted:
    """Examples as a backbone takes them.

    Attributes:
        splits: the examples.
        settings: of reading, that were chosen for the backbone.
        notes: what is to be said about it, one line each.
    """

    splits: Splits[Any]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Modality:
    """What an example is: how it is found, read, checked, fed to a backbone, and served.

    Attributes:
        name: ``"image"``, ``"text"``, ``"audio"``.
        item: singular noun for messages, such as "image".
        items: plural of it.
        columns: names of the settings that name its columns in a table, such as ``("text",)``.
        settings: names of the settings of reading that only this modality takes, such as ``("sample_rate",)``.
        request: name of the entry of a prediction that says what was asked about, in JSON.
        augmentations: names of what can be varied about an example, as ``augment=`` takes them.
        may_be_grouped: whether examples often come from few sources that are not named, such as speakers.
        numeric: whether examples are numbers, which a Keras model of one's own takes as they are.
    """

    name: ClassVar[str]
    item: ClassVar[str]
    items: ClassVar[str]
    columns: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[frozenset[str]] = frozenset()
    request: ClassVar[str] = "file"
    augmentations: ClassVar[tuple[str, ...]] = ()
    may_be_grouped: ClassVar[bool] = False
    numeric: ClassVar[bool] = True

    # --- data

    def matches(self, source: Any, settings: Mapping[str, Any]) -> Match | None:
        """Says how a source of this kind of data would be read; None where it is something else.

        Args:
            source: as :func:`tfft.data.load` takes it, but no name of a TensorFlow dataset.
            settings: of reading, those that were given.
        """
        return None

    def load(self, source: Any, settings: Mapping[str, Any]) -> Splits[Any]:
        """Reads a source and divides it into training and validation examples.

        Args:
            source: as in :meth:`matches`.
            settings: of reading, those that were given.

        Raises:
            DataError: when the source is of another kind, or a setting means nothing for it.
        """
        match = self.match(source, settings)
        return match.load(source, **{name: value for name, value in settings.items() if name in match.settings})

    def match(self, source: Any, settings: Mapping[str, Any]) -> Match:
        """Returns how a source would be read.

        Args:
            source: as in :meth:`matches`.
            settings: of reading, those that were given.

        Raises:
            DataError: when the source is of another kind, or a setting means nothing for it.
        """
        match = self.matches(source, settings)
        if match is None:
            raise DataError(f"Expected {self.items}, received a {type(source).__name__}.")
        match.check(settings)
        return match

    def read_labelled(self, source: Any, class_names: Sequence[str], settings: Mapping[str, Any]) -> Examples:
        """Reads a source for a model that knows its classes, without dividing it.

        Args:
            source: as in :meth:`matches`.
            class_names: of the model, in the order of its outputs.
            settings: of reading; ``task`` is that of the model.
        """
        raise NotImplementedError

    def is_split(self, source: Any) -> bool:
        """Says whether a source names the part that is to be learned from."""
        return False

    def adapt(self, splits: Splits[Any], backbone: Backbone, settings: Mapping[str, Any]) -> Adapted:
        """Returns the examples as a backbone takes them, such as recordings at its sample rate.

        Args:
            splits: the examples, of which nothing has been read that depends on the backbone.
            backbone: that will see them.
            settings: of reading, those that were given.
        """
        return Adapted(splits)

    def array_source(self, values: Any, labels: Any, staged: Staged, batch_size: int, views: Views) -> Source | None:
        """Returns varied arrays as features are made of them; None where the model takes another kind of data."""
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
        """Looks at a source that can be checked in a state that cannot be loaded.

        Args:
            source: as :func:`tfft.check` takes it, like all that follows.
            columns: those that were named, by role.
            backbone: for the check of labels.
            seed: of the split and the probe.
            store: file that keeps the statistics of files that were read.
            progress: called with (files read, files in all).

        Returns:
            The report; None where the source is to be loaded first, and :meth:`findings` asked.
        """
        return None

    def findings(self, splits: Splits[Any], *, notes: list[str]) -> Iterator[Finding]:
        """Yields what is wrong, odd or worth knowing in the examples.

        Args:
            splits: that were read; no file is read again.
            notes: gets a sentence for each thing that was not looked for.
        """
        return iter(())

    def counts(self, splits: Splits[Any]) -> dict[str, dict[str, int]]:
        """Returns the number of examples of each class, by part."""
        return {"train": splits.train.counts, "validation": splits.validation.counts}

    def example_names(self, examples: Examples) -> Sequence[str]:
        """Returns what examples are called in reports."""
        return examples.places

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

    def notes(self, splits: Splits[Any], backbone: Backbone) -> Iterator[str]:
        """Yields what is to be said about examples and a backbone, such as how many texts will be cut off."""
        return iter(())

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

    def model_options(self, splits: Splits[Any]) -> dict[str, Any]:
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

    def input_of(self, model: keras.Model) -> Any:
        """Returns what a built model takes of this kind of data, such as its size; None where it takes another."""
        return None

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
