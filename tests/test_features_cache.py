"""Features that are kept: found again when nothing changed, made again when anything did."""

from __future__ import annotations

import json
import os
import pathlib
import time

import keras
import numpy as np
import pytest
import savedmodels
import tensorflow as tf
from PIL import Image

from tfft import features
from tfft.arrays import store as caches
from tfft.data import to_dataset
from tfft.errors import DataError
from tfft.features import cache_key, extract
from tfft.layers.preprocess import Preprocess
from tfft.modalities.image import feature_source, from_arrays, list_images
from tfft.specs import InputSpec

RNG = np.random.default_rng(8)
L = keras.layers
SPEC = InputSpec(32, 32, value_range=(-1.0, 1.0))


def network(size: int = 32, low: float = -1.0) -> keras.Model:
    keras.utils.set_random_seed(2)
    inner = savedmodels.convnet(None)
    savedmodels.settle_statistics(inner)
    inputs = keras.Input((None, None, 3), dtype="uint8", name="image")
    pixels = Preprocess(InputSpec(size, size, value_range=(low, 1.0)), name="preprocess")(inputs)
    return keras.Model(inputs, inner(pixels), name="net")


IMAGES = RNG.integers(0, 256, (12, 32, 32, 3)).astype(np.uint8)
LABELS = np.arange(12, dtype=np.int32)


@pytest.fixture(scope="module")
def model():
    return network()


def get(model, data=(IMAGES, LABELS), **options):
    options = {"engine": "tensorflow", "verbose": False, **options}
    return extract(model, data, **options)


def entry_of(folder: pathlib.Path) -> pathlib.Path:
    (entry,) = (path for path in folder.iterdir() if not path.name.startswith("."))
    return entry


@pytest.fixture(params=["arrays", "dataset", "files"])
def data(request, tmp_path):
    """The same examples as arrays, as a dataset, and as files."""
    if request.param == "arrays":
        return IMAGES, LABELS
    if request.param == "dataset":
        return from_arrays(IMAGES, LABELS, batch_size=5)
    for i, image in enumerate(IMAGES):
        path = tmp_path / "photos" / f"class{i:02}" / "a.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path)
    return list_images(tmp_path / "photos")


# --- found again -------------------------------------------------------------------------------------------------


@pytest.mark.representative("arrays-tensorflow", "dataset-tensorflow")
@pytest.mark.daily("files-litert")
@pytest.mark.parametrize("engine", ["litert", "tensorflow"])
def test_found_again_with_the_same_values(model, data, engine, tmp_path):
    first = get(model, data, cache=tmp_path / "c", engine=engine)
    again = get(model, data, cache=tmp_path / "c", engine=engine)
    assert (first.cached, again.cached) == (False, True)
    np.testing.assert_array_equal(again.arrays, first.arrays)
    np.testing.assert_allclose(first.arrays, model(IMAGES), atol=1e-5)
    for found in (first, again):
        np.testing.assert_array_equal(found.labels, LABELS)
        assert found.engine == engine
        assert isinstance(found.arrays, np.memmap)
        assert not found.arrays.flags.writeable
    assert (first.seconds > 0, again.seconds) == (True, 0)


@pytest.mark.slow
def test_found_by_another_model_of_the_same_values(model, tmp_path):
    get(model, cache=tmp_path)
    assert get(network(), cache=tmp_path).cached
    trained = network()
    trained.trainable = False
    assert get(trained, cache=tmp_path).cached


@pytest.mark.nightly
def test_found_again_for_a_folder_that_moved(model, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "one" / name).mkdir(parents=True)
        Image.fromarray(IMAGES[0]).save(tmp_path / "one" / name / "x.png")
    get(model, list_images(tmp_path / "one"), cache=tmp_path / "c")
    (tmp_path / "one").rename(tmp_path / "two")
    assert get(model, list_images(tmp_path / "two"), cache=tmp_path / "c").cached


def test_kept_in_memory(model):
    features.clear_caches()
    first = get(model, cache="memory")
    again = get(model, cache="memory")
    assert (first.cached, again.cached) == (False, True)
    assert again.arrays is first.arrays
    features.clear_caches()
    assert not get(model, cache="memory").cached


@pytest.mark.parametrize("off", [None, False])
def test_not_kept(model, off, monkeypatch, tmp_path):
    monkeypatch.setenv("TFFT_CACHE_DIR", str(tmp_path / "none"))
    assert not get(model, cache=off).cached
    assert not get(model, cache=off).cached
    assert not (tmp_path / "none").exists()


def test_listed_and_cleared(model, monkeypatch, tmp_path):
    monkeypatch.setenv("TFFT_CACHE_DIR", str(tmp_path))
    assert features.list_caches() == []
    get(model)
    get(model, dtype="float16")
    newest, oldest = features.list_caches()
    assert newest.folder == tmp_path / "features" / newest.key
    assert (newest.examples, newest.shapes, newest.dtypes) == (12, ((12, 12),), ("float16",))
    assert (oldest.dtypes, oldest.model, oldest.engine) == (("float32",), "net", "tensorflow")
    other = tmp_path / "features" / "mine"
    other.mkdir()
    freed = features.clear_caches()
    assert freed == newest.bytes + oldest.bytes > 12 * 12 * 6
    assert features.list_caches() == []
    assert other.is_dir()


@pytest.mark.slow
def test_several_tensors(tmp_path):
    savedmodels.MAKERS["transformer"](tmp_path / "t")
    from tfft.backbones.savedmodel import open_savedmodel

    whole = open_savedmodel(tmp_path / "t").model
    for layer in whole.layers[:4]:
        layer.trainable = False
    prefix, suffix = features.split_frozen(whole)
    ids = RNG.integers(0, 50, (7, 5)).astype(np.int32)
    data = {"input_word_ids": ids, "input_mask": np.ones_like(ids)}, np.arange(7)
    for _ in range(2):
        found = get(prefix, data, cache=tmp_path / "c", dtype="float16", engine="auto")
        hidden, mask = found.arrays
        assert (hidden.dtype, mask.dtype) == (np.float16, np.int32)
        (x, y), *rest = found.dataset(7)
        assert not rest
        np.testing.assert_allclose(suffix(x), whole(data[0]), atol=2e-3)
        np.testing.assert_array_equal(y, np.arange(7))
    assert found.cached


# --- the key -----------------------------------------------------------------------------------------------------


def changed_pixel(data):
    if isinstance(data, tuple):
        images = IMAGES.copy()
        images[7, 3, 3, 1] ^= 1
        return images, LABELS
    if isinstance(data, tf.data.Dataset):
        return from_arrays(*changed_pixel((IMAGES, LABELS)), batch_size=5)
    Image.fromarray(changed_pixel((IMAGES, LABELS))[0][7]).save(data.paths[7])
    return data


def changed_order(data):
    order = np.array([1, 0, *range(2, 12)])
    if isinstance(data, tuple):
        return IMAGES[order], LABELS[order]
    if isinstance(data, tf.data.Dataset):
        return from_arrays(IMAGES[order], LABELS[order], batch_size=5)
    return data.take(order)


@pytest.mark.daily("arrays-changed_pixel", "dataset-changed_order", "files-changed_pixel")
@pytest.mark.parametrize("change", [changed_pixel, changed_order])
def test_another_pixel_or_order_is_another_key(model, data, change, tmp_path):
    first = get(model, data, cache=tmp_path / "c")
    assert get(model, data, cache=tmp_path / "c").cached
    data = change(data)
    second = get(model, data, cache=tmp_path / "c")
    assert not second.cached
    assert not np.array_equal(second.arrays, first.arrays)
    np.testing.assert_array_equal(second.arrays, get(model, data, cache=None).arrays)


def test_batches_are_no_part_of_the_key(model, tmp_path):
    get(model, from_arrays(IMAGES, LABELS, batch_size=5), cache=tmp_path)
    assert get(model, from_arrays(IMAGES, LABELS, batch_size=12), cache=tmp_path).cached


@pytest.mark.nightly
def test_a_file_with_another_name_is_another_key(model, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "p" / name).mkdir(parents=True)
        Image.fromarray(IMAGES[0]).save(tmp_path / "p" / name / "x.png")
    get(model, list_images(tmp_path / "p"), cache=tmp_path / "c")
    (tmp_path / "p" / "a" / "x.png").rename(tmp_path / "p" / "a" / "y.png")
    assert not get(model, list_images(tmp_path / "p"), cache=tmp_path / "c").cached


def one_weight(layer: int) -> keras.Model:
    model = network()
    variable = model.layers[-1].weights[layer]
    value = variable.numpy()
    value.flat[0] += 1e-3
    variable.assign(value)
    return model


@pytest.mark.daily("<lambda>0", "<lambda>3")
@pytest.mark.parametrize(
    "other", [lambda: one_weight(0), lambda: one_weight(-1), lambda: network(40), lambda: network(low=0.0)]
)
def test_another_weight_size_or_range_is_another_key(model, other, tmp_path):
    first = get(model, cache=tmp_path)
    model = other()
    second = get(model, cache=tmp_path)
    assert not second.cached
    np.testing.assert_array_equal(second.arrays, get(model, cache=None).arrays)
    assert not np.array_equal(second.arrays, first.arrays)


@pytest.mark.slow
def test_another_type_engine_or_version_is_another_key(model, tmp_path, monkeypatch):
    get(model, cache=tmp_path)
    assert not get(model, cache=tmp_path, dtype="float16").cached
    assert not get(model, cache=tmp_path, engine="litert").cached
    monkeypatch.setattr("tfft.features.cache_key.installed_version", lambda package: "0.0.0")
    assert not get(model, cache=tmp_path).cached


@pytest.mark.nightly
def test_opened_models_have_one_key_however_often_they_are_opened(tmp_path):
    from tfft.backbones.savedmodel import open_savedmodel

    savedmodels.MAKERS["residual"](tmp_path / "m")
    images = RNG.random((4, 32, 32, 3), np.float32)
    get(open_savedmodel(tmp_path / "m").model, images, cache=tmp_path / "c")
    opened = open_savedmodel(tmp_path / "m", batch_norm="train").model
    opened.layers[1].trainable = False
    assert get(opened, images, cache=tmp_path / "c").cached
    opened.layers[-1].weights[-1].assign_add(opened.layers[-1].weights[-1] * 0 + 1e-3)
    assert not get(opened, images, cache=tmp_path / "c").cached


def test_a_layer_without_settings_is_not_kept(tmp_path):
    class Odd(L.Layer):
        def call(self, x):
            return x * 2

        def get_config(self):
            raise NotImplementedError("no")

    inputs = keras.Input((3,))
    model = keras.Model(inputs, L.Dense(2)(Odd()(inputs)))
    found = get(model, RNG.random((4, 3), np.float32), cache=tmp_path)
    assert "cannot be cached: 'odd' (Odd) does not expose its settings" in found.notes[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_dataset_that_shuffles_is_refused(model, tmp_path):
    data = from_arrays(IMAGES, LABELS, shuffle=True)
    with pytest.raises(DataError, match="another order, when it was read again"):
        get(model, data, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    found = get(model, data, cache=None)  # read once: features and labels belong together
    np.testing.assert_allclose(found.arrays, model(IMAGES[found.labels]), atol=1e-5)


@pytest.mark.nightly
def test_files_that_change_or_break_meanwhile(model, tmp_path, monkeypatch):

    for name in ("a", "b"):
        (tmp_path / "p" / name).mkdir(parents=True)
        Image.fromarray(IMAGES[0]).save(tmp_path / "p" / name / "x.png")
    examples = list_images(tmp_path / "p")
    whole = feature_source.FileSource.identity

    def then_touched(self):
        found = whole(self)
        os.utime(examples.paths[1], (1, 1))
        return found

    monkeypatch.setattr(feature_source.FileSource, "identity", then_touched)
    with pytest.raises(DataError, match="changed while"):
        get(model, examples, cache=tmp_path / "c")
    monkeypatch.undo()
    pathlib.Path(examples.paths[1]).write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"b.x\.png"):
        get(model, examples, cache=tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []


# --- the dataset -------------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_the_order_is_that_of_the_images(model, tmp_path):
    found = get(model, cache=tmp_path)
    of_features = found.dataset(5, shuffle=True, seed=3).map(lambda x, y: y)
    of_images = from_arrays(IMAGES, LABELS, batch_size=5, shuffle=True, seed=3).map(lambda x, y: y)
    for _ in range(3):
        for a, b in zip(of_features, of_images, strict=True):
            np.testing.assert_array_equal(a, b)
    assert repr(found) == "Features((12, 12) float32, engine='tensorflow', cached=False)"
    for x, y in found.dataset(5, shuffle=True):
        np.testing.assert_array_equal(x, found.arrays[y.numpy()])
    assert int(found.dataset(5).cardinality()) == 3
    assert tuple(found.dataset(5).element_spec[0].shape) == (None, 12)


def test_without_labels_there_is_no_dataset(model):
    with pytest.raises(DataError, match="no labels"):
        get(model, IMAGES, cache=None).dataset()


def test_what_is_said(model, tmp_path, capsys):
    get(model, cache=tmp_path, verbose=2)
    first = capsys.readouterr().out.splitlines()
    assert first[0] == f"Features of net: 12 float32 each, 0.0 MB for 12 examples, stored in {tmp_path}."
    assert first[1].startswith("Features of 12 examples: ")
    get(model, cache=tmp_path, verbose=2)
    assert "12 examples, read from" in capsys.readouterr().out


@pytest.mark.nightly
def test_to_dataset_of_files_has_the_same_features(model, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "p" / name).mkdir(parents=True)
        Image.fromarray(RNG.integers(0, 256, (50, 40, 3)).astype(np.uint8)).save(tmp_path / "p" / name / "x.png")
    examples = list_images(tmp_path / "p")
    one = get(model, examples, cache=None).arrays
    two = get(model, to_dataset(examples, SPEC), cache=None).arrays
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_the_manifest_is_plain(model, tmp_path):
    get(model, cache=tmp_path)
    content = json.loads((entry_of(tmp_path) / caches.MANIFEST).read_text())["content"]
    assert content["arrays"]["features_0.bin"]["shape"] == [12, 12]
    assert content["written"] <= time.time()


def test_the_key_names_classes_as_keras_saves_them_so_a_moved_module_keeps_its_entries():
    assert cache_key._class_name(Preprocess) == "tfft>Preprocess"
    assert cache_key._class_name(keras.layers.Dense).endswith("Dense")
    assert cache_key._class_name(type("Preprocess", (keras.layers.Layer,), {})) != "tfft>Preprocess"
