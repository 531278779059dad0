"""Griffe extension: settings, links for Sphinx roles, and code blocks for ``Example:`` sections in docstrings."""

from __future__ import annotations

import re
from typing import Any

import griffe

from tfft import config
from tfft.settings import with_settings

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc):`~?([\w.]+)`")
EXAMPLE = re.compile(r"^([ ]*)Example:$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites docstrings once a package is loaded, when every name can be resolved.

    A role becomes a link, or code if the site has no page for its target. ``Example:`` becomes ``Examples:``, the only
    form that griffe reads as doctests. The line ``{settings}`` becomes the settings of the class, or of a run, as
    ``tfft.settings.documents`` does it at import.
    """

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrites the docstrings of a package and of everything in it."""
        self._rewrite(pkg)

    def _rewrite(self, item: griffe.Object | griffe.Alias) -> None:
        if item.is_alias:
            return
        if item.docstring:
            table = getattr(config, item.name, None) if item.is_class else config.RunConfig
            text = with_settings(item.docstring.value, table or config.RunConfig)
            text = ROLE.sub(lambda match: _link(item, match[1]), text)
            item.docstring.value = EXAMPLE.sub(r"\1Examples:", text)
        for member in item.members.values():
            self._rewrite(member)


def _link(item: griffe.Object, name: str) -> str:
    try:
        path = name if name.startswith("tfft.") else item.resolve(name)
    except griffe.NameResolutionError:
        return f"`{name}`"
    return f'<autoref optional identifier="{path}"><code>{name}</code></autoref>'
