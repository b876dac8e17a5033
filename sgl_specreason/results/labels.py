"""Owns what runs are called where several stand side by side, and what differs between them in words. Knows no tables."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

from sgl_specreason.results.folder import TOLD, without_digits
from sgl_specreason.results.schema import Value
from sgl_specreason.results.summary import Run, differing, knobs


def names(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its method, the settings that tell it from the others, and what else does where that is not enough."""
    found = [
        " ".join([run.method, *(_setting(key, value) for key, value in own.items() if value is not None)])
        for run, own in zip(runs, settings(runs), strict=True)
    ]
    groups = {name: [at for at, other in enumerate(found) if other == name] for name in found}
    for name, members in groups.items():
        if len(members) > 1:
            told = _told([runs[at] for at in members])
            for number, (at, words) in enumerate(zip(members, told, strict=True), 1):
                alone = words and told.count(words) == 1
                found[at] = f"{name} {words}" if alone else " ".join(filter(None, [name, words, f"#{number}"]))
    return found


def settings(runs: Sequence[Run]) -> list[dict[str, Value]]:
    """Of each run, the settings for its name: those that others of its method have otherwise, and those that are not the
    preset's, unless all runs have them so."""
    return [
        {key: value for key, value in run.config.changed.items() if not _shared(runs, key, value)} | told
        for run, told in zip(runs, knobs(runs), strict=True)
    ]


def common(runs: Sequence[Run]) -> dict[str, Value]:
    """The settings that are not the preset's and that all runs share."""
    return {key: value for key, value in runs[0].config.changed.items() if _shared(runs, key, value)}


def _shared(runs: Sequence[Run], key: str, value: Value) -> bool:
    return all(run.config.changed.get(key) == value for run in runs)


def in_words(values: dict[str, Value]) -> str:
    """Settings as they stand in a name."""
    return ", ".join(_setting(key, value) for key, value in values.items())


def _setting(key: str, value: Any) -> str:
    return f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"


TELLING: dict[str, Callable[[Run], Any]] = {
    "pair": lambda run: run.settings.pair,
    "base": lambda run: _model(run.settings.models.get("base", "")),
    "small": lambda run: _model(run.settings.models.get("small", "")),
    "bench": lambda run: run.settings.bench,
    "rows": lambda run: run.settings.dataset_sha256[:TOLD],
    "samples": lambda run: run.settings.samples,
    "limit": lambda run: run.settings.limit,
    "seed": lambda run: run.settings.seed,
    "concurrency": lambda run: run.settings.concurrency,
    "replicas": lambda run: "x".join(map(str, (run.settings.replicas or {}).values())) or 1,
    "gpu": lambda run: run.config.gpu,
    "sglang": lambda run: run.config.versions.get("sglang"),
}
"""What tells runs apart besides their method's settings, the templates left out; the first ones that do are named."""


def apart(runs: Sequence[Run]) -> list[str]:
    """Of each run, what besides its method's settings tells it from others of its method; "" where nothing else does."""
    words = [""] * len(runs)
    for method in {run.method for run in runs}:
        members = [at for at, run in enumerate(runs) if run.method == method]
        for at, told in zip(members, _told([runs[at] for at in members]), strict=True):
            words[at] = told
    return words


def _told(runs: Sequence[Run]) -> list[str]:
    """Of each run, what besides settings tells it from these, in as few words as do."""
    columns = [[f"prompts={label}" for label in prompts(runs)]]
    columns += [[f"{key}={str(value(run)).replace(' ', '_')}" for run in runs] for key, value in TELLING.items()]
    words = [""] * len(runs)
    for column in columns:
        before = len(set(words))
        longer = [f"{word} {more}".strip() for word, more in zip(words, column, strict=True)]
        words = longer if len(set(longer)) > before else words
    return words


def prompts(runs: Sequence[Run]) -> list[str]:
    """What each run's templates are called: their folder's name where it tells them apart, else some digits of their hash."""
    hashes = [hashlib.sha256(json.dumps(run.settings.prompts, sort_keys=True).encode()).hexdigest() for run in runs]
    folders = [PurePath(run.config.prompts_from).name for run in runs]
    pairs = set(zip(hashes, folders, strict=True))
    telling = all(folders) and len(pairs) == len(set(hashes)) == len(set(folders))
    return folders if telling else [found[:TOLD] for found in hashes]


def _model(identity: str) -> str:
    """A model's own name, and the hash that tells it from others of this name."""
    return identity if identity.count("/") < 2 else PurePath(identity).name


def differences(runs: Sequence[Run], swept: frozenset[str]) -> list[str]:
    """The conditions that are not the same in all runs, each in one short line: what is the same in it is left out."""
    lines = []
    for key, values in differing(runs, swept=swept).items():
        parts = {"": values}
        if all(isinstance(value, dict) for value in values):
            inner = sorted({name for value in values for name in value})
            columns = {f" {name}": [value.get(name) for value in values] for name in inner}
            parts = {name: column for name, column in columns.items() if any(value != column[0] for value in column)}
        words = [f"{name} {' | '.join(dict.fromkeys(map(_short, column)))}" for name, column in parts.items()]
        lines.append(f"{key}:{','.join(words)}")
    return lines


def _short(value: Any) -> str:
    return without_digits(str(value))
