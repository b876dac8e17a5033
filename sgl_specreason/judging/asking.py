"""Owns what is asked about a step: which judges with which templates, and what is recorded of an answer. Knows no engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from sgl_specreason.engines.account import Request
from sgl_specreason.errors import UsageError
from sgl_specreason.method.policy import Policy
from sgl_specreason.method.score import DIGITS, JUDGES, RANGES, WORDS, Judge, Judgement, ScoreRule
from sgl_specreason.method.trajectory import Texts, Trajectory
from sgl_specreason.plan.catalog import build_policy
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.prompts import PromptSet
from sgl_specreason.text.steps import Author
from sgl_specreason.typed import nearest

Judging = Literal["score", "binary", "likelihood", "self", "decisions"]
JUDGINGS: dict[Judging, str] = {
    "score": "base's digit",
    "binary": "base's yes or no",
    "likelihood": "base's probability of each token of the step",
    "self": "small's own digit, in base's place",
    "decisions": "base through SGLang's /v1/decisions, where the server has it",
}
USUAL: tuple[Judging, ...] = ("score", "binary", "likelihood")
ASKED: dict[Judging, Judge] = {"score": "score", "binary": "binary", "likelihood": "likelihood", "self": "score"}
"""What a judge is asked, in the method's words; /v1/decisions is asked in its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """A judge with its templates. `name` tells it from the others of a run."""

    name: str
    judging: Judging
    prompts: PromptSet

    @property
    def engine(self) -> Author:
        return "small" if self.judging == "self" else "base"

    @property
    def rules(self) -> tuple[ScoreRule, ...]:
        """The numbers that can be made of an answer."""
        return JUDGES[ASKED.get(self.judging, "score")]

    def settings(self) -> dict[str, Any]:
        """What its answers depend on; its templates are named by their contents."""
        return {"name": self.name, "judge": self.judging, "prompts": self.prompts.hashes}

    def view(self, chat: ChatFormat) -> Trajectory:
        """What `method.program.assess` is given for this judge on a model with this chat format.

        Raises UsageError where the model cannot write the labels after the template.
        """
        judge = ASKED[self.judging]
        binary = judge == "binary"
        template, labels = ("judge_binary", WORDS) if binary else ("judge", DIGITS)
        if judge == "likelihood":
            opened = closed = ""
            words: tuple[str, ...] = labels
        else:
            opened, words = chat.question(self.prompts, template, labels, thinking=True)
            closed, _ = chat.question(self.prompts, template, labels, thinking=False)
        texts = Texts(
            prompts={},
            judge_open=opened,
            judge_closed=closed,
            binary_open=opened,
            binary_closed=closed,
            close="",
            think_end=chat.think_end,
            digits=DIGITS if binary else words,
            words=words if binary else WORDS,
        )
        policy: Policy = build_policy({"judge": judge})
        return Trajectory(problem_id="", sample=0, sampling_seed=0, policy=policy, texts=texts)


def askings(judges: Sequence[str], sets: Sequence[tuple[str, PromptSet]]) -> list[Asking]:
    """Each judge with each set of templates, which have names; the likelihood, which has no judge's turn, once for each prompt.

    Raises UsageError for a judge that there is not.
    """
    found: list[Asking] = []
    for judge in dict.fromkeys(judges or USUAL):
        if judge not in get_args(Judging):
            raise UsageError(f"--judge {judge}{nearest(judge, JUDGINGS)}")
        seen: set[str] = set()
        for label, prompts in sets:
            telling = prompts.hashes["math"] if judge == "likelihood" else str(prompts.hashes)
            if telling not in seen:
                seen.add(telling)
                name = judge if len(sets) == 1 else f"{judge}@{label}"
                found.append(Asking(name=name, judging=cast(Judging, judge), prompts=prompts))
    return found


def said(judgement: Judgement, account: Request) -> dict[str, Any]:
    """What is recorded of an answer and of its request."""
    return judgement.record() | {
        "seconds": round(account.seconds, 4),
        "prompt_tokens": account.prompt_tokens,
        "cached_tokens": account.cached_tokens,
    }


def thresholds(words: Sequence[str]) -> dict[ScoreRule, float]:
    """The threshold of each rule: the usual one, or that of a word "RULE=NUMBER". Raises UsageError."""
    found = {rule: span.default for rule, span in RANGES.items()}
    for word in words:
        rule, _, number = word.partition("=")
        try:
            value = float(number)
        except ValueError:
            raise UsageError(f"--threshold {word}: wants RULE=NUMBER, as expected=6") from None
        if rule not in RANGES:
            raise UsageError(f"--threshold {word}: no such rule{nearest(rule, RANGES)}")
        span = RANGES[rule]
        if not span.low <= value <= span.high:
            raise UsageError(f"--threshold {word}: {rule} wants {span.low:g} to {span.high:g}")
        found[rule] = value
    return found
