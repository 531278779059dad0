"""The blocks and feature maps of every network of ``keras.applications``, as the table of docs/keras_models.md.

Nothing is trained and no weight is downloaded; a network takes one to ten seconds. Names restrict the table:
``python benchmarks/applications.py ResNet50 VGG16``.
"""

from __future__ import annotations

import itertools
import os
import re
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tfft
from tfft.backbones.catalog import APPLICATIONS
from tfft.errors import BackboneError


def short(names: list[str]) -> str:
    """Returns names with runs of numbers or letters drawn together: ``conv2_block1–3``."""
    key = lambda name: re.sub(r"(\d+|(?<=\d)[a-z])$", "", name)  # noqa: E731
    shown = []
    for start, group in itertools.groupby(names, key):
        run = list(group)
        end = run[-1].removeprefix(start)
        shown.append(run[0] if len(run) == 1 else f"{run[0]}–{end}")
    return ", ".join(shown)


def row(name: str) -> str:
    backbone = tfft.load_backbone(f"keras:{name}:random")
    names = [block.name for block in backbone.blocks]
    try:
        maps = tfft.backbones.feature_maps(backbone)
        strides = ", ".join(f"{stride}: `{found.block}`" for stride, found in maps.items() if stride >= 4)
    except BackboneError:
        strides = "none aligned with the image"
    millions = sum(block.parameters for block in backbone.blocks) / 1e6
    return f"| {name} | {millions:.1f} | {len(names)} | {short(names)} | {strides} |"


if __name__ == "__main__":
    print("| network | million parameters | blocks | names | feature maps by stride |\n|---|---|---|---|---|")
    for application in APPLICATIONS:
        if not sys.argv[1:] or application.name in sys.argv[1:]:
            print(row(application.name), flush=True)
