"""Frozen features of a run, computed before it: :func:`cache_features`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Unpack

import keras

from tfft.backbones.base import Backbone
from tfft.config import Phase, RunConfig, RunSettings, config_of
from tfft.console.progress import reading_bar
from tfft.errors import BackboneError, PlanError
from tfft.features import Shard, split_head
from tfft.features.split_model import split_steady
from tfft.freezing import unfreeze
from tfft.plans import NamedPlan, named
from tfft.recipes.preparing import (
    build_model,
    feature_source,
    makes_own_features,
    open_for,
    plan_for,
    with_new_statistics,
)
from tfft.recipes.run_data import load_run_data
from tfft.recipes.trial import MEASURED

_PROBED = ("lp_ft", MEASURED)  # plans whose trainable blocks are chosen from the features of the frozen backbone


@dataclasses.dataclass(frozen=True)
class CachedFeatures:
    """Features that a run will find in the cache; ``print`` it.

    Attributes:
        shards: The shards of the training and of the held-out examples, by phase; one shard is all of them.
        notes: What was left out, one sentence each.
    """

    shards: Mapping[str, tuple[Shard, ...]]
    notes: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether all shards are in the cache."""
        return not any(shard.missing for shards in self.shards.values() for shard in shards)

    def __str__(self) -> str:
        lines = [
            f"{phase}, {part}: {shard}"
            for phase, shards in self.shards.items()
            for part, shard in zip(("training", "held out"), shards, strict=False)
        ]
        return "\n".join((*lines, *self.notes))


def cache_features(
    backbone: str | os.PathLike[str] | Backbone | keras.Model,
    data: Any,
    task: str = "auto",
    *,
    shard: tuple[int, int] = (1, 1),
    plan: NamedPlan | str | None = None,
    cache: str | os.PathLike[str] = "auto",
    verbose: bool | int = True,
    config: RunConfig | None = None,
    **settings: Unpack[RunSettings],
) -> CachedFeatures:
    """Compute the frozen features that :func:`tfft.finetune` would compute with the same arguments; train nothing.

    Use it to prepare a large dataset on several machines, each with a shard of its own and one cache folder for all:
    ``finetune`` with the same arguments finds the features there and starts with the training. A machine that died is
    started again with the same shard; nothing is computed twice.

    The features of the frozen backbone are those of the linear probe. Phases that train blocks read the features in
    front of them. The default plan chooses these blocks by the linear probe, so give ``unfreeze`` to compute them too.

    Args:
        backbone: As in :func:`tfft.finetune`.
        data: As in :func:`tfft.finetune`.
        task: As in :func:`tfft.finetune`.
        shard: Number of the shard, from 1, and number of shards. Defaults to all examples.
        plan: A named plan, or its name; None chooses one.
        cache: ``"auto"`` for the user's cache folder, or a folder.
        verbose: As in :func:`tfft.features.extract`.
        config: As in :func:`tfft.finetune`.
        **settings: Settings of :func:`tfft.finetune`, the same as for the training.

    Returns:
        The shards, with those that are missing.

    Raises:
        PlanError: If settings cannot be used, or the task does not keep features.
        TfftError: If the data or the backbone cannot be used.

    Example:
        >>> done = tfft.recipes.cache_features("efficientnet-lite0", "photos/", shard=(2, 4), cache="/shared/features")
        >>> print(done)
        frozen, training: shard 2 of 4: examples 992 to 1,983, computed in 9.1 s; missing: 3, 4
        frozen, held out: shard 2 of 4: examples 256 to 511, computed in 2.3 s; missing: 3, 4
    """
    strategy = named(plan) if isinstance(plan, str) else plan
    chosen = with_new_statistics(config_of(config, task, settings, ("shard", "plan", "cache", "verbose")), strategy)
    chosen.check()
    if strategy is not None:
        strategy.check(chosen)
    with reading_bar(bool(verbose)) as progress:
        run_data = load_run_data(data, chosen, progress)
    keras.utils.set_random_seed(chosen.seed)  # as a run does: a backbone may start from random weights
    run_data, chosen, opened = open_for(backbone, chosen, run_data)
    made = plan_for(opened, run_data, chosen, cache, strategy, measure=False)
    source = None if makes_own_features(run_data) else feature_source(run_data, made, cache)
    if source is None:
        raise PlanError(
            f"task={run_data.task!r} and this data keep no features of a frozen backbone, so there is nothing to "
            "compute before the training."
        )
    model = build_model(opened, run_data, made)
    shards: dict[str, tuple[Shard, ...]] = {}
    notes: list[str] = []
    trained: set[int] = set()  # variables of the phases before
    for phase in made.phases:
        if not phase.solves_head and chosen.unfreeze == "auto" and made.name in _PROBED and phase is not made.phases[0]:
            notes.append(f"{phase.name}: its blocks are chosen by the linear probe; unfreeze= chooses them now")
            continue
        prefix = _prefix(model, phase, made.batch_norm)
        if not isinstance(prefix, str) and any(id(variable) in trained for variable in prefix.variables):
            prefix = "its features change in the phases before it"
        trained |= {id(variable) for variable in model.trainable_variables}
        if isinstance(prefix, str):
            notes.append(f"{phase.name}: {prefix}")
        else:
            found = source.extract_shard(prefix, shard, int(verbose), varied=not phase.solves_head)
            shards[phase.name] = tuple(found)
    return CachedFeatures(shards, tuple(notes))


def _prefix(model: keras.Model, phase: Phase, batch_norm: Any) -> keras.Model | str:
    """Return the part of a model in front of what a phase trains, or why its features are not kept."""
    if phase.solves_head:
        return split_head(model)[0]
    if phase.contrastive_repeats or phase.num_surgical_blocks:
        return "its features are not known before the training"
    unfreeze(model, phase.unfreeze, batch_norm=batch_norm)
    try:
        return split_steady(model)[0]
    except BackboneError as error:
        return str(error)
