"""LiteRT files: the same numbers in a process with LiteRT alone, smaller files, and what cannot be converted."""

import json
import pathlib
import zipfile

import keras
import numpy as np
import pytest
import weight_models

import tfft
from tfft.errors import ExportError
from tfft.exporting import export_litert

pytestmark = pytest.mark.slow
NAMES = ("blue", "green", "red")


def images(count=12, size=32):
    generator = np.random.default_rng(3)
    colours = generator.integers(0, 256, (count, 1, 1, 3))
    return np.clip(colours + generator.normal(0, 20, (count, size, size, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return tfft.build(weight_models.three_blocks(), tfft.heads.classification(NAMES))


@pytest.fixture(scope="module")
def plain(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("litert") / "model.tflite"
    return export_litert(model, path, examples=images(), card={"accuracy": 0.5})


def test_it_computes_what_keras_computes_from_pixels_of_one_size(model, plain):
    assert plain.inputs == {"images": "uint8 [1, 32, 32, 3]"}
    assert plain.outputs == {"logits": "float32 [1, 3]", "probabilities": "float32 [1, 3]"}
    assert plain.largest_difference < 1e-5
    assert plain.agreement == 1.0
    assert plain.examples == 12


def test_labels_and_card_are_in_the_file(plain):
    with zipfile.ZipFile(plain.path) as archive:
        assert archive.read("labels.txt").decode().split() == list(NAMES)
        assert "accuracy" in archive.read("model_card.md").decode().lower()


def test_the_check_can_fail(model, tmp_path, monkeypatch):
    from tfft.exporting import litert, portable

    convert = litert._convert
    other = tfft.build(weight_models.three_blocks(), tfft.heads.classification(NAMES))
    for weight in other.get_layer("logits").weights:
        weight.assign_add(keras.random.normal(weight.shape, seed=5))
    foreign = portable.source_of(other, litert.LITERT, None, None, None).function
    monkeypatch.setattr(litert, "_convert", lambda function, *rest: convert(foreign, *rest))
    with pytest.raises(ExportError, match=r"for LiteRT does not compute what the Keras.*: logits differs by"):
        export_litert(model, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.daily("int8-0.75")
@pytest.mark.parametrize(("quantize", "share"), [("float16", 0.75), ("dynamic", 0.75), ("int8", 0.75)])
def test_quantized_files_are_smaller_and_agree(quantize, share, tmp_path):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((16, 16, 3))
    hidden = keras.layers.Conv2D(64, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(inputs))
    hidden = keras.layers.Conv2D(128, 3, activation="relu")(hidden)
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(hidden))
    network = keras.Model(inputs, outputs)
    rows = images(size=16).astype(np.float32)
    whole = export_litert(network, tmp_path / "whole.tflite", class_names=NAMES, examples=rows)
    made = export_litert(network, tmp_path / "made.tflite", class_names=NAMES, quantize=quantize, representative=rows)
    assert made.size < share * whole.size
    assert made.agreement >= 0.75
    assert whole.largest_difference < made.largest_difference < 0.2
    assert quantize in str(made)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("task", "outputs"),
    [("object_detection", {"boxes", "scores"}), ("semantic_segmentation", {"mask", "probabilities", "shares"})],
)
def test_detectors_and_segmenters(task, outputs, tmp_path):
    import detection_models

    keras.utils.set_random_seed(0)
    network = tfft.build(detection_models.untrained(), getattr(tfft.heads, task)(("square", "ring"), width=8))
    made = export_litert(network, tmp_path / "model.tflite")
    assert set(made.outputs) == outputs
    assert made.largest_difference < 1e-4


@pytest.mark.nightly
def test_image_files_are_decoded_as_the_model_decodes_them(model, image_folder, tmp_path):
    files = sorted(image_folder().glob("*/*.png"))[:5]
    made = export_litert(model, tmp_path / "model.tflite", examples=files)
    assert made.examples == 5
    assert made.agreement == 1.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quantize": "int8"}, r"Expected representative= examples for quantize='int8'.*Received: none"),
        ({"quantize": "int4"}, r"Unknown quantize 'int4'. Expected one of: float16, dynamic, int8.*int8"),
        ({"examples": np.zeros((2, 5, 5, 3))}, r"Expected examples of the shape \[n, 32, 32, 3\].*\[2, 5, 5, 3\]"),
        ({"examples": {"pixels": np.zeros((2, 32, 32, 3))}}, r"Expected an array for the input 'images'.*pixels"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(model, settings, said, tmp_path):
    with pytest.raises(ExportError, match=said):
        export_litert(model, tmp_path / "model.tflite", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_never_replaced(model, plain, tmp_path):
    content = plain.path.read_bytes()
    with pytest.raises(ExportError, match="already exists"):
        export_litert(model, plain.path)
    assert plain.path.read_bytes() == content
    with pytest.raises(ExportError, match=r"suffix .tflite. Received: .*model.lite"):
        export_litert(model, tmp_path / "model.lite")


def test_texts_and_open_sizes_are_refused_with_the_way_out(tmp_path):
    words = keras.Input((1,), dtype="string")
    hashed = keras.layers.Hashing(4, output_mode="multi_hot")(words)
    with pytest.raises(ExportError, match="LiteRT has no tokenizer. Export a SavedModel"):
        export_litert(keras.Model(words, keras.layers.Dense(2)(hashed)), tmp_path / "texts.tflite")
    steps = keras.Input((None, 4))
    pooled = keras.layers.GlobalAveragePooling1D()(steps)
    with pytest.raises(ExportError, match="inputs of a fixed size. Received: .*, \\?, 4"):
        export_litert(keras.Model(steps, keras.layers.Dense(2)(pooled)), tmp_path / "steps.tflite")


def test_operations_that_litert_lacks_are_named_with_their_layer(tmp_path):
    class Gamma(keras.layers.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.raw_ops.Igamma(a=tf.nn.relu(x) + 1.0, x=tf.nn.relu(x) + 0.5)

    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(2)(Gamma(name="incomplete_gamma")(inputs))
    with pytest.raises(
        ExportError, match=r"LiteRT has no operation Igamma \(in .*incomplete_gamma.*\)\. Export a SavedModel"
    ):
        export_litert(keras.Model(inputs, outputs), tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.nightly
def test_the_command_line(image_folder, tmp_path, capsys):
    from tfft.cli import main

    photos = image_folder(per_class=8)
    keras.utils.set_random_seed(0)
    tfft.finetune(
        weight_models.three_blocks(), photos, plan="linear_probe", out=tmp_path / "run", export_to=False, verbose=False
    )
    capsys.readouterr()
    out = tmp_path / "phone" / "model.tflite"
    assert main(["export", str(tmp_path / "run"), str(out), "--quantize", "int8", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert pathlib.Path(shown["path"]) == out
    assert shown["quantize"] == "int8"
    assert shown["agreement"] > 0.5
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "served"), "--quantize", "int8"]) == 1
    assert "--quantize is for LiteRT" in capsys.readouterr().err
