"""Faults in annotation files: each is named with file and line or object, and no file leads out of its folder."""

import re
import shutil

import pytest
import yaml
from boxed_pictures import (
    as_coco,
    as_table,
    as_voc,
    as_yolo,
    coco_with,
    given_yaml,
    pictures,
    voc_text,
    write_coco,
    write_yolo,
)
from PIL import Image

from tfft.errors import DataError
from tfft.tasks.object_detection.data import load_boxes, read_boxes
from tfft.tasks.object_detection.formats import read_annotations

COCO_FAULTS = {
    "annotation without picture": (
        {"annotations": lambda found: found[1].update(image_id=99)},
        r"annotations\[1\] \(id 1\) refers to the image 99, which is not in .images.",
    ),
    "unknown category": (
        {"annotations": lambda found: found[2].update(category_id=1)},
        r"annotations\[2\] .* has the category 1, which is not in .categories.",
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
        "the image 50 annotates .*a.png, which .*the image 10 annotates too",
    ),
    "reversed": (
        {"annotations": lambda found: found[0].update(bbox=[30, 20, -27, -18])},
        r"annotations\[0\] \(id 0\): the box .* is reversed",
    ),
    "in shares": (
        {"annotations": lambda found: found[0].update(bbox=[0.1, 0.1, 0.5, 0.5])},
        r"annotations\[0\] \(id 0\): the box .* is in shares of the image",
    ),
    "outside": (
        {"annotations": lambda found: found[5].update(bbox=[70, 2, 40, 10])},
        r"annotations\[5\] \(id 5\): the box .* reaches 30 pixels out of the image of 30 x 80",
    ),
    "other size": (
        {"images": lambda found: found[0].update(height=400, width=600)},
        "annotated with 400 x 600 pixels .* but it has 40 x 60",
    ),
    "no file": (
        {"images": lambda found: found[0].update(file_name="gone.png")},
        "the image 10 names the image .*gone.png, which is missing",
    ),
    "a file above": (
        {"images": lambda found: found[0].update(file_name="../a.png")},
        r"file_name '../a.png', which leads out of the image folder",
    ),
    "an absolute file": (
        {"images": lambda found: found[0].update(file_name="/etc/passwd")},
        r"file_name '/etc/passwd', which leads out of the image folder",
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


@pytest.mark.slow
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
    with pytest.raises(DataError, match=r"at most 500 MB.* Received: .*a.json of 501 MB. Split it"):
        read_annotations(file)


VOC_FAULTS = {
    "no number": ("<xmin>4<", "<xmin>four<", "a.xml: object 1 has the box .*xmin 'four'.* Expected four numbers"),
    "no box": ("bndbox", "box", "a.xml: object 1 has the box .*None"),
    "no name": ("<name>cat</name>", "", "a.xml: object 1 has no <name>"),
    "not closed": ("</annotation>", "", "a.xml cannot be read as XML"),
    "another file": ("annotation>", "html>", "a.xml holds <html>. Expected a VOC annotation in <annotation>"),
    "outside": ("<xmax>30<", "<xmax>90<", "a.xml: object 1: the box .* reaches 30 pixels out"),
    "reversed": ("<xmax>30<", "<xmax>1<", "a.xml: object 1: the box .* is reversed"),
    "the size": ("<width>60<", "<width>61<", "a.xml: .*a.png was annotated with 40 x 61 pixels"),
    "above": ("<filename>a.png", "<filename>../../a.png", "leads out of the image folder"),
    "windows": ("<filename>a.png", "<filename>C:\\data\\a.png", "leads out of the image folder"),
    "gone": ("<filename>a.png", "<filename>gone.png", "a.xml names the image .*gone.png, which is missing"),
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
    with pytest.raises(DataError, match="'a.png', which is a link that leads out of the image folder"):
        load_boxes(root)
    (root / "images" / "a.png").unlink()
    shutil.move(tmp_path / "elsewhere.png", root / "images" / "moved.png")
    (root / "images" / "a.png").symlink_to(root / "images" / "moved.png")
    assert len(read_annotations(root).pictures) == 5, "a link within the folder is fine"
    (tmp_path / "link").symlink_to(root)
    assert len(read_annotations(tmp_path / "link").pictures) == 5, "the folder itself may be a link"


YOLO_FAULTS = {
    "pixels": ("0 30 20 10 10", r"a.txt:1 is in pixels \(30 20 10 10\). Expected shares of the image: divide x"),
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
    with pytest.raises(DataError, match="lost.txt names the image .*lost, which is missing"):
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
    with pytest.raises(DataError, match="at least one object to learn. Received: 5 images"):
        load_boxes(root)
    write_coco(root / "train.json", names=("c.png", "e.png"))
    write_coco(root / "val.json", names=("b.png",))
    with pytest.raises(DataError, match="The classes 'dog' of .* have no object to learn from"):
        load_boxes((root / "train.json", root / "val.json"), images=root / "images")
