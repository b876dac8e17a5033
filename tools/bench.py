"""Owns the performance figures: our client against engines that answer at once, and the method on the bundled pair.

Example: python tools/bench.py --problems 24 --runs 3 --out runs/bench

Prints its tables as it goes, how each ratio compares with the committed one, and one JSON object as its last line (medians of
the runs). Every ratio is between things that ran in the same minutes, in turns; seconds of different runs do not compare.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from accounts import Say, Timed, profile, reuse, uncovered
from client_cost import client_cost, grown, growth
from committed import COMMITTED, lines, measured, read, write
from msgspec import structs
from options import Parser, at_least
from plain_loop import API_KEY, Done, Job, PlainLoop, processes

from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.engines.keeper import Engine
from sgl_specreason.engines.startup import started
from sgl_specreason.errors import UsageError
from sgl_specreason.method.program import run_trajectory
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.plan import Plan, Variant
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.results import stats
from sgl_specreason.results.folder import check_writable
from sgl_specreason.run.runner import run_all
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.steps import BLANK_LINE, Author, Written
from sgl_specreason.text.tokenizers import load_tokenizer

MANY = 16
CROWD = 64


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The engines of the bundled pair, up, and the ways to run a problem on them."""

    plan: Plan
    endpoints: dict[Author, Endpoint]
    chats: dict[Author, ChatFormat]
    urls: dict[str, str]
    pids: tuple[int, ...]
    variants: dict[str, Variant]

    def run(self, name: str, number: int, key: str) -> Timed:
        """Problem `number` by the variant `name`, in a part of the cache that only `key` has."""
        trajectory = self.plan.trajectory(self.variants[name], self.plan.problems[number], 0, self.chats)
        trajectory.cache_key = key
        begin = time.monotonic()
        run_trajectory(self.variants[name].method, trajectory, self.endpoints)
        return Timed(trajectory=trajectory, latency_s=time.monotonic() - begin)

    def job(self, number: int) -> Job:
        row, policy = self.plan.problems[number], self.variants["default"].policy
        return Job(
            problem_id=row.id,
            question=self.plan.prompts[self.plan.bench.prompt].fill(**row.values()),
            judge=self.plan.prompts["judge"].text,
            judge_reply=self.plan.prompts["judge_answer"].fill(score=""),
            threshold=policy.threshold,
            budget_tokens=policy.budget_tokens,
            step_tokens=policy.step_tokens,
            answer_tokens=policy.answer_tokens,
        )

    def engine_cpu_s(self) -> float:
        """CPU seconds that both engines have used so far."""
        total = 0.0
        for pid in self.pids:
            for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def flush(self) -> None:
        for endpoint in self.endpoints.values():
            endpoint.flush_cache()


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", type=at_least(1), default=24, help="problems of the demo bench at concurrency 1")
    parser.add_argument("--runs", type=at_least(1), default=3, help="repetitions, of which medians are given")
    parser.add_argument("--out", type=Path, help="a folder for bench.json and speed.json")
    parser.add_argument("--against", type=Path, default=COMMITTED, help="the speed.json that ratios are compared with")
    options = parser.parse_args()
    try:
        check_writable(options.out or Path())
        then = read(options.against)
    except UsageError as error:
        parser.error(str(error))
    begin = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - begin:4.0f} s] {line}", file=sys.stderr, flush=True)

    found = client_cost(runs=options.runs, say=say)
    curve = growth(say=say)
    with tempfile.TemporaryDirectory() as logs:
        plan = resolve(
            Options(bench="demo", methods=("base", "specreason"), limit=max(options.problems, 2 * CROWD), policy={})
        )
        # the engines count the seconds that a request waits for its turn
        specs = [replace(spec, args=(*spec.args, "--enable-metrics"), api_key=API_KEY) for spec in plan.specs]
        with started(specs, Path(logs), say=say) as engines:
            bench = prepared(plan, engines)
            found |= alone(bench, options.problems, options.runs, say)
            found |= together(bench, options.runs, say)
            curve |= prefilled(bench, say)
    now = measured(found, problems=options.problems, runs=options.runs)
    medians = {key: spread.median for key, spread in now.figures.items()}
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "bench.json").write_text(json.dumps(medians | {"growth": curve}, indent=1) + "\n")
        write(options.out / "speed.json", now)
    for line in lines(now, then, str(options.against)):
        say(line)
    print(json.dumps(medians))


def prepared(plan: Plan, engines: dict[Author, Engine]) -> Bench:
    """Endpoints over the running engines, and the variants that are compared."""
    urls = {role: engine.url for role, engine in engines.items()}
    tokenizers = {role: load_tokenizer(plan.models[role]) for role in urls}
    endpoints = {
        role: Endpoint(url, role=role, tokenizer=tokenizers[role], api_key=API_KEY, connections=2 * CROWD)
        for role, url in urls.items()
    }
    base, ours = plan.variants
    return Bench(
        plan=plan,
        endpoints=endpoints,
        chats={role: ChatFormat(tokenizer=tokenizer) for role, tokenizer in tokenizers.items()},
        urls={str(role): url for role, url in urls.items()},
        pids=tuple(engine.pid for engine in engines.values() if engine.pid),
        variants={
            "base": base,
            "default": ours,
            "no lookahead": Variant(ours.method, structs.replace(ours.policy, lookahead=0)),
            "no merging": Variant(ours.method, structs.replace(ours.policy, min_step_tokens=0)),
        },
    )


def alone(bench: Bench, problems: int, runs: int, say: Say) -> dict[str, list[float]]:
    """One trajectory at a time: each problem by every variant and the plain loop, in turns."""
    loop = PlainLoop(bench.urls)
    figures: dict[str, list[float]] = {}
    for run in range(runs + 1):
        timed: dict[str, list[Timed]] = {name: [] for name in bench.variants}
        plain: list[Done] = []
        bench.flush()
        for number in range(problems if run else 2):
            names = [*bench.variants, "plain"]
            random.Random(f"{run} {number}").shuffle(names)  # or one would always come after the same other one
            for name in names:
                if name == "plain":
                    plain.append(loop.run(bench.job(number)))
                else:
                    timed[name].append(bench.run(name, number, f"{name} {run}"))
        if run == 0:  # warm-up
            continue
        check_same(timed["default"], timed["no lookahead"], plain)
        seconds = {name: [one.latency_s for one in found] for name, found in timed.items()}
        total = {name: sum(values) for name, values in seconds.items()}
        for key, name in (
            ("speedup_base", "default"),
            ("speedup_base_no_lookahead", "no lookahead"),
            ("speedup_base_no_merging", "no merging"),
        ):
            figures.setdefault(key, []).append(total["base"] / total[name])
        figures.setdefault("latency_ratio_plain", []).append(sum(d.latency_s for d in plain) / total["default"])
        figures.setdefault("latency_ratio_plain_no_lookahead", []).append(
            sum(d.latency_s for d in plain) / total["no lookahead"]
        )
        covered = total["default"] * (1 - uncovered(timed["default"]))
        figures.setdefault("latency_ratio_plain_limit", []).append(sum(d.latency_s for d in plain) / covered)
        figures.setdefault("uncovered_share", []).append(uncovered(timed["default"]))
        figures.setdefault("cached_share", []).append(
            reuse(timed["default"], {role: endpoint.ids for role, endpoint in bench.endpoints.items()})
        )
        say(f"concurrency 1, run {run} of {runs}: " + words(figures))
    for name in ("default", "no lookahead", "no merging"):
        ratio = stats.ratio_of_means(
            *({one.trajectory.problem_id: [one.latency_s] for one in timed[each]} for each in ("base", name))
        )
        if not ratio.too_few:
            say(
                f"speed-up over base, {name}: {ratio.value:.2f} [{ratio.ci95[0]:.2f}, {ratio.ci95[1]:.2f}] "
                "(95 %, by problem, last run)"
            )
    profile(timed["default"], "one trajectory at a time", say)
    return figures


def together(bench: Bench, runs: int, say: Say) -> dict[str, list[float]]:
    """16 side by side against as many plain loops, each a process as published; and a profile of 64."""
    figures: dict[str, list[float]] = {}
    numbers = list(range(2 * MANY))
    with processes(bench.urls, MANY) as plain:
        plain([bench.job(number) for number in numbers[:MANY]])  # warm-up
        for run in range(runs):
            bench.flush()
            begin, engines = time.monotonic(), bench.engine_cpu_s()
            ours = list(run_all(numbers, lambda number: bench.run("default", number, f"many {run}"), MANY))  # noqa: B023
            middle, engines_ours = time.monotonic(), bench.engine_cpu_s() - engines
            bench.flush()
            between, engines = time.monotonic(), bench.engine_cpu_s()
            theirs = plain([bench.job(number) for number in numbers])
            end, engines_theirs = time.monotonic(), bench.engine_cpu_s() - engines
            assert len(ours) == len(theirs)
            figures.setdefault("throughput_ratio_plain", []).append((end - between) / (middle - begin))
            figures.setdefault("engine_cores_ours", []).append(engines_ours / (middle - begin))
            figures.setdefault("engine_cores_plain", []).append(engines_theirs / (end - between))
            figures.setdefault("engine_cpu_ratio_plain", []).append(engines_theirs / engines_ours)
            say(f"concurrency {MANY}, run {run + 1} of {runs}: " + words(figures))
    bench.flush()
    crowd = list(run_all(range(2 * CROWD), lambda number: bench.run("default", number, "crowd"), CROWD))
    profile(crowd, f"{CROWD} side by side", say)
    return figures


class Scripted(Endpoint):
    """Has the engine write as many tokens as a scripted step has, whatever they are, and gives the scripted step."""

    def generate(self, s: Any, sampling_params: Any) -> tuple[str, dict[str, Any]]:
        number = len(s.arguments["trajectory"].kept)
        text = (
            "\n".join(f"Step {number}: +{at % 90 + 10}. {number % 90 + 10} + {at} = {at}." for at in range(7))
            + BLANK_LINE
        )
        tokens = len(self.ids(text))
        params = replace(sampling_params, stop=(), ignore_eos=True, max_new_tokens=tokens)
        _, meta = super().generate(s, params)
        return text, meta | {"written": Written(text)}


def prefilled(bench: Bench, say: Say) -> dict[str, Any]:
    """Tokens that the engines prefill for one trajectory of scripted steps, by its length up to 16,000 tokens."""
    tokenizers = {role: endpoint.tokenizer for role, endpoint in bench.endpoints.items()}
    engines = {
        role: Scripted(endpoint.base_url, role=role, tokenizer=tokenizers[role], api_key=API_KEY)
        for role, endpoint in bench.endpoints.items()
    }
    policy = structs.replace(
        bench.variants["default"].policy,
        gate="always",
        lookahead=0,
        budget_tokens=16_000,
        step_tokens=512,
        on_budget="stop",
        stop_loops=False,
    )
    t = bench.plan.trajectory(Variant("always", policy), bench.plan.problems[0], 0, bench.chats)
    begin = time.monotonic()
    run_trajectory("always", t, engines)
    assert t.tokens_left <= 0, f"{len(t.kept)} scripted steps, {t.tokens_left} tokens left"
    lengths, totals = [], []
    length = total = 0
    for number, call in enumerate(t.calls):
        total += call.account.prompt_tokens - call.account.cached_tokens
        length += call.account.completion_tokens
        if number % 2:  # after the judge's request
            lengths.append(float(length))
            totals.append(float(total))
    exponent, share, slope = grown(lengths, totals)
    say(
        f"engines, a trajectory of {length} scripted tokens in {len(t.kept)} steps ({time.monotonic() - begin:.0f} s): tokens "
        f"prefilled grow as length^{exponent:.2f}; a line explains {100 * share:.2f} % ({slope:.2f} a token)"
    )
    return {"length": lengths, "prefilled": totals}


def check_same(default: Sequence[Timed], without_lookahead: Sequence[Timed], plain: Sequence[Done]) -> None:
    """The comparison is of the same work: all decide the same, step by step."""
    for one, other, done in zip(default, without_lookahead, plain, strict=True):
        kept = [(kept.by, kept.step.text) for kept in one.trajectory.kept]
        assert kept == [(kept.by, kept.step.text) for kept in other.trajectory.kept], one.trajectory.problem_id
        assert tuple(kept) == done.steps, one.trajectory.problem_id


def words(figures: dict[str, list[float]]) -> str:
    return ", ".join(f"{key} {values[-1]:.4g}" for key, values in figures.items())


if __name__ == "__main__":
    main()
