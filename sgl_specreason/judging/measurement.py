"""Owns a measurement, resolved: its steps, judges and models, what its folder records, and what is checked before it starts.

Knows no options and starts nothing.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgl_specreason.engines import replicas
from sgl_specreason.engines.servers import ROLES
from sgl_specreason.engines.transport import Health
from sgl_specreason.errors import UsageError
from sgl_specreason.judging.asking import Asking
from sgl_specreason.judging.benches import LabelledBench, LabelledProblem, LabelledRows
from sgl_specreason.judging.folder import PREFIX, is_folder
from sgl_specreason.method.trajectory import Trajectory
from sgl_specreason.plan.checkpoints import identity
from sgl_specreason.plan.plan import Plan, digest
from sgl_specreason.plan.versions import commit, versions
from sgl_specreason.results.records import CONFIG, read_config
from sgl_specreason.run.serving import Access, Chats, Engines
from sgl_specreason.text.chat import load_chats
from sgl_specreason.text.steps import Author

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A measurement, resolved. `plan` is the pair's; of its problems and variants nothing is used."""

    plan: Plan
    bench: LabelledBench
    rows: LabelledRows
    askings: Sequence[Asking]
    thresholds: dict[str, float]
    limit: int | None
    concurrency: int

    @property
    def problems(self) -> list[LabelledProblem]:
        """All, or as many as `limit` says, evenly spread: sets are sorted, ProcessBench by whether a solution is right."""
        every = self.rows.problems
        count = min(self.limit or len(every), len(every))
        return [every[at * len(every) // count] for at in range(count)]

    @property
    def roles(self) -> tuple[Author, ...]:
        """The models that are asked."""
        asked = {asking.engine for asking in self.askings}
        return tuple(role for role in ROLES if role in asked)

    def settings(self) -> dict[str, Any]:
        """What its answers depend on, and what going on with it must not change."""
        return {
            "bench": self.bench.name,
            "pair": self.plan.pair,
            "models": {role: identity(self.plan.models[role]) for role in self.roles},
            "judges": [asking.settings() for asking in self.askings],
            "dataset_sha256": self.rows.sha256,
            "limit": self.limit,
            "taken": "evenly",
            "concurrency": self.concurrency,
        }

    def config(self, infos: dict[str, Any]) -> dict[str, Any]:
        return {
            "settings": self.settings(),
            "title": self.bench.title,
            "problems": len(self.problems),
            "steps": sum(len(problem.steps) for problem in self.problems),
            "thresholds": self.thresholds,
            "dataset_origin": self.rows.origin,
            "templates": {asking.name: str(asking.prompts.folder) for asking in self.askings},
            "gpu": self.plan.hardware,
            "versions": versions(),
            "commit": commit(),
            "day": self.plan.day.isoformat(),
            "server_info": infos,
        }

    @property
    def name(self) -> str:
        """Its folder's."""
        return f"{PREFIX}{self.bench.name}-{self.plan.pair}-{digest(self.settings())}"


def attached(measurement: Measurement, access: Access) -> tuple[Measurement, Engines]:
    """The servers that run already, and the measurement of what they serve; none where engines are to be started."""
    if access.urls is None:
        return measurement, {}
    urls = dict(zip(ROLES, access.urls, strict=True))
    engines: Engines = {
        role: replicas.attached(role, urls[role], access.api_key, Health(patience_s=access.patience_s))
        for role in measurement.roles
    }
    plan = measurement.plan
    places = {
        role: tuple(dict.fromkeys(filter(None, (engine.tokenizer, engine.model, plan.models[role]))))
        for role, engine in engines.items()
    }
    models = plan.models | {role: engine.model for role, engine in engines.items()}
    return replace(measurement, plan=replace(plan, models=models, tokenizers=places)), engines


def gone_on(measurement: Measurement, resume: Path | None) -> Measurement:
    """The measurement with the day of the one to go on with, which chat templates were told. Raises UsageError for none."""
    if resume is None:
        return measurement
    if not os.path.isdir(resume):
        raise UsageError(f"--resume {resume}: no such run folder")
    if not is_folder(resume):
        raise UsageError(f"--resume {resume}: not a judge's measurement")
    try:
        day = date.fromisoformat(str(read_config(resume / CONFIG).get("day")))
    except ValueError:
        return measurement
    return replace(measurement, plan=replace(measurement.plan, day=day))


def checked(measurement: Measurement) -> tuple[Chats, dict[str, Trajectory]]:
    """The chat formats of the models that are asked, and what each judge is given. Raises UsageError."""
    plan = measurement.plan
    places = {role: plan.tokenizer_places[role] for role in measurement.roles}
    chats = load_chats(places, plan.think_tags, trust_remote_code=plan.trust_remote_code, day=plan.day)
    views = {one.name: one.view(chats[one.engine]) for one in measurement.askings if one.judging != "decisions"}
    return chats, views
