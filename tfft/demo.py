"""The main job on data and weights that come with pip: :func:`demo`, behind ``tfft demo``.

Writes scikit-learn's handwritten digits as a folder of PNG files per class, fine-tunes
EfficientNet-Lite0 on it, and asks the exported model in a process that knows nothing of tfft.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.backbones import load_backbone
from tfft.data import load
from tfft.errors import ExportError, PlanError, listed, missing_package
from tfft.recipes import Run, finetune
from tfft.slicing import describe

BACKBONE = "efficientnet-lite0"
_SHOWN = 8
_LEAST_ACCURACY = 0.97
_INSTALL = 'pip install ".[demo]"'

# Runs in a process of its own, where neither tfft nor Keras can be imported.
_ASK = """
import sys
for name in ("tfft", "keras", "tf_keras"):
    sys.modules[name] = None
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
files = sys.argv[2:]
answer = model.signatures["serve_bytes"](image_bytes=tf.constant([open(file, "rb").read() for file in files]))
for file, label, row in zip(files, answer["label"].numpy(), answer["probabilities"].numpy()):
    print(f"  {file}: {label.decode()}  (probability {row.max():.3f})")
"""


@dataclasses.dataclass(frozen=True)
class Shown:
    """What :func:`demo` did.

    Attributes:
        run: the run.
        as_expected: whether fine-tuning beat the frozen backbone and reached 0.97.
        seconds: wall time.
        peak_megabytes: peak memory of this process.
    """

    run: Run
    as_expected: bool
    seconds: float
    peak_megabytes: float


def demo(out: str | os.PathLike[str] = "tfft-demo") -> Shown:
    """Trains on handwritten digits, exports, and predicts in a fresh process; takes a few minutes at most.

    Use it to see that an installation works, and what each step prints and writes.

    Args:
        out: a new or empty folder for the data, the run and the export.

    Returns:
        The run and what it cost.

    Raises:
        PlanError: when the folder holds anything.
        DependencyError: when scikit-learn or the pretrained weights are not installed.

    Example:
        >>> demo("tfft-demo").run.final.accuracy                   # doctest: +SKIP
    """
    start = time.monotonic()
    folder = _new_folder(out)
    data = write_digits(folder / "digits")
    print(
        f"\nThe backbone, {BACKBONE}, pretrained on ImageNet:\n{describe(load_backbone(BACKBONE).model)}\n", flush=True
    )
    run = finetune(BACKBONE, data, out=folder / "run")
    print("\nIn a fresh process, with TensorFlow and without tfft, the exported model reads digits it has not seen:")
    print(_ask(run, data), flush=True)
    _say_where(folder, run)
    frozen, final = run.frozen.accuracy, run.final.accuracy
    as_expected = final > frozen and final >= _LEAST_ACCURACY
    print(
        f"\nFrozen {frozen:.4f}, fine-tuned {final:.4f}: "
        + (f"better, and at least {_LEAST_ACCURACY}, as expected." if as_expected else "NOT as expected.")
    )
    seconds, peak = time.monotonic() - start, _peak_megabytes()
    print(f"Took {seconds:.0f} s; peak memory {peak:.0f} MB.", flush=True)
    return Shown(run, as_expected, seconds, peak)


def write_digits(folder: pathlib.Path) -> pathlib.Path:
    """Writes scikit-learn's 1797 handwritten digits as PNG files, one folder for each of the ten classes.

    Args:
        folder: a new folder.

    Returns:
        The folder.

    Raises:
        DependencyError: when scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        missing_package("scikit-learn", "The demo's data", _INSTALL)
    digits = load_digits()
    for name in digits.target_names:
        (folder / str(name)).mkdir(parents=True)
    for i, (image, target) in enumerate(zip(digits.images, digits.target, strict=True)):
        pixels = np.round(image * (255 / 16)).astype(np.uint8)[..., None]  # 17 grey levels, 0 to 16
        (folder / str(target) / f"{i:04}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    print(f"data: {len(digits.images)} handwritten digits, 8 x 8 pixels, written to {folder}", flush=True)
    return folder


def _new_folder(out: str | os.PathLike[str]) -> pathlib.Path:
    folder = pathlib.Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        held = listed(sorted(path.name for path in folder.iterdir()), limit=5) if folder.is_dir() else "it is a file"
        raise PlanError(f"{folder} exists and is not an empty folder ({held}). Give another one: tfft demo --out DIR.")
    return folder


def _ask(run: Run, data: pathlib.Path) -> str:
    plan = run.plan
    unseen = load(data, validation=plan.validation, seed=plan.seed, check=False).validation.paths
    files = [os.path.relpath(unseen[i]) for i in np.linspace(0, len(unseen) - 1, _SHOWN).astype(int)]
    command = [sys.executable, "-P", "-c", _ASK, str(run.export.path), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ExportError(f"The exported model failed in a fresh process:\n{done.stderr[-2000:]}")
    return done.stdout.rstrip()


def _say_where(folder: pathlib.Path, run: Run) -> None:
    places: dict[str, Any] = {
        "data": folder / "digits",
        "plan": run.folder / "plan.yaml",
        "scores": run.folder / "metrics.json",
        "Keras model": run.folder / "model.keras",
        "SavedModel": run.export.path,
    }
    print("\nWhere everything lies:")
    for name, path in places.items():
        print(f"  {name:12} {path}")
    print(f"Try: tfft predict {run.folder} {folder / 'digits' / '3'}/*.png")


def _peak_megabytes() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10  # Linux counts in KiB, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
