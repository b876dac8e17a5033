"""Owns which figures a page gets. What draws them, and matplotlib with it, lives in `plots/`."""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sgl_specreason.errors import UsageError
from sgl_specreason.paths import plots
from sgl_specreason.results.calibrate import judged_drafts
from sgl_specreason.results.summary import Run, knobs, outcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A figure as SVG, or the reason why there is none."""

    title: str
    svg: bytes | None = None
    reason: str = ""


def drawn(runs: Sequence[Run]) -> list[Drawn]:
    """The figures of these runs, by the functions in `plots/`."""
    folder = plots()
    sys.path.insert(0, str(folder))
    try:
        for run in runs:
            run.read(outcomes, judged_drafts, importlib.import_module("steps").tallied)
        return [_drawn(title, figure) for title, figure in _figures(runs)]
    finally:
        sys.path.remove(str(folder))


def _figures(runs: Sequence[Run]) -> Iterator[tuple[str, Callable[[], Any]]]:
    def function(name: str, **settings: Any) -> Callable[[], Any]:
        return lambda: getattr(importlib.import_module(name), name)(runs, **settings)

    yield "Accuracy over latency", function("pareto")
    for knob in sorted({key for values in knobs(runs) for key in values}):
        yield f"Over {knob.replace('_', ' ')}", function("knobs", knob=knob)
    yield "Who wrote which step, and where the time went", function("steps")
    yield "What the judge says", function("judge")


def _drawn(title: str, figure: Callable[[], Any]) -> Drawn:
    try:
        return Drawn(title=title, svg=importlib.import_module("drawing").svg(figure()))
    except UsageError as error:
        return Drawn(title=title, reason=str(error))
