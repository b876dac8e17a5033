"""Owns what a replay is made of: how many tokens each step, draft and answer had, and which drafts were kept. Knows no engines.

A trace comes from a run folder, from numbers of real runs that somebody published, or from a generator that draws on these.
"""

import hashlib
import itertools
import json
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from sgl_specreason.errors import RecordError, UsageError
from sgl_specreason.plan import traces
from sgl_specreason.results.lines import Finished, Record, Step
from sgl_specreason.results.summary import Run, load_runs
from sgl_specreason.text.steps import pieces

DRAFTING = ("specreason", "random", "always")
SHORTEST_STEP, LONGEST_STEP = 8, 512
"""Of a step that is not recorded as one: as the default preset joins and cuts them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedStep:
    """Tokens of small's draft and of base's own version of a step, and whether the draft is kept; None: not known."""

    draft: int
    regenerated: int
    accepted: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedProblem:
    """One trajectory: tokens of its prompt and answer, and its steps, of which the last one ends the thought."""

    id: str
    prompt: int
    steps: tuple[TracedStep, ...]
    answer: int

    @property
    def most(self) -> int:
        """The most thinking tokens that it can have kept, whatever is accepted."""
        return sum(max(step.draft, step.regenerated) for step in self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Trajectories to replay. `name` is for folders, `origin` for people; base writes the first `first_n` steps unasked."""

    name: str
    origin: str
    problems: tuple[TracedProblem, ...]
    first_n: int = 0

    @property
    def verdicts(self) -> list[bool | None]:
        """What became of each draft, in order."""
        return [step.accepted for problem in self.problems for step in problem.steps[self.first_n :]]

    @property
    def sha256(self) -> str:
        """A hash of all lengths, whatever is accepted: the same work for base."""
        lengths = [
            (p.id, p.prompt, [(step.draft, step.regenerated) for step in p.steps], p.answer) for p in self.problems
        ]
        return hashlib.sha256(json.dumps([lengths, self.first_n]).encode()).hexdigest()

    def accepting(self, share: float, seed: int) -> "Trace":
        """This trace with that share of its drafts kept, as near as whole drafts allow, at random places.

        What is kept at one share is kept at every larger one, so that shares compare.
        """
        places = [(p.id, at) for p in self.problems for at in range(self.first_n, len(p.steps))]
        random.Random(f"verdicts {seed}").shuffle(places)
        kept = frozenset(places[: round(share * len(places))])
        problems = (
            replace(
                p,
                steps=tuple(
                    step if at < self.first_n else replace(step, accepted=(p.id, at) in kept)
                    for at, step in enumerate(p.steps)
                ),
            )
            for p in self.problems
        )
        return replace(self, problems=tuple(problems))

    def limited(self, limit: int | None) -> "Trace":
        """The first `limit` problems of it."""
        return replace(self, problems=self.problems[:limit])

    def shortened(self, steps: int | None) -> "Trace":
        """The first `steps` steps of each thought, of which the last one now ends it."""
        return replace(self, problems=tuple(replace(p, steps=p.steps[:steps]) for p in self.problems))

    def repeated(self, times: int) -> "Trace":
        """Each problem so often, under names of their own, from which their prompts are drawn."""
        more = (replace(p, id=f"{p.id}#{n}") for n in range(2, times + 1) for p in self.problems)
        return replace(self, problems=(*self.problems, *more))

    def statistics(self) -> dict[str, Any]:
        """What it is like in a few numbers; tokens of steps and thoughts are base's."""
        steps = [step.regenerated for problem in self.problems for step in problem.steps]
        thoughts = [sum(step.regenerated for step in problem.steps) for problem in self.problems]
        return {
            "origin": self.origin,
            "sha256": self.sha256,
            "problems": len(self.problems),
            "steps": len(steps),
            "step_tokens_median": statistics.median(steps),
            "step_tokens_max": max(steps),
            "thinking_tokens_mean": statistics.mean(thoughts),
            "thinking_tokens_max": max(thoughts),
            "prompt_tokens_mean": statistics.mean(problem.prompt for problem in self.problems),
            "answer_tokens_mean": statistics.mean(problem.answer for problem in self.problems),
        }


def synthetic(
    *,
    problems: int,
    thinking_tokens: int,
    median_step_tokens: int | None = None,
    prompt_tokens: int = 200,
    answer_tokens: int = 300,
    seed: int = 0,
) -> Trace:
    """A trace drawn at random, the same for the same arguments.

    Steps are those of real models (`traces.DEFAULT`): each thought follows one published run from a random step on, round and
    round, with the lengths of small's draft and of base's own version and with what became of the draft. A median scales all
    lengths; none is shorter than 8 or longer than 512 tokens, as the default preset joins and cuts them. Assumed are the rest:
    by base a thought is as long as the longest of `thinking_tokens` or down to half of that, uniformly; prompts and answers have
    exactly the lengths given. A budget of 8,192 thinking tokens is the paper's (arXiv 2504.07891).
    """
    real = [run.steps for run in traces.load(traces.DEFAULT).runs]
    usual = statistics.median(step.draft for steps in real for step in steps)
    scale = median_step_tokens / usual if median_step_tokens else 1.0
    found = []
    for number in range(1, problems + 1):
        rng = random.Random(f"{seed} {number}")
        left = rng.randint((thinking_tokens + 1) // 2, thinking_tokens)
        source = rng.choice(real)
        steps: list[TracedStep] = []
        for step in itertools.islice(itertools.cycle(source), rng.randrange(len(source)), None):
            draft, written = (_within(scale * tokens) for tokens in (step.draft, step.written))
            if left - written < SHORTEST_STEP:  # no shorter one is left at the end
                steps.append(_sized(left if step.accepted else draft, left, step.accepted))
                break
            steps.append(_sized(draft, written, step.accepted))
            left -= written
        found.append(
            TracedProblem(
                id=f"synthetic-{number:03d}",
                prompt=prompt_tokens,
                steps=tuple(steps),
                answer=answer_tokens,
            )
        )
    return Trace(name="synthetic", origin=f"a synthetic trace (seed {seed})", problems=tuple(found))


def _within(tokens: float) -> int:
    return min(LONGEST_STEP, max(SHORTEST_STEP, round(tokens)))


def from_published(published: traces.Published, *, prompt_tokens: int, answer_tokens: int) -> Trace:
    """The trace of real runs, of which the lengths of prompts and answers are not known.

    Base's own version of a draft that was kept is as long as that.
    """
    problems = tuple(
        TracedProblem(
            id=f"{run.problem}:{run.sample}" if run.sample else run.problem,
            prompt=prompt_tokens,
            steps=tuple(_sized(max(1, step.draft), max(1, step.written), step.accepted) for step in run.steps),
            answer=answer_tokens,
        )
        for run in published.runs
    )
    return Trace(name=published.name, origin=f"the published trace {published.name}", problems=problems)


def from_run(folder: Path) -> Trace:
    """The trace of a run of specreason, random or always, or of base alone, whose steps then have no verdicts.

    Where a folder holds several, the first of these. Of several drafts of a step only the best counts, and of a rejected one
    nothing is salvaged. The steps of a whole thought are cut from its text, tokens shared out by characters. Raises RecordError.
    """
    runs = {run.method: run for run in reversed(load_runs(folder))}
    usable = [runs[method] for method in (*DRAFTING, "base") if method in runs]
    if not usable:
        raise RecordError(f"{folder}: holds no run of {', '.join(DRAFTING)} or base to replay")
    run = usable[0]
    problems = tuple(run.of(_problem))
    if not problems:
        raise RecordError(f"{run.path}: holds no finished trajectory to replay")
    first_n = run.policy.first_n if run.method in DRAFTING else 0
    origin = f"{run.method} on {run.settings.bench}, pair {run.settings.pair}"
    return Trace(name=run.settings.bench, origin=origin, problems=problems, first_n=first_n)


def _problem(run: Run, record: Record) -> Iterator[TracedProblem]:
    if not isinstance(record, Finished):
        return
    name = f"{record.problem_id}:{record.sample}" if record.sample else record.problem_id
    where = f"{run.path}: problem {name}"
    prompts = [request.prompt_tokens for request in record.requests if request.purpose != "judge"]
    if not any(prompts):
        raise RecordError(f"{where}: its requests do not say how long the prompt was")
    if run.method in DRAFTING:
        steps = [_step(step) for step in record.steps]
    else:
        steps = [step for thought in record.steps for step in _cut(where, thought.text, thought.tokens)]
    if not steps:
        raise RecordError(f"{where}: has no steps to replay")
    yield TracedProblem(
        id=name,
        prompt=min(tokens for tokens in prompts if tokens),
        steps=tuple(steps),
        answer=max(1, record.answer_tokens),
    )


def _step(step: Step) -> TracedStep:
    written = max(1, step.tokens)
    draft = max(1, step.draft.tokens) if step.draft else written
    return _sized(draft, written, step.accepted)


@cache
def _sized(draft: int, regenerated: int, accepted: bool | None = None) -> TracedStep:
    """Steps that are the same are one: there are millions of them in a long run, and few sizes."""
    return TracedStep(draft=draft, regenerated=regenerated, accepted=accepted)


def _cut(where: str, text: str, tokens: int) -> list[TracedStep]:
    """The steps of a whole thought; its `tokens` are shared out by characters."""
    if not text:
        raise RecordError(f"{where}: its text is withheld, so its steps are not known; replay a run of specreason")
    found, begun, end = [], 0, 0
    for piece in pieces(text):
        end += len(piece)
        until = tokens * end // len(text)
        if until - begun >= SHORTEST_STEP:
            found.append(until - begun)
            begun = until
    if tokens > begun:
        found.append(tokens - begun)
    return [_sized(size, size) for size in found or [1]]


def checked_share(text: str) -> float:
    """A share from 0 to 1 in words. Raises UsageError."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"--acceptance {text.strip()}: must be from 0 to 1")
    return value
