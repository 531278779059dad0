"""Pickles and weight files from strangers: nothing is imported, called, or allowed to fill the memory."""

from __future__ import annotations

import pickle
import struct
import zipfile

import numpy as np
import pytest
from test_checkpoints import SIX, mapping, name, number, program, tensor, text, write_row, write_zip

from tfft.backbones.formats.checkpoints import read_pth
from tfft.backbones.huggingface import check_sizes
from tfft.errors import HandleError, SavedModelError, UnsafeModelError

HONEST = tensor("0", "FloatStorage", 6, (2, 3), (3, 1))


class Reduce:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def body_of(value, protocol=2):
    """A pickle's steps as Python writes them, without its frame of first and last step."""
    return pickle.dumps(value, protocol)[2:-1]


def both(write, tmp_path, body):
    return write(tmp_path / "w.pth", body, {"0": SIX})


@pytest.mark.parametrize("write", [write_zip, write_row])
@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (lambda target: body_of(Reduce(exec, f"open({target!r}, 'w')")), r"(__builtin__|builtins)\.exec"),
        (lambda target: body_of([{"a": (Reduce(eval, f"open({target!r}, 'w')"),)}]), r"(__builtin__|builtins)\.eval"),
        (lambda target: body_of(Reduce(open, target, "w"), 4)[9:], r"(_io|io)\.open"),
        (lambda target: name("posix", "system") + b"(" + text(f"touch {target}") + b"tR0", r"posix\.system"),
        (lambda target: b"(" + text(f"touch {target}") + b"iposix\nsystem\n", r"INST"),
        (lambda target: b"(" + name("posix", "system") + text(f"touch {target}") + b"o", r"posix\.system"),
        (lambda target: text("posix") + text("system") + b"\x93" + b"(" + text(f"touch {target}") + b"tR", "posix.sys"),
        (
            lambda target: name("torch.serialization", "load") + b"(" + text(target) + b"tR",
            r"torch\.serialization\.load",
        ),
        (lambda target: name("torch", "FloatStorage") + b"(K\x05tR", "a call of something that is not a function"),
        (lambda target: b"\x82\x01", "EXT1"),
        (lambda target: HONEST + b"}" + text("storage") + b"N" + b"sb", "a container is missing"),
    ],
)
def test_programs_are_refused(tmp_path, write, attack, named):
    target = tmp_path / "written"
    path = both(write, tmp_path, mapping({"a": HONEST, "b": attack(str(target))}))
    with pytest.raises(SavedModelError, match=named) as caught:
        read_pth(path)
    assert not target.exists()
    if "." in named.replace("\\.", "."):
        assert isinstance(caught.value, UnsafeModelError) == ("asks for" in str(caught.value))


def nested_tuples(depth):
    """Each holds the one before twice: a thousand steps, and for ever to hash, print or walk."""
    steps = b"(tq\x00"
    for _ in range(depth):
        steps += b"0h\x00h\x00\x86q\x00"
    return steps


def nested_dicts(depth):
    steps = mapping({"a": HONEST}) + b"q\x00"
    for _ in range(depth):
        steps += b"0}q\x01(" + text("a") + b"h\x00" + text("b") + b"h\x00u0h\x01q\x00"
    return steps


BOMBS = {
    "a memory of 2**32 places": b"N" + b"r" + struct.pack("<I", 2**32 - 1),
    "a text of 2**60 bytes": b"\x8d" + struct.pack("<Q", 2**60),
    "bytes of 2**31": b"B" + struct.pack("<I", 2**31),
    "an array of 2**60": b"\x96" + struct.pack("<Q", 2**60),
    "a frame of 2**60": b"\x95" + struct.pack("<Q", 2**60) + b"N",
    "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n",
    "a key that is never hashed": b"}" + nested_tuples(60) + b"Ns",
    "a shape that is never printed": (
        name("torch._utils", "_rebuild_tensor_v2") + b"(N" + number(0) + nested_tuples(60) + b"(tNNtR"
    ),
    "dicts without end": nested_dicts(40),
    "a dict in itself": b"}q\x00" + text("a") + b"h\x00s",
    "an empty stack": b"0" * 10,
    "marks": b"(" * 1000 + b"t" * 999,
}


@pytest.mark.parametrize("write", [write_zip, write_row])
@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_end_soon(tmp_path, write, kind):
    path = both(write, tmp_path, BOMBS[kind])
    with pytest.raises(SavedModelError, match="cannot be read as a PyTorch file"):
        read_pth(path)


def test_one_storage_that_is_a_thousand_tensors(tmp_path):
    count = 2**18
    whole = tensor("0", "FloatStorage", count, (count,), (1,))
    path = write_zip(tmp_path / "w.pth", mapping({str(i): whole for i in range(1000)}), {"0": bytes(4 * count)})
    with pytest.raises(SavedModelError, match="used again and again"):
        read_pth(path)


def test_a_million_steps_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr("tfft.backbones.formats.safe_pickle._MOST_OPCODES", 1000)
    with pytest.raises(SavedModelError, match="more than 1,000 steps"):
        read_pth(write_zip(tmp_path / "w.pth", b"N0" * 1000 + mapping({"a": HONEST}), {"0": SIX}))


def test_one_storage_with_two_descriptions(tmp_path):
    body = mapping({"a": HONEST, "b": tensor("0", "LongStorage", 6, (6,), (1,))})
    with pytest.raises(SavedModelError, match="two descriptions of the storage '0'"):
        read_pth(write_zip(tmp_path / "w.pth", body, {"0": SIX}))


def test_what_a_state_dict_carries_beside_is_let_through(tmp_path):
    """PyTorch sets `_metadata` on the dict; protocol 4 has frames, memory and other texts."""
    versions = mapping({"_metadata": mapping({"": mapping({"version": number(1)})})})
    ordered = name("collections", "OrderedDict") + b")R(" + text("a") + HONEST + b"u" + versions + b"b"
    found = read_pth(write_zip(tmp_path / "w.pth", ordered, {"0": SIX}))
    np.testing.assert_array_equal(found["a"], [[0, 1, 2], [3, 4, 5]])
    newer = b"\x95" + struct.pack("<Q", 3) + b"}\x94" + b"(" + b"\x8c\x01a" + HONEST + b"u"
    assert list(read_pth(write_zip(tmp_path / "v.pth", newer, {"0": SIX}))) == ["a"]


# ------------------------------------------------------------------------------------- zips


def test_zips_that_lie(tmp_path):
    whole = write_zip(tmp_path / "w.pth", mapping({"a": HONEST}), {"0": SIX}).read_bytes()
    path = tmp_path / "v.pth"
    path.write_bytes(whole.replace(struct.pack("<II", 24, 24), struct.pack("<II", 2**31, 2**31)))
    with pytest.raises(SavedModelError, match="cannot be read"):
        read_pth(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../w/data.pkl", program(mapping({"a": HONEST})))
    with pytest.raises(SavedModelError, match=r"without one data\.pkl"):
        read_pth(path)
    body = mapping({"a": tensor("../../secret", "FloatStorage", 6, (6,), (1,))})
    (tmp_path / "secret").write_bytes(SIX)
    with pytest.raises(SavedModelError, match="cannot be read"):
        read_pth(write_zip(path, body, {"0": SIX}))


@pytest.mark.parametrize("entry", ["data.pkl", "byteorder", "data/0"])
def test_deflate_bombs(tmp_path, entry):
    path = tmp_path / "w.pth"
    contents = {"data.pkl": program(mapping({"a": HONEST})), "data/0": SIX, "byteorder": b"little"}
    with zipfile.ZipFile(path, "w") as archive:
        for key, content in contents.items():
            bomb = key == entry
            how = zipfile.ZIP_DEFLATED if bomb else zipfile.ZIP_STORED
            archive.writestr(f"w/{key}", bytes(2**26) if bomb else content, how)
    with pytest.raises(SavedModelError, match=f"its w/{entry} is compressed|its storages overlap"):
        read_pth(path)


# ------------------------------------------------------------------------------ safetensors


@pytest.mark.parametrize(
    ("header", "length"),
    [
        (b'{"a":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}}', 2**62),
        (b'{"a":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}}', 0),
        (
            b'{"a":{"dtype":"F32","shape":[6],"data_offsets":[0,24]},'
            b'"b":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}}',
            None,
        ),
        (b'{"a":{"dtype":"F32","shape":[6],"data_offsets":[4,28]}}', None),
        (b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,24]}}', None),
        (b'{"a":{"dtype":"F32","shape":[6],"data_offsets":[24,0]}}', None),
        (b'{"a":{"dtype":"F32","shape":[-6],"data_offsets":[0,24]}}', None),
        (b'{"a":{"dtype":"X99","shape":[6],"data_offsets":[0,24]}}', None),
        (b"[" * 100_000, None),
        (b"\xff\xfe not json", None),
    ],
)
def test_safetensors_that_lie(tmp_path, header, length):
    pytest.importorskip("safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + SIX)
    with pytest.raises(HandleError, match=r"model\.safetensors cannot be read"):
        check_sizes(tmp_path)


def test_a_folder_is_no_weight_file(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(HandleError, match=r"model\.safetensors cannot be read"):
        check_sizes(tmp_path)
