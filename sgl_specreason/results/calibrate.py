"""Owns what a judge's answers are worth, from run folders alone: which it gives, how well they tell right from wrong, and which
threshold keeps a stated risk. Knows no engines.

What is right: a step by the generator on the `demo` bench, and on every bench whether the trajectory ended right, which
says less of one step.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sgl_specreason.method.score import RANGES, ScoreRule
from sgl_specreason.results import stats
from sgl_specreason.results.certify import certify, confidence_of_each, problems_needed
from sgl_specreason.results.lines import Finished, Said
from sgl_specreason.results.summary import Run, base_of, differing

DIGIT_THRESHOLDS = tuple(range(10))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A draft as its judge saw it. `step_right` is None where nobody knows."""

    said: Said
    step_right: bool | None
    ended_right: bool

    def signal(self, name: str) -> float | None:
        """Higher is better; None where this judge was not asked for it."""
        digits = self.said.digits
        match name:
            case "greedy":
                return float(max(range(10), key=lambda at: (digits[at], -at))) if digits else None
            case "expected":
                return sum(at * p for at, p in enumerate(digits)) if digits else None
            case "min":
                return self.said.logprob_min
            case "mean":
                return self.said.logprob_mean
            case "p_yes":
                return self.said.p_yes
            case "confidence":
                return self.said.confidence
        raise ValueError(f"no signal {name}")


SIGNALS = {
    "greedy": "greedy digit",
    "expected": "expected digit",
    "p_yes": "p(yes)",
    "min": "least log-probability of a token",
    "mean": "mean log-probability of its tokens",
    "confidence": "small's own mean token probability",
}


def judged_drafts(run: Run) -> list[Judged]:
    """Every draft of the run that base said something of, those that were not the best of their step too."""
    is_right = _truth(run)
    found = []
    for record in run.records:
        if not isinstance(record, Finished):
            continue
        before: list[str] = []
        for step in record.steps:
            drafts = [(step, step.draft or step), *((other, other) for other in step.others)]
            found += [
                Judged(
                    said=said,
                    step_right=is_right(record.problem_id, before, draft.text),
                    ended_right=bool(record.correct),
                )
                for said, draft in drafts
                if said.score is not None
            ]
            before.append(step.text)
    return found


def _truth(run: Run) -> Callable[[str, list[str], str], bool | None]:
    if run.settings.bench != "demo":
        return lambda problem, before, text: None
    from sgl_specreason.demo.problems import problems

    chains = {f"demo-{number:03d}": problem for number, problem in enumerate(problems("test", 200), 1)}
    return lambda problem, before, text: chains[problem].step_is_right(before, text) if problem in chains else None


def auroc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """The probability that a right one has the higher value, equal ones as half. NaN without both."""
    if not right or not wrong:
        return math.nan
    lower = np.sort(wrong)
    below, not_above = np.searchsorted(lower, right, "left"), np.searchsorted(lower, right, "right")
    return float((below + not_above).mean() / (2 * len(wrong)))


def entropy_bits(shares: Sequence[float]) -> float:
    """Of a distribution, in bits."""
    return -sum(p * math.log2(p) for p in shares if p > 0)


def acceptance(judged: Sequence[Judged], rule: ScoreRule, threshold: float) -> tuple[float, float, float]:
    """The shares of all drafts, of right ones and of wrong ones that this threshold keeps; NaN where there are none."""

    def keeps(draft: Judged) -> bool:
        if rule == "p_ge":
            return bool(sum(draft.said.digits[math.ceil(threshold) :]) >= 0.5)
        value = draft.signal(rule)
        return value is not None and value >= threshold

    def share(drafts: list[Judged]) -> float:
        return stats.mean([float(keeps(draft)) for draft in drafts])

    known = [draft for draft in judged if draft.step_right is not None]
    return share(list(judged)), share([d for d in known if d.step_right]), share([d for d in known if not d.step_right])


def calibration(runs: Sequence[Run], *, risk: float, confidence: float) -> str:
    """The report, as Markdown that also reads as text."""
    lines: list[str] = []
    for run in runs:
        drafts = judged_drafts(run)
        if drafts:
            lines += _about(run, drafts)
    lines += _recommendations(runs, risk=risk, confidence=confidence)
    return "\n".join(lines) + "\n"


def _about(run: Run, drafts: list[Judged]) -> Iterator[str]:
    policy = run.policy
    known = [draft for draft in drafts if draft.step_right is not None]
    yield f"## {run.path.name}"
    yield ""
    words = f", {_percent(_right(known))} % of them right" if known else ""
    settings = f"judge {policy.judge}, rule {policy.score_rule}, threshold {policy.threshold:g}"
    yield f"{run.method}, {settings}: {len(drafts)} judged drafts of {len(run.outcomes)} trajectories{words}."
    yield ""
    mass = [draft.said.label_mass for draft in drafts if draft.said.label_mass is not None]
    if mass:
        yield f"Label mass: mean {np.mean(mass):.3f}, lowest 5 % under {np.percentile(mass, 5):.3f}."
    digits = [draft for draft in drafts if draft.said.digits]
    if digits:
        yield from _digits(digits)
    yield from _aurocs(drafts, known)
    if digits:
        yield from _thresholds(digits)
    yield ""


def _digits(drafts: list[Judged]) -> Iterator[str]:
    counts = Counter(int(draft.signal("greedy") or 0) for draft in drafts)
    shares = [counts[digit] / len(drafts) for digit in range(10)]
    own = np.mean([entropy_bits(draft.said.digits) for draft in drafts])
    used, spread = sum(share >= 0.01 for share in shares), f"{entropy_bits(shares):.2f} of {math.log2(10):.2f} bits"
    yield f"Greedy digits: {used} of ten used (1 % or more each), entropy {spread}; one judgement's own is {own:.2f} on average."
    yield ""
    yield "| greedy digit | drafts | step right % | trajectory right % |"
    yield "|--:|--:|--:|--:|"
    for digit in range(10):
        mine = [draft for draft in drafts if draft.signal("greedy") == digit]
        if mine:
            ended = stats.mean([float(draft.ended_right) for draft in mine])
            yield f"| {digit} | {len(mine)} | {_percent(_right(mine))} | {_percent(ended)} |"
    yield ""


def _aurocs(drafts: list[Judged], known: list[Judged]) -> Iterator[str]:
    yield "| what base said | AUROC, step right | AUROC, trajectory right |"
    yield "|---|--:|--:|"
    for name, words in SIGNALS.items():
        values = [(draft, value) for draft in drafts if (value := draft.signal(name)) is not None]
        if values:
            by_step = auroc([v for d, v in values if d.step_right], [v for d, v in values if d.step_right is False])
            by_end = auroc([v for d, v in values if d.ended_right], [v for d, v in values if not d.ended_right])
            yield f"| {words} | {_number(by_step)} | {_number(by_end)} |"
    yield ""


def _thresholds(drafts: list[Judged]) -> Iterator[str]:
    rules: tuple[ScoreRule, ...] = ("greedy", "expected", "p_ge")
    yield "Kept at a threshold, % of all drafts (of right ones / of wrong ones), judged on the drafts of this run:"
    yield ""
    yield f"| threshold | {' | '.join(rules)} |"
    yield f"|--:|{'--:|' * len(rules)}"
    for threshold in DIGIT_THRESHOLDS:
        cells = []
        for rule in rules:
            every, right, wrong = (_percent(share) for share in acceptance(drafts, rule, threshold))
            cells.append(every if right == "-" and wrong == "-" else f"{every} ({right} / {wrong})")
        yield f"| {threshold} | {' | '.join(cells)} |"


def _recommendations(runs: Sequence[Run], *, risk: float, confidence: float) -> Iterator[str]:
    stated = f"at most {100 * risk:g} points below base with {100 * confidence:g} % confidence"
    yield f"## A threshold that is {stated}"
    yield ""
    groups: dict[str, list[tuple[Run, Run]]] = {}
    for run in runs:
        base = base_of(run, runs)
        if base is not None and run.method == "specreason" and not differing([run, base]):
            policy = {key: value for key, value in run.settings.policy.items() if key != "threshold"}
            groups.setdefault(str(sorted(policy.items())), []).append((run, base))
    if not groups:
        yield "Needs runs of specreason and of base on the same problems, best a sweep over the threshold."
    each = confidence_of_each(confidence, len(groups))
    for pairs in groups.values():
        first = pairs[0][0]
        rule = first.policy.score_rule
        found = certify(pairs, risk=risk, confidence=each)
        span = f"{RANGES[rule].low:g} to {RANGES[rule].high:g}"
        yield f"Judge {first.policy.judge}, rule {rule} ({span}), {first.summary.n} problems:"
        yield ""
        yield "| threshold | kept % | points below base | p | certified |"
        yield "|--:|--:|--:|--:|---|"
        for row in found:
            mark = "yes" if row.certified else "no"
            yield f"| {row.threshold:g} | {_percent(row.acceptance)} | {_percent(row.loss)} | {row.p_value:.3g} | {mark} |"
        yield ""
        certified = [row for row in found if row.certified]
        if certified:
            yield f"Recommended: threshold {certified[-1].threshold:g}, the lowest one that is {stated}."
        else:
            needed = problems_needed(risk, confidence=each)
            yield (
                f"None of these can be certified: even a threshold that never loses needs {needed} problems for that. "
                "Use more problems or state a larger risk (--risk)."
            )
        yield "This holds for problems like these ones; thresholds were tested from the highest down until one failed."
        yield ""
    if len(groups) > 1:
        yield (
            f"All that is certified above holds at once with {100 * confidence:g} % confidence: for that, each of the "
            f"{len(groups)} tables was tested at {100 * each:g} % (Bonferroni)."
        )
        yield ""


def _right(drafts: Sequence[Judged]) -> float:
    return stats.mean([float(draft.step_right) for draft in drafts if draft.step_right is not None])


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
