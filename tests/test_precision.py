"""Which precision is chosen or refused, and which layers it would reach."""

import re

import keras
import numpy as np
import pytest
import savedmodels

from tfft import heads
from tfft.backbones.base import Backbone
from tfft.backbones.savedmodel import open_savedmodel
from tfft.errors import PlanError
from tfft.models import build
from tfft.specs import InputSpec
from tfft.training import choose_precision, precision_gain
from tfft.training.mixed_precision import WORTH, find_device, made_with, step_seconds, suited_policies

L = keras.layers
HEAD = heads.classification(["dark", "bright"])


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "net"
    savedmodels.plain_convnet(path)
    return build(Backbone("net", open_savedmodel(path).model, "t", InputSpec(32, 32, source="the test")), HEAD)


@pytest.mark.parametrize(
    ("device", "policies", "words"),
    [
        (("tpu", None), ("mixed_bfloat16",), "TPUs"),
        (("gpu", (9, 0)), ("mixed_bfloat16", "mixed_float16"), "capability 9.0"),
        (("gpu", (8, 0)), ("mixed_bfloat16", "mixed_float16"), "capability 8.0"),
        (("gpu", (7, 5)), ("mixed_float16",), "capability 7.5"),
        (("gpu", (6, 1)), (), "gains from 7.0 on"),
        (("gpu", None), (), "does not tell"),
        (("cpu", None, ("fpu", "avx2")), (), "no instructions for bfloat16"),
        (("cpu", None, ("fpu", "avx512_bf16")), ("mixed_bfloat16",), "avx512_bf16"),
    ],
)
def test_what_a_device_gains_from(device, policies, words):
    found, reason = suited_policies(*device)
    assert found == policies
    assert words in reason


def test_a_processor_stays_with_float32_and_refuses_float16():
    assert find_device() == ("cpu", None)
    assert choose_precision().policy == "float32"
    assert "CPUs compute float16 more slowly" in choose_precision().reason
    assert choose_precision("float32").policy == "float32"
    with pytest.raises(PlanError, match="'mixed_float16' gains nothing here: CPUs compute float16 more slowly"):
        choose_precision("mixed_float16")
    with pytest.raises(PlanError, match=r"got 'mixed_float61'\. Did you mean 'mixed_float16'"):
        choose_precision("mixed_float61")


def test_an_opened_savedmodel_has_nothing_to_gain(opened):
    gain = precision_gain(opened)
    assert gain.layers == ()
    assert gain.fixed == ("stem", "block0", "block1", "block2", "head")
    assert gain.parameters == 0
    assert choose_precision(model=opened).policy == "float32"
    with pytest.raises(
        PlanError, match="no layer of 'net' would compute in half.*5 blocks|no instructions for bfloat16"
    ):
        choose_precision("mixed_bfloat16", model=opened)


@pytest.mark.slow
def test_the_layers_that_are_named_are_those_that_a_policy_reaches(build_tiny_model):
    gain = precision_gain(build_tiny_model())
    assert gain.layers == ("block0_conv", "block1_conv", "block2_conv")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = build_tiny_model()
    finally:
        keras.config.set_dtype_policy("float32")
    assert precision_gain(mixed) == gain
    inner = mixed.get_layer("backbone")
    half = {layer.name for layer in inner.layers if layer.compute_dtype == "bfloat16" and "conv" in layer.name}
    assert half == set(gain.layers)
    kernels = sum(inner.get_layer(name).count_params() for name in gain.layers)
    assert gain.parameters == pytest.approx(kernels / mixed.count_params())
    words = keras.Sequential([keras.Input((4,)), L.Embedding(9, 3, name="table"), L.Dense(2, name="dense")])
    assert precision_gain(words).layers == ("dense",)  # looking up is no product


@pytest.mark.slow
def test_the_copies_that_are_measured_compute_in_the_types_of_the_policy(build_tiny_model, opened):
    model = build_tiny_model()
    model.get_layer("backbone").get_layer("block1_conv").trainable = True
    before = model.get_weights()
    copy = made_with(model, "mixed_bfloat16")
    inner = copy.get_layer("backbone")
    assert inner.get_layer("block0_conv").compute_dtype == "bfloat16"
    assert inner.get_layer("block0_conv").variable_dtype == "float32"
    assert copy.get_layer("logits").compute_dtype == "float32"
    trains = [v.path.split("/")[-2] for v in copy.trainable_variables]
    assert trains == [v.path.split("/")[-2] for v in model.trainable_variables]
    assert "block1_conv" in trains
    stem = made_with(opened, "mixed_bfloat16").get_layer("backbone").get_layer("stem")
    assert stem.compute_dtype == "float32"

    def drawn(measure):
        keras.utils.set_random_seed(1)
        if measure:
            assert min(step_seconds(model)) > 0
        return L.Dense(3)(np.ones((1, 2))).numpy()

    assert np.array_equal(drawn(False), drawn(True))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_what_was_measured_decides(build_tiny_model):
    found = choose_precision(model=build_tiny_model())
    times = re.search(r"takes ([\d.e+]+) ms in bfloat16, ([\d.e+]+) ms in float32", found.reason)
    if times is None:
        assert "no instructions for bfloat16" in found.reason
        assert found.policy == "float32"
    else:
        half, full = map(float, times.groups())
        if abs(full / half / WORTH - 1) > 0.02:  # what is shown is rounded
            assert found.policy == ("mixed_bfloat16" if full / half > WORTH else "float32")
