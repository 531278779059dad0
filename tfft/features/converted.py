"""Networks in LiteRT's format, kept in tfft's cache: :func:`converted`.

Implementation notes: a conversion takes seconds to minutes and depends on the network alone, not on the examples. The
engine compares every network with TensorFlow on its first batch, one from the cache too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import keras

from tfft.errors import TfftError
from tfft.features import litert
from tfft.features.cache import CONVERTED
from tfft.features.cache_key import NoKey, model_digest, versions
from tfft.io.cache_dir import SPARE, cached_folder, free_space

_FORMAT = 1  # version of the entries; a new number invalidates all of them
_FILE = "network.tflite"


def converted(net: keras.Model, shapes: Sequence[Sequence[int | None]], *, keep: bool) -> bytes:
    """Return a network in LiteRT's format, from the cache if it was converted before.

    Args:
        net: Functional model.
        shapes: As in :func:`tfft.features.litert.convert`.
        keep: Whether to look in the cache, and to keep the network there.

    Raises:
        Unfit: If conversion fails, with the reason.
    """
    if not keep:
        return litert.convert(net, shapes)
    try:
        about = [_FORMAT, model_digest(net), [list(shape) for shape in shapes], versions("litert")]
    except NoKey:
        return litert.convert(net, shapes)
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    made: list[bytes] = []

    def write(folder: Path) -> None:
        made.append(litert.convert(net, shapes))
        if free_space(folder) < len(made[0]) + SPARE:
            raise OSError("The disk is nearly full.")
        (folder / _FILE).write_bytes(made[0])

    try:
        folder = cached_folder(f"{CONVERTED}/{key}", write)
        return made[0] if made else (folder / _FILE).read_bytes()
    except (OSError, TfftError):  # a cache that cannot be written or read does not stop anybody
        return made[0] if made else litert.convert(net, shapes)
