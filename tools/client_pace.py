"""Owns whether one client process is the limit: trajectories on engines that take as long as a GPU's, few and many at a time.

Example: python tools/client_pace.py --streams 4,64,256,512

Stub engines take their time and have room for everyone: a trajectory takes as long among many as among few, unless the client
is too slow. A step takes half a second, as in the published trace with one thing at a time (QwQ-32B and R1-1.5B); real engines
that serve many at once are slower, and ask less of a client.
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

SMALL_TOKEN_MS, BASE_TOKEN_MS, JUDGE_MS, REJECTED = 12.0, 106.0, 160.0, 1
"""A draft 0.24 s, a judgement 0.16 s, a rewriting 2.1 s for one of ten drafts: as much a step as in the trace, where 14 % of the
drafts are rewritten, in 1.55 s each (eval/traces/qwq-32b+r1-1.5b.aime24.jsonl)."""


@dataclass(frozen=True, kw_only=True)
class Paced:
    """So many trajectories side by side of so many steps: seconds of each (median), and CPU per step of this process."""

    streams: int
    steps: int
    latency_s: float
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

    cpu = time.process_time()
    seconds = list(run_all(range(streams), work, streams))
    return Paced(
        streams=streams,
        steps=steps,
        latency_s=statistics.median(seconds),
        cpu_s=(time.process_time() - cpu) / (streams * steps),
    )


def table(found: Sequence[Paced]) -> str:
    """Markdown; each beside the first."""
    first = found[0]
    rows = []
    for one in found:
        asked, got = (one.streams * one.steps / seconds for seconds in (first.latency_s, one.latency_s))
        rows.append(
            f"| {one.streams} | {one.latency_s:.2f} | {one.latency_s / first.latency_s:.2f} | {asked:.0f} | {got:.0f} | "
            f"{1e3 * one.cpu_s:.2f} |"
        )
    head = (
        f"| streams | s per trajectory, median | times that of {first.streams} | steps/s asked for | steps/s, all streams busy | "
        "ms of CPU per step |"
    )
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
