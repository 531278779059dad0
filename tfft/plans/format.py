"""Formatting of a plan: :func:`format_plan` as tables, :func:`summarize_plan` as a line."""

from __future__ import annotations

from typing import Any

from tfft.config import Phase, Plan
from tfft.plans.defaults import FINE_TUNE, FROZEN

_ELSEWHERE = set("name unfreeze epochs learning_rate solve schedule optimizer warmup layer_decay surgical".split())

_MEASURED = ("trial", "minutes")  # reasons that come from measuring


def format_plan(plan: Plan) -> str:
    """Format a plan as text: a table of phases, a table of the other settings, and the reasons for chosen values.

    Args:
        plan: Plan from :func:`recommend` or :func:`tfft.recommend_plan`.

    Returns:
        The text to print.
    """
    from rich.table import Table  # here, since the command line imports plans for its help

    from tfft.console.tables import render

    title = f"plan for {plan.backbone}" + (f": {plan.name}" if plan.name else "")
    phases = Table(title=title, title_justify="left")
    for name in ("phase", "trains", "epochs", "rate", "how"):
        phases.add_column(name, no_wrap=name in ("phase", "epochs"))
    for phase in plan.phases:
        phases.add_row(*_phase_row(phase))
    settings = Table()
    settings.add_column("setting", no_wrap=True)
    settings.add_column("value")
    settings.add_column("why")
    for name, value in _rows(plan).items():
        settings.add_row(name, str(value), plan.reasons.get(name, ""))
    return render(phases, settings)


def summarize_plan(plan: Plan) -> str:
    """Describe the phases of a plan in one line, and what was measured for them in one more each.

    Args:
        plan: Plan from :func:`recommend` or :func:`tfft.recommend_plan`.

    Returns:
        The line, such as ``plan lp_ft for efficientnet-lite0: linear probe; then head, last 3 blocks, 10 epochs at
        0.0003``; then the reason for another plan than ``lp_ft``, and what was measured.
    """
    phases = []
    for phase in plan.phases:
        _, what, epochs, rate, how = _phase_row(phase)
        counted = "1 epoch" if epochs == "1" else f"{epochs} epochs"
        phases.append(how if phase.solves_head else f"{what}, {counted} at {rate}")
    name = f"plan {plan.name}" if plan.name else "plan"
    measured = [f"  because {plan.reasons['plan']}"] if "plan" in plan.reasons else []
    measured += [f"{key}: {plan.reasons[key]}" for key in _MEASURED if key in plan.reasons]
    return "\n".join([f"{name} for {plan.backbone}: {'; then '.join(phases)}", *measured])


def _phase_row(phase: Phase) -> tuple[str, ...]:
    if phase.solves_head:
        how = "nearest class mean" if phase.head == "nearest_mean" else "linear probe"
        return phase.name, "head: computed, not trained", "", "", how
    blocks = phase.unfreeze
    what = "head" if blocks in (0, "none") else f"head, {blocks_text(blocks)}"
    if phase.contrastive_repeats:
        what = f"{blocks_text(blocks)}, on pairs"
    if phase.num_surgical_blocks:
        what += f": the {phase.num_surgical_blocks} with the largest gradients"
    rate = f"{phase.learning_rate:.3g}"
    if phase.layer_decay != 1:
        rate += f", x {phase.layer_decay:g} per block down"
    if phase.lr_multipliers:
        rate += "; " + ", ".join(f"{name} x {factor:g}" for name, factor in phase.lr_multipliers.items())
    settings = [phase.optimizer, phase.schedule]
    settings += [
        f"{k}={v:g}" for k, v in phase.to_dict().items() if k not in _ELSEWHERE and isinstance(v, (int, float)) and v
    ]
    return phase.name, what, str(phase.epochs), rate, " ".join(settings)


def blocks_text(blocks: Any) -> str:
    """Return a selection of blocks in words, such as "last 3 blocks"."""
    if blocks == "all":
        return "all blocks"
    if isinstance(blocks, float):
        return f"top {blocks:.0%} of the parameters"
    if isinstance(blocks, int):
        return f"last {blocks} blocks" if blocks > 1 else "last block"
    return ", ".join(blocks) if isinstance(blocks, (list, tuple)) else f"blocks {blocks!r}"


def _rows(plan: Plan) -> dict[str, Any]:
    rows: dict[str, Any] = {"plan": plan.name} if "plan" in plan.reasons else {}
    rows |= {key: "" for key in _MEASURED if key in plan.reasons}
    if any(plan.image_size):
        rows["image_size"] = "x".join(map(str, plan.image_size))
    for phase in plan.phases:
        rows |= _phase_rows(phase)
    if "alternative" in plan.reasons:
        rows["alternative"] = "setfit"
    rows |= {name: getattr(plan, name, "") for name in ("stages", "surgical", "class_weight") if name in plan.reasons}
    if plan.augment is not None:
        rows["augment"] = ", ".join(f"{name} {value}" for name, value in plan.augment.to_dict().items())
        rows["views"] = plan.views
    rows |= {name: getattr(plan, name) for name in ("class_weight", "sampling") if getattr(plan, name)}
    if plan.loss != "cross_entropy":
        rows["loss"] = plan.loss
    for name in ("batch_size", "dropout", "l2", "label_smoothing", "batch_norm", "seed"):
        rows[name] = getattr(plan, name)
    return rows


def _phase_rows(phase: Phase) -> dict[str, Any]:
    if phase.solves_head:
        return {"head": phase.head}
    if phase.name == FROZEN:
        return {"head_epochs": phase.epochs, "frozen_learning_rate": f"{phase.learning_rate:g}"}
    rows: dict[str, Any] = {}
    if phase.name == FINE_TUNE or phase.contrastive_repeats:
        rows = {"unfreeze": phase.unfreeze, "epochs": phase.epochs, "learning_rate": f"{phase.learning_rate:g}"}
    if phase.contrastive_repeats:
        rows["shown"] = phase.contrastive_repeats
    return rows
