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
    """Return the nodes that every path to the sink passes through, in order, the sink last.

    Args:
        order: The nodes in topological order.
        predecessors: The nodes each one reads; names that are not in ``order`` are ignored, and a
            node without any starts a path of its own.
        sink: The node that gives the output.

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
    """Return for each node the number of the segment it is computed in; segment i ends at ``cuts[i]``."""
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
_AUTOMATIC = re.compile(
    r"^(add|concatenate|activation|re_lu|relu|((depthwise|separable)_?)?conv[12]d|batch_normalization|"
    r"layer_normalization|multiply|custom_scale_layer)_?\d*$",
    re.I,
)
_KINDS = frozenset("batch conv dense depthwise fc gru hidden layer linear lstm quant separable".split())
_PARTS = frozenset("bn conv conv1d conv2d conv3d dense depthwise dw expand norm project pw transform".split())
_UNIT = re.compile(r"^(block|unit|layer|stage|cell|stack|group|bottleneck)s?$", re.I)
_NORM_LEAVES = {"gamma", "beta", "moving_mean", "moving_variance", "moving_var"}
_ARCHITECTURE = re.compile(r"^(?:[a-z0-9]+_)+?(?=(?:stem|stage|downsampling)(?:_|/|$))")


def layer_of(path: str) -> str:
    """Return the first name in a variable's path, which is that of a layer where Keras made it."""
    return path.split("/")[0]


def unit_key(path: str) -> str:
    """Return the part of a variable's path that names the unit it belongs to.

    The key ends at the first number (``block_3_expand/kernel`` -> ``block_3``) and goes on over
    numbered units nested right below (``conv2_block1_1_conv/kernel`` -> ``conv2_block1``); without
    a number it is the first word (``stem_conv/kernel`` -> ``stem``), or the layer's name where that
    word is only a kind of layer (``dense_hidden/kernel`` -> ``dense_hidden``).
    """
    tokens = [t for t in _SPLIT.split("/".join(path.split("/")[:-1]) or path) if t]
    end = _next_number(tokens, 0)
    if end is None:
        if tokens and tokens[0].lower() in _KINDS and "/" in path:
            return layer_of(path)
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
    """Remove the leading scopes that all paths share (a model's own name)."""
    split = [p.split("/") for p in paths]
    while split and all(len(s) > 2 for s in split) and len({s[0] for s in split}) == 1:
        if re.search(r"\d", split[0][0]) and len({tuple(s[:2]) for s in split}) == 1:
            break  # a single numbered unit, not a model's name
        split = [s[1:] for s in split]
    return ["/".join(s) for s in split]


def _strip_architecture(paths: Sequence[str]) -> list[str]:
    """Remove the architecture in front of the names of stages (``convnext_tiny_stage_0_block_1``)."""
    found = [_ARCHITECTURE.match(path) for path in paths]
    prefixes = {match.group() for match in found if match}
    others = (path for path, match in zip(paths, found, strict=True) if not match)
    if len(prefixes) != 1 or not all(_AUTOMATIC.match(layer_of(path)) for path in others):
        return list(paths)
    return [path.removeprefix(*prefixes) for path in paths]


_CELL_END = re.compile(r"^(?:normal|reduction)_concat_((?:stem_|reduce_)?\d+)$")
_IN_CELL = re.compile(r"_((?:stem_|reduce_)?\d+)$")


def cell_cuts(
    order: Sequence[str], predecessors: Mapping[str, Collection[str]], cuts: Sequence[str]
) -> tuple[list[str], dict[str, int], dict[str, str]]:
    """Add the ends of cells to cuts, for networks in which each cell reads two cells before it (NASNet).

    No tensor carries the whole computation there, but layers of Keras can be frozen cell by cell all the same.

    Args:
        order: The nodes in topological order.
        predecessors: The nodes each one reads.
        cuts: The dominators.

    Returns:
        All cuts, the segment of each node, and the name of the cell of each node in one.
    """
    ends = {match.group(1): name for name in order if (match := _CELL_END.match(name))}
    if len(ends) < 3:
        return list(cuts), segment_levels(order, predecessors, cuts), {}
    position = {name: i for i, name in enumerate(order)}
    every = sorted({*cuts, *ends.values()}, key=position.__getitem__)
    level = segment_levels(order, predecessors, every)
    cells: dict[str, str] = {}
    for name in order:
        match = _IN_CELL.search(name)
        if match and match.group(1) in ends and not _AUTOMATIC.match(name):
            level[name] = every.index(ends[match.group(1)])
            kind = ends[match.group(1)].split("_")[0]
            number = match.group(1).removeprefix("reduce_")
            cells[name] = number if number.startswith("stem") else f"{kind}_{number}"
    return every, level, cells


def group_segments(
    segments: Sequence[Sequence[str]], ends: Sequence[str], fixed: Collection[str] = frozenset()
) -> list[Group]:
    """Names segments by their variables and merges neighbours of one unit.

    Args:
        segments: For each segment, in order, the paths of the variables first used in it. A
            variable that occurs in two segments ties them and everything between into one block.
        ends: Path of the node each segment ends at; its name counts where the variables' do not agree.
        fixed: Paths of variables that can never train; a segment with no others joins its neighbour.

    Returns:
        Groups that cover all segments, in order, with unique names.
    """
    flat = [path for paths in segments for path in paths]
    short = dict(zip(flat, _strip_architecture(strip_common_scope(flat)), strict=True))
    pieces = [
        _Piece(i, i + 1, [short[p] for p in paths], end)
        for i, (paths, end) in enumerate(zip(segments, ends, strict=True))
    ]
    pieces = _tie_shared(pieces, segments)
    pieces = _join_fixed(pieces, {short[path] for path in fixed if path in short})
    merged = _merge(pieces)
    if len(merged) == 1 and not merged[0].note and not re.search(r"\d", merged[0].key):
        # One word in front of all names says nothing: each layer is a unit.
        layered = _merge([dataclasses.replace(piece, by_layer=True) for piece in pieces])
        merged = layered if len(layered) > 1 else merged
    merged = _join_stem(merged)
    groups, used = [], set()
    for number, piece in enumerate(merged):
        name = piece.name or f"block{number}"
        if len(merged) == 1 and piece.note:
            name = "model"  # nothing could be cut: a part's name would mislead
        unique, n = name, 2
        while unique in used:
            unique, n = f"{name}_{n}", n + 1
        used.add(unique)
        groups.append(
            Group(unique, piece.start, piece.stop, piece.note or (_why_one(piece) if len(merged) == 1 else ""))
        )
    return groups


def _merge(pieces: Sequence[_Piece]) -> list[_Piece]:
    merged: list[_Piece] = []
    for piece in pieces:
        if merged and (not piece.paths or (piece.key and piece.key == merged[-1].key) or _only_norm(piece.paths)):
            merged[-1].absorb(piece)
        elif merged and not any(p.paths for p in merged):
            merged[-1].absorb(piece)  # what comes before the first variable belongs to it
        else:
            merged.append(dataclasses.replace(piece))
    return merged


def _join_fixed(pieces: Sequence[_Piece], fixed: set[str]) -> list[_Piece]:
    """Join what can never train to the piece before it, or the one after it at the start."""
    dead = [bool(piece.paths) and fixed.issuperset(piece.paths) for piece in pieces]
    if all(dead[i] or not piece.paths for i, piece in enumerate(pieces)):
        return list(pieces)
    out: list[_Piece] = []
    start: int | None = None
    for piece, without in zip(pieces, dead, strict=True):
        if without and out:
            out[-1].stop = piece.stop
        elif without:
            start = piece.start if start is None else start
        else:
            out.append(dataclasses.replace(piece, start=piece.start if start is None else start))
            start = None
    return out


def _join_stem(pieces: list[_Piece]) -> list[_Piece]:
    """Join the first pieces to a stem where only later ones have names of their own."""
    named = [not _AUTOMATIC.match(piece.name) for piece in pieces]
    first = named.index(True) if True in named else len(pieces)
    if not first or sum(named) < 2:
        return pieces
    stem = dataclasses.replace(pieces[0], stop=pieces[first - 1].stop, given="stem")
    stem.paths = [path for piece in pieces[:first] for path in piece.paths]
    return [stem, *pieces[first:]]


def _why_one(piece: _Piece) -> str:
    layers = {layer_of(path) for path in piece.paths}
    if len(layers) < 3:
        return ""
    return f"not cut: between its {len(layers)} layers no single tensor carries the whole computation"


@dataclasses.dataclass
class _Piece:
    start: int
    stop: int
    paths: list[str]
    end: str = ""
    note: str = ""
    given: str = ""
    by_layer: bool = False

    @property
    def name(self) -> str:
        """The key, with the words behind the first one that all layers share, where it has no number."""
        key, layers = self.key, list(dict.fromkeys(layer_of(path) for path in self.paths))
        if (
            self.given
            or self.by_layer
            or not key
            or re.search(r"\d", key)
            or not all(la.startswith(key) for la in layers)
        ):
            return self.given or key
        words = _common_tokens(layers).split("_")
        if len(layers) == 1 and len(words) > 1 and words[-1].lower() in _PARTS and words[0].lower() not in _KINDS:
            words = words[:-1]
        longer = "_".join(words)
        return layers[0] if len(longer) < 3 else longer

    @property
    def key(self) -> str:
        chosen = [path for path in self.paths if not _AUTOMATIC.match(layer_of(path))]
        if 0 < len(chosen) < len(self.paths) and len({layer_of(path) for path in chosen}) == 1:
            return _to_last_number(layer_of(chosen[0])) or self._key_of(chosen)
        return self._key_of(chosen or self.paths)

    def _key_of(self, paths: Sequence[str]) -> str:
        if self.by_layer:
            return layer_of(paths[0]) if len({layer_of(path) for path in paths}) == 1 else ""
        counted = collections.Counter(unit_key(p) for p in paths)
        if len(counted) <= 1:
            return next(iter(counted), "")
        common = _common_tokens(list(counted))
        if common and re.search(r"\d", common) and not _CONV.match(common):
            return common
        if any("embed" in p.lower() for p in paths):
            return "embeddings"
        most, count = counted.most_common(1)[0]
        if 2 * count >= len(paths) and re.search(r"\d", most):
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


def _to_last_number(layer: str) -> str:
    """``block35_1_conv`` -> ``block35_1``: of a unit with one layer that has a name, all numbers in front count."""
    match = re.match(r"^[A-Za-z]+\d+_\d+(?=_)", layer)
    return match.group() if match else ""


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
