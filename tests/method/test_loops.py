"""When a thought goes round in circles, and when it only repeats itself."""

import time
from itertools import cycle, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loops_defined import goes_round, paragraphs

from sgl_specreason.method import loops
from sgl_specreason.method.loops import Loops
from sgl_specreason.text.steps import pieces

WORDS = st.lists(st.sampled_from(["a", "b", "cc", "a  ", "\na", "", "c\nc"]), max_size=60)


@given(WORDS)
def test_a_loop_is_what_the_definition_says_at_every_step(said: list[str]) -> None:
    """With smaller numbers, so that there are loops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "LEAST_CHARACTERS", 9)
        patch.setattr(loops, "LEAST_PIECES", 12)
        watching, so_far = Loops(), ""
        for words in said:
            so_far += f"{words}\n\n"
            assert watching.add(f"{words}\n\n") == goes_round(paragraphs(so_far))


@given(st.lists(st.text(max_size=30), min_size=1, max_size=8), st.integers(1, 40))
def test_a_thought_in_one_piece_is_judged_as_if_it_had_grown(said: list[str], times: int) -> None:
    whole = [f"{words}\n\n" for words in said] * times
    watching = Loops()
    found = [watching.add(step) for step in whole]
    assert Loops().add("".join(whole)) == found[-1]


LINE = "So we look at this case once more, which is just like the one before it, and find the same."


@pytest.mark.parametrize("length", range(1, 17))
def test_the_same_steps_for_ever_are_a_loop_after_a_few_rounds(length: int) -> None:
    """A A A, A B A B, and longer cycles; not before the fourth round."""
    watching = Loops()
    steps = islice(cycle(f"{LINE} {number}\n\n" for number in range(length)), 20 * length)
    first = next(number for number, step in enumerate(steps, 1) if watching.add(step))
    assert 4 * length <= first <= max(4 * length, length + 7)


REPEATED = {
    "a word": "Wait.\n\n" * 100,
    "two words in turn": "Hmm.\n\nWait.\n\n" * 60,
    "zeros": "0\n\n" * 199,
    "rules": "---\n\n" * 150,
    "one answer for each of many cases": "No.\n\n" * 150,
    "a table": "".join(f"{n} | 0 | 0\n\n" for n in range(300)),
    "cases that differ in a number": "".join(f"n = {n}: it is not a square, so we go on.\n\n" for n in range(300)),
    "a check that is made three times": "".join(f"{LINE} {step}\n\n" for step in range(6)) * 3,
    "a line between others": "".join(f"{LINE}\n\nCase {n}.\n\n" for n in range(100)),
    "lines in one paragraph": "Wait.\n" * 1000,
    "nothing": "\n\n" * 1000,
}


@pytest.mark.parametrize("text", REPEATED.values(), ids=REPEATED)
def test_what_is_repeated_with_reason_is_no_loop(text: str) -> None:
    watching = Loops()
    assert not any(watching.add(piece) for piece in pieces(text))


RUNS = {
    "a tiny step, very often": "0\n\n" * 201,
    "two tiny steps in turn": "0\n\n1\n\n" * 101,
    "with other white space": "".join(f"{LINE.replace(' ', ' ' * (1 + n % 3))}\n\n\n\n" for n in range(9)),
    "with blank steps between": f"{LINE}\n\n\n\n \n\n" * 9,
    "with an unfinished last one": f"{LINE}\n\n" * 9 + LINE[:20],
}


@pytest.mark.parametrize("text", RUNS.values(), ids=RUNS)
def test_what_never_ends_is_a_loop(text: str) -> None:
    assert Loops().add(text)


def test_a_thought_that_finds_its_way_out_is_in_no_loop() -> None:
    assert not Loops().add(f"{LINE}\n\n" * 9 + "But no, it is 4.\n\n")


def test_a_step_costs_the_same_however_long_the_thought_is() -> None:
    watching = Loops()
    begin = time.process_time()
    for number in range(20_000):
        watching.add(f"{LINE} {number % 17} {number // 289}\n\n")
    assert time.process_time() - begin < 2


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4), st.integers(1, 40), st.integers(1, 60))
def test_it_does_not_matter_where_a_text_is_cut(said: list[str], times: int, size: int) -> None:
    """A limit of tokens may fall into a paragraph: what is seen of it later belongs to it."""
    text = "".join(f"{words}\n\n" for words in said) * times
    whole, cut = Loops(), Loops()
    found = [cut.add(text[at : at + size]) for at in range(0, len(text), size)]
    last = whole.add(text)
    assert found[-1] in (last, False)  # nothing is over in the last part of a paragraph
    assert cut.add("") is False
    assert cut.add(f"{said[-1]}\n\n") == whole.add(f"{said[-1]}\n\n")
