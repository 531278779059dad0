"""Durations of symbols from texts and mel frames alone: :func:`align`, :func:`monotonic_durations`.

Implementation notes: a hidden Markov model with one state per symbol, trained from a flat start by alternating the best
monotonic path and the means of its segments (Viterbi training; Juang and Rabiner, "The segmental K-means algorithm",
1990). The path is that of the monotonic alignment search of Glow-TTS (Kim et al., 2020) for unit variances. After some
rounds the mean of a symbol depends on its neighbours, with few examples shrunk towards the mean of the symbol (as the
MAP estimates of Gauvain and Lee, 1994). It has no weights to train by gradients, and is a function of its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

_PLAIN, _CONTEXT = 8, 8  # rounds with means of symbols, and of symbols with their neighbours
_PRIOR = 20.0  # frames' worth of the mean that a rarer context is shrunk towards
_BATCH = 64
_FAR = 1e9


def align(mels: Sequence[np.ndarray], symbols: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the number of frames of each symbol.

    Args:
        mels: Log-mel frames of each clip, float [T, bands].
        symbols: Numbers of its symbols, int [S], with S at most T.

    Returns:
        int32 [S] for each clip, at least 1 each, which add up to T.
    """
    total = sum(map(len, mels))
    mean = sum(mel.sum(axis=0, dtype=np.float64) for mel in mels) / total
    variance = sum(((mel - mean) ** 2).sum(axis=0) for mel in mels) / total
    scale = 1 / np.sqrt(np.maximum(variance, 1e-6))
    durations = [_even(len(mel), len(ids)) for mel, ids in zip(mels, symbols, strict=True)]
    contexts = [_contexts(ids) for ids in symbols]
    for at in range(_PLAIN + _CONTEXT):
        means = _means(mels, contexts, durations, mean, scale, level=0 if at < _PLAIN else 1)
        durations = _best(mels, means, mean, scale)
    return durations


def monotonic_durations(cost: np.ndarray, symbols: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Return the durations of the cheapest path that visits all symbols in order, each for at least one frame.

    Args:
        cost: Cost of each frame for each symbol, float [B, S, T].
        symbols: Number of symbols of each row, int [B].
        frames: Number of frames of each row, int [B], at least as many.

    Returns:
        int32 [B, S], 0 behind the symbols of a row.
    """
    rows, width, length = cost.shape
    best = np.full((rows, width + 1), _FAR)
    best[:, 1] = cost[:, 0, 0]
    came = np.zeros((length, rows, width), bool)  # whether the path came from the symbol before
    for t in range(1, length):
        stay, step = best[:, 1:], best[:, :-1]
        came[t] = step < stay
        best[:, 1:] = np.minimum(stay, step) + cost[:, :, t]
        best[:, 0] = _FAR
    durations, at, every = np.zeros((rows, width), np.int32), symbols - 1, np.arange(rows)
    for t in range(length - 1, -1, -1):
        there = t < frames
        durations[every, at] += there
        at = at - (there & came[t, every, at])
    return durations


def _even(frames: int, symbols: int) -> np.ndarray:
    return np.diff(np.linspace(0, frames, symbols + 1).round().astype(np.int32))


def _contexts(ids: np.ndarray) -> np.ndarray:
    """Return the symbol, with the one before, with the one behind and with both, as numbers [S, 4]."""
    wide = np.concatenate([[-1], ids, [-1]]).astype(np.int64) + 1
    before, own, behind = wide[:-2], wide[1:-1], wide[2:]
    return np.stack([own, own << 20 | before, own << 40 | behind, own << 40 | before << 20 | behind | 1 << 62], axis=1)


def _means(
    mels: Sequence[np.ndarray],
    contexts: Sequence[np.ndarray],
    durations: Sequence[np.ndarray],
    mean: np.ndarray,
    scale: np.ndarray,
    level: int,
) -> list[np.ndarray]:
    """Return the expected normalized frame of each symbol of each clip, float [S, bands]."""
    sums = [
        np.add.reduceat((mel - mean) * scale, np.cumsum(count) - count, axis=0)
        for mel, count in zip(mels, durations, strict=True)
    ]
    total, weight = np.concatenate(sums), np.concatenate(durations).astype(np.float64)
    every = np.concatenate(contexts)
    found = _shrunk(total, weight, every[:, 0], np.zeros((1, total.shape[1])))
    if level:
        sides = [_shrunk(total, weight, every[:, side], found) for side in (1, 2)]
        found = _shrunk(total, weight, every[:, 3], (sides[0] + sides[1]) / 2)
    return np.split(found, np.cumsum([len(count) for count in durations])[:-1])


def _shrunk(total: np.ndarray, weight: np.ndarray, keys: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Return the mean of the segments with the same key, shrunk towards other means, for each segment."""
    _, group = np.unique(keys, return_inverse=True)
    count = np.bincount(group, weight)
    sums = np.zeros((len(count), total.shape[1]))
    np.add.at(sums, group, total)
    return (sums[group] + _PRIOR * towards) / (count[group] + _PRIOR)[:, None]


def _best(
    mels: Sequence[np.ndarray], means: Sequence[np.ndarray], mean: np.ndarray, scale: np.ndarray
) -> list[np.ndarray]:
    """Return the durations of the best paths, in batches of clips of similar length."""
    found: list[np.ndarray] = [np.zeros(0, np.int32)] * len(mels)
    for batch in _batches([len(mel) for mel in mels]):
        symbols, frames = (np.array([len(part[at]) for at in batch]) for part in (means, mels))
        cost = np.full((len(batch), symbols.max(), frames.max()), _FAR / frames.max())
        for row, at in enumerate(batch):
            normal = (mels[at] - mean) * scale
            distance = (means[at] ** 2).sum(axis=1)[:, None] - 2 * means[at] @ normal.T
            cost[row, : symbols[row], : frames[row]] = distance
        durations = monotonic_durations(cost, symbols, frames)
        for row, at in enumerate(batch):
            found[at] = durations[row, : symbols[row]]
    return found


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for start in range(0, len(order), _BATCH):
        yield order[start : start + _BATCH]
