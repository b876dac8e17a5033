"""Trajectories side by side."""

import threading
import time
from collections.abc import Iterator

import pytest

from sgl_specreason.runner import run_all


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
