"""Tiny SavedModels of the kinds that strangers publish, each with what has to be true once it is open.

Every function in `FOUND` writes one into a folder. They are real: TensorFlow, Keras 3 or Keras 2 saves them. All of
them have to be right in every step (`benchmarks/savedmodels.py` runs these): opening, one step of training with a new
head, training the last block, freezing it again, a ``.keras`` file in a fresh process without the SavedModel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf1_models
import tf_keras
from tensorflow.core.protobuf import saved_model_pb2

v1 = tf.compat.v1
K2, L = tf_keras.layers, keras.layers
Make = Callable[[pathlib.Path], None]


@dataclasses.dataclass(frozen=True)
class Found:
    """A kind of SavedModel.

    Attributes:
        make: writes it into a folder.
        kind: what it is, in words.
        value_range: of its pixels; None where it takes something else, or the range cannot be known.
        options: of ``load_backbone``.
        trains: whether its last block has something to train.
        inputs: makes four examples where not any will do.
        width: number of features that a head gets; None where the other steps show all that can go wrong.
    """

    make: Make
    kind: str
    value_range: tuple[float, float] | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trains: bool = True
    inputs: Callable[[], Any] | None = None
    width: int | None = None


FOUND: dict[str, Found] = {}


def found(kind: str, **known: Any) -> Callable[[Make], Make]:
    def keep(make: Make) -> Make:
        FOUND[make.__name__] = Found(make, kind, **known)
        return make

    return keep


def keras2(path: pathlib.Path, *layers: Any) -> None:
    tf_keras.Sequential(layers).save(path, save_format="tf")


def image(size: int | None = 16, channels: int = 3, dtype: str = "float32") -> Any:
    return tf_keras.Input((size, size, channels), dtype=dtype)


def tail() -> list[Any]:
    """A convolution, pooling and a dense layer without an activation."""
    return [K2.Conv2D(4, 3, name="conv1"), K2.GlobalAveragePooling2D(), K2.Dense(5, name="embedding")]


def weight(name: str, *shape: int) -> tf.Variable:
    return tf.Variable(tf.random.stateless_normal(shape, [len(name), 2]) * 0.3, name=name)


def module(path: pathlib.Path, run: Callable[..., Any], *specs: Any, keep: Any = (), **signatures: Any) -> None:
    """Saves a function as the ``__call__`` of a module that keeps variables."""
    root = tf.Module()
    root.keep = list(keep)
    root.__call__ = tf.function(run, input_signature=specs, autograph=False)
    tf.saved_model.save(root, str(path), **signatures)


# ---------------------------------------------------------------------------- Keras 2: images


@found("Keras 2, Rescaling(1/255) inside", value_range=(0, 255))
def keras2_rescaling(path):
    keras2(path, image(), K2.Rescaling(1 / 255), *tail())


@found("Keras 2, augmentation and Rescaling to -1..1 inside", value_range=(0, 255))
def keras2_augmentation(path):
    augment = [K2.RandomFlip("horizontal"), K2.RandomRotation(0.1), K2.RandomZoom(0.2)]
    keras2(path, image(), *augment, K2.Rescaling(1 / 127.5, offset=-1), *tail())


@found("Keras 2, augmentation as a model inside", value_range=(0, 255))
def keras2_nested_augmentation(path):
    augment = tf_keras.Sequential([K2.RandomFlip("horizontal"), K2.RandomContrast(0.1)], name="augment")
    pixels = image()
    x = K2.Rescaling(1 / 255)(augment(pixels))
    for layer in tail():
        x = layer(x)
    tf_keras.Model(pixels, x).save(path, save_format="tf")


@found("Keras 2, Resizing and CenterCrop inside", value_range=(0, 255))
def keras2_resizing(path):
    layers = [K2.Resizing(20, 20), K2.CenterCrop(16, 16), K2.Rescaling(1 / 255)]
    keras2(path, image(None), *layers, *tail())


@found("Keras 2, Normalization with the statistics of the data", value_range=(0, 255))
def keras2_normalization(path):
    norm = K2.Normalization()
    norm.adapt(np.random.default_rng(0).normal(120, 60, (20, 16, 16, 3)).clip(0, 255))
    keras2(path, image(), norm, *tail())


def _applications(path: pathlib.Path, name: str, as_lambda: bool) -> None:
    process = getattr(tf_keras.applications, name).preprocess_input
    pixels = image()
    x = K2.Lambda(process)(pixels) if as_lambda else process(pixels)
    for layer in tail():
        x = layer(x)
    tf_keras.Model(pixels, x).save(path, save_format="tf")


@found("Keras 2, preprocess_input of MobileNetV2 as operations", value_range=(0, 255))
def keras2_mobilenet_input(path):
    _applications(path, "mobilenet_v2", False)


@found("Keras 2, preprocess_input of VGG16 as a Lambda", value_range=(0, 255))
def keras2_vgg_input(path):
    _applications(path, "vgg16", True)


@found("Keras 2, preprocess_input of DenseNet as operations", value_range=(0, 255))
def keras2_densenet_input(path):
    _applications(path, "densenet", False)


@found("Keras 2, bytes cast and divided", value_range=(0, 255))
def keras2_bytes(path):
    pixels = image(dtype="uint8")
    x = tf.cast(pixels, tf.float32) / 255.0
    for layer in tail():
        x = layer(x)
    tf_keras.Model(pixels, x).save(path, save_format="tf")


@found("Keras 2, grey images", value_range=(0, 255))
def keras2_grey(path):
    keras2(path, image(28, 1), K2.Rescaling(1 / 255), *tail())


@found("Keras 2, a flat list of pixels through Flatten and Rescaling", value_range=(0, 255))
def keras2_flatten(path):
    keras2(path, image(12, 1), K2.Rescaling(1 / 255), K2.Flatten(), K2.Dense(8, "relu"), K2.Dense(4))


@found("Keras 2, mixed precision", value_range=(0, 255))
def keras2_mixed_precision(path):
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        out = [K2.Activation("linear", dtype="float32")]
        keras2(path, image(), K2.Rescaling(1 / 255), *tail(), *out)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")


@found("Keras 2, a network inside a network, its first part frozen", value_range=(0, 255))
def keras2_mid_transfer(path):
    base = tf_keras.Sequential([image(), K2.Conv2D(4, 3), K2.BatchNormalization(), K2.GlobalMaxPool2D()], name="base")
    base.trainable = False
    pixels = image()
    x = K2.Dense(4, activation="softmax")(K2.Dropout(0.2)(base(K2.Rescaling(1 / 127.5, -1)(pixels), training=False)))
    tf_keras.Model(pixels, x).save(path, save_format="tf")


@found("Keras 2, compiled and trained for a step", value_range=(0, 255))
def keras2_compiled(path):
    model = tf_keras.Sequential([image(), K2.Rescaling(1 / 255), *tail()])
    model.compile("adam", "mse")
    model.fit(np.zeros((4, 16, 16, 3)), np.zeros((4, 5)), verbose=0)
    model.save(path, save_format="tf")


class _Subclassed(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.scale, self.stack = K2.Rescaling(1 / 255), tail()

    def call(self, inputs, training=None):
        x = self.scale(inputs)
        for layer in self.stack:
            x = layer(x)
        return x


@found("Keras 2, a subclassed model", value_range=(0, 255))
def keras2_subclassed(path):
    model = _Subclassed()
    model.predict(np.zeros((1, 16, 16, 3)), verbose=0)
    model.save(path, save_format="tf")


@found("Keras 2, two images in (pairs)")
def keras2_pairs(path):
    left, right = tf_keras.Input((16, 16, 3), name="left"), tf_keras.Input((16, 16, 3), name="right")
    encoder = tf_keras.Sequential([image(), *tail()], name="encoder")
    x = K2.Concatenate()([encoder(left), encoder(right)])
    tf_keras.Model([left, right], K2.Dense(3, name="score")(x)).save(path, save_format="tf")


@found("Keras 2, several outputs; one is chosen", value_range=(0, 255), options={"output": "age"})
def keras2_heads(path):
    pixels = image()
    x = K2.GlobalAveragePooling2D()(K2.Conv2D(4, 3, name="conv1")(K2.Rescaling(1 / 255)(pixels)))
    outputs = {"age": K2.Dense(1, name="age")(x), "sex": K2.Dense(2, name="sex")(x)}
    tf_keras.Model(pixels, outputs).save(path, save_format="tf")


# --------------------------------------------------------------------- Keras 2: texts, tables, sound


@found("Keras 2, TextVectorization, Embedding and a recurrent layer")
def keras2_text(path):
    words = K2.TextVectorization(max_tokens=20, output_sequence_length=4)
    words.adapt(["a b c", "b c d"])
    text = tf_keras.Input((), dtype="string")
    x = K2.Bidirectional(K2.LSTM(3))(K2.Embedding(20, 4)(words(text)))
    tf_keras.Model(text, K2.Dense(2, activation="sigmoid")(x)).save(path, save_format="tf")


@found("Keras 2, mixed table of texts and numbers")
def keras2_table(path):
    look, norm = K2.StringLookup(output_mode="one_hot"), K2.Normalization()
    look.adapt([["red"], ["blue"]])
    norm.adapt(np.array([[1.0], [3.0], [9.0]]))
    colour, size = tf_keras.Input((1,), dtype="string", name="colour"), tf_keras.Input((1,), name="size")
    x = K2.Dense(6, "relu", name="hidden")(K2.Concatenate()([look(colour), norm(size)]))
    tf_keras.Model({"colour": colour, "size": size}, K2.Dense(2)(x)).save(path, save_format="tf")


@found("Keras 2, integers looked up, hashed and bucketed")
def keras2_buckets(path):
    age, place = tf_keras.Input((1,), name="age"), tf_keras.Input((1,), dtype="string", name="place")
    parts = [
        K2.CategoryEncoding(4, output_mode="one_hot")(K2.Discretization([1.0, 2.0, 3.0])(age)),
        K2.Flatten()(K2.Embedding(8, 3)(K2.Hashing(8)(place))),
    ]
    tf_keras.Model([age, place], K2.Dense(3)(K2.Concatenate()(parts))).save(path, save_format="tf")


@found("Keras 2, a series through a recurrent layer with state masks")
def keras2_series(path):
    keras2(path, tf_keras.Input((6, 3)), K2.Masking(), K2.GRU(5, return_sequences=True), K2.LSTM(4), K2.Dense(2))


@found("Keras 2, a series through recurrent layers, saved for a batch of 7", width=4)
def keras2_fixed_batch(path):
    keras2(path, tf_keras.Input(batch_shape=(7, 6, 3)), K2.LSTM(5, return_sequences=True), K2.LSTM(4))


@found("Keras 2, a series through a dense layer with Sigmoid at each step (TimeDistributed)", width=4)
def keras2_each_step(path):
    steps = K2.TimeDistributed(K2.Dense(1, activation="sigmoid"))
    keras2(path, tf_keras.Input((None, 3)), K2.LSTM(4, return_sequences=True), steps)


@found("Keras 2, attention with a mask of its own ids")
def keras2_attention(path):
    ids = tf_keras.Input((7,), dtype="int32")
    x = K2.Embedding(12, 8, mask_zero=True)(ids)
    x = K2.LayerNormalization()(x + K2.MultiHeadAttention(2, 4)(x, x))
    tf_keras.Model(ids, K2.Dense(3)(K2.GlobalAveragePooling1D()(x))).save(path, save_format="tf")


@found("Keras 2, waveforms to a spectrogram inside")
def keras2_sound(path):
    wave = tf_keras.Input((800,))
    spectrogram = K2.Lambda(lambda w: tf.abs(tf.signal.stft(w, 128, 64))[..., None])(wave)
    x = K2.GlobalAveragePooling2D()(K2.Conv2D(4, 3)(K2.Resizing(8, 8)(spectrogram)))
    tf_keras.Model(wave, K2.Dense(3)(x)).save(path, save_format="tf")


# ----------------------------------------------------------------------------------------- Keras 3


@found("Keras 3, export with Rescaling inside", value_range=(0, 255))
def keras3_rescaling(path):
    body = [L.Conv2D(4, 3), L.BatchNormalization(), L.GlobalAveragePooling2D(), L.Dense(3)]
    keras.Sequential([keras.Input((16, 16, 3)), L.Rescaling(1 / 255), *body]).export(path, verbose=False)


@found("Keras 3, tf.saved_model.save of a functional model", value_range=(0, 255))
def keras3_saved(path):
    body = [L.Conv2D(4, 3), L.GlobalAveragePooling2D(), L.Dense(3)]
    model = keras.Sequential([keras.Input((16, 16, 3)), L.Rescaling(1 / 127.5, -1), *body])
    tf.saved_model.save(model, str(path))


@found("Keras 3, export of dictionaries of inputs and outputs")
def keras3_dictionary(path):
    inputs = {k: keras.Input((n,), name=k) for k, n in (("a", 3), ("b", 2))}
    x = L.Dense(4, "relu", name="hidden")(L.Concatenate()(list(inputs.values())))
    keras.Model(inputs, {"default": L.Dense(2, name="last")(x)}).export(path, verbose=False)


@found("Keras 3, ExportArchive with two endpoints", options={"signature": "embed"})
def keras3_archive(path):
    body = keras.Sequential([keras.Input((5,)), L.Dense(4, "relu", name="hidden"), L.Dense(3, name="embedding")])
    head = keras.Sequential([body, L.Dense(2, name="classes")])
    archive = keras.export.ExportArchive()
    archive.track(head)
    for name, model in (("classify", head), ("embed", body)):
        archive.add_endpoint(name, model.call, input_signature=[tf.TensorSpec([None, 5])])
    archive.write_out(str(path), verbose=False)


# -------------------------------------------------------------------------------- modules of TensorFlow 2


@found("module, channels unknown, statistics of ImageNet inside", value_range=(0, 1))
def channels_unknown(path):
    k = weight("conv1/kernel", 3, 3, 3, 4)
    mean, std = tf.constant([0.485, 0.456, 0.406]), tf.constant([0.229, 0.224, 0.225])
    run = lambda x: tf.reduce_mean(tf.nn.conv2d((x - mean) / std, k, 2, "SAME"), (1, 2))  # noqa: E731
    module(path, run, tf.TensorSpec([None] * 4), keep=[k])


@found("module, a batch of one image and a reshape", value_range=(0, 255))
def batch_of_one(path):
    k, w = weight("conv1/kernel", 3, 3, 3, 4), weight("fc/kernel", 256, 3)
    run = lambda x: tf.reshape(tf.nn.conv2d(x / 255, k, 1, "SAME"), [1, 256]) @ w  # noqa: E731
    module(path, run, tf.TensorSpec([1, 8, 8, 3]), keep=[k, w])


@found("module, one image without a batch", value_range=(0, 255), options={"per_example": True})
def no_batch(path):
    k = weight("conv1/kernel", 3, 3, 3, 4)
    run = lambda x: tf.reduce_mean(tf.nn.conv2d(x[None] / 255, k, 2, "SAME"), (0, 1, 2))  # noqa: E731
    module(path, run, tf.TensorSpec([8, 8, 3]), keep=[k])


@found("module, images channels-first, turned inside", value_range=(0, 255))
def channels_first_inside(path):
    k, w = weight("conv1/kernel", 3, 3, 3, 4), weight("conv2/kernel", 3, 3, 4, 5)

    def run(x):
        x = tf.transpose(tf.transpose(x, [0, 3, 1, 2]) / 255.0, [0, 2, 3, 1])
        return tf.reduce_mean(tf.nn.conv2d(tf.nn.relu(tf.nn.conv2d(x, k, 2, "SAME")), w, 2, "SAME"), (1, 2))

    module(path, run, tf.TensorSpec([None, 16, 16, 3]), keep=[k, w])


@found("module, images enter channels-first")
def channels_first(path):
    k, w = weight("conv1/kernel", 3, 3, 3, 4), weight("conv2/kernel", 3, 3, 4, 5)

    def run(x):
        x = tf.transpose(x, [0, 2, 3, 1])
        return tf.reduce_mean(tf.nn.conv2d(tf.nn.relu(tf.nn.conv2d(x, k, 2, "SAME")), w, 2, "SAME"), (1, 2))

    module(path, run, tf.TensorSpec([None, 3, 16, 16]), keep=[k, w])


@found("module, several functions and a default that takes one number")
def several_callables(path):
    root = tf.Module()
    root.w = weight("w", 4, 3)
    root.one = tf.function(lambda x: {"y": x * root.w[0, 0]}, input_signature=[tf.TensorSpec([])])
    root.embed = tf.function(lambda x: {"y": x @ root.w}, input_signature=[tf.TensorSpec([None, 4], name="x")])
    root.labels = tf.function(lambda: tf.constant(["a", "b"]), input_signature=[])
    tf.saved_model.save(root, str(path), {"serving_default": root.one, "embed": root.embed, "labels": root.labels})


def _of_tower(tower: tf.Module) -> Callable[..., Any]:
    return lambda ids: tf.gather(tower.table, ids) @ tower.kernel


@found("module, query and candidate models below the root", options={"signature": "query_model"})
def two_towers(path):
    root = tf.Module()
    for name in ("query_model", "candidate_model"):
        tower = tf.Module()
        tower.table = weight(f"{name}/table", 11, 4)
        tower.kernel = weight(f"{name}/dense/kernel", 4, 3)
        tower.__call__ = tf.function(_of_tower(tower), input_signature=[tf.TensorSpec([None], tf.int64)])
        setattr(root, name, tower)
    tf.saved_model.save(root, str(path))


@found("module, saved for training on a device: train, infer, save, restore", options={"signature": "infer"})
def on_device_training(path):
    root = tf.Module()
    root.w = weight("dense/kernel", 4, 2)

    def train(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((x @ root.w - y) ** 2)
        root.w.assign_sub(0.1 * tape.gradient(loss, root.w))
        return {"loss": loss}

    def restore(where):
        root.w.assign(tf.raw_ops.Restore(file_pattern=where, tensor_name="w", dt=tf.float32))
        return {"w": root.w.read_value()}

    def save(where):
        tf.raw_ops.Save(filename=where, tensor_names=["w"], data=[root.w.read_value()])
        return {"path": where}

    rows, text = tf.TensorSpec([None, 4], name="x"), tf.TensorSpec([], tf.string, name="where")
    root.train = tf.function(train, input_signature=[rows, tf.TensorSpec([None, 2], name="y")])
    root.infer = tf.function(lambda x: {"y": x @ root.w}, input_signature=[rows])
    root.save, root.restore = (tf.function(f, input_signature=[text], autograph=False) for f in (save, restore))
    parts = {name: getattr(root, name) for name in ("train", "infer", "save", "restore")}
    tf.saved_model.save(root, str(path), {k: f.get_concrete_function() for k, f in parts.items()})


@found("module, saved for training on a device: its step comes first, scores and probabilities come out")
def on_device_first(path):
    root = tf.Module()
    root.w, root.v = weight("hidden/kernel", 4, 5), weight("dense/kernel", 5, 2)
    rows = tf.TensorSpec([None, 4], name="x")

    def infer(x):
        logits = tf.nn.relu(x @ root.w) @ root.v
        return {"logits": logits, "output": tf.nn.softmax(logits)}

    root.infer = tf.function(infer, input_signature=[rows])
    root.loss = tf.function(lambda x: {"loss": tf.reduce_mean(infer(x)["logits"] ** 2)}, input_signature=[rows])
    tf.saved_model.save(root, str(path), {"a": root.loss.get_concrete_function(), "infer": root.infer})


@found("module, one number in and one out for each example")
def one_number_out(path):
    w = weight("linear/kernel")
    module(path, lambda x: tf.nn.sigmoid(x * w + 1.0), tf.TensorSpec([None], name="x"), keep=[w])


@found("a function by itself, its weights as constants, for one example", trains=False)
def lone_function(path):
    w = tf.constant(np.random.default_rng(5).normal(size=(4, 3)), tf.float32)
    call = tf.function(lambda x: tf.nn.relu(x @ w))
    tf.saved_model.save(call.get_concrete_function(tf.TensorSpec([1, 4], name="inputs_0")), str(path))


@found("module, quantization aware", value_range=(0, 255))
def quantization_aware(path):
    k, b = weight("conv1/kernel", 3, 3, 3, 4), weight("conv1/bias", 4)
    w, ends = weight("dense/kernel", 4, 3), {}
    for place in ("quantize_layer", "conv1/kernel", "conv1/post", "dense/kernel", "dense/post"):
        ends[place] = [
            tf.Variable(v, trainable=False, name=f"quant_{place}_{n}") for n, v in (("min", -6.0), ("max", 6.0))
        ]

    def run(x):
        fake = lambda t, place: tf.quantization.fake_quant_with_min_max_vars(t, *ends[place])  # noqa: E731
        x = tf.nn.conv2d(fake(x / 127.5 - 1, "quantize_layer"), fake(k, "conv1/kernel"), 2, "SAME")
        x = fake(tf.nn.relu(x + b), "conv1/post")
        return fake(tf.reduce_mean(x, (1, 2)) @ fake(w, "dense/kernel"), "dense/post")

    module(path, run, tf.TensorSpec([None, 16, 16, 3]), keep=[k, b, w, ends])


@found("Keras 2, its variables uploaded beside saved_model.pb", value_range=(0, 255))
def keras2_without_folders(path):
    keras2(path, image(), K2.Rescaling(1 / 255), *tail())
    for file in (path / "variables").iterdir():
        file.rename(path / file.name)
    (path / "variables").rmdir()


@found("module, one number and one word for each example")
def columns(path):
    w, emb = weight("dense/kernel", 6, 3), weight("embedding/table", 5, 4)

    def run(age, fare, town):
        towns = tf.gather(emb, tf.strings.to_hash_bucket_fast(town, 5))
        return tf.concat([age[:, None], tf.cast(fare, tf.float32)[:, None], towns], 1) @ w

    specs = [tf.TensorSpec([None], kind, name) for name, kind in (("age", tf.float32), ("fare", tf.float64))]
    module(path, run, *specs, tf.TensorSpec([None], tf.string, "town"), keep=[w, emb])


@found("module, a policy that gives the number of an action, and types of a package that is not there")
def policy(path, name_of_type="tf_agents.Deterministic_ACTTypeSpec", number=0):
    root = tf.Module()
    root.first, root.last = weight("hidden/kernel", 4, 6), weight("q/kernel", 6, 3)

    def distribution(observation):
        return tf.nn.relu(observation @ root.first) @ root.last

    def action(observation):
        return {"action": tf.clip_by_value(tf.argmax(distribution(observation), -1) + 1, 1, 3)}

    specs = [tf.TensorSpec([None, 4], name="observation")]
    root.action, root.distribution = (tf.function(f, input_signature=specs) for f in (action, distribution))
    tf.saved_model.save(root, str(path), {"action": root.action})
    proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    for name, function in proto.meta_graphs[0].object_graph_def.concrete_functions.items():
        if "distribution" in name:
            kind = function.output_signature.type_spec_value
            kind.type_spec_class_name = name_of_type
            if number:
                kind.type_spec_class = number
    (path / "saved_model.pb").write_bytes(proto.SerializeToString())


@found("module, a policy with types of TensorFlow Probability 0.12, which have a number that TensorFlow does not know")
def older_policy(path):
    policy(path, "_TFPTypeSpec", 275837168)


@found("module, a policy that chooses by the mean of a distribution of values (C51)", width=6)
def distribution_of_values(path):
    first, last, support = weight("hidden/kernel", 4, 6), weight("q/kernel", 6, 15), tf.linspace(-10.0, 10.0, 5)

    def action(observation):
        values = tf.nn.softmax(tf.reshape(tf.nn.relu(observation @ first) @ last, [-1, 3, 5]))
        return {"action": tf.argmax(tf.reduce_sum(values * support, -1), -1, tf.int32)}

    module(path, action, tf.TensorSpec([None, 4], name="observation"), keep=[first, last])


@found("module, spectrograms with 4 channels")
def four_channels(path):
    k, w = weight("conv/kernel", 3, 3, 4, 8), weight("dense/kernel", 8, 3)

    def run(x):
        return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(x, k, 1, "SAME")), [1, 2]) @ w

    module(path, run, tf.TensorSpec([None, 16, 24, 4], name="x"), keep=[k, w])


@found("module, segmentation that gives the class of each pixel, behind a transposed convolution", width=4)
def transposed_classes(path):
    k, b, w = weight("conv/kernel", 3, 3, 3, 4), weight("conv/bias", 4), weight("scores/kernel", 3, 3, 5, 4)

    def run(x):
        x = tf.nn.relu(tf.nn.conv2d(x, k, 2, "SAME") + b)
        scores = tf.nn.conv2d_transpose(x, w, [tf.shape(x)[0], 16, 16, 5], 2, "SAME")
        return {"classes": tf.argmax(tf.nn.softmax(scores), -1)}

    module(path, run, tf.TensorSpec([None, 16, 16, 3], name="x"), keep=[k, b, w])


@found("module, encoder of a variational autoencoder, which draws its code", width=3)
def draws_its_code(path):
    w, mean, spread = (weight(f"{name}/kernel", *shape) for name, shape in _CODE.items())

    def run(x):
        x = tf.nn.relu(x @ w)
        return x @ mean + tf.exp(0.5 * (x @ spread)) * tf.random.normal(tf.shape(x @ mean))

    module(path, run, tf.TensorSpec([None, 4], name="x"), keep=[w, mean, spread])


_CODE = {"hidden": (4, 6), "mean": (6, 3), "spread": (6, 3)}


@found("Keras 3, a variational autoencoder that draws its code with a seed of its own", width=4)
def keras3_draws_its_code(path):
    inputs = keras.Input((4,))
    hidden = L.Dense(6, "relu", name="hidden")(inputs)
    code = _Sampling()([L.Dense(2, name="mean")(hidden), L.Dense(2, name="spread")(hidden)])
    keras.Model(inputs, L.Dense(4, name="decoder")(code)).export(path, verbose=False)


@found("Keras 3, export of augmentation that stays on in inference", value_range=(0, 255))
def keras3_augmentation(path):
    augment = keras.Sequential([L.RandomFlip(seed=1), L.RandomRotation(0.2, seed=2), L.RandomZoom(0.2, seed=3)])
    inputs = keras.Input((16, 16, 3))
    x = augment(L.Rescaling(1 / 255)(inputs), training=True)
    x = L.Dense(5, name="embedding")(L.GlobalAveragePooling2D()(L.Conv2D(4, 3, name="conv1")(x)))
    keras.Model(inputs, x).export(path, verbose=False)


class _Sampling(L.Layer):
    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(7)

    def call(self, inputs):
        mean, spread = inputs
        return mean + keras.ops.exp(0.5 * spread) * keras.random.normal(keras.ops.shape(mean), seed=self.seeds)


@found("module, feature maps with the channels first, as converters from ONNX write them", width=5)
def maps_channels_first(path):
    k, b, w = weight("conv1/kernel", 3, 3, 3, 4), weight("conv1/bias", 4), weight("conv2/kernel", 3, 3, 4, 5)

    def conv(x, kernel, stride):
        x = tf.nn.conv2d(tf.transpose(x, [0, 2, 3, 1]), kernel, stride, "SAME")
        return tf.transpose(x, [0, 3, 1, 2])

    def run(x):
        x = tf.nn.relu(tf.nn.bias_add(conv(x, k, 1), b, "NCHW"))
        return {"output": tf.nn.relu(conv(x, w, 2))}

    module(path, run, tf.TensorSpec([None, 3, 16, 12], name="x"), keep=[k, b, w])


@found("module, its function claims any number of rows and takes one, as the signature says")
def one_row(path):
    root = tf.Module()
    root.w = weight("dense/kernel", 5, 4)

    def run(x):
        shape = tf.constant([1, 5])
        rows = tf.raw_ops.TensorListFromTensor(tensor=tf.transpose(x, [1, 0, 2]), element_shape=shape)
        steps = tf.raw_ops.TensorListStack(input_handle=rows, element_shape=shape, element_dtype=tf.float32)
        return tf.reshape(steps, [1, 5]) @ root.w

    root.__call__ = tf.function(run, input_signature=[tf.TensorSpec([None, 1, 5])])
    served = tf.function(run, input_signature=[tf.TensorSpec([1, 1, 5], name="x")])
    tf.saved_model.save(root, str(path), served.get_concrete_function())


@found("module, a table of words as an asset and ragged rows inside")
def words_of_an_asset(path):
    file = path.parent / f"{path.name}.vocabulary"
    file.write_text("good\nbad\nfilm\n")
    index = tf.lookup.TextFileIndex
    reader = tf.lookup.TextFileInitializer(str(file), tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER)
    table, emb, w = tf.lookup.StaticVocabularyTable(reader, 2), weight("emb", 5, 4), weight("dense/kernel", 4, 3)

    def run(text):
        words = tf.strings.split(text)
        vectors = tf.gather(emb, table.lookup(words.flat_values))
        return tf.math.unsorted_segment_mean(vectors, words.value_rowids(), words.nrows()) @ w

    module(path, run, tf.TensorSpec([None], tf.string), keep=[table, emb, w])
    file.unlink()


@found("module, half precision inside and float64 statistics", value_range=(0, 255))
def mixed_types(path):
    k = tf.Variable(tf.cast(weight("k", 3, 3, 3, 4), tf.bfloat16), name="conv1/kernel")
    mean, w = tf.Variable([127.5] * 3, trainable=False, dtype=tf.float64, name="mean"), weight("fc/kernel", 4, 3)

    def run(x):
        x = tf.cast((tf.cast(x, tf.float64) - mean) / 127.5, tf.bfloat16)
        return tf.cast(tf.reduce_mean(tf.nn.conv2d(x, k, 2, "SAME"), (1, 2)), tf.float32) @ w

    module(path, run, tf.TensorSpec([None, 16, 16, 3]), keep=[k, mean, w])


@found("module, serialized tf.Example in")
def serialized_examples(path):
    w = weight("dense/kernel", 4, 3)

    def run(examples):
        parsed = tf.io.parse_example(examples, {"a": tf.io.FixedLenFeature([4], tf.float32)})
        return {"y": parsed["a"] @ w}

    module(path, run, tf.TensorSpec([None], tf.string, name="examples"), keep=[w])


def _png(value: int) -> bytes:
    return tf.io.encode_png(tf.fill([5, 5, 3], tf.cast(value, tf.uint8))).numpy()


@found("module, encoded image files in", inputs=lambda: np.array([_png(v) for v in (7, 90, 200, 30)]))
def encoded_images(path):
    k = weight("conv1/kernel", 3, 3, 3, 4)

    def one(data):
        return tf.image.resize(tf.cast(tf.io.decode_image(data, 3, expand_animations=False), tf.float32), [8, 8]) / 255

    def run(data):
        x = tf.map_fn(one, data, fn_output_signature=tf.TensorSpec([8, 8, 3]))
        return {"features": tf.reduce_mean(tf.nn.conv2d(x, k, 2, "SAME"), (1, 2))}

    module(path, run, tf.TensorSpec([None], tf.string, name="data"), keep=[k])


@found("module, the weights are constants", trains=False)
def constants(path):
    k = tf.random.stateless_normal([4, 3], [1, 2])
    module(path, lambda x: tf.tanh(x @ k), tf.TensorSpec([None, 4]))


@found("module, the weights are constants, made trainable", options={"constants": "trainable"})
def constants_trainable(path):
    k = tf.random.stateless_normal([4, 3], [1, 2])
    module(path, lambda x: tf.tanh(x @ k) * 2.0, tf.TensorSpec([None, 4]))


@found("module, a loop over time as a While operation")
def loop_over_time(path):
    w = weight("cell/kernel", 7, 4)
    out = weight("out/kernel", 4, 2)

    def run(x):
        def step(t, h):
            return t + 1, tf.tanh(tf.concat([x[:, t], h], 1) @ w)

        start = tf.zeros([tf.shape(x)[0], 4])
        shapes = [tf.TensorShape([]), tf.TensorShape([None, 4])]
        return tf.while_loop(lambda t, h: t < tf.shape(x)[1], step, [0, start], shape_invariants=shapes)[1] @ out

    module(path, run, tf.TensorSpec([None, None, 3]), keep=[w, out])


# --------------------------------------------------------------------------------------------- TensorFlow 1


def tf1(path: pathlib.Path, make: Any, **options: Any) -> None:
    with _tf1_session() as session:
        inputs, outputs = make()
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        v1.saved_model.simple_save(
            session, str(path), inputs, outputs, legacy_init_op=v1.tables_initializer(), **options
        )


@contextlib.contextmanager
def _tf1_session() -> Iterator[Any]:
    with tf1_models.old_control_flow(), tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(3)
        yield session


def _dense(x: Any, width: int, scope: str, resource: bool = False) -> Any:
    with v1.variable_scope(scope, use_resource=resource):
        kernel = v1.get_variable("kernel", [x.shape[-1], width])
        return tf.nn.bias_add(x @ kernel, v1.get_variable("bias", [width], initializer=v1.zeros_initializer()))


@found("TensorFlow 1, a condition inside of a summary, as Estimators write it")
def tf1_condition_in_a_summary(path):
    def make():
        x = v1.placeholder(tf.float32, [None, 4], "x")
        y = tf.nn.relu(_dense(x, 3, "fc1"))
        some = v1.cond(tf.reduce_sum(y) > 0, lambda: tf.reduce_mean(y), lambda: tf.constant(0.0))
        v1.summary.scalar("fraction", some)
        return {"x": x}, {"y": y}

    tf1(path, make)


@found("TensorFlow 1, the whole training graph: Adam, summaries, dropout by a placeholder")
def tf1_training_graph(path):
    def make():
        x, keep = v1.placeholder(tf.float32, [None, 4], "x"), v1.placeholder_with_default(1.0, [], "keep_prob")
        h = v1.nn.dropout(tf.nn.relu(_dense(x, 6, "fc1")), rate=1 - keep)
        y = _dense(h, 3, "fc2")
        loss = tf.reduce_mean(tf.square(y))
        v1.summary.scalar("loss", loss)
        v1.train.AdamOptimizer(0.1).minimize(loss)
        return {"x": x}, {"y": y}

    tf1(path, make)


@found("TensorFlow 1, network of images, x / 127.5 - 1, batch normalization by is_training", value_range=(0, 255))
def tf1_images(path):
    def make():
        x = v1.placeholder(tf.float32, [None, 16, 16, 3], "input")
        phase = v1.placeholder_with_default(False, [], "is_training")
        y = x / 127.5 - 1.0
        for i in (1, 2):
            with v1.variable_scope(f"Net/conv{i}"):
                y = tf.nn.conv2d(y, v1.get_variable("weights", [3, 3, y.shape[-1], 4]), 2, "SAME")
                scale, offset = (v1.get_variable(n, [4], initializer=v1.ones_initializer()) for n in ("gamma", "beta"))
                mean = v1.get_variable("moving_mean", [4], trainable=False, initializer=v1.zeros_initializer())
                var = v1.get_variable("moving_variance", [4], trainable=False, initializer=v1.ones_initializer())
                own = lambda y=y: tf.nn.moments(y, [0, 1, 2])  # noqa: E731
                m, s = v1.cond(phase, own, lambda mean=mean, var=var: (tf.identity(mean), tf.identity(var)))
                y = tf.nn.relu(tf.nn.batch_normalization(y, m, s, offset, scale, 1e-3))
        return {"input": x}, {"features": tf.reduce_mean(y, [1, 2])}

    tf1(path, make)


@found("TensorFlow 1, serialized examples of an Estimator, classes and scores")
def tf1_estimator(path):
    def make():
        wire = v1.placeholder(tf.string, [None], "input_example_tensor")
        parsed = v1.io.parse_example(wire, {"a": v1.FixedLenFeature([4], tf.float32)})
        logits = _dense(tf.nn.relu(_dense(parsed["a"], 6, "dnn/hiddenlayer_0")), 3, "dnn/logits")
        v1.summary.histogram("activation", logits)
        classes = tf.as_string(tf.tile(tf.range(3)[None], [tf.shape(logits)[0], 1]))
        return {"inputs": wire}, {"scores": tf.nn.softmax(logits), "classes": classes}

    tf1(path, make)


@found("TensorFlow 1, serialized examples without a shape, the best scores and their names")
def tf1_best_scores(path):
    def make():
        wire = v1.placeholder(tf.string, name="tf_example")
        x = tf.identity(v1.io.parse_example(wire, {"x": v1.FixedLenFeature([4], tf.float32)})["x"], "x")
        x.set_shape([None, 4])
        scores, places = tf.nn.top_k(tf.nn.softmax(_dense(tf.nn.relu(_dense(x, 6, "fc1")), 3, "fc2")), 2)
        return {"inputs": wire}, {"scores": scores, "classes": tf.as_string(places)}

    tf1(path, make)


@found("TensorFlow 1, module of Hub with two signatures and tags", options={"signature": "default"})
def tf1_hub(path):
    with _tf1_session() as session:
        x = v1.placeholder(tf.float32, [None, 16, 16, 3], "images")
        with v1.variable_scope("module/Net/block1"):
            y = tf.nn.relu(tf.nn.conv2d(x, v1.get_variable("weights", [3, 3, 3, 4]), 2, "SAME"))
        features = tf.reduce_mean(y, [1, 2])
        logits = _dense(features, 3, "module/Net/Logits")
        session.run(v1.global_variables_initializer())
        define = v1.saved_model.signature_def_utils.predict_signature_def
        signatures = {
            "default": define({"images": x}, {"default": features}),
            "image_classification": define({"images": x}, {"default": logits}),
        }
        builder = v1.saved_model.builder.SavedModelBuilder(str(path))
        builder.add_meta_graph_and_variables(session, [], signature_def_map=signatures)
        builder.add_meta_graph(["train"], signature_def_map=signatures)
        builder.save()
    (path / "tfhub_module.pb").write_bytes(b"\x08\x03")


@found("TensorFlow 1, its signature feeds a variable for one example")
def tf1_fed_variable(path):
    def make():
        x = v1.get_variable("x", [1, 4], trainable=False, use_resource=False)
        return {"x": x}, {"y": _dense(tf.nn.relu(_dense(x, 5, "fc1")), 3, "fc2")}

    tf1(path, make)


@found("TensorFlow 1, an iterator in front of the network, fed behind it")
def tf1_iterator(path):
    def make():
        data = v1.data.Dataset.from_tensor_slices(np.ones([8, 4], np.float32)).batch(2)
        x = v1.placeholder_with_default(v1.data.make_initializable_iterator(data).get_next(), [None, 4], "x")
        return {"x": x}, {"y": _dense(tf.nn.relu(_dense(x, 5, "fc1")), 3, "fc2")}

    tf1(path, make)


@found("TensorFlow 1, an iterator of examples and labels in front of the network and of its training")
def tf1_labelled_iterator(path):
    def make():
        data = v1.data.Dataset.from_tensor_slices((np.ones([8, 4], np.float32), np.ones([8, 3], np.float32))).batch(2)
        x, labels = v1.data.make_initializable_iterator(data).get_next()
        y = _dense(tf.nn.relu(_dense(x, 5, "fc1")), 3, "fc2")
        v1.train.GradientDescentOptimizer(0.1).minimize(tf.reduce_mean(tf.square(y - labels)))
        return {"x": x}, {"y": y}

    tf1(path, make)


@found("TensorFlow 1, words through a table and an embedding, a recurrent loop")
def tf1_words(path):
    def make():
        words = v1.placeholder(tf.string, [None, 3], "words")
        pairs = v1.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2], tf.string, tf.int64)
        ids = v1.lookup.StaticHashTable(pairs, 0).lookup(words)
        x = tf.gather(v1.get_variable("emb", [3, 4]), ids)
        w = v1.get_variable("cell/kernel", [4, 4])
        step = lambda t, h: (t + 1, tf.tanh(h @ w))  # noqa: E731
        h = v1.while_loop(lambda t, h: t < 3, step, [0, tf.reduce_mean(x, 1)])[1]
        return {"words": words}, {"y": _dense(h, 2, "out")}

    tf1(path, make)


@found("TensorFlow 1, an input without a shape, classes as a second output")
def tf1_no_shape(path):
    def make():
        x = v1.placeholder(tf.float32, name="x")
        w = v1.get_variable("w", [4, 3])
        y = x @ w
        return {"x": x}, {"y": y, "class": tf.argmax(y, 1)}

    tf1(path, make)


@found("TensorFlow 1, weights and biases without names of layers")
def tf1_bare(path):
    tf1(path, tf1_models.bare_names)
