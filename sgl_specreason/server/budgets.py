"""Owns how many tokens a request wants thought, in every spelling that clients have, and whether it wants a thought at all.

Knows no engine: what fits one is not asked here.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, TypeVar

from msgspec import Meta

from sgl_specreason.method.policy import OnBudget
from sgl_specreason.server.fields import field
from sgl_specreason.server.fit import answer_share
from sgl_specreason.server.refusal import invalid
from sgl_specreason.typed import Count, Positive

BUDGETS = (
    "thinking_token_budget", "thinking_budget", "max_thinking_tokens", "thinking.budget_tokens", "reasoning.max_tokens",
    "chat_template_kwargs.thinking_budget", "custom_params.thinking_budget", "specreason.budget_tokens",
)  # fmt: skip
TOTALS = ("max_completion_tokens", "max_tokens")
SHARES = {"none": 0.0, "minimal": 1 / 8, "low": 1 / 4, "medium": 1 / 2, "high": 1.0, "xhigh": 1.0, "max": 1.0}
"""What an effort is of the server's budget."""
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | Annotated[float, Meta(ge=0, le=0.99)]
EFFORTS = ("reasoning_effort", "reasoning.effort")
SWITCHES = (
    "enable_thinking", "chat_template_kwargs.enable_thinking", "chat_template_kwargs.thinking", "reasoning.enabled",
)  # fmt: skip
T = TypeVar("T", int, str | float)
Type = Literal["enabled", "disabled", "adaptive", "auto"]


class Limits(NamedTuple):
    """What a request says about lengths: all tokens, those of the thought, and an effort ("low", or a share)."""

    total: int | None
    thought: int | None
    effort: str | float | None

    @property
    def share(self) -> float:
        """What the effort is of the server's budget."""
        return SHARES[self.effort] if isinstance(self.effort, str) else 1.0 if self.effort is None else self.effort

    def budget(self, default: int, answer_tokens: int, on_budget: OnBudget) -> int:
        """The thought's budget, at least 1. An explicit one wins, as long as it leaves something of all tokens.

        Of the server's `default` an effort leaves its share. Where only all tokens are limited, the thought has what an answer
        does not need of them (`fit.answer_share`).
        """
        most = None if self.total is None else self.total - answer_share(self.total, answer_tokens, on_budget)
        if self.thought is not None:
            fits = self.total is None or self.thought < self.total
            return max(1, self.thought if fits or most is None else most)
        if self.effort is not None or most is None:
            wanted = int(default * self.share)
            return max(1, wanted if most is None else min(wanted, most))
        return max(1, most)


def limits_of(body: Mapping[str, object]) -> Limits:
    """Raises Refusal where two spellings of one limit differ."""
    totals = [found for path in TOTALS if (found := field(body, path, Positive)) is not None]
    return Limits(
        total=min(totals, default=None),
        thought=_agreed({path: _number(body, path) for path in BUDGETS}),
        effort=_agreed({path: field(body, path, Effort) for path in EFFORTS}),
    )


def thinks(body: Mapping[str, object], limits: Limits) -> bool:
    """Whether a thought is wanted: whatever says that it is not, wins."""
    switches = [field(body, path, bool) for path in SWITCHES]
    thinking = body.get("thinking")
    if isinstance(thinking, dict):
        switches.append(field(body, "thinking.type", Type) != "disabled")
    else:
        switches.append(field(body, "thinking", bool | dict[str, object]))
    return False not in switches and limits.thought != 0 and limits.share > 0


def _number(body: Mapping[str, object], path: str) -> int | None:
    found: int | None = field(body, path, Count)
    return found


def _agreed(asked: Mapping[str, T | None]) -> T | None:
    given = {path: value for path, value in asked.items() if value is not None}
    first = next(iter(given), None)
    if first is None:
        return None
    for path, value in given.items():
        if value != given[first]:
            raise invalid(f"{path} = {value} and {first} = {given[first]} say the same thing differently", param=path)
    return given[first]
