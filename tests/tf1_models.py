"""SavedModels and graphs of TensorFlow 1, made with its own functions: each is written into a folder or returned."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

v1 = tf.compat.v1
Make = Callable[[], tuple[dict[str, Any], dict[str, Any]]]


@contextlib.contextmanager
def old_control_flow() -> Iterator[None]:
    """Writes loops and conditions as cycles and switches, as TensorFlow 1 did."""
    v1.disable_control_flow_v2()
    try:
        yield
    finally:
        v1.enable_control_flow_v2()


def save(path: pathlib.Path, make: Make) -> None:
    """Writes what ``make`` builds (inputs, outputs) as a SavedModel of TensorFlow 1."""
    with old_control_flow(), tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(3)
        inputs, outputs = make()
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        v1.saved_model.simple_save(session, str(path), inputs, outputs, legacy_init_op=v1.tables_initializer())


def frozen(path: pathlib.Path, make: Callable[[], object]) -> None:
    """Writes the graph that ``make`` builds as a ``.pb`` file."""
    with old_control_flow(), tf.Graph().as_default() as graph:
        make()
        path.write_bytes(graph.as_graph_def().SerializeToString())


def rows(width: int = 4) -> Any:
    return v1.placeholder(tf.float32, [None, width], "x")


def weight(name: str, *shape: int, resource: bool = True) -> Any:
    return v1.get_variable(name, shape, use_resource=resource)


def loop(resource: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    x, w = rows(), weight("w", 4, 4, resource=resource)
    y = v1.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, tf.tanh(h @ w)), [0, x])[1]
    return {"x": x}, {"y": y @ weight("k", 4, 2, resource=resource)}


def loop_of_references() -> tuple[dict[str, Any], dict[str, Any]]:
    return loop(resource=False)


def nested() -> tuple[dict[str, Any], dict[str, Any]]:
    """A condition in a loop in a loop, and a loop in a way of a condition on data."""
    x, w = rows(), weight("w", 4, 4)

    def inner(j: Any, h: Any) -> Any:
        return j + 1, v1.cond(tf.equal(j % 2, 0), lambda: tf.tanh(h @ w), lambda: h * 0.5 + 1.0)

    y = v1.while_loop(
        lambda i, h: i < 2, lambda i, h: (i + 1, v1.while_loop(lambda j, h: j < 2 + i, inner, [0, h])[1]), [0, x]
    )
    again = lambda: v1.while_loop(lambda i, h: i < 2, lambda i, h: (i + 1, h @ w), [0, y[1]])[1]  # noqa: E731
    z = v1.cond(tf.reduce_sum(y[1]) > 0, again, lambda: y[1] * 2.0)
    return {"x": x}, {"y": z @ weight("k", 4, 2)}


def recurrent() -> tuple[dict[str, Any], dict[str, Any]]:
    """A recurrent network over a ``TensorArray``, as ``dynamic_rnn`` writes it."""
    x, w = v1.placeholder(tf.float32, [None, 5, 4], "x"), weight("w", 7, 3)
    steps = tf.TensorArray(tf.float32, 5).unstack(tf.transpose(x, [1, 0, 2]))

    def step(i: Any, h: Any) -> Any:
        return i + 1, tf.tanh(tf.concat([steps.read(i), h], 1) @ w)

    _, h = v1.while_loop(lambda i, h: i < 5, step, [0, tf.zeros([tf.shape(x)[0], 3])])
    return {"x": x}, {"y": h @ weight("k", 3, 2)}


def phase() -> tuple[dict[str, Any], dict[str, Any]]:
    """A condition on the learning phase, as Keras wrote dropout."""
    x, on = rows(), v1.placeholder_with_default(False, [], "keras_learning_phase")
    h = tf.tanh(x @ weight("w", 4, 4))
    return {"x": x}, {"y": v1.cond(on, lambda: v1.nn.dropout(h, rate=0.5), lambda: h) @ weight("k", 4, 2)}


def table() -> tuple[dict[str, Any], dict[str, Any]]:
    words = v1.placeholder(tf.string, [None], "words")
    initializer = v1.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2], tf.string, tf.int64)
    ids = v1.lookup.StaticHashTable(initializer, 0).lookup(words)
    return {"words": words}, {"y": tf.gather(weight("emb", 3, 4), ids)}


def bare_names() -> tuple[dict[str, Any], dict[str, Any]]:
    """Layers written by hand, of variables without names of layers."""
    images = v1.placeholder(tf.float32, [None, 8, 8, 3], "images")
    made = lambda *shape: v1.Variable(tf.random.normal(shape), use_resource=True)  # noqa: E731
    y = tf.nn.relu(tf.nn.conv2d(images, made(3, 3, 3, 4), 2, "SAME") + made(4))
    y = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(y, made(3, 3, 4, 4), 2, "SAME"), made(4)))
    y = tf.nn.relu(tf.reshape(y, [-1, 16]) @ made(16, 8) + made(8))
    return {"images": images}, {"y": y @ made(8, 2) + made(2)}


def beside() -> tuple[dict[str, Any], dict[str, Any]]:
    """One variable that the output needs and one that it does not, both with names like no scope."""
    x, w = rows(), weight("w", 4, 3)
    weight("unused", 5)
    return {"x": x}, {"y": x @ w}
