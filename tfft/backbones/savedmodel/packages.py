"""Packages that a SavedModel needs beside TensorFlow: :func:`needs`, and which operations and functions need them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

# Beginnings of names of operations and of types, with the package as pip and as Python know it.
_BY_OP = {
    "SimpleML": ("tensorflow_decision_forests", "tensorflow_decision_forests"),
    "Addons>": ("tensorflow-addons", "tensorflow_addons"),
    "IO>": ("tensorflow-io", "tensorflow_io"),
}
_BY_TYPE = {
    "tfp.": ("tensorflow-probability", "tensorflow_probability"),
    "tensorflow_probability.": ("tensorflow-probability", "tensorflow_probability"),
    "_TFPTypeSpec": ("tensorflow-probability", "tensorflow_probability"),  # until 0.13 without the name of the package
    "_DistributionTypeSpec": ("tensorflow-probability", "tensorflow_probability"),
    "tf_agents.": ("tf-agents", "tf_agents"),
    "tfr.": ("tensorflow-ranking", "tensorflow_ranking"),
    "tensorflow_gnn.": ("tensorflow-gnn", "tensorflow_gnn"),
    "gnn.": ("tensorflow-gnn", "tensorflow_gnn"),
}


def package_of_op(op: str) -> str:
    """Return the package that defines an operation, as pip knows it; empty where it is not known."""
    return next((pip for prefix, (pip, _) in _BY_OP.items() if op.startswith(prefix)), "")


def needs(meta: Any) -> str:
    """Says which packages a SavedModel needs that are not imported, and how to get them; empty where there are none.

    Args:
        meta: Proto of its meta graph.
    """
    wanted = {}
    for name in _type_names(meta.object_graph_def):
        for prefix, (pip, module) in _BY_TYPE.items():
            if name.startswith(prefix) and module not in sys.modules:
                wanted[pip] = module
    if not wanted:
        return ""
    return (
        f"It was saved with types of {' and '.join(wanted)}. Install {'it' if len(wanted) == 1 else 'them'} with "
        f"`pip install {' '.join(wanted)}` and `import {', '.join(wanted.values())}` before opening it."
    )


def functions_that_need(meta: Any) -> dict[str, str]:
    """Return the functions with types of packages that are not imported, and the package of each as pip knows it.

    TensorFlow cannot load a SavedModel with one of them, even where it is not called, such as the ``distribution`` of a
    policy whose ``action`` is called.

    Args:
        meta: Proto of its meta graph.
    """
    found = {}
    for name, function in meta.object_graph_def.concrete_functions.items():
        for kind in _types_of(function):
            for prefix, (pip, module) in _BY_TYPE.items():
                if kind.startswith(prefix) and module not in sys.modules:
                    found[name] = pip
    return found


def _type_names(objects: Any) -> Iterator[str]:
    """Yield the registered names of the types that functions take and give."""
    for function in objects.concrete_functions.values():
        yield from _types_of(function)


def _types_of(function: Any) -> Iterator[str]:
    yield from _names_in(function.canonicalized_input_signature)
    yield from _names_in(function.output_signature)


def _names_in(value: Any) -> Iterator[str]:
    """Yield the names of types in a structured value, however deep."""
    kind = value.WhichOneof("kind")
    if kind == "type_spec_value":
        yield value.type_spec_value.type_spec_class_name
        yield from _names_in(value.type_spec_value.type_state)
    elif kind in ("list_value", "tuple_value", "named_tuple_value"):
        for one in getattr(value, kind).values:
            yield from _names_in(one.value if kind == "named_tuple_value" else one)
    elif kind == "dict_value":
        for one in value.dict_value.fields.values():
            yield from _names_in(one)
