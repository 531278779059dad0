"""Text models for programs without a tokenizer: :func:`without_tokenizer`.

Implementation notes: LiteRT and ONNX have no tokenizers, so a file takes tokens, and its callers need the vocabulary.
It is stored in the file, with the settings of the tokenizer.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tempfile
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import ExportError
from tfft.features.engines import stage
from tfft.features.functional_graph import flatten
from tfft.layers.tokenize import Tokenize

SETTINGS_FILE = "tokenizer_settings.json"
_SAMPLES = (
    "The film was a pleasant surprise from beginning to end.", "No.", "", "Where is the station?",
    "It rained all day; still, the music was good & loud!",
    "word " * 600,  # longer than what any file takes
    "3.14 + 2 = 5.14", "ÄÖÜ äöü ß é 漢字",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class TokenModel:
    """A text model behind its tokenizer.

    Attributes:
        network: Model from tokens, int32 [B, length] by name, to what the text model computes.
        tokenizer: Its tokenizer, which gives tokens of exactly that length.
        columns: Number of texts in an example, 1 or 2.
    """

    network: keras.Model
    tokenizer: Tokenize
    columns: int

    def tokens(self, texts: Any = None) -> dict[str, np.ndarray]:
        """Return the tokens of texts by input name, int32 [N, length], padded.

        Args:
            texts: Texts [N], or pairs of them [N, 2]; None for a few sentences.

        Raises:
            ExportError: If the examples are no texts, or not as many in an example as the model takes.
        """
        rows = np.array([(text,) * self.columns for text in _SAMPLES] if texts is None else texts, object)
        columns = [rows] if rows.ndim == 1 else list(rows.T)
        if len(columns) != self.columns or not all(isinstance(value, (str, bytes)) for value in rows.flat):
            wanted = "texts" if self.columns == 1 else "pairs of texts"
            raise ExportError(
                f"Expected {wanted} as examples, such as {['a text'] if self.columns == 1 else [('one', 'two')]!r}. "
                f"Received: an array of the shape {list(rows.shape)}."
            )
        found = self.tokenizer([tf.constant(column.tolist(), tf.string) for column in columns])
        return {name: np.asarray(found[name]) for name in (tensor.name for tensor in self.network.inputs)}

    def files(self) -> dict[str, bytes]:
        """Return the vocabulary as the tokenizer stores it, and its settings, by file name."""
        held = getattr(self.tokenizer.packer, "tokenizer", self.tokenizer.packer)
        found: dict[str, bytes] = {}
        if hasattr(held, "save_assets"):
            with tempfile.TemporaryDirectory(prefix="tfft-vocabulary-") as folder:
                held.save_assets(folder)
                found = {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())}
        settings: dict[str, Any] = {"tokenizer": type(held).__name__, "length": self.tokenizer.max_length}
        settings |= {name: value for name, value in held.get_config().items() if _is_setting(name, value)}
        settings |= {name: int(number) for name, number in vars(held).items() if _is_number_of_token(name, number)}
        return {**found, SETTINGS_FILE: json.dumps(settings, indent=1, ensure_ascii=False).encode()}


def _is_setting(name: str, value: Any) -> bool:
    return isinstance(value, (bool, int, str)) and name not in ("name", "trainable", "config_file")


def _is_number_of_token(name: str, value: Any) -> bool:
    return name.endswith("_token_id") and value is not None


def without_tokenizer(model: keras.Model) -> TokenModel | None:
    """Return a text model behind its tokenizer; None for other models.

    Args:
        model: Functional model.
    """
    layers = [layer for layer in model.layers if isinstance(layer, Tokenize)]
    if len(layers) != 1:
        return None
    staged = stage(model)
    front, held = staged.front, layers[0]
    names = [] if front is None else [tensor.name for tensor in front.outputs]
    if not names or not set(names) <= set(held.names):
        return None
    tokenizer = Tokenize(held.packer, held.names, held.mask, held.max_length, fixed=True)
    inputs = [keras.Input((held.max_length,), dtype="int32", name=name) for name in names]
    network = flatten(keras.Model(inputs, staged.net(inputs if len(inputs) > 1 else inputs[0]), name=model.name))
    return TokenModel(network, tokenizer, len(model.inputs))
