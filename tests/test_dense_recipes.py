"""Whole runs of object detection and segmentation: kept maps train as fresh ones do, and what is written serves."""

import json

import detection_models
import keras
import numpy as np
import pytest
import tensorflow as tf

import tfft
from tfft import cli
from tfft.backbones.base import blocks_of
from tfft.errors import DataError
from tfft.recipes import finetune, load_run

SHORT = {"head_epochs": 2, "epochs": 1, "unfreeze": 1, "views": 2, "verbose": False}


def boxes(folder, count=20):
    """Pictures with planted objects and their boxes in COCO format."""
    images, labels = detection_models.pictures(count, seed=1)
    folder.mkdir()
    found = []
    for at, (image, rows) in enumerate(zip(images, labels, strict=True)):
        tf.io.write_file(str(folder / f"{at:02}.png"), tf.io.encode_png(image))
        for kind, *corners in rows[rows[:, 0] >= 0, :5]:
            top, left, bottom, right = (float(96 * corner) for corner in corners)
            box = [left, top, right - left, bottom - top]
            found.append({"id": len(found), "image_id": at, "category_id": int(kind) + 3, "bbox": box, "iscrowd": 0})
    content = {
        "images": [{"id": at, "file_name": f"{at:02}.png", "width": 96, "height": 96} for at in range(count)],
        "annotations": found,
        "categories": [{"id": at + 3, "name": name} for at, name in enumerate(detection_models.CLASSES)],
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder


def masks(folder, count=20):
    """Pictures of bright bars among noise and their masks."""
    random = np.random.default_rng(1)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for at in range(count):
        mask = np.zeros((96, 96), np.uint8)
        left = random.integers(0, 64)
        mask[:, left : left + random.integers(12, 32)] = 1
        image = random.integers(0, 60, (96, 96, 3)) + 180 * mask[..., None]
        tf.io.write_file(str(folder / "images" / f"{at:02}.png"), tf.io.encode_png(image.astype(np.uint8)))
        tf.io.write_file(str(folder / "masks" / f"{at:02}.png"), tf.io.encode_png(mask[..., None]))
    return folder


def test_data_of_another_dense_task_is_named(tmp_path):
    folder = boxes(tmp_path / "boxes", 4)
    with pytest.raises(DataError, match="holds COCO annotations: pass task='object_detection'"):
        tfft.data.load(folder, task="semantic_segmentation")
    folder = masks(tmp_path / "street", 4)
    with pytest.raises(DataError, match="holds mask annotations: pass task='semantic_segmentation'"):
        tfft.data.load(folder, task="object_detection")


def test_a_built_model_stretches_images_so_that_boxes_stay_valid():
    model = tfft.build(detection_models.untrained(), tfft.heads.object_detection(("square",), width=8))
    assert model.get_layer("preprocess").spec.resize == "stretch"


def test_a_backbone_with_several_maps_keeps_its_blocks():
    model = tfft.build(detection_models.untrained(), tfft.heads.object_detection(("square",), width=8))
    assert [block.name for block in blocks_of(model)] == [f"block{at}" for at in range(5)]


@pytest.mark.nightly
@pytest.mark.process
@pytest.mark.parametrize(
    ("task", "write", "metric"), [("object_detection", boxes, "map"), ("semantic_segmentation", masks, "mean_iou")]
)
def test_kept_maps_train_as_fresh_ones_and_the_run_serves(task, write, metric, tmp_path, capsys):
    data = write(tmp_path / "data")
    runs = []
    for name, cache in (("kept", tmp_path / "cache"), ("fresh", None)):
        keras.utils.set_random_seed(0)
        backbone = detection_models.untrained()
        before = [v.numpy() for v in backbone.model.weights]
        out = {"out": tmp_path / name} if cache else {}
        run = finetune(backbone, data, task=task, cache=cache, **out, **SHORT)
        moved = {
            v.path.split("_")[0]
            for v, old in zip(backbone.model.weights, before, strict=True)
            if not np.array_equal(v.numpy(), old)
        }
        assert moved <= {"block4"}
        runs.append(run)
    kept, fresh = ([row["loss"] for row in run.history.rows] for run in runs)
    np.testing.assert_allclose(kept, fresh, rtol=0.05)  # maps are kept in half precision
    again = load_run(tmp_path / "kept")
    assert again.final_scores.to_dict() == runs[0].final_scores.to_dict()
    assert again.final_scores.metric == metric
    pictures = sorted(str(file) for file in data.rglob("0[0-3].png") if "masks" not in str(file))
    export = str(tmp_path / "kept" / "export" / "1")
    capsys.readouterr()
    assert cli.main(["predict", export, *pictures, "--draw", str(tmp_path / "drawn")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert [file.name for file in sorted((tmp_path / "drawn").iterdir())] == [f"0{at}.png" for at in range(4)]
    assert tf.io.decode_png(tf.io.read_file(str(tmp_path / "drawn" / "00.png"))).shape == (96, 96, 3)
    assert cli.main(["report", str(tmp_path / "kept")]) == 0
    page = (tmp_path / "kept" / "report.html").read_text("utf-8")
    section = {"map": "Precision and recall", "mean_iou": "Images with the lowest IoU"}[metric]
    assert f"<h2>{section}</h2>" in page
    assert "data:image/jpeg;base64," in page
    assert "http" not in page.replace(str(tmp_path), "")
