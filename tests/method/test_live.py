"""Trajectories that somebody waits for: what is heard of them, where their answers end, and contexts that are full."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from fake_engine import Held, Payload, Raw
from fake_pair import TEXTS, Pair, Start
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_specreason.engines.control import Control
from sgl_specreason.errors import Cancelled, ContextFull
from sgl_specreason.method.kept import Kept
from sgl_specreason.method.live import Live, Phase
from sgl_specreason.method.loops import LOOK_TOKENS
from sgl_specreason.method.policy import Policy
from sgl_specreason.method.program import run_trajectory
from sgl_specreason.method.trajectory import Trajectory
from sgl_specreason.text.steps import Author

FULL = Raw(400, b"The input (900 tokens) is longer than the model's context length (800 tokens).")


@dataclass
class Ears:
    """Remembers what it hears."""

    said: list[tuple[str, str, str]] = field(default_factory=list)

    def growing(self, phase: Phase, author: Author, text: str) -> None:
        self.said.append((phase, author, text))

    def kept(self, kept: Kept) -> None:
        self.said.append(("kept", kept.by, kept.step.text))


def run(pair: Pair, method: Any = "specreason", *, live: dict[str, Any] | None = None, **policy: Any) -> Trajectory:
    """As Pair.run, of a trajectory that is waited for."""
    settings = {"budget_tokens": 500, "step_tokens": 50, "temperature": 0.0, "lookahead": 0, **policy}
    ends: dict[str, Any] = {"answer_tokens": 100, "total_tokens": 600, **(live or {})}
    trajectory = Trajectory(
        problem_id="p", sample=0, sampling_seed=7, policy=Policy(**settings), texts=TEXTS, live=Live(**ends)
    )
    engines = {"base": pair.engines["base"]} if method == "direct" else pair.engines
    run_trajectory(method, trajectory, engines)  # type: ignore[arg-type]
    return trajectory


def test_texts_are_heard_as_they_grow_and_drafts_only_when_they_are_kept(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["Bad one.\n\n", "End.</think>"], [2, 9], ["Good.\n\n", "\n\nIt is 3."])
    ears = Ears()
    run(pair, live={"listener": ears})
    assert ears.said == [
        ("thought", "base", "Goo"), ("thought", "base", "Good.\n"), ("kept", "base", "Good.\n\n"),
        ("kept", "small", "End.</think>"),
        ("answer", "base", "\n\nI"), ("answer", "base", "\n\nIt i"), ("answer", "base", "\n\nIt is 3"),
    ]  # fmt: skip


def test_of_a_step_in_pieces_each_is_heard_after_those_before(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["?"], [2], ["I.\n\n", "Two.\n\n", "E.</think>", "A"])
    ears = Ears()
    run(pair, live={"listener": ears}, first_n=9, min_step_tokens=6)
    grown = [text for kind, _, text in ears.said if kind == "thought"]
    assert grown[:3] == ["I.\n", "I.\n\nTwo", "E.<"]
    assert ("kept", "base", "I.\n\nTwo.\n\n") in ears.said


def test_nothing_is_heard_before_a_step_where_that_is_not_wanted(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["End.</think>"], [9], ["\n\nIt is 3."])
    ears = Ears()
    run(pair, live={"listener": ears, "as_it_grows": False})
    assert ears.said == [("kept", "small", "End.</think>")]


@pytest.mark.parametrize("method", ["base", "small"])
def test_a_baselines_thought_is_heard_over_its_stretches(fake_engine: Start, method: Any) -> None:
    whole = "".join(f"Line {number} of a long thought.\n\n" for number in range(40)) + "End.</think>"
    pair = Pair(fake_engine, [whole], [9], [whole])
    for role, engine in (("base", pair.base), ("small", pair.small)):
        engine.pace = 50
        opening = TEXTS.prompts[role].__len__()  # type: ignore[index]
        engine.script = (
            lambda prompt, payload, opening=opening: (  # type: ignore[misc]
                "\n\nA" if "</think>" in prompt else whole[len(prompt) - opening :]
            )
        )
    ears = Ears()
    t = run(pair, method, live={"listener": ears}, budget_tokens=5000)
    assert t.kept[0].step.text == whole
    assert len(whole) > LOOK_TOKENS
    grown = [text for kind, _, text in ears.said if kind == "thought"]
    assert all(whole.startswith(text) for text in grown)
    assert grown == sorted(grown, key=len)
    assert len(grown[-1]) > LOOK_TOKENS


def answers(text: str) -> Callable[[str, Payload], str]:
    """An engine that thinks nothing and then writes this text, going on from wherever it stands."""

    def script(prompt: str, payload: Payload) -> str:
        _, closed, written = prompt.partition("</think>")
        return text.removeprefix(written) if closed else "E.</think>"

    return script


STOPS: dict[str, tuple[str, list[str], str, str | None]] = {
    "none": ("\n\nIt is 3.", [], "\n\nIt is 3.", None),
    "one that does not come": ("\n\nIt is 3.", ["Q:"], "\n\nIt is 3.", None),
    "a word": ("\n\nIt is 3. Q: x", ["Q:"], "\n\nIt is 3. ", "Q:"),
    "at once": ("Q: x", ["Q:"], "", "Q:"),
    "after blank lines": ("\n\nQ: x", ["Q:"], "\n\n", "Q:"),
    "a blank line counts after something": ("\n\nIt is 3.\n\nMore", ["\n\n"], "\n\nIt is 3.", "\n\n"),
    "many blank lines first": ("\n\n\n\n\n\nIt.\n\nMore", ["\n\n"], "\n\n\n\n\n\nIt.", "\n\n"),
    "a blank": ("  It is", [" "], "  It", " "),
    "only blank lines": ("\n\n\n\n", ["\n\n"], "\n\n\n\n", None),
    "two": ("\n\nIt is 3.\n\nStep", ["Step", "\n\n"], "\n\nIt is 3.", "\n\n"),
    "the longer one": ("\n\nab", ["ab", "b"], "\n\n", "ab"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "stops", "answer", "matched"), STOPS.values(), ids=STOPS)
@pytest.mark.parametrize("method", ["specreason", "base", "small", "direct"])
def test_an_answer_ends_before_its_stop(
    fake_engine: Start, method: Any, text: str, stops: list[str], answer: str, matched: str | None
) -> None:
    pair = Pair(fake_engine, ["E.</think>"], [9], ["x"])
    script = answers(text)
    pair.small.script = script
    pair.base.script = lambda prompt, payload: (
        [-0.1] * 10 if payload["sampling_params"]["max_new_tokens"] == 0 else script(prompt, payload)
    )
    if method == "direct":
        pair.base.script = lambda prompt, payload: text.removeprefix(prompt.removeprefix("B:"))
    t = run(pair, method, live={"stop": tuple(stops)}, threshold=0)
    assert (t.answer, t.matched_stop, t.answer_finish) == (answer, matched, "stop")
    assert sum(call.purpose == "answer" for call in t.calls) <= 4


@settings(max_examples=25, deadline=None)
@given(
    text=st.lists(st.sampled_from(["a", "\n", "\n\n", "Q:", " ", "b c"]), max_size=8).map("".join),
    stops=st.lists(st.sampled_from(["\n\n", "Q:", "Q", " ", "\n"]), max_size=2, unique=True),
    room=st.integers(1, 12),
)
def test_an_answer_with_any_stops_ends_within_its_room(text: str, stops: list[str], room: int) -> None:
    from fake_engine import FakeEngine

    engines: list[FakeEngine] = []

    def start(script: Any) -> FakeEngine:
        engines.append(FakeEngine(script))
        return engines[-1]

    try:
        pair = Pair(start, ["?"], [9], ["x"])
        pair.base.script = lambda prompt, payload: text.removeprefix(prompt.removeprefix("B:"))
        ears = Ears()
        t = run(pair, "direct", live={"stop": tuple(stops), "answer_tokens": room, "listener": ears})
    finally:
        for engine in engines:
            engine.close()
    assert text.startswith(t.answer)
    assert t.record()["answer_tokens"] <= room
    assert not any(stop in t.answer.lstrip() for stop in stops)
    assert t.answer_finish in ("stop", "length")
    assert all(text.startswith(said) for _, _, said in ears.said)


def test_the_answer_has_what_the_thought_leaves_of_all_tokens(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["12345678.</think>"], [9], ["\n\nA long answer."])
    t = run(pair, live={"total_tokens": len("12345678.</think>") + 5})
    assert (t.answer, t.answer_finish) == ("\n\nA l", "length")
    none = run(pair, live={"total_tokens": len("12345678.</think>")})
    assert (none.answer, none.answer_finish) == ("", "length")
    assert [call.purpose for call in none.calls] == ["draft", "judge"]


def full_after(length: int, script: Any) -> Any:
    """An engine whose context has room for so many characters and no more."""
    return lambda prompt, payload: FULL if len(prompt) > length else script(prompt, payload)


def test_an_answer_that_has_no_room_is_none(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["E.</think>"], [9], ["x"])
    script = pair.base.script
    pair.base.script = lambda prompt, payload: (
        FULL if payload["sampling_params"]["max_new_tokens"] else script(prompt, payload)
    )
    t = run(pair)
    assert (t.answer, t.answer_finish, t.stop_reason) == ("", "length", "think_end")


def test_an_answer_whose_context_is_full_after_a_stop_that_did_not_count_keeps_what_it_has(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["E.</think>"], [9], ["\n\nAnswer"])
    pair.base.script = full_after(len("B:E.</think>[JUDGE CLOSED]") - 1, pair.base.script)
    judge = pair.base.script
    pair.base.script = lambda prompt, payload: (
        pair.judge_or_write(prompt, payload)
        if payload["sampling_params"]["max_new_tokens"] == 0
        else FULL
        if prompt.endswith("\n\n")
        else judge(prompt, payload)
    )
    t = run(pair, live={"stop": ("\n\n",)})
    assert (t.answer, t.answer_finish) == ("\n\n", "length")


@pytest.mark.parametrize("method", ["base", "small"])
def test_a_baseline_whose_context_is_full_ends_its_thought_there(fake_engine: Start, method: Any) -> None:
    """With what it has; a thought that could not begin is an error."""
    whole = "".join(f"Line {number} of a long thought.\n\n" for number in range(200))
    pair = Pair(fake_engine, ["?"], [9], ["?"])
    for engine in (pair.base, pair.small):
        engine.script = full_after(900, lambda prompt, payload: whole[len(prompt) - 2 :])
    t = run(pair, method, budget_tokens=5000, live={"answer_tokens": 50, "total_tokens": 6000})
    assert t.stop_reason == "context"
    assert t.kept[0].step.text == whole[: 2 * LOOK_TOKENS]
    assert (t.answer, t.answer_finish) == ("", "length")
    for engine in (pair.base, pair.small):
        engine.script = lambda prompt, payload: FULL
    with pytest.raises(ContextFull):
        run(pair, method)


def test_a_thought_whose_context_is_full_ends_there_and_is_told_as_kept(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["One step.\n\n"], [9], ["x"])
    pair.small.script = full_after(60, pair.small.script)
    ears = Ears()
    t = run(pair, live={"listener": ears})
    assert t.stop_reason == "context"
    assert [text for kind, _, text in ears.said if kind == "kept"] == ["One step.\n\n"] * len(t.kept)
    assert t.answer == "x"


@pytest.mark.parametrize("at", ["draft", "judge", "regenerate", "answer"])
@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_trajectory_that_is_ended_anywhere_ends_and_leaves_nothing_behind(
    fake_engine: Start, at: str, lookahead: int
) -> None:
    """Whatever it was doing: each request that is out is aborted by its name, and no other is sent."""
    pair = Pair(fake_engine, ["Bad.\n\n", "E.</think>"], [2, 9], ["Good.\n\n", "A"])
    control = Control()

    def ends(engine: Any, kind: str) -> None:
        script = engine.script

        def ending(prompt: str, payload: Payload) -> Any:
            judging = payload["sampling_params"]["max_new_tokens"] == 0
            closed = "</think>" in prompt
            purpose = "judge" if judging else "answer" if closed else kind
            if purpose == at:
                control.cancel("enough")
                return Held("x")
            return script(prompt, payload)

        engine.script = ending

    ends(pair.small, "draft")
    ends(pair.base, "regenerate")
    with pytest.raises(Cancelled, match="enough"):
        run(pair, live={"control": control}, lookahead=lookahead)
    sent = len(pair.small.requests) + len(pair.base.requests)
    assert not control._out
    assert not pair.small.running
    assert not pair.base.running
    assert len(pair.small.requests) + len(pair.base.requests) == sent
