"""Owns the numbers of one run (design.md names them), made from its records and its config. Knows no engines and no tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sgl_specreason import stats
from sgl_specreason.records import begun_runs, read_trajectories

Record = dict[str, Any]
CONDITIONS = ("prompts", "models", "versions", "gpu", "dataset_sha256", "dataset_origin", "commit")
# What two runs that are compared must have in common; the method and its knobs are what is compared.
SHARED_SETTINGS = ("bench", "models", "prompts", "dataset_sha256", "samples", "limit", "seed", "concurrency")
SHARED_POLICY = ("budget_tokens", "on_budget", "answer_tokens", "temperature", "top_p")
SHARED_CONDITIONS = ("versions", "gpu")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder as it was read."""

    path: Path
    config: Record
    records: list[Record]

    @property
    def method(self) -> str:
        return str(self.config["settings"]["method"])

    @cached_property
    def summary(self) -> dict[str, Any]:
        return summarise(self.records, self.config)


def load_runs(folder: Path) -> list[Run]:
    """The run that `folder` is, or the runs of several methods that it holds. Raises RecordError."""
    found = begun_runs(folder).items()
    return [Run(path=path, config=config, records=read_trajectories(path)) for path, config in found]


def summarise(records: Sequence[Record], config: Record) -> dict[str, Any]:
    """The summary of one method's run. Failed trajectories are in `failed` and in nothing else.

    Token counts are totals over the run, shares are 0..1, seconds are wall time.
    """
    settings = config["settings"]
    done = [record for record in records if "error" not in record]
    groups = by_problem(done)
    right = list(groups.values())
    latencies = [record["latency_s"] for record in done]
    wall_s = max((record["elapsed_s"] for record in records), default=0.0)
    fewest = min(map(len, right), default=0)

    def total(key: str) -> int:
        return sum(record[key] for record in done)

    low, high = stats.bootstrap_ci95(right)
    steps, kept = total("steps_kept"), total("thinking_tokens")
    return {
        "bench": settings["bench"],
        "method": settings["method"],
        "pair": settings["pair"],
        "preset": settings["preset"],
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
        "accepted_steps": total("accepted"),
        "offloaded_steps_share": stats.share(total("steps_by_small"), steps),
        "offloaded_tokens_share": stats.share(total("tokens_small_kept"), kept),
        "thinking_tokens_mean": stats.mean([record["thinking_tokens"] for record in done]),
        "tokens_base": total("tokens_base"),
        "tokens_small": total("tokens_small"),
        "tokens_discarded": total("tokens_discarded"),
        "answer_tokens": total("answer_tokens"),
        "judge_requests": sum(request["purpose"] == "judge" for record in done for request in record["requests"]),
        "label_mass_mean": stats.mean(
            [step["label_mass"] for r in done for step in r["steps"] if "label_mass" in step]
        ),
        "prompt_tokens": total("prompt_tokens"),
        "cached_tokens": total("cached_tokens"),
        "cached_share": stats.share(total("cached_tokens"), total("prompt_tokens")),
        "truncated_share": stats.share(total("truncated"), len(done)),
        "no_answer_share": stats.share(sum(r["answer"] is None for r in done), len(done)),
        "grader_timeouts": sum(r["grader"] in ("timeout", "failed") for r in done),
        "failed": len(records) - len(done),
        "partial": len(done) < config["expected"],
        "conditions": {key: config.get(key) for key in CONDITIONS},
    }


def by_problem(records: Sequence[Record]) -> dict[str, list[bool]]:
    """Whether each sample of each problem is right; failed trajectories left out."""
    groups: dict[str, list[bool]] = {}
    for record in records:
        if "error" not in record:
            groups.setdefault(record["problem_id"], []).append(bool(record["correct"]))
    return groups


def _answers(records: Sequence[Record]) -> dict[str, list[tuple[str | None, bool]]]:
    groups: dict[str, list[tuple[str | None, bool]]] = {}
    for record in records:
        groups.setdefault(record["problem_id"], []).append((record["answer"], bool(record["correct"])))
    return groups


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The conditions that are not the same in all runs, each with its value in every run; empty when they compare."""
    configs = [run.config for run in runs]
    columns: dict[str, list[Any]] = {key: [c["settings"].get(key) for c in configs] for key in SHARED_SETTINGS}
    columns |= {f"policy.{key}": [c["settings"]["policy"].get(key) for c in configs] for key in SHARED_POLICY}
    columns |= {key: [config.get(key) for config in configs] for key in SHARED_CONDITIONS}
    return {key: values for key, values in columns.items() if any(value != values[0] for value in values)}


def against_base(runs: Sequence[Run]) -> list[stats.Paired | None]:
    """Each run paired by problem with the first one of method base; None for that one, or where there is none."""
    base = next((run for run in runs if run.method == "base"), None)
    if base is None:
        return [None] * len(runs)
    theirs = by_problem(base.records)
    return [None if run is base else stats.paired(by_problem(run.records), theirs) for run in runs]
