"""The table of settings: help, checks, keywords, options of the command line and YAML all come from it."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import pathlib
import re
import typing

import numpy as np
import pytest
import yaml

from tfft import cli, plans
from tfft.config import Phase, Plan, RunConfig, RunSettings, SharedSettings, config_of
from tfft.config.plan import PHASE_KEYWORDS
from tfft.config.stored_settings import ALIASES
from tfft.errors import PlanError
from tfft.settings import about, given_options
from tfft.specs import Augmentation

TABLES = (RunConfig, Phase, Plan)

# For each setting a value that is not its default, and one that cannot be used.
RUN = {
    "unfreeze": (3, None), "epochs": (2, -1), "head_epochs": (4, 0), "learning_rate": ((1e-2, 1e-3), (1e-2,)),
    "minutes": (10, 0),
    "task": ("regression", "regresion"), "text": (("a", "b"), ("a", "b", "c")), "image": ("file", ""),
    "images": ("photos", 3),
    "audio": ("clip", -1), "label": (1, 1.5), "target": ("de", -1),
    "sample_rate": (8000, 0), "seconds": (1.5, float("inf")),
    "separator": ("|", ""), "delimiter": (";", ""), "encoding": ("cp1252", ""),
    "decimal": (",", ";"), "masks": ("annot", 3), "ignore": (("void", 11), 1.5),
    "letter_case": ("keep", "upper"), "punctuation": ("keep", "all"), "beam_width": (16, 0),
    "architecture": ("retinanet", ""),
    "max_length": (64, 2), "pooling": ("mean", "men"), "preprocessor": ("handle", 3),
    "image_size": ((64, 96), (1, 2, 3)), "batch_size": (8, 0), "microbatch_size": (4, True), "seed": (7, 0.5),
    "deterministic": (True, "yes"), "validation": (0.3, "no-such-file.csv"), "group": ("folder", 2.0),
    "dropout": (0.0, 1.0), "l2": (1e-3, -1), "label_smoothing": (0.1, 1), "loss": ("focal", "focall"),
    "class_weight": ({"a": 2.0}, "balance"), "sampling": ("balanced", "equal"), "calibrate": (False, 1),
    "batch_norm": ("train", "no"),
    "input_range": ((-1.0, 1.0), (1, 0)), "output": ("1", 1), "signature": ("infer", 1), "resize": ("pad", "padd"),
    "full_decoding": (True, 1),
    "augment": (Augmentation(crop=0.5), "flop"), "views": (3, 0), "trust": (True, 1), "strict": (True, None),
    "constants": ("trainable", "all"), "per_example": (True, "yes"),
}  # fmt: skip
PHASE = {
    "name": ("a", None), "unfreeze": ([".*"], None), "epochs": (2, 0), "learning_rate": (1e-4, 0), "warmup": (0.3, 1),
    "patience": (2, 0), "head": ("nearest_mean", "nearest"), "schedule": ("linear", None), "optimizer": ("sgd", None),
    "weight_decay": (0.1, -1), "layer_decay": (0.8, 1.1), "lr_multipliers": ({"stem": 0.5}, {"stem": 0}),
    "l2_sp": (0.1, "a"),
    "mixup_alpha": (0.2, -0.1), "cutmix_alpha": (0.3, None), "ema_decay": (0.9, 1.0),
    "swa_fraction": (0.5, -0.5), "interpolate": (True, "yes"),
    "num_surgical_blocks": (2, 0.5), "reinitialize": (1, -1), "lora_rank": (4, True), "global_clipnorm": (1.0, 0),
    "contrastive_repeats": (8, -2),
}  # fmt: skip
OF_PLANS = {"image_size": (96, 64), "batch_size": 8, "augment": Augmentation(crop=0.5), "views": 2}

OLD = """
backbone: efficientnet-lite0
data: photos
backbone_digest: null
name: lp_ft
task: classification
text: [review, answer]
image_size: [224, 224]
batch_size: 32
validation: 0.2
l2: auto
class_weight: {cat: 2.0}
input_range: [-1.0, 1.0]
augment: {flip: true, crop: 1.0, rand: 0.0, shift: 0.0, mask: 0.0}
views: 4
phases:
- {name: frozen, unfreeze: none, epochs: 0, learning_rate: 0.0, warmup: 0.1, patience: null, solve: true,
  schedule: cosine, optimizer: adam}
- {name: fine-tune, unfreeze: [block1, block2], epochs: 2, learning_rate: 0.01, rates: {block1: 0.5}}
reasons: {epochs: enough}
versions: {keras: 3.15.0}
"""


def fields(table):
    return {field.name: field for field in dataclasses.fields(table)}


# --- help --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_every_setting_has_a_sentence_of_help(table):
    for name, field in fields(table).items():
        assert about(field).help.endswith("."), name
        assert about(field).help[0].isupper(), name
        assert f"    {name} (" in table.__doc__, name


def test_finetune_documents_every_setting_with_its_default():
    import tfft

    text = " ".join(inspect.getdoc(tfft.finetune).split())
    assert "{settings}" not in text
    for name, field in fields(RunConfig).items():
        assert f" {name} (" in text, name
        assert about(field).help in text, name
    assert "Examples per optimizer step; auto tries sizes." in text
    assert "Defaults to 32." in text


# --- keywords ----------------------------------------------------------------------------------------------------


def test_keywords_for_type_checkers_are_the_settings():
    keywords, settings = typing.get_type_hints(RunSettings), typing.get_type_hints(RunConfig)
    assert list(keywords) == [name for name in settings if name != "task"]
    assert keywords == {name: kind for name, kind in settings.items() if name != "task"}


def test_functions_take_the_task_third_and_the_settings_as_keywords():
    import tfft

    task = typing.get_type_hints(RunConfig)["task"]
    for function in (tfft.finetune, tfft.recommend_plan, tfft.finetune_seeds, tfft.cross_validate):
        parameters = inspect.signature(function).parameters
        assert list(parameters)[2] == "task"
        assert parameters["task"].default == RunConfig.task
        assert typing.get_type_hints(function)["task"] == task
        assert typing.get_type_hints(function)["settings"] == typing.Unpack[RunSettings]


def test_keywords_go_over_the_config():
    config = RunConfig(seed=3, task="regression", dropout=0.0)
    assert config_of(config, "auto", {"seed": 4}) == RunConfig(seed=4, task="regression", dropout=0.0)
    assert config_of(config, "multilabel", {}).task == "multilabel"
    assert config_of(None, "auto", {}) == RunConfig()
    with pytest.raises(PlanError, match=r"config: Expected a tfft.RunConfig. Received: Plan. Pass a plan as plan=."):
        config_of(Plan(backbone="b", data="d"), "auto", {})


def test_all_unknown_names_are_reported_with_the_nearest():
    with pytest.raises(PlanError) as caught:
        config_of(None, "auto", {"unfreez": 1, "seed": 2, "exportto": "x", "zzz": 3}, ("export_to",))
    text = str(caught.value)
    assert "3 problems" in text
    assert "Unknown setting 'unfreez'. Did you mean 'unfreeze'?" in text
    assert "Unknown setting 'exportto'. Did you mean 'export_to'?" in text
    assert "Unknown setting 'zzz'. Expected one of: unfreeze, epochs" in text


def test_scopes_give_what_was_set():
    config = RunConfig(seed=1, strict=True, label="y", output="1", trust=True, dropout=0.1)
    assert config.given("reading") == {"seed": 1, "strict": True, "label": "y"}
    assert config.given("opening") == {"output": "1", "trust": True}
    assert RunConfig().given("reading") == RunConfig().given("opening") == {}
    assert Plan(backbone="b", data="d").given("reading") == {"task": "classification"}  # the run need not look


# --- checks ------------------------------------------------------------------------------------------------------


def test_the_tables_of_this_test_are_whole():
    assert set(RUN) == set(fields(RunConfig))
    assert set(PHASE) == set(fields(Phase))


@pytest.mark.parametrize("name", RUN)
def test_each_setting_accepts_and_refuses(name):
    good, bad = RUN[name]
    assert RunConfig().problems() == []
    RunConfig(**{name: good}).check()
    with pytest.raises(PlanError, match=f"^These settings cannot be used: {name}: ") as caught:
        RunConfig(**{name: bad}).check()
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name, (_, bad) in PHASE.items() if bad is not None or name == "cutmix_alpha"]
)
def test_each_setting_of_a_phase_accepts_and_refuses(name):
    good, bad = PHASE[name]
    check = about(fields(Phase)[name]).check
    assert check(good) is None
    assert check(bad).startswith("Expected ")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"loss": "focall"}, "loss: Expected 'cross_entropy' or 'focal'. Received: 'focall'. Did you mean 'focal'?"),
        ({"epochs": 1.5}, "epochs: Expected 'auto' or an integer of at least 0. Received: 1.5."),
        ({"dropout": 1}, "dropout: Expected a number of at least 0 and below 1. Received: 1."),
        ({"image_size": 0}, "Expected 'auto', one number or height and width, in pixels. Received: 0."),
        ({"augment": {"flipp": True}}, "augment: Expected the fields of tfft.specs.Augmentation. Received: ['flipp']"),
        ({"augment": 5}, "augment: Expected names such as 'flip'"),
        ({"augment": "crop=much"}, "augment expects numbers, such as crop=0.7, received 'crop=much'"),
        ({"sampling": "balanced", "class_weight": "balanced"}, "give one of them"),
        ({"text": ("a", "b"), "label": "b"}, "text and label must be different columns. Received: 'b' for both"),
        ({"image": 0, "label": 0}, "image and label must be different columns. Received: 0 for both"),
        ({"text": "t", "image": "i", "audio": "a"}, "text and image and audio each name the input"),
    ],
)
def test_messages(settings, told):
    with pytest.raises(PlanError) as caught:
        RunConfig(**settings).check()
    assert told in str(caught.value)


def test_several_problems_come_together():
    wrong = {name: bad for name, (_, bad) in RUN.items()}
    with pytest.raises(PlanError, match=f"{len(wrong) + 2} problems") as caught:  # text, image and audio at once too
        RunConfig(**wrong).check()
    for name in wrong:
        assert f"- {name}: " in str(caught.value)


def test_a_split_file_and_lists_are_accepted(tmp_path):
    path = tmp_path / "split.csv"
    path.touch()
    for settings in ({"validation": path}, {"validation": str(path)}, {"text": ["a"]}, {"image_size": [8, 9]}):
        RunConfig(**settings).check()


def test_a_plan_is_checked_as_well():
    plan = Plan(backbone="b", data="d", image_size=(0, 0))
    plan.check()
    with pytest.raises(PlanError, match=r"(?s)2 problems.*image_size.*batch_size: Expected an integer"):
        dataclasses.replace(plan, image_size="auto", batch_size="auto").check()


# --- command line ------------------------------------------------------------------------------------------------


def parsers() -> dict[str, argparse.ArgumentParser]:
    return next(action.choices for action in cli.parser()._actions if action.dest == "command")


def test_options_cover_the_table():
    options = {action.dest: action for action in parsers()["train"]._actions}
    for name, field in fields(RunConfig).items():
        no = "no-" if field.default is True else ""
        assert options[name].option_strings == [f"--{no}{name.replace('_', '-')}"]
        assert options[name].default is None
        assert about(field).help[1:20] in options[name].help


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("--unfreeze 3", {"unfreeze": 3}),
        ("--unfreeze 0.5", {"unfreeze": 0.5}),
        ("--unfreeze norm", {"unfreeze": "norm"}),
        ("--epochs 0", {"epochs": 0}),
        ("--batch-size auto", {"batch_size": "auto"}),
        ("--image-size 64", {"image_size": 64}),
        ("--image-size 64 96", {"image_size": (64, 96)}),
        ("--text 0", {"text": 0}),
        ("--text review answer", {"text": ("review", "answer")}),
        ("--label 1 --audio clip", {"label": 1, "audio": "clip"}),
        ("--validation 0.3", {"validation": 0.3}),
        ("--validation split.csv", {"validation": "split.csv"}),
        ("--input-range -1 1", {"input_range": (-1.0, 1.0)}),
        ("--augment flip crop=0.7", {"augment": ("flip", "crop=0.7")}),
        ("--no-calibrate", {"calibrate": False}),
        ("--trust --strict", {"trust": True, "strict": True}),
        ("--constants trainable", {"constants": "trainable"}),
        ("--class-weight balanced --loss focal", {"class_weight": "balanced", "loss": "focal"}),
        ("--seed 0 --learning-rate 1e-3", {"seed": 0, "learning_rate": 1e-3}),
        ("", {}),
    ],
)
def test_options_become_settings(words, values):
    options = parsers()["train"].parse_args(["data", "--out", "run", *words.split()])
    assert given_options(RunConfig, options) == values


@pytest.mark.parametrize("words", ["--epochs -1", "--loss none", "--input-range 1", "--seed x", "--set layer_decay"])
def test_options_that_cannot_be_read_exit_2(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        parsers()["train"].parse_args(["data", "--out", "run", *words.split()])


def test_help_shows_defaults_and_the_settings_of_phases():
    text = parsers()["train"].format_help()
    for part in ("(default: 32)", "(default: 0.2)", "(default: cross_entropy)", "(default: 0)"):
        assert part in text
    assert all(f"\n  {name} " in text for name in PHASE_KEYWORDS)


def test_wrong_settings_are_reported_before_tensorflow_starts(monkeypatch, capsys):
    monkeypatch.setattr("tfft.commands.train.start_tensorflow", lambda: pytest.fail("started"))
    assert cli.main("train data --out run --dropout 2 --views 3 --seed -1".split()) == 2
    error = capsys.readouterr().err
    assert "2 problems" in error
    assert "dropout: Expected" in error
    assert cli.main("train data --out run --set layer_decy=0.5".split()) == 2
    assert "Did you mean 'layer_decay'" in capsys.readouterr().err


# --- YAML --------------------------------------------------------------------------------------------------------


def back(plan: Plan) -> Plan:
    return Plan.from_dict(yaml.safe_load(yaml.safe_dump(plan.to_dict())))


@pytest.mark.parametrize("name", fields(SharedSettings))
def test_every_setting_of_a_plan_survives_yaml(name):
    value = OF_PLANS.get(name, RUN[name][0])
    plan = Plan(backbone="b", data="d", **{name: value})
    assert getattr(plan, name) != fields(Plan)[name].default
    assert back(plan) == plan


@pytest.mark.parametrize("name", PHASE)
def test_every_setting_of_a_phase_survives_yaml(name):
    values = {"name": "p", "unfreeze": "all", "epochs": 1, "learning_rate": 1e-3, name: PHASE[name][0]}
    plan = Plan(backbone="b", data="d", phases=(Phase(**values),))
    assert plan.phases[0].to_dict()[name] == PHASE[name][0]
    assert back(plan) == plan


def test_the_order_of_plan_yaml_stays():
    values = Plan(backbone="b", data="d").to_dict()
    assert list(values) == [
        "backbone", "data", "backbone_digest", "name", "task", "text", "image", "images", "audio", "label",
        "target", "sample_rate", "seconds", "separator", "delimiter", "encoding", "decimal", "masks", "ignore",
        "letter_case", "punctuation", "beam_width", "architecture",
        "max_length", "pooling", "preprocessor", "image_size", "batch_size", "microbatch_size",
        "seed", "deterministic", "validation", "group", "dropout", "l2", "label_smoothing", "loss", "class_weight",
        "sampling", "calibrate", "batch_norm", "input_range", "output", "signature", "resize", "full_decoding",
        "augment", "views", "trust", "constants", "per_example", "strict",
        "phases",
        "reasons", "versions",
    ]  # fmt: skip
    assert set(values) == set(fields(Plan))


def test_an_old_plan_loads():
    plan = Plan.from_dict(yaml.safe_load(OLD))
    assert plan == Plan(
        backbone="efficientnet-lite0", data="photos", name="lp_ft", text=("review", "answer"),
        class_weight={"cat": 2.0}, input_range=(-1.0, 1.0), augment=Augmentation(flip=True), views=4,
        phases=(
            Phase("frozen", "none", 0, 0.0, head="linear_probe"),
            Phase("fine-tune", ["block1", "block2"], 2, 0.01, lr_multipliers={"block1": 0.5}),
        ),
        reasons={"epochs": "enough"}, versions={"keras": "3.15.0"},
    )  # fmt: skip
    assert back(plan) == plan


def test_old_names_are_read(monkeypatch):
    monkeypatch.setitem(ALIASES, "microbatch", "microbatch_size")
    monkeypatch.setitem(ALIASES, "low_rank", "lora_rank")
    plan = Plan.from_dict(
        {"backbone": "b", "data": "d", "microbatch": 4}
        | {"phases": [{"name": "p", "unfreeze": 1, "epochs": 1, "learning_rate": 1e-3, "low_rank": 2}]}
    )
    assert (plan.microbatch_size, plan.phases[0].lora_rank) == (4, 2)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"sed": 1}, "settings of the plan cannot be used: Unknown setting 'sed'. Did you mean 'seed'"),
        ({"phases": [{"name": "p", "epoch": 1}]}, "phase 'p' cannot be used: Unknown setting 'epoch'. Did you mean"),
        ({"augment": {"flipp": True}}, "augment cannot be used: Unknown setting 'flipp'. Did you mean 'flip'"),
    ],
)
def test_unknown_keys_are_refused(values, told):
    with pytest.raises(PlanError) as caught:
        Plan.from_dict({"backbone": "b", "data": "d"} | values)
    assert told in str(caught.value)


def test_paths_become_text():
    plan = Plan(backbone="b", data="d", validation=pathlib.Path("split.csv"))
    assert yaml.safe_load(yaml.safe_dump(plan.to_dict()))["validation"] == "split.csv"


def test_named_plans_take_the_settings_of_phases():
    for name in PHASE_KEYWORDS:
        plans.named("lp_ft", **{name: PHASE[name][0]}).check(RunConfig())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lr", "'lr'. Did you mean 'learning_rate'?"),
        ("validation_split", "'validation_split'. Did you mean 'validation'?"),
        ("output_dir", "Did you mean 'out'?"),
        ("optimizer", "It is a setting of a phase: plan=tfft.plans.lp_ft(optimizer=...)"),
        ("sample_weight", "a tf.data.Dataset of (inputs, labels, weights)"),
    ],
)
def test_names_of_other_libraries_lead_to_those_of_tfft(name, told):
    with pytest.raises(PlanError, match=re.escape(told)):
        config_of(None, "auto", {name: 1}, ("out",))


def test_numbers_of_numpy_become_numbers_of_python():
    config = RunConfig(
        epochs=np.int64(2),
        dropout=np.float32(0.5),
        image_size=(np.int32(32), 32),
        class_weight={np.int64(0): np.float64(2)},
    )
    assert not config.problems()
    kept = [config.epochs, config.dropout, *config.image_size, *config.class_weight, *config.class_weight.values()]
    assert [type(value) for value in kept] == [int, float, int, int, int, float]
    assert type(Phase("tune", 1, np.int64(3), np.float64(1e-3)).epochs) is int
