"""Griffe extension: settings, links for Sphinx roles, and code blocks for ``Example:`` sections in docstrings.

Implementation notes: the settings are imported from the source beside this folder, and ``tfft/__init__.py`` is not run,
so the build needs neither tfft nor its dependencies.
"""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import griffe

package = types.ModuleType("tfft")
package.__path__ = [str(Path(__file__).resolve().parent.parent / "tfft")]
sys.modules.setdefault("tfft", package)

from tfft import config  # noqa: E402
from tfft.settings import with_settings  # noqa: E402

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
