"""Models made by users, or by tfft itself, as backbones of new models; and the package beside Keras."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import savedmodels

import tfft
from tfft import heads
from tfft.errors import PlanError, TfftError

HEAD = heads.classification(["a", "b"], dropout=0.0)


def nested() -> keras.Model:
    """A network under a head, the way Keras guides teach it."""
    inputs = keras.Input((32, 32, 3))
    features = keras.layers.Dense(5, name="features")(savedmodels.convnet()(inputs))
    return keras.Model(inputs, features, name="mine")


def test_a_nested_model_is_a_backbone_with_all_of_its_layers():
    backbone = tfft.load_backbone(nested())
    assert [block.name for block in backbone.blocks] == ["stem", "block0", "block1", "block2", "head", "features"]
    model = tfft.build(backbone, HEAD)
    assert {v.path.split("/")[0] for v in model.trainable_weights} == {"logits"}
    tfft.unfreeze(model, 2, batch_norm="train")
    names = {v.path.split("/")[0] for v in model.trainable_weights}
    assert names == {"head_conv", "head_bn", "features", "logits"}


def test_a_nested_model_of_its_own_keeps_its_head_trainable():
    model = nested()
    tfft.unfreeze(model, 1, batch_norm="train")
    assert {v.path.split("/")[0] for v in model.trainable_weights} == {"head_conv", "head_bn", "features"}


def test_a_sequential_around_a_model_is_a_backbone():
    model = keras.Sequential([keras.Input((32, 32, 3)), savedmodels.convnet(), keras.layers.Dense(4, name="top")])
    assert [block.name for block in tfft.load_backbone(model).blocks][-2:] == ["head", "top"]
    assert len(tfft.build(tfft.load_backbone(model), HEAD).trainable_weights) == 2


@pytest.mark.slow
def test_a_model_saved_by_tfft_gives_back_its_backbone(tiny_model, tmp_path):
    tiny_model.save(tmp_path / "photos.keras")
    backbone = tfft.load_backbone(tmp_path / "photos.keras")
    assert backbone.input_spec == tiny_model.get_layer("preprocess").spec
    assert [block.name for block in backbone.blocks] == ["block0", "block1", "block2"]
    assert "its head is left out" in backbone.notes[0]
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), np.uint8)
    again = tfft.build(backbone, tfft.heads.from_model(tiny_model))
    again.get_layer("logits").set_weights(tiny_model.get_layer("logits").get_weights())
    np.testing.assert_allclose(again.predict(images, verbose=0), tiny_model.predict(images, verbose=0), atol=1e-6)


@pytest.mark.slow
def test_an_export_by_tfft_opens_as_a_backbone(tiny_model, tmp_path):
    exported = tfft.export(tiny_model, tmp_path / "served")
    backbone = tfft.load_backbone(exported.path, output="logits")
    assert backbone.input_spec.value_range == (0, 255)
    model = tfft.build(backbone, HEAD, image_size=48)
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8)
    features = keras.Model(model.input, model.get_layer("dropout").input)
    np.testing.assert_allclose(features(images), tiny_model.predict(images, verbose=0), atol=1e-5)
    tfft.unfreeze(model, "norm")
    assert {v.name.split(".")[-1] for v in model.get_layer("backbone").trainable_weights} == {"gamma", "beta"}


@pytest.fixture
def mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


def _toy() -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(16) % 2
    return np.random.default_rng(0).integers(0, 100, (16, 32, 32, 3)).astype("uint8") + 100 * labels[
        :, None, None, None
    ].astype("uint8"), labels


@pytest.mark.nightly
@pytest.mark.usefixtures("mixed_precision")
def test_finetune_under_mixed_precision(tmp_path):
    savedmodels.plain_convnet(tmp_path / "net")
    run = tfft.finetune(tmp_path / "net", _toy(), epochs=1, head_epochs=1, image_size=32, verbose=False)
    assert run.model.get_layer("dropout").compute_dtype == "float16"
    assert np.isfinite(run.final_scores.loss)


@pytest.mark.nightly
def test_what_the_first_phase_learned_survives_the_failure_of_the_second(tmp_path, build_tiny_model):
    backbone = tfft.load_backbone(nested())
    with pytest.raises(PlanError, match="Phase 'fine-tune': the loss became"):
        tfft.finetune(
            backbone, _toy(), epochs=1, head_epochs=1, learning_rate=(1e-3, 1e30), out=tmp_path / "run", verbose=False
        )
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert np.isfinite(model.predict(_toy()[0], verbose=0)).all()


@pytest.mark.nightly
def test_a_failed_export_does_not_lose_the_model(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise tfft.errors.ExportError("no space left")

    monkeypatch.setattr("tfft.recipes.run_output.export", full)
    with pytest.raises(TfftError, match="no space left") as caught:
        tfft.finetune(
            tfft.load_backbone(nested()), _toy(), epochs=0, head_epochs=1, export_to=tmp_path / "1", verbose=False
        )
    assert caught.value.run.final_scores.examples == 4


def test_a_place_that_cannot_be_written_is_told_before_training():
    with pytest.raises(PlanError, match="Nothing can be written to /proc/nowhere"):
        tfft.finetune(tfft.load_backbone(nested()), _toy(), out="/proc/nowhere/run", verbose=False)


def _python(code: str, **environment: str) -> subprocess.CompletedProcess:
    import os

    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


@pytest.mark.process
def test_another_backend_of_keras_is_refused_with_the_fix():
    done = _python("import tfft; tfft.load_backbone('efficientnet-lite0')", KERAS_BACKEND="numpy")
    assert done.returncode == 1
    assert "tfft needs Keras on TensorFlow. Received: KERAS_BACKEND='numpy'. Unset it" in done.stderr


@pytest.mark.nightly
@pytest.mark.process
def test_an_old_keras_is_not_broken_by_importing_tfft():
    code = (
        "from importlib import metadata; real = metadata.version\n"
        "metadata.version = lambda name: '3.10.0' if name == 'keras' else real(name)\n"
        "import tfft, keras; print('keras is fine')\n"
        "tfft.build\n"
    )
    done = _python(code)
    assert "keras is fine" in done.stdout
    assert "keras 3.10.0 is too old, tfft needs keras>=3.15" in done.stderr
