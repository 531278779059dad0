"""PyTorch files read without PyTorch: right values, and nothing in them is ever run.

The files are put together from pickle opcodes, since only that shows what a stranger could write.
"""

import pickle
import struct
import zipfile

import numpy as np
import pytest

from tfft.backbones.formats.checkpoints import read_pth
from tfft.backbones.formats.efficientnet_lite0 import weights_path
from tfft.errors import SavedModelError, UnsafeModelError


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    return b"J" + struct.pack("<i", value)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def name(module, attribute):
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


EMPTY_HOOKS = name("collections", "OrderedDict") + b")R"


def tensor(key, kind, numel, shape, strides, offset=0):
    storage = b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(numel) + b"tQ"
    body = storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89" + EMPTY_HOOKS
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + body + b"tR"


def mapping(items):
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def program(body):
    return b"\x80\x02" + body + b"."


def write_zip(path, body, storages, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("weights/data.pkl", program(body))
        for key, raw in storages.items():
            archive.writestr(f"weights/data/{key}", raw)
        archive.writestr("weights/version", "3\n")
    return path


def write_row(path, body, storages, width=4):
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    data = head + program(body) + pickle.dumps(list(storages), 2)
    for raw in storages.values():
        data += struct.pack("<q", len(raw) // width) + raw
    path.write_bytes(data)
    return path


SIX = np.arange(6, dtype="<f4").tobytes()


@pytest.mark.parametrize("write", [write_zip, write_row])
def test_values_shapes_and_strides(tmp_path, write):
    body = mapping(
        {
            "rows": tensor("0", "FloatStorage", 6, (2, 3), (3, 1)),
            "transposed": tensor("0", "FloatStorage", 6, (3, 2), (1, 3)),
            "tail": tensor("0", "FloatStorage", 6, (2,), (1,), offset=4),
            "scalar": tensor("0", "FloatStorage", 6, (), (), offset=5),
            "none": tensor("0", "FloatStorage", 6, (0, 3), (3, 1)),
            "epoch": number(3),
        }
    )
    found = read_pth(write(tmp_path / "w.pth", body, {"0": SIX}))
    assert list(found) == ["rows", "transposed", "tail", "scalar", "none"]
    np.testing.assert_array_equal(found["rows"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["transposed"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(found["tail"], [4, 5])
    assert found["scalar"] == 5.0
    assert found["none"].shape == (0, 3)
    found["rows"][0, 0] = 9  # a copy: its neighbours stay
    assert found["transposed"][0, 0] == 0


def test_every_kind_of_number(tmp_path):
    kinds = {
        "DoubleStorage": np.array([1.5, -2], "<f8"),
        "HalfStorage": np.array([1.5, -2], "<f2"),
        "LongStorage": np.array([2**40, -2], "<i8"),
        "IntStorage": np.array([7, -2], "<i4"),
        "ByteStorage": np.array([255, 0], "u1"),
        "BoolStorage": np.array([True, False]),
    }
    body = mapping({kind: tensor(kind, kind, 2, (2,), (1,)) for kind in [*kinds, "BFloat16Storage"]})
    upper_half = (np.array([1.5, -2], "<f4").view("<u4") >> 16).astype("<u2")
    raw = {kind: value.tobytes() for kind, value in kinds.items()} | {"BFloat16Storage": upper_half.tobytes()}
    found = read_pth(write_zip(tmp_path / "w.pth", body, raw))
    for kind, value in kinds.items():
        np.testing.assert_array_equal(found[kind], value)
        assert found[kind].dtype == value.dtype
    np.testing.assert_array_equal(found["BFloat16Storage"], np.array([1.5, -2], np.float32))


def test_a_training_checkpoint_gives_its_weights(tmp_path):
    weights = mapping({"a.weight": tensor("0", "FloatStorage", 6, (6,), (1,))})
    moments = mapping({"m": tensor("1", "FloatStorage", 6, (6,), (1,))})
    body = mapping({"epoch": number(3), "state_dict": weights, "optimizer": moments})
    assert list(read_pth(write_zip(tmp_path / "w.pth", body, {"0": SIX, "1": SIX}))) == ["a.weight"]
    body = mapping({"encoder": weights, "decoder": moments})
    assert list(read_pth(write_zip(tmp_path / "v.pth", body, {"0": SIX, "1": SIX}))) == [
        "encoder.a.weight",
        "decoder.m",
    ]


@pytest.mark.parametrize("write", [write_zip, write_row])
@pytest.mark.parametrize(
    ("module", "attribute"),
    [("posix", "system"), ("builtins", "eval"), ("builtins", "getattr"), ("torch", "load"), ("numpy", "load")],
)
def test_no_other_global_is_ever_called(tmp_path, write, module, attribute):
    target = tmp_path / "written"
    attack = name(module, attribute) + b"(" + text(f"touch {target}") + b"tR"
    path = write(tmp_path / "w.pth", mapping({"a": attack}), {})
    with pytest.raises(UnsafeModelError, match=f"asks for {module}.{attribute}"):
        read_pth(path)
    assert not target.exists()


def test_the_attack_of_the_test_above_works_on_plain_pickle(tmp_path):
    """The check can fail: the same bytes do write a file when Python's own reader opens them."""
    target = tmp_path / "written"
    pickle.loads(program(name("posix", "system") + b"(" + text(f"touch {target}") + b"tR"))
    assert target.exists()


@pytest.mark.parametrize(
    "bad",
    [
        tensor("0", "FloatStorage", 6, (7,), (1,)),
        tensor("0", "FloatStorage", 6, (2,), (6,)),
        tensor("0", "FloatStorage", 6, (2,), (1,), offset=5),
        tensor("0", "FloatStorage", 6, (2,), (1,), offset=-1),
        tensor("0", "FloatStorage", 6, (2,), (-1,)),
        tensor("0", "FloatStorage", 6, (2_000_000, 1_000_000), (0, 0)),
        tensor("0", "FloatStorage", 2_000_000_000, (6,), (1,)),
        tensor("missing", "FloatStorage", 6, (6,), (1,)),
        text("no tensor"),
    ],
)
@pytest.mark.parametrize("write", [write_zip, write_row])
def test_tensors_outside_of_their_storage_are_refused(tmp_path, write, bad):
    with pytest.raises(SavedModelError, match="cannot be read as a PyTorch file"):
        read_pth(write(tmp_path / "w.pth", mapping({"a": bad}), {"0": SIX}))


@pytest.mark.parametrize("write", [write_zip, write_row])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, write):
    body = mapping({"a": tensor("0", "FloatStorage", 6, (2, 3), (3, 1))})
    whole = write(tmp_path / "w.pth", body, {"0": SIX}).read_bytes()
    cut = tmp_path / "cut.pth"
    for size in range(0, len(whole), 7):
        cut.write_bytes(whole[:size])
        with pytest.raises(SavedModelError, match=r"cut\.pth"):
            read_pth(cut)


def test_other_files_are_refused_with_a_reason(tmp_path):
    path = tmp_path / "w.pth"
    path.write_text("<html>404</html>")
    with pytest.raises(SavedModelError, match=r"16 bytes.*Download it again"):
        read_pth(path)
    write_zip(path, mapping({}), {}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(SavedModelError, match="compressed"):
        read_pth(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(SavedModelError, match=r"without one data\.pkl \(it holds a\.txt\)"):
        read_pth(path)
    with pytest.raises(FileNotFoundError):
        read_pth(tmp_path / "none.pth")


def test_a_published_file_in_the_old_format():
    found = read_pth(weights_path())
    assert len(found) == 296
    assert found["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert sum(v.size for v in found.values()) == 4_694_073
    assert all(np.isfinite(v).all() for v in found.values())
