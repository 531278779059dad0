"""Updates in one operation give the weights of Keras' own optimizers, and memory stays with the process on request."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfft
from tfft.config import Phase
from tfft.io.allocator import PLAIN_MEMORY
from tfft.optimizers import LayerwiseOptimizer, build_optimizer, fuse_updates

optimizers = keras.optimizers
KINDS = {
    "adam": lambda: optimizers.Adam(0.01, epsilon=1e-5),
    "adamw": lambda: optimizers.AdamW(0.01, weight_decay=0.1),
    "sgd": lambda: optimizers.SGD(0.01),
    "momentum": lambda: optimizers.SGD(0.01, momentum=0.9),
    "nesterov": lambda: optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    "clipped, averaged and scheduled": lambda: optimizers.Adam(
        optimizers.schedules.CosineDecay(0.01, 10), global_clipnorm=0.5, use_ema=True
    ),
    "collected": lambda: optimizers.Adam(0.01, gradient_accumulation_steps=2),
}
FUSED = {"ResourceApplyAdam", "ResourceApplyKerasMomentum", "ResourceApplyGradientDescent"}


def variables() -> list[keras.Variable]:
    random = np.random.default_rng(0)
    return [
        keras.Variable(random.normal(size=shape).astype("float32"), name=f"v{i}")
        for i, shape in enumerate([(7, 5), (5,)])
    ]


def stepped(optimizer: keras.optimizers.Optimizer, steps: int = 6) -> tuple[list[np.ndarray], set[str]]:
    """Trains two variables; returns them with the optimizer's own, and the operations of the graph."""
    trained = variables()
    optimizer.build(trained)
    random = np.random.default_rng(1)
    apply = tf.function(lambda *gradients: optimizer.apply(gradients, trained), autograph=False)
    for _ in range(steps):
        gradients = [tf.constant(random.normal(size=v.shape).astype("float32")) for v in trained]
        apply(*gradients)
    graph = apply.get_concrete_function(*gradients).graph.as_graph_def()
    kinds = {node.op for nodes in (graph.node, *(f.node_def for f in graph.library.function)) for node in nodes}
    return [v.numpy() for v in (*trained, *optimizer.variables)], kinds


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_and_slots_are_those_of_keras(kind):
    wanted, plain = stepped(KINDS[kind]())
    found, fused = stepped(fuse_updates(KINDS[kind]()))
    assert fused & FUSED
    assert not plain & FUSED
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7)  # 1 - beta_2 in 32 bits is 1.3e-5 off


@pytest.mark.parametrize("kind", ["adam", "momentum"])
def test_rates_of_their_own_are_fused_too(kind):
    factors = {"v0": 0.1}
    found, fused = stepped(
        LayerwiseOptimizer(fuse_updates(KINDS[kind]()), factors, {"v1": 3} if kind == "adam" else None)
    )
    first, _ = stepped(KINDS[kind]())
    assert fused & FUSED
    start = variables()[0].numpy()
    np.testing.assert_allclose(found[0] - start, 0.1 * (first[0] - start), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "optimizer", [optimizers.Adam(0.01, amsgrad=True), optimizers.RMSprop(0.01)], ids=["amsgrad", "rmsprop"]
)
def test_other_updates_stay_those_of_keras(optimizer):
    wanted, _ = stepped(type(optimizer).from_config(optimizer.get_config()))
    found, kinds = stepped(fuse_updates(optimizer))
    assert not kinds & FUSED
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_sparse_gradients_stay_those_of_keras():
    results = []
    for change in (fuse_updates, lambda optimizer: optimizer):
        optimizer, (table, _) = change(optimizers.Adam(0.01)), variables()
        optimizer.build([table])
        optimizer.apply([tf.IndexedSlices(tf.ones((2, 5)), tf.constant([1, 4]), tf.constant([7, 5]))], [table])
        results.append(table.numpy())
    np.testing.assert_array_equal(*results)


def test_the_optimizer_of_a_phase_is_fused_and_saved_as_before(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    optimizer = build_optimizer(Phase("one", "all", 1, 1e-2), model, 10)
    model.compile(optimizer, "mse")
    start = [v.numpy() for v in model.trainable_variables]
    model.fit(np.ones((8, 4)), np.zeros((8, 3)), verbose=0)
    assert all((v.numpy() != old).any() for v, old in zip(model.trainable_variables, start, strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is optimizers.Adam
    assert int(loaded.optimizer.iterations) == 1
    for a, b in zip(loaded.optimizer.variables, optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


MEASURE = """
import resource, sys
import numpy as np
from tfft.io.allocator import advise_memory
taken = advise_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(16_000_000, np.float32).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(taken, faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_memory_stays_with_the_process(monkeypatch):
    results = {}
    for value in ("0", "1"):
        monkeypatch.setenv(PLAIN_MEMORY, value)
        done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
        taken, faults = done.stdout.split()
        results[taken] = int(faults)
    assert results["True"] < 0.1 * results["False"]


def test_the_advice_has_a_public_name():
    assert tfft.training.advise_memory.__module__ == "tfft.io.allocator"
