"""Owns the report of `--calibrate`: which threshold is recommended at a stated risk, and beside it what that rests on.

Knows no engines, and tests nothing itself (certify.py).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sgl_specreason.method.gates import SIGNALS
from sgl_specreason.method.score import RANGES
from sgl_specreason.results import stats
from sgl_specreason.results.calibrate import OF_GATES, about, aurocs, drafts_of, judged_drafts, keeps
from sgl_specreason.results.certify import (
    Tested,
    certify,
    confidence_of_each,
    least_risk,
    points,
    problems_needed,
)
from sgl_specreason.results.schema import Policy
from sgl_specreason.results.summary import AgainstBase, Run, against_base, base_of, differing, outcomes
from sgl_specreason.words import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A tested threshold with its run and how much faster than base that was."""

    run: Run
    tested: Tested
    speed_up: stats.Ratio

    @property
    def speed(self) -> str:
        """In words; "-" where nothing can be said."""
        low, high = self.speed_up.ci95
        if self.speed_up.too_few or math.isnan(self.speed_up.value):
            return "-"
        return f"{self.speed_up.value:.2f} " + ("[-]" if math.isnan(low) else f"[{low:.2f}, {high:.2f}]")


def calibration(runs: Sequence[Run], *, risk: float, confidence: float, verbose: bool = False) -> str:
    """The report as Markdown that also reads as text: the verdict, what it rests on, and if `verbose` a block about each run."""
    for run in runs:
        run.read(outcomes, judged_drafts)
    judging = [run for run in runs if len(drafts_of([run]))]
    groups = _groups(runs)
    each = confidence_of_each(confidence, len(groups))
    found = [_levels(pairs, runs, risk=risk, confidence=each) for pairs in groups]
    lines = ["## Verdict", ""]
    stated = f"at most {points(risk)} below base with {100 * confidence:g} % confidence"
    for levels in found:
        lines += [*_verdict(levels, stated, risk=risk, confidence=each, alone=len(found) == 1), ""]
    if not found:
        lines += [
            "None: that takes runs of specreason and of base on the same problems, best a sweep over the threshold.",
            "",
        ]
    for levels in found:
        lines += _table(levels)
    if len(found) > 1:
        lines += [
            f"All that is certified above holds at once with {100 * confidence:g} % confidence: for that, each of the "
            f"{len(found)} tables was tested at {100 * each:g} % (Bonferroni).",
            "",
        ]
    if verbose or len(judging) == 1:
        for run in judging:
            lines += about(run, drafts_of([run]))
    elif judging:
        lines += [
            f"--verbose shows what the judge said in each of {len(judging)} runs, and what other thresholds would have kept."
        ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _groups(runs: Sequence[Run]) -> list[list[tuple[Run, Run]]]:
    """The runs of SpecReason, each with its base: those that differ in the threshold only are together."""
    groups: dict[str, list[tuple[Run, Run]]] = {}
    for run in runs:
        base = base_of(run, runs)
        if base is not None and run.method == "specreason" and not differing([run, base]):
            policy = {key: value for key, value in run.settings.policy.items() if key != run.policy.dial}
            groups.setdefault(str(sorted(policy.items())), []).append((run, base))
    return list(groups.values())


def _levels(pairs: Sequence[tuple[Run, Run]], runs: Sequence[Run], *, risk: float, confidence: float) -> list[Level]:
    """The thresholds of a group from the strictest on."""
    in_order = sorted(pairs, key=lambda pair: -pair[0].policy.strictness)
    beside: list[AgainstBase | None] = against_base(runs)
    speeds = {run.path: each.speed_up for run, each in zip(runs, beside, strict=True) if each}
    tested = certify(in_order, risk=risk, confidence=confidence)
    return [
        Level(run=run, tested=row, speed_up=speeds[run.path]) for (run, _), row in zip(in_order, tested, strict=True)
    ]


def alike(levels: Sequence[Level]) -> list[list[Level]]:
    """Neighbours that keep the same drafts, of all that either run judged, are one candidate: nothing here tells them apart."""
    found: list[list[Level]] = [[level] for level in levels[:1]]
    for higher, lower in pairwise(levels):
        drafts, rule = drafts_of([higher.run, lower.run]), lower.run.policy.score_rule
        more, fewer = (keeps(drafts, rule, level.tested.threshold) for level in (lower, higher))
        by_judge = len(drafts) and not lower.run.policy.goes_by_signal
        if by_judge and np.array_equal(more, fewer):
            found[-1].append(lower)
        else:
            found.append([lower])
    return found


def _verdict(levels: Sequence[Level], stated: str, *, risk: float, confidence: float, alone: bool) -> Iterator[str]:
    first = levels[0].run
    if _too_few(levels):
        problems = counted(first.summary.n, "problem")
        yield f"None: {problems}, and fewer than {stats.FEW} are too few to say anything of a threshold."
        return
    whose = "" if alone else f"{_judge(first.policy)}. "
    candidates = alike(levels)
    certified = [mine for group in candidates if (mine := [level for level in group if level.tested.certified])]
    if certified:
        best = max(
            reversed(certified), key=_mean_speed
        )  # of equals, as where there is no speed, the one that keeps most
        yield f"{whose}Recommended: threshold {best[0].tested.threshold:g}: {_gain(best[0])}, {stated}."
        for other in certified:
            if other is not best and _overlap(other[0].speed_up, best[0].speed_up):
                yield f"{_span(other)}, certified too, may be as fast ({other[0].speed}): their intervals overlap."
    else:
        yield from _none(levels, whose, risk=risk, confidence=confidence)
    for group in candidates:
        if len(group) > 1:
            share = _percent(group[0].tested.acceptance)
            yield (
                f"{_span(group)} keep the same drafts ({share} %): none of them is better than another, and what differs between "
                f"their seconds is chance. {group[0].tested.threshold:g} is the strictest."
            )


def _too_few(levels: Sequence[Level]) -> bool:
    return any(level.speed_up.too_few for level in levels)


def _none(levels: Sequence[Level], whose: str, *, risk: float, confidence: float) -> Iterator[str]:
    """Why no threshold is certified."""
    count = levels[0].run.summary.n
    needed, least = problems_needed(risk, confidence=confidence), least_risk(count, confidence=confidence)
    if needed > count:
        yield (
            f"{whose}No threshold can be certified: a risk of {points(risk)} takes {needed} problems even where nothing is lost, "
            f"and these are {count}."
        )
        if math.isnan(least):
            yield f"{counted(count, 'problem')} can certify nothing."
        else:
            yield f"The least risk that {count} problems can certify is {points(least)}: --risk {100 * least:.3g}."
        yield from _uncertified(levels, risk)
        return
    top = levels[0].tested
    yield (
        f"{whose}No threshold is certified: already the strictest, {top.threshold:g}, is {_percent(top.loss)} points below base, "
        f"p = {top.p_value:.3g}. Use more problems, or state a larger risk (--risk)."
    )


def _uncertified(levels: Sequence[Level], risk: float) -> Iterator[str]:
    """The fastest of those whose measured loss is within the risk, which is not more than it looks like."""
    within = [group for group in alike(levels) if group[0].tested.loss <= risk]
    if within:
        best = max(reversed(within), key=_mean_speed)
        yield f"Measured, not certified: threshold {best[0].tested.threshold:g} was {_gain(best[0])}."


def _gain(level: Level) -> str:
    speed = f"{level.speed} times as fast as base and " if level.speed != "-" else "against base "
    loss, count = level.tested.loss, level.run.summary.n
    if math.isnan(loss):
        return f"{speed}no problem in common with it"
    return f"{speed}{_percent(abs(loss))} points {'above' if loss < 0 else 'below'} it on {counted(count, 'problem')}"


def _mean_speed(levels: Sequence[Level]) -> float:
    speeds = [level.speed_up.value for level in levels if level.speed != "-"]
    return stats.mean(speeds) if speeds else 0.0


def _overlap(one: stats.Ratio, other: stats.Ratio) -> bool:
    return one.ci95[0] <= other.ci95[1] and other.ci95[0] <= one.ci95[1]


def _span(levels: Sequence[Level]) -> str:
    high, low = levels[0].tested.threshold, levels[-1].tested.threshold
    return f"Threshold {high:g}" if high == low else f"Thresholds {low:g} to {high:g}"


def _table(levels: Sequence[Level]) -> Iterator[str]:
    first = levels[0].run
    rule, drafts = first.policy.score_rule, drafts_of([level.run for level in levels])
    bounds = next((span for gate, span in SIGNALS.items() if gate == first.policy.gate), RANGES[rule])
    yield f"{_judge(first.policy)} ({bounds.low:g} to {bounds.high:g}), {counted(first.summary.n, 'problem')}:"
    yield ""
    yield "| threshold | kept % | points below base | p | certified | speed-up, 95 % |"
    yield "|--:|--:|--:|--:|---|--:|"
    for level in levels:
        row = level.tested
        losses = ("-", "-") if _too_few(levels) else (_percent(row.loss), f"{row.p_value:.3g}")
        cells = (f"{row.threshold:g}", _percent(row.acceptance), *losses)
        yield f"| {' | '.join(cells)} | {'yes' if row.certified else 'no'} | {level.speed} |"
    yield ""
    if _too_few(levels):
        return
    step, ended = aurocs(drafts, OF_GATES.get(first.policy.gate, rule if rule != "p_ge" else "expected"))
    told = [
        f"{area:.3f} for {what}" for area, what in ((step, "steps"), (ended, "trajectories")) if not math.isnan(area)
    ]
    if told:
        yield f"How well it tells right from wrong (AUROC; 0.5 is a coin): {', '.join(told)}, {len(drafts)} drafts of these runs."
    yield "This holds for problems like these ones; thresholds were tested from the strictest on until one failed."
    yield ""


def _judge(policy: Policy) -> str:
    """Who decides, and by which number."""
    if policy.goes_by_signal:
        return f"Gate {policy.gate}"
    return f"Judge {policy.judge}, rule {policy.score_rule}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:z.1f}"
