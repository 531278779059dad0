"""One training in a process of its own, which kills itself where the environment says: the same command each time.

``python resume_process.py fit|train FOLDER`` prints the hash of the final weights. ``TFFT_KILL`` is
``where:number[:signal]``: at the ``number``-th ``batch``, ``test`` or ``sync`` of this process.
"""

import hashlib
import os
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf

from tfft import heads, training
from tfft.config import Phase
from tfft.modalities.image import from_arrays
from tfft.training import CheckpointConfig, Resume

CLASSES, SIDE = 3, 6
count = {"batch": 0, "test": 0, "sync": 0}


def maybe_die(where):
    count[where] += 1
    place, _, rest = os.environ.get("TFFT_KILL", "").partition(":")
    number, _, name = rest.partition(":")
    if place == where and count[where] == int(number):
        os.kill(os.getpid(), getattr(signal, name or "SIGKILL"))


class Killer(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        maybe_die("batch")

    def on_test_batch_end(self, batch, logs=None):
        maybe_die("test")


class Counter(keras.callbacks.Callback):
    """Has no get_state: a number, a list and an array that change, and a setting that does not."""

    def __init__(self):
        super().__init__()
        self.setting, self.steps, self.losses, self.mean = 5, 0, [], np.zeros(2)

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_epoch_end(self, epoch, logs=None):
        self.losses.append(float(logs["loss"]))
        self.mean = self.mean + [epoch, self.steps]


class Average(keras.callbacks.Callback):
    """A moving average of the weights that decides itself what is kept."""

    def on_train_begin(self, logs=None):
        self.average = [v.numpy() for v in self.model.trainable_variables]

    def on_train_batch_end(self, batch, logs=None):
        self.average = [
            a + (v.numpy() - a) / 8 for a, v in zip(self.average, self.model.trainable_variables, strict=True)
        ]

    def get_state(self):
        return {"average": self.average}

    def set_state(self, state):
        self.average = state["average"]


def examples(count, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    pixels = random.integers(0, 140, (count, SIDE, SIDE, 3))
    pixels[np.arange(count), :, :, labels] += 60
    return pixels.astype(np.uint8), labels


def network():
    x = inner = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(x))
    for k in range(2):
        x = keras.layers.Dense(12, name=f"block{k}_dense")(x)
        x = keras.layers.BatchNormalization(name=f"block{k}_bn")(x)
        x = keras.layers.ReLU(name=f"block{k}_relu")(x)
        x = keras.layers.Dropout(0.2, name=f"block{k}_drop")(x)
    backbone = keras.Model(inner, x, name="backbone")
    inputs = keras.Input((SIDE, SIDE, 3))
    features = backbone(inputs)
    head = heads.classification([f"class {i}" for i in range(CLASSES)], dropout=0.3)
    return keras.Model(inputs, head.attach(features)), head


def digest(arrays):
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def seeds(model):
    return [v for layer in model._flatten_layers() for g in layer._seed_generators for v in [g.state]]


def fit(folder):
    model, head = network()
    model.compile(keras.optimizers.Adam(3e-3), **head.compile_args())
    epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
    train = from_arrays(*examples(150, 1), batch_size=10, shuffle=True, seed=5, epoch=epoch)
    held_out = from_arrays(*examples(40, 2), batch_size=10)
    average, counter = Average(), Counter()
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=3, restore_best_weights=True, min_delta=0.02),
        keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, factor=0.5, min_delta=0.05),
        keras.callbacks.CSVLogger(os.path.join(os.path.dirname(folder), "log.csv")),
        counter,
        average,
        Killer(),
    ]
    every = os.environ.get("TFFT_EVERY")
    settings = CheckpointConfig(folder, every=0.3, every_steps=None if every is None else int(every))
    resume = Resume(settings, callbacks, epoch=epoch)
    history = model.fit(train, validation_data=held_out, epochs=9, callbacks=[resume], verbose=0)
    losses = history.history["val_loss"]
    log = open(os.path.join(os.path.dirname(folder), "log.csv"), "rb").read()
    parts = {
        "weights": digest(v.numpy() for v in model.weights),
        "optimizer": digest(v.numpy() for v in model.optimizer.variables),
        "seeds": digest(v.numpy() for v in seeds(model)),
        "history": digest([np.array(losses), np.array(history.history["learning_rate"])]),
        "epochs": str(history.epoch),
        "counter": f"{counter.steps} {len(counter.losses)} {counter.mean}",
        "average": digest(average.average),
        "log": hashlib.sha256(log).hexdigest()[:16],
        "python": str(np.random.random()),
    }
    return parts


def train(folder):
    model, _ = network()
    epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
    pixels, labels = examples(150, 1)
    dataset = from_arrays(pixels, labels, batch_size=10, shuffle=True, seed=5, epoch=epoch)
    held_out = from_arrays(*examples(40, 2), batch_size=10)
    counter, average, memory = Counter(), Average(), {"ranks": []}
    every = os.environ.get("TFFT_EVERY")
    rate = float(os.environ.get("TFFT_RATE", "1e-2"))
    phases = [
        Phase("frozen", "none", 3, rate),
        Phase("top", 1, 4, 3e-2, patience=1),
        Phase("all", "all", 3, 3e-3),
    ]
    history = training.train(
        model,
        dataset,
        held_out,
        phases,
        batch_norm="train",
        callbacks=[counter, average, Killer()],
        epoch=epoch,
        verbose=False,
        after_phase=lambda phase, done, part: memory["ranks"].append(done.rows[-1]["val_loss"]),
        checkpoints=CheckpointConfig(folder, every=0.3, every_steps=None if every is None else int(every)),
        memory=memory,
    )
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]
    return {
        "weights": digest(v.numpy() for v in model.weights),
        "optimizer": digest(v.numpy() for v in model.optimizer.variables),
        "seeds": digest(v.numpy() for v in seeds(model)),
        "rows": str([row["val_loss"] for row in rows]),
        "history": hashlib.sha256(repr((rows, history.best, history.audits)).encode()).hexdigest()[:16],
        "notes": str(history.notes),
        "counter": f"{counter.steps} {len(counter.losses)} {counter.mean}",
        "memory": str(memory),
        "trainable": str([v.path for v in model.trainable_variables]),
        "python": str(np.random.random()),
    }


def main():
    keras.utils.set_random_seed(7)
    tf.config.experimental.enable_op_determinism()
    mode, folder = sys.argv[1:3]
    sync = os.fsync

    def watched(descriptor):
        maybe_die("sync")
        sync(descriptor)

    os.fsync = watched
    parts = {"fit": fit, "train": train}[mode](folder)
    for name, value in parts.items():
        print("RESULT", name, value)
    for where, number in count.items():
        print("COUNT", where, number)


if __name__ == "__main__":
    main()
