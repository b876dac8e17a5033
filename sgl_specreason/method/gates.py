"""Owns the gates: what decides about a draft in the judge's place, from what small itself says of it (pure).

Knows no engines and no judge's answers.
"""

import math
import re
from typing import Literal

from sgl_specreason.method.score import Range
from sgl_specreason.text.steps import Step

Gate = Literal["judge", "random", "always", "never", "confident", "self", "entropy", "overconfident"]
GATES: dict[Gate, str] = {
    "judge": "base scores every draft",
    "random": "a coin",
    "always": "every draft is kept",
    "never": "no draft is kept",
    "confident": "kept unasked where small's mean token probability is high, else the judge decides",
    "self": "small judges its own step: sure of it, kept; sure against it, refused; else base judges",
    "entropy": "refused where small's first token has a high entropy, before the rest is written; else kept",
    "overconfident": "refused where too many of small's tokens are nearly certain, or it hesitates on and on; else kept",
}
SIGNALS: dict[Gate, Range] = {
    "confident": Range(0, 1, 0.95),
    "self": Range(0.5, 1, 0.9),
    "entropy": Range(0, 64, 1),
    "overconfident": Range(0, 1, 0.95),
}
"""The gates that go by what small says, with the thresholds that they can have: probabilities, bits, a share.

self: ConfSpec (arXiv 2602.18447). entropy: GlimpRouter (arXiv 2601.05110). overconfident: TrigReason (arXiv 2604.14847).
"""
STRICTER_LOWER: tuple[Gate, ...] = ("entropy", "overconfident")
"""The gates that refuse more at a lower threshold."""
Verdict = Literal["keep", "refuse", "ask"]
_HESITATION = re.compile(
    r"\b(wait|hmm+|hold on|alternatively|maybe|perhaps|not sure|let me (?:re)?(?:check|think|consider)|on second thought)\b",
    re.IGNORECASE,
)


def hesitates(text: str) -> bool:
    """Whether a step has words of somebody who is not getting on."""
    return bool(_HESITATION.search(text))


def certain_share(step: Step, perplexity: float) -> float | None:
    """The share of a step's tokens with a perplexity under this; None where its tokens' probabilities were not asked for."""
    if not step.logprobs:
        return None
    return sum(value > -math.log(perplexity) for value in step.logprobs) / len(step.logprobs)


def by_confidence(confidence: float | None, at: float) -> Verdict:
    return "keep" if confidence is not None and confidence > at else "ask"


def by_itself(own: tuple[float, float] | None, at: float) -> Verdict:
    """`own`: the probabilities with which small calls its step right, and wrong."""
    right, wrong = own or (0.0, 0.0)
    return "keep" if right > at else "refuse" if wrong > at else "ask"


def by_entropy(bits: float | None, at: float) -> Verdict:
    return "refuse" if bits is not None and bits > at else "keep"


def by_overconfidence(certain: float | None, at: float, *, hesitations: int, most: int) -> Verdict:
    """`hesitations`: how many steps in a row hesitate, this one included; 0 for `most` is no limit."""
    too_sure = certain is not None and certain > at
    return "refuse" if too_sure or 0 < most <= hesitations else "keep"
