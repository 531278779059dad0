"""CheckpointConfig on a real disk: killed writers, full disks, flipped bits, hostile manifests."""

import hashlib
import json
import os
import resource
import signal
import warnings

import ml_dtypes
import numpy as np
import pytest

from tfft.training.checkpoint.store import CheckpointError, CheckpointStore

ARRAYS = {
    "kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.array([1.5, -2, 3], np.float16),
    "brain": np.array([[1.5], [3e38]], ml_dtypes.bfloat16),
    "flags": np.array([True, False]),
    "seed": np.array([2**32 - 1, 7], np.uint32),
    "steps": np.array(-5, np.int64),
    "nothing": np.zeros((0, 3), np.float32),
    "swapped": np.arange(3, dtype=">f8"),
    "strided": np.arange(12, dtype=np.int16).reshape(3, 4)[:, ::2],
}
STATE = {"epoch": 3, "best": float("inf"), "names": ["a", "ä"], "none": None}


def in_child(work):
    """Runs work in a process of its own, which is gone afterwards whatever happens; returns its status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child only writes files
        child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def files_of(folder):
    return sorted(path for path in folder.iterdir() if path.is_file())


def rewritten(folder, change, text=None):
    """Changes a manifest and gives it the right hash, as somebody would who means harm."""

    def dump(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    content = json.loads((folder / "manifest.json").read_bytes())["content"]
    change(content)
    (folder / "manifest.json").write_bytes(
        dump({"content": content, "sha256": hashlib.sha256(dump(content)).hexdigest()})
    )


def test_what_is_saved_comes_back_with_type_shape_and_every_bit(tmp_path):
    path = CheckpointStore(tmp_path / "c").save(ARRAYS, STATE)
    found = CheckpointStore(tmp_path / "c").load()
    assert found.name == path.name == "checkpoint-000001"
    assert found.state == STATE
    assert list(found.arrays) == list(ARRAYS)
    for name, wanted in ARRAYS.items():
        got = found.arrays[name]
        assert got.dtype == wanted.dtype.newbyteorder("=")
        assert got.shape == wanted.shape
        assert got.tobytes() == wanted.astype(got.dtype).tobytes()


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert CheckpointStore(tmp_path / "none").load() is None
    assert not (tmp_path / "none").exists()


def test_the_newest_are_kept_with_the_base_that_they_need(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    store.save({}, {"n": 1}, base=True)
    for n in range(2, 6):
        store.save({}, {"n": n})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".lock",
        "base-000001",
        *(f"checkpoint-00000{n}" for n in (4, 5)),
    ]
    found = CheckpointStore(tmp_path).load()
    assert (found.state, found.base.state, found.is_base) == ({"n": 5}, {"n": 1}, False)
    store.save({}, {"n": 6}, base=True)
    assert CheckpointStore(tmp_path).load().is_base
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "base-000001", "base-000006", "checkpoint-000005"]


def test_any_flipped_bit_is_noticed_and_the_one_before_is_used(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save({"w": np.zeros(5)}, {"n": 1})
    newest = store.save(ARRAYS, STATE)
    random, tried = np.random.default_rng(0), 0
    for path in files_of(newest):
        whole = path.read_bytes()
        for position in random.permutation(len(whole))[:150]:
            flipped = bytearray(whole)
            flipped[position] ^= 1 << random.integers(8)
            path.write_bytes(flipped)
            found, tried = store.load(), tried + 1
            assert found.state == {"n": 1}, (path.name, position)
            assert newest.name in store.notes[0]
        path.write_bytes(whole)
    assert tried > 300
    assert store.load().state == STATE


@pytest.mark.parametrize("fault", ["cut", "longer", "empty", "missing"])
@pytest.mark.parametrize("name", ["arrays.bin", "state.json", "manifest.json"])
def test_a_file_that_is_cut_grown_or_gone_is_noticed(tmp_path, name, fault):
    store = CheckpointStore(tmp_path)
    store.save({}, {"n": 1})
    path = store.save(ARRAYS, STATE) / name
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-1], "longer": whole + b"\0", "empty": b"", "missing": b""}[fault])
    if fault == "missing":
        path.unlink()
    assert store.load().state == {"n": 1}
    assert "was skipped" in store.notes[0]


def test_a_checkpoint_without_its_base_is_passed_over(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save({}, {"n": 1}, base=True)
    base = store.save({"w": np.ones(3)}, {"n": 2}, base=True)
    store.save({}, {"n": 3})
    (base / "arrays.bin").write_bytes(bytes(24))
    assert store.load().state == {"n": 1}
    assert "needs base-000002, which cannot be used: arrays.bin is damaged" in store.notes[0]
    store.save({}, {"n": 4})  # belongs to what was loaded, and the damaged ones go
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "base-000001", "checkpoint-000004"]
    assert CheckpointStore(tmp_path).load().base.state == {"n": 1}


def test_foreign_files_and_folders_are_left_alone(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(ARRAYS, STATE)
    newest = store.save(ARRAYS, STATE)
    (newest / ".DS_Store").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / ".checkpoint-mine.tmp").mkdir()
    (tmp_path / "checkpoint-000009").symlink_to(newest)
    assert store.load().name == newest.name
    store.clear()
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == [".checkpoint-mine.tmp", "checkpoint-000009", "checkpoint-best", "notes.txt"]


def test_clearing_removes_an_empty_folder_and_lets_it_be_used_again(tmp_path):
    store = CheckpointStore(tmp_path / "c")
    store.save({}, {})
    store.clear()
    assert not (tmp_path / "c").exists()
    store.save({}, {"n": 2})
    assert store.load().state == {"n": 2}


HOSTILE = {
    "a file elsewhere": lambda c: c["files"].update({"../../secret": c["files"].pop("arrays.bin")}),
    "an absolute file": lambda c: c["files"].update({"/etc/passwd": c["files"].pop("arrays.bin")}),
    "a base elsewhere": lambda c: c.update(base="../base-000001"),
    "an absolute base": lambda c: c.update(base="/tmp/base-000001"),
    "objects": lambda c: c["arrays"][0].update(dtype="object"),
    "a record": lambda c: c["arrays"][0].update(dtype="V4"),
    "no type": lambda c: c["arrays"][0].update(dtype=None),
    "negative": lambda c: c["arrays"][0].update(shape=[-3, -4]),
    "huge": lambda c: c["arrays"][0].update(shape=[2**62, 2**62]),
    "beyond the end": lambda c: c["arrays"][0].update(shape=[3, 5000]),
    "behind the start": lambda c: c["arrays"][0].update(offset=-8),
    "overlapping": lambda c: c["arrays"][1].update(offset=0),
    "another name": lambda c: c.update(name="checkpoint-000007"),
    "another format": lambda c: c.update(format=99),
    "no table": lambda c: c.pop("arrays"),
    "a number for a table": lambda c: c.update(arrays=5),
    "no size": lambda c: c["files"]["state.json"].update(bytes="many"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_manifest_that_means_harm_is_refused(tmp_path, name):
    store = CheckpointStore(tmp_path / "c")
    store.save({}, {"n": 1})
    newest = store.save(ARRAYS, STATE)
    (tmp_path / "secret").write_bytes((newest / "arrays.bin").read_bytes())
    rewritten(newest, lambda content: None)
    assert store.load().state == STATE  # rewriting alone does no harm
    rewritten(newest, HOSTILE[name])
    assert store.load().state == {"n": 1}
    assert "was skipped" in store.notes[0]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_not_a_plain_file_is_refused(tmp_path, kind):
    store = CheckpointStore(tmp_path / "c")
    store.save({}, {"n": 1})
    path = store.save(ARRAYS, STATE) / "arrays.bin"
    path.rename(tmp_path / "moved")
    {"link": lambda: path.symlink_to(tmp_path / "moved"), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    assert store.load().state == {"n": 1}


def test_a_full_disk_leaves_the_last_good_one_and_nothing_half_written(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(ARRAYS, STATE)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
    try:
        with pytest.raises(
            CheckpointError, match=r"the disk is full.*The last good one, checkpoint-000001, is unchanged"
        ):
            store.save({"big": np.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "checkpoint-000001"]
    assert store.load().state == STATE
    store.save({"big": np.zeros(100_000)}, {"n": 2})  # and it goes on when there is room again
    assert store.load().state == {"n": 2}


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Choose a folder"):
        CheckpointStore(tmp_path / "file" / "c").save({}, {})


@pytest.mark.parametrize("value", [np.array(["text"]), np.array([object()]), np.array([(1, 2)], "i4,i4")])
def test_only_numbers_are_kept(tmp_path, value):
    with pytest.raises(CheckpointError, match="only holds numbers"):
        CheckpointStore(tmp_path).save({"x": value}, {})
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_a_state_must_be_plain(tmp_path):
    with pytest.raises(CheckpointError, match="plain values"):
        CheckpointStore(tmp_path).save({}, {"x": object()})
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


@pytest.mark.slow
def test_a_writer_killed_at_any_system_call_leaves_a_good_checkpoint_and_is_swept_up(tmp_path):
    """The child dies at the k-th call that changes the disk, for every k, in its third save."""
    calls = ("fsync", "rename", "mkdir", "unlink", "rmdir", "open")
    states, k = set(), 0
    while True:
        folder = tmp_path / str(k)

        def work(folder=folder, k=k):
            store = CheckpointStore(folder, keep=1)
            store.save({"w": np.full(1000, 1.0)}, {"n": 1})
            store.save({"w": np.full(1000, 2.0)}, {"n": 2})
            left = [k]
            for name in calls:
                setattr(os, name, counted(getattr(os, name), left))
            store.save({"w": np.full(1000, 3.0)}, {"n": 3})

        killed = os.WIFSIGNALED(in_child(work))
        store = CheckpointStore(folder, keep=1)
        found = store.load()
        assert not store.notes
        assert found.arrays["w"][0] == found.state["n"]
        states.add(found.state["n"])
        store.save({}, {"n": 4})
        assert sorted(p.name for p in folder.iterdir() if p.name != ".lock") == [
            f"checkpoint-{found.state['n'] + 1:06d}"
        ]
        if not killed:
            break
        k += 1
    assert states == {2, 3}
    assert k > 8


def counted(function, left):
    def call(*arguments, **named):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return function(*arguments, **named)

    return call


def test_two_processes_do_not_write_to_one_folder(tmp_path):
    CheckpointStore(tmp_path).save({}, {"n": 1})

    def work():
        from tfft.training.checkpoint import store

        store._claimed.clear()  # as in a process that is not forked
        try:
            CheckpointStore(tmp_path).save({}, {"n": 2})
        except CheckpointError as error:
            (tmp_path / "said").write_text(str(error))

    in_child(work)
    assert f"Another process (process ID {os.getpid()}) is writing checkpoints" in (tmp_path / "said").read_text()
    assert CheckpointStore(tmp_path).load().state == {"n": 1}
    CheckpointStore(tmp_path).release()
    in_child(work)
    assert CheckpointStore(tmp_path).load().state == {"n": 2}
