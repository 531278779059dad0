"""Files that version 0.1.0 wrote are read, give what they gave then, and trainings that it began are ended.

They lie in ``fixtures/v0``, written by ``make_v0_fixtures.py``, each with its inputs and answers in a ``.npz``. Plans
and checkpoints hold the absolute path of their data, which was in ``/place``; the tests copy what they need into a
folder of their own and put its path in that place.
"""

import csv
import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import v0_cases
import yaml
from v0_cases import FIXTURES, _determinism_ends  # noqa: F401

import tfft
from tfft.cli import main
from tfft.config.stored_settings import current_names

PLACE = "/place"
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
TRAINED = {"rtol": 1e-4, "atol": 1e-5}  # what went through steps of training, on any processor
MODELS = sorted(path.stem for path in (FIXTURES / "models").glob("*.keras"))
DATA = {"photos": "photos", "recordings": "recordings", "reviews": "reviews.jsonl", "tagged": "tagged.jsonl"}


def stored(path):
    """The arrays of a file; texts become what models of texts take."""
    with np.load(path) as file:
        return {name: file[name].astype(object) if file[name].dtype.kind == "U" else file[name] for name in file}


def inputs_of(known):
    several = {name.removeprefix("input_"): known[name] for name in known if name.startswith("input_")}
    return several or known["input"]


def answers(model, inputs):
    return np.asarray(model.predict(inputs, verbose=0))


def weights_are(model, known, prefix="", *, seeds=False, **tolerance):
    """Compares all variables; the state of random numbers too, if asked: Keras does not put it into files."""
    found = v0_cases.weights(model)
    wanted = {name.removeprefix(prefix): value for name, value in known.items() if name.removeprefix(prefix).isdigit()}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if value.dtype.kind != "f" and not seeds:
            continue
        np.testing.assert_allclose(found[name], value, err_msg=name, **tolerance)


# --- .keras files


def test_there_is_a_file_of_every_kind():
    assert len(MODELS) == 24


def load(name):
    if name == "text_decoder":  # opening any text model registers StartEndPieces, see below
        tfft.load_backbone(FIXTURES / "bert")
    return keras.saving.load_model(FIXTURES / "models" / f"{name}.keras"), stored(FIXTURES / "models" / f"{name}.npz")


@pytest.mark.daily(*sorted({*MODELS} - {"text_classification", "text_decoder", "text_pair", "tokens"}))
@pytest.mark.parametrize("name", MODELS)
def test_a_model_answers_as_it_did(name):
    model, known = load(name)
    np.testing.assert_allclose(answers(model, inputs_of(known)), known["output"], **CLOSE)
    assert [v.trainable for v in model.variables] == known["trainable"].tolist()
    assert bool(model.compiled) == ("labels" in known)


COMPILED = [
    "image_compiled", "image_compiled_focal", "image_compiled_soft", "pair_cosine_loss", "tokens",
    "pull_to_the_start",
]  # fmt: skip


@pytest.mark.daily("image_compiled", "pair_cosine_loss", "pull_to_the_start")
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_model_measures_as_it_did_and_trains_on(name):
    model, known = load(name)
    inputs, labels = known["input"], known["labels"]
    scores = model.evaluate(inputs, labels, verbose=0, return_dict=True)
    assert scores.keys() == {key.removeprefix("score_") for key in known if key.startswith("score_")}
    for key, value in scores.items():
        np.testing.assert_allclose(value, known[f"score_{key}"], err_msg=key, **CLOSE)
    # The optimizer goes on from its state: the step after it is the one that it would have been.
    model.train_on_batch(tf.constant(inputs) if inputs.dtype == object else inputs, labels)
    after = answers(model, inputs)
    np.testing.assert_allclose(after, known["output_after"], **TRAINED)
    assert np.abs(after - known["output"]).max() > 1e-3


@pytest.mark.nightly
def test_all_names_that_files_may_hold_are_registered_in_a_fresh_process():
    names = json.loads((FIXTURES / "models" / "registered.json").read_text())
    assert len(names) > 20
    script = "import sys, tfft, keras; print(*(n for n in sys.argv[1:] if not keras.saving.get_registered_object(n)))"
    done = subprocess.run([sys.executable, "-c", script, *names], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


# --- folders of runs


@pytest.fixture
def place(tmp_path):
    """Everything but models and checkpoints, in a folder whose path stands in the plans."""
    for source in sorted(FIXTURES.iterdir()):
        if source.is_file():
            shutil.copy(source, tmp_path)
        elif source.name in ("photos", "recordings", "runs", "served", "bert"):
            shutil.copytree(source, tmp_path / source.name)
    for plan in tmp_path.glob("runs/*/plan.yaml"):
        plan.write_text(plan.read_text().replace(PLACE, str(tmp_path)))
    return tmp_path


def plain(value):
    """A value of a plan as YAML holds it, with all fields."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def in_file(value, known):
    """The value, without the fields that later versions added to a group of settings: those that are off."""
    if not (isinstance(value, dict) and isinstance(known, dict)):
        return value
    return {name: item for name, item in value.items() if name in known or item}


def check_plan(plan, path, without=()):
    """Every field in the file has its value in the plan; of phases the file holds what is not the default."""
    values, found = current_names(yaml.safe_load(path.read_text())), plain(plan)
    assert len(values) > 30
    for name in values.keys() - {"phases", *without}:
        known = tfft.registry.task_name(values[name]) if name == "task" else values[name]  # tasks were renamed
        assert in_file(found[name], known) == known, name
    assert len(found["phases"]) == len(values["phases"])
    for phase, wanted in zip(found["phases"], values["phases"], strict=True):
        assert {name: phase[name] for name in wanted} == wanted


@pytest.mark.daily("photos", "recordings", "reviews")
@pytest.mark.parametrize("name", DATA)
def test_a_run_is_read_and_measures_as_it_did(name, place, capsys):
    folder, known = place / "runs" / name, stored(FIXTURES / f"{name}.npz")
    run = tfft.load_run(folder)
    np.testing.assert_allclose(answers(run.model, known["input"]), known["output"], **CLOSE)
    weights_are(run.model, known, "weights_", rtol=0, atol=0)
    check_plan(run.plan, folder / "plan.yaml")
    metrics = json.loads((folder / "metrics.json").read_text())
    for scores, wanted in ((run.frozen_scores, metrics["frozen"]), (run.final_scores, metrics["final"])):
        assert scores.accuracy == wanted["accuracy"]
        assert scores.loss == wanted["loss"]
        assert list(scores.interval) == wanted["interval"]
    assert list(run.class_names) == (folder / "labels.txt").read_text().split()
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["val_loss"] for row in run.history.rows] == [float(row["val_loss"]) for row in rows]
    capsys.readouterr()
    assert main(["evaluate", str(folder), str(place / DATA[name]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data"].startswith("held-out")
    assert found["examples"] == metrics["final"]["examples"]
    assert found["accuracy"] == pytest.approx(metrics["final"]["accuracy"], abs=1e-6)
    assert found["loss"] == pytest.approx(metrics["final"]["loss"], rel=1e-4, abs=1e-6)
    assert found["confusion"] == metrics["final"]["confusion"]


@pytest.mark.slow
def test_the_split_of_a_run_is_read_and_gives_its_accuracy(place):
    folder = place / "runs" / "photos"
    splits = tfft.data.load(place / "photos", validation=str(folder / "split.csv"))
    spec = tfft.load_backbone(folder / "model.keras").input_spec
    scores = tfft.evaluate(tfft.load_run(folder).model, tfft.data.to_dataset(splits.validation, spec))
    metrics = json.loads((folder / "metrics.json").read_text())["final"]
    assert scores.examples == 9
    assert scores.accuracy == metrics["accuracy"] == pytest.approx(6 / 9)
    assert scores.loss == pytest.approx(metrics["loss"], rel=1e-4)


@pytest.mark.nightly
def test_a_plan_is_repeated(place):
    plan, known = place / "runs" / "photos" / "plan.yaml", stored(FIXTURES / "photos.npz")
    run = tfft.finetune(v0_cases.network(), place / "photos", plan=plan, **v0_cases.QUICK)
    check_plan(run.plan, plan, without=["versions"])
    weights_are(run.model, known, "weights_", **TRAINED)
    np.testing.assert_allclose(answers(run.model, known["input"]), known["output"], rtol=1e-3, atol=1e-4)
    assert run.final_scores.accuracy == json.loads(plan.with_name("metrics.json").read_text())["final"]["accuracy"]


@pytest.mark.nightly
def test_a_plan_is_repeated_on_the_command_line(place):
    old, new = place / "runs" / "reviews", place / "again"
    assert main(["train", "--config", str(old / "plan.yaml"), "--out", str(new), "--no-export"]) == 0
    first, second = (json.loads((folder / "metrics.json").read_text())["final"] for folder in (old, new))
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
    assert second["confusion"] == first["confusion"]
    check_plan(tfft.load_run(new).plan, old / "plan.yaml", without=["versions"])


def test_a_language_model_is_read():
    folder, known = FIXTURES / "runs" / "language", stored(FIXTURES / "language.npz")
    model = tfft.tasks.causal_lm.load(folder)
    weights_are(model, known, rtol=0, atol=0)
    found = tfft.tasks.causal_lm.perplexity(model, list(known["input"]))
    assert found.value == pytest.approx(float(known["value"]), rel=1e-5)


# --- an export


@pytest.mark.slow
def test_an_export_answers_as_it_did(place, capsys):
    known, folder = stored(FIXTURES / "served.npz"), place / "served"
    served = tf.saved_model.load(str(folder / "1"))
    files = [tf.io.encode_png(pixels).numpy() for pixels in known["images"]]
    for found in (
        served.signatures["serving_default"](images=tf.constant(known["images"])),
        served.signatures["serve_bytes"](image_bytes=tf.constant(files)),
    ):
        assert [label.decode() for label in found["label"].numpy()] == [label.decode() for label in known["label"]]
        for name in ("logits", "probabilities"):
            np.testing.assert_allclose(found[name], known[name], err_msg=name, **CLOSE)
    (place / "x.png").write_bytes(files[0])
    assert main(["predict", str(folder), str(place / "x.png"), "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)["predictions"]
    assert row["label"] == known["label"][0].decode()
    assert row["probability"] == pytest.approx(known["probabilities"][0].max(), rel=1e-4)


@pytest.mark.slow
def test_an_export_opens_as_a_backbone():
    known = stored(FIXTURES / "served.npz")
    backbone = tfft.load_backbone(FIXTURES / "served" / "1", output="logits")
    np.testing.assert_allclose(backbone.model.predict(known["images"], verbose=0), known["logits"], **CLOSE)


# --- trainings that were stopped


def identity(folder):
    return json.loads((folder / "checkpoints" / "identity.json").read_text())


def write_identity(folder, content):
    text = json.dumps(content, sort_keys=True)
    content = {**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    (folder / "checkpoints" / "identity.json").write_text(json.dumps(content))


def go_on(name, arguments, tmp_path, moved=()):
    """Ends a training of ``fixtures/v0``; returns the run, the steps that were made, and whether versions are the same.

    A checkpoint goes on only where paths, processor, threads and versions are those that it was begun with. So the same
    training is begun here once more and stopped at once; what it says of this machine is written into the old one,
    beside the settings that follow from the path of the data (``moved``). All other settings must be the same.
    """
    begin, fresh, old = getattr(v0_cases, name), tmp_path / "fresh", tmp_path / "old"
    with pytest.raises(SystemExit):
        begin(fresh, *arguments, stop=v0_cases.StopAt(1))
    shutil.copytree(FIXTURES / name, old)
    was, now = identity(old), identity(fresh)
    settings = was["settings"]["settings"]
    for keys in moved:
        part, other = settings, now["settings"]["settings"]
        for key in keys[:-1]:
            part, other = part[key], other[key]
        assert part[keys[-1]] != other[keys[-1]]
        part[keys[-1]] = other[keys[-1]]
    assert current_names(was["settings"]) == now["settings"]
    here, versions = now["machine"], was["machine"]["versions"]
    assert here.keys() == was["machine"].keys()
    same = all(here["versions"][package] == versions[package] for package in ("tensorflow", "keras", "numpy"))
    # Another version is refused, and nothing is lost by it.
    other = versions if not same else {**here["versions"], "keras": "3.0.0"}
    write_identity(old, {"settings": was["settings"], "machine": {**here, "versions": other}})
    with pytest.raises(tfft.TfftError, match=r"machine|versions\.\w+ was '.*' and is '"):
        begin(old, *arguments)
    write_identity(old, {"settings": was["settings"], "machine": here})
    steps = v0_cases.StopAt()
    return begin(old, *arguments, stop=steps), steps.count, same


def check_end(name, run, steps, same, of):
    known = stored(FIXTURES / f"{name}.npz")
    rows = [[r["epoch"], r["loss"], r["val_loss"]] for r in run.history.rows if r["phase"] != "frozen"]
    tolerance = TRAINED if same else {"rtol": 1e-2, "atol": 1e-3}
    np.testing.assert_allclose(rows, known["rows"], **tolerance)
    weights_are(run.model, known, seeds=True, **tolerance)
    assert steps == of - v0_cases.STOPS[name]  # and not from the beginning


@pytest.mark.slow
def test_a_stopped_training_on_arrays_goes_on(tmp_path):
    run, steps, same = go_on("half_arrays", (), tmp_path)
    check_end("half_arrays", run, steps, same, of=20)


@pytest.mark.nightly
def test_a_stopped_training_on_files_goes_on(tmp_path):
    photos = shutil.copytree(FIXTURES / "photos", tmp_path / "photos")
    run, steps, same = go_on("half_files", (photos,), tmp_path, moved=(("plan", "data"), ("data",)))
    check_end("half_files", run, steps, same, of=15)
