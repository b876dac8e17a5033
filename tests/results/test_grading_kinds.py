"""The kinds of answers that graders get wrong, each with many of its members: those of this project, and those beside it."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_specreason.results.answers import final
from sgl_specreason.results.grading import grade
from sgl_specreason.results.mathematics.equality import same
from sgl_specreason.results.mathematics.quantities import unit
from sgl_specreason.results.numerals import decimal, integer

OURS = Path(__file__).with_name("grading_kinds.jsonl")
MISSES = 0  # of the cases beside the project that are right and refused: each would have its reason in eval/README.md


def cases(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, path.read_text(encoding="utf-8").splitlines())


def by_kind() -> dict[str, list[dict[str, Any]]]:
    kinds = defaultdict(list)
    for case in cases(OURS):
        kinds[f"{case['grader']}: {case['kind']}"].append(case)
    return kinds


KINDS = by_kind()


@pytest.mark.parametrize("kind", KINDS)
def test_every_member_of_a_kind_is_graded_as_it_should_be(kind: str) -> None:
    """Right answers in their many spellings, and beside them the wrong ones that a rule for these might let through."""
    wrong = [
        case for case in KINDS[kind] if grade(case["text"], case["gold"], case["grader"]).correct is not case["right"]
    ]
    assert wrong == []


def test_the_graded_answers_of_other_projects(shared_grading: Path) -> None:
    """952 real and probing answers: no wrong one counts, all that held before hold, and no more are refused than documented."""
    verdicts = Counter[str]()
    lost = []
    for case in cases(shared_grading / "cases.jsonl"):
        correct = grade(case["text"], case["gold"], case["grader"]).correct
        verdicts["right" if correct is case["right"] else "counted" if correct else "refused"] += 1
        if correct is not case["right"] and case["ours_ok"]:
            lost.append(case)
    assert (verdicts["counted"], lost) == (0, [])
    assert verdicts["refused"] <= MISSES
    assert verdicts.total() == 952


SPELLINGS = (
    "{}", "${}$", "\\text{{{}}}", "\\mathbf{{{}}}", "\\,{}\\,", "{}.", "**{}**", "({})", "{{{}}}", "+{}", "x={}", "{}^\\circ",
    "{}\\text{{ ways}}", "\\text{{The answer is }} {}", "\\left({}\\right)", "\\displaystyle {}", "~{}\\\\", "Answer: {}",
)  # fmt: skip


@given(st.integers(0, 999_999), st.integers(0, 999_999), st.sampled_from(SPELLINGS))
def test_an_integer_in_any_spelling_is_itself_and_no_other(number: int, other: int, spelling: str) -> None:
    assert integer(spelling.format(number)) == number
    assert decimal(spelling.format(number)) == number
    assert (integer(spelling.format(number)) == other) is (number == other)


@given(st.integers(1000, 10**12), st.sampled_from((",", "{,}", "\\,", "\\ ", " ", ",\\!", ",\\! ", "~", "\\;", "，")))
def test_thousands_may_be_set_apart_in_any_way(number: int, between: str) -> None:
    grouped = f"{number:,}".replace(",", between)
    assert integer(grouped) == number
    assert decimal(grouped) == number


@given(st.integers(1, 99), st.integers(0, 99), st.sampled_from((" ", "\\quad ", "~", "\\;", "\\ ")))
def test_two_numbers_side_by_side_are_none(first: int, second: int, between: str) -> None:
    assert integer(f"{first}{between}{second}") is None
    assert decimal(f"{first}{between}{second}") is None


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(0, 59), st.integers(1, 9), st.integers(0, 59))
def test_hours_and_minutes_are_equal_when_they_are_as_long(hours: int, minutes: int, others: int, rest: int) -> None:
    ours = f"{hours}\\text{{ hours }}{minutes}\\text{{ minutes}}"
    theirs = f"{others}\\text{{ h }}{rest}\\text{{ min}}"
    assert same(ours, theirs) is (60 * hours + minutes == 60 * others + rest)
    assert same(f"{60 * hours + minutes}\\text{{ minutes}}", ours)
    assert not same(ours, str(hours))


@settings(max_examples=40, deadline=None)
@given(st.integers(-40, 12), st.integers(1, 9_999), st.integers(1, 9_999))
def test_small_numbers_are_compared_as_exactly_as_large_ones(power: int, first: int, second: int) -> None:
    """3.3e-22 and 1.3e-27 were equal: both are 0 at six places."""
    ours, theirs = f"{first / 1000}\\times 10^{{{power}}}", f"{second}\\cdot10^{{{power - 3}}}"
    assert same(ours, theirs) is (first == second)
    assert same(f"{ours}x", f"{theirs}x") is (first == second)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 99), st.sampled_from("acdghklmnstwz"), st.sampled_from("acdghklmnstwz"))
def test_a_letter_after_a_number_is_no_unit(number: int, letter: str, other: str) -> None:
    assert same(f"{number}{letter}", f"{number}{other}") is (letter == other)
    assert not same(str(number), f"{number}{letter}")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=4, unique=True), st.randoms(use_true_random=False))
def test_a_list_has_no_order_and_a_tuple_has(numbers: list[int], shuffle: Any) -> None:
    shuffled = numbers.copy()
    shuffle.shuffle(shuffled)
    ours, theirs = ("{}".format(",".join(map(str, items))) for items in (numbers, shuffled))
    assert same(ours, theirs)
    assert same(f"\\{{{ours}\\}}", theirs)
    assert same(f"({ours})", f"({theirs})") is (numbers == shuffled)
    assert not same(f"\\{{{ours}\\}}", f"({theirs})")


def test_a_unit_has_one_spelling() -> None:
    assert unit("\\text{ m/s}^2") == unit("\\text{meters per second squared}") == (("m", 1), ("s", -2))
    assert unit("\\text{square feet}") == unit("\\text{ft}^2") == unit("\\text{ sq ft}") == (("ft", 2),)
    assert unit("\\text{feet}") != unit("\\text{ft}^2")


@pytest.mark.parametrize(
    ("text", "boxes", "by"),
    [
        ("\\boxed{2} and \\boxed{3}", ("2", "3"), ", "),
        ("$a=\\boxed{2}$, $b_1 = \\boxed{3}$", ("2", "3"), ", "),
        ("\\boxed{2}\n\n\\boxed{3}", ("2", "3"), ", "),
        ("\\boxed{2}. Then \\boxed{3}", ("3",), ", "),
        ("\\boxed{2} is wrong, \\boxed{3} is right", ("3",), ", "),
        ("\\boxed{2}, \\boxed{2}", ("2",), ", "),
        ("\\boxed{\\pi} \\approx \\boxed{3.14}", ("\\pi", "3.14"), " \\approx "),
        ("\\boxed{x} = \\fbox{y}", ("x", "y"), " = "),
        ("\\boxed{2} and \\boxed{3", (), ""),
        ("\\boxed\\frac{1}{2}.", ("\\frac{1}{2}",), ", "),
        ("\\framebox[1cm]{7}", ("7",), ", "),
    ],
)
def test_several_boxes_are_one_answer_where_nothing_else_is_between(text: str, boxes: tuple[str, ...], by: str) -> None:
    found = final(text)
    assert (found.boxes, found.by) == (boxes, by) if found else boxes == ()


def test_several_boxes_that_differ_are_no_letter_and_no_integer() -> None:
    assert not grade("\\boxed{A} or \\boxed{B}", "B", "letter").correct
    assert not grade("\\boxed{12} and \\boxed{13}", "13", "integer").correct
    assert grade("\\boxed{13}, that is, \\boxed{13}", "13", "integer").correct
