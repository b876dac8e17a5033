"""Owns the emptying of one server's radix cache. Knows nothing of programs."""

import time

from sgl_specreason.engines.transport import Transport
from sgl_specreason.errors import RequestError

BUSY_S, WAIT_S = 3.0, 0.05
TIMEOUT_S = 30.0


def flushed(server: Transport) -> None:
    """Empties it. Raises RequestError if the server stays busy, EngineGone if it is gone.

    A server refuses while a request runs (HTTP 400), and counts one as running for a moment after it has answered it.
    """
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            server.call("POST", "/flush_cache", timeout_s=TIMEOUT_S, parse=False, patient=True)
            return
        except RequestError as error:
            if "HTTP 400" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(WAIT_S)
