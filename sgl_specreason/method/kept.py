"""Owns a step that became part of a thought, and what was decided about it. Knows no trajectory."""

from dataclasses import dataclass
from typing import Any

from sgl_specreason.method.gates import certain_share
from sgl_specreason.method.policy import Policy
from sgl_specreason.method.score import Judgement
from sgl_specreason.text.steps import Author, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A step that became part of the thought, and what was decided about it.

    `draft` is small's, `judgement` base's of it, `others` the drafts that were judged lower. `unasked` says that a gate decided
    in the judge's place, whose judgement is then for the record only: an audit. `salvaged` counts the draft's first tokens that
    stand at the beginning of the step though base wrote the rest.
    """

    step: Step
    by: Author
    draft: Step | None = None
    judgement: Judgement | None = None
    accepted: bool | None = None
    unasked: bool = False
    others: tuple[tuple[Step, Judgement | None], ...] = ()
    salvaged: int = 0

    @property
    def discarded_tokens(self) -> int:
        """Drafted tokens that are not in the thought."""
        others = sum(step.tokens for step, _ in self.others)
        if self.draft is None or self.by == "small":
            return others
        return others + self.draft.tokens - self.salvaged

    def record(self, policy: Policy) -> dict[str, Any]:
        """As it stands in the run folder; the draft is written out only where it was thrown away."""
        out: dict[str, Any] = {
            "by": self.by,
            "text": self.step.text,
            "tokens": self.step.tokens,
            "ending": self.step.ending,
        }
        if self.draft is not None:
            out["accepted"] = self.accepted
            out |= _own(self.draft, policy)
            if self.unasked:
                out["unasked"] = True
                if self.judgement is not None:
                    out["agrees"] = policy.accepts(self.judgement) == self.accepted
        out |= _judged(self.judgement, policy)
        if self.draft is not None and self.by == "base":
            out["draft"] = {"text": self.draft.text, "tokens": self.draft.tokens}
            if self.salvaged:
                out["salvaged"] = self.salvaged
        if self.others:
            out["others"] = [
                {"text": step.text, "tokens": step.tokens, **_judged(judgement, policy)}
                for step, judgement in self.others
            ]
        return out


def _own(draft: Step, policy: Policy) -> dict[str, Any]:
    """What small said of its draft, where it was asked."""
    out: dict[str, Any] = {}
    if draft.confidence is not None:
        out["confidence"] = round(draft.confidence, 6)
    if (certain := certain_share(draft, policy.certain_perplexity)) is not None:
        out["certain"] = round(certain, 6)
    if draft.entropy is not None:
        out["entropy"] = round(draft.entropy, 6)
    if draft.own is not None:
        out["self_right"], out["self_wrong"] = (round(value, 6) for value in draft.own)
    return out


def _judged(judgement: Judgement | None, policy: Policy) -> dict[str, Any]:
    """What base said of a draft, as it stands in the run folder."""
    if judgement is None:
        return {}
    return {"score": round(judgement.value(policy.score_rule, policy.threshold), 6)} | judgement.record()
