"""Owns whether one client process is the limit: trajectories on engines that take as long as a GPU's, few and many at a time.

Example: python tools/client_pace.py --streams 4,64,256,512

Stub engines take their time and have room for everyone: a trajectory takes as long among many as among few, unless the client
is too slow. How long is that of a published trace at concurrency 1 (QwQ-32B and R1-1.5B); engines that are full are slower.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from client_cost import SHORT, STEP_TOKENS, stub_engines, texts_of
from options import Parser, at_least, counts

from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.method.policy import Policy
from sgl_specreason.method.program import run_trajectory
from sgl_specreason.method.trajectory import Trajectory
from sgl_specreason.run.runner import run_all
from sgl_specreason.text.steps import Author

SMALL_TOKEN_MS, BASE_TOKEN_MS, JUDGE_MS, REJECTED = 10.0, 46.0, 160.0, 1
"""Of eval/traces/qwq-32b+r1-1.5b.aime24.jsonl; rejected: of ten drafts."""


@dataclass(frozen=True, kw_only=True)
class Paced:
    """So many trajectories side by side: seconds of each (median), all steps a second, and CPU per step of this process."""

    streams: int
    latency_s: float
    steps_per_s: float
    cpu_s: float


def paced(engines: dict[Author, Endpoint], streams: int, steps: int) -> Paced:
    """One trajectory of `steps` steps in each stream."""
    policy = Policy(budget_tokens=steps * STEP_TOKENS, on_budget="stop", temperature=0.0)
    texts = texts_of(SHORT)

    def work(number: int) -> float:
        t = Trajectory(problem_id=str(number), sample=0, sampling_seed=number, policy=policy, texts=texts)
        begin = time.monotonic()
        run_trajectory("specreason", t, engines)
        assert len(t.kept) == steps
        return time.monotonic() - begin

    cpu, wall = time.process_time(), time.monotonic()
    seconds = list(run_all(range(streams), work, streams))
    done = streams * steps
    return Paced(
        streams=streams,
        latency_s=statistics.median(seconds),
        steps_per_s=done / (time.monotonic() - wall),
        cpu_s=(time.process_time() - cpu) / done,
    )


def table(found: Sequence[Paced]) -> str:
    """Markdown; each beside the first."""
    first = found[0]
    rows = [
        f"| {one.streams} | {one.latency_s:.2f} | {one.latency_s / first.latency_s:.2f} | {one.steps_per_s:.0f} | "
        f"{1e3 * one.cpu_s:.2f} | {100 * one.cpu_s * one.steps_per_s:.0f} |"
        for one in found
    ]
    head = f"| streams | s per trajectory, median | times that of {first.streams} | steps/s | ms of CPU per step | % of a core |"
    return "\n".join([head, "|--:|--:|--:|--:|--:|--:|", *rows])


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--streams", type=counts, default=[4, 64, 256, 512], metavar="N,N", help="side by side")
    parser.add_argument("--steps", type=at_least(1), default=30, help="of each trajectory")
    options = parser.parse_args()
    speed = {
        "small": ["--token-ms", str(SMALL_TOKEN_MS)],
        "base": ["--token-ms", str(BASE_TOKEN_MS), "--judge-ms", str(JUDGE_MS), "--rejected", str(REJECTED)],
    }
    with stub_engines(max(options.streams), **speed) as engines:
        paced(engines, 4, 2)
        print(table([paced(engines, streams, options.steps) for streams in options.streams]))


if __name__ == "__main__":
    main()
