"""Gradient accumulation over microbatches of each batch: :func:`microbatched`.

Implementation notes: parts are weighted so that their gradients add up to the gradient of the whole batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import keras
import tensorflow as tf

from tfft.backbones.base import is_opened
from tfft.errors import PlanError, join_names, raise_problems
from tfft.freezing.batch_norm import batch_norms, has_statistics
from tfft.keras_compat import flatten_layers, has_mask, is_functional, update_loss_tracker

_MEANS = ("sum_over_batch_size", "mean")
_OWN = ("train_step", "compute_loss", "compute_metrics")


def microbatched(
    model: keras.Model, microbatch_size: int, *, batch_norm: Literal["refuse", "parts"] = "refuse"
) -> keras.Model:
    """Return a model that trains the same variables on large batches, computed in microbatches.

    Use it if the batch of a recipe does not fit into memory. Each step divides its batch into microbatches of nearly
    equal size, runs them forwards and backwards one after the other, adds up their gradients, weighted by their shares
    of the examples, and then lets the optimizer make one step. Only the activations of one microbatch are in memory.
    The weights equal those of training on whole batches, up to rounding.

    ``gradient_accumulation_steps`` of a Keras optimizer is different. It accumulates batches instead of dividing them,
    with the same weight for all, so the examples of a smaller last batch count more than others. It continues across
    epochs, so a group may mix two epochs, and gradients accumulated when ``fit`` ends are lost. It counts every batch
    as a step, so schedules run too fast.

    Losses must be means over the examples, or not depend on them, as for Keras' losses, ``kernel_regularizer``,
    ``activity_regularizer`` and the regularizers of a ``SavedModel``. A ``layer.add_loss`` that sums over the examples
    is weighted too, and so becomes smaller than on the whole batch. Dropout draws new numbers for each microbatch.
    Gradients of embeddings are added up as dense arrays.

    Args:
        model: Functional or sequential model with Keras' own training step. It need not be compiled, and is not
            changed.
        microbatch_size: Maximum number of examples per microbatch.
        batch_norm: Behaviour if BatchNormalization trains with batch statistics. ``"refuse"``: raise an error, because
            the statistics of microbatches would change the result. ``"parts"``: use them; the running statistics are
            updated once per microbatch.

    Returns:
        A model that shares all layers with ``model`` and is not compiled. Compile and fit it on batches of the full
        size; evaluate, predict and continue with ``model``. Its ``save`` saves ``model``.

    Raises:
        PlanError: If the model is not functional or has its own training step, or ``microbatch_size`` is not a positive
            int; from ``fit``, if a loss is not a mean over the examples, or for ``batch_norm="refuse"``.

    Example:
        >>> parts = tfft.training.microbatched(model, 16)
        >>> parts.compile("adam", **tfft.heads.from_model(model).compile_args())
        >>> parts.fit(images.batch(256), epochs=5)
        >>> tfft.training.train(model, train, validation, phases, microbatch_size=16)  # the same in phases
    """
    problems = []
    if isinstance(microbatch_size, bool) or not isinstance(microbatch_size, int) or microbatch_size < 1:
        problems.append(f"microbatch_size must be an int of at least 1, received {microbatch_size!r}")
    if batch_norm not in ("refuse", "parts"):
        problems.append(f"batch_norm must be 'refuse' or 'parts', received {batch_norm!r}")
    raise_problems(PlanError, "The microbatch settings cannot be used", problems)
    check_plain(model, "trained in microbatches")
    return _InParts(model, microbatch_size, batch_norm)


def check_plain(model: keras.Model, purpose: str) -> None:
    """Raise :class:`PlanError` for a model that is not functional, or has its own training step."""
    if not is_functional(model):
        raise PlanError(
            f"{getattr(model, 'name', model)!r} cannot be {purpose}: it has no Keras graph (a subclass of "
            "keras.Model, or not built). Wrap it: keras.Model(inputs, model(inputs)), or build it."
        )
    own = [name for name in _OWN if getattr(type(model), name) is not getattr(keras.Model, name)]
    if own:
        raise PlanError(
            f"{model.name!r} cannot be {purpose}: its class {type(model).__name__} has its own "
            f"{join_names(own)}, which "
            "would not be used. Pass a model with Keras' own training step: keras.Model(model.inputs, model.outputs)."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Settings:
    """Settings of a microbatched model; a plain object, so that Keras does not track the whole model as a layer."""

    whole: keras.Model
    microbatch_size: int
    batch_norm: str


class _InParts(keras.Model):
    """Graph of another model, with a training step over microbatches."""

    def __init__(self, whole: keras.Model, microbatch_size: int, batch_norm: str) -> None:
        super().__init__(inputs=whole.input, outputs=whole.output, name=whole.name)
        self.dtype_policy = whole.dtype_policy  # compile looks here whether the loss must be scaled
        self._settings = _Settings(whole, microbatch_size, batch_norm)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the original model, which has the same variables."""
        self._settings.whole.save(*args, **kwargs)

    def make_train_function(self, force: bool = False) -> Callable[..., Any]:
        """Check, once all settings are final, that microbatches are equivalent to the whole batch."""
        _check_losses(self)
        if self._settings.batch_norm == "refuse":
            _check_statistics(self)
        return super().make_train_function(force)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Make one optimizer step from the gradients of all microbatches."""
        variables = self.trainable_weights
        if not variables:
            raise PlanError(f"Nothing in {self.name!r} trains, so there is nothing to fit. Unfreeze a layer first.")
        gradients = _Gradients(self, variables, data)
        self.optimizer.apply_gradients(
            zip(gradients.of_the_batch(self._settings.microbatch_size), variables, strict=True)
        )
        return self.get_metrics_result()


class _Gradients:
    """Gradient of a batch as the sum over its microbatches."""

    def __init__(self, model: _InParts, variables: list[keras.Variable], data: Any) -> None:
        self._model, self._variables, self._data = model, variables, data
        self._total = tf.shape(next(t for t in keras.tree.flatten(data) if t is not None))[0]
        self._reached: list[bool] = [False] * len(variables)

    def of_the_batch(self, size: int) -> list[tf.Tensor | None]:
        """Return the gradients, None if the loss does not depend on a variable."""
        # Summed in float32 also where variables are kept in half precision.
        sums = [tf.zeros(v.shape, tf.float32 if _is_half(v.dtype) else v.dtype) for v in self._variables]
        sums = self._in_fixed_sizes(size, sums) if self._model.jit_compile else self._in_equal_sizes(size, sums)
        return [
            tf.cast(total, v.dtype) if reached else None
            for total, v, reached in zip(sums, self._variables, self._reached, strict=True)
        ]

    def _in_equal_sizes(self, size: int, sums: list[tf.Tensor]) -> list[tf.Tensor]:
        """Sum over parts of equal size, since a single left-over example is a poor sample for statistics."""
        count = (self._total + size - 1) // size

        def body(i: tf.Tensor, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            return i + 1, self._added(sums, tf.range(i * self._total // count, (i + 1) * self._total // count))

        return _loop(count, body, sums)

    def _in_fixed_sizes(self, size: int, sums: list[tf.Tensor]) -> list[tf.Tensor]:
        """Sum over parts of fixed size, since XLA compiles a loop for one shape: full parts, then the rest."""
        count, rest = self._total // size, self._total % size

        def body(i: tf.Tensor, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            return i + 1, self._added(sums, i * size + tf.range(size))

        sums = _loop(count, body, sums)
        left = tf.range(self._total)[count * size :]
        return tf.cond(rest > 0, lambda: self._added(sums, left), lambda: sums)

    def _added(self, sums: list[tf.Tensor], rows: tf.Tensor) -> list[tf.Tensor]:
        """Add the gradients of one part, and update the metrics with it."""
        model = self._model
        data = keras.tree.map_structure(lambda t: None if t is None else tf.gather(t, rows), self._data)
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            predicted = model(x, training=True)
            _check_masks(model, predicted)
            loss = model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=weights, training=True)
            share = tf.cast(tf.size(rows), loss.dtype) / tf.cast(self._total, loss.dtype)
            scaled = model.optimizer.scale_loss(loss * share)  # in this order half precision sees whole-batch numbers
        update_loss_tracker(model, loss, tf.size(rows))
        model.compute_metrics(x, y, predicted, sample_weight=weights)
        found = tape.gradient(scaled, self._variables)
        self._reached = [g is not None for g in found]
        return [
            total if g is None else total + tf.cast(tf.convert_to_tensor(g), total.dtype)
            for total, g in zip(sums, found, strict=True)
        ]


def _loop(
    count: tf.Tensor,
    body: Callable[[tf.Tensor, list[tf.Tensor]], tuple[tf.Tensor, list[tf.Tensor]]],
    sums: list[tf.Tensor],
) -> list[tf.Tensor]:
    # One iteration at a time: TensorFlow would start ten, and hold the activations of ten parts.
    return tf.while_loop(lambda i, _: i < count, body, (tf.constant(0), sums), parallel_iterations=1)[1]


def _is_half(dtype: str) -> bool:
    return dtype in ("float16", "bfloat16")


def _check_losses(model: keras.Model) -> None:
    problems = []
    for loss in keras.tree.flatten(model.loss):
        reduction = getattr(loss, "reduction", _MEANS[0])
        if reduction not in _MEANS:
            problems.append(f"{loss.name!r} has reduction={reduction!r}, expected a mean: 'sum_over_batch_size'")
        if getattr(loss, "ignore_class", None) is not None:
            problems.append(
                f"{loss.name!r} has ignore_class={loss.ignore_class!r}, so it is a mean over labels whose number "
                "differs "
                "between microbatches; give those examples the sample_weight 0"
            )
    raise_problems(PlanError, "The loss of a batch cannot be computed from microbatches", problems)


def _check_statistics(model: keras.Model) -> None:
    names = [norm.name for norm in batch_norms(model) if norm.trainable]
    names += [
        layer.name
        for layer in flatten_layers(model)
        if is_opened(layer) and layer.batch_norm == "train" and layer.runs_training_graph and has_statistics(layer)
    ]
    if names:
        raise PlanError(
            f"{len(names)} layers with BatchNormalization train: {join_names(names, limit=5)}. They would "
            "see the statistics of a microbatch, so the result would differ from that of the whole batch. Keep them "
            "fixed: tfft.unfreeze(model, blocks, batch_norm='fixed') (for an opened SavedModel: "
            "load_backbone(..., "
            "batch_norm='fixed')). If statistics of microbatches are acceptable, or the layers are called with "
            "training=False: microbatched(..., batch_norm='parts')."
        )


def _check_masks(model: keras.Model, predicted: Any) -> None:
    if any(has_mask(t) for t in keras.tree.flatten(predicted)):
        raise PlanError(
            f"The output of {model.name!r} carries a mask, so its loss is a mean over the positions that are not "
            "masked, whose number differs between microbatches. Train it on whole batches, or mask with sample_weight."
        )
