"""Owns what a line of trajectories.jsonl says, as types. Knows no files.

As in `schema.py`, only what somebody reads is here, and what an older version did not write has a default, where one can stand
for it.
"""

from collections import Counter
from typing import Annotated

from msgspec import Meta, field

from sgl_specreason.results.schema import Data
from sgl_specreason.text.steps import Author
from sgl_specreason.typed import LARGEST, Count, Number

Seconds = Annotated[float, Meta(ge=0, le=LARGEST)]
Share = Annotated[float, Meta(ge=-0.01, le=1.01)]  # rounding may carry one over the edge


class Said(Data, frozen=True, kw_only=True):
    """What base said of a draft, and small's confidence in it."""

    score: Number | None = None
    digits: Annotated[list[Share], Meta(min_length=10, max_length=10)] = field(default_factory=list)
    p_yes: Share | None = None
    label_mass: Share | None = None
    logprob_mean: Number | None = None
    logprob_min: Number | None = None
    confidence: Share | None = None
    certain: Share | None = None
    entropy: Number | None = None
    self_right: Share | None = None
    self_wrong: Share | None = None


class Draft(Said, frozen=True, kw_only=True):
    """A draft that was thrown away."""

    text: str
    tokens: Count


class Step(Draft, frozen=True, kw_only=True):
    """A step of the thought. What was said is said of `draft` where there is one, which this step replaced.

    `unasked`: a gate decided in the judge's place. `agrees`: whether the judge, asked for the record, would have decided so, too.
    """

    by: Author
    accepted: bool | None = None
    unasked: bool = False
    agrees: bool | None = None
    draft: Draft | None = None
    others: list[Draft] = field(default_factory=list)
    salvaged: Count = 0


class Request(Data, frozen=True, kw_only=True):
    """One request's account."""

    engine: Author
    purpose: str
    start_s: Number
    seconds: Seconds
    engine_seconds: Seconds | None = None
    prompt_tokens: Count = 0
    cached_tokens: Count = 0
    completion_tokens: Count = 0
    accept_length: Number | None = None
    retries: Count = 0
    dropped: bool = False


class _Counted(Data, frozen=True, kw_only=True):
    """What every trajectory has: its key, its time, its counts."""

    problem_id: str
    sample: Count
    latency_s: Annotated[float, Meta(gt=0, le=LARGEST)]
    start_s: Number | None = None  # on the monotonic clock
    stop_reason: str | None = None
    thinking_tokens: Count = 0
    tokens_base: Count = 0
    tokens_small: Count = 0
    tokens_small_kept: Count = 0
    tokens_discarded: Count = 0
    tokens_dropped: Count = 0
    tokens_salvaged: Count = 0
    answer_tokens: Count = 0
    steps_kept: Count = 0
    steps_by_small: Count = 0
    drafts: Count = 0
    accepted: Count = 0
    judged: Count = 0
    prompt_tokens: Count = 0
    cached_tokens: Count = 0


class Audits(Data, frozen=True, kw_only=True):
    """Of the drafts that a gate kept or refused unasked: how many, how many were judged all the same, and to the contrary."""

    unasked_kept: Count = 0
    audited_kept: Count = 0
    disagreed_kept: Count = 0
    unasked_refused: Count = 0
    audited_refused: Count = 0
    disagreed_refused: Count = 0


class _Told(_Counted, frozen=True, kw_only=True):
    """And what was written and asked."""

    problem: str | None = None
    choices: str | None = None
    answer_text: str = ""
    texts: str | None = None
    steps: list[Step] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    @property
    def question(self) -> str | None:
        """What was asked: the problem, and of a multiple-choice one its choices; None where that is not recorded."""
        return "\n\n".join(filter(None, [self.problem, self.choices])) or None

    @property
    def judge_requests(self) -> int:
        return sum(request.purpose == "judge" for request in self.requests)

    @property
    def retries(self) -> int:
        return sum(request.retries for request in self.requests)

    @property
    def tokens_speculated(self) -> int:
        """Tokens of the requests whose server speculates, and of how many decode steps (`verify_steps`)."""
        return sum(request.completion_tokens for request in self.requests if request.accept_length)

    @property
    def verify_steps(self) -> float:
        return sum(
            request.completion_tokens / request.accept_length for request in self.requests if request.accept_length
        )

    @property
    def audits(self) -> Audits:
        counts: Counter[str] = Counter()
        for step in self.steps:
            if step.unasked:
                how = "kept" if step.accepted else "refused"
                counts[f"unasked_{how}"] += 1
                counts[f"audited_{how}"] += step.agrees is not None
                counts[f"disagreed_{how}"] += step.agrees is False
        return Audits(**counts)

    @property
    def label_mass_sum(self) -> float:
        return sum(step.label_mass for step in self.steps if step.label_mass is not None)

    @property
    def label_masses(self) -> int:
        return sum(step.label_mass is not None for step in self.steps)


class Finished(_Told, frozen=True, kw_only=True):
    """A line of trajectories.jsonl."""

    correct: bool | None  # null: a replay has no answers
    answer: str | None
    answer_text: str
    gold: str
    grader: str = ""
    truncated: bool
    thinking_tokens: Count
    tokens_base: Count
    tokens_small: Count
    answer_tokens: Count
    steps_kept: Count


class Failed(_Told, frozen=True, kw_only=True):
    """A line of a trajectory that failed."""

    error: str


Record = Finished | Failed


class Outcome(_Counted, frozen=True, kw_only=True):
    """What the numbers of a run need of a record, without the texts and requests that make up most of it."""

    error: str | None = None
    correct: bool | None = None
    answer: str | None = None
    gold: str | None = None
    grader: str = ""
    truncated: bool = False
    judge_requests: int = 0
    retries: int = 0
    tokens_speculated: int = 0
    verify_steps: float = 0.0
    label_mass_sum: float = 0.0
    label_masses: int = 0
    audits: Audits = Audits()
