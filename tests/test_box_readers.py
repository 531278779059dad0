"""Readers of boxes: every format gives the same labels, every fault is named, and no file leads out of its folder."""

import dataclasses
import json
import os
import re
import shutil

import numpy as np
import pandas
import pytest
import yaml
from boxed_pictures import (
    FORMS,
    NAMES,
    OBJECTS,
    SIZES,
    as_coco,
    as_plain_table,
    as_table,
    as_voc,
    as_yolo,
    detection,  # noqa: F401
    paths_of,
    pictures,
    truth,
    voc_text,
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
from tfft.tasks.object_detection.annotations import encode, fit_to_picture
from tfft.tasks.object_detection.data import load_boxes, read_boxes
from tfft.tasks.object_detection.formats import read_annotations, recognise

FORM_NAMES = {
    "coco": "COCO", "roboflow": "COCO", "voc": "Pascal VOC", "small voc": "Pascal VOC", "voc beside": "Pascal VOC",
    "yolo": "YOLO", "yolo without yaml": "YOLO", "table": "a table of boxes", "semicolons": "a table of boxes",
    "lines": "a table of boxes",
}  # fmt: skip


def objects_of(annotations):
    """The objects in whole pixels, as the writers take them."""
    found = []
    for one, name in zip(annotations.pictures, paths_of(annotations), strict=True):
        fitted = fit_to_picture(one, *SIZES[name])
        assert not fitted.faults
        boxes = np.round(fitted.picture.boxes).astype(int).tolist()
        found += [(name, label, tuple(box)) for label, box in zip(one.class_names, boxes, strict=True)]
    return tuple(found)


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_labels(tmp_path, form):
    source = FORMS[form](tmp_path)
    assert recognise(source).form == FORM_NAMES[form]
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
    assert one.normalised
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


GIVEN = [["a.png", "c.png", "d.png"], ["b.png", "e.png"]]


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


def given_yaml(root):
    for folder, names in zip(("train", "valid"), GIVEN, strict=True):
        pictures(root / folder / "images", names)
        write_yolo(root / folder / "labels", names=names)
    description = {"names": ["cat", "dog"], "nc": 2, "train": "../train/images", "val": "../valid/images"}
    (root / "data.yaml").write_text(yaml.safe_dump(description))
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
    assert (splits.test_folder is not None) == (make is given_roboflow)


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


# --- faults


def coco_with(root, **changes):
    file = root / "annotations" / "instances.json"
    content = json.loads(file.read_text())
    for key, change in changes.items():
        change(content[key])
    file.write_text(json.dumps(content))


COCO_FAULTS = {
    "annotation without picture": (
        {"annotations": lambda found: found[1].update(image_id=99)},
        r"annotations\[1\] \(id 1\) belongs to the picture 99, which images does not list",
    ),
    "unknown category": (
        {"annotations": lambda found: found[2].update(category_id=1)},
        r"annotations\[2\] .* has the category 1, which categories does not list",
    ),
    "no bbox": (
        {"annotations": lambda found: found[0].update(bbox=[1, 2, float("nan"), 3])},
        r"annotations\[0\].*Expected \[left, top, width, height\]",
    ),
    "picture id twice": (
        {"images": lambda found: found[1].update(id=10)},
        r"images\[1\] has the id 10, which an earlier one has too",
    ),
    "category id twice": (
        {"categories": lambda found: found.append({"id": 7, "name": "bird"})},
        r"categories\[2\] has the id 7, which an earlier one has too",
    ),
    "picture twice": (
        {"images": lambda found: found.append({"id": 50, "file_name": "a.png"})},
        "the picture 50 annotates .*a.png, which .*the picture 10 annotates too",
    ),
    "reversed": (
        {"annotations": lambda found: found[0].update(bbox=[30, 20, -27, -18])},
        r"annotations\[0\] \(id 0\): the box .* is reversed",
    ),
    "in shares": (
        {"annotations": lambda found: found[0].update(bbox=[0.1, 0.1, 0.5, 0.5])},
        r"annotations\[0\] \(id 0\): the box .* is in shares of the picture",
    ),
    "outside": (
        {"annotations": lambda found: found[5].update(bbox=[70, 2, 40, 10])},
        r"annotations\[5\] \(id 5\): the box .* reaches 30 pixels out of the picture of 30 x 80",
    ),
    "other size": (
        {"images": lambda found: found[0].update(height=400, width=600)},
        "annotated with 400 x 600 pixels .* but it has 40 x 60",
    ),
    "no file": (
        {"images": lambda found: found[0].update(file_name="gone.png")},
        "the picture 10 names the picture .*gone.png, which is missing",
    ),
    "a file above": (
        {"images": lambda found: found[0].update(file_name="../a.png")},
        r"file_name '../a.png', which leads out of the picture folder",
    ),
    "an absolute file": (
        {"images": lambda found: found[0].update(file_name="/etc/passwd")},
        r"file_name '/etc/passwd', which leads out of the picture folder",
    ),
}


@pytest.mark.parametrize("fault", COCO_FAULTS)
def test_a_fault_in_a_coco_file_is_named(tmp_path, fault):
    changes, sentence = COCO_FAULTS[fault]
    root = as_coco(tmp_path)
    coco_with(root, **changes)
    with pytest.raises(DataError, match=sentence):
        load_boxes(root, strict=True)


def test_all_faults_come_in_one_error(tmp_path):
    root = as_coco(tmp_path)
    coco_with(
        root,
        annotations=lambda found: (found[0].update(image_id=99), found[1].update(bbox=[]), found[2].update(bbox=None)),
        images=lambda found: found[3].update(file_name="../d.png"),
    )
    with pytest.raises(DataError, match=r"cannot be used \(4 problems\)") as caught:
        load_boxes(root)
    for part in ("annotations[0]", "annotations[1]", "annotations[2]", "'../d.png'"):
        assert part in str(caught.value)


def test_a_file_that_is_not_coco_is_refused(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("{")
    with pytest.raises(DataError, match="a.json is not valid JSON"):
        read_annotations(file)
    file.write_text("[1]")
    with pytest.raises(
        DataError, match="a list without images and annotations and categories. Export the data as COCO"
    ):
        read_annotations(file)
    with open(file, "wb") as opened:
        opened.truncate(501_000_000)
    with pytest.raises(DataError, match=r"at most 500 MB.* Received: .*a.json of 501 MB. Divide it"):
        read_annotations(file)


VOC_FAULTS = {
    "no number": ("<xmin>4<", "<xmin>four<", "a.xml: object 1 has the box .*xmin 'four'.* Expected four numbers"),
    "no box": ("bndbox", "box", "a.xml: object 1 has the box .*None"),
    "no name": ("<name>cat</name>", "", "a.xml: object 1 has no <name>"),
    "not closed": ("</annotation>", "", "a.xml cannot be read as XML"),
    "another file": ("annotation>", "html>", "a.xml holds <html>. Expected a VOC <annotation>"),
    "outside": ("<xmax>30<", "<xmax>90<", "a.xml: object 1: the box .* reaches 30 pixels out"),
    "reversed": ("<xmax>30<", "<xmax>1<", "a.xml: object 1: the box .* is reversed"),
    "the size": ("<width>60<", "<width>61<", "a.xml: .*a.png was annotated with 40 x 61 pixels"),
    "above": ("<filename>a.png", "<filename>../../a.png", "leads out of the picture folder"),
    "windows": ("<filename>a.png", "<filename>C:\\data\\a.png", "leads out of the picture folder"),
    "gone": ("<filename>a.png", "<filename>gone.png", "a.xml names the picture .*gone.png, which is missing"),
}


@pytest.mark.parametrize("fault", VOC_FAULTS)
def test_a_fault_in_a_voc_file_is_named(tmp_path, fault):
    old, new, sentence = VOC_FAULTS[fault]
    root = as_voc(tmp_path)
    file = root / "Annotations" / "a.xml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(DataError, match=sentence):
        load_boxes(root, strict=True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_a_hostile_xml_file_is_refused(tmp_path, encoding):
    """Entities that expand without end, or that read files, in any encoding that the parser knows."""
    root = as_voc(tmp_path)
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    entities = f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{secret}"><!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    text = voc_text("a.png", [("&b;", (0, 0, 9, 9))], (40, 60))
    content = f'<?xml version="1.0" encoding="{encoding}"?>{entities}{text}'
    (root / "Annotations" / "a.xml").write_bytes(content.encode(encoding))
    with pytest.raises(DataError, match="a.xml has a DOCTYPE, which an annotation does not need") as caught:
        load_boxes(root)
    assert "secret\n" not in str(caught.value)


def test_no_link_leads_out_of_the_picture_folder(tmp_path):
    root = as_coco(tmp_path / "data")
    shutil.move(root / "images" / "a.png", tmp_path / "elsewhere.png")
    (root / "images" / "a.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(DataError, match="'a.png', which is a link that leads out of the picture folder"):
        load_boxes(root)
    (root / "images" / "a.png").unlink()
    shutil.move(tmp_path / "elsewhere.png", root / "images" / "moved.png")
    (root / "images" / "a.png").symlink_to(root / "images" / "moved.png")
    assert len(read_annotations(root).pictures) == 5, "a link within the folder is fine"
    (tmp_path / "link").symlink_to(root)
    assert len(read_annotations(tmp_path / "link").pictures) == 5, "the folder itself may be a link"


YOLO_FAULTS = {
    "pixels": ("0 30 20 10 10", r"a.txt:1 is in pixels \(30 20 10 10\). Expected shares of the picture: divide x"),
    "class": ("2 0.5 0.5 0.1 0.1", r"a.txt:1 has the class 2. Expected 0 to 1 \(cat, dog\)"),
    "half a class": ("0.5 0.5 0.5 0.1 0.1", "a.txt:1 has the class 0.5"),
    "words": ("cat 0.5 0.5 0.1 0.1", "a.txt:1 has 'cat 0.5 .*'. Expected: class centre-x centre-y width height"),
    "six numbers": ("0 0.5 0.5 0.1 0.1 0.9", "a.txt:1 has .* Expected: class centre-x centre-y width height, five"),
    "outside": ("0 0.9 0.5 0.6 0.2", r"a.txt:1: the box .* reaches 12 pixels out"),
}


@pytest.mark.parametrize("fault", YOLO_FAULTS)
def test_a_fault_in_a_yolo_file_is_named(tmp_path, fault):
    line, sentence = YOLO_FAULTS[fault]
    root = as_yolo(tmp_path)
    (root / "labels" / "a.txt").write_text(f"{line}\n1 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=sentence):
        load_boxes(root, strict=True)


def test_a_yolo_description_does_not_lead_out_of_its_folder(tmp_path):
    pictures(tmp_path / "outside")
    root = as_yolo(tmp_path / "data")
    (root / "images").rename(root / "photos")
    (root / "photos").rename(tmp_path / "photos")
    (root / "data.yaml").write_text(yaml.safe_dump({"names": ["cat", "dog"], "train": "../outside", "val": "/etc"}))
    with pytest.raises(DataError, match=r"train: '../outside' is not below .*data. Write the folder"):
        load_boxes(root)
    shutil.copytree(tmp_path / "outside", root / "images")
    (root / "labels" / "lost.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (root / "data.yaml").write_text(yaml.safe_dump({"names": ["cat", "dog"], "train": "images"}))
    with pytest.raises(DataError, match="lost.txt names the picture .*lost, which is missing"):
        load_boxes(root, strict=True)


def test_labels_of_a_part_that_is_not_read_are_not_missing_pictures(tmp_path):
    root = given_yaml(tmp_path)
    pictures(root / "test" / "images", ["b.png"])
    write_yolo(root / "test" / "labels", names=["b.png"])
    (root / "train" / "labels" / "README.txt").write_text("about these pictures")
    assert not load_boxes(root, strict=True).skipped


def test_hostile_values_are_refused_in_few_words(tmp_path):
    """Lists in lists that would be a text of many gigabytes, and numbers beyond all floats."""
    root = as_yolo(tmp_path / "yolo")
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]\n" for at in range(1, 12))
    (root / "data.yaml").write_text(f"{bomb}names: [*a11]\ntrain: *a11\n")
    with pytest.raises(DataError, match="Expected names in .* to be a list of class names"):
        load_boxes(root)
    (root / "data.yaml").write_text(f"{bomb}names: [cat, dog]\ntrain: [*a11]\n")
    with pytest.raises(DataError, match="train: '' is not below"):
        load_boxes(root)
    other = as_coco(tmp_path / "coco")
    coco_with(
        other,
        annotations=lambda found: (found[0].update(bbox=[10**400, 1, 2, 3]), found[1].update(image_id=[[7] * 10**6])),
        images=lambda found: found[4].update(file_name="x" * 5000),
    )
    with pytest.raises(DataError, match=r"(?s)annotations\[0\].* has the bbox \[1000") as caught:
        load_boxes(other)
    assert len(str(caught.value)) < 2000


TABLE_FAULTS = {
    "number": ("a.png,cat,3,", "a.png,cat,x,", r"boxes.csv:2 has left 'x'. Expected four numbers"),
    "class": ("a.png,cat", "a.png,", "boxes.csv:2 has a box without a class"),
    "columns": ("xmin", "from", "of which none is left. Rename them, or name those of the files and classes"),
    "above": ("a.png,cat", "../a.png,cat", "boxes.csv:2 has the file '../a.png', which leads out of"),
    "outside": ("3,2,30,20", "3,2,90,20", "boxes.csv:2: the box .* reaches 30 pixels out"),
}


@pytest.mark.parametrize("fault", TABLE_FAULTS)
def test_a_fault_in_a_table_is_named(tmp_path, fault):
    old, new, sentence = TABLE_FAULTS[fault]
    file = as_table(tmp_path)
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=sentence):
        load_boxes(file, strict=True)


def test_one_faulty_picture_of_many_is_left_out_as_a_whole(tmp_path):
    names = [f"{at}.png" for at in range(12)]
    pictures(tmp_path, names)
    rows = ["filename,class,xmin,ymin,xmax,ymax"] + [f"{name},cat,1,1,20,20" for name in names]
    rows += ["3.png,cat,1,1,200,20"]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    splits = load_boxes(tmp_path)
    [skipped] = splits.skipped
    assert skipped.path.endswith("3.png")
    assert re.match(r"is left out: .*boxes.csv:14: the box", skipped.reason)
    assert len(splits.train) + len(splits.validation) == 11
    (tmp_path / "5.png").unlink()
    with pytest.raises(DataError, match="5.png, which is missing"):  # two of twelve have one cause
        load_boxes(tmp_path)


def test_a_turned_photo_is_upright_and_one_annotated_before_turning_is_named(tmp_path):
    pictures(tmp_path)
    exif = Image.Exif()
    exif[274] = 6
    Image.open(tmp_path / "a.png").convert("RGB").save(tmp_path / "a.jpg", exif=exif)  # stored as 40 x 60
    (tmp_path / "a.png").unlink()
    content = voc_text("a.jpg", [("cat", (0, 0, 60, 40))], (60, 40))
    (tmp_path / "a.xml").write_text(content)
    assert read_boxes(tmp_path, ("cat",)).labels[0, 0].tolist() == [0, 0, 0, 1, 1, 60, 40]
    (tmp_path / "a.xml").write_text(voc_text("a.jpg", [("cat", (0, 0, 40, 60))], (40, 60)))
    with pytest.raises(DataError, match="annotated with 40 x 60 .* EXIF orientation turns it to 60 x 40"):
        read_boxes(tmp_path, ("cat",))


def test_data_without_anything_to_learn_is_refused(tmp_path):
    root = as_coco(tmp_path)
    coco_with(root, annotations=lambda found: found.clear())
    with pytest.raises(DataError, match="at least one object to learn. Received: 5 pictures"):
        load_boxes(root)
    write_coco(root / "train.json", names=("c.png", "e.png"))
    write_coco(root / "val.json", names=("b.png",))
    with pytest.raises(DataError, match="The classes 'dog' of .* have no object to learn from"):
        load_boxes((root / "train.json", root / "val.json"), images=root / "images")


# --- recognition, settings, checks


def test_a_folder_without_annotations_is_told_what_was_looked_for(tmp_path):
    pictures(tmp_path / "photos")
    with pytest.raises(
        DataError, match="(?s)without any. Looked for:.*COCO: .*Pascal VOC: .*YOLO: .*a table"
    ) as caught:
        recognise(tmp_path)
    assert "data.yaml" in str(caught.value)
    with pytest.raises(DataError, match="does not exist. Did you mean 'photos'"):
        recognise(tmp_path / "photo")
    with pytest.raises(DataError, match="Expected a folder or file with annotations. Received: a int"):
        recognise(3)
    write_coco(tmp_path / "a.json")
    write_voc(tmp_path / "Annotations")
    with pytest.raises(
        DataError, match="annotations in one format. Received: .* COCO .* Pascal VOC .* Give one of them"
    ):
        recognise(tmp_path)
    shutil.rmtree(tmp_path / "Annotations")
    write_coco(tmp_path / "b.json")
    with pytest.raises(DataError, match="one annotation file per part. Received: .*a.json, .*b.json"):
        recognise(tmp_path)


def test_pictures_elsewhere_are_named_with_images(tmp_path, detection):  # noqa: F811
    """As a call has it, and as the command line has it."""
    file = write_coco(tmp_path / "labels" / "boxes.json")
    pictures(tmp_path / "far" / "photos")
    with pytest.raises(DataError, match=r"pictures of .*boxes.json were not found, such as 'a.png'.*images='...'"):
        load(file, task="object_detection")
    splits = load(file, task="object_detection", images=tmp_path / "far")
    assert len(splits.train) + len(splits.validation) == 5
    config = RunConfig(task="object_detection", images=str(tmp_path / "far"))
    data = load_run_data(file, config)
    assert data.modality.items == "images with boxes"
    assert data.splits.fingerprint() == splits.fingerprint()
    assert "pictures: 5 in COCO" in data.report
    with pytest.raises(PlanError, match="augment=rand cannot augment images with boxes. .* expected: flip, crop"):
        load_run_data(file, dataclasses.replace(config, augment="rand"))
    with pytest.raises(DataError, match="Expected images= to be the folder of the pictures"):
        load(file, task="object_detection", images=tmp_path / "nowhere")
    with pytest.raises(DataError, match="images='x' means nothing for a folder of images"):
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
    assert "pictures: 5 in COCO (train 4, validation 1), 1 without objects" in text
    assert "objects: 8 (cat 4, dog 3, Cat  1), at most 3 in a picture, median size 28 x 36 pixels" in text
    assert "1 boxes have no area and are left out, such as" in text
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


def test_a_preview_shows_boxes_on_their_pixels(tmp_path, detection, capsys):  # noqa: F811
    root = as_voc(tmp_path / "data")
    out = tmp_path / "grid.png"
    options = ["--task", "object_detection", "--image-size", "48", "--rows", "1", "--columns", "4", "--augment", "flip"]
    assert cli.main(["preview", str(root), "--out", str(out), *options]) == 0
    grid = np.asarray(Image.open(out))
    assert grid.shape == (48, 4 * 52 - 4, 3)
    assert all((grid[:, 52 * at : 52 * at + 48] == (230, 60, 40)).all(axis=-1).any() for at in range(4))
