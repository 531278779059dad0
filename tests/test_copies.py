"""Copies of pictures: what is found, what is not taken for one, and when nobody looks."""

import numpy as np
import pytest
from faulty_data import encoded, picture
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

from tfft.modalities.image import duplicates as module
from tfft.modalities.image import examine, find_cropped_duplicates, find_duplicates

SURE = "near duplicates have a similarity of at least 0.90, where at most 0.05 false pairs are expected"


def facts_of(tmp_path, images):
    found = []
    for i, image in enumerate(images):
        path = tmp_path / f"{i}.png"
        path.write_bytes(encoded(image, "PNG"))
        found.append(examine(str(path)))
    return found


def crop(image):
    return image.crop((3, 2, image.width - 2, image.height - 2))


@pytest.mark.daily("crop")
@pytest.mark.parametrize(
    "change",
    [ImageOps.mirror, crop, lambda i: ImageEnhance.Brightness(i).enhance(0.9), lambda i: i.resize((40, 30)),
     lambda i: crop(ImageOps.mirror(ImageEnhance.Brightness(i).enhance(1.1)))],
)  # fmt: skip
def test_a_changed_picture_is_found_among_others(change, tmp_path):
    images = [picture(seed, (90, 70)) for seed in range(30)]
    found = find_duplicates(facts_of(tmp_path, [*images, *map(change, images[:10])]))
    assert [(copy.first, copy.second, copy.kind) for copy in found.pairs] == [(i, 30 + i, "near") for i in range(10)]
    assert found.note == SURE


def test_equal_pixels_are_one_whatever_the_file(tmp_path):
    image = picture(1)
    (tmp_path / "a.png").write_bytes(encoded(image, "PNG"))
    (tmp_path / "b.bmp").write_bytes(encoded(image, "BMP"))
    (tmp_path / "c.png").write_bytes(encoded(image, "PNG"))
    facts = [examine(str(tmp_path / name)) for name in ("a.png", "b.bmp", "c.png")]
    assert [(c.first, c.second, c.kind) for c in find_duplicates(facts).pairs] == [(0, 1, "pixels"), (0, 2, "file")]


@pytest.mark.nightly
def test_pictures_that_are_all_alike_are_not_copies(tmp_path):
    """Drawings of one symbol: the same shape, a little moved and of another thickness."""
    random, drawings = np.random.default_rng(0), []
    for _ in range(60):
        canvas = np.zeros((32, 32, 3), np.uint8)
        left, width = int(random.integers(13, 16)), int(random.integers(3, 6))
        canvas[4:28, left : left + width] = 255
        drawings.append(Image.fromarray((canvas * random.uniform(0.8, 1)).astype(np.uint8)))
    found = find_duplicates(facts_of(tmp_path, drawings))
    assert {copy.kind for copy in found.pairs} <= {"pixels", "file"}
    assert "near duplicates are not searched for: unrelated images" in found.note


def test_one_colour_and_very_many_pictures_are_not_compared(tmp_path, monkeypatch):
    flat = [Image.new("RGB", (32, 32), (value, value, value)) for value in (10, 200)]
    images = [picture(1), picture(1).resize((60, 50))]
    facts = facts_of(tmp_path, [*flat, *images])
    assert [(c.first, c.second) for c in find_duplicates(facts).pairs] == [(2, 3)]
    monkeypatch.setattr(module, "_MOST", 1)
    found = find_duplicates(facts)
    assert found.pairs == ()
    assert "among more than 1 images" in found.note


TURNS = {
    Image.Transpose.ROTATE_90: "rotated by a quarter turn",
    Image.Transpose.ROTATE_180: "rotated by a half turn",
    Image.Transpose.ROTATE_270: "rotated by a quarter turn",
    Image.Transpose.TRANSPOSE: "mirrored and rotated by a quarter turn",
    Image.Transpose.TRANSVERSE: "mirrored and rotated by a quarter turn",
    Image.Transpose.FLIP_TOP_BOTTOM: "mirrored and rotated by a half turn",
    Image.Transpose.FLIP_LEFT_RIGHT: "mirrored",
}


@pytest.mark.representative("2")
@pytest.mark.parametrize("way", TURNS)
def test_a_rotated_picture_is_found_among_others(way, tmp_path):
    images = [picture(seed, (90, 70)) for seed in range(30)]
    found = find_duplicates(facts_of(tmp_path, [*images, *(crop(image.transpose(way)) for image in images[:10])]))
    assert [(copy.first, copy.second, copy.kind) for copy in found.pairs] == [(i, 30 + i, "near") for i in range(10)]
    assert {copy.turned for copy in found.pairs} == {TURNS[way]}
    assert found.note == SURE


@pytest.mark.nightly
def test_unrelated_pictures_give_nothing(tmp_path):
    images = [picture(seed, (90, 70)) for seed in range(60)]
    facts = facts_of(tmp_path, images)
    found = find_duplicates(facts)
    assert (found.pairs, found.note) == ((), SURE)
    parts = find_cropped_duplicates(facts, colours(images), found)
    assert parts.pairs == ()
    assert parts.note.startswith("parts of images have a similarity of at least 0.95")


@pytest.mark.nightly
def test_a_rotated_copy_is_found_where_unrelated_pictures_are_somewhat_alike_when_rotated(tmp_path):
    images = [picture(seed, (64, 64)) for seed in range(30)]
    turned = [image.transpose(Image.Transpose.ROTATE_180) for image in images]
    alike = [Image.blend(picture(500 + i, (64, 64)), image, 0.62) for i, image in enumerate(turned)]
    found = find_duplicates(facts_of(tmp_path, [*images, *alike, crop(images[0]), turned[1]]))
    assert [(copy.first, copy.second) for copy in found.pairs] == [(0, 60), (1, 61)]


def stripes(random):
    """Return stripes of random direction, width and place: many are alike by chance."""
    y, x = np.mgrid[:64, :64] / 64.0
    angle, waves, phase = random.uniform(0, np.pi), random.uniform(1, 6), random.uniform(0, 6.3)
    edge = np.sin(6.28 * waves * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    return Image.fromarray((128 + 90 * np.sign(edge)).astype(np.uint8)).convert("RGB")


@pytest.mark.nightly
def test_repetitive_patterns_that_are_alike_by_chance_are_not_copies(tmp_path):
    random = np.random.default_rng(0)
    found = find_duplicates(facts_of(tmp_path, [stripes(random) for _ in range(400)]))
    assert found.pairs == ()
    assert "are not searched for: unrelated images of this set are as similar as duplicates" in found.note


def symbol(text, at=(8, 2), size=36):
    canvas = Image.new("RGB", (40, 48), "white")
    ImageDraw.Draw(canvas).text(at, text, "black", font=ImageFont.load_default(size))
    return canvas


def test_symbols_are_not_copies_of_others_because_they_are_rotated(tmp_path):
    six, nine = symbol("6"), symbol("6").transpose(Image.Transpose.ROTATE_180)  # a 9 of many fonts
    others = [symbol(text) for text in "ABCEFGJKLPQR"]
    found = find_duplicates(facts_of(tmp_path, [six, nine, symbol("6", (9, 3)), *others]))
    assert (0, 1) not in found.positions
    assert (1, 2) not in found.positions
    assert {copy.turned for copy in found.pairs} <= {"", "mirrored"}


@pytest.mark.nightly
def test_sixes_and_nines_by_many_hands_are_not_copies(tmp_path):
    random = np.random.default_rng(0)
    drawn = [symbol("69"[i % 2], tuple(random.integers(5, 11, 2)), int(random.integers(30, 38))) for i in range(60)]
    found = find_duplicates(facts_of(tmp_path, drawn))
    assert {copy.kind for copy in found.pairs} <= {"pixels", "file"}
    assert "near duplicates are not searched" in found.note


def colours(images):
    """Histograms: features that know nothing of places, so that a crop has nearly the same."""
    values = [np.asarray(image).reshape(-1, 3) // 64 @ [16, 4, 1] for image in images]
    return np.stack([np.bincount(value, minlength=64) / len(value) for value in values])


@pytest.mark.nightly
@pytest.mark.parametrize("way", [None, Image.Transpose.ROTATE_90])
def test_a_larger_crop_is_found_by_features_and_only_by_them(way, tmp_path):
    images = [picture(seed, (180, 140)) for seed in range(40)]
    crops = [image.crop((10 + i, 5 + i, 10 + i + 135, 5 + i + 105)) for i, image in enumerate(images[:10])]
    crops = crops if way is None else [image.transpose(way) for image in crops]
    facts = facts_of(tmp_path, [*images, *crops])
    found = find_duplicates(facts)
    assert found.pairs == ()
    features = colours([*images, *crops])
    parts = find_cropped_duplicates(facts, features, found)
    assert [(copy.first, copy.second, copy.kind) for copy in parts.pairs] == [(i, 40 + i, "part") for i in range(10)]
    assert {copy.turned for copy in parts.pairs} == {"" if way is None else TURNS[way]}
    # Features that are far apart choose no such pair, so what was found came from them.
    apart = np.eye(50)[:, :25] + np.eye(50)[:, 25:]
    assert len(find_cropped_duplicates(facts, apart, found).pairs) < 5
    assert find_cropped_duplicates(facts, features, find_duplicates(facts, near=False)).pairs == ()


def test_what_is_found_already_is_not_found_as_a_part(tmp_path):
    images = [picture(seed, (90, 70)) for seed in range(4)]
    images += [crop(images[0]), images[1]]
    facts = facts_of(tmp_path, images)
    found = find_duplicates(facts)
    assert found.positions == [(0, 4), (1, 5)]
    assert find_cropped_duplicates(facts, colours(images), found).pairs == ()
