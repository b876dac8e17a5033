"""Owns what base said of a drafted step, and the one number that a rule makes of it (pure). Knows nothing of engines.

The paper's judge answers with one digit (SpecReason, arXiv 2504.07891, section 4.1, asks for 0 to 9). The whole
distribution is kept, since the most likely digit alone hides how sure the judge was.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

ScoreRule = Literal["greedy", "expected", "p_ge", "p_yes", "min", "mean"]
SCORE_RULES: tuple[ScoreRule, ...] = get_args(ScoreRule)
Judge = Literal["score", "binary", "likelihood", "score+likelihood"]
JUDGES: dict[Judge, tuple[ScoreRule, ...]] = {
    "score": ("greedy", "expected", "p_ge"),
    "binary": ("p_yes",),
    "likelihood": ("min", "mean"),
    "score+likelihood": ("greedy", "expected", "p_ge", "min", "mean"),
}
"""What each judge asks of base, as the rules that can decide on it; the first one does by default."""
DIGITS = tuple("0123456789")
WORDS = ("yes", "no")


class Range(NamedTuple):
    """The thresholds that a rule can have, and the one that it has where nobody says."""

    low: float
    high: float
    default: float


RANGES: dict[ScoreRule, Range] = {
    "greedy": Range(0, 9, 7),
    "expected": Range(0, 9, 7),
    "p_ge": Range(0, 9, 7),
    "p_yes": Range(0, 1, 0.5),
    "min": Range(-100, 0, -7),
    "mean": Range(-100, 0, -1),
}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """The judge's distribution over "yes" and "no", by the first token of each, and the mass it put on the two at all."""

    p_yes: float
    label_mass: float

    @classmethod
    def from_logprobs(cls, logprobs: Sequence[float]) -> "Binary":
        """From the natural-log probabilities of WORDS. Raises ValueError for other lengths or NaN."""
        if len(logprobs) != len(WORDS) or any(math.isnan(value) for value in logprobs):
            raise ValueError(f"a yes or no needs two log-probabilities, not {list(logprobs)}")
        yes, no = map(math.exp, logprobs)
        mass = yes + no
        return cls(p_yes=yes / mass if mass else 0.0, label_mass=min(mass, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """What base thinks of a step that it did not write: the natural-log probability of each of its tokens.

    `token_ids` are base's own of the step.
    """

    logprobs: tuple[float, ...]
    token_ids: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """0 for no tokens: nothing speaks against them."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else 0.0

    @property
    def lowest(self) -> float:
        return min(self.logprobs, default=0.0)

    def likely_tokens(self, floor: float) -> int:
        """How many of the first tokens are all at `floor` or above."""
        return next((at for at, value in enumerate(self.logprobs) if value < floor), len(self.logprobs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Everything that base said of one drafted step; None for what it was not asked."""

    score: Score | None = None
    binary: Binary | None = None
    likelihood: Likelihood | None = None

    def value(self, rule: ScoreRule, threshold: float) -> float:
        """The number that `rule` makes of this: a digit, a mean digit, a probability or a log-probability.

        Raises ValueError where base was not asked for it.
        """
        match rule, self:
            case "greedy", Judgement(score=Score() as score):
                return score.greedy
            case "expected", Judgement(score=Score() as score):
                return score.expected
            case "p_ge", Judgement(score=Score() as score):
                return score.p_ge(threshold)
            case "p_yes", Judgement(binary=Binary() as binary):
                return binary.p_yes
            case "min", Judgement(likelihood=Likelihood() as likelihood):
                return likelihood.lowest
            case "mean", Judgement(likelihood=Likelihood() as likelihood):
                return likelihood.mean
        raise ValueError(f"no {rule} in {self}")

    @property
    def label_mass(self) -> float | None:
        """The probability that base put on the labels that it was asked to choose from; None for a likelihood."""
        label = self.score or self.binary
        return label.label_mass if label else None

    def record(self) -> dict[str, Any]:
        """What is recorded of it: probabilities of the ten digits and of a yes, label mass, log-probabilities (natural)."""
        out: dict[str, Any] = {}
        if self.score is not None:
            out["digits"] = [round(p, 6) for p in self.score.probabilities]
        if self.binary is not None:
            out["p_yes"] = round(self.binary.p_yes, 9)
        if self.label_mass is not None:
            out["label_mass"] = round(self.label_mass, 6)
        if self.likelihood is not None:
            out["logprob_mean"] = round(self.likelihood.mean, 4)
            out["logprob_min"] = round(self.likelihood.lowest, 4)
        return out
