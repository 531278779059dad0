"""Loading of an exported SavedModel with TensorFlow alone: :func:`open_export`.

Neither Keras nor the rest of tfft is needed to run an export: any server can do the same. Only :meth:`Served.predict`,
which takes raw examples, uses the modalities.
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
from tfft.errors import ExportError, SavedModelError, join_names, raise_problems
from tfft.io.name_files import parse_lines

ARRAY_SIGNATURE, BYTES_SIGNATURE = "serving_default", "serve_bytes"
TASK_FILE = "task.txt"  # among the assets: name of the task


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedInput:
    """Input of a model for the contents of files, through ``serve_bytes``.

    Attributes:
        name: Name of the signature's input, such as ``"image_bytes"``.
        decode: Function from one file, a tf.string scalar, to one array, in TensorFlow operations.
        decoded: Shape and type of that array.
        prepare: Function from such arrays to the model's input.
        encode: Function from the rows of an input to contents of files with the same or similar values, for the check.
        size: Function from one file to the rows and columns of its image, upright; None if it is not an image.
    """

    name: str
    decode: Callable[[Any], Any]
    decoded: tf.TensorSpec
    prepare: Callable[[Any], Any]
    encode: Callable[[Sequence[np.ndarray]], list[bytes]]
    size: Callable[[Any], Any] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ServingInput:
    """Input of a served model for one modality. For a loaded export, only the first four are known.

    Attributes:
        modality: Name of the modality.
        signature: Signature for the values that :meth:`tfft.registry.Modality.read_items` reads.
        spec: Properties of the model needed for reading, such as the sample rate.
        parts: Names of the signature's inputs in the order of the values of an item, if it has several.
        encoded: Input for files; None if it takes none.
        names: From input names of the Keras model to those of the signature; others are equal.
        samples: Rows for the check of every such model, by description.
        assets: Text files to write next to the model, by name.
        card: Heading and sentence for the model card, or None.
        notes: Omitted signatures and the reasons, one sentence each.
        shorten: Function that drops padding which all rows of the input share, for models to which it makes no
            difference; None for others.
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
    shorten: Callable[[Any], Any] | None = None


class Served:
    """Model with signatures, exported or not yet.

    Attributes:
        signatures: Functions by name; each takes named tensors and returns named tensors.
        class_names: Class names in the order of the probabilities; empty if there are none.
        task: Name of the task, see :func:`tfft.registry.task`; ``"outputs"`` if the model has no head of tfft.
        model: Keras model that answers; None for an export, which is run by TensorFlow alone.
    """

    signatures: Mapping[str, Any]
    class_names: tuple[str, ...]
    task: str
    model: Any = None

    @property
    def place(self) -> str:
        """Name of the model in messages."""
        return "The model"

    @property
    def serving_input(self) -> ServingInput | None:
        """Serving input of the model; None if its modality is unknown."""
        raise NotImplementedError

    @property
    def modality(self) -> str | None:
        """Modality for :meth:`predict`; None if the model takes arrays through signatures only."""
        found = self.serving_input
        return found.modality if found is not None and found.signature in self.signatures else None

    @property
    def input_spec(self) -> Any:
        """Properties of the model needed for reading examples, such as rate and length of recordings; else None."""
        return None if self.serving_input is None else self.serving_input.spec

    def predict(self, items: Sequence[Any]) -> dict[str, np.ndarray]:
        """Predict for examples as their modality reads them: contents of image files, waveforms, texts.

        Args:
            items: Values; tuples if the model has several inputs, as for pairs of texts. A model that takes the
                contents of files takes paths, too. An array of the type that ``serving_default`` takes, such as uint8
                pixels [B, height, width, 3], goes there.

        Returns:
            Outputs by name, one row per item: ``probabilities``, ``label`` (bytes), ``logits``.

        Raises:
            ExportError: If the modality of the model is unknown, the items are of another type, or files cannot be
                read.
        """
        taken = self.asked()
        if isinstance(items, np.ndarray) and (default := self._default_for(items)) is not None:
            return _ask(default, items)
        if taken.signature == BYTES_SIGNATURE:
            return self.predict_bytes(items)
        return _ask(self.signatures[taken.signature], items, taken.parts)

    def _default_for(self, items: np.ndarray) -> Any:
        """Return the default signature if it takes an array of this type; None if not."""
        signature = self.signatures.get(ARRAY_SIGNATURE)
        specs = [] if signature is None else list(signature.structured_input_signature[1].values())
        return signature if len(specs) == 1 and specs[0].dtype.as_numpy_dtype == items.dtype else None

    def asked(self) -> ServingInput:
        """Return the serving input.

        Raises:
            ExportError: If the modality of the model is unknown.
        """
        found = self.serving_input
        if found is None or self.modality is None:
            raise ExportError(
                f"{self.place} takes no known modality "
                f"({join_names(registry.modality_names())}). "
                f"It has the signatures {join_names(self.signatures)}. Pass its inputs as arrays."
            )
        return found

    def predict_bytes(self, encoded: Sequence[bytes | str | os.PathLike[str]]) -> dict[str, np.ndarray]:
        """Predict for encoded images (JPEG, PNG, GIF, BMP or WebP files as they are on disk), or for WAV files.

        WAV files must have 16 bits and the rate of ``input_spec``.

        Args:
            encoded: Contents of one file each, or its path on this machine. Pass contents where others choose them.

        Returns:
            Outputs by name, one row per file, as of :meth:`predict`.

        Raises:
            ExportError: If the model has no signature for the contents of files, or files cannot be read.
        """
        if BYTES_SIGNATURE not in self.signatures:
            raise ExportError(
                f"{self.place} has no signature {BYTES_SIGNATURE!r}, so it cannot read files. "
                f"It has: {join_names(self.signatures)}. Pass its inputs as arrays."
            )
        return _ask(self.signatures[BYTES_SIGNATURE], _contents(encoded))


def _contents(files: Sequence[Any]) -> list[Any]:
    """Return the contents of files that are given by their paths; contents come back as they are."""
    found, problems = [], []
    for file in files:
        if not isinstance(file, (str, os.PathLike)):
            found.append(file)
            continue
        try:
            found.append(pathlib.Path(file).read_bytes())
        except (OSError, ValueError) as error:  # ValueError: a null byte, as in contents read as text
            problems.append(f"{str(file)[:200]!r}: {getattr(error, 'strerror', None) or error}")
    raise_problems(ExportError, "Expected paths of files, or their contents as bytes. These cannot be read", problems)
    return found


def _ask(signature: Any, items: Sequence[Any], parts: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Return what a signature says to items, by output name, one row per item."""
    specs = signature.structured_input_signature[1]
    names = parts or sorted(specs)  # TensorFlow keeps no order of them
    columns: list[Sequence[Any]] = [items] if len(specs) == 1 else list(zip(*items, strict=True))
    try:
        values = {
            name: tf.constant(np.asarray(list(column), specs[name].dtype.as_numpy_dtype), specs[name].dtype)
            for name, column in zip(names, columns, strict=True)
        }
    except (TypeError, ValueError) as error:
        wanted = join_names([f"{name}: {specs[name].dtype.name} {specs[name].shape}" for name in names])
        raise ExportError(
            f"The items do not fit the inputs of the model. Expected one value per item for {wanted} (string: texts, "
            f"or the contents of files). Received: {type(next(iter(items), None)).__name__}. TensorFlow says: {error}"
        ) from error
    return {key: value.numpy() for key, value in signature(**values).items()}


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedModel(Served):
    """Loaded exported model.

    Attributes:
        path: Version folder.
        signatures: Callables by name; each takes named tensors and returns named tensors.
        class_names: Class names from ``assets/labels.txt``; empty if there is none.
        task: Name of the task, see :func:`tfft.registry.task`; ``"outputs"`` if the model has no head of tfft.
        loaded: Object loaded by TensorFlow; it owns the variables, so it must live as long as the signatures.
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
        """Serving input of the first modality that recognizes the model; None if none does."""
        kinds = map(registry.modality, registry.modality_names())
        by_kind = (kind.served(self.signatures, self.path / "assets") for kind in kinds)
        return next((found for found in by_kind if found is not None), None)


def open_export(path: str | os.PathLike[str]) -> ExportedModel:
    """Load an exported model to predict with it, without Keras.

    Args:
        path: A version folder (``served/1``), or its parent folder, of which the highest version is loaded, as in
            TensorFlow Serving.

    Returns:
        The loaded model.

    Raises:
        SavedModelError: If there is no SavedModel.
        DependencyError: If it needs tensorflow-text, and that is missing.

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
    """Whether a folder itself is a SavedModel (not one of its subfolders)."""
    return (folder / "saved_model.pb").is_file()


def versions_in(base: pathlib.Path) -> dict[int, str]:
    """Return the version folders in a folder, as ``{number: folder name}``; empty if it does not exist."""
    if not base.is_dir():
        return {}
    names = [entry.name for entry in base.iterdir() if entry.is_dir()]
    return {int(name): name for name in names if name.isascii() and name.isdecimal()}
