"""Peak memory of ``tfft train`` for object detection on kept features, for few and for many generated pictures.

``python benchmarks/detection_memory.py`` trains the head for one epoch on 200 and on 2,000 pictures with one to four
boxes each, in a fresh process with a fresh feature cache. The peak of the process counts mapped files, whose pages the
system takes back when it needs them; the peak without them is sampled five times a second. ``--augment`` takes the
changes of ``tfft train``, such as ``flip crop mosaic``.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import common
import numpy as np
from PIL import Image

_CODE = """
import os, re, resource, sys, threading
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
peaks, done = {"RssAnon": 0, "RssFile": 0}, threading.Event()
def watch():
    while not done.wait(0.2):
        status = open("/proc/self/status").read()
        for name in peaks:
            peaks[name] = max(peaks[name], int(re.search(name + r":\\s+(\\d+)", status)[1]))
threading.Thread(target=watch, daemon=True).start()
from tfft.cli import main
code = main(sys.argv[1:])
done.set()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, *(peaks[name] / 1024 for name in peaks))
sys.exit(code)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 2000], help="numbers of pictures, in turn")
    parser.add_argument("--size", type=int, default=160, help="pixels of a side")
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--augment", nargs="+", default=["flip", "crop"])
    parser.add_argument("--folder", type=pathlib.Path, help="on a disk with room; a temporary one by default")
    options = parser.parse_args()
    print(
        f"\nPeak memory: tfft train, object detection, {options.size} px, {options.views} views, one epoch of the head"
    )
    base = None
    for count in options.counts:
        with tempfile.TemporaryDirectory(prefix="tfft-benchmark-", dir=options.folder) as name:
            folder = pathlib.Path(name)
            make_pictures(folder / "data", count, options.size)
            command = [
                "train", str(folder / "data"), "--task", "object_detection", "--backbone", common.BACKBONE,
                "--image-size", str(options.size), "--views", str(options.views), "--head-epochs", "1",
                "--unfreeze", "none", "--cache", str(folder / "cache"), "--out", str(folder / "run"),
                "--augment", *options.augment,
            ]  # fmt: skip
            done = subprocess.run([sys.executable, "-c", _CODE, *command], capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
            peak, anonymous, mapped = (float(part) for part in done.stdout.split()[-3:])
            kept = sum(file.stat().st_size for file in (folder / "cache").rglob("*") if file.is_file()) / 2**20
        base = base or (peak, anonymous)
        print(
            f"  {count:6,d} pictures {kept:8,.0f} MB of features {peak:7,.0f} MB peak {peak / base[0]:5.2f} x; "
            f"{anonymous:7,.0f} MB without mapped files {anonymous / base[1]:5.2f} x; {mapped:6,.0f} MB mapped",
            flush=True,
        )


def make_pictures(folder: pathlib.Path, count: int, size: int) -> None:
    """Writes noisy pictures with bright squares in two colours, and their boxes in COCO format."""
    folder.mkdir(parents=True)
    random, boxes = np.random.default_rng(0), []
    for at in range(count):
        pixels = random.integers(0, 90, (size, size, 3), np.uint8)
        for _ in range(random.integers(1, 5)):
            side, kind = int(random.integers(size // 8, size // 3)), int(random.integers(2))
            top, left = (int(value) for value in random.integers(0, size - side, 2))
            pixels[top : top + side, left : left + side, kind] = random.integers(180, 256)
            boxes.append({"id": len(boxes), "image_id": at, "category_id": kind + 1, "bbox": [left, top, side, side],
                          "iscrowd": 0})  # fmt: skip
        Image.fromarray(pixels).save(folder / f"{at:05}.png")
    content = {
        "images": [{"id": at, "file_name": f"{at:05}.png", "width": size, "height": size} for at in range(count)],
        "annotations": boxes,
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}],
    }
    (folder / "boxes.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
