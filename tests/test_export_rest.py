"""Exports behind a server in the shape of TensorFlow Serving's REST API."""

from __future__ import annotations

import base64
import json
import pathlib
import re
import shutil
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow as tf

from tfft import heads
from tfft.exporting import export

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from serving import serve

process_fixtures = ("base",)


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture(scope="module")
def tiny(build_tiny_model):
    return build_tiny_model()


@pytest.fixture(scope="module")
def base(tiny, tmp_path_factory):
    return export(tiny, tmp_path_factory.mktemp("rest") / "served" / "1").path.parent


@pytest.fixture(scope="module")
def address(base):
    with serve("colours", base) as url:
        yield url


@pytest.fixture
def images():
    return np.random.default_rng(5).integers(0, 256, (2, 24, 40, 3), np.uint8)


def b64(image):
    return {"b64": base64.b64encode(tf.io.encode_png(image).numpy()).decode()}


def wanted(model, images):
    return {
        key: value.numpy()
        for key, value in heads.from_model(model).postprocess(model.predict(images, verbose=0)).items()
    }


def test_status_and_metadata(address):
    code, status = ask(address)
    assert (code, status["model_version_status"][0]["state"]) == (200, "AVAILABLE")
    code, metadata = ask(f"{address}/metadata")
    assert metadata["metadata"]["signatures"]["serve_bytes"] == {"image_bytes": {"dtype": "string"}}


def test_rows_of_pixels(address, tiny, images):
    code, answer = ask(f"{address}:predict", {"instances": images.tolist()})
    assert code == 200
    expected = wanted(tiny, images)
    found = [row["probabilities"] for row in answer["predictions"]]
    np.testing.assert_allclose(found, expected["probabilities"], rtol=1e-5, atol=1e-5)
    assert [row["label"] for row in answer["predictions"]] == [label.decode() for label in expected["label"]]


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["bare rows", "named rows", "columns"])
def test_encoded_images(shape, address, tiny, images):
    encoded = [b64(image) for image in images]
    body = {
        "bare rows": {"instances": encoded},
        "named rows": {"instances": [{"image_bytes": one} for one in encoded]},
        "columns": {"inputs": {"image_bytes": encoded}},
    }[shape]
    code, answer = ask(f"{address}:predict", {"signature_name": "serve_bytes", **body})
    assert code == 200
    expected = wanted(tiny, images)
    if shape == "columns":
        found = answer["outputs"]
    else:
        found = {key: [row[key] for row in answer["predictions"]] for key in answer["predictions"][0]}
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-5, atol=1e-5)
    assert found["label"] == [label.decode() for label in expected["label"]]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"signature_name": "nothing", "instances": [1]}, "not found in signature def"),
        (
            {"signature_name": "serve_bytes", "instances": [{"b64": base64.b64encode(b"no image").decode()}]},
            "not an image",
        ),
        ({"signature_name": "serve_bytes", "instances": [{"b64": "%%%"}]}, "base64"),
        ({"instances": [[1, 2], [3]]}, "sequence|shape|rectangular"),
        ({"instances": [1], "inputs": [1]}, "exactly one"),
        ({}, "exactly one"),
    ],
)
def test_wrong_requests_are_answered_and_the_server_goes_on(body, said, address, images):
    code, answer = ask(f"{address}:predict", body)
    assert code == 400
    assert re.search(said, answer["error"])
    assert ask(f"{address}:predict", {"signature_name": "serve_bytes", "instances": [b64(images[0])]})[0] == 200


def test_unknown_model_is_404(address):
    code, answer = ask(address.replace("colours", "other"))
    assert code == 404
    assert "error" in answer


@pytest.mark.slow
def test_highest_version_is_served_and_unfinished_ones_are_not(base, images, tmp_path):
    for name in ("9", "10", ".tmp-11-aa"):
        shutil.copytree(base / "1", tmp_path / name)
    with serve("colours", tmp_path) as url:
        assert ask(url)[1]["model_version_status"][0]["version"] == "10"
        body = {"signature_name": "serve_bytes", "instances": [b64(images[0])]}
        assert ask(f"{url}/versions/10:predict", body)[0] == 200
        assert ask(f"{url}/versions/9:predict", body)[0] == 404
