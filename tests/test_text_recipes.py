"""From a table of sentences to a served model that takes strings."""

import json
import subprocess
import sys

import numpy as np
import pytest
from text_models import reviews, tiny_bert_folder

import tfft
from tfft import cli
from tfft.config import RunConfig
from tfft.data.loader import reader_of
from tfft.errors import DataError, PlanError
from tfft.recipes.labelled import labelled_data
from tfft.recipes.run_data import load_run_data

pytestmark = pytest.mark.text
slow_fixtures = process_fixtures = ("run",)

QUICK = {"verbose": False, "cache": "memory", "batch_size": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts")
    tiny_bert_folder(root / "bert")
    texts, labels = reviews(120)
    lines = [json.dumps({"review": t, "stars": y}) for t, y in zip(texts, labels, strict=True)]
    (root / "reviews.jsonl").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def run(place):
    return tfft.finetune(
        place / "bert", place / "reviews.jsonl", text="review", label="stars", out=place / "run", epochs=8,
        learning_rate=1e-2, unfreeze="all", **QUICK,
    )  # fmt: skip


def test_a_note_among_photos_makes_no_texts_of_them(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "photos" / name / f"{i}.jpg").write_bytes(b"")
            (tmp_path / "texts" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "texts" / name / f"{i}.txt").write_text("some text")
    (tmp_path / "photos" / "cat" / "about.txt").write_text("taken in spring")
    assert reader_of(tmp_path / "photos", {}).name == "image"
    assert reader_of(tmp_path / "texts", {}).name == "text"


def test_texts_of_new_authors_decide_how_much_trains(tmp_path):
    lines = [json.dumps({"text": f"good {i}", "label": f"{i % 2}", "author": f"a{i // 4}"}) for i in range(40)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert load_run_data(tmp_path / "t.jsonl", RunConfig(group="author")).is_grouped
    assert not load_run_data(tmp_path / "t.jsonl", RunConfig()).is_grouped


def test_it_learns_is_audited_and_says_what_it_did(run, place):
    assert run.final_scores.accuracy >= 0.9 > run.final_scores.majority_baseline
    assert run.class_names == ("bad", "good")
    assert not any(report.frozen_moved for report in run.history.audits.values())
    assert (run.plan.task, run.plan.text, run.plan.label) == ("classification", "review", "stars")
    assert run.plan.phases[1].optimizer == "adamw"
    again = tfft.load_run(place / "run")
    texts = np.array(reviews(5)[0], object)
    np.testing.assert_array_equal(again.model.predict(texts, verbose=0), run.model.predict(texts, verbose=0))
    assert again.plan == run.plan


@pytest.mark.process
def test_the_export_takes_strings_in_a_process_without_tfft(run):
    script = """
import sys
for name in ("keras", "tfft", "keras_hub"):
    sys.modules[name] = None
import importlib.util, pathlib
import tensorflow as tf
for lib in (pathlib.Path(importlib.util.find_spec("tensorflow_text").origin).parent / "python/ops").glob("*.so"):
    tf.load_op_library(str(lib))
served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
for label in served(text=tf.constant(sys.argv[2:]))["label"].numpy():
    print(label.decode())
"""
    texts = ["the film is good", "awful story !", "你好 good 😀"]
    command = [sys.executable, "-P", "-c", script, str(run.export.path), *texts]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    wanted = [run.class_names[i] for i in run.model.predict(np.array(texts, object), verbose=0).argmax(-1)]
    assert done.stdout.split() == wanted
    assert any("pip" in n or "tensorflow-text" in n for n in run.export.notes)
    assert run.export.largest_difference < 1e-5
    served = tfft.exporting.open_export(run.export.path.parent)
    assert set(served.signatures) == {"serving_default"}


@pytest.mark.nightly
def test_what_is_frozen_runs_once_and_gives_the_same_weights(place):
    runs = [
        tfft.finetune(place / "bert", place / "reviews.jsonl", text="review", label="stars", epochs=2, unfreeze=1,
                      **QUICK | {"cache": cache}) for cache in ("memory", None)
    ]  # fmt: skip
    assert not any("every epoch runs the whole model" in note for note in runs[0].history.notes)
    for a, b in zip(runs[0].model.weights, runs[1].model.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-4, err_msg=a.path)


@pytest.mark.nightly
def test_numbers_and_several_labels(place):
    texts, labels = reviews(160)
    stars = [4.5 if y == "good" else 1.25 for y in labels]
    how = {"epochs": 8, "learning_rate": 1e-2, "unfreeze": "all", **QUICK}
    run = tfft.finetune(place / "bert", (texts, stars), **how)
    assert (run.plan.task, run.final_scores.metric) == ("regression", "mean_absolute_error")
    assert run.plan.dropout == 0
    assert run.final_scores.value < 1.0  # always saying the mean is wrong by 1.6
    several = [f"{y}|{'film' if 'film' in t else 'other'}" for t, y in zip(texts, labels, strict=True)]
    run = tfft.finetune(place / "bert", (texts, several), separator="|", **how)
    assert (run.plan.task, run.class_names) == ("multilabel", ("bad", "film", "good", "other"))
    assert run.final_scores.accuracy > 0.8


@pytest.mark.nightly
def test_a_stopped_run_of_texts_goes_on(place, tmp_path):
    import keras

    class Stop(keras.callbacks.Callback):
        active = True

        def on_train_batch_end(self, batch, logs=None):
            if Stop.active and self.model.optimizer.iterations > 15:
                raise KeyboardInterrupt

    settings = {"text": "review", "label": "stars", "epochs": 3, "export_to": False, **QUICK}
    wanted = tfft.finetune(place / "bert", place / "reviews.jsonl", out=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        tfft.finetune(place / "bert", place / "reviews.jsonl", out=tmp_path / "run", callbacks=[Stop()], **settings)
    with pytest.raises(PlanError, match="label"):
        tfft.finetune(place / "bert", place / "reviews.jsonl", out=tmp_path / "run", **settings | {"label": "review"})
    Stop.active = False
    got = tfft.finetune(place / "bert", place / "reviews.jsonl", out=tmp_path / "run", callbacks=[Stop()], **settings)
    for a, b in zip(got.model.weights, wanted.model.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6, err_msg=a.path)


def test_settings_of_texts_that_cannot_be_used(place):
    with pytest.raises(
        PlanError, match=r"(?s)3 problems.*task: Expected.*Did you mean 'regression'.*max_length.*pooling"
    ):
        tfft.finetune(place / "bert", place / "reviews.jsonl", task="regresion", pooling="sum", max_length=1)


@pytest.mark.nightly
def test_the_command_line_trains_predicts_and_measures(place, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["train", str(place / "reviews.jsonl"), "--text", "review", "--label", "stars", "--epochs", "1",
                 "--backbone", str(place / "bert"), "--out", str(out), "--max-length", "20",
                 "--cache", "off"]  # fmt: skip
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "120 texts" in shown or "texts: 120" in shown
    assert "text: median" in shown
    assert cli.main(["predict", str(out), "--text", "good film", "--text", "awful", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert [row["text"] for row in found] == ["good film", "awful"]
    assert {row["label"] for row in found} <= {"good", "bad"}
    assert cli.main(["predict", str(out / "export"), "--text", "good film"]) == 0
    assert "good film: " in capsys.readouterr().out
    assert cli.main(["predict", str(out), "photo.jpg"]) == 2
    assert "--text" in capsys.readouterr().err
    assert cli.main(["evaluate", str(out), str(place / "reviews.jsonl"), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["examples"] == 24  # the held-out fifth: never what it has learned from


@pytest.mark.nightly
def test_other_folders_are_measured_whole_and_by_the_names_of_their_classes(place, tmp_path):
    texts, labels = reviews(60)
    labels = ["ugly" if i % 3 == 0 else y for i, y in enumerate(labels)]  # bad, good, ugly
    run = tfft.finetune(place / "bert", (texts, labels), plan="linear_probe", out=tmp_path / "run", export_to=False,
                        **QUICK)  # fmt: skip
    for name in ("good", "ugly"):
        (tmp_path / "other" / name).mkdir(parents=True)
        for i in range(5):
            (tmp_path / "other" / name / f"{i}.txt").write_text(f"{name} film {i}")
    dataset, _, words = labelled_data(run, tmp_path / "other")
    assert words.startswith("all examples in")
    assert sorted(np.concatenate([y for _, y in dataset])) == [1] * 5 + [2] * 5
    split = tmp_path / "split"
    split.mkdir()
    for name, count in (("train", 6), ("val", 4)):
        rows = [json.dumps({"text": f"film {i}", "label": ("good", "ugly")[i % 2]}) for i in range(count)]
        (split / f"{name}.jsonl").write_text("\n".join(rows))
    dataset, _, words = labelled_data(run, split)
    assert words.startswith("held-out examples")
    assert sorted(np.concatenate([y for _, y in dataset])) == [1, 1, 2, 2]  # not 0 and 1, as in their own order
    (split / "train.jsonl").write_text('{"text": "a", "label": "goood"}\n{"text": "b", "label": "ugly"}')
    (split / "val.jsonl").write_text('{"text": "a", "label": "goood"}')
    with pytest.raises(DataError, match="unknown classes: goood.*Did you mean 'good'"):
        labelled_data(run, split)
