"""What drafting on while base rewrites would bring, from the lengths and seconds of a trace."""

import random

import pytest

from sgl_specreason.plan.traces import DEFAULT, About, Published, PublishedRun, PublishedStep, load
from sgl_specreason.results import overlap
from sgl_specreason.results.overlap import Rewriting, Small

STEPS = [Rewriting(tokens=12, base_s=0.6, draft_s=0.2), Rewriting(tokens=3, base_s=0.15, draft_s=0.4)]
SMALL = Small(begin_s=0.02, token_s=0.005)


def kept(draft_s: float = 0.2, judge_s: float = 0.1) -> PublishedStep:
    return PublishedStep(draft=10, score=9, draft_s=draft_s, judge_s=judge_s)


def refused(base: int, draft: int = 10, base_s: float = 1.0) -> PublishedStep:
    return PublishedStep(draft=draft, base=base, score=1, draft_s=0.2, judge_s=0.1, base_s=base_s)


def published(*runs: list[PublishedStep]) -> Published:
    about = About(title="Mine", source="me", threshold=7, score_rule="greedy", budget_tokens=512)
    return Published(name="mine", about=about, runs=tuple(PublishedRun(problem="p", steps=tuple(r)) for r in runs))


@pytest.mark.parametrize("agreement", [0.0, 0.5, 0.9])
def test_what_is_hidden_is_what_guessing_token_by_token_hides(agreement: float) -> None:
    """Played through many times: small begins anew at each token that it would have written otherwise."""
    draw, times, total = random.Random(0), 20_000, 0.0
    for _ in range(times):
        for one in STEPS:
            began = 0.0
            for token in range(one.tokens):
                if draw.random() >= agreement:
                    began = one.token_s * (token + 1)
            rest = round((one.base_s - began) / one.token_s)
            ready = began + SMALL.begin_s + rest * SMALL.token_s
            total += min(max(0.0, one.base_s - ready), one.draft_s)
    assert overlap.behind_base(STEPS, agreement, SMALL) == pytest.approx(total / times, rel=0.02)


def test_more_agreement_hides_more_and_never_more_than_the_draft_or_the_rewriting() -> None:
    free = Small(begin_s=0.0, token_s=0.0)
    found = [overlap.behind_base(STEPS, agreement / 10, free) for agreement in range(11)]
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] == pytest.approx(overlap.at_most(STEPS)) == pytest.approx(0.2 + 0.15)


def test_only_what_comes_after_a_step_of_the_same_run_is_hidden() -> None:
    trace = published([kept(), refused(5), kept(), refused(7)], [kept(draft_s=9.0), refused(3), refused(4), kept()])
    assert overlap.rewritings(trace) == [
        Rewriting(tokens=5, base_s=1.0, draft_s=0.2),
        Rewriting(tokens=3, base_s=1.0, draft_s=0.2),
        Rewriting(tokens=4, base_s=1.0, draft_s=0.2),
    ]
    assert overlap.behind_the_judge(trace) == pytest.approx(3 * 0.1)


def test_the_lengths_bound_the_agreement() -> None:
    """Half of the refused drafts are as long as base's own step of ten tokens: at most .5 ** (1 / 10) a token."""
    steps = [refused(10), refused(10), refused(10, draft=4), refused(10, draft=12)]
    assert overlap.same_length(steps) == 0.5
    assert overlap.most_agreement(steps) == pytest.approx(0.5**0.1)


def test_a_trace_with_little_to_say_says_nothing() -> None:
    steps = [step for _ in range(20) for step in (refused(5), kept())]
    assert not list(overlap.lines(published(steps)))
    assert list(overlap.lines(published(steps, steps)))
    without = [PublishedStep(draft=9, base=5, score=1)] * 40
    assert not list(overlap.lines(published(without)))


def test_the_published_trace_keeps_it_under_five_per_cent() -> None:
    """Issue 19, part 6: it was to be built if the trace says more than 5 %."""
    trace = load(DEFAULT)
    found = overlap.rewritings(trace)
    left = sum(step.draft_s + step.judge_s + (step.base_s or 0.0) for step in trace.steps) - overlap.behind_the_judge(
        trace
    )
    free = Small(begin_s=0.0, token_s=overlap.of_small(trace.steps).token_s)
    most = overlap.behind_base(found, overlap.most_agreement(trace.steps), free)
    assert 0.04 < most / left < 0.05 < overlap.at_most(found) / left
