"""Owns what a question's asker is told while it is worked on, and in the end: as values, in order. Knows no engine."""

from dataclasses import dataclass, field
from typing import Literal

from sgl_specreason.method.policy import Policy
from sgl_specreason.method.trajectory import StopReason
from sgl_specreason.text.steps import Author

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought:
    """Some more of the thought, by this model. Texts are final: no step that can still be rejected is told."""

    by: Author
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step that became part of the thought; its text has been told. Number `n` counts from 1.

    `score` is base's of the draft and `accepted` what came of it, None where nothing was drafted or judged. `draft` is small's
    text where it was rejected. Tokens are counted by whoever wrote them.
    """

    n: int
    by: Author
    text: str
    tokens: int
    score: float | None = None
    accepted: bool | None = None
    draft: str | None = None
    draft_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Some more of the answer, by this model."""

    by: Author
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a question took. Tokens of the thought are counted by step and author, kept or not (`tokens_discarded`).

    `prompt_tokens` are those of the first model that is asked, `cached_tokens` how many of these its cache had. `seconds` are
    wall time from admission, `queued_s` those before, `seconds_base` and `seconds_small` those of their requests, which overlap.
    """

    prompt_tokens: int
    cached_tokens: int
    thinking_tokens: int
    answer_tokens: int
    tokens_base: int
    tokens_small: int
    tokens_small_kept: int
    tokens_discarded: int
    steps: int
    steps_by_small: int
    drafts: int
    accepted: int
    judge_requests: int
    requests: int
    retries: int
    seconds: float
    queued_s: float
    seconds_base: float
    seconds_small: float

    @property
    def acceptance(self) -> float | None:
        """The share of drafts that were kept."""
        return self.accepted / self.drafts if self.drafts else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A question's thought and answer, who wrote which step, and the account.

    `finish` is "length" where a limit ended the answer or there is none. `matched_stop` is the asker's own stop that ended it.
    """

    thought: str
    answer: str
    steps: tuple[Step, ...]
    finish: Finish
    thought_ended_by: StopReason | None
    account: Account
    policy: Policy = field(repr=False)
    matched_stop: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Nothing more comes."""

    reply: Reply


Event = Thought | Step | Answer | End
