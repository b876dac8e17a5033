"""Owns the ending of a trajectory from outside: its requests under way are aborted by name, and it sends no more.

Knows nothing of what the requests are for.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from sgl_specreason.errors import Cancelled


class Sender(Protocol):
    """What a request was sent with."""

    def abort(self, rid: str, over: Callable[[], bool]) -> None: ...
    def break_off(self, thread: int) -> None: ...


class Control:
    """Whether a trajectory is still wanted. Safe to use from any thread."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.why = ""
        self._lock = threading.Lock()
        self._out: dict[str, tuple[Sender, int]] = {}

    def cancel(self, why: str) -> None:
        """Has every request under way ended by its exact name, and lets no other begin. The first reason stands."""
        with self._lock:
            if self.cancelled.is_set():
                return
            self.why = why
            self.cancelled.set()
            out = dict(self._out)
        for rid, (sender, _) in out.items():
            sender.abort(rid, lambda rid=rid: rid not in self._out)  # type: ignore[misc]

    def break_off(self) -> None:
        """Breaks off the connections of requests that an abort has not ended."""
        for sender, thread in list(self._out.values()):
            sender.break_off(thread)

    def check(self) -> None:
        """Raises Cancelled once it is."""
        if self.cancelled.is_set():
            raise Cancelled(self.why)

    @contextmanager
    def sending(self, sender: Sender, rid: str) -> Iterator[None]:
        """A request of this name is under way, in this thread. Raises Cancelled where it must not begin."""
        with self._lock:
            self.check()
            self._out[rid] = sender, threading.get_ident()
        try:
            yield
        except Exception:
            self.check()  # whatever ended it, it was not wanted any more
            raise
        finally:
            del self._out[rid]
        self.check()
