"""A backbone that is compared with others: :class:`Contender`."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from tfft import heads, registry
from tfft.backbones.base import Backbone
from tfft.config import RunConfig
from tfft.data import BatchOptions, Examples
from tfft.evaluation import Scores
from tfft.features import extract, fit_linear_probe, split_head
from tfft.features.linear_probe.out_of_fold import FOLDS, out_of_fold_logits, probe_logits
from tfft.recipes.preparing import build_model, open_for, plan_for, spec_of
from tfft.recipes.run_data import RunData

_TIMED = 8  # examples of the batch that is timed


class Contender:
    """Candidate with its features of the examples seen so far.

    Args:
        handle: Handle or opened backbone.
        data: Data, before it was adapted to a backbone.
        config: Settings of the user.
        cache: As in :func:`tfft.finetune`.

    Attributes:
        name: Name to show.
        handle: What was given.
        parameters: Number of values in the backbone.
        milliseconds: Time of the frozen backbone for one example.
        scores: Out-of-fold score of each example, [n]; empty before the first round.

    Raises:
        PlanError: If the backbone takes another modality.
        TfftError: If the backbone cannot be opened.
    """

    def __init__(self, handle: Any, data: RunData, config: RunConfig, cache: Any) -> None:
        self.data, chosen, opened = open_for(handle, config, data)
        plan = plan_for(opened, self.data, chosen, None, None)
        self.handle, self.name = handle, _name(handle, opened)
        self._model = build_model(opened, self.data, plan)
        self._head, self._cache = heads.from_model(self._model), cache
        self._spec, self._seed = spec_of(opened, plan), plan.seed
        self._prefix, _ = split_head(self._model)
        self.parameters = opened.model.count_params()
        self.milliseconds = self._time_of_an_example()
        self._features: np.ndarray | None = None
        self.scores = np.zeros(0)

    def see(self, rows: np.ndarray, strata: np.ndarray | None, groups: list[str] | None) -> None:
        """Score a sample that begins with the examples of the last round.

        Args:
            rows: Positions of training examples, [n].
            strata: Stratum of each, [n]; None for none.
            groups: Group of each; None for none.
        """
        labels = np.asarray(self.data.splits.train.labels)[rows]
        self.scores = self._scored(self._features_of(rows), labels, strata, groups)

    def guesses(self, rows: np.ndarray, strata: np.ndarray | None) -> np.ndarray:
        """Return the score of each example for the best constant answer, [n]."""
        labels = np.asarray(self.data.splits.train.labels)[rows]
        return self._scored(np.zeros((len(rows), 1), np.float32), labels, strata, None)

    def final_scores(self, rows: np.ndarray) -> Scores:
        """Return the scores of a probe on the validation examples, which are not used for selection.

        Args:
            rows: Positions of the training examples of the probe, [n], which begin with those of the last round.
        """
        labels = np.asarray(self.data.splits.train.labels)[rows]
        solved = fit_linear_probe(self._features_of(rows), labels, self._head, seed=self._seed)
        held_out = self.data.splits.validation
        logits = probe_logits(solved, self._extract(held_out), self._head)
        evaluator = registry.task(self.data.task).evaluator(self._head)
        targets = np.asarray(held_out.labels)
        evaluator.update(targets, logits.astype(np.float32))
        loss = self._head.loss()(targets, logits.astype(np.float32))
        return evaluator.result(len(targets), float(loss))

    @property
    def perfect(self) -> float:
        """Mean score of perfect answers."""
        return 1.0 if registry.task(self.data.task).score_display(self.metric).higher_is_better else 0.0

    @property
    def metric(self) -> str:
        """Name of the mean of the scores."""
        return "accuracy" if self._head.convex_loss != "squared" else "mean_absolute_error"

    def _features_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the features of training examples, of which those of earlier rounds are known."""
        known = 0 if self._features is None else len(self._features)
        if known < len(rows):
            fresh = self._extract(self.data.splits.train.take(rows[known:]))
            self._features = fresh if self._features is None else np.concatenate([self._features, fresh])
        return np.asarray(self._features)[: len(rows)]

    def _scored(
        self, features: np.ndarray, labels: np.ndarray, strata: np.ndarray | None, groups: list[str] | None
    ) -> np.ndarray:
        if strata is not None and np.bincount(strata).min(initial=FOLDS, where=np.bincount(strata) > 0) < FOLDS:
            strata = None
        if groups is not None and len(set(groups)) < FOLDS:
            groups = None
        logits = out_of_fold_logits(features, labels, self._head, strata=strata, groups=groups, seed=self._seed)
        found = self._head.example_scores(labels, logits)
        return np.zeros(len(labels)) if found is None else np.asarray(found, np.float64)

    def _extract(self, examples: Examples) -> np.ndarray:
        found = extract(self._prefix, examples, cache=self._cache, verbose=False)
        return np.asarray(found.arrays, np.float32)

    def _time_of_an_example(self) -> float:
        train = self.data.splits.train
        few = train.take(np.arange(min(_TIMED, len(train))))
        inputs = next(iter(few.batches(self._spec, BatchOptions(len(few), cache=False))))[0]
        self._prefix(inputs, training=False)
        times = []
        for _ in range(2):
            began = time.perf_counter()
            self._prefix(inputs, training=False)
            times.append(time.perf_counter() - began)
        return 1000 * min(times) / len(few)


def _name(handle: Any, opened: Backbone) -> str:
    if not isinstance(handle, (str, os.PathLike)):
        return opened.name
    text = os.fspath(handle)
    return text.rstrip("/").rsplit("/", 1)[-1] if os.path.exists(text) else text
