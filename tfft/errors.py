"""Error classes, and helpers that format their messages.

Every intended error derives from :class:`TfftError`, so a program can catch a single type; each class also derives from
the built-in exception that a caller would expect. :func:`did_you_mean` suggests the nearest valid name and
:func:`raise_problems` reports all problems at once.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import NoReturn


class TfftError(Exception):
    """Base class of all intended errors of tfft."""


class HandleError(TfftError, ValueError):
    """A backbone handle that matches nothing; the message suggests the nearest name."""


class SavedModelError(TfftError, ValueError):
    """A folder that is not a SavedModel, or a graph that cannot be opened; the message says which part."""


class UnsafeModelError(SavedModelError):
    """A graph with operations that reach outside of it; inspect them, then pass ``trust=True``."""


class BackboneError(TfftError, ValueError):
    """A backbone that does not support the requested use (mode, output, image size)."""


class BlockError(TfftError, ValueError):
    """A selection of blocks that matches nothing; the message lists the available blocks."""


class DataError(TfftError, ValueError):
    """Examples that cannot be used; the message names each file or class at fault."""


class PlanError(TfftError, ValueError):
    """Settings that contradict each other or are out of range; the message lists all of them."""


class AuditError(TfftError, RuntimeError):
    """A frozen variable that changed, or a trainable one that did not."""


class ExportError(TfftError, RuntimeError):
    """An export that could not be written or computes different values; nothing is left on disk."""


class DependencyError(TfftError, ImportError):
    """A package that is missing or too old; the message has the command that installs it."""


def did_you_mean(word: str, choices: Iterable[str], *, limit: int = 3) -> str:
    """Return ``" Did you mean 'x'?"`` for the choices nearest to a word, or an empty string.

    Args:
        word: Word that the user wrote.
        choices: Valid names.
        limit: Maximum number of suggestions.

    Returns:
        A sentence that starts with a space, to append to a message; empty if no choice is near.

    Example:
        >>> did_you_mean("blok3", ["block3", "head"])
        " Did you mean 'block3'?"
    """
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(str(word).lower(), by_lower, n=limit, cutoff=0.6)
    if not near:
        return ""
    return " Did you mean " + " or ".join(repr(by_lower[name]) for name in near) + "?"


def unknown_name(setting: str, received: object, choices: Sequence[str]) -> str:
    """Return the sentence for a setting that has none of the names to choose from, with the nearest one.

    Example:
        >>> unknown_name("architecture", "retinanett", ["tfft", "retinanet"])
        "architecture must be one of tfft, retinanet, received 'retinanett'. Did you mean 'retinanet'?"
    """
    hint = did_you_mean(received, choices) if isinstance(received, str) else ""
    return f"{setting} must be one of {join_names(choices)}, received {received!r}.{hint}"


def join_names(names: Iterable[object], *, limit: int = 20) -> str:
    """Join names by commas; after ``limit`` names, show the number of the others."""
    every = [str(name) for name in names]
    shown = ", ".join(every[:limit])
    return shown if len(every) <= limit else f"{shown} and {len(every) - limit} more"


_PLURALS = {"class": "classes", "box": "boxes"}  # others get an s


def quantity(count: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as ``1 class`` or ``2 classes``.

    Args:
        count: Number.
        singular: Noun for one.
        plural: Noun for others. Defaults to the singular and an s, or to "classes" and "boxes".
    """
    return f"{count} {singular if count == 1 else plural or _PLURALS.get(singular, singular + 's')}"


_SINGULARS = {plural: singular for singular, plural in _PLURALS.items()}
_VERBS = {
    "are": "is", "have": "has", "do": "does", "occur": "occurs", "use": "uses", "differ": "differs", "last": "lasts",
    "contain": "contains",
}  # fmt: skip
_ONE = re.compile(rf"^1 ((?:[a-z]+ )??)([a-z]+s) (cannot|{'|'.join(_VERBS)})\b")


def in_number(message: str) -> str:
    """Return a message about a number of items in the singular, if the number is 1.

    Args:
        message: Begins with a number, a noun in the plural and a verb; any other comes back unchanged.

    Example:
        >>> in_number("1 images are CMYK")
        '1 image is CMYK'
    """
    return _ONE.sub(
        lambda found: f"1 {found[1]}{_SINGULARS.get(found[2], found[2][:-1])} {_VERBS.get(found[3], found[3])}", message
    )


_PREAMBLE = re.compile(
    r"Exception encountered when calling|in user code:|Graph execution error|Traceback \(most recent"
)
_PLACE = re.compile(
    r"Detected at node|<stack traces? unavailable>|File \"|\[\[\{\{node|\s*~*\^+~*\s*$|During handling|$"
)


def reason_of(error: BaseException, *, limit: int = 500) -> str:
    """Return the line of an error message that says what went wrong, without preambles of Keras and TensorFlow.

    Keras puts "Exception encountered when calling ..." before the reason and the arguments behind it; TensorFlow puts
    it behind the places in the code that led there.

    Args:
        error: The error of another library.
        limit: Most characters; the end is kept of a longer line.

    Returns:
        One line; the name of the error's class where it says nothing.

    Example:
        >>> reason_of(ValueError("Exception encountered when calling Dense.call().\\n\\nOdd shapes."))
        'Odd shapes.'
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    first = text.splitlines()[0] if text else ""
    if _PREAMBLE.match(first):
        lines = text.split("Arguments received by")[0].splitlines()
        reasons = [
            line.strip() for line in lines if not _PREAMBLE.match(line.strip()) and not _PLACE.match(line.strip())
        ]
        # Keras' own reason comes first and its details follow; below lines of code it is the last one.
        backwards = any(_PREAMBLE.match(line.strip()) for line in lines if not line.strip().startswith("Exception enc"))
        first = (reasons[-1] if backwards else reasons[0]) if reasons else first
    first = re.sub(r"\s*\[Op:[^\]]*\]( name:.*)?$", "", first.strip()) or type(error).__name__
    return first if len(first) <= limit else f"... {first[-limit:]}"


def raise_problems(error: type[TfftError], title: str, problems: Sequence[str], *, limit: int | None = None) -> None:
    """Raise one error that lists all problems; do nothing if there are none.

    Args:
        error: Class of the error.
        title: First line of the message.
        problems: One sentence per problem.
        limit: Maximum number of problems to list; the message counts the others. Defaults to all.

    Raises:
        TfftError: Of the given class, if ``problems`` is not empty.
    """
    if len(problems) == 1:
        raise error(f"{title}: {problems[0]}")
    if problems:
        shown = list(problems[:limit])
        shown += [f"and {len(problems) - len(shown)} more"] * (len(shown) < len(problems))
        raise error(f"{title} ({len(problems)} problems):\n" + "\n".join(f"  - {p}" for p in shown))


def missing_package(package: str, purpose: str, install: str) -> NoReturn:
    """Raise :class:`DependencyError` with the command that installs the package."""
    raise DependencyError(
        f"{purpose} needs the package {package!r}, which is not installed. Install it with: {install}"
    )


_MINIMUM = {"tensorflow": (2, 20), "keras": (3, 15)}


def require_platform() -> None:
    """Check the versions of TensorFlow and Keras without importing them.

    Called at the import of each module that needs them.

    Raises:
        DependencyError: If one is missing or too old, or Keras is configured for another backend.
    """
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise DependencyError(
            f"tfft needs Keras on TensorFlow. Received: KERAS_BACKEND={backend!r}. Unset it, or set it to 'tensorflow'."
        )
    problems = []
    for package, minimum in _MINIMUM.items():
        wanted = ".".join(map(str, minimum))
        found = installed_version(package)
        if found is None:
            problems.append(f"{package} is not installed, tfft needs {package}>={wanted}")
        elif tuple(int(part) for part in found.split(".")[:2]) < minimum:
            problems.append(f"{package} {found} is too old, tfft needs {package}>={wanted}")
    if problems:
        fix = " ".join(f'"{name}>={".".join(map(str, low))}"' for name, low in _MINIMUM.items())
        raise_problems(DependencyError, f"The installed packages do not fit (fix: pip install -U {fix})", problems)


def installed_version(package: str) -> str | None:
    """Return the version of an installed package without importing it, or None."""
    # tensorflow-cpu and nightly builds install the same module under another distribution name.
    names = [package, "tensorflow-cpu", "tf-nightly"] if package == "tensorflow" else [package, f"{package}-nightly"]
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
