"""Checkpoints of a training with several phases: :class:`CheckpointManager`, called between phases.

Implementation notes: an interrupted phase is set up again on the weights and random state at its start, then the rest
of the state is restored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import keras
import numpy as np

from tfft import heads
from tfft.config import Phase
from tfft.freezing import AuditReport, unfreeze
from tfft.training.checkpoint.callback import CheckpointCallback, CheckpointConfig
from tfft.training.checkpoint.callback_state import CallbackStates, has_state
from tfft.training.checkpoint.resume import open_store, refuse_workers
from tfft.training.checkpoint.serialization import pack, unpack
from tfft.training.checkpoint.state import collect, optimizer_from, restore, take_optimizer
from tfft.training.checkpoint.store import Checkpoint
from tfft.training.distribute import is_chief
from tfft.training.history import History
from tfft.weight_averaging.selection import Score


class CheckpointManager:
    """Save a training within and after each phase, and find where to resume.

    Args:
        settings: Settings of the checkpoints.
        model: Whole model, as before the first phase.
        phases: Phases of the training.
        about: Other values that must be equal to resume.
        memory: Values of the caller to save with each phase; plain values and arrays.
        verbose: Print the position from which training resumes.

    Attributes:
        done: Number of completed phases.
        history: History of the completed phases.
        best: Score of the weights after the last completed phase.

    Raises:
        PlanError: If the checkpoints belong to another training; the message lists all differences.
        CheckpointError: If the folder is not writable, or another process uses it.
    """

    def __init__(
        self,
        settings: CheckpointConfig,
        model: keras.Model,
        phases: Sequence[Phase],
        about: Mapping[str, Any],
        memory: MutableMapping[str, Any] | None = None,
        verbose: bool | int = True,
    ) -> None:
        refuse_workers(model)
        self.done, self.history = 0, History()
        self.best: Score | None = None
        self._settings, self._model, self._verbose = settings, model, verbose
        self._memory = {} if memory is None else memory
        self._store, self._entered = settings.store, False
        self._course: CheckpointCallback | None = None
        self._notes: list[str] = []
        self._store.claim()
        found = open_store(settings, self._store, self._identity(phases, about), self._notes)
        base = None if found is None else found.base or found
        self._found: Checkpoint | None
        self._base, self._found = base, None
        if found is not None and base is not None and found is not base:
            self._found = found if found.state.get("phase") == base.state["phase"] else None
        self._phases, self._solves = tuple(phases), any(phase.solves_head for phase in phases)

    def enter(self, job: Any) -> tuple[History, Score | None]:
        """Restore the model to the start of the interrupted phase, or save the start of the first one.

        Args:
            job: State passed between phases: the model, the number of epochs, the last optimizer.

        Returns:
            The history of the completed phases, and the score of the weights after the last of them.
        """
        # State of callbacks over several phases. Those with a state of their own have one inside of fit only.
        states = CallbackStates([c for c in job.callbacks if not has_state(c)])
        states.begin()
        self._states = states
        if self._base is None:
            self._save(job)
            return self.history, self.best
        arrays, state = self._base.arrays, self._base.state
        states.prepare(state["callbacks"], inside=False)
        restore(self._model, arrays, state, callbacks=states, optimizer=False)
        self.done, self.best = state["phase"], unpack(state["best"], arrays)
        self.history = _history(unpack(state["phases"], arrays))
        self._memory.update(unpack(state["memory"], arrays))
        if self._verbose and is_chief() and self.done:
            names = ", ".join(self.history.audits)
            print(f"Resuming from {self._store.folder / self._base.name}: completed phases: {names}", flush=True)
        if state["l2"] is not None:  # which a phase that solves the head has found
            heads.set_l2(self._model, state["l2"])
        job.epochs_before = len(self.history.rows)
        if state["carried"] is not None:
            job.optimizer = optimizer_from(self._model, state["carried"], arrays)
        self._base = None
        return self.history, self.best

    def course(
        self, callbacks: Sequence[keras.callbacks.Callback], model: keras.Model
    ) -> list[keras.callbacks.Callback]:
        """Return the callbacks to pass to ``fit`` for a phase."""
        found, self._found = self._found, None  # of the first phase that is entered
        self._course = CheckpointCallback(
            self._settings, self._store, callbacks, model=model, found=found, about={"phase": self.done},
            verbose=bool(self._verbose),
        )  # fmt: skip
        return [self._course]

    def finish(self, job: Any, done: History, best: Score | None) -> None:
        """Save the end of a phase.

        Args:
            job: As in :meth:`enter`.
            done: History of the phase.
            best: Score of the weights after it.
        """
        self._notes += [] if self._course is None else self._course.notes
        self._course, self._found, self._entered = None, None, True
        self.history += done
        self.done, self.best = self.done + 1, best
        self._save(job)

    def close(self, job: Any) -> History:
        """End the training and remove the checkpoints, unless their settings keep them.

        Args:
            job: As in :meth:`enter`.

        Returns:
            The history of all phases, with notes about the checkpoints.
        """
        if self._settings.remove:
            self._settings.clear()
        else:
            self._store.release()
        if not self._entered:  # all phases were done before
            self._model.compiled = False
            unfreeze(self._model, self._phases[-1].unfreeze, batch_norm=job.batch_norm)
            self._model.compile(job.optimizer or "adam", **job.compile_arguments)
        return self.history + History(notes=tuple(dict.fromkeys(self._notes)))

    def _save(self, job: Any) -> None:
        optimizer = self._model.optimizer if self.done == len(self._phases) else job.optimizer
        arrays, state = collect(self._model, callbacks=self._states, everything=True, optimizer=False)
        state |= {
            "phase": self.done,
            "l2": heads.from_model(self._model).l2 if self._solves else None,
            "best": pack(self.best, arrays, "best"),
            "phases": pack(_plain(self.history), arrays, "phases"),
            "memory": pack(dict(self._memory), arrays, "memory"),
            "carried": None if optimizer is None else take_optimizer(self._model, optimizer, arrays),
        }
        if is_chief():
            self._store.save(arrays, state, base=True)

    def _identity(self, phases: Sequence[Phase], about: Mapping[str, Any]) -> dict[str, Any]:
        shapes = [[list(v.shape), str(v.dtype)] for v in self._model.weights]
        found = {
            "phases": {phase.name: phase.to_dict() for phase in phases},
            "order": [phase.name for phase in phases],
            **about,
            "weights": hashlib.sha256(repr(shapes).encode()).hexdigest(),
            "settings": dict(self._settings.identity),
        }
        if any(phase.l2_sp for phase in phases):  # the model as it is made anew is what they pull to
            found["pretrained"] = _digest(self._model.weights)
        return found


def _digest(variables: Sequence[keras.Variable]) -> str:
    found = hashlib.sha256()
    for variable in variables:
        found.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    return found.hexdigest()


def _plain(history: History) -> dict[str, Any]:
    return {
        "rows": [dict(row) for row in history.rows],
        "best": dict(history.best),
        "audits": {name: report.to_dict() for name, report in history.audits.items()},
        "notes": list(history.notes),
        "example_scores": dict(history.example_scores),
    }


def _history(plain: Mapping[str, Any]) -> History:
    audits = {name: AuditReport.from_dict(report) for name, report in plain["audits"].items()}
    scores = plain.get("example_scores", {})  # which earlier versions did not keep
    return History(tuple(plain["rows"]), plain["best"], audits, tuple(plain["notes"]), scores)
