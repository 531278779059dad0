"""Tables as programs of all countries write them: separators, decimal commas, encodings, no header."""

import numpy as np
import pytest

from tfft.data.label_parsing import parse_labels
from tfft.data.table import read_table
from tfft.errors import DataError
from tfft.modalities.text import load_texts

ROWS = [("text", "label"), ("Straße, lang", "schön"), ('so "gut"', "naïve"), ("ein; zwei", "schön"), ("vier", "naïve")]


def csv_of(delimiter):
    def field(value):
        return '"' + value.replace('"', '""') + '"' if any(c in value for c in delimiter + '"') else value

    return "".join(delimiter.join(map(field, row)) + "\r\n" for row in ROWS)


FORMS = {
    "commas": (csv_of(","), "utf-8", ""),
    "semicolons": (csv_of(";"), "utf-8", "semicolons between its fields"),
    "bars": (csv_of("|"), "utf-8", "bars between"),
    "tabs": (csv_of("\t"), "utf-8", "tabs between"),
    "a mark": (csv_of(","), "utf-8-sig", ""),
    "utf-16 of Excel": (csv_of("\t"), "utf-16", "tabs between"),
    "utf-16 without a mark": (csv_of(","), "utf-16-le", "the encoding utf-16-le"),
    "a hint of Excel": ("sep=;\r\n" + csv_of(";"), "utf-8-sig", "semicolons"),
    "cp1252": (csv_of(";"), "cp1252", "the encoding cp125"),
    "old Mac": (csv_of(",").replace("\r\n", "\r"), "utf-8", ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_is_read_and_what_was_guessed_is_said(form, tmp_path, capsys):
    content, encoding, said = FORMS[form]
    (tmp_path / "t.csv").write_bytes(content.encode(encoding))
    table = read_table(tmp_path / "t.csv")
    assert [table.columns, *map(tuple, table.rows)] == ROWS
    told = capsys.readouterr().err
    assert said in told
    assert bool(told) == bool(said)
    assert told.count("\n") <= 1


def test_settings_overrule_what_the_table_seems_to_be(tmp_path, capsys):
    (tmp_path / "t.csv").write_bytes("a;b,c\nд;e,f\n".encode("cp1251"))
    table = read_table(tmp_path / "t.csv", delimiter=";", encoding="cp1251")
    assert (table.columns, *table.rows) == (("a", "b,c"), ["д", "e,f"])
    assert capsys.readouterr().err == ""
    with pytest.raises(DataError, match="t.csv:2 is not utf-8: byte 0 of the line is 0xe4.*encoding="):
        read_table(tmp_path / "t.csv", encoding="utf-8")
    with pytest.raises(DataError, match="Received: delimiter='ab'"):
        read_table(tmp_path / "t.csv", delimiter="ab", encoding="cp1251")
    with pytest.raises(DataError, match="Unknown encoding 'klingon'"):
        read_table(tmp_path / "t.csv", encoding="klingon")


def test_a_semicolon_in_a_text_separates_nothing(tmp_path, capsys):
    for content, width in (("text\nhello; you\nso\n", 1), ("text,label\na;b,x\nc,y\n", 2)):
        (tmp_path / "t.csv").write_text(content)
        assert len(read_table(tmp_path / "t.csv").columns) == width
    (tmp_path / "t.csv").write_text("text,label\nan, unquoted,x\nb,y\n")
    with pytest.raises(DataError, match=r"t.csv:2 has 3 fields. Expected 2. Does a field contain an unquoted ','"):
        read_table(tmp_path / "t.csv")
    assert capsys.readouterr().err == ""


def test_decimal_commas_are_numbers(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("text;price\n" + "".join(f"text {i};{i},5\n" for i in range(8)))
    splits = load_texts(tmp_path / "t.csv", label="price")
    assert splits.task == "regression"
    assert sorted([*splits.train.labels, *splits.validation.labels]) == [i + 0.5 for i in range(8)]
    told = capsys.readouterr().err
    assert "semicolons" in told
    assert "decimal comma" in told


@pytest.mark.parametrize(
    ("labels", "settings", "wanted"),
    [
        (["1,5", "2", "-3,25"], {}, [1.5, 2.0, -3.25]),
        (["1.234,5", "2", "7,0"], {"decimal": ",", "task": "regression"}, [1234.5, 2.0, 7.0]),
        (["1,234", "2,500"], {"decimal": ",", "task": "regression"}, [1.234, 2.5]),
        (["1.5", "2", "3"], {}, [1.5, 2.0, 3.0]),
    ],
)
def test_labels_with_decimal_marks(labels, settings, wanted):
    parsed = parse_labels([labels], [[str(i) for i in range(len(labels))]], **settings)
    assert parsed.task == "regression"
    np.testing.assert_allclose(parsed.labels, wanted)


def test_names_of_classes_keep_their_commas():
    labels = ["1,5", "2,5"] * 2
    parsed = parse_labels([labels], [list("abcd")], task="classification")
    assert parsed.class_names == ("1,5", "2,5")
    with pytest.raises(DataError, match="1,500"):  # thousands, or a decimal comma? that is not guessed
        parse_labels([["1,500", "2,500"]], [list("ab")], task="regression")


def test_a_missing_header_is_named_first(tmp_path):
    (tmp_path / "t.csv").write_text("a.jpg,cat\nb.jpg,dog\n")
    with pytest.raises(DataError, match="seems to have no header: its first row is 'a.jpg'.*text=0"):
        load_texts(tmp_path / "t.csv")
