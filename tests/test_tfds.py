"""TensorFlow Datasets as a source: small real datasets become files, and files become runs."""

import json
import os
import pathlib
import subprocess
import sys
import wave

import numpy as np
import pytest
import tensorflow as tf
from faulty_data import finding_of
from test_recipes import backbone

import tfft
from tfft import cli
from tfft.config import RunConfig
from tfft.data.tfds import source as tfds_source
from tfft.data.tfds.file_names import class_folder_names, safe_name
from tfft.data.tfds.source import is_tfds, local_copy
from tfft.errors import DataError, DependencyError
from tfft.io import cache_dir
from tfft.modalities.image.folder import list_images
from tfft.modalities.text import load_texts
from tfft.recipes.labelled import labelled_data
from tfft.recipes.run_data import load_run_data

tfds = pytest.importorskip("tensorflow_datasets")

COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (210, 40, 40)}
QUICK = {"verbose": False, "cache": "memory", "batch_size": 8, "epochs": 2, "learning_rate": 0.01, "l2": 1e-4}
F = tfds.features


@pytest.fixture(autouse=True)
def _own_places(tmp_path_factory, monkeypatch):
    """Neither the user's datasets nor tfft's cache are touched, and no test finds what another has written."""
    place = tmp_path_factory.mktemp("places")
    monkeypatch.setenv("TFFT_CACHE_DIR", str(place / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(place / "datasets"))


def store(features, name="tiny", **splits):
    rows = {split: list(enumerate(rows)) for split, rows in splits.items()}
    place = os.environ["TFDS_DATA_DIR"]
    made = tfds.dataset_builders.store_as_tfds_dataset(name, "1.0.0", F.FeaturesDict(features), rows, data_dir=place)
    return pathlib.Path(made.data_path)


def picture(colour, seed):
    noise = np.random.default_rng(seed).normal(0, 20, (18, 24, 3))
    return np.clip(noise + colour, 0, 255).astype(np.uint8)


def pictures(count, names=tuple(COLOURS), start=0):
    colours = list(COLOURS.values())
    return [{"image": picture(colours[i % 3], start + i), "label": i % len(names)} for i in range(count)]


def squares(names=tuple(COLOURS)):
    return {"image": F.Image(shape=(None, None, 3)), "label": F.ClassLabel(names=list(names))}


def paths(folder, pattern="*/*/*"):
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern))


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pictures_are_written_as_they_are_stored(monkeypatch):
    place = store(squares(), train=pictures(9), test=pictures(3, start=50))
    stored = {bytes(image) for image in _stored(place)}
    calls = []
    copy = local_copy("tfds:tiny", progress=lambda done, count: calls.append((done, count)))
    assert copy.name == "tfds:tiny:1.0.0"
    assert len(list(copy.source.glob("train/*/*.png"))) == 9
    assert len(list(copy.source.glob("test/*/*.png"))) == 3
    assert {path.read_bytes() for path in copy.source.glob("train/*/*.png")} == stored
    assert calls[-1] == (12, 12)
    assert len(calls) == 12
    assert {path.parent.name for path in copy.source.glob("train/*/*")} == set(COLOURS)
    assert all("tiny-train.tfrecord-00000-of-00001__" in path for path in paths(copy.source, "train/*/*"))
    monkeypatch.setattr(tfds_source, "write_examples", lambda *a: pytest.fail("it was there"))
    again = local_copy(place)  # the folder itself is the same data
    assert again.source == copy.source
    assert again.name == str(place)


def _stored(place):
    dataset = tfds.builder_from_directory(place).as_dataset(
        split="train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    return [example["image"] for example in dataset.as_numpy_iterator()]


@pytest.mark.slow
def test_a_copy_that_is_damaged_or_of_other_data_is_made_anew():
    place = store(squares(), train=pictures(6))
    first = local_copy(place).source
    next(first.glob("train/*/*")).unlink()
    assert local_copy(place).source == first
    assert len(list(first.glob("train/*/*"))) == 6
    [shard] = place.glob("*train*")
    os.utime(shard, (1, 1))
    assert local_copy(place).source != first
    assert not [path for path in first.parent.iterdir() if path.name.startswith(".")]  # nothing is left aside


def test_what_fails_half_way_leaves_nothing(monkeypatch):
    place = store(squares(), train=pictures(6))
    monkeypatch.setattr(tfds_source, "free_space", lambda folder: 10)
    with pytest.raises(DataError, match=r"Writing tiny/1\.0\.0 takes about 0 MB, and 0 MB are free .*TFFT_CACHE_DIR"):
        local_copy(place)
    monkeypatch.undo()

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(DataError, match=r"cannot be written to .*: No space left on device"):
        local_copy(place)
    assert list((cache_dir.cache_dir() / "tfds").iterdir()) == []


HOSTILE = ["../../evil", "..", ".", "/tmp/evil", "a/b", "con", ".hidden", "x" * 300, "Ab", "aB", "tail.", "Thumbs.db"]


@pytest.mark.slow
def test_hostile_names_stay_inside(tmp_path):
    rows = [{"image": picture((i, i, i), i), "label": i % len(HOSTILE)} for i in range(2 * len(HOSTILE))]
    copy = local_copy(store(squares(HOSTILE), train=rows))
    folders = [path.name for path in (copy.source / "train").iterdir()]
    assert len(folders) == len({name.casefold() for name in folders}) == len(HOSTILE)
    assert {path.name for path in cache_dir.cache_dir().iterdir()} == {"tfds"}
    examples = list_images(copy.source / "train")
    assert set(examples.counts.values()) == {2}
    splits = tfft.data.load("tfds:tiny", validation=0.5)  # the classes keep their own names
    assert set(splits.class_names) == set(splits.train.class_names) == set(HOSTILE)
    assert splits.class_names[examples.class_names.index("a%2Fb")] == "a/b"
    assert {"a%2Fb", "%2E%2E", "%2F..%2Fevil".replace("%2F..", "%2E.%2F..", 1)} <= set(examples.class_names)
    found = class_folder_names(["n\u00e9", "\ud800", "", "a\0b", "C:\\x", "100%", "a b", "tail "])
    assert found == {
        "n\u00e9": "n\u00e9", "\ud800": "%ED%A0%80", "": "%", "a\0b": "a%00b", "C:\\x": "C%3A%5Cx", "100%": "100%25",
        "a b": "a b", "tail ": "tail%20",
    }  # fmt: skip
    assert len(safe_name("\u00e9" * 200).encode()) < 200
    assert safe_name("\u00e9" * 200) != safe_name("\u00e9" * 201)


@pytest.mark.slow
def test_several_labels_and_numbers_become_tables():
    features = {"image": F.Image(shape=(None, None, 3)), "tags": F.Sequence(F.ClassLabel(names=["round", "big"]))}
    rows = [{"image": picture((i * 9, 9, 9), i), "tags": [[0], [1], [0, 1], []][i % 4]} for i in range(12)]
    copy = local_copy(store(features, train=rows, validation=rows[:4]))
    assert copy.settings["task"] == "multilabel"
    assert [one.reason for one in copy.skipped] == ["has no label"] * 4
    data = load_run_data(f"{copy.name}", RunConfig())
    assert (data.task, data.class_names) == ("multilabel", ("big", "round"))
    assert (len(data.splits.train), len(data.splits.validation), len(data.splits.skipped)) == (9, 3, 4)
    assert data.splits.split_from.endswith("split.csv")

    features = {"image": F.Image(shape=(None, None, 3)), "about": {"score": np.float32, "id": F.Text()}}
    rows = [{"image": picture((i * 9, 9, 9), i), "about": {"score": i, "id": str(i)}} for i in range(10)]
    data = load_run_data(store(features, "scores", train=rows), RunConfig())
    assert (data.task, len(data.splits.train), len(data.splits.validation)) == ("regression", 8, 2)


@pytest.mark.slow
def test_texts_become_json_lines():
    features = {"review": {"body": F.Text(), "head": F.Text()}, "label": F.ClassLabel(names=["bad", "good"])}
    rows = [{"review": {"body": f"n\u00e9 {i}\u2028", "head": f"h{i}"}, "label": [-1, 0, 1][i % 3]} for i in range(12)]
    place = store(features, train=rows)
    with pytest.raises(
        DataError, match=r"tiny/1\.0\.0 has 2 features with texts: review/body, review/head\. Choose one"
    ):
        local_copy(place)
    copy = local_copy(place, {"text": "review/body"})
    assert copy.source.name == "train.jsonl"
    assert len(copy.skipped) == 4
    texts = load_texts(copy.source, text="review/body", label="label")
    assert sorted([*texts.train.texts, *texts.validation.texts]) == sorted(
        f"n\u00e9 {i}\u2028" for i in range(12) if i % 3
    )
    data = load_run_data(place, RunConfig(text=("review/body", "review/head")))
    assert data.splits.train.pairs is not None
    assert (data.class_names, len(data.splits.train) + len(data.splits.validation)) == (("bad", "good"), 8)
    assert data.name == str(place)

    place = store(features, "two", train=rows, validation=rows[:6])
    data = load_run_data(place, RunConfig(text="review/body"))
    assert (len(data.splits.train), len(data.splits.validation), data.splits.split_from) == (
        8,
        4,
        "train.jsonl and validation.jsonl",
    )


@pytest.mark.parametrize("told", [True, False])
def test_recordings_become_wav_files(told):
    rate = {"sample_rate": 8000} if told else {}
    features = {"audio": F.Audio(**rate), "label": F.ClassLabel(names=["low", "high"])}
    t = np.arange(4000) / 8000
    rows = [{"audio": np.int64(9000 * np.sin(6.28 * (300, 2200)[i % 2] * t + i)), "label": i % 2} for i in range(10)]
    place = store(features, train=rows)
    if not told:
        with pytest.raises(DataError, match=r"does not state the sample rate .* sample_rate="):
            local_copy(place)
    copy = local_copy(place, {"sample_rate": 8000})
    [file] = copy.source.glob("train/low/*__0.wav")
    with wave.open(str(file)) as read:
        assert (read.getframerate(), read.getsampwidth(), read.getnchannels()) == (8000, 2, 1)
        samples = np.frombuffer(read.readframes(4000), "<i2")
    assert any(np.array_equal(samples, row["audio"]) for row in rows[::2])
    data = load_run_data(place, RunConfig(sample_rate=8000))
    assert (data.splits.train.spec.sample_rate, data.class_names, len(data.splits.train)) == (8000, ("high", "low"), 8)


# --- what is meant -----------------------------------------------------------------------------------------------


def test_it_says_what_there_is_where_it_is_not_clear():
    features = squares() | {"mask": F.Image(shape=(None, None, 1)), "kind": F.ClassLabel(num_classes=2)}
    rows = [row | {"mask": row["image"][..., :1], "kind": 0} for row in pictures(6)]
    place = store(features, train=rows)
    with pytest.raises(DataError, match=r"has 2 features with images: image, mask\. Choose one.* image='image'"):
        local_copy(place)
    with pytest.raises(DataError, match=r"has 2 features with labels: kind, label\. .* label='kind'"):
        local_copy(place, {"image": "image"})
    with pytest.raises(DataError, match=r"no feature 'lable' .* Did you mean 'label'\? Expected one of: image"):
        local_copy(place, {"image": "image", "label": "lable"})
    with pytest.raises(DataError, match=r"'label' of tiny/1\.0\.0 \(ClassLabel\) has no images \(image=\)"):
        local_copy(place, {"image": "label"})
    with pytest.raises(DataError, match="image and text each name"):
        local_copy(place, {"image": "image", "text": "label"})
    with pytest.raises(DataError, match="task='token_classification' expects files in its own format"):
        local_copy(place, {"task": "token_classification"})
    assert local_copy(place, {"image": "mask", "label": "kind"}).source.name.startswith("tiny-1.0.0-")
    with pytest.raises(DataError, match="has no feature with images, recordings or texts. Features: x"):
        local_copy(store({"x": np.int64}, "nothing", train=[{"x": 1}]))
    with pytest.raises(DataError, match=r"has no labels: expected one ClassLabel, .* t \(Text\)\. Name another"):
        local_copy(store({"t": F.Text()}, "unnamed", train=[{"t": "a"}]))
    deep = {"image": F.Image(shape=(4, 4, 1), dtype=np.uint16), "label": F.ClassLabel(num_classes=1)}
    with pytest.raises(DataError, match=r"The images in 'image' of deep/1\.0\.0 are .*uint16.*. Expected uint8"):
        local_copy(store(deep, "deep", train=[{"image": np.zeros((4, 4, 1), np.uint16), "label": 0}]))


@pytest.mark.slow
def test_splits():
    place = store(squares(), train=pictures(9), validation=pictures(6, start=60), extra=pictures(3))
    data = load_run_data(place, RunConfig())
    assert (len(data.splits.train), len(data.splits.validation)) == (9, 6)
    assert data.splits.split_from.startswith("the folders ")
    data = load_run_data(store(squares(), "only", full=pictures(15)), RunConfig())
    assert (len(data.splits.train), len(data.splits.validation)) == (12, 3)
    assert "20 % of each class in " in data.splits.split_from
    with pytest.raises(DataError, match=r"has no split 'train'. Splits: 'one', 'two'"):
        local_copy(store(squares(), "others", one=pictures(3), two=pictures(3)))


def test_names_and_places_that_do_not_work(monkeypatch, tmp_path):
    store(squares(), train=pictures(6))
    with pytest.raises(DataError, match=r"No dataset 'rock_paper_scisors' .* Did you mean 'rock_paper_scissors'\?"):
        local_copy("tfds:rock_paper_scisors")
    with pytest.raises(DataError, match="Expected the name of a dataset after tfds:"):
        local_copy("tfds:")
    with pytest.raises(DataError, match="cannot open 'mnist/no_such_config'"):
        local_copy("tfds:mnist/no_such_config")
    assert not is_tfds(tmp_path)
    assert not is_tfds(("texts", "labels"))
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "features.json").write_text("{")
    with pytest.raises(DataError, match=r"features\.json cannot be read"):
        local_copy(tmp_path)
    (tmp_path / "features.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be opened"):
        local_copy(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DependencyError, match=r"Reading tfds:mnist needs .* pip install \"tfft\[tfds\]\""):
        local_copy("tfds:mnist")


def test_a_folder_may_not_bring_code(tmp_path):
    place = store(squares(), train=pictures(3))
    text = (place / "features.json").read_text()
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    (place / "features.json").write_text(text.replace("tensorflow_datasets.core.features.image_feature.", "evil."))
    with pytest.raises(DataError, match=r"classes from outside tensorflow-datasets, .*: evil\.Image\."):
        local_copy(place)


def test_without_a_network_it_says_what_was_tried():
    class Unreachable(tfds.core.GeneratorBasedBuilder):
        """A dataset that would have to be downloaded."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict(squares()))

        def _split_generators(self, manager):
            raise ConnectionError("Failed to resolve 'storage.googleapis.com'\nand more")

        def _generate_examples(self):
            return iter(())

    with pytest.raises(
        DataError,
        match=r"unreachable/1\.0\.0 is not prepared in .*datasets.*, and downloading and preparing it failed: "
        r"ConnectionError: Failed to resolve 'storage\.googleapis\.com'\. Prepare it elsewhere \(tfds build",
    ):
        local_copy("tfds:unreachable")


# --- whole runs --------------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_a_run_by_name(tmp_path, capsys):
    store(squares(), train=pictures(30), test=pictures(6, start=60))
    run = tfft.finetune(backbone(), "tfds:tiny", out=tmp_path / "run", export_to=False, unfreeze=1, **QUICK)
    assert run.plan.data == "tfds:tiny:1.0.0"
    assert run.class_names == tuple(COLOURS)
    assert run.final_scores.accuracy > 0.8
    rows = (tmp_path / "run" / "split.csv").read_text().splitlines()[1:]
    assert len(rows) == 30
    assert all(row.split("/")[0] in COLOURS and "__" in row for row in rows)
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "run"), "tfds:tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] == run.final_scores.accuracy
    assert found["data"].startswith("held-out examples: the split in ")
    store(squares(), "other", train=pictures(9, start=80))
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "run"), "tfds:other", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["examples"], found["data"].split(" in ")[0]) == (9, "all examples")
    copy = local_copy("tfds:tiny")
    assert cli.main(["evaluate", str(tmp_path / "run"), str(copy.source / "test"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 6
    again = tfft.recipes.rerun(tmp_path / "run" / "plan.yaml", backbone=backbone(), cache="memory", verbose=False)
    assert again.final_scores.to_dict() == run.final_scores.to_dict()


@pytest.mark.nightly
def test_classes_with_slashes_are_learned_and_measured(tmp_path):
    names = ["sky/blue", "leaf/green", "red"]
    store(squares(names), train=pictures(18, names), validation=pictures(9, names, start=40))
    run = tfft.finetune(backbone(), "tfds:tiny", out=tmp_path / "run", export_to=False, unfreeze=1, **QUICK)
    assert set(run.class_names) == set(names)
    for source in ("tfds:tiny", "tfds:again"):
        if source == "tfds:again":
            store(squares(names), "again", train=pictures(9, names, start=40))
        dataset, _, _ = labelled_data(tfft.load_run(tmp_path / "run"), source)
        assert tfft.evaluate(run.model, dataset).accuracy == run.final_scores.accuracy


@pytest.mark.nightly
def test_check_by_name(capsys):
    rows = pictures(30)
    place = store(squares(), train=[*rows, rows[0]], validation=[rows[1], *pictures(29, start=90)])
    capsys.readouterr()
    assert cli.main(["check", "tfds:tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data"] == "tfds:tiny:1.0.0"
    assert {"leak", "copy"} <= {one["kind"] for one in found["findings"]}
    assert tfft.check(place).data == str(place)
    features = {"text": F.Text(), "label": F.ClassLabel(names=["a", "b"])}
    place = store(features, "words", train=[{"text": f"t{i // 2}", "label": i % 3 - 1} for i in range(30)])
    report = tfft.check(place)
    assert finding_of(report, "unlabelled").items
    assert finding_of(report, "conflict") is not None


@pytest.mark.nightly
def test_folds_of_a_dataset():
    store(squares(), train=pictures(12))
    runs = tfft.cross_validate(backbone(), "tfds:tiny", folds=2, plan="linear_probe", cache="memory", verbose=False)
    assert len(runs.rows) == 2


@pytest.mark.nightly
@pytest.mark.process
def test_importing_tfft_imports_no_datasets():
    code = "import sys, tfft, tfft.data; sys.exit('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
    assert tf is not None
