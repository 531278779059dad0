"""Pages that mkdocs builds from other files: README, CHANGES, CONTRIBUTING, and one API page per public package.

Implementation notes: the script reads the source and imports nothing of tfft. A package is public if ``tfft.__all__``
names it, and so is each of its subpackages with an ``__all__``. Each public name is documented once, on the page of the
package nearest to its definition; other pages link to it.
"""

from __future__ import annotations

import ast
import functools
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import mkdocs_gen_files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "index.md", "CHANGES.md": "changes.md", "CONTRIBUTING.md": "contributing.md"}
BUILTINS = {"__builtins__": {"dict": dict, "list": list, "set": set, "sorted": sorted, "tuple": tuple}}

log = logging.getLogger("mkdocs.plugins.gen_pages")  # mkdocs build --strict fails on its warnings


def source_of(name: str) -> Path | None:
    """File of the module or package with this dotted name; None if it is neither, or not in tfft."""
    path = ROOT.joinpath(*name.split("."))
    files = (path / "__init__.py", path.with_suffix(".py")) if name.split(".")[0] == "tfft" else ()
    return next((file for file in files if file.is_file()), None)


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements at the level of a module, also those under ``if`` and ``try``."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from statements(node.body + node.orelse)


@functools.cache
def module(name: str) -> list[ast.stmt]:
    """Statements of a module of tfft."""
    return list(statements(ast.parse(source_of(name).read_text("utf-8")).body))


@functools.cache
def exported(name: str) -> list[str]:
    """``__all__`` of a module, as far as constants of the module define it; empty without one."""
    known: dict[str, object] = {}
    for node in module(name):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            try:
                value = eval(compile(ast.Expression(node.value), name, "eval"), BUILTINS, known)
            except Exception:
                continue  # not made of constants, so not what __all__ is made of
            if isinstance(target, ast.Name):
                known[target.id] = value
    return [each for each in known.get("__all__", ()) if not each.startswith("_")]


@functools.cache
def origins(name: str) -> dict[str, str]:
    """Where each name that a module binds comes from, as a dotted path; imports for type checkers count."""
    found: dict[str, str] = {}
    for node in module(name):
        if isinstance(node, ast.ImportFrom):
            found.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = f"{name}.{node.name}"
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            every = [each for target in targets for each in getattr(target, "elts", [target])]  # also A, B = ...
            found.update({each.id: f"{name}.{each.id}" for each in every if isinstance(each, ast.Name)})
    return found


def definition(path: str) -> str | None:
    """Path at which a name is defined, after every import is followed; None if nothing binds it."""
    parent, _, last = path.rpartition(".")
    if not source_of(parent):
        return path
    origin = origins(parent).get(last, path if source_of(path) else None)
    return origin if origin in (None, path) else definition(origin)


def public_packages(name: str) -> Iterator[str]:
    """Public packages and modules from ``name`` down."""
    yield name
    below: list[str] = []
    if name == "tfft":
        below = [each for each in exported(name) if definition(f"tfft.{each}") == f"tfft.{each}"]
    elif (source := source_of(name)).name == "__init__.py":
        below = sorted(file.parent.name for file in source.parent.glob("*/__init__.py"))
        below = [each for each in below if exported(f"{name}.{each}")]
    for each in below:
        yield from public_packages(f"{name}.{each}")


def public_names(name: str) -> dict[str, str]:
    """Public names of a package, with the paths of their definitions; subpackages are left out."""
    names = exported(name)
    if "__all__" not in origins(name):  # an __all__ that is computed names subpackages only
        definitions = [node.name for node in module(name) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        names = [each for each in definitions if not each.startswith("_")]
    paths = {each: definition(f"{name}.{each}") for each in names}
    for each in [each for each, path in paths.items() if path is None]:
        log.warning("%s.__all__ has %r, which nothing binds: import it under TYPE_CHECKING", name, each)
    return {each: path for each, path in paths.items() if path and not source_of(path)}


def summary(path: str) -> str:
    """First line of the docstring of a function or class."""
    parent, _, last = path.rpartition(".")
    for node in module(parent) if source_of(parent) else ():
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == last:
            return re.sub(r":\w+:`", "`", (ast.get_docstring(node) or "").split("\n")[0])
    return ""


def nearness(package: str, path: str) -> int:
    """Number of leading parts that a package shares with the path of a definition."""
    pairs = zip(package.split("."), path.split("."), strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), package.count(".") + 1)


def api_page(name: str, homes: dict[str, str]) -> str:
    """Markdown of the page of one package."""
    members, shadowed, elsewhere = [], [], []
    for each, path in public_names(name).items():
        if homes[path] != name:
            elsewhere.append(f"- [](){{#{name}.{each}}}[`{name}.{each}`][{path}]: {summary(path)}\n")
        elif source_of(f"{name}.{each}"):  # as in ``from tfft.data.load import load``: griffe sees the module only
            anchor = f"[](){{#{name}.{each}}}\n"
            shadowed.append(f"{anchor}\n::: {path}\n    options:\n      show_root_heading: true\n")
        else:
            members.append(each)
    links = ["Documented on the page of its package:\n", "".join(elsewhere)] if elsewhere else []
    options = f"    options:\n      members: {members or 'false'}\n"
    return "\n".join([f"# {name}\n", f"::: {name}\n{options}", *shadowed, *links])


def write_api_pages() -> None:
    """One page per public package."""
    packages = list(public_packages("tfft"))
    homes: dict[str, str] = {}
    for name in packages:
        for path in public_names(name).values():
            homes[path] = max(homes.get(path, name), name, key=lambda package: nearness(package, path))
    for name in packages:
        page = "api/index.md" if name == "tfft" else f"api/{name.removeprefix('tfft.')}.md"
        with mkdocs_gen_files.open(page, "w") as file:
            file.write(api_page(name, homes))


def copy_root_pages() -> None:
    """Root pages with links that fit the site; files that they link to, such as notebooks, come along."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text("utf-8")
        text = re.sub(r"\]\(docs/([\w/-]+\.md)", r"](\1", text)
        for old, new in PAGES.items():
            text = text.replace(f"]({old}", f"]({new}")
        for target in set(re.findall(r"\]\(((?:notebooks|benchmarks)/[\w./-]+)\)", text)):
            with mkdocs_gen_files.open(target, "wb") as file:
                file.write((ROOT / target).read_bytes())
        with mkdocs_gen_files.open(page, "w") as file:
            file.write(text)


copy_root_pages()
write_api_pages()
