"""Outcome of contract tests: :class:`Contract`, :class:`ContractError`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tfft.errors import TfftError


class ContractError(TfftError, AssertionError):
    """A backbone breaks part of the contract; the message lists all failed checks."""


@dataclasses.dataclass(frozen=True)
class Contract:
    """Outcome of a contract runner.

    Attributes:
        passed: Names of the checks that held.
        refused: Checks that do not apply, with the reason the model itself gave.
    """

    passed: tuple[str, ...]
    refused: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{len(self.passed)} checks passed: {', '.join(self.passed)}"]
        lines += [f"refused: {name} ({reason})" for name, reason in self.refused.items()]
        return "\n".join(lines)


def report(what: str, checks: Iterator[tuple[str, Callable[[], str | None]]]) -> Contract:
    """Run checks by name; each raises an error, or returns why it does not apply.

    Args:
        what: Name of what is checked, for the message.
        checks: Names and checks.

    Raises:
        ContractError: With every check that failed.
    """
    passed: list[str] = []
    failed: list[str] = []
    refused: dict[str, str] = {}
    for name, check in checks:
        try:
            reason = check()
        except Exception as error:  # a contract runner reports whatever goes wrong
            failed.append(f"{name}: {type(error).__name__}: {error}")
        else:
            refused.update({name: reason} if reason else {})
            passed += [] if reason else [name]
    if failed:
        raise ContractError(f"{what} breaks {len(failed)} promises:\n  - " + "\n  - ".join(failed))
    return Contract(tuple(passed), refused)


def expect(condition: bool, message: str) -> None:
    """Raise an error with a message unless a condition holds."""
    if not condition:
        raise AssertionError(message)


def expect_same(ours: Any, theirs: Any, tolerance: float) -> None:
    """Raise an error unless arrays are equal up to a tolerance, relative to the largest value if that is above 1."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    limit = tolerance * max(1.0, float(np.max(np.abs(theirs), initial=0.0)))
    worst = float(np.max(np.abs(ours - theirs), initial=0.0))
    expect(worst <= limit, f"differs by {worst:.3g}, at most {limit:.3g} is accepted")


def build_optimizer(model: keras.Model) -> None:
    """Create the variables of the optimizer: a step that creates them itself is traced twice."""
    model.optimizer.build(model.trainable_variables)
