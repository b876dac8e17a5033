"""Owns the routes of the server: what is asked over HTTP and what is sent back. Knows no engines.

Everything that may block is done elsewhere: questions in threads of their own, the rendering of a prompt in one of the loop's.
"""

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sgl_specreason.server.answering import Answering, Patience
from sgl_specreason.server.ask import Ask, Served, Served_as, read
from sgl_specreason.server.call import SpecReason
from sgl_specreason.server.guard import Guard, Receive, Scope, Send, body_of, refused
from sgl_specreason.server.metrics import Metrics
from sgl_specreason.server.page import chat_page, chat_policy
from sgl_specreason.server.pair import Pair
from sgl_specreason.server.refusal import (
    Refusal,
    draining,
    engine_unavailable,
    internal,
    invalid,
    method_not_allowed,
    model_not_found,
    unsupported_endpoint,
)
from sgl_specreason.server.reply import FIELDS, Format, model, models
from sgl_specreason.server.stream import Stream
from sgl_specreason.server.talk import Question
from sgl_specreason.server.watch import Watch

T = TypeVar("T")
log = logging.getLogger("sgl_specreason.server")
AGAIN_S = 5
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
    write_timeout_s: float = 300.0
    patience: Patience = Patience()
    thought_names: tuple[str, ...] = FIELDS["reasoning_content"]
    cors_origins: tuple[str, ...] = ()
    instruction: str = ""
    metrics: bool = True


def served(pair: Pair, name: str, effort_thresholds: Mapping[str, float]) -> Served:
    """The models that a pair is served as; `name` is the method's."""
    names: dict[str, Served_as] = {name: "specreason"}
    for other in ("base", "small", "base-direct"):
        names.setdefault(other, other)  # type: ignore[arg-type, call-overload]
    base = pair.plan.models["base"]
    return Served(
        names=names,
        policy=pair.policy,
        aliases=frozenset({"", "default", base, pair.engines["base"].model}),
        effort_thresholds=effort_thresholds,
    )


class Api:
    """The server's application: `app` is ASGI. `drain` has it take no more requests, `end_all` end those under way."""

    def __init__(self, house: SpecReason, served: Served, watch: Watch, settings: Settings) -> None:
        self.house, self.served, self.watch, self.settings = house, served, watch, settings
        self.metrics = Metrics(house.desk, watch)
        self.draining = False
        self.under_way: set[Answering] = set()
        everything = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]
        app = Starlette(
            routes=[
                Route("/v1/chat/completions", _Chat(self), methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/models/{name:path}", self._model, methods=["GET"]),
                Route("/health", self._health, methods=["GET"]),
                Route("/ready", self._ready, methods=["GET"]),
                Route("/metrics", self._metrics, methods=["GET"]),
                Route("/", self._page, methods=["GET"]),
                Route("/{path:path}", self._elsewhere, methods=everything),
            ],
            exception_handlers={HTTPException: _not_allowed, Refusal: _refused, Exception: _failed},
            middleware=self._cors(),
        )
        self.app = Guard(app, key=settings.key, most_bytes=settings.most_bytes)

    def drain(self) -> None:
        """Takes no more requests; those under way go on."""
        self.draining = True

    def end_all(self, why: Refusal) -> None:
        """Ends what is under way."""
        for answering in list(self.under_way):
            answering.end(why)

    def _cors(self) -> list[Middleware]:
        if not self.settings.cors_origins:
            return []
        return [
            Middleware(
                CORSMiddleware,
                allow_origins=list(self.settings.cors_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["x-request-id", "x-specreason-ignored", "retry-after"],
            )
        ]

    def refusal_now(self) -> Refusal | None:
        """Why no question can be taken at the moment."""
        if self.draining:
            return draining(AGAIN_S)
        return engine_unavailable(AGAIN_S) if self.watch.is_away else None

    @property
    def _listed(self) -> dict[str, Any]:
        pair = self.house.pair
        return {
            "policy": self.served.policy,
            "roots": {role: str(name) for role, name in pair.plan.models.items()},
            "max_model_len": pair.max_model_len,
        }

    async def _models(self, request: Request) -> Response:
        return JSONResponse(models(self.served.names, **self._listed))

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.served.names:
            raise model_not_found(name, list(self.served.names))
        return JSONResponse(model(name, self.served.names[name], **self._listed))

    async def _health(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _ready(self, request: Request) -> Response:
        if self.draining or not self.watch.ready:
            return refused(draining(AGAIN_S) if self.draining else engine_unavailable(AGAIN_S))
        return PlainTextResponse("ready\n")

    async def _metrics(self, request: Request) -> Response:
        if not self.settings.metrics:
            raise unsupported_endpoint("/metrics")
        return PlainTextResponse(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def _page(self, request: Request) -> Response:
        safe = {
            "Content-Security-Policy": chat_policy(),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        return HTMLResponse(chat_page(), headers=safe)

    async def _elsewhere(self, request: Request) -> Response:
        raise unsupported_endpoint(f"{request.method} {request.url.path}")


class _Chat:
    """POST /v1/chat/completions, as ASGI: it must hear at once when its client leaves."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun_s, id = time.monotonic(), f"chatcmpl-{uuid.uuid4().hex}"
        model, status = "", 500
        try:
            body = await body_of(receive, self._api.settings.most_bytes)
            if body is None:
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
        answering = Answering(api.house, api.metrics, heard=ask.stream)
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
            try:
                await asyncio.wait_for(send(message), settings.write_timeout_s)
            except TimeoutError:
                return GONE.status
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


async def _unless(gone: "asyncio.Future[None]", work: Awaitable[T]) -> T | None:
    """What comes of `work`, or None where the client has left before."""
    task = asyncio.ensure_future(work)
    await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return None


async def _not_allowed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "").split(", ")
        return refused(method_not_allowed(request.method, allowed))
    return refused(unsupported_endpoint(f"{request.method} {request.url.path}"))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return refused(error)


async def _failed(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return refused(internal())
