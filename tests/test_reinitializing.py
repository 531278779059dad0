"""New weights for the last blocks: where they come from, what stays, statistics, and what is refused."""

import random

import keras
import numpy as np
import pytest
import savedmodels
import tensorflow as tf
from weight_models import compiled, dataset, examples, of_keras, of_savedmodel, same

import tfft
from tfft import heads
from tfft.errors import BlockError, PlanError
from tfft.freezing import reinitialize, select
from tfft.freezing.weight_values import take


def values(model):
    return {v.path: v.numpy() for v in model.weights}


def changed(model, before):
    return {path for path, value in values(model).items() if not np.array_equal(value, before[path])}


def variables_of(model, blocks):
    return {v.path for block in select(model, blocks) for v in block.variables}


@pytest.fixture
def folder(tmp_path_factory):
    return tmp_path_factory.getbasetemp()


def settled(seed=3):
    """A network of Keras layers that looks trained: no variable is as new."""
    model = of_keras(seed)
    savedmodels.settle_statistics(model)
    return model


@pytest.mark.daily("1")
@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_the_last_blocks_get_new_weights_and_the_others_keep_every_bit(n, folder):
    for model in (settled(), of_savedmodel(folder, batch_norm="train")):
        tfft.unfreeze(model, 3, batch_norm="train")
        before = values(model)
        done = reinitialize(model, n)
        assert {v.path for v in done} == variables_of(model, n)
        assert changed(model, before) == variables_of(model, n)
        for path, value in values(model).items():
            if path not in variables_of(model, n):
                np.testing.assert_array_equal(value, before[path])


@pytest.mark.nightly
def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before(folder):
    for make in (settled, lambda: of_savedmodel(folder, batch_norm="train")):
        found = []
        for seed, noise in ((0, 1), (0, 2), (1, 1)):
            model = tfft.unfreeze(make(), 2, batch_norm="train")
            keras.utils.set_random_seed(noise)
            state = random.getstate()
            reinitialize(model, 2, seed=seed)
            assert random.getstate() == state  # nobody else's numbers change
            found.append(model.get_weights())
        assert same(found[0], found[1])
        assert not same(found[0], found[2])
        last, before = (select(model, k)[0].variables[0].numpy() for k in (1, 2))
        assert last.shape != before.shape or not np.array_equal(last, before)


def test_keras_layers_start_as_their_own_initializers_say():
    keras.utils.set_random_seed(1)
    layers = keras.layers
    x = inputs = keras.Input((6, 8))
    x = layers.Dense(8, name="block0_dense")(x)
    y = layers.MultiHeadAttention(2, 16, name="block1_attention")(x, x)
    x = layers.LayerNormalization(name="block1_norm")(y)
    x = layers.Dense(
        400, kernel_initializer=keras.initializers.RandomUniform(2.0, 3.0), bias_initializer="ones", name="block2_dense"
    )(x)
    model = keras.Model(inputs, x, name="backbone")
    for v in model.weights:
        v.assign(keras.ops.full(v.shape, 9.0))
    reinitialize(model, 2)
    found = values(model)
    dense = model.get_layer("block2_dense")
    assert dense.kernel.numpy().min() >= 2.0
    assert dense.kernel.numpy().max() <= 3.0
    assert dense.kernel.numpy().std() == pytest.approx(1 / 12**0.5, rel=0.1)
    np.testing.assert_array_equal(dense.bias, 1.0)
    np.testing.assert_array_equal(model.get_layer("block1_norm").gamma, 1.0)
    attention = [value for path, value in found.items() if "block1_attention" in path and "kernel" in path]
    assert len(attention) == 4
    assert all(0 < np.abs(k).max() < 1 for k in attention)
    assert not np.array_equal(attention[0], attention[1])
    np.testing.assert_array_equal(found["block0_dense/kernel"], 9.0)


@pytest.mark.slow
def test_blocks_of_a_savedmodel_start_at_the_scale_of_their_fan_in(folder):
    path = folder / "wide"
    if not path.exists():
        keras.utils.set_random_seed(2)
        x = inputs = keras.Input((16, 16, 3))
        x = keras.layers.Conv2D(64, 3, name="block0_conv")(x)
        x = keras.layers.Conv2D(64, 3, name="block1_conv")(x)
        x = keras.layers.DepthwiseConv2D(3, name="block2_depthwise")(x)
        x = keras.layers.BatchNormalization(name="block2_bn")(x)
        x = keras.layers.Dense(128, name="block3_dense")(keras.layers.GlobalAveragePooling2D()(x))
        savedmodels.reusable(path, keras.Model(inputs, x))
    keras.utils.set_random_seed(5)
    model = tfft.build(tfft.load_backbone(path, batch_norm="train"), heads.classification(("a", "b")))
    tfft.unfreeze(model, "all", batch_norm="train")
    for v in model.weights:
        v.assign(keras.ops.full(v.shape, 9.0))
    names = {v.path.replace(".", "/"): v for v in reinitialize(model, 4)}

    def of(text):
        (found,) = [v.numpy() for name, v in names.items() if text in name]
        return found

    for text, variance in (
        ("block1_conv/kernel", 2 / (9 * 64)),
        ("block2_depthwise/kernel", 2 / 9),
        ("block3_dense/kernel", 1 / 64),
    ):
        kernel = of(text)
        assert kernel.std() == pytest.approx(variance**0.5, rel=0.1), text
        assert abs(kernel.mean()) < 0.1 * variance**0.5, text
        assert np.abs(kernel).max() < 2.3 * variance**0.5, text  # cut at two standard deviations
    for text, value in (("gamma", 1), ("beta", 0), ("moving_mean", 0), ("moving_var", 1), ("block1_conv/bias", 0)):
        np.testing.assert_array_equal(of(text), value, err_msg=text)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["transformer", "lstm", "slim_tf1"])
def test_savedmodels_of_other_kinds(name, folder):
    model = tfft.load_backbone(of_folder(folder, name)).model
    before = values(model)
    reinitialize(model, 1)
    assert changed(model, before) <= variables_of(model, 1)
    assert {p for p in variables_of(model, 1) if "bias" not in p} <= changed(model, before)
    if name == "transformer":
        pooler = select(model, 1)[0].variables[0].numpy()
        assert 0.01 < pooler.std() < 0.03


def of_folder(folder, name):
    if not (folder / name).exists():
        savedmodels.MAKERS[name](folder / name)
    return folder / name


@pytest.mark.nightly
def test_variables_of_unknown_roles_are_refused_together_or_told(folder):
    model = tfft.load_backbone(of_folder(folder, "weight_norm")).model
    before = values(model)
    with pytest.raises(
        PlanError,
        match=r"(?s)initializers of these variables are unknown; pass "
        r"initializers.*/g'.*/v'",
    ):
        reinitialize(model, 1)
    assert not changed(model, before)
    given = {"/v$": keras.initializers.HeNormal(seed=1), "/g$": keras.initializers.Ones()}
    reinitialize(model, 1, initializers=given)
    moved = changed(model, before)
    assert len(moved) == 2
    assert not any("offset" in path for path in moved)  # the publisher keeps it fixed


# ---------------------------------------------------------------------------- statistics


def test_fixed_statistics_need_data_and_become_those_of_the_new_weights():
    model = settled()
    tfft.unfreeze(model, 2)  # BatchNormalization stays fixed
    before = values(model)
    with pytest.raises(
        PlanError, match=r"(?s)would not fit the new weights.*'block1_bn' are fixed: give dataset=.*'block2_bn'"
    ):
        reinitialize(model, 2)
    assert not changed(model, before)
    x, y = examples(40)
    reinitialize(model, 2, dataset=tf.data.Dataset.from_tensor_slices((x, y)).batch(40))
    assert changed(model, before) == variables_of(model, 2)
    backbone = model.get_layer("backbone")
    inner = keras.Model(backbone.inputs, backbone.get_layer("block1_conv").output)
    entering = model.get_layer("preprocess")(x)
    values_ = np.asarray(inner(entering), "float64")
    norm = backbone.get_layer("block1_bn")
    np.testing.assert_allclose(norm.moving_mean, values_.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, values_.var((0, 1, 2)), rtol=1e-4)
    out = keras.Model(backbone.inputs, backbone.get_layer("block2_bn").output)
    normal = np.asarray(out(entering))  # what the last norm gives with fixed statistics is normal, channel by channel
    np.testing.assert_allclose(normal.mean((0, 1, 2)), 0.0, atol=1e-2)
    np.testing.assert_allclose(normal.std((0, 1, 2)), 1.0, rtol=2e-2)


@pytest.mark.nightly
def test_statistics_that_train_start_as_new_or_as_those_of_the_data(folder):
    for model in (settled(), of_savedmodel(folder, batch_norm="train")):
        tfft.unfreeze(model, 2, batch_norm="train")
        reinitialize(model, 1)
        last = {v.path: v.numpy() for v in select(model, 1)[0].variables if "moving" in v.path}
        assert len(last) == 2
        for path, value in last.items():
            np.testing.assert_array_equal(value, float("variance" in path))
        reinitialize(model, 1, dataset=dataset())
        for v in select(model, 1)[0].variables:
            if "moving" in v.path:
                assert np.all(np.isfinite(v.numpy()))
                assert not np.array_equal(v.numpy(), last[v.path])
        compiled(model).fit(dataset(), epochs=1, verbose=0, shuffle=False)


@pytest.mark.nightly
def test_a_savedmodel_with_fixed_statistics_is_refused_with_the_way_out(folder):
    model = tfft.unfreeze(of_savedmodel(folder), 2)
    before = values(model)
    with pytest.raises(PlanError, match=r"opened with batch_norm='fixed'.*load_backbone\(..., batch_norm='train'\)"):
        reinitialize(model, 1, dataset=dataset())
    frozen = of_savedmodel(folder, batch_norm="train")
    with pytest.raises(PlanError, match=r"is frozen, so it computes no statistics: tfft.unfreeze"):
        reinitialize(frozen, 1)
    assert not changed(model, before)


class NoConfig(keras.layers.Layer):
    """Cannot be made again: its constructor needs what its config does not tell."""

    def __init__(self, start, **kwargs):
        super().__init__(**kwargs)
        self.kernel = self.add_weight(shape=start.shape, name="kernel")

    def call(self, x):
        return x * self.kernel


def test_what_cannot_be_reinitialized_is_refused():
    inputs = keras.Input((4,))
    model = keras.Model(
        inputs, NoConfig(np.ones(4), name="odd")(keras.layers.Dense(4, name="first")(inputs)), name="backbone"
    )
    before = take(model.weights)
    with pytest.raises(BlockError, match=r"'odd' \(NoConfig\) cannot be rebuilt"):
        reinitialize(model, 1)
    for blocks in ("all", 0.5, True):
        with pytest.raises(BlockError, match="blocks must be an int"):
            reinitialize(model, blocks)
    with pytest.raises(BlockError, match="last 9 blocks, but the backbone has"):
        reinitialize(model, 9)
    assert same(take(model.weights), before)


@pytest.mark.slow
def test_new_blocks_learn():
    model = tfft.unfreeze(settled(), 2)
    reinitialize(model, 2, dataset=dataset())
    compiled(model, 0.05)
    history = model.fit(dataset(60), epochs=15, verbose=0, shuffle=False).history
    assert history["accuracy"][-1] > 0.6  # a third by chance
