"""Every number in the documents about speed: ``python benchmarks [name ...]``, on a quiet machine.

Ways are run in turn in one process, so that other work on the machine meets them alike; each line gives the median, the
spread over the repetitions, and the ratio of the medians to the first way. Nothing here is asserted in tests.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile

import common

NAMES = ("inference", "profile", "files", "phase1", "phase2", "epoch", "suffix", "steps", "head", "memory", "kills")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--photos", type=int, default=1000, help="generated JPEG files")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(NAMES)):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    wanted = options.names or NAMES
    common.machine()
    import epochs
    import head
    import inference
    import kills
    import memory
    import steps
    import suffix

    with tempfile.TemporaryDirectory(prefix="tfft-benchmark-") as name:
        made = pathlib.Path(name)
        few = common.make_photos(made / "few", 320) if {"phase1", "phase2"} & set(wanted) else made
        many = common.make_photos(made / "many", options.photos) if "files" in wanted else made
        work = {
            "inference": lambda: inference.inference(options.repeats),
            "profile": lambda: inference.profile(options.repeats),
            "files": lambda: inference.files(options.repeats, many),
            "phase1": lambda: epochs.phase_1(options.repeats, few),
            "phase2": lambda: epochs.phase_2(options.repeats, few),
            "epoch": lambda: epochs.cached_epoch(options.repeats, made / "cache"),
            "suffix": lambda: suffix.suffix(options.repeats),
            "steps": lambda: steps.steps(options.repeats),
            "head": lambda: head.compare(*head.digits(), options.repeats),
            "memory": lambda: memory.memory(made / "memory"),
            "kills": lambda: kills.kills(made / "kills"),
        }
        for each in NAMES:
            if each in wanted:
                work[each]()


if __name__ == "__main__":
    main()
