"""Batched inference of the frozen network; texts are batched by length.

Implementation notes: texts are sorted by length, and the results return in the order of the examples, without padding.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from tfft.arrays.npy_files import Item, item_bytes
from tfft.arrays.ragged import Ragged, Rows, offsets_of
from tfft.errors import DataError
from tfft.features.engines import Arrays, Opener, Staged, run

WINDOW = 64  # batches to sort together
TOKENS_AT_ONCE = 1024  # more do not fit into the caches of a processor, fewer leave it waiting
_ON_GPU = 16  # times as many
_LIMIT = 128 * 2**20  # bytes of results after which a window ends before it is full


def compute(
    staged: Staged, opener: Opener, batches: Iterable[Arrays], batch_size: int = 32
) -> Iterator[Sequence[Rows]]:
    """Run a network over batches.

    Args:
        staged: Model with the network as its ``net``.
        opener: Opener of the engine, which is opened with the first computed batch.
        batches: Inputs of the network, from :meth:`tfft.features.sources.Source.batches`.
        batch_size: Examples per incoming batch; texts are computed :data:`TOKENS_AT_ONCE` tokens at a time.

    Yields:
        The outputs of the network for some examples, in the order of the examples. Outputs with a token axis have no
        padding.

    Raises:
        DataError: If an output of the network for texts has another variable axis than tokens.
    """
    if staged.mask is None:
        batches = iter(batches)
        batch = next(batches)
        engine, _ = opener.open(batch)
        for arrays, _ in run(engine, ((b, None) for b in itertools.chain([batch], batches))):
            yield arrays
        return
    check_axes(staged)
    work = _sorted_batches(staged, batches, batch_size)
    first = next(work)
    engine, _ = opener.open(first[0])
    for results, (window, at) in run(engine, itertools.chain([first], work)):
        window.put(results, at)
        if window.is_whole:
            yield window.finish()


def check_axes(staged: Staged) -> None:
    """Raise DataError if an output of a network for texts has another variable axis than examples and tokens."""
    for tensor in staged.net.outputs if staged.mask is not None else ():
        if tensor.shape[0] is not None or None in tensor.shape[2:]:
            raise DataError(
                f"{tensor.name} of {staged.net.name!r} has the shape {tuple(tensor.shape)} and would have to be kept "
                "for each text, but only axis 1 may differ from text to text. Cut elsewhere: "
                "tfft.features.split_frozen(model, cut=...)."
            )


def _sorted_batches(
    staged: Staged, batches: Iterable[Arrays], batch_size: int
) -> Iterator[tuple[list[np.ndarray], tuple[_Window, np.ndarray]]]:
    items: list[Item] = [(t.shape[1:], tf.as_dtype(t.dtype).as_numpy_dtype) for t in staged.net.outputs]
    each, fills = item_bytes(items), paddings(staged)
    held: list[Arrays] = []
    rows = pieces = 0
    for arrays in batches:
        held.append(arrays)
        rows += len(arrays[0])
        pieces += int(arrays[_mask(staged)].sum())
        if rows >= WINDOW * batch_size or pieces * each > _LIMIT:
            yield from _Window(staged, held, fills).batches()
            held, rows, pieces = [], 0, 0
    if held:
        yield from _Window(staged, held, fills).batches()


def _mask(staged: Staged) -> int:
    if staged.mask is None:
        raise ValueError("The network takes no texts.")
    return staged.mask


def paddings(staged: Staged) -> list[int]:
    """Return the padding value of each input of a network for texts; 0 if unknown."""
    if any(tf.as_dtype(t.dtype) != tf.string for t in staged.inputs):
        return [0] * len(staged.net.inputs)
    tensors = [np.asarray(t) for t in staged.enter([tf.constant(["", "a b c d e f g h"])] * len(staged.inputs))]
    behind = tensors[_mask(staged)] == 0
    return [int(t[behind][-1]) if t.shape == behind.shape and behind.any() else 0 for t in tensors]


def typical(staged: Staged, arrays: Arrays) -> tuple[list[np.ndarray], int]:
    """Cut a batch of texts to their mean length, to measure the cost of batches of similar length.

    Args:
        staged: Model for texts.
        arrays: Inputs of the network.

    Returns:
        The inputs, and the mean number of tokens.
    """
    length = round(float(arrays[_mask(staged)].sum(axis=1).mean()))
    inputs = zip(staged.net.inputs, arrays, strict=True)
    return [np.ascontiguousarray(a[:, :length]) if _is_ragged(t.shape) else a for t, a in inputs], length


class _Window:
    """Window of examples that are computed in another order."""

    def __init__(self, staged: Staged, batches: Sequence[Arrays], fills: Sequence[int]) -> None:
        self._net, self._fills = staged.net, fills
        each = [np.asarray(arrays[_mask(staged)]).sum(axis=1) for arrays in batches]
        self._lengths = np.concatenate(each)
        self._offsets = offsets_of(self._lengths)
        self._inputs: list[Rows] = []
        for number, tensor in enumerate(staged.net.inputs):
            column = [arrays[number] for arrays in batches]
            if _is_ragged(tensor.shape):
                values = [Ragged.of(a, n).values for a, n in zip(column, each, strict=True)]
                self._inputs.append(Ragged(np.concatenate(values), self._offsets, fills[number]))
            else:
                self._inputs.append(np.concatenate(column))
        self._found: list[np.ndarray] | None = None
        self._left = len(self._lengths)

    def batches(self) -> Iterator[tuple[list[np.ndarray], tuple[_Window, np.ndarray]]]:
        """Yield inputs of similar length, the longest first, with their positions."""
        order = np.argsort(-self._lengths, kind="stable")
        start, pieces = 0, TOKENS_AT_ONCE * (_ON_GPU if tf.config.get_visible_devices("GPU") else 1)
        while start < len(order):
            count = max(1, pieces // max(1, int(self._lengths[order[start]])))
            at = order[start : start + count]
            yield [a.rows(at) if isinstance(a, Ragged) else a[at] for a in self._inputs], (self, at)
            start += count

    def put(self, results: Arrays, at: np.ndarray) -> None:
        """Store the network's outputs for some examples."""
        lengths = self._lengths[at]
        if self._found is None:
            self._found = [self._empty(t.shape, a) for t, a in zip(self._net.outputs, results, strict=True)]
        for tensor, array, found in zip(self._net.outputs, results, self._found, strict=True):
            if not _is_ragged(tensor.shape):
                found[at] = array
                continue
            if array.shape[:2] != (len(at), lengths.max(initial=0)):
                raise DataError(
                    f"{tensor.name} of {self._net.name!r} has the shape {array.shape} for {len(at)} texts of up to "
                    f"{lengths.max(initial=0)} tokens; its axis 1 is not the token axis, so it cannot be cached."
                )
            for row, start, length in zip(array, self._offsets[at].tolist(), lengths.tolist(), strict=True):
                found[start : start + length] = row[:length]
        self._left -= len(at)

    @property
    def is_whole(self) -> bool:
        """Whether all examples are computed."""
        return self._left == 0

    def finish(self) -> list[Rows]:
        """Return the outputs of all examples in their original order."""
        passed = {id(t): fill for t, fill in zip(self._net.inputs, self._fills, strict=True)}
        return [
            Ragged(found, self._offsets, passed.get(id(tensor), 0)) if _is_ragged(tensor.shape) else found
            for tensor, found in zip(self._net.outputs, self._found or (), strict=True)
        ]

    def _empty(self, shape: Sequence[int | None], like: np.ndarray) -> np.ndarray:
        count, item = (
            (int(self._offsets[-1]), like.shape[2:]) if _is_ragged(shape) else (len(self._lengths), like.shape[1:])
        )
        return np.empty((count, *item), like.dtype)


def _is_ragged(shape: Sequence[int | None]) -> bool:
    return len(shape) > 1 and shape[1] is None
