"""Owns the SGL program that has one labelled solution judged step by step. Knows no files, and no labels.

Each engine's context only grows: a step's judgement is computed over what the step before has left in the cache.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.errors import RequestError
from sgl_specreason.judging.asking import Asking, said
from sgl_specreason.method.program import assess
from sgl_specreason.method.score import DIGITS, Judgement, Score
from sgl_specreason.method.states import fork
from sgl_specreason.method.trajectory import Trajectory
from sgl_specreason.text.steps import BLANK_LINE, Author, Step

DECISIONS = "/v1/decisions"
Answers = dict[str, dict[str, Any]]
"""What each judge said of a step, by the name of the asking."""


@dataclass(slots=True, kw_only=True)
class Solution:
    """A labelled solution on its way through the engines.

    `texts` are its steps, `hear` is told each one's number and answers, and says whether to go on. `views` are what the judges
    are given, by the name of the asking. Steps before `begin` have been judged and are only read. Who is asked first of the first
    step is the asking of this `turn`.
    """

    problem: str
    texts: Sequence[str]
    closes: bool
    askings: Sequence[Asking]
    views: dict[str, Trajectory]
    hear: Callable[[int, Answers], bool]
    begin: int = 0
    turn: int = 0
    engines: dict[Author, Endpoint] = field(default_factory=dict)

    def steps(self, think_end: str) -> list[Step]:
        """As a model would have written them."""
        found = []
        for number, text in enumerate(self.texts):
            last = self.closes and number == len(self.texts) - 1 and bool(think_end)
            ending = f"\n{think_end}" if last else BLANK_LINE  # on a line of its own, or the tag itself is unlikely
            found.append(Step(text=text.strip("\n") + ending, tokens=1, ending="think_end" if last else "blank_line"))
        return found


@sgl.function  # type: ignore[untyped-decorator]
def judged(s: ProgramState, trajectory: Trajectory, solution: Solution) -> None:
    """Every judge on every step, one after the other: which of them is asked first goes round, for it pays for the step."""
    t = trajectory
    states = {role: fork(s, engine) for role, engine in solution.engines.items()}
    for role, state in states.items():
        state += t.texts.prompts[role]
    steps = solution.steps(t.texts.think_end)
    for number, step in enumerate(steps):
        if number >= solution.begin:
            answers: Answers = {}
            paid: set[str] = set()  # whoever is asked first of an engine has the step computed
            turn = (solution.turn + number) % len(solution.askings)
            for asking in (*solution.askings[turn:], *solution.askings[:turn]):
                whose = DECISIONS if asking.judging == "decisions" else asking.engine
                answers[asking.name] = _asked(states, asking, step, solution, number) | {"first": whose not in paid}
                paid.add(whose)
            if not solution.hear(number, answers):
                return
        for state in states.values():
            state += step.text
        t.contexts.kept.extend(step.parts)


def _asked(
    states: dict[Author, ProgramState], asking: Asking, step: Step, solution: Solution, number: int
) -> dict[str, Any]:
    if asking.judging == "decisions":
        return decided(solution.engines["base"], asking, solution.problem, solution.texts[: number + 1])
    view = solution.views[asking.name]
    judgement = assess(states[asking.engine], step, view)
    if judgement is None:
        raise RequestError(f"{asking.name}: an empty step cannot be judged")
    return said(judgement, view.calls.pop().account)


def decided(engine: Endpoint, asking: Asking, problem: str, steps: Sequence[str]) -> dict[str, Any]:
    """The same question through SGLang's own route, which frames it in words of its own. Raises RequestError."""
    question = {
        "id": "step", "type": "score", "question": asking.prompts["judge"].text, "levels": list(DIGITS),
    }  # fmt: skip
    data = {"input": BLANK_LINE.join([problem, *steps]), "questions": [question]}
    start = time.monotonic()
    content = engine.transport.call("POST", DECISIONS, data, patient=True).content
    seconds = time.monotonic() - start
    try:
        answer = content["answers"]["step"]
        mass = float(answer["label_mass"])
        given = [float(answer["probabilities"][digit]) for digit in DIGITS]
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"base: {DECISIONS} answered without a digit's probability: {error}") from None
    total = sum(given) or 1.0
    score = Score(probabilities=tuple(p / total for p in given), label_mass=min(mass, 1.0))
    tokens = (content.get("usage") or {}).get("prompt_tokens") or 0
    return Judgement(score=score).record() | {"seconds": round(seconds, 4), "prompt_tokens": tokens}


def run(trajectory: Trajectory, solution: Solution, contents: dict[Author, Sequence[slice]]) -> None:
    """Has a solution judged. Raises RequestError where a request failed."""
    for role, engine in solution.engines.items():
        engine.begin(trajectory.contexts, trajectory.texts.prompts[role], contents[role])
    backend = next(iter(solution.engines.values()))
    judged.run(trajectory=trajectory, solution=solution, backend=backend, use_thread=False)
