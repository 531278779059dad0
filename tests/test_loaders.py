"""Formats of backbones: one decision per handle, options refused in one place, and formats from outside of tfft."""

import inspect
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import keras
import numpy as np
import pytest
import savedmodels

import tfft
from tfft import heads
from tfft.backbones import Backbone, LoadOptions, digest, load_backbone, loaders, register_loader
from tfft.errors import BackboneError, HandleError, SavedModelError


class NumpyLoader:
    """Dense layers with ReLU, as arrays w0, b0, w1, b1, … in a file."""

    name = "NumPy archive"
    options = frozenset({"output"})

    def matches(self, handle):
        return handle.endswith(".npz")

    def files(self, handle):
        return Path(handle)

    def load(self, handle, options):
        arrays = np.load(handle)
        x = inputs = keras.Input((len(arrays["w0"]),), name="values")
        for i in range(int(options.output or len(arrays) // 2)):
            dense = keras.layers.Dense(len(arrays[f"b{i}"]), "relu", name=f"block{i}_dense")
            x = dense(x)
            dense.set_weights([arrays[f"w{i}"], arrays[f"b{i}"]])
        return Backbone(Path(handle).stem, keras.Model(inputs, x), handle)


@pytest.fixture
def archive(tmp_path):
    random = np.random.default_rng(0)
    arrays = {f"w{i}": random.normal(size=(5, 5)).astype("float32") for i in range(2)}
    np.savez(tmp_path / "dense.npz", b0=np.ones(5, "float32"), b1=np.zeros(5, "float32"), **arrays)
    return tmp_path / "dense.npz"


@pytest.fixture
def registered():
    remove = register_loader(NumpyLoader())
    yield remove
    remove()


# ------------------------------------------------------------------------------- a format of one's own


def test_a_format_from_outside_is_opened_pinned_built_and_used(archive, registered):
    backbone = load_backbone(archive)
    assert (backbone.name, backbone.origin, backbone.digest) == ("dense", str(archive), digest(archive))
    assert [block.name for block in backbone.blocks] == ["block0", "block1"]
    x = np.random.default_rng(1).normal(size=(3, 5)).astype("float32")
    arrays = np.load(archive)
    hidden = np.maximum(x @ arrays["w0"] + arrays["b0"], 0)
    np.testing.assert_allclose(load_backbone(archive, output="1").model(x), hidden, rtol=1e-5)
    np.testing.assert_allclose(backbone.model(x), np.maximum(hidden @ arrays["w1"], 0), rtol=1e-5, atol=1e-5)
    model = tfft.build(load_backbone(archive, name="mine"), heads.classification(["a", "b"]))
    assert model.predict(x, verbose=0).shape == (3, 2)
    tfft.unfreeze(model, "block1")
    assert {v.path.split("/")[0] for v in model.trainable_variables} == {"block1_dense", "logits"}


def test_its_pin_is_checked_before_it_is_opened(archive, registered, monkeypatch):
    pinned = f"{archive}@sha256:{digest(archive)}"
    assert load_backbone(pinned).origin == pinned
    monkeypatch.setattr(NumpyLoader, "load", lambda *_: pytest.fail("was opened"))
    with pytest.raises(SavedModelError, match="pinned to different content"):
        load_backbone(f"{archive}@sha256:{'0' * 64}")


def test_its_options_are_checked_like_those_of_every_format(archive, registered):
    with pytest.raises(BackboneError) as caught:
        load_backbone(archive, trust=True, pooling="mean", image_size=0)
    for part in (
        "opened as NumPy archive, with the options batch_norm, image_size, input_range, name, output (3 problems)",
        "trust= is for SavedModels",
        "pooling= is for models with a tokenizer",
        "image_size: expected pixels",
    ):
        assert part in str(caught.value)
    with pytest.raises(BackboneError, match="take one image; 'dense' takes values"):
        load_backbone(archive, input_range=(0, 1))


def test_a_loader_is_taken_away_again(archive):
    remove = register_loader(NumpyLoader())
    with pytest.raises(BackboneError, match="the name 'NumPy archive' is taken"):
        register_loader(NumpyLoader())
    remove()
    remove()
    with pytest.raises(SavedModelError, match="is a file; expected a SavedModel folder"):
        load_backbone(archive)


def test_what_is_no_loader_is_refused_as_a_whole():
    class Half:
        name = "half"

        def load(self, handle, options):
            """Never called."""

    with pytest.raises(BackboneError, match=r"(?s)3 problems.*no 'options'.*no 'matches'.*no 'files'"):
        register_loader(Half())

    class Wrong(NumpyLoader):
        name, options = "SavedModel", frozenset({"max_lenght"})

    with pytest.raises(
        BackboneError, match=r"(?s)unknown option 'max_lenght'\. Did you mean 'max_length'.*'SavedModel' is"
    ):
        register_loader(Wrong())


def test_a_package_names_its_loader_as_an_entry_point(archive, monkeypatch):
    entry = metadata.EntryPoint("npz", f"{__name__}:NumpyLoader", loaders.ENTRY_POINTS)
    absent = metadata.EntryPoint("gone", "no_such_module:Loader", loaders.ENTRY_POINTS)
    found = [entry]
    monkeypatch.setattr(loaders.metadata, "entry_points", lambda group: found if group == entry.group else [])
    loaders._from_entry_points.cache_clear()
    try:
        assert load_backbone(archive).name == "dense"
        found.append(absent)
        loaders._from_entry_points.cache_clear()
        with pytest.raises(BackboneError, match="'no_such_module:Loader' cannot be imported: No module named"):
            load_backbone(archive)
    finally:
        loaders._from_entry_points.cache_clear()


# ------------------------------------------------------------------------------- the built-in formats


def test_the_first_loader_that_matches_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "VGG16").mkdir()
    (tmp_path / "net.keras").touch()
    wanted = {
        "keras_hub:bert": loaders.KerasHub,
        "keras:vgg16": loaders.Application,
        "vgg-19:random": loaders.Application,
        "VGG16": loaders.SavedModel,  # a folder of that name comes first
        "net.keras": loaders.KerasFile,
        "gone.keras": loaders.SavedModel,
        "bert": loaders.HuggingFaceText,
        "efficientnet-lite0": loaders.SavedModel,
        "https://tfhub.dev/google/x/1": loaders.SavedModel,
    }
    assert {handle: type(loaders.find_loader(handle)) for handle in wanted} == wanted
    assert type(loaders.find_loader(keras.Sequential())) is loaders.KerasModel


def test_choosing_a_loader_does_not_import_tensorflow():
    code = """
import sys, tfft.backbones as b
for handle in ("vgg16", "keras_hub:x", "a.keras", ".", "efficientnet-lite0"):
    b.loaders.find_loader(handle)
b.LoadOptions().check("x", "y", ())
print([name for name in ("tensorflow", "keras", "keras_hub") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_options_are_the_keywords_of_load_backbone():
    keywords = {p.name: p.default for p in list(inspect.signature(load_backbone).parameters.values())[1:]}
    assert keywords == {name: getattr(LoadOptions(), name) for name in LoadOptions.names()}
    for loader in (*loaders.LOADERS, loaders.KerasModel()):
        assert loader.options <= set(LoadOptions.names())


def test_options_of_other_formats_are_refused_together():
    with pytest.raises(BackboneError) as caught:
        load_backbone("keras:VGG16:random", output="block5", tags=["serve"], max_length=8, backbone_dropout=True)
    message = str(caught.value)
    assert "'keras:VGG16:random' is opened as keras.applications network, with the options batch_norm" in message
    for name in ("output", "tags", "max_length", "backbone_dropout"):
        assert f"{name}= is for" in message
    with pytest.raises(BackboneError, match="signature= is for SavedModels"):
        load_backbone(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), signature="x")


def test_settings_of_texts_need_a_preprocessor(tmp_path):
    savedmodels.transformer(tmp_path / "encoder")
    with pytest.raises(BackboneError, match=r"SavedModel without preprocessor=(?s:.*)max_length= is for models with"):
        load_backbone(tmp_path / "encoder", max_length=8, output="sequence_output")


def test_a_pin_needs_files():
    with pytest.raises(HandleError, match="cannot be pinned"):
        load_backbone(f"keras_hub:no_such_preset@sha256:{'0' * 64}")
