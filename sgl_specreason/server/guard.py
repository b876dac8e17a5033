"""Owns who may ask at all, before anything is read: the key, the host, the size of a body (pure ASGI). Knows no routes.

A wrapping middleware would hide that a client has gone.
"""

import hmac
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from starlette.responses import Response

from sgl_specreason.server.refusal import Refusal, foreign_host, invalid_api_key, too_large

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
LOCAL = ("127.0.0.1", "localhost", "[::1]")
OPEN = ("/", "/health", "/ready", "/metrics")
"""What needs no key."""


def refused(refusal: Refusal, request_id: str = "") -> Response:
    """A refusal as an answer."""
    import orjson

    headers = refusal.headers | ({"x-request-id": request_id} if request_id else {})
    return Response(orjson.dumps(refusal.body), refusal.status, headers, media_type="application/json")


class Guard:
    """Lets through to `app` what has the `key`, or, where there is none, what was sent to a local name of this machine.

    Then it must not come from a page of another site, but for those of `origins`: a browser would send such a page's question,
    and only keep the reply from it.
    """

    def __init__(self, app: App, *, key: str | None, most_bytes: int, origins: Collection[str] = ()) -> None:
        self._app, self._key, self._most_bytes = app, key.encode() if key else None, most_bytes
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        refusal = self._flaw(scope, headers)
        if refusal is not None:
            await refused(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _flaw(self, scope: Scope, headers: dict[bytes, bytes]) -> Refusal | None:
        if self._key is None:
            origin = headers.get(b"origin", b"").decode("latin-1")
            if not _is_local(headers.get(b"host", b"").decode("latin-1")) or self._is_foreign(origin):
                return foreign_host()
        elif scope["path"] not in OPEN and scope["method"] != "OPTIONS":
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self._key):
                return invalid_api_key()
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most_bytes:
            return too_large(self._most_bytes)
        return None

    def _is_foreign(self, origin: str) -> bool:
        """Whether this is a page of another site, or one that does not say whose it is. Other programs have no origin."""
        scheme, _, host = origin.partition("://")
        if "*" in self._origins or origin in self._origins:
            return False
        return origin == "null" or (scheme.lower() in ("http", "https") and not _is_local(host))


def _is_local(host: str) -> bool:
    name = host.lower()
    return name.rpartition(":")[0] in LOCAL or name in LOCAL


async def body_of(receive: Receive, most_bytes: int) -> bytes | None:
    """A request's whole body; None where its client has gone. Raises Refusal for one that is too large."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most_bytes:
            raise too_large(most_bytes)
        if not message.get("more_body"):
            return b"".join(parts)
