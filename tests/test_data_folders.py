"""Folders in every state: layouts, splits, files that cannot be used, and the errors' words."""

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tfft.data import load
from tfft.errors import DataError
from tfft.modalities.image import list_images
from tfft.modalities.image.file_info import examine_all, why_unreadable

RNG = np.random.default_rng(3)


def picture(kind="jpeg", **options):
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (9, 11, 3), np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


def fill(folder, count, kind="jpeg"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i}.{kind}").write_bytes(picture(kind))
    return folder


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    fill(root / "bees", 5)
    fill(root / "ants", 5, "png")
    return root


def test_a_folder_per_class_is_listed_in_sorted_order(photos):
    fill(photos / "Käfer 🐞" / "inner" / "most", 2, "webp")
    examples = list_images(photos)
    assert examples.class_names == ("Käfer 🐞", "ants", "bees")
    assert examples.counts == {"Käfer 🐞": 2, "ants": 5, "bees": 5}
    assert examples.labels.dtype == np.int32
    assert list(examples.paths) == sorted(examples.paths)
    assert all(examples.class_names[y] in p for p, y in zip(examples.paths, examples.labels, strict=True))
    assert examples.skipped == ()
    assert len(examples) == 12


BAD = {
    "empty.jpg": (b"", "is empty"),
    "cut.jpg": (picture()[:-60], "damaged or cut off"),
    "cut.png": (picture("png")[:-60], "damaged or cut off: Invalid PNG data"),
    "cut.webp": (picture("webp")[:-60], "damaged or cut off: Failed to decode WebP image"),
    "text.jpg": (b"no image at all", "is text, not an image"),
    "page.jpg": (b"<!DOCTYPE html><html>404</html>", "is a web page"),
    "scan.jpg": (picture("tiff"), "is a TIFF image"),
    "phone.jpg": (b"\x00\x00\x00\x18ftypheic" + bytes(40), "is a HEIC photo"),
    "lfs.jpg": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "noise.gif": (bytes(range(128, 256)), "of an unknown format"),
    "notes.txt": (b"hello", "has the extension .txt"),
    "README": (b"hello", "has no extension"),
    "photo.tiff": (picture("tiff"), "has the extension .tiff"),
}


def test_every_bad_file_is_named_with_its_reason_and_the_rest_is_used(photos):
    for name, (content, _) in BAD.items():
        (photos / "bees" / name).write_bytes(content)
    os.symlink(photos / "nowhere.jpg", photos / "bees" / "dangling.jpg")
    os.symlink("itself.jpg", photos / "bees" / "itself.jpg")
    os.symlink(photos / "bees", photos / "bees" / "loop")
    os.mkfifo(photos / "bees" / "pipe.jpg")
    (photos / "stray.jpg").write_bytes(picture())
    examples = list_images(photos)
    reasons = {os.path.basename(item.path): item.reason for item in examples.skipped}
    expected = {name: reason for name, (_, reason) in BAD.items()}
    expected |= {"dangling.jpg": "is a link to", "itself.jpg": "cannot be read", "loop": "link back to a folder"}
    expected |= {"pipe.jpg": "not a regular file", "stray.jpg": "not inside a class folder"}
    assert set(reasons) == set(expected)
    for name, reason in expected.items():
        assert reason in reasons[name], name
        assert "Graph" not in reasons[name]
    assert examples.counts == {"ants": 5, "bees": 5}
    with pytest.raises(DataError, match=f"{len(expected) - 2} problems") as caught:
        list_images(photos, strict=True)
    assert {name for name in expected if name not in str(caught.value)} == {"notes.txt", "README"}


def test_strict_lets_files_pass_that_are_no_images_by_name(photos):
    for path in (photos / "notes.txt", photos / "bees" / "README", photos / "bees" / "boxes.csv"):
        path.write_text("mine")
    examples = list_images(photos, strict=True)
    assert sorted(os.path.basename(item.path) for item in examples.skipped) == ["README", "boxes.csv", "notes.txt"]
    (photos / "bees" / "scan.tif").write_bytes(picture("tiff"))
    with pytest.raises(DataError, match=r"scan\.tif has the extension \.tif"):
        list_images(photos, strict=True)


def test_hidden_files_and_wrong_extensions_of_good_images_are_no_matter(photos):
    for name in (".DS_Store", "._0.jpeg", "Thumbs.db"):
        (photos / "bees" / name).write_bytes(b"x")
    fill(photos / ".ipynb_checkpoints", 1)
    fill(photos / "bees" / "__MACOSX", 1)
    (photos / "bees" / "really_png.JPG").write_bytes(picture("png"))
    examples = list_images(photos, strict=True)
    assert examples.counts == {"ants": 5, "bees": 6}


def test_a_link_to_a_folder_elsewhere_is_followed(photos, tmp_path):
    fill(tmp_path / "elsewhere", 3)
    os.symlink(tmp_path / "elsewhere", photos / "wasps")
    assert list_images(photos).counts["wasps"] == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_without_permission_are_reported(photos):
    (photos / "bees" / "0.jpeg").chmod(0)
    [item] = list_images(photos).skipped
    assert "Permission denied" in item.reason


def test_names_that_are_not_utf8_are_reported(photos):
    try:
        (photos / "bees" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(picture())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    [item] = list_images(photos).skipped
    assert item.path.endswith("caf\\xe9.jpg")
    assert "not UTF-8" in item.reason


def test_without_checking_nothing_is_decoded(photos):
    (photos / "bees" / "cut.jpg").write_bytes(b"")
    assert list_images(photos, check=False).counts["bees"] == 6


def test_progress_is_told_for_each_file(photos):
    calls = []
    list_images(photos, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i + 1, 10) for i in range(10)]


def test_the_split_is_stratified_complete_and_repeatable(photos):
    fill(photos / "ants", 40)
    splits = load(photos, validation=0.2, seed=4)
    assert splits.class_names == ("ants", "bees")
    assert splits.validation.counts == {"ants": 9, "bees": 1}
    both = [*splits.train.paths, *splits.validation.paths]
    assert sorted(both) == sorted(list_images(photos).paths)
    assert len(set(both)) == 50
    assert load(photos, validation=0.2, seed=4).validation.paths == splits.validation.paths
    assert load(photos, validation=0.2, seed=5).validation.paths != splits.validation.paths
    assert splits.split_from == f"20 % of each class in {photos}, drawn with seed 4"


def test_the_split_does_not_depend_on_where_the_folder_is_or_on_files_added(photos, tmp_path):
    fill(photos / "ants", 40)

    def held(root):
        return {os.path.relpath(p, root) for p in load(root).validation.paths}

    before = held(photos)
    moved = shutil.copytree(photos, tmp_path / "moved")
    assert held(moved) == before
    (moved / "ants" / "new.jpg").write_bytes(picture())
    assert len(held(moved) ^ before) <= 2


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_each_class_is_on_both_sides(photos, share):
    splits = load(photos, validation=share)
    assert min(splits.train.counts.values()) >= 1
    assert min(splits.validation.counts.values()) >= 1


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_train_and_val_folders_are_used_and_test_is_left_alone(photos, tmp_path, name):
    root = tmp_path / "split"
    shutil.copytree(photos, root / "train")
    shutil.copytree(photos, root / name)
    shutil.copytree(photos, root / "test")
    (root / name / "bees" / "0.jpeg").write_bytes(b"")
    splits = load(root)
    assert (len(splits.train), len(splits.validation), len(splits.skipped)) == (10, 9, 1)
    assert splits.test_folder == str(root / "test")
    assert str(root / name) in splits.split_from
    with pytest.raises(DataError, match="is split into"):
        list_images(root)


def test_a_train_folder_alone_is_split(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "split" / "train")
    splits = load(tmp_path / "split", validation=0.4)
    assert splits.validation.counts == {"ants": 2, "bees": 2}
    assert "train" in splits.split_from


def test_train_can_be_a_class(photos):
    fill(photos / "train", 3)
    assert load(photos).class_names == ("ants", "bees", "train")


def test_different_classes_in_train_and_val_are_all_named(photos, tmp_path):
    root = tmp_path / "split"
    shutil.copytree(photos, root / "train")
    shutil.copytree(photos, root / "val")
    fill(root / "train" / "wasps", 2)
    fill(root / "val" / "wasp", 2)
    with pytest.raises(DataError, match="same classes") as caught:
        load(root)
    assert "class 'wasps' is in" in str(caught.value)
    assert "Did you mean 'wasp'?" in str(caught.value)


def test_val_without_train(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "split" / "val")
    with pytest.raises(DataError, match="no train/ folder"):
        load(tmp_path / "split")


def test_a_missing_folder_names_its_nearest_sibling(photos):
    with pytest.raises(DataError, match="does not exist. Did you mean 'photos'"):
        load(photos.parent / "fotos")
    with pytest.raises(DataError, match="Did you mean 'photos'"):
        load(photos.parent / "photo" / "train")
    (photos.parent / "photos.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="Received: the file .*photos.zip. It is an archive: unpack it"):
        load(photos.parent / "photos.zip")


def test_missing_classes_are_explained_with_the_layout(photos, tmp_path):
    with pytest.raises(DataError, match=r"no class folders and 5 images") as caught:
        load(photos / "ants")
    assert "cat/  a.jpg" in str(caught.value)
    shutil.rmtree(photos / "bees")
    with pytest.raises(DataError, match="one class folder, 'ants'.*at least two classes"):
        load(photos)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        load(tmp_path / "nothing")


def test_one_class_is_listed_when_that_is_enough(photos):
    shutil.rmtree(photos / "bees")
    assert list_images(photos, least_classes=1).counts == {"ants": 5}
    with pytest.raises(DataError, match="at least two classes"):
        list_images(photos)
    with pytest.raises(DataError, match="no class folders"):
        list_images(photos / "ants", least_classes=1)


def test_empty_classes_and_classes_of_one_are_all_named(photos):
    (photos / "empty").mkdir()
    (photos / "broken").mkdir()
    (photos / "broken" / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="2 problems") as caught:
        load(photos)
    assert "'empty' has no usable image" in str(caught.value)
    assert "a.jpg is empty" in str(caught.value)
    shutil.rmtree(photos / "empty")
    shutil.rmtree(photos / "broken")
    fill(photos / "single", 1)
    fill(photos / "lonely", 1)
    with pytest.raises(DataError, match="cannot be split.*2 problems") as caught:
        load(photos)
    assert "'single' has one image" in str(caught.value)
    assert list_images(photos).counts["single"] == 1


@pytest.mark.parametrize("share", [0, 1, -0.5, 20])
def test_a_share_out_of_range_is_refused(photos, share):
    with pytest.raises(DataError, match="above 0 and below 1"):
        load(photos, validation=share)


def test_a_file_that_vanished_is_missing(tmp_path):
    assert why_unreadable(str(tmp_path / "gone.jpg")) == "is missing"
    assert "not a regular file" in why_unreadable(str(tmp_path))
    assert examine_all([]) == []


def test_a_folder_with_a_table_of_its_files_names_the_call_that_reads_it(tmp_path):
    fill(tmp_path / "houses" / "images", 3)
    rows = "\n".join(f"images/{at}.jpeg,{at + 1},{100 * at}" for at in range(3))
    (tmp_path / "houses" / "homes.csv").write_text(f"file,rooms,price\n{rows}\n")
    with pytest.raises(DataError, match=r"holds the table homes.csv: .*homes.csv --image file --label price"):
        load(tmp_path / "houses")
    with pytest.raises(DataError, match=r"image='file', label='price'"):
        load(tmp_path / "houses", task="regression")
    (tmp_path / "houses" / "homes.csv").write_text("name,rooms\nred house,3\n")
    with pytest.raises(DataError, match="has one class folder, 'images'"):
        load(tmp_path / "houses")


def test_a_table_beside_class_folders_is_left_alone(photos):
    rows = "\n".join(f"bees/{at}.jpeg,bees" for at in range(5))
    (photos / "labels.csv").write_text(f"file,label\n{rows}\n")
    splits = load(photos)
    assert splits.class_names == ("ants", "bees")
    assert len(splits.train) + len(splits.validation) == 10
