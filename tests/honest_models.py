"""SavedModels that only compute, of the kinds that are published: the scan has to let all of them through.

Beside those of `savedmodels.MAKERS`: texts and tables, sound, image files, loops, random numbers, training functions.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

v1 = tf.compat.v1
L = keras.layers


def _save(path: pathlib.Path, function: Callable[..., Any], *specs: tf.TensorSpec, keep: Any = None) -> None:
    root = tf.Module()
    root.keep = keep
    root.__call__ = tf.function(function, input_signature=specs)
    tf.saved_model.save(root, str(path), signatures=root.__call__.get_concrete_function())


def sound(path: pathlib.Path) -> None:
    """A waveform becomes cepstral coefficients, in the two ways TensorFlow offers."""
    mel = tf.signal.linear_to_mel_weight_matrix(20, 129, 8000)
    kernel = tf.Variable(tf.ones([33, 2]))

    def run(waveform):
        spectrogram = tf.abs(tf.signal.stft(waveform, 256, 128))
        one = tf.signal.mfccs_from_log_mel_spectrograms(tf.math.log(spectrogram @ mel + 1e-6))
        squared = tf.raw_ops.AudioSpectrogram(input=waveform[0][:, None], window_size=256, stride=128)
        two = tf.raw_ops.Mfcc(spectrogram=squared, sample_rate=8000)[0]
        return {"features": tf.concat([one[0, :1], two[:1]], 1) @ kernel}

    _save(path, run, tf.TensorSpec([None, 4000], tf.float32), keep=kernel)


def image_files(path: pathlib.Path) -> None:
    """Bytes of image files in; decoded and resized one by one."""

    def one(data):
        image = tf.io.decode_image(data, 3, expand_animations=False)
        return tf.image.resize(tf.cast(image, tf.float32), [8, 8])

    def run(data):
        return {"features": tf.reduce_mean(tf.map_fn(one, data, fn_output_signature=tf.float32), [1, 2])}

    _save(path, run, tf.TensorSpec([None], tf.string))


def labels_as_strings(path: pathlib.Path) -> None:
    """A table from numbers to names, in the answer."""
    names = path.parent / f"{path.name}_names.txt"
    names.write_text("cat\ndog\n")
    index = tf.lookup.TextFileIndex
    table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(str(names), tf.int64, index.LINE_NUMBER, tf.string, index.WHOLE_LINE), "?"
    )

    def run(x):
        best = tf.argmax(x, axis=-1)
        return {"label": table.lookup(best), "line": tf.strings.format("row {}", best), "score": tf.reduce_max(x, -1)}

    _save(path, run, tf.TensorSpec([None, 2], tf.float32), keep=table)
    names.unlink()


def wordpieces(path: pathlib.Path) -> None:
    """A preprocessor with operations of tensorflow-text and a vocabulary file."""
    import tensorflow_text as text

    vocabulary = path.parent / f"{path.name}_vocabulary.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\ngood\nbad\n##ly\n")
    tokenizer = text.BertTokenizer(str(vocabulary), lower_case=True)

    def run(sentences):
        return tokenizer.tokenize(sentences).merge_dims(-2, -1).to_tensor()

    root = tf.Module()
    root.tokenizer = tokenizer
    root.__call__ = tf.function(run, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(root, str(path))
    vocabulary.unlink()


def text_vectorization(path: pathlib.Path) -> None:
    """What Keras exports for texts, with a recurrent layer."""
    words = L.TextVectorization(max_tokens=20, output_sequence_length=4)
    words.adapt(["a b c", "b c d"])
    inputs = keras.Input((), dtype="string")
    outputs = L.Bidirectional(L.GRU(3))(L.Embedding(20, 4)(words(inputs)))
    keras.Model(inputs, outputs).export(str(path), verbose=False)


def generation_loop(path: pathlib.Path) -> None:
    """A loop with a list of tensors and a random choice in each step, as text generators have."""
    kernel, random = tf.Variable(tf.ones([4, 4])), tf.random.Generator.from_seed(1)

    def run(start):
        def step(i, state, found):
            state = tf.tanh(state @ kernel) + random.normal(tf.shape(state)) * 0.1
            return i + 1, state, found.write(i, state)

        found = tf.TensorArray(tf.float32, 5)
        _, _, found = tf.while_loop(lambda i, s, f: i < 5, step, [0, start, found])
        return {"steps": found.stack()}

    _save(path, run, tf.TensorSpec([None, 4], tf.float32), keep=[kernel, random])


def trains_itself(path: pathlib.Path) -> None:
    """A function that takes a step of an optimizer, as models for phones have."""
    kernel = tf.Variable(tf.ones([3, 1]))

    def train(x, y):
        tf.debugging.assert_all_finite(x, "bad input")
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((x @ kernel - y) ** 2)
        kernel.assign_sub(0.1 * tape.gradient(loss, kernel))
        return {"loss": loss}

    _save(path, train, tf.TensorSpec([None, 3], tf.float32), tf.TensorSpec([None, 1], tf.float32), keep=kernel)


def tf1_with_a_table(path: pathlib.Path) -> None:
    """A vocabulary file, an initializer, local variables and a saver in shards, of TF1."""
    vocabulary = path.parent / f"{path.name}_v.txt"
    vocabulary.write_text("a\nb\n")
    with tf.Graph().as_default(), v1.Session() as session:
        words = v1.placeholder(tf.string, [None], name="words")
        name = tf.constant(str(vocabulary), name="vocabulary")
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, name)
        index = tf.lookup.TextFileIndex
        table = v1.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, shared_name="words")
        start = v1.raw_ops.InitializeTableFromTextFileV2(
            table_handle=table, filename=name, key_index=index.WHOLE_LINE, value_index=index.LINE_NUMBER
        )
        ids = v1.raw_ops.LookupTableFindV2(table_handle=table, keys=words, default_value=tf.constant(-1, tf.int64))
        rows = v1.get_variable("rows", [3, 2], initializer=v1.ones_initializer(), use_resource=True)
        v1.get_local_variable("count", initializer=0, use_resource=True)
        out = tf.gather(rows, ids + 1, name="features")
        session.run([v1.global_variables_initializer(), start])
        signature = v1.saved_model.signature_def_utils.predict_signature_def({"words": words}, {"default": out})
        builder = v1.saved_model.builder.SavedModelBuilder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={"serving_default": signature},
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=tf.group(start, v1.local_variables_initializer()),
            saver=v1.train.Saver(sharded=True),
        )
        builder.save()
    vocabulary.unlink()


MAKERS: dict[str, Callable[[pathlib.Path], None]] = {
    f.__name__: f
    for f in (
        sound, image_files, labels_as_strings, wordpieces, text_vectorization, generation_loop, trains_itself,
        tf1_with_a_table,
    )
}  # fmt: skip
