"""Why a head is solved before blocks are trained: the two-layer linear network of Kumar et al. (2022).

Good features B0 (5 x 40, near the true ones), examples in a 20-dimensional subspace of the inputs, a new head. Each way
is trained by tfft's engine to the same small error in that subspace; printed is the squared error on inputs from the
whole space. Fine-tuning from a random head bends the features where there is data and not elsewhere.
"""

from __future__ import annotations

import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tfft
from tfft.training import train

INPUTS, FEATURES, INSIDE, EXAMPLES = 40, 5, 20, 300
WAYS = {
    "full": [tfft.Phase("fine-tune", "all", 400, 3e-3, schedule="constant", warmup=0.0, optimizer="sgd")],
    "linear_probe": [tfft.Phase("frozen", "none", 0, 0.0, head="linear_probe")],
    "lp_ft": [
        tfft.Phase("frozen", "none", 0, 0.0, head="linear_probe"),
        tfft.Phase("fine-tune", "all", 400, 3e-3, schedule="constant", warmup=0.0, optimizer="sgd"),
    ],
}  # fmt: skip


def orthonormal(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return np.linalg.qr(random.normal(size=(columns, rows)))[0].T


def errors(seed: int) -> dict[str, tuple[float, float]]:
    """Returns (error inside the subspace, error on the whole space) of each way."""
    random = np.random.default_rng(seed)
    true, head = orthonormal(random, FEATURES, INPUTS), random.normal(size=FEATURES)
    pretrained = np.linalg.qr((true + 0.05 * random.normal(size=true.shape) / INPUTS**0.5).T)[0].T
    pretrained *= np.sign(np.sum(pretrained * true, axis=1, keepdims=True))
    inside = random.normal(size=(EXAMPLES, INSIDE)) @ orthonormal(random, INSIDE, INPUTS)
    outside = random.normal(size=(2000, INPUTS))
    x, y = inside.astype("float32"), (inside @ true.T @ head).astype("float32")[:, None]
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(50)
    found = {}
    for name, phases in WAYS.items():
        keras.utils.set_random_seed(seed)
        layers = [keras.Input((INPUTS,)), keras.layers.Dense(FEATURES, use_bias=False, name="features")]
        backbone = keras.Sequential(layers)
        backbone.layers[0].kernel.assign(pretrained.T)
        model = tfft.build(tfft.load_backbone(backbone), tfft.heads.regression(1, dropout=0.0))
        train(model, batches, None, phases, l2=0.0, verbose=False)
        parts = (inside, outside)
        found[name] = tuple(
            float(np.mean((model.predict(part, verbose=0)[:, 0] - part @ true.T @ head) ** 2)) for part in parts
        )
    return found


def main(seeds: int = 10) -> None:
    rows = [errors(seed) for seed in range(seeds)]
    print(f"two-layer linear network, mean of {seeds} seeds: squared error where the examples are, and everywhere")
    for name in WAYS:
        inside, outside = (statistics.mean(row[name][i] for row in rows) for i in (0, 1))
        ratio = statistics.mean(row["full"][1] for row in rows) / outside
        print(f"  {name:14s} {inside:10.5f} {outside:10.5f}   full fine-tuning's is {ratio:6.1f} times that")
    wins = sum(row["lp_ft"][1] < row["full"][1] for row in rows)
    print(f"  lp_ft below full everywhere in {wins} of {seeds} seeds")


if __name__ == "__main__":
    main()
