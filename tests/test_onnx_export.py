"""ONNX files: the same numbers in a process with ONNX Runtime alone, and what cannot be converted."""

import json

import keras
import numpy as np
import pytest
import weight_models

import tfft
from tfft.errors import ExportError
from tfft.exporting import export_onnx

pytestmark = pytest.mark.slow
NAMES = ("blue", "green", "red")


def images(count=6, size=32):
    return np.random.default_rng(3).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return tfft.build(weight_models.three_blocks(), tfft.heads.classification(NAMES))


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return export_onnx(model, tmp_path_factory.mktemp("onnx") / "model.onnx", examples=images(), card={"accuracy": 0.5})


def test_it_computes_what_keras_computes_from_batches_of_any_length(model, exported):
    assert exported.inputs == {"images": "uint8 [?, 32, 32, 3]"}
    assert exported.outputs == {"logits": "float32 [?, 3]", "probabilities": "float32 [?, 3]"}
    assert exported.largest_difference < 1e-5
    assert exported.agreement == 1.0
    import onnxruntime

    session = onnxruntime.InferenceSession(exported.path)
    for rows in (images(1), images(5)):
        (found,) = session.run(["logits"], {"images": rows})
        np.testing.assert_allclose(found, model.predict(rows, verbose=0), atol=1e-5)


def test_labels_and_card_are_in_the_metadata(exported):
    import onnx

    found = {entry.key: entry.value for entry in onnx.load(exported.path).metadata_props}
    assert found["labels.txt"].split() == list(NAMES)
    assert "accuracy" in found["model_card.md"].lower()


def test_the_check_can_fail(model, tmp_path, monkeypatch):
    from tfft.exporting import onnx, portable

    convert = onnx._convert
    other = tfft.build(weight_models.three_blocks(), tfft.heads.classification(NAMES))
    for weight in other.get_layer("logits").weights:
        weight.assign_add(keras.random.normal(weight.shape, seed=5))
    foreign = portable.source_of(other, onnx.ONNX, None, None, None)
    monkeypatch.setattr(onnx, "_convert", lambda source: convert(foreign))
    with pytest.raises(ExportError, match=r"for ONNX does not compute what the Keras model.*: logits differs by"):
        export_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("task", "outputs"),
    [("object_detection", {"boxes", "scores"}), ("semantic_segmentation", {"mask", "probabilities", "shares"})],
)
def test_detectors_and_segmenters(task, outputs, tmp_path):
    import detection_models

    keras.utils.set_random_seed(0)
    network = tfft.build(detection_models.untrained(), getattr(tfft.heads, task)(("square", "ring"), width=8))
    made = export_onnx(network, tmp_path / "model.onnx")
    assert set(made.outputs) == outputs
    assert made.largest_difference < 1e-4


def test_operations_that_onnx_lacks_are_named_with_their_layer(tmp_path):
    class Gamma(keras.layers.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.raw_ops.Igamma(a=tf.nn.relu(x) + 1.0, x=tf.nn.relu(x) + 0.5)

    inputs = keras.Input((4,))
    network = keras.Model(inputs, keras.layers.Dense(2)(Gamma(name="incomplete_gamma")(inputs)))
    with pytest.raises(ExportError, match=r"no operation Igamma \(in incomplete_gamma.*\). Export a SavedModel"):
        export_onnx(network, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_texts_open_sizes_and_existing_files_are_refused_with_the_way_out(model, exported, tmp_path):
    words = keras.Input((1,), dtype="string")
    hashed = keras.layers.Hashing(4, output_mode="multi_hot")(words)
    with pytest.raises(ExportError, match="ONNX has no tokenizer. Export a SavedModel"):
        export_onnx(keras.Model(words, keras.layers.Dense(2)(hashed)), tmp_path / "texts.onnx")
    steps = keras.Input((None, 4))
    pooled = keras.layers.GlobalAveragePooling1D()(steps)
    with pytest.raises(ExportError, match="inputs of a fixed size. Received: .*, \\?, 4"):
        export_onnx(keras.Model(steps, keras.layers.Dense(2)(pooled)), tmp_path / "steps.onnx")
    with pytest.raises(ExportError, match="already exists"):
        export_onnx(model, exported.path)
    with pytest.raises(ExportError, match=r"suffix .onnx. Received: .*model.pb"):
        export_onnx(model, tmp_path / "model.pb")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.nightly
def test_the_command_writes_and_checks_a_file(image_folder, tmp_path, capsys):
    from tfft.cli import main

    backbone = weight_models.three_blocks()
    tfft.finetune(backbone, image_folder(), plan="linear_probe", out=tmp_path / "run", verbose=False)
    capsys.readouterr()
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "model.onnx"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["agreement"] == 1.0
    assert said["examples"] == 3  # the held-out ones
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "other.onnx"), "--quantize", "int8"]) == 1
    assert "--quantize is for LiteRT files" in capsys.readouterr().err
    assert not (tmp_path / "other.onnx").exists()
