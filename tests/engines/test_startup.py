"""Several engines come up: which of them wait for each other, and what becomes of the others when one fails."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sgl_specreason.command import say
from sgl_specreason.engines.servers import EngineSpec, cpu_args
from sgl_specreason.engines.startup import started
from sgl_specreason.errors import EngineError

STUB = """
import http.server, os, pathlib, sys, time
name, folder, wanted = sys.argv[2], pathlib.Path(sys.argv[3]), int(sys.argv[4])
if os.environ.get("STUB") == "fails":
    time.sleep(0.5)
    sys.exit(7)
(folder / f"{name}.begun").write_text(",".join(sorted(path.stem for path in folder.glob("*.ready"))))
while len(list(folder.glob("*.begun"))) < wanted:
    time.sleep(0.02)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
(folder / f"{name}.ready").touch()
server.serve_forever()
"""
CPU = cpu_args(1000)


@pytest.fixture
def waiting_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], None]:
    """Engines that are ready when so many of them have begun, and note which were ready before they began."""

    def stub(count: int) -> None:
        monkeypatch.setattr(
            EngineSpec,
            "command",
            lambda self, port, module="": [
                sys.executable, "-c", STUB, str(port), self.name, str(tmp_path), str(count)
            ],
        )  # fmt: skip

    return stub


def children() -> set[int]:
    return {process.pid for process in psutil.Process(os.getpid()).children(recursive=True)}


def test_on_a_cpu_engines_and_their_replicas_start_side_by_side(
    waiting_for: Callable[[int], None], tmp_path: Path
) -> None:
    """None of these is ready before all of them have begun."""
    waiting_for(3)
    specs = [EngineSpec(role="small", model="m", args=CPU, replicas=2), EngineSpec(role="base", model="m", args=CPU)]
    said: list[str] = []
    with started(specs, tmp_path / "logs", say=said.append, timeout_s=60) as engines:
        assert list(engines) == ["small", "base"]
        assert [engine.replicas for engine in engines.values()] == [2, 1]
    assert {path.read_text() for path in tmp_path.glob("*.begun")} == {""}
    first = [line.split(":")[0] for line in said if line.startswith("starting")]
    assert sorted(first[:3]) == [f"starting the {name} engine" for name in ("base", "small-1", "small-2")]
    assert first[3:] == ["starting the small router"]


def test_on_gpus_one_begins_when_the_one_before_is_ready(waiting_for: Callable[[int], None], tmp_path: Path) -> None:
    waiting_for(1)
    specs = [EngineSpec(role="small", model="m"), EngineSpec(role="base", model="m")]
    with started(specs, tmp_path / "logs", say=lambda line: None, timeout_s=60):
        pass
    assert {path.stem: path.read_text() for path in tmp_path.glob("*.begun")} == {"small": "", "base": "small"}


@pytest.mark.parametrize("failing", ["small", "base"])
def test_the_first_one_that_fails_is_named_and_ends_the_others(
    failing: str, waiting_for: Callable[[int], None], tmp_path: Path
) -> None:
    """The other one would never be ready; nobody waits for it."""
    waiting_for(2)
    specs = [
        EngineSpec(role=role, model="m", args=CPU, env={"STUB": "fails"} if role == failing else {})
        for role in ("small", "base")
    ]
    before, begin = children(), time.monotonic()
    with pytest.raises(EngineError, match=f"the {failing} engine ended with code 7"), started(specs, tmp_path, say=say):
        pass
    assert time.monotonic() - begin < 30
    assert children() <= before


def test_an_interruption_while_they_start_ends_all(waiting_for: Callable[[int], None], tmp_path: Path) -> None:
    waiting_for(3)
    specs = [EngineSpec(role="small", model="m", args=CPU), EngineSpec(role="base", model="m", args=CPU)]
    before = children()

    def interrupt() -> None:
        while len(list(tmp_path.glob("*.begun"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt), started(specs, tmp_path, say=lambda line: None):
        pass
    assert children() <= before


def test_what_several_threads_say_are_whole_lines(capfd: pytest.CaptureFixture[str]) -> None:
    lines = [str(number) * 3000 for number in range(8)]
    threads = [threading.Thread(target=lambda line=line: [say(line) for _ in range(20)]) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = capfd.readouterr().err.splitlines()
    assert sorted(said) == sorted(lines * 20)
