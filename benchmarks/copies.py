"""How well copies of photos are found: recall by what was done to them, and what is found among other photos.

``python benchmarks/copies.py FOLDER``: every picture below the folder is changed in each way and looked for among all,
without a backbone and with features of EfficientNet-Lite0. "cosine alone" is the share of copies whose features are
nearer to those of the picture than those of any two different pictures are.
"""

from __future__ import annotations

import argparse
import io
import pathlib
import tempfile
import time
from collections.abc import Callable

import common
import numpy as np
from PIL import Image, ImageEnhance

import tfft
from tfft.features import extract
from tfft.modalities.image import ImageFileInfo, ImageFiles, find_cropped_duplicates, find_duplicates
from tfft.modalities.image.crops import SIMILAR_PART, decider, neighbours
from tfft.modalities.image.duplicates import SIMILAR
from tfft.modalities.image.file_info import examine_all
from tfft.modalities.image.thumbnails import EVERY_WAY, candidates, similarity

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    held = io.BytesIO()
    picture.save(held, "jpeg", quality=quality)
    return Image.open(held)


def crop(picture: Image.Image, share: float, random: np.random.Generator) -> Image.Image:
    """Keeps a share of both sides, at a place drawn."""
    wide, high = (int(side * share) for side in picture.size)
    left, top = (int(random.integers(0, a - b + 1)) for a, b in zip(picture.size, (wide, high), strict=True))
    return picture.crop((left, top, left + wide, top + high))


def both(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    changed = jpeg(crop(picture, 0.95, random), 50).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return ImageEnhance.Brightness(changed).enhance(0.9)


CHANGES: dict[str, Change] = {
    "JPEG quality 50": lambda p, _: jpeg(p, 50),
    "crop, 5 % of the area": lambda p, random: crop(p, 0.95**0.5, random),
    "crop, 5 % of both sides": lambda p, random: crop(p, 0.95, random),
    "mirrored": lambda p, _: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "brighter by 10 %": lambda p, _: ImageEnhance.Brightness(p).enhance(1.1),
    "darker by 10 %": lambda p, _: ImageEnhance.Brightness(p).enhance(0.9),
    "half the size": lambda p, _: p.resize((p.width // 2, p.height // 2)),
    "cropped 5 %, quality 50, mirrored, darker": both,
    "rotated by 90 degrees": lambda p, _: p.transpose(Image.Transpose.ROTATE_90),
    "rotated by 180 degrees": lambda p, _: p.transpose(Image.Transpose.ROTATE_180),
    "cropped to 80 % of both sides": lambda p, random: crop(p, 0.8, random),
    "cropped to 70 % of both sides": lambda p, random: crop(p, 0.7, random),
}


def features_of(backbone: tfft.backbones.Backbone, facts: list[ImageFileInfo]) -> np.ndarray:
    """Features of length 1."""
    examples = ImageFiles(tuple(one.path for one in facts), np.zeros(len(facts), np.int32), ("photo",))
    found = np.asarray(extract(backbone, examples, cache=None, verbose=False).arrays)
    found = found.reshape(len(found), -1, found.shape[-1]).mean(axis=1)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def speed(count: int = 10_000) -> None:
    """Time for pictures of clouds, none of which is a copy."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    clouds = tf.image.resize(random.uniform(0, 255, (count, 7, 7, 1)), [32, 32], "bicubic").numpy()[..., 0]
    thumbs = np.clip(clouds + random.normal(0, 6, clouds.shape), 0, 255).astype(np.uint8)
    start = time.perf_counter()
    left, right = candidates(thumbs)
    middle = time.perf_counter()
    similarity(thumbs, left, right)
    seconds = middle - start, time.perf_counter() - middle
    print(f"{count:,} clouds: {seconds[0]:.1f} s to choose {len(left):,} pairs, {seconds[1]:.1f} s to compare them")


def among_different(facts: list[ImageFileInfo], features: np.ndarray) -> float:
    """Prints how similar different photos are, and returns the largest cosine of their features."""
    found = find_duplicates(facts)
    parts = find_cropped_duplicates(facts, features, found)
    count = len(facts) * (len(facts) - 1) // 2
    print(f"\n{len(facts)} photos, {count:,} pairs; copies among them: {len(found.pairs)} {found.note}")
    print(f"parts among them: {len(parts.pairs)} {parts.note}")
    for copy in (*found.pairs, *parts.pairs):
        print(f"  {copy.kind} {copy.similarity:.3f} {facts[copy.first].path} {facts[copy.second].path}")
    left, right = np.triu_indices(len(facts), 1)
    start = time.perf_counter()
    highest = np.sort(similarity(np.stack([one.thumb for one in facts]), left, right)[0])[::-1]
    seconds = time.perf_counter() - start
    print(f"most similar pairs: {', '.join(f'{value:.3f}' for value in highest[:8])} ({seconds:.0f} s for all pairs)")
    nearest = np.array(neighbours(features))
    start = time.perf_counter()
    highest = sorted((value for value, _ in decider(facts, EVERY_WAY)(*nearest.T)), reverse=True)
    seconds = time.perf_counter() - start
    print(f"most similar parts: {', '.join(f'{value:.3f}' for value in highest[:8])} "
          f"({seconds:.0f} s for {len(nearest):,} pairs)")  # fmt: skip
    return float((features @ features.T)[left, right].max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    common.machine()
    speed()
    files = sorted(str(path) for path in options.folder.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    facts = [one for one in examine_all(files) if one.reason is None]
    backbone = tfft.load_backbone(common.BACKBONE)
    features = features_of(backbone, facts)
    nearest = among_different(facts, features)
    random = np.random.default_rng(options.seed)
    print(f"\nsimilarity at least {SIMILAR}, of parts {SIMILAR_PART}; cosine alone: more than {nearest:.3f}")
    print(f"{'change':44s} without backbone   with {common.BACKBONE}   cosine alone")
    with tempfile.TemporaryDirectory() as name:
        for change, make in CHANGES.items():
            changed = []
            for number, one in enumerate(facts):
                path = pathlib.Path(name, f"{number}.png")
                make(Image.open(one.path).convert("RGB"), random).save(path)
                changed.append(str(path))
            everything = [*facts, *examine_all(changed)]
            own = features_of(backbone, everything[len(facts) :])
            found = find_duplicates(everything)
            parts = find_cropped_duplicates(everything, np.concatenate([features, own]), found)
            apart = np.array([copy.second - copy.first for copy in (*found.pairs, *parts.pairs)])
            right, wrong = apart == len(facts), int((apart % len(facts) != 0).sum())
            without, together = right[: len(found.pairs)].sum() / len(facts), right.sum() / len(facts)
            alone = ((features * own).sum(axis=1) > nearest).mean()
            print(f"{change:44s} {without:.3f}              {together:.3f}                     {alone:.3f}   "
                  f"{wrong} wrong {found.note}{parts.note}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
