"""Comparison of backbones on some data: :func:`recommend`."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import keras
import numpy as np

from tfft import registry
from tfft.backbones.available import available_backbones
from tfft.config import RunConfig, RunSettings, config_of
from tfft.errors import BackboneError, PlanError, TfftError, join_names, raise_problems
from tfft.evaluation import Scores
from tfft.recipes.fine_tuning import finetune
from tfft.recipes.run_data import RunData, load_run_data
from tfft.recommendation.comparison import Difference, nested_order, paired_difference
from tfft.recommendation.contender import Contender
from tfft.recommendation.result import CandidateResult, Recommendation, in_words

_FIRST = 200  # training examples of the first round; each further round has twice as many
_MARGIN = 0.01  # share of the way from guessing to perfect answers that is no difference in practice
_LEAST = 40  # training examples below which folds say nothing


def recommend(
    data: Any,
    candidates: Sequence[Any] | None = None,
    task: str = "auto",
    *,
    max_examples: int = 3200,
    cache: str | os.PathLike[str] | bool | None = "auto",
    verbose: bool = True,
    config: RunConfig | None = None,
    **settings: Unpack[RunSettings],
) -> Recommendation:
    """Compare backbones on some data and recommend one.

    A linear probe is solved to its optimum on the frozen features of each candidate, on growing samples of the training
    examples. Every example is predicted by a probe that was not trained on it, and candidates are compared in pairs on
    the same examples. A candidate leaves only when it is worse beyond doubt: when the 95 % interval of its difference
    to the best, divided among all comparisons, lies below 1 % of the way from guessing to perfect answers. Among those
    at most that far behind the best, the fastest is recommended. The held-out examples choose nothing; the scores of
    the recommended backbone come from them.

    Closed scores of transferability do not decide: they mostly order by size (Singh, Hess and Vanschoren, "How not to
    benchmark your SITE metric", 2026). With ``minutes=``, the best candidate by probe and the largest one are also
    fine-tuned for a short time, as Renggli et al. ("Which model to transfer? Finding the needle in the growing
    haystack", 2022) propose, since a probe alone may prefer the wrong one; the held-out score then decides.

    Args:
        data: As in :func:`tfft.finetune`.
        candidates: Backbones as in :func:`tfft.finetune`. None compares those whose weights are on this machine, see
            ``tfft recommend --help``: nothing is downloaded.
        task: As in :func:`tfft.finetune`; its head must have a linear probe.
        max_examples: Training examples of the last round.
        cache: Place for features, as in :func:`tfft.finetune`.
        verbose: Print each round in a line.
        config: As in :func:`tfft.finetune`.
        **settings: Settings of :func:`tfft.finetune` for data and backbones, such as ``image_size``; ``minutes`` is the
            time for everything: no round begins that would not fit, and the time left goes to fine-tuning. Without it,
            probes alone decide.

    Returns:
        A :class:`Recommendation`; ``print`` shows a table and a sentence.

    Raises:
        TfftError: If the data or the settings cannot be used.
        PlanError: If the task has no linear probe, or there are fewer than 40 training examples.
        BackboneError: If no candidate can be opened.

    Example:
        >>> found = tfft.recommend("photos/", ["efficientnet-lite0", "keras:MobileNetV2"])
        >>> print(found)
        >>> tfft.finetune(found.best, "photos/", out="runs/photos")
    """
    began = time.perf_counter()
    _check(candidates, max_examples)
    chosen = config_of(config, task, settings, ("candidates", "max_examples", "cache", "verbose", "config"))
    chosen.check()
    run_data = load_run_data(data, chosen)
    count = len(run_data.splits.train)
    if count < _LEAST:
        raise PlanError(f"Expected at least {_LEAST} training examples to compare backbones, received {count}.")
    say: Callable[[str], None] = (lambda line: print(line, flush=True)) if verbose else (lambda line: None)
    contenders, left_out = _opened(candidates, run_data, chosen, cache)
    deadline = None if chosen.minutes is None else began + 60 * chosen.minutes
    contest = _Contest(run_data, contenders, min(max_examples, count), chosen.seed or 0, deadline, say)
    contest.run()
    tuned = {} if deadline is None else _fine_tuned(contest, data, chosen, deadline, say)
    return contest.result(tuned, left_out, time.perf_counter() - began)


class _Contest:
    """Rounds on growing samples of the training examples.

    Args:
        data: Data, before it was adapted to a backbone.
        contenders: Candidates.
        most: Training examples of the last round.
        seed: Seed for the order of the examples.
        deadline: Time by :func:`time.perf_counter` at which to stop; None for none.
        say: Function for progress.
    """

    def __init__(
        self, data: RunData, contenders: list[Contender], most: int, seed: int, deadline: float | None,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        train = data.splits.train
        labels, count = np.asarray(train.labels), len(train)
        self._strata = registry.task(data.task).strata(labels)
        self._groups = None if data.splits.groups is None else data.splits.groups[:count]
        self._order = nested_order(self._strata, count, seed)
        self._all, self._most, self._deadline, self._say = tuple(contenders), most, deadline, say
        self.left, self._late = list(contenders), False
        self._dropped: dict[int, Difference] = {}  # to the best of that round

    @property
    def best(self) -> Contender:
        """The candidate with the highest score so far; the fastest of several."""
        return max(self.left, key=lambda each: (each.scores.mean(), -each.milliseconds))

    def run(self) -> None:
        """Hold rounds until all examples were used, one candidate is left, or the time is over."""
        size = min(_FIRST, self._most)
        while True:
            began = time.perf_counter()
            self._round(size)
            now = time.perf_counter()
            self._late = self._deadline is not None and 2 * now - began > self._deadline
            if size == self._most or len(self.left) == 1 or self._late:
                return
            size = min(2 * size, self._most)

    def _round(self, size: int) -> None:
        rows = self._order[:size]
        strata = None if self._strata is None else np.asarray(self._strata)[rows]
        groups = None if self._groups is None else [self._groups[i] for i in rows]
        for each in self.left:
            each.see(rows, strata, groups)
        guesses = self.left[0].guesses(rows, strata)
        margin = _MARGIN * (self.left[0].scale - guesses.mean())
        behind = [each for each in self.left if self._difference(each).high < -margin]
        self._dropped |= {id(each): self._difference(each) for each in behind}
        self.left = [each for each in self.left if id(each) not in self._dropped]
        scores = ", ".join(f"{each.name} {abs(each.scores.mean()):.4f}" for each in [*self.left, *behind])
        dropped = f"; dropped: {join_names([each.name for each in behind])}" if behind else ""
        self._say(f"{size} examples: {scores}{dropped}")
        self._guesses, self._margin = guesses, margin

    def _difference(self, each: Contender) -> Difference:
        """Return the difference of a candidate to the best, in the last round in which it took part."""
        known = self._dropped.get(id(each))
        return known or paired_difference(each.scores, self.best.scores, max(len(self._all) - 1, 1))

    def result(self, tuned: dict[str, Scores], left_out: dict[str, str], seconds: float) -> Recommendation:
        """Return the recommendation, with the scores of short fine-tunings by name."""
        best = self.best
        differences = {id(each): self._difference(each) for each in self._all if each is not best}
        equal = [e for e in self.left if e is best or differences[id(e)].mean >= -self._margin]
        winner = min(equal, key=lambda each: each.milliseconds)
        if tuned:
            first = max(tuned, key=lambda name: (-1 if tuned[name].lower_is_better else 1) * tuned[name].value)
            winner = next(each for each in self._all if each.name == first)
        rows = sorted(self._all, key=lambda each: (id(each) in self._dropped, -each.scores.mean()))
        scores = winner.final_scores(self._order[: len(winner.scores) if self._late else self._most])
        candidates = tuple(
            CandidateResult(
                each.name, abs(float(each.scores.mean())), differences.get(id(each)), len(each.scores),
                id(each) in self._dropped, each.milliseconds, each.parameters, tuned.get(each.name),
            )
            for each in rows
        )  # fmt: skip
        return Recommendation(
            winner.name, self._sentence(winner, best, differences, tuned), candidates, best.metric,
            abs(float(self._guesses.mean())), scores, left_out, seconds,
        )  # fmt: skip

    def _sentence(
        self, winner: Contender, best: Contender, differences: dict[int, Difference], tuned: dict[str, Scores]
    ) -> str:
        count = len(best.scores)
        against = paired_difference(best.scores, self._guesses, len(self._all))
        if against.low <= 0 and not tuned:
            return (
                f"No backbone is better than guessing on {count} examples: the best is {best.name}, with a difference "
                f"of {in_words(against)}. Check the labels, or give other candidates."
            )
        if tuned:
            return f"{winner.name} is recommended: it has the best held-out score after a short fine-tuning."
        parts = [f"{winner.name} is recommended"]
        if winner is not best:
            faster = best.milliseconds / winner.milliseconds
            parts.append(f"it is at most {self._margin:.2g} behind {best.name} and {faster:.1f} times as fast")
        unclear = [e for e in self.left if e is not best and differences[id(e)].high >= 0]
        if unclear:
            names = ", ".join(f"{e.name} {in_words(differences[id(e)])}" for e in unclear)
            parts.append(f"on {count} examples {best.name} cannot be distinguished from {names}")
        return "; ".join(parts) + "."


def _opened(
    candidates: Sequence[Any] | None, data: RunData, config: RunConfig, cache: Any
) -> tuple[list[Contender], dict[str, str]]:
    """Return the candidates that can be opened, and why others cannot."""
    handles = list(candidates) if candidates is not None else available_backbones(data.splits.modality or "image")
    found: list[Contender] = []
    left_out: dict[str, str] = {}
    for handle in handles:
        try:
            contender = Contender(handle, data, config, cache)
        except TfftError as error:
            if isinstance(error, PlanError) and "recommend compares" in str(error):
                raise
            name = os.fspath(handle) if isinstance(handle, (str, os.PathLike)) else getattr(handle, "name", str(handle))
            left_out[name] = str(error)
            continue
        if contender.name in {each.name for each in found}:
            contender.name += f" ({len(found) + 1})"
        found.append(contender)
    if not found:
        why = "; ".join(f"{name}: {reason.removesuffix('.')}" for name, reason in left_out.items())
        raise BackboneError(
            f"No candidate can be used{': ' + why if why else ''}. Give the backbones to compare, such as "
            "candidates=['efficientnet-lite0', 'keras:MobileNetV2']; tfft.list_backbones() lists more."
        )
    return found, left_out


def _fine_tuned(
    contest: _Contest, data: Any, config: RunConfig, deadline: float, say: Callable[[str], None]
) -> dict[str, Scores]:
    """Return held-out scores of the best and the largest candidate after a short fine-tuning, by name."""
    tried = {id(each): each for each in (contest.best, max(contest.left, key=lambda each: each.parameters))}
    if len(tried) < 2:
        return {}
    found: dict[str, Scores] = {}
    for at, each in enumerate(tried.values()):
        minutes = (deadline - time.perf_counter()) / 60 / (len(tried) - at)
        if minutes < 0.5:
            say("no time is left for fine-tuning")
            return {}
        run = finetune(each.handle, data, config=config, minutes=minutes, export_to=False, verbose=False)
        found[each.name] = run.final_scores
        say(f"fine-tuned for {minutes:.1f} minutes: {each.name} {found[each.name].value:.4f}")
        gc.collect()
    return found


def _check(candidates: Any, max_examples: Any) -> None:
    problems = []
    if isinstance(candidates, (str, os.PathLike, keras.Model)):
        problems.append(f"candidates: Expected a list of backbones. Received: {candidates!r}. Fix: put it into a list")
    elif candidates is not None and not len(candidates):
        problems.append("candidates: Expected at least one backbone, or None. Received: an empty list")
    if isinstance(max_examples, bool) or not isinstance(max_examples, int) or max_examples < _LEAST:
        problems.append(f"max_examples: Expected an int of at least {_LEAST}. Received: {max_examples!r}")
    raise_problems(PlanError, "Backbones cannot be compared", problems)
