"""Owns the server's process as a tool sees it from outside: started, asked over plain sockets, looked at, ended.

Knows nothing of what is wrong with it.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import psutil  # type: ignore[import-untyped]
import urllib3

from sgl_specreason.engines.keeper import free_port

Json = dict[str, Any]
READY_S, END_S, REPLY_S = 300.0, 60.0, 180.0
MARK = "SPECREASON_SERVED"
SERVE = ("-m", "sgl_specreason.serve")
DONE = b"[DONE]"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a request ended: a reply (of its first choice), one clear error (its code), or neither ("lost", with words)."""

    end: Literal["good", "error", "lost"]
    thought: str = ""
    answer: str = ""
    code: str = ""
    status: int = 0
    chunks: int = 0
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> tuple[str, str]:
        return self.thought, self.answer


class Served:
    """`python -m sgl_specreason.serve`, or another program that serves, with these words, on a free port."""

    def __init__(
        self, words: Sequence[str], log: Path, *, env: dict[str, str] | None = None, program: Sequence[str] = SERVE
    ) -> None:
        self.port, self.log = free_port(), log
        self.mark = f"{os.getpid()}-{self.port}"
        self.url = f"http://127.0.0.1:{self.port}"
        with log.open("wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, *program, "--port", str(self.port), *words],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=os.environ | (env or {}) | {MARK: self.mark},
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def words(self) -> str:
        """What it has said."""
        return self.log.read_text("utf-8", "replace")

    def ready(self) -> None:
        """Waits until it answers questions."""
        if not until(lambda: self.process.poll() is not None or self.get("/ready")[0] == 200, READY_S):
            raise SystemExit(f"not ready: {self.words}")
        if self.process.poll() is not None:
            raise SystemExit(f"ended with {self.process.returncode}: {self.words}")

    def get(self, path: str) -> tuple[int, str]:
        """Status and text; 0 where nothing answers."""
        try:
            reply = urllib3.request("GET", self.url + path, retries=False, timeout=10.0)
        except urllib3.exceptions.HTTPError:
            return 0, ""
        return reply.status, reply.data.decode()

    def gauge(self, name: str) -> float:
        """A number of /metrics; -1 where it is not there."""
        found = re.search(rf"^specreason_{name} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else -1.0

    @property
    def under_way(self) -> float:
        """Choices that run or wait."""
        return self.gauge("requests_running") + self.gauge("requests_queued")

    def end(self, number: int = signal.SIGTERM, seconds: float = END_S) -> int | None:
        """Its exit code after a signal; None where it does not end in time."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def left(self, seconds: float = 15.0) -> list[psutil.Process]:
        """Processes that it has started and that are still there after so many seconds."""
        found = [process for process in psutil.process_iter() if _carries(process, self.mark)]
        return list(psutil.wait_procs(found, timeout=seconds)[1])

    @property
    def engines(self) -> dict[str, psutil.Process]:
        """The main processes of its own engines, by role."""
        found: dict[str, psutil.Process] = {}
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    words = process.cmdline()
                    if words[1:3] == ["-m", "sgl_specreason.engines.launch"]:
                        found.setdefault(Path(words[words.index("--model-path") + 1]).name, process)
        return found

    def asked(self, body: Json, on_chunk: Callable[[int], object] | None = None) -> Outcome:
        """Sends a request and reads all that comes. `on_chunk` is told the number of each event of a stream, and ends it by
        returning False."""
        begin = time.monotonic()
        try:
            outcome = _asked(self.url, body, on_chunk)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, LookupError) as error:
            outcome = Outcome(end="lost", code=f"{type(error).__name__}: {error}"[:200])
        return Outcome(**{name: getattr(outcome, name) for name in FIELDS} | {"seconds": time.monotonic() - begin})

    def opened(self, body: Json) -> socket.socket:
        """A connection on which a request has been sent; what comes is not read."""
        data = json.dumps(body).encode()
        connection = socket.create_connection(("127.0.0.1", self.port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        return connection


FIELDS = ("end", "thought", "answer", "code", "status", "chunks", "headers")


def _asked(url: str, body: Json, on_chunk: Callable[[int], object] | None) -> Outcome:
    reply = urllib3.request(
        "POST", f"{url}/v1/chat/completions", json=body, retries=False, timeout=REPLY_S, preload_content=False
    )
    headers = {name.lower(): value for name, value in reply.headers.items()}
    try:
        if reply.status != 200:
            code = json.loads(reply.read())["error"]["code"]
            return Outcome(end="error", code=code, status=reply.status, headers=headers)
        if body.get("stream"):
            return _streamed(_events(reply), on_chunk, headers)
        message = json.loads(reply.read())["choices"][0]["message"]
        return Outcome(
            end="good",
            thought=message["reasoning_content"] or "",
            answer=message["content"],
            status=200,
            headers=headers,
        )
    finally:
        reply.close()


def _events(reply: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for piece in reply.stream():
        *events, rest = (rest + piece).split(b"\n\n")
        for event in events:
            if not event.startswith(b"data: "):
                raise ValueError(f"no event: {event[:80]!r}")
            yield event.removeprefix(b"data: ")


def _streamed(events: Iterator[bytes], on_chunk: Callable[[int], object] | None, headers: dict[str, str]) -> Outcome:
    thought, answer, code, finished = list[str](), list[str](), "", False
    for number, event in enumerate(events):
        if event == DONE:
            end: Literal["good", "error", "lost"] = "error" if code else "good" if finished else "lost"
            return Outcome(
                end=end,
                thought="".join(thought),
                answer="".join(answer),
                code=code,
                status=200,
                chunks=number,
                headers=headers,
            )
        chunk = json.loads(event)
        if "error" in chunk:
            code = chunk["error"]["code"]
            continue
        for choice in chunk["choices"]:
            if choice["index"]:
                continue
            thought.append(choice["delta"].get("reasoning_content") or "")
            answer.append(choice["delta"].get("content") or "")
            finished = finished or choice["finish_reason"] is not None
        if on_chunk is not None and on_chunk(number) is False:
            return Outcome(end="lost", code="left", chunks=number)
    return Outcome(end="lost", code="no [DONE]", thought="".join(thought), answer="".join(answer))


def _carries(process: psutil.Process, mark: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return bool(process.environ().get(MARK) == mark) and process.status() != psutil.STATUS_ZOMBIE
    return False


def until(true: Callable[[], object], seconds: float) -> bool:
    """Whether it comes true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
