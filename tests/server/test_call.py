"""The Python call over scripted engines: one question, many threads, what is wrong said at once, an end at any time."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fake_engine import Held, Raw
from served import POLICY, QUESTION, ROLES, Story, scripted_engines, scripted_house, until

from sgl_specreason.errors import Cancelled, EngineError, RequestError, UsageError
from sgl_specreason.server.call import SpecReason
from sgl_specreason.server.events import Answer, End, Event, Step, Thought
from sgl_specreason.server.refusal import Refusal

STORY = Story()
PARTS = [{"type": "text", "text": "What is"}, {"type": "input_text", "text": "1 + 2?"}]


@pytest.fixture
def house() -> Iterator[SpecReason]:
    with scripted_engines() as engines, scripted_house(engines) as made:
        yield made


def test_a_question_has_a_thought_its_steps_an_answer_and_an_account(house: SpecReason) -> None:
    reply = house.chat(QUESTION)
    assert (reply.thought, reply.answer) == (STORY.thought, "The answer is 3.")
    assert (reply.finish, reply.thought_ended_by, reply.matched_stop) == ("stop", "think_end", None)
    assert [(step.n, step.by, step.score, step.accepted) for step in reply.steps] == [
        (1, "small", 9, True), (2, "base", 2, False), (3, "small", 9, True),
    ]  # fmt: skip
    assert (reply.steps[1].text, reply.steps[1].draft) == ("Two.\n\n", "Bad two.\n\n")
    account = reply.account
    assert (account.steps, account.steps_by_small, account.drafts, account.accepted) == (3, 2, 3, 2)
    assert account.acceptance == pytest.approx(2 / 3)
    assert (account.thinking_tokens, account.answer_tokens) == (len("One.\n\nTwo.\n\nThree.</think>"), 19)
    assert (account.tokens_base, account.tokens_small, account.tokens_discarded) == (6, 30, 10)
    assert (account.judge_requests, account.requests, account.retries) == (3, 8, 0)
    assert account.seconds > 0
    assert account.queued_s >= 0


def test_the_events_of_a_question_are_its_reply_as_it_comes(house: SpecReason) -> None:
    *events, end = house.stream(QUESTION)
    assert isinstance(end, End)
    assert "".join(event.text for event in events if isinstance(event, Thought)) == end.reply.thought == STORY.thought
    assert "".join(event.text for event in events if isinstance(event, Answer)) == end.reply.answer
    assert tuple(event for event in events if isinstance(event, Step)) == end.reply.steps
    assert end.reply.answer == house.chat(QUESTION).answer


def test_what_base_writes_comes_as_it_grows_and_a_draft_only_when_it_is_decided(house: SpecReason) -> None:
    events = list(house.stream(QUESTION))
    by_step: list[list[Event]] = [[]]
    for event in events:
        by_step[-1].append(event)
        if isinstance(event, Step):
            by_step.append([])
    assert [len([event for event in step if isinstance(event, Thought)]) for step in by_step[:3]] == [1, 2, 1]
    assert not any("Bad" in event.text for event in events if isinstance(event, Thought | Answer))


@pytest.mark.parametrize(
    ("method", "thought"), [("base", "I.\n\nTwo.\n\nIII."), ("small", "One.\n\nBad two.\n\nThree.")]
)
def test_one_model_may_answer_alone(house: SpecReason, method: Any, thought: str) -> None:
    reply = house.chat(QUESTION, method=method)
    assert (reply.thought, reply.answer) == (thought, "The answer is 3.")
    assert (reply.account.drafts, reply.account.judge_requests, reply.account.requests) == (0, 0, 2)
    assert reply.account.acceptance is None


def test_without_a_thought_there_is_one_request_and_small_is_not_asked() -> None:
    with scripted_engines() as engines, scripted_house(engines) as house:
        reply = house.chat(QUESTION, thinking=False)
        assert (reply.thought, reply.answer, reply.steps) == ("", "The answer is 3.", ())
        assert (reply.account.thinking_tokens, reply.account.requests) == (0, 1)
        assert len(engines["base"].requests) == 1
        assert engines["small"].requests == []
        assert house.chat(QUESTION, thinking=False, method="small").answer == "The answer is 3."
        assert len(engines["small"].requests) == 1


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "setting": (QUESTION, {"threshhold": 5}, "no setting named 'threshhold'; did you mean threshold or"),
    "threshold": (QUESTION, {"threshold": 11}, "threshold"),
    "type": (QUESTION, {"budget_tokens": "many"}, "budget_tokens"),
    "method": (QUESTION, {"method": "specreson"}, "did you mean specreason?"),
    "no method": (QUESTION, {"method": None}, "method"),
    "max_tokens": (QUESTION, {"max_tokens": 0}, "max_tokens"),
    "max_tokens text": (QUESTION, {"max_tokens": "5"}, "max_tokens"),
    "max_tokens true": (QUESTION, {"max_tokens": True}, "max_tokens"),
    "thinking": (QUESTION, {"thinking": "yes"}, "thinking"),
    "seed": (QUESTION, {"seed": "x"}, "seed"),
    "stop": (QUESTION, {"stop": 5}, "stop"),
    "stops": (QUESTION, {"stop": ["a", 5]}, "stop"),
    "empty stop": (QUESTION, {"stop": ""}, "stop"),
    "template": (QUESTION, {"template": {"tools": []}}, "tools"),
    "template of another kind": (QUESTION, {"template": "none"}, "template"),
    "text in place of messages": ("What is 1 + 2?", {}, "messages"),
    "one message": ({"role": "user", "content": "What?"}, {}, "messages"),
    "no messages": ([], {}, "messages"),
    "message of another kind": (["What?"], {}, "messages[0]"),
    "role": ([{"role": "sytem", "content": "x"}], {}, "messages[0].role"),
    "content": ([{"role": "user"}], {}, "messages[0].content"),
    "last": ([*QUESTION, {"role": "assistant", "content": "3"}], {}, "messages[1]"),
    "half a character": ([{"role": "user", "content": "\ud800"}], {}, "messages[0].content"),
}


@pytest.mark.parametrize(("messages", "asked", "words"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_asked_is_said_at_the_call(
    house: SpecReason, messages: Any, asked: dict[str, Any], words: str
) -> None:
    """Also by `stream`: not where it is first read, which may be elsewhere and later."""
    for call in (house.chat, house.stream):
        with pytest.raises(UsageError) as caught:
            call(messages, **asked)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_conversation_that_is_too_long_is_refused_at_the_call() -> None:
    with scripted_engines() as engines, scripted_house(engines, room=400) as house:
        for call in (house.chat, house.stream):
            with pytest.raises(Refusal, match="maximum context length is 400"):
                call([{"role": "user", "content": "x" * 500}])
        assert engines["base"].requests == []


def test_messages_may_be_parts_and_turns(house: SpecReason) -> None:
    assert house.chat([{"role": "user", "content": PARTS}]).answer
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\n2", "reasoning_content": "hm"},
        *QUESTION,
    ]
    assert house.chat(turns).thought == STORY.thought


def test_settings_are_the_calls_own() -> None:
    with scripted_engines() as engines, scripted_house(engines) as house:
        assert house.chat(QUESTION, threshold=0).account.accepted == 3
        assert house.chat(QUESTION, threshold=9.0).account.accepted == 2
        assert house.pair.policy.threshold == 7
        house.chat(QUESTION, temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, seed=3)
        params = engines["small"].requests[-1]["sampling_params"]
        assert {name: params[name] for name in ("temperature", "top_p", "top_k", "min_p")} == {
            "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1,
        }  # fmt: skip


def test_a_seed_repeats_and_another_one_differs() -> None:
    with scripted_engines() as engines, scripted_house(engines) as house:

        def seeds(seed: int | None) -> list[int]:
            before = len(engines["small"].requests)
            house.chat(QUESTION, seed=seed)
            return [request["sampling_params"]["sampling_seed"] for request in engines["small"].requests[before:]]

        assert seeds(5) == seeds(5) != seeds(6)
        assert seeds(None) != seeds(None)


@pytest.mark.parametrize("total", [1, 2, 10, 20, 30, 44, 100])
@pytest.mark.parametrize("method", ["specreason", "base", "small"])
def test_the_tokens_of_thought_and_answer_together_are_hard(house: SpecReason, total: int, method: Any) -> None:
    reply = house.chat(QUESTION, max_tokens=total, method=method)
    used = reply.account.thinking_tokens + reply.account.answer_tokens
    assert used <= total
    assert (reply.answer == "The answer is 3.") or reply.finish == "length"
    if total > 1:
        assert reply.account.answer_tokens
    assert house.chat(QUESTION, max_tokens=total, thinking=False, method=method).account.answer_tokens <= total


def test_a_budget_closes_the_thought_and_the_question_is_still_answered(house: SpecReason) -> None:
    reply = house.chat(QUESTION, budget_tokens=10)
    assert (reply.thought, reply.answer) == ("One.\n\nTwo.", "The answer is 3.")
    assert (reply.thought_ended_by, reply.finish, reply.account.thinking_tokens) == ("budget", "stop", 10)
    stopped = house.chat(QUESTION, budget_tokens=10, on_budget="stop")
    assert (stopped.thought, stopped.answer, stopped.finish) == ("One.\n\nTwo.", "", "length")


def test_calls_from_many_threads_share_the_engines() -> None:
    with scripted_engines() as engines, scripted_house(engines, places=4, queue=100) as house:
        most = [0]
        script = engines["base"].script

        def watched(prompt: str, payload: Any) -> Any:
            most[0] = max(most[0], house.desk.running)
            return script(prompt, payload)

        engines["base"].script = watched
        with ThreadPoolExecutor(24) as pool:
            replies = list(pool.map(lambda _: house.chat(QUESTION), range(48)))
        assert {(reply.thought, reply.answer) for reply in replies} == {(STORY.thought, "The answer is 3.")}
        assert 2 <= most[0] <= 4
        assert house.desk.wait_empty(5)


def test_one_too_many_is_refused() -> None:
    with scripted_engines() as engines, scripted_house(engines, places=1, queue=0) as house:
        engines["small"].script = lambda prompt, payload: Held("x")
        first = house.stream(QUESTION)

        def wait() -> None:
            with pytest.raises(EngineError):
                next(first)

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert until(lambda: engines["small"].running)
        with pytest.raises(Refusal, match="Too many requests"):
            house.chat(QUESTION)
        house.close()
        waiting.join(10)
        assert not waiting.is_alive()


@pytest.mark.parametrize("role", ROLES)
def test_what_an_engine_refuses_is_raised_in_its_words(role: Any) -> None:
    with scripted_engines() as engines, scripted_house(engines) as house:
        engines[role].script = lambda prompt, payload: Raw(400, b"No such thing.")
        for call in (house.chat, lambda asked: list(house.stream(asked))):
            with pytest.raises(RequestError, match=r"HTTP 400: No such thing\."):
                call(QUESTION)  # type: ignore[operator]
        assert house.desk.wait_empty(5)


def test_an_engine_that_is_gone_is_said_and_the_place_is_free() -> None:
    with scripted_engines() as engines, scripted_house(engines, patience_s=0.2) as house:
        engines["small"].close()
        with pytest.raises(EngineError, match="small"):
            house.chat(QUESTION)
        assert house.desk.wait_empty(5)
        assert house.chat(QUESTION, method="base").answer == "The answer is 3."


def test_a_fault_of_ours_is_raised_and_nobody_waits_for_ever(
    house: SpecReason, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("a fault of the tests")

    monkeypatch.setattr("sgl_specreason.method.program.assess", broken)
    for call in (house.chat, lambda asked: list(house.stream(asked))):
        with pytest.raises(Refusal, match="has failed"):
            call(QUESTION)  # type: ignore[operator]
    assert "a fault of the tests" in caplog.text
    assert house.desk.wait_empty(5)


def test_closing_a_stream_early_ends_its_requests_by_name() -> None:
    with scripted_engines() as engines, scripted_house(engines) as house:
        engines["base"].script = lambda prompt, payload: (
            STORY.says("base", prompt, payload) if payload["sampling_params"]["max_new_tokens"] == 0 else Held("Tw")
        )
        events = house.stream(QUESTION)
        assert next(events) == Thought(by="small", text="One.")
        assert until(lambda: engines["base"].running)
        (rid,) = engines["base"].running
        begin = time.monotonic()
        events.close()
        assert house.desk.wait_empty(2)
        assert time.monotonic() - begin < 1
        assert rid in engines["base"].aborts
        assert not engines["base"].running


def test_closing_a_stream_that_waits_takes_it_out_of_the_queue() -> None:
    with scripted_engines() as engines, scripted_house(engines, places=1) as house:
        engines["small"].script = lambda prompt, payload: Held("x")
        first, second = house.stream(QUESTION), house.stream(QUESTION)
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(next, stream, None) for stream in (first, second)]
            assert until(lambda: house.desk.running == house.desk.waiting == 1)
            house.close()
            for future in waiting:
                assert isinstance(future.exception(10), EngineError)
        assert house.desk.wait_empty(5)


def test_a_stream_that_nobody_reads_does_nothing() -> None:
    with scripted_engines() as engines, scripted_house(engines) as house:
        house.stream(QUESTION).close()
        del house
        assert engines["small"].requests == []


def test_closing_ends_what_is_under_way() -> None:
    with scripted_engines() as engines, scripted_house(engines) as house:
        engines["small"].script = lambda prompt, payload: Held("x")
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(house.chat, QUESTION) for _ in range(3)]
            assert until(lambda: len(engines["small"].running) == 3)
            house.close()
            for future in asked:
                assert isinstance(future.exception(10), EngineError)
        with pytest.raises(EngineError):
            house.chat(QUESTION)
        assert house.desk.wait_empty(5)


def test_an_abort_that_is_not_heard_is_followed_by_the_connections_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that hangs keeps no thread and no place."""
    monkeypatch.setattr("sgl_specreason.server.call.BREAK_OFF_S", 0.2)
    with scripted_engines() as engines, scripted_house(engines, timeout_s=30) as house:
        hangs, go_on = threading.Event(), threading.Event()

        def hanging(prompt: str, payload: Any) -> str:
            hangs.set()
            go_on.wait(10)
            return "x"

        engines["small"].script = hanging
        talk_of: list[Any] = []
        question = house.prepare(house.question(QUESTION))
        talk, ticket = house.begin(question, talk_of.append, talk_of.append, heard=True)
        assert hangs.wait(5)
        house.end(talk, ticket, "enough")
        assert house.desk.wait_empty(3)
        go_on.set()
        assert isinstance(talk_of[-1], Cancelled)
        assert str(talk_of[-1]) == "enough"


def test_of_models_without_think_tags_the_response_is_the_answer() -> None:
    story = Story(small=("One.\n\n", "Bad two.\n\n", "Three."), base=("I.\n\n", "Two.\n\n", "III."))
    with scripted_engines(story) as engines, scripted_house(engines, think_end="") as house:
        reply = house.chat(QUESTION)
        assert (reply.thought, reply.answer) == ("", "One.\n\nTwo.\n\nThree.")
        assert (reply.finish, reply.matched_stop) == ("stop", None)
        *events, end = house.stream(QUESTION)
        assert "".join(event.text for event in events if isinstance(event, Answer)) == reply.answer
        assert isinstance(end, End)
        cut = house.chat(QUESTION, max_tokens=10)
        assert (cut.answer, cut.finish) == ("One.\n\nTwo.", "length")
        assert cut.account.thinking_tokens == 10


def test_the_defaults_are_the_pairs(house: SpecReason) -> None:
    policy = house.chat(QUESTION).policy
    assert {name: getattr(policy, name) for name in POLICY} == POLICY
