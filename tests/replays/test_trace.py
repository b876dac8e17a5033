"""Traces: what is generated, what is read from a run folder, and which drafts are kept."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders import drafted, record, run_folder

from sgl_specreason.errors import RecordError, UsageError
from sgl_specreason.plan.traces import DEFAULT, load
from sgl_specreason.replays.trace import (
    LONGEST_STEP,
    SHORTEST_STEP,
    Trace,
    TracedStep,
    checked_share,
    from_published,
    from_run,
    synthetic,
)

LENGTHS = st.builds(
    synthetic,
    problems=st.integers(1, 12),
    thinking_tokens=st.integers(1, 3000),
    median_step_tokens=st.integers(1, 400),
    prompt_tokens=st.integers(1, 500),
    answer_tokens=st.integers(1, 500),
    seed=st.integers(0, 99),
)


@settings(max_examples=60, deadline=None)
@given(LENGTHS)
def test_steps_of_a_synthetic_trace_add_up_to_thoughts_of_half_to_the_whole_length(trace: Trace) -> None:
    longest = max(sum(step.regenerated for step in problem.steps) for problem in trace.problems)
    for problem in trace.problems:
        sizes = [step.regenerated for step in problem.steps]
        assert all(step.regenerated == step.draft for step in problem.steps if step.accepted)
        assert 2 * sum(sizes) >= longest
        assert all(1 <= size < LONGEST_STEP + SHORTEST_STEP for size in sizes)
        assert all(size >= SHORTEST_STEP for size in sizes) or len(sizes) == 1
        assert problem.most >= sum(sizes)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.floats(0, 1), st.floats(0, 1), st.integers(0, 9))
def test_exactly_the_share_of_drafts_is_kept_and_larger_shares_keep_the_same_ones(
    trace: Trace, one: float, other: float, seed: int
) -> None:
    low, high = (trace.accepting(share, seed) for share in sorted((one, other)))
    total = len(trace.verdicts)
    assert [sum(map(bool, found.verdicts)) for found in (low, high)] == [round(s * total) for s in sorted((one, other))]
    assert all(high_kept or not low_kept for low_kept, high_kept in zip(low.verdicts, high.verdicts, strict=True))
    assert low.sha256 == high.sha256 == trace.sha256
    assert None not in low.verdicts


def test_the_same_arguments_make_the_same_trace_and_another_seed_another() -> None:
    one, same, other = (synthetic(problems=4, thinking_tokens=2000, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.sha256 != other.sha256


def test_steps_are_about_as_long_as_asked_for() -> None:
    found = synthetic(problems=200, thinking_tokens=8192, median_step_tokens=48).statistics()
    assert 44 <= found["step_tokens_median"] <= 52
    assert 5700 <= found["thinking_tokens_mean"] <= 6600
    assert found["thinking_tokens_max"] <= 8192


def test_lengths_and_verdicts_of_a_synthetic_trace_are_those_of_real_models() -> None:
    """Drawn from 2,070 published steps, in their order: neighbours are as alike as they were."""
    real = load(DEFAULT).steps
    found = synthetic(problems=300, thinking_tokens=4096)
    steps = [step for problem in found.problems for step in problem.steps]
    accepted = sum(bool(step.accepted) for step in steps) / len(steps)
    assert abs(found.statistics()["step_tokens_median"] - statistics.median(step.written for step in real)) <= 2
    assert abs(accepted - sum(step.accepted for step in real) / len(real)) < 0.05
    shares = [sum(bool(step.accepted) for step in problem.steps) / len(problem.steps) for problem in found.problems]
    assert min(shares) < 0.6 < 0.95 < max(shares)


def test_a_published_trace_has_its_own_lengths_and_verdicts() -> None:
    trace = from_published(load(DEFAULT), prompt_tokens=200, answer_tokens=300)
    assert (len(trace.problems), len(trace.verdicts)) == (17, 2070)
    assert sum(map(bool, trace.verdicts)) == 1785
    first = trace.problems[0]
    assert (first.id, first.prompt, first.answer) == ("aime24-60", 200, 300)
    assert trace.problems[1].id == "aime24-60:1"
    assert first.steps[0] == TracedStep(draft=57, regenerated=57, accepted=True)
    assert first.steps[2] == TracedStep(draft=44, regenerated=49, accepted=False)


def test_a_run_of_specreason_gives_its_own_lengths_and_verdicts(tmp_path: Path) -> None:
    again = drafted() | {"sample": 1}
    policy = {"budget_tokens": 512, "threshold": 7.0, "score_rule": "greedy", "first_n": 1}
    trace = from_run(run_folder(tmp_path / "run", [drafted(), again], policy=policy))
    first, second = trace.problems
    assert first.steps == (
        TracedStep(draft=5, regenerated=5),
        TracedStep(draft=7, regenerated=7, accepted=True),
        TracedStep(draft=11, regenerated=9, accepted=False),
    )
    assert (first.id, first.prompt, first.answer, first.most) == ("p1", 40, 3, 23)
    assert second.id == "p1:1"
    assert (trace.name, trace.first_n, trace.verdicts) == ("math500", 1, [True, False] * 2)
    assert trace.limited(1).problems == (first,)
    assert trace.accepting(1, 0).verdicts == [True] * 4
    assert trace.accepting(1, 0).problems[0].steps[0].accepted is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab \n", min_size=1), min_size=1, max_size=9), st.integers(1, 400))
def test_the_steps_of_a_whole_thought_have_all_of_its_tokens(parts: list[str], tokens: int) -> None:
    from sgl_specreason.replays.trace import _cut

    steps = _cut("here", "\n\n".join(parts), tokens)
    assert sum(step.regenerated for step in steps) == tokens
    assert all(step.regenerated >= SHORTEST_STEP for step in steps[:-1])


def thought(text: str) -> dict[str, Any]:
    requests = [{"engine": "base", "purpose": "think", "start_s": 0.0, "seconds": 1.0, "prompt_tokens": 20}]
    return record(1, correct=True) | {"steps": [{"by": "base", "text": text, "tokens": 30}], "requests": requests}


def test_a_run_of_base_gives_steps_without_verdicts(tmp_path: Path) -> None:
    text = "x" * 20 + "\n\n" + "y" * 20 + "\n\n" + "z" * 16 + "</think>"
    trace = from_run(run_folder(tmp_path / "run", [thought(text)], method="base"))
    assert [step.regenerated for step in trace.problems[0].steps] == [9, 10, 11]
    assert trace.verdicts == [None] * 3


BAD: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    "no trajectory": ([], "specreason", "no finished trajectory"),
    "no steps": ([drafted() | {"steps": []}], "specreason", "no steps"),
    "no requests": ([drafted() | {"requests": []}], "specreason", "how long the prompt was"),
    "withheld": ([thought("")], "base", "withheld"),
    "small": ([thought("x")], "small", "no run of specreason, random, always or base"),
}


@pytest.mark.parametrize(("records", "method", "named"), BAD.values(), ids=BAD)
def test_a_folder_without_steps_is_refused(
    records: list[dict[str, Any]], method: str, named: str, tmp_path: Path
) -> None:
    with pytest.raises(RecordError, match=named):
        from_run(run_folder(tmp_path / "run", records, method=method))


def test_a_prompt_of_no_tokens_in_a_damaged_record_is_refused(tmp_path: Path) -> None:
    broken = json.loads(json.dumps(drafted()).replace("40", '"forty"'))
    with pytest.raises(RecordError, match=r"jsonl:1: .*prompt_tokens = 'forty': wants a whole number"):
        from_run(run_folder(tmp_path / "run", [broken]))


@pytest.mark.parametrize("text", ["1.2", "-0.1", "nan", "much", "", "inf"])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="from 0 to 1"):
        checked_share(text)
