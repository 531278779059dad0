"""Models in two: the same numbers, the same training, and refusals where the front is not constant."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import savedmodels
import tensorflow as tf

import tfft
from tfft import features, heads
from tfft.backbones.base import Backbone
from tfft.errors import BackboneError
from tfft.modalities.image import from_arrays

RNG = np.random.default_rng(11)
L = keras.layers
CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Opens a SavedModel with a new head; each is made once."""
    folder = tmp_path_factory.mktemp("savedmodels")

    def make(name: str, **options) -> keras.Model:
        path = folder / name
        if not path.exists():
            savedmodels.MAKERS[name](path)
        keras.utils.set_random_seed(5)
        size = {"image_size": 32} if name == "plain_convnet" else {}
        backbone = tfft.load_backbone(path, **size, **options)
        return tfft.build(backbone, heads.classification(CLASSES, dropout=0.0))

    return make


def examples(name: str, count: int = 20):
    labels = RNG.integers(0, 3, count).astype(np.int32)
    if name == "transformer":
        ids = RNG.integers(0, 50, (count, 7)).astype(np.int32)
        return {"input_word_ids": ids, "input_mask": (RNG.random((count, 7)) > 0.2).astype(np.int32)}, labels
    return RNG.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8), labels


def dataset_of(inputs, labels, **options) -> tf.data.Dataset:
    if not isinstance(inputs, dict):
        return from_arrays(inputs, labels, **options)
    positions = from_arrays(np.zeros((len(labels), 1, 1), np.uint8), np.arange(len(labels)), **options)
    return positions.map(lambda _, i: ({k: tf.gather(v, i) for k, v in inputs.items()}, tf.gather(labels, i)))


def shapes(model: keras.Model) -> list[tuple]:
    return [tuple(t.shape) for t in model.outputs]


@pytest.mark.representative("transformer-1-expected5", "transformer-2-expected6")
@pytest.mark.daily("branches-1-expected4", "lstm-2-expected7")
@pytest.mark.parametrize(
    ("name", "last", "expected"),
    [
        ("plain_convnet", 0, [(None, 12)]),
        ("plain_convnet", 2, [(None, 8, 8, 8)]),
        ("residual", 0, [(None, 8)]),
        ("residual", 1, [(None, 16, 16, 8)]),
        ("branches", 1, [(None, 16, 16, 14)]),
        ("transformer", 1, [(None, 8)]),
        ("transformer", 2, [(None, None, 8), (None, None)]),  # the mask, that later layers read, comes along
        ("lstm", 2, [(None, None, 6)]),
    ],
)
def test_suffix_of_prefix_is_the_model(made, name, last, expected):
    model = tfft.unfreeze(made(name), last)
    prefix, suffix = features.split_frozen(model)
    assert shapes(prefix) == expected
    inputs = RNG.random((6, 4, 5), np.float32) if name == "lstm" else examples(name, 6)[0]
    np.testing.assert_array_equal(suffix(prefix(inputs)), model(inputs))
    assert [id(v) for v in suffix.trainable_variables] == [id(v) for v in model.trainable_variables]
    assert not prefix.trainable_variables
    assert heads.from_model(suffix).class_names == CLASSES


def test_native_models_and_the_ones_inside_them(tiny_model):
    images = RNG.integers(0, 256, (4, 40, 36, 3)).astype(np.uint8)
    for last, rest in ((0, "dropout"), (1, "block2_conv"), (2, "block1_conv")):
        tfft.unfreeze(tiny_model, last)
        prefix, suffix = features.split_frozen(tiny_model)
        assert suffix.layers[1].name == rest
        np.testing.assert_array_equal(suffix(prefix(images)), tiny_model(images))


def test_the_models_go_on_as_before(tiny_model, tmp_path):
    blocks = [block.name for block in tfft.backbones.base.blocks_of(tiny_model)]
    tfft.unfreeze(tiny_model, 1)
    features.split_frozen(tiny_model)
    assert [block.name for block in tfft.backbones.base.blocks_of(tiny_model)] == blocks
    tiny_model.save(tmp_path / "model.keras")
    images = RNG.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(images), tiny_model(images), atol=1e-6)
    for number, part in enumerate(features.split_frozen(tiny_model)):
        part.save(tmp_path / f"{number}.keras")
        assert keras.saving.load_model(tmp_path / f"{number}.keras").count_params() == part.count_params()


@pytest.mark.slow
def test_cut_at_a_block(made):
    model = made("residual")
    images = examples("residual", 3)[0]
    for cut, shape in (("stem", (None, 16, 16, 8)), ("block1", (None, 16, 16, 8)), ("block2", (None, 8))):
        prefix, suffix = features.split_frozen(model, cut=cut)
        assert shapes(prefix) == [shape]
        np.testing.assert_array_equal(suffix(prefix(images)), model(images))
    with pytest.raises(BackboneError, match="no block 'blok1'. Did you mean 'block1'"):
        features.split_frozen(model, cut="blok1")
    tfft.unfreeze(model, 2)
    assert len(features.split_frozen(model, cut="stem")[1].trainable_variables) == len(model.trainable_variables)
    with pytest.raises(BackboneError, match=r"up to 'block1' would change.*block1 train. Cut at one of stem, block0"):
        features.split_frozen(model, cut="block1")


def test_padding_is_left_to_the_suffix():
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, padding="same", trainable=False)(x)
    x = L.ReLU()(x)
    x = L.UpSampling2D(2)(L.ZeroPadding2D(2)(x))
    model = keras.Model(inputs, L.Dense(2)(L.Conv2D(4, 3)(x)))
    prefix, _ = features.split_frozen(model)
    assert shapes(prefix) == [(None, 8, 8, 4)]


def test_a_mask_crosses_the_cut():
    inputs = keras.Input((6,), dtype="int32")
    x = L.Embedding(10, 4, mask_zero=True, trainable=False)(inputs)
    x = L.LSTM(5, return_sequences=True, trainable=False)(x)
    model = keras.Model(inputs, L.Dense(2)(L.LSTM(3)(x)))
    prefix, suffix = features.split_frozen(model)
    ids = RNG.integers(0, 3, (5, 6)).astype(np.int32)
    given = [np.asarray(t) for t in prefix(ids)]
    np.testing.assert_array_equal(suffix(given), model(ids))
    assert bool in [a.dtype for a in given]


def nested(front: list, trainable_end: bool = True) -> keras.Model:
    x = inner = keras.Input((8, 8, 3))
    for layer in front:
        layer.trainable = False
        x = layer(x)
    inputs = keras.Input((8, 8, 3))
    body = keras.Model(inner, x, name="backbone")(inputs, training=False)  # which Keras does not heed in fit
    end = L.Dense(2, name="end", trainable=trainable_end)(L.Dropout(0.5, name="drop")(L.Flatten()(body)))
    return keras.Model(inputs, end, name="net")


def test_refused_with_dropout_in_the_frozen_part():
    model = nested([L.Conv2D(2, 3, name="conv0"), L.Dropout(0.5, name="inner"), L.Conv2D(2, 3, name="conv1")])
    images = RNG.random((4, 8, 8, 3), np.float32)
    with pytest.raises(BackboneError, match=r"'inner' draws random numbers.*conv1.*ignore_dropout=True"):
        features.split_frozen(model)
    prefix, suffix = features.split_frozen(model, ignore_dropout=True)
    np.testing.assert_array_equal(suffix(prefix(images)), model(images))
    np.testing.assert_array_equal(prefix(images, training=False), prefix(images))
    assert [layer.name for layer in suffix.layers[1:]] == ["drop", "end"]  # the head's dropout stays
    prefix, _ = features.split_frozen(model, cut="conv0")
    np.testing.assert_array_equal(prefix(images, training=True), prefix(images))


def test_dropout_without_a_rate_is_no_reason():
    features.split_frozen(nested([L.Conv2D(2, 3), L.Dropout(0.0), L.Conv2D(2, 3)]))


def test_refused_where_statistics_move():
    norm = L.BatchNormalization(center=False, scale=False, name="norm")
    model = nested([L.Conv2D(2, 3, name="conv0"), norm, L.Conv2D(2, 3, name="conv1")])
    features.split_frozen(model)
    norm.trainable = True
    with pytest.raises(BackboneError, match=r"'norm' is not frozen.*statistics move.*batch_norm='fixed'"):
        features.split_frozen(model)


@pytest.mark.nightly
def test_refused_where_the_training_graph_runs(made):
    model = tfft.unfreeze(made("residual", batch_norm="train"), 1)
    block = model.get_layer("backbone").get_layer("block0")
    block.set_trainable_variables("none")
    features.split_frozen(model)
    block.trainable = True
    with pytest.raises(BackboneError, match="'block0' is not frozen"):
        features.split_frozen(model)


@pytest.mark.slow
def test_refused_where_there_is_nothing_to_divide(made):
    model = made("residual")
    with pytest.raises(BackboneError, match=r"no frozen part.*'stem', trains"):
        features.split_frozen(tfft.unfreeze(model, "all"))
    tfft.freeze(model)
    model.get_layer("logits").trainable = False
    with pytest.raises(BackboneError, match=r"Nothing in 'residual' trains.*stem, block0, block1, block2"):
        features.split_frozen(model)

    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(BackboneError, match="cannot be divided"):
        features.split_frozen(Own())


# --- training on features is training ---------------------------------------------------------------------------


def trained(model: keras.Model, data: tf.data.Dataset, epochs: int = 3) -> None:
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), heads.from_model(model).loss())
    model.fit(data, epochs=epochs, shuffle=False, verbose=0)


@pytest.mark.daily("plain_convnet-1-tensorflow")
@pytest.mark.parametrize(
    ("name", "last", "engine"),
    [(name, last, "litert") for name in ("plain_convnet", "residual", "transformer") for last in (0, 1)]
    + [("plain_convnet", 1, "tensorflow"), ("transformer", 2, "tensorflow")],
)
def test_training_on_features_gives_the_same_weights(made, name, last, engine, tmp_path):
    inputs, labels = examples(name)
    slow, fast = (tfft.unfreeze(made(name), last) for _ in range(2))
    start = [v.numpy() for v in slow.trainable_variables]
    trained(slow, dataset_of(inputs, labels, batch_size=8, shuffle=True, seed=4))
    prefix, suffix = features.split_frozen(fast)
    found = features.extract(prefix, dataset_of(inputs, labels), cache=tmp_path, engine=engine, verbose=False)
    assert found.engine == engine
    trained(suffix, found.dataset(8, shuffle=True, seed=4))
    for a, b, old in zip(slow.trainable_variables, fast.trainable_variables, start, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5, rtol=0, err_msg=a.path)
        assert np.abs(old - a).max() > 1e-4, a.path
    for a, b in zip(slow.weights, fast.weights, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5, rtol=0)


@pytest.mark.nightly
def test_the_comparison_can_fail(made, tmp_path):
    """With statistics that move in the frozen part, training on its features is another training."""
    inputs, labels = examples("residual")
    models = [tfft.unfreeze(made("residual", batch_norm="train"), 1) for _ in range(2)]
    prefix, suffix = features.split_frozen(models[1])  # taken while nothing moves
    for model in models:
        block = model.get_layer("backbone").get_layer("block0")
        block.set_trainable_variables("none")
        block.trainable = True
        with pytest.raises(BackboneError, match="'block0' is not frozen"):
            features.split_frozen(model)
    trained(models[0], dataset_of(inputs, labels, batch_size=8))
    found = features.extract(prefix, dataset_of(inputs, labels), cache=tmp_path, verbose=False)
    trained(suffix, found.dataset(8))
    gaps = [np.abs(a - b).max() for a, b in zip(*(m.trainable_variables for m in models), strict=True)]
    assert max(gaps) > 1e-3


@pytest.mark.slow
def test_a_backbone_gives_features_of_raw_pixels(tiny_model):
    nested_model = tiny_model.get_layer("backbone")
    spec = tiny_model.get_layer("preprocess").spec
    images = RNG.integers(0, 256, (5, 40, 40, 3)).astype(np.uint8)
    found = features.extract(Backbone("tiny", nested_model, "test", spec), images, cache=None, verbose=False)
    expected = nested_model(tiny_model.get_layer("preprocess")(images))
    np.testing.assert_allclose(found.arrays, expected, atol=1e-5)
    assert found.labels is None
