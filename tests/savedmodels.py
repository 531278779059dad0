"""Small SavedModels, each made the way some publisher makes them.

Every function writes one into a folder and returns nothing; `MAKERS` lists them. They are real:
TensorFlow traces and saves them, nothing is mocked. With a `STORE` each is written there once, and copied.
"""

from __future__ import annotations

import functools
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

L = keras.layers
STORE: pathlib.Path | None = None  # a folder that lives as long as a run of the tests, and may be shared


def _stored(write: Callable[[pathlib.Path], None]) -> Callable[[pathlib.Path], None]:
    """Writes into the store first, then copies; either way random numbers go on from the same state afterwards."""

    @functools.wraps(write)
    def copied(path: pathlib.Path) -> None:
        keras.utils.set_random_seed(11)
        if STORE is None:
            write(path)
        else:
            if not (kept := STORE / write.__name__).exists():
                _fill(kept, write)
            shutil.copytree(kept, path, dirs_exist_ok=True)
        keras.utils.set_random_seed(12)

    return copied


def _fill(kept: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix="writing-") as place:
        write(pathlib.Path(place, kept.name))
        try:
            os.rename(os.path.join(place, kept.name), kept)
        except OSError:  # another process was quicker
            if not kept.exists():
                raise


def reusable(
    path: pathlib.Path,
    model: keras.Model,
    spec: object = None,
    *,
    training: bool = True,
    regularize: bool = False,
) -> None:
    """Writes a Keras 3 model as a Reusable SavedModel, the form TF Hub asks for."""
    settle_statistics(model)
    root = tf.train.Checkpoint()  # any trackable object takes attributes
    root.keep = [v.value for v in model.variables]
    root.variables = [v.value for v in model.variables if "seed" not in v.path]
    root.trainable_variables = [v.value for v in model.trainable_variables]
    if regularize:
        kernels = [v for v in root.trainable_variables if len(v.shape) == 4]
        root.regularization_losses = [_l2_loss(v) for v in kernels]
    spec = spec if spec is not None else tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, name="inputs")
    if training:
        call = tf.function(lambda inputs, training=False: model(inputs, training=training))
        call.get_concrete_function(spec, training=True)
        call.get_concrete_function(spec, training=False)
    else:
        call = tf.function(lambda inputs: model(inputs, training=False))
        call.get_concrete_function(spec)
    root.__call__ = call
    tf.saved_model.save(root, str(path))


def _l2_loss(variable: tf.Variable) -> Callable[[], tf.Tensor]:
    return tf.function(lambda: 1e-4 * tf.reduce_sum(variable**2), input_signature=[])


def settle_statistics(model: keras.Model) -> None:
    """Gives BatchNorm layers statistics and scales that differ from their start, so that mix-ups show."""
    random = np.random.default_rng(7)
    for variable in model.variables:
        leaf = variable.path.split("/")[-1]
        if leaf in ("moving_mean", "beta"):
            variable.assign(random.normal(0, 0.1, variable.shape))
        elif leaf in ("moving_variance", "gamma"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))


def _conv_bn(x: object, filters: int, name: str, strides: int = 1) -> object:
    x = L.Conv2D(filters, 3, strides, padding="same", use_bias=False, name=f"{name}_conv")(x)
    return L.ReLU(name=f"{name}_relu")(L.BatchNormalization(name=f"{name}_bn")(x))


def convnet(size: int | None = 32, channels: int = 3) -> keras.Model:
    """Stem, three blocks and a head, each convolution, BatchNorm, ReLU; pooled to 12 features."""
    x = inputs = keras.Input((size, size, channels))
    x = _conv_bn(x, 4, "stem", 2)
    for i, filters in enumerate((6, 8, 8)):
        x = _conv_bn(x, filters, f"block{i}", 2 if i == 0 else 1)
    x = _conv_bn(x, 12, "head")
    return keras.Model(inputs, L.GlobalAveragePooling2D()(x))


@_stored
def plain_convnet(path: pathlib.Path) -> None:
    reusable(path, convnet(None), regularize=True)


@_stored
def residual(path: pathlib.Path) -> None:
    x = inputs = keras.Input((32, 32, 3))
    x = _conv_bn(x, 8, "stem", 2)
    for i in range(3):
        y = _conv_bn(x, 8, f"block{i}_a")
        y = L.BatchNormalization(name=f"block{i}_b_bn")(L.Conv2D(8, 3, padding="same", name=f"block{i}_b_conv")(y))
        x = L.ReLU()(L.Add()([x, y]))
    reusable(path, keras.Model(inputs, L.GlobalAveragePooling2D()(x)))


@_stored
def depthwise(path: pathlib.Path) -> None:
    x = inputs = keras.Input((32, 32, 3))
    x = _conv_bn(x, 8, "stem", 2)
    for i in range(2):
        x = L.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"block{i}_dw")(x)
        x = L.ReLU(6.0)(L.BatchNormalization(name=f"block{i}_dw_bn")(x))
        x = L.Conv2D(8, 1, name=f"block{i}_project")(x)
    reusable(path, keras.Model(inputs, L.GlobalAveragePooling2D()(x)))


@_stored
def branches(path: pathlib.Path) -> None:
    x = inputs = keras.Input((32, 32, 3))
    x = _conv_bn(x, 6, "stem", 2)
    for i in range(2):
        a = _conv_bn(x, 4, f"mixed{i}_left")
        b = _conv_bn(_conv_bn(x, 4, f"mixed{i}_right_a"), 4, f"mixed{i}_right_b")
        x = L.Concatenate()([a, b, L.AveragePooling2D(3, 1, "same")(x)])
    reusable(path, keras.Model(inputs, L.GlobalAveragePooling2D()(x)))


@_stored
def swish(path: pathlib.Path) -> None:
    """A custom gradient in each activation, as in EfficientNet."""
    x = inputs = keras.Input((32, 32, 3))
    for i in range(3):
        x = L.Conv2D(6, 3, 2, padding="same", name=f"block{i}_conv")(x)
        x = L.Lambda(lambda t: tf.nn.silu(t), output_shape=lambda s: s)(x)
    reusable(path, keras.Model(inputs, L.GlobalAveragePooling2D()(x)))


@_stored
def dropout_and_batchnorm(path: pathlib.Path) -> None:
    x = inputs = keras.Input((32, 32, 3))
    for i in range(3):
        x = L.Dropout(0.3)(_conv_bn(x, 6, f"block{i}", 2))
    reusable(path, keras.Model(inputs, L.GlobalAveragePooling2D()(x)))


class _Transformer(tf.Module):
    """Two layers of attention with a mask input; ids and mask in, several outputs."""

    def __init__(self, layers: int = 2, width: int = 8, tied: bool = False) -> None:
        super().__init__(name="encoder")
        make = tf.random.Generator.from_seed(3)
        self.tied, self.width = tied, width

        def weight(name: str, *shape: int) -> tf.Variable:
            return tf.Variable(make.normal(shape) * 0.3, name=name)

        self.table = weight("embeddings/word_embeddings", 50, width)
        self.positions = weight("embeddings/position_embedding", 16, width)
        self.layers = [
            {
                part: weight(f"transformer/layer_{i}/{part}/kernel", width, width)
                for part in ("query", "key", "value", "out")
            }
            | {"bias": tf.Variable(tf.zeros([width]), name=f"transformer/layer_{i}/out/bias")}
            for i in range(layers)
        ]
        self.pooler = weight("pooler_transform/kernel", width, width)
        inner = [v for layer in self.layers for v in layer.values()]
        self.all = [self.table, self.positions, *inner, *([] if tied else [self.pooler])]
        self.trainable = list(self.all)

    @tf.function
    def run(self, inputs: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        ids, mask = inputs["input_word_ids"], tf.cast(inputs["input_mask"], tf.float32)
        x = tf.gather(self.table, ids) + self.positions[: tf.shape(ids)[1]]
        hide = (1.0 - mask[:, None, :]) * -1e4
        outputs = []
        for layer in self.layers:
            q, k, v = (tf.einsum("bld,de->ble", x, layer[p]) for p in ("query", "key", "value"))
            weights = tf.nn.softmax(tf.matmul(q, k, transpose_b=True) / np.sqrt(self.width) + hide)
            if training:
                weights = tf.nn.dropout(weights, 0.2)
            x = x + tf.einsum("bld,de->ble", tf.matmul(weights, v), layer["out"]) + layer["bias"]
            outputs.append(x)
        if self.tied:
            return {"sequence_output": x, "default": tf.einsum("bld,vd->blv", x, self.table)}
        pooled = tf.tanh(x[:, 0] @ self.pooler)
        return {"pooled_output": pooled, "sequence_output": x, "default": pooled, "encoder_outputs": outputs}


def _save_transformer(path: pathlib.Path, tied: bool) -> None:
    model = _Transformer(tied=tied)
    spec = {k: tf.TensorSpec([None, None], tf.int32, name=k) for k in ("input_word_ids", "input_mask")}
    root = tf.train.Checkpoint(model=model)
    root.variables, root.trainable_variables, root.__call__ = model.all, model.trainable, model.run
    for training in (True, False):
        model.run.get_concrete_function(spec, training=training)
    tf.saved_model.save(root, str(path))


@_stored
def transformer(path: pathlib.Path) -> None:
    _save_transformer(path, tied=False)


@_stored
def tied_weights(path: pathlib.Path) -> None:
    """The embedding table is used again at the output, so nothing between can be cut."""
    _save_transformer(path, tied=True)


class _WeightNorm(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        make = tf.random.Generator.from_seed(5)
        self.parts = [
            (
                tf.Variable(make.normal([3, 3, i, o]) * 0.2, name=f"block{n}/conv/v"),
                tf.Variable(make.uniform([o], 0.5, 1.5), name=f"block{n}/conv/g"),
                tf.Variable(tf.ones([o]) * 0.3, trainable=False, name=f"block{n}/conv/offset"),
            )
            for n, (i, o) in enumerate([(3, 6), (6, 8), (8, 8)])
        ]
        self.steps = tf.Variable(100, trainable=False, name="global_step", dtype=tf.int64)

    @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32)])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        for v, g, offset in self.parts:
            x = tf.nn.relu(tf.nn.conv2d(x, g * v / tf.sqrt(tf.reduce_sum(v**2, (0, 1, 2))), 2, "SAME") + offset)
        return tf.reduce_mean(x, (1, 2))


@_stored
def weight_norm(path: pathlib.Path) -> None:
    """Weights that are computed from variables, and non-trainable variables that are no statistics."""
    tf.saved_model.save(_WeightNorm(), str(path))


@_stored
def lstm(path: pathlib.Path) -> None:
    """A loop, saved as a While op whose body is a function."""
    x = inputs = keras.Input((None, 5))
    x = L.Dense(6, name="block0_dense", activation="relu")(x)
    x = L.LSTM(7, name="block1_lstm")(x)
    x = L.Dense(4, name="head_dense")(x)
    reusable(path, keras.Model(inputs, x), tf.TensorSpec([None, None, 5], tf.float32))


class _Lookup(tf.Module):
    def __init__(self, vocabulary: str) -> None:
        super().__init__()
        self.table = tf.lookup.StaticVocabularyTable(
            tf.lookup.TextFileInitializer(
                vocabulary, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            ),
            num_oov_buckets=1,
        )
        make = tf.random.Generator.from_seed(1)
        self.embedding = tf.Variable(make.normal([6, 4]), name="embeddings/table")
        self.kernel = tf.Variable(make.normal([4, 3]), name="dense/kernel")

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, sentences: tf.Tensor) -> tf.Tensor:
        words = tf.strings.split(sentences)
        vectors = tf.gather(self.embedding, self.table.lookup(words.flat_values))
        mean = tf.math.segment_mean(vectors, words.value_rowids())
        return tf.tanh(mean) @ self.kernel


@_stored
def lookup(path: pathlib.Path) -> None:
    """Strings in; the vocabulary is an asset file, the table lives outside of the graph."""
    vocabulary = path.parent / f"{path.name}_vocabulary.txt"
    vocabulary.write_text("a\nwords\ntwo\ngood\nbad\n")
    tf.saved_model.save(_Lookup(str(vocabulary)), str(path))
    vocabulary.unlink()


class _Preprocessor(tf.Module):
    """Cuts at blanks and packs, in two steps, as the preprocessors of TF Hub do; without tensorflow-text."""

    def __init__(self, vocabulary: str) -> None:
        super().__init__()
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                vocabulary, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            ),
            1,
        )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def tokenize(self, sentences: tf.Tensor) -> tf.RaggedTensor:
        words = tf.strings.split(tf.strings.lower(sentences))
        return tf.cast(words.with_flat_values(self.table.lookup(words.flat_values)), tf.int32)

    @tf.function
    def bert_pack_inputs(self, inputs: list[tf.RaggedTensor], seq_length: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = inputs[0].nrows()
        start, end = tf.fill([rows, 1], 2), tf.fill([rows, 1], 3)
        room = (seq_length - 1 - len(inputs)) // len(inputs)
        parts = tf.concat([start] + [part for one in inputs for part in (one[:, :room], end)], axis=1)
        shape = tf.stack([tf.cast(rows, tf.int32), seq_length])

        def padded(values: tf.RaggedTensor) -> tf.Tensor:
            return tf.ensure_shape(values.to_tensor(0, shape=[None, None])[:, :seq_length], [None, None])

        def full(values: tf.RaggedTensor) -> tf.Tensor:
            short = padded(values)
            return tf.pad(short, [[0, 0], [0, shape[1] - tf.shape(short)[1]]])

        return {"input_word_ids": full(parts), "input_mask": full(tf.ones_like(parts))}


TOKENS = "[PAD] [UNK] [CLS] [SEP] the film is a story very plot was good fine great bad poor awful . ! ,".split()


@_stored
def preprocessor(path: pathlib.Path) -> None:
    """Strings to ids and mask, with a vocabulary file, for `transformer`."""
    vocabulary = path.parent / f"{path.name}_vocabulary.txt"
    vocabulary.write_text("\n".join(TOKENS) + "\n")
    root = _Preprocessor(str(vocabulary))
    pieces = tf.RaggedTensorSpec([None, None], tf.int32)
    for count in (1, 2):
        root.bert_pack_inputs.get_concrete_function([pieces] * count, seq_length=tf.TensorSpec([], tf.int32))
    tf.saved_model.save(root, str(path))
    vocabulary.unlink()


@_stored
def keras3_export(path: pathlib.Path) -> None:
    """What `model.export` writes: a `serve` function and signatures."""
    model = convnet()
    settle_statistics(model)
    model.export(str(path), verbose=False)


@_stored
def signature_only(path: pathlib.Path) -> None:
    """No __call__, one signature with two named outputs."""
    model = convnet()
    settle_statistics(model)
    root = tf.train.Checkpoint()
    root.keep = [v.value for v in model.variables]

    @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32, name="pixels")])
    def serve(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        features = model(pixels, training=False)
        return {"features": features, "norm": tf.norm(features, axis=-1)}

    tf.saved_model.save(root, str(path), signatures={"serving_default": serve})


def _slim_graph(resource: bool) -> tuple[tf.Graph, object, object]:
    graph = tf.Graph()
    with graph.as_default():
        v1 = tf.compat.v1
        v1.set_random_seed(1)
        x = v1.placeholder(tf.float32, [None, 32, 32, 3], name="images")
        y = x
        with v1.variable_scope("module/resnet_v2_5", use_resource=resource):
            for block in (1, 2):
                for unit in (1, 2):
                    with v1.variable_scope(f"block{block}/unit_{unit}/bottleneck_v2/conv1"):
                        w = v1.get_variable(
                            "weights", [3, 3, y.shape[-1], 6], initializer=v1.glorot_uniform_initializer()
                        )
                        b = v1.get_variable("biases", [6], initializer=v1.constant_initializer(0.1))
                        y = tf.nn.relu(tf.nn.conv2d(y, w, 2 if unit == 1 else 1, "SAME") + b)
        out = tf.reduce_mean(y, [1, 2], name="features")
    return graph, x, out


def _save_tf1(path: pathlib.Path, resource: bool, hub: bool) -> None:
    v1 = tf.compat.v1
    graph, x, out = _slim_graph(resource)
    with graph.as_default(), v1.Session() as session:
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.builder.SavedModelBuilder(str(path))
        signature = v1.saved_model.signature_def_utils.predict_signature_def({"images": x}, {"default": out})
        builder.add_meta_graph_and_variables(session, [], signature_def_map={"default": signature})
        if hub:
            builder.add_meta_graph(["train"], signature_def_map={"default": signature})
        builder.save()
    if hub:
        (path / "tfhub_module.pb").write_bytes(b"\x08\x03")


@_stored
def slim_tf1(path: pathlib.Path) -> None:
    """TF-Slim names, resource variables, TF1 Hub format with two sets of tags."""
    _save_tf1(path, resource=True, hub=True)


@_stored
def slim_tf1_reference(path: pathlib.Path) -> None:
    """The same with the reference variables of 2018."""
    _save_tf1(path, resource=False, hub=True)


MAKERS: dict[str, Callable[[pathlib.Path], None]] = {
    f.__name__: f
    for f in (
        plain_convnet, residual, depthwise, branches, swish, dropout_and_batchnorm, transformer, tied_weights,
        weight_norm, lstm, lookup, keras3_export, signature_only, slim_tf1, slim_tf1_reference,
    )
}  # fmt: skip
