"""Labels that are doubtful according to a probe on frozen features: :func:`label_findings`, :func:`doubtful_labels`.

Implementation notes: the features come from the model that a training would start from, without its head.
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


def doubtful_labels(
    splits: Any, backbone: str | os.PathLike[str] | Backbone, seed: int, notes: list[str]
) -> Iterator[Finding]:
    """Yield findings about the labels of both parts of a dataset.

    Args:
        splits: Splits from :func:`tfft.data.load`.
        backbone: Backbone for the features.
        seed: Seed for the folds.
        notes: List to which a sentence is added if labels were not checked.

    Raises:
        DataError: If the backbone takes another modality.
        TfftError: If the backbone cannot be opened.
    """
    if not registry.task(splits.task).checks_label_errors:
        notes.append("Labels were not checked: a probe needs one class per example.")
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
    """Open a backbone for a modality.

    Raises:
        DataError: If it takes another modality.
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
    """Yield a finding about doubtful labels, if there are any.

    Args:
        features: Features of the examples, [N, D].
        labels: Integers [N].
        class_names: Class names in the order of the labels.
        names: Names of the examples.
        backbone: Name of the backbone.
        seed: Seed for the folds.
        notes: List to which a sentence is added if there are too few examples.
    """
    found = label_candidates(features, labels, class_names, seed=seed)
    if found:
        items = tuple(
            Item(
                names[one.position],
                f"is labelled {one.label!r}; the probe predicts {one.suggested!r} ({one.probability:.0%})",
            )
            for one in found
        )
        message = f"{len(found)} labels may be wrong, according to a probe on features of {backbone}"
        remedy = "check them, the most doubtful first; many will be correct"
        yield Finding("label", "note", message, remedy, items)
    elif np.bincount(labels, minlength=len(class_names)).min() < 5:
        notes.append("Labels were not checked: a class has fewer than 5 examples.")
