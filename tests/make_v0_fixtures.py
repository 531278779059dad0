"""Writes tests/fixtures/v0. Written by commit 5926a02; kept to show how the files came about.

It runs against the code of that commit only: later versions must read what lies there, not write it anew. Plans and
checkpoints hold absolute paths, so everything is made in the folder ``/place``, which must not exist before.

    CUDA_VISIBLE_DEVICES=-1 python tests/make_v0_fixtures.py
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shutil
import zipfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import keras_hub
import numpy as np
import savedmodels
import tensorflow as tf
import test_recordings
import test_text_presets
import text_models
import v0_cases

import tfft
from tfft import heads
from tfft.backbones.native import CaffePixels
from tfft.contrastive import PairCosine
from tfft.optimizers import optimizer_of
from tfft.specs import AudioSpec, Phase

PLACE = pathlib.Path("/place")
SMALL = AudioSpec(4000, 0.3, bands=16)
TEXTS = ["the film is good .", "", "a very poor story", "not great , awful", "one two film x"]
MODELS = {}


def models(make):
    MODELS[make.__name__] = make
    return make


# ---------------------------------------------------------------------------------------------------- .keras files


def opened(seed: int = 3, **options):
    return tfft.load_backbone(v0_cases.network(seed), input_range=(-1, 1), **options)


def moved(model: keras.Model, seed: int = 1) -> keras.Model:
    """Gives every float variable a value of its own, so that none can be lost or swapped unseen."""
    random = np.random.default_rng(seed)
    for variable in model.variables:
        if "float" not in str(variable.dtype) or "optimizer" in variable.path:
            continue
        if any(name in variable.path for name in ("variance", "gamma")):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        else:
            variable.assign(variable.numpy() + random.normal(0, 0.1, variable.shape))
    return model


def images(model: keras.Model) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (4, 20, 26, 3)).astype("uint8")


def words(model: keras.Model) -> np.ndarray:
    return np.array(TEXTS)


@models
def image_classification():
    return moved(tfft.build(opened(), heads.classification(["a", "b", "c"]))), images


@models
def image_binary():
    return moved(tfft.build(opened(), heads.binary(["no", "yes"]))), images


@models
def image_multilabel():
    return moved(tfft.build(opened(), heads.multilabel(["a", "b", "c", "d"]))), images


@models
def image_regression():
    return moved(tfft.build(opened(), heads.regression(["width", "height"]))), images


@models
def image_savedmodel():
    backbone = tfft.load_backbone(PLACE / "saved" / "plain_convnet", image_size=32)
    model = moved(tfft.build(backbone, heads.classification(["a", "b", "c"])))
    return tfft.unfreeze(model, "norm"), images


@models
def image_savedmodel_lora():
    backbone = tfft.load_backbone(PLACE / "saved" / "plain_convnet", image_size=32)
    model = tfft.build(backbone, heads.classification(["a", "b", "c"]))
    return moved(tfft.slicing.add_lora(model, 2, rank=2, alpha=3)), images


@models
def image_resized_and_scaled():
    """Every setting of the preprocessing differs from its default."""
    backbone = opened()
    spec = dataclasses.replace(
        backbone.input_spec, value_range=(0.0, 1.0), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1),
        interpolation="bicubic", resize="pad",
    )  # fmt: skip
    return moved(tfft.build(dataclasses.replace(backbone, input_spec=spec), heads.classification(["a", "b"]))), images


@models
def image_compiled():
    """With its loss, factors of rates, weight decay, a schedule, and the state of all of them after two steps."""
    model = moved(tfft.build(opened(), heads.classification(["a", "b", "c"], dropout=0.0, label_smoothing=0.1)))
    tfft.unfreeze(model, "all")
    phase = Phase("fine-tune", "all", 5, 1e-2, optimizer="adamw", weight_decay=0.05, layer_decay=0.7, clip_norm=1.0)
    model.compile(optimizer_of(phase, model, steps=10), **heads.of(model).compile_args())
    model.fit(images(model), np.array([0, 1, 2, 1]), epochs=2, verbose=0)
    return model, images


@models
def image_compiled_focal():
    model = moved(tfft.build(opened(), heads.classification(["a", "b", "c"], dropout=0.0, loss="focal")))
    tfft.unfreeze(model, 1)
    phase = Phase("fine-tune", 1, 5, 5e-2, optimizer="sgd", schedule="one_cycle")
    model.compile(optimizer_of(phase, model, steps=10), **heads.of(model).compile_args())
    model.fit(images(model), np.array([0, 1, 2, 1]), verbose=0)
    return model, images


@models
def pull_to_the_start():
    """`tfft.regularizers.L2SP` as the regularizer of a layer."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((6,), name="features")
    start = np.random.default_rng(3).normal(size=(6, 4)).astype("float32")
    dense = keras.layers.Dense(4, kernel_regularizer=tfft.regularizers.L2SP(start, 0.3), name="dense")
    model = keras.Model(inputs, dense(inputs), name="pulled")
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model, lambda _: np.random.default_rng(2).normal(size=(4, 6)).astype("float32")


@models
def image_compiled_soft():
    """For labels that are mixed, as with mixup."""
    model = moved(tfft.build(opened(), heads.multilabel(["a", "b", "c"], dropout=0.0, l2=1e-3)))
    model.compile(keras.optimizers.Adam(0.01), **heads.of(model).compile_args(soft=True))
    model.fit(images(model), np.eye(3, dtype="float32")[[0, 1, 2, 1]] * 0.7 + 0.1, verbose=0)
    return model, images


@models
def image_lora():
    """Low-rank updates of Conv2D and Dense layers of Keras, of a model that is not wrapped."""
    keras.utils.set_random_seed(5)
    x = inputs = keras.Input((8, 8, 3), name="pixels")
    x = keras.layers.Conv2D(4, 3, padding="same", name="block0_conv")(x)
    x = keras.layers.EinsumDense("bhwc,cd->bhwd", (8, 8, 6), bias_axes="d", activation="relu", name="block1_mix")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dense(10, name="block2_dense")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x), name="net")
    model = moved(tfft.slicing.add_lora(model, "all", rank=2))
    return model, lambda _: np.random.default_rng(2).normal(size=(3, 8, 8, 3)).astype("float32")


@models
def lora_1d_and_3d():
    keras.utils.set_random_seed(5)
    x = inputs = keras.Input((8, 8, 8, 2), name="volume")
    x = keras.layers.Conv3D(4, 3, padding="same", name="block0_conv")(x)
    x = keras.layers.Reshape((64, 32), name="flat")(x)
    x = keras.layers.Conv1D(4, 3, padding="same", name="block1_conv")(x)
    x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x), name="net")
    model = moved(tfft.slicing.add_lora(model, ["block0", "block1"], rank=2))
    return model, lambda _: np.random.default_rng(2).normal(size=(3, 8, 8, 8, 2)).astype("float32")


@models
def caffe_pixels():
    inputs = keras.Input((8, 8, 3), name="pixels")
    model = keras.Model(inputs, CaffePixels(name="caffe_pixels")(inputs), name="caffe")
    return model, lambda _: np.random.default_rng(2).uniform(0, 255, (2, 8, 8, 3)).astype("float32")


@models
def pair_cosine_loss():
    keras.utils.set_random_seed(5)
    inputs = keras.Input((6,), name="features")
    model = keras.Model(inputs, keras.layers.Dense(4, name="dense")(inputs), name="pairs")
    model.compile("adam", PairCosine())
    features = np.random.default_rng(2).normal(size=(4, 6)).astype("float32")
    model.fit(features, np.array([0, 1, 2, 1]), verbose=0)
    return model, lambda _: features


@models
def text_classification():
    backbone = tfft.load_backbone(PLACE / "bert", max_length=16)
    return moved(tfft.build(backbone, heads.classification(["bad", "good"]))), words


@models
def text_pair():
    """Pooled by the mean of all pieces."""
    backbone = tfft.load_backbone(PLACE / "bert", max_length=16, pooling="mean")
    model = moved(tfft.build(backbone, heads.classification(["no", "yes"]), pair=True))
    return model, lambda _: {"text": np.array(TEXTS), "text_pair": np.array(TEXTS[::-1])}


@models
def text_decoder():
    """GPT-2, whose preprocessing packs pieces between marks of start and end."""
    keras.utils.set_random_seed(5)
    for part in test_text_presets.gpt2():
        part.save_to_preset(str(PLACE / "gpt2"))
    backbone = tfft.load_backbone(PLACE / "gpt2", max_length=16)
    return moved(tfft.build(backbone, heads.classification(["a", "b"]))), words


@models
def text_relative():
    """DeBERTa, with its table of relative positions."""
    keras.utils.set_random_seed(5)
    marks = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "normalization_rule_name": "identity"}
    names = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    proto = test_text_presets.sentence_pieces(**marks, **names, user_defined_symbols="[MASK]")
    tokenizer = keras_hub.models.DebertaV3Tokenizer(proto)
    sizes = test_text_presets.SIZES | {"num_layers": 1}
    for part in (keras_hub.models.DebertaV3Backbone(tokenizer.vocabulary_size(), **sizes, bucket_size=8), tokenizer):
        part.save_to_preset(str(PLACE / "deberta"))
    backbone = tfft.load_backbone(PLACE / "deberta", max_length=16)
    return moved(tfft.build(backbone, heads.classification(["a", "b"]))), words


@models
def text_savedmodel():
    """An encoder and a preprocessor in the form of TF Hub."""
    backbone = tfft.load_backbone(
        PLACE / "saved" / "transformer", preprocessor=PLACE / "saved" / "preprocessor", max_length=12
    )
    return moved(tfft.build(backbone, heads.classification(["bad", "good"]))), words


@models
def tokens():
    """Compiled, with its own loss and metric."""
    backbone = tfft.load_backbone(PLACE / "tagging_bert", max_length=24)
    head = heads.tokens(["O", "B-LOC", "B-PER"], dropout=0.0)
    model = moved(tfft.build(backbone, head))
    model.compile(keras.optimizers.Adam(0.01), **head.compile_args())
    texts = np.array(["mr kana", "saw", "kado in mina"], object)
    model.fit(texts, np.array([[0, 2, -1], [0, -1, -1], [0, 0, 1]]), verbose=0)
    return model, lambda _: texts.astype(str)


def sounds(model: keras.Model) -> np.ndarray:
    return np.stack([v0_cases.tone(f, seed=f) for f in (300, 500, 900, 1500)])


@models
def audio_log_mel():
    return moved(tfft.build(opened(), heads.classification(["low", "high"]), audio=SMALL)), sounds


@models
def audio_waves():
    """A SavedModel that takes a batch of waves."""
    keras.utils.set_random_seed(5)
    x = inputs = keras.Input((None,))
    x = keras.layers.Reshape((-1, 1))(x)
    x = keras.layers.Conv1D(8, 16, strides=4, activation="relu", name="conv")(x)
    network = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))
    savedmodels.reusable(PLACE / "saved" / "waves", network, tf.TensorSpec([None, None], tf.float32))
    backbone = tfft.load_backbone(PLACE / "saved" / "waves")
    return moved(tfft.build(backbone, heads.classification(["low", "high"]), audio=SMALL)), sounds


@models
def audio_each_wave():
    """A SavedModel that takes one wave at a time."""
    tf.saved_model.save(test_recordings.OneWave(), str(PLACE / "saved" / "one_wave"))
    backbone = tfft.load_backbone(PLACE / "saved" / "one_wave", output="embeddings")
    return moved(tfft.build(backbone, heads.classification(["low", "high"]), audio=SMALL)), sounds


def as_objects(inputs):
    return keras.tree.map_structure(lambda a: a.astype(object) if a.dtype.kind == "U" else a, inputs)


LABELS = {"image_compiled_soft": np.eye(3, dtype="float32")[[0, 1, 2, 1]] * 0.8 + 0.05,
          "tokens": np.array([[0, 2, -1], [0, -1, -1], [0, 0, 1]])}  # fmt: skip


def write_models(target: pathlib.Path) -> None:
    target.mkdir(parents=True)
    seen = set()
    for name, make in MODELS.items():
        model, inputs_of = make()
        model.save(target / f"{name}.keras")
        with zipfile.ZipFile(target / f"{name}.keras") as file:
            seen |= set(re.findall(r'"(tfft>\w+)"', file.read("config.json").decode()))
        inputs = inputs_of(model)
        stored = {f"input_{k}": v for k, v in inputs.items()} if isinstance(inputs, dict) else {"input": inputs}
        stored["output"] = np.asarray(model.predict(as_objects(inputs), verbose=0))
        stored["trainable"] = np.array([v.trainable for v in model.variables])
        if model.compiled:  # what it measures, and what it answers after one more step of training
            labels = LABELS.get(name, np.array([0, 1, 2, 1]))
            found = model.evaluate(as_objects(inputs), labels, verbose=0, return_dict=True)
            stored["labels"] = labels
            stored |= {f"score_{key}": np.array(value) for key, value in found.items()}
            model.train_on_batch(tf.constant(inputs) if inputs.dtype.kind == "U" else inputs, labels)
            stored["output_after"] = np.asarray(model.predict(as_objects(inputs), verbose=0))
        np.savez_compressed(target / f"{name}.npz", **stored)
        print(name, (target / f"{name}.keras").stat().st_size)
    registered = {name for name in keras.saving.get_custom_objects() if name.startswith("tfft>")}
    print("registered, and in no file:", sorted(registered - seen))
    (target / "registered.json").write_text(json.dumps(sorted(registered), indent=1) + "\n")


# ------------------------------------------------------------------------------------------------------ whole runs


def write_photos(root: pathlib.Path) -> None:
    random = np.random.default_rng(0)
    for name, colour in v0_cases.COLOURS.items():
        (root / name).mkdir(parents=True)
        for i in range(10):
            pixels = random.normal(0, 90, (14, 18, 3)) + 128 + (np.array(colour) - 128) * 0.25
            (root / name / f"{i}.png").write_bytes(
                tf.io.encode_png(np.clip(pixels, 0, 255).astype(np.uint8)).numpy()
            )  # fmt: skip


def write_recordings(root: pathlib.Path) -> None:
    for name, frequency in {"low": 300, "high": 420}.items():
        (root / name).mkdir(parents=True)
        for i in range(10):
            v0_cases.write_tone(root / name / f"{i}.wav", frequency * (1 + 0.06 * (i % 5)), seed=i)


def write_reviews(path: pathlib.Path) -> None:
    texts, labels = text_models.reviews(40)
    random = np.random.default_rng(1)
    labels = [("bad", "good")[random.integers(2)] if random.random() < 0.3 else label for label in labels]
    rows = [{"review": text, "stars": label} for text, label in zip(texts, labels, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_tagged(path: pathlib.Path) -> None:
    sentences, tags = v0_cases.planted(80)
    rows = [{"words": words, "ner": own} for words, own in zip(sentences, tags, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_runs(target: pathlib.Path) -> None:
    """Runs with everything that they write; what they were asked is beside each."""
    quick = v0_cases.QUICK | {"batch_size": 8, "deterministic": True}
    write_photos(PLACE / "photos")
    write_recordings(PLACE / "recordings")
    write_reviews(PLACE / "reviews.jsonl")
    write_tagged(PLACE / "tagged.jsonl")
    photos = np.random.default_rng(2).integers(0, 256, (4, 20, 26, 3)).astype("uint8")
    texts = np.array(TEXTS)
    sentences = np.array(["mr kana saw lodo", "saw", "kado in mina"])
    tuned = {"epochs": 4, "unfreeze": "all", "validation": 0.3, "learning_rate": 3e-3}
    asked = {
        "photos": (v0_cases.network(), "photos", {**tuned, "augment": "flip"}),
        "recordings": (v0_cases.network(), "recordings", tuned),
        "reviews": (PLACE / "bert", "reviews.jsonl", {**tuned, "text": "review", "label": "stars"}),
        "tagged": (PLACE / "tagging_bert", "tagged.jsonl",
                   {"task": "tokens", "text": "words", "label": "ner", "epochs": 10, "frozen_epochs": 1,
                    "learning_rate": 3e-2, "unfreeze": "all"}),
    }  # fmt: skip
    inputs = {"photos": photos, "recordings": sounds(None), "reviews": texts, "tagged": sentences}
    for name, (backbone, data, settings) in asked.items():
        run = tfft.finetune(backbone, PLACE / data, out=PLACE / "runs" / name, **quick, **settings)
        print(name, run.final.line)
        given = inputs[name]
        stored = {"input": given, "output": np.asarray(run.model.predict(as_objects(given), verbose=0))}
        stored |= {f"weights_{key}": value for key, value in v0_cases.weights(run.model).items()}
        np.savez_compressed(target / f"{name}.npz", **stored)
        if name == "photos":
            exported = tfft.export(run.model, PLACE / "served" / "1", card=run.card)
            served = tf.saved_model.load(str(exported.path))
            answers = served.signatures["serving_default"](images=tf.constant(photos))
            np.savez_compressed(target / "served.npz", images=photos, **{
                name: value.numpy().astype("S") if name == "label" else value.numpy() for name, value in answers.items()
            })  # fmt: skip
    write_language(target)
    for name in ("photos", "recordings", "runs", "served"):
        shutil.copytree(PLACE / name, target / name)
    for name in ("reviews.jsonl", "tagged.jsonl"):
        shutil.copy(PLACE / name, target / name)
    shutil.copytree(PLACE / "bert", target / "bert")


def write_language(target: pathlib.Path) -> None:
    """A causal language model that has read a few lines."""
    keras.utils.set_random_seed(0)
    tokenizer = v0_cases.byte_pairs()
    network = keras_hub.models.GPT2Backbone(tokenizer.vocabulary_size(), **test_text_presets.SIZES | {"num_layers": 1})
    for part in (network, tokenizer):
        part.save_to_preset(str(PLACE / "decoder"))
    lines = text_models.reviews(20)[0]
    run = tfft.language.finetune(
        PLACE / "decoder", lines, out=PLACE / "runs" / "language", lora=2, epochs=2, learning_rate=1e-2, max_length=12,
        verbose=False,
    )  # fmt: skip
    print(run.summary)
    stored = {"input": np.array(TEXTS), "value": np.array(tfft.language.perplexity(run.model, TEXTS).value)}
    np.savez_compressed(target / "language.npz", **stored, **v0_cases.weights(run.model))


# ------------------------------------------------------------------------------------------------ stopped trainings


def write_half_done(target: pathlib.Path) -> None:
    """Each is stopped in the middle of an epoch; what it would have come to is beside it."""
    for name, arguments in (("half_arrays", ()), ("half_files", (PLACE / "photos",))):
        run = getattr(v0_cases, name)
        whole = run(PLACE / "whole" / name, *arguments)
        rows = [[row["epoch"], row["loss"], row["val_loss"]] for row in whole.history.rows if row["phase"] != "frozen"]
        print(name, whole.final.line, rows)
        np.savez_compressed(target / f"{name}.npz", rows=np.array(rows), **v0_cases.weights(whole.model))
        try:
            run(PLACE / name, *arguments, stop=v0_cases.StopAt(v0_cases.STOPS[name]))
        except SystemExit as stop:
            print("stopped", stop.code)
        else:
            raise RuntimeError(f"{name} was not stopped")
        shutil.copytree(PLACE / name, target / name, ignore=shutil.ignore_patterns(".lock"))


def main() -> None:
    PLACE.mkdir()
    target = v0_cases.FIXTURES
    shutil.rmtree(target, ignore_errors=True)
    os.environ["TFFT_CACHE_DIR"] = str(PLACE / "cache")
    text_models.tiny_bert_folder(PLACE / "bert", width=8, layers=1)
    text_models.tiny_bert_folder(PLACE / "tagging_bert", v0_cases.VOCABULARY, width=8, layers=1)
    for make in (savedmodels.plain_convnet, savedmodels.transformer, savedmodels.preprocessor):
        (PLACE / "saved").mkdir(exist_ok=True)
        make(PLACE / "saved" / make.__name__)
    write_models(target / "models")
    write_runs(target)
    write_half_done(target)
    print(keras_hub.__version__, sum(p.stat().st_size for p in target.rglob("*") if p.is_file()), "bytes")


if __name__ == "__main__":
    main()
