"""Copies of pictures: what is found, what is not taken for one, and when nobody looks."""

import numpy as np
import pytest
from faulty_data import encoded, picture
from PIL import Image, ImageEnhance, ImageOps

from tfft.data import copies as module
from tfft.data import examine, find_copies


def facts_of(tmp_path, images):
    found = []
    for i, image in enumerate(images):
        path = tmp_path / f"{i}.png"
        path.write_bytes(encoded(image, "PNG"))
        found.append(examine(str(path)))
    return found


def crop(image):
    return image.crop((3, 2, image.width - 2, image.height - 2))


@pytest.mark.parametrize(
    "change",
    [ImageOps.mirror, crop, lambda i: ImageEnhance.Brightness(i).enhance(0.9), lambda i: i.resize((40, 30)),
     lambda i: crop(ImageOps.mirror(ImageEnhance.Brightness(i).enhance(1.1)))],
)  # fmt: skip
def test_a_changed_picture_is_found_among_others(change, tmp_path):
    images = [picture(seed, (90, 70)) for seed in range(30)]
    found = find_copies(facts_of(tmp_path, [*images, *map(change, images[:10])]))
    assert [(copy.first, copy.second, copy.kind) for copy in found.pairs] == [(i, 30 + i, "near") for i in range(10)]
    assert found.note == ""


def test_equal_pixels_are_one_whatever_the_file(tmp_path):
    image = picture(1)
    (tmp_path / "a.png").write_bytes(encoded(image, "PNG"))
    (tmp_path / "b.bmp").write_bytes(encoded(image, "BMP"))
    (tmp_path / "c.png").write_bytes(encoded(image, "PNG"))
    facts = [examine(str(tmp_path / name)) for name in ("a.png", "b.bmp", "c.png")]
    assert [(c.first, c.second, c.kind) for c in find_copies(facts).pairs] == [(0, 1, "pixels"), (0, 2, "file")]


def test_pictures_that_are_all_alike_are_not_copies(tmp_path):
    """Drawings of one symbol: the same shape, a little moved and of another thickness."""
    random, drawings = np.random.default_rng(0), []
    for _ in range(60):
        canvas = np.zeros((32, 32, 3), np.uint8)
        left, width = int(random.integers(13, 16)), int(random.integers(3, 6))
        canvas[4:28, left : left + width] = 255
        drawings.append(Image.fromarray((canvas * random.uniform(0.8, 1)).astype(np.uint8)))
    found = find_copies(facts_of(tmp_path, drawings))
    assert {copy.kind for copy in found.pairs} <= {"pixels", "file"}
    assert "near copies are not looked for: 1 of 100 unrelated pictures is" in found.note


def test_one_colour_and_very_many_pictures_are_not_compared(tmp_path, monkeypatch):
    flat = [Image.new("RGB", (32, 32), (value, value, value)) for value in (10, 200)]
    images = [picture(1), picture(1).resize((60, 50))]
    facts = facts_of(tmp_path, [*flat, *images])
    assert [(c.first, c.second) for c in find_copies(facts).pairs] == [(2, 3)]
    monkeypatch.setattr(module, "_MOST", 1)
    found = find_copies(facts)
    assert found.pairs == ()
    assert "among more than 1 pictures" in found.note
