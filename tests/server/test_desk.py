"""Who is worked on and who waits: order of arrival, places, the room of the caches, a queue that can be full."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import until

from sgl_specreason.server.desk import Desk, Need, Ticket
from sgl_specreason.server.refusal import Refusal
from sgl_specreason.text.steps import Author


class Office:
    """A desk whose work is done when a test says so."""

    def __init__(self, *, places: int = 2, queue: int = 100, **rooms: int) -> None:
        held: dict[Author, int] = {"base": 1000, "small": 1000}
        self.desk = Desk(places=places, rooms=held | rooms, queue=queue)  # type: ignore[arg-type]
        self.begun: list[Ticket] = []
        self._over: dict[Ticket, threading.Event] = {}
        self._changed = threading.Condition()

    def need(self, base: int = 1, small: int = 1) -> Need:
        return {"base": base, "small": small}

    def enter(self, base: int = 1, small: int = 1) -> Ticket:
        return self.desk.enter(self.need(base, small), self.work)

    def enter_all(self, *needs: int) -> list[Ticket]:
        return self.desk.enter_all([(self.need(need), self.work) for need in needs])

    def work(self, ticket: Ticket) -> None:
        over = threading.Event()
        with self._changed:
            self._over[ticket] = over
            self.begun.append(ticket)
            self._changed.notify_all()
        assert over.wait(10)

    def finish(self, ticket: Ticket) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: ticket in self._over, 10)
            over = self._over.pop(ticket)
        over.set()

    def works_on(self, *tickets: Ticket) -> bool:
        return until(lambda: self.desk._running == set(tickets) and set(tickets) <= set(self.begun))

    def close(self) -> None:
        """Ends everything, in whatever order it begins."""
        while not self.desk.wait_empty(0):
            for ticket in list(self._over):
                self.finish(ticket)
            time.sleep(0.001)


@contextmanager
def office(places: int = 2, queue: int = 100, **rooms: int) -> Iterator[Office]:
    made = Office(places=places, queue=queue, **rooms)
    try:
        yield made
    finally:
        made.close()


def test_what_comes_first_is_worked_on_first() -> None:
    with office(places=1) as desk:
        tickets = [desk.enter() for _ in range(5)]
        for number, ticket in enumerate(tickets):
            assert desk.works_on(ticket)
            assert desk.desk.waiting == len(tickets) - number - 1
            desk.finish(ticket)
        assert until(lambda: desk.desk.wait_empty(0))
        assert desk.begun == tickets
        assert all(earlier.queued_s <= later.queued_s for earlier, later in pairwise(tickets))


def test_no_more_run_at_once_than_there_are_places() -> None:
    with office(places=3) as desk:
        tickets = [desk.enter() for _ in range(5)]
        assert desk.works_on(*tickets[:3])
        desk.finish(tickets[1])
        assert desk.works_on(tickets[0], tickets[2], tickets[3])
        assert (desk.desk.running, desk.desk.waiting) == (3, 1)


def test_no_more_run_at_once_than_each_cache_holds() -> None:
    """What waits for room is not overtaken by what would fit: else long questions would wait for ever."""
    with office(places=9) as desk:
        first = desk.enter(600, 1)
        large, little = desk.enter(500, 1), desk.enter(1, 1)
        assert desk.works_on(first)
        assert desk.desk.waiting == 2
        desk.finish(first)
        assert desk.works_on(large, little)
        by_small = desk.enter(1, 1000)
        assert desk.desk.waiting == 1
        desk.finish(large)
        desk.finish(little)
        assert desk.works_on(by_small)


def test_what_needs_more_than_there_is_runs_alone() -> None:
    with office(places=9) as desk:
        first, huge, last = desk.enter(), desk.enter(5000, 5000), desk.enter()
        assert desk.works_on(first)
        desk.finish(first)
        assert desk.works_on(huge)
        desk.finish(huge)
        assert desk.works_on(last)


def test_what_waits_can_be_taken_back_and_what_runs_cannot() -> None:
    with office(places=1) as desk:
        running, waiting, last = desk.enter(), desk.enter(), desk.enter()
        assert not desk.desk.withdraw(running)
        assert desk.desk.withdraw(waiting)
        assert not desk.desk.withdraw(waiting)
        desk.finish(running)
        assert desk.works_on(last)
        assert waiting not in desk.begun


def test_taking_back_what_others_wait_behind_lets_them_begin() -> None:
    with office(places=3) as desk:
        first = desk.enter(600, 1)
        large, little = desk.enter(900, 1), desk.enter(1, 1)
        assert desk.works_on(first)
        assert desk.desk.withdraw(large)
        assert desk.works_on(first, little)


def test_one_too_many_is_refused_and_told_when_to_come_again() -> None:
    with office(places=1, queue=2) as desk:
        for _ in range(3):
            desk.enter()
        with pytest.raises(Refusal) as caught:
            desk.enter()
        assert (caught.value.status, caught.value.code) == (429, "queue_full")
        assert 1 <= int(caught.value.headers["Retry-After"]) <= 30


def test_several_are_all_taken_or_none() -> None:
    with office(places=2, queue=1) as desk:
        with pytest.raises(Refusal):
            desk.enter_all(1, 1, 1, 1)
        assert (desk.desk.running, desk.desk.waiting) == (0, 0)
        assert desk.works_on(*desk.enter_all(1, 1, 1)[:2])
        assert desk.desk.waiting == 1


def test_a_place_that_the_caches_have_no_room_for_is_no_place() -> None:
    with office(places=10, queue=1) as desk:
        desk.enter(900)
        with pytest.raises(Refusal):
            desk.enter_all(50, 900, 1)
        assert (desk.desk.running, desk.desk.waiting) == (1, 0)
        assert desk.works_on(*desk.begun, desk.enter_all(50, 900)[0])
        assert desk.desk.waiting == 1


def test_nobody_waits_where_there_is_no_queue() -> None:
    with office(places=2, queue=0) as desk:
        desk.enter()
        desk.enter()
        with pytest.raises(Refusal):
            desk.enter()


def test_the_wait_until_one_may_come_again_goes_by_how_long_work_takes() -> None:
    with office(places=1, queue=1) as desk:
        desk.desk._mean_s = 20.0
        desk.enter()
        desk.enter()
        with pytest.raises(Refusal) as caught:
            desk.enter()
        assert caught.value.retry_after == 20
        desk.desk._mean_s = 2000.0
        with pytest.raises(Refusal) as caught:
            desk.enter()
        assert caught.value.retry_after == 30


def test_work_that_fails_frees_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    desk = Desk(places=1, rooms={}, queue=9)

    def broken(ticket: Ticket) -> None:
        raise ValueError

    over = threading.Event()
    desk.enter({}, broken)
    desk.enter({}, lambda _: over.set())
    assert over.wait(5)
    assert desk.wait_empty(5)


@settings(max_examples=60)
@given(
    needs=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=12),
    places=st.integers(1, 4),
    queue=st.integers(0, 6),
    seed=st.integers(0, 99),
)
def test_the_bounds_hold_at_every_moment(needs: list[tuple[int, int]], places: int, queue: int, seed: int) -> None:
    """Whatever comes, ends and is taken back in whatever order: places, rooms, the queue's length, the order of arrival."""
    luck = random.Random(seed)
    with office(places, queue, base=10, small=10) as desk:
        waiting: list[Ticket] = []
        entered: list[Ticket] = []

        def look() -> None:
            running = desk.desk._running
            assert len(running) <= places
            assert desk.desk.waiting <= queue
            for role in ("base", "small"):
                assert len(running) <= 1 or sum(ticket.need[role] for ticket in running) <= 10  # type: ignore[index]
            begun = [ticket for ticket in entered if ticket.begun_s is not None]
            assert [ticket.begun_s for ticket in begun] == sorted(ticket.begun_s or 0 for ticket in begun)

        for base, small in needs:
            with suppress(Refusal):
                entered.append(desk.enter(base, small))
                waiting.append(entered[-1])
            look()
            if luck.random() < 0.3 and waiting:
                gone = luck.choice(waiting)
                waiting.remove(gone)
                if desk.desk.withdraw(gone):
                    entered.remove(gone)
                look()
            if luck.random() < 0.5 and desk.desk._running:
                ended = luck.choice(sorted(desk.desk._running, key=entered.index))
                desk.finish(ended)
                assert until(lambda ended=ended: ended not in desk.desk._running)  # type: ignore[misc]
                look()


def test_many_threads_may_enter_and_leave_at_once() -> None:
    desk = Desk(places=5, rooms={"base": 12, "small": 12}, queue=10_000)
    most, now, done, lock = [0], [0], [0], threading.Lock()

    def work(ticket: Ticket) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.001)
        with lock:
            now[0] -= 1
            done[0] += 1

    withdrawn = [0]

    def come(number: int) -> None:
        luck = random.Random(number)
        for _ in range(40):
            ticket = desk.enter({"base": luck.randint(1, 9), "small": luck.randint(1, 9)}, work)
            if luck.random() < 0.3 and desk.withdraw(ticket):
                with lock:
                    withdrawn[0] += 1

    threads = [threading.Thread(target=come, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert desk.wait_empty(30)
    assert done[0] + withdrawn[0] == 16 * 40
    assert 1 <= most[0] <= 5
    assert desk._held == {"base": 0, "small": 0}
