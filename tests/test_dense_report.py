"""Sections of the report for detectors and segmenters, from predictions made by hand."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfft import heads, registry
from tfft.registry import ReportCurves, ReportPicture, ReportSection
from tfft.reporting.page import Page
from tfft.reporting.report import _section
from tfft.tasks.semantic_segmentation import OUTSIDE, VOID

RNG = np.random.default_rng(0)
CLASSES = ("cat", "dog")


def logits_of(detections):
    """Output of a detector whose cells are these: (class, probability, top, left, bottom, right)."""
    output = np.full((1, len(detections), len(CLASSES) + 6), 0.0, np.float32)
    output[..., : len(CLASSES)] = -20
    for cell, (kind, score, *box) in zip(output[0], detections, strict=True):
        cell[kind] = np.log(score / (1 - score))
        cell[2:6] = box
    return output


def label_of(objects):
    return np.array([[(*one, 40, 60) for one in objects] or [(-1, 0, 0, 0, 0, 40, 60)]], np.float32)


A, B = (0.1, 0.1, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9)


def pictures(folder, count, size=(40, 60)):
    names = [str(folder / f"{at}.png") for at in range(count)]
    for name in names:
        Image.fromarray(RNG.integers(0, 256, (*size, 3)).astype(np.uint8)).save(name)
    return names


@pytest.mark.slow
def test_a_detector_shows_curves_and_the_pictures_with_the_most_mistakes(tmp_path):
    names = pictures(tmp_path, 3)
    builder = registry.task("object_detection").report_builder(heads.object_detection(CLASSES))
    builder.add([names[0]], label_of([(0, *A)]), logits_of([(0, 0.9, *A), (1, 0.05, *B)]))  # right
    builder.add([names[1]], label_of([(0, *A), (1, *B)]), logits_of([(0, 0.8, *B), (0, 0.6, *A), (1, 0.04, *A)]))
    builder.add([names[2]], label_of([(1, *B)]), logits_of([(1, 0.7, *B)]))  # right
    curves, worst = builder.sections()
    recall, precision = curves.curves.lines["cat"]
    # In descending order: 0.9 right, 0.8 wrong, 0.6 right; half of the cats with precision 1, all with 2/3.
    np.testing.assert_allclose(precision, np.where(recall <= 0.5, 1.0, 2 / 3), atol=1e-6)
    assert worst.title == "Images with the most mistakes"
    found = {one.caption.split(":")[0]: one for one in worst.pictures}
    assert list(found) == ["1.png"]
    assert found["1.png"].caption == "1.png: 2 objects, 1 of another class"  # the dog B
    drawn = tf.io.decode_jpeg(found["1.png"].jpeg).numpy()
    assert drawn.shape == (40, 60, 3)
    plain = np.asarray(Image.open(names[1])).astype(int)
    assert (np.abs(drawn - plain).max(-1) > 150)[20, 30:54].mean() > 0.5  # the upper side of the box B


def test_a_segmenter_shows_the_worst_pictures_beside_the_truth(tmp_path):
    names = pictures(tmp_path, 3)
    head = heads.semantic_segmentation(CLASSES, width=8)
    builder = registry.task("semantic_segmentation").report_builder(head)
    masks = np.full((3, 44, 60), OUTSIDE, np.int16)
    masks[:, :40] = 0
    masks[:, :20] = 1
    masks[:, 0] = VOID
    logits = np.zeros((3, 10, 15, 2), np.float32)
    logits[0, :5, :, 1] = logits[0, 5:, :, 0] = 9  # right
    logits[1, ..., 0] = 9  # one class everywhere
    logits[2, :5, :8, 1] = logits[2, :5, 8:, 0] = logits[2, 5:, :, 0] = 9  # half of the upper half
    for at in range(3):
        builder.add([names[at]], masks[at : at + 1], logits[at : at + 1])
    [section] = builder.sections()
    assert [one.caption.split(":")[0] for one in section.pictures] == ["1.png", "2.png", "0.png"]
    assert section.pictures[0].caption.endswith(f"mean IoU {20 / 39 / 2:.3f}")
    assert section.pictures[2].caption.endswith("mean IoU 1.000")
    assert list(section.legend) == list(CLASSES)
    drawn = tf.io.decode_jpeg(section.pictures[0].jpeg).numpy().astype(int)
    assert drawn.shape == (40, 60 + 4 + 60, 3)
    colours = np.array([[int(code[at : at + 2], 16) for at in (1, 3, 5)] for code in section.legend.values()])
    plain = np.asarray(Image.open(names[1])).astype(int)
    for part, classes in ((drawn[:, :60], (1, 0)), (drawn[:, 64:], (0, 0))):
        for rows, kind in ((np.s_[2:18], classes[0]), (np.s_[22:38], classes[1])):
            wanted = ((plain + colours[kind]) / 2)[rows].mean(axis=(0, 1))
            np.testing.assert_allclose(part[rows].mean(axis=(0, 1)), wanted, atol=4)


def test_without_files_nothing_is_drawn(tmp_path):
    builder = registry.task("semantic_segmentation").report_builder(heads.semantic_segmentation(CLASSES, width=8))
    builder.add([str(tmp_path / "gone.png")], np.zeros((1, 8, 8), int), np.zeros((1, 2, 2, 2), np.float32))
    assert builder.sections() == []


def test_sections_are_escaped_and_need_no_network():
    pytest.importorskip("matplotlib")
    line = np.linspace(0, 1, 5)
    jpeg = tf.io.encode_jpeg(np.zeros((4, 4, 3), np.uint8)).numpy()
    section = ReportSection(
        "<b>", ("a & b",), ReportCurves("recall", "precision", {"cat": (line, 1 - line)}), {"<i>": "#4477aa"},
        (ReportPicture("<p>", jpeg),),
    )  # fmt: skip
    page = Page("x")
    _section(page, section)
    text = page.render()
    assert "<h2>&lt;b&gt;</h2>" in text
    assert "background:#4477aa" in text
    assert "&lt;i&gt;" in text
    assert "<figcaption>&lt;p&gt;" in text
    assert text.count('src="data:image/') == 2
    assert "http" not in text


def test_other_tasks_have_no_sections_of_their_own():
    assert registry.task("classification").report_builder(heads.classification(CLASSES)) is None
