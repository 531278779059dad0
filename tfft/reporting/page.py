"""HTML of a report: sections, tables and figures in one file without scripts or network: :class:`Page`."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfft import registry
from tfft.inspection.html_report import escaped, thumbnail_address
from tfft.reporting.figures import as_svg

_FOR, _AGAINST = "46 139 87", "192 57 43"  # green, red
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #808080; --bad: #c0392b; --good: #2e8b57 }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 64rem; padding: 1rem }
h1, p { overflow-wrap: anywhere } h1 { font-size: 1.5rem; margin: .5rem 0 }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
p { margin: .4rem 0 } .soft { color: var(--soft) } .bad { color: var(--bad) } .good { color: var(--good) }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem }
td, th { padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.figure img { max-width: 100%; height: auto }
.items { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 1rem }
figure { margin: 0; font-size: .82rem; overflow-wrap: anywhere } figure img { width: 96px; height: 96px }
.large { grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)) }
.large figure img { width: 100%; height: auto }
.colour { display: inline-block; width: .9rem; height: .9rem; border: 1px solid var(--line); vertical-align: middle }
blockquote { margin: 0 0 .3rem; padding-left: .6rem; border-left: 3px solid var(--line) }
blockquote { max-height: 7rem; overflow: auto }
.map { width: 100%; max-width: 48rem; height: auto; border: 1px solid var(--line) }
.map image { display: none; pointer-events: none } .map g:hover image { display: inline }
.parts { line-height: 1.9 } .part { border-radius: .25rem; padding: .1rem .25rem }
"""


class Page:
    """HTML page under construction; all texts are escaped.

    Args:
        title: Title.
    """

    def __init__(self, title: str) -> None:
        self._parts = [
            "<!doctype html>", '<html lang="en">', '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(title)}</title>", f"<style>{_STYLE}</style>", f"<h1>{escaped(title)}</h1>",
        ]  # fmt: skip

    def section(self, title: str) -> None:
        """Start a section."""
        self._parts.append(f"<h2>{escaped(title)}</h2>")

    def text(self, text: str, kind: str = "") -> None:
        """Add a paragraph, of the class ``"soft"``, ``"good"`` or ``"bad"`` if given."""
        self._parts.append(f'<p class="{kind}">{escaped(text)}</p>' if kind else f"<p>{escaped(text)}</p>")

    def table(self, titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Add a table; numbers are aligned to the right."""
        body = [list(row) for row in rows]
        numeric = [all(isinstance(row[at], int | float | None) for row in body) for at in range(len(titles))]
        head = "".join(_cell("th", title, right) for title, right in zip(titles, numeric, strict=True))
        lines = [
            "<tr>" + "".join(_cell("td", _number(value), right) for value, right in zip(row, numeric, strict=True))
            for row in body
        ]
        self._parts.append(f'<div class="scroll"><table><tr>{head}{"".join(lines)}</table></div>')

    def figure(self, drawn: Any, description: str) -> None:
        """Add a matplotlib figure as an image with a description."""
        data = base64.b64encode(as_svg(drawn).encode()).decode("ascii")
        self._parts.append(
            f'<p class="figure"><img alt="{escaped(description)}" src="data:image/svg+xml;base64,{data}"></p>'
        )

    def drawing(self, svg: str, description: str) -> None:
        """Add an SVG drawing, whose texts are escaped, with a description."""
        self._parts.append(f'<div aria-label="{escaped(description)}">{svg}</div>')

    def examples(self, items: Iterable[tuple[str, registry.ExampleResult]]) -> None:
        """Add examples, each with its image or text, its label and its prediction."""
        self._parts.append(f'<div class="items">{"".join(_example(name, result) for name, result in items)}</div>')

    def pictures(self, items: Iterable[registry.ReportPicture]) -> None:
        """Add large images with their captions."""
        figures = (
            f'<figure><img alt="" src="data:image/jpeg;base64,{base64.b64encode(one.jpeg).decode("ascii")}">'
            f"<figcaption>{escaped(one.caption)}</figcaption></figure>"
            for one in items
        )
        self._parts.append(f'<div class="items large">{"".join(figures)}</div>')

    def coloured(self, parts: Iterable[tuple[str, float]]) -> None:
        """Add parts of an example with colours: green for values up to 1, red down to -1."""
        self._parts.append(f'<p class="parts">{coloured_parts(parts)}</p>')

    def legend(self, colours: Mapping[str, str]) -> None:
        """Add the colours of names, ``#rrggbb``."""
        shown = (
            f'<span class="colour" style="background:{escaped(colour)}"></span> {escaped(name)}'
            for name, colour in colours.items()
        )
        self._parts.append(f"<p>{' &nbsp; '.join(shown)}</p>")

    def render(self) -> str:
        """Return the whole page."""
        return "\n".join([*self._parts, "</html>", ""])


def coloured_parts(parts: Iterable[tuple[str, float]]) -> str:
    """Return HTML of parts: green for values up to 1, red down to -1; texts are escaped."""
    shown = []
    for part, value in parts:
        colour = f"rgb({_FOR if value > 0 else _AGAINST} / {abs(value) * 0.75:.2f})"
        shown.append(f'<span class="part" title="{value:+.2f}" style="background:{colour}">{escaped(part)}</span>')
    return " ".join(shown)


def _example(name: str, result: registry.ExampleResult) -> str:
    shown = _picture(name)
    words = f"<blockquote>{escaped(name)}</blockquote>" if shown is None and not os.path.exists(name) else ""
    place = f'<br><span class="soft">{escaped(os.path.basename(name))}</span>' if not words else ""
    probability = "" if result.confidence is None else f" ({result.confidence:.3f})"
    kind = {True: "good", False: "bad", None: ""}[result.correct]
    return (
        f"<figure>{shown or ''}{words}<figcaption>"
        f'<span class="{kind}">{escaped(result.prediction)}{probability}</span>'
        f"<br>true: {escaped(result.label)}{place}</figcaption></figure>"
    )


def _picture(path: str) -> str | None:
    address = thumbnail_address(path)
    return None if address is None else f'<img alt="" src="{address}"><br>'


def _cell(tag: str, text: str, right: bool) -> str:
    return f'<{tag} class="number">{escaped(text)}' if right else f"<{tag}>{escaped(text)}"


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
