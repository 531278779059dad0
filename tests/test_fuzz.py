"""Damaged files of every kind that tfft reads: refused with a TfftError, or read; never anything else.

The short form of ``python benchmarks/fuzz.py``, which runs as long as one likes.
"""

from __future__ import annotations

import importlib.util
import pathlib
import random
import sys
import tarfile

import pytest

pytest.importorskip("safetensors")

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "fuzz.py"
CASES = {"savedmodel": 4, "graph": 4, "graph of tables": 4, "graph of tf1": 4, "keras": 8, "keras entries": 8,
         "vocabulary": 8, "text settings": 8}  # fmt: skip


@pytest.fixture(scope="module")
def fuzz():
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


@pytest.fixture(scope="module")
def originals(fuzz, tmp_path_factory):
    place = tmp_path_factory.mktemp("originals")
    fuzz.make_originals([*fuzz.READERS], place)
    return place


NAMES = [
    "savedmodel", "graph", "graph of tables", "graph of tf1", "scan", "index", "tar", "tar.gz", "pth", "pth entries",
    "pth row", "safetensors", "keras", "keras entries", "csv", "jsonl", "png", "jpeg", "wav", "vocabulary",
    "text settings",
]  # fmt: skip


@pytest.mark.daily(*sorted({*NAMES} - {"png", "vocabulary", "graph of tf1"}))
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files(fuzz, originals, name):
    if name.startswith("tar") and not hasattr(tarfile, "data_filter"):
        pytest.skip("this version of Python cannot unpack tar archives safely")
    outcomes = [fuzz.run_case(name, number, 7, originals) for number in range(CASES.get(name, 20))]
    assert {outcome for outcome, _ in outcomes} <= {"read", "refused"}, outcomes


def test_a_reader_that_raises_something_else_is_noticed(fuzz, originals, monkeypatch):
    """The tests above can fail."""
    real = fuzz.READERS["csv"]
    monkeypatch.setitem(fuzz.READERS, "csv", fuzz.Reader(real.make, lambda path: {}["missing"]))
    assert fuzz.run_case("csv", 0, 7, originals) == ("wrong", "KeyError: 'missing'")
    monkeypatch.setitem(fuzz.READERS, "csv", fuzz.Reader(real.make, lambda path: (path.parent / "more").touch()))
    assert fuzz.run_case("csv", 0, 7, originals)[0] == "wrong"


def test_a_case_is_the_same_file_each_time(fuzz):
    data = bytes(range(256)) * 4
    first, again, other = (fuzz.mutate(data, random.Random(seed)) for seed in ("0 a 1", "0 a 1", "0 a 2"))
    assert first == again
    assert first != other
