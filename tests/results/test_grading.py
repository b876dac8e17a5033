"""Answers found in model output, and what they equal."""

import json
import threading
import time
from pathlib import Path

import pytest

from sgl_specreason.plan.catalog import Grader
from sgl_specreason.results import math_worker
from sgl_specreason.results.answers import final
from sgl_specreason.results.grading import LONGEST_MATH, grade

BOXES = [
    ("so \\boxed{4}", "4"),
    ("\\boxed{1} then \\boxed{2}", "2"),
    ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
    ("\\boxed {7}", "7"),
    ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
    ("\\boxed{1 \\\\}", "1 \\\\"),
    ("\\boxed{a}{b}", "a"),
    ("<think>\\boxed{1}</think>The answer is \\boxed{2}", "2"),
    ("<think>\\boxed{1}</think>no box", None),
    ("<think>\\boxed{1} and so on", None),
    ("\\boxed{1} and \\boxed{2", None),
    ("\\boxed", None),
    ("\\boxed 5", "5"),
    ("", None),
]


@pytest.mark.parametrize(("text", "box"), BOXES)
def test_the_last_balanced_box_after_the_thought_is_the_answer(text: str, box: str | None) -> None:
    found = final(text)
    assert (None if found is None else "".join(found.boxes)) == box


EXACT: list[tuple[str, str, Grader, bool]] = [
    ("025", "25", "integer", True),
    ("25", "025", "integer", True),
    ("-3", "3", "integer", False),
    ("1,234", "1234", "integer", True),
    ("12,34", "1234", "integer", False),
    ("24.0", "24", "integer", False),
    ("x", "24", "integer", False),
    ("C", "C", "letter", True),
    ("(C)", "C", "letter", True),
    ("\\text{C}", "C", "letter", True),
    ("\\textbf{(C)}", "C", "letter", True),
    ("C: the third", "C", "letter", True),
    ("C) the third", "C", "letter", True),
    ("C.", "C", "letter", True),
    ("B", "C", "letter", False),
    ("CD", "C", "letter", False),
    ("Carbon", "C", "letter", False),
    ("C and D", "C", "letter", False),
    ("", "C", "letter", False),
    ("18", "2 + 16 = <<2+16=18>>18\n#### 18", "number", True),
    ("\\$18.00", "#### 18", "number", True),
    ("1,800 dollars", "#### 1,800", "number", True),
    ("18\\text{ km}", "#### 18", "number", True),
    ("-5", "#### -5", "number", True),
    ("5", "#### -5", "number", False),
    ("18 or 19", "#### 18", "number", False),
    ("eighteen", "#### 18", "number", True),
]


@pytest.mark.parametrize(("box", "gold", "grader", "correct"), EXACT)
def test_exact_graders(box: str, gold: str, grader: Grader, correct: bool) -> None:
    assert grade(f"<think>\\boxed{{7}}</think>\\boxed{{{box}}}", gold, grader).correct is correct


SAME = "math-verify's answer"
# answer, gold, whether we call it right, and why where math-verify 0.9 would say otherwise
HARD: list[tuple[str, str, bool, str]] = [
    # intervals and inequalities
    ("(1,2]", "(1,2]", True, SAME),
    ("(1,2)", "[1,2]", False, SAME),
    ("[1,2)", "(1,2)", False, SAME),
    ("x\\in[0,1]", "[0,1]", True, SAME),
    ("[0,1]\\cup[2,3]", "[2,3]\\cup[0,1]", True, SAME),
    ("\\left[\\frac{1}{2},1\\right]", "[0.5,1]", True, SAME),
    ("(-\\infty,3)", "x<3", True, SAME),
    (
        "x \\ge 3",
        "[3,\\infty)",
        True,
        "an inequality says the same as its interval, whichever of them is the gold answer",
    ),
    ("1 \\le x \\le 2", "[1,2]", True, "as above"),
    ("x<3", "x>3", False, SAME),
    ("3 \\le x", "x \\ge 3", True, SAME),
    # sets, lists, ordered pairs
    ("\\{1,2\\}", "\\{2,1\\}", True, SAME),
    ("1,2", "2,1", True, SAME),
    ("1,2", "\\{1,2\\}", True, SAME),
    ("\\pm 2", "2,-2", True, SAME),
    ("5\\text{ or }-5", "\\pm5", True, SAME),
    ("2 \\text{ and } 3", "2,3", True, SAME),
    ("2,3", "2,3,4", False, SAME),
    ("2,3", "23", False, SAME),
    ("(3,5)", "(5,3)", False, SAME),
    ("2,1", "(1,2)", False, SAME),
    ("\\{3,5\\}", "(3,5)", False, "a set is neither an ordered pair nor an interval"),
    ("(3,\\frac{\\pi}{2})", "\\left(3,\\frac{\\pi}{2}\\right)", True, SAME),
    ("x=2,y=3", "(2,3)", True, SAME),
    ("\\emptyset", "\\{\\}", True, SAME),
    # matrices
    ("\\begin{bmatrix}1\\\\2\\end{bmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", True, SAME),
    (
        "\\begin{pmatrix} -1/3 \\\\ 2/3 \\end{pmatrix}",
        "\\begin{pmatrix} -\\frac13 \\\\ \\frac23 \\end{pmatrix}",
        True,
        SAME,
    ),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1&2\\\\3&5\\end{pmatrix}", False, SAME),
    ("(1,2)", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", False, SAME),
    # units, money, percent, degrees
    ("10\\text{ cm}", "10", True, SAME),
    ("4\\sqrt{3}\\text{ cm}^2", "4\\sqrt{3}", True, SAME),
    ("5\\text{ km}", "5\\text{ m}", False, "both state a unit, and not the same one"),
    ("5\\text{ cm}^2", "5\\text{ cm}^3", False, "as above"),
    ("5\\text{ hours}", "5\\text{ hour}", True, SAME),
    ("\\$32", "32", True, SAME),
    ("\\$1.50", "1.5", True, SAME),
    ("10\\%", "10", True, SAME),
    ("50\\%", "\\frac12", True, SAME),
    ("20", "0.2", False, SAME),
    ("90^\\circ", "90", True, SAME),
    ("90^{\\circ}", "90^\\circ", True, SAME),
    ("\\frac{\\pi}{2}", "90^\\circ", False, SAME),
    # fractions, mixed numbers, decimals
    ("\\dfrac{3}{4}", "\\frac34", True, SAME),
    ("3/4", "\\frac{3}{4}", True, SAME),
    ("\\frac12", "0.5", True, SAME),
    (".5", "0.5", True, SAME),
    ("\\tfrac{a}{b}", "\\frac ab", True, "\\frac takes two tokens without braces as well"),
    ("1\\frac{1}{2}", "\\frac32", True, SAME),
    ("1 1/2", "\\frac32", True, "a mixed number in plain text; math-verify reads a 1"),
    ("-1\\frac{1}{2}", "-\\frac{3}{2}", True, SAME),
    ("\\frac{1}{-2}", "-0.5", True, SAME),
    ("0.333", "\\frac13", False, SAME),
    ("0.3333333333", "\\frac13", True, SAME),
    ("32.00", "32", True, SAME),
    ("1.0000001", "1", False, SAME),
    # large numbers and powers
    ("10{,}000", "10000", True, SAME),
    ("1,\\!234,\\!567", "1234567", True, SAME),
    ("10000000000000001", "10000000000000000", False, SAME),
    ("2^{10}", "1024", True, SAME),
    ("1.5e3", "1500", True, "a calculator's notation; math-verify reads 1.5 times Euler's number times 3"),
    ("1.5\\times10^3", "1500", True, SAME),
    ("5!", "120", True, SAME),
    # roots and expressions
    ("\\sqrt{8}", "2\\sqrt2", True, SAME),
    ("\\frac{1}{\\sqrt2}", "\\frac{\\sqrt2}{2}", True, SAME),
    ("11\\sqrt{2}", "11\\sqrt{3}", False, SAME),
    ("x^2-1", "(x-1)(x+1)", True, SAME),
    ("p - q", "q - p", False, SAME),
    ("6 - 5i", "-5i+6", True, SAME),
    # equations
    ("x=5", "5", True, SAME),
    ("5", "x=5", True, SAME),
    ("3x-2", "y=3x-2", True, SAME),
    ("-2x-3y+z-5=0", "2x+3y-z+5=0", True, SAME),
    ("4x+6y-2z+10=0", "2x+3y-z+5=0", True, SAME),
    ("0", "2x+3y-z+5=0", False, SAME),
    ("0", "x+y=0", False, "the right side of an equation is not an answer to it; math-verify takes it for one"),
    # words, choices, bases
    ("\\text{Evelyn}", "Evelyn", True, SAME),
    ("\\text{Monday}", "\\text{monday}", True, SAME),
    ("\\text{odd}", "\\text{even}", False, SAME),
    ("\\text{(C)}", "\\text{C}", True, SAME),
    ("1011_2", "1011", True, SAME),
    ("1011_{2}", "1011_2", True, SAME),
    ("1011_2", "11", False, SAME),
    ("30_4", "30_5", False, "the same digits in another base are another number"),
    ("", "4", False, SAME),
]


@pytest.mark.parametrize(("answer", "gold", "correct", "why"), HARD, ids=[f"{a} | {g}" for a, g, *_ in HARD])
def test_hard_pairs(answer: str, gold: str, correct: bool, why: str) -> None:
    assert grade(f"\\boxed{{{answer}}}", gold, "math").correct is correct, why


def test_where_the_reason_is_ours_math_verify_differs() -> None:
    """The table's reasons stay true: a newer math-verify that agrees makes the rule superfluous."""
    from math_verify import parse, verify

    for answer, gold, correct, why in HARD:
        if why != SAME and "as above" not in why:
            found, wanted = parse(f"\\boxed{{{answer}}}"), parse(f"\\boxed{{{gold}}}")
            assert bool(verify(wanted, found)) is not correct, (answer, gold)
    assert len(HARD) >= 60


def test_every_gold_answer_of_math500_agrees_with_its_own_solution(shared_data: Path) -> None:
    """500 of 500: as text, and also when the solution's box is spelt so that math-verify has to decide."""
    rows = [json.loads(line) for line in (shared_data / "math500.jsonl").read_text().splitlines()]
    wrong = [row["unique_id"] for row in rows if not grade(row["solution"], row["answer"], "math").correct]
    assert (len(rows), wrong) == (500, [])


def test_no_box_is_no_answer() -> None:
    verdict = grade("It is 4.", "4", "math")
    assert (verdict.correct, verdict.answer) == (False, None)


def test_gsm8ks_own_ending_is_an_answer_where_there_is_no_box() -> None:
    assert grade("so 2 + 16 = 18\n#### 18", "#### 18", "number").correct


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["9^{9^{9^{9}}}", "(10^{10})!-(10^{9})!"])
def test_a_comparison_that_never_ends_is_ended_and_the_next_one_works(tower: str) -> None:
    worker = math_worker.Worker()
    begin = time.monotonic()
    assert worker.equal(tower, "5") in [(False, "timeout"), (False, "failed")]
    assert time.monotonic() - begin < 60
    assert worker.equal("\\frac{1}{2}", "0.5") == (True, "math-verify")


def test_a_worker_that_died_is_replaced() -> None:
    worker = math_worker.Worker()
    assert worker.equal("x+1", "1+x") == (True, "math-verify")
    assert worker._process is not None
    worker._process.kill()
    worker._process.wait()
    assert worker.equal("x+1", "2+x") == (False, "math-verify")


def test_a_very_long_box_costs_nothing() -> None:
    verdict = grade("\\boxed{" + "(" * LONGEST_MATH + "x}", "x", "math")
    assert (verdict.correct, verdict.grader) == (False, "text")


def test_grading_needs_no_main_thread() -> None:
    """math-verify alone would refuse: its timers are signals."""
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(grade("\\boxed{\\frac{2}{4}}", "0.5", "math")))
    thread.start()
    thread.join()
    assert verdicts[0].correct
    assert verdicts[0].grader == "math-verify"
