"""Owns one server process of ours: started, watched, started again when it dies, ended.

Knows nothing of what it serves: an engine, or the router before several (Startable).
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from typing import Protocol

from sgl_specreason.engines.launch import KEY_VARIABLE
from sgl_specreason.engines.transport import Health
from sgl_specreason.errors import EngineError
from sgl_specreason.text.steps import Author

START_TIMEOUT_S = 1200.0
END_TIMEOUT_S = 30.0
POLL_S = 0.1
MOST_RESTARTS = 3
LOG_LINES = 15
SILENCE_S = 30.0
"""After this a waiting user is told what the server's log says last."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
Progress = Callable[[str], None]


class Startable(Protocol):
    """A server that a Keeper can start: an engine, or the router before several."""

    @property
    def role(self) -> Author: ...
    @property
    def model(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def env(self) -> dict[str, str]: ...
    @property
    def api_key(self) -> str: ...
    def is_ready(self, url: str) -> bool: ...
    def command(self, port: int | str) -> list[str]: ...
    def shell(self, port: int | str) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A server that answers: one of ours (`pid` of its first guard) or somebody else's (None).

    A router has `workers`, the addresses of those of its `replicas` that can be reached from here. `tokenizer` is where a server
    says that it has its own from.
    """

    role: Author
    url: str
    model: str
    tokenizer: str | None = None
    workers: tuple[str, ...] = ()
    replicas: int = 1
    pid: int | None = None
    api_key: str | None = field(default=None, repr=False)
    health: Health = field(default_factory=Health)


class Keeper:
    """One server of ours: started, watched by a thread of its own, started again when it dies, ended.

    A router's health is also that of its `replicas`.
    """

    def __init__(
        self,
        *,
        spec: Startable,
        log: Path,
        say: Progress,
        timeout_s: float,
        restarts: int,
        replicas: tuple[Health, ...] = (),
    ) -> None:
        self.spec, self.log, self.say, self.timeout_s, self.restarts = spec, log, say, timeout_s, restarts
        self.health = Health(patience_s=timeout_s, replicas=replicas)  # by then a restart is over
        self._port = free_port()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Engine:
        """Starts it and waits until it is ready. Raises EngineError."""
        self.log.write_bytes(b"")
        self.say(f"starting the {self.spec.title}: {self.spec.shell(self._port)}")
        self.say(f"  log: {self.log}")
        process = self._begin()
        threading.Thread(target=self._watch, args=(process,), daemon=True).start()
        return Engine(
            role=self.spec.role,
            url=self._url,
            model=self.spec.model,
            pid=process.pid,
            api_key=self.spec.api_key,
            health=self.health,
        )

    def close(self) -> None:
        """Ends it for good."""
        self._closing.set()
        with self._lock:  # no restart begins after this
            process = self._process
        if process is not None:
            _end(process)

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _begin(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closing.is_set():
                raise EngineError(f"the {self.spec.title} is being ended")
            process = self._process = _guarded(self.spec, self._port, self.log)
        seconds = _wait_ready(self.spec, self._url, process, self.log, self.say, self.timeout_s)
        self.say(f"  {self.spec.title} ready after {seconds:.0f} s")
        return process

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Starts it again each time that it has ended by itself; says so in its health when that is over."""
        for attempt in range(self.restarts + 1):
            code = process.wait()
            if self._closing.is_set():
                return
            _end(process)
            died = f"the {self.spec.title} died (code {code})"
            if attempt == self.restarts:
                self.say(_obituary(self.spec, self._url, self.log, "is not started again"))  # the log may go with us
                self.health.gone = f"{died} after {self.restarts} restarts; its log: {self.log}"
                return
            self.say(f"{died}; starting it again ({attempt + 1} of at most {self.restarts}); its log: {self.log}")
            try:
                process = self._begin()
            except (EngineError, OSError) as error:
                self.health.gone = f"{died} and could not be started again: {error}"
                return


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _guarded(spec: Startable, port: int, log: Path) -> subprocess.Popen[bytes]:
    """The guard of a new engine process; closing its standard input ends both."""
    guard = [sys.executable, "-m", "sgl_specreason.engines.guard", *spec.command(port)]
    with log.open("ab") as sink:
        sink.write(f"{spec.shell(port)}\n".encode())
        sink.flush()
        return subprocess.Popen(
            guard,
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=subprocess.STDOUT,
            # and nothing is imported from the working directory
            env=os.environ | unproxied(os.environ) | spec.env | {KEY_VARIABLE: spec.api_key, "PYTHONSAFEPATH": "1"},
            start_new_session=True,
        )


def unproxied(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment must be else so that this machine itself is not asked for through a proxy.

    SGLang's own first request to itself went to the proxy of $HTTP_PROXY, and the engine died after minutes of silence.
    """
    found = {}
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [host for host in environment.get(name, "").split(",") if host.strip()]
        found[name] = ",".join([*hosts, *(host for host in LOOPBACK if host not in hosts)])
    return found


def _end(guard: subprocess.Popen[bytes]) -> None:
    """Has a guard end its engine, and waits for both."""
    if guard.stdin:
        guard.stdin.close()
    try:
        guard.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        guard.kill()  # its engine dies with it
        guard.wait()


def _wait_ready(
    spec: Startable,
    url: str,
    process: subprocess.Popen[bytes],
    log: Path,
    say: Progress,
    timeout_s: float,
) -> float:
    begin = spoken = time.monotonic()
    while True:
        now = time.monotonic()
        if process.poll() is not None:
            raise EngineError(_obituary(spec, url, log, f"ended with code {process.returncode}"))
        if spec.is_ready(url):
            return now - begin
        if now - begin > timeout_s:
            raise EngineError(_obituary(spec, url, log, f"was not ready after {timeout_s:.0f} s"))
        if now - spoken >= 10:
            words = f"; its log ends: {_last_line(log)}" if now - begin > SILENCE_S else ""
            say(f"  waiting for the {spec.title}: {now - begin:.0f} s{words}")
            spoken = now
        time.sleep(POLL_S)


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()
    return next((line.strip()[:160] for line in reversed(lines) if line.strip()), "")


def _obituary(spec: Startable, url: str, log: Path, what: str) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:]
    port = url.rsplit(":", 1)[1]
    said = "\n".join(f"    {line}" for line in lines)
    return f"the {spec.title} {what}\n  command: {spec.shell(port)}\n  last lines of {log}:\n{said}"
