"""Labelled texts: from every source to batches, and every planted fault named with its line."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tfft.data import to_dataset
from tfft.data.sampling import rows
from tfft.errors import DataError
from tfft.inspection import check_splits
from tfft.modalities.text import load_texts

WORDS = ["good film", "bad film", "fine 你好 😀", "wörse", 'a "quoted", one', "two\nlines"]


def table(path, texts, labels, columns=("review", "stars")):
    def quoted(value):
        return '"' + str(value).replace('"', '""') + '"'

    lines = [",".join(columns), *(f"{quoted(t)},{quoted(y)}" for t, y in zip(texts, labels, strict=True))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def sample(count=40):
    texts = [f"{WORDS[i % len(WORDS)]} {i}" for i in range(count)]
    return texts, ["up" if i % 2 else "down" for i in range(count)]


def everything(splits):
    parts = (splits.train, splits.validation)
    return sorted((t, splits.class_names[y]) for p in parts for t, y in zip(p.texts, p.labels, strict=True))


def test_every_source_gives_the_same_examples(tmp_path):
    texts, labels = sample()
    wanted = sorted(zip(texts, labels, strict=True))
    names = {"text": "review", "label": "stars"}
    file = table(tmp_path / "r.csv", texts, labels)
    assert everything(load_texts(file, **names)) == wanted
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert everything(load_texts(tmp_path / "bom.csv", **names)) == wanted
    lines = [json.dumps({"review": t, "stars": y}) for t, y in wanted]
    (tmp_path / "r.jsonl").write_text("\n".join(lines) + "\n\n")
    assert everything(load_texts(tmp_path / "r.jsonl", **names)) == wanted
    assert everything(load_texts((texts, labels))) == wanted
    pandas = pytest.importorskip("pandas")
    assert everything(load_texts(pandas.DataFrame({"review": texts, "stars": labels}), **names)) == wanted
    for i, (text, label) in enumerate(wanted):
        (tmp_path / "folders" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folders" / label / f"{i}.txt").write_bytes(text.encode())
    assert everything(load_texts(tmp_path / "folders")) == wanted


def test_a_file_with_tabs_and_without_a_header_knows_no_quoting(tmp_path):
    lines = ['it is "fine\t1', 'so " so\t0', '"whole ""field"""\t1', "plain\t0", 'a"b"c\t1']
    (tmp_path / "train.tsv").write_text("\r\n".join(lines))
    (tmp_path / "dev.tsv").write_text("never seen\t1\nneither\t0\n")
    splits = load_texts(tmp_path, text=0, label=1)
    assert list(splits.train.texts) == ['it is "fine', 'so " so', 'whole "field"', "plain", 'a"b"c']
    assert list(splits.validation.texts) == ["never seen", "neither"]
    assert splits.split_from == "train.tsv and dev.tsv"
    assert splits.train.places[2].endswith("train.tsv:3")


def test_equal_texts_stay_on_one_side_and_every_class_is_held_out():
    texts = [f"text {i // 3}" for i in range(60)]
    texts[1] = "  TEXT 0 "
    labels = [("a", "b")[(i // 3) % 2] for i in range(60)]
    for seed in range(5):
        splits = load_texts((texts, labels), seed=seed)
        sides = [{t.strip().casefold() for t in part.texts} for part in (splits.train, splits.validation)]
        assert not sides[0] & sides[1]
        assert set(splits.validation.labels) == {0, 1}
        assert 8 <= len(splits.validation) <= 18
    [copies] = [each for each in check_splits(splits).findings if each.kind == "copy"]
    assert len(copies.items) == 40
    again, other = (load_texts((texts, labels), seed=seed) for seed in (4, 0))
    assert again.validation.places == splits.validation.places != other.validation.places
    assert again.train.fingerprint() == splits.train.fingerprint() != other.train.fingerprint()


def test_what_the_labels_are_is_seen_or_said():
    texts = [f"text {i}" for i in range(12)]
    stars = load_texts((texts, [i % 3 + 9 for i in range(12)]))
    assert (stars.task, stars.class_names) == ("classification", ("9", "10", "11"))
    numbers = load_texts((texts, [i / 4 for i in range(12)]))
    assert (numbers.task, numbers.train.labels.dtype) == ("regression", np.float32)
    several = load_texts((texts, ["a|b", "b", "c|a"] * 4), separator="|")
    assert (several.task, several.class_names) == ("multilabel", ("a", "b", "c"))
    row = list(several.train.texts).index("text 3") if "text 3" in several.train.texts else None
    part, at = (
        (several.train, row)
        if row is not None
        else (several.validation, list(several.validation.texts).index("text 3"))
    )
    assert list(part.labels[at]) == [1, 1, 0]
    assert load_texts((texts, list(range(12))), task="regression").task == "regression"


def test_pairs_of_texts(tmp_path):
    texts, labels = sample()
    lines = [json.dumps({"a": t, "b": t[::-1], "y": y}) for t, y in zip(texts, labels, strict=True)]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    splits = load_texts(tmp_path / "p.jsonl", text=("a", "b"), label="y")
    inputs, _ = next(iter(to_dataset(splits.train, batch_size=4)))
    assert set(inputs) == {"text", "text_pair"}
    for one, other in zip(inputs["text"].numpy(), inputs["text_pair"].numpy(), strict=True):
        assert one.decode() == other.decode()[::-1]


@pytest.mark.parametrize("count", [64, 61])
def test_batches_hold_texts_of_similar_length_and_each_text_once(count):
    lengths = np.random.default_rng(0).integers(1, 1000, count)
    epoch = tf.Variable(0, dtype=tf.int64)
    seen = []
    for number in (0, 1, 0):
        epoch.assign(number)
        found = [b.numpy() for b in rows(count, True, 3, epoch, lengths=lengths, batch_size=8).batch(8)]
        assert sorted(np.concatenate(found)) == list(range(count))
        assert [len(b) for b in found[:-1]] == [8] * (len(found) - 1)
        spread = np.mean([np.ptp(lengths[b]) for b in found if len(b) == 8])
        assert spread < 0.5 * np.ptp(lengths)
        seen.append(np.concatenate(found).tolist())
    assert seen[0] == seen[2] != seen[1]
    ordered = np.concatenate([b.numpy() for b in rows(count, False, 0, None, lengths=lengths).batch(8)])
    assert (np.diff(lengths[ordered]) >= 0).all()
    plain = np.concatenate([b.numpy() for b in rows(count, True, 3, epoch).batch(8)])
    assert np.mean([np.ptp(lengths[plain[i : i + 8]]) for i in range(0, 56, 8)]) > 0.5 * np.ptp(lengths)


def test_batches_of_texts():
    splits = load_texts(sample())
    dataset = to_dataset(splits.train, batch_size=8, shuffle=True)
    assert int(dataset.cardinality()) == 4
    pairs = [(t.decode(), int(y)) for texts, labels in dataset for t, y in zip(texts.numpy(), labels, strict=True)]
    assert sorted(pairs) == sorted(zip(splits.train.texts, splits.train.labels.tolist(), strict=True))
    assert list(splits.train.lengths) == [len(t.encode()) for t in splits.train.texts]


def test_the_report_tells_what_is_odd():
    texts = ["", "same", "Same ", "  ", "long " * 700, "ünd", "x", "y"]
    splits = load_texts((texts, ["a", "a", "b", "a", "b", "A", "a", "A"]))
    report, found = splits.report, {each.kind: each for each in check_splits(splits).findings}
    assert {item.name for item in found["empty-text"].items} == {"example 0", "example 3"}
    [item] = [item for item in found["conflict"].items if "same" in texts[int(item.name[-1])].casefold()]
    assert {item.name, item.other} == {"example 1", "example 2"}
    assert "class names differ only by case" in str(found["class-twins"])
    assert (report.longest, report.longest_place) == (3500, "example 4")
    assert report.other_scripts == pytest.approx(1 / 8)
    shown = str(report)
    for words in (
        "3,500 characters (example 4)",
        "512 on",
    ):
        assert words in shown


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("review,stars\na,1\nb,2\n", {"text": "reveiw"}, r"no column 'reveiw'.*Did you mean 'review'"),
        ("review,stars\na,1\nb,2\n", {"label": "label"}, r"no column 'label'.*It has: 'review', 'stars'"),
        ("review,stars\na,1\nb,1\n", {}, "all 2 examples have the label '1'"),
        ("review,stars\na,1\nb\nc,2\n", {}, r"r.csv:3 has 1 field. Expected 2"),
        ('review,stars\na,1\n"b,2\nc,3\nd,4\n', {}, r"r.csv:3 has a quote that is not closed"),
        ('review,stars\na,1\n"b" x,2\n', {}, r"r.csv:3 has a quote that is not closed, or closed too early"),
        ("", {}, "is empty"),
        ("review,stars\n", {}, "No row has a text and a label"),
        ("review,review\na,1\n", {}, "names 'review' more than once"),
        ("review,stars\na,\nb,1\n", {"strict": True}, "r.csv:2 has no label"),
        ("review,stars\na,x\nb,y\nc,x\n", {}, "too few: y"),
        (
            "review,stars\na,1.5\nb,much\nc,2\n",
            {"task": "regression"},
            "r.csv:3 has the label 'much', expected a number",
        ),
        ("review,stars\na,1\n", {"label": "review"}, "must be different columns"),
        ("review,stars\na,1\n", {"label": 1}, "names for a file with a header, numbers for one without"),
    ],
)
def test_faults_of_a_table_are_named_with_their_line(tmp_path, content, settings, message):
    (tmp_path / "r.csv").write_text(content)
    with pytest.raises(DataError, match=f"(?s){message}"):
        load_texts(tmp_path / "r.csv", **{"text": "review", "label": "stars"} | settings)


def test_other_encodings_are_named_by_line_and_byte(tmp_path):
    (tmp_path / "r.csv").write_bytes("review,stars\nfine,1\nna\xefve,2\nwell,1\nso,2\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"r.csv:3 is not utf-8: byte 2 of the line is 0xef.*encoding='cp1252'"):
        load_texts(tmp_path / "r.csv", text="review", label="stars", encoding="utf-8")
    splits = load_texts(tmp_path / "r.csv", text="review", label="stars", encoding="latin-1")
    assert "naïve" in [*splits.train.texts, *splits.validation.texts]


def test_values_that_are_no_text_are_skipped_or_refused(tmp_path):
    found = [{"t": "fine", "y": 1}, {"t": None, "y": 1}, {"t": 5, "y": 2}, {"t": "x", "y": 2}, {"t": "\ud800", "y": 1}]
    found += [{"t": "more", "y": 1}, {"t": "yet", "y": 2}, {"y": 2}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, found)))
    splits = load_texts(tmp_path / "r.jsonl", text="t", label="y")
    reasons = {item.path.rsplit(":", 1)[1]: item.reason for item in splits.skipped}
    assert reasons["2"] == reasons["8"] == "has no text"
    assert reasons["3"] == "has the int 5 instead of a text"
    assert "lone surrogate" in reasons["5"]
    with pytest.raises(DataError, match=r"4 problems(?s:.*)jsonl:3 has the int 5"):
        load_texts(tmp_path / "r.jsonl", text="t", label="y", strict=True)
    (tmp_path / "bad.jsonl").write_text('{"t": "a"}\n[1]\n{"t": \n')
    with pytest.raises(DataError, match=r"(?s)bad.jsonl:2 holds a list.*bad.jsonl:3 is not valid JSON"):
        load_texts(tmp_path / "bad.jsonl", text="t", label="y")


def test_labels_of_the_validation_that_training_does_not_have(tmp_path):
    files = [table(tmp_path / "a.csv", ["x", "y"], ["up", "down"]), table(tmp_path / "b.csv", ["z"], ["upp"])]
    with pytest.raises(
        DataError, match=r"b.csv:2 has the label 'upp', which no training example has. Did you mean 'up'"
    ):
        load_texts(tuple(files), text="review", label="stars")


def test_a_column_of_ids_is_not_taken_for_classes():
    with pytest.raises(DataError, match="is that column an id or a text"):
        load_texts(([f"t{i}" for i in range(150)], [f"id{i}" for i in range(150)]))


def test_a_very_long_text_and_strange_characters_survive(tmp_path):
    texts = ["x" * 1_000_000, "nul \0 here", "\r\n", "\u202eright to left", "ok", "fine"]
    table(tmp_path / "r.csv", texts, ["a", "b"] * 3)
    splits = load_texts(tmp_path / "r.csv", text="review", label="stars")
    assert sorted([*splits.train.texts, *splits.validation.texts]) == sorted(texts)


def test_rows_of_one_group_and_equal_texts_stay_on_one_side(tmp_path):
    lines = ["text,label,author"]
    lines += [f"text {i // 2 if i % 7 == 0 else i},{'ab'[i % 2]},writer {i % 11}" for i in range(110)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    splits = load_texts(tmp_path / "t.csv", group="author")
    authors = {f"{tmp_path}/t.csv:{n}": line.split(",")[2] for n, line in enumerate(lines[1:], 2)}
    sides = [{authors[place] for place in part.places} for part in (splits.train, splits.validation)]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]
    assert not set(splits.train.texts) & set(splits.validation.texts)
    with pytest.raises(DataError, match=r"no column 'writer' \(group=\)"):
        load_texts(tmp_path / "t.csv", group="writer")
    with pytest.raises(DataError, match="expects a column of a single table"):
        load_texts((["a", "b"], [0, 1]), group="author")
