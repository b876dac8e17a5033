"""Owns the client processes of a run: its trajectories are shared out among them, and their records come back to the first.

Knows nothing of folders, grades and the order of the work.
"""

import os
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from sgl_specreason.errors import ClientGone, EngineGone, SpecReasonError
from sgl_specreason.plan.plan import Plan, Variant
from sgl_specreason.run import serving
from sgl_specreason.run.runner import run_all
from sgl_specreason.run.serving import Access, Engines
from sgl_specreason.run.session import Record, Say, Session, Task

WATCH_S = 1.0
READY = 0
"""The number of what a process says first: that it is connected. Trajectories have numbers from 1 on."""
CONTEXT = get_context("forkserver")
IMPORTED = [__name__, "sgl_specreason.method.program", "transformers.models.auto.tokenization_auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a client process needs to run trajectories as the session does, `workers` of them side by side."""

    kind: type[Session]
    plan: Plan
    variants: tuple[Variant, ...]
    namespace: str
    engines: Engines
    access: Access
    connections: int
    workers: int


def importing() -> None:
    """Begins the process that client processes are copies of: SGLang is imported once for all, and while engines start.

    Signals are for the first process, which ends the others.
    """
    forkserver.set_forkserver_preload(IMPORTED)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def sharing(session: Session, engines: Engines, access: Access, connections: int) -> Iterator[Session]:
    """`session` with its trajectories run by its plan's client processes, if there are several, which end with this.

    Raises ClientGone where one of them ends before.
    """
    plan = session.plan
    if plan.clients == 1:
        yield session
        return
    share = Share(
        kind=type(session),
        plan=plan,
        variants=session.variants,
        namespace=session.namespace,
        engines=engines,
        access=access,
        connections=-(-connections // plan.clients),
        workers=-(-plan.workers // plan.clients),
    )

    def say_once(words: str) -> None:
        if words not in session.told:
            session.told.add(words)
            session.say(words)

    importing()
    with ExitStack() as stack:
        clients = []
        for number in range(plan.clients):
            clients.append(Client(number + 1, share, say_once))
            stack.callback(clients[-1].close)
        for client in clients:
            client.ready.result()
        yield replace(session, attempts=Clients(clients).attempt)


class Client:
    """A client process as the first one knows it: what it was given and has not ended yet."""

    def __init__(self, number: int, share: Share, say: Say) -> None:
        self.ready: Future[Record] = Future()
        self._waiting = {READY: self.ready}
        self._given, self._engines, self._say = READY, share.engines, say
        self._lock = threading.Lock()
        self._gone: BaseException | None = None
        self._pipe, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_run, args=(theirs, share), name=f"client process {number}")
        self._process.start()
        theirs.close()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def busy(self) -> int:
        """How many trajectories it has."""
        return len(self._waiting)

    def give(self, task: Task) -> "Future[Record]":
        """Has it run a trajectory, whose record comes when it has ended."""
        future: Future[Record] = Future()
        with self._lock:
            if self._gone:
                raise self._gone
            self._given += 1
            self._waiting[self._given] = future
            with suppress(OSError):  # it is dead, and its reader will say so
                self._pipe.send((self._given, task))
        return future

    def close(self) -> None:
        """Ends it; what it has under way ends with its connections."""
        self._process.kill()
        self._process.join()

    def _read(self) -> None:
        try:
            while True:
                self._hear(self._received())
        except (EOFError, OSError):
            self._process.join()
            gone: BaseException = ClientGone(f"{self._process.name} died (code {self._process.exitcode})")
        except BaseException as error:
            gone = error
        with self._lock:
            self._gone = gone
            left = list(self._waiting.values())
        for future in left:
            future.set_exception(gone)

    def _received(self) -> Any:
        """The next thing that it says. That an engine will not come back is known here only."""
        while not self._pipe.poll(WATCH_S):
            for engine in self._engines.values():
                if lost := engine.health.lost:
                    raise EngineGone(lost)
        return self._pipe.recv()

    def _hear(self, said: str | BaseException | tuple[int, Record]) -> None:
        if isinstance(said, str):
            self._say(said)
        elif isinstance(said, BaseException):
            raise said
        else:
            number, record = said
            self._waiting.pop(number).set_result(record)


class Clients:
    """The client processes together."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = clients
        self._lock = threading.Lock()

    def attempt(self, *task: Any) -> Record:
        """A trajectory's record, made by the process that has the fewest."""
        with self._lock:
            future = min(self._clients, key=lambda client: client.busy).give(task)
        return future.result()


def _run(pipe: Connection, share: Share) -> None:
    """What a client process does until it is ended."""
    tasks: SimpleQueue[tuple[int, Task]] = SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, tasks), daemon=True).start()
    speaking = threading.Lock()

    def tell(said: str | BaseException | tuple[int, Record]) -> None:
        with speaking:
            pipe.send(said)

    try:
        chats = serving.chats_of(share.plan)
        kind = share.kind
        with serving.connected(
            share.engines, chats, share.access, kind.endpoint_class(), share.connections
        ) as endpoints:
            session = kind(
                plan=share.plan,
                variants=share.variants,
                chats=chats,
                endpoints=endpoints,
                say=tell,
                rates={},
                namespace=share.namespace,
            )
            tell((READY, {}))
            for answer in run_all(iter(tasks.get, None), lambda one: (one[0], session.attempt(*one[1])), share.workers):
                tell(answer)
    except BaseException as error:
        if not isinstance(error, SpecReasonError):
            error.add_note(f"in a client process:\n{traceback.format_exc()}")
        with suppress(OSError):
            tell(error)


def _listen(pipe: Connection, tasks: "SimpleQueue[tuple[int, Task]]") -> None:
    """Hands on what the first process says; when that has ended nobody wants a record any more."""
    with suppress(EOFError, OSError):
        while True:
            tasks.put(pipe.recv())
    os._exit(0)
