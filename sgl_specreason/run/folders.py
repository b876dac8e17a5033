"""Owns which folders a plan's runs are written to: new ones, or those of the run to go on with. Knows no engines."""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec.structs import asdict
from msgspec.structs import replace as changed

from sgl_specreason.errors import RecordError, UsageError
from sgl_specreason.plan.plan import Plan, Variant
from sgl_specreason.results import origin
from sgl_specreason.results.folder import differences, fresh_folder, write_json
from sgl_specreason.results.origin import COMMAND, Origin
from sgl_specreason.results.records import CONFIG, SWEEP, begun_runs

Folders = dict[Variant, Path]


def settled(plan: Plan, resume: Path | None) -> tuple[Plan, dict[str, float]]:
    """The plan with the day and the measured concurrency of the run to go on with, and what that measured (tokens/s)."""
    if resume is None or not any((path / CONFIG).exists() for path in _recorded(resume)):
        return plan, {}
    config = next(iter(begun_runs(resume).values()))
    plan = replace(plan, day=config.day or plan.day)
    if plan.concurrency != "auto":
        return plan, {}
    return replace(plan, concurrency=config.settings.concurrency), config.tokens_per_s_by_concurrency


def new_folders(plan: Plan, out: Path, begun: Origin) -> tuple[Path, Folders]:
    """A new folder of everything, which says how it was begun, and the run folder that each variant will have."""
    top = fresh_folder(out, plan.name(plan.variants))
    if plan.sweep:
        write_json(top / SWEEP, asdict(plan.sweep))
    if len(plan.variants) == 1:
        folders = {plan.variants[0]: top}
    else:
        folders = {variant: top / plan.name((variant,)) for variant in plan.variants}
    _say_how(top, plan, folders, begun)
    return top, folders


def folders_to_go_on_with(plan: Plan, top: Path, begun: Origin) -> Folders:
    """The folder of each variant in that of the run to go on with.

    Raises UsageError for a folder that is no such run, and RecordError, naming the keys, for one with other settings.
    """
    recorded = _recorded(top)
    _check_methods(top, [settings["method"] for settings in recorded.values()], plan)
    free = {_text(plan.settings(variant)): variant for variant in plan.variants}
    folders: Folders = {}
    for path, settings in recorded.items():
        if settings.get("concurrency") == "auto":  # begun before it was measured
            settings = settings | {"concurrency": plan.concurrency}
        variant = free.pop(_text(settings), None)
        if variant is None:
            _refuse(path, settings, plan)
        else:
            folders[variant] = path
    if not (top / COMMAND).exists():
        _say_how(top, plan, folders, begun)
    return folders


def _recorded(top: Path) -> dict[Path, dict[str, Any]]:
    if not os.path.isdir(top):
        raise UsageError(f"--resume {top}: no such run folder")
    return origin.recorded(top)


def _say_how(top: Path, plan: Plan, folders: Folders, begun: Origin) -> None:
    runs = {str(path.relative_to(top)): plan.settings(variant) for variant, path in folders.items()}
    origin.written(top, changed(begun, runs=runs))


def _check_methods(top: Path, before: list[str], plan: Plan) -> None:
    """Raises RecordError where other methods are asked for, or the same at other points of a sweep."""
    then, now = Counter(before), Counter(variant.method for variant in plan.variants)
    if then != now:
        words = [
            ", ".join(f"{count} x {method}" if count > 1 else method for method, count in found.items())
            for found in (then, now)
        ]
        raise RecordError(
            f"{top}: was begun with other settings (method: {words[0]} then, {words[1]} now); give the same ones, or a new run"
        )


def _refuse(path: Path, settings: dict[str, Any], plan: Plan) -> None:
    """Raises RecordError with what differs from the nearest variant."""
    same = [plan.settings(variant) for variant in plan.variants if variant.method == settings["method"]]
    words = min((differences(settings, now) for now in same), key=len)
    raise RecordError(f"{path}: was begun with other settings ({'; '.join(words)}); give the same ones, or a new run")


def _text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, default=str)
