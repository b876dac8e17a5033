"""The end of a trajectory from outside: every request by its name, none after it, whatever they are doing."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from fake_engine import CharTokenizer, FakeEngine, Held, Raw

from sgl_specreason.engines import transport
from sgl_specreason.engines.control import Control
from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.errors import Cancelled, RequestError

Start = Callable[..., FakeEngine]


class Sender:
    """Remembers what it was asked to end."""

    def __init__(self) -> None:
        self.aborted: list[tuple[str, Callable[[], bool]]] = []
        self.broken: list[int] = []

    def abort(self, rid: str, over: Callable[[], bool]) -> None:
        self.aborted.append((rid, over))

    def break_off(self, thread: int) -> None:
        self.broken.append(thread)


def test_each_request_under_way_is_aborted_by_its_name_until_it_is_over() -> None:
    control, base, small = Control(), Sender(), Sender()
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(Cancelled))
        stack.enter_context(control.sending(base, "a"))
        with suppress(Cancelled), control.sending(small, "b"):
            control.cancel("enough")
            (rid, over), *_ = small.aborted
            assert rid == "b"
            assert not over()
        assert over()
        assert [rid for rid, _ in base.aborted] == ["a"]


def test_what_is_over_is_not_aborted_and_nothing_begins_after() -> None:
    control, sender = Control(), Sender()
    with control.sending(sender, "a"):
        pass
    control.cancel("first")
    control.cancel("second")
    assert sender.aborted == []
    with pytest.raises(Cancelled, match="first"):
        control.check()
    with pytest.raises(Cancelled, match="first"), control.sending(sender, "b"):
        raise AssertionError


def test_whatever_ends_a_request_that_is_not_wanted_it_is_cancelled() -> None:
    control, sender = Control(), Sender()

    def fails() -> None:
        with control.sending(sender, "a"):
            control.cancel("enough")
            raise RequestError("the connection broke off")

    with pytest.raises(Cancelled):
        fails()
    with pytest.raises(RequestError, match="broke off"), Control().sending(sender, "b"):
        raise RequestError("the connection broke off")


def test_what_is_under_way_can_be_broken_off_by_its_thread() -> None:
    control, sender = Control(), Sender()
    with control.sending(sender, "a"):
        control.break_off()
    control.break_off()
    assert sender.broken == [threading.get_ident()]


def test_many_threads_may_begin_and_end_while_it_is_cancelled() -> None:
    control, sender = Control(), Sender()
    ended: list[str] = []

    def work(number: int) -> None:
        try:
            for at in range(1000):
                with control.sending(sender, f"{number}-{at}"):
                    control.break_off()
        except Cancelled:
            ended.append(str(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.005)
    control.cancel("enough")
    for thread in threads:
        thread.join(10)
    assert all(over() for _, over in sender.aborted)


class Asking:
    """A request for text of a real endpoint, in a thread of its own."""

    def __init__(self, engine: FakeEngine, *, stream: bool = False, timeout_s: float = 10.0) -> None:
        self.control = Control()
        self.endpoint = Endpoint(engine.url, role="base", tokenizer=CharTokenizer(), timeout_s=timeout_s)
        self.heard: list[str] = []
        self.error: list[BaseException] = []
        data: dict[str, Any] = {"input_ids": [65], "sampling_params": {"max_new_tokens": 9}}
        streamed = None
        if stream:
            from sgl_specreason.engines.streamed import Streamed

            data["stream"] = True
            streamed = Streamed(self.heard.append, incremental=False)

        def ask() -> None:
            try:
                self.endpoint._sent(data, None, streamed, self.control)
            except BaseException as error:
                self.error.append(error)

        self.thread = threading.Thread(target=ask)
        self.thread.start()

    def end(self, seconds: float = 5.0) -> float:
        """Cancels it; the seconds until it is over."""
        begin = time.monotonic()
        self.control.cancel("enough")
        self.thread.join(seconds)
        assert not self.thread.is_alive()
        self.endpoint.stop()
        (error,) = self.error
        assert isinstance(error, Cancelled)
        assert str(error) == "enough"
        return time.monotonic() - begin


def waits(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_ended_on_its_engine_within_a_second(fake_engine: Start, stream: bool) -> None:
    engine = fake_engine(lambda prompt, payload: Held("x"))
    asking = Asking(engine, stream=stream)
    waits(lambda: engine.running)
    (rid,) = engine.running
    assert asking.end() < 1
    assert rid in engine.aborts
    assert not engine.running


def test_a_request_that_was_tried_again_is_aborted_by_its_present_name(
    fake_engine: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server knows it by that only."""
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.01)
    replies = [Raw(503, b"busy"), Raw(503, b"busy"), Held("x")]
    engine = fake_engine(lambda prompt, payload: replies.pop(0))
    asking = Asking(engine)
    waits(lambda: engine.running)
    names = [request["rid"] for request in engine.requests]
    assert names == [names[0], f"{names[0]}-1", f"{names[0]}-2"]
    assert asking.end() < 1
    assert set(engine.aborts) == {names[-1]}


def test_a_request_that_is_heard_ends_though_its_engine_goes_on(fake_engine: Start) -> None:
    """Each piece that comes is a moment to notice that nobody wants it."""
    engine = fake_engine(lambda prompt, payload: "y" * 9)
    engine.pace, engine.pause_s = 1, 0.05
    control = Control()
    endpoint = Endpoint(engine.url, role="base", tokenizer=CharTokenizer(), timeout_s=10)
    from sgl_specreason.engines.streamed import Streamed

    def hear(text: str) -> None:
        control.cancel("enough")
        control.check()

    begin = time.monotonic()
    with pytest.raises(Cancelled):
        endpoint._sent(
            {"input_ids": [65], "sampling_params": {"max_new_tokens": 9}, "stream": True},
            None, Streamed(hear, incremental=False), control,
        )  # fmt: skip
    assert time.monotonic() - begin < 0.4
    endpoint.stop()


def test_a_connection_can_be_broken_off_where_no_abort_is_heard(fake_engine: Start) -> None:
    go_on = threading.Event()

    def hangs(prompt: str, payload: Any) -> str:
        go_on.wait(10)
        return "x"

    engine = fake_engine(hangs)
    asking, other = Asking(engine, timeout_s=30), Asking(engine, timeout_s=30)
    waits(lambda: len(engine.requests) == 2)
    threading.Timer(0.2, asking.control.break_off).start()
    assert asking.end() < 2
    assert other.thread.is_alive()
    go_on.set()
    other.thread.join(5)
    assert other.error == []
    other.endpoint.stop()
