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
from sgl_specreason.results.records import begun_runs, swept, trajectories

T = TypeVar("T")

Record = dict[str, Any]
WHOLE = ("steps", "requests", "answer_text", "permutation")
CONDITIONS = ("prompts", "models", "versions", "gpu", "dataset_sha256", "dataset_origin", "commit", "replicas")
# What two runs that are compared must have in common; the method and its knobs are what is compared.
SHARED_SETTINGS = (
    "replay",
    "dummy_weights",
    "bench",
    "models",
    "prompts",
    "dataset_sha256",
    "samples",
    "limit",
    "seed",
    "concurrency",
    "replicas",
)
SHARED_POLICY = ("budget_tokens", "on_budget", "answer_tokens", "temperature", "top_p")
SHARED_CONDITIONS = ("versions", "gpu")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder as it was read: of each trajectory its outcome, and the whole records for whoever asks.

    `varied` are the settings of the sweep that it was read as a part of.
    """

    path: Path
    config: Record
    outcomes: list[Record]
    varied: frozenset[str] = frozenset()

    @property
    def method(self) -> str:
        return str(self.config["settings"]["method"])

    @property
    def is_replay(self) -> bool:
        """Whether it followed a trace: then it has latencies and no answers."""
        return "trace" in self.config["settings"]

    @cached_property
    def records(self) -> list[Record]:
        return list(trajectories(self.path))

    @cached_property
    def summary(self) -> dict[str, Any]:
        return summarise(self.outcomes, self.config)


def load_runs(folder: Path) -> list[Run]:
    """The run that `folder` is, or the runs that it holds, in the order of METHODS and their knobs. Raises RecordError."""
    found, varied = begun_runs(folder).items(), frozenset(swept(folder))
    runs = [
        Run(path=path, config=config, outcomes=list(map(outcome, trajectories(path))), varied=varied)
        for path, config in found
    ]
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
            run
            for run in load_runs(folder)
            if run.method == "specreason" and run.summary["drafts"] and not run.is_replay
        ]
    except RecordError as error:
        raise UsageError(f"--match-acceptance {folder}: {error}") from None
    if len(runs) != 1:
        raise UsageError(f"--match-acceptance {folder}: holds {len(runs)} runs of specreason with drafts, not one")
    return float(runs[0].summary["acceptance"])


def outcome(record: Record) -> Record:
    """What the numbers of a run need of a record, without the texts and requests that make up most of it."""
    speculated = [
        (request["completion_tokens"], request["accept_length"])
        for request in record.get("requests", ())
        if request.get("accept_length")
    ]
    masses = [step["label_mass"] for step in record.get("steps", ()) if "label_mass" in step]
    return {key: value for key, value in record.items() if key not in WHOLE} | {
        "judge_requests": sum(request["purpose"] == "judge" for request in record.get("requests", ())),
        "retries": sum(request.get("retries", 0) for request in record.get("requests", ())),
        "tokens_speculated": sum(tokens for tokens, _ in speculated),
        "verify_steps": sum(tokens / length for tokens, length in speculated),
        "label_mass_sum": sum(masses),
        "label_masses": len(masses),
    }


def summarise(records: Sequence[Record], config: Record) -> dict[str, Any]:
    """The summary of one method's run, of its outcomes. Failed trajectories are in `failed` and in nothing else.

    Token counts are totals over the run, shares are 0..1, seconds are wall time.
    """
    settings = config["settings"]
    done = [record for record in records if "error" not in record]
    groups = by_problem(done)
    replay = "trace" in settings
    right = [] if replay else list(groups.values())
    latencies = [record["latency_s"] for record in done]
    # the time its trajectories had of the run's places: other methods run in between
    wall_s = sum(record["latency_s"] for record in records) / settings["concurrency"]
    fewest = min(map(len, right), default=0)

    def total(key: str) -> Any:
        return sum(record[key] for record in done)

    low, high = stats.bootstrap_ci95(right)
    steps, kept = total("steps_kept"), total("thinking_tokens")
    return {
        "bench": settings["bench"],
        "method": settings["method"],
        "pair": settings["pair"],
        "preset": settings["preset"],
        "policy": settings["policy"],
        "samples": settings["samples"],
        "concurrency": settings["concurrency"],
        "budget_tokens": settings["policy"]["budget_tokens"],
        "n": len(groups),
        "trajectories": len(done),
        "accuracy": stats.accuracy(right),
        "accuracy_se": stats.clustered_se(right),
        "accuracy_ci95": [low, high],
        "pass_at_k": {str(k): stats.pass_at_k(right, k) for k in (1, 2, 4, 8, 16, 32) if 1 < k <= fewest},
        "maj_at_k": {str(fewest): stats.maj_at_k(list(_answers(done).values()))} if fewest > 1 else {},
        "latency_mean_s": stats.mean(latencies),
        "latency_p50_s": stats.percentile(latencies, 50),
        "latency_p95_s": stats.percentile(latencies, 95),
        "wall_s": wall_s,
        "throughput_problems_per_s": stats.share(len(done), wall_s),
        "steps": steps,
        "drafts": total("drafts"),
        "judged_steps": total("judged"),
        "unjudged_drafts": total("drafts") - total("judged"),
        "accepted_steps": total("accepted"),
        "acceptance": stats.share(total("accepted"), total("drafts")),
        "offloaded_steps_share": stats.share(total("steps_by_small"), steps),
        "offloaded_tokens_share": stats.share(total("tokens_small_kept"), kept),
        "thinking_tokens_mean": stats.mean([record["thinking_tokens"] for record in done]),
        "tokens_base": total("tokens_base"),
        "tokens_small": total("tokens_small"),
        "tokens_discarded": total("tokens_discarded"),
        "tokens_dropped": sum(record.get("tokens_dropped", 0) for record in done),
        "tokens_salvaged": sum(record.get("tokens_salvaged", 0) for record in done),
        "answer_tokens": total("answer_tokens"),
        "judge_requests": total("judge_requests"),
        "label_mass_mean": total("label_mass_sum") / total("label_masses") if total("label_masses") else math.nan,
        "prompt_tokens": total("prompt_tokens"),
        "cached_tokens": total("cached_tokens"),
        "cached_share": stats.share(total("cached_tokens"), total("prompt_tokens")),
        "truncated_share": stats.share(total("truncated"), len(done)),
        "loops": sum(record.get("stop_reason") == "loop" for record in done),
        "no_answer_share": math.nan if replay else stats.share(sum(r["answer"] is None for r in done), len(done)),
        "retries": sum(record.get("retries", 0) for record in records),
        "accept_length_mean": stats.share(
            sum(record.get("tokens_speculated", 0) for record in done),
            sum(record.get("verify_steps", 0) for record in done),
        ),
        "grader_timeouts": sum(r["grader"] in ("timeout", "failed") for r in done),
        "failed": len(records) - len(done),
        "partial": len(done) < config["expected"],
        "conditions": {key: config.get(key) for key in CONDITIONS},
    } | (_of_replay(config, kept + total("answer_tokens"), wall_s) if replay else {})


def _of_replay(config: Record, tokens: int, wall_s: float) -> Record:
    """What a replay's summary has besides."""
    settings = config["settings"]
    return {
        "replay": True,
        "dummy_weights": settings.get("dummy_weights", False)
        or any(info.get("load_format") == "dummy" for info in config.get("server_info", {}).values()),
        "trace": settings["trace"],
        "throughput_tokens_per_s": stats.share(tokens, wall_s),
        "memory": config.get("memory"),
    }


def by_problem(records: Sequence[Record]) -> dict[str, list[bool]]:
    """Whether each sample of each problem is right; failed trajectories left out."""
    return _grouped(records, lambda record: bool(record["correct"]))


def _grouped(records: Sequence[Record], value: Callable[[Record], T]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = {}
    for record in records:
        if "error" not in record:
            groups.setdefault(record["problem_id"], []).append(value(record))
    return groups


def _answers(records: Sequence[Record]) -> dict[str, list[tuple[str | None, bool]]]:
    return _grouped(records, lambda record: (record["answer"], bool(record["correct"])))


def differing(runs: Sequence[Run], *, swept: Collection[str] = ()) -> dict[str, list[Any]]:
    """The conditions that are not the same in all runs, each with its value in every run; empty when they compare.

    `swept` names policy settings that were varied on purpose.
    """
    configs = [run.config for run in runs]
    columns: dict[str, list[Any]] = {key: [c["settings"].get(key) for c in configs] for key in SHARED_SETTINGS}
    shared = [key for key in SHARED_POLICY if key not in swept]
    columns |= {f"policy.{key}": [c["settings"]["policy"].get(key) for c in configs] for key in shared}
    columns |= {key: [config.get(key) for config in configs] for key in SHARED_CONDITIONS}
    return {key: values for key, values in columns.items() if any(value != values[0] for value in values)}


def knobs(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Of each run, the policy settings in which it is not like all the others of its method."""
    found = []
    for run in runs:
        policies = [other.config["settings"]["policy"] for other in runs if other.method == run.method]
        own = run.config["settings"]["policy"]
        found.append({key: value for key, value in own.items() if any(p.get(key) != value for p in policies)})
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
        latencies = [_grouped(each.outcomes, lambda record: float(record["latency_s"])) for each in (base, run)]
        accuracy = None if run.is_replay else stats.paired(by_problem(run.outcomes), by_problem(base.outcomes))
        found.append(AgainstBase(accuracy=accuracy, speed_up=stats.ratio_of_means(*latencies)))
    return found
