"""Owns the numbers of one run (design.md names them), made from its outcomes and its config. Knows no files and no tables."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from sgl_specreason.results import stats
from sgl_specreason.results.lines import Outcome
from sgl_specreason.results.schema import Audit, Conditions, Config, Policy, ReplaySummary, Summary
from sgl_specreason.typed import typed

T = TypeVar("T")
WRITTEN_LATE_S = 60.0
"""Lines stand in the order in which trajectories ended, but for the seconds that grading took."""


def summarise(outcomes: Sequence[Outcome], config: Config) -> Summary:
    """The summary of one method's run. Failed trajectories are in `failed` and in nothing else.

    Token counts are totals over the run, shares are 0..1, seconds are wall time.
    """
    settings, policy = config.settings, typed(config.settings.policy, Policy)
    done = [outcome for outcome in outcomes if outcome.error is None]
    sittings = _sittings(outcomes)
    unknown = sum(outcome.latency_s for outcome in outcomes if outcome.start_s is None)
    wall_s = sum(map(stats.busy_s, sittings)) + unknown / settings.concurrency
    numbers = (
        _answers(done, is_replay=settings.trace is not None) | _seconds(done, wall_s) | _steps(done) | _tokens(done)
    )
    numbers["most_at_once"] = max(map(stats.most_at_once, sittings), default=None)
    numbers |= {name: getattr(settings, name) for name in ("bench", "method", "pair", "preset", "policy", "samples")}
    numbers |= {
        "changed": config.changed,
        "concurrency": settings.concurrency,
        "budget_tokens": policy.budget_tokens,
        "trajectories": len(done),
        "retries": sum(outcome.retries for outcome in outcomes),
        "failed": len(outcomes) - len(done),
        "partial": len(done) < config.expected,
        "conditions": Conditions(**{name: getattr(config, name) for name in Conditions.__struct_fields__}),
    }
    if settings.trace is None:
        return Summary(**numbers)
    tokens = _total(done, "thinking_tokens") + _total(done, "answer_tokens")
    return ReplaySummary(
        **numbers,
        dummy_weights=settings.dummy_weights
        or any(info.load_format == "dummy" for info in config.server_info.values()),
        trace=settings.trace,
        throughput_tokens_per_s=stats.share(tokens, wall_s),
        memory=config.memory,
    )


def _sittings(outcomes: Sequence[Outcome]) -> list[list[tuple[float, float]]]:
    """When trajectories began and ended, where that is known: a list for each time that the machine was on.

    A run that is resumed after a restart goes on with a clock that has begun anew.
    """
    found: list[list[tuple[float, float]]] = []
    latest = math.inf
    for outcome in outcomes:
        if outcome.start_s is None:
            continue
        end = outcome.start_s + outcome.latency_s
        if end < latest - WRITTEN_LATE_S:
            found.append([])
            latest = end
        found[-1].append((outcome.start_s, end))
        latest = max(latest, end)
    return found


def _total(done: Sequence[Outcome], name: str) -> Any:
    return sum(getattr(outcome, name) for outcome in done)


def _answers(done: Sequence[Outcome], *, is_replay: bool) -> dict[str, Any]:
    """How often they are right; a replay has no answers."""
    groups = by_problem(done)
    right = [] if is_replay else list(groups.values())
    fewest = min(map(len, right), default=0)
    unanswered = sum(outcome.answer is None for outcome in done)
    in_order = sorted(done, key=lambda outcome: outcome.sample)  # the first to end are not like the others
    answers = list(grouped(in_order, lambda outcome: (outcome.answer, bool(outcome.correct))).values())
    passes = {str(k): stats.pass_at_k(right, k) for k in (1, 2, 4, 8, 16, 32) if 1 < k <= fewest}
    majorities = {str(fewest): stats.maj_at_k(answers, fewest)} if fewest > 1 else {}
    return {
        "n": len(groups),
        "accuracy": stats.accuracy(right),
        "accuracy_se": stats.clustered_se(right),
        "accuracy_ci95": stats.accuracy_ci95(right),
        "pass_at_k": {k: stats.mean(each) for k, each in passes.items()},
        "pass_at_k_ci95": {k: stats.mean_ci95(each) for k, each in passes.items()},
        "maj_at_k": {k: stats.mean(each) for k, each in majorities.items()},
        "maj_at_k_ci95": {k: stats.mean_ci95(each) for k, each in majorities.items()},
        "no_answer_share": math.nan if is_replay else stats.share(unanswered, len(done)),
        "grader_timeouts": sum(outcome.grader in ("timeout", "failed") for outcome in done),
    }


def _seconds(done: Sequence[Outcome], wall_s: float) -> dict[str, Any]:
    latencies = [outcome.latency_s for outcome in done]
    return {
        "latency_mean_s": stats.mean(latencies),
        "latency_p50_s": stats.percentile(latencies, 50),
        "latency_p95_s": stats.percentile(latencies, 95),
        "wall_s": wall_s,
        "throughput_problems_per_s": stats.share(len(done), wall_s),
    }


def _steps(done: Sequence[Outcome]) -> dict[str, Any]:
    """Who wrote the steps, and what the judge said of them."""
    steps, drafts, accepted = (_total(done, name) for name in ("steps_kept", "drafts", "accepted"))
    judged, masses = _total(done, "judged"), _total(done, "label_masses")
    return {
        "steps": steps,
        "drafts": drafts,
        "judged_steps": judged,
        "unjudged_drafts": drafts - judged,
        "accepted_steps": accepted,
        "acceptance": stats.share(accepted, drafts),
        "offloaded_steps_share": stats.share(_total(done, "steps_by_small"), steps),
        "judge_requests": _total(done, "judge_requests"),
        "audits": _audits(done),
        "label_mass_mean": _total(done, "label_mass_sum") / masses if masses else math.nan,
        "truncated_share": stats.share(_total(done, "truncated"), len(done)),
        "loops": sum(outcome.stop_reason == "loop" for outcome in done),
    }


def _audits(done: Sequence[Outcome]) -> dict[Literal["kept", "refused"], Audit]:
    """What the judge says of the drafts that a gate decided about unasked; nothing of a kind of which there are none."""
    found: dict[Literal["kept", "refused"], Audit] = {}
    for how in ("kept", "refused"):
        counts = [
            [getattr(one.audits, f"{what}_{how}") for what in ("unasked", "audited", "disagreed")] for one in done
        ]
        unasked, audited, disagreed = map(sum, zip(*counts, strict=True)) if counts else (0, 0, 0)
        groups: dict[str, list[tuple[int, int]]] = {}
        for outcome, (_, of, against) in zip(done, counts, strict=True):
            groups.setdefault(outcome.problem_id, []).append((against, of))
        shares = [sum(a for a, _ in group) / of for group in groups.values() if (of := sum(n for _, n in group))]
        if unasked:
            found[how] = Audit(
                unasked=unasked,
                audited=audited,
                disagreed=disagreed,
                disagreement=stats.mean(shares),
                disagreement_ci95=stats.mean_ci95(shares),
            )
    return found


TOTALS = (
    "tokens_base", "tokens_small", "tokens_discarded", "tokens_dropped", "tokens_salvaged", "answer_tokens",
    "prompt_tokens", "cached_tokens",
)  # fmt: skip


def _tokens(done: Sequence[Outcome]) -> dict[str, Any]:
    totals = {name: _total(done, name) for name in TOTALS}
    return totals | {
        "offloaded_tokens_share": stats.share(_total(done, "tokens_small_kept"), _total(done, "thinking_tokens")),
        "thinking_tokens_mean": stats.mean([outcome.thinking_tokens for outcome in done]),
        "cached_share": stats.share(totals["cached_tokens"], totals["prompt_tokens"]),
        "accept_length_mean": stats.share(_total(done, "tokens_speculated"), _total(done, "verify_steps")),
    }


def by_problem(outcomes: Sequence[Outcome]) -> dict[str, list[bool]]:
    """Whether each sample of each problem is right; failed trajectories left out."""
    return grouped(outcomes, lambda outcome: bool(outcome.correct))


def grouped(outcomes: Sequence[Outcome], value: Callable[[Outcome], T]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = {}
    for outcome in outcomes:
        if outcome.error is None:
            groups.setdefault(outcome.problem_id, []).append(value(outcome))
    return groups
