"""Owns what a judge's answers are worth, from run folders alone: which it gives, how well they tell right from wrong, and what
each threshold keeps. Knows no engines, and recommends nothing (recommend.py).

What is right: a step by the generator on the `demo` bench, and on every bench whether the trajectory ended right, which
says less of one step.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sgl_specreason.method.score import ScoreRule
from sgl_specreason.results import stats
from sgl_specreason.results.lines import Finished, Record, Said
from sgl_specreason.results.summary import Run
from sgl_specreason.words import counted

if TYPE_CHECKING:
    from sgl_specreason.demo.problems import Problem

DIGIT_THRESHOLDS = tuple(range(10))
Floats = Sequence[float] | NDArray[Any]


SAID = ("p_yes", "label_mass", "logprob_mean", "logprob_min", "confidence", "certain", "entropy", "self_right")
COLUMNS = np.dtype(
    [("digits", "f8", (10,)), *((name, "f8") for name in SAID), ("step_right", "f8"), ("ended_right", "?")]
)
Drafts = NDArray[np.void]
"""Drafts as their judge saw them, a row each: there are millions of them. NaN is what it was not asked for, and as `step_right`
what nobody knows."""
_COLUMN_OF = {"min": "logprob_min", "mean": "logprob_mean"}


def rows(found: Iterable[tuple[Said, bool | None, bool]]) -> Drafts:
    """What was said of each draft, whether it is right, and whether its trajectory ended right."""
    return np.array(
        [
            (said.digits or [math.nan] * 10, *(_known(getattr(said, name)) for name in SAID), _known(right), ended)
            for said, right, ended in found
        ],
        COLUMNS,
    )


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def signal(drafts: Drafts, name: str) -> NDArray[np.float64]:
    """Of each draft; higher is better."""
    digits = drafts["digits"]
    if name == "greedy":
        return np.where(np.isnan(digits[:, 0]), math.nan, digits.argmax(axis=1))
    if name == "expected":
        return np.asarray(np.einsum("ij,j", digits, np.arange(10.0)))
    if name == "entropy":
        return np.asarray(-drafts["entropy"])
    return np.asarray(drafts[_COLUMN_OF.get(name, name)])


SIGNALS = {
    "greedy": "greedy digit",
    "expected": "expected digit",
    "p_yes": "p(yes)",
    "min": "least log-probability of a token",
    "mean": "mean log-probability of its tokens",
    "confidence": "small's own mean token probability",
    "certain": "share of tokens that small is certain of",
    "entropy": "entropy of small's first token, turned round",
    "self_right": "small's own judgement",
}
OF_GATES = {"confident": "confidence", "self": "self_right", "entropy": "entropy", "overconfident": "certain"}
"""The signal that each gate goes by."""


def judged_drafts(run: Run, record: Record) -> Iterator[Drafts]:
    """The part of a run that was judged: every draft that base, or small as its own judge, said something of, also if it was not
    the best of its step. Of a step that a gate refused by its first token there is nothing to judge."""
    if not isinstance(record, Finished):
        return
    chain = _chains().get(record.problem_id) if run.settings.bench == "demo" else None
    found: list[tuple[Said, bool | None, bool]] = []
    before: list[str] = []
    for step in record.steps:
        for said, draft in [(step, step.draft or step), *((other, other) for other in step.others)]:
            if said.score is not None or (_has_signal(said) and (step.accepted or said.entropy is None)):
                right = chain.step_is_right(before, draft.text) if chain else None
                found.append((said, right, bool(record.correct)))
        before.append(step.text)
    yield rows(found)


def _has_signal(said: Said) -> bool:
    return any(getattr(said, name) is not None for name in OF_GATES.values())


def drafts_of(runs: Sequence[Run]) -> Drafts:
    """Of all these runs."""
    for run in runs:
        run.of(judged_drafts)[:] = [
            np.concatenate([rows([]), *run.of(judged_drafts)])
        ]  # in one piece, or all are held twice
    pieces = [run.of(judged_drafts)[0] for run in runs]
    return pieces[0] if len(pieces) == 1 else np.concatenate([rows([]), *pieces])


@cache
def _chains() -> "dict[str, Problem]":
    from sgl_specreason.demo.problems import problems

    return {f"demo-{number:03d}": problem for number, problem in enumerate(problems("test", 200), 1)}


def auroc(right: Floats, wrong: Floats) -> float:
    """The probability that a right one has the higher value, equal ones as half. NaN without both."""
    if not len(right) or not len(wrong):
        return math.nan
    lower = np.sort(wrong)
    below, not_above = np.searchsorted(lower, right, "left"), np.searchsorted(lower, right, "right")
    return float((below + not_above).mean() / (2 * len(wrong)))


def aurocs(drafts: Drafts, name: str) -> tuple[float, float]:
    """Of a signal, to tell right steps from wrong ones, and steps of trajectories that ended right; NaN of fewer than FEW."""
    drafts = drafts[~np.isnan(signal(drafts, name))]
    values, right, ended = signal(drafts, name), drafts["step_right"], drafts["ended_right"]
    of = [_known_of(values[these]) for these in (right == 1, right == 0, ended, ~ended)]
    return _told(*of[:2]), _told(*of[2:])


def _told(right: Floats, wrong: Floats) -> float:
    return math.nan if min(len(right), len(wrong)) < stats.FEW else auroc(right, wrong)


def entropy_bits(shares: ArrayLike) -> Any:
    """Of a distribution, or of each of several, in bits."""
    columns = np.moveaxis(np.asarray(shares), -1, 0)  # one after the other: of millions, all at once would be much
    return sum(p * -np.log2(np.where(p > 0, p, 1)) for p in columns) + 0.0  # or no surprise at all is -0.0


def keeps(drafts: Drafts, rule: ScoreRule, threshold: float) -> NDArray[np.bool_]:
    """Whether this threshold keeps each draft."""
    if rule == "p_ge":
        return np.asarray(drafts["digits"][:, math.ceil(threshold) :].sum(axis=1) >= 0.5)
    return signal(drafts, rule) >= threshold


def acceptance(drafts: Drafts, rule: ScoreRule, threshold: float) -> tuple[float, float, float]:
    """The shares of all drafts, of right ones and of wrong ones that this threshold keeps; NaN where there are none."""
    kept, right = keeps(drafts, rule, threshold), drafts["step_right"]
    return _share(kept), _share(kept[right == 1]), _share(kept[right == 0])


def _share(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _right(drafts: Drafts) -> float:
    """The share of right ones among those of which it is known."""
    return _share(_known_of(drafts["step_right"]))


def _known_of(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values[~np.isnan(values)])


def with_digits(drafts: Drafts) -> Drafts:
    """Those that were judged by digits."""
    has = ~np.isnan(drafts["digits"][:, 0])
    return drafts if has.all() else np.asarray(drafts[has])


def about(run: Run, drafts: Drafts) -> Iterator[str]:
    """What the judge of one run said and what that is worth, as Markdown that also reads as text."""
    policy = run.policy
    yield f"## {run.path.name}"
    yield ""
    right = _right(drafts)
    words = "" if math.isnan(right) else f", {_percent(right)} % of them right"
    settings = f"judge {policy.judge}, rule {policy.score_rule}, threshold {policy.threshold:g}"
    if policy.goes_by_signal:
        settings = f"gate {policy.gate} at {policy.level:g}, {settings}"
    attempts = counted(len(run.outcomes), "trajectory", "trajectories")
    unasked = int(np.isnan([drafts["digits"][:, 0], drafts["p_yes"], drafts["logprob_mean"]]).all(axis=0).sum())
    rest = f" and {counted(unasked, 'draft')} that base was not asked about" if unasked else ""
    yield f"{run.method}, {settings}: {counted(len(drafts) - unasked, 'judged draft')}{rest} of {attempts}{words}."
    yield ""
    mass = _known_of(drafts["label_mass"])
    if len(mass):
        yield f"Label mass: mean {np.mean(mass):.3f}, lowest 5 % under {np.percentile(mass, 5):.3f}."
    digits = with_digits(drafts)
    if len(digits):
        yield from _digits(digits)
    if run.summary.n < stats.FEW:
        yield f"Fewer than {stats.FEW} problems are too few to say anything of how well these tell right from wrong."
        yield ""
    else:
        yield from _aurocs(drafts)
    if len(digits):
        yield from thresholds(digits)
    yield ""


def _digits(drafts: Drafts) -> Iterator[str]:
    greedy = signal(drafts, "greedy").astype(int)
    shares = np.bincount(greedy, minlength=10) / len(drafts)
    own = entropy_bits(drafts["digits"]).mean()
    used, spread = sum(shares >= 0.01), f"{entropy_bits(shares):.2f} of {math.log2(10):.2f} bits"
    yield f"Greedy digits: {used} of ten used (1 % or more each), entropy {spread}; one judgement's own is {own:.2f} on average."
    yield ""
    yield "| greedy digit | drafts | step right % | trajectory right % |"
    yield "|--:|--:|--:|--:|"
    for digit in range(10):
        mine = drafts[greedy == digit]
        if len(mine):
            yield f"| {digit} | {len(mine)} | {_percent(_right(mine))} | {_percent(_share(mine['ended_right']))} |"
    yield ""


def _aurocs(drafts: Drafts) -> Iterator[str]:
    missing = False
    yield "| what base said | AUROC, step right | AUROC, trajectory right |"
    yield "|---|--:|--:|"
    for name, words in SIGNALS.items():
        if not np.isnan(signal(drafts, name)).all():
            areas = aurocs(drafts, name)
            missing = missing or any(map(math.isnan, areas))
            yield f"| {words} | {' | '.join(map(_number, areas))} |"
    yield ""
    if missing:
        yield f"Fewer than {stats.FEW} right or wrong ones are too few to say anything of an AUROC: -."
        yield ""


def thresholds(drafts: Drafts) -> Iterator[str]:
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


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:z.1f}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:z.3f}"
