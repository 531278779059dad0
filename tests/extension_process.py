"""One process that registers a task and a kind of data from outside of tfft and then does what it is told.

``python extension_process.py train DATA RUN`` trains, and kills itself after the step that ``TFFT_KILL`` says;
``python extension_process.py tfft ARGUMENT...`` is the command line.
"""

import os
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
from extension_modality import Measurements
from extension_task import Ordinal

import tfft
from tfft import registry


class Killer(keras.callbacks.Callback):
    steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if str(self.steps) == os.environ.get("TFFT_KILL"):
            os.kill(os.getpid(), signal.SIGKILL)


def train(data, out):
    x = inputs = keras.Input((4,))
    for i in range(2):
        x = keras.layers.Dense(6, activation="tanh", name=f"block{i}", kernel_initializer="ones")(x * (i + 1) / 9)
    backbone = tfft.backbones.Backbone("sensor", keras.Model(inputs, x), "test")
    tfft.finetune(
        backbone, data, "ordinal", plan="full", epochs=8, learning_rate=5e-2, batch_size=8, deterministic=True,
        out=out, callbacks=[Killer()],
    )  # fmt: skip


if __name__ == "__main__":
    registry.register_task(Ordinal())
    registry.register_modality(Measurements())
    if sys.argv[1] == "train":
        train(*sys.argv[2:])
    else:
        from tfft.cli import main

        sys.exit(main(sys.argv[2:]))
