"""Owns whether a question fits the engines' contexts and caches, and its budgets with it (pure). Knows no engine.

What does not fit is made smaller; only a prompt that leaves no room is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec import structs

from sgl_specreason.method.policy import OnBudget, Policy
from sgl_specreason.plan.limits import INPUT_SPARE, TOTAL_SPARE
from sgl_specreason.server.refusal import context_length_exceeded
from sgl_specreason.text.steps import Author

LEAST_TOKENS = 16
"""What a prompt must leave, or nothing could be said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The tokens of a trajectory on one engine, beside what is thought and answered: its prompt, the longest judge turn that
    follows a step, and what closes a thought."""

    prompt: int
    judging: int = 0
    closing: int = 0

    @property
    def beside(self) -> int:
        """What a thought must leave of a context, beside the prompt and the answer."""
        return max(self.judging + INPUT_SPARE if self.judging else 0, self.closing + TOTAL_SPARE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A policy whose budgets fit, thought and answer together, and what each engine's cache then holds (all in tokens)."""

    policy: Policy
    total_tokens: int
    need: dict[Author, int]


def answer_share(total_tokens: int, answer_tokens: int, on_budget: OnBudget) -> int:
    """The tokens of thought and answer together that are left to the answer (`answer_tokens` are its limit) by a thought that
    takes all it may; none where a thought that reaches its budget has no answer."""
    if on_budget == "stop":
        return 0
    return min(answer_tokens, max(LEAST_TOKENS, total_tokens // 4), total_tokens // 2)


def fitted(
    policy: Policy,
    total_tokens: int | None,
    *,
    answerer: Author,
    sizes: Mapping[Author, Size],
    rooms: Mapping[Author, int],
    thinking: bool = True,
) -> Fitted:
    """The budgets of a question that asks for `total_tokens` (None: the policy's own), made to fit `rooms`.

    Raises Refusal for a prompt that is too long.
    """
    longest = min(rooms.values(), default=None)
    for role, size in sizes.items():
        if role in rooms and size.prompt + size.beside + LEAST_TOKENS > rooms[role]:
            raise context_length_exceeded(size.prompt, longest or rooms[role])
    budget = policy.budget_tokens if thinking else 0
    total = total_tokens or budget + policy.answer_tokens
    if answerer in rooms:
        size = sizes[answerer]
        total = max(1, min(total, rooms[answerer] - size.prompt - size.closing - TOTAL_SPARE))
    left = [
        rooms[role] - size.prompt - (size.judging + INPUT_SPARE if size.judging else TOTAL_SPARE)
        for role, size in sizes.items()
        if role in rooms
    ]
    budget = max(1, min([budget, total - answer_share(total, policy.answer_tokens, policy.on_budget), *left]))
    need = {
        role: size.prompt + max(budget + size.judging, total + size.closing if role == answerer else budget)
        for role, size in sizes.items()
    }
    return Fitted(policy=structs.replace(policy, budget_tokens=budget), total_tokens=total, need=need)
