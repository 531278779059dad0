"""Export of a language model as a SavedModel that generates text: :func:`export`.

Implementation notes: tokenizer, loop and sampler form one graph, which is checked against the Keras model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.backbones.text_ops import note_on, ops_of
from tfft.errors import ExportError
from tfft.exporting.loader import ARRAY_SIGNATURE
from tfft.exporting.savedmodel import ExportResult, write_checked
from tfft.exporting.signatures import Serving

_ANSWER = "generated_text"
_BROKEN = "\ufffd"  # what tokenizers put in place of a part of a character


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    max_length: int | None = None,
    examples: Sequence[str] | None = None,
    card: Mapping[str, object] | None = None,
) -> ExportResult:
    """Export a language model as one SavedModel from texts to texts, checked before it is put in place.

    ``serving_default`` takes ``text`` (strings, ``[batch]``) and returns ``generated_text``: each text with its greedy
    continuation, so that the same request has the same answer and a server may batch requests. The check runs in a
    fresh process with TensorFlow alone, as for :func:`tfft.export`, and compares with ``model.generate``.

    Args:
        model: Model from ``finetune``, ``load`` or ``causal_lm`` of :mod:`tfft.tasks.causal_lm`.
        path: Version folder, as in :func:`tfft.export`.
        max_length: Maximum tokens of a text with its continuation. Defaults to the model's ``sequence_length``.
        examples: Further texts for the check.
        card: Facts for the model card.

    Returns:
        Path and signatures, as for :func:`tfft.export`.

    Raises:
        ExportError: If the version exists, the model cannot be served, or its outputs differ.

    Example:
        >>> tfft.tasks.causal_lm.export(run.model, "served/1", max_length=60)
    """
    length = model.preprocessor.sequence_length if max_length is None else max_length
    if not 2 <= length <= model.preprocessor.sequence_length:
        most = model.preprocessor.sequence_length
        raise ExportError(f"max_length must be 2 to {most}, the model's sequence_length. Received: {max_length!r}.")
    tokenizer = model.preprocessor.tokenizer
    ends = [getattr(tokenizer, name) for name in ("end_token_id", "end_token2_id") if hasattr(tokenizer, name)]
    greedy = _Greedy(model)

    @tf.function
    def write(**values: tf.Tensor) -> dict[str, tf.Tensor]:  # by name only: so a signature takes it
        text = values["text"]
        found = greedy.step(model.preprocessor.generate_preprocess(text, sequence_length=length), ends)
        ids, present = found["token_ids"], tf.cast(found["padding_mask"], tf.bool)
        for mark in tokenizer.special_token_ids:
            present &= ids != mark
        written = tokenizer.detokenize(tf.ragged.boolean_mask(ids, present))
        # A piece may be a part of a character: what is not whole is left out.
        whole = tf.strings.unicode_transcode(written, "UTF-8", "UTF-8", errors="ignore")
        return {_ANSWER: tf.strings.regex_replace(whole, _BROKEN, "")}

    def reference(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        [texts] = values.values()
        with tf.device("/CPU:0"):
            asked = [one.decode() if isinstance(one, bytes) else one for one in texts]
            return {
                _ANSWER: np.array([one.replace(_BROKEN, "").encode() for one in greedy.generate(asked, length)], object)
            }

    function = write.get_concrete_function(text=tf.TensorSpec([None], tf.string, name="text"))
    note = note_on(ops_of({ARRAY_SIGNATURE: function}))
    taken = registry.modality("text").serving(model, {"text": tf.TensorSpec([None], tf.string, name="text")})
    notes = (note,) if note else ()
    serving = Serving({ARRAY_SIGNATURE: function}, reference, (), "causal language model", taken, notes)
    return write_checked(model, serving, path, examples=examples, card=card)


class _Greedy:
    """Greedy generation, independent of the sampler that the user has set."""

    def __init__(self, model: keras.Model) -> None:
        import keras_hub

        self._model, self._sampler = model, keras_hub.samplers.GreedySampler()

    def step(self, inputs: Any, ends: list[int]) -> Any:
        return self._with_sampler(lambda: self._model.generate_step(inputs, stop_token_ids=ends))

    def generate(self, texts: list[str], length: int) -> list[str]:
        return self._with_sampler(lambda: self._model.generate(texts, max_length=length))

    def _with_sampler(self, run: Any) -> Any:
        usual, traced = self._model.sampler, self._model.generate_function
        self._model.sampler, self._model.generate_function = self._sampler, None
        try:
            return run()
        finally:
            self._model.sampler, self._model.generate_function = usual, traced
