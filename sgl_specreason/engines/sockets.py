"""Owns the sockets under a pool of connections: one deadline for a whole answer, and breaking off all that are open.

Knows nothing of what is sent.
"""

import math
import threading
import time
import weakref
from contextlib import suppress
from http.client import HTTPResponse
from io import BufferedReader, RawIOBase
from socket import SHUT_RDWR, socket
from typing import Any


class Timed(HTTPResponse):
    """An answer that is read until the socket's timeout after its request, head and body together.

    A socket's own timeout begins anew with each byte: a server that sends a little now and then would never be late.
    """

    def __init__(self, sock: socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = BufferedReader(Until(sock, self.fp.detach()))


class Until(RawIOBase):
    """The bytes of a socket until its present timeout is over. Raises TimeoutError then."""

    def __init__(self, sock: socket, raw: RawIOBase) -> None:
        self._sock, self._raw = sock, raw
        seconds = sock.gettimeout()
        self._deadline = math.inf if seconds is None else time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(None if left == math.inf else left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class Open:
    """The connections of one pool that are open now, so that all of them can be broken off at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._last: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # by the thread that used it

    def watched(self, kind: type[Any]) -> type[Any]:
        """A class of connections like `kind` that enter themselves here."""
        opened = self

        class Watched(kind):  # type: ignore[misc]
            response_class = Timed

            def connect(self) -> None:
                super().connect()
                with opened._lock:
                    opened._connections.add(self)

            def request(self, *args: Any, **options: Any) -> None:
                opened._last[threading.get_ident()] = self
                super().request(*args, **options)

        return Watched

    def shut(self) -> None:
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            _shut(connection)

    def shut_last_of(self, thread: int) -> None:
        """Breaks off the connection that a thread is using."""
        connection = self._last.get(thread)
        if connection is not None:
            _shut(connection)


def _shut(connection: Any) -> None:
    sock = connection.sock
    if sock is not None:
        with suppress(OSError):
            sock.shutdown(SHUT_RDWR)
