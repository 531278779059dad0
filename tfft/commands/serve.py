"""``tfft serve``: a local page for trying a model, with the REST interface of TensorFlow Serving."""

from __future__ import annotations

import argparse
import pathlib
import re
import socket

from tfft.commands.opening import open_model
from tfft.console.output import SUCCESS, PrintResult, say
from tfft.errors import DataError
from tfft.settings import parse_whole

SUMMARY = "try a model on a local page, which also answers REST requests"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("model", metavar="RUN_OR_EXPORT", help="run folder, exported model or .keras file")
    parser.add_argument("--port", type=parse_whole, default=8501, metavar="N", help="port (8501)")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="address (127.0.0.1: this machine only); 0.0.0.0 accepts requests from the network",
    )  # fmt: skip
    parser.add_argument("--name", metavar="NAME", help="name of the model in addresses (that of the folder)")


def run(options: argparse.Namespace, print_result: PrintResult) -> int:
    """Serve a model until Ctrl-C."""
    _check_address(options.host, options.port)
    name = options.name or re.sub(r"[^\w.-]+", "-", pathlib.Path(options.model).resolve().stem).strip("-") or "model"
    served = open_model(options.model)
    from tfft.serving import server_app

    app = server_app(served, name)
    import uvicorn

    address = f"http://{'127.0.0.1' if options.host == '0.0.0.0' else options.host}:{options.port}"
    print_result({}, f"Page:  {address}\nREST:  {address}/v1/models/{name}:predict\nStop with Ctrl-C.")
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")
    say("tfft: stopped")
    return SUCCESS


def _check_address(host: str, port: int) -> None:
    """Raise an error for an address that cannot be used, before the model is opened."""
    if not 0 < port < 65536:
        raise DataError(f"--port: expected a number from 1 to 65535. Received: {port}.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DataError(
                f"Expected a free port. {host}:{port} cannot be used: {error.strerror}. Try --port {port + 1}."
            ) from error
