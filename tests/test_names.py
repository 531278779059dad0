"""Names of files and classes from several places, compared in one form and written so that they read back equal."""

import csv
import unicodedata

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tfft import data
from tfft.data import write_split
from tfft.data.split import read_split
from tfft.errors import DataError
from tfft.io.name_files import csv_text, format_lines, parse_lines
from tfft.modalities.image import load_image_table

CAFE, MAC_CAFE = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
ODD = [
    "plain",
    "two\nlines",
    "return\rkept",
    "a,b",
    'say "no"',
    '"quoted"',
    "",
    " blanks ",
    "line\u2028sep",
    "ünï",
    "tab\t",
]


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8)
    path.write_bytes(tf.io.encode_png(pixels).numpy())


def test_lines_and_tables_of_names_read_back_equal(tmp_path):
    assert list(parse_lines(format_lines(ODD))) == ODD
    assert format_lines(["cat", "two words"]) == "cat\ntwo words\n"
    assert list(parse_lines('cat\n"Queen"\nfish "n" chips\n')) == ["cat", '"Queen"', 'fish "n" chips']  # of 0.1.0
    rows = [["name", "x"], *([name, "1"] for name in ODD)]
    assert list(csv.reader(csv_text(rows).splitlines(keepends=True))) is not None
    (tmp_path / "t.csv").write_text(csv_text(rows), newline="")
    with open(tmp_path / "t.csv", newline="") as file:
        assert list(csv.reader(file)) == rows


def test_a_split_reads_back_whatever_the_names_are(tmp_path):
    names = [name for name in ODD if name]
    write_split(tmp_path / "split.csv", {"train": names[:5], "validation": names[5:]})
    held = read_split(tmp_path / "split.csv", names)
    assert held.tolist() == [False] * 5 + [True] * (len(names) - 5)


@pytest.mark.slow
def test_folders_of_mac_and_linux_are_one_class(tmp_path):
    for i in range(4):
        picture(tmp_path / "data" / (CAFE if i % 2 else MAC_CAFE) / f"{i}.png", i)
        picture(tmp_path / "data" / "tea" / f"{i}.png", 10 + i)
    splits = data.load(tmp_path / "data")
    assert splits.class_names == (CAFE, "tea")
    assert sum(splits.train.counts.values()) + sum(splits.validation.counts.values()) == 8


@pytest.fixture
def photos(tmp_path):
    for i in range(4):
        for name in (f"{CAFE}{i}", f"Tea{i}"):
            picture(tmp_path / "photos" / f"{name}.png", 100 * i + len(name) + ord(name[0]))
    return tmp_path / "photos"


WRITTEN = {
    "exact": (lambda i: (f"{CAFE}{i}.png", f"Tea{i}.png"), ""),
    "of a Mac": (lambda i: (f"{MAC_CAFE}{i}.png", f"Tea{i}.png"), "4 in another Unicode form"),
    "with other capitals": (lambda i: (f"{CAFE}{i}.PNG", f"tea{i}.png"), "8 with different capitalization"),
    "without extension": (lambda i: (f"{CAFE}{i}", f"Tea{i}"), "8 without their extension"),
    "of Windows": (lambda i: (f".\\{CAFE}{i}.png", f".\\Tea{i}.png"), "8 with \\ instead of /"),
}


@pytest.mark.slow
@pytest.mark.parametrize("written", WRITTEN)
def test_files_are_found_by_names_that_can_mean_one(written, photos, tmp_path, capsys):
    make, said = WRITTEN[written]
    rows = [(name, label) for i in range(4) for name, label in zip(make(i), (MAC_CAFE, "tea"), strict=True)]
    table = pd.DataFrame(rows, columns=["image", "label"])
    table.to_csv(tmp_path / "t.csv", index=False)
    splits = load_image_table(tmp_path / "t.csv", root=photos)
    assert splits.class_names == (CAFE, "tea")
    assert len(splits.train) + len(splits.validation) == 8
    told = capsys.readouterr().err
    assert said in told
    assert bool(told) == bool(said)


def test_numbers_as_ids_find_their_files(tmp_path):
    for i in range(6):
        picture(tmp_path / f"{i}.png", i)
    table = pd.DataFrame({"image": [0, 1, 2, 3, 4, 5], "label": list("ababab")})
    splits = load_image_table(table, root=tmp_path)
    assert len(splits.train) + len(splits.validation) == 6


def test_the_likeliest_mistake_is_named(photos, tmp_path):
    picture(photos / f"{CAFE}0.jpeg", 99)
    table = pd.DataFrame({"image": [f"{CAFE}0"] * 2, "label": ["a", "b"]})
    with pytest.raises(
        DataError, match=f"does not exist, but '{CAFE}0.jpeg' and '{CAFE}0.png' do: write the extension"
    ):
        load_image_table(table, root=photos)
    table = pd.DataFrame({"image": [r"C:\Users\me\photos\1.png"] * 2, "label": ["a", "b"]})
    with pytest.raises(DataError, match=r"Windows path.*root="):
        load_image_table(table, root=photos)


def test_a_table_without_a_header_is_read_by_its_files(photos, tmp_path, capsys):
    rows = "".join(f"{kind},{name}{i}.png\n" for i in range(4) for kind, name in (("coffee", CAFE), ("tea", "Tea")))
    (tmp_path / "t.csv").write_text(rows)
    splits = load_image_table(tmp_path / "t.csv", root=photos)
    assert splits.class_names == ("coffee", "tea")
    assert len(splits.train) + len(splits.validation) == 8
    assert "has no header: column 1 is read as image= and 0 as label=" in capsys.readouterr().err
