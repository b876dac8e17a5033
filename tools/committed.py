"""Owns the comparison of what `bench.py` measured with what was measured last and committed. Starts no engine.

Example: python tools/committed.py runs/bench/speed.json

Only what a machine's speed cancels out of is compared: ratios, shares, and the memory of a trajectory. A figure is "within"
where the spread of its repetitions touches the committed one, each widened by 1 %. What costs more than 10 % is named in the end.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, to_builtins
from options import Parser

from sgl_specreason.errors import UsageError
from sgl_specreason.plan.versions import commit, versions
from sgl_specreason.typed import Number, Positive, typed

COMMITTED = Path(__file__).parent.parent / "eval" / "results" / "speed.json"
WIDER = 0.01
COSTS = 0.10
Place = Literal["within", "above", "below"]


class Spread(Struct, frozen=True, kw_only=True):
    """A figure's median over the repetitions, and the least and the most of them."""

    median: Number
    low: Number
    high: Number


class Speed(Struct, frozen=True, kw_only=True):
    """speed.json: what was measured, of which code, where, and over how many problems and repetitions."""

    commit: str | None
    sglang: str
    cpu: str
    problems: Positive
    runs: Positive
    figures: dict[str, Spread]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a figure is: more of it is good or bad, in times or as a share of a whole, and of the chosen problems or of none."""

    words: str
    more: Literal["good", "bad"] = "good"
    share: bool = False
    of_problems: bool = False


KINDS = {
    "client_ratio_plain": Kind(words="our client over the plain loop's"),
    "client_growth_500_16k": Kind(words="client, CPU per step, 16,000 over 500 tokens", more="bad"),
    "client_kb_per_trajectory": Kind(words="client, kB of a live trajectory", more="bad"),
    "uncovered_share": Kind(words="wall time without an engine at work", more="bad", share=True, of_problems=True),
    "cached_share": Kind(words="cached, of what an engine had seen", share=True, of_problems=True),
    "speedup_base": Kind(words="speed-up over base, default", of_problems=True),
    "speedup_base_no_lookahead": Kind(words="speed-up over base, no lookahead", of_problems=True),
    "speedup_base_no_merging": Kind(words="speed-up over base, no merging", of_problems=True),
    "latency_ratio_plain": Kind(words="latency, plain loop over ours", of_problems=True),
    "latency_ratio_plain_no_lookahead": Kind(words="the same, no lookahead", of_problems=True),
    "throughput_ratio_plain": Kind(words="throughput over the plain loop's"),
    "engine_cpu_ratio_plain": Kind(words="engines' CPU, plain loop over ours"),
}


def measured(figures: Mapping[str, Sequence[float]], *, problems: int, runs: int) -> Speed:
    """What this code measured on this machine now; `figures` has a value for each repetition."""
    spreads = {
        key: Spread(median=round(statistics.median(v), 4), low=round(min(v), 4), high=round(max(v), 4))
        for key, v in figures.items()
    }
    return Speed(
        commit=commit(),
        sglang=versions().get("sglang", "unknown"),
        cpu=_cpu(),
        problems=problems,
        runs=runs,
        figures=spreads,
    )


def read(file: Path) -> Speed:
    """What a speed.json says. Raises UsageError."""
    try:
        return typed(json.loads(file.read_text(encoding="utf-8")), Speed)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file}: {error}") from None


def write(file: Path, speed: Speed) -> None:
    file.write_text(json.dumps(to_builtins(speed), indent=1) + "\n")


def place(now: Spread, then: Spread) -> Place:
    """Where the spread lies beside the committed one."""
    room = WIDER * abs(then.median)
    if now.low > then.high + room:
        return "above"
    return "below" if now.high < then.low - room else "within"


def cost(kind: Kind, now: Spread, then: Spread) -> float:
    """How much worse it has become: the part more that something takes, of a share in parts of the whole; negative is better."""
    good, bad = (now, then) if kind.more == "bad" else (then, now)
    if kind.share:
        return good.median - bad.median
    return good.median / bad.median - 1 if bad.median > 0 else 0.0


def lines(now: Speed, then: Speed, name: str) -> Iterator[str]:
    """The comparison, a line for each figure, and last what costs more than 10 %."""
    yield f"against {name}: {_about(then)}"
    if now.cpu != then.cpu or now.sglang != then.sglang:
        yield f"  these are of {now.cpu}, sglang {now.sglang}: what differs may be theirs"
    named, left_out = [], []
    for key, kind in KINDS.items():
        one, other = now.figures.get(key), then.figures.get(key)
        if one is None or other is None or (kind.of_problems and now.problems != then.problems):
            left_out.append(kind.words)
            continue
        where = place(one, other)
        yield f"  {kind.words:45} {_shown(kind, one):22} was {_shown(kind, other):22} {where}"
        if (more := cost(kind, one, other)) > COSTS:
            named.append(f"{kind.words} ({100 * more:.0f} %, {where})")
    if left_out:
        yield f"  not compared (of other problems, or not in both): {'; '.join(left_out)}"
    yield f"costs more than 10 %: {'; '.join(named) or 'nothing'}"


def _about(speed: Speed) -> str:
    return f"commit {speed.commit or 'unknown'}, {speed.problems} problems, {speed.runs} runs, {speed.cpu}, sglang {speed.sglang}"


def _shown(kind: Kind, spread: Spread) -> str:
    scale, unit = (100, " %") if kind.share else (1, "")
    median, low, high = (f"{scale * value:.4g}" for value in (spread.median, spread.low, spread.high))
    return f"{median}{unit} [{low}, {high}]"


def _cpu() -> str:
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    names = [line.partition(":")[2].strip() for line in about.splitlines() if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else "unknown"


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("speed", type=Path, help="speed.json of a run of bench.py")
    parser.add_argument("--against", type=Path, default=COMMITTED, help="what it is compared with")
    options: Any = parser.parse_args()
    try:
        for line in lines(read(options.speed), read(options.against), str(options.against)):
            print(line)
    except UsageError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
