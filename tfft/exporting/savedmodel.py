"""Export of a Keras model as a versioned SavedModel, put in place only after its parity check.

Implementation notes: the model is built in a temporary folder, checked in a fresh process and renamed; on any failure
the disk is left unchanged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import keras
import tensorflow as tf

from tfft.console.output import quiet_loggers
from tfft.console.profile import stage
from tfft.errors import ExportError
from tfft.exporting.loader import TASK_FILE, versions_in
from tfft.exporting.model_card import describe_functions, model_card
from tfft.exporting.parity import Examples, FreshProcess, check
from tfft.exporting.signatures import Serving, serving_functions
from tfft.io.name_files import format_lines
from tfft.keras_compat import flatten_layers
from tfft.specs import InputSpec


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """Result of :func:`export`.

    Attributes:
        path: Version folder, such as ``served/1``.
        largest_difference: Largest ``|served - expected| / (1 + |expected|)`` in the check.
        signatures: Inputs and outputs of each signature, by name.
        class_names: Class names in the order of the logits; empty if there are none.
        notes: Omitted signatures, with the reasons.
    """

    path: pathlib.Path
    largest_difference: float
    signatures: Mapping[str, str]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


@stage("export")
def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    examples: Examples | None = None,
    card: Mapping[str, object] | None = None,
    input_spec: InputSpec | None = None,
    tolerance: float = 1e-5,
    process: FreshProcess | None = None,
) -> ExportResult:
    """Export a model as one SavedModel for serving, checked before it is put in place.

    Use it when training is done. The SavedModel holds everything: decoding, resizing, scaling, the
    network, probabilities and label names. It has the signatures ``serving_default`` (``images``: uint8
    ``[batch, height, width, channels]`` of any size) and ``serve_bytes`` (``image_bytes``: encoded image
    files, ``[batch]``), both with the outputs ``probabilities``, ``label`` and ``logits``. A model of
    recordings takes ``audio``: float32 ``[batch, samples]``, and ``audio_bytes``: WAV files of 16 bits. A model with
    other inputs has ``serving_default`` with its own input names.

    The check runs the SavedModel in a fresh process, with TensorFlow alone, on the CPU: its outputs must equal
    ``model.predict``, and each row must be independent of the others in the batch.

    Args:
        model: Built functional or Sequential Keras model, from ``tfft.build`` or any other.
        path: Version folder for TensorFlow Serving, ``served/1``. If the last part is not a number, the next free
            version inside that folder is used.
        class_names: Class names. A model from ``tfft.build`` has its own. They make any other model a classifier:
            softmax is applied unless its last layer has an activation.
        examples: Examples for the check: images ``[n, height, width, channels]``, arrays by input name, or image files
            (paths or contents); at most 16 are used. Defaults to random inputs.
        card: Facts for the model card, such as scores; nested mappings are allowed.
        input_spec: Pixels that a model expects which tfft did not build.
        tolerance: Maximum ``|served - expected| / (1 + the largest |expected|)`` of each output.
        process: Process for the check that was started before, so that it need not be waited for. None starts one.

    Returns:
        Path, largest difference and signatures.

    Raises:
        ExportError: If the version exists already, the model cannot be served or the check fails; nothing is left
            behind and nothing existing is changed.

    Example:
        >>> exported = tfft.export(model, "served/1")              # doctest: +SKIP
        >>> exported.largest_difference                            # doctest: +SKIP
        2.4e-07
    """
    version_folder(path)  # fail before building anything
    serving = serving_functions(model, class_names=class_names, input_spec=input_spec)
    return write_checked(model, serving, path, examples=examples, card=card, tolerance=tolerance, process=process)


def write_checked(
    model: keras.Model,
    serving: Serving,
    path: str | os.PathLike[str],
    *,
    examples: Examples | None = None,
    card: Mapping[str, object] | None = None,
    tolerance: float = 1e-5,
    process: FreshProcess | None = None,
) -> ExportResult:
    """Write the functions of a model aside, check them in a fresh process and put them in place.

    Args:
        model: Model that owns the variables and tables.
        serving: Its functions.
        path: As for :func:`export`, like the rest.
        examples: As for :func:`export`.
        card: As for :func:`export`.
        tolerance: As for :func:`export`.
        process: As for :func:`export`.

    Raises:
        ExportError: As :func:`export`.
    """
    target = version_folder(path)
    for reason in (getattr(layer, "why_not_exported", "") for layer in flatten_layers(model)):
        if reason:
            raise ExportError(f"The model {model.name!r} cannot be exported as a SavedModel: {reason}.")
    with _aside(target) as folder, FreshProcess() if process is None else contextlib.nullcontext(process) as fresh:
        _write(model, serving, folder, card)
        difference = check(folder, serving, examples, tolerance, fresh)
        if target.exists():
            raise ExportError(f"{target} appeared while the model was being exported; it was not touched.")
        os.rename(folder, target)
    return ExportResult(target, difference, describe_functions(serving), serving.class_names, serving.notes)


def version_folder(path: str | os.PathLike[str]) -> pathlib.Path:
    """Return the folder an export to ``path`` goes to, and refuse one that exists.

    Args:
        path: As :func:`export` takes it.

    Returns:
        ``path`` itself when its last part is a number, else the next version inside of it.

    Raises:
        ExportError: If that version exists, or something on the way is not a folder.
    """
    target = pathlib.Path(path).expanduser()
    for parent in (target, *target.parents):
        if parent.exists() and not parent.is_dir():
            raise ExportError(f"Cannot export to {path}: {parent} is a file. Give a folder, such as 'served/1'.")
    versions = versions_in(target if not _is_version(target.name) else target.parent)
    following = max(versions, default=0) + 1
    if not _is_version(target.name):
        if (target / "saved_model.pb").exists():
            raise ExportError(f"{target} is itself a SavedModel. Give another folder, in which versions are created.")
        return target / str(following)
    if target.exists() or int(target.name) in versions:
        raise ExportError(
            f"Version {target.name} already exists in {target.parent}, and an export never changes one. "
            f"Fix: export to {target.parent / str(following)}, or to {target.parent} for the next free version."
        )
    return target


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdecimal()


@contextlib.contextmanager
def _aside(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a folder next to the target to write in; remove it, and parents it created, on any failure."""
    made = [parent for parent in target.parents if not parent.exists()]
    # A server polls for folders whose names are numbers: it does not see this one. Not mkdtemp, whose
    # folders only the owner can read; the server may run as another user.
    folder = target.parent / f".tmp-{target.name}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        raise ExportError(f"The export to {target} failed: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):  # not empty: the export is in it
                parent.rmdir()


def _write(model: keras.Model, serving: Serving, folder: pathlib.Path, card: Mapping[str, object] | None) -> None:
    module = tf.Module()
    module.owned = _captured(model, serving)
    with tempfile.TemporaryDirectory(prefix="tfft-assets-") as scratch:
        texts = {"model_card.md": model_card(model, serving, card), TASK_FILE: f"{serving.task}\n"}
        if serving.class_names:
            texts["labels.txt"] = format_lines(serving.class_names)
        if serving.serving_input is not None:
            texts |= serving.serving_input.assets
        module.documents = []
        for name, text in texts.items():
            source = pathlib.Path(scratch, name)
            source.write_text(text, encoding="utf-8", newline="\n")
            module.documents.append(tf.saved_model.Asset(str(source)))
        try:
            with quiet_loggers("tensorflow"):  # "Assets written to" would name the temporary folder
                tf.saved_model.save(module, str(folder), signatures=dict(serving.signatures))
        except (AssertionError, ValueError, TypeError, tf.errors.OpError) as error:
            raise ExportError(f"TensorFlow could not write the model {model.name!r}: {error}") from error


def _captured(model: keras.Model, serving: Serving) -> list[object]:
    """Return the variables and tables that the functions read: the optimizer's slots stay out."""
    handles = {id(handle) for function in serving.signatures.values() for handle in function.captured_inputs}
    tracked = [variable.value for variable in model.variables]
    tracked += list(tf.train.TrackableView(model).descendants())
    owned: dict[int, object] = {}
    for candidate in tracked:
        if isinstance(candidate, tf.Variable):
            handle = candidate.handle
        elif isinstance(candidate, tf.saved_model.experimental.TrackableResource):
            handle = candidate.resource_handle
        else:
            continue
        if id(handle) in handles:
            owned.setdefault(id(handle), candidate)
    return list(owned.values())
