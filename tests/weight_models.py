"""Small models with heads for what works on weights: of Keras layers, and opened from SavedModels."""

import keras
import numpy as np
import savedmodels
import tensorflow as tf

import tfft
from tfft import heads
from tfft.backbones.base import Backbone
from tfft.specs import InputSpec

CLASSES = ("a", "b", "c")


def three_blocks(seed=3):
    """A backbone of three blocks of convolution, BatchNorm and swish."""
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((32, 32, 3))
    for k in range(3):
        x = keras.layers.Conv2D(8, 3, strides=2, use_bias=False, name=f"block{k}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"block{k}_bn")(x)
        x = keras.layers.Activation("swish", name=f"block{k}_swish")(x)
    spec = InputSpec(32, 32, value_range=(-1.0, 1.0), source="the test")
    return Backbone("tiny", keras.Model(inputs, x, name="tiny"), "test", spec)


def of_keras(seed=3, head=None):
    """Three blocks under a head, by default one without dropout."""
    return tfft.build(three_blocks(seed), head or heads.classification(CLASSES, dropout=0.0))


def of_savedmodel(folder, name="plain_convnet", seed=5, **options):
    """A SavedModel of `savedmodels`, written into a folder once, opened and put under a head without dropout."""
    path = folder / name
    if not path.exists():
        savedmodels.MAKERS[name](path)
    keras.utils.set_random_seed(seed)
    size = {"image_size": 32} if name == "plain_convnet" else {}
    return tfft.build(tfft.load_backbone(path, **size, **options), heads.classification(CLASSES, dropout=0.0))


def examples(n=24, seed=4):
    """Noisy pictures, brighter from class to class."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n).astype("int32")
    x = rng.normal(90 + 30 * y[:, None, None, None], 50, (n, 32, 32, 3))
    return np.clip(x, 0, 255).astype("uint8"), y


def dataset(n=24, seed=4, batch=8):
    return tf.data.Dataset.from_tensor_slices(examples(n, seed)).batch(batch)


def compiled(model, rate=0.01):
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), **heads.from_model(model).compile_args())
    return model


_kept = {}


def set_back(key, make):
    """The compiled model that `make` builds: the first time a new one, then the same one, set back to how it was.

    What was traced for it stays, which is most of the time that a short training takes. Tests that compile it again,
    train other variables, or need two at once take one of their own.
    """
    if key not in _kept:
        model = make()
        model.optimizer.build(model.trainable_variables)
        values = [(v, v.numpy()) for v in (*model.variables, *model.optimizer.variables)]
        _kept[key] = model, model.optimizer, list(map(id, model.trainable_variables)), values
    model, optimizer, trainable, values = _kept[key]
    assert model.optimizer is optimizer, "another test has compiled it again"
    assert trainable == list(map(id, model.trainable_variables)), "another test trains other variables of it"
    for variable, value in values:
        variable.assign(value)
    keras.utils.set_random_seed(3)
    return model


def same(first, second):
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
