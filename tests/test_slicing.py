"""Selecting, freezing, describing and auditing blocks, on real small Keras models that are really trained."""

import json
import warnings

import keras
import numpy as np
import pytest
import savedmodels

from tfft import freezing, heads
from tfft.backbones import load_backbone
from tfft.errors import AuditError, BlockError
from tfft.models import build

WHOLE = {"kernel", "gamma", "beta"}
BLOCKS = ["stem", "block0", "block1", "block2"]


def backbone(name="backbone"):
    layers = keras.layers
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem_conv")(x)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(name="stem_relu")(x)
    for k in range(3):
        y = layers.DepthwiseConv2D(3, padding="same", name=f"block{k}_dw")(x)
        y = layers.BatchNormalization(name=f"block{k}_bn")(y)
        y = layers.Conv2D(4, 1, name=f"block{k}_project")(y)
        x = layers.Add(name=f"block{k}_add")([x, y])
    return keras.Model(inputs, x, name=name)


@pytest.fixture
def model():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(backbone()(inputs))
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x), name="net")


def fit(model, epochs=2):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 8, 8, 3)).astype("float32"), rng.integers(0, 2, 16)
    model.fit(x, y, epochs=epochs, batch_size=8, verbose=0)
    return model


def compiled(model):
    model.compile(
        keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    return model


def moved(model, before):
    return {v.path for v, old in zip(model.weights, before, strict=True) if not np.array_equal(v.numpy(), old)}


def trained(model):
    return {v.path.split("/")[-2] for v in model.trainable_weights}


# --- select ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        (0, []),
        (2, BLOCKS[2:]),
        (4, BLOCKS),
        ("all", BLOCKS),
        ("none", []),
        (slice(1, 3), BLOCKS[1:3]),
        (slice(-1, None), BLOCKS[3:]),
        ("block1", ["block1"]),
        ("block[01]", ["block0", "block1"]),
        ("st", ["stem"]),
        (["block2", "stem"], ["stem", "block2"]),
        (["block[12]"], BLOCKS[2:]),
        (1.0, BLOCKS),
        (1e-9, ["block2"]),
        ("norm", BLOCKS),
    ],
)
def test_select_reads_every_kind_of_selection(model, blocks, expected):
    assert [block.name for block in freezing.select(model, blocks)] == expected


def test_share_takes_the_fewest_last_blocks_that_hold_it(model):
    sizes = [block.parameters for block in freezing.select(model, "all")]
    exactly_two = (sizes[-1] + sizes[-2]) / sum(sizes)
    assert len(freezing.select(model, exactly_two - 1e-6)) == 2
    assert len(freezing.select(model, exactly_two + 1e-3)) == 3


def test_selected_blocks_can_be_passed_on(model):
    freezing.unfreeze(model, freezing.select(model, slice(1, 2)))
    assert trained(model) == {"block0_dw", "block0_project", "logits"}


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (9, "the backbone has 4: stem, block0"),
        (-1, "Give 0 to 4"),
        (True, "must be an int"),
        (None, "must be an int"),
        ({"a": 1}, "received dict"),
        (0.0, "above 0 and at most 1"),
        (1.5, "above 0 and at most 1"),
        ("blokc1", "Did you mean 'block1'.*Blocks: stem, block0, block1, block2"),
        ("block(", "nor a valid regular expression.*Blocks: stem, block0"),
        ("", "matches no block"),
        (slice(7, 9), "matches none of the 4 blocks"),
        (["block1", "nope", 3], r"(?s)2 problems.*'nope' matches no block.*received 3"),
    ],
)
def test_a_selection_that_means_nothing_lists_the_blocks(model, blocks, message):
    with pytest.raises(BlockError, match=message):
        freezing.select(model, blocks)
    with pytest.raises(BlockError, match=message):
        freezing.unfreeze(model, blocks)


def test_a_model_without_variables_is_refused():
    with pytest.raises(BlockError, match="has no variables yet"):
        freezing.select(keras.Sequential([keras.layers.Dense(2)]), 1)
    with pytest.raises(BlockError, match="received str"):
        freezing.select("efficientnet", 1)


# --- unfreeze ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_only_the_chosen_blocks_and_the_head_train(model):
    compiled(freezing.unfreeze(model, 1))
    before = [v.numpy() for v in model.weights]
    fit(model)
    assert moved(model, before) == {
        "block2_dw/kernel", "block2_dw/bias", "block2_project/kernel", "block2_project/bias",
        "logits/kernel", "logits/bias",
    }  # fmt: skip


@pytest.mark.slow
def test_batch_norm_of_a_trainable_block_is_fixed_unless_asked(model):
    compiled(freezing.unfreeze(model, 1, batch_norm="train"))
    before = [v.numpy() for v in model.weights]
    fit(model)
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    assert {f"block2_bn/{n}" for n in names} == {path for path in moved(model, before) if "_bn/" in path}


@pytest.mark.slow
def test_unfreeze_after_a_fit_takes_effect_without_compile(model):
    fit(compiled(freezing.freeze(model)))
    freezing.unfreeze(model, "all")
    with freezing.audit(model) as audit:
        fit(model)
    assert audit.report.trainable == 1 + 4 * 3 + 2
    assert audit.report.frozen == 4 * 4
    freezing.freeze(model)
    with freezing.audit(model) as audit:
        fit(model)
    assert audit.report.trainable == 2


@pytest.mark.nightly
def test_recompiling_keeps_settings_and_losses_that_cannot_be_saved(model):
    schedule = keras.optimizers.schedules.CosineDecay(0.02, 100)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(schedule, momentum=0.5), lambda y, p: loss(y, p), metrics=["accuracy"])
    freezing.freeze(model)
    fit(model)
    freezing.unfreeze(model, 2)
    assert model.compiled
    assert model.optimizer.momentum == 0.5
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)
    with freezing.audit(model):
        fit(model)
    assert set(model.history.history) == {"accuracy", "loss"}


@pytest.mark.nightly
def test_a_model_that_cannot_be_recompiled_asks_for_compile(model):
    class Own(keras.Model):
        def compile(self, rate):
            super().compile(keras.optimizers.SGD(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    own = Own(model.inputs, model.outputs)
    own.compile(0.1)
    fit(own)
    freezing.unfreeze(own, 1)
    with pytest.raises(ValueError, match="call `compile"):
        fit(own)
    own.compile(0.1)
    with freezing.audit(own):
        fit(own)


@pytest.mark.slow
def test_the_choice_survives_saving(model, tmp_path):
    freezing.unfreeze(model, 2)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert trained(loaded) == trained(model) == {"block1_dw", "block1_project", "block2_dw", "block2_project", "logits"}
    compiled(loaded)
    with freezing.audit(loaded) as audit:
        fit(loaded)
    assert audit.report.trainable == 10


def test_a_backbone_frozen_by_hand_is_opened(model, tmp_path):
    model.trainable = False
    freezing.unfreeze(model, 1)
    model.save(tmp_path / "m.keras")
    assert trained(keras.saving.load_model(tmp_path / "m.keras")) == {"block2_dw", "block2_project", "logits"}


@pytest.mark.nightly
def test_norm_trains_normalization_only_and_survives_saving(model, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        freezing.unfreeze(model, "norm")
    model.save(tmp_path / "m.keras")
    for one in (model, keras.saving.load_model(tmp_path / "m.keras")):
        assert trained(one) == {"stem_bn", "block0_bn", "block1_bn", "block2_bn", "logits"}
    compiled(model)
    with freezing.audit(model):
        fit(model)


@pytest.mark.nightly
def test_bias_trains_biases_only_and_says_that_a_file_loses_it(model, tmp_path):
    with pytest.warns(UserWarning, match=r"Keras does not store this.*call tfft.unfreeze\(model, 'bias'\) again"):
        freezing.unfreeze(model, "bias")
    expected = {f"block{k}_{n}/bias" for k in range(3) for n in ("dw", "project")} | {"logits/kernel", "logits/bias"}
    assert {v.path for v in model.trainable_weights} == expected
    compiled(model)
    before = [v.numpy() for v in model.weights]
    with freezing.audit(model):
        fit(model)
    assert moved(model, before) == expected
    freezing.unfreeze(model, 1)  # flags of single variables do not linger
    assert {v.path for v in model.trainable_weights} == {
        "block2_dw/kernel", "block2_dw/bias", "block2_project/kernel", "block2_project/bias",
        "logits/kernel", "logits/bias",
    }  # fmt: skip


def test_a_transformer_block_of_composite_layers_trains_its_norms_and_biases():
    x = inputs = keras.Input((5, 8))
    for k in range(2):
        a = keras.layers.MultiHeadAttention(2, 4, name=f"layer{k}_attention")(x, x)
        x = keras.layers.LayerNormalization(name=f"layer{k}_norm")(x + a)
        x = keras.layers.Dense(8, name=f"layer{k}_dense")(x)
    model = keras.Model(inputs, keras.layers.Dense(1, name="out")(x[:, 0]))
    with pytest.warns(UserWarning, match="layer0_attention"):
        freezing.unfreeze(model, "bias")
    assert all(v.name in ("bias", "beta") for v in model.trainable_weights)
    freezing.unfreeze(model, "norm")
    assert trained(model) == {"layer0_norm", "layer1_norm"}


def test_a_plain_sequential_model_is_all_backbone():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a1"), keras.layers.Dense(2, name="b2")])
    assert [block.name for block in freezing.select(model, "all")] == ["a1", "b2"]
    assert trained(freezing.unfreeze(model, 1)) == {"b2"}


def test_batch_norm_takes_two_words(model):
    with pytest.raises(BlockError, match="'fixed' or 'train', received 'freeze'"):
        freezing.unfreeze(model, 1, batch_norm="freeze")


# --- describe ----------------------------------------------------------------------------------------------------


def test_describe_says_what_trains_and_what_it_costs(model):
    freezing.unfreeze(model, 1)
    told = freezing.describe(model)
    assert [row.block for row in told.rows] == [*BLOCKS, "logits"]
    assert [row.trainable for row in told.rows] == ["no", "no", "no", "partly", "yes"]
    assert [row.batch_norm for row in told.rows] == ["fixed"] * 4 + [""]
    assert sum(row.parameters for row in told.rows) == told.parameters == model.count_params()
    assert told.trainable_parameters == sum(row.trainable_parameters for row in told.rows) == 40 + 20 + 10
    assert told.rows[0].flops == 3 * 3 * 3 * 4 * 64
    assert told.rows[1].flops == (9 * 4 + 16) * 64
    assert told.rows[4].flops == 8
    assert sum(row.flops_share for row in told.rows) == pytest.approx(1)
    assert told.rows[3].output == (None, 8, 8, 4)
    text = str(told)
    assert all(name in text for name in BLOCKS)
    assert "70 of" in text
    json.dumps(told.to_dict())


def test_describe_follows_the_batch_norm_mode(model):
    told = freezing.describe(freezing.unfreeze(model, 1, batch_norm="train"))
    assert [row.batch_norm for row in told.rows] == ["fixed"] * 3 + ["train", ""]
    assert told.rows[3].trainable == "yes"


# --- audit -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_audit_catches_a_freeze_that_keras_ignores(model):
    fit(compiled(model))
    model.get_layer("backbone").trainable = False  # no compile: Keras goes on training it
    audit = freezing.audit(model)
    fit(model)
    with pytest.raises(AuditError, match=r"(?s)frozen variables changed: .*block2_project/kernel.*set after a fit"):
        audit.check()
    assert "logits/kernel" not in audit.report.frozen_moved


@pytest.mark.slow
def test_audit_catches_an_unfreeze_that_keras_ignores(model):
    fit(compiled(freezing.freeze(model)))
    model.get_layer("backbone").get_layer("block1_project").trainable = True
    with pytest.raises(AuditError, match="2 of 4 trainable variables did not change: block1_project/kernel"):
        with freezing.audit(model):
            fit(model)


@pytest.mark.nightly
def test_audit_lets_statistics_of_trainable_layers_move_but_not_of_frozen_ones(model):
    compiled(freezing.unfreeze(model, 1, batch_norm="train"))
    with freezing.audit(model) as audit:
        fit(model)
    assert audit.report.free == audit.report.free_moved == 2
    assert "2 of 2 statistics moved" in str(audit.report)
    before = freezing.audit(model)
    model.get_layer("backbone").get_layer("stem_bn").moving_mean.assign_add(np.ones(4))
    fit(model)
    with pytest.raises(AuditError, match="1 of 21 frozen variables changed: stem_bn/moving_mean"):
        before.check()


def test_a_variable_without_gradient_can_be_let_pass():
    inputs = keras.Input((3,))
    dead = keras.ops.multiply(keras.layers.Dense(2, name="dead")(inputs), 0.0)
    model = keras.Model(inputs, keras.layers.Dense(1, name="out")(keras.layers.Concatenate()([inputs, dead])))
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(8, 3))
    audit, lenient = freezing.audit(model), freezing.audit(model, allow_unchanged="^dead/")
    model.fit(x, x[:, :1], verbose=0)
    with pytest.raises(AuditError, match="2 of 4 trainable variables did not change: dead/kernel, dead/bias"):
        audit.check()
    assert lenient.check().allowed_unchanged == ("dead/kernel", "dead/bias")


def test_audit_does_not_hide_an_error_of_the_training(model):
    with pytest.raises(KeyError, match="mine"):
        with freezing.audit(model):
            raise KeyError("mine")


# --- blocks of an opened SavedModel ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def savedmodel(tmp_path_factory):
    path = tmp_path_factory.mktemp("slicing") / "convnet"
    savedmodels.reusable(path, savedmodels.convnet())
    return path


def opened(path, **options):
    keras.utils.set_random_seed(1)
    made = load_backbone(path, **options)
    model = build(made, heads.classification(["a", "b"], dropout=0.0))
    model.compile(keras.optimizers.Adam(0.01), **heads.from_model(model).compile_args())
    return model


def step(model):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("uint8")
    model.fit(pixels, np.arange(8) % 2, epochs=2, verbose=0)


def leaves(model):
    names = [
        n
        for b in freezing.select(model, "all")
        for la in b.layers
        for n in zip(la.variable_names, la.weights, strict=False)
    ]
    trains = {id(v) for v in model.trainable_weights}
    return {name.split("/")[-1].split(":")[0] for name, variable in names if id(variable) in trains}


@pytest.mark.daily("none-expected2")
@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        (2, {"kernel", "gamma", "beta"}),
        ("norm", {"gamma", "beta"}),
        ("none", set()),
        ("block[01]", {"kernel", "gamma", "beta"}),
    ],
)
def test_blocks_of_a_savedmodel_train_as_chosen_and_stay_so(savedmodel, tmp_path, blocks, expected):
    model = opened(savedmodel)
    step(model)
    freezing.unfreeze(model, blocks)
    assert leaves(model) == expected
    with freezing.audit(model) as audit:
        step(model)
    assert audit.report.free == 0  # statistics are fixed, so they count as frozen
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert [v.path for v in loaded.trainable_weights] == [v.path for v in model.trainable_weights]


@pytest.mark.slow
def test_a_savedmodel_tells_its_rows(savedmodel):
    told = freezing.describe(freezing.unfreeze(opened(savedmodel), 2))
    assert [row.block for row in told.rows] == ["stem", "block0", "block1", "block2", "head", "logits"]
    assert [row.trainable for row in told.rows] == ["no"] * 3 + ["yes"] * 3
    assert [row.batch_norm for row in told.rows] == ["fixed"] * 5 + [""]
    assert told.rows[0].flops == 3 * 3 * 3 * 4 * 16 * 16
    assert told.rows[0].output == (None, 16, 16, 4)


@pytest.mark.nightly
def test_statistics_of_a_savedmodel_opened_for_training_move(savedmodel):
    model = freezing.unfreeze(opened(savedmodel, batch_norm="train"), 1)
    with freezing.audit(model) as audit:
        step(model)
    assert audit.report.free == audit.report.free_moved == 2
    assert [row.batch_norm for row in freezing.describe(model).rows] == ["fixed"] * 4 + ["train", ""]
    with pytest.raises(BlockError, match="'head' was opened with batch_norm='train'"):
        freezing.unfreeze(model, 1, batch_norm="fixed")
