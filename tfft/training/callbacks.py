"""Callbacks of a phase: history rows, best weights, and a check for non-finite losses."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.config import Phase
from tfft.errors import AuditError, PlanError, did_you_mean, join_names
from tfft.keras_compat import trained_variables
from tfft.registry import Metric
from tfft.training.distribute import is_chief, statistics_of
from tfft.weight_averaging.selection import ACCURACY, Score, selection_score

_QUIET = 30.0  # seconds without a line, where not every epoch has one


class PhaseWatch(keras.callbacks.Callback):
    """Record each epoch, keep the best weights in memory and stop at the first non-finite loss.

    It copies only variables that may change in the phase, once per better epoch.

    Args:
        phase: Phase.
        steps: Steps per epoch.
        why: Function that explains a non-finite loss by the data or the settings.
        verbose: Print lines of epochs: 2 or more for every epoch, 1 for those that end half a minute after the last
            line, 0 for none.
        start: Score of the initial weights, which an epoch has to beat; None if any epoch does.
        before: Values of variables when ``start`` was measured, if they differ from those of the first step.
        selection: Metric that selects the best epoch.
        examples: Function that returns the score of each validation example, or None; called after each epoch.
        record: Function called with each row of the history.
    """

    def __init__(
        self,
        phase: Phase,
        steps: int,
        why: Callable[[], str],
        verbose: int,
        start: Score | None = None,
        before: Sequence[tuple[keras.Variable, np.ndarray]] = (),
        selection: Metric = ACCURACY,
        examples: Callable[[], np.ndarray | None] = lambda: None,
        record: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> None:
        super().__init__()
        self.phase, self.steps, self.verbose = phase, steps, verbose
        self.rows: list[dict[str, Any]] = []
        self.best_epoch = 0
        self.example_scores: list[np.ndarray] = []
        self._examples, self._record = examples, record
        self._why, self._before, self._selection = why, before, selection
        self.best: Score | None = start
        self._kept: list[np.ndarray] = []
        self._epoch, self._began = 0, 0.0
        self._printed = time.perf_counter()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that the optimizer trains the variables of the phase, and keep the initial weights."""
        optimizer = {id(v): v.path for v in trained_variables(self.model.optimizer)}
        flags = {id(v): v.path for v in self.model.trainable_variables}
        if set(optimizer) != set(flags):
            extra = [path for key, path in flags.items() if key not in optimizer]
            missing = [path for key, path in optimizer.items() if key not in flags]
            raise AuditError(
                f"Phase {self.phase.name!r} was compiled for other variables than are trainable now; trainable but not "
                f"compiled: {join_names(extra) or 'none'}; compiled but frozen: "
                f"{join_names(missing) or 'none'}. A callback "
                "must not change `trainable`: give the blocks as the phase's `unfreeze`."
            )
        trains = set(flags)
        # Statistics of trainable layers belong to the weights that make an epoch the best one.
        self._movable = [v for v in self.model.weights if id(v) in trains]
        self._movable += statistics_of(self.model)
        self._keep()
        self.first = {v.path: value for v, value in zip(self._movable, self._kept, strict=True)}

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._epoch, self._began = epoch, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stop at the first step whose loss is not a finite number."""
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(float(loss)):
            self._give_up(
                float(loss), self._epoch, f"step {self._epoch * self.steps + batch + 1} (epoch {self._epoch + 1})"
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the row and keep the weights if they are the best so far."""
        logs = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(logs.get("val_loss", 0.0)):
            self._give_up(logs["val_loss"], epoch, f"the end of epoch {epoch + 1}, on the validation examples")
        row: dict[str, Any] = {"phase": self.phase.name, "epoch": epoch + 1, **logs}
        row["learning_rate"] = float(self.model.optimizer.learning_rate)
        row["seconds"] = time.perf_counter() - self._began
        self.rows.append(row)
        self._record(row)
        if (each := self._examples()) is not None:
            self.example_scores.append(each)
        score = selection_score(logs, self._selection, "val_")
        if score is None or self.best is None or score > self.best:
            self.best, self.best_epoch = score, epoch + 1
            self._keep()
        if is_chief() and (self.verbose > 1 or (self.verbose and time.perf_counter() - self._printed > _QUIET)):
            print(line(row, self.phase.epochs), flush=True)
            self._printed = time.perf_counter()

    def restore_best(self) -> None:
        """Restore the weights of the best epoch, or those from before the phase if none was better."""
        for variable, value in zip(self._movable, self._kept, strict=True):
            variable.assign(value)
        for variable, value in self._before if not self.best_epoch else ():
            variable.assign(value)

    def get_state(self) -> dict[str, Any]:
        """Return the state that a resumed training needs."""
        elapsed = time.perf_counter() - self._began
        return {"rows": self.rows, "best": self.best, "best_epoch": self.best_epoch, "kept": self._kept,
                "epoch": self._epoch, "elapsed": elapsed, "example_scores": self.example_scores}  # fmt: skip

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore the state, after ``on_train_begin``."""
        self.rows, self.best, self.best_epoch = list(state["rows"]), state["best"], state["best_epoch"]
        self._kept, self._epoch = list(state["kept"]), state["epoch"]
        self._began = time.perf_counter() - state["elapsed"]
        self.example_scores = list(state.get("example_scores", ()))  # which earlier versions did not keep

    def _keep(self) -> None:
        self._kept = [keras.ops.convert_to_numpy(v).copy() for v in self._movable]

    def _give_up(self, loss: float, epoch: int, where: str) -> None:
        self.restore_best()
        back = f"of epoch {self.best_epoch}" if self.best_epoch else "from before the phase"
        raise PlanError(
            f"Phase {self.phase.name!r}: the loss became {loss} at {where}, at a learning rate of up to "
            f"{self.phase.learning_rate:g}. {self._why()} The weights {back} were restored."
        )


class EpochCount(keras.callbacks.Callback):
    """Set a variable to the number of the epoch before the epoch begins.

    Args:
        variable: Variable that datasets read at the start of a pass.
        before: Number of epochs in earlier phases.
    """

    def __init__(self, variable: tf.Variable, before: int) -> None:
        super().__init__()
        self._variable, self._before = variable, before

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Set it."""
        self._variable.assign(self._before + epoch)


class OnWhole(keras.callbacks.Callback):
    """Wrapper that gives a callback the whole model while a part of it is fitted, so that it can save or evaluate it.

    Args:
        callback: Callback of the user; stored as an attribute.
        whole: Whole model, which shares variables and optimizer with the fitted part.
    """

    def __init__(self, callback: keras.callbacks.Callback, whole: keras.Model) -> None:
        super().__init__()
        self.callback, self._whole = callback, whole
        for hook in _HOOKS:
            setattr(self, hook, functools.partial(self._call, hook))

    def set_params(self, params: dict[str, Any]) -> None:
        """Forward the calls to the other callbacks."""
        self.callback.set_params(params)

    def set_model(self, model: keras.Model) -> None:
        """Give the callback the whole model."""
        self._model = model
        self._whole.stop_training = False
        self.callback.set_model(self._whole)

    def _call(self, hook: str, *arguments: Any, **named: Any) -> None:
        getattr(self.callback, hook)(*arguments, **named)
        if self._whole.stop_training:
            self._model.stop_training = True


def build_metrics(model: keras.Model, dataset: tf.data.Dataset) -> None:
    """Build the metrics of a model that was compiled but is not fitted itself.

    Keras builds them in the first step. Callbacks ask them by name whether a monitor such as ``val_accuracy`` is better
    when it is larger.

    Args:
        model: Compiled.
        dataset: Batches with the labels that the model is trained on.
    """
    _, labels, *_ = dataset.element_spec
    some, outputs = (
        keras.tree.map_structure(lambda spec: tf.zeros([size or 1 for size in spec.shape], spec.dtype), each)
        for each in (labels, model.output)
    )
    model.compute_loss(None, some, outputs)
    model.compute_metrics(None, some, outputs)
    model.reset_metrics()


def check_callbacks(callbacks: Sequence[keras.callbacks.Callback], logged: Sequence[str] | None = None) -> None:
    """Refuse callbacks of Keras that need averages of an optimizer, or a value that is not logged.

    Args:
        callbacks: Callbacks of the user. Those of other classes may log values of their own, so then any is accepted.
        logged: Names of the loss and the metrics; None if they are not known.

    Raises:
        PlanError: With the setting that does the same, or the names that are logged.
    """
    if any(isinstance(one, keras.callbacks.SwapEMAWeights) for one in callbacks):
        raise PlanError(
            "Expected callbacks that do not exchange weights. Received: SwapEMAWeights, which needs an optimizer with "
            "use_ema=True. Set ema_decay=0.999 (of finetune or Phase): it averages the weights, evaluates the averages "
            "and keeps them."
        )
    if logged is None or not all(isinstance(one, _ONLY_READ) for one in callbacks):
        return
    names = [*logged, *(f"val_{name}" for name in logged)]
    for one in callbacks:
        monitor = getattr(one, "monitor", None)
        if monitor is not None and monitor not in names and getattr(one, "save_best_only", True):
            raise PlanError(
                f"Expected a monitor of {type(one).__name__} that training logs: {join_names(names)}. "
                f"Received: {monitor!r}.{did_you_mean(monitor, names)}"
            )


def rate_setter(callbacks: Sequence[keras.callbacks.Callback]) -> str | None:
    """Return the name of the first callback of Keras that sets the learning rate; None where none does."""
    setters = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)
    return next((type(one).__name__ for one in callbacks if isinstance(one, setters)), None)


_ONLY_READ = tuple(
    getattr(keras.callbacks, name)
    for name in (
        "BackupAndRestore", "CSVLogger", "EarlyStopping", "History", "LearningRateScheduler", "ModelCheckpoint",
        "ProgbarLogger", "ReduceLROnPlateau", "TensorBoard", "TerminateOnNaN",
    )
)  # fmt: skip
_HOOKS = [name for name in dir(keras.callbacks.Callback) if name.startswith("on_")]


def line(row: dict[str, Any], epochs: int) -> str:
    """Format a row of the history, with the learning rate and the remaining time."""
    width = len(str(epochs))
    shown = {k: v for k, v in row.items() if k not in ("phase", "epoch", "seconds", "learning_rate")}
    numbers = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
    text = f"{row['phase']} {row['epoch']:>{width}}/{epochs}  {numbers}"
    if row["learning_rate"]:
        text += f"  rate {row['learning_rate']:.2g}"
    text += f"  {row['seconds']:.1f} s"
    left = (epochs - row["epoch"]) * row["seconds"]
    return text + (f", {left:.0f} s left" if left >= 1 else "")
