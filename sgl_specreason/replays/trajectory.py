"""Owns trajectories that follow a trace: their lengths and verdicts, and the ids that stand for their text.

Knows no HTTP; `endpoint.py` has the engines write what a trajectory here says. The text of a step is a mark ("[45 tokens
by small, 7]") that stands for the ids which an engine wrote: what is sent is exactly what it has in its cache.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sgl_specreason.errors import UsageError
from sgl_specreason.method.policy import Policy
from sgl_specreason.method.score import Judgement
from sgl_specreason.method.trajectory import Trajectory
from sgl_specreason.replays.trace import TracedProblem, TracedStep
from sgl_specreason.text.context import Contexts, Part, Prefix
from sgl_specreason.text.steps import BLANK_LINE, Step
from sgl_specreason.text.vocabulary import Vocabulary

SAID = ("score", "digits", "p_yes", "label_mass", "logprob_mean", "logprob_min", "confidence")
"""What a judge made of noise: of no use to anybody."""


class ReplayPolicy(Policy, frozen=True, kw_only=True):
    """A policy whose drafts are kept as a trace says, or that `acceptance` of them."""

    acceptance: float | None = None


@dataclass(frozen=True, slots=True)
class Regular:
    """The ids of a vocabulary's ordinary tokens, and all that it knows."""

    ids: tuple[int, ...]
    known: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Any) -> "Regular":
        """Raises UsageError for a tokenizer that does not list its tokens."""
        if not hasattr(tokenizer, "get_vocab"):
            raise UsageError("a replay needs tokenizers that list their tokens")
        words: dict[str, int] = tokenizer.get_vocab()
        return cls(
            tuple(sorted(set(words.values()) - set(tokenizer.get_added_vocab().values()))), frozenset(words.values())
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayContexts(Contexts):
    """The contexts of one replayed trajectory: prompts of random tokens, then the ids that the engines wrote.

    Another engine gets the same ids where the vocabularies are the same, else as many random ones.
    """

    name: str
    prompt_tokens: int
    regular: dict[int, Regular] = field(default_factory=dict)
    writers: dict[str, Vocabulary] = field(default_factory=dict)
    translated: dict[tuple[int, str], list[int]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def open(self, engine: str, vocabulary: Vocabulary, regular: Regular) -> None:
        """This problem's prompt, which begins like no other problem's."""
        self.regular[id(vocabulary)] = regular
        ids = random.Random(f"{self.name} {engine}").choices(regular.ids, k=self.prompt_tokens)
        self.openings[engine] = Prefix().longer(0, ids)

    def mark(self, engine: str, vocabulary: Vocabulary, tokens: int, ending: str) -> str:
        """A text of its own for what `engine` has written."""
        text = f"[{tokens} tokens by {engine}, {next(self.numbers)}]{ending}"
        self.writers[text] = vocabulary
        return text

    def ids(self, vocabulary: Vocabulary, part: Part) -> Sequence[int]:
        if isinstance(part, str):
            return vocabulary.ids(part)
        if self.writers[part.text] is vocabulary:
            return part.ids
        key = (id(vocabulary), part.text)
        if key not in self.translated:
            regular, same = self.regular[id(vocabulary)], part.vocabulary == vocabulary.digest
            others = random.Random(f"{self.name} {part.text}").choices(regular.ids, k=len(part.ids))
            self.translated[key] = [
                ours if same and ours in regular.known else other for ours, other in zip(part.ids, others, strict=True)
            ]
        return self.translated[key]


@dataclass(slots=True, kw_only=True)
class Replayed(Trajectory):
    """A trajectory that goes as the trace says, whatever the engines write."""

    problem: TracedProblem
    seed: int

    def __post_init__(self) -> None:
        Trajectory.__post_init__(self)
        self.contexts = ReplayContexts(
            think_end=self.texts.think_end, name=f"{self.seed} {self.problem.id}", prompt_tokens=self.problem.prompt
        )

    def decides(self, draft: Step | None, judgement: Judgement | None) -> bool:
        return draft is not None and bool(self.problem.steps[len(self.kept)].accepted)

    def wanted(self, role: str, text: str, stop: Sequence[str]) -> tuple[int, str]:
        """How many tokens the model behind `role` writes after `text` where a program stops it at `stop`, and the text's end."""
        steps = self.problem.steps
        if not stop:
            return self.problem.answer, ""
        if BLANK_LINE not in stop:
            return sum(_length(step, role) for step in steps), self.texts.think_end
        at = text.count(BLANK_LINE) - 1  # the prompt has one
        return _length(steps[at], role), self.texts.think_end if at == len(steps) - 1 else BLANK_LINE

    def record(self) -> dict[str, Any]:
        record = Trajectory.record(self)
        steps = [{key: value for key, value in step.items() if key not in SAID} for step in record["steps"]]
        return record | {"steps": steps}


def _length(step: TracedStep, role: str) -> int:
    return step.draft if role == "small" else step.regenerated
