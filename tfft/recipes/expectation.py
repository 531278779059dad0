"""Expected time of a training, from measured steps: :class:`Stopwatch`, :class:`ExpectedTime`.

Implementation notes: the trials are a few passes of the part of the model that a phase fits, see
:func:`tfft.training.step_time.step_time`. They run on a model of their own around the weights of the backbone, which
are restored, before the model of the run is built: a run with them and one without end in the same weights, bit for
bit.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import heads
from tfft.backbones.base import Backbone
from tfft.config import Phase, Plan
from tfft.console.profile import stage
from tfft.data import BatchOptions
from tfft.errors import BackboneError, DataError
from tfft.features import split_head
from tfft.features.split_model import split_steady
from tfft.freezing import describe, select, unfreeze
from tfft.keras_compat import distribute_strategy
from tfft.optimizers import build_optimizer
from tfft.plans.defaults import PAIRED
from tfft.plans.format import blocks_text
from tfft.recipes.preparing import build_model, feature_source, spec_of
from tfft.recipes.run_data import RunData
from tfft.training.folding import fold_norms
from tfft.training.step_time import StepTime, step_time
from tfft.training.suffix import FeatureSource

_QUICK = 40.0  # seconds on a usual machine, below which a run is not measured
_USUAL = 12e9  # multiply-adds a second that two cores reach in training
_USES = 100  # multiply-adds of each parameter for an example, where a block does not count its own
_FORWARD = 4.5  # steps of training in the time of a forward pass, see docs/notes/training.md
_EXCEEDED = 1.5  # times the minutes of the user, from which on the end of a run says so
_SAMPLE = 8  # examples that are timed


@dataclasses.dataclass(frozen=True)
class PhaseTime:
    """Expected seconds of a phase.

    Attributes:
        features: For the features of the frozen part that are not in the cache yet.
        training: For the epochs, with the validation after each.
        scoring: For the scores at its end.
    """

    features: float
    training: float
    scoring: float

    @property
    def seconds(self) -> float:
        """Seconds of the whole phase."""
        return self.features + self.training + self.scoring


@dataclasses.dataclass(frozen=True)
class ExpectedTime:
    """Expected seconds of the phases of a plan; ``print`` shows them in one line.

    Attributes:
        phases: Expected time by phase name.
        labels: What trains in each phase, by phase name.
        cheaper: Expected seconds of the linear probe alone; None if the plan is that, or if it is unknown.
    """

    phases: Mapping[str, PhaseTime]
    labels: Mapping[str, str]
    cheaper: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of all phases."""
        return sum(each.seconds for each in self.phases.values())

    def __str__(self) -> str:
        unit, size = ("minutes", 60.0) if self.seconds >= 90 else ("seconds", 1.0)
        parts = [("features", sum(each.features for each in self.phases.values()))]
        parts += [(self.labels[name], each.training) for name, each in self.phases.items()]
        parts += [("scores", sum(each.scoring for each in self.phases.values()))]
        shown = ", ".join(f"{name} {_shown(seconds / size)}" for name, seconds in parts if seconds >= 0.05 * size)
        line = f"about {_shown(self.seconds / size)} {unit} ({shown})"
        if self.cheaper is not None and self.cheaper < 0.7 * self.seconds:
            line += f"; plan='linear_probe' takes about {_shown(self.cheaper / size)}"
        return line


class Stopwatch:
    """Expected seconds of phases on this machine; each set of blocks is measured once.

    Args:
        backbone: Backbone of the run.
        data: Data of the run.
        plan: Plan with the settings; its phases may change later.
        cache: As in :func:`tfft.finetune`.
        verbose: As in :func:`tfft.features.extract`.

    Attributes:
        spent: Seconds that the measuring took, without features that the run needs anyway.
    """

    def __init__(
        self, backbone: Backbone, data: RunData, plan: Plan, cache: str | os.PathLike[str] | bool | None, verbose: int
    ) -> None:
        self._data, self._plan, self._verbose = data, plan, verbose
        self._spec = spec_of(backbone, plan)
        self._build = functools.partial(build_model, backbone, data, plan)
        self._source: FeatureSource | None = feature_source(data, plan, cache)
        self._batch = data.splits.train.batch_size or plan.batch_size
        self._steps: dict[str, tuple[StepTime, float]] = {}
        self.spent = 0.0

    @functools.cached_property
    def model(self) -> keras.Model:
        """Model to measure, around the weights of the backbone."""
        return self._build()

    @property
    def caches(self) -> bool:
        """Whether the frozen part runs once for all epochs."""
        return self._source is not None

    @property
    def frozen(self) -> float:
        """Seconds for the features of the whole backbone, of all examples."""
        return self._unknown if self._frozen is None else self._frozen

    @property
    def blocks(self) -> int:
        """Number of blocks of the backbone."""
        return sum(row.part == "backbone" for row in describe(self.model).rows)

    @functools.cached_property
    def costs(self) -> list[float] | None:
        """Multiply-adds of each block for one example; None if those of a block are unknown."""
        rows = [row.flops for row in describe(self.model).rows if row.part == "backbone"]
        known = [float(cost) for cost in rows if cost is not None]
        return known if len(known) == len(rows) and any(known) else None

    def is_quick(self, plan: Plan) -> bool:
        """Whether a plan trains so little, by its multiply-adds, that measuring it is not worth its time."""
        if not any(phase.epochs for phase in plan.phases):
            return True
        each = _USES * self.model.count_params() if self.costs is None else sum(self.costs)
        work = sum(self.trained_share(phase) * self._shown(phase) * phase.epochs for phase in plan.phases)
        return 3 * work * each / _USUAL < _QUICK

    def trained_share(self, phase: Phase) -> float:
        """Share of the multiply-adds that the part of the model from the first block that trains on has."""
        if self._source is None or self.costs is None:
            return 1.0
        if phase.unfreeze in ("none", 0):
            return 0.0
        names = [row.block for row in describe(self.model).rows if row.part == "backbone"]
        chosen = {block.name for block in select(self.model, phase.unfreeze)}
        first = next((i for i, name in enumerate(names) if name in chosen), len(names))
        return sum(self.costs[first:]) / sum(self.costs)

    def expect(self, plan: Plan) -> ExpectedTime:
        """Return the expected time of all phases of a plan."""
        found = {phase.name: self.phase(phase) for phase in plan.phases}
        labels = {phase.name: label(phase) for phase in plan.phases}
        first = plan.phases[0]
        cheaper = found[first.name].seconds if first.solves_head and len(plan.phases) > 1 else None
        return ExpectedTime(found, labels, cheaper)

    def phase(self, phase: Phase) -> PhaseTime:
        """Return the expected time of one phase."""
        scoring = len(self._data.splits.validation) * self._each
        if phase.solves_head:
            return PhaseTime(0.0 if self._frozen is not None else self._unknown, 0.0, scoring)
        found, features = self._measured(phase)
        return PhaseTime(features, found.start + phase.epochs * self.epoch(phase), scoring)

    def epoch(self, phase: Phase) -> float:
        """Return the expected seconds of one epoch, with its validation."""
        batch = 32 if phase.contrastive_repeats else self._batch
        steps: float = math.ceil(self._shown(phase) / batch)
        steps += len(self._data.splits.validation) / batch / _FORWARD
        return steps * self._measured(phase)[0].step

    def _shown(self, phase: Phase) -> int:
        """Return the number of examples that an epoch shows."""
        count = len(self._data.splits.train)
        if not phase.contrastive_repeats:
            return count
        return min(count, PAIRED * len(self._data.class_names)) * phase.contrastive_repeats

    @functools.cached_property
    def _frozen(self) -> float | None:
        """Seconds for the features of the whole backbone: computed here if a phase needs them; None if unknown."""
        if self._source is None or not self._plan.phases[0].solves_head:
            return None
        prefix, _ = split_head(self.model)
        known = self._source.kept_seconds(prefix, varied=False)
        if known is not None:
            return known
        began = time.perf_counter()
        self._source.extract(prefix, self._verbose, varied=False)
        return time.perf_counter() - began

    @functools.cached_property
    def _each(self) -> float:
        """Seconds in which TensorFlow computes one example."""
        began = time.perf_counter()
        inputs, _ = self._sample
        self.model(inputs, training=False)
        start = time.perf_counter()
        self.model(inputs, training=False)
        self.spent += time.perf_counter() - began
        return (time.perf_counter() - start) / len(keras.tree.flatten(inputs)[0])

    @property
    def _unknown(self) -> float:
        """Seconds for the features of all examples, where their rate is not known."""
        return self._each * (len(self._data.splits.train) + len(self._data.splits.validation))

    @functools.cached_property
    def _sample(self) -> tuple[Any, Any]:
        """Some training examples of usual length as a batch."""
        train = self._data.splits.train
        if self._data.is_ready:
            return next(iter(train.batches(self._spec, BatchOptions(self._batch))))[:2]
        count = min(_SAMPLE, self._batch, len(train))
        at = np.linspace(0, len(train) - 1, count).astype(np.int64)
        if train.lengths is not None:  # a step takes as long as its longest text
            at = np.sort(np.argsort(np.abs(train.lengths - np.mean(train.lengths)), kind="stable")[:count])
        return next(iter(train.take(at).batches(self._spec, BatchOptions(count, cache=False))))[:2]

    def _measured(self, phase: Phase) -> tuple[StepTime, float]:
        """Return the time of a step of a phase, and the seconds for its features."""
        key = repr((phase.unfreeze, phase.optimizer, bool(phase.contrastive_repeats)))
        if key not in self._steps:
            self._steps[key] = self._measure(phase)
        return self._steps[key]

    def _measure(self, phase: Phase) -> tuple[StepTime, float]:
        unknown, frozen, began = self._unknown, self._frozen, time.perf_counter()
        model, (inputs, labels), features = self.model, self._sample, 0.0
        unfreeze(model, phase.unfreeze, batch_norm=self._plan.batch_norm)
        if self._source is not None:
            try:
                prefix, model, _ = split_steady(model)
                inputs = prefix(inputs, training=False)
                if self._source.kept_seconds(prefix, varied=True) is None:
                    views = self._source.views if self._source.augment else 1
                    features = views * (unknown if frozen is None else frozen)
            except (BackboneError, DataError):  # nothing is frozen, or its output varies: every epoch runs all
                model = self.model
        found = step_time(
            fold_norms(model), (inputs, labels), heads.from_model(self.model).loss(),
            build_optimizer(phase, self.model, 1000), 32 if phase.contrastive_repeats else self._batch,
        )  # fmt: skip
        self.spent += time.perf_counter() - began
        return found, features


@stage("measure a step")
def expected_time(
    backbone: Backbone, data: RunData, plan: Plan, cache: str | os.PathLike[str] | bool | None, verbose: int
) -> ExpectedTime | None:
    """Return the expected time of a plan; None if it trains for a short time only, or on several devices.

    Args:
        backbone: Backbone of the run; its weights are as before at the end.
        data: Data of the run.
        plan: Plan with the phases.
        cache: As in :func:`tfft.finetune`.
        verbose: As in :func:`tfft.features.extract`.
    """
    if is_distributed(backbone):
        return None
    stopwatch = Stopwatch(backbone, data, plan, cache, verbose)
    return None if stopwatch.is_quick(plan) else stopwatch.expect(plan)


def took(seconds: Mapping[str, float], expected: Mapping[str, float], minutes: float | None) -> str:
    """Return a sentence that compares measured and expected seconds; empty if nothing was expected.

    Args:
        seconds: Seconds of each phase, by name.
        expected: Expected seconds, by name.
        minutes: Minutes that the user gave; None for none.
    """
    total, before = sum(seconds.values()), sum(expected.values())
    line = f"training took {total / 60:.1f} minutes, expected {before / 60:.1f}" if before else ""
    if minutes is not None and total > _EXCEEDED * 60 * minutes:
        line = line or f"training took {total / 60:.1f} minutes"
        line += f"; minutes={minutes:g} was exceeded: the machine slowed down, or nothing was left to cut"
    return line


def is_distributed(backbone: Backbone) -> bool:
    """Whether a backbone trains under a strategy, where nothing is measured."""
    return tf.distribute.has_strategy() or distribute_strategy(backbone.model) is not None


def label(phase: Phase) -> str:
    """Return what trains in a phase, in a few words."""
    return "head" if phase.unfreeze in ("none", 0) else blocks_text(phase.unfreeze)


def _shown(value: float) -> str:
    """Format a number with one digit that counts, or two from 1 on."""
    return f"{value:.0f}" if value >= 9.5 else f"{value:.1g}" if value < 1 else f"{value:.1f}".removesuffix(".0")
