"""Training that goes on after a kill: :class:`Resume` for Keras' own ``fit``.

Hides how a training is told from another one, and the order of looking for a checkpoint, comparing and going on.
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
    """Lets Keras' own ``fit`` go on after a kill at any moment, as if nothing had happened.

    Give it the other callbacks and nothing else to ``fit``, and run the same program again: weights, optimizer,
    random generators, metrics, callbacks and ``stop_training`` are put back, the steps that were done are skipped, and
    the final weights are those of a run that was never stopped, to the last bit on a CPU with
    ``tf.config.experimental.enable_op_determinism()``. It can be stopped in the middle of an epoch too; SIGTERM and
    Ctrl-C save within one step.

    That holds if the order of the examples is a function of the epoch: of datasets of tfft that were given an
    ``epoch``, and of datasets that are not shuffled. Keras' ``shuffle=True`` and ``Dataset.shuffle`` start from the
    beginning in each process. The dataset must end: one that repeats for ever would start from the beginning too.
    Skipped batches are read. A callback of yours with ``get_state()`` and ``set_state(state)`` decides itself what is
    kept; of others every attribute is kept that holds numbers, strings or arrays and has changed. With several
    replicas (``tf.distribute``) it saves at the ends of epochs only.

    Args:
        checkpoints: a folder, or :class:`CheckpointConfig`. They are removed when ``fit`` ends, unless these keep them;
            the same program then trains anew.
        callbacks: all others. Those that are passed to ``fit`` beside this one forget what they knew.
        epoch: int64 variable on the CPU that is set to the number of the epoch before each one; give it to
            :func:`tfft.data.to_dataset` too.
        verbose: print where the training goes on from.

    Raises:
        PlanError: from ``fit``, when model, optimizer, callbacks, number of batches, settings or machine are
            others than those of the checkpoints in the folder; everything that differs is listed.
        CheckpointError: from ``fit``, when the folder cannot be written or another process is using it.

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
        """Look for a checkpoint and goes on from it, or writes the first one."""
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
        """Set the variable of the epoch."""
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
        """What a plain ``fit`` tells about itself."""
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
            "CheckpointConfig under a strategy with several workers are not supported: each of them would have "
            "to go on "
            "from the same one. Train without checkpoints, or on one machine."
        )


def open_store(
    settings: CheckpointConfig, store: CheckpointStore, what: Mapping[str, Any], notes: list[str]
) -> Checkpoint | None:
    """Return the checkpoint to go on from, if there is one and it is of the same training.

    Args:
        settings: of the checkpoints.
        store: claimed.
        what: the training's identity.
        notes: gets what was passed over.
    """
    found = store.load()
    notes += store.notes
    notes += fingerprint.verify_or_record(store.folder, what, going_on=found is not None, machine=settings.machine)
    return found
