"""REST interface of TensorFlow Serving for one model: :func:`add_rest_routes`.

The forms of requests and answers are those of https://www.tensorflow.org/tfx/serving/api_rest: rows ("instances" to
"predictions") or columns ("inputs" to "outputs"), bytes as ``{"b64": "..."}``.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfft.errors import DataError, TfftError, did_you_mean, join_names, reason_of
from tfft.exporting.loader import ARRAY_SIGNATURE, Served

if TYPE_CHECKING:
    import fastapi


def add_rest_routes(app: fastapi.FastAPI, served: Served, name: str, largest: int) -> None:
    """Add the routes of a model to a web application.

    Args:
        app: Application.
        served: Model that answers.
        name: Name of the model in addresses.
        largest: Largest size of a request, in bytes.
    """
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    def reply(values: Any, status: int = 200) -> Response:
        return Response(json.dumps(values, ensure_ascii=False), status, media_type="application/json")

    async def predict(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > largest:
                return reply({"error": f"Expected a request of at most {largest:,} bytes. Send fewer examples."}, 413)
        try:
            return reply(await run_in_threadpool(answer, served, bytes(body)))
        except TfftError as error:
            return reply({"error": str(error)}, 400)

    def status(_: Request) -> Response:
        state = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        return reply({"model_version_status": [state]})

    def metadata(_: Request) -> Response:
        return reply({"model_spec": {"name": name, "version": "1"}, "metadata": {"signature_def": signatures(served)}})

    address = f"/v1/models/{name}"
    app.router.routes += [
        Route(address, status), Route(f"{address}/metadata", metadata),
        Route(f"{address}:predict", predict, methods=["POST"]),
    ]  # fmt: skip


def signatures(served: Served) -> dict[str, Any]:
    """Return the inputs and outputs of each signature with their types and shapes."""

    def described(specs: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: {"dtype": spec.dtype.name, "shape": [-1 if side is None else side for side in spec.shape]}
            for name, spec in specs.items()
        }

    return {
        name: {
            "inputs": described(function.structured_input_signature[1]),
            "outputs": described(function.structured_outputs),
        }
        for name, function in served.signatures.items()
    }


def answer(served: Served, body: bytes) -> dict[str, Any]:
    """Answer a request for predictions.

    Args:
        served: Model.
        body: JSON with ``instances`` or ``inputs``, and perhaps ``signature_name``.

    Returns:
        ``{"predictions": ...}`` or ``{"outputs": ...}``.

    Raises:
        DataError: If the request has another form, or the model cannot use its values.
    """
    try:
        asked = json.loads(body)
    except ValueError as error:
        raise DataError(f"Expected JSON. Received: {error}.") from error
    if not isinstance(asked, dict) or ("instances" in asked) == ("inputs" in asked):
        raise DataError("Expected an object with either 'instances' (a list of examples) or 'inputs' (by name).")
    name = asked.get("signature_name", ARRAY_SIGNATURE)
    if name not in served.signatures:
        hint = did_you_mean(str(name), served.signatures)
        raise DataError(f"Expected a signature_name: {join_names(served.signatures)}. Received: {name!r}.{hint}")
    signature = served.signatures[name]
    specs = signature.structured_input_signature[1]
    rows = "instances" in asked
    columns = _columns(asked["instances"], specs) if rows else _named(asked["inputs"], specs)
    try:
        tensors = {key: tf.constant(_array(columns[key], spec), spec.dtype) for key, spec in specs.items()}
        outputs = {key: value.numpy() for key, value in signature(**tensors).items()}
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise DataError(f"The model cannot use these values: {reason_of(error)}") from error
    plain = {key: _plain(value) for key, value in outputs.items()}
    if not rows:
        return {"outputs": next(iter(plain.values())) if len(plain) == 1 else plain}
    if len(plain) == 1:
        return {"predictions": next(iter(plain.values()))}
    count = min(len(values) for values in plain.values())
    return {"predictions": [{key: values[i] for key, values in plain.items()} for i in range(count)]}


def _columns(instances: Any, specs: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the values of each input from a list of examples."""
    if not isinstance(instances, list) or not instances:
        raise DataError("instances: expected a list with at least one example.")
    named = [isinstance(one, dict) and set(one) != {"b64"} for one in instances]
    if len(specs) == 1 and not any(named):
        return {next(iter(specs)): instances}
    wrong = [i for i, one in enumerate(instances) if not isinstance(one, dict) or set(one) != set(specs)]
    if wrong:
        raise DataError(
            f"instances: expected objects with {join_names(specs)}; the one at position {wrong[0]} has other names."
        )
    return {name: [one[name] for one in instances] for name in specs}


def _named(inputs: Any, specs: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(inputs, dict) and set(inputs) == set(specs):
        return inputs
    if len(specs) == 1 and not isinstance(inputs, dict):
        return {next(iter(specs)): inputs}
    raise DataError(f"inputs: expected an object with {join_names(specs)}.")


def _array(values: Any, spec: Any) -> np.ndarray:
    return np.asarray(_decoded(values), spec.dtype.as_numpy_dtype)


def _decoded(values: Any) -> Any:
    """Return values with ``{"b64": ...}`` as bytes."""
    if isinstance(values, list):
        return [_decoded(value) for value in values]
    if isinstance(values, dict):
        try:
            return base64.b64decode(values["b64"], validate=True)
        except (KeyError, TypeError, binascii.Error) as error:
            raise DataError('Expected bytes as {"b64": "..."} in Base64.') from error
    return values


def _plain(value: Any) -> Any:
    """Return an output for JSON: texts, numbers, and bytes as ``{"b64": ...}``."""
    if isinstance(value, np.ndarray):
        return [_plain(one) for one in value] if value.dtype == object else value.tolist()
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode("ascii")}
    return value
