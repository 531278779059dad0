"""Findings about labels that a probe on frozen features doubts: :func:`label_findings`, :func:`doubted`.

Hides how examples of any kind become features: the same model that a training would start from, up to its head.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfft import heads, registry
from tfft.backbones import Backbone, load_backbone
from tfft.errors import DataError
from tfft.features import extract, split_head
from tfft.inspection.findings import Finding, Item
from tfft.inspection.label_noise import label_candidates
from tfft.models import build

NOT_CHECKED = "Labels were not checked: give a backbone for that."


def doubted(splits: Any, backbone: str | os.PathLike[str] | Backbone, seed: int, notes: list[str]) -> Iterator[Finding]:
    """Yield findings about the labels of both parts of a data set.

    Args:
        splits: from :func:`tfft.data.load`.
        backbone: whose features the probe is solved on.
        seed: of the folds.
        notes: one sentence is added where labels were not looked at.

    Raises:
        DataError: If the backbone takes something else.
        TfftError: If it cannot be opened.
    """
    if not registry.task(splits.task).checks_label_errors:
        notes.append("Labels were not checked: a probe tells classes, and these are several labels or numbers.")
        return
    kind = registry.modality(splits.modality)
    opened = opened_for(kind, backbone)
    parts: tuple[Any, ...] = (splits.train, splits.validation)
    head = heads.classification(list(splits.class_names))
    prefix, _ = split_head(build(opened, head, modality=kind.name, **kind.model_options(splits)))
    features = np.concatenate([np.asarray(extract(prefix, part, verbose=False).arrays) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    names = [name for part in parts for name in kind.example_names(part)]
    yield from label_findings(features, labels, splits.class_names, names, opened.name, seed, notes)


def opened_for(kind: registry.Modality, backbone: str | os.PathLike[str] | Backbone) -> Backbone:
    """Open a backbone that takes some kind of data.

    Raises:
        DataError: If it takes something else.
    """
    opened = backbone if isinstance(backbone, Backbone) else load_backbone(backbone)
    if kind.why_not(opened) is not None:
        raise DataError(
            f"The labels of {kind.items} cannot be checked with {opened.name!r}, which takes something else."
        )
    return opened


def label_findings(
    features: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    names: Sequence[str],
    backbone: str,
    seed: int,
    notes: list[str],
) -> Iterator[Finding]:
    """Yield a finding about labels that a probe doubts, if there are any.

    Args:
        features: of the examples, [N, D].
        labels: whole numbers [N].
        class_names: in the order of the labels.
        names: of the examples.
        backbone: name of what gave the features.
        seed: of the folds.
        notes: one sentence is added where there are too few examples.
    """
    found = label_candidates(features, labels, class_names, seed=seed)
    if found:
        items = tuple(
            Item(
                names[one.position],
                f"is labelled {one.label!r}; the probe says {one.suggested!r} ({one.probability:.0%})",
            )
            for one in found
        )
        message = f"{len(found)} labels may be wrong, by a probe on features of {backbone}"
        remedy = "look at them, the most doubtful first; many will be right"
        yield Finding("label", "note", message, remedy, items)
    elif np.bincount(labels, minlength=len(class_names)).min() < 5:
        notes.append("Labels were not checked: a class has fewer than 5 examples.")
