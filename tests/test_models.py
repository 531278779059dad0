"""Backbone and head become one model: names, freezing, inputs of every kind, errors, saving."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from tfft import heads
from tfft.backbones.base import Backbone, blocks_of, find_backbone, head_layers
from tfft.errors import BackboneError, PlanError
from tfft.layers.preprocess import resize_pixels, scale_pixels
from tfft.models import build
from tfft.specs import InputSpec

slow_fixtures = process_fixtures = ("saved",)

L = keras.layers
RNG = np.random.default_rng(2)
HEAD = heads.classification(["ant", "bee", "cat"])
PHOTOS = RNG.integers(0, 256, (4, 40, 50, 3), np.uint8)


def image_backbone(rank=2, size=(32, 32), channels=3, flexible=False, **spec):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((*size, channels), name="pixels")
    x = L.Conv2D(4, 3, 2, name="stem_conv")(inputs)
    x = L.BatchNormalization(name="stem_norm")(x)
    x = L.Conv2D(6, 3, 2, activation="relu", name="block1_conv")(x)
    if rank == 3:
        x = L.Reshape((-1, 6), name="flat")(x)
    if rank == 2:
        x = L.GlobalAveragePooling2D(name="average")(x)
    model = keras.Model(inputs, x, name="tiny")
    height, width = (s or 32 for s in size)
    return Backbone("org/tiny net", model, "test", InputSpec(height, width, channels, flexible=flexible, **spec))


def test_the_model_has_fixed_names_and_takes_raw_pixels_of_any_size():
    backbone = image_backbone(rank=4, value_range=(-1, 1))
    model = build(backbone, HEAD)
    assert [layer.name for layer in model.layers] == ["image", "preprocess", "backbone", "pool", "dropout", "logits"]
    assert model.name == "org_tiny_net"
    assert model.input.dtype == "uint8"
    assert model.input.shape == (None, None, None, 3)
    assert model.output.shape == (None, 3)
    features = backbone.model(scale_pixels(resize_pixels(PHOTOS, backbone.input_spec), backbone.input_spec))
    expected = model.get_layer("logits")(keras.ops.mean(features, axis=(1, 2)))
    np.testing.assert_allclose(model.predict(PHOTOS, verbose=0), expected, atol=1e-6)
    small = np.asarray(resize_pixels(PHOTOS, backbone.input_spec)).astype(np.uint8)
    np.testing.assert_array_equal(model(small), model(PHOTOS))
    assert heads.from_model(model) == HEAD


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_features_of_every_rank_are_pooled(rank):
    backbone = image_backbone(rank)
    model = build(backbone, HEAD)
    assert ("pool" in [layer.name for layer in model.layers]) == (rank > 2)
    features = np.asarray(model.get_layer("backbone")(scale_pixels(PHOTOS[:, :32, :32], backbone.input_spec)))
    pooled = features.mean(axis=tuple(range(1, rank - 1)))
    np.testing.assert_allclose(model(PHOTOS[:, :32, :32]), model.get_layer("logits")(pooled), atol=1e-5)


@pytest.mark.slow
def test_the_backbone_starts_frozen_and_stays_bit_equal_in_training():
    model = build(image_backbone(), HEAD)
    assert [w.path for w in model.trainable_weights] == ["logits/kernel", "logits/bias"]
    assert head_layers(model) == [model.get_layer("logits")]
    assert find_backbone(model) is model.get_layer("backbone")
    assert all(not layer.trainable for block in blocks_of(model) for layer in block.layers)
    assert model.get_layer("backbone").trainable
    before = [w.numpy() for w in model.get_layer("backbone").weights]
    kernel = model.get_layer("logits").kernel.numpy()
    model.compile(keras.optimizers.Adam(0.01), **HEAD.compile_args())
    model.fit(PHOTOS, np.array([0, 1, 2, 0]), epochs=2, verbose=0)
    for old, new in zip(before, model.get_layer("backbone").weights, strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(kernel, model.get_layer("logits").kernel)


def test_single_blocks_can_be_unfrozen_and_then_train():
    model = build(image_backbone(), HEAD)
    last = blocks_of(model)[-1]
    for layer in last.layers:
        layer.trainable = True
    names = {w.path.split("/")[-2] for w in model.trainable_weights}
    assert names == {"block1_conv", "logits"}


RELOAD = """
import sys, numpy as np
import tfft.heads, tfft.layers.preprocess, keras
photos = np.load(sys.argv[1])
for path in sys.argv[2:]:
    model = keras.saving.load_model(path)
    np.savez(path + ".npz", logits=model.predict(photos, verbose=0),
             trainable=[w.path for w in model.trainable_weights], names=list(tfft.heads.from_model(model).class_names))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Trained models with no block and with one unfrozen, and what one fresh process finds in their files."""
    place, models = tmp_path_factory.mktemp("saved"), []
    for unfrozen in (0, 1):
        model = build(image_backbone(rank=4), HEAD)
        for block in blocks_of(model)[len(blocks_of(model)) - unfrozen :]:
            for layer in block.layers:
                layer.trainable = True
        model.compile("adam", **HEAD.compile_args())
        model.fit(PHOTOS, np.array([0, 1, 2, 0]), verbose=0)
        model.save(place / f"{unfrozen}.keras")
        models.append(model)
    np.save(place / "photos.npy", PHOTOS)
    arguments = [place / "photos.npy", *(place / f"{unfrozen}.keras" for unfrozen in (0, 1))]
    subprocess.run([sys.executable, "-c", RELOAD, *arguments], check=True)
    return [(model, np.load(place / f"{unfrozen}.keras.npz")) for unfrozen, model in enumerate(models)]


@pytest.mark.slow
@pytest.mark.parametrize("unfrozen", [0, 1])
def test_a_saved_model_is_the_same_in_a_fresh_process(saved, unfrozen):
    model, found = saved[unfrozen]
    np.testing.assert_array_equal(found["logits"], model.predict(PHOTOS, verbose=0))
    assert found["trainable"].tolist() == [w.path for w in model.trainable_weights]
    assert len(found["trainable"]) == 2 + 2 * unfrozen
    assert tuple(found["names"]) == HEAD.class_names


def test_an_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(PlanError, match=r"modality, image_size, pair, audio, name. Received: imagesize..*'image_size'"):
        build(image_backbone(), HEAD, imagesize=48)


def test_flexible_backbones_take_another_size_and_fixed_ones_say_theirs():
    model = build(image_backbone(size=(None, None), flexible=True), HEAD, image_size=(48, 24))
    assert model.get_layer("preprocess").output.shape == (None, 48, 24, 3)
    assert build(image_backbone(), HEAD, image_size=32).output.shape == (None, 3)
    with pytest.raises(BackboneError, match="expects images of 32 x 32 pixels. Received: image_size=48"):
        build(image_backbone(), HEAD, image_size=48)
    with pytest.raises(BackboneError, match="one number or"):
        build(image_backbone(size=(None, None), flexible=True), HEAD, image_size=(1, 2, 3))
    with pytest.raises(BackboneError, match="cannot take images of 2 x 2 x 3"):
        build(image_backbone(size=(None, None), flexible=True, rank=4), HEAD, image_size=2)


def test_a_spec_that_contradicts_the_graph_is_refused():
    fixed = image_backbone()
    wrong = Backbone("wrong", fixed.model, "test", InputSpec(64, 64))
    with pytest.raises(BackboneError, match=r"has the shape \(32, 32, 3\).*images are made \(64, 64, 3\)"):
        build(wrong, HEAD)


@pytest.mark.slow
def test_grey_and_colour_images_fit_either_backbone_and_other_channels_are_refused():
    grey, colour = build(image_backbone(channels=1), HEAD), build(image_backbone(), HEAD)
    brightness = np.asarray(resize_pixels(PHOTOS, InputSpec(40, 50, 1)))
    np.testing.assert_array_equal(grey.predict(PHOTOS, verbose=0), grey.predict(brightness, verbose=0))
    repeated = np.repeat(brightness, 3, -1)
    np.testing.assert_array_equal(colour.predict(brightness, verbose=0), colour.predict(repeated, verbose=0))
    with pytest.raises(ValueError, match=r"expected shape=\(None, None, None, 3\), found shape=\(2, 40, 50, 4\)"):
        colour.predict(np.zeros((2, 40, 50, 4), np.uint8), verbose=0)


def text_model(structure):
    ids = keras.Input((None,), dtype="int32", name="ids")
    mask = keras.Input((None,), dtype="int32", name="mask")
    x = L.Embedding(11, 6, name="embedding")(ids)
    x = L.Multiply(name="masked")([x, L.Lambda(lambda m: keras.ops.cast(m, "float32")[..., None], name="cast")(mask)])
    x = L.Dense(5, name="block1")(x)
    inputs = {"ids": ids, "mask": mask} if structure == "dict" else [ids, mask]
    return keras.Model(inputs, x)


@pytest.mark.representative("dict")
@pytest.mark.parametrize("structure", ["dict", "list"])
def test_other_inputs_pass_through_with_their_names(structure):
    model = build(Backbone("text", text_model(structure), "test"), heads.binary("positive"))
    ids, mask = RNG.integers(0, 11, (3, 7)), np.ones((3, 7), np.int32)
    data = {"ids": ids, "mask": mask} if structure == "dict" else [ids, mask]
    assert model.predict(data, verbose=0).shape == (3, 1)
    assert {t.name for t in keras.tree.flatten(model.input)} == {"ids", "mask"}
    assert type(model.input) is type(data)
    assert len(model.trainable_weights) == 2
    with pytest.raises(BackboneError, match="does not take images"):
        build(Backbone("text", text_model(structure), "test"), HEAD, image_size=32)


def test_several_outputs_and_odd_features_are_refused():
    inputs = keras.Input((32, 32, 3))
    several = keras.Model(inputs, {"a": L.Flatten()(inputs), "b": L.GlobalMaxPooling2D()(inputs)})
    with pytest.raises(BackboneError, match="several outputs.*'a': .*output="):
        build(Backbone("two", several, "test", InputSpec(32, 32)), HEAD)
    deep = keras.Model(inputs, L.Reshape((4, 4, 4, 48))(inputs))
    with pytest.raises(BackboneError, match=r"\(None, 4, 4, 4, 48\)"):
        build(Backbone("deep", deep, "test", InputSpec(32, 32)), HEAD)


@pytest.mark.slow
def test_sequential_nested_and_subclassed_backbones(tmp_path):
    layers = [L.Conv2D(4, 3, name="stem"), L.GlobalMaxPooling2D()]
    sequential = keras.Sequential([keras.Input((32, 32, 3)), *layers], name="seq")
    inputs = keras.Input((32, 32, 3))
    wrapped = keras.Model(inputs, image_backbone().model(inputs))

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.stem = L.Conv2D(4, 3)

        def call(self, x):
            return keras.ops.mean(self.stem(x), axis=(1, 2))

    for inner in (sequential, wrapped, Own()):
        model = build(Backbone("any", inner, "test", InputSpec(32, 32)), HEAD)
        assert [w.path.split("/")[-2] for w in model.trainable_weights] == ["logits", "logits"]
        for layer in blocks_of(model)[0].layers:
            layer.trainable = True
        assert len(model.trainable_weights) > 2
        assert model.predict(PHOTOS, verbose=0).shape == (4, 3)


@pytest.mark.slow
def test_mixed_precision_computes_the_backbone_in_half_and_the_logits_in_full():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        backbone = image_backbone()
        model = build(backbone, HEAD)
    finally:
        keras.config.set_dtype_policy("float32")
    assert backbone.model.get_layer("stem_conv").compute_dtype == "float16"
    assert model.predict(PHOTOS, verbose=0).dtype == np.float32
