"""The local server: REST as TensorFlow Serving has it, and the page, asked as clients ask."""

import base64
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time

import fastapi.testclient
import httpx
import keras
import numpy as np
import pytest
import tensorflow as tf
from test_explanation import pictures, sentiment  # noqa: F401

from tfft.cli import main
from tfft.errors import TfftError
from tfft.exporting import open_served, serving_functions
from tfft.serving.page import explained, predicted
from tfft.serving.rest import add_rest_routes


def client_of(served, name):
    app = fastapi.FastAPI()
    add_rest_routes(app, served, name, 2**25)
    return fastapi.testclient.TestClient(app)


@pytest.fixture(scope="module")
def texts():
    return serving_functions(sentiment(), class_names=["bad", "good"])


@pytest.fixture(scope="module")
def asked(texts):
    return client_of(texts, "reviews")


def test_rows_and_columns_get_the_predictions_of_the_model(asked, texts):
    expected = texts.predict(["a good film", "bad"])
    found = asked.post("/v1/models/reviews:predict", json={"instances": ["a good film", "bad"]}).json()["predictions"]
    assert [row["label"] for row in found] == ["good", "bad"]
    np.testing.assert_allclose([row["probabilities"] for row in found], expected["probabilities"], rtol=1e-6)
    columns = asked.post("/v1/models/reviews:predict", json={"inputs": ["a good film", "bad"]}).json()["outputs"]
    assert columns["label"] == ["good", "bad"]
    name = next(iter(texts.signatures["serving_default"].structured_input_signature[1]))
    named = asked.post("/v1/models/reviews:predict", json={"instances": [{name: "bad"}]}).json()
    assert named["predictions"][0]["label"] == "bad"


@pytest.mark.slow
def test_bytes_are_base64(pictures):  # noqa: F811
    served = open_served(pictures / "served")
    client = client_of(served, "m")
    content = (pictures / "corner.png").read_bytes()
    body = {"signature_name": "serve_bytes", "instances": [{"b64": base64.b64encode(content).decode()}]}
    [row] = client.post("/v1/models/m:predict", json=body).json()["predictions"]
    assert row["label"] == "red"
    np.testing.assert_allclose(row["logits"], served.predict_bytes([content])["logits"][0], rtol=1e-6)
    body["instances"] = [{"b64": "no base64!"}]
    assert "Expected bytes as" in client.post("/v1/models/m:predict", json=body).json()["error"]
    body["instances"] = [{"b64": base64.b64encode(b"no image").decode()}]
    refused = client.post("/v1/models/m:predict", json=body)
    assert refused.status_code == 400
    assert "cannot use these values" in refused.json()["error"]


def test_status_and_metadata(asked):
    assert asked.get("/v1/models/reviews").json()["model_version_status"][0]["state"] == "AVAILABLE"
    signatures = asked.get("/v1/models/reviews/metadata").json()["metadata"]["signature_def"]
    assert signatures["serving_default"]["outputs"]["probabilities"] == {"dtype": "float32", "shape": [-1, 2]}
    assert asked.get("/v1/models/other").status_code == 404


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("{", "Expected JSON"),
        ("{}", "either 'instances'"),
        ('{"instances": []}', "at least one example"),
        ('{"instances": [1.5]}', "cannot use these values"),
        ('{"instances": [{"words": "a"}]}', "expected objects with text; the one at position 0 has other names"),
        ('{"inputs": {"words": ["a"]}}', "inputs: expected an object with"),
        ('{"signature_name": "serving_defualt", "instances": ["a"]}', "Did you mean 'serving_default'"),
    ],
)
def test_other_requests_get_a_sentence(asked, body, sentence):
    refused = asked.post("/v1/models/reviews:predict", content=body)
    assert refused.status_code == 400
    assert sentence in refused.json()["error"]


def test_large_requests_are_refused_while_they_arrive(asked):
    refused = asked.post("/v1/models/reviews:predict", content=b" " * (32 * 2**20 + 1))
    assert refused.status_code == 413
    assert "at most 33,554,432 bytes" in refused.json()["error"]


@pytest.mark.slow
def test_what_the_page_shows(texts, pictures, tmp_path):  # noqa: F811
    shown = predicted(texts, ("a good film",), tmp_path)
    assert list(shown.label) == ["good", "bad"]
    picture, words = explained(texts, ("a <b>good</b> good",), tmp_path)
    assert picture is None
    assert "<b>" not in words
    assert words.count("46 139 87 / 0.75") == 1  # the word "good" alone has the full colour
    served = open_served(pictures / "model.keras")
    heat, words = explained(served, (str(pictures / "corner.png"),), tmp_path)
    assert tf.io.decode_jpeg(tf.io.read_file(heat)).shape == (40, 60, 3)
    assert words == ""
    (tmp_path / "no.png").write_bytes(b"no image")
    with pytest.raises(TfftError, match="^[A-Z].*image"):
        predicted(served, (str(tmp_path / "no.png"),), tmp_path)


def test_numbers_are_shown_in_words(tmp_path):
    inputs = keras.Input((), dtype="string", name="text")
    words = keras.layers.TextVectorization(vocabulary=["good"], output_mode="count")
    model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="ones")(words(inputs)))
    shown = predicted(serving_functions(model), ("good good",), tmp_path)
    assert json.loads(shown.text)["outputs"] == [2.0]


@pytest.fixture
def address(pictures):  # noqa: F811
    """The address of `tfft serve`, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tfft", "serve", str(pictures / "model.keras"), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines == [
            f"Page:  http://127.0.0.1:{port}\n",
            f"REST:  http://127.0.0.1:{port}/v1/models/model:predict\n",
            "Stop with Ctrl-C.\n",
        ]
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def asked_page(client, function, value):
    """The event and the data of an answer of the page, as its own script asks for them."""
    number = client.post(f"/gradio_api/call/{function}", json={"data": [value]}).json()["event_id"]
    event, data = client.get(f"/gradio_api/call/{function}/{number}").text.strip().splitlines()[-2:]
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@pytest.mark.nightly
@pytest.mark.process
def test_a_browser_asks_the_page(address, pictures):  # noqa: F811
    with httpx.Client(base_url=address, timeout=60, transport=httpx.HTTPTransport(retries=20)) as client:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError):
                assert "<html" in client.get("/").text
                break
            time.sleep(0.2)
        content = (pictures / "corner.png").read_bytes()
        [path] = client.post("/gradio_api/upload", files={"files": ("corner.png", content)}).json()
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        event, (label, text, *_) = asked_page(client, "predict", file)
        assert (event, label["value"]["label"], text["visible"]) == ("complete", "red", False)
        event, (heat, _) = asked_page(client, "explain", file)
        assert client.get(f"/gradio_api/file={heat['value']['path']}").headers["content-type"].startswith("image/")
        outside = {"path": str(pictures / "corner.png"), "meta": {"_type": "gradio.FileData"}}
        assert asked_page(client, "predict", outside)[0] == "error"  # a path that nobody uploaded
        assert client.get(f"/gradio_api/file={pictures / 'corner.png'}").status_code == 403
        assert client.get("/v1/models/model").status_code == 200


def test_a_port_in_use_is_named_before_the_model_is_opened(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", str(tmp_path / "none"), "--port", str(port)]) == 2
    assert f"Try --port {port + 1}" in capsys.readouterr().err
    assert main(["serve", str(tmp_path / "none"), "--port", "70000"]) == 2
    assert "from 1 to 65535" in capsys.readouterr().err
