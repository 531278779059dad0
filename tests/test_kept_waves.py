"""Waves that are too many for memory: the same floats from a file, found again, made again where it is damaged."""

import csv
import os
import pathlib

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from test_recipes import backbone
from test_recordings import RATE, TONES, tone, write

import tfft
from tfft import cli
from tfft.arrays import store
from tfft.data import BatchOptions, fold_splits
from tfft.errors import DataError
from tfft.modalities.audio import decode, from_waves, load_recording_table, load_recordings, waveform_store
from tfft.modalities.audio.batches import wave_views
from tfft.modalities.audio.decode import recording_facts
from tfft.modalities.audio.waveform_store import WaveformArray
from tfft.specs import Augmentation


def waves_of(splits):
    return splits.train.waves, splits.validation.waves


def facts_of(splits):
    return splits.train.facts + splits.validation.facts


QUICK = {"export_to": False, "verbose": False, "unfreeze": 1, "epochs": 2, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Recordings of two rates, two formats, one and two channels, and a table of them with two labels for one file."""
    root = tmp_path_factory.mktemp("kept") / "data"
    rows = []
    for name, frequency in TONES.items():
        for i in range(12):
            rate = 16000 if i % 4 == 1 else RATE
            samples = tone(frequency * (1 + 0.02 * (i % 5)), 0.35 + 0.02 * i, rate, seed=i)
            path = root / name / f"{i}_speaker{i // 3}.{'flac' if i == 2 else 'wav'}"
            if i == 2:
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, samples, rate)
            else:
                write(path, samples, rate, channels=1 + i % 2)
            rows.append({"file": f"data/{path.relative_to(root)}", "word": name})
    with open(root.parent / "clips.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "word"])
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """No wave stays in memory; tfft's cache is a folder of this test."""
    monkeypatch.setattr(waveform_store, "LIMIT", 0)
    monkeypatch.setenv("TFFT_CACHE_DIR", str(tmp_path / "cache"))


def opened(monkeypatch):
    """Returns a list that the path of every recording is added to when it is opened as a sound."""
    found = []
    decoded = decode._decoded
    monkeypatch.setattr(decode, "_decoded", lambda path, data: found.append(str(path)) or decoded(path, data))
    return found


def arrays_of(splits):
    return [np.asarray(waves) for waves in waves_of(splits)]


def batches(dataset):
    return [(x.numpy(), y.numpy()) for x, y in dataset]


def assert_same(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.nightly
@pytest.mark.parametrize("kept", [True, False])
def test_a_file_gives_the_floats_and_the_order_that_memory_gives(kept, place, tmp_path, monkeypatch):
    held = load_recordings(place)
    monkeypatch.setattr(waveform_store, "LIMIT", 0)
    monkeypatch.setattr("tfft.arrays.spill.LIMIT", 0)
    filed = load_recordings(place, store=tmp_path / "files.sqlite" if kept else None)
    for array, waves in zip(arrays_of(held), waves_of(filed), strict=True):
        assert isinstance(waves, WaveformArray)
        assert (waves.shape, len(waves), waves.nbytes) == (array.shape, len(array), array.nbytes)
        for at in (slice(1, 4), np.array([3, 0, 3]), -1, np.arange(0)):
            np.testing.assert_array_equal(waves[at], array[at])
        np.testing.assert_array_equal(list(waves), array)
    assert (tmp_path / "waves").is_dir() == kept
    np.save(tmp_path / "own.npy", arrays_of(held)[0])
    own = from_waves(np.load(tmp_path / "own.npy", mmap_mode="r"), held.train.labels, held.train.spec)
    assert_same(batches(own), batches(from_waves(held.train.waves, held.train.labels, held.train.spec)))
    for how in ({}, {"augment": ["shift", "mask"], "views": 3}, {"sampling": "balanced"}):
        for epoch in range(2):
            passes = [
                from_waves(
                    splits.train.waves, splits.train.labels, splits.train.spec, shuffle=True, seed=3, batch_size=5,
                    epoch=tf.Variable(epoch, dtype=tf.int64), **how,
                )
                for splits in (held, filed)
            ]  # fmt: skip
            assert passes[0].cardinality() == passes[1].cardinality()
            assert passes[0].element_spec == passes[1].element_spec
            assert_same(*map(batches, passes))
            assert_same(batches(passes[0])[2:], batches(passes[1].skip(2)))  # as a run that resumes
    changes = Augmentation(shift=0.1, mask=0.2)
    views = [
        wave_views(s.validation.waves, s.validation.labels, s.train.spec, changes, 2, BatchOptions(4))
        for s in (held, filed)
    ]
    assert_same(*map(batches, views))


def test_what_was_read_is_known_to_the_next_run(place, tmp_path, monkeypatch):
    monkeypatch.setattr(waveform_store, "LIMIT", 0)
    how = {"store": tmp_path / "files.sqlite", "seconds": 0.4}
    first, seen = load_recordings(place, **how), opened(monkeypatch)
    wanted = arrays_of(first)
    assert len(seen) == 24  # waves are made of files; facts were read before
    seen.clear()
    told = []
    again = load_recordings(place, **how, progress=lambda done, count: told.append((done, count)))
    assert facts_of(again) == facts_of(first)
    for a, b in zip(wanted, arrays_of(again), strict=True):
        np.testing.assert_array_equal(a, b)
    other = load_recordings(place, **how, seed=5, validation=0.4)  # another split of the same files
    by_path = dict(zip((one.path for one in facts_of(first)), np.concatenate(wanted), strict=True))
    for one, row in zip(facts_of(other), np.concatenate(arrays_of(other)), strict=True):
        np.testing.assert_array_equal(row, by_path[one.path])
    table = load_recording_table(place.parent / "clips.csv", audio="file", label="word", **how)
    assert sum(map(len, arrays_of(table))) == 24
    assert (seen, told) == ([], [(24, 24)])
    assert len(list((tmp_path / "waves").iterdir())) == 1
    extra = place.parent / "more"
    for name in TONES:
        for i in range(3):
            write(extra / name / f"{i}.wav", tone(TONES[name], seed=i))
    seen.clear()
    every = sorted(map(str, [*place.rglob("*.*"), *extra.rglob("*.wav")]))
    assert [one.path for one in recording_facts(every, store=how["store"])] == every
    assert sorted(seen) == sorted(map(str, extra.rglob("*.wav")))  # the new ones only


def test_bytes_behind_the_same_path_size_and_time_are_not_looked_at_again(place, tmp_path, monkeypatch):
    """A second run takes the file's word that nothing changed, so what is behind it does not matter."""
    monkeypatch.setattr(waveform_store, "LIMIT", 0)
    root = tmp_path / "data"
    for name in TONES:
        for i in range(3):
            write(root / name / f"{i}.wav", tone(TONES[name], seed=i))
    store = tmp_path / "files.sqlite"
    first = load_recordings(root, store=store)
    wanted, stats = arrays_of(first), {path: os.stat(path) for path in map(str, root.rglob("*.wav"))}
    plain = os.stat
    for path in stats:
        size = len(pathlib.Path(path).read_bytes())
        pathlib.Path(path).write_bytes(b"\0" * size)  # nothing that could be decoded
    monkeypatch.setattr(os, "stat", lambda path, **how: stats.get(str(path)) or plain(path, **how))
    again = load_recordings(root, store=store)
    for a, b in zip(wanted, arrays_of(again), strict=True):
        np.testing.assert_array_equal(a, b)
    monkeypatch.undo()
    with pytest.raises(DataError, match="has no usable recording"):
        load_recordings(root, store=store)


def test_a_check_reads_facts_only_and_once(place, on_disk, tmp_path, monkeypatch):
    seen = opened(monkeypatch)
    first = tfft.check(place)
    assert len(seen) == 24
    second = tfft.check(place)
    assert len(seen) == 24
    assert (second.findings, second.counts) == (first.findings, first.counts)
    assert tfft.check(place.parent / "clips.csv", audio="file", label="word").findings
    assert len(seen) == 24
    assert not (tmp_path / "cache" / "waves").exists()


DAMAGE = {
    "cut short": lambda e: os.truncate(e / "features_0.bin", 1000),
    "a bit": lambda e: flip(e / "features_0.bin"),
    "gone": lambda e: (e / "features_0.bin").unlink(),
    "manifest": lambda e: (e / store.MANIFEST).write_text("{"),
}


def flip(path):
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_waves_are_made_again(damage, place, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(waveform_store, "LIMIT", 0)
    store = tmp_path / "files.sqlite"
    wanted = arrays_of(load_recordings(place, store=store))
    [entry] = (tmp_path / "waves").iterdir()
    DAMAGE[damage](entry)
    seen = opened(monkeypatch)
    for _ in range(2):
        for a, b in zip(wanted, arrays_of(load_recordings(place, store=store)), strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(seen) == 24
    assert "were computed again" in caplog.text
    assert list((tmp_path / "waves").iterdir()) == [entry]


def test_a_disk_without_room_or_rights_is_told(place, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(waveform_store, "LIMIT", 0)
    (tmp_path / "waves").write_text("no folder")
    splits = load_recordings(place, store=tmp_path / "files.sqlite")
    assert len(splits.train.waves[:3]) == 3
    assert "Waveforms are not stored" in caplog.text
    monkeypatch.setattr(store, "SPARE", 2**60)
    with pytest.raises(DataError, match=r"no room for the waveforms of the recordings: they need .* TFFT_CACHE_DIR"):
        _ = waves_of(load_recordings(place, store=tmp_path / "other" / "files.sqlite"))
    assert list((tmp_path / "other" / "waves").iterdir()) == []
    monkeypatch.setattr(waveform_store, "SPARE", 2**60)
    with pytest.raises(DataError, match="no room for the waveforms of the recordings"):
        _ = waves_of(load_recordings(place))


@pytest.mark.parametrize("limit", [0, 2**29])
def test_a_file_that_changes_after_it_was_read_is_named(limit, tmp_path, monkeypatch):
    monkeypatch.setattr(waveform_store, "LIMIT", limit)
    for name in TONES:
        for i in range(3):
            write(tmp_path / "data" / name / f"{i}.wav", tone(TONES[name], seed=i))
    splits = load_recordings(tmp_path / "data")
    write(tmp_path / "data" / "low" / "1.wav", tone(500))
    with pytest.raises(DataError, match=r"low/1.wav was changed .* it has other samples"):
        _ = waves_of(splits)
    (tmp_path / "data" / "low" / "1.wav").unlink()
    with pytest.raises(DataError, match=r"low/1.wav was changed .* it cannot be read: No such file"):
        _ = waves_of(splits)


def test_folds_share_one_file(place, tmp_path, monkeypatch):
    held = load_recordings(place)
    own = dict(zip((f.path for f in facts_of(held)), np.concatenate(waves_of(held)), strict=True))
    monkeypatch.setattr(waveform_store, "LIMIT", 0)
    splits, seen = load_recordings(place, store=tmp_path / "files.sqlite"), opened(monkeypatch)
    for fold in fold_splits(splits, 3):
        for part, waves in zip((fold.train, fold.validation), waves_of(fold), strict=True):
            assert isinstance(waves, WaveformArray)
            np.testing.assert_array_equal(np.asarray(waves), np.stack([own[path] for path in part.paths]))
        whole = fold.train.join(fold.validation).waves
        np.testing.assert_array_equal(np.asarray(whole), np.concatenate(waves_of(fold)))
    assert len(seen) == 24


@pytest.mark.nightly
def test_features_are_the_same_from_a_file(place, tmp_path, monkeypatch):
    held = load_recordings(place)
    monkeypatch.setattr(waveform_store, "LIMIT", 0)
    filed = load_recordings(place)
    model = tfft.build(backbone(), tfft.heads.classification(held.class_names), audio=held.train.spec)
    prefix, _ = tfft.features.split_frozen(model)
    for extra in ({}, {"augment": "shift", "views": 2}):
        first, second = (
            tfft.features.extract(
                prefix, (splits.train.waves, splits.train.labels), cache=tmp_path / "cache", verbose=False, **extra
            )
            for splits in (held, filed)
        )
        assert (first.cached, second.cached) == (False, True)  # the same examples, wherever they are
    alone = tfft.features.extract(prefix, filed.train.waves, cache=None, verbose=False)
    np.testing.assert_array_equal(alone.arrays, first.arrays[: len(alone)])


@pytest.mark.nightly
def test_training_from_a_file_is_training_from_memory(place, on_disk, tmp_path, monkeypatch, capsys):
    how = QUICK | {"augment": ["shift", "mask"], "views": 2, "group": r"(speaker\d)", "cache": None}
    run = tfft.finetune(backbone(), place, out=tmp_path / "run", **how)
    [entry] = tfft.features.list_caches()
    assert (entry.model, entry.examples, entry.folder.parent) == (
        "waveforms of the recordings",
        24,
        tmp_path / "cache/waves",
    )
    monkeypatch.setattr(waveform_store, "LIMIT", 2**29)
    plain = tfft.finetune(backbone(), place, **how)
    losses = [[row["loss"] for row in each.history.rows] for each in (run, plain)]
    assert len(losses[0]) > 1
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    monkeypatch.setattr(waveform_store, "LIMIT", 0)
    seen = opened(monkeypatch)
    assert cli.main(["evaluate", str(tmp_path / "run"), str(place)]) == 0
    assert f"{run.final_scores.accuracy:.4f}" in capsys.readouterr().out
    assert seen == []  # what the training read is found again
    elsewhere = tmp_path / "elsewhere"
    for name in TONES:
        for i in range(3):
            write(elsewhere / name / f"{i}.wav", tone(TONES[name], seed=20 + i))
    assert cli.main(["evaluate", str(tmp_path / "run"), str(elsewhere), "--json"]) == 0
    assert '"examples": 6' in capsys.readouterr().out
    assert tfft.features.clear_caches() > entry.bytes
    assert list((tmp_path / "cache" / "waves").iterdir()) == []


@pytest.mark.nightly
def test_tables_are_learned_from_a_file(place, on_disk, tmp_path, capsys):
    table = place.parent / "clips.csv"
    how = {"audio": "file", "label": "word", "plan": "linear_probe", "verbose": False}
    run = tfft.finetune(backbone(), table, out=tmp_path / "run", augment="shift", export_to=False, **how)
    assert run.final_scores.accuracy > run.final_scores.majority_baseline
    assert cli.main(["evaluate", str(tmp_path / "run"), str(table)]) == 0
    assert f"{run.final_scores.accuracy:.4f}" in capsys.readouterr().out
    other = place.parent / "copy.csv"
    other.write_text(table.read_text())
    assert cli.main(["evaluate", str(tmp_path / "run"), str(other), "--json"]) == 0
    assert '"examples": 24' in capsys.readouterr().out
    folds = tfft.cross_validate(backbone(), table, folds=3, cache="memory", **how)
    assert sum(row.final_scores.examples for row in folds.rows) == 24
