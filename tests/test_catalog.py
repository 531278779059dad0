"""The catalog: rows that are whole, unambiguous, and agree with what Keras has."""

import inspect
import re
import subprocess
import sys

import pytest

from tfft.backbones import list_backbones
from tfft.backbones.catalog import APPLICATIONS, DEFAULT, PRESETS, find_application, find_preset, plain
from tfft.errors import BackboneError


def test_every_preset_is_pinned_and_described():
    assert len(PRESETS) >= 24
    assert PRESETS[0].name == DEFAULT
    for preset in PRESETS:
        assert re.fullmatch(r"https://tfhub\.dev/[\w./-]+/\d+|pip:[\w-]+", preset.handle), preset.handle
        assert preset.parameters > 0
        assert preset.paper
        assert preset.description
        assert preset.licence
        assert (preset.input is not None) == (preset.kind == "image")
        assert preset.dimension is None or preset.dimension > 0


def test_names_and_handles_mean_one_thing():
    names = [plain(p.name) for p in PRESETS]
    assert len(set(names)) == len(names)
    assert len({p.handle for p in PRESETS}) == len(PRESETS)
    assert not [p.name for p in PRESETS if find_application(p.name)]


def test_presets_are_found_by_any_spelling_and_by_handle():
    wanted = find_preset("mobilenet-v2-100-224")
    assert wanted is not None
    assert find_preset("MobileNet_V2_100_224") is wanted
    assert find_preset(wanted.handle) is wanted
    assert find_preset(wanted.handle + "/") is wanted
    assert find_preset("mobilenet-v2") is None


def test_applications_are_those_of_keras():
    import keras

    theirs = {name for name, value in vars(keras.applications).items() if inspect.isfunction(value)}
    assert {app.name for app in APPLICATIONS} == theirs


def test_list_backbones_filters():
    assert list_backbones()[0].name == DEFAULT
    assert {p.kind for p in list_backbones(kind="text")} == {"text"}
    assert [p.name for p in list_backbones("MobileNet_V3")] == [
        "mobilenet-v3-small-100-224",
        "mobilenet-v3-large-100-224",
    ]
    assert list_backbones("no such thing") == []
    with pytest.raises(BackboneError, match=r"received 'images'\. Did you mean 'image'\?"):
        list_backbones(kind="images")


@pytest.mark.process
def test_listing_does_not_import_tensorflow():
    code = "import sys, tfft.backbones as b; b.list_backbones(); print({'keras', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()"]
