"""Griffe extension: links for the Sphinx roles in docstrings, and code blocks for their ``Example:`` sections."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc):`~?([\w.]+)`")
EXAMPLE = re.compile(r"^([ ]*)Example:$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites docstrings once a package is loaded, when every name can be resolved.

    A role becomes a link, or code if the site has no page for its target. ``Example:`` becomes ``Examples:``, the only
    form that griffe reads as doctests.
    """

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrites the docstrings of a package and of everything in it."""
        self._rewrite(pkg)

    def _rewrite(self, item: griffe.Object | griffe.Alias) -> None:
        if item.is_alias:
            return
        if item.docstring:
            text = ROLE.sub(lambda match: _link(item, match[1]), item.docstring.value)
            item.docstring.value = EXAMPLE.sub(r"\1Examples:", text)
        for member in item.members.values():
            self._rewrite(member)


def _link(item: griffe.Object, name: str) -> str:
    try:
        path = name if name.startswith("tfft.") else item.resolve(name)
    except griffe.NameResolutionError:
        return f"`{name}`"
    return f'<autoref optional identifier="{path}"><code>{name}</code></autoref>'
