"""Networks, data and settings of `make_v0_fixtures`, `test_v0_files` and `test_golden`.

It uses only names of tfft that users see, and nothing of the other tests: what is stored depends on every line.
"""

from __future__ import annotations

import os
import pathlib
import signal
import wave

import keras
import keras_hub
import numpy as np
import pytest
from tensorflow.python.framework import config  # to end determinism has no public name

import tfft

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "v0"
COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (210, 40, 40)}
QUICK = {"cache": "memory", "export_to": False, "verbose": False}


@pytest.fixture(autouse=True)
def _determinism_ends():
    """``deterministic=True`` holds for the process; tests that come after these did not ask for it."""
    yield
    config.disable_op_determinism()


def network(seed: int = 3, blocks: int = 2, size: int = 16, width: int = 6) -> keras.Model:
    """Blocks of convolution, BatchNorm and swish; every layer has a name, and the weights follow from the seed."""
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((size, size, 3), name="pixels")
    for k in range(blocks):
        x = keras.layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False, name=f"block{k}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"block{k}_bn")(x)
        x = keras.layers.Activation("swish", name=f"block{k}_swish")(x)
    return keras.Model(inputs, x, name="tiny")


def pictures(count: int = 40, seed: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Noisy pictures of 16 pixels, brighter from class to class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count).astype("int32")
    pixels = random.normal(90 + 30 * labels[:, None, None, None], 40, (count, 16, 16, 3))
    return np.clip(pixels, 0, 255).astype("uint8"), labels


WORDS = ["mr", "in", "saw", "ka", "lo", "mi", "ru", "te", "##do", "##na", *"abcdefgh", ".", ",", "-"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


def planted(count: int) -> tuple[list[list[str]], list[list[str]]]:
    """Sentences such as "mr ka##na in lo##do", and tags: a name is a word that ends with "na" behind "mr" or "in"."""
    random = np.random.default_rng(0)
    sentences, tags = [], []
    for _ in range(count):
        words, own = [], []
        for _ in range(random.integers(1, 4)):
            before = str(random.choice(["mr", "in", "saw"]))
            word = str(random.choice(["ka", "lo", "mi"])) + str(random.choice(["do", "na"]))
            words += [before, word]
            own += ["O", {"mr": "B-PER", "in": "B-LOC"}.get(before, "O") if word.endswith("na") else "O"]
        sentences.append(words)
        tags.append(own)
    return sentences, tags


def tone(frequency: float, seed: int = 0, rate: int = 4000, seconds: float = 0.3) -> np.ndarray:
    """A sine with a little noise."""
    random = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    found = 0.3 * np.sin(2 * np.pi * frequency * t + 6 * random.random()) + 0.01 * random.normal(size=len(t))
    return found.astype(np.float32)


def write_tone(path: pathlib.Path, frequency: float, seed: int) -> None:
    """Writes a tone as a WAV file."""
    with wave.open(str(path), "w") as file:
        file.setparams((1, 2, 4000, 0, "NONE", ""))
        file.writeframes((tone(frequency, seed) * 32767).astype("<i2").tobytes())


def byte_pairs() -> keras_hub.models.GPT2Tokenizer:
    """A tokenizer of letters and a few merges."""
    letters = ["<|endoftext|>", *(chr(code) for code in range(33, 127)), *"ĠÃ¶ä½łå¥ðŁĺĢ"]
    merges = ["t h", "th e", "Ġ the", "q u"]
    pieces = dict.fromkeys([*letters, *(pair.replace(" ", "") for pair in merges)])
    return keras_hub.models.GPT2Tokenizer({piece: number for number, piece in enumerate(pieces)}, merges)


class StopAt(keras.callbacks.Callback):
    """Sends this process SIGTERM in a step, counted over all phases; 0 never does."""

    def __init__(self, at: int = 0) -> None:
        super().__init__()
        self.count, self.at = 0, at

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def get_state(self):
        return None  # it counts anew in each process

    def set_state(self, state):
        pass


def half_arrays(out, stop: StopAt | None = None):
    """Arrays, the default phases: the head trains for an epoch, then blocks too, with Adam. Four steps in each."""
    return tfft.finetune(
        network(), pictures(), out=out, unfreeze=1, head_epochs=1, epochs=4, batch_size=8,
        learning_rate=(1e-3, 1e-2), validation=0.2,
        deterministic=True, callbacks=[stop or StopAt()], **QUICK,
    )  # fmt: skip


def half_files(out, photos, stop: StopAt | None = None):
    """Files, and phases with much state: rates by depth, an average of weights, views, a pull to the start."""
    plan = tfft.plans.lp_ft(optimizer="sgd", layer_decay=0.8, ema_decay=0.8, l2_sp=1e-3, mixup_alpha=0.2)
    return tfft.finetune(
        network(), photos, plan=plan, out=out, unfreeze="all", head_epochs=1, epochs=4, batch_size=8,
        learning_rate=(1e-4, 3e-2), augment="flip", views=2, deterministic=True, callbacks=[stop or StopAt()], **QUICK,
    )  # fmt: skip


# Where each one is stopped: in the middle of the second epoch of the phase that trains blocks.
STOPS = {"half_arrays": 10, "half_files": 8}


def weights(model: keras.Model) -> dict[str, np.ndarray]:
    """All variables by a number, in the order of the model."""
    return {f"{i:03}": variable.numpy() for i, variable in enumerate(model.variables)}
