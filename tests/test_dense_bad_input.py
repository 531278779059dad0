"""What object detection and segmentation say about data and settings that do not fit, before anything is trained."""

import json

import detection_models
import keras
import numpy as np
import pytest
import tensorflow as tf
from boxed_pictures import pictures, write_coco
from PIL import Image
from test_dense_recipes import masks

import tfft
from tfft.backbones import load_backbone, pyramid
from tfft.data.dataset_examples import ready_splits
from tfft.errors import BackboneError, DataError


def kinds(report):
    return {finding.kind: finding for finding in report.findings}


def test_pictures_smaller_than_a_cell_are_refused():
    x = inputs = keras.Input((None, None, 3))
    for at in range(5):
        x = keras.layers.Conv2D(4, 3, 2, "same", name=f"block{at}_conv")(x)
    backbone = load_backbone(keras.Model(inputs, x))
    with pytest.raises(BackboneError, match=r"at least 32 pixels.*\(16, 40\). Use a larger one, such as.*\(64, 64\)"):
        pyramid(backbone, image_size=(16, 40))
    assert pyramid(backbone, image_size=(32, 40))[32].shape[-1] == 4


@pytest.mark.slow
def test_more_objects_than_a_detector_answers_with_are_named(tmp_path, capsys):
    boxes = [("a.png", "cat", (at % 10 * 3, at // 10 * 3, at % 10 * 3 + 3, at // 10 * 3 + 3)) for at in range(120)]
    pictures(tmp_path)
    write_coco(tmp_path / "val.json", (("c.png", "cat", (0, 0, 40, 40)),), names=("c.png",))
    splits = tfft.data.load(
        (write_coco(tmp_path / "train.json", boxes, ("a.png", "b.png")), tmp_path / "val.json"), task="object_detection"
    )
    found = kinds(tfft.inspection.check_splits(splits, "data"))
    assert (
        found["crowded"].message
        == "1 image has more than 100 objects, at most 120, and a detector finds at most 100 in one"
    )
    assert "smaller than a cell of 8 pixels" in found["small-objects"].message
    backbone = detection_models.untrained()
    reader = tfft.registry.task("object_detection").reader
    assert any(note.startswith("1 image has more than 100 objects") for note in reader.notes(splits, backbone))


@pytest.mark.slow
def test_a_check_names_the_image_size_that_sees_small_objects(tmp_path):
    for part in ("train", "valid"):
        (tmp_path / part).mkdir()
        images, found = [], []
        for at in range(3):
            pixels = np.random.default_rng(at + 10 * len(part)).integers(0, 256, (600, 800, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / f"{at}.png")
            images.append({"id": at, "file_name": f"{at}.png", "height": 600, "width": 800})
            found.append({"id": at, "image_id": at, "category_id": 1, "bbox": [100, 100, 12, 12]})
        content = {"images": images, "annotations": found, "categories": [{"id": 1, "name": "seed"}]}
        (tmp_path / part / "boxes.json").write_text(json.dumps(content))
    small = kinds(tfft.check(tmp_path, task="object_detection"))["small-objects"]
    assert "100% of the objects (seed 100%)" in small.message.replace(" %", "%")
    assert small.remedy.startswith("image_size=(")


@pytest.mark.slow
def test_rare_classes_of_masks_are_named(tmp_path):
    folder = masks(tmp_path / "data")
    mask = np.array(Image.open(folder / "masks" / "00.png"))
    mask[:3, :3] = 2
    Image.fromarray(mask).save(folder / "masks" / "00.png")
    report = tfft.check(folder, task="semantic_segmentation")
    assert not [note for note in report.notes if "give a backbone" in note]  # which finds no wrong labels of pixels
    few = kinds(report)["few"]
    assert [item.name for item in few.items] == ["class 2"]
    assert "0.01% of the labelled pixels, in 1 image" in str(few)


IMAGES = np.zeros((3, 8, 8, 3), np.uint8)
BOX = [0, 0.1, 0.1, 0.5, 0.5, 8, 8]
MEMORY = {
    "form": ("object_detection", np.zeros((3, 4)), r"the training dataset has labels \(3, 4\). Expected \[N, M, 7\]"),
    "class": ("object_detection", [[[2, *BOX[1:]]]] * 3, r"has the classes \[2.0\]. Expected 0 to 1, -1 for padding"),
    "pixels": ("object_detection", [[[0, 1, 1, 5, 5, 8, 8]]] * 3, "has 3 boxes with corners outside of 0 to 1. Divide"),
    "reversed": ("object_detection", [[[0, 0.5, 0.5, 0.1, 0.1, 8, 8]]] * 3, "has 3 boxes without an area or reversed"),
    "colours": ("semantic_segmentation", np.zeros((3, 8, 8, 3), np.uint8), r"has masks \(3, 8, 8, 3\) of uint8"),
    "values": (
        "semantic_segmentation",
        np.full((3, 8, 8), 7, np.uint8),
        r"has the values \[7\]. Expected 0 to 1, and 255",
    ),
}


@pytest.mark.parametrize("case", MEMORY)
def test_labels_in_memory_that_mean_nothing_are_named(case):
    task, labels, sentence = MEMORY[case]
    labels = np.asarray(labels, np.float32) if isinstance(labels, list) else labels
    data = tf.data.Dataset.from_tensor_slices((IMAGES, labels)).batch(2)
    with pytest.raises(DataError, match=sentence):
        ready_splits(data, data, ["a", "b"], task)


@pytest.mark.parametrize("task", ["object_detection", "semantic_segmentation"])
def test_arrays_alone_have_no_class_names(task):
    labels = np.array([[BOX]] * 3, np.float32) if task == "object_detection" else np.zeros((3, 8, 8), np.int32)
    with pytest.raises(DataError, match=r"Received: arrays or a dataset. Give \(train, validation, class_names\)"):
        tfft.data.load((IMAGES, labels), task=task)
    data = tf.data.Dataset.from_tensor_slices((IMAGES, labels)).batch(2)
    with pytest.raises(DataError, match=f"names of the classes beside datasets for {task}"):
        ready_splits(data, data, None, task)
    splits = ready_splits(data, data, ["a", "b"], task)
    assert splits.train.labels.shape == labels.shape
    assert splits.class_names == ("a", "b")


def test_batches_with_different_numbers_of_boxes_are_refused():
    labels = [np.array([[BOX] * count], np.float32) for count in (1, 2)]
    data = tf.data.Dataset.from_generator(
        lambda: ((IMAGES[:1], one) for one in labels),
        output_signature=(tf.TensorSpec((1, 8, 8, 3), tf.uint8), tf.TensorSpec((1, None, 7), tf.float32)),
    )
    with pytest.raises(DataError, match="one shape in all batches of the training dataset.*Pad boxes"):
        ready_splits(data, data, ["a", "b"], "object_detection")
