"""Requests to a server that fails in every way that servers fail: what is tried again, and for how long."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sgl_specreason.engines import transport
from sgl_specreason.engines.transport import Health, Transport
from sgl_specreason.errors import EngineGone, RequestError

GOOD = b'{"ok": 1}'


def http(body: bytes, status: str = "200 OK", headers: str = "", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n{headers}\r\n".encode() + body


def received(connection: socket.socket) -> bytes:
    """A whole request; head and body may come one after the other."""
    request = connection.recv(65536)
    size = re.search(rb"Content-Length: (\d+)", request)
    while size and len(request.split(b"\r\n\r\n", 1)[1]) < int(size[1]):
        request += connection.recv(65536)
    return request


@contextmanager
def server(*replies: bytes | Callable[[socket.socket], None], well: bool = True) -> Iterator[tuple[str, list[bytes]]]:
    """A server with one reply for each request, the last one for all further ones; its URL and the requests it had.

    Asked for its health it says that it is `well`, which counts as no request.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    requests: list[bytes] = []

    def serve() -> None:
        number = 0
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                request = received(connection)
                if request.startswith(b"GET /health"):
                    connection.sendall(http(b"", "200 OK" if well else "503 Dead", "Connection: close\r\n"))
                    continue
                requests.append(request)
                reply = replies[min(number, len(replies) - 1)]
                number += 1
                if callable(reply):
                    reply(connection)
                else:
                    connection.sendall(reply.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def client(url: str, *, timeout_s: float = 5.0, health: Health | None = None) -> Transport:
    return Transport(url, role="base", api_key=None, connections=2, timeout_s=timeout_s, health=health)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LONGEST_WAIT_S", 0.02)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def silent(connection: socket.socket) -> None:
    connection.settimeout(10)
    assert connection.recv(1) == b""


def trickling(beginning: bytes) -> Callable[[socket.socket], None]:
    """A server that begins to answer so and then sends one blank after the other, for five seconds."""

    def reply(connection: socket.socket) -> None:
        connection.sendall(beginning)
        try:
            for _ in range(100):
                connection.sendall(b" ")
                time.sleep(0.05)
        except OSError:
            return

    return reply


FAILING = {
    "reset": (reset, "ProtocolError"),
    "closed without an answer": (lambda connection: None, "ProtocolError"),
    "broken off": (http(GOOD, length=500), "ProtocolError"),
    "HTTP 500": (http(b"boom", "500 Internal Server Error"), "HTTP 500: boom"),
    "HTTP 503": (http(b"busy", "503 Service Unavailable"), "HTTP 503: busy"),
    "HTTP 429": (http(b"slow down", "429 Too Many Requests"), "HTTP 429"),
    "no JSON": (http(b'{"ok": '), "not JSON"),
    "no object": (http(b"[1]"), "an object was expected"),
    "no answer in time": (silent, "no answer in"),
    "no end in time": (trickling(http(b"", length=1000)), "no answer in"),
    "no end of its status in time": (trickling(b"HTTP/1.1 200"), "no answer in"),
    "no end of its headers in time": (trickling(b"HTTP/1.1 200 OK\r\nX-Odd:"), "no answer in"),
}


@pytest.mark.parametrize(("reply", "words"), FAILING.values(), ids=FAILING)
def test_what_may_work_later_is_tried_again_and_counted(reply: bytes, words: str) -> None:
    with server(reply, http(GOOD)) as (url, requests):
        answer = client(url, timeout_s=0.3).call("POST", "/generate", {"a": 1}, patient=True)
        assert answer == ({"ok": 1}, 1)
        assert len(requests) == 2
    with server(reply, http(GOOD)) as (url, requests), pytest.raises(RequestError, match=words):
        client(url, timeout_s=0.3).call("POST", "/generate", {"a": 1})


@pytest.mark.parametrize(
    "reply",
    [http(b"too long", "400 Bad Request"), http(b"no key", "401 Unauthorized"), http(b'{"error": "cannot"}')],
    ids=["400", "401", "error"],
)
def test_what_would_be_the_same_again_is_not_tried_again(reply: bytes) -> None:
    with server(reply, http(GOOD)) as (url, requests):
        with pytest.raises(RequestError, match=r"too long|no key|cannot"):
            client(url).call("POST", "/generate", {}, patient=True)
        assert len(requests) == 1


@pytest.mark.parametrize(("reply", "tries"), [(http(b"", "500 Oh"), 8), (reset, 5), (silent, 2)])
def test_a_request_that_always_fails_is_given_up(reply: bytes, tries: int) -> None:
    """A request that kills its server, for one, must not do so for ever."""
    with server(reply) as (url, requests):
        with pytest.raises(RequestError, match=rf"tried {tries} times"):
            client(url, timeout_s=0.2).call("POST", "/generate", {}, patient=True)
        assert len(requests) == tries


@pytest.mark.parametrize("reply", [http(b"", "502 Bad Gateway"), reset], ids=["a gateway", "resets"])
def test_a_dead_server_behind_something_that_answers_for_it_is_waited_for(reply: bytes) -> None:
    """A proxy before an engine that was killed must not cost every trajectory that is under way."""
    with server(*[reply] * 12, http(GOOD), well=False) as (url, _):
        assert client(url).call("POST", "/generate", {}, patient=True) == ({"ok": 1}, 12)
    with server(reply, well=False) as (url, _), pytest.raises(EngineGone):
        client(url, health=Health(patience_s=0.3)).call("POST", "/generate", {}, patient=True)


def test_a_server_that_asks_for_time_gets_it() -> None:
    with server(http(b"", "503 Busy", "Retry-After: 1\r\n"), http(GOOD)) as (url, _):
        begin = time.monotonic()
        client(url).call("GET", "/x", patient=True)
        assert time.monotonic() - begin >= 1


def test_a_request_that_is_tried_again_has_another_name_each_time() -> None:
    """SGLang refuses a name that it still knows; an abort must find the new one, and nothing is kept of those that are over."""
    names: list[str] = []

    def last(connection: socket.socket) -> None:
        names.extend((asked.name_of("r"), asked.name_of("other")))
        connection.sendall(http(GOOD, headers="Connection: close\r\n"))

    with server(reset, reset, last) as (url, requests):
        asked = client(url)
        asked.call("POST", "/generate", {"rid": "r"}, patient=True)
        bodies = [request.split(b"\r\n\r\n")[1] for request in requests]
        assert bodies == [b'{"rid":"r"}', b'{"rid":"r-1"}', b'{"rid":"r-2"}']
        assert names == ["r-2", "other"]
        assert asked.name_of("r") == "r"


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_an_unreachable_server_is_waited_for_and_then_ends_the_run() -> None:
    asked = client(f"http://127.0.0.1:{unused_port()}", health=Health(patience_s=0.3))
    begin = time.monotonic()
    with pytest.raises(EngineGone, match="NewConnectionError"):
        asked.call("GET", "/x", patient=True)
    assert 0.3 <= time.monotonic() - begin < 5


def test_a_server_that_comes_back_in_time_has_only_been_slow() -> None:
    port = unused_port()
    found: list[object] = []
    asked = client(f"http://127.0.0.1:{port}")
    waiting = threading.Thread(target=lambda: found.append(asked.call("GET", "/x", patient=True)))
    waiting.start()
    time.sleep(0.3)
    assert found == []
    with socket.create_server(("127.0.0.1", port)) as listener:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(http(GOOD))
            waiting.join(5)
    assert found[0].content == {"ok": 1}  # type: ignore[attr-defined]


def test_a_server_that_is_known_to_be_gone_is_not_asked() -> None:
    with server(http(GOOD)) as (url, requests):
        with pytest.raises(EngineGone, match="died four times"):
            client(url, health=Health(gone="died four times")).call("GET", "/x", patient=True)
        assert requests == []


def test_stopping_breaks_off_what_is_under_way() -> None:
    """A run that ends must not wait for the longest answer."""
    with server(silent) as (url, requests):
        asked = client(url, timeout_s=60)
        failed: list[str] = []

        def call() -> None:
            with pytest.raises(RequestError) as error:
                asked.call("GET", "/x", patient=True)
            failed.append(str(error.value))

        thread = threading.Thread(target=call)
        thread.start()
        while not requests:
            time.sleep(0.01)
        asked.stop()
        thread.join(5)
        assert failed == ["base: the run was stopped"]
