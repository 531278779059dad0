"""Is the default plan good everywhere, at what it costs: score, 95 % interval and minutes for sets x sizes x plans.

``python benchmarks/defaults.py --data FOLDER --out cells.jsonl`` trains each cell that the file does not have yet and
then prints the table, so a long run can go on in pieces: ``--minutes 20`` stops after so many, ``--table`` prints only.
The sets are in ``benchmarks/default_sets.py``; FOLDER has ants_bees, sign_digits, houses, camvid, raccoon, fsdd, sst2
and multi30k, and texts need ``--text-backbone``. Each set is also cut to 10 and 50 examples of a class. A fifth of the
training examples chooses the epoch; the score is on test examples not used for selection, and seconds are those of
``finetune`` without an export. Sets marked with * are left out of everything that was tuned.

``--plans lp_ft --unfreeze 9 --learning-rate 1e-3`` measures a plan with other settings than its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import common
import default_sets
import keras
import plans as plan_table
import yaml
from rich.console import Console
from rich.table import Table

import tfft

PLANS = ("default", "linear_probe", "lp_ft", "full", "fastai", "bit", "lora", "measured")
SIZES = ("10", "50", "full")


def plan_of(name: str, bit_steps: int | None) -> object:
    if name == "default":
        return None
    if name == "lora":
        return tfft.plans.lp_ft(lora_rank=8)
    return tfft.plans.named(name, **({"steps": bit_steps} if name == "bit" and bit_steps else {}))


def cell(made: default_sets.Set, size: str, name: str, seed: int, options: argparse.Namespace) -> dict[str, object]:
    """Trains one cell and returns its line of the file."""
    data = made.train if size == "full" else made.small(int(size), seed)
    (inputs, labels), settings = made.test, dict(made.settings)
    texts = inputs.dtype == object
    if not texts:
        inputs = plan_table.resized(inputs, settings["image_size"])
    backbone = options.text_backbone if texts else options.backbone
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache, contextlib.redirect_stdout(io.StringIO()):
        run = tfft.finetune(
            backbone, data, plan=plan_of(name.partition(" ")[0], options.bit_steps), seed=seed, cache=cache,
            minutes=options.budget, **settings, **fixed(options),
        )  # fmt: skip
    seconds = time.perf_counter() - began
    scores = tfft.evaluate(run.model, (inputs, labels))
    keras.backend.clear_session()
    return {
        "plan_used": run.plan.name, "trains": [str(phase.unfreeze) for phase in run.plan.phases],
        "trial": run.plan.reasons.get("trial", ""), "metric": scores.metric, "score": scores.value,
        "interval": list(scores.interval), "lower_is_better": scores.lower_is_better, "seconds": seconds,
        "expected": sum(run.expected_seconds.values()) or None, "phases": sum(run.seconds.values()),
        "examples": len(data[1]), "test": len(labels), "baselines": dict(scores.baselines), "version": tfft.__version__,
    }  # fmt: skip


def fixed(options: argparse.Namespace) -> dict[str, Any]:
    """Settings that the user gave."""
    given = {"unfreeze": options.unfreeze, "learning_rate": options.learning_rate}
    return {name: value for name, value in given.items() if value is not None}


def read(path: pathlib.Path) -> dict[tuple[str, str, str, int], dict]:
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]  # the last line of a stopped run may be half
    return {(row["set"], row["size"], row["plan"], row["seed"]): row for row in rows}


def train(makers: dict, options: argparse.Namespace) -> None:
    began, done = time.monotonic(), read(options.out)
    more = "".join(f" {name}={value}" for name, value in fixed(options).items())
    cells = [(each, size, name + more, seed) for seed in range(options.seeds) for each in options.sets or makers
             for size in options.sizes for name in options.plans]  # fmt: skip
    cache: dict[str, default_sets.Set] = {}
    for key in cells:
        if key in done or key[0] not in makers:
            continue
        if options.minutes and time.monotonic() - began > 60 * options.minutes:
            print("time is over; call it again to go on", flush=True)
            return
        if key[0] not in cache:
            cache = {key[0]: makers[key[0]]()}
        row = dict(zip(("set", "size", "plan", "seed"), key, strict=True)) | cell(cache[key[0]], *key[1:], options)
        text = options.out.read_text("utf-8") if options.out.is_file() else ""
        with options.out.open("a", encoding="utf-8") as file:
            file.write("\n" * bool(text and not text.endswith("\n")) + json.dumps(row) + "\n")
        print(f"{' '.join(map(str, key))}: {row['metric']} {row['score']:.4f}, {row['seconds']:.0f} s", flush=True)


def table(path: pathlib.Path) -> None:
    rows = list(read(path).values())
    made = Table(title=f"{len(rows)} cells; * left out of all tuning", title_justify="left")
    for name in ("set", "size", "plan", "score", "95 % interval", "minutes", "seeds", "within"):
        made.add_column(name, justify="left" if name in ("set", "size", "plan") else "right", no_wrap=True)
    good = cheap = judged = 0
    for each, size in dict.fromkeys((row["set"], row["size"]) for row in rows):
        here = [row for row in rows if (row["set"], row["size"]) == (each, size)]
        found = {plan: [r for r in here if r["plan"] == plan] for plan in dict.fromkeys(r["plan"] for r in here)}
        means = {plan: statistics.mean(_higher(r) for r in cells) for plan, cells in found.items()}
        minutes = {plan: statistics.mean(r["seconds"] for r in cells) / 60 for plan, cells in found.items()}
        best = max(means, key=means.__getitem__)
        within = {plan: means[best] - means[plan] <= _half(found[best]) for plan in means}
        for plan, cells in found.items():
            low, high = (statistics.mean(r["interval"][i] for r in cells) for i in (0, 1))
            made.add_row(
                each + "*" * (each in default_sets.LEFT_OUT), size, plan, f"{abs(means[plan]):.4g}",
                f"{low:.4g} to {high:.4g}", f"{minutes[plan]:.2f}", str(len(cells)), "yes" if within[plan] else "no",
            )  # fmt: skip
        made.add_section()
        if "default" in found:
            judged += 1
            good += within["default"]
            cheap += minutes["default"] <= 2 * min(m for plan, m in minutes.items() if within[plan])
    Console(width=120).print(made)
    print(f"the default is within the interval of the best in {good} of {judged}, and takes at most twice the minutes "
          f"of the cheapest plan that is in {cheap} of {judged}")  # fmt: skip


def _higher(row: dict) -> float:
    return -row["score"] if row["lower_is_better"] else row["score"]


def _half(cells: Sequence[dict]) -> float:
    """Half of the mean interval of a score."""
    return statistics.mean((r["interval"][1] - r["interval"][0]) / 2 for r in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, help="folder of the sets that no package ships")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="file of finished cells, JSON lines")
    parser.add_argument("--sets", nargs="+", metavar="SET", help="all that are at hand by default")
    parser.add_argument("--sizes", nargs="+", default=SIZES, choices=SIZES, help="examples of a class")
    parser.add_argument("--plans", nargs="+", default=PLANS, choices=PLANS, metavar="PLAN")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--side", type=int, default=128, help="pixels of photographs")
    parser.add_argument("--backbone", default=common.BACKBONE)
    parser.add_argument("--text-backbone", help="handle or folder of a text encoder, for sst2 and multi30k")
    parser.add_argument("--bit-steps", type=int, help="of the plan bit, whose rule says 500")
    parser.add_argument("--budget", type=float, help="minutes= of every run, for plans at equal minutes")
    parser.add_argument("--unfreeze", type=yaml.safe_load, help="unfreeze= of every run")
    parser.add_argument("--learning-rate", type=float, help="learning_rate= of every run")
    parser.add_argument("--minutes", type=float, help="stop before a cell after so many; the rest stays for later")
    parser.add_argument("--table", action="store_true", help="print the table of what is done, and train nothing")
    options = parser.parse_args()
    makers = default_sets.makers(options.data, options.side, options.text_backbone is not None)
    missing = [each for each in options.sets or () if each not in makers]
    if missing:
        parser.error(f"not at hand: {', '.join(missing)}; there are {', '.join(makers)} (--data, --text-backbone)")
    common.machine()
    if not options.table:
        train(makers, options)
    table(options.out)


if __name__ == "__main__":
    main()
