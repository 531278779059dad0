"""Peak memory of reading recordings and of one pass over them, for few and for many generated WAV files.

``python benchmarks/recordings_memory.py --count 1000`` makes 1,000 and 10,000 files of 10 s, which take 3.2 GB, and
keeps 7 GB of waves beside them until it ends. Each number of files has fresh processes: one that reads all, and one
that finds what the first one kept. Let the waves of the smaller number be over the limit of what is held in memory
(512 MB), or memory is compared with a file.
"""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
import tempfile
import wave

import numpy as np

RATE = 16_000

_CODE = """
import os, resource, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from tfft.modalities.audio import from_waves, load_recordings
import tfft
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
bare, start = peak(), time.perf_counter()
splits = load_recordings(sys.argv[1], store=sys.argv[2])
listed, read = peak(), time.perf_counter()
waves, kept = splits.train.waves, time.perf_counter()
for batch, _ in from_waves(waves, splits.train.labels, splits.train.spec, shuffle=True):
    pass
end = time.perf_counter()
size = sum(part.nbytes for part in (waves, splits.validation.waves)) / 2**20
print(size, bare, listed, peak(), read - start, kept - read, end - kept)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="files; ten times as many are read too")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each file")
    parser.add_argument("--folder", type=pathlib.Path, help="on a disk with room; a temporary one by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tfft-benchmark-", dir=options.folder) as name:
        memory(pathlib.Path(name), (options.count, 10 * options.count), options.seconds)


def memory(folder: pathlib.Path, counts: tuple[int, ...], seconds: float) -> None:
    print(f"\nPeak memory: recordings of {seconds:g} s at {RATE} Hz, listed, then one shuffled pass in batches of 32")
    first: dict[str, float] = {}
    for count in counts:
        make_sounds(folder / "data", count, seconds)
        for run in ("first run", "second run"):
            command = [sys.executable, "-c", _CODE, str(folder / "data"), str(folder / "store" / "files.sqlite")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            size, bare, listed, peak, *times = (float(part) for part in done.stdout.split())
            base = first.setdefault(run, peak)
            print(
                f"  {count:7,d} files {size:8,.0f} MB of waves, {run:10s} {bare:6,.0f} MB imported "
                f"{listed:6,.0f} listed {peak:6,.0f} peak {peak / base:6.2f} x; read {times[0]:6.1f} s, "
                f"kept {times[1]:6.1f} s, pass {times[2]:6.1f} s",
                flush=True,
            )


def make_sounds(folder: pathlib.Path, count: int, seconds: float) -> None:
    """Writes WAV files of 16 bits in two classes; those that are there stay."""
    t = np.arange(round(seconds * RATE)) / RATE
    for i in range(count):
        path = folder / ("low", "high")[i % 2] / f"{i:06}.wav"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(i)
        samples = 0.3 * np.sin(2 * np.pi * (300, 2200)[i % 2] * random.uniform(0.9, 1.1) * t)
        samples += random.uniform(-0.01, 0.01, len(t))
        with wave.open(str(path), "w") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((samples * 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    main()
