"""Owns the load on the server: many streams, clients that leave, a slow reader, and who comes first.

Example: python tools/load.py --engines stub --streams 64,256 --out runs/load

On stub engines that answer at once, the same trajectories run by the bare client too: the ratio is what the server costs. On
the bundled pair the answers are looked at. Prints a table; --out gets load.json and load.md.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accounts import Say
from asking import Served
from load_bare import bare
from load_scenarios import Scene, fairness, slow_reader, storm, streams
from load_streams import Server
from options import Parser, at_least, counts
from own_server import BUNDLED, SERVE_KEY, Engines, bundled_pair, server, stub_pair

STUB_POLICY: dict[str, Any] = {"budget_tokens": 800, "answer_tokens": 64, "temperature": 0.0}
DEMO_POLICY: dict[str, Any] = {"budget_tokens": 512, "answer_tokens": 64, "step_tokens": 64, "temperature": 0.0}
SCENARIOS = ("streams", "storm", "slow", "fairness")


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", choices=("stub", "demo"), default="stub")
    parser.add_argument(
        "--streams", type=counts, default=[64, 256], metavar="N,N", help="side by side  [default: 64,256]"
    )
    parser.add_argument("--rounds", type=at_least(1), default=4, help="how often each of them asks")
    parser.add_argument("--leaving", type=at_least(1), default=256, help="clients of the storm")
    parser.add_argument("--rejected", type=int, choices=range(11), default=0, help="of ten drafts, on stub engines")
    parser.add_argument("--only", action="append", choices=SCENARIOS, metavar="NAME", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    begin = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - begin:4.0f} s] {line}", file=sys.stderr, flush=True)

    out = options.out or Path("runs/load")
    out.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for one in run(options, out, say):
        say(json.dumps(one))
        found.append(one)
        (out / "load.json").write_text(json.dumps(found, indent=1) + "\n")
        (out / "load.md").write_text(markdown(found))
    print(markdown(found))
    return int(any(one["wrong"] for one in found))


def run(options: argparse.Namespace, out: Path, say: Say) -> Iterator[dict[str, Any]]:
    """What each scenario found; `wrong` says what was not as it should be."""
    only = options.only or SCENARIOS
    stub = options.engines == "stub"
    with engines_of(options, out, say, []) as engines:
        for number in options.streams if "streams" in only else ():
            with scene(engines, stub, number, out, say) as here:
                yield asyncio.run(streams(here, number, options.rounds))
            if stub:
                say(f"the bare client, {number} side by side")
                figures = bare(engines, BUNDLED, STUB_POLICY, number * options.rounds, number)
                yield {"scenario": f"bare client, {number} side by side", **figures, "wrong": []}
        if "fairness" in only:
            with scene(engines, stub, 1, out, say) as here:
                yield asyncio.run(fairness(here, 64 if stub else 32))
        if "slow" in only:
            with scene(engines, stub, 16, out, say) as here:
                yield asyncio.run(slow_reader(here, 8, options.rounds))
        if "storm" in only and not stub:
            with scene(engines, stub, 64, out, say) as here:
                yield asyncio.run(storm(here, options.leaving))
    if "storm" in only and stub:  # what is answered at once, nobody can leave: 400 ms a step
        slowly = engines_of(options, out, say, ["--token-ms", "20"])
        with slowly as engines, scene(engines, stub, options.leaving, out, say) as here:
            yield asyncio.run(storm(here, options.leaving))


@contextmanager
def engines_of(options: argparse.Namespace, out: Path, say: Say, pace: list[str]) -> Iterator[Engines]:
    if options.engines == "demo":
        with bundled_pair(out / "engines", say) as engines:
            yield engines
        return
    with stub_pair([*pace, "--rejected", str(options.rejected)]) as engines:
        yield engines


@contextmanager
def scene(engines: Engines, stub: bool, concurrency: int, out: Path, say: Say) -> Iterator[Scene]:
    """A fresh server with so many places over the engines."""
    policy = STUB_POLICY if stub else DEMO_POLICY
    words = [*engines.words, "--concurrency", str(concurrency), "--max-queue", "100000"]
    for name, value in policy.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    with ExitStack() as stack:
        served: Served = stack.enter_context(server(words, out / f"server-{concurrency}.log"))
        yield Scene(
            server=Server.at(served.url, SERVE_KEY),
            url=served.url,
            pid=served.process.pid,
            engines=(engines.base_url, engines.small_url),
            concurrency=concurrency,
            stub=stub,
            say=say,
        )


def markdown(found: list[dict[str, Any]]) -> str:
    """A list of figures for each scenario, and the ratios of server and bare client."""
    parts = ["# Load\n"]
    for one in found:
        parts.append(f"## {one['scenario']}\n")
        parts += [f"- {name}: {shown(value)}" for name, value in one.items() if name not in ("scenario", "wrong")]
        parts += [f"- **wrong**: {words}" for words in one["wrong"]] or ["- nothing wrong"]
        parts.append("")
    named = {one["scenario"]: one for one in found}
    for name, one in named.items():
        if name.startswith("bare client") and (ours := named.get(name.replace("bare client", "streams"))):
            rate, cpu = (ours[key] / one[key] for key in ("steps_per_s", "cpu_ms_per_step"))
            parts.append(
                f"{ours['scenario']}: {rate:.2f} of the bare client's steps/s, {cpu:.2f} times its CPU per step."
            )
    return "\n".join(parts) + "\n"


def shown(value: Any) -> str:
    return ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)


if __name__ == "__main__":
    sys.exit(main())
