"""Owns HTTP to one server: pooled connections, deadlines, and one line of words for whatever goes wrong."""

import threading
from typing import Any
from urllib.parse import urlsplit

import orjson
import urllib3

from sgl_specreason.errors import RequestError

REQUEST_TIMEOUT_S = 1800.0
CONNECT_TIMEOUT_S = 5.0


class Transport:
    """Exchanges of JSON with the server at `url`, from any thread. `role` names it in errors.

    Keeps up to `connections` of them open; an answer has `timeout_s` seconds.
    """

    def __init__(self, url: str, *, role: str, api_key: str | None, connections: int, timeout_s: float) -> None:
        self.url = url
        self.role = role
        self.stopped = threading.Event()
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._path = urlsplit(url).path
        self._pool = urllib3.connection_from_url(url, maxsize=connections, headers=self._headers)
        self._timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=timeout_s)

    def call(
        self,
        verb: str,
        path: str,
        data: dict[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        parse: bool = True,
    ) -> dict[str, Any]:
        """One exchange; a pooled connection that the server has closed meanwhile is replaced once.

        Returns the JSON object of the answer, {} unless `parse`. Raises RequestError for everything else.
        """
        if self.stopped.is_set():
            raise RequestError(f"{self.role}: the run was stopped")
        timeout = self._timeout if timeout_s is None else urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=timeout_s)
        body = None if data is None else orjson.dumps(data)
        url = self.url + path
        try:
            try:
                reply = self._exchange(verb, path, body, timeout)
            except urllib3.exceptions.ProtocolError:
                reply = self._exchange(verb, path, body, timeout)
        except urllib3.exceptions.HTTPError as error:
            raise RequestError(f"{self.role}: {url}: {type(error).__name__}: {_first_line(error)}") from None
        if reply.status != 200:
            words = reply.data[:500].decode("utf-8", "replace").strip()
            raise RequestError(f"{self.role}: {url}: HTTP {reply.status}: {words}")
        if not parse:
            return {}
        try:
            answer = orjson.loads(reply.data)
        except orjson.JSONDecodeError as error:
            raise RequestError(f"{self.role}: {url}: not JSON: {error}") from None
        if not isinstance(answer, dict):
            raise RequestError(f"{self.role}: {url}: an object was expected")
        if "error" in answer:
            raise RequestError(f"{self.role}: {url}: {answer['error']}")
        return answer

    def stop(self) -> None:
        """Refuses every further exchange."""
        self.stopped.set()
        self._pool.close()

    def _exchange(self, verb: str, path: str, body: bytes | None, timeout: urllib3.Timeout) -> urllib3.BaseHTTPResponse:
        return self._pool.urlopen(
            verb, self._path + path, body=body, headers=self._headers, timeout=timeout, retries=False, redirect=False
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]
