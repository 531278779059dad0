"""Do damaged files ever do more than raise a TfftError? Mutates real files of every kind that tfft reads.

    python benchmarks/fuzz.py --minutes 5 --seed 0                  # all readers in turn
    python benchmarks/fuzz.py --readers pth savedmodel --minutes 1

Every case runs in a process beside this one, so that a crash of a C++ library is seen and counted, and one that does
not end is stopped. Case N of a seed is always the same file: ``--only READER:N`` runs one again, in this process.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))  # its makers of small SavedModels

Outcome = tuple[str, str]  # ("read" | "refused" | "wrong" | "crashed" | "hung", what was said)
LIMIT = 60.0  # seconds for one case
_CHUNKS = (b"", b"\0", b"\xff" * 8, b"\xff\xff\xff\x7f", b"../../x", b"\x80\x02", b"{" * 200, b"[" * 200, b"\n" * 50)


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Changes some bytes: flips, overwrites, cuts, repeats, moves, or puts in what parsers stumble over."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        if not changed:
            break
        at, length = draw.randrange(len(changed)), min(draw.choice((1, 2, 4, 8, 64, 1024)), len(changed))
        kind = draw.randrange(7)
        if kind <= 1:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            changed[at : at + length] = draw.randbytes(len(changed[at : at + length]))
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = draw.choice(_CHUNKS)
        elif kind == 5:
            start = draw.randrange(len(changed))
            changed[at:at] = changed[start : start + length]
        elif draw.random() < 0.3:
            del changed[at:]
    return bytes(changed)


# ----------------------------------------------------------------------------- the readers


class Reader:
    """One kind of file: how an honest one is made, and what reads it.

    Args:
        make: writes it into a folder and returns the file that is changed.
        read: reads what lies in the folder; everything but a TfftError is wrong.
        change: from bytes to changed bytes.
    """

    def __init__(
        self,
        make: Callable[[pathlib.Path], pathlib.Path],
        read: Callable[[pathlib.Path], object],
        change: Callable[[bytes, random.Random], bytes] = mutate,
    ) -> None:
        self.make, self.read, self.change = make, read, change


def _savedmodel(kind: str) -> Callable[[pathlib.Path], pathlib.Path]:
    def make(folder: pathlib.Path) -> pathlib.Path:
        import savedmodels

        savedmodels.MAKERS[kind](folder / "model")
        return folder / "model" / "saved_model.pb"

    return make


def _change_graph(data: bytes, draw: random.Random) -> bytes:
    """Changes what a well-formed SavedModel says: inputs, operations, types, shapes, numbers, whole nodes."""
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel.FromString(data)
    meta = draw.choice(list(proto.meta_graphs))
    lists = [f.node_def for f in meta.graph_def.library.function] + [meta.graph_def.node]
    lists = [nodes for nodes in lists if nodes]
    every = [node for nodes in lists for node in nodes]
    for _ in range(draw.choice((1, 1, 2, 4))):
        nodes = draw.choice(lists)
        if not nodes:
            continue
        node, kind = draw.choice(list(nodes)), draw.randrange(7)
        if kind == 0 and node.input:
            others = [ref for other in nodes for ref in other.input] + ["missing", f"{node.name}:7", "^" + node.name]
            node.input[draw.randrange(len(node.input))] = draw.choice(others)
        elif kind == 1:
            node.op = draw.choice(every).op
        elif kind == 2:
            nodes.remove(node)
        elif kind == 3 and node.attr:
            node.attr[draw.choice(sorted(node.attr))].CopyFrom(_strange_attribute(draw))
        elif kind == 4 and node.attr:
            del node.attr[draw.choice(sorted(node.attr))]
        elif kind == 5 and len(meta.object_graph_def.nodes):
            _change_object(draw.choice(list(meta.object_graph_def.nodes)), draw)
        elif node.op == "Const":
            tensor = node.attr["value"].tensor
            tensor.tensor_shape.dim.add(size=draw.choice((-1, 0, 3, 2**20, 2**40)))
            tensor.dtype = draw.choice((tensor.dtype, 1, 3, 7, 9, 20, 21))
    return proto.SerializeToString()


def _strange_attribute(draw: random.Random) -> Any:
    from tensorflow.core.framework import attr_value_pb2

    value = attr_value_pb2.AttrValue()
    kind = draw.randrange(6)
    if kind == 0:
        value.i = draw.choice((-1, 0, 7, 2**31, -(2**40)))
    elif kind == 1:
        value.type = draw.choice((0, 1, 3, 7, 9, 20, 21, 101))
    elif kind == 2:
        value.s = draw.choice((b"", b"x" * 100, b"\xff\xfe", b"file:///tmp/x"))
    elif kind == 3:
        value.shape.dim.add(size=draw.choice((-5, 0, 2**40)))
    elif kind == 4:
        value.list.i.extend([draw.choice((0, -1, 1, 3, 2**31)) for _ in range(draw.randrange(5))])
    else:
        value.func.name = draw.choice(("", "missing", "WriteFile"))
    return value


def _change_object(node: Any, draw: random.Random) -> None:
    kind = draw.randrange(4)
    if kind == 0 and node.children:
        draw.choice(list(node.children)).node_id = draw.choice((-1, 0, 1, 10**6))
    elif kind == 1 and node.children:
        draw.choice(list(node.children)).local_name = draw.choice(
            ("__class__", "variables", "signatures", "", "__init__")
        )
    elif kind == 2:
        node.variable.shape.dim.add(size=draw.choice((-5, 0, 2**40)))
        node.variable.dtype = draw.choice((0, 1, 7, 20, 21))
    else:
        node.user_object.identifier = draw.choice(
            ("_tf_keras_layer", "trackable_dict_wrapper", "trackable_list_wrapper")
        )


def _index(folder: pathlib.Path) -> pathlib.Path:
    _savedmodel("weight_norm")(folder)
    return folder / "model" / "variables" / "variables.index"


def _open(path: pathlib.Path) -> object:
    from tfft.backbones import load_backbone

    return load_backbone(path.parent if path.name == "saved_model.pb" else path.parents[1])


def _scan(path: pathlib.Path) -> object:
    from tfft.backbones.savedmodel.scan import check_savedmodel

    return check_savedmodel(path.parent)


def _archive(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "model.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        for name, size in (("saved_model.pb", 2000), ("variables/variables.index", 90), ("variables/" + "n" * 150, 5)):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = size, 1.5
            file.addfile(member, io.BytesIO(bytes(range(250)) * 8))
    return path


def _change_tar(data: bytes, draw: random.Random) -> bytes:
    """Changes headers and contents, and makes the checksums of the headers right again."""
    changed = bytearray(mutate(data, draw))
    for start in range(0, len(changed) - 511, 512):
        if changed[start + 257 : start + 262] == b"ustar":
            changed[start + 148 : start + 156] = b" " * 8
            changed[start + 148 : start + 156] = b"%06o\0 " % sum(changed[start : start + 512])
    return bytes(changed)


def _packed(folder: pathlib.Path) -> pathlib.Path:
    import gzip

    plain = _archive(folder)
    path = folder / "model.tar.gz"
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return path


def _unpack(path: pathlib.Path) -> object:
    from tfft.backbones.fetch.archives import unpack

    out = path.parent / "out"
    out.mkdir()
    unpack(path, out)
    outside = [p for p in out.rglob("*") if p.is_symlink() or not p.resolve().is_relative_to(out.resolve())]
    if outside:
        raise RuntimeError(f"it came out: {outside}")
    return out


def _pth(folder: pathlib.Path, old: bool) -> pathlib.Path:
    import numpy as np
    import test_checkpoints as parts

    body = parts.mapping({
        "a.weight": parts.tensor("0", "FloatStorage", 6, (2, 3), (3, 1)),
        "b": parts.tensor("1", "HalfStorage", 4, (4,), (1,)),
        "epoch": parts.number(3),
    })  # fmt: skip
    storages = {"0": np.arange(6, dtype="<f4").tobytes()}
    if old:
        body = parts.mapping({"a.weight": parts.tensor("0", "FloatStorage", 6, (2, 3), (3, 1))})
        return parts.write_row(folder / "w.pth", body, storages)
    return parts.write_zip(folder / "w.pth", body, {**storages, "1": bytes(8)})


def _read_pth(path: pathlib.Path) -> object:
    from tfft.backbones.formats.checkpoints import read_pth

    return read_pth(path)


def _safetensors(folder: pathlib.Path) -> pathlib.Path:
    header = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    header["b"] = {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}
    text = json.dumps(header).encode()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    path = folder / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(32))
    return path


def _read_safetensors(path: pathlib.Path) -> None:
    from tfft.backbones.huggingface import check_sizes

    check_sizes(path.parent)


def _keras(folder: pathlib.Path) -> pathlib.Path:
    import savedmodels

    from tfft.backbones.savedmodel import open_savedmodel

    savedmodels.lookup(folder / "model")
    path = folder / "m.keras"
    open_savedmodel(folder / "model").model.save(path)
    shutil.rmtree(folder / "model")
    return path


def _change_inside(data: bytes, draw: random.Random) -> bytes:
    """Changes one entry of a zip, whose checksums are right again; now and then the zip itself."""
    if draw.random() < 0.2:
        return mutate(data, draw)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(sorted(entries))
    if name.endswith(".json") and draw.random() < 0.7:
        entries[name] = json.dumps(_change_json(json.loads(entries[name]), draw)).encode()
    else:
        entries[name] = mutate(entries[name], draw)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for key, content in entries.items():
            archive.writestr(key, content)
    return out.getvalue()


def _change_json(value: Any, draw: random.Random) -> Any:
    places: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        here = todo.pop()
        items = (
            list(here.items()) if isinstance(here, dict) else list(enumerate(here)) if isinstance(here, list) else []
        )
        places += [(here, key) for key, _ in items]
        todo += [inner for _, inner in items]
    for here, key in draw.sample(places, min(len(places), draw.choice((1, 1, 2, 5)))):
        old = here[key] if not isinstance(here, list) or key < len(here) else None
        strange = [None, -1, 10**6, "", "x", [], {}, True, 1.5, ["a", -1], {"class_name": "Dense"}]
        if isinstance(old, str) and len(old) > 100:
            strange += [mutate(old.encode(), draw).decode("ascii", "replace") for _ in range(8)]
        if isinstance(here, dict) and draw.random() < 0.2:
            here.pop(key, None)
        elif not isinstance(here, list) or key < len(here):
            here[key] = draw.choice(strange)
    return value


def _read_keras(path: pathlib.Path) -> object:
    from tfft.backbones import load_backbone

    return load_backbone(path)


def _table(name: str, text: str) -> Callable[[pathlib.Path], pathlib.Path]:
    def make(folder: pathlib.Path) -> pathlib.Path:
        path = folder / name
        path.write_text(text * 5, encoding="utf-8")
        return path

    return make


def _read_table(path: pathlib.Path) -> object:
    from tfft.modalities.text import load_texts

    return load_texts(path, text="text", label="label")


def _image(suffix: str) -> Callable[[pathlib.Path], pathlib.Path]:
    def make(folder: pathlib.Path) -> pathlib.Path:
        import numpy as np
        import tensorflow as tf

        pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3)).astype("uint8")
        data = (tf.io.encode_png if suffix == "png" else tf.io.encode_jpeg)(pixels).numpy()
        for name in ("a/0", "a/1", "b/0", "b/1"):
            (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "photos" / f"{name}.{suffix}").write_bytes(data)
        return folder / "photos" / "a" / f"0.{suffix}"

    return make


def _read_images(path: pathlib.Path) -> object:
    from tfft.modalities.image import list_images

    return list_images(path.parents[1])


def _wav(folder: pathlib.Path) -> pathlib.Path:
    import wave

    import numpy as np

    for number, name in enumerate(("a/0", "a/1", "b/0", "b/1")):
        path = folder / "sounds" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((3000 * np.sin(np.arange(800) * (0.1 + number))).astype("<i2").tobytes())
    return folder / "sounds" / "a" / "0.wav"


def _read_sounds(path: pathlib.Path) -> object:
    from tfft.modalities.audio import load_recordings

    splits = load_recordings(path.parents[1])
    return splits.train.waves, splits.validation.waves


def _text_folder(name: str) -> Callable[[pathlib.Path], pathlib.Path]:
    def make(folder: pathlib.Path) -> pathlib.Path:
        import text_models

        place = text_models.tiny_bert_folder(folder / "bert")
        model = {"type": "WordPiece", "vocab": {word: i for i, word in enumerate(text_models.WORDS)}}
        normal = {"type": "BertNormalizer", "lowercase": True, "strip_accents": None}
        (place / "tokenizer.json").write_text(json.dumps({"model": model, "normalizer": normal, "added_tokens": []}))
        (place / "vocab.txt").unlink()
        return place / name

    return make


def _change_settings(data: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.3:
        return mutate(data, draw)
    return json.dumps(_change_json(json.loads(data), draw)).encode()


def _read_text_folder(path: pathlib.Path) -> object:
    from tfft.backbones import load_backbone

    return load_backbone(path.parent)


_ROWS = '{"text": "a \\u00fc good film", "label": "x"}\n{"text": "bad", "label": "y"}\n'
READERS = {
    "savedmodel": Reader(_savedmodel("weight_norm"), _open),
    "tables": Reader(_savedmodel("lookup"), _open),
    "loop": Reader(_savedmodel("lstm"), _open),
    "tf1": Reader(_savedmodel("slim_tf1"), _open),
    "graph": Reader(_savedmodel("weight_norm"), _open, _change_graph),
    "graph of tables": Reader(_savedmodel("lookup"), _open, _change_graph),
    "graph of a loop": Reader(_savedmodel("lstm"), _open, _change_graph),
    "graph of tf1": Reader(_savedmodel("slim_tf1"), _open, _change_graph),
    "scan": Reader(_savedmodel("lookup"), _scan),
    "index": Reader(_index, _open),
    "tar": Reader(_archive, _unpack, _change_tar),
    "tar.gz": Reader(_packed, _unpack),
    "pth": Reader(lambda folder: _pth(folder, False), _read_pth),
    "pth entries": Reader(lambda folder: _pth(folder, False), _read_pth, _change_inside),
    "pth row": Reader(lambda folder: _pth(folder, True), _read_pth),
    "safetensors": Reader(_safetensors, _read_safetensors),
    "keras": Reader(_keras, _read_keras),
    "keras entries": Reader(_keras, _read_keras, _change_inside),
    "csv": Reader(_table("t.csv", 'text,label\n"a good, film",x\n"bad ""one""",y\n'), _read_table),
    "jsonl": Reader(_table("t.jsonl", _ROWS), _read_table),
    "wav": Reader(_wav, _read_sounds),
    "vocabulary": Reader(_text_folder("tokenizer.json"), _read_text_folder, _change_settings),
    "text settings": Reader(_text_folder("config.json"), _read_text_folder, _change_settings),
    "png": Reader(_image("png"), _read_images),
    "jpeg": Reader(_image("jpg"), _read_images),
}


# ------------------------------------------------------------------------------ the cases


def run_case(name: str, number: int, seed: int, originals: pathlib.Path, verbose: bool = False) -> Outcome:
    """Makes one changed file, reads it, and says what came of it."""
    import warnings

    from tfft.errors import TfftError

    warnings.simplefilter("ignore")
    reader, original = READERS[name], originals / name.replace(" ", "_")
    where = (original / "file").read_text()
    with tempfile.TemporaryDirectory(prefix="tfft-fuzz-") as made:
        folder = pathlib.Path(made) / "case"
        shutil.copytree(original / "content", folder)
        path = folder / where
        path.write_bytes(reader.change(path.read_bytes(), random.Random(f"{seed} {name} {number}")))
        before = _listing(folder.parent)
        try:
            reader.read(path)
            outcome = ("read", "")
        except TfftError as error:
            outcome = ("refused", type(error).__name__)
            if verbose:
                print(type(error).__name__, str(error)[:1000])
        except BaseException as error:  # what should never come out
            outcome = ("wrong", f"{type(error).__name__}: {str(error)[:300]}")
            if verbose:
                traceback.print_exc()
        new = {p for p in _listing(folder.parent) - before if not p.startswith("case/out")}
        return ("wrong", f"it wrote {sorted(new)}") if new else outcome


def _listing(folder: pathlib.Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def make_originals(names: list[str], folder: pathlib.Path) -> None:
    """Makes the honest files, once."""
    for name in names:
        place = folder / name.replace(" ", "_")
        (place / "content").mkdir(parents=True)
        path = READERS[name].make(place / "content")
        (place / "file").write_text(str(path.relative_to(place / "content")))


def _work(pipe: Any, seed: int, originals: pathlib.Path) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    while True:
        name, number = pipe.recv()
        pipe.send(run_case(name, number, seed, originals))


class Worker:
    """A process that runs cases one by one, and is started again where a case ends it."""

    def __init__(self, seed: int, originals: pathlib.Path) -> None:
        self._seed, self._originals = seed, originals
        self._process: Any = None

    def run(self, name: str, number: int) -> Outcome:
        """Runs a case; a crash and a case without an end are outcomes too."""
        context = multiprocessing.get_context("spawn")
        if self._process is None:
            self._pipe, other = context.Pipe()
            self._process = context.Process(target=_work, args=(other, self._seed, self._originals), daemon=True)
            self._process.start()
            other.close()
            first = 60.0  # TensorFlow is imported with the first case
        else:
            first = 0.0
        self._pipe.send((name, number))
        try:
            if self._pipe.poll(LIMIT + first):
                return self._pipe.recv()
            outcome = ("hung", f"no end after {LIMIT:.0f} s")
        except EOFError:
            self._process.join()
            outcome = ("crashed", f"the process ended with {self._process.exitcode}")
        self.stop()
        return outcome

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def fuzz(names: list[str], seconds: float, seed: int, cases: int | None = None) -> dict[str, collections.Counter[str]]:
    """Runs cases of every reader in turn, until the time is up or there were enough.

    Returns:
        How often each outcome came up, by reader; what went wrong is printed.
    """
    counts: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in names}
    with tempfile.TemporaryDirectory(prefix="tfft-fuzz-") as made:
        originals = pathlib.Path(made)
        make_originals(names, originals)
        worker, end, number = Worker(seed, originals), time.monotonic() + seconds, 0
        while time.monotonic() < end and (cases is None or number < cases):
            for name in names:
                outcome, said = worker.run(name, number)
                counts[name][outcome] += 1
                if outcome not in ("read", "refused"):
                    print(f"  {name}:{number} {outcome}: {said}", flush=True)
            number += 1
        worker.stop()
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", nargs="+", choices=list(READERS), default=list(READERS), metavar="NAME")
    parser.add_argument("--cases", type=int, help="of each reader, at most")
    parser.add_argument("--only", metavar="READER:N", help="run one case in this process and show what it raises")
    options = parser.parse_args()
    if options.only:
        name, _, number = options.only.rpartition(":")
        with tempfile.TemporaryDirectory(prefix="tfft-fuzz-") as made:
            make_originals([name], pathlib.Path(made))
            print(*run_case(name, int(number), options.seed, pathlib.Path(made), verbose=True))
        return 0
    counts = fuzz(options.readers, 60 * options.minutes, options.seed, options.cases)
    bad = 0
    for name, found in counts.items():
        bad += sum(n for outcome, n in found.items() if outcome not in ("read", "refused"))
        print(f"{name:15} {sum(found.values()):6} cases: " + ", ".join(f"{n} {o}" for o, n in sorted(found.items())))
    print(f"{bad} cases did something else than read a file or refuse it")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
