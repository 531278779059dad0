"""Layer-wise learning rates: :func:`layerwise_lr_multipliers`.

Implementation notes: blocks, the head and name patterns determine one factor per trainable variable.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence

import keras

from tfft.backbones.base import blocks_of, head_layers
from tfft.errors import PlanError, did_you_mean, join_names, raise_problems
from tfft.settings import is_number


@dataclasses.dataclass(frozen=True)
class _Unit:
    """Block or head layer, its distance to the head, and its trainable variables."""

    name: str
    depth: int
    variables: tuple[keras.Variable, ...]


def layerwise_lr_multipliers(
    model: keras.Model, *, layer_decay: float = 1.0, lr_multipliers: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return the learning-rate factor of every trainable variable, for :class:`LayerwiseOptimizer`.

    Use it if lower blocks, whose features are general, should change less than upper ones and the head. With
    ``layer_decay=d`` the head has the factor 1, the top block ``d``, the block below it ``d ** 2``, and so on. Frozen
    blocks count too, so the rate of a block does not depend on which others train. In a model without a backbone
    inside, the last block is the head.

    ELECTRA (Clark et al. 2020), where this is from, also leaves a place between the head and the top layer; here
    there is none. Usual values: 0.65 to 0.9 for transformers; ULMFiT's (Howard and Ruder 2018) is 1 / 2.6. What
    to expect: steadier training rather than a better score.

    Args:
        model: Built; its blocks are those that :func:`tfft.describe` shows. Any Keras model.
        layer_decay: Factor from one block to the one below it, above 0 and at most 1.
        lr_multipliers: Factors on top of that, by name of a block or of a layer of the head, shell pattern
            (``"block[12]*"``) or regular expression for the whole name (``"block(3|5)"``). 0 freezes a block as far
            as this optimizer goes; freezing it by :func:`tfft.unfreeze` also spares the work.

    Returns:
        Factors by ``variable.path``, of all trainable variables.

    Raises:
        PlanError: If a pattern matches nothing, two match the same block or a number is out of range; all of
            it in one message.

    Example:
        >>> tfft.optimizers.layerwise_lr_multipliers(model, layer_decay=0.8, lr_multipliers={"logits": 2.0})
    """
    units = _units(model)
    names = [unit.name for unit in units]
    on_top, problems = _match(names, lr_multipliers or {})
    if not is_number(layer_decay) or not 0 < layer_decay <= 1:
        problems.append(f"layer_decay must be above 0 and at most 1, received {layer_decay!r}")
    raise_problems(PlanError, "The rates of the blocks cannot be used", problems)
    factors: dict[str, float] = {}
    twice = []
    for unit in units:
        factor = float(layer_decay**unit.depth * on_top.get(unit.name, 1.0))
        for variable in unit.variables:
            if factors.setdefault(variable.path, factor) != factor:
                twice.append(variable.path)
    if twice:
        raise PlanError(
            "Variables of different blocks have the same path, so they cannot have different rates: "
            f"{join_names(twice)}. "
            "Give the layers of the model names that differ."
        )
    return factors


def _units(model: keras.Model) -> list[_Unit]:
    """Return blocks and layers of the head, which hold each trainable variable once."""
    blocks, head = blocks_of(model), head_layers(model)
    above = 1 if head else 0
    groups = [(b.name, len(blocks) - 1 - i + above, b.layers) for i, b in enumerate(blocks)]
    taken = {name for name, *_ in groups}
    for layer in head:  # a block of the backbone may be called as a layer of the head is
        groups.append((layer.name if layer.name not in taken else f"{layer.name}_2", 0, (layer,)))
    units, seen = [], set()
    for name, depth, layers in groups:
        found = {id(v): v for layer in layers for v in layer.trainable_variables if id(v) not in seen}
        seen |= set(found)
        units.append(_Unit(name, depth, tuple(found.values())))
    rest = tuple(v for v in model.trainable_variables if id(v) not in seen)
    return [*units, _Unit(model.name, 0, rest)] if rest else units  # made by a subclass outside of any layer


def _match(names: Sequence[str], lr_multipliers: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
    """Return the factor of each name that a pattern matches, and what is wrong with the patterns."""
    on_top: dict[str, float] = {}
    by: dict[str, list[str]] = {}
    problems = []
    unmatched = False
    for pattern, factor in lr_multipliers.items():
        if not is_number(factor) or factor < 0:
            problems.append(f"the rate of {pattern!r} must be a number of at least 0, received {factor!r}")
        found = _matching(names, pattern)
        if not found:
            problems.append(f"{pattern!r} matches no block.{did_you_mean(pattern, names)}")
            unmatched = True
        for name in found:
            by.setdefault(name, []).append(pattern)
            on_top[name] = factor
    for name, patterns in by.items():
        if len(patterns) > 1:
            problems.append(f"{name!r} is matched by {' and by '.join(map(repr, patterns))}; one rate each")
    if unmatched:
        problems[-1] += f" Blocks: {join_names(names, limit=60)}."
    return on_top, problems


def _matching(names: Sequence[str], pattern: str) -> list[str]:
    if pattern in names:
        return [pattern]
    found = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if found:
        return found
    try:
        return [name for name in names if re.fullmatch(pattern, name)]
    except re.error:
        return []
