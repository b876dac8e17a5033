"""Owns engines and servers of ours as processes, for tools that look at the server from outside. Knows no client."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from accounts import Say
from asking import Served

BUNDLED = Path(__file__).resolve().parent.parent / "sgl_specreason" / "demo" / "models" / "base"
END_S = 90.0
ENGINE_KEY, SERVE_KEY = "the engines' key of a tool", "the server's key of a tool"


@dataclass(frozen=True, kw_only=True)
class Engines:
    """Two running engines: what a command says to be attached to them, and the process that must not be left alive."""

    base_url: str
    small_url: str

    @property
    def words(self) -> list[str]:
        return ["--base-url", self.base_url, "--small-url", self.small_url]


@contextmanager
def bundled_pair(logs: Path, say: Say) -> Iterator[Engines]:
    """The bundled pair on real engines."""
    from sgl_specreason.engines.startup import started
    from sgl_specreason.plan.options import Options
    from sgl_specreason.plan.resolve import resolve

    plan = resolve(Options(bench="demo", policy={}))
    specs = [replace(spec, api_key=ENGINE_KEY) for spec in plan.specs]
    with started(specs, logs, say=say) as running:
        yield Engines(base_url=running["base"].url, small_url=running["small"].url)


@contextmanager
def stub_pair(words: Sequence[str] = ()) -> Iterator[Engines]:
    """Two stub engines that say they serve the bundled pair."""
    command = [sys.executable, str(Path(__file__).with_name("stub_engine.py")), "--model", str(BUNDLED), *words]
    processes: list[subprocess.Popen[str]] = []
    try:
        for _ in range(2):
            processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        urls = [process.stdout.readline().strip() for process in processes if process.stdout]
        yield Engines(base_url=urls[0], small_url=urls[1])
    finally:
        for process in processes:
            for pipe in filter(None, (process.stdin, process.stdout)):
                pipe.close()
            process.wait(10)


@contextmanager
def server(words: Sequence[str], log: Path, *, engine_key: str = ENGINE_KEY) -> Iterator[Served]:
    """`python -m sgl_specreason.serve` with these words, from when it is ready. Must end by itself on SIGTERM."""
    keys = {"SPECREASON_API_KEY": engine_key, "SPECREASON_SERVE_KEY": SERVE_KEY}
    with Served(words, log, env=keys) as served:
        served.ready()
        yield served
        if served.end(seconds=END_S) is None:
            raise TimeoutError(f"the server does not end: {served.words[-2000:]}")
