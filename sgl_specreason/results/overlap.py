"""Owns what one more overlap would bring, on paper: small drafting on while base rewrites a refused step (issue 19).

Knows the lengths and seconds of a published trace and no texts: how often small would write base's next token is an assumption,
and the trace's lengths bound it. Time counts for one trajectory at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sgl_specreason.plan.traces import Published, PublishedStep

FEW = 30
"""Fewer rewritten steps say nothing."""
AGREEMENTS = (0.6, 0.7, 0.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """A step that base rewrote in `base_s`, and the seconds of the draft that followed it."""

    tokens: int
    base_s: float
    draft_s: float

    @property
    def token_s(self) -> float:
        return self.base_s / self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """What small's requests take: `begin_s` until it writes, `token_s` for a token."""

    begin_s: float
    token_s: float


def rewritings(published: Published) -> list[Rewriting]:
    """The steps that base rewrote, those with a draft after them."""
    return [
        Rewriting(tokens=step.base, base_s=step.base_s, draft_s=after.draft_s)
        for step, after in _pairs(published)
        if step.base and step.base_s is not None and after.draft_s is not None
    ]


def behind_the_judge(published: Published) -> float:
    """Seconds of drafting that a lookahead of one hides already: the draft after a kept one, beside its judging."""
    return sum(min(step.judge_s or 0.0, after.draft_s or 0.0) for step, after in _pairs(published) if step.accepted)


def behind_base(found: Sequence[Rewriting], agreement: float, small: Small) -> float:
    """Expected seconds of drafting hidden behind base's rewriting.

    Small writes base's next token with probability `agreement`, and begins again at each token that comes otherwise. What
    counts is its last beginning: from there it writes the rest of the step, and the next draft while base is still writing.
    """
    total = 0.0
    for one in found:
        rest = np.arange(one.tokens + 1)  # the last tokens of the step, all of which it writes as base does
        chance = (1 - agreement) * agreement**rest
        chance[-1] = agreement**one.tokens
        ahead = rest * (one.token_s - small.token_s) - small.begin_s
        total += float((chance * np.clip(ahead, 0.0, one.draft_s)).sum())
    return total


def at_most(found: Sequence[Rewriting]) -> float:
    """The same if small knew base's step from its first token on."""
    return sum(min(one.base_s, one.draft_s) for one in found)


def same_length(steps: Sequence[PublishedStep]) -> float:
    """The share of refused drafts as long as base's own step: at most so many were the same text."""
    return float(np.mean([step.draft == step.base for step in steps if not step.accepted]))


def most_agreement(steps: Sequence[PublishedStep]) -> float:
    """The agreement at which whole steps would be the same as often as their lengths are; more contradicts the trace."""
    lengths = np.array([step.base for step in steps if step.base])
    share, low, high = same_length(steps), 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if np.mean(middle**lengths) < share else (low, middle)
    return low


def of_small(steps: Sequence[PublishedStep]) -> Small:
    """A line through the seconds of its drafts over their tokens."""
    told = [(step.draft, step.draft_s) for step in steps if step.draft_s is not None]
    tokens, seconds = np.array(told).T
    slope, begin = np.polyfit(tokens, seconds, 1) if len(set(tokens)) > 1 else (0.0, float(np.mean(seconds)))
    return Small(begin_s=max(0.0, float(begin)), token_s=max(0.0, float(slope)))


def after_base(published: Published, small: Small) -> float:
    """How much longer small takes to begin after a step that it has not written: its prefill, in seconds, by medians."""
    begins: dict[bool, list[float]] = {True: [], False: []}
    for step, after in _pairs(published):
        if after.draft_s is not None:
            begins[step.accepted].append(after.draft_s - small.token_s * after.draft)
    return float(np.median(begins[False]) - np.median(begins[True])) if all(begins.values()) else 0.0


def lines(published: Published) -> Iterator[str]:
    """The section of the report; nothing of a trace without seconds or with few rewritten steps."""
    steps, found = published.steps, rewritings(published)
    total = sum(sum(filter(None, (step.draft_s, step.judge_s, step.base_s))) for step in steps)
    if len(found) < FEW or any(step.draft_s is None or step.judge_s is None for step in steps):
        return
    small, hidden = of_small(steps), behind_the_judge(published)
    most, prefill, alike = most_agreement(steps), max(0.0, after_base(published, small)), same_length(steps)

    def shares(seconds: float) -> str:
        return f"{100 * seconds / total:.1f} | {100 * seconds / (total - hidden):.1f}"

    free, begin = Small(begin_s=0.0, token_s=small.token_s), f"{1000 * small.begin_s:.0f} ms"
    yield "## One more overlap: small drafting on while base rewrites"
    yield ""
    yield (
        "Small waits while base rewrites. It could follow base's stream, guess the rest of the step and go on to the next draft: "
        f"of use where the rest comes as guessed. {len(found)} rewritten steps were followed by a draft. On paper, of the loop's "
        "seconds it would hide, in %:"
    )
    yield ""
    yield (
        f"| small writes base's next token with probability | lookahead 0 | lookahead 1 | lookahead 0, {begin} each time | "
        f"lookahead 1, {begin} each time |"
    )
    yield "|---|--:|--:|--:|--:|"
    for agreement in sorted({*AGREEMENTS, most}):
        named = f"{agreement:.2f}" + (", the most that the lengths allow" if agreement == most else "")
        yield "| " + " | ".join([named, *(shares(behind_base(found, agreement, one)) for one in (free, small))]) + " |"
    yield f"| 1, and it knows the step from its first token on | {shares(at_most(found))} | | |"
    yield ""
    yield (
        f"Lookahead 1: of the seconds that are left when {hidden:.0f} s of drafting are hidden behind the judge. Small begins "
        f"again at each token that comes otherwise; the right half has that take the {begin} that a request of this trace took "
        f"before small wrote. Of the refused drafts {100 * alike:.1f} % are as long as base's own step, so at most as many were "
        f"the same text; a probability above {most:.2f}, were it the same at each token, would make it more. If a step's end is "
        "easier to guess than its beginning, more is hidden, up to the last row. Without any guess, small prefilling base's step "
        f"as it comes, {prefill * len(found):.1f} s are saved ({1000 * prefill:.0f} ms a step)."
    )
    yield ""


def _pairs(published: Published) -> Iterator[tuple[PublishedStep, PublishedStep]]:
    """Each step with the one after it in the same run."""
    for run in published.runs:
        yield from pairwise(run.steps)
