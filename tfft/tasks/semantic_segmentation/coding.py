"""Classes of the values and colours in masks: :func:`coding_of`, :func:`unknown_codes`."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tfft.errors import did_you_mean, join_names
from tfft.tasks.semantic_segmentation import VOID
from tfft.tasks.semantic_segmentation.class_table import FILES, ClassTable, code_of, colour_of
from tfft.tasks.semantic_segmentation.masks import MaskInfo

Ignore = str | int | Sequence[str | int] | None

_VOID_NAMES = ("void", "unlabelled", "unlabeled", "ignore", "ignored", "unknown")
_BY_VALUE = "class {}"  # name of a class that no table names
_UNKNOWN = -1
_SOFT = 16  # rare values or colours that no class has: an edge between two classes that was blurred has many
_RARE, _FEW = 0.01, 0.2  # share of the pixels of one such value, and of all of them
_SHOWN = 6


@dataclasses.dataclass(frozen=True)
class Coding:
    """Classes of values and colours.

    Attributes:
        names: Class names.
        values: Class by value; :data:`VOID` for values to leave out.
        colours: Class by colour, as a number.
        grey_colours: Whether the colours are grey levels that masks of one channel hold.
        notes: Decisions, one sentence each.
    """

    names: tuple[str, ...]
    values: Mapping[int, int]
    colours: Mapping[int, int]
    grey_colours: bool = False
    notes: tuple[str, ...] = ()

    def by_colour(self, info: MaskInfo) -> bool:
        """Whether the colours of a mask are its classes, not its values.

        A palette counts as colours if the class table knows all of them: programs that optimize PNG files number the
        colours of each file anew.
        """
        if not self.colours:
            return False
        if info.in_colour or (self.grey_colours and info.palette is None):
            return True
        return info.palette is not None and set(info.colours.tolist()) <= set(self.colours)

    def classes_of(self, info: MaskInfo) -> np.ndarray:
        """Return the class of each value or colour of a mask, int64 [K]; -1 for those that no class has."""
        if self.by_colour(info):
            return np.array([self.colours.get(code, _UNKNOWN) for code in info.colours.tolist()], np.int64)
        values = info.codes % 256 if info.is_grey_in_colour else info.codes
        return np.array([self.values.get(value, _UNKNOWN) for value in values.tolist()], np.int64)

    def renumbered(self, names: Sequence[str]) -> Coding:
        """Return the coding with the numbers that other class names have; all of ours must be among them."""
        number = {**{at: names.index(name) for at, name in enumerate(self.names)}, VOID: VOID}
        values = {value: number[at] for value, at in self.values.items()}
        colours = {code: number[at] for code, at in self.colours.items()}
        return dataclasses.replace(self, names=tuple(names), values=values, colours=colours)


def coding_of(table: ClassTable | None, infos: Sequence[MaskInfo], ignore: Ignore, problems: list[str]) -> Coding:
    """Choose the classes of the values and colours in masks.

    The class table decides if there is one. Else every value that occurs is a class, except 255. Masks with the values
    0 and 255 alone have two classes, unless ``ignore`` says otherwise.

    Args:
        table: Classes from a file, or None.
        infos: Contents of all masks.
        ignore: Names, values or colours (``"r g b"``) to leave out.
        problems: List to which sentences are added.
    """
    left_out = [] if ignore is None else [ignore] if isinstance(ignore, (str, int)) else list(ignore)
    values = _values_in(infos)
    if table is None:
        return _without_table(infos, values, left_out, problems)
    if len(table.names) == 2 and table.colours is None and set(values) <= {0, VOID} and not left_out:
        note = f"masks have the values 0 and 255, which are {table.names[0]!r} and {table.names[1]!r}"
        return Coding(table.names, {0: 0, VOID: 1}, {}, notes=(note,))
    notes = []
    if ignore is None:
        left_out = [name for name in table.names if name.lower() in _VOID_NAMES]
        notes = [f"the class {name!r} counts as no label (ignore={name!r})" for name in left_out]
    known = {name: at for at, name in enumerate(table.names)}
    void_values, void_colours = _resolved(left_out, known, table, problems)
    kept = [at for at in range(len(table.names)) if at not in void_values]
    numbers = {**{at: number for number, at in enumerate(kept)}, **dict.fromkeys(void_values, VOID)}
    colours = {code: numbers[at] for at, code in enumerate(table.colours or ())}
    colours.update(dict.fromkeys(void_colours, VOID))
    names = tuple(table.names[at] for at in kept)
    return Coding(names, {VOID: VOID, **numbers}, colours, table.are_grey, tuple(notes))


def coding_of_names(
    class_names: Sequence[str], infos: Sequence[MaskInfo], ignore: Ignore, problems: list[str]
) -> Coding:
    """Choose the classes of masks without a class table, for a model that knows its classes.

    Args:
        class_names: Classes of the model, in the order of their values or named by them.
        infos: As in :func:`coding_of`, like the others.
        ignore: Names, values or colours to leave out.
        problems: List to which sentences are added.
    """
    named = [re.fullmatch(_BY_VALUE.format(r"(\d+)"), name) for name in class_names]
    values = {int(match[1]): at for at, match in enumerate(named) if match is not None}
    if len(values) < len(class_names):
        return coding_of(ClassTable(tuple(class_names), None, "the model"), infos, ignore, problems)
    return Coding(tuple(class_names), {VOID: VOID, **values}, {})


def unknown_codes(info: MaskInfo, coding: Coding) -> str | None:
    """Return a sentence about the values or colours of a mask that no class has; None if there are none."""
    unknown = coding.classes_of(info) == _UNKNOWN
    if not unknown.any():
        return None
    coloured = coding.by_colour(info) or (info.in_colour and not info.is_grey_in_colour)
    counts, shares = info.counts[unknown], info.counts[unknown] / info.counts.sum()
    what = "colours" if coloured else "values"
    if len(counts) >= _SOFT and shares.max() < _RARE and shares.sum() < _FEW:
        return (
            f"{info.path} has {len(counts)} {what} that no class has, in {100 * shares.sum():.1f} % of its pixels: its "
            "edges look anti-aliased. Draw masks without anti-aliasing, and resize them with nearest neighbours"
        )
    codes = (info.colours if coloured else info.codes)[unknown]
    most = np.argsort(-counts, kind="stable")[:_SHOWN]
    shown = [f"{colour_of(int(codes[i])) if coloured else codes[i]} in {counts[i]} pixels" for i in most]
    more = f" and {len(codes) - len(most)} more" if len(codes) > len(most) else ""
    valid = sorted(coding.colours) if coloured else sorted(coding.values)
    known = join_names([colour_of(code) if coloured else code for code in valid], limit=12)
    return f"{info.path} has {what} that no class has: {', '.join(shown)}{more}. Expected {known}"


def _without_table(
    infos: Sequence[MaskInfo], values: Counter[int], left_out: Sequence[str | int], problems: list[str]
) -> Coding:
    coloured = [info for info in infos if info.in_colour and not info.is_grey_in_colour]
    if coloured:
        problems.append(_needs_table(coloured))
        return Coding((), {VOID: VOID}, {})
    void, _ = _resolved(left_out, {}, None, problems)
    binary = set(values) == {0, VOID} and not void
    void = void if binary else [*void, VOID]
    found = sorted(set(values) - set(void))
    total = max(sum(values.values()), 1)
    rare = [value for value in found if values[value] < _RARE * total]
    if len(rare) >= _SOFT and sum(values[value] for value in rare) < _FEW * total:
        problems.append(
            f"the masks have {len(found)} values, and {len(rare)} of them are in less than 1 % of the pixels each: "
            "their edges look anti-aliased. Draw masks without anti-aliasing; if these are classes, name them in "
            "classes.txt"
        )
    elif len(found) < 2:
        problems.append(f"all masks have the value {join_names(found) or VOID} alone, so there is nothing to learn")
    notes = [f"no {FILES[0]} names the classes, so they are named by their values"]
    if binary:
        notes.append(
            "masks have the values 0 and 255 alone: these are two classes (ignore=255 makes 255 no label)",
        )
    numbers = {value: at for at, value in enumerate(found)}
    names = tuple(_BY_VALUE.format(value) for value in found)
    return Coding(names, {**dict.fromkeys(void, VOID), **numbers}, {}, notes=tuple(notes))


def _needs_table(coloured: Sequence[MaskInfo]) -> str:
    totals: Counter[int] = Counter()
    for info in coloured:
        totals.update(dict(zip(info.codes.tolist(), info.counts.tolist(), strict=True)))
    shown = [f"{colour_of(code)} in {count} pixels" for code, count in totals.most_common(_SHOWN)]
    return (
        f"{len(coloured)} masks hold colours, the first {coloured[0].path}: {', '.join(shown)}"
        f"{' and more' if len(totals) > _SHOWN else ''}. Name them in {FILES[0]} beside the folders, a class per line: "
        "name red green blue"
    )


def _values_in(infos: Iterable[MaskInfo]) -> Counter[int]:
    found: Counter[int] = Counter()
    for info in infos:
        if not info.in_colour or info.is_grey_in_colour:
            codes = info.codes % 256 if info.in_colour else info.codes
            found.update(dict(zip(codes.tolist(), info.counts.tolist(), strict=True)))
    return found


def _resolved(
    left_out: Sequence[str | int], known: Mapping[str, int], table: ClassTable | None, problems: list[str]
) -> tuple[list[int], list[int]]:
    """Return the values and the colours of classes to leave out."""
    values, colours = [], []
    for one in left_out:
        numbers = str(one).replace(",", " ").split()
        if one in known:
            values.append(known[str(one)])
        elif len(numbers) == 3 and all(number.isdecimal() for number in numbers):
            colours.append(code_of([int(number) for number in numbers]))
        elif str(one).isdecimal():
            values.append(int(one))
        else:
            hint = did_you_mean(str(one), known)
            of = (
                "a value, since no file names the classes" if table is None else f"a value or a class of {table.source}"
            )
            problems.append(f"ignore: Expected {of}. Received: {one!r}.{hint}")
    return values, colours
