"""Opening of the model for a command: :func:`open_model`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tfft.console.output import start_tensorflow
from tfft.errors import DataError

if TYPE_CHECKING:
    from tfft.exporting.loader import Served


def open_model(path: str) -> Served:
    """Open a run, a ``.keras`` file or an export; TensorFlow starts only if the path exists.

    Args:
        path: Argument of the command.

    Raises:
        DataError: If it is none of them.
    """
    if not Path(path).expanduser().exists():
        raise DataError(f"{path} does not exist. Expected a run folder, an exported model or a .keras file.")
    start_tensorflow()
    from tfft.exporting import open_served

    return open_served(path)
