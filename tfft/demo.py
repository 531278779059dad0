"""Demo runs on data and weights that come with pip: :func:`demo` and :func:`demo_text`, behind ``tfft demo``.

The image demo writes scikit-learn's handwritten digits as a folder of PNG files per class, fine-tunes
EfficientNet-Lite0 on it, and predicts with the exported model in a process without tfft. The text demo does the same
with MiniLM and messages to a shop, which were written for this demo.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfft.backbones import load_backbone
from tfft.data import load
from tfft.errors import ExportError, PlanError, join_names, missing_package
from tfft.recipes import Run, finetune

BACKBONE = "efficientnet-lite0"
TEXT_BACKBONE = "minilm"
_MESSAGES = pathlib.Path(__file__).with_name("demo_messages.csv")
_ASKED = (
    "Where on earth is my box?",
    "My new PIN does not work",
    "You are wonderful, merci 😀",
    "I want my money back!",
)
_DIGITS, _EPOCHS = 1000, 6  # of 1797, and of the plan's 10, so that it takes about a minute
_SHOWN = 2  # predictions
_LEAST_ACCURACY, _LEAST_TEXT_ACCURACY = 0.97, 0.8
_INSTALL = 'pip install ".[demo]"'

# Runs in a fresh process that can import neither tfft nor Keras.
_ASK = """
import sys
for name in ("tfft", "keras", "tf_keras"):
    sys.modules[name] = None
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
files = sys.argv[2:]
answer = model.signatures["serve_bytes"](image_bytes=tf.constant([open(file, "rb").read() for file in files]))
shown = zip(files, answer["label"].numpy(), answer["probabilities"].numpy())
print(", ".join(f"{file}: {label.decode()} ({row.max():.3f})" for file, label, row in shown))
"""


_ASK_TEXTS = """
import importlib.util, pathlib, sys
for name in ("tfft", "keras", "tf_keras", "keras_hub"):
    sys.modules[name] = None
import tensorflow as tf
for library in (pathlib.Path(importlib.util.find_spec("tensorflow_text").origin).parent / "python/ops").glob("*.so"):
    tf.load_op_library(str(library))
model = tf.saved_model.load(sys.argv[1])
answer = model.signatures["serving_default"](text=tf.constant(sys.argv[2:]))
for text, label, row in zip(sys.argv[2:], answer["label"].numpy(), answer["probabilities"].numpy()):
    print(f"  {text!r}: {label.decode()}  (probability {row.max():.3f})")
"""


@dataclasses.dataclass(frozen=True)
class Shown:
    """Result of :func:`demo`.

    Attributes:
        run: The run.
        as_expected: Whether the scores reach the known scores of the demo.
        seconds: Wall time.
    """

    run: Run
    as_expected: bool
    seconds: float


def demo(out: str | os.PathLike[str] = "tfft-demo") -> Shown:
    """Train on handwritten digits, export, and predict in a fresh process; take about a minute.

    Use it to check an installation, and to see the output and files of each step.

    Args:
        out: New or empty folder for the data, the run and the export.

    Returns:
        The run and its wall time.

    Raises:
        PlanError: If the folder is not empty.
        DependencyError: If scikit-learn or the pretrained weights are not installed.

    Example:
        >>> demo("tfft-demo").run.final_scores.accuracy                   # doctest: +SKIP
    """
    start = time.monotonic()
    folder = _new_folder(out)
    data = write_digits(folder / "digits")
    run = finetune(BACKBONE, data, out=folder / "run", epochs=_EPOCHS)
    print(f"In a fresh process, with TensorFlow and without tfft, the export predicts {_ask(run, data)}", flush=True)
    _say_where(run)
    print(f"Next: tfft predict {run.folder} {folder / 'digits' / '3'}/*.png")
    return _finish(run, _LEAST_ACCURACY, start)


def demo_text(out: str | os.PathLike[str] = "tfft-demo-text") -> Shown:
    """Train on 120 messages to a shop in six topics, export, and predict new ones in a fresh process.

    Args:
        out: New or empty folder for the data, the run and the export.

    Returns:
        The run and its wall time.

    Raises:
        PlanError: If the folder is not empty.
        DependencyError: If KerasHub or the pretrained weights are not installed; the message has the command.

    Example:
        >>> demo_text("tfft-demo-text").run.final_scores.accuracy         # doctest: +SKIP
    """
    start = time.monotonic()
    folder = _new_folder(out)
    backbone = load_backbone(TEXT_BACKBONE)  # a missing package is an error before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "messages.csv"
    shutil.copyfile(_MESSAGES, data)
    print(f"120 messages to a shop, written for this demo, copied to {data}", flush=True)
    run = finetune(backbone, data, text="message", label="topic", out=folder / "run")
    print("In a fresh process, with TensorFlow and the operations of tensorflow-text, without Keras and tfft:")
    print(_run(_ASK_TEXTS, run, _ASKED), flush=True)
    _say_where(run)
    print(f'Next: tfft predict {run.folder} --text "Please cancel everything"')
    return _finish(run, _LEAST_TEXT_ACCURACY, start)


def write_digits(folder: pathlib.Path) -> pathlib.Path:
    """Write the first 1000 of scikit-learn's 1797 handwritten digits as PNG files, one folder per class.

    Args:
        folder: New folder.

    Returns:
        The folder.

    Raises:
        DependencyError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        missing_package("scikit-learn", "The demo's data", _INSTALL)
    digits = load_digits()
    for name in digits.target_names:
        (folder / str(name)).mkdir(parents=True)
    for i, (image, target) in enumerate(zip(digits.images[:_DIGITS], digits.target[:_DIGITS], strict=True)):
        pixels = np.round(image * (255 / 16)).astype(np.uint8)[..., None]  # 17 grey levels, 0 to 16
        (folder / str(target) / f"{i:04}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    print(f"{_DIGITS} handwritten digits, 8 x 8 pixels, written to {folder}", flush=True)
    return folder


def _new_folder(out: str | os.PathLike[str]) -> pathlib.Path:
    folder = pathlib.Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        held = (
            join_names(sorted(path.name for path in folder.iterdir()), limit=5) if folder.is_dir() else "it is a file"
        )
        raise PlanError(f"{folder} exists and is not an empty folder ({held}). Use another one: tfft demo --out DIR.")
    return folder


def _ask(run: Run, data: pathlib.Path) -> str:
    plan = run.plan
    unseen = load(data, validation=plan.validation, seed=plan.seed, check=False).validation.paths
    files = [os.path.relpath(unseen[i]) for i in np.linspace(0, len(unseen) - 1, _SHOWN).astype(int)]
    return _run(_ASK, run, files)


def _run(script: str, run: Run, asked: Sequence[str]) -> str:
    _, exported = _places(run)
    command = [sys.executable, "-P", "-c", script, str(exported), *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ExportError(f"The exported model failed in a fresh process:\n{done.stderr[-2000:]}")
    return done.stdout.rstrip()


def _places(run: Run) -> tuple[pathlib.Path, pathlib.Path]:
    """Return the folders of a run and its export."""
    if run.folder is None or run.export is None:
        raise ExportError("The demo expects a run with a folder and an export.")
    return run.folder, run.export.path


def _finish(run: Run, least: float, start: float) -> Shown:
    """Print whether the scores are the known ones of a demo, and how long it took."""
    frozen, final = run.frozen_scores.accuracy or 0.0, run.final_scores.accuracy or 0.0
    as_expected = final >= max(frozen, least)
    seconds = time.monotonic() - start
    verdict = f"{'as' if as_expected else 'NOT as'} expected: at least {least}"
    print(
        f"Frozen {frozen:.4f}, fine-tuned {final:.4f} ({verdict}); "
        f"{seconds:.0f} s, peak memory {_peak_megabytes():.0f} MB.",
        flush=True,
    )
    return Shown(run, as_expected, seconds)


def _say_where(run: Run) -> None:
    folder, exported = _places(run)
    print(f"Keras model: {folder / 'model.keras'}; SavedModel: {exported}; every setting: {folder / 'plan.yaml'}")


def _peak_megabytes() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10  # Linux counts in KiB, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
