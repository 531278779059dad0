"""The public names are those in ``api.txt``; ``python tests/test_api.py --write`` writes it anew."""

import inspect
import pathlib
import sys
import types

import tfft

FILE = pathlib.Path(__file__).with_name("api.txt")


def names_of(module):
    """``__all__`` of a module; where it has none, the classes, functions and constants that it defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and name != "TYPE_CHECKING"
        and (getattr(value, "__module__", None) == module.__name__ if callable(value) else name.isupper())
    ]


def parameters(value):
    """The names of the parameters of a function, in order; those that only go by name are behind ``*``."""
    found, named = [], False
    for name, parameter in inspect.signature(value).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and not named:
            named = True
            found.append("*")
        mark = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        named = named or mark == "*"
        found.append(f"{mark}{name}{'' if parameter.default is parameter.empty else '='}")
    return f"({', '.join(found)})"


def public():
    lines = []
    for name in tfft.__all__:
        value = getattr(tfft, name)
        if not isinstance(value, types.ModuleType):
            lines.append(f"tfft.{name}{parameters(value) if inspect.isfunction(value) else ''}")
            continue
        lines.append(f"tfft.{name}")
        for inner in names_of(value):
            found = getattr(value, inner)
            lines.append(f"tfft.{name}.{inner}{parameters(found) if inspect.isfunction(found) else ''}")
    return sorted(lines)


def test_the_public_names_are_those_in_the_file():
    known = FILE.read_text().splitlines()
    found = public()
    new, gone = sorted(set(found) - set(known)), sorted(set(known) - set(found))
    assert (new, gone) == ([], []), "if this is wanted: python tests/test_api.py --write"
    assert found == known


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("python tests/test_api.py --write")
    FILE.write_text("\n".join(public()) + "\n")
