"""Scores of semantic segmentation, at the size of the masks.

Implementation notes: intersections and unions of all images add up, so the evaluator keeps three numbers per image
and class. The bootstrap for the interval resamples these.
"""

from __future__ import annotations

import numpy as np

from tfft.errors import DataError, join_names
from tfft.evaluation.scores import Scores, class_rows
from tfft.heads import Head
from tfft.registry import Evaluator
from tfft.specs import InputSpec
from tfft.tasks.semantic_segmentation import OUTSIDE, VOID
from tfft.tasks.semantic_segmentation.enlarge import mask_of

_TOLERANCE = 0.0075  # of the diagonal of an image, as Csurka et al. (2013)
_STRETCHED = InputSpec(resize="stretch")  # the masks of batches fill the size of the model
_DRAWS, _AT_A_TIME = 1000, 50  # bootstrap samples, and how many are drawn together


class SegmentationEvaluator(Evaluator):
    """Counts of pixels and boundaries; one for each evaluation.

    Logits are enlarged to the size of the masks (bilinear), and void pixels count nowhere.

    Args:
        head: Head with the class names.
    """

    def __init__(self, head: Head) -> None:
        self.names = list(head.class_names or ())
        classes = len(self.names)
        self.confusion = np.zeros((classes, classes), np.int64)
        self.pictures: list[np.ndarray] = []  # each [3, classes]: pixels that are right, true and predicted
        self.boundaries = np.zeros((4, classes), np.int64)  # true, of these matched; predicted, of these matched

    def check(self, labels: np.ndarray) -> None:
        """Raise DataError for labels that are not masks of the head's classes."""
        if labels.ndim == 4 and labels.shape[-1] == 1:
            labels = labels[..., 0]
        if labels.ndim != 3 or labels.dtype.kind not in "iu":
            raise DataError(
                f"Expected masks [B, H, W] of integers. Received: {labels.dtype} {labels.shape}. Colours and "
                "one-hot masks: give the number of the class of each pixel."
            )
        strange = np.setdiff1d(np.unique(labels), [*range(len(self.names)), VOID, OUTSIDE]).tolist()
        if strange:
            raise DataError(
                f"Expected masks with the values 0 to {len(self.names) - 1}, and {VOID} for pixels without a label. "
                f"Received: {join_names(strange)}."
            )

    def update(self, labels: np.ndarray, logits: np.ndarray) -> None:
        """Add a batch of masks [B, H, W], :data:`OUTSIDE` beyond the edges of an image, and logits [B, h, w, C]."""
        for true, cells in zip(labels.reshape(labels.shape[:3]), logits, strict=True):
            true = own_size(true).astype(np.int64)
            self._add(true, np.where(true == VOID, VOID, found_mask(cells, true)))

    def _add(self, true: np.ndarray, found: np.ndarray) -> None:
        classes, labelled = len(self.names), true != VOID
        pairs = np.bincount(classes * true[labelled] + found[labelled], minlength=classes**2)
        table = pairs.reshape(classes, classes)
        self.confusion += table
        self.pictures.append(np.stack([table.diagonal(), table.sum(axis=1), table.sum(axis=0)]))
        self.boundaries += boundary_counts(true, found, classes)

    def result(self, count: int, loss: float) -> Scores:
        """Return the scores of ``count`` images."""
        pictures = np.array(self.pictures, np.int64).reshape(-1, 3, len(self.names))
        right, true, found = totals = pictures.sum(axis=0)
        pixels = int(true.sum())
        if not pixels:
            raise DataError("No pixel of the dataset has a label, so there is nothing to evaluate.")
        shown = true + found > 0
        majority = np.zeros_like(totals)
        majority[1], majority[2, true.argmax()], majority[0, true.argmax()] = true, pixels, true.max()
        iou = ious(totals)
        measures = {
            "mean_iou": mean_iou(totals),
            "mean_dice": float(np.mean(2 * right[shown] / (true + found)[shown])),
            "pixel_accuracy": int(right.sum()) / pixels,
            "boundary_f1": _mean_boundary_f1(self.boundaries),
        }
        named = zip(self.names, iou.tolist(), shown.tolist(), strict=True)
        measures |= {f"iou of {name}": value for name, value, there in named if there}
        return Scores(
            task="semantic_segmentation",
            examples=count,
            items="images",
            loss=loss,
            accuracy=int(right.sum()) / pixels,
            interval=bootstrap_interval(pictures),
            metric="mean_iou",
            majority_baseline=mean_iou(majority),
            per_class=tuple(class_rows(self.names, right, true, found)),
            confusion=self.confusion,
            measures=measures,
        )


def own_size(mask: np.ndarray) -> np.ndarray:
    """Return the part of a mask of a batch that is its image, without what is beyond its edges."""
    inside = mask != OUTSIDE
    return mask[: inside.any(axis=1).sum(), : inside.any(axis=0).sum()]


def found_mask(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the most probable class of each pixel in the size of a mask, uint8 [H, W], from logits [h, w, C]."""
    found: np.ndarray = mask_of(logits, mask.shape, _STRETCHED).numpy()
    return found


def ious(counts: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each class; 0 for classes that are neither true nor predicted.

    Args:
        counts: Pixels that are right, true and predicted, [..., 3, C].

    Returns:
        float64 [..., C].
    """
    right, true, found = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    return right / np.maximum(true + found - right, 1)


def mean_iou(counts: np.ndarray) -> float:
    """Return the mean of :func:`ious` over the classes that are true or predicted somewhere."""
    return float(_means(np.asarray(counts)[None])[0])


def _means(counts: np.ndarray) -> np.ndarray:
    shown = counts[:, 1] + counts[:, 2] > 0
    return (ious(counts) * shown).sum(axis=-1) / np.maximum(shown.sum(axis=-1), 1)


def bootstrap_interval(pictures: np.ndarray) -> tuple[float, float]:
    """Return a 95 % interval of the mean IoU by a bootstrap over images (Efron, 1979).

    Images are resampled, not pixels: neighbouring pixels are not independent. Nor are frames of one video, for
    which the interval is too narrow.

    Args:
        pictures: Pixels that are right, true and predicted, int [N, 3, C].

    Returns:
        Lower and upper end; 0 and 1 for fewer than two images.
    """
    count = len(pictures)
    if count < 2:
        return 0.0, 1.0
    random, flat = np.random.default_rng(0), pictures.reshape(count, -1).astype(np.float64)
    values = []
    for _ in range(0, _DRAWS, _AT_A_TIME):
        often = random.multinomial(count, np.full(count, 1 / count), size=_AT_A_TIME)
        values.append(_means((often @ flat).reshape(-1, *pictures.shape[1:])))
    low, high = np.quantile(np.concatenate(values), (0.025, 0.975)).tolist()
    return low, high


def boundary_counts(true: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """Count the boundary pixels of two masks of an image, and those with a match nearby.

    A boundary pixel of a class has a labelled pixel of another class above, below, left or right of it. It is matched
    if the other mask has a boundary pixel of the same class within 0.75 % of the diagonal, at least one pixel, along
    both axes. This is the boundary F1 of Csurka et al., "What is a good evaluation measure for semantic segmentation?"
    (2013), with two differences: distances are those of a square, not of a disk, and counts are added over images
    before the score of a class is computed, so that images without the class need no rule.

    Args:
        true: Mask int [H, W], :data:`VOID` for no label.
        found: Predicted mask int [H, W], void where ``true`` is.
        classes: Number of classes.

    Returns:
        int64 [4, classes]: true boundary pixels and how many of them are matched, predicted ones and how many are.
    """
    reach = max(1, round(_TOLERANCE * float(np.hypot(*true.shape))))
    counts = np.zeros((4, classes), np.int64)
    edges = [(mask, _edges(mask)) for mask in (true, found)]
    for c in np.unique([*np.unique(true), *np.unique(found)]):
        if c == VOID:
            continue
        ours, theirs = (edge & (mask == c) for mask, edge in edges)
        counts[:, c] = (
            ours.sum(),
            (ours & _grown(theirs, reach)).sum(),
            theirs.sum(),
            (theirs & _grown(ours, reach)).sum(),
        )
    return counts


def _edges(mask: np.ndarray) -> np.ndarray:
    edge, labelled = np.zeros(mask.shape, bool), mask != VOID
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = (mask[one] != mask[other]) & labelled[one] & labelled[other]
        edge[one] |= differs
        edge[other] |= differs
    return edge


def _grown(mask: np.ndarray, reach: int) -> np.ndarray:
    """Return where a pixel is within ``reach`` rows and columns of a True one."""
    for _ in range(2):
        grown = mask.copy()
        for step in range(1, min(reach, len(mask) - 1) + 1):
            grown[step:] |= mask[:-step]
            grown[:-step] |= mask[step:]
        mask = grown.T
    return mask


def _mean_boundary_f1(counts: np.ndarray) -> float:
    """Return the mean over the classes with a boundary of the harmonic mean of precision and recall."""
    true, true_matched, found, found_matched = counts.astype(np.float64)
    shown = true + found > 0
    recall, precision = true_matched / np.maximum(true, 1), found_matched / np.maximum(found, 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(f1[shown].mean()) if shown.any() else 1.0
