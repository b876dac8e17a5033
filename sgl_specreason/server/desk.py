"""Owns who is worked on now and who waits: places, the room of both engines' caches, a queue in order of arrival.

Knows nothing of what is worked on. A thread for each.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sgl_specreason.server.refusal import queue_full
from sgl_specreason.text.steps import Author

Need = Mapping[Author, int]
"""The tokens that a piece of work may hold in each engine's cache."""
SHORTEST_S, LONGEST_S = 1, 30
REMEMBERED = 0.9


@dataclass(slots=True, eq=False)
class Ticket:
    """A piece of work at the desk. `begun_s` is when it got its place, on the monotonic clock; None while it waits."""

    need: Need
    work: Callable[["Ticket"], None]
    came_s: float = field(default_factory=time.monotonic)
    begun_s: float | None = None

    @property
    def queued_s(self) -> float:
        """Seconds that it has waited, or did."""
        return (self.begun_s or time.monotonic()) - self.came_s


class Desk:
    """Lets `places` pieces of work run at once, as far as `rooms` (tokens) have what they need, first come, first served.

    One that needs more than all there is runs alone. At most `queue` of them wait. Safe to use from any thread.
    """

    def __init__(self, *, places: int, rooms: Mapping[Author, int], queue: int) -> None:
        self.places, self.rooms, self.queue = places, dict(rooms), queue
        self._changed = threading.Condition()
        self._running: set[Ticket] = set()
        self._waiting: deque[Ticket] = deque()
        self._held: dict[Author, int] = dict.fromkeys(self.rooms, 0)
        self._mean_s = 0.0

    def enter(self, need: Need, work: Callable[[Ticket], None]) -> Ticket:
        """Has `work` done in a thread of its own once it is its turn. Raises Refusal where too many wait."""
        return self.enter_all([(need, work)])[0]

    def enter_all(self, asked: list[tuple[Need, Callable[[Ticket], None]]]) -> list[Ticket]:
        """All of these in order, or none."""
        with self._changed:
            waiting = len(self._waiting) + len(asked) - self._beginning([need for need, _ in asked])
            if waiting > self.queue:
                raise queue_full(self._retry_after())
            tickets = [Ticket(need, work) for need, work in asked]
            self._waiting.extend(tickets)
            self._admit()
        return tickets

    def withdraw(self, ticket: Ticket) -> bool:
        """Takes back what still waits; whether it did."""
        with self._changed:
            if ticket not in self._waiting:
                return False
            self._waiting.remove(ticket)
            self._admit()  # it may have been what the others waited behind
            return True

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def wait_empty(self, timeout_s: float) -> bool:
        """Waits until nothing runs or waits any more; whether that came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running and not self._waiting, timeout_s)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self.places and self._fits(self._waiting[0].need):
            ticket = self._waiting.popleft()
            ticket.begun_s = time.monotonic()
            self._running.add(ticket)
            self._hold(ticket.need, 1)
            threading.Thread(target=self._work, args=(ticket,), daemon=True).start()

    def _beginning(self, needs: list[Need]) -> int:
        """How many of these, in order, would begin at once."""
        ahead: list[Need] = []
        for need in needs:
            if self._waiting or len(self._running) + len(ahead) >= self.places or not self._fits(need, ahead):
                break
            ahead.append(need)
        return len(ahead)

    def _fits(self, need: Need, ahead: Sequence[Need] = ()) -> bool:
        """Whether there is room for it beside what runs and what begins `ahead` of it."""
        return not (self._running or ahead) or all(
            self._held[role] + sum(other.get(role, 0) for other in (*ahead, need)) <= room
            for role, room in self.rooms.items()
        )

    def _hold(self, need: Need, sign: int) -> None:
        for role in self.rooms:
            self._held[role] += sign * need.get(role, 0)

    def _work(self, ticket: Ticket) -> None:
        try:
            ticket.work(ticket)
        finally:
            with self._changed:
                self._running.discard(ticket)
                self._hold(ticket.need, -1)
                seconds = time.monotonic() - (ticket.begun_s or ticket.came_s)
                self._mean_s = seconds if not self._mean_s else REMEMBERED * self._mean_s + (1 - REMEMBERED) * seconds
                self._admit()
                self._changed.notify_all()

    def _retry_after(self) -> int:
        """Seconds until a good part of the queue will have had its turn."""
        seconds = self._mean_s * (len(self._waiting) + 1) / (2 * self.places)
        return round(min(max(seconds, SHORTEST_S), LONGEST_S))
