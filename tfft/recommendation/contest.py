"""Rounds in which candidates are compared: :class:`Contest`."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from tfft import registry
from tfft.errors import join_names
from tfft.evaluation import Difference, Scores, paired_difference
from tfft.recipes.run_data import RunData
from tfft.recommendation.contender import Contender
from tfft.recommendation.result import CandidateResult, Recommendation
from tfft.recommendation.sampling import nested_order

_FIRST = 200  # training examples of the first round; each further round has twice as many
_MARGIN = 0.01  # share of the way from guessing to perfect answers that is no difference in practice


class Contest:
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
        self._guesses, self._margin = np.zeros(0), 0.0

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
        margin = _MARGIN * (self.left[0].perfect - guesses.mean())
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
                f"of {against}. Check the labels, or give other candidates."
            )
        if tuned:
            return f"{winner.name} is recommended: it has the best held-out score after a short fine-tuning."
        parts = [f"{winner.name} is recommended"]
        if winner is not best:
            faster = best.milliseconds / winner.milliseconds
            parts.append(f"it is at most {self._margin:.2g} behind {best.name} and {faster:.1f} times as fast")
        unclear = [e for e in self.left if e is not best and differences[id(e)].high >= 0]
        if unclear:
            names = ", ".join(f"{e.name} {differences[id(e)]}" for e in unclear)
            parts.append(f"on {count} examples {best.name} cannot be distinguished from {names}")
        return "; ".join(parts) + "."
