"""Tables of image files: classes, several labels, numbers; groups; the recipe and the command line; previews."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pandas
import pytest
import tensorflow as tf
from faulty_data import encoded, finding_of, picture
from PIL import Image
from test_recipes import backbone

import tfft
from tfft import cli
from tfft.data import load
from tfft.errors import DataError, PlanError
from tfft.modalities.image import load_image_table
from tfft.modalities.image.preview import preview
from tfft.specs import InputSpec

QUICK = {"export_to": False, "cache": "memory", "verbose": False, "plan": "linear_probe"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Red and blue pictures, brighter and darker, of six people."""
    root = tmp_path_factory.mktemp("table")
    (root / "files").mkdir()
    rows = []
    for i in range(48):
        level = 60 + 4 * i
        red, bright = i % 2 == 0, level > 150
        grain = np.asarray(picture(i, (40, 40)), float) * 0.3
        grain[:, :, 0 if red else 2] += level * 0.7
        (root / "files" / f"{i}.png").write_bytes(encoded(Image.fromarray(grain.clip(0, 255).astype(np.uint8)), "PNG"))
        tags = [name for name, on in (("red", red), ("bright", bright)) if on] or ["none"]
        rows.append({"file": f"files/{i}.png", "colour": ("blue", "red")[red], "tags": "|".join(tags),
                     "level": f"{level / 255 + 0.001:.3f}", "person": f"p{i // 8}"})  # fmt: skip
    with open(root / "pictures.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (root / "pictures.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.mark.slow
def test_a_table_is_read_and_split(place):
    splits = load_image_table(place / "pictures.csv", image="file", label="colour", validation=0.25)
    assert splits.task == "classification"
    assert splits.class_names == ("blue", "red")
    assert splits.validation.counts == {"blue": 6, "red": 6}
    assert splits.items["train"][0].startswith("files/")
    frame = pandas.read_csv(place / "pictures.csv")
    same = load_image_table(frame, image="file", label="colour", validation=0.25, root=place)
    assert [tfft.data.split.key_of(p, place) for p in same.train.paths] == splits.items["train"]
    lines = load_image_table(place / "pictures.jsonl", image="file", label="colour", validation=0.25)
    assert lines.items == splits.items
    grouped = load_image_table(place / "pictures.csv", image="file", label="colour", group="person")
    people = [{int(name.split("/")[1][:-4]) // 8 for name in names} for names in grouped.items.values()]
    assert not people[0] & people[1]
    tags = load_image_table(place / "pictures.csv", image="file", label="tags", separator="|")
    assert tags.task == "multilabel"
    assert tags.train.labels.shape[1] == 3
    level = load_image_table(place / "pictures.csv", image="file", label="level")
    assert level.task == "regression"
    assert level.train.labels.dtype == np.float32


@pytest.mark.slow
def test_every_row_that_cannot_be_used_is_named(place, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    rows = ["image,label", f"{place}/files/0.png,a", f"{place}/files/1.png,b", f"{place}/files/2.png,a"]
    rows += [f"{place}/files/3.png,b", "gone.png,a", "bad.png,b", ",a", f"{place}/files/4.png,"]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(rows))
    splits = load_image_table(path)
    told = {item.path.rpartition(":")[2]: item.reason for item in splits.skipped}
    assert set(told) == {"6", "7", "8", "9"}
    assert "gone.png, which is missing" in told["6"]
    assert "bad.png, which is empty" in told["7"]
    assert told["8"] == "has no path"
    assert told["9"] == "has no label"
    with pytest.raises(DataError, match="Unusable rows of"):
        load_image_table(path, strict=True)
    with pytest.raises(DataError, match=r"no column 'file' \(image=\).*It has: 'image', 'label'"):
        load_image_table(path, image="file")
    report = tfft.check(path, image="image")
    assert len(finding_of(report, "unusable").items) == 4
    assert "no column 'lable'" in str(tfft.check(path, image="image", label="lable"))


@pytest.mark.nightly
def test_classes_several_labels_and_numbers_are_learned(place, tmp_path):
    table = place / "pictures.csv"
    run = tfft.finetune(backbone(), table, image="file", label="colour", out=tmp_path / "run", **QUICK)
    assert run.final_scores.accuracy > run.final_scores.majority_baseline
    assert run.plan.image == "file"
    assert run.split_names is not None
    scores = {}
    for label, separator in (("tags", "|"), ("level", None)):
        found = tfft.finetune(backbone(), table, image="file", label=label, separator=separator, **QUICK)
        scores[label] = found.final_scores
        assert found.plan.task == {"tags": "multilabel", "level": "regression"}[label]
    assert scores["tags"].task == "multilabel"
    assert scores["level"].task == "regression"
    assert cli.main(["evaluate", str(tmp_path / "run"), str(table)]) == 0
    plan = tmp_path / "run" / "plan.yaml"
    again = tfft.recipes.rerun(plan, backbone=backbone(), verbose=False, export_to=False, cache="memory")
    assert again.final_scores.to_dict() == run.final_scores.to_dict()


@pytest.mark.nightly
def test_groups_that_were_not_seen_decide_how_much_trains(place):
    """The folds of the probe know all people of the training examples; only the held-out ones are new."""
    splits = load_image_table(place / "pictures.csv", image="file", label="colour", group="person")
    strange = dataclasses.replace(splits.validation, labels=1 - splits.validation.labels)
    grouped, alone = (
        dataclasses.replace(splits, validation=strange, groups=groups) for groups in (splits.groups, None)
    )
    chosen = [
        tfft.recommend_plan(each, backbone(), cache="memory").phases[-1].unfreeze for each in (splits, alone, grouped)
    ]
    assert [each == "all" for each in chosen] == [False, False, True]


@pytest.mark.nightly
def test_the_command_line(place, tmp_path, capsys):
    backbone().model.save(tmp_path / "tiny.keras")
    command = ["train", str(place / "pictures.csv"), "--image", "file", "--label", "colour"]
    command += ["--backbone", str(tmp_path / "tiny.keras")]
    command += ["--plan", "linear_probe", "--group", "person", "--no-export"]
    assert cli.main([*command, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "split.csv").is_file()
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "run"), str(place / "pictures.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 48
    assert cli.main(["check", str(place / "pictures.csv"), "--image", "file", "--label", "colour"]) == 0


@pytest.mark.nightly
def test_a_preview_shows_the_picture_and_views_of_it(tmp_path, capsys):
    from faulty_data import clean_pictures

    root = clean_pictures(tmp_path / "photos")
    examples = load(root).train
    spec = InputSpec(height=24, width=32)
    grid = preview(examples, spec, augment=["flip", "crop=0.6"], rows=3, columns=4)
    assert grid.shape == (3 * 24 + 8, 4 * 32 + 12, 3)
    first = tfft.modalities.image.decode_image(tf.io.read_file(examples.paths[0]), spec)
    cells = [grid[r * 28 : r * 28 + 24, c * 36 : c * 36 + 32] for r in range(3) for c in range(4)]
    originals = {p: tfft.modalities.image.decode_image(tf.io.read_file(p), spec).numpy() for p in examples.paths}
    for row in range(3):
        assert any((cells[4 * row] == pixels).all() for pixels in originals.values())
        assert not (cells[4 * row + 1] == cells[4 * row]).all()
    assert first.dtype == tf.uint8
    plain = preview(examples, spec, rows=2, columns=3)
    assert plain.shape == (2 * 24 + 4, 3 * 32 + 8, 3)
    target = tmp_path / "grid.png"
    assert cli.main(["preview", str(root), "--augment", "rand=0.2", "--rows", "2", "--out", str(target)]) == 0
    with Image.open(target) as drawn:
        assert drawn.size == (6 * 160 + 20, 2 * 160 + 4)
    assert "pixels, of" in capsys.readouterr().out
    with pytest.raises(PlanError, match="augment expects numbers, such as crop=0.7, received 'crop=much'"):
        preview(examples, spec, augment="crop=much")
    with pytest.raises(PlanError, match="'crip' is unknown"):
        preview(examples, spec, augment="crip=0.5")
    assert keras.backend.backend() == "tensorflow"
