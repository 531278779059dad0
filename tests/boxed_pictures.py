"""Small datasets with boxes, written in each format, and the task that reads them."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tfft import registry
from tfft.tasks.object_detection.annotations import BoxedObject, PictureBoxes

SIZES = {"a.png": (40, 60), "b.png": (50, 50), "c.png": (64, 48), "d.png": (30, 80), "e.png": (48, 48)}
# Name of the picture, class, and top, left, bottom, right in pixels; e.png has no object.
OBJECTS = (
    ("a.png", "cat", (2, 3, 20, 30)),
    ("a.png", "dog", (10, 25, 40, 60)),
    ("b.png", "dog", (0, 0, 50, 50)),
    ("c.png", "cat", (5, 4, 33, 41)),
    ("d.png", "cat", (1, 50, 29, 79)),
    ("d.png", "dog", (2, 2, 12, 22)),
)
NAMES = ("cat", "dog")


class Detection(registry.Task):
    """As much of the task as reading needs."""

    name = "object_detection"
    modalities = frozenset({"image"})
    moves_with_pixels = True

    @property
    def reader(self):
        from tfft.tasks.object_detection.reader import BOXED_IMAGES

        return BOXED_IMAGES


@pytest.fixture(scope="session")
def detection():
    """The task in the registry."""
    if "object_detection" in registry.task_names():
        yield
        return
    remove = registry.register_task(Detection())
    yield
    remove()


def pictures(folder, names=tuple(SIZES)):
    """Writes pictures that look different from one another."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        rng = np.random.default_rng(sum(map(ord, name)))
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize(SIZES.get(name, (40, 60))[::-1], Image.NEAREST).save(folder / name)
    return folder


def of_picture(objects, name):
    return [(label, box) for picture, label, box in objects if picture == name]


def truth(folder, objects=OBJECTS):
    """The pictures as a reader finds them."""
    return [
        PictureBoxes.of(
            str(folder / name),
            "truth",
            [BoxedObject(box, label, "truth") for label, box in of_picture(objects, name)],
            height=SIZES[name][0],
            width=SIZES[name][1],
        )
        for name in SIZES
    ]


def write_coco(file, objects=OBJECTS, names=tuple(SIZES), **changes):
    """Writes a COCO file; category ids have holes and are not in the order of the names."""
    ids = {"dog": 7, "cat": 3}
    content = {
        "images": [
            {"id": 10 + at, "file_name": name, "height": SIZES[name][0], "width": SIZES[name][1]}
            for at, name in enumerate(names)
        ],
        "categories": [{"id": ids.get(label, 20), "name": label} for label in ("dog", "cat")],
        "annotations": [
            {
                "id": at,
                "image_id": 10 + list(names).index(name),
                "category_id": ids[label],
                "bbox": [left, top, right - left, bottom - top],
                "iscrowd": 0,
                "segmentation": [[left, top, right, top, right, bottom]],
            }
            for at, (name, label, (top, left, bottom, right)) in enumerate(objects)
            if name in names
        ],
        **changes,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def voc_text(name, objects, size, more=""):
    found = "".join(
        f"<object><name>{label}</name><truncated>1</truncated><difficult>0</difficult><bndbox><xmin>{left + 1}</xmin>"
        f"<ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for label, (top, left, bottom, right) in objects
    )
    where = f"<folder>x</folder><filename>{name}</filename><path>C:\\x\\{name}</path>"
    shape = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    return f"<annotation>{where}{shape}{found}{more}</annotation>"


def write_voc(folder, objects=OBJECTS, names=tuple(SIZES)):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        text = voc_text(name, of_picture(objects, name), SIZES[name])
        (folder / name).with_suffix(".xml").write_text(text)
    return folder


def write_yolo(folder, objects=OBJECTS, names=tuple(SIZES)):
    """Writes a text file per picture, none for a picture without objects."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        height, width = SIZES[name]
        lines = [
            f"{NAMES.index(label)} {(left + right) / 2 / width!r} {(top + bottom) / 2 / height!r} "
            f"{(right - left) / width!r} {(bottom - top) / height!r}\n"
            for label, (top, left, bottom, right) in of_picture(objects, name)
        ]
        if lines:
            (folder / name).with_suffix(".txt").write_text("".join(lines))
    return folder


def write_table(file, objects=OBJECTS, delimiter=",", names=tuple(SIZES)):
    rows = [("filename", "class", "xmin", "ymin", "xmax", "ymax")]
    for name in names:
        own = [
            (name, label, left, top, right, bottom) for label, (top, left, bottom, right) in of_picture(objects, name)
        ]
        rows += own or [(name, "", "", "", "", "")]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(delimiter.join(map(str, row)) + "\n" for row in rows))
    return file


def write_jsonl(file, objects=OBJECTS):
    lines = []
    for name in SIZES:
        for label, (top, left, bottom, right) in of_picture(objects, name) or [(None, (None,) * 4)]:
            lines.append({"file": name, "label": label, "x1": left, "y1": top, "x2": right, "y2": bottom})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def as_coco(root):
    pictures(root / "images")
    write_coco(root / "annotations" / "instances.json")
    return root


def as_roboflow(root):
    pictures(root)
    write_coco(root / "_annotations.coco.json")
    return root


def as_voc(root):
    pictures(root / "JPEGImages")
    write_voc(root / "Annotations")
    return root


def as_small_voc(root):
    pictures(root / "images")
    write_voc(root / "annotations")
    return root


def as_voc_beside(root):
    pictures(root)
    return write_voc(root)


def as_yolo(root):
    pictures(root / "images")
    write_yolo(root / "labels")
    (root / "data.yaml").write_text(yaml.safe_dump({"names": list(NAMES), "nc": 2, "train": "images"}))
    return root


def as_yolo_by_number(root):
    pictures(root / "images")
    write_yolo(root / "labels")
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


def as_table(root):
    pictures(root)
    return write_table(root / "boxes.csv")


def as_semicolons(root):
    pictures(root)
    file = write_table(root / "boxes.csv", delimiter=";")
    file.write_bytes(file.read_text().replace(";2;3;", ";2,0;3,0;").encode("utf-16"))
    return file


def as_lines(root):
    pictures(root)
    return write_jsonl(root / "boxes.jsonl")


def as_plain_table(root):
    """Without a header and without empty rows, so the picture without objects is missing."""
    pictures(root)
    rows = [(name, left, top, right, bottom, label) for name, label, (top, left, bottom, right) in OBJECTS]
    (root / "boxes.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return root / "boxes.csv"


def as_labelme(root):
    """A rectangle with its corners in any order, and a polygon, per object in turn."""
    pictures(root)
    for name, (height, width) in SIZES.items():
        shapes = []
        for at, (label, (top, left, bottom, right)) in enumerate(of_picture(OBJECTS, name)):
            corners = [[right, top], [left, bottom]]
            points = corners if at % 2 else [[left, top], [right, top], [right, bottom]]
            kind = "rectangle" if at % 2 else "polygon"
            shapes.append({"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}})
        content = {"version": "5.4.1", "shapes": shapes, "imagePath": f"..\\images\\{name}", "imageData": None}
        content |= {"imageHeight": height, "imageWidth": width}
        (root / name).with_suffix(".json").write_text(json.dumps(content))
    return root


def as_cvat(root):
    pictures(root / "images")
    entries = []
    for at, (name, (height, width)) in enumerate(SIZES.items()):
        shapes = "".join(
            f'<box label="{label}" occluded="0" xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}" z_order="0"/>'
            if at % 2
            else f'<polygon label="{label}" points="{left},{top};{right},{top};{right},{bottom}"/>'
            for label, (top, left, bottom, right) in of_picture(OBJECTS, name)
        )
        entries.append(f'<image id="{at}" name="{name}" width="{width}" height="{height}">{shapes}</image>')
    labels = "".join(f"<label><name>{name}</name></label>" for name in NAMES)
    meta = f"<version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
    (root / "annotations.xml").write_text(f"<?xml version='1.0'?><annotations>{meta}{''.join(entries)}</annotations>")
    return root


def as_label_studio(root):
    """Uploaded pictures, whose names have eight characters in front."""
    pictures(root / "images")
    tasks = []
    for at, (name, (height, width)) in enumerate(SIZES.items()):
        results = []
        for label, (top, left, bottom, right) in of_picture(OBJECTS, name):
            value = {"x": 100 * left / width, "y": 100 * top / height, "rotation": 0, "rectanglelabels": [label]}
            value |= {"width": 100 * (right - left) / width, "height": 100 * (bottom - top) / height}
            sizes = {"original_width": width, "original_height": height}
            results.append({"type": "rectanglelabels", "value": value, **sizes})
        data = {"image": f"/data/upload/1/0a1b2c3{at}-{name}"}
        tasks.append({"id": at + 1, "data": data, "annotations": [{"result": results, "was_cancelled": False}]})
    (root / "project-1.json").write_text(json.dumps(tasks))
    return root


FORMS = {
    "coco": as_coco, "roboflow": as_roboflow, "voc": as_voc, "small voc": as_small_voc, "voc beside": as_voc_beside,
    "yolo": as_yolo, "yolo without yaml": as_yolo_by_number, "table": as_table, "semicolons": as_semicolons,
    "lines": as_lines, "labelme": as_labelme, "cvat": as_cvat, "label studio": as_label_studio,
}  # fmt: skip


def paths_of(annotations):
    return [Path(one.path).name for one in annotations.pictures]


def coco_with(root, **changes):
    file = root / "annotations" / "instances.json"
    content = json.loads(file.read_text())
    for key, change in changes.items():
        change(content[key])
    file.write_text(json.dumps(content))


GIVEN = [["a.png", "c.png", "d.png"], ["b.png", "e.png"]]


def given_yaml(root):
    for folder, names in zip(("train", "valid"), GIVEN, strict=True):
        pictures(root / folder / "images", names)
        write_yolo(root / folder / "labels", names=names)
    description = {"names": ["cat", "dog"], "nc": 2, "train": "../train/images", "val": "../valid/images"}
    (root / "data.yaml").write_text(yaml.safe_dump(description))
    return root
