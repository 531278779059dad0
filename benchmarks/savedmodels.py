"""Kinds of SavedModels and what happens to each: the table of docs/savedmodels.md.

``python benchmarks/savedmodels.py [NAME ...]`` builds a tiny SavedModel of each kind (`tests/found_models.py`) and
takes it through every step: opening, the pixel range, one step of training with a frozen backbone, with its last block
trained and frozen again, and a ``.keras`` file in a fresh process after the SavedModel was deleted. It ends with the
number that were right in every step.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))  # its makers of small SavedModels

import keras
import numpy as np
import tensorflow as tf
from found_models import FOUND, Found

import tfft
from tfft import testing

_AGAIN = """
import pickle, sys, numpy as np, keras, tensorflow as tf, tfft
for path in sys.argv[1:]:
    x, wanted = pickle.load(open(path + ".pickle", "rb"))
    try:
        x = keras.tree.map_structure(tf.constant, x)
        found = keras.saving.load_model(path)(x)
        ok = all(np.allclose(a, b, atol=1e-5, rtol=1e-4) for a, b in zip(keras.tree.flatten(found), wanted))
        print(path, "same" if ok else "other numbers", sep="\\t")
    except Exception as error:
        print(path, f"{type(error).__name__}: {error}".replace("\\n", " ")[:200], sep="\\t")
"""


class Tried:
    """One SavedModel on its way through the steps.

    Attributes:
        backbone: once it is open.
        wrong: what was not right, in words.
    """

    def __init__(self, name: str, found: Found, folder: pathlib.Path, eager: bool = False) -> None:
        self.name, self.found, self.eager = name, found, eager
        self.source, self.file = folder / name, folder / f"{name}.keras"
        self.backbone: Any = None
        self.wrong: list[str] = []
        try:
            self._steps()
        except Exception as error:  # whatever a step raises is a finding
            self.wrong.append(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        shutil.rmtree(self.source, ignore_errors=True)

    def _steps(self) -> None:
        self.found.make(self.source)
        self.backbone = tfft.load_backbone(self.source, **self.found.options)
        self._range()
        model = tfft.build(self.backbone, tfft.heads.classification(["a", "b"]))
        x = self._inputs(model)
        self._trained(model, x, "none", set(), eagerly=True)  # a step of functions that are traced already
        if self.found.trains:
            last = next(b.name for b in reversed(self.backbone.blocks) if any(self._flags(b)))
            self._trained(model, x, [last], {last})
            self._trained(model, x, "none", set(), eagerly=True)
        elif self.backbone.can_train:
            self.wrong.append("there is something to train")
        model.save(self.file)
        with open(f"{self.file}.pickle", "wb") as file:
            arrays = keras.tree.map_structure(np.asarray, (x, keras.tree.flatten(model(x))))
            pickle.dump(arrays, file)

    @staticmethod
    def _flags(block: Any) -> Iterator[bool]:
        return (getattr(layer, "can_train", bool(layer.weights)) for layer in block.layers)

    def _range(self) -> None:
        spec = self.backbone.input_spec
        got = None if spec is None else spec.value_range
        if self.found.value_range is not None and got != self.found.value_range:
            self.wrong.append(f"pixels {got} in place of {self.found.value_range}")

    def _inputs(self, model: keras.Model) -> Any:
        make = self.found.inputs or (lambda: testing.sample_inputs(model, 4))
        return keras.tree.map_structure(tf.constant, make())

    def _trained(self, model: keras.Model, x: Any, blocks: Any, moving: set[str], *, eagerly: bool = False) -> None:
        """Takes a step and compares which blocks moved."""
        tfft.unfreeze(model, blocks)
        before = {b.name: [w.numpy() for w in b.variables] for b in self.backbone.blocks}
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.5), loss, run_eagerly=eagerly or self.eager)
        model.fit(x, np.array([0, 1, 1, 0]), batch_size=4, verbose=0)
        moved = {
            block.name
            for block in self.backbone.blocks
            for old, new in zip(before[block.name], block.variables, strict=True)
            if not np.array_equal(old, new)
        }
        if moved != moving:
            self.wrong.append(f"unfreeze {blocks}: {sorted(moved)} moved")


def loaded_again(tried: list[Tried]) -> None:
    """Loads the ``.keras`` files in a process that knows nothing else, and notes other numbers."""
    files = {str(one.file): one for one in tried if one.file.exists()}
    done = subprocess.run([sys.executable, "-c", _AGAIN, *files], capture_output=True, text=True, check=False)
    said = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    for path, one in files.items():
        if (result := said.get(path, f"no answer {done.stderr[-300:]}")) != "same":
            one.wrong.append(f".keras in a fresh process: {result}")


def row(one: Tried) -> str:
    """Returns the line of the table."""
    if one.backbone is None:
        return f"| {one.found.kind} | | | {'; '.join(one.wrong)} |"
    spec = one.backbone.input_spec
    takes = ", ".join(f"{t.name} {t.dtype}" for t in one.backbone.model.inputs)
    pixels = "" if spec is None else f", pixels {spec.value_range[0]:g} to {spec.value_range[1]:g}"
    blocks = ", ".join(block.name for block in one.backbone.blocks)
    return f"| {one.found.kind} | {takes}{pixels} | {blocks} | {'; '.join(one.wrong) or 'right'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of tests/found_models.py")
    parser.add_argument("--notes", action="store_true", help="also print endpoint, range and notes of each")
    parser.add_argument("--eager", action="store_true", help="train without compiling a step, which is quicker here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    tf.get_logger().setLevel("ERROR")
    wanted = {name: FOUND[name] for name in options.names or FOUND}
    with tempfile.TemporaryDirectory(prefix="tfft-found-") as folder:
        tried = []
        for name, found in wanted.items():
            keras.utils.set_random_seed(1)
            tried.append(Tried(name, found, pathlib.Path(folder), options.eager))
            print(name, "; ".join(tried[-1].wrong) or "right", sep=": ", file=sys.stderr, flush=True)
        loaded_again(tried)
    print("\n| kind | takes | blocks | every step |\n|---|---|---|---|")
    for one in tried:
        print(row(one))
        if options.notes and one.backbone is not None:
            source = one.backbone.input_spec and one.backbone.input_spec.source
            print("   ", one.backbone.endpoint, "\n    range:", source, *(f"\n    - {n}" for n in one.backbone.notes))
    print(f"\n{sum(not one.wrong for one in tried)} of {len(tried)} kinds are right in every step.")


if __name__ == "__main__":
    main()
