"""Owns the settings that decide about a trajectory, and the accept rule (pure).

Knows nothing of engines, prompts or files.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from sgl_specreason.errors import UsageError
from sgl_specreason.score import SCORE_RULES, Score, ScoreRule

Method = Literal["specreason", "base", "small"]
METHODS: dict[Method, str] = {
    "specreason": "small drafts each step, base scores it and rewrites what it rejects",
    "base": "the base model alone",
    "small": "the small model alone",
}
OnBudget = Literal["answer", "stop"]
Author = Literal["base", "small"]
P_GE_ACCEPTS = 0.5
"""Under `p_ge` a step is accepted when a digit at or above the threshold is at least this likely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What decides how a trajectory is written. Token counts are of kept thinking tokens.

    Raises UsageError for a value out of range.
    """

    threshold: float = 7.0
    score_rule: ScoreRule = "greedy"
    first_n: int = 0
    budget_tokens: int = 8192
    on_budget: OnBudget = "answer"
    step_tokens: int = 512
    min_step_tokens: int = 0
    answer_tokens: int = 1024
    answer_by: Author = "base"
    temperature: float = 0.6
    top_p: float = 0.95

    def __post_init__(self) -> None:
        _in_range("threshold", self.threshold, 0, 9)
        _one_of("score_rule", self.score_rule, SCORE_RULES)
        _in_range("first_n", self.first_n, 0, None)
        _in_range("budget_tokens", self.budget_tokens, 1, None)
        _one_of("on_budget", self.on_budget, get_args(OnBudget))
        _in_range("step_tokens", self.step_tokens, 1, None)
        _in_range("min_step_tokens", self.min_step_tokens, 0, self.step_tokens)
        _in_range("answer_tokens", self.answer_tokens, 1, None)
        _one_of("answer_by", self.answer_by, get_args(Author))
        _in_range("temperature", self.temperature, 0, 2)
        _in_range("top_p", self.top_p, 0.001, 1)

    def accepts(self, score: Score) -> bool:
        """Whether a drafted step with this score is kept: its value reaches the threshold."""
        if self.score_rule == "p_ge":
            return score.p_ge(self.threshold) >= P_GE_ACCEPTS
        return score.value(self.score_rule, self.threshold) >= self.threshold


def _in_range(name: str, value: float, low: float, high: float | None) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UsageError(f"{name} = {value!r}: must be a number")
    if not (value >= low and (high is None or value <= high)):
        wanted = f"at least {low}" if high is None else f"from {low} to {high}"
        raise UsageError(f"{name} = {value}: must be {wanted}")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} = {value!r}: must be one of {', '.join(choices)}")
