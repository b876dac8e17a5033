"""Which text is final: however it comes, the pieces told are the whole, and nothing is told that is not so in the end."""

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sgl_specreason.errors import RequestError
from sgl_specreason.method.kept import Kept
from sgl_specreason.method.policy import Policy
from sgl_specreason.method.score import Judgement, Score
from sgl_specreason.server.events import Answer, Event, Step, Thought
from sgl_specreason.server.speech import Speech, held_back
from sgl_specreason.text.steps import Author
from sgl_specreason.text.steps import Step as Text

TAG = "</think>"
STOPS = ("STOP", "\n\n", "P!", "<|")
BITS = st.sampled_from(
    ["a", "b c", " ", "\n", "\n\n", "<", "</", "</th", "ink>", TAG, "S", "STO", "P", "STOP", "é", "\x00"]
)
TEXTS = st.lists(BITS, max_size=6).map("".join)


@dataclass
class Heard:
    """What one asker has been told, and the speech that tells it."""

    think_end: str = TAG
    stops: tuple[str, ...] = ()
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.speech = Speech(self.events.append, policy=Policy(), think_end=self.think_end, stops=self.stops)

    def keep(self, text: str, by: Author = "small", draft: str | None = None) -> None:
        drafted = Text(text=text if draft is None else draft, tokens=3, ending="blank_line")
        step = Text(text=text, tokens=len(text), ending="blank_line")
        self.speech.kept(Kept(step=step, by=by, draft=drafted, accepted=by == "small"))

    def grow(self, text: str, cuts: list[int], *, phase: str = "thought", before: str = "") -> None:
        """Has it hear all beginnings of a text that end at these places."""
        for at in sorted({min(cut, len(text)) for cut in cuts}):
            self.speech.growing(phase, "base", before + text[:at])  # type: ignore[arg-type]

    @property
    def thought(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Thought))

    @property
    def answer(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Answer))


def steps_of(thought: list[str], think_end: str) -> list[str]:
    """These texts as a trajectory keeps them: the one with which the tag is whole is cut there, and the last."""
    found, so_far = [], ""
    for text in thought:
        end = (so_far + text).find(think_end) if think_end else -1
        if end >= 0:
            return [*found, text[: end + len(think_end) - len(so_far)]]
        found.append(text)
        so_far += text
    return found


CUTS = st.lists(st.integers(0, 30), max_size=8)
WRITTEN = st.lists(st.tuples(TEXTS, st.booleans(), CUTS), max_size=5)


@given(written=WRITTEN, answer=TEXTS, cuts=CUTS)
@example(written=[("a</th", True, [6]), ("ink>", True, [2])], answer="b", cuts=[1])
@example(written=[("a </", False, []), ("b", True, [0, 1])], answer="", cuts=[])
@example(written=[("a</thi", True, [6])], answer="x", cuts=[0])
def test_the_pieces_joined_are_the_whole(
    written: list[tuple[str, bool, list[int]]], answer: str, cuts: list[int]
) -> None:
    """Steps are heard as they grow or come whole; the tag may begin in one step and end in the next."""
    heard = Heard()
    kept = steps_of([text for text, _, _ in written], TAG)
    for text, (_, grows, at) in zip(kept, written, strict=False):
        if grows:
            heard.grow(text, at)
        heard.keep(text, "base" if grows else "small")
    heard.grow(answer, cuts, phase="answer")
    heard.speech.finish("base", answer)
    assert heard.thought == heard.speech.thought == "".join(kept).partition(TAG)[0].strip()
    assert heard.answer == heard.speech.answer == answer.lstrip("\n")
    assert [event for event in heard.events if isinstance(event, Step)] == heard.speech.steps
    assert all(event.text for event in heard.events if isinstance(event, Thought | Answer))


@given(text=TEXTS, cuts=CUTS, steps=st.lists(TEXTS, max_size=3))
def test_nothing_told_of_a_thought_may_still_become_its_tag(text: str, cuts: list[int], steps: list[str]) -> None:
    """At every moment, what has been told is a beginning of the thought that it will be."""
    heard = Heard()
    kept = steps_of([*steps, text], TAG)
    whole = "".join(kept).partition(TAG)[0].strip()
    for step in kept:
        for at in cuts:
            heard.grow(step, [at])
            assert whole.startswith(heard.thought)
            assert not heard.thought or heard.thought == heard.thought.strip()
        fresh, heard = heard, Heard()  # cuts are not in order: only whole steps are kept of each try
        for earlier in [event for event in fresh.events if isinstance(event, Step)]:
            heard.keep(earlier.text)
        heard.keep(step)
        assert whole.startswith(heard.thought)


@given(written=WRITTEN)
def test_of_a_model_without_think_tags_the_steps_are_the_answer(written: list[tuple[str, bool, list[int]]]) -> None:
    heard = Heard(think_end="")
    for text, grows, cuts in written:
        if grows:
            heard.grow(text, cuts)
        heard.keep(text)
    whole = "".join(text for text, _, _ in written)
    heard.speech.finish("base", whole)
    assert heard.thought == heard.speech.thought == ""
    if written:
        assert heard.answer == heard.speech.answer == whole.strip()


@given(answer=TEXTS, stop=st.sampled_from(STOPS), more=TEXTS, cuts=CUTS)
def test_no_piece_of_a_stop_is_told(answer: str, stop: str, more: str, cuts: list[int]) -> None:
    """The engine writes up to the stop, which the trajectory then cuts off: whatever the cutting, none of it was told."""
    found = [(at, word) for word in STOPS if (at := (answer + stop + more).find(word)) >= 0]
    end, word = min((at + len(word), word) for at, word in found)
    written = (answer + stop + more)[:end]
    kept = written.removesuffix(word)
    heard = Heard(stops=STOPS)
    for at in sorted({min(cut, len(written) - 1) for cut in cuts}):
        heard.speech.growing("answer", "base", written[:at])
        assert kept.lstrip("\n").startswith(heard.answer)
    heard.speech.finish("base", kept)
    assert heard.answer == kept.lstrip("\n")


def test_a_stop_that_is_whole_is_not_told_either() -> None:
    """An engine that sends several tokens at once may say so before it says that it has ended."""
    heard = Heard(stops=("STOP", "END"))
    heard.speech.growing("answer", "base", "so: STOP")
    assert heard.answer == "so: "
    heard.speech.finish("base", "so: ")
    assert heard.answer == "so: "


@given(text=TEXTS, ends=st.lists(st.sampled_from(["ab", "</think>", "STOP", "\n\n", "P"]), max_size=3))
def test_held_back_is_the_least_that_may_begin_an_end(text: str, ends: list[str]) -> None:
    told = held_back(text, ends)
    held = text.removeprefix(told)
    assert text == told + held
    assert not held or any(end.startswith(held) for end in ends)
    assert not any(end.startswith(text[at:]) for end in ends for at in range(len(told)))


def test_white_space_at_the_end_of_a_step_is_told_with_the_next() -> None:
    heard = Heard()
    heard.keep("One.\n\n")
    assert heard.thought == "One."
    heard.keep("Two.\n\n")
    assert heard.thought == "One.\n\nTwo."


def test_each_piece_says_who_wrote_it() -> None:
    heard = Heard()
    heard.keep("One.\n\n", "small")
    heard.grow("Two.\n\n", [2, 4])
    heard.keep("Two.\n\n", "base", draft="Bad.")
    heard.speech.growing("answer", "base", "\n\nYes")
    found = [(event.by, event.text) for event in heard.events if isinstance(event, Thought | Answer)]
    assert found == [("small", "One."), ("base", "\n\nTw"), ("base", "o."), ("base", "Yes")]


def test_a_step_says_what_was_decided_about_it() -> None:
    heard = Heard()
    score = Score(probabilities=(0.0, 0.0, 1.0, *[0.0] * 7), label_mass=1.0)
    draft = Text(text="Bad.\n\n", tokens=4, ending="blank_line")
    step = Text(text="Good.\n\n", tokens=5, ending="blank_line")
    heard.speech.kept(Kept(step=step, by="base", draft=draft, judgement=Judgement(score=score), accepted=False))
    heard.speech.kept(Kept(step=step, by="base"))
    assert heard.speech.steps == [
        Step(n=1, by="base", text="Good.\n\n", tokens=5, score=2, accepted=False, draft="Bad.\n\n", draft_tokens=4),
        Step(n=2, by="base", text="Good.\n\n", tokens=5),
    ]


def test_a_text_that_comes_again_and_says_the_same_is_only_late() -> None:
    heard = Heard()
    heard.grow("Two and more.", [8])
    heard.grow("Two and more.", [3, 8, 10])
    heard.keep("Two and more.\n\n", "base")
    assert heard.thought == "Two and more."


@pytest.mark.parametrize("again", ["Two or less.\n\n", "Two\n\n", ""])
def test_a_text_that_comes_again_and_says_something_else_ends_it(again: str) -> None:
    """What was told cannot be taken back; that it was not so must not go unsaid."""
    heard = Heard()
    heard.grow("Two and more.", [8])
    with pytest.raises(RequestError, match="another text came"):
        heard.keep(again, "base")


@pytest.mark.parametrize("again", ["It is 4.", "It", ""])
def test_an_answer_that_comes_again_and_says_something_else_ends_it(again: str) -> None:
    heard = Heard()
    heard.keep(f"One.{TAG}")
    heard.speech.growing("answer", "base", "\n\nIt is 3")
    with pytest.raises(RequestError, match="another text came"):
        heard.speech.finish("base", again and f"\n\n{again}")
