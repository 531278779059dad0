"""HTML report with thumbnails: :func:`page`."""

from __future__ import annotations

import base64
import html
import os

from tfft import registry
from tfft.inspection.findings import DataReport, Finding, Item

_PICTURES = 24  # maximum thumbnails per finding
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #222 }
h2 { font-size: 1.05rem; margin: 2rem 0 .2rem; border-left: .5rem solid #bbb; padding-left: .6rem }
h2.error { border-color: #c0392b } h2.warning { border-color: #e0a030 } h2.note { border-color: #6b9bd1 }
.remedy { color: #555; margin: 0 0 .6rem 1.1rem }
.items { display: flex; flex-wrap: wrap; gap: .8rem; margin-left: 1.1rem }
figure { margin: 0; width: 13rem; font-size: .8rem; overflow-wrap: anywhere }
img { height: 96px; width: 96px; background: #eee }
table { border-collapse: collapse } td, th { padding: .1rem .8rem .1rem 0; text-align: left }
@media (prefers-color-scheme: dark) { body { background: #1b1b1b; color: #ddd } .remedy { color: #aaa } }
"""


def page(report: DataReport) -> str:
    """Return a self-contained page; file names are escaped, thumbnails are decoded and encoded again."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{escaped(report.data)}</title><style>{_STYLE}</style><h1>{escaped(report.data)}</h1>",
        _counts(report),
    ]
    parts += [_finding(finding) for finding in report.findings] or ["<p>Nothing was found.</p>"]
    parts += [f"<p>{escaped(note)}</p>" for note in report.notes]
    return "\n".join(parts)


def _counts(report: DataReport) -> str:
    rows = [
        f"<tr><td>{escaped(part)}<td>{escaped(name)}<td>{count:,}"
        for part, counts in report.counts.items()
        for name, count in counts.items()
    ]
    return f"<p>{report.examples:,} usable examples</p><table>{''.join(rows)}</table>"


def _finding(finding: Finding) -> str:
    shown = "".join(_figure(item) for item in finding.items[:_PICTURES])
    more = len(finding.items) - _PICTURES
    rest = f"<p class=remedy>and {more:,} more, in the JSON report</p>" if more > 0 else ""
    return (
        f"<h2 class={finding.level}>{escaped(finding.message)}</h2>"
        f"<p class=remedy>{escaped(finding.level)}: {escaped(finding.remedy)}.</p>"
        f"<div class=items>{shown}</div>{rest}"
    )


def _figure(item: Item) -> str:
    pictures = "".join(_picture(path) for path in (item.name, item.other) if path)
    return f"<figure>{pictures}<figcaption>{escaped(str(item))}</figcaption></figure>"


def _picture(path: str) -> str:
    address = thumbnail_address(path)
    return "" if address is None else f"<img alt='' src='{address}'>"


def thumbnail_address(path: str) -> str | None:
    """Return a thumbnail of a file as a ``data:`` address; None if no modality can draw it."""
    if not os.path.isfile(path):
        return None
    kinds = map(registry.modality, registry.modality_names())
    jpeg = next((made for made in (kind.thumbnail(path) for kind in kinds) if made), None)
    return None if jpeg is None else f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def escaped(text: str) -> str:
    """Return a text for HTML; bytes of a file name that are not text are shown as escapes."""
    return html.escape(text.encode("utf-8", "backslashreplace").decode())
