"""The contract runners themselves: they pass what is right and name what is wrong."""

from __future__ import annotations

import dataclasses
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfft import heads, testing
from tfft.exporting import export
from tfft.tasks.classification.head import ClassificationHead


@pytest.mark.nightly
@pytest.mark.parametrize(
    "head",
    [
        heads.classification(["a", "b", "c"], dropout=0.0, label_smoothing=0.1),
        heads.binary("spam", dropout=0.0),
        heads.multilabel(["red", "round"], dropout=0.0, l2=1e-4),
        heads.regression(2, dropout=0.0),
        heads.token_classification(["O", "B-x", "I-x"], dropout=0.0),
    ],
    ids=lambda head: head.task,
)
def test_every_head_keeps_the_contract(head):
    contract = testing.check_head(head)
    assert {"loss falls", "serving agrees with the metric", "config keeps the head"} <= set(contract.passed)


@dataclasses.dataclass(frozen=True)
class _Upside(ClassificationHead):
    """Serves the least likely class."""

    def postprocess(self, logits):
        return super().postprocess(-tf.convert_to_tensor(logits))


@pytest.mark.slow
def test_a_head_that_serves_something_else_is_found():
    with pytest.raises(testing.ContractError, match="serving agrees with the metric: AssertionError: served accuracy"):
        testing.check_head(_Upside("classification", ("a", "b", "c"), 3, dropout=0.0))


@pytest.mark.nightly
def test_an_export_is_checked_in_place(tiny_model, build_tiny_model, tmp_path):
    exported = export(tiny_model, tmp_path / "served" / "1")
    assert testing.check_export(exported.path, tiny_model).passed == ("layout", "answers equal the model's")
    other = build_tiny_model()
    other.set_weights([w + 0.1 for w in other.get_weights()])
    with pytest.raises(testing.ContractError, match="does not compute what model.predict computes"):
        testing.check_export(exported.path, other)
    shutil.move(exported.path, tmp_path / "latest")
    with pytest.raises(testing.ContractError, match="a server reads folders named by a number, this is 'latest'"):
        testing.check_export(tmp_path / "latest", tiny_model)


@pytest.mark.parametrize(("rows", "largest"), [(1, 0), (2, 1)])
def test_sample_inputs_are_ids_that_the_tables_have(rows, largest):
    ids = keras.Input([3], dtype="int32", name="ids")
    size = keras.Input([3], name="size")
    model = keras.Model({"ids": ids, "size": size}, keras.layers.Embedding(rows, 2)(ids)[:, 0] * size[:, :1])
    inputs = testing.sample_inputs(model)
    assert inputs["ids"].max() == largest
    assert inputs["size"].max() > 0
    assert np.all(np.isfinite(model(inputs)))
