"""Fixtures for all tests, which are quiet and leave the user's caches alone, and three tiers of tests.

`pytest -m "not slow"` is the quick tier, `pytest` the one for every change, and `pytest -m "slow or not slow"` runs
everything, as CI does each night. A test is slow by `@pytest.mark.slow` or by a fixture that its module names in
`slow_fixtures`. It is nightly by `@pytest.mark.nightly`, if it takes long and other tests cover its subject in part, or
as a repetition: of the items of a parametrized test, `@pytest.mark.representative("id")` names those of the quick tier
and `@pytest.mark.daily("id")` slow ones for every change; the others are nightly. Nightly tests are slow, too.
"""

from __future__ import annotations

import gc
import importlib
import os
import pathlib
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import pytest

BUDGET = os.environ.get("TFFT_TEST_BUDGET", "").lower() in ("1", "true")
LIMIT = float(os.environ.get("TFFT_TEST_LIMIT", "1.5"))  # seconds of computing for a test that is not marked slow
LAZY = ("keras_hub", "sklearn.linear_model", "matplotlib.figure")  # whichever test comes first would pay for these
COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (210, 40, 40)}


_over: list[tuple[str, float]] = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Makes repetitions nightly, and nightly tests and those with a slow fixture slow."""
    for item in items:
        named = {name: mark.args for name in ("daily", "representative") if (mark := item.get_closest_marker(name))}
        if "daily" in named and item.callspec.id in named["daily"]:
            item.add_marker(pytest.mark.slow)
        elif named and item.callspec.id not in named.get("representative", ()):
            item.add_marker(pytest.mark.nightly)
        slow_fixtures = set(getattr(item.module, "slow_fixtures", ()))
        if item.get_closest_marker("nightly") is not None or slow_fixtures & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)
        if set(getattr(item.module, "process_fixtures", ())) & set(item.fixturenames):
            item.add_marker(pytest.mark.process)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Where the time of each test is watched, imports that several share belong to none of them."""
    if BUDGET and not getattr(session.config.option, "numprocesses", None):
        for name in LAZY:
            try:
                importlib.import_module(name)
            except ImportError:
                pass


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Notes the seconds of computing, here and in processes started: they are the same on a busy machine."""
    before = sum(os.times()[:4])
    try:
        return (yield)
    finally:
        spent = sum(os.times()[:4]) - before
        if BUDGET and spent > LIMIT and item.get_closest_marker("slow") is None:
            item.user_properties.append(("over_budget", spent))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collects what took too long, from every worker."""
    if report.when == "call":
        _over.extend((report.nodeid, spent) for name, spent in report.user_properties if name == "over_budget")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tests that became slow unseen fail the run."""
    if _over and session.exitstatus == pytest.ExitCode.OK and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which, and what to do."""
    if _over:
        terminalreporter.section("tests over budget", red=True)
        for name, spent in sorted(_over, key=lambda found: -found[1]):
            terminalreporter.line(f"{spent:6.1f} s of computing  {name}")
        terminalreporter.line(
            f"A test that takes more than {LIMIT:g} s has to be made quicker (smaller models, fewer epochs, a fixture "
            "that several tests share) or be marked with @pytest.mark.slow. "
            "TFFT_TEST_LIMIT sets another limit, for a slower machine."
        )


def _shared(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of this run, the same for parallel workers."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def _freeze_imported_modules() -> None:
    """Objects of TensorFlow and Keras modules live until the end, so garbage collections need not visit them."""
    for name in ("tensorflow", "keras"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Models built once go to a folder of this run (shared by parallel workers), not to the user's cache."""
    if "TFFT_CACHE_DIR" not in os.environ:
        os.environ["TFFT_CACHE_DIR"] = str(_shared(tmp_path_factory) / "tfft-cache")


@pytest.fixture(scope="session", autouse=True)
def _made_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each small SavedModel is traced and written once in a run, and copied wherever a test wants it."""
    import savedmodels

    savedmodels.STORE = _shared(tmp_path_factory) / "savedmodels"


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """No power fails while tests run: what they write need not be on the disk before they go on.

    Processes that tests start wait for it as ever, those that are killed in between too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _exports_are_checked_in_forks() -> Iterator[None]:
    """The process that checks an export need not import TensorFlow anew; see `forked_checks`."""
    import forked_checks

    from tfft.exporting import parity

    forks = forked_checks.Forks(parity.start_worker, parity.worker_environment)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "start_worker", forks.start)
        yield
    forks.close()


@pytest.fixture
def image_folder(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Makes a folder of PNG files per class: noisy pictures of one colour each, of several sizes."""

    def make(name: str = "photos", *, per_class: int = 6, classes: tuple[str, ...] = tuple(COLOURS)) -> pathlib.Path:
        import tensorflow as tf

        generator = np.random.default_rng(0)
        for class_name in classes:
            folder = tmp_path / name / class_name
            folder.mkdir(parents=True)
            for i in range(per_class):
                noise = generator.normal(0, 25, (20 + i, 28, 3)) + COLOURS[class_name]
                pixels = np.clip(noise, 0, 255).astype(np.uint8)
                (folder / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def build_tiny_model() -> Callable:
    """Makes a model as `tfft.build` does, on a backbone of three small blocks with random weights: 32 px, 3 classes."""

    def build():
        import weight_models

        from tfft import heads

        return weight_models.of_keras(head=heads.classification(tuple(COLOURS)))

    return build


@pytest.fixture
def tiny_model(build_tiny_model):
    """A fresh model of `build_tiny_model`."""
    return build_tiny_model()
