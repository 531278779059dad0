"""Relative gradients: the numbers, the block with the fault, and that nothing of the model changes."""

import json

import keras
import numpy as np
import pytest
import savedmodels
import tensorflow as tf

from tfft import freezing, heads
from tfft.backbones import load_backbone
from tfft.errors import BlockError, DataError
from tfft.keras_compat import flatten_layers
from tfft.models import build

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def waves(n, seed):
    """Noisy pictures of waves in four directions."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, n)
    grid = np.arange(12)
    across, down = np.meshgrid(grid, grid)
    patterns = np.stack([np.sin(t) for t in (across, down, 0.8 * (across + down), 0.8 * (across - down))])
    pixels = random.normal(0, 0.6, (n, 12, 12)) + patterns[labels]
    return pixels[..., None].astype("float32"), labels.astype("int32")


def network(l2=0.0):
    layers = keras.layers
    x = inputs = keras.Input((12, 12, 1))
    for k, (filters, strides) in enumerate([(8, 1), (8, 2), (12, 2), (12, 1)]):
        penalty = keras.regularizers.L2(l2) if l2 else None
        x = layers.Conv2D(filters, 3, strides, padding="same", kernel_regularizer=penalty, name=f"block{k}_conv")(x)
        x = layers.BatchNormalization(name=f"block{k}_bn")(x)
        x = layers.Dropout(0.3, name=f"block{k}_dropout")(layers.ReLU(name=f"block{k}_relu")(x))
    backbone = keras.Model(inputs, x, name="backbone")
    inputs = keras.Input((12, 12, 1))
    return keras.Model(inputs, layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D()(backbone(inputs))))


def compiled(model):
    model.compile(keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(0)
    model = compiled(network())
    model.fit(*waves(384, 0), epochs=8, batch_size=32, verbose=0)
    assert model.evaluate(*waves(200, 1), verbose=0)[1] > 0.95
    return model


@pytest.fixture
def few():
    return tf.data.Dataset.from_tensor_slices(waves(64, 5)).batch(32)


def kernel_of(model, block):
    return model.get_layer("backbone").get_layer(f"block{block}_conv").kernel


@pytest.mark.daily("0")
@pytest.mark.parametrize("block", range(4))
def test_a_block_whose_weights_have_a_wrong_scale_is_first(trained, few, block):
    sound = freezing.relative_gradients(trained, few)
    kernel = kernel_of(trained, block)
    kept = kernel.numpy()
    try:
        kernel.assign(kept * 0.2)
        spoiled = freezing.relative_gradients(trained, few)
        assert freezing.surgical_blocks(trained, few, loss=LOSS) == [f"block{block}"]
    finally:
        kernel.assign(kept)
    assert spoiled.rows[0].block == f"block{block}"
    assert spoiled.rows[0].relative > 3 * spoiled.rows[1].relative
    assert spoiled.loss > 5 * sound.loss
    firsts = {row.block: row.relative for row in sound.rows}
    assert spoiled.rows[0].relative > 10 * firsts[f"block{block}"]


@pytest.mark.parametrize("block", [0, 2, 3])
def test_a_block_whose_weights_are_mixed_up_is_first(trained, few, block):
    kernel = kernel_of(trained, block)
    kept = kernel.numpy()
    try:
        kernel.assign(np.random.default_rng(block).permutation(kept.reshape(-1)).reshape(kept.shape))
        assert freezing.surgical_blocks(trained, few) == [f"block{block}"]
    finally:
        kernel.assign(kept)


def state(model):
    weights = [v.numpy() for v in model.variables]  # with optimizer, metrics and random state
    layers = flatten_layers(model)
    return weights + [v.numpy() for v in model.optimizer.variables], [
        (layer.trainable, [v.trainable for v in layer.weights]) for layer in layers
    ]


@pytest.mark.slow
def test_nothing_of_the_model_changes(few):
    model = compiled(network())
    freezing.unfreeze(model, 2)
    model.fit(*waves(64, 5), verbose=0)
    model.evaluate(few, verbose=0)
    weights, flags = state(model)
    frozen = freezing.relative_gradients(model, few)
    after, flags_after = state(model)
    assert flags == flags_after
    for old, new in zip(weights, after, strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.losses == []
    freezing.unfreeze(model, "all")
    assert freezing.relative_gradients(model, few).to_dict() == frozen.to_dict()  # flags do not count


@pytest.mark.slow
def test_losses_that_count_themselves_are_put_back():
    inputs = keras.Input((3,))
    outputs = {name: keras.layers.Dense(2, name=name)(inputs) for name in ("a", "b")}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"a": "mse", "b": "mse"})
    data = [(np.ones((4, 3), "float32"), {name: np.ones((4, 2), "float32") for name in outputs})]
    model.fit(*data[0], verbose=0)
    before = [v.numpy() for v in model.metrics_variables]
    freezing.relative_gradients(model, data)
    for old, new in zip(before, model.metrics_variables, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.nightly
def test_no_losses_of_a_graph_stay_behind(tmp_path):
    savedmodels.MAKERS["plain_convnet"](tmp_path / "saved")  # with regularizers of its own
    model = build(load_backbone(str(tmp_path / "saved")), heads.classification(("a", "b")))
    freezing.unfreeze(model, "all")
    data = [(np.zeros((2, 32, 32, 3), "uint8"), np.array([0, 1]))]
    freezing.relative_gradients(model, data, loss=heads.from_model(model).loss())
    assert model.losses == []


def test_the_numbers_are_those_of_the_formula():
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, use_bias=False, name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, use_bias=False, name="second")(hidden))
    random = np.random.default_rng(0)
    batches = [(random.normal(size=(5, 3)).astype("float32"), random.normal(size=(5, 2)).astype("float32"))] * 1
    batches += [(random.normal(size=(7, 3)).astype("float32"), random.normal(size=(7, 2)).astype("float32"))]
    batches += [(np.full((2, 3), np.nan, "float32"), np.zeros((2, 2), "float32"))]  # never looked at
    a, b = (v.numpy().astype(float) for v in model.weights)
    norms = []
    for x, y in batches[:2]:
        slope = 2 * (x @ a @ b - y) / y.size
        norms.append([np.linalg.norm(x.T @ slope @ b.T), np.linalg.norm((x @ a).T @ slope)])
    expected = np.mean(norms, 0) / [np.linalg.norm(a), np.linalg.norm(b)]
    found = freezing.relative_gradients(model, batches, batches=2, loss=keras.losses.MeanSquaredError())
    relative = {row.block: row.relative for row in found.rows}
    np.testing.assert_allclose([relative["first"], relative["second"]], expected, rtol=1e-5)
    assert [row.relative for row in found.rows] == sorted(relative.values(), reverse=True)
    assert (found.batches, found.examples) == (2, 12)
    plain = freezing.relative_gradients(model, batches, batches=2, loss=lambda y, p: tf.reduce_mean((y - p) ** 2, -1))
    np.testing.assert_allclose([r.relative for r in plain.rows], [r.relative for r in found.rows], rtol=1e-5)


@pytest.mark.slow
def test_sample_weights_count(trained, few):
    x, y = waves(32, 3)
    half = np.repeat([1.0, 0.0], 16).astype("float32")
    for loss in (LOSS, None):
        weighted = freezing.relative_gradients(trained, [(x, y, half)], loss=loss)
        first = freezing.relative_gradients(trained, [(x[:16], y[:16])], loss=loss)
        doubled = [(r.block, pytest.approx(2 * r.relative, rel=1e-3)) for r in weighted.rows]  # mean over 32, not 16
        assert [(r.block, r.relative) for r in first.rows] == doubled


@pytest.mark.nightly
def test_regularizers_of_a_compiled_model_do_not_count(few):
    keras.utils.set_random_seed(1)
    plain, penalized = compiled(network()), compiled(network(l2=10.0))
    penalized.set_weights(plain.get_weights())
    want, found = (freezing.relative_gradients(model, few) for model in (plain, penalized))
    assert found.loss == pytest.approx(want.loss, rel=1e-3)
    for a, b in zip(want.rows, found.rows, strict=True):
        assert (a.block, b.relative) == (b.block, pytest.approx(a.relative, rel=1e-3))


@pytest.mark.nightly
def test_blocks_of_a_savedmodel(tmp_path):
    savedmodels.MAKERS["transformer"](tmp_path / "saved")
    model = build(load_backbone(str(tmp_path / "saved")), heads.classification(("a", "b")))
    random = np.random.default_rng(0)
    ids = random.integers(0, 5, (8, 6)).astype("int32")  # few ids, so that rows of the table are looked up often
    data = [({"input_word_ids": ids, "input_mask": np.ones_like(ids)}, random.integers(0, 2, 8))]
    found = freezing.relative_gradients(model, data, loss=heads.from_model(model).loss())
    assert {r.block for r in found.rows} == {"embeddings", "transformer_layer_0", "transformer_layer_1", "pooler"}
    row = next(row for row in found.rows if row.block == "embeddings")
    freezing.unfreeze(model, "embeddings")
    with tf.GradientTape() as tape:
        loss = heads.from_model(model).loss()(data[0][1], model(data[0][0]))
    (block,) = freezing.select(model, "embeddings")
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, [v.value for v in block.variables])]
    assert row.gradient_norm == pytest.approx(float(tf.linalg.global_norm(gradients)), rel=1e-5)
    freezing.add_lora(model, "pooler", rank=2)  # updates are no weights of the block
    again = freezing.relative_gradients(model, data, loss=heads.from_model(model).loss())
    assert [(r.block, r.parameters) for r in again.rows] == [(r.block, r.parameters) for r in found.rows]
    np.testing.assert_allclose([r.relative for r in again.rows], [r.relative for r in found.rows], rtol=1e-5)


@pytest.mark.slow
def test_normalization_is_left_out(trained, few):
    rows = {row.block: row for row in freezing.relative_gradients(trained, few).rows}
    assert rows["block0"].parameters == 9 * 8 + 8  # kernel and bias of the convolution
    assert set(rows) == {f"block{k}" for k in range(4)}


def test_the_table_can_be_read(trained, few):
    found = freezing.relative_gradients(trained, few)
    text = str(found)
    assert "64 examples in 2 batches" in text
    assert text.index(found.rows[0].block) < text.index(found.rows[-1].block)
    assert "100.0%" in text
    assert json.loads(json.dumps(found.to_dict()))["rows"][0]["block"] == found.rows[0].block
    assert found.best(4) == [row.block for row in found.rows]
    with pytest.raises(BlockError, match="from 1 to 4, the number of blocks. Received: 5"):
        found.best(5)


def test_what_cannot_be_is_refused(few):
    model = network()
    with pytest.raises(BlockError, match=r"(?s)2 problems.*batches must.*received 0.*not compiled and no loss"):
        freezing.relative_gradients(model, few, batches=0)
    with pytest.raises(DataError, match="dataset is empty"):
        freezing.relative_gradients(model, [], loss=LOSS)
    with pytest.raises(DataError, match="gives no labels"):
        freezing.relative_gradients(model, [(np.zeros((2, 12, 12, 1)),)], loss=LOSS)
    with pytest.raises(DataError, match="not finite"):
        freezing.relative_gradients(model, [(np.full((2, 12, 12, 1), np.nan), np.zeros(2))], loss=LOSS)
    inputs = keras.Input((3,))
    fixed = keras.Model(inputs, keras.layers.BatchNormalization()(inputs))
    with pytest.raises(BlockError, match="No block of .* beside normalization"):
        freezing.relative_gradients(fixed, few, loss=LOSS)
