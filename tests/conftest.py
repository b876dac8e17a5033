"""Fixtures that several test modules share."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# A shell's background jobs ignore Ctrl-C and hand that on; the tests send it to their own children.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The benchmark files beside the checkout; a user's clone has none."""
    if not SHARED_DATA.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have ../shared/data")
        pytest.skip("needs ../shared/data (benchmark files are not part of the project)")
    return SHARED_DATA


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
