"""Plan of a run, with what has to be measured for it: :func:`choose_plan`, :func:`recommend_plan`.

Implementation notes: a choice by measured seconds may differ from run to run. So it is stored beside the
checkpoints before training starts, and a run that resumes takes it from there.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any, Unpack

import keras
import yaml

from tfft.backbones.base import Backbone
from tfft.config import Phase, Plan, RunConfig, RunSettings, config_of
from tfft.console.profile import stage
from tfft.errors import PlanError
from tfft.io.atomic import write_whole
from tfft.plans import NamedPlan, named
from tfft.recipes.budget import within
from tfft.recipes.expectation import Stopwatch, is_distributed
from tfft.recipes.preparing import open_for, plan_for, with_new_statistics
from tfft.recipes.run import CHECKPOINTS
from tfft.recipes.run_data import RunData, load_run_data
from tfft.recipes.trial import MEASURED, try_plans

_CHOICE = "choice.yaml"  # in the folder of the checkpoints
_ASKED = ("unfreeze", "epochs", "head_epochs", "learning_rate", "minutes")


def recommend_plan(
    data: Any,
    backbone: str | os.PathLike[str] | Backbone | keras.Model,
    task: str = "auto",
    *,
    plan: NamedPlan | str | None = None,
    cache: str | os.PathLike[str] | bool | None = "auto",
    config: RunConfig | None = None,
    **settings: Unpack[RunSettings],
) -> Plan:
    """Return the plan that :func:`tfft.finetune` would follow for some data and a backbone; train nothing.

    To choose how many blocks to train, it first runs the frozen backbone on the examples and caches the features for
    the training: the score of a linear head on them shows how well the backbone fits the data.

    Use it to inspect and change a plan before training: the result is data, and ``finetune(plan=...)`` accepts it.

    Args:
        data: As in :func:`tfft.finetune`.
        backbone: As in :func:`tfft.finetune`.
        task: As in :func:`tfft.finetune`.
        plan: A named plan for the phases, or its name; None chooses one.
        cache: As in :func:`tfft.finetune`.
        config: As in :func:`tfft.finetune`.
        **settings: Settings of :func:`tfft.finetune` to fix instead of having tfft choose them.

    Returns:
        A plan with its ``reasons``; ``print(tfft.plans.format_plan(plan))`` prints it as tables.

    Raises:
        TfftError: If the settings, the data or the backbone cannot be used.

    Example:
        >>> plan = tfft.recommend_plan("photos/", "efficientnet-lite0", seed=1)
        >>> print(tfft.plans.format_plan(plan))
        >>> tfft.finetune("efficientnet-lite0", "photos/", plan=plan)
    """
    strategy = named(plan) if isinstance(plan, str) else plan
    chosen = with_new_statistics(config_of(config, task, settings, ("plan", "cache", "config")), strategy)
    chosen.check()
    if strategy is not None:
        strategy.check(chosen)
    run_data = load_run_data(data, chosen)
    run_data, chosen, opened = open_for(backbone, chosen, run_data)
    return choose_plan(opened, run_data, chosen, cache, strategy)


@stage("choose the plan")
def choose_plan(
    backbone: Backbone,
    data: RunData,
    config: RunConfig,
    cache: str | os.PathLike[str] | bool | None,
    plan: NamedPlan | None,
    verbose: int = 0,
    folder: pathlib.Path | None = None,
) -> Plan:
    """Fill in every setting that was left open; where it is asked for, by measuring.

    Args:
        backbone: Backbone of the run; its weights are as before at the end.
        data: Data of the run.
        config: Settings of the user.
        cache: As in :func:`tfft.finetune`.
        plan: Named plan, or None.
        verbose: As in :func:`tfft.features.extract`.
        folder: Folder of the run, where an interrupted run has stored the choice; None for none.

    Returns:
        The plan of the run.

    Raises:
        PlanError: If the run in the folder was started with other settings.
    """
    began = time.perf_counter()
    made = plan_for(backbone, data, config, cache, plan, verbose)
    asks = made.name == MEASURED or config.minutes is not None
    if not asks:
        return made
    if is_distributed(backbone):
        reason = "nothing is measured on several devices, so nothing is cut or tried"
        name = "lp_ft" if made.name == MEASURED else made.name
        return dataclasses.replace(made, name=name, reasons={**made.reasons, "minutes": reason})
    asked = {"plan": None if plan is None else plan.name, **{name: _plain(getattr(config, name)) for name in _ASKED}}
    stored = _stored(folder, asked)
    if stored is not None:
        return dataclasses.replace(made, name=stored.name, phases=stored.phases, reasons=stored.reasons)
    stopwatch = Stopwatch(backbone, data, made, cache, verbose)
    if made.name == MEASURED:
        made = try_plans(backbone, data, made, stopwatch, config)
    if config.minutes is not None:
        made = within(made, 60 * config.minutes - (time.perf_counter() - began), config.minutes, stopwatch)
    return made


def store_choice(folder: pathlib.Path, plan: Plan, config: RunConfig, name: str | None) -> None:
    """Store a plan that was chosen by measuring, so that a run that resumes does not choose again.

    Args:
        folder: Folder of the run.
        plan: Plan of the run.
        config: Settings of the user.
        name: Name of the plan that the user asked for; None for none.
    """
    if config.minutes is None and name != MEASURED:
        return
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    asked = {"plan": name, **{key: _plain(getattr(config, key)) for key in _ASKED}}
    found = {"asked": asked, "chosen": {"name": plan.name, "reasons": dict(plan.reasons),
                                        "phases": [phase.to_dict() for phase in plan.phases]}}  # fmt: skip
    write_whole(folder / CHECKPOINTS / _CHOICE, yaml.safe_dump(found, sort_keys=False, allow_unicode=True))


def _stored(folder: pathlib.Path | None, asked: Mapping[str, Any]) -> Plan | None:
    if folder is None or not (folder / CHECKPOINTS / _CHOICE).is_file():
        return None
    found = yaml.safe_load((folder / CHECKPOINTS / _CHOICE).read_text(encoding="utf-8"))
    differ = [f"{name} was {found['asked'].get(name)!r} and is {asked[name]!r}" for name in asked
              if found["asked"].get(name) != asked[name]]  # fmt: skip
    if differ:
        raise PlanError(
            f"The run in {folder} was started with other settings: {'; '.join(differ)}. Give those of the start to "
            "resume, or another folder."
        )
    chosen = found["chosen"]
    phases = tuple(Phase(**phase) for phase in chosen["phases"])
    return Plan(backbone="", data="", name=chosen["name"], reasons=chosen["reasons"], phases=phases)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
