"""Features computed in shards, by several processes: every example once, and the numbers of an undivided pass."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import savedmodels
from PIL import Image
from test_features_cache import IMAGES, LABELS, network
from test_text_features import LABELS as TEXT_LABELS
from test_text_features import TEXTS, made

import tfft
from tfft import features
from tfft.arrays import store
from tfft.cli import main
from tfft.errors import PlanError
from tfft.features import extract, extract_shard
from tfft.features.shard_store import shard_rows

QUIET = {"engine": "tensorflow", "verbose": False}


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.mark.parametrize("examples", [1, 31, 32, 33, 100, 1000])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_every_example_is_in_one_shard_and_batches_are_whole(examples, count):
    shards = [shard_rows(examples, 32, number, count) for number in range(1, count + 1)]
    assert [row for rows in shards for row in rows] == list(range(examples))
    assert all(rows.start % 32 == 0 for rows in shards if rows)
    assert max(map(len, shards)) - min(len(rows) for rows in shards) < 64


def sources(folder: pathlib.Path) -> dict:
    """The same pictures in each form, with options."""
    data = tfft.modalities.image.from_arrays(IMAGES, LABELS, batch_size=5)
    for i, image in enumerate(IMAGES):
        path = folder / f"class{i % 2}" / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return {
        "arrays": ((IMAGES, LABELS), {}),
        "dataset": (data, {}),
        "files": (tfft.modalities.image.list_images(folder), {}),
        "views of files": (tfft.modalities.image.list_images(folder), {"augment": ["flip", "crop"], "views": 3}),
        "views of arrays": ((IMAGES, LABELS), {"augment": "flip", "views": 2}),
    }


@pytest.mark.daily("files", "views of files")
@pytest.mark.parametrize("name", ["arrays", "dataset", "files", "views of files", "views of arrays"])
def test_shards_are_the_features_of_an_undivided_pass(model, name, tmp_path):
    data, options = sources(tmp_path / "photos")[name]
    options = {"batch_size": 4, **QUIET, **options}
    whole = extract(model, data, cache=None, **options)
    for number in (3, 1, 2):
        found = extract_shard(model, data, (number, 3), cache=tmp_path / "c", **options)
        assert found.seconds > 0
    assert found.missing == ()
    joined = extract(model, data, cache=tmp_path / "c", **options)
    assert joined.cached
    assert joined.notes == ()
    if name == "dataset":  # its own batches are divided
        np.testing.assert_allclose(joined.arrays, whole.arrays, atol=1e-6)
    else:
        np.testing.assert_array_equal(joined.arrays, whole.arrays)
    np.testing.assert_array_equal(joined.labels, whole.labels)
    assert [path.name for path in (tmp_path / "c").iterdir()] == [joined.folder.name]  # no shard is left


@pytest.mark.text
@pytest.mark.slow
def test_shards_of_texts_have_rows_of_every_length(tmp_path):
    model, _ = features.split_frozen(made())
    texts, labels = np.concatenate([TEXTS] * 12), np.concatenate([TEXT_LABELS] * 12)
    whole = extract(model, (texts, labels), cache=None, **QUIET)
    for number in (1, 2):
        extract_shard(model, (texts, labels), (number, 2), cache=tmp_path, **QUIET)
    joined = extract(model, (texts, labels), cache=tmp_path, **QUIET)
    assert joined.cached
    rows, ends = joined.parts[0], whole.parts[0]
    np.testing.assert_array_equal(rows.offsets, ends.offsets)
    assert len(set(rows.lengths)) > 5
    np.testing.assert_allclose(rows.values, ends.values, atol=1e-6)


def test_a_shard_is_computed_once_and_names_what_is_missing(model, tmp_path):
    data = (IMAGES, LABELS)
    first = extract_shard(model, data, (1, 3), cache=tmp_path, batch_size=4, **QUIET)
    again = extract_shard(model, data, (1, 3), cache=tmp_path, batch_size=4, **QUIET)
    assert (first.seconds > 0, again.seconds, again.missing) == (True, 0.0, (2, 3))
    assert str(again) == "shard 1 of 3: examples 0 to 3, in the cache; missing: 2, 3"
    more = extract_shard(model, data, (5, 7), cache=tmp_path, batch_size=8, **QUIET)  # two batches, seven shards
    assert str(more).startswith("shard 5 of 7: no examples, nothing to do; missing: 4, 7")


def test_without_all_shards_everything_is_computed_with_a_note(model, tmp_path):
    data = (IMAGES, LABELS)
    extract_shard(model, data, (2, 3), cache=tmp_path, batch_size=4, **QUIET)
    whole = extract(model, data, cache=tmp_path, batch_size=4, **QUIET)
    assert not whole.cached
    assert "1 of 3 shards are in" in whole.notes[0]
    assert "Compute the others with shard=(NUMBER, 3)" in whole.notes[0]
    assert extract_shard(model, data, (1, 3), cache=tmp_path, batch_size=4, **QUIET).seconds == 0  # all are there


def test_shards_of_other_batch_sizes_are_not_joined(model, tmp_path):
    images, labels = np.concatenate([IMAGES] * 2), np.concatenate([LABELS] * 2)
    whole = extract(model, (images, labels), cache=None, batch_size=4, **QUIET)
    extract_shard(model, (images, labels), (1, 2), cache=tmp_path, batch_size=4, **QUIET)  # 0 to 11
    extract_shard(model, (images, labels), (2, 2), cache=tmp_path, batch_size=5, **QUIET)  # from 10 on
    found = extract(model, (images, labels), cache=tmp_path, batch_size=4, **QUIET)
    assert not found.cached
    np.testing.assert_array_equal(found.arrays, whole.arrays)


def test_a_damaged_shard_is_removed_and_computed_again(model, tmp_path):
    data = (IMAGES, LABELS)
    whole = extract(model, data, cache=None, batch_size=4, **QUIET)
    for number in (1, 2):
        extract_shard(model, data, (number, 2), cache=tmp_path, batch_size=4, **QUIET)
    [array, *_] = sorted(tmp_path.glob("*.shards/*/*.bin")) or sorted(tmp_path.glob("*.shards/*/*0*"))
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    found = extract(model, data, cache=tmp_path, batch_size=4, **QUIET)
    assert "of 2 is damaged" in found.notes[0]
    np.testing.assert_array_equal(found.arrays, whole.arrays)


def test_shards_are_listed_and_cleared(model, tmp_path):
    extract_shard(model, (IMAGES, LABELS), (1, 2), cache=tmp_path, batch_size=4, **QUIET)
    [entry] = features.list_caches(tmp_path)
    assert entry.examples == 4
    assert features.clear_caches(tmp_path) >= entry.bytes
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shard", [(0, 3), (4, 3), (1,), "1/3", (1.0, 3)])
def test_numbers_that_are_no_shard(model, shard, tmp_path):
    with pytest.raises(PlanError, match=r"Expected shard=\(NUMBER, COUNT\), such as \(1, 4\)"):
        extract_shard(model, (IMAGES, LABELS), shard, cache=tmp_path, **QUIET)


@pytest.mark.parametrize("cache", [None, "memory"])
def test_shards_need_a_folder(model, cache):
    with pytest.raises(PlanError, match="Expected cache= to be a folder"):
        extract_shard(model, (IMAGES, LABELS), (1, 2), cache=cache, **QUIET)


# --- before a training --------------------------------------------------------------------------------------------


@pytest.fixture
def photos(image_folder):
    return image_folder(per_class=16, classes=("blue", "red"))


SETTINGS = {"image_size": 32, "unfreeze": 1, "epochs": 1, "augment": "flip", "batch_size": 4}


@pytest.mark.slow
def test_a_training_finds_the_features_of_all_phases(photos, tmp_path):
    backbone = tfft.load_backbone(network_file(tmp_path))
    for number in (1, 2):
        done = tfft.recipes.cache_features(
            backbone, photos, shard=(number, 2), cache=tmp_path / "c", verbose=False, **SETTINGS
        )
        assert done.is_complete == (number == 2)
    assert list(done.shards) == ["frozen", "fine-tune"]
    run = tfft.finetune(backbone, photos, cache=tmp_path / "c", verbose=False, **SETTINGS)
    plain = tfft.finetune(backbone, photos, cache=None, verbose=False, **SETTINGS)
    assert "read, decode and run the frozen part" not in run.stages
    assert run.final_scores.loss == pytest.approx(plain.final_scores.loss, rel=1e-3)


@pytest.mark.slow
def test_random_weights_are_those_of_the_run(photos, tmp_path):
    settings = {"plan": "linear_probe", "cache": tmp_path / "c", "image_size": 32, "verbose": False, "seed": 3}
    done = tfft.recipes.cache_features("keras:MobileNetV3Small:random", photos, **settings)
    assert done.is_complete
    run = tfft.finetune("keras:MobileNetV3Small:random", photos, **settings)
    assert "read, decode and run the frozen part" not in run.stages


@pytest.mark.slow
def test_blocks_that_the_probe_chooses_are_named(photos, tmp_path):
    done = tfft.recipes.cache_features(
        network_file(tmp_path), photos, cache=tmp_path / "c", verbose=False, image_size=32, batch_size=4
    )
    assert list(done.shards) == ["frozen"]
    assert "its blocks are chosen by the linear probe; unfreeze= chooses them now" in done.notes[0]


def network_file(folder: pathlib.Path) -> str:
    path = folder / "net.keras"
    if not path.exists():
        savedmodels.convnet(None).save(path)
    return str(path)


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b"])
def test_the_command_names_what_is_no_shard(text, capsys):
    with pytest.raises(SystemExit):
        main(["features", "photos", "--shard", text])
    assert f"expected I/N with a number from 1 to N, such as 2/4, received {text!r}" in capsys.readouterr().err


@pytest.mark.nightly
@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_work_and_one_that_dies_is_run_again(photos, tmp_path, count):
    file, cache = network_file(tmp_path), tmp_path / "c"

    def start(number: int) -> subprocess.Popen[str]:
        words = ["features", str(photos), "--backbone", file, "--cache", str(cache), "--image-size", "32"]
        words += ["--batch-size", "4", "--plan", "linear_probe", "--shard", f"{number}/{count}"]
        return subprocess.Popen([sys.executable, "-m", "tfft", *words], stdout=subprocess.PIPE, text=True)

    processes = [start(number) for number in range(1, count + 1)]
    processes[0].kill()
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes[1:]] == [0] * (count - 1)
    assert "missing: 1" in outputs[-1]
    assert "all shards are there" in start(1).communicate(timeout=300)[0]
    run = tfft.finetune(
        file, photos, plan="linear_probe", cache=cache, image_size=32, batch_size=4, verbose=False
    )  # fmt: skip
    assert "read, decode and run the frozen part" not in run.stages
    assert len(store.entries(cache)) == 2  # training and held-out examples
