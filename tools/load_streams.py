"""Owns one streamed request as a client sees it: raw sockets, so that silence, slowness and leaving are exact.

Knows no engines and no scenarios.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson

DATA = b"data: "
DONE = b"[DONE]"


@dataclass(slots=True, kw_only=True)
class Seen:
    """A request from its sending (`sent_s`, of the monotonic clock) to its end; seconds are counted from there.

    `silence_s` is the longest time without a byte, `pause_s` without a piece of text. `account` is what the server says of
    the method at the end.
    """

    sent_s: float
    status: int = 0
    first_event_s: float | None = None
    first_text_s: float | None = None
    silence_s: float = 0.0
    pause_s: float = 0.0
    seconds: float = 0.0
    chunks: int = 0
    thought: str = ""
    answer: str = ""
    finish: str | None = None
    done: bool = False
    left: bool = False
    error: str | None = None
    account: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> str | None:
        """What is wrong with a request that was read to its end."""
        if self.error or self.status != 200:
            return self.error or f"HTTP {self.status}"
        return None if self.done and self.finish else "it broke off"


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where requests go."""

    host: str
    port: int
    key: str

    @classmethod
    def at(cls, url: str, key: str) -> "Server":
        parts = urlsplit(url)
        return cls(host=parts.hostname or "127.0.0.1", port=parts.port or 80, key=key)

    def request(self, body: dict[str, Any]) -> bytes:
        content = orjson.dumps(body)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + content


async def ask(server: Server, body: dict[str, Any], *, leave_after_s: float | None = None) -> Seen:
    """Reads a stream to its end, or leaves without a word when its time has come."""
    seen = Seen(sent_s=time.monotonic())
    try:
        async with asyncio.timeout(leave_after_s):
            await _read(server, body, seen)
    except TimeoutError:
        seen.left = True
    except (OSError, EOFError, ValueError) as error:
        seen.error = f"{type(error).__name__}: {error}"
    seen.seconds = time.monotonic() - seen.sent_s
    return seen


async def _read(server: Server, body: dict[str, Any], seen: Seen) -> None:
    reader, writer = await asyncio.open_connection(server.host, server.port, limit=1 << 20)
    try:
        writer.write(server.request(body | {"stream": True}))
        last = last_text = 0.0
        async for line in _lines(reader, seen):
            now = time.monotonic() - seen.sent_s
            seen.silence_s, last = max(seen.silence_s, now - last), now
            if not line.startswith(DATA):
                if line:
                    raise ValueError(f"a line that is no data: {line[:80]!r}")
                continue
            if line == DATA + DONE:
                seen.done = True
                continue
            if _take(orjson.loads(line[len(DATA) :]), seen, now):
                seen.pause_s, last_text = max(seen.pause_s, now - last_text), now
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _lines(reader: asyncio.StreamReader, seen: Seen) -> AsyncIterator[bytes]:
    """The lines of a body that comes in chunks; of an error, its text is kept."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    seen.status = int(head.split(" ", 2)[1])
    if seen.status != 200 or "transfer-encoding: chunked" not in head:
        seen.error = f"HTTP {seen.status}: {(await reader.read())[:300].decode(errors='replace')}"
        return
    rest = b""
    while size := int((await reader.readuntil(b"\r\n")).strip() or b"0", 16):
        *lines, rest = (rest + (await reader.readexactly(size + 2))[:-2]).split(b"\n")
        for line in lines:
            yield line


def _take(event: dict[str, Any], seen: Seen, now: float) -> bool:
    """Enters an event. Whether it had text."""
    seen.chunks += 1
    seen.first_event_s = now if seen.first_event_s is None else seen.first_event_s
    if error := event.get("error"):
        seen.error = str(error.get("message", error))
    if "steps" in (account := event.get("specreason") or {}):
        seen.account = account
    texts = False
    for choice in event.get("choices") or ():
        delta = choice["delta"]
        thought, answer = delta.get("reasoning_content") or "", delta.get("content") or ""
        seen.thought += thought
        seen.answer += answer
        seen.finish = choice.get("finish_reason") or seen.finish
        texts = texts or bool(thought or answer)
    if texts and seen.first_text_s is None:
        seen.first_text_s = now
    return texts


class Slow:
    """A reader of one byte a second, with as small a buffer as the system gives."""

    def __init__(self, server: Server, body: dict[str, Any]) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        self.socket.connect((server.host, server.port))
        self.socket.sendall(server.request(body | {"stream": True}))
        self.socket.setblocking(False)
        self.read = 0
        self.over = False
        self._task = asyncio.get_running_loop().create_task(self._trickle())

    async def _trickle(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.over:
            try:
                got = len(await loop.sock_recv(self.socket, 1))
            except OSError:
                got = 0
            self.read += got
            self.over = not got
            await asyncio.sleep(1)

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self.socket.close()
