"""Owns what the accounts of measured trajectories say: wall time by what it went to, and how much was cached.

Knows no engines; a trajectory's calls are all it reads.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sgl_specreason.engines.account import Request
from sgl_specreason.method.trajectory import Trajectory
from sgl_specreason.text.steps import Author

Say = Callable[[str], None]
PURPOSES = ("draft", "judge", "regenerate", "answer")


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A trajectory with the seconds that it took."""

    trajectory: Trajectory
    latency_s: float


def uncovered(timed: Sequence[Timed]) -> float:
    """The share of wall time in which neither engine worked on the trajectory: HTTP, our own code, waiting for a thread."""
    covered = wall = 0.0
    for one in timed:
        spans = []
        for call in one.trajectory.calls:
            spare = (call.account.seconds - call.account.engine_seconds) / 2
            spans.append((call.account.start_s + spare, call.account.start_s + call.account.seconds - spare))
        covered += union(spans)
        wall += one.latency_s
    return 1 - covered / wall


def union(spans: list[tuple[float, float]]) -> float:
    """The length of what the spans cover together."""
    length, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        length += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return length


def reuse(timed: Sequence[Timed], ids: Mapping[Author, Callable[[str], list[int]]]) -> float:
    """The share of prompt tokens that an engine had cached, of those that it had seen earlier in the same trajectory.

    `ids` tokenises for each engine. Raises AssertionError where a request misses more of its prompt than what was
    appended since (its own step and judge turn, or the last step that the other model wrote) and one token.
    """
    cached = seen = 0
    for one in timed:
        for account, fresh in requests(one.trajectory, ids):
            known = account.prompt_tokens - fresh
            assert account.cached_tokens >= known - 1, (one.trajectory.problem_id, account)
            cached += min(account.cached_tokens, known)
            seen += known
    return cached / seen


def requests(t: Trajectory, ids: Mapping[Author, Callable[[str], list[int]]]) -> Iterator[tuple[Request, int]]:
    """Every draft, judge and regenerate request after the first step, with how many prompt tokens its engine has not seen."""
    calls = {
        purpose: iter([call.account for call in t.calls if call.purpose == purpose and not call.dropped])
        for purpose in PURPOSES
    }
    last = 0
    for number, kept in enumerate(t.kept):
        found: list[tuple[Request, int]] = []
        if kept.draft is not None:
            found.append((next(calls["draft"]), last))
        if kept.draft is not None and kept.judgement is not None:
            turn = t.texts.judge_closed if kept.draft.ending == "think_end" else t.texts.judge_open
            found.append((next(calls["judge"]), len(ids["base"](kept.draft.text + turn))))
        if kept.by == "base":
            found.append((next(calls["regenerate"]), 0))
        if number:
            yield from found
        last = len(ids["small"](kept.step.text)) if kept.by == "base" else 0


def profile(timed: Sequence[Timed], title: str, say: Say) -> None:
    """Where wall time goes, in seconds a trajectory: engines by purpose, waiting for a turn there, HTTP, our own time."""
    count = len(timed)
    wall = sum(one.latency_s for one in timed) / count
    say(f"profile, {title}: {count} trajectories, {wall:.3f} s each")
    rows: list[tuple[str, float, float]] = []
    http = queued = 0.0
    for purpose, dropped in [(purpose, False) for purpose in PURPOSES] + [("draft", True)]:
        accounts = [
            call.account
            for one in timed
            for call in one.trajectory.calls
            if call.purpose == purpose and call.dropped == dropped
        ]
        waiting = sum(account.queue_seconds or 0.0 for account in accounts)
        rows.append(
            (
                f"{purpose}{' ahead, dropped' if dropped else ''}: engine",
                (sum(account.engine_seconds for account in accounts) - waiting) / count,
                len(accounts) / count,
            )
        )
        http += sum(account.seconds - account.engine_seconds for account in accounts) / count
        queued += waiting / count
    requests = sum(number for _, _, number in rows)
    rows.append(("waiting for a turn in an engine", queued, requests))
    rows.append(("HTTP and JSON, both sides", http, requests))
    spans = [
        union([(c.account.start_s, c.account.start_s + c.account.seconds) for c in one.trajectory.calls])
        for one in timed
    ]
    rows.append(("our own code (outside requests)", wall - sum(spans) / count, 0.0))
    overlap = sum(value for _, value, _ in rows) - wall
    rows.append(("less what ran side by side", -overlap, 0.0))
    for name, value, number in rows:
        say(f"  {name:36} {value:8.4f} s {100 * value / wall:6.1f} %" + (f"  {number:5.1f} requests" if number else ""))
