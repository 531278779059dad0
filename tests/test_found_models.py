"""Kinds of SavedModels that strangers publish: open, with the right pixels, and whole in a file of their own."""

from __future__ import annotations

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from found_models import FOUND

import tfft
from tfft import testing


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.representative("keras3_archive", "tf1_iterator", "no_batch", "quantization_aware", "two_towers")
@pytest.mark.parametrize("name", FOUND)
def test_a_kind_that_strangers_publish_is_right_once_it_is_open(name, tmp_path):
    kind = FOUND[name]
    kind.make(tmp_path / "m")
    backbone = tfft.load_backbone(tmp_path / "m", **kind.options)
    if kind.value_range is not None:
        assert backbone.input_spec.value_range == kind.value_range
    assert backbone.can_train == kind.trains
    x = keras.tree.map_structure(tf.constant, (kind.inputs or (lambda: testing.sample_inputs(backbone.model, 4)))())
    wanted = backbone.model(x)
    shutil.rmtree(tmp_path / "m")
    backbone.model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again(x), wanted, rtol=1e-4, atol=1e-5)
