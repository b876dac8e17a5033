"""Owns HTTP to one server: pooled connections, deadlines, what is tried again, and one line of words for what goes wrong."""

import math
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import orjson
import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError

from sgl_specreason.engines.control import Control
from sgl_specreason.engines.sockets import Open
from sgl_specreason.engines.streamed import Streamed
from sgl_specreason.errors import EngineGone, RequestError

REQUEST_TIMEOUT_S = 1800.0
CONNECT_TIMEOUT_S = 5.0
HEALTH_TIMEOUT_S = 5.0
PATIENCE_S = 120.0
FIRST_WAIT_S, LONGEST_WAIT_S, LONGEST_RETRY_AFTER_S = 0.1, 5.0, 30.0
ROUTING_KEY = "X-SMG-Routing-Key"
"""Requests with the same value go to the same replica behind a router of sglang-router whose policy is `manual`."""
NOTICED_S = 3.0
"""A router that is started here knows after two seconds that a replica is gone; sooner it would be asked again for nothing."""

Kind = Literal["unreachable", "broken", "late", "answer", "final"]
AGAIN: dict[Kind, float] = {"unreachable": math.inf, "broken": 4, "late": 1, "answer": 7, "final": 0}
"""How often a request is tried again, on a server that is up, after a failure of each kind: no connection (as long as the
server has patience), one that breaks off (a few times: the request itself may be what kills the server), no answer in time, an
answer that says that it may work later or that is no answer (HTTP 408, 429, 5xx; not JSON), and one that will be the same for
ever."""
LATER = (408, 429)


@dataclass(slots=True, kw_only=True)
class Health:
    """What is known of one server beyond single requests, shared with whoever looks after it.

    An unreachable one is waited for during `patience_s` seconds. `gone` says why it will not come back, once that is known.
    Behind a router are `replicas`: while one of them may answer, their router does.
    """

    patience_s: float = PATIENCE_S
    gone: str | None = None
    replicas: tuple["Health", ...] = ()

    @property
    def lost(self) -> str | None:
        """Why nothing will answer any more."""
        reasons = [replica.gone for replica in self.replicas]
        return self.gone or (reasons[-1] if all(reasons) and reasons else None)


class Failure(NamedTuple):
    """Why one exchange gave no answer, in words, and how long the server wants to be left alone (seconds)."""

    kind: Kind
    words: str
    wait_s: float = 0.0


class Answer(NamedTuple):
    """The JSON object that came back, and how many times the request had to be tried again for it."""

    content: dict[str, Any]
    retries: int = 0


class Asked(NamedTuple):
    """One exchange as it is sent."""

    verb: str
    path: str
    body: bytes | None
    headers: dict[str, str]
    timeout_s: float
    parse: bool = False
    streamed: Streamed | None = None


class Transport:
    """Exchanges of JSON with the server at `url`, from any thread. `role` names it in errors.

    Keeps up to `connections` of them open; an answer has `timeout_s` seconds, from the request to its last byte.
    """

    def __init__(
        self,
        url: str,
        *,
        role: str,
        api_key: str | None,
        connections: int,
        timeout_s: float,
        health: Health | None = None,
    ) -> None:
        self.url = url
        self.role = role
        self.stopped = threading.Event()
        self.health = health or Health()
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._path = urlsplit(url).path
        self._pool = urllib3.connection_from_url(url, maxsize=connections, headers=self._headers)
        self._open = Open()
        self._pool.ConnectionCls = self._open.watched(self._pool.ConnectionCls)
        self._timeout_s = timeout_s
        self._names: dict[str, str] = {}

    def call(
        self,
        verb: str,
        path: str,
        data: dict[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        parse: bool = True,
        patient: bool = False,
        key: str | None = None,
        streamed: Streamed | None = None,
        control: Control | None = None,
    ) -> Answer:
        """One exchange; `patient` tries it again, with jittered waits, while that can help (AGAIN).

        Requests with the same `key` stay on one replica (ROUTING_KEY). One with a "rid" has another rid each time, since the
        server may still know the first. `streamed` reads an answer that comes in pieces, `control` may end it. Returns the JSON
        object of the answer, {} unless `parse`. Raises EngineGone where the server is no longer there at all, Cancelled where
        `control` says so, and RequestError for everything else that goes wrong.
        """
        body = None if data is None else orjson.dumps(data)
        headers = self._headers | ({ROUTING_KEY: key} if key else {})
        asked = Asked(verb, path, body, headers, timeout_s or self._timeout_s, parse, streamed)
        try:
            return self._answer(asked, data or {}, patient, control)
        finally:
            if data is not None and "rid" in data:
                self._names.pop(data["rid"], None)

    def _answer(self, asked: "Asked", data: dict[str, Any], patient: bool, control: Control | None) -> Answer:
        failures = _Failures()
        while True:
            self._check(control)
            reply = self._exchange(asked)
            if isinstance(reply, dict):
                return Answer(reply, failures.total)
            self._check(control)
            words = f"{self.role}: {self.url}{asked.path}: {reply.words}"
            over = failures.count(reply.kind)
            if not patient or (over and (reply.kind in ("late", "final") or self._is_well())):
                count = failures.counts[reply.kind]
                raise RequestError(words if count == 1 else f"{words} (tried {count} times)")
            if failures.down_s(over or reply.kind == "unreachable") > self.health.patience_s:
                raise EngineGone(f"{words}, for {self.health.patience_s:.0f} s")
            (control.cancelled if control else self.stopped).wait(max(reply.wait_s, failures.wait_s()))
            if "rid" in data:
                name = self._names[data["rid"]] = f"{data['rid']}-{failures.total}"
                asked = asked._replace(body=orjson.dumps(data | {"rid": name}))

    def name_of(self, rid: str) -> str:
        """The name that the request `rid` has on the server now: another one after each time that it was tried again."""
        return self._names.get(rid, rid)

    def stop(self) -> None:
        """Refuses every further exchange and breaks off those that are under way."""
        self.stopped.set()
        self._open.shut()
        self._pool.close()

    def break_off(self, thread: int) -> None:
        """Breaks off the exchange that a thread has under way."""
        self._open.shut_last_of(thread)

    def _is_well(self) -> bool:
        """Whether the server is up: then a request that always fails is itself the trouble. Proxies answer for dead servers."""
        return isinstance(self._exchange(Asked("GET", "/health", None, self._headers, HEALTH_TIMEOUT_S)), dict)

    def _check(self, control: Control | None = None) -> None:
        """Raises what no request can get past."""
        if control is not None:
            control.check()
        if self.stopped.is_set():
            raise RequestError(f"{self.role}: the run was stopped")
        if lost := self.health.lost:
            raise EngineGone(lost)

    def _exchange(self, asked: "Asked") -> dict[str, Any] | Failure:
        try:
            status, said, content = self._bytes(asked)
        except (NewConnectionError, ConnectTimeoutError) as error:
            return Failure("unreachable", f"{type(error).__name__}: {_first_line(error)}")
        except HTTPTimeoutError as error:
            return Failure("late", f"no answer in {asked.timeout_s:g} s ({type(error).__name__})")
        except HTTPError as error:
            return Failure("broken", f"{type(error).__name__}: {_first_line(error)}")
        if status != 200:
            words = content[:500].decode("utf-8", "replace").strip()
            if failure := _of_router(said.get("X-SMG-Error-Code", ""), f"HTTP {status}: {words}"):
                return failure
            later = status >= 500 or status in LATER
            return Failure("answer" if later else "final", f"HTTP {status}: {words}", _retry_after(said))
        if not asked.parse:
            return {}
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            return Failure("answer", f"not JSON: {error}")
        if not isinstance(answer, dict):
            return Failure("answer", "an object was expected")
        return Failure("final", str(answer["error"])) if "error" in answer else answer

    def _bytes(self, asked: "Asked") -> tuple[int, Any, bytes]:
        """Status, headers and body of one exchange."""
        reply = self._pool.urlopen(
            asked.verb,
            self._path + asked.path,
            body=asked.body,
            headers=asked.headers,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=asked.timeout_s),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        try:
            content = asked.streamed.read(reply.stream()) if asked.streamed and reply.status == 200 else reply.read()
        except BaseException:
            reply.close()
            raise
        finally:
            reply.release_conn()
        return reply.status, reply.headers, content


@dataclass(slots=True, kw_only=True)
class _Failures:
    """The failures of one request so far."""

    counts: dict[Kind, int] = field(default_factory=dict)
    down_since: float | None = None

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def count(self, kind: Kind) -> bool:
        """Adds one. Whether there were more of its kind than are tried again on a server that is up."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return self.counts[kind] > AGAIN[kind]

    def down_s(self, is_down: bool) -> float:
        """How long the server has been down, if it is (seconds)."""
        now = time.monotonic()
        self.down_since = (now if self.down_since is None else self.down_since) if is_down else None
        return now - (self.down_since or now)

    def wait_s(self) -> float:
        """Seconds until the next attempt: twice as long each time, with jitter."""
        longest: float = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(self.total - 1, 10))
        return longest * random.uniform(0.5, 1.0)


def _of_router(code: str, words: str) -> Failure | None:
    """What a router says when its replicas are the trouble (sglang-router 0.3.2); None where it only passes their words on."""
    if code in ("no_available_workers", "no_workers"):
        return Failure("unreachable", words)
    if code == "call_upstream_request_error":  # no connection to a replica, or one that broke off
        return Failure("broken", words, NOTICED_S)
    return None


def _retry_after(headers: Any) -> float:
    """What the server asks for, in whole seconds; 0 for dates and nonsense."""
    words = headers.get("Retry-After", "")
    return min(float(words), LONGEST_RETRY_AFTER_S) if words.isascii() and words.isdigit() else 0.0


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]
