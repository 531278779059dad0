"""Report of a run: calibration by a loop, a page whose pictures load, the mistakes of a run, missing data."""

import base64
import dataclasses
import html.parser
import shutil
import subprocess
import xml.etree.ElementTree

import numpy as np
import pytest
import tensorflow as tf
from test_recipes import backbone

import tfft
from tfft.cli import main
from tfft.errors import TfftError
from tfft.evaluation import coverage_curve
from tfft.evaluation.calibration import calibration
from tfft.evaluation.temperature import fit_temperature
from tfft.registry import ExampleResult
from tfft.reporting import report
from tfft.reporting.embedding import Embedding, colours_of, draw_map, embed
from tfft.reporting.page import Page


def test_calibration_is_that_of_a_loop():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.3, 1.0, 200)
    correct = random.random(200) < confidence**2  # too confident
    found = calibration(confidence, correct)
    error = 0.0
    for low in np.arange(10) / 10:
        rows = [i for i in range(200) if low <= confidence[i] < low + 0.1 or (low == 0.9 and confidence[i] == 1)]
        if rows:
            error += len(rows) / 200 * abs(np.mean(confidence[rows]) - np.mean(correct[rows]))
    assert found.error == pytest.approx(error, abs=1e-12)
    assert found.interval[0] < found.error < found.interval[1]
    assert found.brier == pytest.approx(np.mean((confidence - correct) ** 2))
    assert found.counts.sum() == 200
    perfect = calibration(confidence, random.random(200) < confidence)
    assert perfect.error < found.error


def test_texts_of_a_page_are_escaped_and_numbers_aligned():
    page = Page("a <b> & c")
    page.table(("name", "share"), [("<script>", 0.5), ("x", None)])
    page.examples([("<i>text</i>", ExampleResult("yes", "no", 1.9, 0.9, False))])
    text = page.render()
    assert "<script>" not in text
    assert "<i>" not in text
    assert '<td class="number">0.5000' in text
    assert '<span class="bad">no (0.900)</span>' in text


def test_fewer_answers_are_more_often_right():
    random = np.random.default_rng(0)
    confidence = np.round(random.uniform(0.5, 1.0, 400), 2)
    correct = random.random(400) < confidence
    rows = coverage_curve(confidence, correct)
    assert rows[0].coverage == 1.0
    assert rows[0].accuracy == pytest.approx(correct.mean())
    assert [row.threshold for row in rows] == sorted(row.threshold for row in rows)
    for row, share in zip(rows, (1.0, 0.95, 0.9, 0.8, 0.7, 0.5), strict=True):
        kept = [bool(c) for p, c in zip(confidence, correct, strict=True) if p >= row.threshold]
        assert row.answers == len(kept)
        assert row.accuracy == pytest.approx(np.mean(kept))
        assert share <= row.coverage < share + 0.05  # equal probabilities stay together
        assert row.interval[0] < row.accuracy < row.interval[1]
    assert rows[-1].accuracy > rows[0].accuracy + 0.05
    assert len(coverage_curve(np.full(9, 0.7), np.arange(9) < 6)) == 1


def test_temperature_scaling_of_the_held_out_examples_is_shown():
    random = np.random.default_rng(0)
    logits = random.normal(size=(400, 3))
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([random.choice(3, p=row) for row in odds])
    head = tfft.heads.classification(list("abc"))
    scaling = fit_temperature(head, 4 * logits, labels)
    page = Page("report")
    after = report._scaling(page, scaling)
    assert f"divides the logits by {scaling.temperature:.3g}." in page.render()
    assert 3.2 < scaling.temperature < 4.8
    assert after.error < scaling.before.error / 2
    assert fit_temperature(head, logits[:49], labels[:49]) is None


@pytest.mark.slow
def test_groups_of_features_are_groups_on_the_map():
    random = np.random.default_rng(0)
    labels = [name for name in "abc" for _ in range(20)]
    centres = np.repeat(10 * np.eye(3, 8), 20, axis=0)
    found = embed(centres + random.normal(size=(60, 8)), labels)
    assert found.neighbours == 1.0
    assert found.method.startswith("t-SNE")
    distance = np.linalg.norm(found.points[:, None] - found.points, axis=-1) + 9 * np.eye(60)
    assert [labels[at] for at in distance.argmin(axis=1)] == labels
    np.testing.assert_array_equal([found.points.min(), found.points.max()], [0, 1])
    again = embed(centres + random.normal(size=(60, 8)), random.permutation(labels))
    assert again.neighbours < 0.7  # labels without a meaning


@pytest.mark.nightly
def test_a_map_shows_at_most_a_thousand_examples():
    random = np.random.default_rng(0)
    many = embed(random.normal(size=(1100, 4)), ["a", "b"] * 550)
    assert len(many.rows) == len(many.points) == 1000


def test_a_map_shows_labels_mistakes_and_names_escaped():
    names = ["<b>one</b>", "two", "three"]
    results = [ExampleResult("x", "x", 0.1, 0.9, True), ExampleResult("y", "x", 1, 0.9, False)]
    results.append(ExampleResult("y", "y", 0.1, 0.9, True))
    place = Embedding(np.arange(3), np.array([[0, 0], [1, 1], [0.5, 0.5]]), "", 1.0)
    drawn = xml.etree.ElementTree.fromstring(draw_map(place, names, results, colours_of(["x", "y"])))
    dots = [group.find("circle") for group in drawn]
    assert [dot.find("title").text for dot in dots] == ["<b>one</b>: x", "two: y, predicted x", "three: y"]
    assert len({dot.get("fill") for dot in dots}) == 2
    assert [dot.get("stroke-width") for dot in dots] == [None, "2.5", None]


class Pictures(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.sources, self.headings, self._heading = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._heading = tag == "h2"
        if tag == "img":
            self.sources.append(dict(attributes)["src"])

    def handle_data(self, data):
        if self._heading:
            self.headings.append(data)
        self._heading = False


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    random = np.random.default_rng(0)
    for name, colour in (("blue", (30, 60, 200)), ("red", (210, 40, 40))):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(52):
            pixels = np.clip(random.normal(0, 20, (18, 24, 3)) + colour, 0, 255).astype(np.uint8)
            (root / "photos" / name / f"{name}{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    for i in range(4):  # wrong labels
        pixels = np.clip(random.normal(0, 20, (18, 24, 3)) + (210, 40, 40), 0, 255).astype(np.uint8)
        (root / "photos" / "blue" / f"wrong{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    settings = {"plan": "linear_probe", "batch_size": 8, "validation": 0.5, "l2": 1e-3}
    return tfft.finetune(backbone(), root / "photos", out=root / "run", export_to=False, verbose=False, **settings)


@pytest.mark.slow
def test_a_report_shows_scores_curves_calibration_and_mistakes(run, capsys):
    assert main(["report", str(run.folder)]) == 0
    assert capsys.readouterr().out == f"Report: {run.folder / 'report.html'}\n"
    text = (run.folder / "report.html").read_text("utf-8")
    page = Pictures(text)
    explained = [1 for title in page.headings if title == "Why the most confident mistakes"]
    wrong = run.final_scores.examples - round(run.final_scores.accuracy * run.final_scores.examples)
    assert [title for title in page.headings if title.startswith("Mistakes")] == [
        f"Mistakes ({wrong} of {run.final_scores.examples}), the most confident first"
    ]
    assert {"Learning curves", "Scores per class", "Calibration", "Data check", "Settings"} <= set(page.headings)
    assert f"{run.final_scores.accuracy:.4f}" in text
    assert ("Temperature scaling divides the logits by" in text) == (run.calibration is not None)
    sizes = []
    for source in page.sources:
        kind, data = source.split(";base64,")
        if kind == "data:image/svg+xml":
            assert xml.etree.ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")
        else:
            sizes.append(tuple(tf.io.decode_jpeg(base64.b64decode(data)).shape))
    assert set(sizes) == {(96, 96, 3), (18, 24, 3)}
    assert len(explained) == 1
    assert {"Map of the features", "Answering only when certain"} <= set(page.headings)
    drawn = xml.etree.ElementTree.fromstring(text[text.index("<svg class") : text.index("</svg>") + 6])
    assert len(drawn) == run.final_scores.examples
    assert len(drawn.findall(".//image")) == run.final_scores.examples
    assert sum(dot.get("stroke-width") == "2.5" for dot in drawn.iter("circle")) == wrong
    assert sizes.count((18, 24, 3)) == min(wrong, 6)  # the mistakes with their heat maps
    assert "src=http" not in text.replace('"', "")


@pytest.mark.slow
def test_without_data_or_a_folder_the_reason_is_given(run, tmp_path):
    gone = dataclasses.replace(run, plan=dataclasses.replace(run.plan, data=str(tmp_path / "gone")))
    text = tfft.write_report(gone, tmp_path / "page.html").read_text("utf-8")
    assert "gone does not exist here" in text
    assert "Scores per class" in text
    with pytest.raises(TfftError, match="Expected a run with a folder, or path="):
        tfft.write_report(dataclasses.replace(run, folder=None))


@pytest.mark.nightly
@pytest.mark.process
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser")
def test_the_page_opens_in_a_browser_of_any_width(run, tmp_path):
    path = tfft.write_report(run, tmp_path / "page.html")
    script = (
        "<script>addEventListener('load', () => { const broken = [...document.images].filter(i => !i.naturalWidth);"
        "document.title = `broken ${broken.length}, scrolls ${document.documentElement.scrollWidth > innerWidth}` })"
        "</script></html>"
    )
    path.write_text(path.read_text("utf-8").replace("</html>", script), "utf-8")
    for width in (400, 1400):
        command = [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--window-size={width},900",
            "--dump-dom",
        ]
        done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
        assert "<title>broken 0, scrolls false</title>" in done.stdout
