"""Tables of recordings: classes, several labels, numbers; groups, folds, faults; the recipe and the command line."""

import csv
import json

import numpy as np
import pytest
from faulty_data import finding_of
from test_recipes import backbone
from test_recordings import RATE, TONES, tone, write

import tfft
from tfft import cli
from tfft.data import fold_splits
from tfft.errors import DataError, PlanError
from tfft.modalities.audio import load_recording_table


def waves_of(splits):
    return splits.train.waves, splits.validation.waves


def facts_of(splits):
    return splits.train.facts + splits.validation.facts


QUICK = {"export_to": False, "cache": "memory", "verbose": False, "plan": "linear_probe"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """High and low tones, short and long ones, of six speakers."""
    root = tmp_path_factory.mktemp("clips")
    rows = []
    for i in range(48):
        word, seconds = ("low", "high")[i % 2], 0.3 + 0.2 * (i % 4 > 1)
        write(root / "files" / f"{i}.wav", tone(TONES[word] * (1 + 0.01 * (i // 8)), seconds, seed=i))
        tags = [name for name, on in ((word, word == "low"), ("long", seconds > 0.4)) if on] or ["none"]
        rows.append({"file": f"files/{i}.wav", "word": word, "tags": "|".join(tags),
                     "seconds": f"{seconds:.2f}5", "speaker": f"s{i // 8}"})  # fmt: skip
    with open(root / "clips.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (root / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def test_a_table_is_read_and_split(place):
    splits = load_recording_table(place / "clips.csv", audio="file", label="word", group="speaker", validation=0.25)
    assert (splits.task, splits.class_names) == ("classification", ("high", "low"))
    speakers = [{int(name.split("/")[1][:-4]) // 8 for name in names} for names in splits.items.values()]
    assert not speakers[0] & speakers[1]
    assert [len(waves) for waves in waves_of(splits)] == [len(splits.train), len(splits.validation)]
    every = [*splits.train.paths, *splits.validation.paths]
    assert [one.path for one in facts_of(splits)] == every
    labels, waves = np.concatenate([splits.train.labels, splits.validation.labels]), np.concatenate(waves_of(splits))
    heard = np.fft.rfftfreq(waves.shape[1], 1 / RATE)[np.abs(np.fft.rfft(waves)).argmax(axis=1)]
    np.testing.assert_array_equal(heard < 1000, labels == 1)  # each wave has its own label
    same = load_recording_table(place / "clips.jsonl", audio="file", label="word", group="speaker", validation=0.25)
    assert same.items == splits.items
    tags = load_recording_table(place / "clips.csv", audio="file", label="tags", separator="|")
    assert (tags.task, tags.train.labels.shape[1]) == ("multilabel", 3)


def test_folds_hold_each_recording_out_once_with_its_wave(place):
    splits = load_recording_table(place / "clips.csv", audio="file", label="word", group="speaker")
    own = dict(zip((f.path for f in facts_of(splits)), np.concatenate(waves_of(splits)), strict=True))
    held = []
    for fold in fold_splits(splits, 3):
        for part, waves in zip((fold.train, fold.validation), waves_of(fold), strict=True):
            assert all((own[path] == wave).all() for path, wave in zip(part.paths, waves, strict=True))
        held += fold.validation.paths
        assert not set(fold.groups[: len(fold.train)]) & set(fold.groups[len(fold.train) :])
    assert sorted(held) == sorted(own)


def test_every_row_that_cannot_be_used_is_named(place, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"")
    rows = ["audio,label", *(f"{place}/files/{i}.wav,{'ab'[i % 2]}" for i in range(4))]
    rows += ["gone.wav,a", "bad.wav,b", ",a", f"{place}/files/4.wav,"]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(rows))
    splits = load_recording_table(path)
    told = {item.path.rpartition(":")[2]: item.reason for item in splits.skipped}
    assert set(told) == {"6", "7", "8", "9"}
    assert "gone.wav, which cannot be read" in told["6"]
    assert "bad.wav, which is empty" in told["7"]
    assert told["8"] == "has no path"
    with pytest.raises(DataError, match="Unusable rows of"):
        load_recording_table(path, strict=True)
    with pytest.raises(DataError, match=r"no column 'file' \(audio=\).*It has: 'audio', 'label'"):
        load_recording_table(path, audio="file")
    report = tfft.check(path, audio="audio")
    assert len(finding_of(report, "unusable").items) == 4
    assert "Did you mean 'label'" in str(tfft.check(path, audio="audio", label="lable"))
    for call in (lambda: tfft.finetune(backbone(), path, audio="audio", image="audio"),):
        with pytest.raises(PlanError, match="image and audio each name the input column: give one of them"):
            call()
    with pytest.raises(DataError, match="image and audio each name"):
        tfft.check(path, audio="audio", image="audio")


@pytest.mark.nightly
def test_classes_several_labels_and_numbers_are_learned(place, tmp_path, capsys):
    table = place / "clips.csv"
    run = tfft.finetune(backbone(), table, audio="file", label="word", out=tmp_path / "run", **QUICK)
    assert run.final_scores.accuracy > run.final_scores.majority_baseline
    assert (run.plan.audio, run.plan.label) == ("file", "word")
    for label, separator, task in (("tags", "|", "multilabel"), ("seconds", None, "regression")):
        found = tfft.finetune(
            backbone(), table, audio="file", label=label, separator=separator, out=tmp_path / task, **QUICK
        )
        assert (found.plan.task, found.final_scores.task) == (task, task)
        assert cli.main(["evaluate", str(tmp_path / task), str(place / "clips.jsonl")]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "run"), str(table)]) == 0
    assert f"{run.final_scores.accuracy:.4f}" in capsys.readouterr().out
    plan = tmp_path / "run" / "plan.yaml"
    again = tfft.recipes.rerun(plan, backbone=backbone(), verbose=False, export_to=False, cache="memory")
    assert again.final_scores.to_dict() == run.final_scores.to_dict()
    folds = tfft.cross_validate(
        backbone(), table, audio="file", label="word", group="speaker", folds=3, verbose=False, cache="memory",
        plan="linear_probe",
    )  # fmt: skip
    assert sum(row.final_scores.examples for row in folds.rows) == 48


@pytest.mark.nightly
def test_the_command_line(place, tmp_path, capsys):
    backbone().model.save(tmp_path / "tiny.keras")
    command = ["train", str(place / "clips.csv"), "--audio", "file", "--label", "word", "--group", "speaker"]
    command += ["--backbone", str(tmp_path / "tiny.keras"), "--plan", "linear_probe"]
    assert cli.main([*command, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "split.csv").is_file()
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "run"), str(place / "clips.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 48
    assert cli.main(["predict", str(tmp_path / "run"), str(place / "files" / "0.wav"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["label"] in ("high", "low")
    assert cli.main(["check", str(place / "clips.csv"), "--audio", "file", "--label", "word"]) == 0
