"""Training on several GPUs or machines with ``tf.distribute``: :func:`fit`, :func:`on_chief`, :func:`is_chief`.

Implementation notes: this module works around Keras 3: its ``fit`` fails with several workers and with texts, a last
batch smaller than the number of replicas breaks a step, and each replica keeps its own BatchNorm statistics. Without a
strategy, nothing here has an effect.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import keras
import tensorflow as tf

from tfft import keras_compat
from tfft.console.profile import stage
from tfft.errors import PlanError, join_names, raise_problems

Result = TypeVar("Result")

_ASYNCHRONOUS = (
    tf.distribute.ParameterServerStrategy,
    tf.distribute.experimental.ParameterServerStrategy,
    tf.distribute.experimental.CentralStorageStrategy,
)


def is_chief(model: keras.Model | None = None) -> bool:
    """Whether this process is the first of the workers.

    Use it for single actions such as printing. To write files, use :func:`on_chief`.

    Args:
        model: Model whose strategy counts; None for the current scope.

    Returns:
        True without a strategy and with one process; with several workers, True in the first only.

    Example:
        >>> with strategy.scope():
        ...     verbose = tfft.training.is_chief()
    """
    made_under = None if model is None else keras_compat.distribute_strategy(model)
    return bool((made_under or tf.distribute.get_strategy()).extended.should_checkpoint)


def on_chief(model: keras.Model, write: Callable[[], Result]) -> Result | None:
    """Run a function in the first worker only, outside of the strategy.

    Use it inside ``strategy.scope()`` for everything that writes files. An ``if is_chief():`` around ``model.save`` is
    not enough: saving creates variables, which inside the scope every worker would have to create at the same moment;
    TensorFlow cannot export a trained model inside a scope, and ``model.predict`` would wait for the other workers.

    Args:
        model: Model to write; while the function runs, it predicts in this process alone.
        write: Function that saves or exports; must not train. It runs in a separate thread, outside of the scope.

    Returns:
        The result of the function; None in the other workers, which do not wait.

    Example:
        >>> with strategy.scope():
        ...     tfft.training.on_chief(model, lambda: model.save("model.keras"))
    """
    return alone(model, write) if is_chief(model) else None


def alone(model: keras.Model, work: Callable[[], Result]) -> Result:
    """Run a function outside of the strategy, in each worker that calls this.

    Args:
        model: Model, which evaluates and predicts in this process alone while the function runs.
        work: Function; must not train.

    Returns:
        The result of the function.
    """
    with _detached(model):
        if not tf.distribute.has_strategy():
            return work()
        with ThreadPoolExecutor(1) as pool:  # the stack of scopes is per thread
            return pool.submit(work).result()


def strategy_of(model: keras.Model) -> tf.distribute.Strategy | None:
    """Return the strategy under which a model's variables were created, or None for a single copy.

    Args:
        model: Any built model.

    Returns:
        A strategy with several replicas or several workers; None otherwise.

    Raises:
        PlanError: If model, variables and the current scope do not match, or the strategy does not keep replicas in
            sync.
    """
    around = tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
    made_under = keras_compat.distribute_strategy(model)
    for strategy in (around, made_under):
        if isinstance(strategy, _ASYNCHRONOUS):
            raise PlanError(
                f"tfft cannot train under {type(strategy).__name__}: it updates variables one replica after the other, "
                "so nothing could be checked. Use tf.distribute.MirroredStrategy or MultiWorkerMirroredStrategy."
            )
    around = around if _several(around) else None
    homes = {id(home): home for home in map(_home, model.weights)}
    home = homes.popitem()[1] if len(homes) == 1 else None
    if homes or (around is not None and home is not around):
        outside = [v.path for v in model.weights if _home(v) is not (around or made_under)]
        raise PlanError(
            f"{len(outside)} of {len(model.weights)} variables of the model were made outside of the strategy's scope: "
            f"{join_names(outside, limit=4)}. Open the backbone, build the model and train it inside one "
            "`with strategy.scope():`."
        )
    return home if _several(home) else None


def has_workers(model: keras.Model) -> bool:
    """Whether several processes train a model together."""
    strategy = strategy_of(model)
    return strategy is not None and _has_workers(strategy)


def scope_of(model: keras.Model) -> contextlib.AbstractContextManager[Any]:
    """Return the scope for compiling a model: that of its strategy, or a null context."""
    strategy = strategy_of(model)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


@stage("train")
def fit(
    model: keras.Model,
    dataset: tf.data.Dataset,
    validation: tf.data.Dataset | None = None,
    *,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **settings: Any,
) -> keras.callbacks.History:
    """Run ``model.fit``, also under a strategy with several workers, where Keras' own fails.

    :func:`tfft.training.train` uses it; call it instead of ``model.fit`` with your own ``compile``. A batch is the
    global one, divided among the replicas. If its size is not a multiple of their number, its first examples are used
    twice, so that each replica gets some. Before each validation and at the end of each epoch, all replicas get the
    mean of their BatchNorm statistics.

    Args:
        model: Model built and compiled in ``strategy.scope()`` if there is a strategy.
        dataset: Finite dataset of global batches of (inputs, labels), the same on all workers.
        validation: Validation dataset; None for none.
        callbacks: Keras callbacks. All workers must have the same ones, except for those that only write.
        **settings: Other keyword arguments of ``model.fit`` for datasets.

    Returns:
        The history of Keras, the same on all workers.

    Raises:
        PlanError: If the model, its optimizer or a metric was created outside of the scope.

    Example:
        >>> with tf.distribute.MultiWorkerMirroredStrategy().scope():
        ...     model = tfft.build(tfft.load_backbone("mobilenet-v2"), head)
        ...     model.compile("adam", **head.compile_args())
        ...     tfft.training.fit(model, train, validation, epochs=3)
    """
    strategy = strategy_of(model)
    callbacks = list(callbacks)
    if strategy is not None:
        dataset = _shared(dataset, strategy)
        validation = None if validation is None else _shared(validation, strategy)
        callbacks = [_MeanStatistics(strategy), *callbacks]  # first, so that the others see its effect
    with contextlib.nullcontext() if strategy is None else _working(model, dataset, strategy):
        return model.fit(dataset, validation_data=validation, callbacks=callbacks, shuffle=False, **settings)


def statistics_of(model: keras.Model) -> list[keras.Variable]:
    """Return the non-trainable variables that training may change: those of trainable layers."""
    return [
        v
        for layer in keras_compat.flatten_layers(model)
        if layer.trainable
        for v in keras_compat.own_non_trainable_variables(layer)
    ]


def one_copy(variable: keras.Variable) -> Any:
    """Return the object by which a gradient tape knows a variable outside of replicas: its first copy."""
    held = variable.value
    return held.values[0] if isinstance(held, tf.distribute.DistributedValues) else variable


def _home(variable: keras.Variable) -> tf.distribute.Strategy | None:
    held = variable.value
    return held.distribute_strategy if isinstance(held, tf.distribute.DistributedValues) else None


def _several(strategy: tf.distribute.Strategy | None) -> bool:
    return strategy is not None and (strategy.num_replicas_in_sync > 1 or _has_workers(strategy))


def _has_workers(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


@contextlib.contextmanager
def _working(model: keras.Model, dataset: tf.data.Dataset, strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Make ``model.fit`` work under a strategy, by working around two faults of Keras 3."""
    with strategy.scope():
        _check_made_inside(model, strategy)  # before an optimizer from outside fails to make its slots
        # Keras would build from the mean of a first batch over the replicas. That fails with several workers and for
        # texts, and takes a pass over the data, so that the order of the next epoch is another one.
        keras_compat.build_for(model, dataset.element_spec)
        _check_made_inside(model, strategy)  # and the metrics, which Keras lists once they are built
        with _detached(model), _vector_results(model) if _has_workers(strategy) else contextlib.nullcontext():
            yield


@contextlib.contextmanager
def _detached(model: keras.Model) -> Iterator[None]:
    """Make ``fit`` and ``predict`` use the current scope instead of the one the model was created in."""
    kept = keras_compat.distribute_strategy(model)
    if kept is None:
        yield
        return
    try:
        keras_compat.set_distribute_strategy(model, None)
        yield
    finally:
        keras_compat.set_distribute_strategy(model, kept)


@contextlib.contextmanager
def _vector_results(model: keras.Model) -> Iterator[None]:
    """With several workers, Keras takes the mean of each result over axis 0, which a scalar does not have."""
    steps = ("train_step", "test_step")
    own = {name: model.__dict__[name] for name in steps if name in model.__dict__}
    try:
        _set(model, **{name: _as_vectors(getattr(model, name)) for name in steps})
        yield
    finally:
        for name in steps:
            model.__dict__.pop(name, None)
        _set(model, **own)


def _set(model: keras.Model, **values: Any) -> None:
    for name, value in values.items():
        setattr(model, name, value)


def _as_vectors(step: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    return lambda data: keras.tree.map_structure(lambda value: tf.expand_dims(value, 0), step(data))


def _check_made_inside(model: keras.Model, strategy: tf.distribute.Strategy) -> None:
    metrics = [m for group in model.metrics for m in getattr(group, "metrics", [group])]
    parts = [("the optimizer", model.optimizer), *((f"the metric {m.name!r}", m) for m in metrics)]
    problems = [
        f"{name} was made outside of it: make it and compile inside `with strategy.scope():`"
        for name, part in parts
        if any(_home(v) is not strategy for v in part.variables)
    ]
    raise_problems(PlanError, "The model cannot be trained under the strategy that it was built in", problems)


def _shared(dataset: tf.data.Dataset, strategy: tf.distribute.Strategy) -> tf.data.Dataset:
    """Make every batch a multiple of the replicas, and make workers share batches rather than files."""
    replicas = strategy.num_replicas_in_sync
    sizes = {spec.shape[0] if spec.shape.rank else None for spec in tf.nest.flatten(dataset.element_spec)}
    if any(size is None or size % replicas for size in sizes):
        dataset = dataset.map(lambda *batch: _filled(batch, replicas), num_parallel_calls=tf.data.AUTOTUNE)
    policies = tf.data.experimental.AutoShardPolicy
    options = tf.data.Options()
    if dataset.options().experimental_distribute.auto_shard_policy == policies.AUTO:
        options.experimental_distribute.auto_shard_policy = policies.DATA
    return dataset.with_options(options)


def _filled(batch: Any, replicas: int) -> Any:
    count = tf.shape(tf.nest.flatten(batch)[0])[0]
    filled = tf.range(-(-count // replicas) * replicas) % count
    return tf.nest.map_structure(lambda part: tf.gather(part, filled), batch)


class _MeanStatistics(keras.callbacks.Callback):
    """Give all replicas the mean of the statistics that each has accumulated from its share of the batches.

    Keras 3 keeps separate values per replica, so validation, best weights and export would differ.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        super().__init__()
        self._strategy = strategy

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the statistics, and store their initial values, which are the same everywhere."""
        self._variables = [v for v in statistics_of(self.model) if tf.as_dtype(v.dtype).is_floating]
        self._starts = [tf.convert_to_tensor(keras.ops.convert_to_numpy(v)) for v in self._variables]
        self._mean_moves = tf.function(lambda: self._strategy.run(self._moves), autograph=False)

    def _moves(self) -> list[tf.Tensor]:
        # Of the moves, not the values: what did not move keeps every bit, as the audit demands.
        moves = [tf.convert_to_tensor(v) - start for v, start in zip(self._variables, self._starts, strict=True)]
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, moves)

    def _settle(self) -> None:
        if self._variables:
            moves = [self._strategy.experimental_local_results(move)[0] for move in self._mean_moves()]
            for variable, start, move in zip(self._variables, self._starts, moves, strict=True):
                variable.assign(start + move)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Before validation."""
        self._settle()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Synchronize also without validation."""
        self._settle()
