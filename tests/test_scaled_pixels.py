"""Pixels that were scaled before the model scales them are refused wherever a model is asked."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_recipes import backbone

from tfft import heads, models
from tfft.errors import DataError
from tfft.exporting import export, open_export
from tfft.keras_compat import is_functional
from tfft.layers.pixel_checks import PixelModel

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
LABELS = np.arange(6) % 2
REFUSED = "Expected pixels from 0 to 255: the model scales them itself. Received [a-z]+ from"


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = models.build(backbone(), heads.classification(["a", "b"]))
    model.compile("sgd", **heads.from_model(model).compile_args())
    return model


SCALED = {
    "0 to 1": PIXELS / 255,
    "-1 to 1": PIXELS / 127.5 - 1,
    "half precision": (PIXELS / 255).astype(np.float16),
    "mean taken out": PIXELS - np.array([103.9, 116.8, 123.7]),
    "booleans": PIXELS > 127,
    "12 bits": PIXELS.astype(np.uint16) * 16,
    "integers below 0": PIXELS.astype(np.int32) - 128,
}
ASKED = {
    "predict": lambda model, x: model.predict(x, verbose=0),
    "predict dataset": lambda model, x: model.predict(tf.data.Dataset.from_tensor_slices(x).batch(3), verbose=0),
    "predict_on_batch": lambda model, x: model.predict_on_batch(x),
    "evaluate": lambda model, x: model.evaluate(x, LABELS, verbose=0),
    "fit": lambda model, x: model.fit(x, LABELS, verbose=0),
    "call": lambda model, x: model(x),
    "call with a tensor": lambda model, x: model(tf.constant(x)),
    "inside another model": lambda model, x: keras.Sequential([model]).predict(x, verbose=0),
}


@pytest.mark.representative(
    "predict", "predict dataset", "predict_on_batch", "evaluate", "call", "call with a tensor",
    "inside another model",
)  # fmt: skip
@pytest.mark.daily("fit")
@pytest.mark.parametrize("asked", ASKED)
def test_scaled_pixels_are_refused(asked, model):
    before = model.get_weights()
    for scaled in SCALED.values() if asked == "call" else [SCALED["0 to 1"], SCALED["12 bits"]]:
        with pytest.raises((DataError, tf.errors.InvalidArgumentError), match=REFUSED):
            ASKED[asked](model, scaled)
    assert all(map(np.array_equal, before, model.get_weights()))


@pytest.mark.representative("float64", "int32")
@pytest.mark.daily("float32")
@pytest.mark.parametrize("kind", ["float32", "float64", "int32"])
def test_other_numbers_of_pixels_give_the_answers_of_bytes(kind, model):
    wanted = model.predict(PIXELS, verbose=0)
    np.testing.assert_array_equal(model.predict(PIXELS.astype(kind), verbose=0), wanted)
    np.testing.assert_allclose(model(PIXELS.astype(kind)), wanted, atol=1e-5)
    assert np.isfinite(model.predict(np.zeros_like(PIXELS, kind), verbose=0)).all()
    assert np.isfinite(model.predict(np.ones_like(PIXELS), verbose=0)).all()  # dark, but bytes


@pytest.mark.slow
def test_a_model_that_was_saved_or_cloned_refuses_them_too(model, tmp_path):
    model.save(tmp_path / "model.keras")
    for other in (keras.models.load_model(tmp_path / "model.keras"), keras.models.clone_model(model)):
        assert isinstance(other, PixelModel)
        assert is_functional(other)
        other.set_weights(model.get_weights())
        np.testing.assert_array_equal(other.predict(PIXELS, verbose=0), model.predict(PIXELS, verbose=0))
        with pytest.raises(tf.errors.InvalidArgumentError, match=REFUSED):
            other.predict(PIXELS / 255, verbose=0)


@pytest.mark.nightly
def test_an_export_keeps_bytes_in_its_signature(model, tmp_path):
    export(model, tmp_path / "served" / "1")
    served = open_export(tmp_path / "served")
    [spec] = served.signatures["serving_default"].structured_input_signature[1].values()
    assert spec.dtype == tf.uint8
