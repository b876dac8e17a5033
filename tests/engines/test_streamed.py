"""Answers that come in pieces: cumulative or incremental, cut anywhere, broken off, tried again, or errors in their middle."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.exceptions import ProtocolError

from sgl_specreason.engines import transport
from sgl_specreason.engines.control import Control
from sgl_specreason.engines.streamed import Streamed
from sgl_specreason.engines.transport import Health, Transport
from sgl_specreason.errors import Cancelled, RequestError

PIECES = st.lists(st.text(max_size=4), min_size=1, max_size=8)
Json = dict[str, Any]


def events(pieces: list[str], *, incremental: bool) -> list[Json]:
    """What SGLang sends for a text that is written in these pieces, a token each."""
    found = []
    for number, piece in enumerate(pieces):
        text = piece if incremental else "".join(pieces[: number + 1])
        ids = [number] if incremental else list(range(number + 1))
        finish = {"type": "stop", "matched": 3} if number == len(pieces) - 1 else None
        found.append({"text": text, "output_ids": ids, "meta_info": {"finish_reason": finish, "id": "x"}})
    return found


def sse(events: list[Json], *, done: bool = True) -> bytes:
    body = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
    return body + (b"data: [DONE]\n\n" if done else b"")


def cut(body: bytes, cuts: list[int]) -> list[bytes]:
    borders = sorted({0, len(body), *(at % (len(body) + 1) for at in cuts)})
    return [body[start:end] for start, end in pairwise(borders)]


@given(pieces=PIECES, cuts=st.lists(st.integers(0, 5000), max_size=20), incremental=st.booleans())
def test_however_it_is_cut_the_answer_is_the_one_that_would_have_come_in_one_piece(
    pieces: list[str], cuts: list[int], incremental: bool
) -> None:
    heard: list[str] = []
    body = sse(events(pieces, incremental=incremental))
    answer = orjson.loads(Streamed(heard.append, incremental=incremental).read(cut(body, cuts)))
    assert answer == events(pieces, incremental=False)[-1]
    assert heard == ["".join(pieces[: end + 1]) for end in range(len(pieces) - 1)]


def test_an_answer_may_be_read_again_from_the_beginning() -> None:
    """As it is where its connection broke off."""
    heard: list[str] = []
    streamed = Streamed(heard.append, incremental=True)
    with pytest.raises(ProtocolError, match="broke off"):
        streamed.read([sse(events(["a", "b", "c"], incremental=True)[:2], done=False)])
    answer = orjson.loads(streamed.read([sse(events(["a", "b", "c"], incremental=True))]))
    assert (answer["text"], answer["output_ids"]) == ("abc", [0, 1, 2])
    assert heard == ["a", "ab", "a", "ab"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"data: [DONE]\n\n", b"data: ", b'{"text": "not a stream"}', b": comment\n\n", b'data: {"te',
        b"data: [1]\n\n", b"data: null\n\n",
        b'data: {"text": 5}\n\n', b'data: {"text": "x"}\n\n', b"data: \xff\xfe\n\n", b'data: {"text": "x", "meta_info": 5}\n\n',
        sse(events(["a", "b"], incremental=False), done=False),
        b'data: {"te\n\n' + sse([]),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_one_that_broke_off(body: bytes) -> None:
    """So that it is tried again, as an answer in one piece that is no JSON is."""
    for incremental in (False, True):
        with pytest.raises(ProtocolError):
            Streamed(lambda _: None, incremental=incremental).read([body])


def test_comments_names_and_line_ends_of_another_kind_are_no_matter() -> None:
    body = sse(events(["a", "b"], incremental=False)).replace(b"\n\n", b"\r\n\r\n")
    body = b": ping\r\n\r\nevent: x\r\nid: 5\r\n\r\n" + body
    assert orjson.loads(Streamed(lambda _: None, incremental=False).read([body]))["text"] == "ab"


def test_an_error_inside_a_stream_is_the_answer() -> None:
    body = sse([*events(["a", "b"], incremental=False)[:1], {"error": {"message": "The input is too long."}}])
    answer = orjson.loads(Streamed(lambda _: None, incremental=False).read([body]))
    assert answer == {"error": {"message": "The input is too long."}}


def test_a_long_incremental_answer_takes_no_longer_than_its_length() -> None:
    """32,000 tokens one at a time, which copied each time would be half a billion ids."""
    pieces = ["x"] * 32_000
    body = sse(events(pieces, incremental=True))
    begin = time.process_time()
    Streamed(lambda _: None, incremental=True).read([body])
    assert time.process_time() - begin < 2


Reply = bytes | Callable[[socket.socket], None]


@contextmanager
def engine(*replies: Reply) -> Iterator[tuple[str, list[Json]]]:
    """A server with one reply for each POST, the last one for all further ones; its URL and the requests that it had."""
    listener = socket.create_server(("127.0.0.1", 0))
    requests: list[Json] = []

    def answer(connection: socket.socket) -> None:
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            if request.startswith(b"GET"):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            size = int(re.findall(rb"Content-Length: (\d+)", request)[0])
            while len(body := request.partition(b"\r\n\r\n")[2]) < size:
                request += connection.recv(65536)
            requests.append(orjson.loads(body))
            reply = replies[min(len(requests), len(replies)) - 1]
            if callable(reply):
                reply(connection)
            else:
                connection.sendall(head() + chunked(reply) + b"0\r\n\r\n")

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def head() -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def breaking(*pieces: str) -> Callable[[socket.socket], None]:
    """Begins an answer with these pieces and breaks it off."""

    def reply(connection: socket.socket) -> None:
        connection.sendall(head() + chunked(sse(events([*pieces, "never"], incremental=False)[:-1], done=False)))

    return reply


def asked(url: str, hear: Callable[[str], None], **options: Any) -> transport.Answer:
    client = Transport(url, role="base", api_key=None, connections=2, timeout_s=5, health=Health(patience_s=1))
    try:
        streamed = Streamed(hear, incremental=False)
        return client.call("POST", "/generate", {"rid": "r"}, patient=True, streamed=streamed, **options)
    finally:
        client.stop()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.01)


def test_a_stream_that_breaks_off_is_asked_for_again_under_another_name() -> None:
    whole = sse(events(["a", "b", "c"], incremental=False))
    heard: list[str] = []
    with engine(breaking("a", "b"), whole) as (url, requests):
        answer = asked(url, heard.append)
    assert (answer.content["text"], answer.retries) == ("abc", 1)
    assert heard == ["a", "ab", "a", "ab"]
    assert [request["rid"] for request in requests] == ["r", "r-1"]


def test_garbage_in_a_stream_is_asked_for_again() -> None:
    whole = sse(events(["a", "b"], incremental=False))
    with engine(b"data: {garbage\n\n", b'{"text": "no stream"}', whole) as (url, requests):
        answer = asked(url, lambda _: None)
    assert (answer.content["text"], answer.retries, len(requests)) == ("ab", 2, 3)


def test_a_stream_that_always_breaks_off_fails_after_some_tries() -> None:
    with engine(breaking("a")) as (url, requests), pytest.raises(RequestError, match="tried 5 times"):
        asked(url, lambda _: None)
    assert len(requests) == 5


def test_an_error_inside_a_stream_is_final_and_in_its_words() -> None:
    body = sse([*events(["a", "b"], incremental=False)[:1], {"error": {"message": "The input is too long."}}])
    with engine(body) as (url, requests), pytest.raises(RequestError, match="The input is too long"):
        asked(url, lambda _: None)
    assert len(requests) == 1


def test_who_hears_may_break_it_off_and_it_is_not_asked_for_again() -> None:
    closed = threading.Event()

    def endless(connection: socket.socket) -> None:
        connection.sendall(head())
        try:
            while True:
                connection.sendall(chunked(sse(events(["a", "b"], incremental=False)[:1], done=False)))
                time.sleep(0.005)
        except OSError:
            closed.set()

    def hear(text: str) -> None:
        raise RequestError("another text came")

    with engine(endless) as (url, requests):
        with pytest.raises(RequestError, match="another text came"):
            asked(url, hear)
        assert closed.wait(5)
        assert len(requests) == 1


def test_a_stream_that_trickles_is_late_all_the_same() -> None:
    """Its deadline is for the whole answer."""

    def trickling(connection: socket.socket) -> None:
        connection.sendall(head())
        for _ in range(200):
            try:
                connection.sendall(chunked(b": x\n\n"))
            except OSError:
                return
            time.sleep(0.02)

    with engine(trickling) as (url, _):
        client = Transport(url, role="base", api_key=None, connections=2, timeout_s=0.3)
        with pytest.raises(RequestError, match=r"no answer in 0\.3 s"):
            client.call("POST", "/generate", {"rid": "r"}, streamed=Streamed(lambda _: None, incremental=False))
        client.stop()


def test_a_request_that_is_ended_while_it_waits_to_be_tried_again_is_not_tried_again() -> None:
    control = Control()
    with engine(
        lambda connection: connection.sendall(b"HTTP/1.1 503 Busy\r\nRetry-After: 20\r\nContent-Length: 0\r\n\r\n")
    ) as (
        url,
        requests,
    ):
        threading.Timer(0.2, control.cancel, args=("enough",)).start()
        begin = time.monotonic()
        with pytest.raises(Cancelled, match="enough"):
            asked(url, lambda _: None, control=control)
        assert time.monotonic() - begin < 3
        assert len(requests) == 1
