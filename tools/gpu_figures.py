"""Owns the figures of a check of a GPU: what is made of a replay's records. Knows no engines and no tables."""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accounts import union

from sgl_specreason.results import stats
from sgl_specreason.results.lines import Failed, Finished, Request
from sgl_specreason.results.records import trajectories
from sgl_specreason.results.schema import ReplaySummary
from sgl_specreason.results.summary import Run, load_runs
from sgl_specreason.words import counted

Json = dict[str, Any]
SHOWN = 300


def of_replay(top: Path) -> Json:
    """A row for each method and point of a replay, by the trajectories that are finished."""
    runs = load_runs(top)
    rows = [row for run in runs if (row := _row(run))]
    return {"rows": rows, "finished": sum(row["n"] for row in rows)} | _errors(runs)


def _errors(runs: Sequence[Run]) -> Json:
    """How many trajectories failed, and why the first one did, in one line; nothing where none did."""
    found = [record.error for run in runs for record in trajectories(run.path) if isinstance(record, Failed)]
    if not found:
        return {}
    count = counted(len(found), "trajectory", "trajectories")
    return {"errors": f"{count} failed, the first one with: {' '.join(found[0].split())[:SHOWN]}"}


def _row(run: Run) -> Json:
    """Latencies in seconds, by the records; nothing of a run that has none."""
    found = _finished(run)
    summary = run.summary
    if not found or not isinstance(summary, ReplaySummary):
        return {}
    latencies = [record.latency_s for record in found]
    policy = run.settings.policy
    return {
        "method": run.method,
        "acceptance": policy.get("acceptance"),
        "lookahead": policy["lookahead"] if run.method.startswith("specreason") else None,
        "n": len(found),
        "expected": run.config.expected,
        "failed": summary.failed,
        "retries": summary.retries,
        "at_once": summary.most_at_once,
        "thinking_tokens_mean": summary.thinking_tokens_mean,
        "mean_s": stats.mean(latencies),
        **{f"p{q}_s": stats.percentile(latencies, q) for q in (50, 95, 99)},
        "tokens_per_s": summary.throughput_tokens_per_s,
        "accepted": summary.acceptance if summary.drafts else None,
        "client_share": client_share(found),
        "cached_share": summary.cached_share,
        "accept_length": summary.accept_length_mean or None,
        "latencies_s": {record.problem_id: record.latency_s for record in found},
    }


def _finished(run: Run) -> list[Finished]:
    return [record for record in trajectories(run.path) if isinstance(record, Finished)]


def client_share(records: Sequence[Finished]) -> float:
    """The share of wall time in which no engine worked on the trajectory: HTTP, our own code, waiting for a thread.

    An engine's seconds, with those in its queue, are taken to lie in the middle of the client's.
    """
    covered = wall = 0.0
    for record in records:
        covered += union([_span(request) for request in record.requests])
        wall += record.latency_s
    return 1 - covered / wall


def _span(request: Request) -> tuple[float, float]:
    seconds = request.seconds if request.engine_seconds is None else request.engine_seconds
    spare = (request.seconds - seconds) / 2
    return request.start_s + spare, request.start_s + request.seconds - spare


def of_judging(top: Path) -> Json:
    """What judging costs in a replay without lookahead, in milliseconds of the engine and in tokens that base writes.

    The first judgement of a trajectory computes its prompt too, and counts for that only.
    """
    runs = load_runs(top)
    records = [record for run in runs for record in _finished(run)]
    judged = [list(_of(record, "judge")) for record in records]
    later = [request for requests in judged for request in requests[1:]]
    first = [requests[0] for requests in judged if requests]
    written = [request for record in records for request in _of(record, "regenerate")]
    drafted = [request for record in records for request in _of(record, "draft")]
    if not later or not written:
        return {"finished": len(records)} | _errors(runs)
    step_ms = statistics.median(map(_token_ms, written))
    judge_ms = statistics.median(map(_ms, later))
    seen, cached = map(sum, zip(*map(reused, records), strict=True))
    return {
        "finished": len(records),
        "judgements": len(later),
        "judge_ms": judge_ms,
        "judge_new_tokens": statistics.median(r.prompt_tokens - r.cached_tokens for r in later),
        "base_step_ms": step_ms,
        "small_step_ms": statistics.median(map(_token_ms, drafted)),
        "judge_steps": judge_ms / step_ms,
        "prefill_tokens_per_s": statistics.median((r.prompt_tokens - r.cached_tokens) / _ms(r) * 1000 for r in first),
        "seen_tokens": seen,
        "reused_share": stats.share(cached, seen),
    } | _errors(runs)


def _of(record: Finished, purpose: str) -> Iterator[Request]:
    return (request for request in record.requests if request.purpose == purpose and not request.dropped)


def _ms(request: Request) -> float:
    return 1000 * (request.seconds if request.engine_seconds is None else request.engine_seconds)


def _token_ms(request: Request) -> float:
    return _ms(request) / request.completion_tokens


def reused(record: Finished) -> tuple[int, int]:
    """Of what both engines were sent in a trajectory without lookahead, the tokens that they had computed, and had cached.

    The last token of what an engine writes itself is not computed before the next request; of a prompt one always is.
    """
    seen = cached = context = draft = 0
    computed = {"base": 0, "small": 0}  # of the trajectory's context
    steps = iter(record.steps)
    kept = False
    for request in record.requests:
        had = min(computed[request.engine], request.prompt_tokens - 1)
        seen, cached = seen + had, cached + min(request.cached_tokens, had)
        if request.purpose == "draft":
            step = next(steps)
            context, draft, kept = request.prompt_tokens, (step.draft or step).tokens, bool(step.accepted)
            computed["small"] = context + (draft - 1 if kept else 0)
        elif request.purpose == "judge":
            computed["base"] = context + (draft if kept else 0)
        elif request.purpose == "regenerate":
            computed["base"] = request.prompt_tokens + request.completion_tokens - 1
    return seen, cached
