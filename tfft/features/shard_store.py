"""Shards of features in the cache: which rows they hold, which are missing, and how they become one entry.

Implementation notes: each shard is an entry of its own in the folder ``KEY.shards`` of the cache, where KEY is the key
of all features. Nothing but that folder is shared, so shards can be computed in any order, at the same time, and again.
Whoever needs all features joins them; entries are put in place atomically, so two processes may do so at once.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfft.arrays.npy_files import Item
from tfft.arrays.ragged import Ragged, Rows
from tfft.arrays.store import EntryWriter, entries, read_entry, read_manifest, shards_of
from tfft.errors import DataError
from tfft.features.cache import REMEDY, WHAT

_ROWS = 4096  # rows that are copied at a time


def shard_rows(examples: int, batch_size: int, number: int, count: int) -> range:
    """Return the examples of a shard: whole batches, so that features are those of an undivided pass, bit for bit.

    Args:
        examples: Number of examples, views included.
        batch_size: Examples per batch.
        number: Number of the shard, from 1.
        count: Number of shards.
    """
    batches = -(-examples // batch_size)
    start, stop = (batch_size * (batches * n // count) for n in (number - 1, number))
    return range(min(start, examples), min(stop, examples))


def shard_key(key: str, number: int, count: int) -> str:
    """Return the key of the entry of a shard."""
    return hashlib.sha256(f"{key} shard {number} of {count}".encode()).hexdigest()


def missing_shards(root: Path, key: str, examples: int, batch_size: int, count: int) -> tuple[int, ...]:
    """Return the numbers of the shards that are not in the cache.

    Args:
        root: Folder of the cache.
        key: Key of all features.
        examples: Number of examples, views included.
        batch_size: Examples per batch.
        count: Number of shards.
    """
    folder = shards_of(root, key)
    wanted = [n for n in range(1, count + 1) if shard_rows(examples, batch_size, n, count)]
    return tuple(n for n in wanted if read_manifest(folder / shard_key(key, n, count)) is None)


def join_shards(root: Path, key: str, examples: int) -> str:
    """Make one entry of the shards of some features, if all are there, and remove them.

    Args:
        root: Folder of the cache.
        key: Key of all features.
        examples: Number of examples, views included.

    Returns:
        Why there is no entry, in a sentence; an empty string if there is one, or if there are no shards.

    Raises:
        OSError: If the folder is not writable.
        CacheFullError: If the disk has too little space.
    """
    folder = shards_of(root, key)
    found: dict[int, dict[int, Mapping[str, Any]]] = {}
    for path in entries(folder):
        if (manifest := read_manifest(path)) is not None:
            number, count = manifest["about"]["shard"]
            found.setdefault(count, {})[number] = manifest["about"]
    if not found:
        return ""
    for count, shards in found.items():
        if _cover([shards[number]["rows"] for number in sorted(shards)], examples):
            return _joined(root, key, count, sorted(shards), examples)
    count, shards = max(found.items(), key=lambda item: len(item[1]))
    return f"{len(shards)} of {count} shards are in {folder}. Compute the others with shard=(NUMBER, {count})."


def _cover(rows: Sequence[tuple[int, int]], examples: int) -> bool:
    """Whether shards in order hold every example once; with other batch sizes, they would overlap or leave gaps."""
    return [start for start, _ in rows] + [examples] == [0] + [stop for _, stop in rows]


def _joined(root: Path, key: str, count: int, numbers: Sequence[int], examples: int) -> str:
    folder = shards_of(root, key)
    opened = []
    for number in numbers:
        read = read_entry(folder, shard_key(key, number, count))
        if isinstance(read, str):
            shutil.rmtree(folder / shard_key(key, number, count), ignore_errors=True)
            return f"shard {number} of {count} is damaged ({read or 'it is gone'}). Compute it again."
        opened.append(read)
    first = opened[0][0]
    items: list[Item] = [(array.shape[1:], array.dtype) for array in first]
    if any([(a.shape[1:], a.dtype) for a in arrays] != items for arrays, _ in opened):
        raise DataError(f"The shards in {folder} have features of different shapes. Remove the folder and start again.")
    lengths = [float(a.lengths.mean()) for a in first if isinstance(a, Ragged)]
    with EntryWriter(root, key, WHAT, REMEDY) as writer:
        writer.start(examples, items, lengths[0] if lengths else 1.0)
        for arrays, _ in opened:
            for start in range(0, len(arrays[0]), _ROWS):
                writer.append([_rows(array, start, start + _ROWS) for array in arrays])
        about = dict(opened[0][1])
        del about["shard"], about["rows"]
        about["seconds"] = sum(each["seconds"] for _, each in opened)
        about["notes"] = list(dict.fromkeys(note for _, each in opened for note in each["notes"]))
        writer.commit(about)
    shutil.rmtree(folder, ignore_errors=True)
    return ""


def _rows(array: Rows, start: int, stop: int) -> Rows:
    if not isinstance(array, Ragged):
        return array[start:stop]
    offsets = array.offsets[start : min(stop, len(array)) + 1]
    return Ragged(array.values[offsets[0] : offsets[-1]], offsets - offsets[0], array.fill)
