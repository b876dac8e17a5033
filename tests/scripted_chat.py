"""A server that speaks the chat API from a script: enough for the page to talk to, with all that can go wrong."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sgl_specreason.server.page import chat_page, chat_policy

Chunk = dict[str, Any]
SETTINGS = {"threshold": 7.0, "score_rule": "expected", "threshold_range": [0, 9], "budget_tokens": 512}
MODELS = {"specreason": "specreason", "base": "base", "small": "small", "base-direct": "base"}
ACCOUNT = {
    "method": "specreason",
    "steps": 2,
    "steps_by_small": 1,
    "acceptance": 0.5,
    "tokens_base": 51,
    "tokens_small": 1204,
    "tokens_discarded": 31,
    "judge_requests": 2,
    "thought_ended_by": "budget",
    "seconds": 12.345,
    "seconds_base": 1.4,
    "seconds_small": 0.62,
    "policy": "0123",
}
USAGE = {
    "prompt_tokens": 120,
    "completion_tokens": 255,
    "total_tokens": 375,
    "completion_tokens_details": {"reasoning_tokens": 215},
    "prompt_tokens_details": {"cached_tokens": 96},
}
CUT, END, FOREVER = "cut", "end", "forever"
"""In place of a chunk: the connection breaks, the reply ends without a word, or nothing comes any more."""


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> Chunk:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice], **more}


def thought(text: str, **step: Any) -> Chunk:
    return chunk({"reasoning_content": text}, **({"specreason": {"step": step}} if step else {}))


def by_small(n: int, text: str, score: float = 8.25) -> Chunk:
    return thought(text, n=n, by="small", score=score, accepted=True, tokens=12, draft_tokens=12)


def by_base(n: int, *pieces: str, draft: str | None = None, score: float = 3.0) -> list[Chunk]:
    """A step that base writes in pieces, in place of a draft."""
    said = {} if draft is None else {"draft": draft}
    step = {"n": n, "by": "base", "score": score, "accepted": False, "tokens": 20, "draft_tokens": 9, **said}
    return [*map(thought, pieces[:-1]), thought(pieces[-1], **step)]


def answer(text: str) -> Chunk:
    return chunk({"content": text})


def over(finish: str = "stop", **account: Any) -> list[Chunk]:
    return [chunk({}, finish), {"choices": [], "usage": USAGE, "specreason": ACCOUNT | account}]


def reply(*chunks: Chunk) -> list[Chunk]:
    """A whole one, which ends as it should."""
    return [chunk({"role": "assistant", "content": ""}), *chunks, *over()]


class ScriptedChat:
    """Each question gets the next of `replies`: chunks, or a Response instead; the last one again and again."""

    def __init__(self) -> None:
        self.key: str | None = None
        self.models: Response | None = None
        self.settings: dict[str, Any] = SETTINGS
        self.replies: list[Sequence[Chunk | str] | Response] = [reply(answer("Yes."))]
        self.pause_s = 0.0
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.left = threading.Event()
        routes = [
            Route("/", self._page),
            Route("/v1/models", self._list),
            Route("/v1/chat/completions", self._answer, methods=["POST"]),
        ]
        app = Starlette(routes=routes)
        config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(chat_page(), headers={"Content-Security-Policy": chat_policy()})

    def _refused(self, request: Request) -> Response | None:
        self.paths.append(request.url.path)
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return refusal(401, "Incorrect API key.", code="invalid_api_key")

    async def _list(self, request: Request) -> Response:
        about = {"object": "model", "created": 0, "owned_by": "specreason", "root": "/m", "max_model_len": 1024}
        data = [
            about | {"id": name, "specreason": self.settings | {"method": method, "answer_tokens": 64}}
            for name, method in MODELS.items()
        ]
        return self._refused(request) or self.models or JSONResponse({"object": "list", "data": data})

    async def _answer(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        self.asked.append(await request.json())
        script = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(script, Response):
            return script
        return StreamingResponse(self._said(script), media_type="text/event-stream")

    async def _said(self, script: Sequence[Chunk | str]) -> AsyncIterator[str]:
        try:
            for piece in script:
                if piece == FOREVER:
                    await asyncio.sleep(3600)
                if piece == CUT:
                    raise ConnectionError
                if piece == END:
                    return
                yield piece if isinstance(piece, str) else f"data: {json.dumps(piece)}\n\n"
                await asyncio.sleep(self.pause_s)
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.left.set()
            raise


def refusal(status: int, message: str, *, code: str, **headers: str) -> Response:
    error = {"message": message, "type": "error", "param": None, "code": code}
    return JSONResponse({"error": error}, status, {name.replace("_", "-"): value for name, value in headers.items()})
