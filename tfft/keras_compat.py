"""The only module that touches private names of Keras and of TensorFlow's Python code.

Each function does one thing for which Keras has no public name, under the field's word for it. All were checked with
Keras 3.15.1 and TensorFlow 2.21.0; ``tests/test_keras_compat.py`` tests each of them, so a new release that moves a
name breaks this file and its tests, and nothing else.

Implementation notes: functions take and return public types where there are any. Each docstring names the private
name behind the function and why the public ones do not do.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend import AutocastScope
from keras.src.backend.common import global_state
from keras.src.losses.loss import unscale_loss_for_distribution
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.ops.node import Node
from keras.src.random import seed_generator
from keras.src.saving import serialization_lib
from keras.src.utils import tracking
from tensorflow.python.checkpoint import graph_view
from tensorflow.python.eager import context
from tensorflow.python.framework import config as framework_config
from tensorflow.python.framework import convert_to_constants, op_def_registry
from tensorflow.python.ops import stateful_random_ops

from tfft import register_layers

_SLOTS = (
    "momentums", "_momentums", "_velocities", "_velocity_hats", "_average_gradients", "_accumulators",
    "_accumulated_grads", "_accumulated_delta_vars", "_m", "_u",
)  # fmt: skip

INNER_COMPUTE_LOSS = "_compute_loss"
"""Name of the method between ``train_step`` and ``compute_loss``; a subclass that has its own trains differently."""

# ------------------------------------------------------------------ layers and variables


def flatten_layers(layer: keras.layers.Layer, *, include_self: bool = True) -> list[keras.layers.Layer]:
    """Return a layer and all layers inside it, each once.

    ``Layer._flatten_layers``: the public ``layers`` exists on models only, and does not enter composite layers.
    """
    return list(layer._flatten_layers(include_self=include_self))


def own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Return the variables of a layer that belong to none of its sublayers, without random state.

    ``Layer._flatten_layers``, as in :func:`flatten_layers`: the public ``weights`` includes those of sublayers.
    """
    inner = {id(v) for sub in flatten_layers(layer, include_self=False) for v in sub.weights}
    return [v for v in layer.weights if id(v) not in inner]


def own_trainable_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Return the variables that a layer itself created as trainable, whether they are frozen now or not.

    ``Layer._trainable_variables``: the public ``trainable_variables`` leaves out frozen ones, and includes those of
    sublayers. Statistics and constants of a publisher are not in the result.
    """
    return list(layer._trainable_variables)


def own_non_trainable_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Return the variables that a layer itself created as not trainable, such as moving statistics.

    ``Layer._non_trainable_variables``: the public ``non_trainable_variables`` also includes frozen ones.
    """
    return list(layer._non_trainable_variables)


def seed_generators(layer: keras.layers.Layer) -> list[keras.random.SeedGenerator]:
    """Return the random generators of a layer itself.

    ``Layer._seed_generators``: no public name lists them.
    """
    return list(layer._seed_generators)


@contextlib.contextmanager
def unlocked(layer: keras.layers.Layer) -> Iterator[None]:
    """Allow new variables in a layer that is built already, within the context.

    ``Layer._tracker``: Keras' own ``enable_lora`` does the same, and there is no public way.
    """
    tracker = layer._tracker
    locked = tracker.locked
    tracker.unlock()
    try:
        yield
    finally:
        if locked:
            tracker.lock()


def untrack_variable(layer: keras.layers.Layer, variable: keras.Variable) -> None:
    """Remove a variable from a layer.

    ``Layer._untrack_variable``: ``del layer.attribute`` calls it, which needs an attribute that holds the variable.
    """
    layer._untrack_variable(variable)


def no_autocast() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which variables keep their own type, also under mixed precision.

    ``AutocastScope``: it has no public name. ``autocast=False`` of a variable holds for that variable everywhere.
    """
    return AutocastScope(None)


no_automatic_dependency_tracking: Callable[[Callable[..., Any]], Callable[..., Any]] = (
    tracking.no_automatic_dependency_tracking
)
"""Decorator for a method whose attributes Keras does not track; Keras' own optimizers build with it, privately."""


# ------------------------------------------------------------------ functional graphs


def producer(tensor: keras.KerasTensor) -> keras.Operation:
    """Return the layer or operation that computes a symbolic tensor.

    ``KerasTensor._keras_history``: there is no public way to walk a functional graph.
    """
    return tensor._keras_history.operation


def producing_node(tensor: keras.KerasTensor) -> Node:
    """Return Keras' record of the call that computes a symbolic tensor.

    ``KerasTensor._keras_history`` and ``Operation._inbound_nodes``, as in :func:`producer`.
    """
    operation, index, _ = tensor._keras_history
    return operation._inbound_nodes[index]


def inbound_nodes(operation: keras.Operation) -> list[Node]:
    """Return Keras' records of all symbolic calls of a layer or operation; empty for a model without a graph.

    ``Operation._inbound_nodes``, as in :func:`producer`.
    """
    return list(getattr(operation, "_inbound_nodes", ()))


def is_functional(model: object) -> bool:
    """Return whether Keras knows the graph of a model and runs it, so that it can be divided.

    ``Functional``, the class of ``keras.Model(inputs, outputs)``, has no public name.
    """
    if not isinstance(model, keras.Model):
        return False
    if isinstance(model, keras.Sequential):
        return bool(model.built) and type(model).call is keras.Sequential.call
    return isinstance(model, Functional) and type(model).call is Functional.call


def saves_graph(layer: keras.layers.Layer) -> bool:
    """Return whether a ``.keras`` file holds the layers inside a layer one by one, with class and settings.

    ``functional_like_constructor`` and ``Functional.get_config``, by which Keras decides it, have no public names.
    """
    cls = type(layer)
    graph = cls.get_config is Functional.get_config and functional_like_constructor(cls)
    return graph or cls.get_config is keras.Sequential.get_config


def build_shapes(model: keras.Model) -> list[Any]:
    """Return the input shapes that a subclassed model was first called with; empty if Keras recorded none.

    ``Layer._build_shapes_dict``: a subclassed model has no ``inputs``.
    """
    return list((getattr(model, "_build_shapes_dict", None) or {}).values())


def has_mask(tensor: Any) -> bool:
    """Return whether a tensor carries a mask of a layer such as ``Embedding(mask_zero=True)``.

    The attribute ``_keras_mask``: the public ``compute_mask`` computes one anew and does not read it.
    """
    return getattr(tensor, "_keras_mask", None) is not None


# ------------------------------------------------------------------ training


def recompile(model: keras.Model) -> None:
    """Compile a model with the settings it is compiled with and a fresh optimizer.

    ``Trainer._compile_config``: the public ``get_compile_config`` serializes, which loses user-defined losses.

    Raises:
        TypeError: If the settings are not known, or the class has a ``compile`` of its own.
    """
    optimizer = model.optimizer
    settings = dict(getattr(getattr(model, "_compile_config", None), "config", None) or {})
    if type(model).compile is not keras.Model.compile or not settings:
        raise TypeError("its compile is its own")
    settings["optimizer"] = type(optimizer).from_config(optimizer.get_config())
    model.compile(**settings)


def loss_weights(model: keras.Model) -> Any:
    """Return the ``loss_weights`` that a model is compiled with, or None.

    ``CompileLoss._user_loss_weights``: Keras has no public name for them once compiled.
    """
    return getattr(getattr(model, "_compile_loss", None), "_user_loss_weights", None)


def clear_losses(model: keras.Model) -> None:
    """Forget the losses of the last call, which may be tensors of a graph that is gone.

    ``Layer._clear_losses``: Keras calls it at the start of a step only.
    """
    model._clear_losses()


def update_loss_tracker(model: keras.Model, loss: tf.Tensor, count: tf.Tensor) -> None:
    """Add the loss of some examples to the mean that ``fit`` shows as ``loss``.

    ``Trainer._loss_tracker`` and ``unscale_loss_for_distribution``: Keras' own ``train_step`` uses both.

    Args:
        model: Compiled, inside its training step.
        loss: Mean over the examples.
        count: Number of examples.
    """
    model._loss_tracker.update_state(unscale_loss_for_distribution(loss), sample_weight=count)


def build_for(model: keras.Model, batch: Any) -> None:
    """Create the variables of a compiled model's metrics and optimizer, as the first step would, without a step.

    ``Trainer._symbolic_build``: publicly these variables appear in the first step only.

    Args:
        model: Compiled.
        batch: Arrays, tensors or ``tf.TensorSpec`` of a batch.
    """
    model._symbolic_build(data_batch=batch)


def set_initial_epoch(model: keras.Model, epoch: int | None) -> None:
    """Set the epoch at which a ``fit`` that has begun goes on; None leaves it to the argument of ``fit``.

    ``Trainer._initial_epoch``: ``keras.callbacks.BackupAndRestore`` sets it; a callback has no public way.
    """
    model._initial_epoch = epoch


def distribute_strategy(model: keras.Model) -> tf.distribute.Strategy | None:
    """Return the ``tf.distribute`` strategy that a model was made under, or None.

    ``Trainer._distribute_strategy``: the public ``distribute_strategy`` falls back to the current one.
    """
    return model._distribute_strategy


def set_distribute_strategy(model: keras.Model, strategy: tf.distribute.Strategy | None) -> None:
    """Set the strategy that ``fit``, ``evaluate`` and ``predict`` run under; functions traced before are dropped.

    ``Trainer._distribute_strategy``: Keras sets it in the constructor only.
    """
    model._distribute_strategy = strategy
    model.train_function = model.test_function = model.predict_function = None


# ------------------------------------------------------------------ optimizers


def trained_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Return the variables that an optimizer was built for, also where it is inside of loss scaling.

    ``Optimizer._trainable_variables``: the public ``variables`` are the optimizer's own.
    """
    return list(getattr(optimizer, "inner_optimizer", optimizer)._trainable_variables)


def variable_index(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> int:
    """Return the position of a variable among those that an optimizer was built for.

    ``Optimizer._get_variable_index``: no public name.
    """
    return optimizer._get_variable_index(variable)


def slots(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> list[keras.Variable]:
    """Return what an optimizer keeps for one variable: momentum, velocity and the like.

    Private lists such as ``Adam._velocities``: the public ``variables`` do not tell which variable each belongs to.
    Moving averages and accumulated gradients are not slots.
    """
    lists = [getattr(optimizer, name) for name in _SLOTS if getattr(optimizer, name, None)]
    found = [each[variable_index(optimizer, variable)] for each in lists]
    return [slot for slot in found if slot is not None]


def moving_average(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> keras.Variable:
    """Return the moving average of a variable that an optimizer with ``use_ema=True`` keeps.

    ``Optimizer._model_variables_moving_average``: ``keras.callbacks.SwapEMAWeights`` reads it too.
    """
    return optimizer._model_variables_moving_average[variable_index(optimizer, variable)]


def step_counter(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Return the variable that counts calls of ``apply``.

    ``Optimizer._iterations``: the public ``iterations`` is divided where gradients are accumulated.
    """
    return optimizer._iterations


@contextlib.contextmanager
def steps_ahead(optimizer: keras.optimizers.Optimizer, steps: Any) -> Iterator[None]:
    """Let ``update_step`` of an optimizer see a later step, within the context.

    ``Optimizer._iterations``, set past ``__setattr__``, which would track it: ``iterations`` cannot be replaced once
    the optimizer is built.

    Args:
        optimizer: Optimizer whose count does not change.
        steps: Added to the count, in calls of ``apply``.
    """
    state = vars(optimizer)
    count = state["_iterations"]
    state["_iterations"] = count + steps
    try:
        yield
    finally:
        state["_iterations"] = count


def uses_weight_decay(optimizer: keras.optimizers.Optimizer, variable: keras.Variable | tf.Variable) -> bool:
    """Return whether ``exclude_from_weight_decay`` did not name a variable.

    ``Optimizer._use_weight_decay``: what was excluded can be set publicly but not read.
    """
    return optimizer._use_weight_decay(variable)


def weight_decay(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> float | None:
    """Return the strength of weight decay for a variable, whether it is excluded or not; None without weight decay.

    ``Muon._should_use_adamw``: Muon has two strengths, and separates the variables privately.
    """
    if hasattr(optimizer, "_should_use_adamw") and optimizer._should_use_adamw(variable):
        return optimizer.adam_weight_decay
    return optimizer.weight_decay


def replace_weight_decay(
    optimizer: keras.optimizers.Optimizer, function: Callable[[Sequence[keras.Variable]], None]
) -> None:
    """Set the function that an optimizer applies weight decay with.

    ``Optimizer._apply_weight_decay``: a subclass could override it, but one made on the fly could not be saved.
    """
    optimizer._apply_weight_decay = function


def copy_weight_decay_exclusions(source: keras.optimizers.Optimizer, target: keras.optimizers.Optimizer) -> None:
    """Exclude from weight decay in one optimizer what another one excludes.

    ``Optimizer._exclude_from_weight_decay`` and its pattern: ``get_config`` lacks them.
    """
    for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))


def update_replicas(optimizer: keras.optimizers.Optimizer, function: Callable[[tf.distribute.Strategy], None]) -> None:
    """Call a function that updates variables once for all replicas of the optimizer's strategy.

    ``maybe_merge_call`` and ``Optimizer._distribution_strategy``: Keras' optimizers on TensorFlow do the same.
    """
    tf.__internal__.distribute.interim.maybe_merge_call(function, optimizer._distribution_strategy)


# ------------------------------------------------------------------ random state


def global_seed_generator() -> keras.random.SeedGenerator | None:
    """Return the generator that operations without a seed draw from; None before the first one.

    ``keras.src.random.seed_generator``: ``keras.utils.set_random_seed`` sets a seed, but nothing public reads it.
    """
    return global_state.get_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR)


def ensure_global_seed_generator() -> keras.random.SeedGenerator:
    """Return the generator of :func:`global_seed_generator`, which is created where it does not exist yet."""
    return seed_generator.global_seed_generator()


def set_global_seed_generator(generator: keras.random.SeedGenerator | None) -> None:
    """Set the generator of :func:`global_seed_generator`; None removes it."""
    global_state.set_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR, generator)


def tensorflow_seed() -> int | None:
    """Return the seed of ``tf.random.set_seed``, or None.

    ``Context._seed`` in ``tensorflow.python.eager``: it can be set publicly but not read.
    """
    return getattr(context.context(), "_seed", None)


def tensorflow_seed_sequence() -> random.Random | None:
    """Return the generator that draws a seed for each random operation; None before ``tf.random.set_seed``.

    ``Context._rng`` in ``tensorflow.python.eager``: no public name.
    """
    return getattr(context.context(), "_rng", None)


def tensorflow_generator() -> tf.random.Generator | None:
    """Return TensorFlow's global generator; None before it exists.

    ``stateful_random_ops.global_generator``: the public ``tf.random.get_global_generator`` creates it.
    """
    return stateful_random_ops.global_generator


# ------------------------------------------------------------------ saving and graphs


class InspectedInputs(Functional):
    """A functional model that sees its inputs as they are given, before Keras casts them to the types of the graph.

    ``Functional`` and ``Functional._standardize_inputs``: a first layer sees pixels that are cast to uint8 already. It
    is saved, loaded and cloned like any functional model.
    """

    def inspect_inputs(self, inputs: list[Any]) -> list[tf.Operation]:
        """Raise an error for inputs that the model must not take; the one hook for subclasses.

        Args:
            inputs: Flat list of tensors or arrays, symbolic within ``fit`` and ``predict``.

        Returns:
            Within a graph, the operations that raise it: no weight is updated before they have run.
        """
        return []

    def _standardize_inputs(self, inputs: Any) -> Any:
        with tf.control_dependencies(self.inspect_inputs([x for x in keras.tree.flatten(inputs) if x is not None])):
            return super()._standardize_inputs(inputs)


def in_safe_mode() -> bool | None:
    """Return whether a ``.keras`` file is being loaded with ``safe_mode``; None if it was not set.

    ``serialization_lib.in_safe_mode``: public names switch it, and none reads it.
    """
    return serialization_lib.in_safe_mode()


def calls_with_labels(preprocessor: Any) -> bool:
    """Return whether a KerasHub preprocessing layer takes a second argument for labels.

    ``_call_accepts_labels``: KerasHub 0.32 decides by it, and has no public name.
    """
    return bool(getattr(preprocessor, "_call_accepts_labels", False))


def prepare_tokenizer(tokenizer: Any) -> None:
    """Create the TensorFlow resources of a KerasHub tokenizer anew, outside of any graph.

    ``_maybe_initialized_tf``: KerasHub 0.32 creates them at the first use, and those that it creates within a graph are
    gone with it. There is no public name. That of SentencePiece is also gone after ``tf.random.set_seed``, which
    clears TensorFlow's kernels, so it is created again.
    """
    if hasattr(tokenizer, "set_proto"):
        tokenizer.set_proto(tokenizer.proto)
    create = getattr(tokenizer, "_maybe_initialized_tf", None)
    if create is not None:
        with tf.init_scope():
            create()


def op_definition(name: str) -> Any | None:
    """Return the ``OpDef`` of a TensorFlow operation, or None where it is not registered.

    ``op_def_registry``: the only way to the names of an operation's arguments.
    """
    return op_def_registry.get(name)


def with_constants(function: tf.types.experimental.ConcreteFunction) -> tf.types.experimental.ConcreteFunction:
    """Return a function with the values of its variables inside, and with calls inlined.

    ``convert_variables_to_constants_v2``: no public name.
    """
    return convert_to_constants.convert_variables_to_constants_v2(function)


def resource_creators(loaded: Any, handle: tf.Tensor) -> list[tf.types.experimental.ConcreteFunction]:
    """Return the functions of a restored SavedModel that create the resource behind a handle.

    ``ObjectGraphView`` and ``TrackableResource._create_resource``: the only way to all objects of a SavedModel.
    """
    found: list[tf.types.experimental.ConcreteFunction] = []
    for part in graph_view.ObjectGraphView(loaded).breadth_first_traversal()[0]:
        if getattr(part, "resource_handle", None) is handle:
            found += getattr(part._create_resource, "concrete_functions", ())
    return found


def is_deterministic() -> bool:
    """Return whether ``tf.config.experimental.enable_op_determinism`` was called.

    ``is_op_determinism_enabled`` in ``tensorflow.python.framework.config``: it has no public name.
    """
    return bool(framework_config.is_op_determinism_enabled())


COMPLETE = True
"""Marks the end of this module: only now can the registered layers, which import it, be imported."""
register_layers(keras)
