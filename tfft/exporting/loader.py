"""Opens an exported SavedModel with TensorFlow alone; hides versions, signatures and assets.

Neither Keras nor the rest of tfft is loaded: what this module can do with an export, any server can.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfft.backbones.text_ops import load_text_ops, ops_in
from tfft.errors import ExportError, SavedModelError, listed
from tfft.specs import AudioSpec

BYTES_SIGNATURE = "serve_bytes"
PAIR = ("text", "text_pair")  # inputs of a model of pairs
AUDIO_FILE = "audio.json"  # among the assets: rate and length of the waves that a model takes
TASK_FILE = "task.txt"  # among the assets: name of the task


@dataclasses.dataclass(frozen=True, eq=False)
class OpenExport:
    """An exported model, ready to run.

    Attributes:
        path: the version folder that was loaded.
        signatures: callables by name; each takes named tensors and returns named tensors.
        class_names: from ``assets/labels.txt``; empty where there is none.
        audio: rate and length of the waves that it takes; None where it takes something else.
        task: its name, see :func:`tfft.registry.task`; ``"outputs"`` where the model has no head of tfft.
        loaded: what TensorFlow loaded; it owns the variables, so it must live as long as the signatures.
    """

    path: pathlib.Path
    signatures: Mapping[str, Callable]
    class_names: tuple[str, ...]
    loaded: object = dataclasses.field(repr=False)
    audio: AudioSpec | None = None
    task: str = "outputs"

    def predict_bytes(self, encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Predicts for encoded images (JPEG, PNG, GIF, BMP or WebP files as they are on disk), or for WAV files.

        WAV files must have 16 bits and the rate of ``audio``.

        Args:
            encoded: contents of one file each.

        Returns:
            Outputs by name, one row per file: ``probabilities``, ``label`` (bytes), ``logits``.

        Raises:
            ExportError: when the model has no signature for image bytes.
        """
        if BYTES_SIGNATURE not in self.signatures:
            raise ExportError(
                f"{self.path} has no signature {BYTES_SIGNATURE!r}, so it cannot read image files. "
                f"It has: {listed(self.signatures)}. Its inputs have to be passed as arrays."
            )
        return answer_bytes(self.signatures[BYTES_SIGNATURE], encoded)

    @property
    def text_inputs(self) -> tuple[str, ...]:
        """Names of its inputs where it takes texts: one, or two for pairs; empty where it takes something else."""
        signature = self.signatures.get("serving_default")
        return () if signature is None else text_inputs(signature)

    def predict_texts(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Predicts for texts, or for pairs of texts.

        Args:
            texts: any strings.
            pairs: the second text of each pair, for a model of pairs.

        Returns:
            Outputs by name, one row per text.

        Raises:
            ExportError: when the model takes something else.
        """
        if len(self.text_inputs) != (1 if pairs is None else 2):
            raise ExportError(f"{self.path} does not take {'texts one by one' if pairs is None else 'pairs of texts'}.")
        return answer_texts(self.signatures["serving_default"], texts, pairs)

    def predict_waves(self, waves: np.ndarray) -> dict[str, np.ndarray]:
        """Predicts for sound waves.

        Args:
            waves: float32 [n, samples], at ``audio.sample_rate``.

        Returns:
            Outputs by name, one row per wave.

        Raises:
            ExportError: when the model takes something else.
        """
        if self.audio is None:
            raise ExportError(f"{self.path} does not take sound waves.")
        return answer_waves(self.signatures["serving_default"], waves)


def text_inputs(signature: Callable) -> tuple[str, ...]:
    """Returns the names of the inputs of a signature that takes a text, or a pair, for each row; else nothing."""
    specs = signature.structured_input_signature[1]
    if any(spec.dtype != tf.string or spec.shape.rank != 1 for spec in specs.values()):
        return ()
    return tuple(specs) if len(specs) == 1 else PAIR if set(specs) == set(PAIR) else ()


def answer_texts(
    signature: Callable, texts: Sequence[str], pairs: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Returns what a signature says to texts or to pairs of them, by output name, one row per text."""
    columns = (texts,) if pairs is None else (texts, pairs)
    names = text_inputs(signature)
    values = {name: tf.constant(list(column), tf.string) for name, column in zip(names, columns, strict=True)}
    return {key: value.numpy() for key, value in signature(**values).items()}


def answer_waves(signature: Callable, waves: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what a signature says to waves [n, samples], by output name, one row per wave."""
    [name] = signature.structured_input_signature[1]
    return {key: value.numpy() for key, value in signature(**{name: tf.constant(waves, tf.float32)}).items()}


def answer_bytes(signature: Callable, encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Returns what the signature for encoded files says to some, by output name, one row per file."""
    [name] = signature.structured_input_signature[1]
    outputs = signature(**{name: tf.constant(list(encoded), tf.string)})
    return {name: value.numpy() for name, value in outputs.items()}


def open_export(path: str | os.PathLike[str]) -> OpenExport:
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
    names = tuple(labels.read_text(encoding="utf-8").split("\n")[:-1]) if labels.is_file() else ()
    heard = folder / "assets" / AUDIO_FILE
    audio = AudioSpec.from_dict(json.loads(heard.read_text(encoding="utf-8"))) if heard.is_file() else None
    written = folder / "assets" / TASK_FILE
    task = written.read_text(encoding="utf-8").strip() if written.is_file() else "outputs"
    return OpenExport(folder, dict(loaded.signatures), names, loaded, audio, task)


def is_savedmodel(folder: pathlib.Path) -> bool:
    """Tells whether a folder holds a SavedModel itself (not one folder further down)."""
    return (folder / "saved_model.pb").is_file()


def versions_in(base: pathlib.Path) -> dict[int, str]:
    """Returns the version folders in a folder, as ``{number: folder name}``; empty when it does not exist."""
    if not base.is_dir():
        return {}
    names = [entry.name for entry in base.iterdir() if entry.is_dir()]
    return {int(name): name for name in names if name.isascii() and name.isdecimal()}
