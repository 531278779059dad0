"""The web application: :func:`server_app`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tfft.errors import missing_package
from tfft.exporting.loader import Served
from tfft.serving.page import model_page
from tfft.serving.rest import add_rest_routes

if TYPE_CHECKING:
    import fastapi

LARGEST_REQUEST = 32 * 2**20  # bytes


def server_app(served: Served, name: str = "model") -> fastapi.FastAPI:
    """Return a web application that answers for a model.

    ``/`` is a page on which to try the model. ``/v1/models/NAME``, ``/v1/models/NAME/metadata`` and
    ``/v1/models/NAME:predict`` are the REST interface of TensorFlow Serving. Requests and files of more than 32 MB are
    refused. The application reads no file of this machine by a path from a request.

    Args:
        served: Model from :func:`tfft.exporting.open_served` or :func:`tfft.exporting.open_export`.
        name: Name of the model in addresses.

    Returns:
        An application for uvicorn or any other ASGI server.

    Raises:
        DependencyError: If Gradio is not installed.
        ExportError: If the modality of the model is unknown.

    Example:
        >>> app = server_app(tfft.exporting.open_served("runs/photos"))
        >>> uvicorn.run(app, host="127.0.0.1", port=8501)
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # no telemetry
    try:
        import fastapi
        import gradio
    except ImportError:
        missing_package("gradio", "The page of tfft serve", "pip install 'tfft[serve]'")
    app = fastapi.FastAPI(title=f"tfft: {name}", docs_url=None, redoc_url=None, openapi_url=None)
    add_rest_routes(app, served, name, LARGEST_REQUEST)
    page = model_page(served, name)
    # Gradio takes any path of this machine from a request until its own `launch` has set this.
    page.has_launched = True
    mounted: fastapi.FastAPI = gradio.mount_gradio_app(
        app, page, "/", allowed_paths=[], max_file_size=LARGEST_REQUEST, show_error=True, ssr_mode=False,
        footer_links=[],
    )  # fmt: skip
    return mounted
