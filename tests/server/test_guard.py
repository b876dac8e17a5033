"""Who may ask at all, at the level of ASGI."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_specreason.server.guard import Guard, body_of
from sgl_specreason.server.refusal import Refusal

Message = MutableMapping[str, Any]


def passes(
    *headers: tuple[bytes, bytes],
    key: str | None = None,
    path: str = "/v1/models",
    method: str = "GET",
    origins: tuple[str, ...] = (),
) -> int:
    """The status that a request with these headers gets; 200 from behind the guard."""
    sent: list[Message] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": list(headers)}
    asyncio.run(Guard(app, key=key, most_bytes=100, origins=origins)(scope, receive, send))
    status: int = sent[0]["status"]
    return status


LOCAL = (b"host", b"localhost")


@given(given=st.binary(max_size=40), key=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_nothing_but_the_key_opens(given: bytes, key: str) -> None:
    assert passes((b"authorization", given), key=key) == (200 if given == b"Bearer " + key.encode() else 401)
    assert passes((b"authorization", b"Bearer " + key.encode()), key=key) == 200
    assert passes(key=key) == 401


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/metrics"])
def test_what_watches_a_server_needs_no_key(path: str) -> None:
    assert passes(key="k", path=path) == 200
    assert passes(key="k", path=path + "/x") == 401


def test_a_preflight_has_no_key() -> None:
    assert passes(key="k", method="OPTIONS") == 200


@given(host=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30))
def test_without_a_key_only_local_names_are_answered(host: str) -> None:
    name = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
    local = name.lower() in ("localhost", "127.0.0.1", "[::1]")
    assert passes((b"host", host.encode())) == (200 if local else 403)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (b"https://evil.example.com", 403), (b"http://127.0.0.1.evil.com:80", 403), (b"HTTP://evil.example.com", 403),
        (b"null", 403), (b"http://", 403),
        (b"http://localhost:8000", 200), (b"http://127.0.0.1", 200), (b"http://[::1]:8000", 200),
        (b"https://friend.example.com", 200), (b"vscode-webview://abc", 200), (b"", 200),
    ],
)  # fmt: skip
def test_without_a_key_a_page_of_another_site_may_not_ask(origin: bytes, status: int) -> None:
    """A browser sends a page's question without asking first, if it is of a plain type: only the reply is kept from the page."""
    friend = ("https://friend.example.com",)
    assert passes(LOCAL, (b"origin", origin), method="POST", origins=friend) == status
    assert passes((b"origin", origin), (b"authorization", b"Bearer k"), key="k", method="POST") == 200
    assert passes(LOCAL, (b"origin", origin), origins=("*",)) == 200


@pytest.mark.parametrize(
    ("length", "status"), [(b"100", 200), (b"101", 413), (b"99999999999999999999999", 413), (b"x", 200), (b"", 200)]
)
def test_a_length_that_is_too_large_is_refused_before_it_is_read(length: bytes, status: int) -> None:
    assert passes(LOCAL, (b"content-length", length), method="POST") == status


@given(parts=st.lists(st.binary(max_size=60), max_size=6))
def test_a_body_is_read_as_far_as_it_may_be_long(parts: list[bytes]) -> None:
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.request"})
    read = 0

    async def receive() -> Message:
        nonlocal read
        read += 1
        return messages[read - 1]

    whole = b"".join(parts)
    if len(whole) <= 100:
        assert asyncio.run(body_of(receive, 100)) == whole
    else:
        with pytest.raises(Refusal) as caught:
            asyncio.run(body_of(receive, 100))
        assert caught.value.status == 413
        assert sum(map(len, parts[: read - 1])) <= 100


def test_a_client_that_leaves_has_no_body() -> None:
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return messages.pop(0)

    assert asyncio.run(body_of(receive, 100)) is None
