"""Updates of Adam, AdamW and SGD in one operation per variable: :func:`fuse_updates`.

Keras builds the update of a variable from a dozen operations, each of which reads and writes whole arrays in fresh
memory. TensorFlow has one operation for the whole update, which passes over the arrays once, on all cores. It also
makes the graph of a step several times smaller, so that tracing it takes less time.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf

from tfft import keras_compat


def fuse_updates(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Let an optimizer update each variable in one operation where TensorFlow has one; the numbers are the same.

    Use it with your own ``compile``, also inside of a :class:`~tfft.optimizers.LayerwiseOptimizer`; the optimizers of a
    phase are fused already. It changes Adam and AdamW (without ``amsgrad``) and SGD, for float32 and float64 variables
    with dense gradients; all other updates stay Keras' own.
    Results differ by rounding only, in steps of Adam by about 1e-5 of a step. Weight decay, clipping, moving averages,
    schedules and saved files do not change.

    Args:
        optimizer: Keras optimizer; changed in place.

    Returns:
        The same optimizer.

    Example:
        >>> optimizer = tfft.optimizers.fuse_updates(keras.optimizers.Adam(1e-3))
        >>> model.compile(optimizer, loss="mse")
    """
    if type(optimizer) in _FUSED and "update_step" not in vars(optimizer):
        optimizer.update_step = functools.partial(_update, optimizer)
    return optimizer


def _update(optimizer: keras.optimizers.Optimizer, gradient: Any, variable: Any, learning_rate: Any) -> None:
    """Replace ``update_step`` of the optimizer."""
    fused = _FUSED[type(optimizer)]
    handle = getattr(variable.value if isinstance(variable, keras.Variable) else variable, "handle", None)
    if handle is None or not _is_fusible(gradient, variable):
        type(optimizer).update_step(optimizer, gradient, variable, learning_rate)
        return
    dtype = tf.as_dtype(variable.dtype)
    if not fused(optimizer, tf.cast(gradient, dtype), variable, tf.cast(learning_rate, dtype), handle):
        type(optimizer).update_step(optimizer, gradient, variable, learning_rate)


def _is_fusible(gradient: Any, variable: Any) -> bool:
    # Within a strategy of several replicas a variable stands for one on each of them.
    return (
        isinstance(gradient, tf.Tensor)
        and not tf.distribute.has_strategy()
        and tf.as_dtype(variable.dtype) in (tf.float32, tf.float64)
    )


def _adam(optimizer: Any, gradient: tf.Tensor, variable: Any, rate: tf.Tensor, handle: tf.Tensor) -> bool:
    if optimizer.amsgrad:
        return False
    first, second = keras_compat.slots(optimizer, variable)
    step = tf.cast(optimizer.iterations, gradient.dtype) + 1
    number = gradient.dtype.as_numpy_dtype  # constants: a cast would be an operation more for each variable
    beta_1, beta_2 = number(optimizer.beta_1), number(optimizer.beta_2)
    tf.raw_ops.ResourceApplyAdam(
        var=handle,
        m=first.value.handle,
        v=second.value.handle,
        beta1_power=tf.raw_ops.Pow(x=beta_1, y=step),
        beta2_power=tf.raw_ops.Pow(x=beta_2, y=step),
        lr=rate,
        beta1=beta_1,
        beta2=beta_2,
        epsilon=number(optimizer.epsilon),
        grad=gradient,
    )
    return True


def _sgd(optimizer: Any, gradient: tf.Tensor, variable: Any, rate: tf.Tensor, handle: tf.Tensor) -> bool:
    if not optimizer.momentum:
        tf.raw_ops.ResourceApplyGradientDescent(var=handle, alpha=rate, delta=gradient)
        return True
    (momentum,) = keras_compat.slots(optimizer, variable)
    tf.raw_ops.ResourceApplyKerasMomentum(
        var=handle,
        accum=momentum.value.handle,
        lr=rate,
        grad=gradient,
        momentum=gradient.dtype.as_numpy_dtype(optimizer.momentum),
        use_nesterov=optimizer.nesterov,
    )
    return True


_FUSED: dict[type[keras.optimizers.Optimizer], Any] = {
    keras.optimizers.Adam: _adam,
    keras.optimizers.AdamW: _adam,
    keras.optimizers.SGD: _sgd,
}
