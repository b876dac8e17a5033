"""Owns a small HTTP proxy before one engine that does to requests what networks and servers do. Knows nothing of runs."""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Literal, get_args

import urllib3

Trick = Literal["refused", "reset", "silent", "5xx", "429", "truncated", "invalid"]
InStream = Literal["cut", "stalled", "garbage", "error"]
TRICKS: tuple[Trick, ...] = get_args(Trick)
IN_STREAM: tuple[InStream, ...] = get_args(InStream)
"""What only happens to an answer that comes in pieces, after some of them."""
REFUSING_S = 1.0
SILENT_S = 60.0
LINGER_0 = b"\1\0\0\0\0\0\0\0"  # closing sends a reset
MOST_PIECES = 8
"""At most so many pieces of a stream come before something happens to it."""
GARBAGE = b"data: {\xff not an event\n\n"
ERROR = b'data: {"error": {"message": "an error of the fault proxy", "code": 500}}\n\ndata: [DONE]\n\n'


class Proxy:
    """Passes requests on to `upstream`, but for the next one after each `arm`, which meets what was armed.

    `hit` counts what was done. "refused" closes the port and every connection for a second; "gone" means closed for good.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urllib3.connection_from_url(upstream, maxsize=64)
        self.hit: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._armed: list[Trick | InStream] = []
        self._connections: set[socket.socket] = set()
        self._closed = threading.Event()
        self._listener = self._listening(0)
        self._port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    def arm(self, trick: Trick | InStream) -> None:
        """Has the next request meet this; where it happens in a stream, the next one that is streamed."""
        with self._lock:
            self._armed.append(trick)

    def disarm(self) -> None:
        with self._lock:
            self._armed.clear()

    @property
    def armed(self) -> int:
        with self._lock:
            return len(self._armed)

    def shut(self) -> None:
        """Closes the port, and every connection with a reset."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            _reset(connection)

    def reopen(self) -> None:
        """Listens again on the same port."""
        self._closed.clear()
        self._listener = self._listening(self._port)

    def _listening(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port), backlog=128)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection.makefile("rb") as reader:
                while self._exchange(connection, reader):
                    pass
        with self._lock:
            self._connections.discard(connection)

    def _exchange(self, connection: socket.socket, reader: object) -> bool:
        """One request and what becomes of it; False where the connection is over."""
        line = reader.readline()  # type: ignore[attr-defined]
        if not line:
            return False
        verb, path, _ = line.decode().split(" ", 2)
        headers: dict[str, str] = {}
        while (line := reader.readline().strip()) != b"":  # type: ignore[attr-defined]
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = reader.read(int(headers.get("content-length", "0")))  # type: ignore[attr-defined]
        streamed = b'"stream":true' in body
        trick = self._trick(streamed) if path == "/generate" else None
        if trick in ("refused", "silent", "5xx", "429"):
            return self._without_answer(connection, trick)
        passed: dict[str, str] = {name: headers[name] for name in ("content-type", "authorization") if name in headers}
        try:
            reply = self.upstream.urlopen(
                verb, path, body=body, headers=passed, retries=False, timeout=600.0, preload_content=not streamed
            )
            if streamed and reply.status == 200 and trick != "invalid":
                return self._stream(connection, reply, trick)
            content, status = reply.data, reply.status
        except urllib3.exceptions.HTTPError:  # the engine is dead: so is whoever stands for it
            _reset(connection)
            return False
        if trick == "truncated":
            content = content[: len(content) // 2]
        elif trick == "invalid":
            content = b"<html>Bad gateway</html>"
        answer = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
        if trick == "reset":
            connection.sendall(answer[: len(answer) // 2])
            time.sleep(0.01)
            _reset(connection)
            return False
        connection.sendall(answer)
        return True

    def _trick(self, streamed: bool) -> Trick | InStream | None:
        """What this request meets, taken off the list."""
        with self._lock:
            found = next((trick for trick in self._armed if streamed or trick in TRICKS), None)
            if found is not None:
                self._armed.remove(found)
                self.hit[found] += 1
        return found

    def _stream(
        self, connection: socket.socket, reply: urllib3.BaseHTTPResponse, trick: Trick | InStream | None
    ) -> bool:
        """Passes an answer on as it comes, as far as the trick lets it. A client that leaves takes its request along."""
        try:
            connection.sendall(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n")
            last = 1 + self.hit.total() % MOST_PIECES
            for number, piece in enumerate(_pieces(reply)):
                if trick is not None and (number == last or piece.startswith(b"data: [DONE]")):
                    return self._disturbed(connection, trick)
                connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            connection.sendall(b"0\r\n\r\n")
            return True
        finally:
            reply.close()

    def _disturbed(self, connection: socket.socket, trick: Trick | InStream) -> bool:
        if trick == "stalled":
            return self._without_answer(connection, "silent")
        if trick in ("garbage", "error", "truncated"):
            piece = {"garbage": GARBAGE, "error": ERROR, "truncated": b"data: {"}[trick]
            connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(piece), piece))
            return True
        _reset(connection)
        return False

    def _without_answer(self, connection: socket.socket, trick: Trick | InStream) -> bool:
        if trick == "refused":
            self.shut()
            time.sleep(REFUSING_S)
            self.reopen()
            return False
        if trick == "silent":
            connection.settimeout(SILENT_S)
            with contextlib.suppress(OSError):
                connection.recv(1)  # until the client goes away
            return False
        status, more = ("503 Busy", "") if trick == "5xx" else ("429 Too Many", "Retry-After: 1\r\n")
        connection.sendall(f"HTTP/1.1 {status}\r\n{more}Content-Length: 4\r\n\r\nwait".encode())
        return True


def _pieces(reply: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """The events of a stream, one after the other, as they come."""
    rest = b""
    for chunk in reply.stream():
        *events, rest = (rest + chunk).split(b"\n\n")
        yield from (event + b"\n\n" for event in events)
    if rest:
        yield rest


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
