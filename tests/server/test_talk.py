"""One question on its way: what is prepared, what fits, who is asked, how it ends."""

from collections.abc import Iterator
from typing import Any

import pytest
from fake_engine import Held
from served import QUESTION, Story, scripted_engines, scripted_house, until

from sgl_specreason.errors import Cancelled, RequestError, SpecReasonError, UsageError
from sgl_specreason.server.call import SpecReason
from sgl_specreason.server.desk import Ticket
from sgl_specreason.server.events import Answer, End, Event, Thought
from sgl_specreason.server.refusal import Refusal
from sgl_specreason.server.talk import Question, Talk


@pytest.fixture(scope="module")
def house() -> Iterator[SpecReason]:
    with scripted_engines() as engines, scripted_house(engines) as made:
        yield made


@pytest.mark.parametrize(
    ("asked", "roles"),
    [
        ({}, ("base", "small")),
        ({"answer_by": "small"}, ("small", "base")),
        ({"method": "base"}, ("base",)),
        ({"method": "small"}, ("small",)),
        ({"thinking": False}, ("base",)),
        ({"thinking": False, "method": "small"}, ("small",)),
    ],
)
def test_only_the_models_that_are_asked_have_a_prompt(
    house: SpecReason, asked: dict[str, Any], roles: tuple[str, ...]
) -> None:
    """A question for one model is not refused because another one's context is too short."""
    found = house.prepare(house.question(QUESTION, **asked))
    assert found.question.roles == roles
    assert set(found.texts.prompts) == set(found.fitted.need) == set(roles)
    assert found.prompt_tokens == len(found.texts.prompts[roles[0]])  # type: ignore[index]


@pytest.mark.parametrize("method", ["specreason", "base", "small"])
@pytest.mark.parametrize("heard", [True, False])
def test_a_stop_ends_a_response_without_think_tags(method: Any, heard: bool) -> None:
    """All of it is the answer: it ends before the first stop, streamed or not, and nothing more is asked for."""
    story = Story(small=("One.\n\n", "Two. Q: three.\n\n", "Four."), base=("One.\n\n", "Two. Q: three.\n\n", "Four."))
    with scripted_engines(story) as engines, scripted_house(engines, think_end="") as house:
        asked: dict[str, Any] = {"method": method, "stop": ["\n\nXX", "Q:"]}
        if heard:
            *events, end = house.stream(QUESTION, **asked)
            assert isinstance(end, End)
            reply = end.reply
            assert "".join(event.text for event in events if isinstance(event, Answer)) == "One.\n\nTwo."
        else:
            reply = house.chat(QUESTION, **asked)
        assert (reply.answer, reply.thought, reply.finish, reply.matched_stop) == ("One.\n\nTwo.", "", "stop", "Q:")
        prompts = ["".join(map(chr, request["input_ids"])) for request in engines["small"].requests]
        assert not any("Four" in prompt for prompt in prompts)


def test_a_blank_stop_of_a_response_without_think_tags_counts_after_its_first_word() -> None:
    story = Story(small=("\n\nOne.\n\n", "Two.\n\n", "Three."), base=("\n\nOne.\n\n", "Two.\n\n", "Three."))
    with scripted_engines(story) as engines, scripted_house(engines, think_end="") as house:
        assert house.chat(QUESTION, method="base", stop="\n\n").answer == "One."


def test_the_answer_may_be_smalls() -> None:
    with scripted_engines() as engines, scripted_house(engines, answer_by="small") as house:
        assert house.chat(QUESTION).answer == "The answer is 3."
        assert "</think>" in "".join(map(chr, engines["small"].requests[-1]["input_ids"]))


def test_nothing_that_is_sent_is_longer_than_the_engine_takes() -> None:
    """However long the conversation, whatever is asked for: a prompt, and a prompt with its reply."""
    story = Story(small=("x" * 90 + ".\n\n",) * 50, base=("y" * 90 + ".\n\n",) * 50)
    with scripted_engines(story) as engines, scripted_house(engines, room=1200, budget_tokens=5000) as house:
        refused = 0
        for length in range(0, 1200, 60):
            try:
                reply = house.chat([{"role": "user", "content": "q" * length}], max_tokens=None)
            except Refusal:
                refused += 1
            else:
                assert reply.thought
        assert 0 < refused < 18
        for engine in engines.values():
            for request in engine.requests:
                params = request["sampling_params"]
                assert len(request["input_ids"]) <= 1200 - 7
                assert len(request["input_ids"]) + params["max_new_tokens"] <= 1200


def talk_of(house: SpecReason, question: Question, *, heard: bool = True) -> tuple[Talk, list[Event | SpecReasonError]]:
    told: list[Event | SpecReasonError] = []
    return Talk(house.prepare(question), house.pair, emit=told.append, failed=told.append, heard=heard), told


def ticket() -> Ticket:
    return Ticket({}, lambda _: None)


def test_a_talk_that_was_ended_before_its_turn_asks_nobody() -> None:
    with scripted_engines() as engines, scripted_house(engines) as house:
        talk, told = talk_of(house, house.question(QUESTION))
        talk.control.cancel("enough")
        talk.run(ticket())
        assert talk.over
        assert isinstance(told[-1], Cancelled)
        assert len(told) == 1
        assert all(engine.requests == [] for engine in engines.values())


def test_the_last_word_is_the_end_or_a_failure_and_comes_once(house: SpecReason) -> None:
    talk, told = talk_of(house, house.question(QUESTION))
    talk.run(ticket())
    assert isinstance(told[-1], End)
    assert sum(isinstance(word, End | SpecReasonError) for word in told) == 1


def test_what_nobody_reads_as_it_grows_is_not_streamed() -> None:
    with scripted_engines() as engines, scripted_house(engines) as house:
        for heard in (False, True):
            talk, told = talk_of(house, house.question(QUESTION), heard=heard)
            talk.run(ticket())
            assert any(request.get("stream") for request in engines["base"].requests) is heard
            assert "".join(word.text for word in told if isinstance(word, Answer)) == "The answer is 3."
        assert not any(request.get("stream") for request in engines["small"].requests)


def test_a_request_that_comes_again_and_says_something_else_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first words have been read already."""
    from sgl_specreason.engines import transport

    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.01)
    with scripted_engines() as engines, scripted_house(engines) as house:
        tries = [0]
        script = engines["base"].script

        def differs(prompt: str, payload: Any) -> Any:
            if not payload.get("stream") or prompt.rstrip().endswith("</think>"):
                return script(prompt, payload)
            tries[0] += 1
            return "Two and more.\n\n" if tries[0] == 1 else "Something else.\n\n"

        breaks = engines["base"]
        breaks.script = differs
        breaks.break_after = 4
        with pytest.raises(RequestError, match="another text came"):
            list(house.stream(QUESTION, method="specreason"))
        assert tries[0] == 2
        assert house.desk.wait_empty(5)


def test_a_request_that_comes_again_and_says_the_same_is_only_late(monkeypatch: pytest.MonkeyPatch) -> None:
    from sgl_specreason.engines import transport

    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.01)
    with scripted_engines() as engines, scripted_house(engines) as house:
        engines["base"].break_after = 4
        *events, end = house.stream(QUESTION)
        assert isinstance(end, End)
        assert end.reply.account.retries >= 1
        assert "".join(event.text for event in events if isinstance(event, Thought)) == Story().thought
        assert end.reply.answer == "The answer is 3."


def test_names_of_turns_of_one_conversation_are_the_same(house: SpecReason) -> None:
    """So that a router sends them to the replica that has their prefix."""
    turns = [*QUESTION, {"role": "assistant", "content": "3"}, {"role": "user", "content": "Sure?"}]
    first, _ = talk_of(house, house.question(QUESTION))
    second, _ = talk_of(house, house.question(turns))
    other, _ = talk_of(house, house.question([{"role": "user", "content": "Else?"}]))
    assert first.trajectory.routing_key == second.trajectory.routing_key != other.trajectory.routing_key


def test_a_template_that_does_not_take_a_conversation_says_so(house: SpecReason) -> None:
    def broken(*_: Any, **__: Any) -> str:
        raise ValueError("roles must alternate")

    with scripted_engines() as engines, scripted_house(engines) as made:
        for chat in made.pair.chats.values():
            chat.tokenizer.apply_chat_template = broken  # type: ignore[method-assign]
        with pytest.raises(UsageError, match="roles must alternate"):
            made.chat(QUESTION)


def test_what_is_ended_while_it_runs_says_why() -> None:
    with scripted_engines() as engines, scripted_house(engines) as house:
        engines["small"].script = lambda prompt, payload: Held("x")
        told: list[Event | SpecReasonError] = []
        talk, place = house.begin(house.prepare(house.question(QUESTION)), told.append, told.append, heard=False)
        assert until(lambda: engines["small"].running)
        house.end(talk, place, "enough")
        house.end(talk, place, "again")
        assert until(lambda: told)
        assert str(told[0]) == "enough"
        assert house.desk.wait_empty(5)
        house.end(talk, place, "too late")
        assert len(told) == 1
