"""Time of a run by stage: :func:`stage` around the work, :func:`profiling` around the whole."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import time
from collections.abc import Iterator

from rich.table import Table

from tfft.console.tables import render


@dataclasses.dataclass(eq=False)
class Profile:
    """Seconds of each stage of a run, without those of stages inside of it.

    Attributes:
        seconds: Wall time by name of the stage, in the order in which the stages were first entered.
        started: Clock when the run began.
    """

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    started: float = dataclasses.field(default_factory=time.perf_counter)
    _inside: list[float] = dataclasses.field(default_factory=lambda: [0.0])

    @property
    def stages(self) -> dict[str, float]:
        """The seconds, and what is left of the whole until now as ``"other"``."""
        other = time.perf_counter() - self.started - sum(self.seconds.values())
        return {**self.seconds, "other": max(other, 0.0)}

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time within the context to a stage."""
        self.seconds.setdefault(name, 0.0)
        self._inside.append(0.0)
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            self.seconds[name] += took - self._inside.pop()
            self._inside[-1] += took


_current: contextvars.ContextVar[Profile | None] = contextvars.ContextVar("profile", default=None)


@contextlib.contextmanager
def profiling() -> Iterator[Profile]:
    """Measure the stages within the context, in the profile of an outer context if there is one."""
    profile = _current.get()
    if profile is not None:
        yield profile
        return
    profile = Profile()
    token = _current.set(profile)
    try:
        yield profile
    finally:
        _current.reset(token)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Name the work within the context, or of a function as its decorator; free where nothing is measured.

    Args:
        name: Verb and object, such as ``"open the backbone"``.

    Example:
        >>> with profiling() as profile, stage("open the backbone"):
        ...     backbone = tfft.load_backbone("efficientnet-lite0")
        >>> profile.seconds
        {'open the backbone': 1.9}
    """
    profile = _current.get()
    with contextlib.nullcontext() if profile is None else profile.measure(name):
        yield


def format_stages(stages: dict[str, float]) -> str:
    """Return a table of seconds and shares.

    Args:
        stages: Seconds by name, as :attr:`Profile.stages` gives them.
    """
    table, total = Table("stage"), sum(stages.values())
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    for name, seconds in stages.items():
        table.add_row(name, f"{seconds:.1f}", f"{seconds / max(total, 1e-9):.0%}")
    table.add_section()
    table.add_row("total", f"{total:.1f}", "")
    return render(table, least=60)
