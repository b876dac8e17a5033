"""Owns the judge's score: ten log-probabilities to one number (pure). Knows nothing of engines or thresholds.

The judge's answer is one digit; SpecReason (arXiv 2504.07891, section 4.1) asks for 0 to 9. The whole
distribution is kept, since the most likely digit alone hides how sure the judge was.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

ScoreRule = Literal["greedy", "expected", "p_ge"]
SCORE_RULES: tuple[ScoreRule, ...] = get_args(ScoreRule)
DIGITS = tuple("0123456789")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The judge's distribution over the digits 0..9, normalised, and the mass it put on digits at all.

    A label mass well under 1 means that the judge did not understand that a digit was wanted.
    """

    probabilities: tuple[float, ...]
    label_mass: float

    @classmethod
    def from_logprobs(cls, logprobs: Sequence[float]) -> "Score":
        """From the natural-log probabilities of "0".."9" under the judge. Raises ValueError for other lengths or NaN."""
        if len(logprobs) != len(DIGITS) or any(math.isnan(value) for value in logprobs):
            raise ValueError(f"a score needs ten log-probabilities, not {list(logprobs)}")
        highest = max(logprobs)
        if highest == -math.inf:
            return cls(probabilities=(0.1,) * 10, label_mass=0.0)
        weights = [math.exp(value - highest) for value in logprobs]
        total = sum(weights)
        return cls(
            probabilities=tuple(weight / total for weight in weights),
            label_mass=min(math.exp(highest) * total, 1.0),
        )

    @property
    def greedy(self) -> int:
        """The most likely digit; the lowest of equals, so that a tie is not an acceptance."""
        return max(range(10), key=lambda digit: (self.probabilities[digit], -digit))

    @property
    def expected(self) -> float:
        """The mean digit, 0..9."""
        return sum(digit * p for digit, p in enumerate(self.probabilities))

    def p_ge(self, threshold: float) -> float:
        """The probability, 0..1, of a digit at or above `threshold`."""
        return min(sum(p for digit, p in enumerate(self.probabilities) if digit >= threshold), 1.0)

    def value(self, rule: ScoreRule, threshold: float) -> float:
        """The one number that `rule` makes of this: a digit, a mean digit, or a probability."""
        match rule:
            case "greedy":
                return self.greedy
            case "expected":
                return self.expected
            case "p_ge":
                return self.p_ge(threshold)
