"""Opens an exported SavedModel with TensorFlow alone; hides versions, signatures and assets.

Neither Keras nor the rest of tfft is needed to run one: what this module can do with an export, any server can. Only
:meth:`Served.predict`, which takes what examples are before they are arrays, asks the modalities.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.backbones.text_ops import load_text_ops, ops_in
from tfft.errors import ExportError, SavedModelError, join_names
from tfft.io.name_files import parse_lines

ARRAY_SIGNATURE, BYTES_SIGNATURE = "serving_default", "serve_bytes"
TASK_FILE = "task.txt"  # among the assets: name of the task


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedInput:
    """How a model takes examples as the contents of files, through ``serve_bytes``.

    Attributes:
        name: of the signature's input, such as ``"image_bytes"``.
        decode: one file, a tf.string scalar, to one array, in TensorFlow operations.
        decoded: shape and type of that array.
        prepare: arrays of that kind to what the model's input takes.
        encode: the rows of an input to the contents of files that hold them, or others like them, for the check.
    """

    name: str
    decode: Callable[[Any], Any]
    decoded: tf.TensorSpec
    prepare: Callable[[Any], Any]
    encode: Callable[[Sequence[np.ndarray]], list[bytes]]


@dataclasses.dataclass(frozen=True, eq=False)
class ServingInput:
    """How a served model takes one kind of data. Of an export that was opened, only the first four are known.

    Attributes:
        modality: name of the kind of data.
        signature: that is asked with what :meth:`tfft.registry.Modality.read_items` reads.
        spec: what reading has to know of the model, such as the rate of recordings.
        parts: names of the signature's inputs in the order of what an item holds, where it has several.
        encoded: how it takes files; None where it takes none.
        names: of inputs in the signature, by their names in the Keras model; others keep theirs.
        samples: rows that the check asks every such model, by what they are.
        assets: text files that are written beside the model, by name.
        card: heading and sentence for the model card; None where there is nothing to say.
        notes: what was left out and why, one sentence each.
    """

    modality: str
    signature: str
    spec: Any = None
    parts: tuple[str, ...] = ()
    encoded: EncodedInput | None = None
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    samples: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    assets: Mapping[str, str] = dataclasses.field(default_factory=dict)
    card: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()


class Served:
    """A model that answers through signatures, exported or not yet.

    Attributes:
        signatures: functions by name; each takes named tensors and returns named tensors.
        class_names: in the order of the probabilities; empty where there are none.
    """

    signatures: Mapping[str, Any]
    class_names: tuple[str, ...]

    @property
    def place(self) -> str:
        """What it is called in messages."""
        return "The model"

    @property
    def serving_input(self) -> ServingInput | None:
        """How it takes examples; None where it takes no known kind of data."""
        raise NotImplementedError

    @property
    def modality(self) -> str | None:
        """Name of the kind of data that :meth:`predict` takes; None where it takes arrays through signatures only."""
        found = self.serving_input
        return found.modality if found is not None and found.signature in self.signatures else None

    @property
    def input_spec(self) -> Any:
        """What reading examples has to know of the model, such as rate and length of recordings; else None."""
        return None if self.serving_input is None else self.serving_input.spec

    def predict(self, items: Sequence[Any]) -> dict[str, np.ndarray]:
        """Predicts for examples as its modality reads them: contents of image files, sound waves, texts.

        Args:
            items: one each; tuples where the model has several inputs, as for pairs of texts.

        Returns:
            Outputs by name, one row per item: ``probabilities``, ``label`` (bytes), ``logits``.

        Raises:
            ExportError: when the model takes no known kind of data.
        """
        taken = self.asked()
        return _ask(self.signatures[taken.signature], items, taken.parts)

    def asked(self) -> ServingInput:
        """Returns how it takes examples.

        Raises:
            ExportError: when it takes no known kind of data.
        """
        found = self.serving_input
        if found is None or self.modality is None:
            raise ExportError(
                f"{self.place} takes no kind of data that can be read for it "
                f"({join_names(registry.modality_names())}). "
                f"It has the signatures {join_names(self.signatures)}. Its inputs have to be passed to them as arrays."
            )
        return found

    def predict_bytes(self, encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Predicts for encoded images (JPEG, PNG, GIF, BMP or WebP files as they are on disk), or for WAV files.

        WAV files must have 16 bits and the rate of ``input_spec``.

        Args:
            encoded: contents of one file each.

        Returns:
            Outputs by name, one row per file, as of :meth:`predict`.

        Raises:
            ExportError: when the model has no signature for the contents of files.
        """
        if BYTES_SIGNATURE not in self.signatures:
            raise ExportError(
                f"{self.place} has no signature {BYTES_SIGNATURE!r}, so it cannot read files. "
                f"It has: {join_names(self.signatures)}. Its inputs have to be passed as arrays."
            )
        return _ask(self.signatures[BYTES_SIGNATURE], encoded)


def _ask(signature: Any, items: Sequence[Any], parts: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Returns what a signature says to items, by output name, one row per item."""
    specs = signature.structured_input_signature[1]
    names = parts or sorted(specs)  # TensorFlow keeps no order of them
    columns: list[Sequence[Any]] = [items] if len(specs) == 1 else list(zip(*items, strict=True))
    values = {
        name: tf.constant(np.asarray(list(column), specs[name].dtype.as_numpy_dtype), specs[name].dtype)
        for name, column in zip(names, columns, strict=True)
    }
    return {key: value.numpy() for key, value in signature(**values).items()}


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedModel(Served):
    """An exported model, ready to run.

    Attributes:
        path: the version folder that was loaded.
        signatures: callables by name; each takes named tensors and returns named tensors.
        class_names: from ``assets/labels.txt``; empty where there is none.
        task: its name, see :func:`tfft.registry.task`; ``"outputs"`` where the model has no head of tfft.
        loaded: what TensorFlow loaded; it owns the variables, so it must live as long as the signatures.
    """

    path: pathlib.Path
    signatures: Mapping[str, Any]
    class_names: tuple[str, ...]
    loaded: object = dataclasses.field(repr=False)
    task: str = "outputs"

    @property
    def place(self) -> str:
        """Its folder."""
        return str(self.path)

    @functools.cached_property
    def serving_input(self) -> ServingInput | None:  # type: ignore[override]
        """How it takes examples, as the first modality says that knows it; None where none does."""
        kinds = map(registry.modality, registry.modality_names())
        told = (kind.served(self.signatures, self.path / "assets") for kind in kinds)
        return next((found for found in told if found is not None), None)


def open_export(path: str | os.PathLike[str]) -> ExportedModel:
    """Loads an exported model to predict with it, without Keras.

    Args:
        path: a version folder (``served/1``), or the folder above it: then the highest version is
            taken, as TensorFlow Serving does.

    Returns:
        The loaded model.

    Raises:
        SavedModelError: when there is no SavedModel.
        DependencyError: when it needs tensorflow-text, and that is missing.

    Example:
        >>> served = tfft.exporting.open_export("served")            # doctest: +SKIP
        >>> served.predict_bytes([open("cat.jpg", "rb").read()])["label"]    # doctest: +SKIP
    """
    base = pathlib.Path(path)
    folder = base
    if not is_savedmodel(folder):
        versions = versions_in(base)
        if not versions:
            raise SavedModelError(
                f"{base} is not an exported model: expected saved_model.pb in it, or in a folder 1, 2, ... inside it."
            )
        folder = base / versions[max(versions)]
        if not is_savedmodel(folder):
            raise SavedModelError(f"{folder} is the highest version in {base}, but it holds no saved_model.pb.")
    load_text_ops(ops_in(folder), f"The model in {folder}")
    loaded = tf.saved_model.load(str(folder))
    labels = folder / "assets" / "labels.txt"
    names = parse_lines(labels.read_bytes().decode("utf-8")) if labels.is_file() else ()
    written = folder / "assets" / TASK_FILE
    task = written.read_text(encoding="utf-8").strip() if written.is_file() else "outputs"
    return ExportedModel(folder, dict(loaded.signatures), names, loaded, task)


def is_savedmodel(folder: pathlib.Path) -> bool:
    """Tells whether a folder holds a SavedModel itself (not one folder further down)."""
    return (folder / "saved_model.pb").is_file()


def versions_in(base: pathlib.Path) -> dict[int, str]:
    """Returns the version folders in a folder, as ``{number: folder name}``; empty when it does not exist."""
    if not base.is_dir():
        return {}
    names = [entry.name for entry in base.iterdir() if entry.is_dir()]
    return {int(name): name for name in names if name.isascii() and name.isdecimal()}
