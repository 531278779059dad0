"""Boxes and masks of TensorFlow Datasets become files that the readers of the tasks read."""

import json

import numpy as np
import pytest
import tensorflow as tf
from test_tfds import F, _own_places, picture, store, tfds  # noqa: F401  # its fixture keeps the user's folders apart

import tfft
from tfft.data.tfds.source import local_copy
from tfft.errors import DataError
from tfft.tasks.semantic_segmentation import VOID

NAMES = ["cat", "dog"]
RNG = np.random.default_rng(0)


def objects(more=()):
    inner = {"bbox": F.BBoxFeature(), "label": F.ClassLabel(names=NAMES), **dict(more)}
    return {"image": F.Image(shape=(None, None, 3)), "objects": F.Sequence(inner)}


def boxed(count, start=0, crowd=False):
    """Pictures of 18 x 24 pixels; number i has i % 3 objects."""
    rows = []
    for at in range(start, start + count):
        found = [
            {"bbox": F.BBox(ymin=1 / 6 * n, xmin=0.25, ymax=0.5 + 1 / 6 * n, xmax=0.75), "label": (at + n) % 2}
            | ({"is_crowd": n == 1} if crowd else {})
            for n in range(at % 3)
        ]
        rows.append({"image": picture((90, 90, 10 * at), at), "objects": found})
    return rows


def number_of(path, pictures):
    """The position of the picture that a file holds; files are named by other numbers."""
    pixels = tf.io.decode_png(tf.io.read_file(path)).numpy()
    [at] = [at for at, one in enumerate(pictures) if np.array_equal(one, pixels)]
    return at


@pytest.mark.slow
def test_boxes_by_name_are_those_of_the_dataset():
    rows = boxed(6, crowd=True)
    store(objects({"is_crowd": np.bool_}), train=rows, test=boxed(2, start=50, crowd=True))
    splits = tfft.data.load("tfds:tiny", task="object_detection", validation=0.5)
    assert splits.class_names == tuple(NAMES)
    found = {
        number_of(path, [row["image"] for row in rows]): label
        for part in splits.parts.values()
        for path, label in zip(part.paths, part.labels, strict=True)
    }
    assert sorted(found) == list(range(6))
    for at, label in found.items():
        count = at % 3
        assert (label[:, 0] != -1).sum() == count
        for n in range(count):
            kind = (at + n) % 2
            assert label[n, 0] == (-(2 + kind) if n == 1 else kind)  # the second is a crowd
            np.testing.assert_allclose(label[n, 1:5], [n / 6, 0.25, 0.5 + n / 6, 0.75], atol=1e-6)
            np.testing.assert_array_equal(label[n, 5:], [18, 24])
    assert splits.test_folder is not None


@pytest.mark.slow
def test_parts_of_a_dataset_are_kept_and_a_copy_is_made_once(monkeypatch):
    place = store(objects(), train=boxed(6), validation=boxed(3, start=30))
    copy = local_copy("tfds:tiny", {"task": "object_detection"})
    splits = tfft.data.load("tfds:tiny", task="object_detection")
    assert {name: len(part) for name, part in splits.parts.items()} == {"train": 6, "validation": 3}
    file = json.loads((copy.source / "valid" / "_annotations.coco.json").read_text())
    assert [one["name"] for one in file["categories"]] == NAMES
    assert local_copy(place, {"task": "object_detection"}).source == copy.source


def test_masks_by_name_are_those_of_the_dataset():
    rows = []
    for at in range(6):
        mask = RNG.integers(0, 3, (18, 24, 1)).astype(np.uint8)
        mask[:2, :2] = VOID
        rows.append({"image": picture((9, 9, 10 * at), at), "segmentation_mask": mask, "label": at % 2})
    features = {
        "image": F.Image(shape=(None, None, 3)), "segmentation_mask": F.Image(shape=(None, None, 1)),
        "label": F.ClassLabel(names=NAMES),
    }  # fmt: skip
    store(features, train=rows)
    splits = tfft.data.load("tfds:tiny", task="semantic_segmentation", validation=0.5)
    assert splits.class_names == ("class 0", "class 1", "class 2")
    for part in splits.parts.values():
        for path, label in zip(part.paths, part.labels, strict=True):
            at = number_of(path, [row["image"] for row in rows])
            np.testing.assert_array_equal(part.masks.read(label[0]), rows[at]["segmentation_mask"][..., 0])


def test_labelled_images_give_the_names_of_the_classes():
    names = ["road", "car", "sky"]
    features = {
        "left": F.Image(shape=(None, None, 3)), "right": F.Image(shape=(None, None, 3)),
        "labels": F.LabeledImage(labels=names, shape=(None, None, 1)),
    }  # fmt: skip
    rows = [
        {"left": picture((9, 9, at), at), "right": picture((99, 9, at), at),
         "labels": RNG.integers(0, 3, (18, 24, 1)).astype(np.uint8)}
        for at in range(4)
    ]  # fmt: skip
    store(features, train=rows)
    with pytest.raises(DataError, match=r"has 2 features with images: left, right\. .*image='left'"):
        tfft.data.load("tfds:tiny", task="semantic_segmentation")
    splits = tfft.data.load("tfds:tiny", task="semantic_segmentation", image="left", validation=0.5)
    assert splits.class_names == tuple(names)
    pixels = tf.io.decode_png(tf.io.read_file(splits.train.paths[0]))
    assert int(tf.reduce_max(pixels[..., 0])) < 120  # of the left camera


def test_datasets_without_boxes_or_masks_are_refused():
    row = {"image": picture((9, 9, 9), 0), "label": 0}
    store({"image": F.Image(shape=(None, None, 3)), "label": F.ClassLabel(names=NAMES)}, train=[row])
    with pytest.raises(DataError, match=r"has no feature with objects: \{bbox, label\}\. Features: image \(Image\)"):
        local_copy("tfds:tiny", {"task": "object_detection"})
    with pytest.raises(DataError, match=r"has no feature with masks\. Features: image \(Image\), label"):
        local_copy("tfds:tiny", {"task": "semantic_segmentation"})
    with pytest.raises(DataError, match=r"The feature 'label' of tiny/1\.0\.0 \(ClassLabel\) has no masks \(label=\)"):
        local_copy("tfds:tiny", {"task": "semantic_segmentation", "label": "label"})
