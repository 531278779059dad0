"""L2-SP on real small models: the gradient, both limits, shared variables, files, and that it comes off."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from weight_models import examples, of_keras, of_savedmodel

import tfft
from tfft import heads
from tfft.errors import BlockError, PlanError
from tfft.features import split_frozen
from tfft.freezing.weight_values import take
from tfft.regularizers import L2SP, add_l2_sp, remove_l2_sp

RNG = np.random.default_rng(4)


@pytest.fixture(params=["keras", "savedmodel"])
def model(request, tmp_path_factory):
    if request.param == "keras":
        return tfft.unfreeze(of_keras(), 2)
    return tfft.unfreeze(of_savedmodel(tmp_path_factory.getbasetemp()), 2)  # its publisher regularizes every kernel


def fit(model, rate=0.01, epochs=1, data=None):
    model.compile(keras.optimizers.SGD(rate), **heads.from_model(model).compile_args())
    x, y = examples() if data is None else data
    model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return model


def backbone_variables(model):
    head = {id(v) for v in model.get_layer("logits").weights}
    return [v for v in model.trainable_variables if id(v) not in head]


def shift(variables, by=0.05):
    rng = np.random.default_rng(1)
    for v in variables:
        v.assign_add(rng.normal(0, by, v.shape).astype("float32"))


def test_the_gradient_is_the_distance_times_the_strength_exactly():
    start = RNG.normal(size=(3, 4)).astype("float32")
    variable = keras.Variable(start + RNG.normal(size=(3, 4)).astype("float32"))
    with tf.GradientTape() as tape:
        penalty = L2SP(start, 0.3)(variable)
    expected = np.float32(0.3) * (variable.numpy() - start)
    np.testing.assert_array_equal(tape.gradient(penalty, variable.value), expected)
    assert float(penalty) == pytest.approx(0.15 * np.sum((variable.numpy().astype("float64") - start) ** 2))


def test_keras_adds_the_gradient_up_for_every_trainable_variable_of_the_backbone(model):
    variables = backbone_variables(model)
    start = take(variables)

    def gradients():
        x = tf.constant(examples(4)[0])
        with tf.GradientTape() as tape:
            out = model(x, training=False)
            loss = 0.0 * tf.reduce_sum(out) + tf.add_n(model.losses) if model.losses else 0.0 * tf.reduce_sum(out)
        found = tape.gradient(loss, [v.value for v in variables])
        return [np.zeros(v.shape, "float32") if g is None else g.numpy() for v, g in zip(variables, found, strict=True)]

    shift(variables)
    without = gradients()
    pulled = add_l2_sp(model, 0.3, start=dict(zip([v.path for v in variables], start, strict=True)))
    assert [v.path for v in pulled.variables] == [v.path for v in variables]
    for v, old, own, new in zip(variables, start, without, gradients(), strict=True):
        np.testing.assert_allclose(new - own, 0.3 * (v.numpy() - old), rtol=1e-4, atol=1e-7, err_msg=v.path)
    distance = np.sqrt(sum(np.sum((v.numpy() - old) ** 2.0) for v, old in zip(variables, start, strict=True)))
    assert pulled.distance() == pytest.approx(distance, rel=1e-5)


@pytest.mark.nightly
def test_a_strong_pull_keeps_the_backbone_and_trains_the_head_like_a_probe(model):
    variables, head = backbone_variables(model), model.get_layer("logits").weights
    start, data, kept = take(variables), examples(), model.get_weights()
    head_start = take(head)

    def trained(strength):
        model.set_weights(kept)
        with add_l2_sp(model, strength):
            fit(model, 1e-3, 20, data)
        return moves(variables, start), moves(head, head_start)

    free, _ = trained(0.0)
    held, with_pull = trained(1e3)  # rate times strength is 1: each step ends one gradient away from the anchor
    model.set_weights(kept)
    tfft.freeze(model)
    fit(model, 1e-3, 20, data)
    probe = moves(head, head_start)
    assert np.abs(held).max() < 0.1 * np.abs(free).max()
    np.testing.assert_allclose(with_pull, probe, atol=0.02 * np.abs(probe).max())


def moves(variables, start):
    return np.concatenate([(v.numpy() - old).ravel() for v, old in zip(variables, start, strict=True)])


@pytest.mark.daily("keras")
def test_strength_zero_changes_nothing(model):
    kept, data = model.get_weights(), examples()
    without = fit(model, data=data).get_weights()
    model.set_weights(kept)
    with add_l2_sp(model, 0.0):
        with_zero = fit(model, data=data).get_weights()
    for a, b in zip(without, with_zero, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert max(np.abs(a - b).max() for a, b in zip(without, kept, strict=True)) > 1e-4


@pytest.mark.daily("keras")
def test_a_part_that_shares_the_variables_is_pulled_and_trains_the_same(model):
    x, y = examples()
    variables, kept = backbone_variables(model), model.get_weights()
    pulled = add_l2_sp(model, 50.0)
    prefix, suffix = split_frozen(model)
    shift(variables)
    moved = model.get_weights()
    far = pulled.distance()
    whole = fit(model, data=(x, y)).get_weights()
    assert pulled.distance() < 0.5 * far
    model.set_weights(moved)
    suffix.compile(keras.optimizers.SGD(0.01), **heads.from_model(model).compile_args())
    suffix.fit(prefix.predict(x, verbose=0), y, batch_size=8, shuffle=False, verbose=0)
    for a, b, old in zip(whole, model.get_weights(), kept, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert a.shape == old.shape


@pytest.mark.daily("keras")
def test_a_function_that_was_traced_before_does_not_go_on_without_the_pull(model):
    fit(model)
    variables = backbone_variables(model)
    pulled = add_l2_sp(model, 50.0)
    shift(variables)
    far, data = pulled.distance(), examples()
    model.fit(*data, batch_size=8, verbose=0)  # not compiled again
    assert pulled.distance() < 0.5 * far
    remove_l2_sp(model)
    shift(variables)
    before = take(variables)
    model.fit(*data, batch_size=8, verbose=0)
    assert np.abs(moves(variables, before)).max() < 0.05


def test_release_gives_back_the_very_regularizers_that_were_there():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    own = keras.regularizers.L2(0.5)
    dense = keras.layers.Dense(3, kernel_regularizer=own, name="first")
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(dense(inputs)))
    add_l2_sp(model, 0.1)
    add_l2_sp(model, 0.2, variables=[dense.kernel])  # replaces the first, on all variables
    assert [v.regularizer is not None for v in model.weights] == [True, False, False, False]
    dense.kernel.assign_add(keras.ops.ones_like(dense.kernel))
    w = dense.kernel.numpy()
    assert float(model.losses[0]) == pytest.approx(0.5 * np.sum(w**2) + 0.1 * w.size, rel=1e-5)
    assert remove_l2_sp(model) == 1
    assert dense.kernel.regularizer is own
    assert [v.regularizer for v in model.weights[1:]] == [None] * 3
    assert remove_l2_sp(model) == 0


def test_an_anchored_model_is_saved_without_the_pull_and_with_the_publishers_regularizers(model, tmp_path):
    losses = len(model.losses)
    x = examples(4)[0]
    with add_l2_sp(model, 0.5):
        shift(backbone_variables(model))
        model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert all(v.regularizer is None for v in loaded.weights)
    assert len(loaded.losses) == losses
    np.testing.assert_array_equal(loaded(x), model(x))
    assert (tmp_path / "m.keras").stat().st_size < 300_000


def test_the_regularizer_alone_goes_through_a_file(tmp_path):
    start = RNG.normal(size=(4, 2)).astype("float32")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2, kernel_regularizer=L2SP(start, 0.25))(inputs))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    again = loaded.layers[-1].kernel.regularizer
    assert isinstance(again, L2SP)
    assert again.strength == 0.25
    np.testing.assert_array_equal(again.anchor, start)
    assert remove_l2_sp(loaded) == 0  # it is the user's own


def test_single_blocks(model):
    last = tfft.freezing.select(model, 1)[0]
    pulled = add_l2_sp(model, 0.1, blocks=1)
    assert {v.path for v in pulled.variables} == {v.path for v in last.layers[0].trainable_weights}


def test_what_cannot_be_anchored_is_refused(model):
    with pytest.raises(PlanError, match="strength must be a finite number of 0 or more, received -1"):
        add_l2_sp(model, -1)
    with pytest.raises(PlanError, match="NaN or infinite"):
        L2SP([1.0, np.nan], 0.1)
    with pytest.raises(BlockError, match="matches no block"):
        add_l2_sp(model, 0.1, blocks="nothing")
    with pytest.raises(PlanError, match=r"the model has no variable 'logits/kernal'. Did you mean 'logits/kernel'"):
        add_l2_sp(model, 0.1, start={"logits/kernal": np.zeros((1, 2))})
    stranger = keras.Variable([1.0], name="stranger")
    frozen = [v for v in model.weights if not v.trainable][0]
    with pytest.raises(PlanError, match=r"(?s)not of .*stranger.*do not train.*" + frozen.path):
        add_l2_sp(model, 0.1, variables=[stranger, frozen])
    tfft.freeze(model)
    with pytest.raises(PlanError, match="Nothing trains in the chosen blocks"):
        add_l2_sp(model, 0.1)
    assert remove_l2_sp(model) == 0
