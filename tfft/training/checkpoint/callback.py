"""Checkpoints within one ``fit``: :class:`CheckpointCallback`, :class:`CheckpointConfig`.

Hides when a checkpoint is written, how a position inside of an epoch is found again, and in which order things have
to be put back for the rest of the training to be the same to the last bit.
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

_PAUSE = 20  # times as long as a checkpoint took until the next one: saving takes at most 5 % of the time


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Where and how often a training is saved, and what it is.

    Attributes:
        folder: for this training alone; made when needed.
        every: seconds between two checkpoints. The next one is never written sooner than 20 times what the last one
            took.
        every_steps: steps between two, instead of seconds.
        keep: how many are kept.
        identity: what must be equal for the training to go on, such as the plan and a fingerprint of the data;
            plain values. Versions, devices and threads are always compared.
        machine: ``"any"`` lets versions, devices and threads differ; the weights may then differ in the last bits.
        remove: True removes them when the training has ended.

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
            problems.append(f"every is a number of seconds from 0 on, received {self.every!r}")
        for name, value in (("every_steps", self.every_steps), ("keep", self.keep)):
            if (value is not None or name == "keep") and (type(value) is not int or value < 1):
                problems.append(f"{name} must be an int of at least 1, received {value!r}")
        if self.machine not in ("same", "any"):
            problems.append(f"machine must be 'same' or 'any', received {self.machine!r}")
        raise_problems(PlanError, "The training cannot be saved like this", problems)

    @property
    def store(self) -> CheckpointStore:
        """A store in the folder."""
        return CheckpointStore(self.folder, self.keep)

    def clear(self) -> None:
        """Remove everything that was written about a training that has ended."""
        store = self.store
        store.clear()  # first: checkpoints without an identity would be refused
        (store.folder / fingerprint.IDENTITY).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there are other files in it
            store.folder.rmdir()


class CheckpointCallback(keras.callbacks.Callback):
    """Runs callbacks, and saves and brings back the state of one ``fit``. What :class:`Resume` and phases share.

    It runs the callbacks itself because it has to come after all of them: they forget what they know in
    ``on_train_begin``. After a restart the steps of the epoch that were done already are drawn from the dataset and
    not trained, and the callbacks do not hear of them.

    Args:
        settings: of the checkpoints.
        store: where they go.
        callbacks: that belong to the training.
        model: the whole model, where another is fitted that shares its variables; None for the fitted one.
        found: the checkpoint to go on from, or None.
        about: plain values that are saved with every checkpoint.
        verbose: print where the training goes on from.

    Attributes:
        notes: what could not be saved, one sentence each.
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
        """Let the callbacks begin, then put everything back to where it was."""
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
        """Let go of signals."""
        self._stops.remove()
        set_initial_epoch(self._model, None)
        self._call("on_train_end", logs)
        if self._found is not None:  # nothing was left to do
            self._end_going_on()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Let the callbacks begin; in an epoch that was begun before, put everything back once more."""
        set_initial_epoch(self._model, None)  # else the next fit would start here too
        self._epoch, self._done = epoch, 0
        self._call("on_epoch_begin", epoch, logs)
        if self._found is not None:
            if self._skip:  # Keras has just reset the metrics, and callbacks have seen this epoch begin before
                self._restore()
                self._skip_steps()
            self._end_going_on()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Forward the calls that are not skipped."""
        if batch >= self._skip:
            self._call("on_train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves, where it is time."""
        if batch < self._skip:
            if self._stops.received:  # nothing was done since the last checkpoint
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
        """Keep the metrics of the training, which Keras resets now, and all else where a callback may change it."""
        self._check_skipped()
        self._training_metrics = metrics_of(self._model)
        if self._strategy is None and any(map(_takes_part_in_tests, self.callbacks)):
            self._before_test = self._take()  # averages of weights are put into the model now
        self._call("on_test_begin", logs)

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save where the process has been asked to stop: all steps of the epoch are done, its validation is not."""
        self._call("on_test_batch_end", batch, logs)
        if self._stops.received and not self._model.stop_training:
            if self._strategy is None:
                self._save(self._epoch, self._done)
            self._leave()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves, where it is time."""
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
            self._note(f"{error} The training goes on, and the next checkpoint will be tried.")
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
            f"Stopped in epoch {self._epoch + 1}, after {self._done} steps of it. What was done is saved in "
            f"{self._settings.folder}: the same command goes on from there."
        )

    @property
    def _resumed(self) -> Checkpoint:
        if self._found is None:
            raise RuntimeError("There is no checkpoint to go on from.")
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
            print(f"Going on from {self._store.folder / self._resumed.name}: {where}", flush=True)

    def _end_going_on(self) -> None:
        self._model.history.epoch = list(
            self._resumed.state["history"]["epoch"]
        )  # Keras resets it after on_train_begin
        self._found = None

    def _skip_steps(self) -> None:
        """Make ``fit`` draw the batches that were trained already, and do nothing with them."""
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
        """Refuse an epoch that ended before the place where the training was stopped."""
        if self._left > self._model.steps_per_execution - 1:
            self._model.train_function = self._train
            raise PlanError(
                f"The dataset gave {self._skip - self._left} batches, and the training was stopped after {self._skip} "
                "of this epoch: it is not the dataset that it was started with."
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
    """What ``fit`` will return of the epochs so far; Keras adds the row of an epoch after all other callbacks."""
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
