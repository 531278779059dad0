"""Sets of different kinds for ``benchmarks/defaults.py``: examples for training, and others that no plan has seen."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import pathlib
import xml.etree.ElementTree
from collections.abc import Callable, Mapping

import keras
import numpy as np
import plans
import tensorflow as tf

Arrays = tuple[np.ndarray, np.ndarray]
LEFT_OUT = ("raccoon", "fsdd_speakers")  # nothing in tfft was tuned with these in view
_TEST = 5  # one example in so many is for the test, where a set has no division of its own


@dataclasses.dataclass(frozen=True)
class Set:
    """Training and test examples, and the settings of every plan."""

    train: Arrays
    test: Arrays
    settings: Mapping[str, object]

    def small(self, per_class: int, seed: int) -> Arrays:
        """Return a number of training examples of each class, drawn with a seed; so many in all for numbers."""
        inputs, labels = self.train
        random = np.random.default_rng(seed)
        if labels.dtype.kind == "f":
            rows = random.permutation(len(labels))[:per_class]
        else:
            rows = np.concatenate([random.permutation(np.flatnonzero(labels == c))[:per_class] for c in set(labels)])
        return inputs[np.sort(rows)], labels[np.sort(rows)]


def makers(folder: pathlib.Path | None, side: int, texts: bool) -> dict[str, Callable[[], Set]]:
    """Return the sets that can be made of what is at hand, by name."""
    found: dict[str, Callable[[], Set]] = {"digits": _digits, "scenes": _scenes}
    if importlib.util.find_spec("skimage") is not None:  # scikit-image
        found |= {"textures": _textures, "faces": _faces}
    if folder is not None:
        own: dict[str, Callable[[pathlib.Path, int], Set]] = {
            "ants_bees": _ants_bees, "sign_digits": _sign_digits, "houses": _houses, "camvid": _camvid,
            "raccoon": _raccoon, "fsdd": _fsdd_digits, "fsdd_speakers": _fsdd_speakers,
        }  # fmt: skip
        found |= {name: lambda make=make: make(folder, side) for name, make in own.items()}
        if texts:
            found |= {"sst2": lambda: _sst2(folder), "multi30k": lambda: _multi30k(folder)}
    return found


def _divided(inputs: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> tuple[Arrays, Arrays]:
    """Return training and test examples; groups stay whole."""
    groups = np.arange(len(labels)) if groups is None else groups
    names = np.unique(groups)
    held_out = np.random.default_rng(0).permutation(names)[: max(1, len(names) // _TEST)]
    test = np.isin(groups, held_out)
    return (inputs[~test], labels[~test]), (inputs[test], labels[test])


def _picture(path: pathlib.Path, side: int) -> np.ndarray:
    loaded = keras.utils.load_img(path, target_size=(side, side), keep_aspect_ratio=True)
    return np.asarray(loaded, np.uint8)


def _digits() -> Set:
    train, test = plans.digits()
    return Set(train, test, {"image_size": 64})


def _textures() -> Set:
    """Patches of three photographs of surfaces (scikit-image), those of the test from their right parts."""
    import skimage.data

    return _patches([skimage.data.brick(), skimage.data.grass(), skimage.data.gravel()], 48)


def _scenes() -> Set:
    """Patches of two photographs (scikit-learn), those of the test from their right parts."""
    from sklearn.datasets import load_sample_images

    return _patches(load_sample_images().images, 32)


def _faces() -> Set:
    """Faces and other patches of photographs (scikit-image)."""
    import skimage.data

    pixels = np.round(skimage.data.lfw_subset() * 255).astype(np.uint8)[..., None].repeat(3, -1)
    return Set(*_divided(pixels, np.repeat([1, 0], len(pixels) // 2)), {"image_size": 64})


def _patches(pictures: list[np.ndarray], side: int) -> Set:
    parts: dict[bool, list[tuple[np.ndarray, int]]] = {False: [], True: []}
    for number, picture in enumerate(pictures):
        pixels = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, -1)
        height, width = pixels.shape[:2]
        for x in range(0, width - side + 1, side):
            for y in range(0, height - side + 1, side):
                parts[x >= width * 0.7].append((pixels[y : y + side, x : x + side], number))
    train, test = ((np.stack([p for p, _ in part]), np.array([n for _, n in part])) for part in parts.values())
    return Set(train, test, {"image_size": 64})


def _ants_bees(folder: pathlib.Path, side: int) -> Set:
    train, test = plans.photos(folder / "ants_bees", side)
    return Set(train, test, {"image_size": side})


def _sign_digits(folder: pathlib.Path, side: int) -> Set:
    paths = sorted((folder / "sign_digits").glob("[0-9]/*.*"))
    images = np.stack([_picture(path, 64) for path in paths])
    # Photographs are numbered in the order of the people, so neighbours are one person.
    people = np.concatenate([np.arange(len(list(each))) // 10 for each in _by_folder(paths)])
    return Set(*_divided(images, np.array([int(path.parent.name) for path in paths]), people), {"image_size": 64})


def _by_folder(paths: list[pathlib.Path]) -> list[list[pathlib.Path]]:
    return [[p for p in paths if p.parent == folder] for folder in dict.fromkeys(p.parent for p in paths)]


def _houses(folder: pathlib.Path, side: int) -> Set:
    with (folder / "houses" / "houses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = np.stack([_picture(folder / "houses" / row["file"], side) for row in rows])
    prices = np.array([float(row["price"]) for row in rows], np.float32)
    return Set(*_divided(images, prices), {"image_size": side, "task": "regression"})


def _camvid(folder: pathlib.Path, side: int, patch: int = 64) -> Set:
    """Patches of street scenes by their majority class, of the classes that are it often enough."""
    parts = []
    for part in ("train", "val"):
        found = []
        for path in sorted((folder / "camvid" / part / "images").iterdir()):
            pixels = np.asarray(keras.utils.load_img(path), np.uint8)
            mask = np.asarray(keras.utils.load_img(
                next((folder / "camvid" / part / "masks").glob(f"{path.stem}*")), color_mode="grayscale",
                target_size=pixels.shape[:2], interpolation="nearest"), np.uint8)  # fmt: skip
            for y in range(0, pixels.shape[0] - patch + 1, patch):
                for x in range(0, pixels.shape[1] - patch + 1, patch):
                    classes = np.bincount(mask[y : y + patch, x : x + patch].ravel(), minlength=256)
                    if classes.max() > 0.6 * patch * patch:
                        found.append((pixels[y : y + patch, x : x + patch], int(classes.argmax())))
        parts.append(found)
    counts = [np.bincount([c for _, c in part], minlength=256) for part in parts]
    kept = [c for c in range(256) if counts[0][c] >= 25 and counts[1][c] >= 5]
    made = [
        (np.stack([p for p, c in part if c in kept]), np.array([kept.index(c) for _, c in part if c in kept]))
        for part in parts
    ]
    return Set(made[0], made[1], {"image_size": patch})


def _raccoon(folder: pathlib.Path, side: int) -> Set:
    """Boxes with a raccoon, and the corner of the same picture that is farthest from it."""
    inputs, labels, pictures = [], [], []
    for number, path in enumerate(sorted((folder / "raccoon" / "annotations").glob("*.xml"))):
        root = xml.etree.ElementTree.parse(path).getroot()
        pixels = np.asarray(keras.utils.load_img(folder / "raccoon" / "images" / f"{path.stem}.jpg"), np.uint8)
        box = root.find("object/bndbox")
        left, top, right, bottom = (int(box.find(n).text) for n in ("xmin", "ymin", "xmax", "ymax"))
        height, width = pixels.shape[:2]
        inside = pixels[max(0, top) : bottom, max(0, left) : right]
        size = max(16, min(height, width) // 4)
        y = 0 if top + bottom > height else height - size
        x = 0 if left + right > width else width - size
        for label, crop in enumerate((pixels[y : y + size, x : x + size], inside)):
            small = tf.image.resize(crop, (side, side))
            inputs.append(np.clip(np.round(small), 0, 255).astype(np.uint8))
            labels.append(label)
            pictures.append(number)
    return Set(*_divided(np.stack(inputs), np.array(labels), np.array(pictures)), {"image_size": side})


def _fsdd_digits(folder: pathlib.Path, side: int) -> Set:
    train, test = plans.sounds(folder / "fsdd")
    return Set(train, test, {"image_size": 64})


def _fsdd_speakers(folder: pathlib.Path, side: int) -> Set:
    """Who speaks, from spectrograms; the test has the digits 8 and 9 of everyone."""
    names = sorted({path.stem.split("_")[1] for path in (folder / "fsdd").glob("*.wav")})
    images, labels, digits = [], [], []
    for path in sorted((folder / "fsdd").glob("*.wav")):
        digit, speaker, _ = path.stem.split("_")
        images.append(plans.spectrogram(path))
        labels.append(names.index(speaker))
        digits.append(int(digit))
    test = np.isin(digits, (8, 9))
    pixels, classes = np.stack(images), np.array(labels)
    return Set((pixels[~test], classes[~test]), (pixels[test], classes[test]), {"image_size": 64})


def _sst2(folder: pathlib.Path) -> Set:
    parts = []
    for name in ("train.tsv", "dev.tsv"):
        lines = (folder / "sst2" / name).read_text("utf-8").splitlines()
        rows = [line.rsplit("\t", 1) for line in lines if line]
        parts.append((np.array([text for text, _ in rows], object), np.array([int(label) for _, label in rows])))
    return Set(parts[0], parts[1], {})


def _multi30k(folder: pathlib.Path) -> Set:
    """Which language a sentence is in."""
    parts = []
    for name in ("train.tsv", "test.tsv"):
        rows = [line.split("\t") for line in (folder / "multi30k" / name).read_text("utf-8").splitlines()[1:3001]]
        texts = [text for row in rows for text in row[:2]]
        parts.append((np.array(texts, object), np.tile([0, 1], len(rows))))
    return Set(parts[0], parts[1], {})
