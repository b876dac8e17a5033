"""Whatever ends a request before its time, nothing of it goes on: not at the engines, not at the desk. Scripted engines."""

import asyncio
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import httpx
import pytest
import uvicorn
from fake_engine import FakeEngine, Held, Payload, Raw
from served import (
    OPENED,
    QUESTION,
    ROLES,
    Json,
    Running,
    Story,
    chunks_of,
    joined,
    scripted_house,
    scripted_server,
    serving,
    until,
)

from sgl_specreason.errors import EngineGone
from sgl_specreason.method import program
from sgl_specreason.server import call
from sgl_specreason.server.answering import Patience
from sgl_specreason.server.connection import cut_after
from sgl_specreason.server.guard import Receive, Scope, Send
from sgl_specreason.server.refusal import draining
from sgl_specreason.server.talk import Prepared, Question
from sgl_specreason.text.steps import Author

Purpose = Literal["draft", "judge", "write", "answer", "nothing", "everything"]
Way = Literal["closed", "reset", "half-closed"]
SOON_S = 1.0


class Holding:
    """Two engines that tell a story, and go on for ever with what is asked of them for `purpose`.

    `deaf` ones do not hear that they should stop.
    """

    def __init__(self, purpose: Purpose, *, deaf: bool = False) -> None:
        self.purpose, self.deaf, self.story = purpose, deaf, Story()
        self.over = threading.Event()
        self.held: list[str] = []

    def says(self, role: Author, prompt: str, payload: Payload) -> Any:
        thought = prompt.rpartition(OPENED)[2]
        judging = payload["sampling_params"]["max_new_tokens"] == 0
        closed = "</think>" in thought and not judging
        purpose = "judge" if judging else "answer" if closed else "draft" if role == "small" else "write"
        if self.purpose not in (purpose, "everything"):
            return self.story.says(role, prompt, payload)
        self.held.append(payload["rid"])
        if self.deaf:
            self.over.wait(20)
            return Raw(200, b"{}")
        return Held("x")


@contextmanager
def holding(
    purpose: Purpose, *, deaf: bool = False, settings: Json | None = None, **house: Any
) -> Iterator[tuple[Running, Holding]]:
    """A server whose engines hold on to what they are asked for `purpose`."""
    held = Holding(purpose, deaf=deaf)
    with ExitStack() as stack:
        engines: dict[Author, FakeEngine] = {}
        for role in ROLES:
            engines[role] = FakeEngine(lambda prompt, payload, role=role: held.says(role, prompt, payload))  # type: ignore[misc]
            stack.callback(engines[role].close)
        stack.callback(held.over.set)
        made = stack.enter_context(scripted_house(engines, **house))
        yield stack.enter_context(serving(made, engines=engines, **(settings or {}))), held


def asked(running: Running, **fields: Any) -> socket.socket:
    """A connection on which a question has been sent."""
    port = int(running.url.rsplit(":", 1)[1])
    data = json.dumps({"messages": QUESTION, **fields}).encode()
    connection = socket.create_connection(("127.0.0.1", port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def leave(connection: socket.socket, way: Way) -> None:
    if way == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    if way == "half-closed":
        connection.shutdown(socket.SHUT_WR)
    else:
        connection.close()


def cancelled(running: Running) -> dict[str, float]:
    """How many choices were ended before their time, by why."""
    samples = next(iter(running.api.metrics.cancelled.collect())).samples
    return {sample.labels["why"]: sample.value for sample in samples if sample.name.endswith("_total")}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("purpose", ["draft", "judge", "write", "answer"])
def test_a_client_that_leaves_ends_its_request_by_name(purpose: Purpose, stream: bool) -> None:
    """Within a second, whatever the engines are doing for it; its place is free."""
    with holding(purpose) as (running, held):
        connection = asked(running, stream=stream)
        assert until(lambda: held.held)
        leave(connection, "closed")
        assert running.settles(SOON_S)
        assert {rid for engine in running.engines.values() for rid in engine.aborts} == set(held.held)
        assert cancelled(running) == {"client_gone": 1}
        assert until(lambda: not running.api.under_way)


@pytest.mark.parametrize("way", ["closed", "reset", "half-closed"])
@pytest.mark.parametrize(
    "policy", [{"lookahead": 2}, {"lookahead": 1, "eager_regenerate": True}], ids=["ahead", "eager"]
)
def test_what_is_written_ahead_ends_too(policy: Json, way: Way) -> None:
    """A draft ahead, base's version of the step and the judge are under way at the same time."""
    with holding("everything", **policy) as (running, held):
        held.purpose = "nothing"
        assert running.ask()["choices"][0]["message"]["content"]  # something has been rejected: base is eager now
        held.purpose = "judge"
        connection = asked(running, stream=True)
        assert until(lambda: held.held)
        held.purpose = "everything"
        leave(connection, way)
        assert running.settles(SOON_S)
        connection.close()


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_one_that_leaves_the_queue_is_never_begun(stream: bool) -> None:
    """Nor does it take the place of the one behind it."""
    with holding("draft", places=1) as (running, held):
        first = asked(running)
        assert until(lambda: held.held)
        second = asked(running, stream=stream)
        assert until(lambda: running.house.desk.waiting == 1)
        third = asked(running)
        assert until(lambda: running.house.desk.waiting == 2)
        leave(second, "closed")
        assert until(lambda: running.house.desk.waiting == 1, SOON_S)
        held.purpose = "nothing"
        leave(first, "closed")
        assert b"200 OK" in third.recv(1000)
        assert len(held.held) == 1
        assert running.settles(SOON_S)
        third.close()


def test_one_that_leaves_while_it_sends_its_question_is_no_fault_of_the_server() -> None:
    with holding("nothing") as (running, _):
        connection = socket.create_connection(("127.0.0.1", int(running.url.rsplit(":", 1)[1])))
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{"
        connection.sendall(head)
        time.sleep(0.1)
        connection.close()
        assert until(lambda: 'specreason_requests_total{model="",status="499"} 1.0' in running.get("/metrics").text)


def test_one_that_leaves_after_its_reply_ends_nothing() -> None:
    with holding("nothing") as (running, _):
        with running.client() as client:
            assert client.post("/v1/chat/completions", json={"messages": QUESTION}).status_code == 200
        time.sleep(0.1)
        assert [engine.aborts for engine in running.engines.values()] == [[], []]
        assert cancelled(running) == {}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_an_engine_that_does_not_hear_loses_the_connection(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a router whose replicas nobody can reach: it has no route for aborts."""
    monkeypatch.setattr(call, "BREAK_OFF_S", 0.3)
    with holding("write", deaf=True) as (running, held):
        connection = asked(running, stream=stream)
        assert until(lambda: held.held)
        leave(connection, "closed")
        assert until(lambda: not running.house.desk.running, 2)
        assert held.held[0] in running.engines["base"].aborts


def test_a_request_that_connects_after_that_loses_its_connection_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was broken off once, and went on for as long as its engine pleased."""
    monkeypatch.setattr(call, "BREAK_OFF_S", 0.2)
    with holding("write", deaf=True) as (running, held):
        base = running.house.pair.endpoints["base"]
        break_off, times = base.break_off, []

        def second(thread: int) -> None:
            times.append(thread)
            if len(times) > 1:
                break_off(thread)

        monkeypatch.setattr(base, "break_off", second)
        connection = asked(running)
        assert until(lambda: held.held)
        leave(connection, "closed")
        assert until(lambda: not running.house.desk.running, 3)


@pytest.mark.parametrize("purpose", ["draft", "write"])
def test_a_deadline_is_a_status_as_long_as_nothing_is_sent(purpose: Purpose) -> None:
    """And then an event of the stream, followed by its end."""
    with holding(purpose, settings={"patience": Patience(deadline_s=0.4)}) as (running, _):
        whole = running.post()
        assert (whole.status_code, whole.json()["error"]["code"]) == (504, "deadline_exceeded")
        streamed = running.post(stream=True)
        if purpose == "draft":
            assert (streamed.status_code, streamed.json()["error"]["code"]) == (504, "deadline_exceeded")
        else:
            *chunks, last = chunks_of(streamed.text)
            assert joined(chunks, "reasoning_content") == "One."
            assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "deadline_exceeded")
        assert running.settles(SOON_S)
        assert cancelled(running) == {"deadline_exceeded": 2}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_wait_for_a_place_may_have_an_end(stream: bool) -> None:
    with holding("draft", places=1, settings={"patience": Patience(queue_s=0.3)}) as (running, held):
        first = asked(running)
        assert until(lambda: held.held)
        refused = running.post(stream=stream)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_timeout")
        assert int(refused.headers["retry-after"]) > 0
        assert running.house.desk.running == 1  # the one that has its place keeps it
        leave(first, "closed")
        assert running.settles(SOON_S)


def test_choices_end_together() -> None:
    """One fails: the others are ended, for its reason."""
    with holding("nothing") as (running, _):
        failed = threading.Event()

        def says(prompt: str, payload: Payload) -> Any:
            if not failed.is_set():
                failed.set()
                return Raw(400, b"never")
            return Held("x")

        running.engines["small"].script = says
        reply = running.post(n=3)
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "engine_failed")
        assert running.settles(SOON_S)
        assert cancelled(running) == {"engine_failed": 2}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_fault_of_ours_leaves_nobody_waiting(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(program, "run_trajectory", broken)
    with holding("nothing") as (running, _):
        reply = running.post(stream=stream)
        assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
        assert "fault" not in reply.text
        assert running.settles(SOON_S)


def test_an_engine_that_is_gone_is_said_so() -> None:
    """503, and when to come again."""
    with holding("nothing", patience_s=0.3) as (running, _):
        running.engines["base"].close()
        assert until(lambda: not running.api.watch.ready, 5)
        reply = running.post()
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_unavailable")
        assert int(reply.headers["retry-after"]) > 0
        assert running.get("/ready").status_code == 503
        assert running.get("/health").status_code == 200
        assert running.settles(SOON_S)


def test_a_server_that_ends_tells_everybody() -> None:
    """Running ones and waiting ones: the reason, as an event of the stream or as a status."""
    with holding("write", places=1) as (running, held):
        replies: list[httpx.Response] = []
        streams = [threading.Thread(target=lambda: replies.append(running.post(stream=True))) for _ in range(2)]
        for stream in streams:
            stream.start()
        assert until(lambda: held.held and running.house.desk.waiting)
        running.api.drain()
        new = running.post()
        assert (new.status_code, new.json()["error"]["code"]) == (503, "draining")
        running.api.end_all(draining(5))
        for stream in streams:
            stream.join()
        texts = [reply.text for reply in replies]
        assert all('"code":"draining"' in text for text in texts)
        assert sorted(reply.status_code for reply in replies) == [200, 503]
        assert any(text.endswith("data: [DONE]\n\n") for text in texts)
        assert running.settles(SOON_S)


def test_one_whose_prompt_is_still_being_made_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It began after everything had been ended, and its client was cut off."""
    with holding("write") as (running, _):
        coming, going = threading.Event(), threading.Event()
        prepare = running.house.prepare

        def slow(question: Question) -> Prepared:
            coming.set()
            going.wait(10)
            return prepare(question)

        monkeypatch.setattr(running.house, "prepare", slow)
        replies: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: replies.append(running.post(stream=True)))
        asking.start()
        assert coming.wait(10)
        running.api.end_all(draining(5))
        going.set()
        asking.join()
        assert (replies[0].status_code, replies[0].json()["error"]["code"]) == (503, "draining")
        assert running.engines["small"].requests == []


@pytest.mark.parametrize("fields", [{"include_reasoning": False}, {"stream_reasoning": False}], ids=str)
def test_a_stream_that_shows_no_thought_is_not_silent_meanwhile(fields: Json) -> None:
    """Steps came, nothing was to be sent of them, and no keep-alive was either: proxies cut such streams."""
    steps = tuple(f"{number}.\n\n" for number in range(20))
    story = Story(small=(*steps, "End.</think>"), base=(*steps, "End.</think>"))
    with scripted_server(story, settings={"keep_alive_s": 0.2}) as running:
        for engine in running.engines.values():
            script = engine.script
            engine.script = lambda prompt, payload, script=script: (time.sleep(0.03), script(prompt, payload))[1]  # type: ignore[misc]
        seconds, times = time.monotonic(), []
        asked = {"messages": QUESTION, "stream": True, **fields}
        with running.client() as client, client.stream("POST", "/v1/chat/completions", json=asked) as reply:
            for _ in reply.iter_raw():
                times.append(time.monotonic() - seconds)
        assert times[-1] > 0.8
        assert max(later - sooner for sooner, later in itertools.pairwise([0.0, *times])) < 0.7


def test_a_client_that_does_not_read_is_cut_off() -> None:
    """Closing its connection would wait for it for ever."""
    gone: list[float] = []

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        listening = asyncio.ensure_future(receive())
        begun = time.monotonic()
        while not listening.done():
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
            await asyncio.sleep(0)
        gone.append(time.monotonic() - begun)

    config = uvicorn.Config(endless, port=0, http=cut_after(0.3), log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert until(lambda: gone, 20)
        assert until(lambda: not server.server_state.connections)
    server.should_exit = True
    thread.join(10)


def test_many_that_leave_at_once_leave_nothing_behind() -> None:
    """Threads are then what they were."""
    with holding("draft", places=64) as (running, held):
        before = threading.active_count()
        connections = [asked(running, stream=number % 2 > 0) for number in range(64)]
        assert until(lambda: len(held.held) == 64, 20)
        for number, connection in enumerate(connections):
            leave(connection, ("closed", "reset", "half-closed")[number % 3])  # type: ignore[arg-type]
        assert running.settles(10)
        assert set(running.engines["small"].aborts) == set(held.held)
        assert cancelled(running) == {"client_gone": 64}
        for connection in connections:
            connection.close()
        assert until(lambda: threading.active_count() <= before + 64 + 20, 10)


def test_the_python_call_ends_what_nobody_reads() -> None:
    """A stream that is closed, and an engine that is gone."""
    with holding("write") as (running, held):
        events = running.house.stream(QUESTION)
        assert next(events)
        assert until(lambda: held.held)
        events.close()  # type: ignore[attr-defined]
        assert running.settles(SOON_S)
    with holding("nothing", patience_s=0.2) as (running, _):
        running.engines["base"].close()
        with pytest.raises(EngineGone):
            running.house.chat(QUESTION)
