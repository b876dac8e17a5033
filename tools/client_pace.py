"""Owns how many streams client processes keep up with: trajectories on engines as slow as a GPU's, few and many at a time.

Example: python tools/client_pace.py --streams 4,256,512 --clients 1,2

Stub engines take their time and have room for everyone: a trajectory takes as long among many as among few, unless the client
is too slow. A step takes half a second, as in the published trace with one thing at a time (QwQ-32B and R1-1.5B); real engines
that serve many at once are slower, and ask less of a client.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]
from client_cost import stub_servers
from options import Parser, at_least, counts

from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.engines.servers import ROLES
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.run import clients, serving
from sgl_specreason.run.runner import run_all
from sgl_specreason.run.serving import Access
from sgl_specreason.run.session import Record, Session, Task

SMALL_TOKEN_MS, BASE_TOKEN_MS, JUDGE_MS, REJECTED = 12.0, 106.0, 160.0, 1
"""A draft 0.24 s, a judgement 0.16 s, a rewriting 2.1 s for one of ten drafts: as much a step as in the trace, where 14 % of the
drafts are rewritten, in 1.55 s each (eval/traces/qwq-32b+r1-1.5b.aime24.jsonl)."""
STEP_TOKENS = 20
Speed = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Paced:
    """So many trajectories side by side, shared out: seconds of each (median), CPU seconds a step of all client processes."""

    streams: int
    clients: int
    steps: int
    latency_s: float
    cpu_s: float


@contextmanager
def stub_pair(speed: Speed) -> Iterator[Access]:
    """Two engines that say steps in the words of the bundled pair, each a process with these options."""
    model = resolve(Options(bench="demo", pair="demo", policy={})).models["base"]
    with stub_servers({role: ["--model", model, *speed[role]] for role in ROLES}) as urls:
        yield Access(urls=(urls["small"], urls["base"]), api_key=None, request_timeout_s=600, patience_s=10)


def paced(access: Access, *, streams: int, count: int, steps: int) -> Paced:
    """One trajectory of `steps` steps in each stream, `count` client processes."""
    policy = {"budget_tokens": steps * STEP_TOKENS, "on_budget": "stop", "stop_loops": False, "temperature": 0.0}
    plan = resolve(
        Options(
            bench="demo",
            base_url=access.urls and access.urls[1],
            small_url=access.urls and access.urls[0],
            methods=("specreason",),
            concurrency=streams,
            clients=count,
            policy=policy,
        )
    )
    plan, engines = serving.attached(plan, access, print)
    chats = serving.chats_of(plan)
    with serving.connected(engines, chats, access, Endpoint, 2 * streams) as endpoints:
        session = Session(
            plan=plan, variants=plan.variants, chats=chats, endpoints=endpoints, say=print, rates={}, keep_cache=True
        )
        with clients.sharing(session, engines, access, 2 * streams) as shared:
            attempt = shared.attempts or shared.attempt
            numbers = (divmod(number, len(plan.problems)) for number in range(streams))
            tasks = [(plan.variants[0], plan.problems[at], sample) for sample, at in numbers]

            def run(chosen: Sequence[Task]) -> list[Record]:
                return list(run_all(chosen, lambda task: attempt(*task), streams))

            run(tasks[:4])
            before = _cpu_s()
            records = run(tasks)
            spent = _cpu_s() - before
    written = [len(record["steps"]) for record in records]
    assert set(written) == {steps}
    assert not any("error" in record for record in records)
    return Paced(
        streams=streams,
        clients=count,
        steps=steps,
        latency_s=statistics.median(record["latency_s"] for record in records),
        cpu_s=spent / sum(written),
    )


def _cpu_s() -> float:
    """Of this process and the clients that it has begun."""
    own = psutil.Process()
    family = [own, *(child for child in own.children(recursive=True) if "stub_engine" not in " ".join(child.cmdline()))]
    return float(sum(process.cpu_times().user + process.cpu_times().system for process in family))


def table(found: Sequence[Paced]) -> str:
    """Markdown; each beside the first."""
    first = found[0]
    rows = []
    for one in found:
        asked, got = (one.streams * one.steps / seconds for seconds in (first.latency_s, one.latency_s))
        rows.append(
            f"| {one.streams} | {one.clients} | {one.latency_s:.2f} | {one.latency_s / first.latency_s:.2f} | {asked:.0f} | "
            f"{got:.0f} | {1e3 * one.cpu_s:.2f} |"
        )
    head = (
        f"| streams | clients | s per trajectory, median | times that of {first.streams} | steps/s asked for | "
        "steps/s, all streams busy | ms of CPU per step |"
    )
    return "\n".join([head, "|--:|--:|--:|--:|--:|--:|--:|", *rows])


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--streams", type=counts, default=[4, 64, 256, 512], metavar="N,N", help="side by side")
    parser.add_argument("--clients", type=counts, default=[1, 2], metavar="N,N", help="client processes")
    parser.add_argument("--steps", type=at_least(1), default=30, help="of each trajectory")
    options = parser.parse_args()
    speed = {
        "small": ["--token-ms", str(SMALL_TOKEN_MS)],
        "base": ["--token-ms", str(BASE_TOKEN_MS), "--judge-ms", str(JUDGE_MS), "--rejected", str(REJECTED)],
    }
    with stub_pair(speed) as access:
        found = [
            paced(access, streams=streams, count=count, steps=options.steps)
            for streams in options.streams
            for count in options.clients
            if count <= streams
        ]
    print(table(found))


if __name__ == "__main__":
    main()
