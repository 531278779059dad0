"""Models from strangers: what reaches outside is refused before anything of it runs, what only computes is not."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import tarfile
import zipfile
import zlib

import honest_models
import hostile_models
import keras
import numpy as np
import pytest
import savedmodels
import tensorflow as tf

from tfft.backbones import load_backbone, resolve
from tfft.backbones.formats.keras_file import load_keras_file
from tfft.backbones.savedmodel import open_savedmodel
from tfft.backbones.savedmodel.layer import SavedModelBlock
from tfft.backbones.savedmodel.scan import check_savedmodel
from tfft.errors import BackboneError, SavedModelError, UnsafeModelError


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TFFT_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "secret.txt").write_text("s3cret\t1\n")
    return tmp_path


def make(name, place):
    hostile_models.HOSTILE[name](place / "model", str(place / "secret.txt"), str(place / "target.txt"))
    return place / "model"


def everything(place):
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() else None for path in sorted(place.rglob("*"))
    }


# ------------------------------------------------------------------------------ SavedModels


@pytest.mark.representative("writes_when_called")
@pytest.mark.parametrize("name", hostile_models.HOSTILE)
def test_it_is_refused_before_anything_of_it_runs(place, monkeypatch, name):
    model = make(name, place)
    before = everything(place)
    monkeypatch.setattr(tf.saved_model, "load", lambda *a, **k: pytest.fail("it was loaded"))
    with pytest.raises(UnsafeModelError, match=hostile_models.REFUSED[hostile_models.HOSTILE[name]]) as caught:
        load_backbone(model)
    assert "trust=True" in str(caught.value)
    assert everything(place) == before


@pytest.mark.parametrize(
    "name",
    ["writes_when_a_resource_is_initialized", "tf1_collection_of_tables", "tf1_main_op", "tf1_restore_op"],
)
def test_the_attacks_work_where_the_user_trusts_them(place, name):
    """The tests above can fail: these models do write at load."""
    model = make(name, place)
    try:
        open_savedmodel(model, trust=True)
    except SavedModelError:  # some fail afterwards; by then they have written
        pass
    assert list(place.glob("target.txt*"))


@pytest.mark.representative("plain_convnet")
@pytest.mark.parametrize("name", [*savedmodels.MAKERS, "preprocessor", *honest_models.MAKERS])
def test_what_only_computes_is_let_through(tmp_path, name):
    if name == "wordpieces":
        pytest.importorskip("tensorflow_text")
    maker = {**savedmodels.MAKERS, **honest_models.MAKERS, "preprocessor": savedmodels.preprocessor}[name]
    maker(tmp_path / name)
    assert check_savedmodel(tmp_path / name)


def test_a_huge_checkpoint_that_is_not_there(tmp_path):
    savedmodels.plain_convnet(tmp_path / "m")
    (data,) = (tmp_path / "m/variables").glob("*.data*")
    data.write_bytes(data.read_bytes()[:500])
    with pytest.raises(SavedModelError, match=r"declares [\d,]+ bytes of numbers and its files hold 500"):
        check_savedmodel(tmp_path / "m")


def test_a_proto_that_is_no_file(tmp_path):
    (tmp_path / "saved_model.pb").mkdir()
    with pytest.raises(SavedModelError, match="not a regular file"):
        check_savedmodel(tmp_path)


# --------------------------------------------------------------------------------- archives


def archive(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as file:
        for name, content, changes in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in changes.items():
                setattr(member, key, value)
            file.addfile(member, io.BytesIO(content))
    return path


MODEL = ("saved_model.pb", b"x" * 10, {})
MEMBERS = {
    "above": ([("../escaped.txt", b"x", {})], "outside"),
    "absolute link": ([("saved_model.pb", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})], "is a link"),
    "link to a folder, file through it": (
        [("variables", b"", {"type": tarfile.SYMTYPE, "linkname": ".."}), ("variables/escaped.txt", b"x", {})],
        "'variables' is a link",
    ),
    "hard link": ([MODEL, ("h", b"", {"type": tarfile.LNKTYPE, "linkname": "saved_model.pb"})], "'h' is a link"),
    "pipe": ([("variables", b"", {"type": tarfile.FIFOTYPE})], "neither file nor folder"),
    "device": ([("variables", b"", {"type": tarfile.CHRTYPE})], "neither file nor folder"),
}


needs_filter = pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="Python below 3.11.4 refuses archives")


def test_without_a_safe_way_to_unpack_archives_are_refused(place, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    path = archive(place / "m.tar.gz", [("saved_model.pb", b"", {})])
    before = everything(place)
    with pytest.raises(SavedModelError, match=r"no safe way to unpack tar archives .* use Python 3\.11\.4 or later"):
        resolve(path)
    assert {k: v for k, v in everything(place).items() if not k.startswith("cache")} == before


@needs_filter
@pytest.mark.parametrize("kind", MEMBERS)
def test_an_archive_holds_plain_files_only(place, kind):
    members, message = MEMBERS[kind]
    path = archive(place / "m.tar.gz", members)
    before = everything(place)
    with pytest.raises(UnsafeModelError, match=message):
        resolve(path)
    assert not [p for p in place.rglob("*") if p.is_symlink() or p.name.startswith("escaped")]
    assert {k: v for k, v in everything(place).items() if not k.startswith("cache")} == before


@needs_filter
@pytest.mark.slow
def test_an_archive_that_unpacks_to_a_full_disk(place):
    raw = io.BytesIO()
    with gzip.open(raw, "wb") as packed:
        member = tarfile.TarInfo("zeros")
        member.size = 2**29
        packed.write(member.tobuf())
        for _ in range(2**29 // 2**24):
            packed.write(bytes(2**24))
        packed.write(bytes(1024))
    (place / "m.tar.gz").write_bytes(raw.getvalue())
    assert len(raw.getvalue()) < 2**20
    with pytest.raises(UnsafeModelError, match=r"'zeros' claims 536,870,912 bytes, and at most 268,435,456"):
        resolve(place / "m.tar.gz")
    assert not list((place / "cache").rglob("zeros"))


def header(size, kind=tarfile.REGTYPE, name="a"):
    member = tarfile.TarInfo(name)
    member.type = kind
    raw = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    raw[124:136] = (size if size >= 0 else 2**96 + size).to_bytes(12, "big") if size < 0 else b"%011o\0" % size
    if size < 0:
        raw[124] = 0xFF
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


@needs_filter
@pytest.mark.parametrize(
    "content",
    [header(-512) * 4, header(2**32, tarfile.GNUTYPE_LONGNAME), header(-512, tarfile.XHDTYPE) * 3],
    ids=["size below zero", "a name of 4 GiB", "attributes of less than nothing"],
)
def test_headers_that_lie(place, content):
    (place / "m.tar.gz").write_bytes(gzip.compress(content + bytes(2048)))
    with pytest.raises(SavedModelError, match="was not unpacked|cannot be unpacked"):
        resolve(place / "m.tar.gz")


@needs_filter
def test_an_archive_with_no_end_of_files(place, monkeypatch):
    monkeypatch.setattr("tfft.backbones.fetch.archives.MOST_MEMBERS", 20)
    path = archive(place / "m.tar", [(f"f{i}", b"", {}) for i in range(21)], "w")
    with pytest.raises(UnsafeModelError, match="more than 20 files"):
        resolve(path)


@needs_filter
@pytest.mark.slow
def test_what_follows_the_archive_is_limited(place):
    path = archive(place / "m.tar.gz", [MODEL])
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(2**29)))
    with pytest.raises(UnsafeModelError, match="unpacks to more than"):
        resolve(path)


# ----------------------------------------------------------------------------- .keras files


@pytest.fixture
def block(tmp_path):
    savedmodels.lookup(tmp_path / "words")
    return next(
        layer for layer in open_savedmodel(tmp_path / "words").model.layers if isinstance(layer, SavedModelBlock)
    )


def hostile_keras_file(place, **changes):
    hostile_models.reads_when_called(place / "model", str(place / "secret.txt"), "")
    model = open_savedmodel(place / "model", trust=True).model
    model.save(place / "m.keras")
    return place / "m.keras"


def edit(path, change):
    """Rewrites the config inside of a .keras file."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(entries["config.json"])
    change(config)
    entries["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def test_a_block_that_says_it_is_trusted_is_not(place):
    path = hostile_keras_file(place)
    with zipfile.ZipFile(path) as file:
        assert '"trusted": true' in file.read("config.json").decode()
    for load in (load_backbone, load_keras_file):
        with pytest.raises(UnsafeModelError, match=r"ReadFile \(.*reads files\)"):
            load(str(path))
    with pytest.raises(BackboneError, match="trust= is for SavedModels"):
        load_backbone(honest_keras_file(place), trust=True)


def honest_keras_file(place):
    path = place / "honest.keras"
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(path)
    return path


def test_a_hostile_graph_for_training_is_found_too(place, block):
    hostile_models.reads_when_called(place / "r", str(place / "secret.txt"), "")
    opened = open_savedmodel(place / "r", trust=True)
    (bad, *_) = [layer for layer in opened.model.layers if isinstance(layer, SavedModelBlock)]
    config, graph = block.get_config(), bad.get_config()["inference"]
    for part, value in (("training", graph), ("regularizers", [graph])):
        with pytest.raises(UnsafeModelError, match="ReadFile"):
            SavedModelBlock.from_config({**config, part: value})


@pytest.mark.slow
def test_a_graph_that_unpacks_to_a_gigabyte(block):
    bomb = base64.b64encode(zlib.compress(bytes(2**28), 9)).decode()
    config = block.get_config()
    config["inference"] = {**config["inference"], "graph": bomb}
    with pytest.raises(UnsafeModelError, match=r"unpacks to more than 67,108,864 bytes"):
        SavedModelBlock.from_config(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["variables"][0].update(shape=[10**6, 10**6]), "declares variables of 4,000,000"),
        (lambda c: c["variables"][0].update(shape=[-1, 2]), "declares variables"),
        (lambda c: c["tables"][0].update(keys_dtype="variant"), "handles instead of keys"),
        (lambda c: c["tables"][0].update(keys="AAAA"), "is damaged"),
        (lambda c: c["inference"].update(graph="no graph"), "graph inside the file is damaged"),
        (lambda c: c.pop("variables"), "is damaged: KeyError"),
        (lambda c: c.update(surprise=1), "is damaged"),
    ],
)
def test_blocks_from_a_damaged_config(block, change, message):
    config = json.loads(json.dumps(block.get_config()))
    change(config)
    with pytest.raises(SavedModelError, match=message):
        SavedModelBlock.from_config(config)


def test_keras_files_are_loaded_in_safe_mode(place):
    path = honest_keras_file(place)

    def into_lambda(config):
        code = base64.b64encode(b"no code").decode()
        value = {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}}
        layer = {"class_name": "Lambda", "module": "keras.layers", "registered_name": None}
        config["config"]["layers"].append({**layer, "config": {"name": "l", "function": value}})

    edit(path, into_lambda)
    with pytest.raises(BackboneError, match="Keras cannot load"):
        load_backbone(path)


def test_keras_files_do_not_read_vocabularies_from_this_machine(place):
    path = honest_keras_file(place)
    tokenizer = {"class_name": "WordPieceTokenizer", "module": "keras_hub.tokenizers", "registered_name": "keras_hub>W"}

    def change(config):
        tokenizer["config"] = {"name": "t", "vocabulary": str(place / "secret.txt")}
        config["config"]["layers"].append(tokenizer)

    edit(path, change)
    with pytest.raises(UnsafeModelError, match=r"WordPieceTokenizer\.vocabulary = '.*secret\.txt'"):
        load_backbone(path)


@pytest.mark.slow
def test_keras_files_with_entries_elsewhere_or_bombs(place):
    path = honest_keras_file(place)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("assets/../../escaped.txt", "x")
    with pytest.raises(UnsafeModelError, match="lead outside of it"):
        load_backbone(path)
    path = honest_keras_file(place)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("assets/zeros", bytes(2**28 + 2**20))
    with pytest.raises(UnsafeModelError, match="unpacks to more than"):
        load_backbone(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(BackboneError, match="Keras cannot load"):
        load_backbone(path)


def test_an_honest_keras_file_is_let_through(place):
    path = honest_keras_file(place)
    x = np.ones((1, 3), "float32")
    expected = keras.saving.load_model(path)(x)
    np.testing.assert_array_equal(load_keras_file(path)(x), expected)


def test_messages_name_every_place(place):
    def body(m, x):
        first = tf.strings.length(tf.io.read_file(str(place / "secret.txt")))
        with tf.control_dependencies([tf.io.write_file(str(place / "target.txt"), "x")]):
            return x @ m.kernel + tf.cast(first, tf.float32)

    hostile_models._save(place / "model", body)
    with pytest.raises(UnsafeModelError) as caught:
        load_backbone(place / "model")
    assert re.search(r"ReadFile .*WriteFile|WriteFile .*ReadFile", str(caught.value))
