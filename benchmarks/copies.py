"""How well copies of photos are found: recall by what was done to them, and what is found among other photos.

``python benchmarks/copies.py FOLDER``: every picture below the folder is changed in each way and looked for among all.
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

from tfft.data.copies import SIMILAR, candidates, find_copies, similarity
from tfft.data.facts import examine_all

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
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    common.machine()
    files = sorted(str(path) for path in options.folder.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    facts = [one for one in examine_all(files) if one.reason is None]
    found = find_copies(facts)
    count = len(facts) * (len(facts) - 1) // 2
    print(f"\n{len(facts)} photos, {count:,} pairs; copies among them: {len(found.pairs)} {found.note}")
    for copy in found.pairs:
        print(f"  {copy.kind} {copy.similarity:.3f} {facts[copy.first].path} {facts[copy.second].path}")
    thumbs = np.stack([one.thumb for one in facts])
    left, right = np.triu_indices(len(facts), 1)
    start = time.perf_counter()
    highest = np.sort(similarity(thumbs, left, right))[::-1]
    seconds = time.perf_counter() - start
    print(f"most similar pairs: {', '.join(f'{value:.3f}' for value in highest[:8])} ({seconds:.0f} s for all pairs)")
    random = np.random.default_rng(options.seed)
    print(f"\n{'change':44s} recall  (similarity at least {SIMILAR})")
    with tempfile.TemporaryDirectory() as name:
        for change, make in CHANGES.items():
            changed = []
            for number, one in enumerate(facts):
                path = pathlib.Path(name, f"{number}.png")
                make(Image.open(one.path).convert("RGB"), random).save(path)
                changed.append(str(path))
            both_thumbs = np.concatenate([thumbs, np.stack([one.thumb for one in examine_all(changed)])])
            one, other = candidates(both_thumbs)
            close = similarity(both_thumbs, one, other) >= SIMILAR
            right_pairs = int((close & (other - one == len(facts))).sum())
            wrong = int((close & ((other - one) % len(facts) != 0)).sum())
            share = right_pairs / len(facts)
            print(f"{change:44s} {share:.3f}   {len(one):,} pairs compared, {wrong} wrong", flush=True)


if __name__ == "__main__":
    main()
