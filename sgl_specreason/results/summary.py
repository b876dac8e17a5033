"""Owns run folders as runs: what is read of their records, and which of them compare. Knows no engines and no tables."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from sgl_specreason.errors import RecordError, UsageError
from sgl_specreason.method.policy import METHODS
from sgl_specreason.method.policy import Policy as Current
from sgl_specreason.results import stats
from sgl_specreason.results.lines import Outcome, Record
from sgl_specreason.results.numbers import by_problem, grouped, summarise
from sgl_specreason.results.records import begun_runs, outcome, swept, trajectories
from sgl_specreason.results.schema import Config, Policy, Settings, Summary, Value
from sgl_specreason.typed import typed

T = TypeVar("T")

# What two runs that are compared must have in common; the method and its knobs are what is compared.
SHARED_SETTINGS = (
    "replay",
    "dummy_weights",
    "bench",
    "prompts",
    "dataset_sha256",
    "samples",
    "limit",
    "seed",
    "concurrency",
    "replicas",
)
SHARED_POLICY = ("budget_tokens", "on_budget", "stop_loops", "answer_tokens", "temperature", "top_p", "top_k", "min_p")
_DEFAULTS = Current()
SHARED_CONDITIONS = ("versions", "gpu")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder. Its records are read when somebody asks for something of them, and only that is kept.

    `varied` are the settings of the sweep that it is a part of.
    """

    path: Path
    config: Config
    varied: frozenset[str] = frozenset()
    _kept: dict[Any, list[Any]] = field(default_factory=dict, repr=False, compare=False)

    def read(self, *parts: "Part[Any]") -> None:
        """Makes these parts of its records in one pass, but those that were made before. Raises RecordError."""
        made: dict[Any, list[Any]] = {part: [] for part in parts if part not in self._kept}
        if made:
            for record in trajectories(self.path):
                for part, found in made.items():
                    found.extend(part(self, record))
            self._kept.update(made)

    def of(self, part: "Part[T]") -> list[T]:
        """What `part` makes of each record, in their order; by itself a pass of its own (`read`)."""
        self.read(part)
        return self._kept[part]

    @property
    def outcomes(self) -> list[Outcome]:
        return self.of(outcomes)

    def with_outcomes(self, known: list[Outcome]) -> "Run":
        """The run with outcomes that need not be read."""
        return replace(self, _kept={outcomes: known})

    @property
    def settings(self) -> Settings:
        return self.config.settings

    @property
    def method(self) -> str:
        return self.settings.method

    @cached_property
    def policy(self) -> Policy:
        return typed(self.settings.policy, Policy)

    @property
    def is_replay(self) -> bool:
        """Whether it followed a trace: then it has latencies and no answers."""
        return self.settings.trace is not None

    @cached_property
    def summary(self) -> Summary:
        return summarise(self.outcomes, self.config)


Part = Callable[[Run, Record], Iterable[T]]


def outcomes(run: Run, record: Record) -> tuple[Outcome]:
    """The part of a run's records that its numbers are made of."""
    return (outcome(record),)


def load_runs(folder: Path) -> list[Run]:
    """The run that `folder` is, or the runs that it holds, in the order of METHODS and their knobs. Raises RecordError.

    Their configs are read, their records are not yet.
    """
    found, varied = begun_runs(folder).items(), swept(folder)
    runs = [Run(path=path, config=config, varied=varied) for path, config in found]
    order = [str(method) for method in METHODS]
    told = {
        run.path: [(str(type(value)), value) for value in values.values()]
        for run, values in zip(runs, knobs(runs), strict=True)
    }
    return sorted(
        runs, key=lambda run: (order.index(run.method) if run.method in order else len(order), told[run.path])
    )


def acceptance(folder: Path) -> float:
    """The share of its drafts that a run of SpecReason kept. Raises UsageError where `folder` has no such run."""
    try:
        runs = [
            run for run in load_runs(folder) if run.method == "specreason" and run.summary.drafts and not run.is_replay
        ]
    except RecordError as error:
        raise UsageError(f"--match-acceptance {folder}: {error}") from None
    if len(runs) != 1:
        raise UsageError(f"--match-acceptance {folder}: holds {len(runs)} runs of specreason with drafts, not one")
    return runs[0].summary.acceptance


def setting(policy: Mapping[str, Value], key: str) -> Value:
    """A setting of a run; of one that was written before there was this setting, the default."""
    return policy.get(key, getattr(_DEFAULTS, key, None))


def differing(runs: Sequence[Run], *, swept: Collection[str] = ()) -> dict[str, list[Any]]:
    """The conditions that are not the same in all runs, each with its value in every run; empty when they compare.

    `swept` names policy settings that were varied on purpose.
    """
    configs = [run.config for run in runs]
    columns: dict[str, list[Any]] = {key: [getattr(c.settings, key) for c in configs] for key in SHARED_SETTINGS}
    shared = [key for key in SHARED_POLICY if key not in swept]
    columns |= {f"models.{role}": [c.settings.models.get(role) for c in configs] for role in ("base", "small")}
    columns |= {f"policy.{key}": [setting(c.settings.policy, key) for c in configs] for key in shared}
    columns |= {key: [getattr(config, key) for config in configs] for key in SHARED_CONDITIONS}
    return {key: values for key, values in columns.items() if any(value != values[0] for value in values)}


def knobs(runs: Sequence[Run]) -> list[dict[str, Value]]:
    """Of each run, the policy settings in which it is not like all the others of its method."""
    found = []
    for run in runs:
        policies = [other.settings.policy for other in runs if other.method == run.method]
        own = run.settings.policy.items()
        found.append({key: value for key, value in own if any(setting(p, key) != value for p in policies)})
    return found


@dataclass(frozen=True, kw_only=True)
class AgainstBase:
    """A run beside base on the same problems; replays have no accuracy."""

    accuracy: stats.Paired | None
    speed_up: stats.Ratio


def base_of(run: Run, runs: Sequence[Run]) -> Run | None:
    """What `run` is compared with: the first run of base under its conditions, else the first one; None for base itself."""
    bases = [other for other in runs if other.method == "base" and run.method != "base"]
    return next((base for base in bases if not differing([run, base])), next(iter(bases), None))


def against_base(runs: Sequence[Run]) -> list[AgainstBase | None]:
    """Each run paired by problem with its base; None where it has none."""
    found: list[AgainstBase | None] = []
    for run in runs:
        base = base_of(run, runs)
        if base is None:
            found.append(None)
            continue
        latencies = [grouped(each.outcomes, lambda outcome: outcome.latency_s) for each in (base, run)]
        accuracy = None if run.is_replay else stats.paired(by_problem(run.outcomes), by_problem(base.outcomes))
        found.append(AgainstBase(accuracy=accuracy, speed_up=stats.ratio_of_means(*latencies)))
    return found
