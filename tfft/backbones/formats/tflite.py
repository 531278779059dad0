"""LiteRT (TensorFlow Lite) models as frozen feature extractors: :func:`from_tflite`."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import keras

from tfft.backbones.base import Backbone
from tfft.backbones.load_options import LoadOptions
from tfft.backbones.savedmodel.backbone import input_contract
from tfft.errors import SavedModelError, TfftError
from tfft.layers.litert_model import LiteRTModel, check_litert

_NOTE = (
    "A LiteRT model is used frozen, as a feature extractor: its weights are folded and often quantized. Only LiteRT "
    "can run it, so a model with it is saved as .keras and not exported."
)


def from_tflite(path: Path, options: LoadOptions) -> Backbone:
    """Open a ``.tflite`` file as a backbone without weights.

    Args:
        path: The file.
        options: As :func:`tfft.backbones.load_backbone` takes them. ``output`` may name any tensor of the graph.

    Returns:
        The backbone.

    Raises:
        SavedModelError: The file is damaged, or LiteRT cannot run it.
        UnsafeModelError: It holds custom operations.
        DependencyError: LiteRT is not installed.
    """
    content = path.read_bytes()
    check_litert(content, f"The file {str(path)!r}")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem)
    try:
        layer = LiteRTModel(base64.b64encode(content).decode("ascii"), output=options.output, name="litert")
        inputs = [
            keras.Input(shape[1:], dtype=dtype, name=f"inputs_{i}" if i else "inputs")
            for i, (_, shape, dtype) in enumerate(layer.input_specs)
        ]
        model = keras.Model(
            inputs[0] if len(inputs) == 1 else inputs, layer(inputs if inputs[1:] else inputs[0]), name=name
        )
    except TfftError:
        raise
    except Exception as error:  # what the interpreter raises for a model that it cannot run
        said = (str(error).strip().splitlines() or [""])[0]
        raise SavedModelError(f"LiteRT cannot open {str(path)!r}: {type(error).__name__}: {said[:300]}") from error
    spec, assumed = input_contract(model, None)
    return Backbone(options.name or path.stem, model, str(path), spec, (_NOTE, *assumed))
