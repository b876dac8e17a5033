"""Owns the settings that decide about a trajectory, and the accept rule (pure).

Knows nothing of engines, prompts or files.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from sgl_specreason.errors import UsageError
from sgl_specreason.method.score import JUDGES, RANGES, Judge, Judgement, ScoreRule
from sgl_specreason.text.steps import Author

Method = Literal["specreason", "random", "always", "base", "small", "base+decode", "specreason+decode"]
METHODS: dict[Method, str] = {
    "base": "the base model alone",
    "small": "the small model alone",
    "specreason": "small drafts each step, base scores it and rewrites what it rejects",
    "random": "control: a coin decides in the judge's place (--gate-p, or --match-acceptance RUN)",
    "always": "control: every draft is kept; base only judges it and writes the answer",
    "base+decode": "base with token-level speculation (--decode), served anew for it",
    "specreason+decode": "specreason over base with token-level speculation",
}
DECODE = "+decode"
DEFAULT_METHODS: tuple[Method, ...] = ("base", "small", "specreason")
Gate = Literal["judge", "random", "always", "never", "confident"]
GATES_WITH_P: tuple[Gate, ...] = ("random", "confident")
OnBudget = Literal["answer", "stop"]
P_GE_ACCEPTS = 0.5
"""Under `p_ge` a step is accepted when a digit at or above the threshold is at least this likely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What decides how a trajectory is written. Token counts are of kept thinking tokens.

    Raises UsageError for a value out of range.
    """

    gate: Gate = "judge"
    gate_p: float | None = None
    judge: Judge = "score"
    judge_record: bool = True
    threshold: float = 7.0
    score_rule: ScoreRule = "greedy"
    drafts: int = 1
    lookahead: int = 1
    eager_regenerate: bool = False
    salvage: bool = False
    salvage_floor: float = -7.0
    first_n: int = 0
    budget_tokens: int = 8192
    on_budget: OnBudget = "answer"
    step_tokens: int = 512
    min_step_tokens: int = 0
    stop_loops: bool = True
    answer_tokens: int = 1024
    answer_by: Author = "base"
    temperature: float = 0.6
    top_p: float = 0.95

    def __post_init__(self) -> None:
        _one_of("gate", self.gate, get_args(Gate))
        if self.gate_p is not None:
            _in_range("gate_p", self.gate_p, 0, 1)
        elif self.gate in GATES_WITH_P:
            raise UsageError(f"gate {self.gate} needs a probability: give --gate-p, or --match-acceptance RUN")
        _one_of("judge", self.judge, tuple(JUDGES))
        _one_of("score_rule", self.score_rule, JUDGES[self.judge])
        _in_range("threshold", self.threshold, *RANGES[self.score_rule][:2])
        _flag("judge_record", self.judge_record)
        _flag("salvage", self.salvage)
        _in_range("drafts", self.drafts, 1, 64)
        if self.drafts > 1 and self.temperature == 0:
            raise UsageError(f"drafts = {self.drafts}: at temperature 0 they would all be the same; give --temperature")
        _in_range("lookahead", self.lookahead, 0, 64)
        _flag("eager_regenerate", self.eager_regenerate)
        if self.eager_regenerate and self.salvage:
            raise UsageError(
                "eager_regenerate and salvage exclude each other: base cannot begin before it knows with what"
            )
        _in_range("salvage_floor", self.salvage_floor, -100, 0)
        _in_range("first_n", self.first_n, 0, None)
        _in_range("budget_tokens", self.budget_tokens, 1, None)
        _one_of("on_budget", self.on_budget, get_args(OnBudget))
        _in_range("step_tokens", self.step_tokens, 1, None)
        _in_range("min_step_tokens", self.min_step_tokens, 0, None)
        _flag("stop_loops", self.stop_loops)
        _in_range("answer_tokens", self.answer_tokens, 1, None)
        _one_of("answer_by", self.answer_by, get_args(Author))
        _in_range("temperature", self.temperature, 0, 2)
        _in_range("top_p", self.top_p, 0.001, 1)

    def asks(self, confidence: float | None) -> bool:
        """Whether base is asked about a draft whose tokens small gave this mean probability."""
        if self.gate == "confident":
            return not self._is_confident(confidence)
        return self.judge_record or self.gate == "judge" or self.drafts > 1

    def decides(self, judgement: Judgement | None, *, confidence: float | None, draw: float) -> bool:
        """Whether a draft is kept. `draw` is a number from 0 to 1, uniform and independent of everything else."""
        match self.gate:
            case "always":
                return True
            case "never":
                return False
            case "random":
                return self.gate_p is not None and draw < self.gate_p
            case "confident" if self._is_confident(confidence):
                return True
        return judgement is not None and self.accepts(judgement)

    def value(self, judgement: Judgement | None) -> float:
        """What the score rule makes of it; minus infinity where nothing was judged, or by a judge that knows no label."""
        if judgement is None or (judgement.label_mass == 0 and self.score_rule not in JUDGES["likelihood"]):
            return -math.inf
        return judgement.value(self.score_rule, self.threshold)

    def accepts(self, judgement: Judgement) -> bool:
        """Whether a step with this judgement passes: its value reaches the threshold."""
        return self.value(judgement) >= (P_GE_ACCEPTS if self.score_rule == "p_ge" else self.threshold)

    @property
    def wants_likelihood(self) -> bool:
        """Whether base is to say how likely each token of a draft is."""
        return self.salvage or "likelihood" in self.judge

    @property
    def wants_confidence(self) -> bool:
        """Whether small is to say how likely each token of its draft was."""
        return self.gate == "confident"

    def _is_confident(self, confidence: float | None) -> bool:
        return confidence is not None and self.gate_p is not None and confidence > self.gate_p


def plain(method: Method) -> Method:
    """The method without token-level speculation: what the programs do is the same."""
    return cast(Method, method.removesuffix(DECODE))


def is_alone(method: str) -> bool:
    """Whether one model does everything."""
    return method.removesuffix(DECODE) in ("base", "small")


ALONE = ("budget_tokens", "on_budget", "stop_loops", "answer_tokens", "temperature", "top_p")
"""The settings that a baseline has; the others are at their defaults in its record."""


def policy_of(method: Method, policy: Policy) -> Policy:
    """What of `policy` a method follows: a control has its gate, a baseline only what it uses. Raises UsageError."""
    if is_alone(method):
        return Policy(**{name: getattr(policy, name) for name in ALONE})
    if method in ("random", "always"):
        gate: Gate = method
        return replace(policy, gate=gate, gate_p=policy.gate_p if gate == "random" else None)
    return policy if policy.gate in GATES_WITH_P else replace(policy, gate_p=None)


def _in_range(name: str, value: float, low: float, high: float | None) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UsageError(f"{name} = {value!r}: must be a number")
    if not (value >= low and (high is None or value <= high)):
        wanted = f"at least {low}" if high is None else f"from {low} to {high}"
        raise UsageError(f"{name} = {value}: must be {wanted}")


def _flag(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise UsageError(f"{name} = {value!r}: must be true or false")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} = {value!r}: must be one of {', '.join(choices)}")
