"""Models on a server: TF Hub and Kaggle, through the packages that own their caches.

Hides that tensorflow_hub no longer imports beside a new setuptools, where the caches keep what, and
that a machine without a network should get an error at once, with the way out.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import socket
import sys
import tempfile
import threading
import types
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfft.errors import HandleError, join_names, missing_package

_TIMEOUT = 10.0  # seconds without an answer before a server counts as out of reach
_KAGGLE_NAME = re.compile(r"^[\w.-]+/[\w.-]+/[A-Za-z0-9]+/[\w.-]+(/\d+)?$")


class HubAddress:
    """An https address on TF Hub, Kaggle or elsewhere, fetched and cached by tensorflow_hub."""

    _web_page = re.compile(r"/(frameworks|variations|versions)(?=/)")

    def accepts(self, handle: str) -> bool:
        """Whether a handle is of this form."""
        return handle.startswith("https://")

    def fetch(self, handle: str) -> Path:
        """Return the folder in the cache; raise HandleError with advice if it cannot be downloaded."""
        address = handle.split("?")[0].rstrip("/")
        if "kaggle.com/models/" in address:  # as copied from the browser: .../frameworks/X/variations/Y/versions/1
            address = self._web_page.sub("", address)
        place = hub_cache_entry(address)
        if place.is_dir() and any(place.iterdir()):
            return place
        parts = urllib.parse.urlsplit(address)
        host, port = parts.hostname or "", parts.port or 443
        try:
            with short_timeout(host, port):
                return Path(_import_hub().resolve(address))
        except urllib.error.HTTPError as error:
            reason = f"{host} answered {error.code} {error.reason}"
        except (OSError, ValueError) as error:
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        raise HandleError(
            f"{address} could not be downloaded: {reason}. It is not in the cache either ({place}). Without a network: "
            '(1) on a machine that has one, run  python -c "import tensorflow_hub; '
            f"print(tensorflow_hub.resolve('{address}'))\"  and copy the folder it prints to {place}; "
            "(2) or set TFHUB_CACHE_DIR to a cache that holds it; "
            "(3) or pass the folder of a SavedModel instead of the address. "
            "The backbone 'efficientnet-lite0' needs no network."
        )


def hub_cache_entry(address: str) -> Path:
    """Return where tensorflow_hub keeps an address: ``$TFHUB_CACHE_DIR/<sha1 of the address>``."""
    folder = os.environ.get("TFHUB_CACHE_DIR") or os.path.join(tempfile.gettempdir(), "tfhub_modules")
    return Path(folder).expanduser() / hashlib.sha1(address.encode()).hexdigest()


def _import_hub() -> types.ModuleType:
    try:
        with _pkg_resources():
            return importlib.import_module("tensorflow_hub")
    except ImportError as error:
        package = "tf_keras" if "tf_keras" in str(error) else "tensorflow_hub"
        missing_package(package, "Downloading from TF Hub or Kaggle", "pip install tensorflow_hub")


@contextmanager
def _pkg_resources() -> Iterator[None]:
    """tensorflow_hub 0.16 imports pkg_resources for one function; setuptools has dropped it since 82."""
    try:
        missing = importlib.util.find_spec("pkg_resources") is None
    except ValueError:  # already in sys.modules, put there by someone else
        missing = False
    if missing and "tensorflow_hub" not in sys.modules:
        from packaging.version import parse

        stand_in = types.ModuleType("pkg_resources")
        vars(stand_in)["parse_version"] = parse
        sys.modules["pkg_resources"] = stand_in
        try:
            yield
        finally:
            del sys.modules["pkg_resources"]
    else:
        yield


@contextmanager
def short_timeout(host: str, port: int = 443) -> Iterator[None]:
    """Context in which an unreachable server is an OSError after seconds, not minutes.

    Args:
        host: Name of the server, tried before anything else.
        port: At which it listens.
    """
    before = socket.getdefaulttimeout()
    if not urllib.request.getproxies().get("https"):  # behind a proxy this machine cannot ask for itself
        _knock(host, port)
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _knock(host: str, port: int) -> None:
    failed: list[OSError] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=_TIMEOUT / 2).close()
        except OSError as error:
            failed.append(error)

    # In a thread, since looking up a name knows no timeout.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    if thread.is_alive():
        raise TimeoutError(f"{host} did not answer within {_TIMEOUT:.0f} seconds")
    if failed:
        raise failed[0]


class KaggleName:
    """owner/model/framework/variation[/version], fetched and cached by kagglehub."""

    def accepts(self, handle: str) -> bool:
        """Whether a handle is of this form."""
        return bool(_KAGGLE_NAME.match(handle)) and not handle.startswith(".")

    def fetch(self, handle: str) -> Path:
        """Return the folder in the cache; raise HandleError with advice if it cannot be downloaded."""
        place = Path(os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub").expanduser()
        entry = place / "models" / handle
        if handle.count("/") == 4 and entry.with_name(f"{entry.name}.complete").exists() and entry.is_dir():
            return entry
        try:
            kagglehub = importlib.import_module("kagglehub")
        except ImportError:
            missing_package("kagglehub", f"The Kaggle model {handle!r}", 'pip install "tfft[kaggle]"')
        try:
            with short_timeout("www.kaggle.com"):
                return Path(kagglehub.model_download(handle))
        except Exception as error:  # kagglehub and requests raise a dozen unrelated classes
            if not isinstance(error, (OSError, ValueError)) and type(error).__module__.split(".")[0] not in (
                "kagglehub",
                "kagglesdk",
                "requests",
            ):
                raise
            versions = sorted(p.stem for p in entry.glob("*.complete")) if handle.count("/") == 3 else []
            cached = f" The cache holds version {join_names(versions)}: add it to the handle." if versions else ""
            raise HandleError(
                f"{handle!r} could not be downloaded from Kaggle: {error or type(error).__name__}.{cached} "
                "There is no folder of that name here either. Without a network: run "
                f"kagglehub.model_download({handle!r}) on a machine that has one and copy its cache to {place} "
                "(or set KAGGLEHUB_CACHE), or pass the folder of a SavedModel."
            ) from error
