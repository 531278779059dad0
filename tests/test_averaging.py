"""Averages of weights against averages by hand, what callbacks see, statistics, and going on after a stop."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from weight_models import compiled, dataset, examples, of_keras, of_savedmodel, same, set_back

import tfft
from tfft import heads
from tfft.errors import DataError, PlanError
from tfft.features import split_frozen
from tfft.freezing import refresh_batch_norm
from tfft.freezing.weight_values import movable, take
from tfft.weight_averaging import ExponentialMovingAverage, StochasticWeightAveraging

MAKERS = {
    "ema_decay": lambda **more: ExponentialMovingAverage(0.8, **more),
    "swa epochs": lambda **more: StochasticWeightAveraging(0.5, **more),
    "swa steps": lambda **more: StochasticWeightAveraging(0.4, every="step", **more),
}


def new_network(batch_norm="fixed"):
    return compiled(tfft.unfreeze(of_keras(), 2, batch_norm=batch_norm))


def network(batch_norm="fixed"):
    """As new, but one and the same for all tests: `new_network` where two are needed."""
    return set_back(("averaging", batch_norm), lambda: new_network(batch_norm))


def savedmodel(tmp_path_factory, batch_norm="fixed", name="plain_convnet"):
    model = of_savedmodel(tmp_path_factory.getbasetemp(), name, batch_norm=batch_norm)
    return compiled(tfft.unfreeze(model, 2, batch_norm=batch_norm))


class Watch(keras.callbacks.Callback):
    """Notes the weights at every point where something is done with them."""

    def __init__(self):
        super().__init__()
        self.steps, self.starts, self.epochs, self.tests = [], [], [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.starts.append(take(movable(self.model)))

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(take(movable(self.model)))

    def on_test_batch_begin(self, batch, logs=None):
        if batch == 0:
            self.tests.append(take(movable(self.model)))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(take(movable(self.model)))


def fit(model, *callbacks, epochs=4, validation=None, data=None, **more):
    data = dataset() if data is None else data
    more |= {"epochs": epochs, "callbacks": list(callbacks), "verbose": 0, "shuffle": False}
    return model.fit(data, validation_data=validation, **more)


def close(first, second, **tolerance):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-6, **tolerance})


def by_hand(start, steps, decay, ramp):
    average, after = [a.astype("float64") for a in start], []
    for n, values in enumerate(steps, 1):
        d = min(decay, (1 + n) / (10 + n)) if ramp else decay
        average = [d * a + (1 - d) * v for a, v in zip(average, values, strict=True)]
        after.append(average)
    return after


@pytest.mark.daily("keras-False-fixed")
@pytest.mark.parametrize(
    ("kind", "ramp", "batch_norm"),
    [
        ("keras", True, "train"),
        ("keras", False, "fixed"),
        ("savedmodel", True, "fixed"),
        ("savedmodel", False, "train"),
    ],
)
def test_the_exponential_average_is_that_by_hand(kind, ramp, batch_norm, tmp_path_factory):
    model = network(batch_norm) if kind == "keras" else savedmodel(tmp_path_factory, batch_norm)
    start, watch, average = take(movable(model)), Watch(), ExponentialMovingAverage(0.6, ramp=ramp)
    history = fit(model, average, watch, validation=dataset(seed=9))
    expected = by_hand(start, watch.steps, 0.6, ramp)
    assert average.updates == len(watch.steps) == 12
    for i in range(4):
        close(watch.tests[i], expected[3 * i + 2])
        assert same(watch.epochs[i], watch.tests[i])
    assert same(take(movable(model)), watch.epochs[-1])
    assert max(np.abs(a - b).max() for a, b in zip(watch.epochs[-1], watch.steps[-1], strict=True)) > 1e-4
    again = model.evaluate(dataset(seed=9), verbose=0, return_dict=True)
    assert history.history["val_loss"][-1] == pytest.approx(again["loss"], rel=1e-6)


@pytest.mark.daily("False-swa steps")
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("validation", [True, False])
def test_training_goes_on_as_if_nothing_were_averaged(name, validation):
    seen = []
    for callbacks in ([], [MAKERS[name]()]):
        watch = Watch()
        fit(network("train"), *callbacks, watch, validation=dataset(seed=9) if validation else None)
        seen.append(watch)
    plain, averaged = seen
    assert all(same(a, b) for a, b in zip(plain.steps, averaged.steps, strict=True))  # bit by bit
    assert all(same(a, b) for a, b in zip(plain.starts, averaged.starts, strict=True))
    assert not same(plain.epochs[-1], averaged.epochs[-1])


@pytest.mark.daily("True")
@pytest.mark.parametrize("first", [True, False])
def test_with_validation_every_callback_sees_the_average_at_the_end_of_an_epoch(first, tmp_path):
    model, watch = network(), Watch()
    path = str(tmp_path / "{epoch}.weights.h5")
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    average = ExponentialMovingAverage(0.8)
    fit(model, *([average, save, watch] if first else [save, watch, average]), validation=dataset(seed=9))
    final = model.get_weights()
    model.load_weights(path.format(epoch=4))
    assert same(model.get_weights(), final)
    assert not same(watch.epochs[1], watch.steps[5])


@pytest.mark.slow
def test_first_in_the_list_it_is_seen_without_validation_too(tmp_path):
    model, path = network(), str(tmp_path / "{epoch}.weights.h5")
    fit(model, ExponentialMovingAverage(0.8), keras.callbacks.ModelCheckpoint(path, save_weights_only=True))
    final = model.get_weights()
    model.load_weights(path.format(epoch=4))
    assert same(model.get_weights(), final)


def test_a_training_that_ends_early_ends_with_the_average():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    model, watch = network(), Watch()
    start = take(movable(model))
    fit(model, ExponentialMovingAverage(0.8), watch, Stop(), validation=dataset(seed=9))
    assert len(watch.steps) == 6
    close(take(movable(model)), by_hand(start, watch.steps, 0.8, True)[-1])


def test_weights_that_another_callback_brings_back_stay():
    model = network()
    best = keras.callbacks.EarlyStopping("val_loss", restore_best_weights=True, patience=9)
    watch = Watch()
    history = fit(model, ExponentialMovingAverage(0.5), watch, best, validation=dataset(seed=9), epochs=5)
    at = int(np.argmin(history.history["val_loss"]))
    assert same(take(movable(model)), watch.epochs[at])


@pytest.mark.nightly
def test_a_look_at_the_average_in_the_middle_of_an_epoch_does_not_disturb_training():
    class Look(Watch):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            if batch == 1 and average is not None:
                self.model.evaluate(dataset(seed=9), verbose=0, callbacks=[average])
                self.epochs.append(take(movable(self.model)))

    seen = []
    for average in (None, ExponentialMovingAverage(0.8)):
        look = Look()
        fit(network(), *([] if average is None else [average]), look)
        seen.append(look)
    assert all(same(a, b) for a, b in zip(seen[0].steps, seen[1].steps, strict=True))
    assert not same(seen[1].epochs[0], seen[1].steps[1])


@pytest.mark.nightly
def test_a_part_of_the_model_is_averaged_like_the_whole():
    x, y = examples()
    results = []
    for whole in (True, False):
        model = new_network()
        part, data = model, tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
        if not whole:
            prefix, part = split_frozen(model)
            features = prefix.predict(x, verbose=0)
            data = tf.data.Dataset.from_tensor_slices((features, y)).batch(8)
            compiled(part)
        fit(part, ExponentialMovingAverage(0.7), data=data, validation=data)
        results.append(model.get_weights())
    close(*results)


@pytest.mark.nightly
def test_averages_of_equal_models_are_the_model():
    for name, make in MAKERS.items():
        model = network()
        model.optimizer.learning_rate = 0.0
        before, average = model.get_weights(), make()
        fit(model, average)
        assert average.updates > 0, name
        assert same(model.get_weights(), before), name


@pytest.mark.representative("False-0.01-epoch-taken1")
@pytest.mark.parametrize(
    ("share", "every", "taken"),
    [(0.5, "epoch", [8, 11]), (0.01, "epoch", [11]), (1.0, "epoch", [2, 5, 8, 11]),
     (0.25, "step", [9, 10, 11]), (1.0, "step", list(range(12)))],
)  # fmt: skip
@pytest.mark.parametrize("validation", [True, False])
def test_the_last_part_of_the_training_is_averaged_equally(share, every, taken, validation):
    model, watch, average = network("train"), Watch(), StochasticWeightAveraging(share, every=every)
    fit(model, average, watch, validation=dataset(seed=9) if validation else None)
    expected = [
        np.mean([watch.steps[i][k] for i in taken], axis=0, dtype="float64") for k in range(len(watch.steps[0]))
    ]
    assert average.updates == len(taken)
    close(take(movable(model)), expected)
    assert same(watch.epochs[-1], take(movable(model)))
    if validation:
        assert same(watch.tests[-1], watch.epochs[-1])
        assert same(watch.tests[0], watch.steps[2]) == (taken[0] > 2 or len(taken) == 4)


def test_a_training_stopped_before_the_last_part_keeps_its_weights():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    model, average, watch = network(), StochasticWeightAveraging(0.25), Watch()
    fit(model, average, watch, Stop())
    assert average.updates == 0
    assert same(take(movable(model)), watch.steps[-1])


class Die(keras.callbacks.Callback):
    """Keeps what a run would write to disk at the end of an epoch, then ends the process, as it were."""

    def __init__(self, average, epoch):
        super().__init__()
        self.average, self.epoch = average, epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.state = self.average.get_state()
            self.optimizer = take(self.model.optimizer.variables)
            self.weights = self.model.get_weights()
            raise KeyboardInterrupt


@pytest.mark.daily("0-False-ema_decay")
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("at", "validation"), [(0, False), (2, True)])
def test_a_run_that_was_killed_goes_on_bit_by_bit(name, at, validation):
    held_out = dataset(seed=9) if validation else None
    whole, watch = network("train"), Watch()
    fit(whole, MAKERS[name](), watch, validation=held_out)
    wanted = whole.get_weights()

    model, average = new_network("train"), MAKERS[name]()
    die = Die(average, at)
    with pytest.raises(KeyboardInterrupt):
        fit(model, average, die, validation=held_out)
    for value in die.state.values():
        assert isinstance(value, (int, float, np.ndarray))

    model, average, again = network("train"), MAKERS[name](), Watch()
    model.set_weights(die.weights)  # what the model held: the average
    model.optimizer.build(model.trainable_variables)
    for variable, value in zip(model.optimizer.variables, die.optimizer, strict=True):
        variable.assign(value)
    average.set_state(die.state)
    fit(model, average, again, validation=held_out, initial_epoch=at + 1)
    assert all(same(a, b) for a, b in zip(again.steps, watch.steps[3 * at + 3 :], strict=True))
    assert same(model.get_weights(), wanted)


@pytest.mark.slow
def test_the_state_of_another_model_is_refused():
    average = ExponentialMovingAverage()
    fit(network(), average, epochs=1)
    state = average.get_state()
    other = ExponentialMovingAverage()
    other.set_state(state)
    with pytest.raises(
        PlanError, match=r"state of the average is that of another model.*holds \d+ variables, here \d+"
    ):
        fit(compiled(tfft.unfreeze(of_keras(), 1)), other, epochs=1)
    state["average/00000"] = np.zeros((2, 2), "float32")
    other.set_state(state)
    with pytest.raises(PlanError, match=r"has the shape .* the state holds \(2, 2\)"):
        fit(network(), other, epochs=1)


def test_settings_out_of_range_are_refused():
    with pytest.raises(PlanError, match="decay must be a number from 0 to below 1, received 1"):
        ExponentialMovingAverage(1)
    with pytest.raises(
        PlanError, match="(?s)share must be.*received 0.*every must be one of epoch, step, received 'batch'"
    ):
        StochasticWeightAveraging(0, every="batch")
    model = tfft.unfreeze(of_keras(), 2)
    model.compile("sgd", **heads.from_model(model).compile_args(), steps_per_execution=3)
    with pytest.raises(PlanError, match="steps_per_execution=3"):
        fit(model, ExponentialMovingAverage())
    unknown = dataset().filter(lambda x, y: True)
    with pytest.raises(PlanError, match="does not say how long it is"):
        fit(network(), StochasticWeightAveraging(every="step"), data=unknown)


@pytest.mark.slow
def test_half_precision_is_averaged_in_float32():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, dtype="bfloat16", use_bias=False)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    average = ExponentialMovingAverage(0.999, ramp=False)
    kernel = model.layers[0].kernel
    kernel.assign([[1.0], [1.0]])

    class Move(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            kernel.assign([[2.0], [2.0]])

    x = np.zeros((200, 2), "float32")
    model.fit(x, x[:, :1], batch_size=1, callbacks=[average, Move()], verbose=0)
    expected = 2 - 0.999**200  # in bfloat16 a step of 0.001 would be lost, and the average stay at 1
    assert float(average.get_state()["average/00000"][0, 0]) == pytest.approx(expected, rel=1e-4)


# ---------------------------------------------------------------------------- statistics


def moments(values):
    axes = tuple(range(values.ndim - 1))
    return values.mean(axes, dtype="float64"), values.var(axes, dtype="float64")


def two_norms():
    keras.utils.set_random_seed(2)
    x = inputs = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(4, 3, name="conv0")(x)
    x = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization(name="bn0")(x))
    x = keras.layers.Conv2D(3, 3, name="conv1")(keras.layers.ReLU()(x))
    x = keras.layers.BatchNormalization(name="bn1", scale=False)(x)
    return keras.Model(inputs, x)


def test_statistics_are_those_of_a_pass_over_the_data_by_numpy():
    model, x = two_norms(), np.random.default_rng(0).normal(3, 2, (20, 8, 8, 2)).astype("float32")
    batches = [x[:8], x[8:16], x[16:]]  # the last one is smaller, and its examples count as much
    first = np.concatenate([model.get_layer("conv0")(b).numpy() for b in batches])
    inside = []
    for b in batches:
        values = model.get_layer("conv0")(b).numpy().astype("float64")
        mean, variance = moments(values)
        inside.append(model.get_layer("conv1")(np.maximum((values - mean) / np.sqrt(variance + 1e-3), 0)).numpy())
    data = tf.data.Dataset.from_tensor_slices((x, np.zeros(20))).batch(8)
    others = [v.numpy() for v in model.trainable_variables]
    changed = refresh_batch_norm(model, data)
    for name, values in (("bn0", first), ("bn1", np.concatenate(inside))):
        norm = model.get_layer(name)
        close([norm.moving_mean.numpy(), norm.moving_variance.numpy()], moments(values), rtol=1e-5)
    assert [v.path for v in changed] == [f"bn{k}/moving_{w}" for k in (0, 1) for w in ("mean", "variance")]
    assert same([v.numpy() for v in model.trainable_variables], others)
    after = model.get_weights()
    refresh_batch_norm(model, data)  # the statistics from before play no part
    close(model.get_weights(), after, rtol=1e-6)
    reference = keras.models.clone_model(model)  # the layers work as before: same outputs as a fresh model's
    reference.set_weights(model.get_weights())
    np.testing.assert_array_equal(reference(x, training=False), model(x, training=False))


def test_only_layers_that_train_their_statistics_are_refreshed():
    model = two_norms()
    model.get_layer("bn0").trainable = False
    before = take(model.get_layer("bn0").weights)
    data = tf.data.Dataset.from_tensor_slices(np.ones((4, 8, 8, 2), "float32")).batch(2)  # no labels needed
    assert [v.path for v in refresh_batch_norm(model, data)] == ["bn1/moving_mean", "bn1/moving_variance"]
    assert same(take(model.get_layer("bn0").weights), before)
    model.trainable = False
    assert refresh_batch_norm(model, data) == []


def test_masked_positions_do_not_count():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 3))
    norm = keras.layers.BatchNormalization()
    model = keras.Model(inputs, norm(keras.layers.Masking()(inputs)))
    x = np.random.default_rng(0).normal(1, 1, (6, 5, 3)).astype("float32")
    x[::2, 3:] = 0.0
    refresh_batch_norm(model, tf.data.Dataset.from_tensor_slices(x).batch(4))
    kept = x.reshape(-1, 3)[np.any(x.reshape(-1, 3), axis=1)]
    close([norm.moving_mean.numpy(), norm.moving_variance.numpy()], moments(kept))


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["plain_convnet", "residual"])
def test_statistics_of_an_opened_savedmodel_are_those_of_the_data(name, tmp_path_factory):
    model = savedmodel(tmp_path_factory, "train", name)
    x, y = examples(22)
    rest = {v.path: v.numpy() for v in model.weights if v.trainable or "moving" not in v.path}
    statistics = movable(model)[len(model.trainable_variables) :]

    def refreshed(*batches):
        data = tf.data.Dataset.from_generator(
            lambda: ((x[b], y[b]) for b in batches), output_signature=dataset().element_spec
        )
        assert {v.path for v in refresh_batch_norm(model, data)} == {v.path for v in statistics}
        return {v.path: v.numpy() for v in statistics}

    parts = slice(0, 16), slice(16, 22)
    whole, both, first, second = (refreshed(*b) for b in ([slice(0, 22)], parts, parts[:1], parts[1:]))
    assert all(np.array_equal(v.numpy(), rest[v.path]) for v in model.weights if v.path in rest)
    for path in both:
        expected = (16 * first[path] + 6 * second[path]) / 22
        if "variance" in path:
            mean = path.replace("variance", "mean")
            expected += 16 * 6 / 22**2 * (first[mean] - second[mean]) ** 2
        np.testing.assert_allclose(both[path], expected, rtol=1e-3, atol=1e-6, err_msg=path)
    # Where the publisher's own moving averages end up that see the same batch again and again.
    step = tf.function(lambda: model(x, training=True))
    for _ in range(1000):
        step()
    for v in statistics:
        np.testing.assert_allclose(whole[v.path], v.numpy(), rtol=1e-3, atol=1e-5, err_msg=v.path)


def test_data_that_cannot_be_used_is_refused():
    model = two_norms()
    x = tf.data.Dataset.from_tensor_slices(np.ones((4, 8, 8, 2), "float32")).batch(2)
    before = model.get_weights()
    with pytest.raises(DataError, match="never ends"):
        refresh_batch_norm(model, x.repeat())
    with pytest.raises(DataError, match="holds no batch"):
        refresh_batch_norm(model, x.take(0))
    with pytest.raises(DataError, match="Expected a tf.data.Dataset of batches, received ndarray"):
        refresh_batch_norm(model, np.ones((4, 8, 8, 2)))
    assert same(model.get_weights(), before)


@pytest.mark.nightly
def test_the_average_gets_statistics_of_its_own_where_data_is_given():
    model, data = network("train"), dataset()
    watch = Watch()
    fit(model, StochasticWeightAveraging(0.5, refresh=data), watch, validation=dataset(seed=9))
    weights = model.get_weights()
    assert same(watch.tests[-1], take(movable(model)))
    assert refresh_batch_norm(model, data)
    assert same(model.get_weights(), weights)  # they were fresh already
    plain = new_network("train")
    fit(plain, StochasticWeightAveraging(0.5))
    trains = len(plain.trainable_variables)
    close(take(movable(plain))[:trains], take(movable(model))[:trains])
    assert not np.allclose(take(movable(plain))[trains], take(movable(model))[trains])
