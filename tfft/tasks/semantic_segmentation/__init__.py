"""Semantic segmentation: one class per pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from tfft.registry import Default, Evaluator, FeatureLevel, Metric, Modality, ReportBuilder, ScoreDisplay, Task

if TYPE_CHECKING:
    from tfft.heads import Head

__all__ = ["SEMANTIC_SEGMENTATION", "STRIDE", "VOID", "SemanticSegmentation"]

VOID = 255  # label of a pixel without a class; it counts in no loss and no score
OUTSIDE = -1  # label beyond the edges of an image, in a batch of masks of several sizes
STRIDE = 4  # pixels of the image per cell of the logits, along each side
_SHOWN = 5  # classes in the line for a prediction


class SemanticSegmentation(Task):
    """One class per pixel of an image.

    Labels in batches are masks, integers [B, H, W]. The labels of loaded examples are int32 [N, 1 + classes]: the
    position of the mask file, and the number of pixels of each class, see
    :class:`tfft.tasks.semantic_segmentation.data.MaskedImages`.
    """

    name: ClassVar[str] = "semantic_segmentation"
    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    feature_level: ClassVar[FeatureLevel] = "pyramid"
    strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)
    solves_head: ClassVar[bool] = False
    head_reason: ClassVar[str] = "trained: a decoder of several layers has no closed solution"
    image_pixels: ClassVar[int | None] = 170_000  # 352 x 480 for the common shape of photos
    resize: ClassVar[Literal["crop", "stretch", "pad"] | None] = "stretch"  # a crop would never see the sides
    moves_with_pixels: ClassVar[bool] = True
    head_settings: ClassVar[tuple[str, ...]] = ("architecture",)
    selection: ClassVar[Metric] = Metric("mean_iou")

    @property
    def architectures(self) -> tuple[str, ...]:
        """Names of the heads."""
        from tfft.tasks.semantic_segmentation.head import LAYERS

        return tuple(LAYERS)

    @property
    def reader(self) -> Modality | None:
        """The reader of images with masks."""
        from tfft.tasks.semantic_segmentation.reader import MASKED_PICTURES

        return MASKED_PICTURES

    def counts(self, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, int]:
        """Return the number of images that show each class."""
        return dict(zip(class_names, (labels[:, 1:] > 0).sum(axis=0).tolist(), strict=True))

    def array_problems(self, labels: np.ndarray, class_names: Sequence[str]) -> list[str]:
        """Return the problems of masks in memory, int [N, H, W]."""
        if labels.ndim != 3 or labels.dtype.kind not in "iu":
            return [f"has masks {labels.shape} of {labels.dtype}. Expected integers [N, H, W], one class per pixel"]
        strange = np.setdiff1d(np.unique(labels), [*range(len(class_names)), VOID])
        if not len(strange):
            return []
        last = len(class_names) - 1
        return [f"has the values {strange[:5].tolist()}. Expected 0 to {last}, and {VOID} for pixels without a label"]

    def head_factory(self) -> Callable[..., Head]:
        """Return :func:`tfft.heads.semantic_segmentation`."""
        from tfft.tasks.semantic_segmentation.head import semantic_segmentation

        return semantic_segmentation

    def make_head(self, class_names: Sequence[str], **settings: Any) -> Head:
        """Build the head for a configuration."""
        return self.head_factory()(class_names, **settings)

    def head_class(self) -> type[Head]:
        """Return the class of its heads."""
        from tfft.tasks.semantic_segmentation.head import SemanticSegmentationHead

        return SemanticSegmentationHead

    def unsupported(self, config: Any) -> Iterator[str]:
        """Report settings for one label per example, and augmentation that masks cannot follow."""
        if getattr(config, "class_weight", None):
            yield "class_weight does not apply, since classes are weighted by their pixels: leave it out"
        for name in ("sampling", "separator"):
            if getattr(config, name, None):
                yield f"{name} does not apply where each pixel has a class: leave it out"
        changes = getattr(config, "augment", None)
        names = [changes] if isinstance(changes, str) else changes
        named = isinstance(names, (list, tuple)) and any(str(one).partition("=")[0] == "rand" for one in names)
        if named or getattr(changes, "rand", None):
            yield "augment='rand' distorts images in ways that masks cannot follow: use 'flip', 'crop' and 'colour'"

    def phase_defaults(self) -> Mapping[str, Default]:
        """Return small batches, less dropout, and a frozen backbone."""
        return {
            "batch_size": Default(8, "8: each image has thousands of cells, each of them an example"),
            "dropout": Default(0.1, "0.1: the decoder has few channels, and neighbouring pixels agree anyway"),
            "head_epochs": Default(20, "20: a new decoder needs some hundred steps, and each is fast on a cache"),
            "augment": Default(("flip", "crop"), "regions are found in any place and size, and masks move along"),
            "views": Default(6, "the image, and five flips and crops of it, whose features are computed once"),
            "unfreeze": Default(
                "none",
                "none: the decoder is deep enough for frozen features, which are computed once (unfreeze=2 tunes "
                "the last blocks too, at many times the cost)",
            ),
        }

    def phase_settings(self) -> Mapping[str, Any]:
        """Return weight decay, as the decoder is trained from the start."""
        return {"weight_decay": 0.01}

    def evaluator(self, head: Head) -> Evaluator:
        """Return a new object that counts pixels."""
        from tfft.tasks.semantic_segmentation.evaluator import SegmentationEvaluator

        return SegmentationEvaluator(head)

    def report_builder(self, head: Head) -> ReportBuilder:
        """Return a new object for the images with the lowest IoU."""
        from tfft.tasks.semantic_segmentation.report import SegmentationReport

        return SegmentationReport(head)

    def score_display(self, metric: str) -> ScoreDisplay:
        """Count pixels."""
        return ScoreDisplay(metric.replace("_", " ").replace("iou", "IoU"), count="pixels", columns=("dice", "iou"))

    def format_prediction(self, name: str, outputs: Mapping[str, Any]) -> str:
        """Return the classes of an image with their shares, the largest first."""
        if "shares" not in outputs:
            return super().format_prediction(name, outputs)
        shares = outputs["shares"]
        named = shares if isinstance(shares, Mapping) else {f"class {c}": share for c, share in enumerate(shares)}
        shown = sorted(((share, label) for label, share in named.items() if share > 0), reverse=True)[:_SHOWN]
        return f"{name}: {', '.join(f'{label} {100 * share:.1f} %' for share, label in shown)}"

    def plain_outputs(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return mask and shares; probabilities of every cell would fill megabytes of text."""
        if "shares" not in row:
            return None
        # In a batch, each mask is as large as the largest image.
        rows, columns = row.get("size", row["mask"].shape)
        return {"shares": row["shares"].tolist(), "mask": row["mask"][:rows, :columns].tolist()}

    def draw(self, file: str, outputs: Mapping[str, Any]) -> bytes | None:
        """Draw the mask over an image, in its own size."""
        from tfft.tasks.semantic_segmentation.drawing import draw_file

        if "mask" not in outputs:
            return None
        return draw_file(file, np.array(outputs["mask"], np.uint8), len(outputs["shares"]))

    def sample_labels(self, head: Head, scores: np.ndarray) -> np.ndarray:
        """Return the class with the largest score of each cell; the first cell of every other image is void."""
        labels = scores[..., : head.units].argmax(-1).astype("int32")
        labels[::2, 0, 0] = VOID
        return labels

    def score_served(self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Mapping[str, float]:
        """Return the share of the labelled cells whose most probable class is right."""
        labelled = labels != VOID
        found = outputs["probabilities"].argmax(-1)
        return {"accuracy": float(np.mean(found[labelled] == labels[labelled]))}


SEMANTIC_SEGMENTATION = SemanticSegmentation()
