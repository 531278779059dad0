"""A local server for trying a model: a page, and the REST interface of TensorFlow Serving (:func:`server_app`)."""

from __future__ import annotations

from tfft.serving.app import server_app

__all__ = ["server_app"]
