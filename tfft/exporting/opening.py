"""Any model of tfft that answers requests: :func:`open_served`."""

from __future__ import annotations

import os
import pathlib

from tfft.backbones.formats.keras_file import load_keras_file
from tfft.errors import DataError
from tfft.exporting.loader import Served, open_export
from tfft.exporting.signatures import serving_functions

MODEL_FILE = "model.keras"  # in a run folder


def open_served(path: str | os.PathLike[str]) -> Served:
    """Open a run, a ``.keras`` file or an exported model to predict with it.

    Args:
        path: Run folder, exported model or ``.keras`` file.

    Returns:
        The model: :class:`~tfft.exporting.signatures.Serving` with its Keras model, or :class:`ExportedModel`.

    Raises:
        DataError: If it is none of them, or its modality is unknown.

    Example:
        >>> open_served("runs/texts").predict(["a fine film"])["label"]
        array([b'positive'], dtype=object)
    """
    place = pathlib.Path(path).expanduser()
    if not place.exists():
        raise DataError(f"{place} does not exist. Expected a run folder, an exported model or a .keras file.")
    if place.is_dir() and not (place / MODEL_FILE).exists():
        return open_export(place)
    if place.is_file() and place.suffix != ".keras":
        raise DataError(f"{place} is not a model. Expected a run folder, an exported model or a .keras file.")
    serving = serving_functions(load_keras_file(place if place.is_file() else place / MODEL_FILE))
    if serving.modality is None:
        raise DataError(f"The model in {place} accepts neither files nor texts. {' '.join(serving.notes)}")
    return serving
