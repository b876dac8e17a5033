"""Owns command.json: which command began a run folder, with which options, and which runs the folder is to hold.

Knows no command line. Folders of older versions have none; what of it can be is read from their configs.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from msgspec import field

from sgl_specreason.errors import RecordError, UsageError
from sgl_specreason.method.policy import ALONE, Policy, is_alone
from sgl_specreason.plan import catalog
from sgl_specreason.plan.plan import ATTACHED
from sgl_specreason.results.folder import RunFolder, write_json
from sgl_specreason.results.lines import Outcome
from sgl_specreason.results.records import CONFIG, SUMMARY, SWEEP, begun_runs, opened, read_config, swept, whole
from sgl_specreason.results.schema import Data
from sgl_specreason.typed import Misfit, typed

COMMAND = "command.json"
Settings = dict[str, Any]


class Origin(Data, frozen=True, kw_only=True):
    """`options` by name, those that were given; `runs` has the settings of each run by its folder's name ("." for this one)."""

    command: str
    options: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Settings] = field(default_factory=dict)


def written(top: Path, origin: Origin) -> None:
    """Makes the file."""
    write_json(top / COMMAND, {"command": origin.command, "options": origin.options, "runs": origin.runs})


def read(top: Path) -> Origin | None:
    """What the file says; None where there is none. Raises RecordError for a damaged one."""
    file = top / COMMAND
    if not file.exists():
        return None
    try:
        with opened(file) as content:
            return typed(whole(content.read()), Origin)
    except (OSError, Misfit) as error:
        raise RecordError(f"{file}: cannot be read: {error}") from None


def recorded(top: Path) -> dict[Path, Settings]:
    """The settings of each run that is or will be in `top`, by its folder. Raises RecordError where that is no run folder."""
    origin = read(top)
    promised = {top / name: settings for name, settings in origin.runs.items()} if origin else {}
    try:
        begun = {path: read_config(path / CONFIG)["settings"] for path in begun_runs(top)}
    except RecordError:
        if not promised or any(top.glob(f"*/{CONFIG}")) or (top / CONFIG).exists():
            raise
        begun = {}
    return promised | begun


def complete(top: Path) -> dict[Path, list[Outcome]] | None:
    """The outcomes of each run in `top` if nothing is missing there, else None. What says that it is partial is not read."""
    if read_summary(top).get("partial", True):
        return None
    found = {}
    origin = read(top)
    configs = begun_runs(top)
    if origin and {top / name for name in origin.runs} - configs.keys():
        return None
    for path, config in configs.items():
        run = RunFolder.found(path)
        if len(run.done) != config.expected or not run.tidy:
            return None
        found[path] = run.outcomes
    return found


def read_summary(top: Path) -> Mapping[str, Any]:
    """A folder's summary; nothing where there is none, or one that cannot be read: it is made anew."""
    try:
        content = whole((top / SUMMARY).read_bytes())
    except (OSError, Misfit):
        return {}
    return content if isinstance(content, dict) else {}


def derived(top: Path, besides: Collection[str]) -> Origin:
    """What an older version's folder says of the command that began it. Raises RecordError for what must be given `besides`."""
    runs = {path: read_config(path / CONFIG)["settings"] for path in begun_runs(top)}
    every = list(runs.values())
    first = every[0]
    if first.get("replay"):
        return Origin(command="replay")
    options = {name: first[name] for name in ("bench", "preset", "samples", "limit", "seed", "concurrency")}
    options |= {"methods": list(dict.fromkeys(settings["method"] for settings in every))}
    options |= _models(first) | _decode(every)
    options |= {f"{role}_replicas": count for role, count in (first.get("replicas") or {}).items()}
    varied = swept(top)
    if varied and "sweep" not in besides:
        options["sweep"] = _sweep(top)
    policy = _policy([settings for settings in every if not is_alone(settings["method"])] or every)
    options |= {key: value for key, value in policy.items() if key not in varied}
    return Origin(command="eval", options={key: value for key, value in options.items() if value is not None})


def _models(settings: Settings) -> dict[str, Any]:
    """The pair by its name, or its models; of running servers nothing is known."""
    pair = settings["pair"]
    if pair == ATTACHED:
        return {}
    if pair in catalog.names("pairs"):
        return {"pair": pair}
    return {f"{role}_model": str(model).rpartition("@")[0] or model for role, model in settings["models"].items()}


def _decode(every: list[Settings]) -> dict[str, Any]:
    said: Settings = next((settings["decode"] for settings in every if "decode" in settings), {})
    return {"decode" if key == "algorithm" else f"decode_{key}": value for key, value in said.items()}


def _policy(every: list[Settings]) -> dict[str, Any]:
    """The settings of the method; a control's gate is its own, and the coin's probability is nobody else's."""
    chosen = next((s for s in every if s["method"].startswith("specreason")), every[0])
    policy = {key: value for key, value in chosen["policy"].items() if key in Policy.__struct_fields__}
    if is_alone(chosen["method"]):
        return {key: policy[key] for key in ALONE if key in policy}
    if not chosen["method"].startswith("specreason"):
        policy.pop("gate", None)
    coins = [settings["policy"].get("gate_p") for settings in every if settings["method"] == "random"]
    return policy | ({"gate_p": coins[0]} if coins else {})


def _sweep(top: Path) -> str:
    """The sweep's name. Raises RecordError where it is not, or no longer, the one that there is under it."""
    with opened(top / SWEEP) as content:
        said = whole(content.read())
    try:
        sweep = catalog.load_sweep(said["name"])
        if (sweep.grid, sweep.points) == (said["grid"], said.get("points", [])):
            return str(said["name"])
    except (UsageError, KeyError, TypeError):
        pass
    raise RecordError(
        f"{top}: was begun with a sweep of a file of yours, which it does not name: give --sweep FILE.toml"
    )
