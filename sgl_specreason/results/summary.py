"""Owns the numbers of one run (design.md names them), made from its records and its config. Knows no engines and no tables."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from sgl_specreason.errors import RecordError, UsageError
from sgl_specreason.method.policy import METHODS
from sgl_specreason.results import stats
from sgl_specreason.results.lines import Outcome, Record
from sgl_specreason.results.records import begun_runs, outcomes, swept, trajectories
from sgl_specreason.results.schema import Conditions, Config, Policy, ReplaySummary, Settings, Summary, Value
from sgl_specreason.typed import typed

T = TypeVar("T")

# What two runs that are compared must have in common; the method and its knobs are what is compared.
SHARED_SETTINGS = (
    "replay",
    "dummy_weights",
    "bench",
    "prompts",
    "dataset_sha256",
    "samples",
    "limit",
    "seed",
    "concurrency",
    "replicas",
)
SHARED_POLICY = ("budget_tokens", "on_budget", "stop_loops", "answer_tokens", "temperature", "top_p")
SHARED_CONDITIONS = ("versions", "gpu")
WRITTEN_LATE_S = 60.0
"""Lines stand in the order in which trajectories ended, but for the seconds that grading took."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder as it was read: of each trajectory its outcome, and the whole records for whoever asks.

    `varied` are the settings of the sweep that it was read as a part of.
    """

    path: Path
    config: Config
    outcomes: list[Outcome]
    varied: frozenset[str] = frozenset()

    @property
    def settings(self) -> Settings:
        return self.config.settings

    @property
    def method(self) -> str:
        return self.settings.method

    @cached_property
    def policy(self) -> Policy:
        return typed(self.settings.policy, Policy)

    @property
    def is_replay(self) -> bool:
        """Whether it followed a trace: then it has latencies and no answers."""
        return self.settings.trace is not None

    @cached_property
    def records(self) -> list[Record]:
        return list(trajectories(self.path))

    @cached_property
    def summary(self) -> Summary:
        return summarise(self.outcomes, self.config)


def load_runs(folder: Path) -> list[Run]:
    """The run that `folder` is, or the runs that it holds, in the order of METHODS and their knobs. Raises RecordError."""
    found, varied = begun_runs(folder).items(), swept(folder)
    runs = [Run(path=path, config=config, outcomes=list(outcomes(path)), varied=varied) for path, config in found]
    order = [str(method) for method in METHODS]
    told = {
        run.path: [(str(type(value)), value) for value in values.values()]
        for run, values in zip(runs, knobs(runs), strict=True)
    }
    return sorted(
        runs, key=lambda run: (order.index(run.method) if run.method in order else len(order), told[run.path])
    )


def acceptance(folder: Path) -> float:
    """The share of its drafts that a run of SpecReason kept. Raises UsageError where `folder` has no such run."""
    try:
        runs = [
            run for run in load_runs(folder) if run.method == "specreason" and run.summary.drafts and not run.is_replay
        ]
    except RecordError as error:
        raise UsageError(f"--match-acceptance {folder}: {error}") from None
    if len(runs) != 1:
        raise UsageError(f"--match-acceptance {folder}: holds {len(runs)} runs of specreason with drafts, not one")
    return runs[0].summary.acceptance


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
    answers = list(_grouped(in_order, lambda outcome: (outcome.answer, bool(outcome.correct))).values())
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
        "label_mass_mean": _total(done, "label_mass_sum") / masses if masses else math.nan,
        "truncated_share": stats.share(_total(done, "truncated"), len(done)),
        "loops": sum(outcome.stop_reason == "loop" for outcome in done),
    }


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
    return _grouped(outcomes, lambda outcome: bool(outcome.correct))


def _grouped(outcomes: Sequence[Outcome], value: Callable[[Outcome], T]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = {}
    for outcome in outcomes:
        if outcome.error is None:
            groups.setdefault(outcome.problem_id, []).append(value(outcome))
    return groups


def differing(runs: Sequence[Run], *, swept: Collection[str] = ()) -> dict[str, list[Any]]:
    """The conditions that are not the same in all runs, each with its value in every run; empty when they compare.

    `swept` names policy settings that were varied on purpose.
    """
    configs = [run.config for run in runs]
    columns: dict[str, list[Any]] = {key: [getattr(c.settings, key) for c in configs] for key in SHARED_SETTINGS}
    shared = [key for key in SHARED_POLICY if key not in swept]
    columns |= {f"models.{role}": [c.settings.models.get(role) for c in configs] for role in ("base", "small")}
    columns |= {f"policy.{key}": [c.settings.policy.get(key) for c in configs] for key in shared}
    columns |= {key: [getattr(config, key) for config in configs] for key in SHARED_CONDITIONS}
    return {key: values for key, values in columns.items() if any(value != values[0] for value in values)}


def knobs(runs: Sequence[Run]) -> list[dict[str, Value]]:
    """Of each run, the policy settings in which it is not like all the others of its method."""
    found = []
    for run in runs:
        policies = [other.settings.policy for other in runs if other.method == run.method]
        own = run.settings.policy.items()
        found.append({key: value for key, value in own if any(p.get(key) != value for p in policies)})
    return found


@dataclass(frozen=True, kw_only=True)
class AgainstBase:
    """A run beside base on the same problems; replays have no accuracy."""

    accuracy: stats.Paired | None
    speed_up: stats.Ratio


def base_of(run: Run, runs: Sequence[Run]) -> Run | None:
    """What `run` is compared with: the first run of base under its conditions, else the first one; None for base itself."""
    bases = [other for other in runs if other.method == "base" and run.method != "base"]
    return next((base for base in bases if not differing([run, base])), next(iter(bases), None))


def against_base(runs: Sequence[Run]) -> list[AgainstBase | None]:
    """Each run paired by problem with its base; None where it has none."""
    found: list[AgainstBase | None] = []
    for run in runs:
        base = base_of(run, runs)
        if base is None:
            found.append(None)
            continue
        latencies = [_grouped(each.outcomes, lambda outcome: outcome.latency_s) for each in (base, run)]
        accuracy = None if run.is_replay else stats.paired(by_problem(run.outcomes), by_problem(base.outcomes))
        found.append(AgainstBase(accuracy=accuracy, speed_up=stats.ratio_of_means(*latencies)))
    return found
