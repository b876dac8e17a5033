"""Owns what becomes of a client's connection that nobody reads any more: it is cut. Knows no requests."""

import asyncio
from functools import partial
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """One that is cut when its client has not read for `write_timeout_s` what was sent to it.

    Closing it would not do: that waits until everything is read.
    """

    def __init__(self, *args: Any, write_timeout_s: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._write_timeout_s = write_timeout_s
        self._cut: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """More is waiting to be sent than should."""
        super().pause_writing()
        self._cut = self.loop.call_later(self._write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Most of it has been sent."""
        super().resume_writing()
        self._keep()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        super().connection_lost(exc)
        self._keep()

    def _keep(self) -> None:
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None


def cut_after(write_timeout_s: float) -> Any:
    """The connections of a server (uvicorn.Config's `http`)."""
    return partial(Connection, write_timeout_s=write_timeout_s)
