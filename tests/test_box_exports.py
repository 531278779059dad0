"""Exports of annotation tools (LabelMe, CVAT, Label Studio): turned boxes, other shapes, and faults by their place."""

import json

import numpy as np
import pytest
from boxed_pictures import as_cvat, as_label_studio, as_labelme

from tfft.errors import DataError
from tfft.tasks.object_detection.data import load_boxes
from tfft.tasks.object_detection.formats import guess_format, read_annotations
from tfft.tasks.object_detection.source_files import hull, turned

FAULTS = {
    (as_labelme, "a.json"): {
        "no label": ('"label": "cat"', '"label": ""', r"a.json: shapes\[0\] has no label"),
        "no numbers": ('"points": [[3, 2]', '"points": [[3, "two"]', r"a.json: shapes\[0\] has no points"),
        "other shape": ('"polygon"', '"mask"', r"shapes\[0\] has the shape_type 'mask'. Expected rectangle, polygon"),
        "not json": ('"flags": {}', '"flags": {', "a.json is not valid JSON"),
        "size": ('"imageWidth": 60', '"imageWidth": 61', "a.json: .*annotated with 40 x 61 pixels"),
        "gone": ("images\\\\a.png", "gone.png", "a.json names the image .*gone.png, which is missing"),
    },
    (as_cvat, "annotations.xml"): {
        "no label": (
            '<polygon label="cat"',
            '<polygon label=""',
            r"annotations.xml: image 0 \(a.png\): polygon 1 has no",
        ),
        "no number": ('xtl="0"', 'xtl="left"', r"image 1 \(b.png\): box 1 has no corners of finite numbers"),
        "infinite": ('xbr="50"', 'xbr="inf"', r"image 1 \(b.png\): box 1 has no corners"),
        "above": ('name="a.png"', 'name="../a.png"', r"has the name '../a.png', which leads out of the image folder"),
        "hostile": ("<annotations>", "<!DOCTYPE a><annotations>", "annotations.xml has a DOCTYPE"),
        "a video": ("<meta>", '<track id="0"/><meta>', "tracks of a video. Export it as .CVAT for images 1.1."),
        "outside": ('xbr="50"', 'xbr="90"', r"image 1 \(b.png\): box 1: the box .* reaches 40 pixels out"),
    },
    (as_label_studio, "project-1.json"): {
        "no label": (
            '"rectanglelabels": ["cat"]',
            '"rectanglelabels": []',
            r"task 1 \(.*a.png\): result\[0\] has no label",
        ),
        "brush": ('"rectanglelabels": ["cat"]', '"brushlabels": ["cat"]', r"result\[0\] is a brush mask. Export"),
        "no size": ('"original_width": 60', '"original_width": null', r"result\[0\] has no original_width"),
        "no number": ('"x": 5.0', '"x": "left"', r"result\[0\] has no x, y, width and height"),
        "above": ("/data/upload/1/0a1b2c30-a.png", "/data/local-files/?d=../a.png", "leads out of the image folder"),
    },
}
CASES = [(write, name, fault) for (write, name), faults in FAULTS.items() for fault in faults]


@pytest.mark.parametrize(("write", "name", "fault"), CASES, ids=[f"{w.__name__[3:]}-{f}" for w, _, f in CASES])
def test_a_fault_is_named_by_its_place(write, name, fault, tmp_path):
    old, new, sentence = FAULTS[write, name][fault]
    file = write(tmp_path) / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=sentence):
        load_boxes(tmp_path, strict=True)


def test_a_single_file_is_recognized(tmp_path):
    for write, name, form in (
        (as_cvat, "annotations.xml", "CVAT"),
        (as_label_studio, "project-1.json", "Label Studio"),
    ):
        file = write(tmp_path / form) / name
        assert guess_format(file) == form
        assert len(read_annotations(file).pictures) == 5


def test_a_turned_box_is_the_upright_one_around_it(tmp_path):
    np.testing.assert_allclose(hull(turned((0, 0, 2, 4), 90, (2, 1))), (-1, 1, 3, 3), atol=1e-9)
    file = as_cvat(tmp_path) / "annotations.xml"
    whole = 'xtl="0" ytl="0" xbr="50" ybr="50"'
    assert whole in file.read_text()
    file.write_text(file.read_text().replace(whole, 'xtl="10" ytl="20" xbr="40" ybr="30" rotation="90"'))
    box = next(one for one in read_annotations(tmp_path).pictures if one.path.endswith("b.png")).boxes[0]
    np.testing.assert_allclose(box, (10, 20, 40, 30), atol=1e-9)


def test_shapes_without_an_area_are_left_out_and_counted(tmp_path):
    file = as_labelme(tmp_path) / "e.json"
    content = json.loads(file.read_text())
    content["shapes"] = [
        {"label": "cat", "shape_type": "point", "points": [[3, 4]]},
        {"label": "cat", "shape_type": "circle", "points": [[20, 20], [20, 28]]},
    ]
    file.write_text(json.dumps(content))
    found = read_annotations(tmp_path)
    assert found.notes == (f"1 points and lines of {tmp_path} have no area and are left out.",)
    [picture] = [one for one in found.pictures if one.path.endswith("e.png")]
    assert picture.boxes.tolist() == [[12, 12, 28, 28]]


def test_the_short_form_of_label_studio(tmp_path):
    file = as_label_studio(tmp_path) / "project-1.json"
    short = []
    for task in json.loads(file.read_text()):
        shapes = [
            {**one["value"], **{k: one[k] for k in one if "original" in k}} for one in task["annotations"][0]["result"]
        ]
        short.append({"id": task["id"], "image": task["data"]["image"], "label": shapes})
    expected = [one.boxes.tolist() for one in read_annotations(tmp_path).pictures]
    file.write_text(json.dumps(short))
    assert [one.boxes.tolist() for one in read_annotations(tmp_path).pictures] == expected
