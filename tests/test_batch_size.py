"""Batch sizes found by real steps: what is tried, what is chosen, and that nothing is left behind."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfft.errors import DataError, PlanError
from tfft.training import find_batch_size, microbatched
from tfft.training.batch_size import Trial, available_memory, choose

L = keras.layers


class Wide(L.Layer):
    """Gives an example a quarter of a million numbers, and many examples more than any machine has."""

    def __init__(self, bursts_at=None):
        super().__init__()
        self.bursts_at = bursts_at

    def call(self, x):
        y = keras.ops.tile(x[:, :1], (1, 2**18))
        if self.bursts_at:
            burst = tf.fill([tf.where(tf.shape(x)[0] >= self.bursts_at, tf.constant(2**45, tf.int64), 1)], 0.0)
            y = y + tf.reduce_max(burst)
        return x + keras.ops.mean(y, axis=1, keepdims=True)


def network(*layers, dropout=0.5):
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((6,))
    for layer in layers:
        x = layer(x)
    x = L.BatchNormalization(name="norm")(L.Dense(8, activation="relu", name="hidden")(x))
    model = keras.Model(inputs, L.Dense(2, name="logits")(L.Dropout(dropout, seed=3)(x)))
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"]
    )
    return model


def examples(n=20, batch=5):
    x = np.random.default_rng(0).normal(size=(n, 6)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, (x[:, 0] > 0).astype("int32"))).batch(batch)


def state(model):
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [keras.ops.convert_to_numpy(v).copy() for v in variables]


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.nightly
def test_the_model_is_as_before_bit_by_bit_and_goes_on_as_if_nothing_had_been():
    kept = []
    for search in (False, True):
        model = network()
        model.fit(examples(), epochs=2, verbose=0, shuffle=False)
        before = state(model)
        if search:
            found = find_batch_size(model, examples())
            assert len(found.trials) >= 2
            assert same(before, state(model))
        model.fit(examples(), epochs=2, verbose=0, shuffle=False)
        assert not same(before, state(model))
        kept.append(state(model))
    assert same(*kept)


@pytest.mark.slow
def test_the_steps_that_are_timed_do_train():
    class Noting(L.Layer):
        seen = ()

        def call(self, x, training=None):
            tf.py_function(lambda: Noting.keep(model.get_layer("hidden").kernel.numpy()), [], [])
            return x

        @classmethod
        def keep(cls, value):
            cls.seen = (*cls.seen, value.copy())

    model = network(Noting())
    find_batch_size(model, examples(), limit=8)
    assert not np.array_equal(Noting.seen[0], Noting.seen[-1])


@pytest.mark.nightly
def test_everything_is_put_back_after_a_size_that_does_not_fit():
    model = network(Wide(bursts_at=16))  # TensorFlow waits ten seconds for memory before it gives up
    before = state(model)
    found = find_batch_size(model, examples(40), start=16)
    assert same(before, state(model))
    assert [(t.size, t.seconds is None) for t in found.trials] == [(1, False), (8, False), (16, True)]
    assert (found.size, found.largest) == (8, 8)
    assert "16 did not" in found.reason
    assert "does not fit" in str(found)
    with pytest.raises(PlanError, match="Not even a batch of one example fits"):
        find_batch_size(network(Wide(bursts_at=1)), examples())


def in_process(code, *, onednn):
    """Run code in a process of its own, with or without oneDNN, which is on or off by default depending on the CPU."""
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": str(int(onednn))}
    folder = pathlib.Path(__file__).parent
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)


def trials_within(allowed):
    """Print the trials of searches with so many megabytes allowed, as JSON; for a process of its own."""
    found = {}
    for name, options in {"plain": {}, "from 64": {"start": 64}}.items():
        result = find_batch_size(network(Wide()), examples(200), memory=allowed, **options)
        found[name] = [result.largest, [[t.size, t.megabytes] for t in result.trials], result.reason]
    tiny = find_batch_size(network(Wide()), examples(200), memory=1)
    assert ([t.size for t in tiny.trials], tiny.size) == ([1], 1)
    print(json.dumps(found))


@pytest.mark.nightly
def test_no_batch_takes_more_memory_than_allowed():
    # The statistics are those of the process, in which other tests have models and pipelines.
    allowed = 24  # an example takes one megabyte
    code = f"import test_batch_size; test_batch_size.trials_within({allowed})"
    found = json.loads(in_process(code, onednn=True).stdout.splitlines()[-1])
    for largest, trials, reason in found.values():
        assert largest == 16
        assert {size: round(megabytes) for size, megabytes in trials}.items() <= {1: 1, 8: 8, 16: 16}.items()
        assert "32 would take about 32 MB of the 24 allowed" in reason


@pytest.mark.nightly
def test_a_limit_of_memory_that_cannot_be_measured_is_refused():
    code = "import test_batch_size as t; t.find_batch_size(t.network(), t.examples(), memory=24)"
    failed = in_process(code, onednn=False)
    assert "PlanError: Expected a device whose memory TensorFlow counts, for memory=24" in failed.stderr
    assert "TF_ENABLE_ONEDNN_OPTS=1" in failed.stderr


@pytest.mark.nightly
def test_no_batch_is_larger_than_the_data():
    found = find_batch_size(network(), examples(20))
    assert found.largest == 16
    assert max(t.size for t in found.trials) <= 16
    assert "there are 20 examples" in found.reason
    assert max(t.size for t in find_batch_size(network(), examples(20), start=64).trials) == 16
    batch = next(iter(examples(5)))
    assert find_batch_size(network(), batch, limit=50).largest == 32  # a batch is no dataset


def test_the_smallest_of_the_fast_sizes_is_chosen():
    times = {8: 2.0, 16: 1.09, 32: 1.0, 64: 1.3}
    trials = [Trial(size, seconds, None) for size, seconds in times.items()]
    assert choose([*trials, Trial(128, None, None)]).size == 16
    assert choose(trials[:1]).size == 8


@pytest.mark.nightly
def test_the_result_is_shown_as_a_table():
    found = find_batch_size(network(), examples(20))
    lines = str(found).splitlines()
    assert lines[0].strip() == f"batch size {found.size}"
    assert "ms per example" in lines[2]
    assert sum(line.startswith("│") for line in lines) == len(found.trials)
    assert "".join(lines[-2:]).replace(" ", "").endswith(found.reason.replace(" ", ""))


def test_a_machine_says_what_is_available():
    assert 100 < available_memory() < 1e8


def test_what_cannot_be_tried_is_refused():
    model = network()
    plain = keras.Model(model.input, model.output)
    with pytest.raises(
        PlanError, match=r"(?s)4 problems.*not compiled.*start.*received 0.*limit.*received 1.5.*memory.*received -1"
    ):
        find_batch_size(plain, examples(), start=0, limit=1.5, memory=-1)
    with pytest.raises(PlanError, match="its own train_step"):
        find_batch_size(microbatched(model, 4), examples())
    with pytest.raises(DataError, match="at least one batch. Received: none"):
        find_batch_size(model, examples().take(0))
    with pytest.raises(DataError, match="Received: list"):
        find_batch_size(model, [1, 2])
    model.trainable = False
    with pytest.raises(PlanError, match="nothing in the model trains"):
        find_batch_size(model, examples())
