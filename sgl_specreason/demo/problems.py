"""Owns the problems of `--bench demo`: their generator, their split and what makes a step right.

Knows no model, tokenizer or engine. A problem is a chain of operations on a two-digit number,
modulo 100; swapping digits is easy for a tiny model, multiplying is hard.
"""

import hashlib
import random
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Kind = Literal["add", "subtract", "multiply", "swap"]
KINDS: tuple[Kind, ...] = ("add", "subtract", "multiply", "swap")
SIGNS: dict[Kind, str] = {"add": "+", "subtract": "-", "multiply": "*"}
CONCLUSION = "No steps are left, so the result is {value:02d}."
_STEP = re.compile(r"Step \d+: .* (\d\d)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operation; `operand` is 0..99, 3..9 for `multiply` and unused (0) for `swap`."""

    kind: Kind
    operand: int = 0

    def apply(self, value: int) -> int:
        """The result, 0..99, of this operation on `value`, 0..99."""
        match self.kind:
            case "add":
                return (value + self.operand) % 100
            case "subtract":
                return (value - self.operand) % 100
            case "multiply":
                return value * self.operand % 100
            case "swap":
                return value % 10 * 10 + value // 10

    @property
    def wording(self) -> str:
        """How the problem asks for it, and how a step begins."""
        return "swap" if self.kind == "swap" else f"{SIGNS[self.kind]}{self.operand}"

    def working(self, value: int, result: int) -> str:
        """How a step says what becomes of `value`."""
        if self.kind == "swap":
            return f"{value:02d} -> {result:02d}"
        return f"{value:02d} {SIGNS[self.kind]} {self.operand} = {result:02d}"


def step_text(number: int, op: Op, value: int, result: int) -> str:
    """The text of step `number` (1-based) without its blank line."""
    return f"Step {number}: {op.wording}. {op.working(value, result)}."


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A start value (0..99) and the operations to apply to it in order."""

    start: int
    ops: tuple[Op, ...]

    @cached_property
    def text(self) -> str:
        """What the model is asked."""
        listed = " ".join(f"{i}: {op.wording}." for i, op in enumerate(self.ops, 1))
        return f"Work with two digits, modulo 100. Start from {self.start:02d}. {listed} What is the result?"

    @property
    def values(self) -> list[int]:
        """The value before the first step, and after each one (length: number of steps + 1)."""
        values = [self.start]
        for op in self.ops:
            values.append(op.apply(values[-1]))
        return values

    @property
    def answer(self) -> str:
        return f"{self.values[-1]:02d}"

    @property
    def solution(self) -> list[str]:
        """The right steps, conclusion included, without blank lines."""
        values = self.values
        steps = [step_text(i + 1, op, values[i], values[i + 1]) for i, op in enumerate(self.ops)]
        return [*steps, CONCLUSION.format(value=values[-1])]

    @property
    def split(self) -> Literal["train", "test"]:
        """One problem in ten is for testing: a hash of its text decides, so none is in both."""
        digest = hashlib.sha256(self.text.encode()).digest()
        return "test" if digest[0] % 10 == 0 else "train"

    def step_is_right(self, before: list[str], step: str) -> bool:
        """Whether `step` follows from the last value that the steps `before` it state.

        Earlier mistakes are not held against it: a step that goes on correctly from a wrong value is right.
        Text that is not a step of this problem is wrong.
        """
        stated = [m for text in before if (m := _STEP.search(text))]
        value = int(stated[-1][1]) if stated else self.start
        if len(stated) >= len(self.ops):
            expected = CONCLUSION.format(value=value)
        else:
            op = self.ops[len(stated)]
            expected = step_text(len(stated) + 1, op, value, op.apply(value))
        return step.split("</think>")[0].strip() == expected


def random_problem(rng: random.Random, *, steps: tuple[int, int] = (4, 8)) -> Problem:
    """A problem with a uniform number of operations between the two bounds, both included; half of the numbers have one digit."""
    ops = []
    for _ in range(rng.randint(*steps)):
        kind = rng.choice(KINDS)
        number = rng.randint(1, 9) if rng.random() < 0.5 else rng.randint(10, 99)
        operand = {"swap": 0, "multiply": rng.randint(3, 9)}.get(kind, number)
        ops.append(Op(kind=kind, operand=operand))
    return Problem(start=rng.randint(0, 99), ops=tuple(ops))


def problems(
    split: Literal["train", "test"], count: int, *, seed: int = 0, steps: tuple[int, int] = (4, 8)
) -> list[Problem]:
    """`count` different problems of one split; the same for the same seed, on every machine."""
    rng = random.Random(f"{split}-{seed}")
    found: dict[str, Problem] = {}
    while len(found) < count:
        problem = random_problem(rng, steps=steps)
        if problem.split == split:
            found[problem.text] = problem
    return list(found.values())
