"""Checks of tokenized texts before training: :func:`fitting`, :func:`unknown_note`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfft.data.examples import Skipped
from tfft.errors import DataError, join_names, quantity

_SYSTEMATIC = 0.1  # of the examples: longer than the model takes in more of them is an error
_UNKNOWN = 0.005  # share of unknown tokens from which a note reports them
_SPARE = 1.25  # room of a generated text over the longest training target
_LEAST = 16  # tokens that a model may write
_SHOWN = 5

Side = tuple[str, Sequence[np.ndarray], int]  # name, tokens of each text, most tokens that the model takes


def fitting(sides: Sequence[Side], places: Sequence[str], items: str) -> tuple[np.ndarray, list[Skipped]]:
    """Return the positions of examples that a model takes, and the others with the reasons.

    Args:
        sides: Texts of the examples.
        places: Origin of each example.
        items: Plural noun for the examples.

    Raises:
        DataError: If more than a tenth are too long, with their places.
    """
    too_long: dict[int, str] = {}
    for name, tokens, limit in sides:
        for at, ids in enumerate(tokens):
            if len(ids) > limit:
                too_long.setdefault(at, f"has a {name} of {len(ids):,} tokens, and the model takes {limit:,}")
    skipped = [Skipped(places[at], why) for at, why in sorted(too_long.items())]
    if len(skipped) > _SYSTEMATIC * len(places):
        raise DataError(
            f"{len(skipped):,} of {len(places):,} {items} are longer than the model takes: "
            f"{'; '.join(map(str, skipped[:_SHOWN]))}. Split the texts, or pass a larger max_length=."
        )
    return np.array([at for at in range(len(places)) if at not in too_long], np.int64), skipped


def skipped_note(skipped: Sequence[Skipped], item: str) -> str:
    """Return a sentence with the first skipped examples."""
    more = "; ..." if len(skipped) > _SHOWN else ""
    return f"{quantity(len(skipped), item)} skipped: {'; '.join(map(str, skipped[:_SHOWN]))}{more}"


def generated_length(targets: Sequence[np.ndarray], limit: int) -> int:
    """Return the most tokens of a generated text: a quarter more than the longest training target, up to a limit."""
    return min(limit, max(_LEAST, int(_SPARE * max(map(len, targets))) + 1))


def unknown_note(name: str, tokens: Sequence[np.ndarray], places: Sequence[str], unknown: int | None) -> str | None:
    """Return a sentence about the share of unknown tokens; None if there are few.

    Args:
        name: Singular noun for the texts.
        tokens: Tokens of each text.
        places: Origin of each text.
        unknown: Token for what the vocabulary does not cover; None if it covers every text.
    """
    if unknown is None:
        return None
    counts = np.array([int((ids == unknown).sum()) for ids in tokens])
    share = counts.sum() / max(1, sum(map(len, tokens)))
    if share <= _UNKNOWN:
        return None
    where = join_names([places[at] for at in np.argsort(-counts, kind="stable")[:3]])
    return (
        f"{share:.1%} of the {name} tokens are unknown to the vocabulary, most in {where}: the model cannot read or "
        "generate them. Use a model trained on this language"
    )
