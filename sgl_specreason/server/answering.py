"""Owns one request for a reply, from the desk to its last event: its choices, its deadlines, its end. For one event loop.

Knows nothing of how a reply is written down.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from sgl_specreason.errors import Cancelled, EngineGone, SpecReasonError, UsageError
from sgl_specreason.server.call import SpecReason
from sgl_specreason.server.desk import Ticket
from sgl_specreason.server.events import Answer, End, Event, Reply, Thought
from sgl_specreason.server.metrics import Metrics
from sgl_specreason.server.record import Recorder
from sgl_specreason.server.refusal import (
    Refusal,
    deadline_exceeded,
    engine_failed,
    engine_unavailable,
    invalid,
    queue_timeout,
)
from sgl_specreason.server.talk import Question, Talk

AGAIN_S = 5
"""When a client should try again that finds an engine away (seconds)."""


class Told(NamedTuple):
    """An event of one choice, or how it failed."""

    choice: int
    event: Event | Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a request may wait for a place, and take in all (seconds; None: as long as it wants)."""

    queue_s: float | None = None
    deadline_s: float | None = None


class Answering:
    """The choices of one request under way; `told` has what is said of them, in order.

    Whoever makes one calls `begin`, and `end` in any case: what is not over then is ended. A `recorder` writes down each choice
    under the request's `name`.
    """

    def __init__(
        self, house: SpecReason, metrics: Metrics, *, heard: bool, name: str = "", recorder: Recorder | None = None
    ) -> None:
        self.told: asyncio.Queue[Told] = asyncio.Queue()
        self.replies: dict[int, Reply] = {}
        self._house, self._metrics, self._heard = house, metrics, heard
        self._name, self._recorder = name, recorder
        self._loop = asyncio.get_running_loop()
        self.talks: list[Talk] = []
        self._tickets: list[Ticket] = []
        self._came_s = time.monotonic()
        self._first: asyncio.Future[Event | Refusal] = self._loop.create_future()
        self._has_text = False
        self._why: Refusal | None = None
        self._timers: list[asyncio.TimerHandle] = []

    async def begin(self, questions: Sequence[Question], patience: Patience) -> None:
        """Has the choices of a question worked on. Raises Refusal."""
        try:
            asked = await self._loop.run_in_executor(self._house.renderer, self._house.prepare, questions[0])
        except UsageError as error:
            raise invalid(str(error), param="messages") from None
        if self._why is not None:  # the server has ended meanwhile
            raise self._why
        self.talks = [
            Talk(
                replace(asked, question=question),
                self._house.pair,
                emit=partial(self._from_thread, choice),
                failed=partial(self._from_thread, choice),
                heard=self._heard,
            )
            for choice, question in enumerate(questions)
        ]
        self._tickets = self._house.begin_all(self.talks)
        if patience.deadline_s is not None:
            self._after(patience.deadline_s, partial(self.end, deadline_exceeded(patience.deadline_s)))
        if patience.queue_s is not None:
            self._after(patience.queue_s, partial(self._end_of_patience, patience.queue_s))

    async def first(self, seconds: float) -> Event | Refusal | None:
        """The first thing that is told, which stays where it is; None where nothing is within so many seconds."""
        await asyncio.wait([self._first], timeout=seconds)
        return self._first.result() if self._first.done() else None

    def end(self, why: Refusal) -> None:
        """Ends what is not over yet; it fails with these words, or those of what has failed before."""
        why = self._why = self._why or why
        for timer in self._timers:
            timer.cancel()
        for talk, ticket in zip(self.talks, self._tickets, strict=False):  # none where it was refused
            if not talk.over and not talk.control.cancelled.is_set():
                self._metrics.cancelled.labels(why.code or "").inc()
                self._house.end(talk, ticket, why.message)

    def _after(self, seconds: float, work: Callable[[], None]) -> None:
        self._timers.append(self._loop.call_later(seconds, work))

    def _end_of_patience(self, seconds: float) -> None:
        if any(ticket.begun_s is None for ticket in self._tickets):
            self.end(queue_timeout(seconds, AGAIN_S))

    def _from_thread(self, choice: int, event: Event | SpecReasonError) -> None:
        """Called in a talk's thread."""
        if self._recorder and isinstance(event, End | SpecReasonError):
            self._record(self._recorder, choice, event)
        try:
            self._loop.call_soon_threadsafe(self._tell, choice, event)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _record(self, recorder: Recorder, choice: int, event: End | SpecReasonError) -> None:
        talk = self.talks[choice]
        if talk.ticket is not None:
            recorder.write(self._name, choice, talk, event if isinstance(event, SpecReasonError) else None)

    def _tell(self, choice: int, event: Event | SpecReasonError) -> None:
        if isinstance(event, Thought | Answer) and not self._has_text:
            self._has_text = True
            self._metrics.first_text.observe(time.monotonic() - self._came_s)
        if isinstance(event, End | SpecReasonError):
            self._metrics.ended(self.talks[choice], self._tickets[choice])
        if isinstance(event, End):
            self.replies[choice] = event.reply
        if isinstance(event, SpecReasonError):
            event = self._refused(event)
            self._why = self._why or event
        if not self._first.done():
            self._first.set_result(event)
        self.told.put_nowait(Told(choice, event))

    def _refused(self, error: SpecReasonError) -> Refusal:
        """What a client is told of a failure."""
        if isinstance(error, Refusal):
            return error
        if isinstance(error, Cancelled):
            return self._why or engine_failed(str(error))
        if isinstance(error, EngineGone):
            return engine_unavailable(AGAIN_S)
        return engine_failed(str(error))
