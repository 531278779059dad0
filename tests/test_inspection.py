"""Planted faults are named, and clean data gives no finding."""

import json
import pathlib

import keras
import numpy as np
import pytest
from faulty_data import (
    CLASSES,
    EACH,
    PICTURES,
    SPLIT,
    TABLES,
    clean_pictures,
    clean_rows,
    encoded,
    finding_of,
    picture,
    write_rows,
)
from PIL import Image
from test_recipes import backbone
from test_recordings import TONES, tone, write
from text_models import tiny_bert_folder

import tfft
from tfft import cli
from tfft.backbones import Backbone
from tfft.errors import DataError
from tfft.inspection import Finding, check, label_candidates
from tfft.inspection.drift import ks_chance, ks_distance
from tfft.modalities.image import file_info as facts_module
from tfft.modalities.image.file_info import facts_of
from tfft.specs import InputSpec


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return clean_pictures(tmp_path_factory.mktemp("clean"))


def planted(report, kind, places):
    finding = finding_of(report, kind)
    assert finding is not None, f"no {kind!r} in {[f.kind for f in report.findings]}"
    assert finding.remedy
    text = " ".join([finding.message, *map(str, finding.items)])
    assert places in text, text
    return finding


def test_there_are_enough_faults():
    assert len(PICTURES) + len(SPLIT) + len(TABLES) >= 60


def test_clean_pictures_give_no_finding(clean, tmp_path):
    assert check(clean).findings == ()
    split = clean_pictures(tmp_path / "split", ("train", "val"))
    report = check(split)
    assert report.findings == ()
    assert report.counts == {part: dict.fromkeys(CLASSES, EACH) for part in ("train", "validation")}


@pytest.mark.parametrize("fault", PICTURES)
def test_each_fault_of_pictures_is_named(fault, tmp_path):
    put, kind, places = PICTURES[fault]
    root = clean_pictures(tmp_path / "photos")
    put(root)
    report = check(root)
    planted(report, kind, places)
    others = {finding.kind for finding in report.findings} - {kind}
    assert others <= {"few", "transparent", "grey"}, others  # nothing is named that was not planted
    json.dumps(report.to_dict())


@pytest.mark.parametrize("fault", SPLIT)
def test_each_fault_of_a_split_is_named(fault, tmp_path):
    put, kind, places = SPLIT[fault]
    root = clean_pictures(tmp_path / "photos", ("train", "val"))
    put(root)
    planted(check(root), kind, places)


def test_a_rotated_copy_across_a_split_is_told(tmp_path):
    root = clean_pictures(tmp_path / "photos", ("train", "val"))
    turned = Image.open(root / "train" / "bee" / "03.jpg").transpose(Image.Transpose.ROTATE_90)
    (root / "val" / "bee" / "x.jpg").write_bytes(encoded(turned, quality=80))
    [item] = planted(check(root), "leak", "x.jpg").items
    assert item.detail.startswith("is, rotated by a quarter turn, ")
    assert item.other.endswith("03.jpg")


def colours():
    """A backbone whose features are a histogram, which is nearly the same for a crop."""
    centres = np.stack(np.meshgrid(*[np.arange(0.125, 1, 0.25)] * 3), axis=-1).reshape(-1, 3)
    nearest = keras.layers.Conv2D(64, 1, activation="softmax")
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, nearest(inputs))
    nearest.set_weights([200 * centres.T[None, None], -100 * np.square(centres).sum(axis=1)])
    return Backbone("colours", model, "test", InputSpec(32, 32, source="the test"))


@pytest.mark.nightly
def test_larger_crops_are_told_with_a_backbone(tmp_path):
    """Of pictures in one class, in two, and on both sides of the split."""
    root = clean_pictures(tmp_path / "photos", ("train", "val"))
    for source, place in {
        "bee/03": "train/bee/x.jpg",
        "ant/04": "train/wasp/y.jpg",
        "wasp/05": "val/wasp/z.jpg",
    }.items():
        image = Image.open(root / "train" / f"{source}.jpg")
        (root / place).write_bytes(encoded(image.crop((6, 5, 60, 47)), quality=90))
    assert check(root).findings == ()
    report = check(root, backbone=colours())
    for kind, place in {"near-copy": "x.jpg", "conflict": "y.jpg", "leak": "z.jpg"}.items():
        [item] = planted(report, kind, place).items
        assert item.name.endswith(place) or item.other.endswith(place)
        assert "a region in common" in item.detail
    assert not any("not searched" in note for note in report.notes)


@pytest.mark.parametrize("fault", TABLES)
def test_each_fault_of_a_table_is_named(fault, tmp_path):
    put, kind, places = TABLES[fault]
    path = tmp_path / "texts.csv"
    put(path)
    planted(check(path), kind, places)


def test_a_clean_table_gives_no_finding(tmp_path):
    write_rows(tmp_path / "texts.csv", clean_rows())
    assert check(tmp_path / "texts.csv").findings == ()


def test_only_new_files_are_read_again(clean, tmp_path, monkeypatch):
    paths = sorted(map(str, clean.rglob("*.jpg")))
    store = tmp_path / "facts.sqlite"
    first = facts_of(paths, store=store)
    read = []
    plain = facts_module.examine
    monkeypatch.setattr(facts_module, "examine", lambda path: read.append(path) or plain(path))
    second = facts_of(paths, store=store)
    assert read == []
    assert second == first
    assert all((a.thumb == b.thumb).all() for a, b in zip(first, second, strict=True))
    changed = tmp_path / "new.jpg"
    changed.write_bytes(encoded(picture(1)))
    facts_of([*paths, str(changed)], store=store)
    changed.write_bytes(encoded(picture(2)))
    [fact] = facts_of([str(changed)], store=store)
    assert read == [str(changed)] * 2
    assert fact == plain(str(changed))
    store.write_bytes(b"no data base at all" * 100)
    assert facts_of(paths, store=store) == first


def test_wrong_labels_are_listed_first(tmp_path):
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 60)
    features = random.normal(0, 1, (180, 8)) + 2.5 * np.eye(3, 8)[labels]
    wrong = random.choice(180, 9, replace=False)
    given = labels.copy()
    given[wrong] = (labels[wrong] + 1) % 3
    found = label_candidates(features.astype(np.float32), given, CLASSES)
    first = [one.position for one in found[:9]]
    assert len(set(first) & set(wrong)) >= 7
    assert label_candidates(features.astype(np.float32)[:12], labels[:12], CLASSES) == []
    assert all(one.suggested == CLASSES[labels[one.position]] for one in found if one.position in wrong)


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("1 images are CMYK, made for print", "1 image is CMYK, made for print"),
        ("1 classes have fewer than 10 examples", "1 class has fewer than 10 examples"),
        ("1 file names use decomposed Unicode", "1 file name uses decomposed Unicode"),
        ("1 rows cannot be used", "1 row cannot be used"),
        ("11 images are CMYK", "11 images are CMYK"),
    ],
)
def test_one_item_is_in_the_singular(message, wanted):
    assert Finding("kind", "note", message, "x").message == wanted


def test_the_test_of_kolmogorov_and_smirnov():
    random = np.random.default_rng(1)
    one, other = random.normal(size=200), random.normal(size=150)
    distance = ks_distance(one, other)
    brute = max(abs((one <= x).mean() - (other <= x).mean()) for x in [*one, *other])
    assert distance == pytest.approx(brute)
    assert ks_chance(distance, 200, 150) > 0.05
    assert ks_chance(ks_distance(one, other + 1), 200, 150) < 1e-6
    # The value that tables give for 5 % in large samples is 1.358.
    assert ks_chance(1.358 / np.sqrt(500), 1000, 1000) == pytest.approx(0.05, abs=1e-3)


@pytest.mark.slow
def test_the_command_writes_json_and_a_page(tmp_path, capsys):
    root = clean_pictures(tmp_path / "photos")
    (root / "bee" / "<b>x.jpg").write_bytes(b"")
    (root / "bee" / "y.jpg").write_bytes((root / "bee" / "01.jpg").read_bytes())
    page = tmp_path / "report.html"
    assert cli.main(["check", str(root), "--json", "--html", str(page)]) == 1
    values = json.loads(capsys.readouterr().out)
    assert values["ok"] is False
    assert {finding["kind"] for finding in values["findings"]} == {"unusable", "copy"}
    text = page.read_text()
    assert "&lt;b&gt;x.jpg" in text
    assert "<b>x.jpg" not in text
    assert text.count("data:image/jpeg;base64,") == 2
    (root / "bee" / "<b>x.jpg").unlink()
    assert cli.main(["check", str(root)]) == 0
    assert "is the same file as" in capsys.readouterr().out


@pytest.mark.nightly
def test_training_goes_on_and_tells_what_it_left_out(tmp_path):
    root = clean_pictures(tmp_path / "photos", ("train", "val"))
    (root / "train" / "bee" / "x.jpg").write_bytes(b"")
    for i in range(4):
        data = (root / "train" / "bee" / f"{i:02d}.jpg").read_bytes()
        (root / "val" / "bee" / f"copy{i}.jpg").write_bytes(data)
    run = tfft.finetune(
        backbone(), root, plan="linear_probe", out=tmp_path / "run", export_to=False,
        cache="memory", verbose=False,
    )  # fmt: skip
    assert [pathlib.Path(item.path).name for item in run.skipped] == ["x.jpg"]
    assert finding_of(run.data_report, "leak").level == "warning"
    assert run.final_scores.examples == 3 * EACH + 4
    assert run.deduplicated_scores.examples == 3 * EACH
    assert "no duplicates" in run.summary
    written = json.loads((tmp_path / "run" / "check.json").read_text())
    assert [finding["kind"] for finding in written["findings"]] == ["unusable", "leak"]
    assert tfft.load_run(tmp_path / "run").deduplicated_scores.to_dict() == run.deduplicated_scores.to_dict()


@pytest.mark.nightly
def test_a_bar_moves_while_a_training_reads_files_and_only_where_it_is_seen(tmp_path, capfd, monkeypatch):
    root = clean_pictures(tmp_path / "photos")
    quick = {"export_to": False, "cache": "memory", "plan": "linear_probe"}
    tfft.finetune(backbone(), root, **quick)
    assert capfd.readouterr().err == ""  # no terminal
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes anything for a terminal
    tfft.finetune(backbone(), root, **quick, verbose=False)
    assert capfd.readouterr().err == ""
    tfft.finetune(backbone(), root, **quick)
    assert "reading" in capfd.readouterr().err
    tfft.cross_validate(backbone(), root, folds=2, cache="memory", plan="linear_probe")
    assert "reading" in capfd.readouterr().err


@pytest.mark.nightly
def test_wrong_labels_are_listed_in_tables_of_images_too(tmp_path):
    names = ("red", "green")
    tones = {"red": (200, 40, 40), "green": (40, 180, 60)}
    rows, random = ["file,colour"], np.random.default_rng(0)
    for i in range(40):
        name = names[i % 2]
        pixels = np.clip(random.normal(0, 25, (40, 40, 3)) + tones[name], 0, 255).astype(np.uint8)
        (tmp_path / f"{i}.png").write_bytes(encoded(Image.fromarray(pixels), "PNG"))
        rows.append(f"{i}.png,{names[1 - i % 2] if i == 7 else name}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    settings = {"image": "file", "label": "colour"}
    report = check(tmp_path / "t.csv", **settings, backbone=colours())
    [found] = [finding for finding in report.findings if finding.kind == "label"]
    assert [item.name for item in found.items] == [str(tmp_path / "7.png")]
    assert "is labelled 'red'; the probe predicts 'green'" in found.items[0].detail
    plain = check(tmp_path / "t.csv", **settings)
    assert not [finding for finding in plain.findings if finding.kind == "label"]
    assert "Labels were not checked: give a backbone for that." in plain.notes


@pytest.mark.nightly
def test_wrong_labels_of_texts_and_recordings_are_listed(tmp_path):
    words = {"good": ["good", "fine", "great"], "bad": ["bad", "poor", "awful"]}
    begins = ["", "the", "a", "is", "film", "story", "plot", "very", "was", "one", "two"]
    pairs = [(f"{begin} {word} {word}".strip(), y) for begin in begins for y in words for word in words[y]]
    texts, labels = map(list, zip(*pairs, strict=True))
    wrong = labels.index("good")
    labels[wrong] = "bad"
    lines = [json.dumps({"text": t, "label": y}) for t, y in zip(texts, labels, strict=True)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    report = check(tmp_path / "t.jsonl", backbone=tiny_bert_folder(tmp_path / "bert", width=32))
    [found] = [finding for finding in report.findings if finding.kind == "label"]
    assert f"{tmp_path / 't.jsonl'}:{wrong + 1}" in [item.name for item in found.items]
    assert len(found.items) <= 3
    for name, hertz in TONES.items():
        for i in range(10):
            write(tmp_path / "sounds" / name / f"{i}.wav", tone(hertz * (1 + 0.01 * i), seed=i))
    write(tmp_path / "sounds" / "low" / "x.wav", tone(TONES["high"] * 1.05, seed=99))
    report = check(tmp_path / "sounds", backbone=backbone())
    [found] = [finding for finding in report.findings if finding.kind == "label"]
    assert [item.name for item in found.items] == [str(tmp_path / "sounds" / "low" / "x.wav")]
    with pytest.raises(DataError, match="labels of texts cannot be checked with .*, which takes something else"):
        check(tmp_path / "t.jsonl", backbone=backbone())
    (tmp_path / "n.jsonl").write_text("\n".join(json.dumps({"text": t, "label": i + 0.5}) for i, t in enumerate(texts)))
    report = check(tmp_path / "n.jsonl", backbone=tmp_path / "bert")
    assert any("a probe needs one class per example" in note for note in report.notes)


def test_arrays_are_checked_by_their_classes():
    report = check((np.zeros((40, 8, 8, 3), np.uint8), [0, 1] * 5 + [1] * 30))
    assert {part: sum(counts.values()) for part, counts in report.counts.items()} == {"train": 32, "validation": 8}
