"""Owns the steps that are written before it is known whether they are needed: kept in order, or dropped and aborted.

Knows nothing of SGLang; how a step is written is given to it.
"""

import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from sgl_specreason.method.background import Background
from sgl_specreason.method.trajectory import Call, Trajectory
from sgl_specreason.text.steps import Step


class Server(Protocol):
    """What can end a request of a given name before its time."""

    def abort(self, rid: str, over: Callable[[], bool]) -> None: ...


@dataclass(slots=True, eq=False)
class Ticket:
    """A step that is written ahead: the name of its requests, what they cost, and whether it is still wanted."""

    server: Server
    rid: str = field(default_factory=lambda: uuid.uuid4().hex)
    calls: list[Call] = field(default_factory=list)
    dropped: bool = False
    step: "Future[Step | None]" = field(default_factory=Future)


Write = Callable[[Ticket], Step | None]


class Ahead:
    """What small drafts after the step under judgement, and base's own version of that step, of one trajectory."""

    def __init__(self, trajectory: Trajectory) -> None:
        self.trajectory = trajectory
        self.drafts: deque[Ticket] = deque()
        self._regenerations: deque[Ticket] = deque()
        self._dropped: list[Ticket] = []
        self._small, self._base = Background(), Background()

    def draft(self, server: Server, write: Write) -> None:
        """Has one more step drafted, after those that are being drafted already."""
        self.drafts.append(self._begin(self._small, server, write))

    def regenerate(self, server: Server, write: Write) -> None:
        """Has base write the step that it is judging at the same time."""
        self._regenerations.append(self._begin(self._base, server, write))

    def next_draft(self) -> Step | None:
        """The next step as drafted ahead, when it is there; None where none was begun. Raises what its writing raised."""
        return self._take(self.drafts)

    def next_regeneration(self) -> Step | None:
        """The step as base has begun it beside judging; None where it has not."""
        return self._take(self._regenerations)

    def settle(self, *, accepted: bool) -> None:
        """Drops what a decision has made useless: base's version of an accepted step, the drafts after a rejected one."""
        useless = self._regenerations if accepted else self.drafts
        while useless:
            ticket = useless.pop()
            ticket.dropped = True
            if not ticket.step.done():
                ticket.server.abort(ticket.rid, ticket.step.done)
            self._dropped.append(ticket)

    def close(self) -> None:
        """Drops everything, waits for it to end, and enters its cost into the trajectory."""
        self.settle(accepted=True)
        self.settle(accepted=False)
        self._small.close()
        self._base.close()
        wait([ticket.step for ticket in self._dropped])
        for ticket in self._dropped:
            self.trajectory.calls += [call._replace(dropped=True) for call in ticket.calls]

    def _begin(self, background: Background, server: Server, write: Write) -> Ticket:
        ticket = Ticket(server)
        background.submit(ticket.step, lambda: write(ticket))
        return ticket

    def _take(self, tickets: deque[Ticket]) -> Step | None:
        if not tickets:
            return None
        ticket = tickets.popleft()
        try:
            return ticket.step.result()
        finally:
            self.trajectory.calls += ticket.calls


@contextmanager
def writing_ahead(trajectory: Trajectory) -> Iterator[Ahead]:
    """An Ahead that is closed in any case: nothing goes on after its trajectory."""
    ahead = Ahead(trajectory)
    try:
        yield ahead
    finally:
        ahead.close()
