"""Object detection: the class and the box of each object in an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from tfft.errors import installed_version, missing_package
from tfft.registry import Default, Evaluator, FeatureLevel, Metric, Modality, ReportBuilder, ScoreDisplay, Task

if TYPE_CHECKING:
    from tfft.heads import Head

__all__ = ["DETECTIONS", "OBJECT_DETECTION", "ObjectDetection"]

DETECTIONS = 100  # of one image, at most

_SHOWN, _SURE = 20, 0.3  # detections in a line, and the score from which they are shown
_WITHOUT = {
    "class_weight": "the loss already weights objects by how well they are found",
    "sampling": "an image may have objects of several classes",
    "separator": "its labels are boxes",
    "label_smoothing": "its class targets are already soft",
}


class ObjectDetection(Task):
    """Any number of objects per image, each with a class and a box.

    A label is float32 [M, 7], one row per object: class, top, left, bottom, right (normalized to the image), and
    height and width of the image in pixels. Class -1 is padding, ``-(2 + c)`` a crowd region of class c.
    """

    name: ClassVar[str] = "object_detection"
    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    feature_level: ClassVar[FeatureLevel] = "pyramid"
    solves_head: ClassVar[bool] = False
    head_reason: ClassVar[str] = (
        "trained: which cells answer for an object depends on what they predict, so no linear system gives the head"
    )
    image_pixels: ClassVar[int | None] = 288 * 384
    resize: ClassVar[Literal["crop", "stretch", "pad"] | None] = "stretch"  # boxes relative to the image stay valid
    moves_with_pixels: ClassVar[bool] = True
    head_settings: ClassVar[tuple[str, ...]] = ("architecture",)
    selection: ClassVar[Metric] = Metric("average_precision")

    @property
    def architectures(self) -> tuple[str, ...]:
        """Names of the heads."""
        from tfft.tasks.object_detection.head import LAYERS

        return tuple(LAYERS)

    @property
    def reader(self) -> Modality | None:
        """The reader of images with annotation files."""
        from tfft.tasks.object_detection.reader import BOXED_IMAGES

        return BOXED_IMAGES

    def class_names(self, values: Sequence[Any]) -> tuple[str, ...]:
        """Return the names of the objects that occur, sorted."""
        return tuple(sorted({str(row[0]) for objects in values for row in objects}))

    def encode(self, values: Sequence[Any], class_names: Sequence[str]) -> np.ndarray:
        """Return float32 [N, M, 7], M the objects of the fullest image, at least 1; class -1 for padding.

        Args:
            values: For each image its objects, each (class name, top, left, bottom, right, height, width), and True
                behind it for a crowd region.
            class_names: Names in the order of their numbers.
        """
        number = {name: at for at, name in enumerate(class_names)}
        labels = np.zeros((len(values), max(1, max(map(len, values), default=0)), 7), np.float32)
        labels[..., 0] = -1
        for row, objects in enumerate(values):
            for at, one in enumerate(objects):
                kind = number[str(one[0])]
                labels[row, at] = (-(2 + kind) if len(one) > 7 and one[7] else kind, *one[1:7])
        return labels

    def counts(self, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, int]:
        """Return the number of objects of each class; crowd regions do not count."""
        kinds = np.asarray(labels)[..., 0].reshape(-1).astype(int)
        totals = np.bincount(kinds[kinds >= 0], minlength=len(class_names))
        return dict(zip(class_names, totals.tolist(), strict=True))

    def array_problems(self, labels: np.ndarray, class_names: Sequence[str]) -> list[str]:
        """Return the problems of labels in memory, float [N, M, 7]."""
        if labels.ndim != 3 or labels.shape[-1] != 7:
            columns = "class, top, left, bottom, right (0 to 1), height, width"
            return [f"has labels {labels.shape}. Expected [N, M, 7]: {columns}"]
        kinds = labels[..., 0]
        objects = labels[kinds != -1]
        strange = np.unique(kinds[(kinds < -1 - len(class_names)) | (kinds >= len(class_names)) | (kinds % 1 != 0)])
        corners = objects[:, 1:5]
        outside = int(((corners < -0.01) | (corners > 1.01)).any(axis=1).sum())
        wrong = int((corners[:, 2:] <= corners[:, :2]).any(axis=1).sum())
        found = [
            (
                len(strange),
                f"has the classes {strange[:5].tolist()}. Expected 0 to {len(class_names) - 1}, -1 for padding",
            ),
            (outside, f"has {outside} boxes with corners outside of 0 to 1. Divide pixels by height and width"),
            (wrong, f"has {wrong} boxes without an area or reversed. Expected top, left, bottom, right"),
        ]
        return [sentence for count, sentence in found if count]

    def head_factory(self) -> Callable[..., Head]:
        """Return :func:`tfft.heads.object_detection`."""
        from tfft.tasks.object_detection.head import object_detection

        return object_detection

    def make_head(self, class_names: Sequence[str], **settings: Any) -> Head:
        """Make the head for a configuration; label smoothing and other losses do not apply.

        Raises:
            DependencyError: If the package for the scores is missing, before a run has spent time on training.
        """
        require_scores()
        known = ("dropout", "l2", "width", "score_threshold", "iou_threshold", *self.head_settings)
        return self.head_factory()(class_names, **{name: settings[name] for name in known if name in settings})

    def head_class(self) -> type[Head]:
        """Return the class of its heads."""
        from tfft.tasks.object_detection.head import ObjectDetectionHead

        return ObjectDetectionHead

    def unsupported(self, config: Any) -> Iterator[str]:
        """Report settings for one label per image."""
        for name, why in _WITHOUT.items():
            if getattr(config, name, None):
                yield f"{name} does not apply to object detection, since {why}: leave it out"
        if getattr(config, "resize", None) not in (None, self.resize):
            yield f"resize={config.resize!r} would move boxes: leave it out; images are stretched to the model's size"
        if getattr(config, "loss", "cross_entropy") != "cross_entropy":
            yield f"object detection has one loss, received loss={config.loss!r}: leave it out"

    def phase_defaults(self) -> Mapping[str, Default]:
        """Return small batches, many epochs, flips and crops, and no dropout."""
        return {
            "dropout": Default(0.0, "0: each cell is an example, and an image has thousands of them"),
            "batch_size": Default(8, "8: each cell is an example, so few images are enough for a step"),
            "head_epochs": Default(40, "40: a new detector needs about a thousand steps, and each is fast on a cache"),
            "epochs": Default(10, "10: the head is trained already"),
            "augment": Default(("flip", "crop"), "objects are found in any place and size, and boxes move along"),
            "views": Default(6, "the image, and five flips and crops of it, whose features are computed once"),
        }

    def phase_settings(self) -> Mapping[str, Any]:
        """Return AdamW with clipped gradients and averaged weights: a batch with few objects has a loss of its own."""
        return {"optimizer": "adamw", "weight_decay": 0.01, "global_clipnorm": 5.0, "ema_decay": 0.99}

    def evaluator(self, head: Head) -> Evaluator:
        """Return a new object that keeps the detections and objects of all images."""
        from tfft.tasks.object_detection.evaluator import DetectionEvaluator

        return DetectionEvaluator(head)

    def report_builder(self, head: Head) -> ReportBuilder:
        """Return a new object for precision-recall curves and the images with the most mistakes."""
        from tfft.tasks.object_detection.report import DetectionReport

        return DetectionReport(head)

    def score_display(self, metric: str) -> ScoreDisplay:
        """Name the scores as COCO does."""
        return ScoreDisplay("mAP", baseline="the same boxes in every image", details="at an IoU of 0.5 {map50:.4f}")

    def plain_outputs(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the served outputs of one image without the places that hold no detection."""
        count = int(row["num_detections"])
        return {
            "num_detections": count,
            "detection_boxes": np.asarray(row["detection_boxes"])[:count].tolist(),
            "detection_scores": np.asarray(row["detection_scores"])[:count].tolist(),
            "detection_classes": np.asarray(row["detection_classes"])[:count].tolist(),
            "detection_labels": [_text(label) for label in row["detection_labels"][:count]],
        }

    def format_prediction(self, name: str, outputs: Mapping[str, Any]) -> str:
        """Return the objects of an image in one line, the surest first, with their boxes in percent of its sides."""
        if "detection_boxes" not in outputs:
            return super().format_prediction(name, outputs)
        found = []
        for label, score, box, _ in _sure(outputs):
            top, left, bottom, right = (round(100 * side) for side in box)
            found.append(f"{label} {score:.2f} (top {top}, left {left}, bottom {bottom}, right {right} %)")
        if not found:
            return f"{name}: no object"
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        noun = "object" if len(found) == 1 else "objects"
        return f"{name}: {len(found)} {noun}: {'; '.join(found[:_SHOWN])}{more}"

    def draw(self, file: str, outputs: Mapping[str, Any]) -> bytes | None:
        """Return the image as a PNG file with its detections drawn on it, those with a score from 0.3 on."""
        from tfft.tasks.object_detection.drawing import draw_file

        return draw_file(file, _sure(outputs))

    def sample_labels(self, head: Head, scores: np.ndarray) -> np.ndarray:
        """Return one object per map: at the cell with the largest score, of its class, with the size of three cells."""
        scores = np.asarray(scores)[..., : head.units]
        labels = np.zeros((len(scores), 1, 7), np.float32)
        rows, columns = scores.shape[1:3]
        for at, one in enumerate(scores):
            row, column, kind = np.unravel_index(one.argmax(), one.shape)
            box = [(row - 1) / rows, (column - 1) / columns, (row + 2) / rows, (column + 2) / columns]
            labels[at, 0] = (kind, *np.clip(box, 0, 1), 8 * rows, 8 * columns)
        return labels

    def score_served(self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Mapping[str, float]:
        """Return the average precision of the served detections, counted as by the head's metric."""
        [metric] = head.metrics()
        served = (outputs[f"detection_{part}"] for part in ("boxes", "scores", "classes"))
        metric.update_detections(labels, *served)
        return {"average_precision": float(metric.result())}


def require_scores() -> None:
    """Check that the package for the scores is installed.

    Raises:
        DependencyError: If it is not.
    """
    if installed_version("pycocotools") is None:
        missing_package("pycocotools", "Object detection", 'pip install "tfft[detection]"')


def _sure(outputs: Mapping[str, Any]) -> list[tuple[str, float, Sequence[float], int]]:
    """Return label, score, box and class of the detections that are shown to a person."""
    names = ("detection_labels", "detection_scores", "detection_boxes", "detection_classes")
    return [one for one in zip(*(outputs[name] for name in names), strict=True) if one[1] >= _SURE]


def _text(label: Any) -> str:
    return label.decode() if isinstance(label, bytes) else str(label)


OBJECT_DETECTION = ObjectDetection()
