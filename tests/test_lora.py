"""Low-rank updates: nothing changes at first, only they train, and merging gives the model back with new values."""

import warnings

import keras
import numpy as np
import pytest
import savedmodels
import tensorflow as tf

import tfft
from tfft import features, freezing, heads, testing
from tfft.backbones import load_backbone
from tfft.backbones.savedmodel.lora_targets import Uses
from tfft.errors import BlockError
from tfft.keras_compat import flatten_layers
from tfft.layers.lora import einsum_split, pairs_of
from tfft.models import build

KINDS = ["convnet", "transformer", "native"]
UPDATED = {  # blocks, and the shapes of their kernels as matrices
    "convnet": {"block2": [(9 * 8, 8)], "head": [(9 * 8, 12)]},
    "transformer": {"transformer_layer_1": [(8, 8)] * 4, "pooler": [(8, 8)]},
    "native": {"block1": [(9 * 4, 6), (6, 6)], "block2": [(6, 10)]},
}


@pytest.fixture(scope="session")
def opened(tmp_path_factory):
    """Opens small SavedModels; each is written once."""
    folder = tmp_path_factory.mktemp("savedmodels")

    def load(name, **settings):
        path = folder / name
        if not path.exists():
            savedmodels.MAKERS[name](path)
        return load_backbone(str(path), **settings)

    return load


def native():
    """Convolutions, a depthwise one, BatchNorm, an EinsumDense and a Dense layer of Keras."""
    layers = keras.layers
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="block0_conv")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="block1_dw")(x)
    x = layers.Conv2D(6, 3, padding="same", name="block1_conv")(x)
    x = layers.BatchNormalization(name="block1_bn")(x)
    x = layers.EinsumDense("bhwc,cd->bhwd", (8, 8, 6), bias_axes="d", activation="relu", name="block1_mix")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(10, name="block2_dense")(x)
    return keras.Model(inputs, x, name="native")


@pytest.fixture
def make(opened):
    """Makes a model of three classes with a head on a backbone of one of the kinds."""

    def make(kind, **settings):
        keras.utils.set_random_seed(2)
        if kind == "native":
            inputs = keras.Input((8, 8, 3))
            x = keras.layers.Dense(3, name="logits")(native()(inputs))
            model = keras.Model(inputs, x, name="net")
        else:
            name = {"convnet": "plain_convnet"}.get(kind, kind)
            model = build(opened(name, **settings), heads.classification(("a", "b", "c"), dropout=0.0))
        freezing.unfreeze(model, "none")
        return model

    return make


def inputs_of(model, n=12):
    if len(model.inputs) > 1:
        random = np.random.default_rng(0)
        ids = random.integers(0, 50, (n, 6)).astype("int32")
        return {"input_word_ids": ids, "input_mask": np.ones_like(ids)}
    height, width, channels = (s or 32 for s in model.input_shape[1:])
    return np.random.default_rng(0).integers(0, 255, (n, height, width, channels)).astype("uint8")


def compiled(model, rate=0.02):
    model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fit(model, epochs=2, n=12):
    return compiled(model).fit(inputs_of(model, n), np.arange(n) % 3, epochs=epochs, batch_size=6, verbose=0)


def predict(model):
    return model.predict(inputs_of(model), verbose=0)


def chosen(kind):
    return list(UPDATED[kind])


def updates(model):
    return [v for layer in flatten_layers(model) for p in pairs_of(layer) for v in (p.first, p.second)]


def values(model):
    return {v.path: v.numpy() for v in model.weights}


# --- add_lora ----------------------------------------------------------------------------------------------------


@pytest.mark.daily("convnet")
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_at_first_and_then_only_the_updates_train(make, kind):
    model = make(kind)
    before, start = values(model), predict(model)
    assert freezing.add_lora(model, chosen(kind), rank=2) is model
    np.testing.assert_array_equal(predict(model), start)
    head = {v.path for v in model.get_layer("logits").weights}
    assert {v.path for v in model.trainable_weights} == {v.path for v in updates(model)} | head
    with freezing.audit(model):
        fit(model)
    after = values(model)
    assert {path for path in before if not np.array_equal(before[path], after[path])} == head
    assert all(np.abs(v.numpy()).max() > 0 for v in updates(model))
    assert np.abs(predict(model) - start).max() > 1e-3


@pytest.mark.representative("native", "transformer")
@pytest.mark.daily("convnet")
@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_rank_times_rows_plus_columns(make, kind):
    model = make(kind)
    plain = freezing.describe(model)
    freezing.add_lora(model, chosen(kind), rank=3)
    rows = {row.block: row for row in freezing.describe(model).rows if row.part == "backbone"}
    for block, row in rows.items():
        expected = sum(3 * (a + b) for a, b in UPDATED[kind].get(block, []))
        assert (row.lora_parameters, row.trainable_parameters) == (expected, expected)
        assert row.trainable == ("lora" if expected else "no")
    described = freezing.describe(model)
    added = sum(row.lora_parameters for row in rows.values())
    assert described.parameters == plain.parameters + added
    assert described.flops == plain.flops
    assert f"{added:,} in low-rank updates" in " ".join(str(described).split())
    assert "low-rank" not in str(plain)


@pytest.mark.daily("transformer")
@pytest.mark.parametrize("kind", KINDS)
def test_merging_keeps_the_predictions_and_gives_the_structure_back(make, kind, tmp_path):
    model = make(kind)
    config, names = model.get_config(), [v.path for v in model.weights]
    classes = [type(layer) for layer in flatten_layers(model)]
    freezing.add_lora(model, chosen(kind), rank=2, alpha=5)
    fit(model)
    trained, kernels = predict(model), values(model)
    assert freezing.merge_lora(model) is model
    np.testing.assert_allclose(predict(model), trained, atol=1e-5)
    assert [v.path for v in model.weights] == names
    assert [type(layer) for layer in flatten_layers(model)] == classes
    assert model.get_config() == config
    assert not updates(model)
    moved = {v.path for v in model.weights if not np.array_equal(v.numpy(), kernels[v.path])}
    assert len(moved) == sum(map(len, UPDATED[kind].values()))
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(predict(keras.models.load_model(tmp_path / "m.keras", compile=False)), predict(model))
    freezing.unfreeze(model, chosen(kind))  # whole kernels train again
    with freezing.audit(model, allow_unchanged="conv/bias|block1_conv/bias"):
        fit(model)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_a_keras_file_holds_the_updates_and_they_go_on_training(make, kind, tmp_path):
    model = make(kind)
    freezing.add_lora(model, chosen(kind), rank=2, alpha=3)
    fit(model)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(predict(again), predict(model))
    assert [v.shape for v in again.trainable_weights] == [v.shape for v in model.trainable_weights]
    for mine, theirs in zip(updates(model), updates(again), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with freezing.audit(again):
        fit(again)
    trained = predict(again)
    np.testing.assert_allclose(predict(freezing.merge_lora(again)), trained, atol=1e-5)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_a_clone_has_updates_of_its_own(make, kind):
    model = make(kind)
    freezing.add_lora(model, chosen(kind), rank=2)
    fit(model)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(predict(clone), predict(model))
    start = predict(model)
    fit(clone)
    np.testing.assert_array_equal(predict(model), start)
    assert np.abs(predict(clone) - start).max() > 1e-4


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["transformer", "native"])
def test_exports_compute_the_same_with_and_without_updates(make, kind, tmp_path):
    model = make(kind)
    freezing.add_lora(model, chosen(kind), rank=2)
    fit(model)
    trained = predict(model)
    names = {} if kind == "transformer" else {"class_names": ["a", "b", "c"]}
    assert tfft.export(model, tmp_path / "served" / "1", **names).largest_difference < 1e-5
    freezing.merge_lora(model)
    assert tfft.export(model, tmp_path / "served" / "2", **names).largest_difference < 1e-5
    if kind == "transformer":
        x = {name: tf.constant(value) for name, value in inputs_of(model).items()}
        for version in ("1", "2"):
            served = tf.saved_model.load(str(tmp_path / "served" / version)).signatures["serving_default"](**x)
            np.testing.assert_allclose(served["logits"], trained, atol=1e-5)


@pytest.mark.daily("native")
@pytest.mark.parametrize("kind", KINDS)
def test_the_frozen_prefix_ends_in_front_of_the_first_update(make, kind):
    model = make(kind)
    freezing.add_lora(model, chosen(kind), rank=2)
    prefix, suffix = features.split_frozen(model)
    assert not prefix.trainable_weights
    assert {id(v) for v in suffix.trainable_weights} == {id(v) for v in model.trainable_weights}
    frozen = [b for b in freezing.select(model, "all") if b.name not in UPDATED[kind]]
    assert {id(v) for b in frozen for v in b.variables} <= {id(v) for v in prefix.weights}
    fit(model)
    np.testing.assert_allclose(suffix(prefix(inputs_of(model))), predict(model), atol=1e-5)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("kind", "settings"),
    [("transformer", {"backbone_dropout": True}), ("convnet", {"batch_norm": "train"})],
)
def test_updates_also_count_in_the_publishers_training_graph(make, kind, settings):
    model = make(kind, **settings)
    freezing.add_lora(model, chosen(kind), rank=2)
    block = next(b.layers[0] for b in freezing.select(model, chosen(kind)))
    assert block.runs_training_graph
    kernels = [pair.kernel.numpy() for pair in block.low_rank_pairs]
    with freezing.audit(model):
        fit(model)
    for pair, kernel in zip(block.low_rank_pairs, kernels, strict=True):
        np.testing.assert_array_equal(pair.kernel, kernel)

    def trained_output():
        tf.random.set_seed(1)
        return model(inputs_of(model), training=True).numpy()

    if kind == "convnet":  # statistics of the batch, not random
        updated = trained_output()
        freezing.merge_lora(model)
        freezing.unfreeze(model, chosen(kind))
        np.testing.assert_allclose(trained_output(), updated, atol=1e-4)


@pytest.mark.nightly
def test_the_publishers_regularizers_see_the_updated_kernel(make):
    model = make("convnet")
    freezing.add_lora(model, "head", rank=2)
    (pair,) = model.get_layer("backbone").get_layer("head").low_rank_pairs
    pair.second.assign(np.ones(pair.second.shape))
    model(inputs_of(model, 2))
    whole = keras.ops.convert_to_numpy(pair.updated())
    assert float(sum(model.losses)) == pytest.approx(1e-4 * np.sum(whole**2), rel=1e-5)
    assert np.abs(whole - pair.kernel.numpy()).max() > 0.1


@pytest.mark.slow
def test_what_was_traced_before_stays_right(make):
    model = make("native")
    prefix, suffix = features.split_frozen(model, cut="block0")
    suffix.predict(np.zeros((2, 8, 8, 4), "float32"), verbose=0)
    freezing.add_lora(model, "block2", rank=2)
    compiled(suffix).fit(np.random.default_rng(0).normal(size=(12, 8, 8, 4)), np.arange(12) % 3, verbose=0)
    x = np.random.default_rng(1).normal(size=(4, 8, 8, 4)).astype("float32")
    suffix.predict_function = None
    trained = suffix.predict(x, verbose=0)  # traces the update
    freezing.merge_lora(model)
    np.testing.assert_allclose(suffix.predict(x, verbose=0), trained, atol=1e-5)  # the old trace adds nothing twice


@pytest.mark.nightly
def test_predictions_that_were_traced_before_see_the_updates(make):
    for kind in KINDS:
        model = make(kind)
        start = predict(model)
        freezing.add_lora(model, chosen(kind), rank=2)
        for v in updates(model):
            v.assign(v + 0.1)
        assert np.abs(predict(model) - start).max() > 1e-3


def test_multiply_adds_stay_those_of_the_kernels(make):
    model = make("native")
    rows = {row.block: row.flops for row in freezing.describe(model).rows}
    freezing.add_lora(model, "block2", rank=2)
    assert {row.block: row.flops for row in freezing.describe(model).rows} == rows
    assert rows["block2"] == 6 * 10


@pytest.mark.nightly
def test_the_seed_decides_where_the_updates_start(make):
    def start(seed):
        model = freezing.add_lora(make("transformer"), 2, rank=2, seed=seed)
        return [v.numpy() for v in updates(model)]

    first, same, other = start(1), start(1), start(2)
    for a, b, c in zip(first, same, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.any() == (not np.array_equal(a, c))  # B is zero whatever the seed
    drawn = [a for a in first if a.any()]
    assert len(drawn) == 5
    assert not any(np.array_equal(drawn[0], other) for other in drawn[1:])


@pytest.mark.slow
def test_part_of_the_kernels_by_name(make):
    model = freezing.add_lora(make("transformer"), "transformer_layer_0", rank=1, variables="query|value")
    block = model.get_layer("backbone").get_layer("transformer_layer_0")
    assert [n for n in block.variable_names if "lora_a" in n] == [
        f"transformer/layer_0/{part}/kernel/lora_a" for part in ("query", "value")
    ]
    model = freezing.add_lora(make("native"), "all", rank=1, variables="conv|dense")
    assert {layer.name for layer in flatten_layers(model) if pairs_of(layer)} == {
        "block0_conv", "block1_conv", "block2_dense",
    }  # fmt: skip


@pytest.mark.nightly
@pytest.mark.parametrize(("rank", "reaches"), [(1, False), (3, True), (5, True)])
def test_full_rank_reaches_what_training_the_kernel_reaches(rank, reaches):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, use_bias=False, name="linear")(inputs))
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    wanted = np.random.default_rng(1).normal(size=(4, 3)).astype("float32")
    freezing.add_lora(model, "linear", rank=rank)
    model.compile(keras.optimizers.Adam(0.05), "mse")
    steps = np.tile(x, (300, 1))  # one epoch of many steps: the start of an epoch costs more than a step
    model.fit(steps, steps @ wanted, batch_size=64, shuffle=False, verbose=0)
    freezing.merge_lora(model)
    distance = np.abs(model.get_layer("linear").kernel.numpy() - wanted).max()
    assert (distance < 1e-2) == reaches, distance


@pytest.mark.nightly
def test_unfreezing_later_frees_the_updates_only(make):
    for kind in KINDS:
        model = freezing.add_lora(make(kind), chosen(kind), rank=2)
        wanted = {v.path for v in model.trainable_weights}
        model.trainable = False
        model.trainable = True
        held = {v.path for block in freezing.select(model, chosen(kind)) for layer in block.layers
                for sub in flatten_layers(layer) for p in pairs_of(sub) for v in [p.kernel]}  # fmt: skip
        assert not held & {v.path for v in model.trainable_weights}
        freezing.unfreeze(model, chosen(kind))
        assert {v.path for v in model.trainable_weights} == wanted
        freezing.unfreeze(model, "none")
        assert not any(v.trainable for v in updates(model))
        with pytest.raises(BlockError, match=r"have low-rank updates.*merge_lora\(model\) first"):
            freezing.unfreeze(model, chosen(kind), only="bias")


@pytest.mark.slow
def test_a_block_with_updates_trains_all_of_them_or_none(make):
    block = freezing.add_lora(make("convnet"), "head").get_layer("backbone").get_layer("head")
    with pytest.raises(BlockError, match="of which all or none train. Received: 'bias'"):
        block.set_trainable_variables("bias")


def test_blocks_that_only_a_number_means_may_have_no_kernel(make):
    model = freezing.add_lora(make("transformer"), "all", rank=2)  # the embeddings have none
    described = {row.block: row.trainable for row in freezing.describe(model).rows if row.part == "backbone"}
    assert described == {
        "embeddings": "no", "transformer_layer_0": "lora", "transformer_layer_1": "lora", "pooler": "lora",
    }  # fmt: skip


@pytest.mark.nightly
def test_compiled_models_are_compiled_again(make):
    model = compiled(make("native"))
    fit(model)
    predict(model)
    freezing.add_lora(model, 1, rank=2)
    assert model.compiled
    with freezing.audit(model):
        model.fit(
            inputs_of(model), np.arange(12) % 3, epochs=2, verbose=0
        )  # in the first step B is 0: A has no gradient
    trained = predict(model)
    freezing.merge_lora(model)
    assert model.compiled
    np.testing.assert_allclose(predict(model), trained, atol=1e-5)


# --- errors ------------------------------------------------------------------------------------------------------


def test_all_problems_are_reported_together(make):
    model = make("native")
    with pytest.raises(BlockError, match=r"(?s)5 problems.*rank.*received 0.*alpha.*received -1.*seed.*received 0.5.*"
                       r"variables='\('.*'blokc1' matches no block.*'nope' matches") as error:  # fmt: skip
        freezing.add_lora(model, ["blokc1", "nope"], rank=0, alpha=-1, seed=0.5, variables="(")
    assert "Did you mean 'block1'" in str(error.value)
    assert not updates(model)


@pytest.mark.parametrize(
    ("kind", "blocks", "settings", "message"),
    [
        ("transformer", ["embeddings", "pooler"], {}, r"'embeddings' has no kernel.*word_embeddings \(50, 8\)"),
        ("transformer", "pooler", {"variables": "query"}, r"matches no kernel of 'pooler'. It has: pooler_transform/k"),
        ("native", "bias", {}, "does not select whole blocks"),
        ("native", 0, {}, "0 selects no block"),
        ("native", 9, {}, "the backbone has 3: block0, block1, block2"),
        ("native", 1, {"rank": True}, "rank must be an integer"),
        ("native", 1, {"alpha": float("nan")}, "alpha must be a number above 0"),
    ],
)
def test_what_cannot_be_is_refused(make, kind, blocks, settings, message):
    model = make(kind)
    before = [v.path for v in model.weights]
    with pytest.raises(BlockError, match=f"(?s){message}"):
        freezing.add_lora(model, blocks, **settings)
    assert [v.path for v in model.weights] == before


def test_updates_on_updates_and_merging_nothing_are_refused(make):
    model = make("native")
    with pytest.raises(BlockError, match="has no low-rank updates to merge"):
        freezing.merge_lora(model)
    freezing.add_lora(model, 1)
    with pytest.raises(BlockError, match=r"updates already, in block2: call tfft.freezing.merge_lora\(model\) first"):
        freezing.add_lora(model, 2)


def test_layers_that_do_more_with_their_kernel_are_left_alone():
    class Own(keras.layers.Dense):
        pass

    x = inputs = keras.Input((4,))
    x = keras.layers.Dense(5, kernel_constraint="max_norm", name="block1_dense")(x)
    x = Own(5, name="block1_own")(x)
    x = keras.layers.SpectralNormalization(keras.layers.Dense(5), name="block1_spectral")(x)
    old = keras.layers.Dense(5, name="block1_old")
    model = keras.Model(inputs, old(x))
    old.enable_lora(2)
    message = r"(?s)block1_dense \(Dense with a kernel constraint\), block1_own \(Own\).*Keras' own"
    with pytest.raises(BlockError, match=message):
        freezing.add_lora(model, ".*")


# --- layers of Keras ---------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_updates_inside_of_a_composite_layer_are_saved_merged(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 8))
    attention = keras.layers.MultiHeadAttention(2, 4, name="attention")
    model = keras.Model(inputs, keras.layers.Dense(2, name="out")(attention(inputs, inputs)))
    x = np.random.default_rng(0).normal(size=(4, 5, 8)).astype("float32")
    start = model.predict(x, verbose=0)
    with pytest.warns(UserWarning, match="in query, key, value, output are inside of a layer|in query, key, value"):
        freezing.add_lora(model, "attention", rank=2)
    assert {v.path.split("/")[-1] for v in model.trainable_weights} == {"lora_a", "lora_b"}
    assert pairs_of(attention._query_dense)[0].first.shape == (8, 2)  # not [8 * heads, 2]
    assert pairs_of(attention._output_dense)[0].first.shape == (2 * 4, 2)  # heads * width, rank
    np.testing.assert_array_equal(model.predict(x, verbose=0), start)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    with freezing.audit(model):
        model.fit(x, np.ones((4, 5, 2)), epochs=3, verbose=0)
    trained = model.predict(x, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras", compile=False)
    np.testing.assert_allclose(again.predict(x, verbose=0), trained, atol=1e-5)
    model.save_weights(tmp_path / "w.weights.h5")
    model.load_weights(tmp_path / "w.weights.h5")  # kernels that hold the update already, so it starts anew
    np.testing.assert_allclose(model.predict(x, verbose=0), trained, atol=1e-5)
    assert pairs_of(attention._query_dense)[0].first.numpy().any()
    freezing.merge_lora(model)
    assert [v.path for v in model.weights] == [v.path for v in again.weights]


@pytest.mark.nightly
def test_weight_files_hold_base_and_updates_apart(make, tmp_path):
    model = make("native")
    freezing.add_lora(model, 2, rank=2)
    fit(model)
    before, trained = values(model), predict(model)
    model.save_weights(tmp_path / "w.weights.h5")
    fit(model)
    model.load_weights(tmp_path / "w.weights.h5")
    for path, value in values(model).items():
        np.testing.assert_array_equal(value, before[path])
    np.testing.assert_array_equal(predict(model), trained)


@pytest.mark.slow
def test_half_precision_starts_equal_and_merges_to_the_same(make):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16,))
    layer = keras.layers.Dense(8, dtype="mixed_bfloat16", name="linear")
    model = keras.Model(inputs, layer(inputs))
    x = np.random.default_rng(0).normal(size=(4, 16)).astype("float32")
    start = model.predict(x, verbose=0)
    freezing.add_lora(model, "linear", rank=2)
    np.testing.assert_array_equal(model.predict(x, verbose=0), start)
    (pair,) = pairs_of(layer)
    pair.second.assign(np.full(pair.second.shape, 1e-3))
    updated = model.predict(x, verbose=0)
    freezing.merge_lora(model)
    np.testing.assert_array_equal(model.predict(x, verbose=0), updated)


@pytest.mark.nightly
def test_models_with_a_constructor_of_their_own(tmp_path):
    """They make their layers anew when loaded, so the file holds plain kernels."""

    @keras.saving.register_keras_serializable(package="test_lora")
    class Network(keras.Model):
        def __init__(self, units, **kwargs):
            inputs = keras.Input((4,))
            outputs = keras.layers.Dense(units, name="b_dense")(keras.layers.Dense(units, name="a_dense")(inputs))
            super().__init__(inputs, outputs, **kwargs)
            self.units = units

        def get_config(self):
            return {"units": self.units, "name": self.name}

    model = Network(3)
    with pytest.warns(UserWarning, match="in a_dense, b_dense are inside of a layer"):
        freezing.add_lora(model, "all", rank=2)
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model.fit(x, x[:, :3], epochs=3, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras", compile=False)
    np.testing.assert_allclose(again.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)


@pytest.mark.slow
def test_why_keras_own_lora_is_not_used(tmp_path):
    """Each of these is a reason; where one falls, tfft/layers/lora.py should be looked at again."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="linear")(inputs))
    layer = model.get_layer("linear")
    layer.enable_lora(2, lora_alpha=6.0)
    assert layer.bias in model.trainable_weights
    model.compile("adam", "mse")
    model.fit(np.ones((4, 4)), np.zeros((4, 3)), verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras").get_layer("linear")
    assert again.lora_alpha == 2
    assert not again.lora_kernel_a.numpy().any()
    assert not again.lora_kernel_b.numpy().any()  # both zero: both gradients are zero for good
    model.trainable = False
    model.trainable = True
    assert layer._kernel in model.trainable_weights


@pytest.mark.parametrize(
    ("equation", "position", "split"),
    [
        ("abc,cde->abde", 1, 1),
        ("abcd,cde->abe", 1, 2),
        ("...x,xy->...y", 1, 1),
        ("bld, ed -> ble", 1, 1),
        ("de,bld->ble", 0, 1),
        ("ab,bac->c", 1, 2),
        ("abc,dce->abde", 1, None),
        ("ab,cd->abcd", 1, None),
    ],
)
def test_axes_of_an_einsum_kernel(equation, position, split):
    assert einsum_split(equation, position) == split


def test_kernels_of_a_graph_are_found_through_casts_and_reshapes():
    def run(build):
        with tf.Graph().as_default() as graph:
            handle = tf.compat.v1.placeholder(tf.resource, [], name="w")
            build(handle)
        return Uses(graph.as_graph_def())

    def read(handle):
        return tf.raw_ops.ReadVariableOp(resource=tf.identity(handle), dtype=tf.float32, name="read")

    x = np.ones((2, 6), "float32")
    heads_kernel = run(lambda h: tf.matmul(x, tf.cast(tf.reshape(read(h), [6, 4]), tf.float32)))
    assert heads_kernel.split("w", (6, 2, 2)) == 1
    assert run(lambda h: tf.matmul(x, tf.reshape(read(h), [6, 4]))).split("w", (2, 3, 4)) == 2
    assert run(lambda h: read(h) * 2.0).split("w", (6, 4)) is None
    looked_up = run(
        lambda h: (tf.matmul(x, read(h)), tf.raw_ops.ResourceGather(resource=h, indices=[0], dtype="float"))
    )
    assert looked_up.reads("w") is None
    assert looked_up.split("w", (6, 4)) is None
    depthwise = run(lambda h: tf.nn.depthwise_conv2d(np.ones((1, 4, 4, 3), "float32"), read(h), [1] * 4, "SAME"))
    assert depthwise.split("w", (3, 3, 3, 1)) is None


@pytest.mark.daily("depthwise-expected0")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("depthwise", {"stem": 1, "block0": 1, "block1": 1}),  # the projections, not the depthwise kernels
        ("lstm", {"block0": 1, "block1": 0, "head": 1}),  # kernels inside of a loop cannot be reached
        ("weight_norm", {"block0": 0, "block1": 0, "block2": 0}),  # kernels that are computed
        ("lookup", {"embeddings": 1}),
        ("slim_tf1_reference", dict.fromkeys([f"block{b}_unit_{u}" for b in (1, 2) for u in (1, 2)], 1)),
        ("keras3_export", dict.fromkeys(["stem", "block0", "block1", "block2", "head"], 1)),
    ],
)
def test_which_kernels_of_a_savedmodel_fit(opened, name, expected):
    backbone = opened(name)
    assert {block.name: len(block.layers[0].kernels()) for block in backbone.blocks} == expected
    fitting = [name for name, n in expected.items() if n]
    if fitting:
        x = testing.sample_inputs(backbone.model, 4)
        x = keras.tree.map_structure(tf.constant, x)
        start = backbone.model(x).numpy()
        freezing.add_lora(backbone, fitting, rank=1)
        np.testing.assert_array_equal(backbone.model(x), start)
        for v in updates(backbone.model):
            v.assign(v + 0.1)
        updated = backbone.model(x).numpy()
        assert np.abs(updated - start).max() > 1e-3
        freezing.merge_lora(backbone)
        np.testing.assert_allclose(backbone.model(x), updated, atol=1e-5)


class Looped(tf.Module):
    """One kernel in front of a loop and behind it, another inside."""

    def __init__(self):
        super().__init__()
        make = tf.random.Generator.from_seed(1)
        self.outer = tf.Variable(make.normal([4, 4]) * 0.3, name="block0/outer/kernel")
        self.inner = tf.Variable(make.normal([4, 4]) * 0.3, name="block0/inner/kernel")

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32)])
    def __call__(self, x):
        y = tf.matmul(x, self.outer)
        for _ in tf.range(3):
            y = tf.tanh(tf.matmul(y, self.inner) + x)
        return tf.matmul(y, self.outer)


@pytest.mark.nightly
def test_a_kernel_beside_a_loop(tmp_path):
    tf.saved_model.save(Looped(), str(tmp_path / "saved"))
    backbone = load_backbone(str(tmp_path / "saved"))
    (block,) = backbone.blocks
    assert block.layers[0].kernels() == {"block0/outer/kernel": 1}
    x = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
    start = backbone.model(x)
    freezing.add_lora(backbone, "all", rank=2)
    np.testing.assert_array_equal(backbone.model(x), start)
    model = backbone.model
    model.compile(keras.optimizers.Adam(0.05), "mse")
    with freezing.audit(model):
        model.fit(x, np.ones((4, 4)), epochs=4, verbose=0)
    trained = model.predict(x, verbose=0)
    freezing.merge_lora(backbone)
    np.testing.assert_allclose(model.predict(x, verbose=0), trained, atol=1e-5)


# --- only= -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.representative("native")
@pytest.mark.parametrize("kind", ["convnet", "native"])
def test_norm_or_bias_of_some_blocks(make, kind):
    model = make(kind)
    blocks = {"convnet": 2, "native": slice(1, None)}[kind]
    only, leaves = ("norm", {"gamma", "beta"}) if kind == "convnet" else ("bias", {"bias"})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*frozen inside one layer.*", category=UserWarning)
        freezing.unfreeze(model, blocks, only=only)
    head = {id(v) for v in model.get_layer("logits").weights}
    inside = {id(v) for block in freezing.select(model, blocks) for v in block.variables}
    trained = [v for v in model.trainable_weights if id(v) not in head]
    assert {v.path.replace(".", "/").split("/")[-1] for v in trained} == leaves
    assert {id(v) for v in trained} <= inside
    with freezing.audit(model, allow_unchanged="block1_(conv|dw)/bias"):
        fit(model)


def test_only_is_checked(make):
    model = make("transformer")
    with pytest.raises(BlockError, match="only must be 'norm', 'bias' or None, received 'kernel'"):
        freezing.unfreeze(model, 1, only="kernel")
    with pytest.raises(BlockError, match=r"'pooler'?.*hold no bias variables|\(pooler\) hold no bias variables"):
        freezing.unfreeze(model, 1, only="bias")
    with pytest.raises(BlockError, match="contradict each other"):
        freezing.unfreeze(model, "norm", only="bias")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        freezing.unfreeze(model, "all", only="bias")
    assert {v.name for v in model.trainable_weights if "out" in v.name} == {
        f"transformer.layer_{i}.out.bias" for i in (0, 1)
    }
