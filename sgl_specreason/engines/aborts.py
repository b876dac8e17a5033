"""Owns the ending of requests before their time: asked for until they are over. Knows no HTTP."""

import heapq
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

THREADS = 8
FIRST_WAIT_S, LONGEST_WAIT_S = 0.02, 0.5

Over = Callable[[], bool]


class Aborts:
    """Has a server end requests, by `post`, from threads of its own.

    A server forgets an abort of a request that it does not have (SGLang 0.5.23): one that overtakes its request is lost. So
    it is sent again until the request is over.
    """

    def __init__(self, post: Callable[[str], None], name: str) -> None:
        self._post = post
        self._asked: queue.SimpleQueue[tuple[str, Over] | None] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._name = name

    def add(self, rid: str, over: Over) -> None:
        """Has the request of this name ended, and returns at once. `over` says whether it is."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        self._asked.put((rid, over))

    def close(self) -> None:
        """Sends no more of them."""
        self._asked.put(None)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        due: list[tuple[float, float, str, Over]] = []
        while True:
            try:
                asked = self._asked.get(timeout=max(due[0][0] - time.monotonic(), 0.0) if due else None)
            except queue.Empty:
                _, wait, rid, over = heapq.heappop(due)
            else:
                if asked is None:
                    return
                (rid, over), wait = asked, FIRST_WAIT_S
            if not over():
                try:
                    self._pool.submit(self._post, rid)
                except RuntimeError:  # closed meanwhile
                    return
                heapq.heappush(due, (time.monotonic() + wait, min(2 * wait, LONGEST_WAIT_S), rid, over))
