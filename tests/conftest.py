"""What every test shares: quiet, seeded, away from the user's caches; small images and a small model."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import pytest

COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (210, 40, 40)}


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Models built once go to a folder of this run (shared by parallel workers), not to the user's cache."""
    if "TFFT_CACHE_DIR" not in os.environ:
        base = tmp_path_factory.getbasetemp()
        shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
        os.environ["TFFT_CACHE_DIR"] = str(shared / "tfft-cache")


@pytest.fixture
def image_folder(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Makes a folder of PNG files per class: noisy pictures of one colour each, of several sizes."""

    def make(name: str = "photos", *, per_class: int = 6, classes: tuple[str, ...] = tuple(COLOURS)) -> pathlib.Path:
        import tensorflow as tf

        generator = np.random.default_rng(0)
        for class_name in classes:
            folder = tmp_path / name / class_name
            folder.mkdir(parents=True)
            for i in range(per_class):
                noise = generator.normal(0, 25, (20 + i, 28, 3)) + COLOURS[class_name]
                pixels = np.clip(noise, 0, 255).astype(np.uint8)
                (folder / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def build_tiny_model() -> Callable:
    """Makes a model as `tfft.build` does, on a backbone of three small blocks with random weights: 32 px, 3 classes."""

    def build():
        import weight_models

        from tfft import heads

        return weight_models.of_keras(head=heads.classification(tuple(COLOURS)))

    return build


@pytest.fixture
def tiny_model(build_tiny_model):
    """A fresh model of `build_tiny_model`."""
    return build_tiny_model()
