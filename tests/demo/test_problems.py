"""The generated problems: right answers, a split without overlap, a checker of steps."""

import importlib.util
import random
import sys

from checkout import ROOT
from hypothesis import given
from hypothesis import strategies as st

from sgl_specreason.demo.problems import CONCLUSION, Problem, problems, random_problem, step_text

SEEDS = st.integers(0, 10_000)


def of(seed: int) -> Problem:
    return random_problem(random.Random(seed))


@given(SEEDS)
def test_a_solution_is_right_by_its_own_checker_and_by_plain_arithmetic(seed: int) -> None:
    problem = of(seed)
    value = problem.start
    for op, step in zip(problem.ops, problem.solution, strict=False):
        if op.kind == "swap":
            value = int(f"{value:02d}"[::-1])
        else:
            value = {"add": value + op.operand, "subtract": value - op.operand, "multiply": value * op.operand}[op.kind]
            value %= 100
        assert step.endswith(f" {value:02d}.")
    assert problem.answer == f"{value:02d}"
    for index, step in enumerate(problem.solution):
        assert problem.step_is_right(problem.solution[:index], step + "\n\n")


@given(SEEDS, st.integers(0, 7), st.integers(1, 99))
def test_a_wrong_result_is_wrong_and_a_step_that_goes_on_from_it_is_right(seed: int, at: int, off: int) -> None:
    problem = of(seed)
    at %= len(problem.ops)
    steps = problem.solution[:-1]
    wrong = (problem.values[at + 1] + off) % 100
    steps[at] = steps[at][:-3] + f"{wrong:02d}."
    assert not problem.step_is_right(steps[:at], steps[at])
    after = [*steps[: at + 1]]
    value = wrong
    for index in range(at + 1, len(problem.ops)):
        op = problem.ops[index]
        step = step_text(index + 1, op, value, op.apply(value))
        assert problem.step_is_right(after, step)
        value = op.apply(value)
        after.append(step)
    assert problem.step_is_right(after, CONCLUSION.format(value=value) + "\n</think>")
    assert not problem.step_is_right(after, CONCLUSION.format(value=(value + 1) % 100))


def test_the_split_is_a_function_of_the_problem_and_the_sets_do_not_meet() -> None:
    """Training rejects every problem whose hash says "test"; the bench has no other ones."""
    test, train = problems("test", 200), problems("train", 2000)
    assert len({p.text for p in test}) == 200
    assert {p.split for p in test} == {"test"}
    assert {p.split for p in train} == {"train"}
    assert not {p.text for p in test} & {p.text for p in train}


def test_the_bench_is_the_same_on_every_machine() -> None:
    first = problems("test", 200)[0]
    assert first.split == of(0).split or first.text != of(0).text
    assert problems("test", 5) == problems("test", 200)[:5]


def test_training_draws_no_problem_of_the_test_split() -> None:
    """What `tools/train_demo.py` trains on, and not only what the split says."""
    path = ROOT / "tools" / "train_demo.py"
    spec = importlib.util.spec_from_file_location("train_demo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_demo"] = module
    spec.loader.exec_module(module)
    drawn = module.random_chains(random.Random(0), 500)
    assert {problem.split for problem in drawn} == {"train"}
    test = {problem.text for problem in problems("test", 200)}
    assert not test & {problem.text for problem in drawn}
    for problem in drawn[:100]:
        before: list[str] = []
        for step in module.judged_steps(random.Random(1), problem, 0.5):
            assert problem.step_is_right(before, step.text) == (step.score >= 7)
            before.append(step.text)


def test_a_step_after_the_last_one_is_wrong_and_not_an_error() -> None:
    problem = problems("test", 1)[0]
    *steps, conclusion = problem.solution
    assert problem.step_is_right(steps, conclusion)
    assert not problem.step_is_right([*steps, steps[-1]], steps[-1])
