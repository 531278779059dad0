"""Pins: a handle with a digest opens that content and no other, and says so in plans and files."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import tarfile

import hostile_models
import keras
import numpy as np
import pytest
import savedmodels

import tfft
from tfft.backbones import digest, load_backbone, resolve
from tfft.backbones.fetch.digests import split_pin
from tfft.backbones.formats.efficientnet_lite0 import weights_path
from tfft.backbones.savedmodel.layer import SavedModelBlock
from tfft.errors import HandleError, PlanError, SavedModelError, UnsafeModelError
from tfft.recipes import plan_from_yaml, rerun

OTHER = "0" * 64


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFFT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path):
    savedmodels.plain_convnet(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.process
def test_the_digest_of_a_folder_is_what_the_shell_computes(tmp_path):
    folder = tmp_path / "m"
    (folder / "variables").mkdir(parents=True)
    for name, content in {"b": "2", "a b": "1", "variables/ü": "3", "variables.x": "4"}.items():
        (folder / name).write_text(content)
    command = "find -L . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    shell = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True).stdout
    first = digest(folder)
    assert first == shell.split()[0]
    (folder / "tfft_manifest.json").write_text("{}")  # of tfft's own cache
    assert digest(folder) == first
    (folder / "a b").rename(folder / "c")
    assert digest(folder) != first
    with pytest.raises(HandleError, match="no file or folder"):
        digest(tmp_path / "none")
    (folder / "more").symlink_to(tmp_path)
    with pytest.raises(SavedModelError, match="a link to a folder"):
        digest(folder)


def test_what_a_pin_looks_like():
    assert split_pin("a/b") == ("a/b", None)
    assert split_pin(f"a@sha256:{'A' * 64}") == ("a", "a" * 64)
    for bad in ("a@sha256:", "a@sha256:12", f"@sha256:{OTHER}", f"a@sha256:{'g' * 64}"):
        with pytest.raises(HandleError, match=r"not pinned properly: expected HANDLE@sha256: and 64 hex digits"):
            load_backbone(bad)


@pytest.mark.slow
def test_a_changed_folder_is_refused_with_both_digests(model):
    right = digest(model)
    assert load_backbone(model).digest == right
    pinned = load_backbone(f"{model}@sha256:{right}")
    assert (pinned.digest, pinned.origin, pinned.name) == (right, f"{model}@sha256:{right}", "model")
    (model / "variables/variables.index").write_bytes((model / "variables/variables.index").read_bytes() + b"\0")
    now = digest(model)
    for opening in (load_backbone, resolve):
        with pytest.raises(SavedModelError, match=f"expected sha256 {right}, found {now}"):
            opening(f"{model}@sha256:{right}")


@pytest.mark.slow
def test_a_right_pin_stands_for_trust_and_a_wrong_one_does_not(tmp_path):
    (tmp_path / "secret").write_text("12345")
    hostile_models.reads_when_called(tmp_path / "m", str(tmp_path / "secret"), "")
    right = digest(tmp_path / "m")
    with pytest.raises(UnsafeModelError, match=r"pin exactly this one by its digest"):
        load_backbone(tmp_path / "m")
    with pytest.raises(SavedModelError, match="different content"):
        load_backbone(f"{tmp_path / 'm'}@sha256:{OTHER}")
    backbone = load_backbone(f"{tmp_path / 'm'}@sha256:{right}")
    np.testing.assert_array_equal(backbone.model(np.zeros((1, 2), "float32")), [[5.0, 5.0]])


@pytest.mark.slow
def test_a_pin_of_an_encoder_does_not_speak_for_its_preprocessor(tmp_path):
    savedmodels.transformer(tmp_path / "encoder")
    savedmodels.preprocessor(tmp_path / "before")
    with hostile_models.changed(tmp_path / "before") as meta:
        meta.graph_def.node.add(name="hidden", op="NoSuchOperation")
        restore = next(node for node in meta.graph_def.node if node.name == meta.saver_def.restore_op_name)
        restore.input.append("^hidden")
    encoder = f"{tmp_path / 'encoder'}@sha256:{digest(tmp_path / 'encoder')}"
    with pytest.raises(UnsafeModelError, match="NoSuchOperation"):
        load_backbone(encoder, preprocessor=tmp_path / "before")
    before = f"{tmp_path / 'before'}@sha256:{digest(tmp_path / 'before')}"
    with pytest.raises(SavedModelError, match="different content"):
        load_backbone(encoder, preprocessor=f"{tmp_path / 'before'}@sha256:{OTHER}")
    assert load_backbone(encoder, preprocessor=before).tokenizer is not None


@pytest.mark.slow
def test_an_archive_is_pinned_as_a_file_and_before_it_is_unpacked(model, tmp_path):
    path = tmp_path / "m.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        file.add(model, arcname=".")
    with pytest.raises(SavedModelError, match="different content"):
        load_backbone(f"{path}@sha256:{OTHER}")
    assert not (tmp_path / "cache").exists()
    assert load_backbone(f"{path}@sha256:{digest(path)}").digest == digest(path)


def test_a_keras_file_is_pinned_and_stays_in_safe_mode(tmp_path):
    path = tmp_path / "m.keras"
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(path)
    assert load_backbone(f"{path}@sha256:{digest(path)}").digest == digest(path)
    with pytest.raises(SavedModelError, match="different content"):
        load_backbone(f"{path}@sha256:{OTHER}")
    (tmp_path / "secret").write_text("12345")
    hostile_models.reads_when_called(tmp_path / "r", str(tmp_path / "secret"), "")
    load_backbone(tmp_path / "r", trust=True).model.save(path)
    with pytest.raises(UnsafeModelError, match="ReadFile"):
        load_backbone(f"{path}@sha256:{digest(path)}")


def test_what_has_no_files_cannot_be_pinned():
    with pytest.raises(HandleError, match="cannot be pinned"):
        load_backbone(f"keras:mobilenet_v2:random@sha256:{OTHER}")


@pytest.mark.slow
def test_what_tfft_builds_is_pinned_by_its_weights():
    with pytest.raises(SavedModelError, match=f"found {digest(weights_path())}"):
        load_backbone(f"efficientnet-lite0@sha256:{OTHER}")


@pytest.mark.slow
def test_blocks_remember_where_they_came_from(model, tmp_path):
    backbone = load_backbone(model)
    backbone.model.save(tmp_path / "m.keras")
    again = load_backbone(tmp_path / "m.keras").model
    found = {layer.source_digest for layer in again.layers if isinstance(layer, SavedModelBlock)}
    assert found == {digest(model)}


def images(count=12):
    random = np.random.default_rng(0)
    labels = np.arange(count) % 2
    return random.integers(0, 255, (count, 32, 32, 3)).astype("uint8"), labels


@pytest.mark.nightly
def test_a_plan_is_repeated_with_the_same_backbone_or_not_at_all(model, tmp_path):
    settings = {"epochs": 0, "export_to": False, "cache": None, "verbose": False}
    run = tfft.finetune(model, images(), out=tmp_path / "run", **settings)
    plan = plan_from_yaml(tmp_path / "run/plan.yaml")
    assert plan.backbone_digest == run.plan.backbone_digest == run.card["backbone_digest"] == digest(model)
    repeating = {"data": images(), "cache": None, "verbose": False}
    assert rerun(plan, **repeating).plan.backbone_digest == digest(model)
    (model / "README").write_text("changed")
    with pytest.raises(PlanError, match=f"its digest is {digest(model)}, the plan says .*{plan.backbone_digest}"):
        rerun(plan, **repeating)
    assert rerun(dataclasses.replace(plan, backbone_digest=None), **repeating).plan.backbone_digest == digest(model)


@pytest.mark.nightly
def test_inspect_shows_the_digest(model, capsys):
    from tfft.cli import main

    assert main(["inspect", str(model)]) == 0
    assert f"Digest: sha256:{digest(model)}" in re.sub(r"\s+", " ", capsys.readouterr().out)
    assert main(["inspect", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == digest(model)
