"""Settings that must be equal for a training to resume: :func:`verify_or_record`, :func:`differences`.

Implementation notes: facts about the machine also determine the last bits of a result.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfft.arrays.store import content_hash
from tfft.config.stored_settings import current_names
from tfft.errors import PlanError, installed_version
from tfft.io.processors import usable_cores
from tfft.keras_compat import is_deterministic
from tfft.training.checkpoint.files import sync
from tfft.training.checkpoint.store import CheckpointError

IDENTITY = "identity.json"
_LONGEST = 60  # characters of a value to show


def facts() -> dict[str, Any]:
    """Return the facts besides settings and data that determine a result: versions, devices, threads, modes.

    Example:
        >>> tfft.training.checkpoint.fingerprint.facts()["determinism"]
        True
    """
    threads = tf.config.threading
    return {
        "versions": {
            "tfft": installed_version("tfft"),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
            "python": ".".join(platform.python_version_tuple()[:2]),
        },
        "devices": [_device(device) for device in tf.config.get_visible_devices()],
        "processor": _processor(),
        "threads": {
            "processors": usable_cores(),
            "inter_op": threads.get_inter_op_parallelism_threads(),
            "intra_op": threads.get_intra_op_parallelism_threads(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
        "determinism": is_deterministic(),
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS"),
        "dtype": [keras.config.floatx(), keras.config.dtype_policy().name],
    }


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Describe how two nested values differ, with one sentence per place.

    Args:
        old: Old value.
        new: New value.
        where: Name of the value.

    Returns:
        For example ``["plan.batch_size was 32 and is 64"]``; an empty list when they are equal.

    Example:
        >>> differences({"seed": 1, "phases": [3]}, {"seed": 2, "phases": [3]})
        ['seed was 1 and is 2']
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in [*old, *(k for k in new if k not in old)]:
            name = f"{where}.{key}" if where else str(key)
            if key not in new:
                found.append(f"{name} was {_shown(old[key])} and is now missing")
            elif key not in old:
                found.append(f"{name} was missing and is now {_shown(new[key])}")
            else:
                found += differences(old[key], new[key], name)
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [d for i, pair in enumerate(zip(old, new, strict=True)) for d in differences(*pair, f"{where}[{i}]")]
    same = old == new or (old != old and new != new)  # NaN is NaN
    return [] if same and type(old) is type(new) else [f"{where or 'it'} was {_shown(old)} and is {_shown(new)}"]


def verify_or_record(
    folder: Path, settings: Mapping[str, Any], *, going_on: bool, machine: Literal["same", "any"] = "same"
) -> list[str]:
    """Record the identity of a training, or verify it against the recorded one.

    Args:
        folder: Folder of the checkpoints.
        settings: Plain values that must be equal to resume: a plan, a fingerprint of the data.
        going_on: Whether there is a checkpoint to resume from.
        machine: ``"any"`` allows other versions, devices and threads; the result is then equally good, but not
            bit-identical.

    Returns:
        Notes on accepted differences.

    Raises:
        PlanError: If settings or machine differ; the message lists all differences.
        CheckpointError: If the file is missing, damaged or not writable.
    """
    now = {"settings": json.loads(json.dumps(settings, default=str)), "machine": facts()}
    path = folder / IDENTITY
    if not going_on:
        _write(path, now)
        return []
    was = _read(path)
    found = differences(current_names(was["settings"]), now["settings"])
    drift = differences(was["machine"], now["machine"])
    if not found and (machine == "any" or not drift):
        return [f"training resumes although {d}: the weights may differ in the last bits" for d in drift]
    lines = [f"The training in {folder} was started with other settings, so it cannot resume:"]
    lines += [f"  - {d}" for d in [*found, *([] if machine == "any" else drift)]]
    lines.append("Change them back, or choose another folder to start over (or delete this one).")
    if drift and not found:
        lines.append("With machine='any' it resumes here, but the weights may differ in the last bits.")
    raise PlanError("\n".join(lines))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            json.dump({**content, "sha256": content_hash(content)}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync(path.parent)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written ({error.strerror or error}).") from error
    finally:
        aside.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        content = {"settings": found["settings"], "machine": found["machine"]}
        if found["sha256"] == content_hash(content):
            return content
        why = "is damaged"
    except FileNotFoundError:
        why = "is missing"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        why = "cannot be read"
    raise CheckpointError(
        f"{path} {why}, so the settings of the checkpoints next to it are unknown. Choose another folder, "
        "or delete this one to start over."
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _device(device: tf.config.PhysicalDevice) -> str:
    details = {} if device.device_type == "CPU" else tf.config.experimental.get_device_details(device)
    return details.get("device_name", device.device_type)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
