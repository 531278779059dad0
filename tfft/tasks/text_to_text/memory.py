"""Outputs of a frozen encoder, computed once for all epochs: :func:`part_with_memory`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tfft.arrays.ragged import Ragged
from tfft.arrays.spill import Holder
from tfft.arrays.store import megabytes
from tfft.backbones.base import TOKENS_LAYER, find_backbone
from tfft.data.batches import BatchOptions
from tfft.heads import LOGITS_LAYER
from tfft.io.cache_dir import free_space
from tfft.layers.pair_tokenizer import NETWORK_INPUTS, PADDING, SOURCE, TARGET
from tfft.tasks.text_to_text.batching import MEMORY, token_batches

if TYPE_CHECKING:
    from tfft.tasks.text_to_text.data import PairExamples

_SHARE_OF_DISK = 0.5  # of the free space for temporary files
_TOKENS = 4096  # of sources that are encoded at a time

Part = tuple[keras.Model, tf.data.Dataset, tf.data.Dataset | None]


def part_with_memory(
    model: keras.Model, train: PairExamples, held_out: PairExamples | None, options: BatchOptions
) -> Part | str:
    """Return the decoder of a model as a model of its own, and batches with the outputs of its frozen encoder.

    The decoder shares its variables with the model. The frozen encoder runs once over all sources, in inference mode,
    and its outputs are kept without padding, in memory or in a temporary file.

    Args:
        model: Model of :func:`tfft.build`, with the trainable blocks of a phase.
        train: Training pairs with tokens.
        held_out: Held-out pairs; None for none.
        options: Batches of the training pairs.

    Returns:
        Decoder, training batches and held-out batches; or the reason why the whole model has to run, empty if it has no
        frozen encoder.
    """
    network = find_backbone(model)
    embeddings, encoders = _parts(network)
    trained = [layer.name for layer in (embeddings, *encoders) if layer.trainable_weights]
    if trained or any(part is not None and part.tokens is None for part in (train, held_out)):
        return "" if len(trained) > len(encoders) else "Blocks of the encoder train, so its outputs change."
    width = int(encoders[-1].output[0].shape[-1])
    parts = [part for part in (train, held_out) if part is not None]
    counts = [len(ids) for part in parts for ids in part.tokens.source]  # type: ignore[union-attr]
    needed, free = 4 * width * sum(counts), free_space(Path(tempfile.gettempdir()))
    if needed > _SHARE_OF_DISK * free:
        return f"The outputs of the encoder take {megabytes(needed)}, and {megabytes(free)} are free."
    encode = _encoder(network, encoders[-1])
    memories = [_encoded(encode, part.tokens.source) for part in parts]  # type: ignore[union-attr]
    tokenizer: Any = train.tokenizer
    batches = [
        token_batches(part.tokens, tokenizer, how, memory)  # type: ignore[arg-type]
        for part, memory, how in zip(parts, memories, (options, BatchOptions(options.batch_size)), strict=False)
    ]
    decoder = _decoder(model, network, encoders[-1], width)
    return decoder, batches[0], batches[1] if held_out is not None else None


def _parts(network: keras.Model) -> tuple[Any, list[Any]]:
    """Return the embeddings and the encoder blocks of an encoder-decoder."""
    embeddings = next(layer for layer in network.layers if hasattr(layer, "embed_target") or hasattr(layer, "embed"))
    return embeddings, [layer for layer in network.layers if hasattr(layer, "encode")]


def _encoder(network: keras.Model, last: Any) -> Any:
    """Return a function from padded sources, int32 [B, S], to the outputs of the encoder [B, S, width]."""
    encoder = keras.Model(network.input, last.output[0])

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)], autograph=False)
    def encode(source: tf.Tensor) -> tf.Tensor:
        there = tf.cast(source >= 0, tf.int32)
        inputs = {
            "encoder_token_ids": tf.maximum(source, 0), "encoder_padding_mask": there,
            "decoder_token_ids": there[:, :1], "decoder_padding_mask": there[:, :1],
        }  # fmt: skip
        return tf.cast(encoder({name: inputs[name] for name in network.input}, training=False), tf.float32)

    return encode


def _encoded(encode: Any, sources: list[np.ndarray]) -> Ragged:
    """Return the outputs of the encoder for all sources in order; sources of similar length are encoded together."""
    lengths = np.array([len(ids) for ids in sources], np.int64)
    holder = Holder()
    order, found, start = np.argsort(-lengths, kind="stable"), np.empty(len(sources), np.int64), 0
    try:
        while start < len(order):
            at = order[start : start + max(1, _TOKENS // max(1, int(lengths[order[start]])))]
            padded = np.full((len(at), int(lengths[at[0]])), PADDING, np.int32)
            for row, which in zip(padded, at, strict=True):
                row[: lengths[which]] = sources[which]
            holder.append([Ragged.of(encode(padded).numpy(), lengths[at])])
            found[at] = np.arange(start, start + len(at))
            start += len(at)
        [rows] = holder.finish()
    finally:
        holder.close()
    return _Reordered(rows, found)  # type: ignore[return-value,arg-type]  # read by position like one


class _Reordered:
    """Rows of a :class:`Ragged` in another order."""

    def __init__(self, rows: Ragged, order: np.ndarray) -> None:
        self._rows, self._order = rows, order
        self.shape, self.dtype = rows.shape, rows.dtype

    def rows(self, at: Any) -> np.ndarray:
        """Return some rows as one padded array."""
        return self._rows.rows(self._order[np.asarray(at)])


def _decoder(model: keras.Model, network: keras.Model, last: Any, width: int) -> keras.Model:
    """Return a model from sources, targets and outputs of the encoder to logits."""
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in (SOURCE, TARGET)}
    memory = keras.Input((None, width), dtype="float32", name=MEMORY)
    tokens = model.get_layer(TOKENS_LAYER)(inputs[SOURCE], inputs[TARGET])
    blocks = list(network.layers)
    after = blocks[blocks.index(last) + 1 :]
    embeddings, _ = _parts(network)
    state = list(embeddings(*(tokens[name] for name in NETWORK_INPUTS)))
    state[0] = keras.ops.cast(memory, state[0].dtype)
    for layer in after[:-1]:
        state = list(layer(*state))
    logits = after[-1](*state[:4])
    return keras.Model({**inputs, MEMORY: memory}, model.get_layer(LOGITS_LAYER)(logits), name=f"{model.name}_decoder")
