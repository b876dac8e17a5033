"""Owns the life of the server's process: it listens, brings the pair up, answers, drains on a signal, ends.

Knows no routes and no options.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from sgl_specreason.errors import EngineGone, UsageError
from sgl_specreason.server.answering import AGAIN_S
from sgl_specreason.server.api import Api
from sgl_specreason.server.call import SpecReason
from sgl_specreason.server.connection import cut_after
from sgl_specreason.server.guard import App, Receive, Scope, Send, refused
from sgl_specreason.server.refusal import draining, engine_unavailable

LOOK_S, LAST_WORDS_S = 0.25, 3.0
SWITCH_S = 0.0005
"""So long one thread may keep others from running: with Python's own 5 ms and hundreds of them, streams fell silent for 20 s."""
BACKLOG = 1024


def listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections. Raises UsageError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"--host {host} --port {port}: cannot be listened on: {words}") from None
    listener.listen(BACKLOG)
    return listener


@dataclass(slots=True, kw_only=True)
class Process:
    """Answers on `listener` until a signal: `open_house` brings the pair up, `make` the application; then it says `ready`.

    The first SIGTERM or SIGINT lets what is under way go on for `drain_s` seconds, the second one ends it at once, the third one
    leaves without a word (the engines' guards end these). A client that does not read is cut off after `write_timeout_s`.
    """

    listener: socket.socket
    open_house: Callable[[], SpecReason]
    make: Callable[[SpecReason], Api]
    say: Callable[[str], None]
    ready: str
    drain_s: float
    write_timeout_s: float
    _api: Api | None = None
    _failure: BaseException | None = None
    _signals: list[int] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop | None = None
    _asked: asyncio.Event = field(default_factory=asyncio.Event)

    def run(self) -> None:
        """Returns after a signal. Raises what bringing the pair up raises, KeyboardInterrupt where a signal came before it was
        up, and EngineGone where an engine is lost for good.

        The pair comes up in this thread, so that a signal ends that in good order; requests are answered in another one.
        """
        sys.setswitchinterval(SWITCH_S)
        for number in (
            signal.SIGTERM,
            signal.SIGINT,
        ):  # until the process ends: one that comes late must not look like a failure
            signal.signal(number, self._signalled)
        answering = threading.Thread(target=self._answer, daemon=True)
        answering.start()
        try:
            house = self.open_house()
            try:
                self._api = self.make(house)
            except BaseException:
                house.close()
                raise
            self.say(self.ready)
        except BaseException as error:
            self._failure = error
            self._ask()
        answering.join()
        if self._failure is not None:
            raise self._failure

    @property
    def code(self) -> int:
        """The exit code that tells of the first signal."""
        return 128 + (self._signals[0] if self._signals else signal.SIGINT)

    def _answer(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:
            self._failure = self._failure or error

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = _Server(
            uvicorn.Config(
                self._door,
                http=cut_after(self.write_timeout_s),
                interface="asgi3",
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=round(LAST_WORDS_S),
            )
        )
        answering = asyncio.ensure_future(server.serve([self.listener]))
        await self._until_asked()
        await self._drain()
        server.should_exit = server.force_exit = True
        await answering
        if self._api is not None:
            self._api.watch.close()
            await asyncio.to_thread(self._api.house.close)

    async def _until_asked(self) -> None:
        """Waits for a signal, a failed start, or an engine that does not come back."""
        while not self._asked.is_set():
            try:
                await asyncio.wait_for(self._asked.wait(), LOOK_S)
            except TimeoutError:
                if self._api is not None and (lost := self._api.watch.lost):
                    self._failure = EngineGone(lost)
                    return

    async def _drain(self) -> None:
        api = self._api
        if api is None:
            return
        api.drain()
        if api.under_way and self._failure is None:
            self.say(
                f"ending: {len(api.under_way)} requests have {self.drain_s:g} s; a second signal ends them at once"
            )
            await self._until(lambda: not api.under_way or len(self._signals) > 1, self.drain_s)
        api.end_all(draining(AGAIN_S) if self._failure is None else engine_unavailable(AGAIN_S))
        await self._until(lambda: not api.under_way, LAST_WORDS_S)

    async def _until(self, done: Callable[[], bool], seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not done() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)

    def _signalled(self, number: int, frame: object) -> None:
        self._signals.append(number)
        if len(self._signals) > (1 if self._api is None else 2):
            os._exit(128 + number)
        if self._api is None:
            raise KeyboardInterrupt
        self._ask()

    def _ask(self) -> None:
        """Has the server end, in whatever thread this is."""
        if self._loop is None:
            self._asked.set()
            return
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._asked.set)

    async def _door(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, or, before there is one, that there is none yet."""
        if self._api is not None:
            await self._api.app(scope, receive, send)
        elif scope["type"] == "http":
            await _starting(scope, receive, send)


async def _starting(scope: Scope, receive: Receive, send: Send) -> None:
    from starlette.responses import PlainTextResponse

    app: App = refused(engine_unavailable(AGAIN_S))
    if scope["path"] == "/health":
        app = PlainTextResponse("ok\n")
    await app(scope, receive, send)


class _Server(uvicorn.Server):
    """One that leaves signals alone: its own handling would close the socket first and wait for ever."""

    def capture_signals(self) -> Any:
        return nullcontext()
