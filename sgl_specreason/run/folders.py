"""Owns which folders a plan's runs are written to: new ones, or those of the run to go on with. Knows no engines."""

import os
from dataclasses import replace
from pathlib import Path

from msgspec.structs import asdict

from sgl_specreason.errors import UsageError
from sgl_specreason.plan.plan import Plan, Variant
from sgl_specreason.results.folder import check_settings, differences, fresh_folder, write_json
from sgl_specreason.results.records import SWEEP, begun_runs


def settled(plan: Plan, resume: Path | None) -> tuple[Plan, dict[str, float]]:
    """The plan with the day and the measured concurrency of the run to go on with, and what that measured (tokens/s)."""
    if resume is None or not os.path.isdir(resume) or _is_untouched(plan, resume):
        return plan, {}
    config = next(iter(begun_runs(resume).values()))
    plan = replace(plan, day=config.day or plan.day)
    if plan.concurrency != "auto":
        return plan, {}
    return replace(plan, concurrency=config.settings.concurrency), config.tokens_per_s_by_concurrency


def folders_of(plan: Plan, out: Path, resume: Path | None) -> tuple[Path, dict[Variant, Path]]:
    """The folder of everything and each variant's run folder: new ones, or those of the run to go on with.

    Raises UsageError for a folder that is no such run, and RecordError, naming the keys, for one with other settings.
    """
    if resume is None:
        top = fresh_folder(out, plan.name(plan.variants))
    elif os.path.isdir(resume):
        top = resume
    else:
        raise UsageError(f"--resume {resume}: no such run folder")
    if len(plan.variants) == 1:
        folders = {plan.variants[0]: top}
    else:
        folders = {variant: top / plan.name((variant,)) for variant in plan.variants}
    if resume is None:
        if plan.sweep:
            write_json(top / SWEEP, asdict(plan.sweep))
        return top, folders
    if _is_untouched(plan, top):
        return top, folders
    for path, config in begun_runs(top).items():
        method = config.settings.method
        same = [variant for variant in folders if variant.method == method]
        if not same or (path == top) != (len(folders) == 1):
            raise UsageError(f"--resume {resume}: holds a run of method {method}; give the same --method options")
        # the one that it is, or the nearest one, to name the keys that differ
        nearest = min(same, key=lambda variant: len(differences(path, plan.settings(variant))))
        check_settings(path, plan.settings(nearest))
        folders[nearest] = path
    return top, folders


def _is_untouched(plan: Plan, top: Path) -> bool:
    """Whether a run of these settings was ended before it had written anything of its own, as while its engines started."""
    named = top.resolve().name.startswith(plan.name(plan.variants))
    return named and all(path.name in ("logs", SWEEP) for path in top.iterdir())
