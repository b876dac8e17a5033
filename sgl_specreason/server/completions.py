"""Owns POST /v1/chat/completions: from a body to a reply, whole or streamed, or to a refusal. Knows no engines.

Everything that may block is done elsewhere: questions in threads of their own, the rendering of a prompt in one of the loop's.
"""

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from sgl_specreason.server.answering import Answering, Patience
from sgl_specreason.server.ask import Ask, Served, read
from sgl_specreason.server.call import SpecReason
from sgl_specreason.server.guard import Receive, Scope, Send, body_of, refused
from sgl_specreason.server.metrics import Metrics
from sgl_specreason.server.record import Recorder
from sgl_specreason.server.refusal import Refusal, internal, invalid
from sgl_specreason.server.reply import FIELDS, Format
from sgl_specreason.server.stream import Stream
from sgl_specreason.server.talk import Question

T = TypeVar("T")
log = logging.getLogger("sgl_specreason.server")
FIRST_WORD_S = 5.0
"""So long a stream's head waits for its first event: until then a failure is still a status of its own."""
GONE = Refusal(499, "The client has gone.", type="server_error", code="client_gone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the server behaves (seconds, bytes). `thought_names` are the keys that a thought is sent under."""

    key: str | None = field(default=None, repr=False)
    most_bytes: int = 8_000_000
    keep_alive_s: float = 10.0
    interval_s: float = 0.05
    patience: Patience = field(default_factory=Patience)
    thought_names: tuple[str, ...] = FIELDS["reasoning_content"]
    cors_origins: tuple[str, ...] = ()
    instruction: str = ""
    metrics: bool = True


class Serving(Protocol):
    """What a request is answered with."""

    house: SpecReason
    served: Served
    settings: Settings
    metrics: Metrics
    recorder: Recorder | None
    under_way: set[Answering]

    def refusal_now(self) -> Refusal | None:
        """Why no question can be taken at the moment."""


class Completions:
    """POST /v1/chat/completions, as ASGI: it must hear at once when its client leaves."""

    def __init__(self, api: Serving) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun_s, id = time.monotonic(), f"chatcmpl-{uuid.uuid4().hex}"
        model, status = "", 500
        try:
            body = await body_of(receive, self._api.settings.most_bytes)
            if body is None:
                status = GONE.status
                return
            if why := self._api.refusal_now():
                raise why
            ask = read(
                _parsed(body), self._api.served, steps_header=Request(scope).headers.get("x-specreason-steps") == "1"
            )
            model = ask.model
            status = await self._answer(ask, id, receive, send, scope)
        except Refusal as refusal:
            status = refusal.status
            await refused(refusal, id)(scope, receive, send)
        except Exception:
            log.exception("request %s failed", id)
            await refused(internal(id), id)(scope, receive, send)
        finally:
            self._api.metrics.requests.labels(model, str(status)).inc()
            self._api.metrics.request_seconds.observe(time.monotonic() - begun_s)

    async def _answer(self, ask: Ask, id: str, receive: Receive, send: Send, scope: Scope) -> int:
        """Sends a reply; its status. Raises Refusal where nothing has been sent yet."""
        api = self._api
        if ask.ignored:
            log.info("request %s: fields that mean nothing here: %s", id, ", ".join(ask.ignored))
        answering = Answering(api.house, api.metrics, heard=ask.stream, name=id, recorder=api.recorder)
        gone = asyncio.ensure_future(_gone(receive))
        api.under_way.add(answering)
        format = Format(
            id=id, model=ask.model, created=int(time.time()), ask=ask, thought_names=api.settings.thought_names
        )
        headers = {"x-request-id": id} | ({"x-specreason-ignored": ", ".join(ask.ignored)} if ask.ignored else {})
        try:
            await answering.begin(self._questions(ask), api.settings.patience)
            if not ask.stream:
                return await self._whole(answering, format, gone, headers, scope, receive, send)
            return await self._streamed(answering, format, gone, headers, send)
        finally:
            gone.cancel()
            answering.end(GONE)
            api.under_way.discard(answering)

    async def _whole(
        self,
        answering: Answering,
        format: Format,
        gone: "asyncio.Future[None]",
        headers: Mapping[str, str],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> int:
        while len(answering.replies) < len(answering.talks):
            told = await _unless(gone, answering.told.get())
            if told is None:
                return GONE.status
            if isinstance(told.event, Refusal):
                raise told.event
        body = orjson.dumps(format.whole([answering.replies[index] for index in sorted(answering.replies)]))
        await Response(body, headers=dict(headers), media_type="application/json")(scope, receive, send)
        return 200

    async def _streamed(
        self,
        answering: Answering,
        format: Format,
        gone: "asyncio.Future[None]",
        headers: Mapping[str, str],
        send: Send,
    ) -> int:
        settings = self._api.settings
        first = await _unless(gone, answering.first(FIRST_WORD_S))
        if gone.done():
            return GONE.status
        if isinstance(first, Refusal):
            raise first
        fields = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
        }
        raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in (fields | dict(headers)).items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        stream = Stream(answering, format, interval_s=settings.interval_s, keep_alive_s=settings.keep_alive_s)
        pieces = stream.pieces()
        while (piece := await _unless(gone, anext(pieces, b""))) is not None:
            message = {"type": "http.response.body", "body": piece, "more_body": bool(piece)}
            await send(message)
            if not piece:
                return 200
        return GONE.status

    def _questions(self, ask: Ask) -> list[Question]:
        seed = secrets.randbelow(2**31) if ask.seed is None else ask.seed
        messages = ask.messages
        if self._api.settings.instruction:
            last = messages[-1]
            messages = (*messages[:-1], last._replace(content=f"{last.content}\n\n{self._api.settings.instruction}"))
        question = Question(
            method=ask.method,
            messages=messages,
            policy=ask.policy,
            seed=seed,
            thinking=ask.thinking,
            total_tokens=ask.total_tokens,
            stop=ask.stop,
            template=ask.template_options,
            cache_salt=ask.cache_salt,
        )
        return [replace(question, seed=seed + choice) for choice in range(ask.n)]


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"the body is not JSON: {error}", code="invalid_json") from None


async def _gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unless(gone: "asyncio.Future[None]", work: Coroutine[Any, Any, T]) -> T | None:
    """What comes of `work`, or None where the client has left before."""
    task = asyncio.ensure_future(work)
    both: set[asyncio.Future[Any]] = {task, gone}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return None
