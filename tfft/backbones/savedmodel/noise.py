"""Random numbers that a graph draws on the way to its features: :func:`without_noise`, :func:`differs`.

An encoder of a variational autoencoder gives ``mean + deviation * noise``. Features that change from call to call are
no use, so the noise is left at its mean, 0, where it is drawn from a normal distribution: what comes out is the mean.
Keras 3 exports layers of augmentation such that they run in inference too; they come in front of the first layer with
weights, and are left at the middle of what they draw: nothing is flipped, turned or zoomed. Any other random number
(such as the mask of a dropout) has no value that stands for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from tfft.backbones.savedmodel.features import Features
from tfft.backbones.savedmodel.graph import FlatGraph, data_inputs, node_of
from tfft.backbones.savedmodel.partition import find_pieces, random_ops, updated_variable
from tfft.backbones.savedmodel.tf1 import own_name
from tfft.errors import SavedModelError, join_names

# Operations that draw from a normal distribution of mean 0, and which input is the shape.
_NORMAL = {
    "RandomStandardNormal": 0,
    "TruncatedNormal": 0,
    "StatefulStandardNormal": 1,
    "StatefulStandardNormalV2": 2,
    "StatefulTruncatedNormal": 2,
    "StatelessRandomNormal": 0,
    "StatelessRandomNormalV2": 0,
    "StatelessTruncatedNormal": 0,
    "StatelessTruncatedNormalV2": 0,
}


_UNIFORM = {"RandomUniform": 0, "StatelessRandomUniform": 0, "StatelessRandomUniformV2": 0, "StatefulUniform": 2}
_LINEAR = frozenset({"Mul", "Add", "AddV2", "Sub", "Identity"})  # stretch a number between 0 and 1 to another range
_NEVER = 1 - 2**-24  # is below no probability


def without_noise(flat: FlatGraph) -> tuple[FlatGraph, Mapping[str, str]]:
    """Replace noise from normal distributions by its mean, 0, and random augmentation by none.

    Args:
        flat: The graph.

    Returns:
        The graph, and the nodes that were replaced: ``"noise"`` or ``"augmentation"`` by name. Random numbers with a
        fixed seed are the same at every call, so they stay; a seed that is a variable changes with every call.
    """
    found: dict[str, tuple[str, float]] = {}
    kinds: dict[str, str] = {}
    for node in flat.graph_def.node:
        seeded = node.op.startswith("Stateless")
        if seeded and flat.ancestors(data_inputs(node)[1:]).isdisjoint(flat.variables):
            continue
        if node.op in _NORMAL:
            found[node.name] = data_inputs(node)[_NORMAL[node.op]], 0.0
            kinds[node.name] = "noise"
        elif node.op in _UNIFORM and (value := _neutral(flat, node.name)) is not None:
            found[node.name] = data_inputs(node)[_UNIFORM[node.op]], value
            kinds[node.name] = "augmentation"
    return (_with_values(flat, found) if found else flat), kinds


def _neutral(flat: FlatGraph, name: str) -> float | None:
    """Return the number between 0 and 1 with which augmentation does nothing; None for what is not an augmentation."""
    if not _in_front_of_layers(flat, name):
        return None
    uses, todo = set(), [name]
    for one in todo:  # grows
        reads = [flat.nodes[c] for c in flat.consumers[one]]
        todo += [node.name for node in reads if node.op in _LINEAR and node.name not in todo]
        uses |= {node.op for node in reads if node.op not in _LINEAR}
    if uses & {"Greater", "GreaterEqual"}:  # a dropout: what it keeps is scaled up for what it drops
        return None
    return _NEVER if uses & {"Less", "LessEqual"} else 0.5


def _in_front_of_layers(flat: FlatGraph, name: str) -> bool:
    """Whether a number joins the inputs before any weight does."""
    weights = {p for p, v in flat.variables.items() if v.dtype.is_floating}
    behind, joined = {name}, False
    for node in flat.graph_def.node:  # in topological order
        reads = {node_of(ref) for ref in data_inputs(node)}
        if reads.isdisjoint(behind):
            continue
        behind.add(node.name)
        for other in reads - behind:
            made_of = flat.ancestors([other])
            has_data = not made_of.isdisjoint(flat.inputs)
            if (has_data or not joined) and not made_of.isdisjoint(weights):
                return False
            joined |= has_data
    return joined


def _with_values(flat: FlatGraph, found: Mapping[str, tuple[str, float]]) -> FlatGraph:
    graph_def = tf.compat.v1.GraphDef(versions=flat.graph_def.versions)
    graph_def.library.CopyFrom(flat.graph_def.library)
    used = set(flat.nodes)
    for node in flat.graph_def.node:
        if node.name not in found:
            graph_def.node.add().CopyFrom(node)
            continue
        shape, number = found[node.name]
        dtype = node.attr["dtype"].type
        value = graph_def.node.add(name=_unused(f"{node.name}/value", used), op="Const")
        value.attr["dtype"].type = dtype
        value.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(number, tf.as_dtype(dtype)))
        fill = graph_def.node.add(name=node.name, op="Fill", input=[shape, value.name])
        fill.attr["T"].type = dtype
        kind = next((node.attr[key].type for key in ("shape_dtype", "Tshape", "T") if key in node.attr), 0)
        fill.attr["index_type"].type = kind or tf.int32.as_datatype_enum
    return dataclasses.replace(flat, graph_def=graph_def)


def _unused(name: str, used: set[str]) -> str:
    while name in used:
        name += "_"
    used.add(name)
    return name


def noted(choice: Features, noise: Mapping[str, str]) -> list[str]:
    """Return what a user needs to know of the random numbers that were left out of the features."""
    names: dict[str, list[str]] = {}
    for name in choice.analysis.order:
        if name in noise and own_name(name) not in names.setdefault(noise[name], []):
            names[noise[name]].append(own_name(name))
    return [
        f"The model {_DONE[kind]} ({join_names(found, limit=3)}); {_LEFT[kind]}, so that the features are the same at "
        f"every call."
        for kind, found in names.items()
    ]


_DONE = {"noise": "adds random numbers to its features", "augmentation": "augments its inputs at random in inference"}
_LEFT = {
    "noise": "they are left at their mean, 0, which gives the mean of a variational autoencoder",
    "augmentation": "that is left out, as Keras does it outside of training",
}


def differs(difference: float, limit: float, choice: Features) -> SavedModelError:
    """Return the error for an opened model that gives other numbers than the SavedModel, with the reason if known."""
    flat = choice.whole.flat
    drawn = random_ops(flat, choice.whole.order)
    changed = {id(v): v.name.split(":")[0] for v in flat.variables.values()}
    states = list(dict.fromkeys(changed.get(updated_variable(flat, update) or 0, "") for update in flat.updates))
    if not drawn and any(states):
        return SavedModelError(
            f"The model changes its own variables in inference ({join_names(filter(None, states), limit=3)}), as a "
            f"recurrent layer with stateful=True does, so its outputs differ between calls, by {difference:.3g} "
            "for the same inputs. Save it again with stateful=False."
        )
    if not drawn:
        return SavedModelError(
            f"The opened model differs from the SavedModel by {difference:.3g} (at most {limit:.3g} is accepted), "
            "so it is not used. Does the model draw random numbers or change its state in inference?"
        )
    still = [p.name for p in find_pieces(choice.whole) if not random_ops(flat, flat.ancestors([p.end]))]
    way = (
        f"Take the end of a block in front of them with output=: {join_names(still)}."
        if still
        else ("Another output or signature may be without: output=, signature=.")
    )
    kinds, first = sorted({flat.nodes[name].op for name in drawn}), own_name(drawn[0])
    return SavedModelError(
        f"The model draws random numbers in inference ({join_names(kinds)}, such as {first!r}), so its outputs "
        f"differ between calls, by {difference:.3g} for the same inputs. {way}"
    )
