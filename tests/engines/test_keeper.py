"""Engine processes: started in order, ended whatever happens. Stub commands here; `real_engines.py` has the real ones."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import urllib3

from sgl_specreason.engines.keeper import Engine, unproxied
from sgl_specreason.engines.servers import EngineSpec, cpu_env
from sgl_specreason.engines.startup import started
from sgl_specreason.errors import EngineError

CHILD = "import time, subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
ENGINE = CHILD + "print('up', flush=True)\ntime.sleep(600)\n"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + ENGINE


def client(tmp_path: Path, engine: str) -> subprocess.Popen[str]:
    """A process that holds one engine through the guard and waits."""
    program = (
        "import subprocess, sys, time\n"
        f"guard = subprocess.Popen([sys.executable, '-m', 'sgl_specreason.engines.guard', sys.executable, '-c', {engine!r}],"
        " stdin=subprocess.PIPE, start_new_session=True)\n"
        "print(guard.pid, flush=True)\ntime.sleep(600)\n"
    )
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def family(pid: int, count: int) -> list[psutil.Process]:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        found = psutil.Process(pid).children(recursive=True)
        if len(found) >= count:
            return [psutil.Process(pid), *found]
        time.sleep(0.02)
    raise AssertionError("the engine did not come up")


@pytest.mark.parametrize(
    "engine", [ENGINE, pytest.param(STUBBORN, marks=pytest.mark.slow)], ids=["obedient", "stubborn"]
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_client_that_dies_takes_its_engines_with_it(tmp_path: Path, engine: str, number: signal.Signals) -> None:
    """The engine and its own children are gone within 10 s, also when the client had no chance to say so."""
    process = client(tmp_path, engine)
    assert process.stdout is not None
    left = family(int(process.stdout.readline()), 2)
    process.send_signal(number)
    process.wait()
    process.stdout.close()
    gone, alive = psutil.wait_procs(left, timeout=10)
    assert alive == []
    assert len(gone) == 3


def test_a_killed_guard_takes_the_engine_with_it(tmp_path: Path) -> None:
    process = client(tmp_path, "import time\ntime.sleep(600)\n")
    assert process.stdout is not None
    guard, engine = family(int(process.stdout.readline()), 1)
    guard.kill()
    _, alive = psutil.wait_procs([engine], timeout=10)
    process.kill()
    process.wait()
    process.stdout.close()
    assert alive == []


@pytest.mark.engines
def test_an_engine_that_dies_shows_its_command_and_the_end_of_its_log(tmp_path: Path) -> None:
    """A real launch of SGLang on a model that is not there."""
    spec = EngineSpec(role="base", model=str(tmp_path / "no-model"), args=("--device", "cpu"), env=cpu_env())
    said: list[str] = []
    with pytest.raises(EngineError) as error, started([spec], tmp_path / "logs", say=said.append):
        pass
    words = str(error.value)
    assert "base engine ended with code" in words
    assert "sglang.launch_server" in words
    assert "no-model" in words.split("last lines of")[1]
    assert "sglang.launch_server" in said[0]
    assert (tmp_path / "logs" / "base.log").read_text().startswith("OMP_NUM_THREADS=")


def test_an_engine_that_is_never_ready_meets_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EngineSpec, "command", lambda self, port, module="": [sys.executable, "-c", ENGINE])
    spec = EngineSpec(role="small", model="m")
    before = {p.pid for p in psutil.Process(os.getpid()).children(recursive=True)}
    with (
        pytest.raises(EngineError, match="was not ready after 1 s"),
        started([spec], tmp_path, say=lambda line: None, timeout_s=1),
    ):
        pass
    after = [p for p in psutil.Process(os.getpid()).children(recursive=True) if p.pid not in before]
    assert after == []


SERVER = """
import os, sys, http.server
print("args:", os.environ["SPECREASON_ENGINE_KEY"], flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def pid_of(engine: Engine) -> int:
    return int(urllib3.request("GET", engine.url, timeout=5.0, retries=False).data)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_engine_that_dies_is_started_again_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EngineSpec, "command", lambda self, port, module="": [sys.executable, "-c", SERVER, str(port)])
    said: list[str] = []
    with started([EngineSpec(role="small", model="m")], tmp_path, say=said.append) as engines:
        engine, seen = engines["small"], set()
        for restart in range(1, 4):
            pid = pid_of(engine)
            seen.add(pid)
            os.kill(pid, signal.SIGKILL)
            until(lambda count=restart: sum("ready after" in line for line in said) == count + 1)  # type: ignore[misc]
            assert engine.health.gone is None
        seen.add(pid_of(engine))
        assert len(seen) == 4
        os.kill(pid_of(engine), signal.SIGKILL)
        until(lambda: engine.health.gone)
        assert "died (code 137) after 3 restarts" in str(engine.health.gone)
    assert [line.split(" (")[0] for line in said if "died" in line] == ["the small engine died"] * 3
    log = (tmp_path / "small.log").read_text()
    assert log.count("args: [key]") == 4


def test_the_key_of_an_engine_is_in_no_listing_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = EngineSpec(role="small", model="m")
    assert len(spec.api_key) >= 32
    assert spec.api_key != EngineSpec(role="small", model="m").api_key
    assert spec.api_key not in repr(spec) + spec.shell() + " ".join(spec.command(1))
    monkeypatch.setattr(EngineSpec, "command", lambda self, port, module="": [sys.executable, "-c", SERVER, str(port)])
    with started([spec], tmp_path, say=lambda line: None) as engines:
        assert engines["small"].api_key == spec.api_key
        assert engines["small"].pid is not None
        everything = [" ".join(p.cmdline()) for p in psutil.Process(os.getpid()).children(recursive=True)]
        assert not any(spec.api_key in words for words in everything)
        assert spec.api_key not in repr(engines)


def test_idle_schedulers_sleep_and_engines_share_the_cores() -> None:
    from sgl_specreason.engines.servers import cpu_args

    assert "--sleep-on-idle" in cpu_args(1000)
    assert 1 <= int(cpu_env()["OMP_NUM_THREADS"]) <= max(1, (os.cpu_count() or 2) // 2)


@pytest.mark.parametrize(
    ("given", "hosts"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": ""}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "corp", "HTTP_PROXY": "http://proxy"}, "corp,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "localhost,corp"}, "localhost,corp,127.0.0.1,::1"),
    ],
)
def test_a_server_does_not_ask_for_itself_through_a_proxy(given: dict[str, str], hosts: str) -> None:
    """With HTTP_PROXY alone, SGLang's own first request went there, and the engine died after six silent minutes."""
    assert unproxied(given)["NO_PROXY"] == hosts
    assert unproxied({"no_proxy": given.get("NO_PROXY", "")})["no_proxy"] == hosts


@pytest.mark.parametrize(
    ("statuses", "ready", "asked"),
    [
        ({"/ready": 200, "/generate": 200}, True, ["/ready", "/generate"]),
        ({"/ready": 503, "/health": 200}, False, ["/ready"]),
        ({"/ready": 200, "/generate": 500, "/health": 503}, False, ["/ready", "/generate", "/health"]),
        ({"/health": 200}, True, ["/ready", "/health"]),
    ],
    ids=["it computes", "it still loads", "it takes requests and does not compute", "it is an older one"],
)
def test_an_engine_is_ready_when_a_token_comes_back(statuses: dict[str, int], ready: bool, asked: list[str]) -> None:
    """SGLang's /health looks for its token once a second: it is only asked where there is no other way."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(statuses.get(self.path, 404))
            self.end_headers()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert EngineSpec(role="base", model="m").is_ready(f"http://127.0.0.1:{server.server_port}") is ready
        server.shutdown()
    assert seen == asked
