"""Words of a text, for explanations: :func:`text_parts`."""

from __future__ import annotations

import re

import numpy as np

from tfft.registry import Parts

_MOST = 128  # parts of a text; in longer ones consecutive words are one part
# Scripts without spaces between words: kana, Chinese characters and Thai count one by one.
_DENSE = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_DENSE}]|[^\s{_DENSE}]+")


def text_parts(value: str | tuple[str, str]) -> Parts:
    """Return the words of a text, or of both texts of a pair, and the texts without each of them.

    Args:
        value: A text, or a pair of texts.

    Returns:
        At most 128 parts: those of a longer text have several words each.

    Example:
        >>> text_parts("not good").without
        (' good', 'not ')
    """
    texts = (value,) if isinstance(value, str) else value
    spans = [(at, *found.span()) for at, text in enumerate(texts) for found in _WORD.finditer(text)]
    names, without = [], []
    for group in np.array_split(np.arange(len(spans)), min(len(spans), _MOST)) if spans else ():
        chosen = [spans[i] for i in group]
        names.append(" ".join(texts[at][start:end] for at, start, end in chosen))
        left = list(texts)
        for at, start, end in reversed(chosen):
            left[at] = left[at][:start] + left[at][end:]
        without.append(left[0] if isinstance(value, str) else tuple(left))
    return Parts(tuple(names), value, tuple(without))
