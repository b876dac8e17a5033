"""Owns what one attempt at one problem is given and what has become of it.

Knows no engine; the programs write into it, the run folder's record is read from it.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal, NamedTuple

from sgl_specreason.engines.account import Request
from sgl_specreason.engines.control import Control
from sgl_specreason.method.gates import Verdict, hesitates
from sgl_specreason.method.kept import Kept
from sgl_specreason.method.live import Live
from sgl_specreason.method.loops import Loops
from sgl_specreason.method.policy import Policy
from sgl_specreason.method.score import DIGITS, JUDGES, WORDS, Judge, Judgement
from sgl_specreason.text.context import Contexts
from sgl_specreason.text.steps import Author, Step, pieces

StopReason = Literal["think_end", "eos", "budget", "loop", "context"]
RECENT = 8


class Call(NamedTuple):
    """One request and what it was for: "draft", "self" (small judging its own), "judge", "regenerate", "think" or "answer".

    `dropped` says that it was made ahead of a decision, and for nothing.
    """

    purpose: str
    account: Request
    dropped: bool = False


def sampling_seed(seed: int, problem_id: str, sample: int) -> int:
    """The seed of one trajectory, 0..2**31-1: a function of these three and nothing else."""
    return int(_uniform(f"{seed}\0{problem_id}\0{sample}") * 2**31)


def _uniform(text: str) -> float:
    """A number in [0, 1) that is a function of `text` and looks random."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


class Question(NamedTuple):
    """What asks a model for its judgement of a step: after one that leaves the thought open, after one that has closed it; and
    its answers as the model writes them there. No answers: nothing is asked, the step's own tokens are looked at."""

    opened: str
    closed: str
    labels: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Texts:
    """The rendered texts of one problem: each model's prompt, base's judge turns, the closing of a thought.

    `digits` and `words` are the answers as base writes them; `own` asks small in a judge's place, where it judges its own steps.
    `contents` says where in a prompt stands what others wrote, of which nothing is a control token.
    """

    prompts: dict[Author, str]
    judge_open: str
    judge_closed: str
    binary_open: str
    binary_closed: str
    close: str
    think_end: str
    digits: tuple[str, ...] = DIGITS
    words: tuple[str, ...] = WORDS
    contents: dict[Author, tuple[slice, ...]] = field(default_factory=dict)
    own: dict[Judge, Question] = field(default_factory=dict)

    def question(self, judge: Judge) -> Question:
        """What asks base."""
        if judge == "binary":
            return Question(self.binary_open, self.binary_closed, self.words)
        if judge == "likelihood":
            return Question("", "", ())
        return Question(self.judge_open, self.judge_closed, self.digits)

    def turns(self, role: Author) -> list[str]:
        """Everything that may be appended to a step for this model's judgement."""
        asked = list(self.own.values()) if role == "small" else [self.question(judge) for judge in JUDGES]
        return ["", *(turn for question in asked for turn in (question.opened, question.closed))]

    @property
    def think_stops(self) -> list[str]:
        """What ends a thought; nothing but the end of the sequence where models have no think tags."""
        return [self.think_end] if self.think_end else []


@dataclass(slots=True, kw_only=True)
class Trajectory:
    """One attempt: (problem, sample), its settings, and what was written and decided so far.

    Attempts with different `cache_key` share nothing in an engine's cache. Behind a router all requests of one `routing_key`
    go to the same replica, which holds their prefix. `tokens_kept` are thinking tokens, of kept
    steps only. One that somebody waits for is `live`.
    """

    problem_id: str
    sample: int
    sampling_seed: int
    policy: Policy
    texts: Texts
    cache_key: str = ""
    routing_key: str = field(init=False)
    contexts: Contexts = field(init=False)
    kept: list[Kept] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    answer: str = ""
    answer_finish: str = ""
    matched_stop: str | None = None
    live: Live | None = None
    stop_reason: StopReason | None = None
    tokens_kept: int = field(default=0, init=False)  # a sum over `kept` would cost O(steps) at each step
    loops: Loops = field(default_factory=Loops, init=False)
    _settled: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.contexts = Contexts(think_end=self.texts.think_end)
        name = f"{self.cache_key}\0{self.problem_id}\0{self.sample}"  # a header holds ASCII only
        self.routing_key = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    @property
    def tokens_left(self) -> int:
        return self.policy.budget_tokens - self.tokens_kept

    @property
    def room(self) -> int:
        """The most tokens that the next step may have."""
        return min(self.policy.step_tokens, self.tokens_left)

    @property
    def answer_room(self) -> int:
        """The most tokens that the answer may have."""
        if self.live is None:
            return self.policy.answer_tokens
        return min(self.live.answer_tokens, self.live.total_tokens - self.tokens_kept)

    @property
    def control(self) -> Control | None:
        """What may end it from outside."""
        return self.live.control if self.live else None

    @property
    def thinking(self) -> bool:
        return self.stop_reason is None

    @property
    def rarely_accepts(self) -> bool:
        """Whether fewer than half of the last drafts were kept, of at least four."""
        decided = [kept.accepted for kept in self.kept[-RECENT:] if kept.draft is not None]
        return len(decided) >= RECENT // 2 and 2 * sum(map(bool, decided)) < len(decided)

    @property
    def base_writes_next(self) -> bool:
        """Whether the next step is one of the first that base writes unasked."""
        return len(self.kept) < self.policy.first_n

    def verdict(self, draft: Step) -> Verdict:
        """What the gate makes of the next step's draft. What is blank is never kept."""
        hesitations = self._hesitations(draft) if self.policy.gate == "overconfident" else 0
        found = self.policy.verdict(draft, hesitations=hesitations, draw=self._draw)
        return "refuse" if draft.is_blank else found

    def asks(self, draft: Step) -> bool:
        """Whether base is asked about this draft, if only for the record."""
        return not draft.is_blank and self.policy.asks(self.verdict(draft), draw=self._draw)

    def ends_at(self, glimpse: Step) -> bool:
        """Whether the gate refuses a step by its first token, and nobody wants to see the rest of it for the record."""
        verdict = self.policy.verdict(glimpse, hesitations=0, draw=self._draw)
        return verdict == "refuse" and not self.policy.asks(verdict, draw=self._draw)

    def decides(self, draft: Step | None, judgement: Judgement | None) -> bool:
        """Whether this draft is kept as the next step."""
        return draft is not None and self.policy.decides(self.verdict(draft), judgement)

    def decides_unasked(self, draft: Step | None) -> bool:
        """Whether a gate decides about this draft in the judge's place. If it is judged all the same, that is an audit."""
        return draft is not None and self.policy.gate != "judge" and self.verdict(draft) != "ask"

    @property
    def _draw(self) -> float:
        """The next step's, for its coin or its audit."""
        return _uniform(f"{self.sampling_seed}\0{len(self.kept)}")

    def _hesitations(self, draft: Step) -> int:
        """How many steps in a row hesitate, which small has written, with this one."""
        if not hesitates(draft.text):
            return 0
        before = takewhile(lambda kept: kept.by == "small" and hesitates(kept.step.text), reversed(self.kept))
        return 1 + sum(1 for _ in before)

    def keep(self, kept: Kept) -> None:
        """Makes a step part of the thought, and ends the thought where the step, a loop or the budget does."""
        self.kept.append(kept)
        self.contexts.kept.extend(kept.step.parts)
        self._settled = len(self.calls)
        self.tokens_kept += kept.step.tokens
        if kept.step.ending == "think_end":
            self.stop_reason = "think_end"
        elif kept.step.ending == "eos":
            self.stop_reason = "eos"
        elif self.policy.stop_loops and self.loops.add(kept.step.text):
            self.stop_reason = "loop"
        elif self.tokens_left <= 0:
            self.stop_reason = "budget"
        if self.live:
            self.live.kept(kept)

    def end_at_full_context(self) -> None:
        """Ends the thought with what is kept: an engine has no room for more. What was written since is for nothing."""
        self.stop_reason = "context"
        self.calls[self._settled :] = [call._replace(dropped=True) for call in self.calls[self._settled :]]

    def seed_of(self, purpose: str, author: str, number: int = 0) -> int:
        """The engine's sampling seed of a request, 0..2**31-1.

        What is drawn depends on the seed and the position, and nothing else: with the draft's own seed, base would write a
        rejected step again with the luck that wrote it first.
        """
        return int(_uniform(f"{self.sampling_seed}\0{purpose}\0{author}\0{number}") * 2**31)

    @property
    def truncated(self) -> bool:
        """Whether the budget, a loop or an engine's context ended the thought, or a limit ended the answer."""
        return self.stop_reason in ("budget", "loop", "context") or self.answer_finish == "length"

    def record(self) -> dict[str, Any]:
        """What the run folder holds of it, without grading and latency."""
        salvaged = sum(kept.salvaged for kept in self.kept)
        by_base = sum(kept.step.tokens - kept.salvaged for kept in self.kept if kept.by == "base")
        by_small = self.tokens_kept - by_base
        dropped_base, dropped_small = self._dropped("base"), self._dropped("small")
        discarded = sum(kept.discarded_tokens for kept in self.kept) + dropped_small
        drafted = [kept for kept in self.kept if kept.draft is not None]
        judged = [kept for kept in drafted if kept.judgement is not None]
        in_one_go = any(call.purpose == "think" for call in self.calls)
        steps = Counter[Author]()
        for kept in self.kept:
            steps[kept.by] += _pieces(kept.step) if in_one_go else 1
        return {
            "problem_id": self.problem_id,
            "sample": self.sample,
            "sampling_seed": self.sampling_seed,
            "stop_reason": self.stop_reason,
            "truncated": self.truncated,
            "answer_text": self.answer,
            "thinking_tokens": self.tokens_kept,
            "tokens_base": by_base + dropped_base,
            "tokens_small": by_small + discarded,
            "tokens_small_kept": by_small,
            "tokens_discarded": discarded + dropped_base,
            "tokens_dropped": dropped_small + dropped_base,
            "answer_tokens": sum(call.account.completion_tokens for call in self.calls if call.purpose == "answer"),
            "steps_kept": sum(steps.values()),
            "steps_by_small": steps["small"],
            "tokens_salvaged": salvaged,
            "drafts": len(drafted),
            "accepted": sum(bool(kept.accepted) for kept in drafted),
            "judged": len(judged),
            "prompt_tokens": sum(call.account.prompt_tokens for call in self.calls),
            "cached_tokens": sum(call.account.cached_tokens for call in self.calls),
            "steps": [kept.record(self.policy) for kept in self.kept],
            "requests": [
                {"purpose": call.purpose, **call.account.record()} | ({"dropped": True} if call.dropped else {})
                for call in self.calls
            ],
        }

    def _dropped(self, author: Author) -> int:
        """Tokens that a model wrote ahead of a decision, for nothing."""
        calls = [call.account for call in self.calls if call.dropped]
        return sum(account.completion_tokens for account in calls if account.engine == author)


def _pieces(thought: Step) -> int:
    """How many steps a whole thought stands for that was written in one go."""
    return max(1, sum(bool(piece.strip()) for piece in pieces(thought.text)))
