"""Choice of a plan by a short trial on the training examples: :func:`try_plans`.

Successive halving (Jamieson & Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization",
2016). Differences: there are two rounds, each candidate gets equal seconds instead of equal steps, since an epoch of
all blocks costs as much as several of the last ones, and a candidate starts anew in the second round, because its
schedule is longer.

Implementation notes: a trial trains on some of the training examples and is scored on others of them, so the validation
examples are not used for selection. Features of the frozen part are kept for the two rounds only.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.backbones.base import Backbone
from tfft.config import Plan, RunConfig
from tfft.data import Splits
from tfft.data.examples import divide
from tfft.data.split import folds, joined
from tfft.errors import DataError
from tfft.evaluation import Scores, evaluate
from tfft.freezing.weight_values import restored
from tfft.plans import named
from tfft.recipes.expectation import Stopwatch, label
from tfft.recipes.preparing import build_model, feature_source, plan_for, spec_of
from tfft.recipes.run_data import RunData
from tfft.training import train

MEASURED = "measured"
SHARE = 0.25  # of the minutes, or of the expected time of fine-tuning, for the trial
_COUNT, _LEAST = 512, 80  # training examples of a trial, and how many there must be
_PARTS = (6, 2, 1)  # train the last sixth, half, or all of the blocks
_HELD_OUT = 4  # one in so many is held out within the trial
_GAIN = 0.5  # standard errors by which a dearer candidate has to be better


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Plan in a trial.

    Attributes:
        plan: Complete plan.
        label: What it trains, in a few words.
        scores: Scores by round.
    """

    plan: Plan
    label: str
    scores: tuple[Scores, ...] = ()


def try_plans(backbone: Backbone, data: RunData, plan: Plan, stopwatch: Stopwatch, config: RunConfig) -> Plan:
    """Return the plan that a short trial found to be worth its time.

    Args:
        backbone: Backbone of the run; its weights are as before at the end.
        data: Data of the run.
        plan: Plan ``lp_ft`` under the name ``"measured"``, which stays where no trial is possible.
        stopwatch: Expected seconds of phases.
        config: Settings of the user.

    Returns:
        ``linear_probe`` or ``lp_ft`` with the blocks found; its reason has scores and seconds.
    """
    rule = dataclasses.replace(plan, name="lp_ft" if len(plan.phases) > 1 else "linear_probe")
    began, inner = time.perf_counter(), None
    why = ""
    if len(plan.phases) < 2 or not plan.phases[0].solves_head or data.is_ready or not stopwatch.caches:
        why = "no head to compute first, or no features to keep"
    elif stopwatch.is_quick(plan) and config.minutes is None:
        why = "training takes less time than it"
    elif (inner := inner_split(data.splits, plan.seed)) is None:
        why = "too few training examples in a class"
    if inner is None:
        return _with_reason(rule, f"no trial: {why}")
    budget = 60 * config.minutes if config.minutes is not None else stopwatch.expect(plan).seconds
    candidates = _candidates(backbone, data, config)
    with restored(stopwatch.model), tempfile.TemporaryDirectory(prefix="tfft-trial-") as cache:
        trial = Trial(backbone, dataclasses.replace(data, splits=inner), stopwatch, cache, len(data.splits.train))
        found = trial.run(candidates, SHARE * budget)
    if not found:
        return _with_reason(rule, f"no trial: {SHARE:.0%} of the time is too short for one")
    return _chosen(candidates, found, inner, time.perf_counter() - began)


class Trial:
    """Trial of several plans on an inner split.

    Args:
        backbone: Backbone of the run.
        data: Data with the inner split.
        stopwatch: Expected seconds of phases on all training examples.
        cache: Folder for features.
        examples: Number of all training examples.
    """

    def __init__(
        self, backbone: Backbone, data: RunData, stopwatch: Stopwatch, cache: str | os.PathLike[str], examples: int
    ) -> None:
        self._backbone, self._data, self._stopwatch, self._cache = backbone, data, stopwatch, cache
        self._share = len(data.splits.train) / examples

    def run(self, candidates: Sequence[Candidate], seconds: float) -> list[Candidate]:
        """Return the candidates with their scores; empty if not even one that trains fits into the time."""
        probe, *trained = candidates
        features = self._share * (self._stopwatch.phase(probe.plan.phases[0]).scoring + self._stopwatch.frozen)
        left = seconds - features * (1 + len(trained))
        first = self._fitting(trained, left / 2)
        if not first:
            return []
        found = [self._scored(probe, probe.plan)]
        found += [self._scored(each, cut) for each, cut in first]
        best = max(found[1:], key=_value)
        longer = self._fitting([best], left / 2)
        if longer and len(first) > 1:
            found[found.index(best)] = self._scored(best, longer[0][1])
        return found

    def _fitting(self, candidates: Sequence[Candidate], seconds: float) -> list[tuple[Candidate, Plan]]:
        """Return the candidates that can train an epoch in their share of the seconds, with their shortened plans.

        The dearest one leaves first, so that the others have more time.
        """
        kept = list(candidates)
        while kept:
            cut = [(each, self._cut(each.plan, seconds / len(kept))) for each in kept]
            if all(plan is not None for _, plan in cut):
                return [(each, plan) for each, plan in cut if plan is not None]
            kept.remove(max(kept, key=lambda each: self._stopwatch.epoch(each.plan.phases[-1])))
        return []

    def _cut(self, plan: Plan, seconds: float) -> Plan | None:
        """Return a plan with a power of two of epochs that fit, so that a little more or less time changes nothing."""
        phase = plan.phases[-1]
        left = seconds - (self._stopwatch.phase(phase).training - phase.epochs * self._stopwatch.epoch(phase))
        epochs = left / (self._share * self._stopwatch.epoch(phase))
        if epochs < 1:
            return None
        epochs = min(phase.epochs, 2 ** math.floor(math.log2(epochs)))
        return dataclasses.replace(plan, phases=(*plan.phases[:-1], dataclasses.replace(phase, epochs=epochs)))

    def _scored(self, candidate: Candidate, plan: Plan) -> Candidate:
        """Train a plan on the inner split and return its scores with the candidate's."""
        keras.utils.set_random_seed(plan.seed)
        model, spec, data = build_model(self._backbone, self._data, plan), spec_of(self._backbone, plan), self._data
        with tf.device("CPU:0"):
            epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        with restored(model):
            held_out = data.validation(spec, plan.batch_size)
            train(
                model, lambda: data.training(spec, plan, epoch), held_out, plan.phases,
                source=feature_source(data, plan, self._cache), epoch=epoch, l2=plan.l2, seed=plan.seed,
                microbatch_size=plan.microbatch_size, batch_norm=plan.batch_norm, verbose=False,
            )  # fmt: skip
            scores = evaluate(model, data.evaluation(spec, plan.batch_size))
        return dataclasses.replace(candidate, scores=(*candidate.scores, scores))


def inner_split(splits: Splits[Any], seed: int) -> Splits[Any] | None:
    """Divide some of the training examples in two; groups and duplicates stay together.

    Args:
        splits: Splits of the run, whose validation examples are not used.
        seed: Seed for both draws.

    Returns:
        New splits; None if there are too few examples, or a class would be missing.
    """
    train = splits.train
    count = len(train)
    if count < _LEAST:
        return None
    pairs = [(pair.first, pair.second) for pair in splits.duplicates if pair.second < count]
    groups = joined(None if splits.groups is None else splits.groups[:count], pairs, count)
    strata = registry.task(splits.task).strata(train.labels)
    names = train.names or tuple(f"{i:09d}" for i in range(count))
    at, parts = np.arange(count), count // _COUNT
    try:
        if parts > 1:
            at = np.flatnonzero(folds(names, parts, seed, labels=strata, groups=groups) == 0)
        dealt = folds(
            [names[i] for i in at], _HELD_OUT, seed + 1, labels=None if strata is None else strata[at],
            groups=None if groups is None else [groups[i] for i in at],
        )  # fmt: skip
    except DataError:
        return None
    return divide(train.take(at), dealt == 0, "an inner split of the training examples", task=splits.task)


def _candidates(backbone: Backbone, data: RunData, config: RunConfig) -> list[Candidate]:
    """Return the head alone, then plans that train more and more blocks."""
    blocks = len(backbone.blocks)
    found = []
    for count in (0, *dict.fromkeys("all" if parts == 1 else math.ceil(blocks / parts) for parts in _PARTS)):
        settings = dataclasses.replace(config, unfreeze=count)
        made = plan_for(backbone, data, settings, None, named("lp_ft"))
        name = "lp_ft" if len(made.phases) > 1 else "linear_probe"
        found.append(Candidate(dataclasses.replace(made, name=name), label(made.phases[-1])))
    return found


def _value(candidate: Candidate) -> float:
    scores = candidate.scores[-1]
    return -scores.value if scores.lower_is_better else scores.value


def _chosen(candidates: Sequence[Candidate], found: Sequence[Candidate], inner: Splits[Any], seconds: float) -> Plan:
    """Return the cheapest plan that is about as good as the best one, with the reason."""
    best = found[0]
    for each in found[1:]:
        low, high = best.scores[-1].interval
        if _value(each) - _value(best) > _GAIN * (high - low) / (2 * 1.96):
            best = each
    shown = [f"{each.label} {', then '.join(f'{s.value:.3f}' for s in each.scores)}" for each in found]
    tried = {each.label for each in found}
    shown += [f"{each.label} takes too long to try" for each in candidates if each.label not in tried]
    metric = best.scores[-1].display.metric
    reason = (
        f"{best.label}, by a trial of {seconds:.0f} s: {len(inner.train)} training examples, {metric} on "
        f"{len(inner.validation)} others of them: {'; '.join(shown)}"
    )
    return _with_reason(best.plan, reason)


def _with_reason(plan: Plan, reason: str) -> Plan:
    return dataclasses.replace(plan, reasons={**plan.reasons, "trial": reason})
