"""An engine of the server's own that is killed in mid-thought: streams wait and go on, until it does not come back."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from checkout import ROOT
from served import ROLES, Json, Running, joined, scripted_house, serving, until

from sgl_specreason.engines.servers import EngineSpec, cpu_args
from sgl_specreason.engines.startup import started
from sgl_specreason.text.steps import Author

ENGINE = """
import sys, threading, time
import fake_engine
from http.server import ThreadingHTTPServer

class Here(ThreadingHTTPServer):
    def __init__(self, address, handler):
        super().__init__(("127.0.0.1", int(sys.argv[1])), handler)

STEPS = [f"Step {number}.\\n\\n" for number in range(1, 9)] + ["End.</think>"]

def says(prompt, payload):
    time.sleep(0.1)
    thought = prompt.rpartition("<|assistant|><think>\\n")[2]
    if payload["sampling_params"]["max_new_tokens"] == 0:
        return fake_engine.digits(9)
    if "</think>" in thought:
        return "\\n\\nThe answer is 3."
    return "".join(STEPS[min(thought.count("\\n\\n"), 8):])

fake_engine.ThreadingHTTPServer = Here
fake_engine.FakeEngine(says)
threading.Event().wait()
"""
KEEP_ALIVE_S = 0.2


@contextmanager
def own_engines(logs: Path, said: list[str]) -> Iterator[Running]:
    """A server over scripted engines in processes of their own, each started again once."""
    path = f"{ROOT}:{ROOT / 'tests'}"
    specs = [EngineSpec(role=role, model="m", args=cpu_args(1000), env={"PYTHONPATH": path}) for role in ROLES]
    with (
        started(specs, logs, say=said.append, timeout_s=60, restarts=1) as engines,
        scripted_house(engines) as house,  # type: ignore[arg-type]
    ):
        house.pair = replace(house.pair, engines=dict(engines))
        for role in ROLES:
            house.pair.endpoints[role].transport.health = engines[role].health
        with serving(house, keep_alive_s=KEEP_ALIVE_S) as running:
            yield running


def streamed(running: Running, kill: Author | None = None) -> tuple[list[Json], float]:
    """The chunks of a stream in whose midst an engine is killed, and how long it took."""
    chunks: list[list[Json]] = []
    asking = threading.Thread(target=lambda: chunks.append(running.stream()))
    begin = time.monotonic()
    asking.start()
    if kill is not None:
        assert until(lambda: running.house.desk.running)
        time.sleep(0.4)
        engine(running, kill).kill()
    asking.join()
    return chunks[0], time.monotonic() - begin


def engine(running: Running, role: Author) -> psutil.Process:
    """The process that listens where a role's engine does."""
    port = running.house.pair.engines[role].url.rsplit(":", 1)[1]
    below = psutil.Process(os.getpid()).children(recursive=True)
    return next(process for process in below if process.cmdline()[1:2] == ["-c"] and process.cmdline()[-1] == port)


def test_streams_wait_for_an_engine_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks come meanwhile, and in the end the same text; one that is not started again ends them with an error."""
    monkeypatch.setattr(EngineSpec, "command", lambda self, port, module="": [sys.executable, "-c", ENGINE, str(port)])
    said: list[str] = []
    with own_engines(tmp_path, said) as running:
        undisturbed, _ = streamed(running)
        assert joined(undisturbed, "reasoning_content").endswith("End.")
        for role in ROLES:
            chunks, seconds = streamed(running, role)
            for key in ("reasoning_content", "content"):
                assert joined(chunks, key) == joined(undisturbed, key)
            empty = [
                chunk for chunk in chunks[1:] if chunk["choices"] and not any(chunk["choices"][0]["delta"].values())
            ]
            assert len(empty) > 2
            assert seconds > 3 * KEEP_ALIVE_S
            assert running.settles()
            assert until(lambda: running.api.watch.ready, 10)
        assert running.api.watch.lost is None
        chunks, _ = streamed(running, "small")
        assert chunks[-1]["error"]["code"] == "engine_unavailable"
        assert "after 1 restarts" in str(running.api.watch.lost)
        assert any("is not started again" in line and "last lines of" in line for line in said)
        assert running.settles()
