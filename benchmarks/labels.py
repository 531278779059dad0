"""How well wrong labels are found: a share of the labels is made wrong, and the list of candidates is looked at.

``python benchmarks/labels.py FOLDER``: features of EfficientNet-Lite0, one number for each seed.
"""

from __future__ import annotations

import argparse
import statistics

import common
import numpy as np

import tfft
from tfft.inspection import label_candidates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="with train/ and val/, or with class folders")
    parser.add_argument("--share", type=float, default=0.05, help="of the labels that are made wrong")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    common.machine()
    splits = tfft.data.load(options.folder)
    backbone = tfft.load_backbone(common.BACKBONE)
    found = [tfft.features.extract(backbone, part, verbose=False) for part in (splits.train, splits.validation)]
    features = np.concatenate([np.asarray(part.arrays) for part in found])
    features = features.mean(axis=(1, 2)) if features.ndim == 4 else features
    labels = np.concatenate([splits.train.labels, splits.validation.labels])
    already = [one.position for one in label_candidates(features, labels, splits.class_names)]
    print(f"\n{len(labels)} photos; listed as they are: {len(already)}")
    print(f"{'seed':>4} {'wrong':>6} {'listed':>7} {'of the wrong, listed':>21} {'of the first, wrong':>20}")
    shares = []
    for seed in range(options.seeds):
        random = np.random.default_rng(seed)
        wrong = random.choice(len(labels), round(options.share * len(labels)), replace=False)
        given = labels.copy()
        given[wrong] = (labels[wrong] + random.integers(1, len(splits.class_names), len(wrong))) % len(
            splits.class_names
        )
        listed = [one.position for one in label_candidates(features, given, splits.class_names, seed=seed)]
        hit = len(set(listed) & set(wrong)) / len(wrong)
        first = len(set(listed[: len(wrong)]) & set(wrong)) / max(1, min(len(wrong), len(listed)))
        shares.append((hit, first))
        print(f"{seed:4} {len(wrong):6} {len(listed):7} {hit:21.3f} {first:20.3f}", flush=True)
    for name, values in zip(("of the wrong, listed", "of the first, wrong"), zip(*shares, strict=True), strict=True):
        print(f"{name}: mean {statistics.mean(values):.3f}, {min(values):.3f} to {max(values):.3f}")


if __name__ == "__main__":
    main()
