"""The command line: what it prints and returns, for right and for wrong input."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfft
from tfft.cli import main

slow_fixtures = ("run",)
process_fixtures = ("run", "imported")

LIGHT = """
import json, sys
for number, code in enumerate(json.loads(sys.argv[1])):
    exec(code, {})
    print()
    print(number, sorted(m for m in ("tensorflow", "keras", "numpy", "sklearn") if m in sys.modules))
"""
STARTS = [
    "import tfft; tfft.__version__; dir(tfft)",
    "import tfft.cli\ntry: tfft.cli.main(['--help'])\nexcept SystemExit: pass",
    "import tfft.cli\ntry: tfft.cli.main(['train', '--help'])\nexcept SystemExit: pass",
    "import tfft.cli\ntry: tfft.cli.main(['train', '--epochs', 'x'])\nexcept SystemExit: pass",
    "import tfft.cli\ntfft.cli.main(['list'])",
]


def python(*arguments, **environment):
    """Runs Python in a process of its own, as a user's shell would."""
    values = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"} | environment
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=values, check=False)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A small network in a .keras file, which is a handle like any other."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((32, 32, 3))
    for k in range(2):
        x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name=f"block{k}_conv")(x)
    path = tmp_path_factory.mktemp("backbone") / "small.keras"
    keras.Model(inputs, x, name="small").save(path)
    return str(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folders of noisy pictures, one colour per class."""
    base, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, colour in {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (210, 40, 40)}.items():
        (base / name).mkdir()
        for i in range(10):
            pixels = np.clip(generator.normal(0, 20, (24, 30 + i, 3)) + colour, 0, 255).astype(np.uint8)
            (base / name / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return base


@pytest.fixture(scope="module")
def run(backbone, photos, tmp_path_factory):
    """A run that `tfft train` made."""
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["train", str(photos), "--backbone", backbone, "--out", str(out), "--unfreeze", "1", "--seed", "3"]
    arguments += ["--epochs", "2", "--head-epochs", "6", "--batch-size", "8", "--input-range", "-1", "1"]
    assert main(arguments) == 0
    return out


# --- quick start -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imported():
    """What one process has imported after each of some starts, one after the other."""
    codes = [*STARTS, "import tfft.cli\ntfft.cli.main(['cache', 'list'])"]
    done = python("-c", LIGHT, json.dumps(codes))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return [next(line for line in lines if line.startswith(f"{number} [")) for number in range(len(codes))]


@pytest.mark.parametrize("number", range(len(STARTS)))
def test_nothing_heavy_is_imported_before_it_is_needed(imported, number):
    assert imported[number] == f"{number} []"


def test_the_cache_is_listed_without_tensorflow(imported):
    assert imported[-1] == f"{len(STARTS)} ['numpy']"


def test_help_lists_every_command_and_no_command_is_help(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    for name in ("demo", "train", "inspect", "predict", "evaluate", "export", "cache", "list"):
        assert f"\n    {name} " in text
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"tfft {tfft.__version__}\n"


@pytest.mark.process
def test_the_module_can_be_run():
    done = python("-m", "tfft", "--version")
    assert (done.returncode, done.stdout) == (0, f"tfft {tfft.__version__}\n")


# --- train -------------------------------------------------------------------------------------------------------


def test_train_leaves_a_whole_run(run, backbone):
    assert {p.name for p in run.iterdir()} >= {"plan.yaml", "metrics.json", "history.csv", "labels.txt", "model.keras"}
    assert (run / "export" / "1" / "saved_model.pb").is_file()
    plan = tfft.recipes.plan_from_yaml(run / "plan.yaml")
    assert (plan.backbone, plan.batch_size, plan.seed, plan.input_range) == (backbone, 8, 3, (-1.0, 1.0))
    assert [phase.epochs for phase in plan.phases] == [6, 2]
    assert plan.phases[1].unfreeze == 1
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["final"]["accuracy"] > 0.5
    assert len(metrics["final"]["interval"]) == 2


@pytest.mark.nightly
def test_defaults_solve_the_head_and_keep_the_features(backbone, photos, tmp_path, capsys):
    kept, out = tmp_path / "kept", tmp_path / "run"
    arguments = ["train", str(photos), "--backbone", backbone, "--out", str(out), "--unfreeze", "1", "--epochs", "2"]
    arguments += ["--batch-size", "8", "--cache", str(kept), "--augment", "crop", "--views", "2", "--no-export", "-v"]
    assert main(arguments) == 0
    plan = tfft.recipes.plan_from_yaml(out / "plan.yaml")
    assert (plan.phases[0].head, plan.l2, plan.views) == ("linear_probe", "auto", 2)
    assert plan.augment == tfft.specs.Augmentation(crop=0.5)
    shown = capsys.readouterr().out
    assert "head solved in" in shown
    assert "fine-tune 2/2  " in shown  # a line for each epoch
    assert "learning_rate" in shown  # every setting
    assert main(["cache", "list", "--folder", str(kept), "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    counts = sorted(entry["examples"] for entry in entries)
    train, held_out = counts[2], counts[0]
    assert counts == [held_out, held_out, train, 2 * train]  # head and suffix; two views of what blocks train on
    assert main(["cache", "list", "--folder", str(kept)]) == 0
    assert "float32" in capsys.readouterr().out
    assert main(["cache", "clear", "--folder", str(kept)]) == 0
    assert capsys.readouterr().out.endswith("MB freed\n")
    assert main(["cache", "list", "--folder", str(kept)]) == 0
    assert capsys.readouterr().out == "The cache is empty.\n"


@pytest.mark.slow
def test_config_repeats_a_run_and_no_export_leaves_it_out(run, tmp_path, capsys):
    out = tmp_path / "again"
    assert main(["train", "--config", str(run / "plan.yaml"), "--out", str(out), "--no-export", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert not (out / "export").exists()
    again, first = (keras.saving.load_model(folder / "model.keras").get_weights() for folder in (out, run))
    assert all(np.array_equal(a, b) for a, b in zip(again, first, strict=True))
    assert json.loads((out / "metrics.json").read_text()) == json.loads((run / "metrics.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--unfreeze": "blok1"}, r"blok1.*Did you mean 'block1'"),
        ({"--batch-norm": "fixed", "--dropout": "2", "--validation": "7"}, r"(?s)validation.*dropout"),
        ({"--backbone": "efficientnet-lite9"}, "Did you mean 'efficientnet-lite0'"),
        ({"DATA": "nowhere"}, "nowhere"),
        ({"--config": "missing.yaml"}, "'missing.yaml' does not exist"),
        ({"--image-size": "1 2 3"}, "image_size: Expected .*one number or height and width"),
    ],
)
def test_wrong_settings_exit_2_with_a_sentence_and_write_nothing(
    change, said, backbone, photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    settings = {"--backbone": backbone, "--out": "run"} | {k: v for k, v in change.items() if k != "DATA"}
    arguments = ["train", change.get("DATA", str(photos))]
    for name, value in settings.items():
        arguments += [name, *value.split()]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("tfft: error: ")
    assert "Traceback" not in captured.err
    assert re.search(said, captured.err)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "unknown command: 'trian'. Did you mean 'train'?"),
        (
            ["train", "x", "--out", "y", "--resize", "croped"],
            "unknown value of --resize: 'croped'. Did you mean 'crop'?",
        ),
        (["train", "x", "--out", "y", "--lr", "0"], "unknown option --lr. Did you mean '--learning-rate'?"),
        (["train", "x", "--out", "y", "--l3", "0"], "unknown option --l3. Did you mean '--l2'"),
        (["train", "x", "--out", "y", "--optimizer", "sgd"], "setting of a phase: --set optimizer=VALUE"),
        (["train", "x", "--out", "y", "--drop-out", "0"], "unknown option --drop-out. Did you mean '--dropout'"),
        (["check", "x", "y"], "usage: tfft check [OPTIONS] DATA\ntfft: error: unexpected argument: y."),
        (["train", "data"], "--out"),
        (["train", "data", "--out", "x", "--epochs", "-3"], "expected an integer"),
        (["train", "data", "--out", "x", "--batch-size", "0"], "expected an integer"),
    ],
)
def test_wrong_arguments_exit_2(arguments, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert said in capsys.readouterr().err


def test_an_existing_run_is_not_touched(run, photos, backbone, capsys):
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    assert main(["train", str(photos), "--backbone", backbone, "--out", str(run)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_predict_needs_something_to_predict_for(capsys):
    assert main(["predict", "run"]) == 2
    assert "Expected image FILEs, texts with --text" in capsys.readouterr().err


def test_train_needs_data_or_a_plan(tmp_path, capsys):
    assert main(["train", "--out", str(tmp_path / "run")]) == 2
    assert "or the plan of a run with --config" in capsys.readouterr().err


# --- inspect, list -----------------------------------------------------------------------------------------------


def test_inspect(backbone, capsys):
    assert main(["inspect", backbone]) == 0
    text = capsys.readouterr().out
    assert "block0" in text
    assert "32 x 32 x 3 pixels" in text
    assert main(["inspect", backbone, "--json", "--input-range", "-1", "1"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [row["block"] for row in values["rows"]] == ["block0", "block1"]
    assert values["input"]["value_range"] == [-1.0, 1.0]


def test_list(capsys):
    assert main(["list", "lite0"]) == 0
    assert "efficientnet-lite0" in capsys.readouterr().out
    assert main(["list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["backbones"]) >= 20
    assert main(["list", "efficientnet-litex0"]) == 2
    assert "Did you mean 'efficientnet-lite0'" in capsys.readouterr().err


@pytest.mark.process
def test_a_closed_pipe_is_no_error():
    shell = f"{sys.executable} -m tfft list | head -1"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""


# --- predict -----------------------------------------------------------------------------------------------------


@pytest.mark.representative("export/1")
@pytest.mark.parametrize("what", ["run", "model.keras", "export", "export/1"])
def test_predict_says_the_same_from_every_form_of_a_model(what, run, photos, capsys):
    model = run if what == "run" else run / what
    files = [str(photos / name / "0.png") for name in ("red", "blue")]
    assert main(["predict", str(model), *files, "--json", "--top", "2"]) == 0
    captured = capsys.readouterr()
    values = json.loads(captured.out)
    assert [row["file"] for row in values["predictions"]] == files
    keras_model = keras.saving.load_model(run / "model.keras")
    for row in values["predictions"]:
        logits = keras_model.predict(tf.io.decode_png(tf.io.read_file(row["file"]))[None], verbose=0)
        probabilities = tf.nn.softmax(logits)[0].numpy()
        assert row["label"] == ("blue", "green", "red")[probabilities.argmax()]
        assert row["probability"] == pytest.approx(probabilities.max(), abs=1e-5)
        assert [one["probability"] for one in row["top"]] == pytest.approx(np.sort(probabilities)[:-3:-1], abs=1e-5)


@pytest.mark.daily("run")
@pytest.mark.parametrize("what", ["run", "export"])
def test_bad_files_are_named_and_do_not_stop_the_others(what, run, photos, tmp_path, capsys):
    bad, cut = tmp_path / "bad.jpg", tmp_path / "cut.png"
    bad.write_text("not a picture")
    cut.write_bytes((photos / "red" / "1.png").read_bytes()[:-40])
    good = str(photos / "red" / "0.png")
    files = [str(bad), good, str(tmp_path / "missing.png"), str(cut), str(tmp_path)]
    assert main(["predict", str(run if what == "run" else run / "export"), *files, "--json"]) == 1
    captured = capsys.readouterr()
    rows = json.loads(captured.out)["predictions"]
    assert [row["file"] for row in rows] == [*files[:-1], str(bad), str(cut)]  # a folder stands for its files
    assert ["error" in row for row in rows] == [True, False, True, True, True, True]
    assert "No such file" in rows[2]["error"]
    for row in rows:
        if "error" in row:
            assert f"tfft: {row['file']}: {row['error']}" in captured.err
            assert "Traceback" not in row["error"]
            assert len(row["error"]) < 300

    assert main(["predict", str(run), good, str(bad)]) == 1
    assert capsys.readouterr().out.startswith(f"{good}: ")


@pytest.mark.process
@pytest.mark.nightly
def test_predict_from_a_shell_prints_json_and_nothing_else(run, photos):
    done = python("-m", "tfft", "predict", str(run / "export"), str(photos / "red" / "0.png"), "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    assert set(json.loads(done.stdout)) == {"model", "predictions"}


@pytest.mark.representative("folder")
@pytest.mark.parametrize("what", ["nothing", "folder", "file"])
def test_predict_without_a_model(what, photos, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    assert main(["predict", str(tmp_path / what), str(photos / "red" / "0.png")]) == 2
    assert f"{tmp_path / what}" in capsys.readouterr().err


# --- evaluate, export --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluate_on_the_data_of_the_run_measures_what_was_held_out(run, photos, capsys):
    assert main(["evaluate", str(run), str(photos), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    final = json.loads((run / "metrics.json").read_text())["final"]
    assert values["examples"] == final["examples"] == 6
    assert values["accuracy"] == final["accuracy"]
    assert "held-out" in values["data"]


@pytest.mark.slow
def test_evaluate_on_other_data_matches_classes_by_name(run, photos, tmp_path, capsys):
    for name in ("red", "blue"):  # a part of the classes: their numbers differ from the model's
        (tmp_path / "new" / name).mkdir(parents=True)
        for file in (photos / name).iterdir():
            (tmp_path / "new" / name / file.name).write_bytes(file.read_bytes())
    assert main(["evaluate", str(run), str(tmp_path / "new"), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["examples"] == 20
    assert {row["name"]: row["examples"] for row in values["per_class"]} == {"blue": 10, "green": 0, "red": 10}
    assert main(["evaluate", str(run), str(tmp_path / "new")]) == 0
    assert "95 % interval" in capsys.readouterr().out
    (tmp_path / "new" / "red").rename(tmp_path / "new" / "reds")
    assert main(["evaluate", str(run), str(tmp_path / "new")]) == 2
    assert "unknown classes: reds. Did you mean 'red'?" in capsys.readouterr().err


def test_evaluate_without_a_run(photos, tmp_path, capsys):
    assert main(["evaluate", str(tmp_path), str(photos)]) != 0
    assert "is not the folder of a finished run" in capsys.readouterr().err


@pytest.mark.slow
def test_export_makes_the_next_version(run, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path / "served"), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["path"] == str(tmp_path / "served" / "1")
    assert values["largest_difference"] <= 1e-5
    assert "serve_bytes" in values["signatures"]
    card = (tmp_path / "served" / "1" / "assets" / "model_card.md").read_text()
    assert "accuracy" in card
    assert main(["export", str(run), str(tmp_path / "served" / "1")]) == 1
    assert "Version 1 already exists" in capsys.readouterr().err


# --- errors ------------------------------------------------------------------------------------------------------


def test_debug_shows_the_traceback(monkeypatch, tmp_path):
    monkeypatch.setenv("TFFT_DEBUG", "1")
    with pytest.raises(tfft.TfftError, match="does not exist"):
        main(["predict", str(tmp_path / "nothing"), "x.png"])


def test_ctrl_c_is_130(monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("tfft.backbones.list_backbones", interrupted)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "tfft: interrupted\n"


def test_demo_needs_an_empty_folder(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("x")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "mine.txt" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_demo_digits_are_real_pngs(tmp_path):
    from tfft.demo import write_digits

    folder = write_digits(pathlib.Path(tmp_path / "digits"))
    assert sorted(p.name for p in folder.iterdir()) == [str(i) for i in range(10)]
    files = sorted(folder.rglob("*.png"))
    assert len(files) == 1000
    pixels = tf.io.decode_png(files[0].read_bytes()).numpy()
    assert pixels.shape == (8, 8, 1)
    assert pixels.max() > 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "wanted"),
    [("tfft tr", {"train"}), ("tfft train d --batch-n", {"--batch-norm"}), ("tfft train d --loss f", {"focal"})],
)
def test_the_shell_completes_commands_options_and_choices(line, wanted, tmp_path):
    answers = tmp_path / "answers"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(answers)}
    asked |= {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    subprocess.run([sys.executable, "-m", "tfft"], env={**os.environ, **asked}, check=True, timeout=60)
    assert {answer.strip() for answer in answers.read_text().split("\n")} - {""} == wanted
