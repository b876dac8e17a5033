"""Fixtures that several test modules share, and which tests need real engines."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from checkout import SHARED_DATA, SHARED_GRADING

if TYPE_CHECKING:
    from real_engines import Servers

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# A shell's background jobs ignore Ctrl-C and hand that on; the tests send it to their own children.
signal.signal(signal.SIGINT, signal.default_int_handler)
# No test is about speed: the machine may be busy.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what uses the shared pair, and puts it last: whatever starts engines of its own has ended by then."""

    def shares(item: pytest.Item) -> bool:
        return "real_pair" in getattr(item, "fixturenames", ())

    for item in filter(shares, items):
        item.add_marker(pytest.mark.engines)
    items.sort(key=shares)


def pytest_collection_finish() -> None:
    """What has been imported is never garbage: looking through it for some took more time than many tests do."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def real_pair(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Servers]":
    """The bundled pair on real engines, started once for all tests."""
    from real_engines import serving

    with serving(tmp_path_factory.mktemp("engines")) as servers:
        yield servers


@pytest.fixture
def shared_data() -> Path:
    """The benchmark files beside the checkout; a user's clone has none."""
    if not SHARED_DATA.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have ../shared/data")
        pytest.skip("needs ../shared/data (benchmark files are not part of the project)")
    return SHARED_DATA


@pytest.fixture
def shared_grading() -> Path:
    """The graded answers beside the checkout, from other projects' outputs and tests; a user's clone has none."""
    if not SHARED_GRADING.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have ../shared/grading")
        pytest.skip("needs ../shared/grading (graded answers of other projects are not part of this one)")
    return SHARED_GRADING


@pytest.fixture
def fake_engine() -> "Iterator[Callable[..., object]]":
    """Starts scripted engines that end with the test."""
    from fake_engine import FakeEngine, Script

    with ExitStack() as stack:

        def start(script: Script) -> FakeEngine:
            engine = FakeEngine(script)
            stack.callback(engine.close)
            return engine

        yield start
