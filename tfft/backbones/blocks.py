"""Where a network can be cut in two, and what the pieces are called.

Works on names only, so that the graph of a SavedModel and the layers of a Keras model are cut and
named by the same rules: a cut is a node through which the whole computation passes (a dominator of
the output), a segment is what lies between two cuts, and neighbouring segments whose variables
carry the same unit name (``block3_expand_conv``, ``block3_dw_bn`` -> ``block3``) become one block.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Group:
    """A block to be: its name and the range of segments it covers, ``start <= index < stop``."""

    name: str
    start: int
    stop: int
    note: str = ""


def dominator_chain(order: Sequence[str], predecessors: Mapping[str, Collection[str]], sink: str) -> list[str]:
    """Returns the nodes that every path to the sink passes through, in order, the sink last.

    Args:
        order: the nodes in topological order.
        predecessors: the nodes each one reads; names that are not in ``order`` are ignored, and a
            node without any starts a path of its own.
        sink: the node that gives the output.

    Returns:
        The chain of dominators (Cooper, Harvey and Kennedy, 2001, for an acyclic graph: one pass
        in topological order is enough).
    """
    position = {name: i for i, name in enumerate(order)}
    above: list[int] = []  # immediate dominator of each node, -1 for the source

    def common(a: int, b: int) -> int:
        while a != b:
            if a < 0 or b < 0:
                return -1
            if a > b:
                a = above[a]
            else:
                b = above[b]
        return a

    for name in order:
        entries = [position[p] for p in predecessors.get(name, ()) if p in position]
        found = entries[0] if entries else -1
        for entry in entries[1:]:
            found = common(found, entry)
        above.append(found)
    chain, at = [], position[sink]
    while at >= 0:
        chain.append(order[at])
        at = above[at]
    return chain[::-1]


def segment_levels(
    order: Sequence[str], predecessors: Mapping[str, Collection[str]], cuts: Sequence[str]
) -> dict[str, int]:
    """Returns for each node the number of the segment it is computed in; segment i ends at ``cuts[i]``."""
    index = {name: i for i, name in enumerate(cuts)}
    known = set(order)
    level: dict[str, int] = {}
    for name in order:
        below = [index[p] + 1 if p in index else level[p] for p in predecessors.get(name, ()) if p in known]
        level[name] = max(below, default=0)
    return level


_SPLIT = re.compile(r"[/_.]")
_NUMBERED = re.compile(r"^[A-Za-z]+\d+[a-z]?$")
_NUMBER = re.compile(r"^\d+[a-z]?$")
_CONV = re.compile(r"^((depthwise)?conv[123]d|v\d)$", re.I)  # kinds and versions: the digit is not a count
_AUTOMATIC = re.compile(r"^(add|concatenate|activation|re_lu|relu|conv2d|batch_normalization|multiply)_?\d*$", re.I)
_UNIT = re.compile(r"^(block|unit|layer|stage|cell|stack|group|bottleneck)s?$", re.I)
_NORM_LEAVES = {"gamma", "beta", "moving_mean", "moving_variance", "moving_var"}


def unit_key(path: str) -> str:
    """Returns the part of a variable's path that names the unit it belongs to.

    The key ends at the first number (``block_3_expand/kernel`` -> ``block_3``) and goes on over
    numbered units nested right below (``conv2_block1_1_conv/kernel`` -> ``conv2_block1``); without
    a number it is the first word (``stem_conv/kernel`` -> ``stem``).
    """
    tokens = [t for t in _SPLIT.split("/".join(path.split("/")[:-1]) or path) if t]
    end = _next_number(tokens, 0)
    if end is None:
        return tokens[0] if tokens else path
    while True:
        word = re.sub(r"\d+[a-z]?$", "", tokens[end]) if end < len(tokens) else ""
        if not _UNIT.match(word):
            break
        longer = _next_number(tokens, end, limit=2)
        if longer is None:
            break
        end = longer
    return "_".join(tokens[:end])


def _next_number(tokens: Sequence[str], start: int, limit: int | None = None) -> int | None:
    stop = len(tokens) if limit is None else min(len(tokens), start + limit)
    for i in range(start, stop):
        counted = _NUMBERED.match(tokens[i]) and not _CONV.match(tokens[i])
        if counted or (i > 0 and _NUMBER.match(tokens[i])):
            return i + 1
    return None


def strip_common_scope(paths: Sequence[str]) -> list[str]:
    """Removes the leading scopes that all paths share (a model's own name)."""
    split = [p.split("/") for p in paths]
    while split and all(len(s) > 2 for s in split) and len({s[0] for s in split}) == 1:
        if re.search(r"\d", split[0][0]) and len({tuple(s[:2]) for s in split}) == 1:
            break  # a single numbered unit, not a model's name
        split = [s[1:] for s in split]
    return ["/".join(s) for s in split]


def group_segments(segments: Sequence[Sequence[str]], ends: Sequence[str]) -> list[Group]:
    """Names segments by their variables and merges neighbours of one unit.

    Args:
        segments: for each segment, in order, the paths of the variables first used in it. A
            variable that occurs in two segments ties them and everything between into one block.
        ends: path of the node each segment ends at; its name counts where the variables' do not agree.

    Returns:
        Groups that cover all segments, in order, with unique names.
    """
    flat = [path for paths in segments for path in paths]
    short = dict(zip(flat, strip_common_scope(flat), strict=True))
    pieces = [
        _Piece(i, i + 1, [short[p] for p in paths], end)
        for i, (paths, end) in enumerate(zip(segments, ends, strict=True))
    ]
    pieces = _tie_shared(pieces, segments)
    merged: list[_Piece] = []
    for piece in pieces:
        if merged and (not piece.paths or (piece.key and piece.key == merged[-1].key) or _only_norm(piece.paths)):
            merged[-1].absorb(piece)
        elif merged and not any(p.paths for p in merged):
            merged[-1].absorb(piece)  # what comes before the first variable belongs to it
        else:
            merged.append(piece)
    groups, used = [], set()
    for number, piece in enumerate(merged):
        name = piece.key or f"block{number}"
        if len(merged) == 1 and piece.note:
            name = "model"  # nothing could be cut: a part's name would mislead
        unique, n = name, 2
        while unique in used:
            unique, n = f"{name}_{n}", n + 1
        used.add(unique)
        groups.append(Group(unique, piece.start, piece.stop, piece.note))
    return groups


@dataclasses.dataclass
class _Piece:
    start: int
    stop: int
    paths: list[str]
    end: str = ""
    note: str = ""

    @property
    def key(self) -> str:
        counted = collections.Counter(unit_key(p) for p in self.paths)
        if len(counted) <= 1:
            return next(iter(counted), "")
        common = _common_tokens(list(counted))
        if common and re.search(r"\d", common) and not _CONV.match(common):
            return common
        if any("embed" in p.lower() for p in self.paths):
            return "embeddings"
        most, count = counted.most_common(1)[0]
        if 2 * count >= len(self.paths) and re.search(r"\d", most):
            return most
        if _named_unit(common):
            return common
        end = unit_key(f"{self.end}/-") if self.end else ""
        return end if re.search(r"\d", end) and not _AUTOMATIC.match(end) else ""

    def absorb(self, other: _Piece) -> None:
        if not self.paths or self.key == other.key or not other.paths or _only_norm(other.paths):
            # Keep the name of the piece that has one: norms and weightless tails do not rename it.
            self.paths = self.paths if self.paths and _only_norm(other.paths) else self.paths + other.paths
        self.stop, self.note = other.stop, self.note or other.note


def _named_unit(common: str) -> bool:
    return bool(common) and not _CONV.match(common) and common not in {"batch", "conv", "dense", "layer", "block"}


def _common_tokens(keys: Sequence[str]) -> str:
    split = [k.split("_") for k in keys]
    out = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        out.append(parts[0])
    return "_".join(out)


def _only_norm(paths: Sequence[str]) -> bool:
    return bool(paths) and all(re.sub(r"_\d+$", "", p.split("/")[-1]) in _NORM_LEAVES for p in paths)


def _tie_shared(pieces: list[_Piece], segments: Sequence[Sequence[str]]) -> list[_Piece]:
    first: dict[str, int] = {}
    spans: list[tuple[int, int, str]] = []
    for i, paths in enumerate(segments):
        for path in paths:
            if first.setdefault(path, i) != i:
                spans.append((first[path], i, path))
    out: list[_Piece] = []
    for piece in pieces:
        tie = next((s for s in spans if s[0] < piece.start <= s[1]), None)
        if tie and out:
            if piece.paths and piece.key != out[-1].key:
                out[-1].note = f"not cut inside: {tie[2]} is used in more than one place"
            out[-1].paths += [p for p in piece.paths if p not in out[-1].paths]
            out[-1].stop = piece.stop
        else:
            out.append(piece)
    return out
