"""Resuming of Keras' own ``fit`` after a kill: :class:`Resume`.

Implementation notes: a fingerprint identifies the training; a checkpoint is found, compared, then restored.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfft.errors import PlanError
from tfft.training.checkpoint import fingerprint
from tfft.training.checkpoint.callback import CheckpointCallback, CheckpointConfig
from tfft.training.checkpoint.state import collect, restore
from tfft.training.checkpoint.store import Checkpoint, CheckpointStore
from tfft.training.distribute import has_workers


class Resume(CheckpointCallback):
    """Callback that resumes Keras' own ``fit`` after a kill at any moment, with the same result.

    Pass it the other callbacks and pass nothing else to ``fit``, then run the same program again: weights, optimizer,
    random generators, metrics, callbacks and ``stop_training`` are restored, finished steps are skipped, and the final
    weights are those of an uninterrupted run, bit for bit on a CPU with
    ``tf.config.experimental.enable_op_determinism()``. Training can also be interrupted in the middle of an epoch;
    SIGTERM and Ctrl-C save within one step.

    This requires an order of the examples that is a function of the epoch, as in datasets of tfft with an ``epoch`` and
    in datasets that are not shuffled. Keras' ``shuffle=True`` and ``Dataset.shuffle`` start from the beginning in each
    process. The dataset must be finite: an endless one would start from the beginning too. Skipped batches are read. A
    callback with ``get_state()`` and ``set_state(state)`` defines its own state; for others, every attribute is saved
    that holds numbers, strings or arrays and has changed. With several replicas (``tf.distribute``), it saves at the
    ends of epochs only.

    Args:
        checkpoints: A folder, or :class:`CheckpointConfig`. They are removed when ``fit`` ends, unless the config keeps
            them; the same program then starts a new training.
        callbacks: All other callbacks. Those passed to ``fit`` separately lose their state.
        epoch: int64 variable on the CPU that is set to the epoch number before each epoch; pass it to
            :func:`tfft.data.to_dataset` too.
        verbose: Print the position from which training resumes.

    Raises:
        PlanError: From ``fit``, if model, optimizer, callbacks, number of batches, settings or machine differ from
            those of the checkpoints in the folder; the message lists all differences.
        CheckpointError: From ``fit``, if the folder is not writable or another process uses it.

    Example:
        >>> epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        >>> train = tfft.data.to_dataset(examples, spec, shuffle=True, epoch=epoch)
        >>> resume = tfft.training.Resume("run/checkpoints", [keras.callbacks.EarlyStopping()], epoch=epoch)
        >>> model.fit(train, validation_data=held_out, epochs=20, callbacks=[resume])
    """

    def __init__(
        self,
        checkpoints: str | os.PathLike[str] | CheckpointConfig,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        *,
        epoch: tf.Variable | None = None,
        verbose: bool = True,
    ) -> None:
        settings = checkpoints if isinstance(checkpoints, CheckpointConfig) else CheckpointConfig(checkpoints)
        super().__init__(settings, settings.store, callbacks, verbose=verbose)
        self._variable = epoch

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find a checkpoint and resume from it, or write the first one."""
        refuse_workers(self._model)
        self._store.claim()
        found = open_store(self._settings, self._store, self._identity(), self.notes)
        if found is None:
            self._store.save(*collect(self._model, everything=True), base=True)
        else:
            base = found.base or found
            restore(self._model, base.arrays, base.state)
        self._found = None if found is None or found.is_base else found
        super().on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Set the epoch variable."""
        if self._variable is not None:
            self._variable.assign(epoch)
        super().on_epoch_begin(epoch, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Remove the checkpoints."""
        super().on_train_end(logs)
        if self._settings.remove:
            self._settings.clear()
        else:
            self._store.release()

    def _identity(self) -> dict[str, Any]:
        """Return the identity of a plain ``fit``."""
        model = self._model
        shapes = [[list(v.shape), str(v.dtype), bool(v.trainable)] for v in model.weights]
        try:
            settings = {k: v for k, v in model.optimizer.get_config().items() if k != "name"}  # Keras counts names
        except NotImplementedError:  # a schedule that cannot describe itself
            settings = {}
        return {
            "settings": dict(self._settings.identity),
            "weights": hashlib.sha256(repr(shapes).encode()).hexdigest(),
            "optimizer": {"class": type(model.optimizer).__name__, **settings},
            "batches": self.params.get("steps"),
        }


def refuse_workers(model: keras.Model) -> None:
    """Raise :class:`PlanError` under a strategy with several processes."""
    if has_workers(model):
        raise PlanError(
            "Checkpoints are not supported under a strategy with several workers: each would have to resume from the "
            "same one. Train without checkpoints, or on one machine."
        )


def open_store(
    settings: CheckpointConfig, store: CheckpointStore, what: Mapping[str, Any], notes: list[str]
) -> Checkpoint | None:
    """Return the checkpoint to resume from, if there is one of the same training.

    Args:
        settings: Settings of the checkpoints.
        store: Claimed checkpoint store.
        what: Identity of the training.
        notes: List to which skipped checkpoints are added.
    """
    found = store.load()
    notes += store.notes
    notes += fingerprint.verify_or_record(store.folder, what, going_on=found is not None, machine=settings.machine)
    return found
