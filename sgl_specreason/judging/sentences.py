"""Owns what follows from a measurement, in words, and the paired comparisons that they rest on. Knows no tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sgl_specreason.judging import worth
from sgl_specreason.judging.measured import Measured, Signal
from sgl_specreason.judging.worth import Area, Cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """The best signal beside another judge's best, or beside the same judge with other templates, paired."""

    best: str
    other: str
    difference: float
    ci95: tuple[float, float]


def differences(found: Measured) -> list[Beside]:
    """The best signal beside the best one of every other judge and template."""
    chosen: list[Signal] = []
    for name in found.answers:
        own = [signal for signal in found.signals if signal.judge == name]
        chosen.append(max(own, key=lambda signal: found.areas[signal.name].value))
    compared = []
    for other in chosen:
        if other.judge != found.best.judge:
            area = worth.difference(found.steps, found.best.values, other.values)
            compared.append(Beside(best=found.best.name, other=other.name, difference=area.value, ci95=area.ci95))
    return compared


def sentences(found: Measured) -> Iterator[str]:
    """What follows, in words."""
    if found.steps.too_few:
        yield "Too few right or wrong steps, or problems, to say anything of how well they are told apart."
        return
    for name in found.answers:
        own = [signal for signal in found.signals if signal.judge == name]
        yield f"{name}: {_of_judge(found, own)}."
    for beside in differences(found):
        low, high = beside.ci95
        words = "better by" if low > 0 else "not shown to be better: by"
        yield f"{beside.best} against {beside.other}: {words} {_points(beside.difference)} [{_points(low)}, {_points(high)}]."


def _of_judge(found: Measured, own: Sequence[Signal]) -> str:
    best = max(own, key=lambda signal: found.areas[signal.name].value)
    area = found.areas[best.name]
    lows, highs = zip(*(found.areas[signal.name].ci95 for signal in own), strict=True)
    if min(lows) <= 0.5 <= max(highs) and area.ci95[0] <= 0.5:
        values = [found.areas[signal.name].value for signal in own]
        told = f"no better than chance on these steps (AUROC {_span(values)})"
    elif area.ci95[0] > 0.5:
        told = f"tells right from wrong steps with an AUROC of {_area(area)} ({best.rule})"
    else:
        told = f"worse than chance on these steps: AUROC {_area(area)} ({best.rule})"
    stated = own[0]
    kept = worth.cut(found.steps, stated.values, stated.cut)
    return f"{told}; {_keeps(stated, kept)}"


def _keeps(signal: Signal, kept: Cut) -> str:
    if kept.right_kept == kept.wrong_kept == 1:
        return f"at {signal.place} ({signal.rule}) it keeps every step, right or wrong"
    if kept.right_kept == kept.wrong_kept == 0:
        return f"at {signal.place} ({signal.rule}) it keeps no step, right or wrong"
    return (
        f"at {signal.place} ({signal.rule}) it keeps {100 * kept.right_kept:.0f} % of the right and "
        f"{100 * kept.wrong_kept:.0f} % of the wrong steps"
    )


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}".lstrip("0"), f"{max(values):.2f}".lstrip("0")
    return low if low == high else f"{low}-{high}"


def _area(area: Area) -> str:
    return f"{area.value:.3f} [{area.ci95[0]:.3f}, {area.ci95[1]:.3f}]"


def _points(value: float) -> str:
    return f"{value:+.3f}".replace("+0.", ".").replace("-0.", "-.")
