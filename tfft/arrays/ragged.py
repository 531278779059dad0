"""Rows of different lengths, such as token features of texts: :class:`Ragged`.

Implementation notes: the rows are stored one after the other without padding, in memory or in a file.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Ragged:
    """Rows of different lengths, stored without padding; :meth:`rows` returns some of them as one padded array.

    Args:
        values: Items of all rows [items, ...], read-only by convention.
        offsets: int64 [rows + 1]: row i is ``values[offsets[i]:offsets[i + 1]]``.
        fill: Padding value.

    Example:
        >>> Ragged(np.arange(5.0), np.array([0, 2, 5])).rows([0, 1])
        array([[0., 1., 0.],
               [2., 3., 4.]])
    """

    def __init__(self, values: np.ndarray, offsets: np.ndarray, fill: int | float = 0) -> None:
        self.values, self.offsets, self.fill = values, offsets, fill

    @classmethod
    def of(cls, padded: np.ndarray, lengths: np.ndarray, fill: int | float = 0) -> Ragged:
        """Remove the padding.

        Args:
            padded: [rows, longest, ...].
            lengths: Number of items of each row that are not padding, [rows].
            fill: Padding value for later reads.
        """
        return cls(padded[np.arange(padded.shape[1]) < lengths[:, None]], offsets_of(lengths), fill)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"Ragged({len(self)} rows, {len(self.values)} items {self.values.shape[1:]} {self.dtype})"

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError(
            "Rows of different lengths cannot become one array: get some of them, padded, with rows(positions), or all "
            "items, one row after the other, with values and offsets."
        )

    @property
    def lengths(self) -> np.ndarray:
        """Number of items of each row, [rows]."""
        return np.diff(self.offsets)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Shape of all rows, with None for the axis that varies."""
        return (len(self), None, *self.values.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return self.values.dtype

    @property
    def nbytes(self) -> int:
        """Size of the values and offsets in bytes."""
        return self.values.nbytes + self.offsets.nbytes

    def rows(self, at: Any) -> np.ndarray:
        """Return some rows as one padded array [b, longest of these, ...].

        Args:
            at: Positions [b].
        """
        at = np.asarray(at, np.int64)
        starts, ends = self.offsets[at], self.offsets[at + 1]
        longest = int((ends - starts).max(initial=0))
        found = np.full((len(at), longest, *self.values.shape[1:]), self.fill, self.dtype)
        for row, start, end in zip(found, starts.tolist(), ends.tolist(), strict=True):
            row[: end - start] = self.values[start:end]
        return found

    def map(self, values: np.ndarray) -> Ragged:
        """Return the same rows with other values, for example of another type."""
        return Ragged(values, self.offsets, self.fill)


Rows = np.ndarray | Ragged  # one row per example


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Return the start offset of each row, and the end of the last one; int64 [rows + 1]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
