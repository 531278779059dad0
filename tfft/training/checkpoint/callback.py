"""Checkpoints within one ``fit``: :class:`CheckpointCallback`, :class:`CheckpointConfig`.

Implementation notes: this module decides when to write a checkpoint, finds a position inside an epoch again, and
restores the state in the order that makes the rest of the training bit-identical.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import PlanError, join_names, raise_problems
from tfft.keras_compat import set_initial_epoch
from tfft.training.callbacks import OnWhole
from tfft.training.checkpoint import fingerprint
from tfft.training.checkpoint.callback_state import CallbackStates
from tfft.training.checkpoint.signals import StopRequests
from tfft.training.checkpoint.state import broken, collect, metrics_of, restore, restore_metrics
from tfft.training.checkpoint.store import Checkpoint, CheckpointError, CheckpointStore
from tfft.training.distribute import is_chief, strategy_of
from tfft.training.progress import Progress

_PAUSE = 20  # minimum pause as a multiple of the time for a checkpoint: saving takes at most 5 % of the time


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Location and schedule of checkpoints, and the identity of the training.

    Attributes:
        folder: Folder for this training alone; created if needed.
        every: Seconds between checkpoints, but at least 20 times the duration of the last one.
        every_steps: Steps between checkpoints, instead of seconds.
        keep: Number of checkpoints to keep.
        identity: Plain values that must be equal to resume, such as the plan and a fingerprint of the data. Versions,
            devices and threads are always compared.
        machine: ``"any"`` allows other versions, devices and threads; the weights may then differ in the last bits.
        remove: Whether to remove the checkpoints when the training has ended.

    Example:
        >>> CheckpointConfig("run/checkpoints", every=300, identity={"plan": plan.to_dict()})
    """

    folder: str | os.PathLike[str]
    every: float = 60.0
    every_steps: int | None = None
    keep: int = 2
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    machine: Literal["same", "any"] = "same"
    remove: bool = True

    def __post_init__(self) -> None:
        problems = []
        if isinstance(self.every, bool) or not isinstance(self.every, (int, float)) or not self.every >= 0:
            problems.append(f"every must be a number of seconds, at least 0, received {self.every!r}")
        for name, value in (("every_steps", self.every_steps), ("keep", self.keep)):
            if (value is not None or name == "keep") and (type(value) is not int or value < 1):
                problems.append(f"{name} must be an int of at least 1, received {value!r}")
        if self.machine not in ("same", "any"):
            problems.append(f"machine must be 'same' or 'any', received {self.machine!r}")
        raise_problems(PlanError, "The checkpoint settings cannot be used", problems)

    @property
    def store(self) -> CheckpointStore:
        """A store in the folder."""
        return CheckpointStore(self.folder, self.keep)

    def clear(self) -> None:
        """Remove all files of a finished training."""
        store = self.store
        store.clear()  # first: checkpoints without an identity would be refused
        (store.folder / fingerprint.IDENTITY).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there are other files in it
            store.folder.rmdir()


class CheckpointCallback(keras.callbacks.Callback):
    """Callback that runs other callbacks, and saves and restores the state of one ``fit``.

    It runs the callbacks itself because it must come after all of them: they reset their state in ``on_train_begin``.
    After a restart, the finished steps of the epoch are drawn from the dataset but not trained, and the callbacks are
    not called for them.

    Args:
        settings: Settings of the checkpoints.
        store: Checkpoint store.
        callbacks: Callbacks of the training.
        model: Whole model, if another one that shares its variables is fitted; None for the fitted one.
        found: Checkpoint to resume from, or None.
        about: Plain values to save with every checkpoint.
        verbose: Print the position from which training resumes.

    Attributes:
        notes: Objects that could not be saved, one sentence each.
    """

    def __init__(
        self,
        settings: CheckpointConfig,
        store: CheckpointStore,
        callbacks: Sequence[keras.callbacks.Callback],
        *,
        model: keras.Model | None = None,
        found: Checkpoint | None = None,
        about: Mapping[str, Any] | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__()
        self.callbacks = list(callbacks)
        self.notes: list[str] = []
        self._settings, self._store, self._verbose = settings, store, verbose
        self._whole, self._found, self._about = model, found, dict(about or {})
        self._stops = StopRequests(self._is_fitting)
        for hook in _PASSED_ON:
            setattr(self, hook, functools.partial(self._call, hook))

    def set_params(self, params: dict[str, Any]) -> None:
        """Forward the calls to the other callbacks."""
        self.params = params
        for callback in self.callbacks:
            callback.set_params(params)

    def set_model(self, model: keras.Model) -> None:
        """Forward the calls to the other callbacks."""
        self._model = model
        for callback in self.callbacks:
            callback.set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start the callbacks, then restore the state."""
        self._states = CallbackStates(self.callbacks)
        self._strategy = strategy_of(self._whole or self._model)
        if self._found is not None:
            self._states.prepare(self._found.state["callbacks"], inside=True)
        self._call("on_train_begin", logs)
        self._states.begin()
        self.notes += self._states.notes
        self._epoch = self._done = self._since = self._skip = self._left = 0
        self._training_metrics: list[np.ndarray] | None = None
        self._before_test: tuple[dict[str, np.ndarray], dict[str, Any]] | None = None
        if self._found is not None:
            self._go_on(self._found.state)
        self._wait, self._saved_at = self._settings.every, time.monotonic()
        self._stops.install()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Remove the signal handlers."""
        self._stops.remove()
        set_initial_epoch(self._model, None)
        self._call("on_train_end", logs)
        if self._found is not None:  # nothing remained to do
            self._end_going_on()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the callbacks; in a resumed epoch, restore the state again."""
        set_initial_epoch(self._model, None)  # else the next fit would start here too
        self._epoch, self._done = epoch, 0
        self._call("on_epoch_begin", epoch, logs)
        if self._found is not None:
            if self._skip:  # Keras has just reset the metrics, and callbacks have already seen the start of this epoch
                self._restore()
                self._skip_steps()
            self._end_going_on()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Forward the calls that are not skipped."""
        if batch >= self._skip:
            self._call("on_train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save if a checkpoint is due."""
        if batch < self._skip:
            if self._stops.received:  # no step since the last checkpoint
                self._leave()
            return
        self._call("on_train_batch_end", batch, logs)
        self._since += batch + 1 - self._done
        self._done = batch + 1
        if self._model.stop_training:
            return  # the epoch ends here, with validation
        if self._strategy is None and (self._stops.received or self._is_time()):
            self._save(self._epoch, self._done)
        if self._stops.received:
            self._leave()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keep the training metrics, which Keras resets now, and other state that a callback may change."""
        self._check_skipped()
        self._training_metrics = metrics_of(self._model)
        if self._strategy is None and any(map(_takes_part_in_tests, self.callbacks)):
            self._before_test = self._take()  # averages of weights are put into the model now
        self._call("on_test_begin", logs)

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save if the process was asked to stop: all steps of the epoch are done, its validation is not."""
        self._call("on_test_batch_end", batch, logs)
        if self._stops.received and not self._model.stop_training:
            if self._strategy is None:
                self._save(self._epoch, self._done)
            self._leave()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save if a checkpoint is due."""
        self._check_skipped()
        self._training_metrics, self._before_test, self._skip = None, None, 0
        self._call("on_epoch_end", epoch, logs)
        if self._stops.received or self._is_time():
            self._save(epoch + 1, 0, {k: float(v) for k, v in (logs or {}).items()})
        if self._stops.received:
            self._leave()

    def _call(self, hook: str, *arguments: Any, **named: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(*arguments, **named)

    def _is_time(self) -> bool:
        if self._settings.every_steps is not None:
            return self._since >= self._settings.every_steps
        return time.monotonic() - self._saved_at >= self._wait

    def _save(self, epoch: int, step: int, logs: Mapping[str, float] | None = None) -> None:
        began = time.monotonic()
        arrays, state = self._before_test or self._take()
        if step:
            metrics = metrics_of(self._model) if self._training_metrics is None else self._training_metrics
            arrays |= {f"metrics/{i}": value for i, value in enumerate(metrics)}
        bad = broken(arrays, state)
        if bad:
            self._note(
                f"no checkpoint was written in epoch {epoch + 1}: {join_names(bad, limit=3)} are not finite numbers"
            )
            return
        try:
            if is_chief():
                about = {"epoch": epoch, "step": step, "history": _history(self._model.history, epoch - 1, logs)}
                self._store.save(arrays, state | self._about | about)
        except CheckpointError as error:
            self._note(f"{error} Training continues, and the next checkpoint will be attempted.")
        self._since, self._saved_at = 0, time.monotonic()
        self._wait = max(self._settings.every, _PAUSE * (self._saved_at - began))

    def _take(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return collect(self._whole or self._model, fitted=self._model, callbacks=self._states)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            print(text, flush=True)

    def _leave(self) -> None:
        self._stops.leave(
            f"Stopped in epoch {self._epoch + 1}, after {self._done} steps of it. Progress is saved in "
            f"{self._settings.folder}: the same command resumes from there."
        )

    @property
    def _resumed(self) -> Checkpoint:
        if self._found is None:
            raise RuntimeError("There is no checkpoint to resume from.")
        return self._found

    def _restore(self) -> None:
        found, whole = self._resumed, self._whole or self._model
        restore(whole, found.arrays, found.state, fitted=self._model, callbacks=self._states)

    def _go_on(self, state: Mapping[str, Any]) -> None:
        self._restore()
        epoch, self._skip = state["epoch"], state["step"]
        self._model.history.history = {k: list(v) for k, v in state["history"]["rows"]}
        if state["stop"]:
            epoch, self._model.stop_training = self.params["epochs"], True
        for callback in self.callbacks:
            if isinstance(callback, Progress):
                callback.go_on(state["epoch"] * (self.params["steps"] or 0) + self._skip)
        set_initial_epoch(self._model, epoch)  # as keras.callbacks.BackupAndRestore does
        if self._verbose and is_chief():
            where = f"epoch {epoch + 1}, step {self._skip + 1}"
            print(f"Resuming from {self._store.folder / self._resumed.name}: {where}", flush=True)

    def _end_going_on(self) -> None:
        self._model.history.epoch = list(
            self._resumed.state["history"]["epoch"]
        )  # Keras resets it after on_train_begin
        self._found = None

    def _skip_steps(self) -> None:
        """Make ``fit`` draw the batches that were already trained, and ignore them."""
        model, arrays = self._model, self._resumed.arrays
        metrics = [arrays[f"metrics/{i}"] for i in range(sum(name.startswith("metrics/") for name in arrays))]
        self._done = self._left = self._skip
        self._train = train = model.train_function

        def draw(iterator: Any) -> dict[str, Any]:
            model.train_function = train  # also when reading fails: else the next fit would skip too
            for _ in range(model.steps_per_execution):
                try:
                    batch = next(iterator)
                except (StopIteration, tf.errors.OutOfRangeError):
                    break  # the last ones may be fewer
                if self._left == self._skip:
                    restore_metrics(model, metrics, batch)
                self._left -= 1
            else:
                model.train_function = draw if self._left > 0 else train
            return model.get_metrics_result()

        model.train_function = draw

    def _check_skipped(self) -> None:
        """Raise an error if an epoch ended before the position of the checkpoint."""
        if self._left > self._model.steps_per_execution - 1:
            self._model.train_function = self._train
            raise PlanError(
                f"The dataset gave {self._skip - self._left} batches, and the training was stopped after {self._skip} "
                "of this epoch: the dataset differs from that of the first start."
            )
        self._left = 0

    def _is_fitting(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is self._model:
                return True
            frame = frame.f_back
        return False


def _takes_part_in_tests(callback: keras.callbacks.Callback) -> bool:
    callback = callback.callback if isinstance(callback, OnWhole) else callback
    hooks = [name for name in dir(keras.callbacks.Callback) if name.startswith("on_test_")]
    return any(
        getattr(getattr(callback, n), "__func__", None) is not getattr(keras.callbacks.Callback, n) for n in hooks
    )


def _history(history: keras.callbacks.History, epoch: int, logs: Mapping[str, float] | None) -> dict[str, Any]:
    """Return the history of the epochs so far; Keras adds the row of an epoch after all other callbacks."""
    rows = {name: [float(v) for v in values] for name, values in history.history.items()}
    if logs is None:
        return {"epoch": list(history.epoch), "rows": list(rows.items())}
    now = {name: [*rows.get(name, []), *([logs[name]] if name in logs else [])] for name in {**rows, **logs}}
    return {"epoch": [*history.epoch, epoch], "rows": list(now.items())}  # pairs: JSON sorts names


_OWN = [name for name in vars(CheckpointCallback) if name.startswith("on_")]
_PASSED_ON = [
    name
    for name in dir(keras.callbacks.Callback)
    if name.startswith("on_") and name not in _OWN and name not in ("on_batch_begin", "on_batch_end")
]
