"""The signature of a detector without suppression, and its conversion for LiteRT."""

import detection_models
import numpy as np
import pytest
import tensorflow as tf

from tfft.exporting.signatures import serving_functions


@pytest.mark.nightly
@pytest.mark.parametrize(("architecture", "width"), [("tfft", 8), ("retinanet", 32)])
def test_the_raw_signature_converts_for_litert(architecture, width):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    model = detection_models.detector(architecture=architecture, width=width)
    images, _ = detection_models.pictures(1, seed=2)
    raw = serving_functions(model).signatures["raw"]
    output = model.predict(images, verbose=0)
    found = raw(images=tf.constant(images))
    np.testing.assert_allclose(found["boxes"], output[..., 2:6], atol=1e-6)
    np.testing.assert_allclose(found["scores"], 1 / (1 + np.exp(-output[..., :2])), atol=1e-6)
    fixed = tf.function(lambda images: raw(images=images)).get_concrete_function(
        tf.TensorSpec([1, 96, 96, 3], tf.uint8)
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([fixed])  # built-in operations only
    run = interpreter.Interpreter(model_content=converter.convert())
    run.allocate_tensors()
    run.set_tensor(run.get_input_details()[0]["index"], images)
    run.invoke()
    values = {tuple(one["shape"]): run.get_tensor(one["index"]) for one in run.get_output_details()}
    cells = output.shape[1]
    np.testing.assert_allclose(values[1, cells, 4], found["boxes"], atol=1e-4)
    np.testing.assert_allclose(values[1, cells, 2], found["scores"], atol=1e-4)
