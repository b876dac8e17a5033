"""Where steps end and how text is cut."""

from hypothesis import given
from hypothesis import strategies as st

from sgl_specreason.text.steps import Step, Written, pieces, read_step, wants_more

TEXT = st.text(alphabet=st.sampled_from("ab.\n <>/think\r\x00\u202e\u2028\ufffd\ud800"), max_size=80)
TAGGED = st.lists(st.sampled_from(["a", "<", "</", "</think>", "think>", "\n", "\n\n"]), max_size=8).map("".join)


@given(TEXT)
def test_pieces_join_to_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text


@given(TEXT, TEXT)
def test_pieces_of_a_text_that_ends_with_a_blank_line_stay(before: str, after: str) -> None:
    """The property that keeps ids a prefix: appending never changes an earlier piece."""
    before += "\n\n" if len(before) - len(before.rstrip("\n")) in (0, 1) else ""
    first = pieces(before)
    if first[-1].endswith("\n\n"):
        assert pieces(before + after)[: len(first)] == first


@given(TEXT, st.integers(0, 20), st.sampled_from(["stop", "length"]))
def test_a_step_is_a_prefix_that_ends_at_its_first_stop(text: str, tokens: int, finish: str) -> None:
    step = read_step(Written(text, "v", (1, 2)), tokens, finish, "</think>")
    assert text.startswith(step.text)
    assert [part.text for part in step.parts] == [step.text]
    assert step.parts[0].ids == ((1, 2) if step.text == text else ())  # the ids are those of the whole text
    ends = [i + len(w) for w in ("\n\n", "</think>") if (i := text.find(w)) >= 0]
    assert len(step.text) == min(ends, default=len(text))
    assert (step.ending in ("blank_line", "think_end")) == bool(ends)


@given(TAGGED, TAGGED)
def test_a_think_tag_may_begin_before_the_step(before: str, text: str) -> None:
    """The thought ends where it would have ended in one piece, if no blank line comes first."""
    before = before.replace("</think>", "")
    if "</think>" in before:
        return
    step = read_step(Written(text), 9, "stop", "</think>", before=before)
    thought, blank = (before + text).find("</think>"), text.find("\n\n")
    ends = thought >= 0 and (blank < 0 or thought < len(before) + blank)
    assert (step.ending == "think_end") == ends
    assert not ends or before + step.text == (before + text)[: thought + len("</think>")]
    assert text.startswith(step.text)


@given(st.lists(st.tuples(TEXT, st.integers(1, 9)), min_size=1), st.integers(0, 30), st.integers(1, 50))
def test_pieces_that_are_joined_come_to_an_end(said: list[tuple[str, int]], least: int, room: int) -> None:
    """Whatever is written, blank or not: no longer than there is room, since every piece costs a token."""
    step, count = None, 0
    while step is None or wants_more(step, min_step_tokens=least, room=room):
        text, tokens = said[count % len(said)]
        piece = read_step(Written(text), min(tokens, room), "length", "</think>")
        step = step.joined(piece) if step else piece
        room -= piece.tokens
        count += 1
    assert room >= 0
    assert count <= 50


def test_a_think_tag_before_a_blank_line_ends_the_thought() -> None:
    step = read_step(Written("So 4.\n</think>\n\nThe"), 9, "stop", "</think>")
    assert (step.text, step.ending, step.ends_thought) == ("So 4.\n</think>", "think_end", True)


def test_a_cut_step_gets_no_invented_blank_line() -> None:
    step = read_step(Written("So we"), 2, "length", "</think>")
    assert (step.text, step.ending, step.ends_thought) == ("So we", "cap", False)


def test_the_end_of_the_sequence_ends_the_thought() -> None:
    assert read_step(Written(""), 1, "stop", "</think>").ending == "eos"


def test_blank_and_short_pieces_are_joined_only_while_there_is_room() -> None:
    blank = Step(text="\n\n", tokens=1, ending="blank_line")
    short = Step(text="a\n\n", tokens=2, ending="blank_line")
    ended = Step(text="a</think>", tokens=2, ending="think_end")
    assert wants_more(blank, min_step_tokens=0, room=5)
    assert not wants_more(blank, min_step_tokens=0, room=0)
    assert wants_more(short, min_step_tokens=3, room=5)
    assert not wants_more(short, min_step_tokens=2, room=5)
    assert not wants_more(ended, min_step_tokens=9, room=5)


def test_joined_steps_add_up() -> None:
    joined = Step(text="a\n\n", tokens=2, ending="blank_line").joined(Step(text="b", tokens=1, ending="cap"))
    assert (joined.text, joined.tokens, joined.ending) == ("a\n\nb", 3, "cap")
    assert [part.text for part in joined.parts] == ["a\n\n", "b"]
