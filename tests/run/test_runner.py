"""Trajectories side by side."""

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress

import pytest

from sgl_specreason.errors import RequestError
from sgl_specreason.method.background import Background
from sgl_specreason.run.runner import SWITCH_S, run_all


def test_results_come_as_they_end_and_nothing_waits_for_a_slow_one() -> None:
    release = threading.Event()

    def work(task: int) -> int:
        if task == 0:
            assert release.wait(10)
        return task

    seen = []
    for result in run_all(range(50), work, 4):
        seen.append(result)
        if len(seen) == 49:
            release.set()
    assert seen[-1] == 0
    assert sorted(seen) == list(range(50))


@pytest.mark.parametrize("fails", [False, True])
def test_threads_take_turns_seldom_while_they_run_and_as_before_afterwards(fails: bool) -> None:
    """At Python's own interval those that wait for their turn burn CPU: a sixth of it where 512 run side by side."""
    usual_s = sys.getswitchinterval()

    def work(task: int) -> float:
        if fails and task == 3:
            raise RequestError("gone")
        return sys.getswitchinterval()

    with suppress(RequestError):
        assert [round(seen, 6) for seen in run_all(range(8), work, 2)] == [SWITCH_S] * 8
    assert sys.getswitchinterval() == pytest.approx(usual_s)


@pytest.mark.parametrize("concurrency", [1, 5])
def test_at_most_so_many_run_at_once_and_tasks_are_read_lazily(concurrency: int) -> None:
    running = read = most = ahead = 0
    lock = threading.Lock()

    def tasks() -> Iterator[int]:
        nonlocal read
        for number in range(40):
            read += 1
            yield number

    def work(task: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1
        return task

    for done, _ in enumerate(run_all(tasks(), work, concurrency), 1):
        ahead = max(ahead, read - done)
    assert most <= concurrency
    assert ahead < 40 - concurrency


def test_a_mistake_of_ours_is_raised_to_the_reader() -> None:
    def work(task: int) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(run_all(range(3), work, 2))


def test_a_reader_that_falls_behind_holds_the_work_up() -> None:
    """Results that wait for it are few: a run's memory does not grow with what is finished and not yet written."""
    begun = 0

    def work(task: int) -> int:
        nonlocal begun
        begun += 1
        return task

    results = run_all(range(1000), work, 2)
    next(results)
    time.sleep(0.2)
    assert begun <= 10
    assert len(list(results)) == 999


def test_what_has_ended_is_not_lost_to_an_interruption() -> None:
    """No task is begun after it; what is under way is left behind, what has ended is handed over."""
    halt, release = threading.Event(), threading.Event()
    begun: list[int] = []

    def work(task: int) -> int:
        begun.append(task)
        if task == 1:
            release.wait(20)
        return task

    results = run_all(range(1000), work, 2, halt)
    seen = [next(results)]
    time.sleep(0.2)  # more has ended, and nobody has read it yet
    halt.set()
    there = len(begun)
    assert there > 2
    seen += results
    assert sorted([1, *seen]) == list(range(there))
    release.set()


def test_what_has_ended_is_not_lost_to_a_mistake_beside_it() -> None:
    def work(task: int) -> int:
        if task == 3:
            time.sleep(0.05)
            raise ZeroDivisionError
        return task

    results = run_all(range(1000), work, 3)
    seen = [next(results)]
    time.sleep(0.2)
    with pytest.raises(ZeroDivisionError):
        seen += iter(lambda: next(results), None)
    assert {0, 1, 2} <= set(seen)


def test_a_hundred_thousand_tasks_begin_at_once() -> None:
    read = 0

    def tasks() -> Iterator[int]:
        nonlocal read
        for number in range(100_000):
            read += 1
            yield number

    results = run_all(tasks(), lambda task: task, 64)
    next(results)
    assert read < 400
    results.close()  # type: ignore[attr-defined]


def test_work_in_the_background_is_done_in_order_and_hands_its_errors_over() -> None:
    background, order = Background(), []
    futures: list[Future[int]] = [Future() for _ in range(3)]

    def work(number: int) -> int:
        order.append(number)
        return number // (number - 1)

    for number, future in enumerate(futures):
        background.submit(future, lambda number=number: work(number))  # type: ignore[misc]
    background.close()
    assert futures[2].result(5) == 2
    with pytest.raises(ZeroDivisionError):
        futures[1].result(5)
    assert order == [0, 1, 2]
