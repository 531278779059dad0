"""Batches trained in parts: the weights of whole batches, and a refusal where that cannot be."""

import math

import keras
import numpy as np
import pytest
import savedmodels
import tensorflow as tf

from tfft import heads
from tfft.backbones.base import Backbone
from tfft.backbones.savedmodel import open_savedmodel
from tfft.config import Phase
from tfft.errors import PlanError
from tfft.freezing import unfreeze
from tfft.models import build
from tfft.specs import InputSpec
from tfft.training import microbatched, train

L = keras.layers
CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
HEAD = heads.classification(["dark", "bright"], dropout=0.0, l2=0.01)


@keras.saving.register_keras_serializable(package="test_parts")
class Watcher(L.Layer):
    """Adds a loss, and remembers the most examples that it saw at a time."""

    def build(self, shape):
        self.most = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="most")

    def call(self, x):
        self.add_loss(0.1 * keras.ops.mean(x**2))
        self.most.assign(keras.ops.maximum(self.most, keras.ops.shape(x)[0]))
        return x


def network():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 1))
    decay = keras.regularizers.L2(0.1)
    x = L.Conv2D(4, 3, kernel_regularizer=decay, activity_regularizer=keras.regularizers.L2(0.01), name="conv")(inputs)
    x = L.Flatten()(Watcher(name="watcher")(L.ReLU()(x)))
    return keras.Model(inputs, L.Dense(2, name="logits")(x))


def photos(n=50, batch=16, shape=(8, 8, 1), weights=True):
    rng = np.random.default_rng(0)
    y = (np.arange(n) % 2).astype("int32")
    x = (rng.random((n, *shape)) + 0.5 * y.reshape(-1, *[1] * len(shape))).astype("float32")
    columns = (x, y, rng.random(n).astype("float32")) if weights else (x, y)
    return tf.data.Dataset.from_tensor_slices(columns).batch(batch)  # 50 by 16: the last batch has 2


def fitted(model, data, *, microbatch_size=None, epochs=3, optimizer=None, **compiling):
    """Trains a model, in parts or not; returns what was learned and the last epoch's logs."""
    trained = model if microbatch_size is None else microbatched(model, microbatch_size)
    optimizer = optimizer or keras.optimizers.SGD(0.05, momentum=0.9)  # unlike Adam it sees how large a gradient is
    trained.compile(optimizer, **{"loss": CROSSENTROPY, **compiling})
    history = trained.fit(data, epochs=epochs, verbose=0, shuffle=False).history
    values = {v.path: keras.ops.convert_to_numpy(v) for v in model.trainable_variables}
    return values, {name: column[-1] for name, column in history.items()}


def difference(a, b):
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


@pytest.mark.daily("6-False")
@pytest.mark.parametrize(
    ("microbatch_size", "jit"), [(1, False), (6, False), (16, False), (99, False), (5, True), (8, True)]
)
def test_weights_losses_and_metrics_are_those_of_whole_batches(microbatch_size, jit):
    def metrics():
        return {"metrics": ["accuracy"], "weighted_metrics": [keras.metrics.SparseCategoricalCrossentropy(name="ce")]}

    start = {v.path: v.numpy() for v in network().trainable_variables}
    whole, logs = fitted(network(), photos(), **metrics())
    model = network()
    parts, parts_logs = fitted(model, photos(), microbatch_size=microbatch_size, jit_compile=jit, **metrics())
    assert difference(start, whole) > 0.05
    assert difference(whole, parts) < 1e-5
    assert parts_logs == pytest.approx(logs, rel=1e-5)
    of_16 = math.ceil(16 / math.ceil(16 / microbatch_size))  # parts of equal size, where XLA does not want full ones
    assert int(model.get_layer("watcher").most.numpy()) == (microbatch_size if jit else of_16)


@pytest.mark.nightly
def test_accumulating_in_the_optimizer_is_not_the_same():
    whole, _ = fitted(network(), photos(), optimizer=keras.optimizers.SGD(0.05))
    collected, _ = fitted(
        network(), photos(batch=4), optimizer=keras.optimizers.SGD(0.05, gradient_accumulation_steps=4)
    )
    parts, _ = fitted(network(), photos(), microbatch_size=4, optimizer=keras.optimizers.SGD(0.05))
    assert difference(whole, parts) < 1e-5
    assert difference(whole, collected) > 1e-3  # the batch of 2 at the end, and groups over the ends of epochs


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Opens a small SavedModel under a head, all of it trainable."""
    folder = tmp_path_factory.mktemp("savedmodels")

    def make(name):
        if not (folder / name).exists():
            savedmodels.MAKERS[name](folder / name)
        keras.utils.set_random_seed(2)
        net = open_savedmodel(folder / name).model
        spec = InputSpec(32, 32, source="the test") if name in ("plain_convnet", "residual") else None
        model = build(Backbone(name, net, "test", spec), HEAD)
        return unfreeze(model, "all", batch_norm="fixed" if spec else None)

    return make


def examples(name):
    rng = np.random.default_rng(3)
    y = (np.arange(22) % 2).astype("int32")
    if name == "transformer":
        ids = rng.integers(0, 25, (22, 6)) + 25 * y[:, None]
        x = {"input_word_ids": ids.astype("int32"), "input_mask": np.ones((22, 6), "int32")}
    elif name == "lstm":
        x = rng.normal(size=(22, 4, 5)).astype("float32") + y[:, None, None]
    else:
        x = rng.integers(0, 128, (22, 32, 32, 3)).astype("uint8") + (100 * y[:, None, None, None]).astype("uint8")
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(8)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["plain_convnet", "residual", "transformer", "lstm"])
def test_an_opened_savedmodel_trains_the_same_in_parts(opened, name):
    start = {v.path: v.numpy() for v in opened(name).trainable_variables}
    whole, logs = fitted(opened(name), examples(name), **HEAD.compile_args())
    parts, parts_logs = fitted(opened(name), examples(name), microbatch_size=3, **HEAD.compile_args())
    moved = [path for path in start if not np.array_equal(start[path], whole[path])]
    assert len(moved) > len(start) / 2
    assert difference(whole, parts) < 1e-5
    assert parts_logs == pytest.approx(logs, rel=1e-4)


def two_outputs():
    keras.utils.set_random_seed(4)
    ids, number = keras.Input((3,), dtype="int32", name="ids"), keras.Input((2,), name="number")
    x = L.Concatenate()([L.Flatten()(L.Embedding(9, 4, name="table")(ids)), number])
    unused = L.Dense(2, name="unused")(x)
    outputs = {"kind": L.Dense(2, name="kind")(x), "size": L.Dense(1, name="size")(x), "unused": unused}
    return keras.Model({"ids": ids, "number": number}, outputs)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")  # what Keras says of whole batches too
def test_named_inputs_and_outputs_sparse_gradients_and_variables_that_nothing_reaches():
    rng = np.random.default_rng(5)
    x = {"ids": rng.integers(0, 9, (20, 3)).astype("int32"), "number": rng.random((20, 2)).astype("float32")}
    y = {"kind": (np.arange(20) % 2).astype("int32"), "size": rng.random((20, 1)).astype("float32")}
    data = tf.data.Dataset.from_tensor_slices((x, {**y, "unused": np.zeros((20, 2), "float32")})).batch(8)
    losses = {"kind": CROSSENTROPY, "size": "mse", "unused": None}
    compiling = {
        "loss": losses,
        "loss_weights": {"kind": 1.0, "size": 3.0, "unused": 1.0},
        "metrics": {"kind": "accuracy"},
    }

    def decaying():  # decays what has a gradient
        return keras.optimizers.SGD(0.05, weight_decay=0.1)

    whole, logs = fitted(two_outputs(), data, optimizer=decaying(), **compiling)
    parts, parts_logs = fitted(two_outputs(), data, optimizer=decaying(), microbatch_size=2, **compiling)
    assert difference(whole, parts) < 1e-5
    assert parts_logs["loss"] == pytest.approx(logs["loss"], rel=1e-5)
    assert parts_logs["kind_accuracy"] == logs["kind_accuracy"] > 0
    # Keras counts a last, smaller batch in full in the losses per output; those of equal parts add up.
    assert parts_logs["kind_loss"] + 3 * parts_logs["size_loss"] == pytest.approx(logs["loss"], rel=1e-5)


@pytest.mark.nightly
def test_the_loss_is_scaled_in_half_precision():
    def half():
        keras.config.set_dtype_policy("mixed_float16")
        try:
            keras.utils.set_random_seed(1)
            inputs = keras.Input((8, 8, 1))
            x = L.Flatten()(L.Conv2D(4, 3, activation="relu", name="conv")(inputs))
            return keras.Model(inputs, L.Dense(2, dtype="float32", name="logits")(x))
        finally:
            keras.config.set_dtype_policy("float32")

    model = half()
    parts = microbatched(model, 4)
    parts.compile("sgd", loss=CROSSENTROPY)
    assert isinstance(parts.optimizer, keras.optimizers.LossScaleOptimizer)
    start = {v.path: v.numpy() for v in model.trainable_variables}
    whole, _ = fitted(half(), photos())
    cut, _ = fitted(half(), photos(), microbatch_size=4)
    assert difference(start, whole) > 0.02
    assert difference(whole, cut) < 1e-3  # float16 has three digits


@pytest.mark.nightly
def test_phases_can_be_trained_in_parts():
    data = photos(shape=(32, 32, 3), weights=False)
    histories, weights = [], []
    for size in (None, 5):
        keras.utils.set_random_seed(6)
        x = inputs = keras.Input((32, 32, 3))
        for k in range(2):
            x = L.ReLU(name=f"block{k}_relu")(L.Conv2D(4, 3, 2, name=f"block{k}_conv")(x))
        model = build(Backbone("tiny", keras.Model(inputs, x), "test", InputSpec(32, 32, source="the test")), HEAD)
        phases = [Phase("frozen", "none", 2, 1e-2), Phase("fine-tune", 1, 2, 1e-3)]
        histories.append(train(model, data, data, phases, microbatch_size=size, verbose=False))
        weights.append({v.path: v.numpy() for v in model.weights})
        assert isinstance(model, keras.Model)
        assert type(model).__name__ == "PixelModel"
    assert difference(*weights) < 1e-4
    assert histories[1].rows[-1]["val_loss"] == pytest.approx(histories[0].rows[-1]["val_loss"], rel=1e-3)
    assert histories[1].audits["fine-tune"].trainable == 4


@pytest.mark.slow
def test_saving_the_parts_saves_the_model(tmp_path):
    model = network()
    parts = microbatched(model, 4)
    parts.compile("sgd", loss=CROSSENTROPY)
    parts.fit(photos(), verbose=0, shuffle=False, callbacks=[keras.callbacks.ModelCheckpoint(tmp_path / "m.keras")])
    again = keras.models.load_model(tmp_path / "m.keras")
    assert all(np.array_equal(a, b) for a, b in zip(again.get_weights(), model.get_weights(), strict=True))
    assert type(again).__name__ == "Functional"


def normalized():
    inputs = keras.Input((8, 8, 1))
    x = L.BatchNormalization(name="norm")(L.Conv2D(4, 3, name="conv")(inputs))
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))


@pytest.mark.slow
def test_statistics_of_parts_are_refused_unless_they_are_wanted():
    with pytest.raises(PlanError, match=r"1 layers with BatchNormalization train: norm\..*batch_norm='parts'"):
        fitted(normalized(), photos(), microbatch_size=4)
    model = normalized()
    model.get_layer("norm").trainable = False
    fitted(model, photos(), microbatch_size=4)
    model = normalized()
    parts = microbatched(model, 4, batch_norm="parts")
    parts.compile("sgd", loss=CROSSENTROPY)
    parts.fit(photos(), verbose=0, shuffle=False)
    assert model.get_layer("norm").moving_mean.numpy().any()


@pytest.mark.nightly
def test_an_opened_block_that_moves_statistics_is_refused(tmp_path):
    savedmodels.plain_convnet(tmp_path / "net")
    net = open_savedmodel(tmp_path / "net", batch_norm="train").model
    model = build(Backbone("net", net, "test", InputSpec(32, 32, source="the test")), HEAD)
    fitted(
        model, examples("plain_convnet"), microbatch_size=3, epochs=1, **HEAD.compile_args()
    )  # frozen: nothing moves
    unfreeze(model, 1, batch_norm="train")
    with pytest.raises(PlanError, match="1 layers with BatchNormalization train: head"):
        fitted(model, examples("plain_convnet"), microbatch_size=3, **HEAD.compile_args())


def test_losses_that_are_no_means_over_examples_are_refused():
    summed = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum", name="summed")
    with pytest.raises(PlanError, match="'summed' has reduction='sum', expected a mean"):
        fitted(network(), photos(), microbatch_size=4, loss=summed)
    ignoring = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    with pytest.raises(PlanError, match="ignore_class=0.*sample_weight 0"):
        fitted(network(), photos(), microbatch_size=4, loss=ignoring)
    ids = keras.Input((3,), dtype="int32")
    masked = keras.Model(ids, L.Dense(2)(L.Embedding(9, 4, mask_zero=True)(ids)))
    labels = np.zeros((8, 3), "int32")
    data = tf.data.Dataset.from_tensor_slices((labels + 1, labels)).batch(4)
    with pytest.raises(PlanError, match="carries a mask"):
        fitted(masked, data, microbatch_size=2)


def test_models_and_settings_that_cannot_be_cut_are_refused():
    class Own(keras.Model):
        def train_step(self, data):
            return {}

    inputs = keras.Input((2,))
    with pytest.raises(PlanError, match="its class Own has its own train_step"):
        microbatched(Own(inputs, L.Dense(1)(inputs)), 4)
    with pytest.raises(PlanError, match="it has no Keras graph"):
        microbatched(keras.Sequential([L.Dense(1)]), 4)
    with pytest.raises(PlanError, match=r"(?s)2 problems.*microbatch_size.*received 0.*batch_norm.*received 'x'"):
        microbatched(network(), 0, batch_norm="x")
    model = network()
    model.trainable = False
    with pytest.raises(PlanError, match="Nothing in .* trains"):
        fitted(model, photos(), microbatch_size=4)
