"""How the server's process begins and ends: signals, engines that do not come back, what is left behind. Scripted engines."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from asking import Outcome, Served, until
from checkout import ROOT
from served import QUESTION

SCRIPTED = """
import os, sys, threading, time
from fake_engine import FakeEngine, Held
from served import ROLES, Story, scripted_house
from sgl_specreason.server.api import Api, served
from sgl_specreason.server.completions import Settings
from sgl_specreason.server.process import Process, listening
from sgl_specreason.server.watch import Watch
from sgl_specreason.command import say, fail
from sgl_specreason.errors import SpecReasonError

port, kind, drain = int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
story = Story()

def says(role, prompt, payload):
    if kind != "slow" and role == "base" and payload["sampling_params"]["max_new_tokens"]:
        return Held("x")
    time.sleep(0.2)
    return story.says(role, prompt, payload)

engines = {role: FakeEngine(lambda prompt, payload, role=role: says(role, prompt, payload)) for role in ROLES}
around = scripted_house(engines)

def made(house):
    watch = Watch(house.pair.engines)
    if kind == "lost":
        lost = threading.Timer(3.0, setattr, (house.pair.engines["base"].health, "gone", "the base engine died"))
        lost.start()
        Watch.lost = property(lambda self: house.pair.engines["base"].health.lost)
    return Api(house, served(house.pair, "specreason", {}), watch, Settings())

try:
    Process(
        listener=listening("127.0.0.1", port), open_house=around.__enter__, make=made, say=say, ready="ready",
        drain_s=drain, write_timeout_s=10,
    ).run()
except SpecReasonError as error:
    around.__exit__(None, None, None)
    fail(str(error), 1)
around.__exit__(None, None, None)
"""
STARTING = """
import sys
from sgl_specreason.engines.servers import EngineSpec
from sgl_specreason.serve import main
EngineSpec.command = lambda self, port, module="": [sys.executable, "-c", "import time; time.sleep(600)"]
main(sys.argv[1:])
"""
QUICKLY_S = 20.0


@contextmanager
def scripted(tmp_path: Path, kind: str, drain_s: float = 30) -> Iterator[Served]:
    """The process over scripted engines; "endless" ones are never done with base's first step."""
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with Served([kind, str(drain_s)], tmp_path / "log", env=env, program=["-c", SCRIPTED]) as server:
        server.ready()
        yield server


def streams(server: Served, count: int = 8) -> tuple[list[threading.Thread], list[Outcome]]:
    """So many streams under way, each of which has begun."""
    outcomes: list[Outcome] = []
    body = {"messages": QUESTION, "stream": True}
    threads = [threading.Thread(target=lambda: outcomes.append(server.asked(body))) for _ in range(count)]
    for thread in threads:
        thread.start()
    assert until(lambda: server.gauge("requests_running") == count, QUICKLY_S)
    time.sleep(0.6)
    return threads, outcomes


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_lets_what_is_under_way_come_to_its_end(number: signal.Signals, tmp_path: Path) -> None:
    """New questions are refused meanwhile; then it leaves with code 0."""
    with scripted(tmp_path, "slow") as server:
        threads, outcomes = streams(server)
        server.process.send_signal(number)
        assert until(lambda: server.get("/ready")[0] == 503, QUICKLY_S)
        new = server.asked({"messages": QUESTION})
        assert (new.status, new.code) == (503, "draining")
        assert int(new.headers["retry-after"]) > 0
        for thread in threads:
            thread.join()
        assert Counter(outcome.end for outcome in outcomes) == {"good": 8}
        assert len({outcome.text for outcome in outcomes}) == 1
        assert server.process.wait(QUICKLY_S) == 0
        assert server.left() == []
        assert "8 requests have 30 s" in server.words
        assert "Traceback" not in server.words


@pytest.mark.parametrize("twice", [False, True], ids=["late", "twice"])
def test_what_does_not_end_in_time_or_after_a_second_signal_is_told_so(twice: bool, tmp_path: Path) -> None:
    """By an event of the stream, and [DONE]."""
    with scripted(tmp_path, "endless", 30 if twice else 0.5) as server:
        threads, outcomes = streams(server)
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        if twice:
            assert until(lambda: "8 requests have" in server.words, QUICKLY_S)
            server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert Counter((outcome.end, outcome.code) for outcome in outcomes) == {("error", "draining"): 8}
        assert server.process.wait(QUICKLY_S) == 0
        assert time.monotonic() - begin < QUICKLY_S
        assert server.left() == []
        assert "Traceback" not in server.words


def test_an_engine_that_does_not_come_back_ends_it(tmp_path: Path) -> None:
    """With code 1 and the reason; streams end with an error, also those that wait for the other engine."""
    with scripted(tmp_path, "lost") as server:
        outcome = server.asked({"messages": QUESTION, "stream": True})
        assert (outcome.status, outcome.end, outcome.code) == (200, "error", "engine_unavailable")
        assert server.process.wait(QUICKLY_S) == 1
        assert server.words.splitlines()[-1] == "error: the base engine died"
        assert "Traceback" not in server.words


@pytest.mark.parametrize(
    ("number", "code", "times"),
    [
        (signal.SIGTERM, 143, 1),
        pytest.param(signal.SIGINT, 130, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, 2, marks=pytest.mark.slow),
    ],
)
def test_a_signal_while_the_engines_start_leaves_nothing_behind(
    number: signal.Signals, code: int, times: int, tmp_path: Path
) -> None:
    """It waited until both were up, and said nothing: the pool of threads that starts them is joined at the exit."""
    (folder := tmp_path / "temporary").mkdir()
    env = {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    with Served(["--pair", "demo"], tmp_path / "log", env=env, program=["-c", STARTING]) as server:
        assert until(lambda: server.words.count("  log: ") == 2 or server.process.poll() is not None, 60)
        assert server.get("/ready")[0] == 503
        assert server.get("/health")[0] == 200
        begin = time.monotonic()
        for _ in range(times):
            server.process.send_signal(number)
        assert server.process.wait(QUICKLY_S) == code
        assert time.monotonic() - begin < QUICKLY_S
        assert server.left() == []
        if times == 1:
            last = server.words.splitlines()[-1]
            assert last == "error: interrupted before the server was ready; nothing is left running"
            assert list(folder.iterdir()) == []
        assert "Traceback" not in server.words
