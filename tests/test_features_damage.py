"""Features on disk that are damaged, half written, or written by several: made again or refused, never wrong."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from test_features_cache import IMAGES, LABELS, entry_of, get, network

from tfft import features
from tfft.arrays import store as caches
from tfft.errors import DataError


@pytest.fixture(scope="module")
def model():
    return network()


def flip(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGE = {
    "bit flipped in the data": lambda e: flip(e / "features_0.bin"),
    "truncated": lambda e: os.truncate(e / "features_0.bin", 100),
    "longer": lambda e: (e / "features_0.bin").write_bytes((e / "features_0.bin").read_bytes() + b"\0" * 48),
    "data gone": lambda e: (e / "features_0.bin").unlink(),
    "manifest gone": lambda e: (e / caches.MANIFEST).unlink(),
    "manifest empty": lambda e: (e / caches.MANIFEST).write_text(""),
    "manifest of another make": lambda e: (e / caches.MANIFEST).write_text('{"features": []}'),
    "bit flipped in the manifest": lambda e: flip(e / caches.MANIFEST),
    "another shape": lambda e: edit(e, "12, 12", "6, 24"),
    "all gone": lambda e: [path.unlink() for path in e.iterdir()],
}


def edit(entry: pathlib.Path, old: str, new: str) -> None:
    path = entry / caches.MANIFEST
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.representative("truncated", "bit flipped in the manifest")
@pytest.mark.daily("bit flipped in the data")
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_made_again(model, damage, tmp_path):
    first = get(model, cache=tmp_path)
    expected = np.array(first.arrays)
    damage(entry_of(tmp_path))
    again = get(model, cache=tmp_path)
    assert not again.cached
    assert "not used but computed again" in again.notes[0]
    np.testing.assert_array_equal(again.arrays, expected)
    assert get(model, cache=tmp_path).cached
    assert [path.name for path in tmp_path.iterdir()] == [entry_of(tmp_path).name]


@pytest.mark.slow
def test_an_entry_of_another_key_is_not_used(model, tmp_path):
    get(model, cache=tmp_path)
    mine = entry_of(tmp_path)
    shutil.move(mine, tmp_path / "aside")
    get(model, (IMAGES[::-1].copy(), LABELS), cache=tmp_path)
    others = next(path for path in tmp_path.iterdir() if path.name not in ("aside", mine.name))
    shutil.move(others, mine)
    assert not get(model, cache=tmp_path).cached


@pytest.mark.slow
def test_readers_keep_what_they_have(model, tmp_path):
    found = get(model, cache=tmp_path)
    expected = np.array(found.arrays)
    assert features.clear_caches(tmp_path) > 0
    get(model, (IMAGES[::-1].copy(), LABELS), cache=tmp_path)
    np.testing.assert_array_equal(found.arrays, expected)


@pytest.mark.daily("28-data", "5-manifest")
@pytest.mark.parametrize("place", ["data", "manifest"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails_leaves_nothing(model, tmp_path, monkeypatch, code, place):
    write = os.write

    def failing(descriptor, data):
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        if target.startswith(str(tmp_path)) and ("manifest" in target) == (place == "manifest"):
            if place == "data" and os.fstat(descriptor).st_size < 100:
                return write(descriptor, data[:100])  # the disk takes a part
            raise OSError(code, os.strerror(code))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(OSError if code == errno.EIO else DataError, match="no room|Input/output"):
        get(model, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert not get(model, cache=tmp_path).cached
    assert get(model, cache=tmp_path).cached


@pytest.mark.slow
def test_a_full_disk_is_told_before_writing(model, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 100, 100))
    with pytest.raises(DataError, match=r"no room for the features: they need 0\.0 MB, and 0\.0 MB are free.*float16"):
        get(model, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("TFFT_CACHE_DIR", str(tmp_path / "auto"))
    found = get(model)  # "auto" goes on without
    assert "not cached on disk. The disk" in found.notes[0]
    np.testing.assert_allclose(found.arrays, model(IMAGES), atol=1e-5)


def test_a_folder_that_cannot_be_made(model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be cached: .*cannot be written"):
        get(model, cache=tmp_path / "file")
    monkeypatch.setenv("TFFT_CACHE_DIR", str(tmp_path / "file"))
    assert "not cached on disk" in get(model).notes[0]


SLOW_WRITER = """
import os, sys, time
import numpy as np
sys.path.insert(0, {tests!r})
import test_features_cache as here
write = os.write
def slow(descriptor, data):
    if "features_0" in os.readlink(f"/proc/self/fd/{{descriptor}}"):
        written = write(descriptor, data[: len(data) // 2])
        print("half", flush=True)
        time.sleep(120)
    return write(descriptor, data)
os.write = slow
here.get(here.network(), cache={folder!r})
"""


@pytest.mark.nightly
@pytest.mark.process
def test_killed_while_writing(model, tmp_path):
    script = SLOW_WRITER.format(tests=str(pathlib.Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "half\n"
        (aside,) = tmp_path.iterdir()
        assert aside.suffix == ".tmp"
        assert 0 < (aside / "features_0.bin").stat().st_size < 12 * 12 * 4
        os.utime(aside, (1, 1))
        caches.sweep(tmp_path)
        assert features.clear_caches(tmp_path) == 0
        assert aside.exists()  # its writer is at work
        assert not get(model, (IMAGES[::2], LABELS[::2]), cache=tmp_path).cached
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert features.list_caches(tmp_path)[0].examples == 6
    os.utime(aside, (1, 1))
    found = get(model, cache=tmp_path)
    assert not found.cached
    np.testing.assert_allclose(found.arrays, model(IMAGES), atol=1e-5)
    assert not aside.exists()
    assert get(model, cache=tmp_path).cached


def test_two_writers_of_the_same_entry(model, tmp_path):
    key = "0" * 64
    writers = [caches.EntryWriter(tmp_path, key) for _ in range(2)]
    for writer in writers:
        with writer:
            writer.start(2, [((3,), np.dtype(np.float32))])
            writer.append([np.ones((2, 3), np.float32)])
            writer.commit({"engine": "tensorflow"})
    (arrays, about) = caches.read_entry(tmp_path, key)
    np.testing.assert_array_equal(arrays[0], np.ones((2, 3)))
    assert about == {"engine": "tensorflow"}
    assert [path.name for path in tmp_path.iterdir()] == [key]


@pytest.mark.slow
def test_many_at_once(model, tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(get(model, cache=tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for each in found:
        np.testing.assert_allclose(each.arrays, found[0].arrays, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == [entry_of(tmp_path).name]
