"""The two engines: the same features, the choice between them, and what is said about it."""

from __future__ import annotations

import logging
import sys

import keras
import numpy as np
import pytest
import savedmodels
import tensorflow as tf

from tfft.arrays import spill as holding_module
from tfft.backbones.savedmodel import open_savedmodel
from tfft.errors import BackboneError, DataError, DependencyError, PlanError
from tfft.features import clear_caches, extract, litert
from tfft.features import engines as engines

RNG = np.random.default_rng(3)
L = keras.layers
MAKERS = (
    "plain_convnet", "residual", "depthwise", "branches", "swish", "weight_norm", "transformer", "slim_tf1_reference",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _say_again(monkeypatch):
    monkeypatch.setattr(engines, "_said", set())


@pytest.fixture(autouse=True)
def _converted(monkeypatch):
    """The examples of these tests would be too few for a conversion."""
    monkeypatch.setattr(engines, "_WORTH_CONVERTING", 0)


def convnet(seed: int = 1) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = savedmodels.convnet()
    savedmodels.settle_statistics(model)
    return model


def pixels(count: int = 10) -> np.ndarray:
    return RNG.random((count, 32, 32, 3), np.float32)


def run(model, data, **options):
    return extract(model, data, cache=None, verbose=False, **options)


@pytest.mark.representative("weight_norm")
@pytest.mark.parametrize("name", MAKERS)
def test_engines_agree(name, tmp_path):
    savedmodels.MAKERS[name](tmp_path / name)
    model = open_savedmodel(tmp_path / name).model
    if name == "transformer":
        ids = RNG.integers(0, 50, (9, 6)).astype(np.int32)
        data = {"input_word_ids": ids, "input_mask": np.ones_like(ids)}
        expected = model(data).numpy()
    else:
        data = pixels(9)
        expected = model(data, training=False).numpy()
    fast, slow = (run(model, data, engine=engine, batch_size=4) for engine in ("litert", "tensorflow"))
    assert (fast.engine, slow.engine) == ("litert", "tensorflow")
    np.testing.assert_allclose(slow.arrays, expected, atol=1e-6)
    np.testing.assert_allclose(fast.arrays, expected, atol=1e-5 * np.abs(expected).max())
    assert fast.arrays.dtype == np.float32
    assert "differ from TensorFlow's by" in fast.notes[0]


@pytest.mark.nightly
def test_batches_and_their_last_one_do_not_matter():
    model, data = convnet(), pixels(23)
    whole = run(model, data, batch_size=23).arrays
    for size in (1, 5, 8, 64):
        np.testing.assert_allclose(run(model, data, batch_size=size).arrays, whole, atol=1e-6)


@pytest.mark.slow
def test_nothing_is_printed(capfd):
    run(convnet(), pixels())
    out, err = capfd.readouterr()
    assert not out
    assert not err


@pytest.mark.slow
def test_no_file_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert run(convnet(), pixels()).engine == "litert"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_model_that_cannot_be_converted(caplog):
    def unknown(x):
        return tf.raw_ops.Betainc(a=tf.abs(x) + 1, b=tf.abs(x) + 1, x=tf.sigmoid(x))

    inputs = keras.Input((4,))
    model = keras.Model(inputs, L.Dense(3)(L.Lambda(unknown, output_shape=lambda s: s)(inputs)))
    data = RNG.random((6, 4), np.float32)
    with caplog.at_level(logging.WARNING, "tfft"):
        found = [run(model, data) for _ in range(2)]
    assert [f.engine for f in found] == ["tensorflow"] * 2
    np.testing.assert_allclose(found[0].arrays, model(data), atol=1e-6)
    assert "not LiteRT: the conversion failed" in found[0].notes[0]
    assert found[1].notes == found[0].notes
    assert len(caplog.records) == 1  # said once
    with pytest.raises(BackboneError, match="cannot run through LiteRT: the conversion failed"):
        run(model, data, engine="litert")


def test_other_types_are_left_to_tensorflow():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, L.Dense(3, dtype="mixed_float16")(inputs))
    found = run(model, RNG.random((6, 4), np.float32))
    assert found.engine == "tensorflow"
    assert "only float32 is converted" in found.notes[0]


@pytest.mark.slow
def test_an_engine_that_is_wrong_is_not_used(monkeypatch):
    model, data = convnet(), pixels()
    right = run(model, data, engine="tensorflow").arrays
    submit = litert.Pool.submit

    def off(self, arrays):
        result = submit(self, arrays)
        return lambda: [a + 1e-3 * np.abs(a).max() for a in result()]

    monkeypatch.setattr(litert.Pool, "submit", off)
    found = run(model, data)
    assert found.engine == "tensorflow"
    assert "differ by 0.001 of the largest" in found.notes[0]
    np.testing.assert_allclose(found.arrays, right, atol=1e-6)


@pytest.mark.slow
def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setattr(litert, "installed_version", lambda name: None)
    found = run(convnet(), pixels())
    assert found.engine == "tensorflow"
    assert "ai-edge-litert is not installed" in found.notes[0]
    with pytest.raises(DependencyError, match="pip install ai-edge-litert"):
        run(convnet(), pixels(), engine="litert")


@pytest.mark.slow
def test_few_examples_are_not_worth_a_conversion(monkeypatch):
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, L.Flatten()(L.Conv2D(4, 3, padding="same", use_bias=False)(inputs)))
    each = 32 * 32 * 3 * 3 * 3 * 4
    monkeypatch.setattr(engines, "_WORTH_CONVERTING", 10 * each)
    few, enough = run(model, pixels(9)), run(model, pixels(10))
    assert few.engine == "tensorflow"
    assert few.notes == (
        "TensorFlow computed the features: for 9 examples, converting the network takes longer than it saves.",
    )
    assert enough.engine == "litert"
    assert run(model, pixels(9), engine="litert").engine == "litert"
    stream = tf.data.Dataset.from_tensor_slices(pixels(9)).batch(4)
    assert run(model, stream).engine == "litert"  # its number is not known before it is read


def test_multiply_adds_of_an_opened_network_are_those_of_its_blocks(tmp_path):
    savedmodels.MAKERS["plain_convnet"](tmp_path / "net")
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, open_savedmodel(tmp_path / "net").model(inputs))
    opened = engines.TensorFlowEngine(engines.stage(model).net).multiply_adds
    assert opened == engines.TensorFlowEngine(convnet()).multiply_adds
    anywhere = keras.Model(inputs := keras.Input((None, None, 3)), L.Conv2D(4, 3)(inputs))
    assert engines.TensorFlowEngine(anywhere).multiply_adds is None


def test_largest_difference():
    a = np.array([[1.0, -4.0]], np.float32)
    assert engines.largest_difference([a], [a]) == 0
    assert engines.largest_difference([a], [a + np.float32(0.5)]) == pytest.approx(0.125)
    assert engines.largest_difference([a], [a[:, :1]]) == float("inf")
    assert engines.largest_difference([a], [np.array([[1.0, np.nan]], np.float32)]) == float("inf")
    assert engines.largest_difference([np.arange(3)], [np.arange(3) + 1]) == float("inf")


@pytest.mark.slow
def test_texts_of_another_length_are_refused_and_pooled_ones_are_not(tmp_path):
    savedmodels.MAKERS["transformer"](tmp_path / "t")

    def batches():
        for length in (6, 4):
            ids = np.ones((3, length), np.int32)
            yield {"input_word_ids": ids, "input_mask": ids}

    spec = {k: tf.TensorSpec([None, None], tf.int32) for k in ("input_word_ids", "input_mask")}
    dataset = tf.data.Dataset.from_generator(batches, output_signature=spec)
    pooled = open_savedmodel(tmp_path / "t").model
    found = run(pooled, dataset)
    assert found.arrays.shape == (6, 8)
    expected = np.concatenate([pooled(batch) for batch in batches()])
    np.testing.assert_allclose(found.arrays, expected, atol=1e-6)
    with pytest.raises(DataError, match=r"one shape. The first ones have \(6, 8\), example 3 has \(4, 8\)"):
        run(open_savedmodel(tmp_path / "t", output="sequence_output").model, dataset)


@pytest.mark.nightly
def test_many_features_go_to_a_file_and_not_to_memory(monkeypatch):
    model, data = convnet(), pixels(20)
    small = run(model, data, batch_size=4).arrays
    assert not isinstance(small, np.memmap)
    monkeypatch.setattr(holding_module, "LIMIT", 500)
    large = run(model, data, batch_size=4).arrays
    assert isinstance(large, np.memmap)
    np.testing.assert_allclose(large, small, atol=1e-6)


@pytest.mark.slow
def test_float16_and_where_it_ends():
    model, data = convnet(), pixels()
    full, half = run(model, data), run(model, data, dtype="float16")
    assert half.arrays.dtype == np.float16
    assert half.bytes * 2 == full.bytes
    np.testing.assert_allclose(half.arrays, full.arrays, rtol=5e-4, atol=1e-6)
    inputs = keras.Input((1,))
    large = keras.Model(inputs, L.Rescaling(1e6)(L.Dense(1, kernel_initializer="ones")(inputs)))
    with pytest.raises(DataError, match=r"reach up to 1e\+06.*float16 can hold.*float32"):
        run(large, np.ones((2, 1), np.float32), dtype="float16")


def test_wrong_arguments_are_reported_together():
    with pytest.raises(PlanError, match=r"(?s)4 problems.*cache must.*dtype must.*engine must.*batch_size must"):
        extract(convnet(), pixels(), cache=3, dtype="int8", engine="lite", batch_size=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((3, 16, 32, 3), np.float32), r"has the shape \(None, 32, 32, 3\), received \(None, 16, 32, 3\)"),
        (np.zeros((0, 32, 32, 3), np.float32), "at least one"),
        ((np.zeros((3, 32, 32, 3), np.float32), np.zeros(2)), "same number of examples"),
        ([1, 2], "Received list"),
        (tf.data.Dataset.from_tensor_slices(np.zeros((2, 1, 32, 32, 3), "f")).repeat(), "never ends"),
        (tf.data.Dataset.from_tensor_slices(np.zeros((2, 1, 32, 32, 3), "f")).take(0), "gives no examples"),
    ],
)
def test_examples_that_do_not_fit(data, message):
    with pytest.raises(DataError, match=message):
        run(convnet(), data)


def test_float_images_for_raw_pixels(tiny_model):
    with pytest.raises(DataError, match="pixels must be in 0 to 255, received 0.5 to 0.5: multiply by 255"):
        run(tiny_model, np.full((3, 32, 32, 3), 0.5, np.float32))


@pytest.mark.nightly
def test_a_network_is_converted_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TFFT_CACHE_DIR", str(tmp_path))
    model, images = convnet(), np.random.default_rng(0).random((6, 32, 32, 3), np.float32)
    first = extract(model, images, cache=None, engine="litert")
    assert not list(tmp_path.rglob("*.tflite"))  # without a cache nothing is kept

    def run(values):
        return np.asarray(extract(model, values, engine="litert", verbose=False).arrays)

    np.testing.assert_array_equal(run(images), first.arrays)
    (kept,) = tmp_path.rglob("*.tflite")
    content, written = kept.read_bytes(), kept.stat().st_mtime_ns
    run(1 - images)
    assert kept.stat().st_mtime_ns == written
    assert len(list(tmp_path.rglob("*.tflite"))) == 1

    kept.write_bytes(content[:-100])  # damaged: made again
    np.testing.assert_array_equal(run(images * 0.5), extract(model, images * 0.5, cache=None, engine="litert").arrays)
    assert len(kept.read_bytes()) == len(content)

    kernel = next(v for v in model.weights if v.path.endswith("kernel"))
    kernel.assign(-kernel)
    changed = extract(model, images, cache=None, engine="litert").arrays
    np.testing.assert_array_equal(run(images), changed)
    assert np.abs(changed - first.arrays).max() > 1e-3
    assert len(list(tmp_path.rglob("*.tflite"))) == 2

    assert clear_caches() > 2 * len(content)
    assert not list(tmp_path.rglob("*.tflite"))
