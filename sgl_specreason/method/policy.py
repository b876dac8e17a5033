"""Owns the settings that decide about a trajectory, and the accept rule (pure).

Knows nothing of engines, prompts or files.
"""

import math
from typing import Annotated, Literal, cast

from msgspec import Meta, Struct
from msgspec.structs import force_setattr, replace

from sgl_specreason.errors import UsageError
from sgl_specreason.method import gates
from sgl_specreason.method.gates import SIGNALS, Gate, Verdict
from sgl_specreason.method.score import JUDGES, RANGES, Judge, Judgement, ScoreRule
from sgl_specreason.text.steps import Author, Step
from sgl_specreason.typed import Count, Number, Positive, typed

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
OnBudget = Literal["answer", "stop"]
LARGEST_ID = 2**31 - 1
P_GE_ACCEPTS = 0.5
"""Under `p_ge` a step is accepted when a digit at or above the threshold is at least this likely."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What decides how a trajectory is written, each in its own range. Token counts are of kept thinking tokens.

    As always with msgspec, types and ranges are checked where `typed` makes one of a table.
    """

    gate: Gate = "judge"
    gate_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    gate_threshold: Number | None = None
    certain_perplexity: Annotated[float, Meta(gt=1, le=1000)] = 1.05
    hesitations: Count = 3
    audit: Annotated[float, Meta(ge=0.01, le=1)] = 0.05
    judge: Judge = "score"
    judge_record: bool = True
    threshold: Number = 7.0
    score_rule: ScoreRule = "greedy"
    drafts: Annotated[int, Meta(ge=1, le=64)] = 1
    lookahead: Annotated[int, Meta(ge=0, le=64)] = 1
    eager_regenerate: bool = False
    salvage: bool = False
    salvage_floor: Annotated[float, Meta(ge=-100, le=0)] = -7.0
    first_n: Count = 0
    budget_tokens: Positive = 8192
    on_budget: OnBudget = "answer"
    step_tokens: Positive = 512
    min_step_tokens: Count = 0
    stop_loops: bool = True
    answer_tokens: Positive = 1024
    answer_by: Author = "base"
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.6
    top_p: Annotated[float, Meta(ge=0.001, le=1)] = 0.95
    top_k: Annotated[int, Meta(ge=-1, le=LARGEST_ID)] = -1
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0


class Policy(Settings, frozen=True, kw_only=True):
    """Settings that go together. Raises UsageError for those that do not, and for types and ranges also when it is called."""

    def __post_init__(self) -> None:
        typed({name: getattr(self, name) for name in Settings.__struct_fields__}, Settings)
        if self.gate_p is None and self.gate == "random":
            raise UsageError("gate random needs a probability: give --gate-p, or --match-acceptance RUN")
        self._check_gate()
        if self.score_rule not in (rules := JUDGES[self.judge]):
            raise UsageError(f"score_rule = {self.score_rule!r}: judge {self.judge} wants {' or '.join(rules)}")
        low, high, _ = RANGES[self.score_rule]
        if not low <= self.threshold <= high:
            raise UsageError(f"threshold = {self.threshold}: score_rule {self.score_rule} wants {low} to {high}")
        if self.top_k == 0:
            raise UsageError("top_k = 0: wants -1 (all tokens) or at least 1")
        if self.drafts > 1 and self.temperature == 0:
            raise UsageError(f"drafts = {self.drafts}: at temperature 0 they would all be the same; give --temperature")
        if self.drafts > 1 and self.top_k == 1:
            raise UsageError(f"drafts = {self.drafts}: with top_k = 1 they would all be the same")
        if self.drafts > 1 and (self.lookahead or self.eager_regenerate):
            name = "lookahead" if self.lookahead else "eager_regenerate"
            raise UsageError(f"{name} has no effect with drafts = {self.drafts}: nobody knows which of them goes on")
        if self.eager_regenerate and self.salvage:
            raise UsageError(
                "eager_regenerate and salvage exclude each other: base cannot begin before it knows with what"
            )

    def _check_gate(self) -> None:
        """Raises UsageError; a gate that goes by a threshold gets its own where none is given."""
        span = SIGNALS.get(self.gate)
        if span is None:
            if self.gate_threshold is not None:
                raise UsageError(f"gate_threshold: gate {self.gate} has none; {', '.join(SIGNALS)} have")
            return
        if self.gate_threshold is None:
            force_setattr(self, "gate_threshold", float(span.default))
        elif not span.low <= self.gate_threshold <= span.high:
            raise UsageError(
                f"gate_threshold = {self.gate_threshold}: gate {self.gate} wants {span.low:g} to {span.high:g}"
            )
        if self.gate != "confident" and self.drafts > 1:
            raise UsageError(f"drafts = {self.drafts}: gate {self.gate} looks at one draft only")
        if self.gate == "self" and self.score_rule in JUDGES["likelihood"]:
            raise UsageError(f"gate self: small cannot be asked for {self.score_rule}; it wants judge score or binary")
        if self.gate == "entropy" and self.lookahead:
            raise UsageError("lookahead has no effect with gate entropy: nothing is judged that it could run beside")

    def verdict(self, draft: Step, *, hesitations: int, draw: float) -> Verdict:
        """What the gate makes of a draft by itself. `draw`: from 0 to 1, uniform and independent of everything else."""
        at = self.gate_threshold or 0.0
        match self.gate:
            case "always":
                return "keep"
            case "never":
                return "refuse"
            case "random":
                return "keep" if self.gate_p is not None and draw < self.gate_p else "refuse"
            case "confident":
                return gates.by_confidence(draft.confidence, at)
            case "self":
                return gates.by_itself(draft.own, at)
            case "entropy":
                return gates.by_entropy(draft.entropy, at)
            case "overconfident":
                certain = gates.certain_share(draft, self.certain_perplexity)
                return gates.by_overconfidence(certain, at, hesitations=hesitations, most=self.hesitations)
        return "ask"

    def asks(self, verdict: Verdict, *, draw: float) -> bool:
        """Whether base is asked about a draft of which its gate says this, if only for the record. `draw` as in `verdict`."""
        for_the_record = draw < self.audit if self.gate in SIGNALS else self.judge_record
        return verdict == "ask" or for_the_record or (self.drafts > 1 and self.gate != "confident")

    def decides(self, verdict: Verdict, judgement: Judgement | None) -> bool:
        """Whether a draft is kept."""
        if verdict == "ask":
            return judgement is not None and self.accepts(judgement)
        return verdict == "keep"

    def value(self, judgement: Judgement | None) -> float:
        """What the score rule makes of it; minus infinity where nothing was judged, or by a judge that knows no label."""
        if judgement is None or (judgement.label_mass == 0 and self.score_rule not in JUDGES["likelihood"]):
            return -math.inf
        return judgement.value(self.score_rule, self.threshold)

    def rank(self, draft: Step, judgement: Judgement | None) -> tuple[bool, float, float]:
        """What the best one of several drafts has most of: kept unasked before anything else, then the judge's value."""
        kept = self.gate == "confident" and self.verdict(draft, hesitations=0, draw=0.0) == "keep"
        return kept, self.value(judgement), draft.confidence or 0.0

    def accepts(self, judgement: Judgement) -> bool:
        """Whether a step with this judgement passes: its value reaches the threshold."""
        return self.value(judgement) >= (P_GE_ACCEPTS if self.score_rule == "p_ge" else self.threshold)

    @property
    def wants_likelihood(self) -> bool:
        """Whether base is to say how likely each token of a draft is."""
        return self.salvage or "likelihood" in self.judge

    @property
    def dial(self) -> Literal["threshold", "gate_threshold"]:
        """The setting that says how strict it is."""
        return "gate_threshold" if self.gate in SIGNALS else "threshold"

    @property
    def wants_logprobs(self) -> bool:
        """Whether small is to say how likely each token of its draft was."""
        return self.gate in ("confident", "overconfident")


def plain(method: Method) -> Method:
    """The method without token-level speculation: what the programs do is the same."""
    return cast(Method, method.removesuffix(DECODE))


def is_alone(method: str) -> bool:
    """Whether one model does everything."""
    return method.removesuffix(DECODE) in ("base", "small")


ALONE = ("budget_tokens", "on_budget", "stop_loops", "answer_tokens", "temperature", "top_p", "top_k", "min_p")
"""The settings that a baseline has; the others are at their defaults in its record."""


def policy_of(method: Method, policy: Policy) -> Policy:
    """What of `policy` a method follows: a control has its gate, a baseline only what it uses. Raises UsageError."""
    if is_alone(method):
        return Policy(**{name: getattr(policy, name) for name in ALONE})
    if method in ("random", "always"):
        gate: Gate = method
        policy = replace(policy, gate=gate, gate_threshold=None, gate_p=policy.gate_p if gate == "random" else None)
    elif policy.gate != "random":
        policy = replace(policy, gate_p=None)
    unused = [] if policy.gate == "overconfident" else ["certain_perplexity", "hesitations"]
    unused += [] if policy.gate in SIGNALS else ["audit"]
    defaults = dict(zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True))
    return replace(policy, **{name: defaults[name] for name in unused})
