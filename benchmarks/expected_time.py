"""Expected against measured seconds of training, features and scores included, for some plans on two sets.

``python benchmarks/expected_time.py --photos FOLDER`` takes the digits of scikit-learn, enlarged, and a folder of
photographs with ``train/`` and ``val/``, such as ants and bees. Each plan starts with an empty cache. ``measuring`` is
what the trial passes took, in seconds and as a share of the run. The machine should be quiet.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pathlib
import tempfile
import time

import common
import keras
import plans
from rich.console import Console
from rich.table import Table

import tfft
from tfft.recipes import expectation

PLANS = {
    "lp_ft": {"plan": "lp_ft"}, "last 3 blocks": {"plan": "lp_ft", "unfreeze": 3}, "full": {"plan": "full"},
    "gradual": {"plan": "gradual"}, "fastai": {"plan": "fastai"},
}  # fmt: skip


def run(data: plans.Arrays, side: int, settings: dict[str, object]) -> tuple[float, float, float]:
    """Returns expected and measured seconds of the phases, and the seconds of measuring."""
    spent: list[expectation.Stopwatch] = []
    made = expectation.Stopwatch.__init__

    def noted(self: expectation.Stopwatch, *arguments: object) -> None:
        made(self, *arguments)
        spent.append(self)

    expectation.Stopwatch.__init__ = noted
    try:
        with tempfile.TemporaryDirectory() as cache, contextlib.redirect_stdout(io.StringIO()):
            done = tfft.finetune(common.BACKBONE, data, image_size=side, cache=cache, **settings)
    finally:
        expectation.Stopwatch.__init__ = made
    keras.backend.clear_session()
    return sum(done.expected_seconds.values()), sum(done.seconds.values()), sum(each.spent for each in spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=pathlib.Path, help="folder with train/ and val/")
    parser.add_argument("--side", type=int, default=128, help="pixels of the photos")
    parser.add_argument("--epochs", type=int, help="of each plan; its own by default")
    parser.add_argument("--plans", nargs="+", default=list(PLANS), choices=PLANS, metavar="PLAN")
    options = parser.parse_args()
    common.machine()
    expectation._QUICK = 0.0  # short runs too
    sets = {"digits": (plans.digits()[0], 64)}
    if options.photos:
        sets[options.photos.name] = (plans.photos(options.photos, options.side)[0], options.side)
    table = Table(title="seconds of training", title_justify="left")
    for name in ("set", "plan", "expected", "measured", "ratio", "measuring", "share"):
        table.add_column(name, justify="left" if name in ("set", "plan") else "right", no_wrap=True)
    began = time.perf_counter()
    for title, (data, side) in sets.items():
        for name in options.plans:
            settings = dict(PLANS[name]) | ({} if options.epochs is None else {"epochs": options.epochs})
            expected, measured, spent = run(data, side, settings)
            row = (f"{expected:.1f}", f"{measured:.1f}", f"{expected / measured:.2f}", f"{spent:.1f}")
            table.add_row(title, name, *row, f"{spent / measured:.0%}")
            print(f"{title} {name}: {' '.join(row)}  ({time.perf_counter() - began:.0f} s so far)", flush=True)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
