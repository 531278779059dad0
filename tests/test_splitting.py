"""What is held out: shares of classes, groups kept whole, folds, files of splits."""

import numpy as np
import pytest
from faulty_data import CLASSES, EACH, clean_pictures, encoded, picture
from test_recipes import backbone

import tfft
from tfft.data import load, read_split, write_split
from tfft.data.split import folds, groups_by, hold_out
from tfft.errors import DataError, PlanError

KEYS = [f"{i}.jpg" for i in range(100)]
LABELS = np.repeat([0, 1, 2], [50, 30, 20])


def test_shares_of_classes_are_exact_without_groups():
    held = hold_out(KEYS, 0.2, 0, labels=LABELS)
    assert np.bincount(LABELS[held]).tolist() == [10, 6, 4]
    assert (hold_out(KEYS, 0.2, 1, labels=LABELS) != held).any()
    order = np.random.default_rng(0).permutation(100)
    shuffled = hold_out([KEYS[i] for i in order], 0.2, 0, labels=LABELS[order])
    np.testing.assert_array_equal(shuffled, held[order])


def test_groups_stay_whole_and_shares_are_near():
    random = np.random.default_rng(3)
    groups = [f"person {n}" for n in random.integers(0, 25, 100)]
    held = hold_out(KEYS, 0.2, 0, labels=LABELS, groups=groups)
    sides = {}
    for group, side in zip(groups, held, strict=True):
        assert sides.setdefault(group, side) == side
    counts = np.bincount(LABELS[held], minlength=3)
    assert (counts > 0).all()
    assert abs(held.mean() - 0.2) < 0.06


def test_a_class_in_one_group_cannot_be_split():
    groups = ["a" if label == 2 else f"{i % 9}" for i, label in enumerate(LABELS)]
    with pytest.raises(DataError, match=r"class 2 would be on one side only \(all of its examples are in one group\)"):
        hold_out(KEYS, 0.2, 0, labels=LABELS, groups=groups)


@pytest.mark.parametrize("groups", [None, [f"{i // 3}" for i in range(100)]])
def test_folds_cover_everything_once(groups):
    part = folds(KEYS, 5, 0, labels=LABELS, groups=groups)
    assert set(part) == set(range(5))
    counts = np.array([np.bincount(LABELS[part == fold], minlength=3) for fold in range(5)])
    assert (np.abs(counts - [10, 6, 4]) <= (0 if groups is None else 3)).all()
    if groups is not None:
        assert len({(g, f) for g, f in zip(groups, part, strict=True)}) == len(set(groups))


def test_more_folds_than_examples_are_refused():
    with pytest.raises(DataError, match="Cannot make 21 folds of 20 examples in the smallest class"):
        folds(KEYS, 21, 0, labels=LABELS)


def test_groups_are_read_from_names():
    names = ["7_theo_3.wav", "7_lucas_0.wav"]
    assert groups_by(names, r"_(\w+)_") == ("theo", "lucas")
    assert groups_by(["a/b.jpg", "c.jpg"], "folder") == ("a", ".")
    with pytest.raises(DataError, match="does not match 1 of 3 names: x.wav"):
        groups_by([*names, "x.wav"], r"_(\w+)_")
    with pytest.raises(DataError, match="has 0 groups in parentheses. Expected one"):
        groups_by(names, "theo")
    with pytest.raises(DataError, match="is not a valid regular expression"):
        groups_by(names, "(")


def test_a_split_is_written_and_read_again(tmp_path):
    held = hold_out(KEYS, 0.2, 0, labels=LABELS)
    parts = {"train": [k for k, h in zip(KEYS, held, strict=True) if not h], "validation": list(np.array(KEYS)[held])}
    write_split(tmp_path / "split.csv", parts)
    np.testing.assert_array_equal(read_split(tmp_path / "split.csv", KEYS), held)
    with pytest.raises(DataError, match="lacks 1 of 101 examples: new.jpg"):
        read_split(tmp_path / "split.csv", [*KEYS, "new.jpg"])
    with pytest.raises(DataError, match="names 1 examples that do not exist"):
        read_split(tmp_path / "split.csv", KEYS[1:])
    (tmp_path / "bad.csv").write_text("item,part\n0.jpg,somewhere\n")
    with pytest.raises(DataError, match="line 2: '0.jpg', 'somewhere'"):
        read_split(tmp_path / "bad.csv", KEYS)
    (tmp_path / "other.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="is not a split file. Expected a table with the columns item and part"):
        read_split(tmp_path / "other.csv", KEYS)


@pytest.mark.slow
def test_copies_stay_on_one_side(tmp_path):
    root = clean_pictures(tmp_path / "photos")
    for i in range(EACH):  # each bee twice, the second time compressed
        from PIL import Image

        made = Image.open(root / "bee" / f"{i:02d}.jpg")
        (root / "bee" / f"again{i:02d}.jpg").write_bytes(encoded(made, quality=50))
    for seed in range(4):
        splits = load(root, validation=0.3, seed=seed)
        assert len(splits.duplicates) == EACH
        assert len(splits.leaked) == 0
        assert splits.validation.counts["bee"] % 2 == 0
        names = splits.items["train"] + splits.items["validation"]
        for copy in splits.duplicates:
            assert names[copy.first].replace("again", "") == names[copy.second].replace("again", "")


@pytest.mark.nightly
def test_a_run_writes_its_split_and_another_takes_it(tmp_path):
    root = clean_pictures(tmp_path / "photos")
    common = {"plan": "linear_probe", "export_to": False, "cache": "memory", "verbose": False}
    first = tfft.finetune(backbone(), root, seed=3, out=tmp_path / "one", **common)
    (root / "bee" / "new.jpg").write_bytes(encoded(picture(5000)))
    with pytest.raises(DataError, match="lacks 1 of 37 examples: bee/new.jpg"):
        load(root, validation=tmp_path / "one" / "split.csv")
    (root / "bee" / "new.jpg").unlink()
    split = str(tmp_path / "one" / "split.csv")
    second = tfft.finetune(backbone(), root, validation=split, out=tmp_path / "two", **common)
    assert second.split_names == first.split_names
    assert second.plan.validation == split
    group = tfft.finetune(backbone(), root, group=r"(\d)\.jpg", **common)
    ends = [{name[-5] for name in names} for names in group.split_names.values()]
    assert not ends[0] & ends[1]
    with pytest.raises(DataError, match="does not apply to arrays"):
        tfft.finetune(backbone(), (np.zeros((8, 32, 32, 3)), [0, 1] * 4), group="folder", verbose=False)
    assert CLASSES == first.class_names


@pytest.mark.nightly
def test_cross_validation_holds_each_example_out_once(tmp_path):
    root = clean_pictures(tmp_path / "photos")
    data = (root / "bee" / "03.jpg").read_bytes()
    (root / "bee" / "again.jpg").write_bytes(data)
    whole = load(root)
    seen = []
    for splits in tfft.data.fold_splits(whole, 3, seed=1):
        held = splits.items["validation"]
        assert not set(held) & set(splits.items["train"])
        assert len(splits.leaked) == 0
        assert {"bee/03.jpg", "bee/again.jpg"} <= set(held) or not {"bee/03.jpg", "bee/again.jpg"} & set(held)
        seen += held
    assert sorted(seen) == sorted(whole.items["train"] + whole.items["validation"])
    common = {"plan": "linear_probe", "cache": "memory", "verbose": False}
    found = tfft.cross_validate(backbone(), root, folds=3, out=tmp_path / "out", **common)
    assert [row.seed for row in found.rows] == [1, 2, 3]
    assert sum(row.final_scores.examples for row in found.rows) == len(seen)
    assert "over 3 folds" in str(found)
    assert (tmp_path / "out" / "fold-3" / "split.csv").is_file()
    with pytest.raises(PlanError, match="validation apply to a single run"):
        tfft.cross_validate(backbone(), root, validation=0.3)
