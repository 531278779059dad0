"""Pairs of texts: learned from a table, exported, and asked in the shell, one by one and as a table."""

import csv
import json

import numpy as np
import pytest
from text_models import WORDS, tiny_bert_folder

from tfft import cli
from tfft.errors import DataError
from tfft.exporting import open_export, predict_table, write_predictions

pytestmark = pytest.mark.text
slow_fixtures = process_fixtures = ("run",)

PAIR = ["premise", "hypothesis"]
KINDS = {"good": ["good", "fine", "great"], "bad": ["bad", "poor", "awful"]}


def planted(count, seed=0):
    """Rows whose label is whether both texts judge alike; neither text alone tells it."""
    random, rows = np.random.default_rng(seed), []
    for i in range(count):
        first = ("good", "bad")[int(random.integers(2))]
        follows = bool(i % 2)
        second = first if follows else {"good": "bad", "bad": "good"}[first]
        texts = []
        for kind in (first, second):
            words = list(random.choice(["the", "film", "is", "a"], random.integers(0, 2)))
            words.insert(int(random.integers(0, len(words) + 1)), str(random.choice(KINDS[kind])))
            texts.append(" ".join(words))
        rows.append([*texts, "follows" if follows else "contradicts"])
    return rows


def write(path, rows, header=(*PAIR, "relation")):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on planted pairs, made by the command line."""
    place = tmp_path_factory.mktemp("pairs")
    table = write(place / "pairs.csv", planted(240))
    bert = tiny_bert_folder(place / "bert", WORDS, width=16)
    arguments = ["train", str(table), "--text", *PAIR, "--label", "relation", "--backbone", str(bert), "--out",
                 str(place / "run"), "--unfreeze", "all", "--epochs", "15", "--learning-rate", "5e-3", "--batch-size",
                 "16", "--cache", "memory"]  # fmt: skip
    assert cli.main(arguments) == 0
    return place / "run"


@pytest.mark.nightly
def test_what_neither_text_tells_alone_is_learned(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["frozen"]["accuracy"] < 0.7  # a linear head on features that were never trained
    assert metrics["final"]["accuracy"] >= 0.95


def ask(capsys, *arguments, code=0):
    assert cli.main(["predict", *map(str, arguments)]) == code
    return capsys.readouterr()


@pytest.mark.nightly
def test_pairs_are_asked_one_by_one_of_the_run_and_of_its_export(run, capsys):
    pair = ["--text", "the film is great", "--text-pair", "a awful film"]
    for model in (run, run / "export"):
        said = ask(capsys, model, *pair, "--text", "good", "--text-pair", "fine", "--json").out
        found = json.loads(said)["predictions"]
        assert [row["label"] for row in found] == ["contradicts", "follows"]
        assert (found[0]["text"], found[0]["text_pair"]) == ("the film is great", "a awful film")
    assert ask(capsys, run, *pair).out.startswith("the film is great | a awful film: contradicts ")


@pytest.mark.nightly
def test_a_table_is_answered_row_by_row_and_keeps_its_columns(run, capsys, tmp_path):
    rows = planted(80, seed=9)
    table = write(tmp_path / "new.csv", [*rows, ["the film", "  ", "?"]])
    out = tmp_path / "answers.csv"
    shown = ask(capsys, run, table, "--out", out, code=1)  # a row could not be used
    assert f"{table}:82 has nothing in premise and hypothesis" in shown.err or "has nothing in" in shown.err
    assert "81 rows, 1 unusable" in shown.out
    with out.open(encoding="utf-8", newline="") as file:
        answers = list(csv.DictReader(file))
    assert list(answers[0]) == [*PAIR, "relation", "predicted_label", "predicted_probability", "predicted_error"]
    assert [[row[name] for name in (*PAIR, "relation")] for row in answers[:-1]] == rows
    right = [row["predicted_label"] == row["relation"] for row in answers[:-1]]
    assert np.mean(right) >= 0.9  # in the order of the table, although texts of similar length run together
    assert answers[-1]["predicted_label"] == ""
    again = ask(capsys, run, table, "--out", out, code=2)
    assert "already exists, and tfft never overwrites files" in again.err
    lines = ask(capsys, run / "export", table, "--column", *PAIR, "--json", code=1).out
    found = json.loads(lines)["predictions"]
    assert [row.get("label", "") for row in found] == [row["predicted_label"] for row in answers]
    assert found[0]["row"] == f"{table}:2"


def test_json_lines_and_python(run, tmp_path):
    served = open_export(run / "export")
    path = tmp_path / "new.jsonl"
    path.write_text("".join(json.dumps({"a": a, "b": b, "n": 1.5}) + "\n" for a, b, _ in planted(5)))
    table, found = predict_table(served, path, ["a", "b"])
    rows = write_predictions(table, found, tmp_path / "out.jsonl")
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["predicted_label"] for row in written] == [row.label for row in rows]
    assert all(row["n"] == 1.5 for row in written)
    assert [p.name for p in tmp_path.glob(".*")] == []
    with pytest.raises(DataError, match="takes pairs of texts, so name 2 columns; received 1: 'a'"):
        predict_table(served, path, ["a"])
    with pytest.raises(DataError, match=r"(?s)no column 'premiss'.*Did you mean 'premise'"):
        predict_table(served, write(tmp_path / "t.csv", planted(2)), ["premiss", "hypothesis"])
    with pytest.raises(DataError, match="has no table suffix. Expected .csv"):
        write_predictions(table, [], tmp_path / "out.parquet")
    with pytest.raises(DataError, match="The folder .*missing of out.csv does not exist"):
        write_predictions(table, [], tmp_path / "missing" / "out.csv")


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--text", "good"], "expects pairs: one --text-pair for each --text"),
        (["--text", "a", "--text-pair", "b", "--text-pair", "c"], "Received: 1 --text, 2 --text-pair and 0 files"),
        (["--text", "a", "--text-pair", "b", "--out", "x.csv"], "Expected a table. Received: none."),
        (["a.csv", "b.csv"], "Expected a table alone. Received: 2 files"),
    ],
)
def test_wrong_questions(run, capsys, arguments, says):
    assert says in ask(capsys, run, *arguments, code=2).err
