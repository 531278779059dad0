"""L2-SP: an L2 penalty towards the pretrained weights instead of zero (:func:`add_l2_sp`).

Implementation notes: the penalty is a regularizer of variables, so it applies in every model that shares them, and can
be removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import PlanError, join_names, raise_problems
from tfft.freezing.selection import Blocks, select
from tfft.freezing.weight_values import matched


@keras.saving.register_keras_serializable(package="tfft")
class L2SP(keras.regularizers.Regularizer):
    """Penalty ``strength / 2 * sum((w - anchor)**2)`` of one variable; its gradient is ``strength * (w - anchor)``.

    Use :func:`add_l2_sp` for a model. This class is a Keras regularizer like any other, for example as the
    ``kernel_regularizer`` of a layer; a ``.keras`` file then holds the anchor as text, which is large.

    Li, Grandvalet and Davoine, Explicit Inductive Bias for Transfer Learning with Convolutional Networks (2018).

    Args:
        anchor: Values to pull the variable to, in its shape.
        strength: Strength, 0 or more.
        dtype: Type of the penalty, ``"float32"`` or ``"float64"``. Defaults to that of the anchor, float32 for a list.

    Raises:
        PlanError: If the strength is negative or not a number, or the anchor is not finite.

    Example:
        >>> pull = tfft.regularizers.L2SP(kernel.numpy(), 0.01)
        >>> float(pull(kernel))
        0.0
    """

    def __init__(self, anchor: Any, strength: float, dtype: str | None = None) -> None:
        problems = _strength_problems(strength)
        # A list comes from a saved file: its Python floats are as wide as float64 and say nothing about the variable.
        own = dtype or ("float64" if getattr(anchor, "dtype", None) == np.float64 else "float32")
        values = np.asarray(anchor).astype(own)
        if not np.isfinite(values).all():
            problems.append("the anchor holds values that are NaN or infinite")
        raise_problems(PlanError, "The pull cannot be made", problems)
        self.strength = float(strength)
        with tf.init_scope():  # a tensor of its own, that graphs refer to and do not copy
            self.anchor = tf.constant(values)

    def __call__(self, x: Any) -> Any:
        """Return the penalty, a scalar."""
        distance = tf.cast(tf.convert_to_tensor(x), self.anchor.dtype) - self.anchor
        return 0.5 * self.strength * tf.reduce_sum(tf.square(distance))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            "anchor": self.anchor.numpy().tolist(),
            "strength": self.strength,
            "dtype": self.anchor.dtype.name,
        }


class _Pull(L2SP):
    """Penalty that :func:`add_l2_sp` adds to the existing regularizer of a variable."""

    def __init__(self, anchor: Any, strength: float, own: Callable[[Any], Any] | None) -> None:
        super().__init__(anchor, strength)
        self.own = own

    def __call__(self, x: Any) -> Any:
        pull = super().__call__(x)
        return pull if self.own is None else pull + tf.cast(self.own(x), pull.dtype)


class L2SPPenalty:
    """Variables with an L2-SP penalty; made by :func:`add_l2_sp`.

    Leaving its ``with`` block removes the penalty, as :func:`remove_l2_sp` does.

    Attributes:
        variables: Variables with the penalty.
        strength: Strength of the penalty.
    """

    def __init__(self, model: keras.Model, variables: Sequence[keras.Variable], strength: float) -> None:
        self._model, self.strength = model, strength
        self.variables = tuple(variables)

    def distance(self) -> float:
        """Return the Euclidean distance of all variables together from their anchors.

        Raises:
            PlanError: If the penalty was removed.
        """
        pulls = [v.regularizer for v in self.variables]
        if not all(isinstance(pull, _Pull) for pull in pulls):
            raise PlanError("The L2-SP penalty was removed, so there are no anchors to measure from.")
        squares = [
            float(np.sum((np.asarray(keras.ops.convert_to_numpy(v), "float64") - pull.anchor.numpy()) ** 2))
            for v, pull in zip(self.variables, pulls, strict=True)
        ]
        return math.sqrt(sum(squares))

    def __enter__(self) -> L2SPPenalty:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        remove_l2_sp(self._model)


def add_l2_sp(
    model: keras.Model,
    strength: float,
    *,
    blocks: Blocks = "all",
    variables: Sequence[keras.Variable] | None = None,
    start: Mapping[str, Any] | Sequence[Any] | None = None,
) -> L2SPPenalty:
    """Add an L2-SP penalty: pull the trainable backbone variables towards their current values.

    Use it instead of weight decay when fine-tuning a backbone on little data: decay would pull the weights to zero,
    away from the pretrained values. Call it after :func:`tfft.unfreeze` and before ``compile``; variables that are
    unfrozen later have no penalty. It also applies in models that share the variables
    (:func:`tfft.features.split_frozen`, :func:`tfft.training.microbatched`).

    Biases, and scales and offsets of normalization, are included: their pretrained values are as meaningful as those of
    kernels, unlike zero. Running statistics are not, since they have no gradient. The head is not, since it has no
    pretrained values: the second term of the paper, ``b / 2 * |w|^2``, is its own ``l2 = b / 2``. An existing
    regularizer of a variable stays in force.

    The penalty is part of ``loss`` and ``val_loss``, like all penalties in Keras. It exists in memory only: a model
    that is saved with it loads without it. With plain gradient descent, rate times strength must stay below 2, or the
    penalty itself makes the weights oscillate.

    Li, Grandvalet and Davoine, Explicit Inductive Bias for Transfer Learning with Convolutional Networks (2018).

    Args:
        model: Built model; its variables get regularizers. An earlier penalty is replaced.
        strength: ``a`` in ``a / 2 * |w - start|^2``; 0.01 is common.
        blocks: Blocks of the backbone, as in :func:`tfft.freezing.select`; only their trainable variables are included.
            A model without a backbone inside counts as a backbone as a whole.
        variables: Trainable variables of the model, instead of ``blocks``.
        start: Anchor values, by path or in the order of ``model.weights``. Defaults to the current values.

    Returns:
        The penalty; as a context manager, it is removed at the end of the block.

    Raises:
        PlanError: For an invalid strength, for variables that do not train or are not the model's, if there is no
            variable, or if ``start`` does not fit.
        BlockError: If ``blocks`` matches no block.

    Example:
        >>> tfft.unfreeze(model, 3)
        >>> with tfft.regularizers.add_l2_sp(model, 0.01):
        ...     model.compile("adam", **tfft.heads.from_model(model).compile_args())
        ...     model.fit(train, epochs=5)
    """
    raise_problems(PlanError, "The model cannot be anchored", _strength_problems(strength))
    chosen = _of_blocks(model, blocks) if variables is None else _checked(model, variables)
    if not chosen:
        raise PlanError(
            f"Nothing trains in the chosen blocks of {model.name!r}, so there is nothing to pull. Unfreeze first: "
            "tfft.unfreeze(model, blocks)."
        )
    given = {} if start is None else matched(model, start, "start")
    by_id = {id(model.weights[place]): value for place, value in given.items()}
    pulls = []
    for variable in chosen:
        old = variable.regularizer
        own = old.own if isinstance(old, _Pull) else old
        to = by_id.get(id(variable))
        pulls.append(_Pull(keras.ops.convert_to_numpy(variable) if to is None else to, strength, own))
    remove_l2_sp(model)  # an earlier pull may be on more variables than this one
    for variable, pull in zip(chosen, pulls, strict=True):
        variable.regularizer = pull
    _forget_traces(model)
    return L2SPPenalty(model, chosen, float(strength))


def remove_l2_sp(model: keras.Model) -> int:
    """Remove the penalty of :func:`add_l2_sp` from a model, and restore the earlier regularizers.

    Args:
        model: Model with or without the penalty.

    Returns:
        Number of variables that had the penalty.

    Example:
        >>> tfft.regularizers.remove_l2_sp(model)
        12
    """
    pulled = [v for v in model.weights if isinstance(v.regularizer, _Pull)]
    for variable in pulled:
        variable.regularizer = variable.regularizer.own
    if pulled:
        _forget_traces(model)
    return len(pulled)


def _forget_traces(model: keras.Model) -> None:
    """Keras goes on with the function that it traced, and with it the losses of that time, until the next compile."""
    model.train_function = None
    model.test_function = None


def _of_blocks(model: keras.Model, blocks: Blocks) -> list[keras.Variable]:
    found = {id(v): v for block in select(model, blocks) for layer in block.layers for v in layer.trainable_weights}
    return list(found.values())


def _checked(model: keras.Model, variables: Sequence[keras.Variable]) -> list[keras.Variable]:
    trains, known = {id(v) for v in model.trainable_weights}, {id(v) for v in model.weights}
    chosen = list({id(v): v for v in variables}.values())
    problems = []
    strange = [v.path for v in chosen if id(v) not in known]
    if strange:
        problems.append(f"these variables are not of {model.name!r}: {join_names(strange)}")
    frozen = [v.path for v in chosen if id(v) in known and id(v) not in trains]
    if frozen:
        problems.append(f"these variables do not train, so no pull would act on them: {join_names(frozen)}")
    raise_problems(PlanError, "The variables cannot be anchored", problems)
    return chosen


def _strength_problems(strength: Any) -> list[str]:
    number = isinstance(strength, (int, float)) and not isinstance(strength, bool)
    if number and math.isfinite(strength) and strength >= 0:
        return []
    return [f"strength must be a finite number of 0 or more, received {strength!r}"]
