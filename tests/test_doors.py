"""What people give by mistake: folders, archives, run folders, ages; and class names that no line can hold."""

import json

import numpy as np
import pytest
import tensorflow as tf
from test_recipes import backbone

import tfft
from tfft.cli import main
from tfft.config import RunConfig
from tfft.data.label_parsing import parse_labels
from tfft.errors import DataError
from tfft.exporting import open_export
from tfft.recipes.preparing import open_backbone

NAMES = ("sun\nset", 'the "sea", calm')
slow_fixtures = ("run",)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for i in range(8):
        for label in (0, 1):
            pixels = np.random.default_rng(2 * i + label).integers(0, 100, (16, 16, 3), np.uint8)
            pixels[..., 2 * label] += 120
            path = root / "of two kinds" / f"{label}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tf.io.encode_png(pixels).numpy())
    rows = [{"image": f"of two kinds/{label}/{i}.png", "label": NAMES[label]} for i in range(8) for label in (0, 1)]
    (root / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    tfft.finetune(backbone(), photos / "t.jsonl", image="image", out=out, unfreeze="none", cache="memory")
    return out


@pytest.mark.nightly
def test_names_that_no_line_can_hold_survive_run_and_export(run):
    assert tfft.load_run(run).class_names == tuple(sorted(NAMES))
    assert open_export(run / "export").class_names == tuple(sorted(NAMES))


@pytest.mark.nightly
def test_a_folder_is_predicted_file_by_file(run, photos, capsys):
    (photos / "of two kinds" / "notes.txt").write_text("no picture")
    assert main(["predict", str(run), str(photos / "of two kinds"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert len(found) == 16
    assert {row["label"] for row in found} == set(NAMES)
    (photos / "empty").mkdir(exist_ok=True)
    assert main(["predict", str(run), str(photos / "empty")]) == 2
    assert "Received: 0 other files" in capsys.readouterr().err


def test_a_run_folder_is_a_backbone(run):
    opened, file = (open_backbone(handle, RunConfig(), "classification") for handle in (run, run / "model.keras"))
    assert [block.name for block in opened.blocks] == [block.name for block in file.blocks]


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar.gz"])
def test_an_archive_is_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"PK")
    for settings in ({}, {"image": "image"}):
        with pytest.raises(DataError, match=r"It is an archive: unpack it .*shutil.unpack_archive"):
            tfft.data.load(tmp_path / name, **settings)


def test_ages_are_not_taken_for_classes_without_a_word(capsys):
    ages = [str(20 + i % 30) for i in range(90)]
    assert parse_labels([ages], [ages]).task == "classification"
    assert "30 classes; integers that are amounts" in capsys.readouterr().err
    with pytest.raises(DataError, match="need task='regression'"):
        parse_labels([[str(20 + i) for i in range(40)]], [[""] * 40])
    for labels in ([str(i % 30) for i in range(90)], [str(1 + i % 5) for i in range(90)]):  # numbers of classes, stars
        parse_labels([labels], [labels])
    parse_labels([ages], [ages], task="classification")
    assert capsys.readouterr().err == ""
