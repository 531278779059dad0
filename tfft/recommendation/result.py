"""Result of a comparison of backbones: :class:`Recommendation`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from tfft.console.tables import render
from tfft.evaluation import Difference, Scores


@dataclasses.dataclass(frozen=True)
class CandidateResult:
    """Comparison of one backbone with the others.

    Attributes:
        name: Name of the backbone.
        score: Mean cross-validated score of a linear probe on its features; an error for regression.
        difference: Difference to the best candidate on the same examples, positive where it is better, with an
            interval; None for the best.
        examples: Training examples on which it was measured.
        dropped: Whether it left before the last round, because it was significantly worse.
        milliseconds: Time of the frozen backbone for one example on this machine.
        parameters: Number of values in the backbone.
        fine_tuned: Scores after a short fine-tuning; None if that was not tried.
    """

    name: str
    score: float
    difference: Difference | None
    examples: int
    dropped: bool
    milliseconds: float
    parameters: int
    fine_tuned: Scores | None = None


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """Backbones compared on some data; ``print`` shows a table and a sentence.

    Attributes:
        best: Name of the recommended backbone.
        sentence: Reason, and candidates that are too close to call.
        candidates: Results, the best first.
        metric: Name of the score.
        guess: Score of the best constant answer on the same examples.
        scores: Scores of the recommended backbone's linear probe on held-out examples, which are not used for selection
            unless backbones were fine-tuned.
        left_out: Reasons by name for candidates that could not be compared.
        seconds: Time that it took.
    """

    best: str
    sentence: str
    candidates: tuple[CandidateResult, ...]
    metric: str
    guess: float
    scores: Scores
    left_out: Mapping[str, str]
    seconds: float

    def __str__(self) -> str:
        """Format the candidates as a table, followed by the sentence and the score on held-out examples."""
        table = Table(title_justify="left")
        table.add_column("backbone")
        words = self.metric.replace("_", " ")
        tried = any(each.fine_tuned is not None for each in self.candidates)
        for title in (words, "difference to the best", "examples", "ms per example", "parameters"):
            table.add_column(title, justify="right")
        if tried:
            table.add_column("fine-tuned", justify="right")
        for each in self.candidates:
            tuned = [] if not tried else ["" if each.fine_tuned is None else f"{each.fine_tuned.value:.4f}"]
            table.add_row(
                f"{each.name} (dropped)" if each.dropped else each.name, f"{each.score:.4f}",
                "" if each.difference is None else str(each.difference), str(each.examples),
                f"{each.milliseconds:.1f}", f"{each.parameters / 1e6:.2g} M", *tuned,
            )  # fmt: skip
        lines = [
            render(table),
            self.sentence,
            f"linear probe of {self.best} on held-out examples: {self.scores.summary}",
        ]
        return "\n".join([*lines, *(f"left out: {name}: {why}" for name, why in self.left_out.items())])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as ``tfft recommend --json`` prints them."""
        rows = [
            {**dataclasses.asdict(each), "fine_tuned": None if each.fine_tuned is None else each.fine_tuned.to_dict()}
            for each in self.candidates
        ]
        return {
            "best": self.best, "sentence": self.sentence, "metric": self.metric, "guess": self.guess,
            "candidates": rows, "scores": self.scores.to_dict(), "left_out": dict(self.left_out),
            "seconds": round(self.seconds, 1),
        }  # fmt: skip
