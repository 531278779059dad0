"""Description of one setting: type, default, help, check and command-line option in a single dataclass field.

:func:`setting` makes the field. From a table of such fields come the checks (:func:`problems_of`), the documentation
(:func:`documents`) and the options of the command line (:func:`add_arguments`, :func:`given_options`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import math
import numbers
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from tfft.errors import PlanError, did_you_mean, join_names, raise_problems

_WIDTH = 120  # of docstrings
_MARKER = re.compile(r"^( *)\{settings\}$", re.MULTILINE)
_T = TypeVar("_T")

# --- checks ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Check:
    """Condition for one value. A call returns an error sentence, or None; join alternatives with ``|``.

    Attributes:
        expected: Noun phrases, one per alternative.
        accepts: Function that returns whether a value is valid.
        choices: Valid names, for suggestions and for the command line.
    """

    expected: tuple[str, ...]
    accepts: Callable[[Any], bool]
    choices: tuple[str, ...] = ()

    def __or__(self, other: Check) -> Check:
        """Accept what either of two checks accepts."""
        expected, choices = self.expected + other.expected, self.choices + other.choices
        return Check(expected, lambda value: self.accepts(value) or other.accepts(value), choices)

    def __call__(self, value: Any) -> str | None:
        """Return the expected and the received value as a sentence, or None for a valid value."""
        if self.accepts(value):
            return None
        *most, last = self.expected
        hint = did_you_mean(value, self.choices) if isinstance(value, str) else ""
        return f"Expected {', '.join(most) + ' or ' if most else ''}{last}. Received: {value!r}.{hint}"


def satisfies(expected: str, accepts: Callable[[Any], bool]) -> Check:
    """Return a check for any condition, with a noun phrase for valid values."""
    return Check((expected,), accepts)


def one_of(*choices: str) -> Check:
    """Return a check for a few names."""
    return Check(tuple(map(repr, choices)), lambda value: isinstance(value, str) and value in choices, choices)


def whole(at_least: int) -> Check:
    """Return a check for integers; booleans do not pass."""
    return satisfies(f"an integer of at least {at_least}", lambda value: is_whole(value) and value >= at_least)


def number(
    at_least: float = -math.inf, at_most: float = math.inf, *, above: float = -math.inf, below: float = math.inf
) -> Check:
    """Return a check for finite numbers in a range; booleans do not pass."""
    limits = [
        f"{words} {limit:g}"
        for words, limit in (("of at least", at_least), ("above", above), ("at most", at_most), ("below", below))
        if math.isfinite(limit)
    ]
    return satisfies(
        f"a number {' and '.join(limits)}".strip(),
        lambda value: is_number(value) and at_least <= value <= at_most and above < value < below,
    )


def pair(expected: str, of: Check, where: Callable[[Any, Any], bool] = lambda first, second: True) -> Check:
    """Return a check for a tuple or list of two values that each pass a check and fit together."""
    return satisfies(
        expected,
        lambda value: (
            isinstance(value, (tuple, list)) and len(value) == 2 and all(map(of.accepts, value)) and where(*value)
        ),
    )


def string(expected: str = "a string that is not empty") -> Check:
    """Return a check for non-empty strings."""
    return satisfies(expected, lambda value: isinstance(value, str) and bool(value))


def is_whole(value: Any) -> bool:
    """Whether a value is an integer; booleans are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Whether a value is an integer of at least 1, of Python or of NumPy; booleans are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 1


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; booleans are not."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


AUTO = satisfies("'auto'", lambda value: isinstance(value, str) and value == "auto")
NONE = satisfies("None", lambda value: value is None)
FLAG = satisfies("True or False", lambda value: isinstance(value, bool))
COLUMN = satisfies(
    "the name or number of a column",
    lambda value: (isinstance(value, str) and bool(value)) or (is_whole(value) and value >= 0),
)

# --- fields ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Option:
    """How the command line parses a setting. The choices come from the setting's check.

    Attributes:
        parse: Function from a string to the value; None keeps the string.
        metavar: Name of the value in the help.
        nargs: Number of values, as in ``argparse``.
    """

    parse: Callable[[str], Any] | None = None
    metavar: str | tuple[str, ...] | None = None
    nargs: int | str | None = None


@dataclasses.dataclass(frozen=True)
class About:
    """Description of a setting besides its name, type and default.

    Attributes:
        help: Sentence for the command line and the documentation.
        details: Further sentences, for the documentation only.
        default_help: Meaning of the default, if the value alone does not show it.
        check: Check of the value.
        cli: Option of the command line; None for none.
        group: Group of options in the help of a command.
        scope: The only part of a run that uses the setting: ``"reading"`` data or ``"opening"`` the backbone.
        always: Whether YAML files include it even if it has its default.
    """

    help: str
    details: str = ""
    default_help: str = ""
    check: Callable[[Any], str | None] | None = None
    cli: Option | None = None
    group: str = "training"
    scope: tuple[str, ...] = ()
    always: bool = False


def about(field: dataclasses.Field[Any]) -> About:
    """Return the description of a field."""
    return field.metadata["about"]


def describe(help: str, **description: Any) -> dict[str, About]:
    """Return the metadata of a field without a default; takes the arguments of :class:`About`."""
    return {"about": About(help, **description)}


def setting(default: Any, *, help: str, **description: Any) -> Any:
    """Return a dataclass field with a default and a description.

    Args:
        default: Default value; a mutable one is copied for each object.
        help: One sentence.
        **description: Other attributes of :class:`About`.

    Example:
        >>> epochs: int = setting(3, help="Passes over the training data.", check=whole(1), cli=Option(int, "N"))
    """
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=describe(help, **description))
    return dataclasses.field(default=default, metadata=describe(help, **description))


def resolved(table: type, name: str, default: Any, check: Check) -> Any:
    """Return a field of another table with a new default and check, for a subclass that narrows its type."""
    known = about(next(field for field in dataclasses.fields(table) if field.name == name))
    return dataclasses.field(
        default=default, metadata={"about": dataclasses.replace(known, check=check, default_help="")}
    )


def defaults_of(table: type) -> dict[str, Any]:
    """Return the defaults by field name."""
    return {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(table)
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    }


def replace_numpy(settings: Any) -> None:
    """Replace the NumPy scalars in the fields of a frozen dataclass by numbers of Python, which YAML files can hold."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if (plain := _of_python(value)) is not value:
            object.__setattr__(settings, field.name, plain)


def _of_python(value: Any) -> Any:
    if _is_numpy_scalar(value):
        return value.item()
    if type(value) is dict and any(map(_is_numpy_scalar, (*value, *value.values()))):
        return {_of_python(name): _of_python(one) for name, one in value.items()}
    if type(value) in (tuple, list) and any(map(_is_numpy_scalar, value)):
        return type(value)(map(_of_python, value))
    return value


def _is_numpy_scalar(value: Any) -> bool:
    return type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()


def problems_of(settings: Any) -> Iterator[str]:
    """Yield a sentence for each field whose value fails its check."""
    for field in dataclasses.fields(settings):
        check = about(field).check
        if check is not None and (problem := check(getattr(settings, field.name))):
            yield f"{field.name}: {problem}"


# Settings of Keras, scikit-learn, fastai and the Hugging Face Trainer.
_OTHER_NAMES = {
    "lr": "learning_rate", "base_lr": "learning_rate",
    "nb_epoch": "epochs", "n_epochs": "epochs", "num_epochs": "epochs", "num_train_epochs": "epochs",
    "validation_data": "validation", "validation_split": "validation", "val_split": "validation",
    "valid_pct": "validation", "test_size": "validation",
    "bs": "batch_size", "per_device_train_batch_size": "batch_size", "random_state": "seed",
    "target_size": "image_size", "input_shape": "image_size", "img_size": "image_size",
    "output_dir": "out", "sep": "delimiter", "label_delim": "separator", "y_col": "label", "label_col": "label",
}  # fmt: skip


def nearest_setting(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the setting that has a name in another library, or a similar one.

    Args:
        name: Name that the user wrote; of the command line too, with ``--`` and ``-``.
        known: Valid names, written in the same way.
    """
    known = list(known)
    other = _OTHER_NAMES.get(name.lstrip("-").replace("-", "_"), "")
    other = f"--{other.replace('_', '-')}" if name.startswith("-") else other
    return f" Did you mean {other!r}?" if other in known else did_you_mean(name, known)


def check_names(names: Iterable[str], known: Iterable[str], where: str, fixes: Mapping[str, str] | None = None) -> None:
    """Raise one PlanError for all unknown names, with suggestions.

    Args:
        names: Names to check.
        known: Valid names.
        where: Where the names were given, for the message.
        fixes: Sentences that say where other names belong.
    """
    known, fixes = list(known), fixes or {}
    every = f" Expected one of: {join_names(known, limit=60)}."
    problems = [
        f"Unknown setting {name!r}." + (f" {fixes[name]}" if name in fixes else nearest_setting(name, known) or every)
        for name in names
        if name not in known
    ]
    raise_problems(PlanError, f"The settings of {where} cannot be used", problems)


# --- documentation -----------------------------------------------------------------------------------------------


def documents(table: type | None = None) -> Callable[[_T], _T]:
    """Decorate a function or class: replace the line ``{settings}`` of its docstring by the settings of a table.

    Args:
        table: Dataclass with the settings; None for the decorated class itself.
    """

    def fill(item: _T) -> _T:
        if item.__doc__:
            item.__doc__ = with_settings(item.__doc__, table or item)  # type: ignore[arg-type]
        return item

    return fill


def with_settings(docstring: str, table: type) -> str:
    """Return a docstring with an entry per setting in place of the line ``{settings}``."""

    def entries(match: re.Match[str]) -> str:
        fields = [field for field in dataclasses.fields(table) if "about" in field.metadata]
        return "\n".join(_entry(field, match[1]) for field in fields)

    return _MARKER.sub(entries, docstring)


def _entry(field: dataclasses.Field[Any], indent: str) -> str:
    known = about(field)
    text = f"{field.name} ({_type_of(field)}): {known.help}"
    text += f" {known.details}" if known.details else ""
    if field.default is not dataclasses.MISSING:
        text += f" Defaults to {_shown(field.default)}{f': {known.default_help}' if known.default_help else ''}."
    wrap = {"width": _WIDTH, "break_on_hyphens": False, "break_long_words": False}
    return textwrap.fill(text, initial_indent=indent, subsequent_indent=indent + "    ", **wrap)  # type: ignore[arg-type]


def _type_of(field: dataclasses.Field[Any]) -> str:
    written = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
    return re.sub(r"Literal\[(.*?)\]", lambda match: match[1].replace(", ", " | "), written)


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


# --- command line ------------------------------------------------------------------------------------------------

Container = Any  # a parser or a group of one; argparse names no type for both


class _OneOrSeveral(argparse.Action):
    """Action that stores one value as it is, and several as a tuple."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, values[0] if len(values) == 1 else tuple(values))


def add_arguments(parser: argparse.ArgumentParser, table: type, groups: Mapping[str, str]) -> dict[str, Container]:
    """Add the settings of a table to a parser, in groups.

    Args:
        parser: Parser of a command.
        table: Dataclass with the settings.
        groups: Titles by group name; settings of other groups are left out.

    Returns:
        The ``argparse`` groups by name, for further options.
    """
    made: dict[str, Container] = {name: parser.add_argument_group(title) for name, title in groups.items()}
    for field in dataclasses.fields(table):
        if about(field).group in made:
            add_option(made[about(field).group], table, field.name)
    return made


def add_option(container: Container, table: type, name: str, *, default: Any = None, help: str | None = None) -> None:
    """Add the option for one setting; if it is absent, the setting keeps its default.

    Args:
        container: Parser or group.
        table: Dataclass with the settings.
        name: Name of the setting.
        default: Default to show, for a command with a different one.
        help: Help, for a command in which the setting has a narrower meaning.
    """
    field = next(field for field in dataclasses.fields(table) if field.name == name)
    known = about(field)
    if known.cli is None:
        return
    flag, text = "--" + name.replace("_", "-"), help or known.help
    text = _with_default(text, field, default).replace("%", "%%")
    if isinstance(field.default, bool):
        if field.default:
            flag, text = "--no-" + name.replace("_", "-"), f"no {text[0].lower()}{text[1:]}"
        action = "store_false" if field.default else "store_true"
        container.add_argument(flag, dest=name, action=action, default=default, help=text)
        return
    choices = [choice for choice in getattr(known.check, "choices", ()) if choice != "auto"]
    options: dict[str, Any] = {"default": default, "help": text, "metavar": known.cli.metavar, "type": known.cli.parse}
    if choices and known.cli.parse is None:
        options["choices"] = choices
    if known.cli.nargs is not None:
        options |= {"nargs": known.cli.nargs, "action": _OneOrSeveral}
    container.add_argument(flag, **options)


def _with_default(text: str, field: dataclasses.Field[Any], default: Any = None) -> str:
    """Return a help text with the default, if there is one to show."""
    value = field.default if default is None else default
    shown = about(field).default_help if default is None else ""
    if not shown and is_number(value):
        shown = f"{value:g}"
    elif not shown and isinstance(value, str) and value != "auto":
        shown = value
    return f"{text.rstrip('.')} (default: {shown})" if shown else text.rstrip(".")


def help_table(table: type, names: Iterable[str]) -> str:
    """Format the help of settings as ``argparse`` does.

    Args:
        table: Dataclass with the settings.
        names: Names of the settings.
    """
    fields = {field.name: field for field in dataclasses.fields(table)}
    lines = []
    for name in names:
        text = _with_default(about(fields[name]).help, fields[name])
        lines.append(textwrap.fill(text, 79, initial_indent=f"  {name:<20}  ", subsequent_indent=" " * 24))
    return "\n".join(lines)


def given_options(table: type, options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings given on a command line, by name."""
    values = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(table)}
    return {name: value for name, value in values.items() if value is not None}


def parse_whole(text: str, at_least: int = 1) -> int:
    """Parse an integer of at least 1, or of another minimum."""
    if not text.isascii() or not text.isdecimal() or int(text) < at_least:
        raise argparse.ArgumentTypeError(f"expected an integer of at least {at_least}, received {text!r}")
    return int(text)


def parse_count(text: str) -> int:
    """Parse an integer of at least 0."""
    return parse_whole(text, 0)


def parse_whole_or_auto(text: str) -> int | str:
    """Parse an integer of at least 1, or ``auto``."""
    return text if text == "auto" else parse_whole(text)


def parse_column(text: str) -> int | str:
    """Parse the name or number of a column."""
    return int(text) if text.isascii() and text.isdecimal() else text


def parse_value(text: str) -> int | float | str:
    """Parse a number if the text is one, else keep the text."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def parse_share(text: str) -> float | str:
    """Parse a number, or keep the text."""
    with contextlib.suppress(ValueError):
        return float(text)
    return text


def parse_assignment(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE: numbers, true and false as such, other values as text."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals and value):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, such as layer_decay=0.8, received {text!r}")
    return name, value.lower() == "true" if value.lower() in ("true", "false") else parse_value(value)
