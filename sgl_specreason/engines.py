"""Owns the two SGLang servers of a run: starts them or attaches to running ones, and ends what it started.

Knows nothing of problems or policies.
"""

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3

from sgl_specreason.errors import EngineError, UsageError
from sgl_specreason.policy import Author

START_TIMEOUT_S = 1200.0
LOG_LINES = 15
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """How one engine is started: its model (a folder or hub id) and SGLang's own arguments for it."""

    role: Author
    model: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    def command(self, port: int | str) -> list[str]:
        """The command line that serves it on 127.0.0.1:`port`."""
        head = [sys.executable, "-m", "sglang.launch_server", "--model-path", self.model]
        return [*head, "--host", "127.0.0.1", "--port", str(port), *self.args]

    def shell(self, port: int | str = "PORT") -> str:
        """The same for a person to read, with its environment."""
        settings = [f"{key}={shlex.quote(value)}" for key, value in self.env.items()]
        return " ".join([*settings, shlex.join(self.command(port))])


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A server that answers: one of ours (`pid` of its guard) or somebody else's (None)."""

    role: Author
    url: str
    model: str
    pid: int | None = None


def cpu_args(max_total_tokens: int) -> tuple[str, ...]:
    """SGLang's arguments for a tiny model on a machine without a GPU.

    Idle schedulers would spin a core each without --sleep-on-idle; SGLang takes a request's sampling seed only with
    --enable-deterministic-inference; a fraction of free memory alone is unstable
    beside other processes, so the cache is pinned in tokens.
    """
    return (
        "--device", "cpu", "--dtype", "float32", "--sleep-on-idle", "--disable-overlap-schedule",
        "--attention-backend", "torch_native", "--enable-deterministic-inference",
        "--mem-fraction-static", "0.3", "--max-total-tokens", str(max_total_tokens), "--log-level", "warning",
    )  # fmt: skip


def cpu_env() -> dict[str, str]:
    """Half of the cores for each engine: more threads than cores make both many times slower."""
    threads = str(max(1, min(4, (os.cpu_count() or 2) // 2)))
    return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


@contextmanager
def started(
    specs: list[EngineSpec],
    logs: Path,
    *,
    say: Progress,
    timeout_s: float = START_TIMEOUT_S,
) -> Iterator[dict[Author, Engine]]:
    """Starts the engines strictly one after the other, since each takes a share of the memory that is free then.

    Logs go to `logs`/<role>.log. Ends all of them when left, also when this process is killed. Raises EngineError with the
    command and the last lines of its log if one dies or is not ready after `timeout_s`.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        engines: dict[Author, Engine] = {}
        for spec in specs:
            port = free_port()
            log = logs / f"{spec.role}.log"
            say(f"starting {spec.role}: {spec.shell(port)}")
            say(f"  log: {log}")
            process = stack.enter_context(_guarded(spec, port, log))
            url = f"http://127.0.0.1:{port}"
            seconds = _wait_ready(spec, url, process, log, say, timeout_s)
            say(f"  {spec.role} ready after {seconds:.0f} s")
            engines[spec.role] = Engine(role=spec.role, url=url, model=spec.model, pid=process.pid)
        yield engines


def attached(role: Author, url: str, api_key: str | None = None) -> Engine:
    """A server that runs already. Raises UsageError if no SGLang server answers at `url`."""
    info = probe(url, api_key)
    if info is None:
        option = f"--{role}-url"
        raise UsageError(
            f"{option} {url}: no SGLang server answers there; start one with python -m sglang.launch_server"
        )
    return Engine(role=role, url=url.rstrip("/"), model=str(info["model_path"]))


def probe(url: str, api_key: str | None = None) -> dict[str, Any] | None:
    """What the SGLang server at `url` says of its model, or None where none answers."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        reply = urllib3.request("GET", f"{url.rstrip('/')}/get_model_info", headers=headers, timeout=5.0, retries=False)
        info = reply.json() if reply.status == 200 else None
    except (urllib3.exceptions.HTTPError, ValueError):
        return None
    return info if isinstance(info, dict) and "model_path" in info else None


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _guarded(spec: EngineSpec, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    guard = [sys.executable, "-m", "sgl_specreason.guard", *spec.command(port)]
    with log.open("wb") as sink:
        sink.write(f"{spec.shell(port)}\n".encode())
        sink.flush()
        process = subprocess.Popen(
            guard,
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=os.environ | spec.env,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.stdin:
            process.stdin.close()
        process.wait()


def _wait_ready(
    spec: EngineSpec,
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
        if _healthy(url):
            return now - begin
        if now - begin > timeout_s:
            raise EngineError(_obituary(spec, url, log, f"was not ready after {timeout_s:.0f} s"))
        if now - spoken >= 10:
            say(f"  waiting for {spec.role}: {now - begin:.0f} s")
            spoken = now
        time.sleep(0.25)


def _healthy(url: str) -> bool:
    try:
        return urllib3.request("GET", f"{url}/health", timeout=5.0, retries=False).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def _obituary(spec: EngineSpec, url: str, log: Path, what: str) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:]
    port = url.rsplit(":", 1)[1]
    said = "\n".join(f"    {line}" for line in lines)
    return f"the {spec.role} engine {what}\n  command: {spec.shell(port)}\n  last lines of {log}:\n{said}"
