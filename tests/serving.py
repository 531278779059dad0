"""A small model server in the shape of TensorFlow Serving's REST API, on TensorFlow alone.

It follows the documented contract: the highest version in the model's folder is served, other folder
names are ignored; ``GET /v1/models/NAME`` tells the state, ``GET .../metadata`` the signatures,
``POST .../NAME[/versions/N]:predict`` takes ``instances`` (rows) or ``inputs`` (columns), binary values
as ``{"b64": ...}``, and answers ``predictions`` or ``outputs``; what is wrong with a request is a 400
with ``{"error": ...}``. As there, an output whose name ends in ``_bytes`` is base64-encoded.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import pathlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf


class BadRequest(Exception):
    """The request cannot be answered; the text goes back to the client."""


class ModelServer:
    """Serves the versions of one model from memory."""

    def __init__(self, name: str, base: pathlib.Path) -> None:
        self.name = name
        numbers = [int(p.name) for p in base.iterdir() if p.is_dir() and re.fullmatch(r"[0-9]+", p.name)]
        self.version = max(numbers)
        self._model = tf.saved_model.load(str(base / str(self.version)))

    def status(self) -> dict[str, Any]:
        state = {
            "version": str(self.version),
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
        return {"model_version_status": [state]}

    def metadata(self) -> dict[str, Any]:
        signatures = {
            name: {key: {"dtype": spec.dtype.name} for key, spec in function.structured_input_signature[1].items()}
            for name, function in self._model.signatures.items()
        }
        return {"model_spec": {"name": self.name, "version": str(self.version)}, "metadata": {"signatures": signatures}}

    def predict(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body.get("signature_name", "serving_default")
        if name not in self._model.signatures:
            raise BadRequest(f"Serving signature name: {name!r} not found in signature def")
        function = self._model.signatures[name]
        specs = function.structured_input_signature[1]
        if ("instances" in body) == ("inputs" in body):
            raise BadRequest("Request body needs exactly one of 'instances' and 'inputs'")
        columns = _columns_of_rows(body["instances"], specs) if "instances" in body else _columns(body["inputs"], specs)
        try:
            outputs = function(**{key: _tensor(columns[key], spec) for key, spec in specs.items()})
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise BadRequest(str(error)) from error
        values = {key: _plain(key, value.numpy()) for key, value in outputs.items()}
        if "inputs" in body:
            return {"outputs": values if len(values) > 1 else next(iter(values.values()))}
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        return {"predictions": rows if len(values) > 1 else [next(iter(row.values())) for row in rows]}


def _columns_of_rows(rows: list[Any], specs: dict[str, tf.TensorSpec]) -> dict[str, list[Any]]:
    if not isinstance(rows, list) or not rows:
        raise BadRequest("'instances' must be a list with at least one row")
    named = all(isinstance(row, dict) and set(row) == set(specs) for row in rows)
    if named:
        return {key: [row[key] for row in rows] for key in specs}
    if len(specs) != 1:
        raise BadRequest(f"every instance needs the inputs {sorted(specs)}")
    return {next(iter(specs)): rows}


def _columns(inputs: Any, specs: dict[str, tf.TensorSpec]) -> dict[str, Any]:
    if isinstance(inputs, dict) and set(inputs) == set(specs):
        return inputs
    if len(specs) != 1:
        raise BadRequest(f"'inputs' needs {sorted(specs)}")
    return {next(iter(specs)): inputs}


def _tensor(value: Any, spec: tf.TensorSpec) -> tf.Tensor:
    def decode(item: Any) -> Any:
        if isinstance(item, dict) and set(item) == {"b64"}:
            return base64.b64decode(item["b64"], validate=True)
        return [decode(part) for part in item] if isinstance(item, list) else item

    return tf.constant(decode(value), spec.dtype)


def _plain(key: str, value: np.ndarray) -> Any:
    def encode(item: Any) -> Any:
        if isinstance(item, list):
            return [encode(part) for part in item]
        if isinstance(item, bytes):
            return {"b64": base64.b64encode(item).decode()} if key.endswith("_bytes") else item.decode()
        return item

    return encode(value.tolist())


def _handler(server: ModelServer) -> type[http.server.BaseHTTPRequestHandler]:
    root = f"/v1/models/{server.name}"
    versioned = (root, f"{root}/versions/{server.version}")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path in versioned:
                self._answer(200, server.status())
            elif self.path in [f"{path}/metadata" for path in versioned]:
                self._answer(200, server.metadata())
            else:
                self._answer(404, {"error": f"Malformed request or unknown model: GET {self.path}"})

        def do_POST(self) -> None:
            if self.path not in [f"{path}:predict" for path in versioned]:
                return self._answer(404, {"error": f"Malformed request or unknown model: POST {self.path}"})
            try:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(200, server.predict(body))
            except (BadRequest, ValueError, TypeError) as error:
                self._answer(400, {"error": str(error)})

        def _answer(self, code: int, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


@contextlib.contextmanager
def serve(name: str, base: pathlib.Path) -> Iterator[str]:
    """Serves ``base`` on a free local port while the context lasts; gives the model's address."""
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(ModelServer(name, base)))
    thread = threading.Thread(target=http_server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http_server.server_port}/v1/models/{name}"
    finally:
        http_server.shutdown()
        http_server.server_close()
        thread.join()
