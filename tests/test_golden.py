"""Small runs of every kind give the weights and scores that they gave before: ``golden.json``.

A change of these numbers is a change of what users get. Where it is wanted, ``python tests/test_golden.py --write``
writes them anew, and the commit says why.

Of each variable the shape, mean and standard deviation are compared, and of each run its scores. That is less brittle
than a hash, whose every bit depends on the processor.
"""

import csv
import json
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
import text_models
import v0_cases
from v0_cases import _determinism_ends  # noqa: F401

import tfft

FILE = pathlib.Path(__file__).with_name("golden.json")
QUICK = {
    "epochs": 2, "batch_size": 8, "seed": 0, "deterministic": True, "cache": "memory", "export_to": False,
    "verbose": False,
}  # fmt: skip
CASES = {}


def case(make):
    CASES[make.__name__] = make
    return make


def png(pixels):
    return tf.io.encode_png(np.clip(pixels, 0, 255).astype(np.uint8)).numpy()


@case
def image_files(place):
    random = np.random.default_rng(0)
    for name, colour in v0_cases.COLOURS.items():
        (place / "photos" / name).mkdir(parents=True)
        for i in range(8):
            pixels = random.normal(0, 80, (14, 18, 3)) + 128 + (np.array(colour) - 128) * 0.3
            (place / "photos" / name / f"{i}.png").write_bytes(png(pixels))
    return tfft.finetune(v0_cases.network(), place / "photos", unfreeze=1, learning_rate=1e-2, augment="flip", **QUICK)


@case
def image_arrays(place):
    settings = {"unfreeze": "all", "head_epochs": 1, "learning_rate": (1e-2, 1e-2), "batch_norm": "train"}
    return tfft.finetune(v0_cases.network(), v0_cases.pictures(), **settings, **QUICK)


@case
def image_table_of_numbers(place):
    random = np.random.default_rng(0)
    with (place / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "level"])
        for i in range(24):
            (place / f"{i}.png").write_bytes(png(random.normal(60 + 5 * i, 30, (16, 16, 3))))
            rows.writerow([f"{i}.png", f"{(60 + 5 * i) / 255:.3f}"])
    settings = {"image": "file", "label": "level", "unfreeze": 1, "learning_rate": 1e-2}
    return tfft.finetune(v0_cases.network(), place / "table.csv", **settings, **QUICK)


def bert(place, words=None):
    return text_models.tiny_bert_folder(place / "bert", words, width=8, layers=1)


@case
def texts(place):
    settings = {"unfreeze": 1, "learning_rate": 1e-2, "max_length": 16}
    return tfft.finetune(bert(place), text_models.reviews(40), **settings, **QUICK)


@case
def texts_with_several_labels(place):
    found, _ = text_models.reviews(40)
    labels = [[word for word in ("the", "film", "a") if word in text.split()] or ["none"] for text in found]
    settings = {"task": "multilabel", "plan": "full", "learning_rate": 1e-2, "max_length": 16}
    return tfft.finetune(bert(place), (found, labels), **settings, **QUICK)


@case
def tags_of_words(place):
    settings = {"task": "tokens", "plan": "full", "learning_rate": 1e-2, "max_length": 24}
    encoder = bert(place, v0_cases.VOCABULARY)
    return tfft.finetune(encoder, v0_cases.planted(40), **settings, **QUICK)


@case
def recordings(place):
    for name, frequency in {"low": 300, "high": 420}.items():
        (place / "sounds" / name).mkdir(parents=True)
        for i in range(8):
            v0_cases.write_tone(place / "sounds" / name / f"{i}.wav", frequency * (1 + 0.06 * (i % 5)), seed=i)
    settings = {"unfreeze": 1, "head_epochs": 1, "learning_rate": (1e-2, 1e-2)}
    return tfft.finetune(v0_cases.network(), place / "sounds", **settings, **QUICK)


@case
def language_model(place):
    keras.utils.set_random_seed(0)
    tokenizer = v0_cases.byte_pairs()
    network = keras_hub.models.GPT2Backbone(tokenizer.vocabulary_size(), 1, 2, 8, 16, max_sequence_length=32)
    for part in (network, tokenizer):
        part.save_to_preset(str(place / "decoder"))
    settings = {"lora_rank": 2, "epochs": 2, "learning_rate": 1e-2, "max_length": 12, "verbose": False}
    return tfft.tasks.causal_lm.finetune(place / "decoder", text_models.reviews(20)[0], **settings)


def summary(run):
    """What is compared: scores by name, and [shape, mean, standard deviation] of each variable."""
    if hasattr(run, "final_scores"):
        scores = {"frozen": run.frozen_scores.value, "final": run.final_scores.value, "loss": run.final_scores.loss}
        scores |= {f"epoch {i}": row["val_loss"] for i, row in enumerate(run.history.rows)}
    else:
        scores = {"before": run.before.value, "after": run.after.value, "unigram": run.unigram.value}
    values = [np.asarray(v.numpy(), "float64") for v in run.model.variables if "float" in str(v.dtype)]
    return {
        "scores": {name: round(float(value), 5) for name, value in scores.items()},
        "variables": [[list(v.shape), round(float(v.mean()), 5), round(float(v.std()), 5)] for v in values],
    }


@pytest.mark.daily("image_files", "texts")
@pytest.mark.parametrize("name", CASES)
def test_a_run_gives_what_it_gave(name, tmp_path):
    known, found = json.loads(FILE.read_text())[name], summary(CASES[name](tmp_path))
    assert found["scores"].keys() == known["scores"].keys()
    for key, value in known["scores"].items():  # rounding grows in an unstable epoch, not alike on all processors
        np.testing.assert_allclose(found["scores"][key], value, rtol=2e-3, atol=2e-5, err_msg=key)
    assert [shape for shape, *_ in found["variables"]] == [shape for shape, *_ in known["variables"]]
    numbers = [[row[1:] for row in side["variables"]] for side in (found, known)]
    np.testing.assert_allclose(*numbers, rtol=1e-3, atol=2e-5)


def write(names):
    found = json.loads(FILE.read_text())
    for name in names or CASES:
        make = CASES[name]
        with tempfile.TemporaryDirectory() as place:
            found[name] = summary(make(pathlib.Path(place)))
        print(name, found[name]["scores"])
    parts = []
    for name, values in found.items():  # a line for each variable: differences can be read
        rows = ",\n   ".join(map(json.dumps, values["variables"]))
        scores = json.dumps(values["scores"])
        parts.append(f' "{name}": {{\n  "scores": {scores},\n  "variables": [\n   {rows}\n  ]\n }}')
    FILE.write_text("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    if sys.argv[1:2] != ["--write"]:
        sys.exit("python tests/test_golden.py --write [CASE ...]")
    os.environ["TFFT_CACHE_DIR"] = tempfile.mkdtemp()
    write(sys.argv[2:])
