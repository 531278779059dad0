"""Callbacks for weight averaging in training: :class:`ExponentialMovingAverage`, :class:`StochasticWeightAveraging`.

Implementation notes: validation, callbacks at the end of an epoch, and the finished model use the average; every
training step starts from the weights of the step before it, bit by bit.

Keras' own pair, ``use_ema`` of an optimizer and ``SwapEMAWeights``, was not enough: it swaps by adding and
subtracting, which changes the weights that train by rounding; with ``swap_on_epoch`` a training that ends early
ends with the wrong weights; and it leaves BatchNorm statistics out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import PlanError, join_names, raise_problems
from tfft.freezing.batch_norm import recompute, training_norms
from tfft.freezing.weight_values import movable, put
from tfft.settings import is_number

State = dict[str, np.ndarray | float | int]


class _Average(keras.callbacks.Callback):
    """Hold an average, and swap it with the training weights of the model.

    The average is in the model from the start of validation, or from the end of an epoch, until the next batch
    is trained.
    """

    def __init__(self, refresh: tf.data.Dataset | None) -> None:
        super().__init__()
        self.updates = 0
        self._refresh = refresh
        self._variables: list[keras.Variable] = []
        self._average: _Flat | None = None
        self._raw: list[tf.Tensor] | None = None  # what trains, while the average is in the model
        self._given: State | None = None
        self._fitting = False

    # ------------------------------------------------------------------ as a callback

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start from the current weights, or from the state that was set."""
        if self.model.steps_per_execution != 1:
            raise PlanError(
                f"The model was compiled with steps_per_execution={self.model.steps_per_execution}, so that callbacks "
                "do not see each step, which the average needs. Compile it with steps_per_execution=1."
            )
        self._variables = movable(self.model)
        self._raw, self.updates, self._fitting = None, 0, True
        self._average = _Flat(self._variables)
        self._take_given()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Give the model the weights that train."""
        self._epoch = epoch
        self._hide()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Give the model the weights that train."""
        self._hide()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Give the model the average, inside of ``fit``."""
        if self._fitting:
            self._take_given()
            self._settle_epoch()
            self._show()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Give the model the average, for all callbacks behind this one."""
        self._take_given()
        self._settle_epoch()
        self._show()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave the average in the model."""
        self._take_given()
        self._show()
        self._raw, self._fitting = None, False

    # ------------------------------------------------------------------ to resume

    def get_state(self) -> State:
        """Return all that is needed to resume: plain values and arrays, of the weights that train too.

        Call it between two batches or at the end of an epoch, together with the state of the optimizer.
        """
        if not self._variables:
            return dict(self._given or {"updates": self.updates})
        raw = self._read() if self._raw is None else self._raw
        state: State = {"updates": self.updates}
        for kind, values in (("average", self._flat.parts()), ("raw", raw)):
            state |= {f"{kind}/{i:05d}": np.array(value) for i, value in enumerate(values)}
        return state

    def set_state(self, state: Mapping[str, np.ndarray | float | int]) -> None:
        """Go on from a state in the next ``fit``, which starts by giving the model the weights that trained.

        Inside of ``fit``, after ``on_train_begin``, it does so before the next step.

        Args:
            state: What :meth:`get_state` gave, for a model of the same trainable variables in the same order.

        Raises:
            PlanError: From ``fit``, when it is the state of another model.
        """
        self._given = dict(state)

    def _take_given(self) -> None:
        if self._given is not None:
            state, self._given, self._raw = self._given, None, None
            self._take_state(state)

    def _take_state(self, state: State) -> None:
        self.updates = int(state.get("updates", 0))
        if not any(key.startswith("average/") for key in state):  # taken before anything was trained
            return
        keys = [f"{i:05d}" for i in range(len(self._variables))]
        held = sum(key.startswith("average/") for key in state)
        problems = [] if held == len(keys) else [f"it holds {held} variables, here {len(keys)} may move"]
        for key, variable in zip(keys, self._variables, strict=True):
            shape = np.shape(state.get(f"average/{key}", 0))
            if held == len(keys) and shape != tuple(variable.shape):
                problems.append(f"{variable.path!r} has the shape {tuple(variable.shape)}, the state holds {shape}")
        raise_problems(PlanError, "The state of the average is that of another model", problems)
        put(self._variables, [state[f"raw/{key}"] for key in keys])
        self._flat.set([np.asarray(state[f"average/{key}"]) for key in keys])

    # ------------------------------------------------------------------ the average

    @property
    def _flat(self) -> _Flat:
        if self._average is None:
            raise RuntimeError("There is no average before the training begins.")
        return self._average

    def _read(self) -> list[tf.Tensor]:
        return [tf.convert_to_tensor(v) for v in self._variables]

    def _add(self, share: float) -> None:
        """Move the average towards the weights by a share of the way."""
        self._flat.move(share)

    def _settle_epoch(self) -> None:
        """Take in the end of an epoch, once."""

    def _show(self) -> None:
        if self._raw is not None or not self.updates:
            return
        self._raw = self._read()
        put(self._variables, [tf.cast(a, v.dtype) for a, v in zip(self._flat.parts(), self._variables, strict=True)])
        if self._refresh is not None:
            recompute(self.model, self._refresh, *training_norms(self.model))

    def _hide(self) -> None:
        self._take_given()
        if self._raw is not None:
            put(self._variables, self._raw)
            self._raw = None


class ExponentialMovingAverage(_Average):
    """Exponential moving average of the weights over the steps; the model ends with the average.

    Use it as a callback of ``fit`` where validation jumps from epoch to epoch. After each step the average
    becomes ``d * average + (1 - d) * weights``; it starts at the weights before the first step. Validation is
    measured on the average, and callbacks see it at the end of each epoch: put this one first, so that those
    behind it do so without validation too. Training continues from the raw weights, as if nothing were averaged.

    BatchNorm statistics that train are averaged like the weights; ``refresh`` recomputes them for the average
    instead. A model whose statistics are fixed keeps them.

    Polyak and Juditsky (1992); the growing decay as in TensorFlow's ``ExponentialMovingAverage``.

    Args:
        decay: ``d``, from 0 (no average) to below 1; 0.99 looks back about 100 steps, 0.999 about 1000.
        ramp: True uses ``min(decay, (1 + n) / (10 + n))`` in step ``n``, counted from 1, so that the average of a
            short training is not mostly where it started.
        refresh: Training examples in batches for :func:`tfft.freezing.refresh_batch_norm`, a pass over them for each
            validation; None averages the statistics.

    Attributes:
        updates: Number of steps so far.

    Raises:
        PlanError: For a decay out of range.

    Example:
        >>> average = tfft.weight_averaging.ExponentialMovingAverage(0.99)
        >>> model.fit(train, validation_data=validation, epochs=10, callbacks=[average, checkpoint])
    """

    def __init__(self, decay: float = 0.999, *, ramp: bool = True, refresh: tf.data.Dataset | None = None) -> None:
        if not is_number(decay) or not 0 <= decay < 1:
            raise PlanError(f"decay must be a number from 0 to below 1, received {decay!r}.")
        super().__init__(refresh)
        self.decay, self.ramp = float(decay), bool(ramp)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Update the average."""
        self.updates += 1
        n = self.updates
        self._add(1.0 - (min(self.decay, (1 + n) / (10 + n)) if self.ramp else self.decay))


class StochasticWeightAveraging(_Average):
    """Mean of the weights over the last part of a training (SWA); the model ends with it.

    Use it as a callback of ``fit`` with a rate that does not fall to nearly 0 in that part, so that the weights
    move about in the valley that they have found. Before that part nothing changes. In it validation and callbacks
    see the average, as with :class:`ExponentialMovingAverage`: put this one first.

    Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization (2018).

    Args:
        share: Last part of the training that is averaged, above 0 and at most 1; at least one epoch or step.
        every: ``"epoch"`` takes the weights at the end of each epoch, ``"step"`` after each step, which is better
            for few epochs and needs a dataset whose length is known.
        refresh: Training examples in batches: BatchNorm statistics that train are recomputed on them, by
            :func:`tfft.freezing.refresh_batch_norm`, each time the average is put into the model. None averages them
            like the weights, which is less accurate: statistics of averaged weights are not averages of statistics.

    Attributes:
        updates: Number of weights in the average so far; a training that was stopped before the last part has 0, and
            its model is left as it is.

    Raises:
        PlanError: Listing all settings that are out of range; from ``fit``, when the number of steps is not known.

    Example:
        >>> model.fit(train, epochs=20, callbacks=[tfft.weight_averaging.StochasticWeightAveraging(0.25)])
        >>> tfft.freezing.refresh_batch_norm(model, train)
    """

    def __init__(
        self,
        share: float = 0.25,
        *,
        every: Literal["epoch", "step"] = "epoch",
        refresh: tf.data.Dataset | None = None,
    ) -> None:
        problems = []
        if not is_number(share) or not 0 < share <= 1:
            problems.append(f"share must be a number above 0 and at most 1, received {share!r}")
        if every not in ("epoch", "step"):
            problems.append(f"every must be one of {join_names(('epoch', 'step'))}, received {every!r}")
        raise_problems(PlanError, "The average cannot be made", problems)
        super().__init__(refresh)
        self.share, self.every = float(share), every
        self._last_taken = -1

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find where the last part begins."""
        self._last_taken = -1
        total = self.params["epochs"]
        if self.every == "step":
            if self.params.get("steps") is None:
                raise PlanError(
                    "every='step' needs to know where the last part of the training begins, but the dataset does not "
                    "say how long it is. Use every='epoch', or give fit steps_per_epoch."
                )
            total *= self.params["steps"]
        self._first = total - max(1, math.floor(self.share * total + 0.5))
        super().on_train_begin(logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Update the average, if it is over steps."""
        if self.every == "step":
            self._take(self._epoch * self.params["steps"] + batch)

    def _settle_epoch(self) -> None:
        if self.every == "epoch":
            self._take(self._epoch)

    def _take(self, index: int) -> None:
        if index >= self._first and index > self._last_taken:
            self._last_taken = index
            self.updates += 1
            self._add(1.0 / self.updates)


class _Flat:
    """An average of variables as one long row of numbers: a step is one pass over memory, not a call for each variable.

    Averages of half precision are kept in float32, as small steps would be lost.
    """

    def __init__(self, variables: Sequence[keras.Variable]) -> None:
        self._variables = list(variables)
        doubles = any(tf.as_dtype(v.dtype) == tf.float64 for v in variables)
        self._dtype = tf.float64 if doubles else tf.float32
        self._move = tf.function(self._moved, autograph=False)
        self._row = self._now()

    def parts(self) -> list[tf.Tensor]:
        """Return the average of each variable."""
        sizes = [math.prod(v.shape) for v in self._variables]
        parts = tf.split(self._row, sizes) if sizes else []
        return [tf.reshape(part, v.shape) for part, v in zip(parts, self._variables, strict=True)]

    def set(self, parts: Sequence[np.ndarray]) -> None:
        """Set the average of each variable."""
        self._row = tf.concat([tf.reshape(tf.cast(part, self._dtype), [-1]) for part in parts], axis=0)

    def move(self, share: float) -> None:
        """Move it towards the variables by a share of the way; 1 copies them bit by bit."""
        self._row = self._now() if share == 1.0 else self._move(self._row, tf.constant(share, self._dtype))

    def _now(self) -> tf.Tensor:
        values = [tf.reshape(tf.cast(tf.convert_to_tensor(v), self._dtype), [-1]) for v in self._variables]
        return tf.concat(values, axis=0) if values else tf.zeros([0], self._dtype)

    def _moved(self, row: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        return row + share * (self._now() - row)
