"""Pairs of texts: :class:`PairExamples`, :func:`load_pairs`, :func:`read_pairs`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import tensorflow as tf

from tfft.data.batches import BatchOptions
from tfft.data.examples import Examples, Skipped, Splits
from tfft.data.table import SUFFIXES
from tfft.errors import DataError, PlanError
from tfft.layers.pair_tokenizer import PairTokenizer
from tfft.modalities.text.examples import add_texts
from tfft.tasks.text_to_text.batching import TokenPairs, token_batches
from tfft.tasks.text_to_text.checks import check_pairs, report_on
from tfft.tasks.text_to_text.formats import Pairs, read_pairs_of

if TYPE_CHECKING:
    from tfft.features.engines import Staged
    from tfft.features.sources import Views

TASK = "text_to_text"
_PARTS = (("train", "training"), ("val", "valid", "validation", "dev"))
_FILES = (*SUFFIXES, ".tmx")
_SHOWN = 8  # texts for the check of an export


@dataclasses.dataclass(frozen=True, eq=False)
class PairExamples(Examples):
    """Pairs of texts.

    Attributes:
        sources: Texts to read, an object array of str.
        labels: Texts to write, an object array of str.
        places: Origin of each pair.
        class_names: Empty.
        skipped: Pairs that were skipped.
        tokenizer: Tokenizer of a model; None before a model is known.
        tokens: Tokens of both sides; None before a model is known.
    """

    modality: ClassVar[str] = "text"
    sources: np.ndarray
    labels: np.ndarray
    places: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    tokenizer: PairTokenizer | None = None
    tokens: TokenPairs | None = None

    @classmethod
    def of(cls, pairs: Pairs, keep: np.ndarray, skipped: tuple[Skipped, ...] = ()) -> PairExamples:
        """Return some of the pairs that were read."""
        sides = [np.array([side[i] for i in keep], object) for side in (pairs.sources, pairs.targets)]
        return cls(sides[0], sides[1], tuple(pairs.places[i] for i in keep), (), skipped)

    def __len__(self) -> int:
        return len(self.sources)

    def take(self, positions: np.ndarray) -> Self:
        """Return the pairs at some positions."""
        tokens = None if self.tokens is None else self.tokens.take(positions)
        return dataclasses.replace(
            self, sources=self.sources[positions], labels=self.labels[positions], tokens=tokens,
            places=tuple(self.places[i] for i in positions) if self.places else (),
        )  # fmt: skip

    @property
    def lengths(self) -> np.ndarray | None:
        """Tokens of the longer text of each pair, int64 [N]; None before a model is known."""
        return None if self.tokens is None else self.tokens.lengths

    @property
    def counts(self) -> dict[str, int]:
        """Empty: texts have no classes."""
        return {}

    @property
    def export_files(self) -> tuple[str, ...]:
        """Some sources, for checking an export."""
        return tuple(self.sources[:_SHOWN])

    def tokenized(self, tokenizer: PairTokenizer) -> Self:
        """Return the same pairs with their tokens for a model."""
        sources, targets = (tokenizer.ragged(list(side)) for side in (self.sources, self.labels))
        return dataclasses.replace(self, tokenizer=tokenizer, tokens=TokenPairs.of(sources, targets, tokenizer))

    def batches(self, spec: Any, options: BatchOptions) -> tf.data.Dataset:
        """Return batches of ({"source", "target"}, labels), see :func:`tfft.tasks.text_to_text.batching.token_batches`.

        Args:
            spec: Tokenizer of the model, if the pairs have no tokens yet.
            options: Batch size and order.
        """
        options.refuse(("augment", "views", "sampling"), "pairs of texts")
        if isinstance(spec, PairTokenizer) and spec is not self.tokenizer:
            return self.tokenized(spec).fitting().batches(None, options)
        if self.tokens is None or self.tokenizer is None:
            raise PlanError(
                "Pairs of texts become tokens with the vocabulary of a model, which is not known here. Pass its "
                "tokenizer: tfft.data.to_dataset(pairs, model.get_layer('tokens'))."
            )
        return token_batches(self.tokens, self.tokenizer, options)

    def fitting(self) -> Self:
        """Return the pairs with texts cut to what the model takes."""
        if self.tokens is None or self.tokenizer is None:
            return self
        most = (self.tokenizer.source_length, self.tokenizer.target_length)
        sides = [
            [ids if len(ids) <= limit else np.concatenate([ids[: limit - 1], ids[-1:]]) for ids in side]
            for side, limit in zip((self.tokens.source, self.tokens.target), most, strict=True)
        ]
        return dataclasses.replace(self, tokens=TokenPairs(*sides))

    def feature_source(self, staged: Staged, batch_size: int, views: Views | None = None) -> Any:
        """Return batches; :meth:`trainable_part` has the features of a frozen encoder."""
        return self.batches(None, BatchOptions(batch_size))

    def trainable_part(self, model: Any, held_out: Any, options: BatchOptions) -> Any:
        """Return the decoder of a model, and batches with the outputs of its frozen encoder.

        Args:
            model: Model with the trainable blocks of a phase.
            held_out: Held-out pairs; None for none.
            options: Batches of these pairs.
        """
        from tfft.tasks.text_to_text.memory import part_with_memory

        return part_with_memory(model, self, held_out, options)

    def fingerprint(self, *others: Self) -> str:
        """Hash all texts in their order."""
        return " ".join(_hash_of(part) for part in (self, *others))


def load_pairs(
    source: Any,
    *,
    text: str | int | None = None,
    target: str | int | None = None,
    validation: float = 0.2,
    seed: int = 0,
    strict: bool = False,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Splits[PairExamples]:
    """Load pairs of texts and split them.

    Args:
        source: A table, a TMX file or two parallel files, as for
            :func:`tfft.tasks.text_to_text.formats.read_pairs_of`; ``{"train": ..., "validation": ...}`` with
            two of these; a pair of two tables, the second held out; or a folder with files named ``train`` and ``val``
            (``valid``, ``validation``, ``dev``).
        text: Column, or language of a TMX file, to read.
        target: Column, or language of a TMX file, to write.
        validation: Share of the pairs to hold out, at most 2,000 pairs. Pairs with equal sources stay on one side.
        seed: Seed for the split.
        strict: Whether a pair that cannot be used is an error; otherwise it is skipped, unless a tenth are.
        encoding: Encoding of files.
        delimiter: Delimiter between the fields of a table.

    Returns:
        :class:`tfft.data.Splits`; print its ``report``.

    Raises:
        DataError: If the data cannot be used; the message names lines and remedies.

    Example:
        >>> splits = load_pairs("en-de.tsv", text="en", target="de")
    """
    form = {"encoding": encoding, "delimiter": delimiter}
    parts = _parts(source)
    read = [read_pairs_of(part, text, target, **form) for part in parts]  # type: ignore[arg-type]
    checked = [check_pairs(pairs, strict) for pairs in read]
    examples = [PairExamples.of(pairs, found.keep, found.skipped) for pairs, found in zip(read, checked, strict=True)]
    if len(parts) == 2:
        train, held, words = examples[0], examples[1], f"the parts {read[0].name} and {read[1].name}"
    else:
        held_out = _drawn(examples[0].sources, validation, seed)
        count = int(held_out.sum())
        train, held = examples[0].take(np.flatnonzero(~held_out)), examples[0].take(np.flatnonzero(held_out))
        words = f"{count:,} pairs of {read[0].name}, drawn with seed {seed}"
    if not len(train) or not len(held):
        raise DataError(
            f"Expected pairs for training and for validation. Received: {len(train)} and {len(held)} ({words})."
        )
    report = report_on(train, held, read[0].columns)
    skipped = tuple(one for found in checked for one in found.skipped)
    root = str(source) if isinstance(source, (str, os.PathLike)) else ""
    return Splits(train, held, words, TASK, skipped, duplicates=report.duplicates, report=report, root=root)


def read_pairs(source: Any, *, text: Any = None, target: Any = None, strict: bool = False, **form: Any) -> PairExamples:
    """Read all pairs of a source, without splitting it.

    Args:
        source: As in :func:`load_pairs`.
        text: As in :func:`load_pairs`.
        target: As in :func:`load_pairs`.
        strict: As in :func:`load_pairs`.
        **form: ``encoding`` and ``delimiter`` of files.
    """
    pairs = read_pairs_of(source, text, target, **form)
    found = check_pairs(pairs, strict)
    return PairExamples.of(pairs, found.keep, found.skipped)


def has_parts(source: Any) -> bool:
    """Whether a folder holds files for training and for validation."""
    return isinstance(source, (str, os.PathLike)) and Path(source).is_dir() and len(_folder_parts(Path(source))) == 2


def _parts(source: Any) -> list[Any]:
    """Return the source, or its parts for training and validation."""
    if isinstance(source, Mapping) and set(source) == {"train", "validation"}:
        return [source["train"], source["validation"]]
    if isinstance(source, (tuple, list)) and len(source) == 2:
        paths = all(isinstance(part, (str, os.PathLike)) for part in source)
        if paths and all(Path(part).suffix.lower() in _FILES for part in source):
            return list(source)
    if isinstance(source, (str, os.PathLike)) and Path(source).expanduser().is_dir():
        folder = Path(source).expanduser()
        parts = _folder_parts(folder)
        if len(parts) != 2:
            raise DataError(
                f"Expected the files train and val of pairs in {folder} ({', '.join(_FILES)}). Received: "
                f"{', '.join(sorted(path.name for path in folder.iterdir())[:10]) or 'nothing'}. Name the file itself, "
                "or two parallel files as a pair."
            )
        return parts
    return [source]


def _folder_parts(folder: Path) -> list[Any]:
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in _FILES]
    found = [next((path for path in files if path.stem.lower() in names), None) for names in _PARTS]
    return [path for path in found if path is not None]


def _drawn(sources: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return which pairs are held out, bool [N]: equal sources on one side, and at most 2,000 pairs."""
    share = min(share, 2_000 / max(1, len(sources)))
    keys = [" ".join(text.split()).casefold() for text in sources]
    distinct = sorted(set(keys))
    order = np.random.default_rng(seed).permutation(len(distinct))
    chosen = {distinct[i] for i in order[: max(1, round(share * len(distinct)))]}
    return np.array([key in chosen for key in keys])


def _hash_of(part: PairExamples) -> str:
    result = hashlib.sha256(b"pairs")
    add_texts(result, (part.sources, part.labels))
    return result.hexdigest()
