"""Separate learning rate per variable, with any Keras optimizer: :class:`LayerwiseOptimizer`.

Implementation notes: both the rate and the step can differ between variables.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import keras_compat
from tfft.errors import PlanError, did_you_mean, join_names, raise_problems

LINEAR = (
    "SGD", "Adam", "AdamW", "RMSprop", "Nadam", "Adamax", "Adagrad", "Adadelta", "Lion", "Lamb", "Muon",
    "ScheduleFreeAdamW",
)  # fmt: skip
CORRECTED = ("Adam", "Adamax", "Lamb")  # for slots that start at 0, by nothing but the number of steps
AGEING = (*CORRECTED, "SGD", "RMSprop", "Adagrad", "Adadelta", "Lion")  # the others need no correction
_NOT_LINEAR = {
    "Ftrl": "it makes each weight anew from the sum of all gradients, so a smaller rate pulls pretrained weights "
    "towards 0 instead of keeping them",
    "Adafactor": "it bounds its rate by the number of steps, so a step is not proportional to the rate",
    "MultiOptimizer": "it holds optimizers of its own; scale those",
    "LossScaleOptimizer": "loss scaling goes around this: LossScaleOptimizer(LayerwiseOptimizer(...)), as compile does",
    "LayerwiseOptimizer": "it has factors already; multiply them",
}
_SETTINGS = (
    "weight_decay", "clipnorm", "global_clipnorm", "clipvalue", "use_ema", "ema_momentum", "ema_overwrite_frequency",
    "loss_scale_factor", "gradient_accumulation_steps",
)  # fmt: skip


# Saved models name the class as it was called at first.
@keras.saving.register_keras_serializable(package="tfft", name="ScaledOptimizer")
class LayerwiseOptimizer(keras.optimizers.Optimizer):
    """Wrap a Keras optimizer so that each variable has its own learning rate: the optimizer's times a factor.

    Use it to train lower blocks slower than the head (:func:`layerwise_lr_multipliers` makes the factors). It is the
    update that is scaled, with its weight decay, not the gradient: Adam and its relatives divide by the size
    of the gradient and would not notice. A factor of 0 freezes a variable bit by bit: it has no part in the norm
    of the gradients either. Norms are clipped over all other variables, before their updates are scaled.

    Everything else is the given optimizer's: rate, schedule, step, clipping, moving average and collected
    gradients. ``variables`` are its variables and one more, the ages.

    The age of a variable is the number of steps it had been trained before the first step of this optimizer, by
    another one whose slots it took over (see :func:`transfer_slots`). Adam's correction for slots that started
    at 0 then counts the steps of each variable, so that its step ``t`` is the step ``age + t`` of training
    without a break, and the first step of a new variable is the full ``rate * sign(gradient)``.

    Args:
        optimizer: Unbuilt Keras optimizer, which then belongs to this one. Its step must be proportional to the rate:
            see :data:`LINEAR`. Put loss scaling around this optimizer, as ``compile`` does.
        factors: Factors by path of the variable (``variable.path``), each at least 0; 1 for others.
        ages: Steps by path of the variable; 0 for others.
        name: Name of this optimizer.

    Raises:
        PlanError: If the optimizer cannot be scaled or a number is out of range; from ``build``, when a path
            is not a trainable variable of the model, or all factors are 0.

    Example:
        >>> factors = tfft.optimizers.layerwise_lr_multipliers(model, layer_decay=0.8)
        >>> model.compile(tfft.optimizers.LayerwiseOptimizer(keras.optimizers.Adam(1e-3), factors), loss="mse")
    """

    built: bool

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        factors: Mapping[str, float],
        ages: Mapping[str, int] | None = None,
        name: str | None = None,
    ) -> None:
        _check(optimizer, factors, ages or {})
        super().__init__(learning_rate=0.0, name=name)
        self.optimizer = optimizer
        self.factors = {path: float(factor) for path, factor in factors.items()}
        self._first_ages = {path: int(age) for path, age in (ages or {}).items()}
        self._corrected = is_one_of(optimizer, CORRECTED)
        self._iterations = keras_compat.step_counter(optimizer)  # there is one count of steps
        self._from_config = False
        self._spared: list[str] | None = None
        # Keras calls these two for each step. A subclass made on the fly could not be saved.
        given = vars(optimizer).get("update_step")  # of fuse_updates
        self._step = functools.partial(type(optimizer).update_step, optimizer) if given is None else given
        optimizer.update_step = self._update
        keras_compat.replace_weight_decay(optimizer, self._decay)

    # ------------------------------------------------------------------ what is the inner optimizer's

    @property
    def learning_rate(self) -> Any:
        """The rate to which the factors apply; it can be set unless it is a schedule."""
        return self.optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.optimizer.learning_rate = value

    @property
    def iterations(self) -> Any:
        """The number of steps so far."""
        return self.optimizer.iterations

    @property
    def variables(self) -> list[keras.Variable]:
        """Those of the optimizer inside, and the ages."""
        return [*self.optimizer.variables, *([self._ages] if self.built else [])]

    @property
    def ages(self) -> keras.Variable:
        """Step that each trainable variable had been trained before; needs ``build``."""
        return self._ages

    def around(self, optimizer: keras.optimizers.Optimizer) -> LayerwiseOptimizer:
        """Return one with the same factors and name, and the same variables without weight decay.

        Args:
            optimizer: Optimizer to scale, not built yet.
        """
        made = type(self)(optimizer, self.factors, name=self.name)
        made._from_config, made._spared = True, self._spared
        return made

    def scale_loss(self, loss: Any) -> Any:
        """Return the loss whose gradients the optimizer inside expects."""
        return self.optimizer.scale_loss(loss)

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Spare variables from weight decay; call it before the optimizer is built. Kept in ``.keras`` files."""
        self.optimizer.exclude_from_weight_decay(var_list, var_names)

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Assign the moving average to the variables, if there is one."""
        self.optimizer.finalize_variable_values([v for v in var_list if self._factor(v)])

    @property
    def _model_variables_moving_average(self) -> list[keras.Variable]:
        """What ``keras.callbacks.SwapEMAWeights`` swaps with the variables, in their order."""
        if not self.built or not self.use_ema:
            raise AttributeError("_model_variables_moving_average")
        return [
            keras_compat.moving_average(self.optimizer, v) if kept is None else kept
            for v, kept in zip(self._trainable_variables, self._frozen_averages, strict=True)
        ]

    # --------------------------------------------------------------------------------------- the work

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Make the slots of all variables that move, and the ages.

        Args:
            variables: The trainable variables of the model.
        """
        if self.built:
            return
        variables = list(variables)
        if not self._from_config:
            self._check_paths(variables)
        live = [v for v in variables if self.factors.get(v.path, 1.0)]
        if not live:
            raise PlanError("All factors are 0, so nothing would be trained.")
        if self._spared is not None:
            self.optimizer.exclude_from_weight_decay([v for v in live if v.path in self._spared])
        self.optimizer.build(live)  # tracked: Nadam needs it for a variable of its own
        self._keep(variables)
        self._spared = [v.path for v in live if not keras_compat.uses_weight_decay(self.optimizer, v.value)]
        self.built = True

    @keras_compat.no_automatic_dependency_tracking
    def _keep(self, variables: list[keras.Variable]) -> None:
        self._ages = keras.Variable(
            np.array([self._first_ages.get(v.path, 0) for v in variables], "int64"),
            dtype="int64",
            trainable=False,
            aggregation="only_first_replica",
            name="ages",
        )
        self._trainable_variables_indices = {self._var_key(v): i for i, v in enumerate(variables)}
        self._by_index = [self.factors.get(v.path, 1.0) for v in variables]
        self._trainable_variables = variables
        self._frozen_averages = [
            None if self._factor(v) or not self.use_ema else keras.Variable(v, trainable=False) for v in variables
        ]

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """Make one step.

        Args:
            grads: One for each variable.
            trainable_variables: As given to ``build``; needed where it has not been called.
        """
        if trainable_variables is None and not self.built:
            raise ValueError("The optimizer has not been built yet: call build(variables), or give the variables.")
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        self.build(variables)
        self._check_variables_are_known(variables)
        moving = [(g, v) for g, v in zip(grads, variables, strict=True) if self._factor(v)]
        if moving:
            self.optimizer.apply(*zip(*moving, strict=True))

    def _factor(self, variable: Any) -> float:
        return self._by_index[self._get_variable_index(variable)]

    def _update(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Replace ``update_step`` of the inner optimizer."""
        inner, factor = self.optimizer, self._factor(variable)
        rate = learning_rate if factor == 1.0 else keras.ops.multiply(learning_rate, factor)
        if not self._corrected:
            self._step(gradient, variable, rate)
            return
        age = self._ages[self._get_variable_index(variable)]
        with keras_compat.steps_ahead(inner, age * (inner.gradient_accumulation_steps or 1)):
            self._step(gradient, variable, rate)

    def _decay(self, variables: Sequence[keras.Variable]) -> None:
        """Replace ``_apply_weight_decay`` of the inner optimizer."""
        inner = self.optimizer
        shares = []
        for v in variables:
            strength = keras_compat.weight_decay(inner, v)
            if strength is not None and keras_compat.uses_weight_decay(inner, v.value):
                shares.append((v.value, strength, self._factor(v)))

        def one(variable: tf.Variable, strength: float, factor: float) -> None:
            rate = tf.cast(inner.learning_rate, variable.dtype)
            rate = rate if factor == 1.0 else rate * factor
            variable.assign_sub(variable * tf.cast(strength, variable.dtype) * rate)

        def every(strategy: tf.distribute.Strategy) -> None:
            for variable, strength, factor in shares:
                strategy.extended.update(variable, one, args=(strength, factor), group=False)

        keras_compat.update_replicas(inner, every)

    # ------------------------------------------------------------------------------------------ saving

    def save_own_variables(self, store: Any) -> None:
        """Write the ages; Keras writes the optimizer inside as a part of this one."""
        if self.built:
            store["ages"] = self._ages.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Read the ages."""
        if self.built and "ages" in store:
            self._ages.assign(store["ages"])

    def get_config(self) -> dict[str, Any]:
        """Return plain values. Ages are state, as slots are: they are not in it."""
        return {
            "name": self.name,
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "factors": dict(self.factors),
            "spared": None if self._spared is None else list(self._spared),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> LayerwiseOptimizer:
        """Build an optimizer from its config; factors of variables that no longer train have no effect."""
        config = dict(config)
        inner = keras.saving.deserialize_keras_object(config.pop("optimizer"), custom_objects)
        spared = config.pop("spared", None)
        made = cls(inner, **config)
        made._from_config, made._spared = True, spared
        return made

    def _check_paths(self, variables: Sequence[keras.Variable]) -> None:
        paths = [v.path for v in variables]
        known = set(paths)
        problems = [
            f"{path!r} is not a trainable variable.{did_you_mean(path, known)}"
            for path in {**self.factors, **self._first_ages}
            if path not in known
        ]
        if problems:
            problems[-1] += f" Trainable: {join_names(paths)}."
        raise_problems(PlanError, "A factor or an age is for nothing", problems)


def _delegated(name: str) -> property:
    def get(self: LayerwiseOptimizer) -> Any:
        return getattr(self.optimizer, name)

    def put(self: LayerwiseOptimizer, value: Any) -> None:
        if "optimizer" in vars(self):  # Keras' own constructor comes before and means itself
            setattr(self.optimizer, name, value)

    return property(get, put, doc="The setting of the optimizer inside.")


for _name in _SETTINGS:
    setattr(LayerwiseOptimizer, _name, _delegated(_name))


def _is_scaled(optimizer: keras.optimizers.Optimizer) -> bool:
    return isinstance(getattr(vars(optimizer).get("update_step"), "__self__", None), LayerwiseOptimizer)


def is_one_of(optimizer: keras.optimizers.Optimizer, names: Sequence[str]) -> bool:
    """Whether an optimizer is an instance of one of Keras' classes, by their names."""
    return any(c.__name__ in names and c.__module__.startswith("keras.") for c in type(optimizer).__mro__)


def _check(optimizer: Any, factors: Mapping[str, float], ages: Mapping[str, int]) -> None:
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise PlanError(
            f"Expected an optimizer of Keras, such as keras.optimizers.Adam(1e-3). Received: {optimizer!r}."
        )
    problems, kind = [], type(optimizer).__name__
    reason = next(
        (why for name, why in _NOT_LINEAR.items() if name in [c.__name__ for c in type(optimizer).__mro__]), ""
    )
    if reason:
        problems.append(f"{kind} cannot be scaled: {reason}")
    elif not is_one_of(optimizer, LINEAR):
        problems.append(
            f"{kind} is not known to make steps proportional to its rate. Those that do: {join_names(LINEAR)}"
        )
    elif optimizer.built or _is_scaled(optimizer):
        problems.append("it was used before; make a new one")
    elif any(ages.values()) and not is_one_of(optimizer, AGEING):
        problems.append(f"{kind} cannot take over slots, so it has no ages. Those that can: {join_names(AGEING)}")
    for path, factor in factors.items():
        if not _number(factor) or not 0 <= factor < math.inf:
            problems.append(f"the factor of {path!r} must be a number of at least 0, received {factor!r}")
    for path, age in ages.items():
        if isinstance(age, bool) or not isinstance(age, (int, np.integer)) or age < 0:
            problems.append(f"the age of {path!r} must be an int of at least 0, received {age!r}")
    raise_problems(PlanError, "The optimizer cannot have a rate for each variable", problems)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
