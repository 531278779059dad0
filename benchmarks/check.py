"""How long a check of many photos takes, the first and the second time, and how much memory.

``python benchmarks/check.py --photos 1000 10000``: each number in a process of its own, so that peaks do not mix.
"""

from __future__ import annotations

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import common
import numpy as np
from PIL import Image


def make(folder: pathlib.Path, count: int) -> None:
    """Writes JPEG files of 500 x 375 pixels with detail at every scale, no two alike, in ten classes."""
    random = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class {number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        picture = np.zeros((375, 500, 3), np.float32)
        for size in (6, 24, 96):
            grain = Image.fromarray(random.integers(0, 256, (size, size * 4 // 3, 3), np.uint8))
            picture += np.asarray(grain.resize((500, 375), Image.Resampling.BILINEAR), np.float32) / 3
        Image.fromarray(picture.astype(np.uint8)).save(place / f"{number}.jpg", quality=85)


def one(folder: str, store: str) -> None:
    import tfft

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("first", "second"):
        start = time.perf_counter()
        report = tfft.check(folder, store=store)
        seconds = time.perf_counter() - start
        print(
            f"  {name} check: {report.examples:,} photos in {seconds:.1f} s, {report.examples / seconds:,.0f} a second"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"  memory: {(peak - before) / 1024:,.0f} MB more at the peak than after the import", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(*options.one)
        return
    common.machine()
    for count in options.photos:
        with tempfile.TemporaryDirectory() as name:
            place = pathlib.Path(name)
            make(place / "photos", count)
            print(f"\n{count:,} photos", flush=True)
            command = [sys.executable, __file__, "--one", str(place / "photos"), str(place / "facts.sqlite")]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
