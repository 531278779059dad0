"""Random numbers that a graph draws on the way to its features: :func:`without_noise`, :func:`differs`.

An encoder of a variational autoencoder gives ``mean + deviation * noise``. Features that change from call to call are
no use, so the noise is left at its mean, 0, where it is drawn from a normal distribution: what comes out is the mean.
A number from any other distribution (such as the mask of a dropout) has no value that stands for all of them.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfft.backbones.savedmodel.features import Features
from tfft.backbones.savedmodel.graph import FlatGraph, data_inputs
from tfft.backbones.savedmodel.partition import find_pieces, random_ops
from tfft.backbones.savedmodel.tf1 import own_name
from tfft.errors import SavedModelError, join_names

# Operations that draw from a normal distribution of mean 0, and which input is the shape.
_STATEFUL = {
    "RandomStandardNormal": 0,
    "TruncatedNormal": 0,
    "StatefulStandardNormal": 1,
    "StatefulStandardNormalV2": 2,
    "StatefulTruncatedNormal": 2,
}
_SEEDED = {
    "StatelessRandomNormal": 0,
    "StatelessRandomNormalV2": 0,
    "StatelessTruncatedNormal": 0,
    "StatelessTruncatedNormalV2": 0,
}


def without_noise(flat: FlatGraph) -> tuple[FlatGraph, frozenset[str]]:
    """Replace noise from normal distributions by its mean, 0.

    Args:
        flat: The graph.

    Returns:
        The graph, and the names of the nodes that were replaced. Noise with a fixed seed is the same at every call,
        so it stays; a seed that is a variable changes with every call.
    """
    found = {}
    for node in flat.graph_def.node:
        if node.op in _STATEFUL:
            found[node.name] = data_inputs(node)[_STATEFUL[node.op]]
        elif node.op in _SEEDED and not flat.ancestors(data_inputs(node)[1:]).isdisjoint(flat.variables):
            found[node.name] = data_inputs(node)[_SEEDED[node.op]]
    if not found:
        return flat, frozenset()
    graph_def = tf.compat.v1.GraphDef(versions=flat.graph_def.versions)
    graph_def.library.CopyFrom(flat.graph_def.library)
    used = set(flat.nodes)
    for node in flat.graph_def.node:
        if node.name not in found:
            graph_def.node.add().CopyFrom(node)
            continue
        dtype = node.attr["dtype"].type
        zero = graph_def.node.add(name=_unused(f"{node.name}/mean", used), op="Const")
        zero.attr["dtype"].type = dtype
        zero.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(0.0, tf.as_dtype(dtype)))
        fill = graph_def.node.add(name=node.name, op="Fill", input=[found[node.name], zero.name])
        fill.attr["T"].type = dtype
        kind = node.attr["shape_dtype"] if "shape_dtype" in node.attr else node.attr["T"]
        fill.attr["index_type"].type = kind.type or tf.int32.as_datatype_enum
    return dataclasses.replace(flat, graph_def=graph_def), frozenset(found)


def _unused(name: str, used: set[str]) -> str:
    while name in used:
        name += "_"
    used.add(name)
    return name


def noted(choice: Features, noise: frozenset[str]) -> list[str]:
    """Return what a user needs to know of the noise that was left out; nothing where the features have none."""
    here = list(dict.fromkeys(own_name(name) for name in choice.analysis.order if name in noise))
    if not here:
        return []
    note = (
        f"The model adds random numbers to its features ({join_names(here, limit=3)}); they are left at their mean, 0, "
        "so that the features are the same at every call. For a variational autoencoder that is the mean."
    )
    return [note]


def differs(difference: float, limit: float, choice: Features) -> SavedModelError:
    """Return the error for an opened model that gives other numbers than the SavedModel, with the reason if known."""
    drawn = random_ops(choice.whole.flat, choice.whole.order)
    if not drawn:
        return SavedModelError(
            f"The opened model differs from the SavedModel by {difference:.3g} (at most {limit:.3g} is accepted), "
            "so it is not used. Does the model draw random numbers or change its state in inference?"
        )
    flat = choice.whole.flat
    still = [p.name for p in find_pieces(choice.whole) if not random_ops(flat, flat.ancestors([p.end]))]
    way = (
        f"Take the end of a block in front of them with output=: {join_names(still)}."
        if still
        else ("Another output or signature may be without: output=, signature=.")
    )
    kinds, first = sorted({flat.nodes[name].op for name in drawn}), own_name(drawn[0])
    return SavedModelError(
        f"The model draws random numbers in inference ({join_names(kinds)}, such as {first!r}), so it gives others "
        f"at every call, by {difference:.3g} for the same inputs. {way}"
    )
