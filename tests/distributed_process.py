"""One process of a distributed training, started by test_distribute.py: python distributed_process.py HOW FOLDER.

HOW is "plain" (no strategy), "mirrored" (two logical processors in this process) or "worker" (one of two
processes, `TF_CONFIG` says which). Each trains the same things and writes what came of it into FOLDER.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
import tensorflow as tf

import tfft
from tfft import heads
from tfft.config import Phase
from tfft.errors import PlanError
from tfft.modalities.image import from_arrays
from tfft.training import fit, on_chief, train

CLASSES = ("plain", "striped", "red")
ALL = Phase("all", "all", 2, 1e-3)


def strategy_for(how: str) -> tf.distribute.Strategy:
    if how == "mirrored":
        processor = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    return tf.distribute.MultiWorkerMirroredStrategy() if how == "worker" else tf.distribute.get_strategy()


def pictures(n: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 64).astype(np.int32)
    images = random.integers(0, 150, (64, 32, 32, 3)).astype(np.uint8)
    images[labels == 1, ::2] += 100
    images[labels == 2, ..., 0] += 100
    return images[:n], labels[:n]


class Checks:
    """What is trained, one method each; the name of the method is the name of the result."""

    def __init__(self, how: str, folder: pathlib.Path) -> None:
        self.how, self.folder, self.strategy = how, folder, strategy_for(how)
        self.models = folder / "models"

    def scope(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.how == "plain" else self.strategy.scope()

    def build(self, kind: str = "plain_convnet", **options: object) -> keras.Model:
        if kind != "lookup":
            options["input_range"] = (0, 1)
        backbone = tfft.load_backbone(str(self.models / kind), **options)
        keras.utils.set_random_seed(1)
        return tfft.build(backbone, heads.classification(CLASSES, dropout=0.0))

    def data(self, n: int, shuffle: bool = False) -> tf.data.Dataset:
        return from_arrays(*pictures(n), None, batch_size=8, shuffle=shuffle, seed=3)

    def result(self, model: keras.Model, history: object, name: str) -> dict[str, object]:
        np.savez(self.folder / f"{self.me}_{name}.npz", *[v.numpy() for v in model.weights])
        copies = [
            [np.array_equal(copy.numpy(), v.numpy()) for copy in self.strategy.experimental_local_results(v.value)]
            for v in model.weights
        ]
        return {
            "copies": min(map(len, copies)),
            "alike": all(map(all, copies)),
            "losses": [row["loss"] for row in history.rows],
            "val_losses": [row.get("val_loss") for row in history.rows],
            "frozen": [report.frozen for report in history.audits.values()],
            "best": list(history.best.values()),
            "notes": list(history.notes),
        }

    @property
    def me(self) -> str:
        return self.how + (str(self.strategy.cluster_resolver.task_id) if self.how == "worker" else "")

    # ---------------------------------------------------------------- in every process

    def two_phases(self) -> dict[str, object]:
        """The walk of a plan: frozen, then two blocks; another order in each epoch; early stopping armed."""
        phases = [Phase("frozen", "none", 2, 3e-3, patience=1), Phase("fine-tune", 2, 3, 3e-3)]
        with self.scope():
            model = self.build()
            before = model(pictures(4)[0], training=False).numpy().tolist()
            history = train(model, self.data(32, shuffle=True), self.data(16), phases, verbose=True)
        after, self.trained = tfft.evaluate(model, self.data(16)).loss, model
        return {**self.result(model, history, "two_phases"), "before": before, "evaluated": after}

    def statistics(self) -> dict[str, object]:
        """One step with BatchNorm statistics that follow the data."""
        with self.scope():
            model = self.build("convnet", batch_norm="train")
        phase = Phase("all", "all", 1, 1e-3)
        history = train(model, self.data(8), self.data(8), [phase], batch_norm="train", verbose=False)
        means = [v.numpy().tolist() for v in model.weights if "moving_mean" in v.path]
        val_loss = tfft.evaluate(model, self.data(8)).loss
        return {**self.result(model, history, "statistics"), "means": means, "evaluated": val_loss}

    def a_last_batch_of_one(self) -> dict[str, object]:
        with self.scope():
            model = self.build()
            history = train(model, self.data(9), self.data(9), [Phase("all", "all", 1, 1e-3)], verbose=False)
        return self.result(model, history, "one")

    # --------------------------------------------------------------------- several copies

    def own_compile(self) -> dict[str, object]:
        """Keras' own `fit`, which fails here, then tfft's on the same model."""
        model, keras_says = self.trained, ""
        with self.scope():
            tfft.freeze(model)
            model.compile(keras.optimizers.SGD(1e-3), **heads.from_model(model).compile_args())
            try:
                model.fit(self.data(16), verbose=0)
            except ValueError as error:
                keras_says = str(error)[:60]
            steps = (model.train_step, model.test_step)
            logs = fit(model, self.data(16), self.data(16), epochs=1, verbose=0).history
        return {"logs": logs, "put_back": steps == (model.train_step, model.test_step), "keras": keras_says}

    def files(self) -> dict[str, object]:
        """Saved and exported inside the scope."""
        model, path, target = self.trained, self.folder / "saved.keras", self.folder / "exported" / "1"
        images = pictures(4)[0]
        with self.scope():
            on_chief(model, lambda: model.save(path))
            exported = on_chief(model, lambda: tfft.export(model, target, examples=images))
        again = keras.saving.load_model(path)(images).numpy()
        same = np.array_equal(again, model(images, training=False).numpy())
        return {"difference": exported.largest_difference, "reloaded": bool(same)}

    def finetune(self) -> dict[str, object]:
        out = self.folder / f"{self.how}_run"
        with self.scope():
            run = tfft.finetune(
                str(self.models / "plain_convnet"),
                pictures(41),
                input_range=(0, 1),
                batch_size=8,
                epochs=1,
                unfreeze=1,
                out=out,
            )
        rows = [row["val_loss"] for row in run.history.rows]
        return {"exported": run.export is not None, "val_losses": rows, "scores": run.final_scores.to_dict()}

    # -------------------------------------------------------------------------- mirrored

    def texts(self) -> dict[str, object]:
        lines = tf.data.Dataset.from_tensor_slices((["two words", "good", "bad a"] * 4, [0, 1, 2] * 4)).batch(4)
        with self.scope():
            model = self.build("lookup")
        return self.result(model, train(model, lines, lines, [ALL], verbose=False), "texts")

    def no_gradient(self) -> dict[str, object]:
        with self.scope():
            images = keras.Input((32, 32, 3))
            kept = keras.layers.Dense(
                2, activation="relu", bias_initializer=keras.initializers.Constant(-1e6), name="dead"
            )
            x = keras.layers.GlobalAveragePooling2D()(images)
            x = keras.layers.Concatenate()([x, kept(x)])
            model = keras.Model(images, heads.classification(CLASSES, dropout=0.0).attach(x))
        floats = self.data(16).map(lambda x, y: (tf.cast(x, tf.float32) / 255, y))
        return self.result(model, train(model, floats, None, [ALL], verbose=False), "no_gradient")

    def mistakes(self) -> dict[str, str]:
        outside = self.build()
        backbone = tfft.load_backbone(str(self.models / "plain_convnet"), input_range=(0, 1))
        metric = keras.metrics.SparseCategoricalAccuracy(name="mine")
        with self.scope():
            apply_mixup = tfft.build(backbone, heads.classification(CLASSES))
            inside = self.build()
        central = tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"])
        tries = {
            "outside": (self.strategy.scope(), outside, {}),
            "mixed": (contextlib.nullcontext(), apply_mixup, {}),
            "metric": (contextlib.nullcontext(), inside, {"metrics": [metric]}),
            "central": (central.scope(), outside, {}),
        }
        said = {}
        for name, (scope, model, settings) in tries.items():
            with scope:
                try:
                    train(model, self.data(8), None, [ALL], verbose=False, **settings)
                except PlanError as error:
                    said[name] = str(error)
        model = self.trained
        tfft.unfreeze(model, 1)  # which compiles again, here outside of the scope
        try:
            fit(model, self.data(8), verbose=0)
        except PlanError as error:
            said["optimizer"] = str(error)
        return said


NAMES = {
    "plain": ("two_phases", "statistics", "a_last_batch_of_one"),
    "mirrored": (
        "two_phases", "statistics", "a_last_batch_of_one", "files", "texts", "no_gradient", "mistakes",
    ),
    "worker": ("two_phases", "statistics", "own_compile", "finetune"),
}  # fmt: skip


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    checks = Checks(sys.argv[1], pathlib.Path(sys.argv[2]))
    found = {name: getattr(checks, name)() for name in NAMES[sys.argv[1]]}
    (checks.folder / f"{checks.me}.json").write_text(json.dumps(found))
