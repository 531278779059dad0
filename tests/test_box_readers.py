"""Readers of boxes: every format gives the same labels, parts are kept, and sources are recognized."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pandas
import pytest
import yaml
from boxed_pictures import (
    FORMS,
    GIVEN,
    NAMES,
    OBJECTS,
    SIZES,
    as_coco,
    as_plain_table,
    as_voc,
    as_yolo,
    coco_with,
    detection,  # noqa: F401
    given_yaml,
    paths_of,
    pictures,
    truth,
    write_coco,
    write_table,
    write_voc,
    write_yolo,
)
from PIL import Image

import tfft
from tfft import cli
from tfft.config import RunConfig
from tfft.data import load
from tfft.errors import DataError, PlanError
from tfft.inspection import check_splits
from tfft.recipes.run_data import load_run_data
from tfft.tasks.object_detection.annotations import encode, fit_to_image
from tfft.tasks.object_detection.data import load_boxes, read_boxes
from tfft.tasks.object_detection.drawing import class_colour
from tfft.tasks.object_detection.formats import read_annotations, recognize

FORM_NAMES = {
    "coco": "COCO", "roboflow": "COCO", "voc": "Pascal VOC", "small voc": "Pascal VOC", "voc beside": "Pascal VOC",
    "yolo": "YOLO", "yolo without yaml": "YOLO", "table": "a table of boxes", "semicolons": "a table of boxes",
    "lines": "a table of boxes", "labelme": "LabelMe", "cvat": "CVAT", "label studio": "Label Studio",
}  # fmt: skip


def objects_of(annotations):
    """The objects in whole pixels, as the writers take them."""
    found = []
    for one, name in zip(annotations.pictures, paths_of(annotations), strict=True):
        fitted = fit_to_image(one, *SIZES[name])
        assert not fitted.faults
        boxes = np.round(fitted.picture.boxes).astype(int).tolist()
        found += [(name, label, tuple(box)) for label, box in zip(one.class_names, boxes, strict=True)]
    return tuple(found)


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_labels(tmp_path, form):
    source = FORMS[form](tmp_path)
    assert recognize(source).form == FORM_NAMES[form]
    examples = read_boxes(source, NAMES)
    assert [os.path.basename(path) for path in examples.paths] == list(SIZES)
    np.testing.assert_allclose(examples.labels, encode(truth(tmp_path), NAMES), atol=1e-6)
    places = [place for one in read_annotations(source).pictures for place in one.places]
    assert all(str(tmp_path) in place for place in places)
    assert len(set(places)) == len(OBJECTS)


def test_a_table_without_a_header_is_read_and_a_data_frame_too(tmp_path):
    source = as_plain_table(tmp_path)
    assert objects_of(read_annotations(source)) == OBJECTS
    frame = pandas.read_csv(source, names=["path", "x1", "y1", "x2", "y2", "category"])
    assert objects_of(read_annotations(frame, tmp_path)) == OBJECTS


def test_boxes_survive_a_tour_through_all_formats(tmp_path):
    images = pictures(tmp_path / "images")
    first = read_annotations(write_coco(tmp_path / "a.json"))
    second = read_annotations(write_voc(tmp_path / "xml", objects_of(first)), images)
    (tmp_path / "labels").mkdir()
    write_yolo(tmp_path / "labels", objects_of(second))
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"names": {0: "cat", 1: "dog"}, "train": "images"}))
    third = read_annotations(tmp_path / "data.yaml")
    fourth = read_annotations(write_table(tmp_path / "t.tsv", objects_of(third), "\t"), images)
    last = read_annotations(write_coco(tmp_path / "b.json", objects_of(fourth)))
    assert objects_of(last) == OBJECTS


def test_shares_and_widths_in_a_table_are_known_by_their_values_and_columns(tmp_path):
    pictures(tmp_path)
    rows = [("ImageID", "LabelName", "XMin", "YMin", "XMax", "YMax"), ("a", "cat", 0.05, 0.05, 0.5, 0.5)]
    (tmp_path / "shares.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    [one] = read_annotations(tmp_path / "shares.csv").pictures
    assert one.normalized
    assert one.path.endswith("a.png")
    (tmp_path / "sized.csv").write_text("image,name,x,y,w,h\na.png,cat,3,2,27,18\n")
    assert read_annotations(tmp_path / "sized.csv").pictures[0].boxes.tolist() == [[2, 3, 20, 30]]


def test_classes_are_in_the_order_of_the_file_and_known_by_name(tmp_path):
    assert load_boxes(as_coco(tmp_path / "coco")).class_names == ("cat", "dog"), "by id"
    root = as_yolo(tmp_path / "yolo")
    (root / "data.yaml").write_text(yaml.safe_dump({"names": ["dog", "bird", "cat"], "train": "images"}))
    for file in (root / "labels").iterdir():
        file.write_text(file.read_text().replace("\n0 ", "\n2 ").replace("\n1 ", "\n0 "))
        text = file.read_text()
        file.write_text({"0": "2", "1": "0"}[text[0]] + text[1:])
    splits = load_boxes(root)
    assert splits.class_names == ("dog", "cat"), "a class without objects cannot be learned"
    assert splits.train.join(splits.validation).counts == {"dog": 3, "cat": 3}
    with pytest.raises(DataError, match="classes that the model does not have: dog. Expected: cat"):
        read_boxes(tmp_path / "coco", ("cat",))


def test_crowds_and_difficult_objects_are_neither_objects_nor_background(tmp_path):
    root = as_coco(tmp_path / "coco")
    file = root / "annotations" / "instances.json"
    content = json.loads(file.read_text())
    content["annotations"][0] |= {"iscrowd": 1, "segmentation": {"counts": [1, 2], "size": [40, 60]}}
    file.write_text(json.dumps(content))
    other = as_voc(tmp_path / "voc")
    xml = other / "Annotations" / "a.xml"
    xml.write_text(xml.read_text().replace("<difficult>0", "<difficult>1", 1))
    for source in (root, other):
        assert read_boxes(source, NAMES).labels[0, :, 0].tolist() == [-2, 1]


def test_polygons_in_yolo_files_count_as_their_boxes(tmp_path):
    root = as_yolo(tmp_path)
    (root / "labels" / "b.txt").write_text("1 0.1 0.2 0.5 0.3 0.3 0.9\n")
    one = next(one for one in read_annotations(root).pictures if one.path.endswith("b.png"))
    assert one.boxes.tolist() == [[0.2, 0.1, 0.9, 0.5]]


def test_voc_files_that_count_from_zero_are_not_shifted(tmp_path):
    root = as_voc(tmp_path)
    xml = root / "Annotations" / "a.xml"
    xml.write_text(xml.read_text().replace("<xmin>4<", "<xmin>0<"))
    annotations = read_annotations(root)
    assert annotations.pictures[0].boxes[0].tolist() == [3, 0, 20, 30]
    assert any("counted from 0" in note for note in annotations.notes)


# --- parts


def parts_of(splits):
    return [sorted(map(os.path.basename, part.paths)) for part in splits.parts.values()]


def given_roboflow(root):
    for folder, names in zip(("train", "valid"), GIVEN, strict=True):
        pictures(root / folder, names)
        write_coco(root / folder / "_annotations.coco.json", names=names)
    shutil.copytree(root / "valid", root / "test")
    return root


def given_coco(root):
    for folder, names in zip(("train2017", "val2017"), GIVEN, strict=True):
        pictures(root / folder, names)
        write_coco(root / "annotations" / f"instances_{folder}.json", names=names)
    return root


def given_sets(root):
    as_voc(root)
    sets = root / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    for file, names in zip(("train.txt", "val.txt"), GIVEN, strict=True):
        (sets / file).write_text("".join(f"{name.removesuffix('.png')}\n" for name in names))
    (sets / "trainval.txt").write_text("a\n")
    return root


def given_tables(root):
    for folder, names in zip(("train", "valid"), GIVEN, strict=True):
        pictures(root / folder, names)
        write_table(root / folder / "_annotations.csv", names=names)
    return root


def given_pair(root):
    pictures(root / "images")
    return tuple(write_coco(root / f"{at}.json", names=names) for at, names in enumerate(GIVEN))


@pytest.mark.parametrize("make", [given_roboflow, given_coco, given_sets, given_yaml, given_tables, given_pair])
def test_given_parts_are_kept(tmp_path, detection, make):  # noqa: F811
    source = make(tmp_path)
    splits = load(source, task="object_detection", seed=3)
    assert parts_of(splits) == GIVEN
    assert splits.split_from.startswith("the parts of")
    assert splits.train.class_names == splits.validation.class_names == ("cat", "dog")
    assert splits.test_folder == (str(tmp_path / "test") if make is given_roboflow else None)
    if splits.test_folder is not None:  # a run measures it alone: none of the other parts
        tested = read_boxes(splits.test_folder, splits.class_names)
        assert {os.path.dirname(path) for path in tested.paths} == {splits.test_folder}


def test_the_test_images_of_voc_lists_are_measured_alone(tmp_path, detection):  # noqa: F811
    given_sets(tmp_path)
    lists = tmp_path / "ImageSets" / "Main"
    (lists / "test.txt").write_text((lists / "val.txt").read_text())
    (lists / "val.txt").write_text(f"{GIVEN[0][0].removesuffix('.png')}\n")
    (lists / "train.txt").write_text("".join(f"{name.removesuffix('.png')}\n" for name in GIVEN[0][1:]))
    splits = load(tmp_path, task="object_detection")
    assert splits.test_folder == str(lists / "test.txt")
    tested = read_boxes(splits.test_folder, splits.class_names)
    assert sorted(map(os.path.basename, tested.paths)) == GIVEN[1]
    assert read_annotations(lists / "train.txt").form == "Pascal VOC"


def test_the_test_folder_of_a_yolo_folder_has_the_names_of_its_description(tmp_path, detection):  # noqa: F811
    for folder, names in (("train", GIVEN[0]), ("valid", GIVEN[1]), ("test", GIVEN[1])):
        pictures(tmp_path / folder / "images", names)
        write_yolo(tmp_path / folder / "labels", names=names)
    content = {"train": "../train/images", "val": "../valid/images", "test": "../test/images", "names": list(NAMES)}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
    splits = load(tmp_path, task="object_detection")
    assert splits.test_folder == str(tmp_path / "test")
    tested = read_boxes(splits.test_folder, splits.class_names)
    assert np.array_equal(tested.labels, splits.validation.labels[:, : tested.labels.shape[1]])


def test_a_drawn_split_depends_on_names_and_keeps_duplicates_together(tmp_path):
    names = [f"{at}.png" for at in range(20)]
    pictures(tmp_path, names)
    for at in range(10):
        shutil.copy(tmp_path / f"{at}.png", tmp_path / f"{at + 10}.png")
    rows = [("filename", "class", "xmin", "ymin", "xmax", "ymax")]
    rows += [(name, "rare" if at in (0, 5) else "common", 1, 1, 20, 20) for at, name in enumerate(names)]
    (tmp_path / "boxes.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    splits = load_boxes(tmp_path, validation=0.3)
    assert len(splits.leaked) == 0
    assert len(splits.duplicates) >= 10
    assert splits.train.counts["rare"]
    assert 4 <= len(splits.validation) <= 8
    assert parts_of(load_boxes(tmp_path, validation=0.3)) == parts_of(splits)
    groups = load_boxes(tmp_path, validation=0.3, group=r"(\d)\.png").groups
    assert groups is not None
    assert set(groups) == set("0123456789")


def test_a_split_can_be_that_of_an_earlier_run(tmp_path):
    root = as_coco(tmp_path / "data")
    splits = load_boxes(root)
    tfft.data.write_split(tmp_path / "split.csv", splits.items)
    again = load_boxes(root, validation=tmp_path / "split.csv", seed=9)
    assert parts_of(again) == parts_of(splits)
    assert "split.csv" in again.split_from


# --- recognition, settings, checks


def test_a_folder_without_annotations_is_told_what_was_looked_for(tmp_path):
    pictures(tmp_path / "photos")
    with pytest.raises(
        DataError, match="(?s)without any. Looked for:.*COCO: .*Pascal VOC: .*YOLO: .*a table"
    ) as caught:
        recognize(tmp_path)
    assert "data.yaml" in str(caught.value)
    with pytest.raises(DataError, match="does not exist. Did you mean 'photos'"):
        recognize(tmp_path / "photo")
    with pytest.raises(DataError, match="Expected a folder or file with annotations. Received: int"):
        recognize(3)
    write_coco(tmp_path / "a.json")
    write_voc(tmp_path / "Annotations")
    with pytest.raises(
        DataError, match="annotations in one format. Received: .* COCO .* Pascal VOC .* Give one of them"
    ):
        recognize(tmp_path)
    shutil.rmtree(tmp_path / "Annotations")
    write_coco(tmp_path / "b.json")
    with pytest.raises(DataError, match="one annotation file per part. Received: .*a.json, .*b.json"):
        recognize(tmp_path)


def test_pictures_elsewhere_are_named_with_images(tmp_path, detection):  # noqa: F811
    """As a call has it, and as the command line has it."""
    file = write_coco(tmp_path / "labels" / "boxes.json")
    pictures(tmp_path / "far" / "photos")
    with pytest.raises(DataError, match=r"images of .*boxes.json were not found, such as 'a.png'.*images='...'"):
        load(file, task="object_detection")
    splits = load(file, task="object_detection", images=tmp_path / "far")
    assert len(splits.train) + len(splits.validation) == 5
    config = RunConfig(task="object_detection", images=str(tmp_path / "far"))
    data = load_run_data(file, config)
    assert data.modality.items == "images with boxes"
    assert data.splits.fingerprint() == splits.fingerprint()
    assert "images: 5 in COCO" in data.report
    with pytest.raises(PlanError, match="augment=rand cannot augment images with boxes. .* expected: flip, crop"):
        load_run_data(file, dataclasses.replace(config, augment="rand"))
    with pytest.raises(DataError, match="Expected images= to be a folder of images"):
        load(file, task="object_detection", images=tmp_path / "nowhere")
    with pytest.raises(DataError, match="images='x' does not apply to a folder of images"):
        load(tmp_path / "far", images="x")
    with pytest.raises(PlanError, match="images: Expected a handle or path or None. Received: 3"):
        RunConfig(images=3).check()


@pytest.mark.parametrize("form", ["coco", "roboflow", "voc", "small voc", "yolo", "yolo without yaml", "table"])
def test_without_a_task_the_first_sentence_names_it(tmp_path, detection, form):  # noqa: F811
    source = FORMS[form](tmp_path)
    sentence = rf"^Pass task='object_detection' \(--task object_detection\) for .*holds {FORM_NAMES[form]} annotations"
    with pytest.raises(DataError, match=sentence):
        load(source)
    with pytest.raises(DataError, match=sentence):
        tfft.check(source)


def test_class_folders_stay_class_folders(tmp_path, detection):  # noqa: F811
    """Text files, tables and JSON beside pictures do not make annotations of them."""
    for folder in ("cats", "dogs"):
        pictures(tmp_path / folder)
        (tmp_path / folder / "notes.txt").write_text("five words in a line here")
    (tmp_path / "meta.json").write_text('{"images": 3}')
    assert load(tmp_path).task == "classification"


def test_the_report_and_the_check_show_what_is_there(tmp_path, detection, capsys):  # noqa: F811
    root = as_coco(tmp_path)
    extra = {"image_id": 12, "category_id": 3, "bbox": [5, 6, 36, 27]}
    coco_with(
        root,
        annotations=lambda found: found.extend(
            [{**extra, "id": 50, "category_id": 9}, {**extra, "id": 51}, {**extra, "id": 51, "bbox": [0, 0, 0, 9]}]
        ),
        categories=lambda found: found.append({"id": 9, "name": "Cat "}),
    )
    splits = load(root, task="object_detection")
    text = str(splits.report)
    assert "images: 5 in COCO (train 4, validation 1), 1 without objects" in text
    assert "objects: 8 (cat 4, dog 3, Cat  1), at most 3 in an image, median size 28 x 36 pixels" in text
    assert "1 box is left out (no area), such as" in text
    assert "an id that another one has" in text
    found = {one.kind: one for one in check_splits(splits).findings}
    assert str(found["class-twins"].items[0]) == "'cat', 'Cat '"
    assert len(found["two-classes"].items) == 2
    assert "has 'cat' and 'Cat ' at (top 5" in str(found["two-classes"])
    assert "has 'cat' twice at" in str(found["box-copy"].items[0])
    assert cli.main(["check", str(root), "--task", "object_detection", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["counts"]["train"].keys() == {"cat", "dog", "Cat "}
    assert {"class-twins", "two-classes"} <= {one["kind"] for one in report["findings"]}


@pytest.mark.slow
def test_a_preview_shows_boxes_on_their_pixels(tmp_path, detection, capsys):  # noqa: F811
    root = as_voc(tmp_path / "data")
    out = tmp_path / "grid.png"
    options = ["--task", "object_detection", "--image-size", "48", "--rows", "1", "--columns", "4", "--augment", "flip"]
    assert cli.main(["preview", str(root), "--out", str(out), *options]) == 0
    grid = np.asarray(Image.open(out))
    assert grid.shape == (48, 4 * 52 - 4, 3)
    assert all((grid[:, 52 * at : 52 * at + 48] == class_colour(0)).all(axis=-1).any() for at in range(4))
