"""Owns the routes of the server, its models and its errors. Knows no engines; `completions.py` answers questions."""

import logging
from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sgl_specreason.server.answering import AGAIN_S, Answering
from sgl_specreason.server.ask import Served, Served_as
from sgl_specreason.server.call import SpecReason
from sgl_specreason.server.completions import Completions, Settings
from sgl_specreason.server.guard import Guard, refused
from sgl_specreason.server.metrics import Metrics
from sgl_specreason.server.page import chat_page, chat_policy
from sgl_specreason.server.pair import Pair
from sgl_specreason.server.record import Recorder
from sgl_specreason.server.refusal import (
    Refusal,
    draining,
    engine_unavailable,
    internal,
    method_not_allowed,
    model_not_found,
    unsupported_endpoint,
)
from sgl_specreason.server.reply import Listing
from sgl_specreason.server.watch import Watch

log = logging.getLogger("sgl_specreason.server")


def served(pair: Pair, name: str, effort_thresholds: Mapping[str, float]) -> Served:
    """The models that a pair is served as; `name` is the method's."""
    names: dict[str, Served_as] = {name: "specreason"}
    others: tuple[Served_as, ...] = ("base", "small", "base-direct")
    for other in others:
        names.setdefault(other, other)
    base = pair.plan.models["base"]
    return Served(
        names=names,
        policy=pair.policy,
        aliases=frozenset({"", "default", base, pair.engines["base"].model}),
        effort_thresholds=effort_thresholds,
        min_p_fails="" if pair.takes_min_p else "the engines run with --enable-deterministic-inference",
    )


class Api:
    """The server's application: `app` is ASGI. `drain` has it take no more requests, `end_all` end those under way."""

    def __init__(
        self, house: SpecReason, served: Served, watch: Watch, settings: Settings, recorder: Recorder | None = None
    ) -> None:
        self.house, self.served, self.watch, self.settings = house, served, watch, settings
        self.metrics, self.recorder = Metrics(house.desk, watch), recorder
        self.draining = False
        self.under_way: set[Answering] = set()
        pair = house.pair
        self._listing = Listing(
            names=served.names, roots=pair.plan.models, policy=served.policy, max_model_len=pair.max_model_len
        )
        app = Starlette(
            routes=[
                Route("/v1/chat/completions", Completions(self), methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/models/{name:path}", self._model, methods=["GET"]),
                Route("/health", self._health, methods=["GET"]),
                Route("/ready", self._ready, methods=["GET"]),
                Route("/metrics", self._metrics, methods=["GET"]),
                Route("/", self._page, methods=["GET"]),
            ],
            exception_handlers={HTTPException: _not_there, Refusal: _refused, Exception: _failed},
            middleware=self._cors(),
        )
        app.router.redirect_slashes = False
        self.app = Guard(app, key=settings.key, most_bytes=settings.most_bytes, origins=settings.cors_origins)

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

    async def _models(self, request: Request) -> Response:
        return JSONResponse(self._listing.all())

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.served.names:
            raise model_not_found(name, list(self.served.names))
        return JSONResponse(self._listing.one(name))

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


async def _not_there(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = sorted((error.headers or {}).get("Allow", "").split(", "))
        return refused(method_not_allowed(request.method, allowed))
    return refused(unsupported_endpoint(f"{request.method} {request.url.path}"))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return refused(error)


async def _failed(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return refused(internal())
