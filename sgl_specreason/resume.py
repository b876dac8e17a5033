"""Owns what `--resume RUN` stands for: the options with which the run was begun, and what may be given besides. Knows no engines.

What is given besides wins here; whether it agrees with the run is asked where its settings are known (`run/folders.py`).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from sgl_specreason import paths
from sgl_specreason.errors import RecordError, UsageError
from sgl_specreason.pasted import command, following
from sgl_specreason.plan.benches import DATA_VARIABLE
from sgl_specreason.plan.catalog import SINGULAR
from sgl_specreason.results import origin
from sgl_specreason.results.folder import held
from sgl_specreason.results.origin import COMMAND, Origin
from sgl_specreason.results.summaries import written
from sgl_specreason.results.table import comparison

if TYPE_CHECKING:
    from sgl_specreason.plan.plan import Plan

Given = dict[str, Any]
NOT_KEPT = {"resume", "out", "api_key", "dry_run", "listing", "gpus"}
GIVEN = ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT
MODELS = {"pair", "base_model", "small_model", "base_url", "small_url"}
INSTEAD = (
    ({"pair"}, {"base_model", "small_model"}),
    ({"match_acceptance"}, {"gate_p"}),
    ({"published"}, {"trace", "synthetic", "thinking_tokens", "median_step_tokens"}),
    ({"trace"}, {"synthetic", "thinking_tokens", "median_step_tokens", "prompt_tokens", "answer_tokens"}),
)
"""Options of which one side is given in place of the other."""


def taken_up(verb: str, given: Given) -> Given:
    """`given`, and where it names a run to go on with what else that was begun with. Raises UsageError, RecordError."""
    top: Path | None = given["resume"]
    if top is None:
        return given
    if not os.path.isdir(top):
        raise UsageError(f"--resume {top}: no such run folder")
    besides = _besides()
    began = origin.read(top) or origin.derived(top, besides)
    if began.command != verb:
        raise UsageError(f"--resume {top}: was begun by {began.command}: {command(began.command, '--resume', top)}")
    replaced = {name for one, other in INSTEAD for name in _replaced(besides, one, other)}
    before = {name: value for name, value in _typed(top, began).items() if name not in replaced}
    return given | {name: value for name, value in before.items() if name not in besides}


def _besides() -> set[str]:
    """The names of what is given with --resume."""
    context = click.get_current_context()
    return {name for name in context.params if context.get_parameter_source(name) in GIVEN} - NOT_KEPT


def _replaced(besides: set[str], one: set[str], other: set[str]) -> set[str]:
    return (other if besides & one else set()) | (one if besides & other else set())


def _typed(top: Path, began: Origin) -> Given:
    """The recorded options as click would hand them over."""
    context = click.get_current_context()
    known = {str(param.name): param for param in context.command.params}
    found = {}
    for name, value in began.options.items():
        if name not in known:
            raise RecordError(f"{top / COMMAND}: unknown option {name!r}")
        try:
            found[name] = known[name].type_cast_value(context, value)
        except click.BadParameter as error:
            raise RecordError(f"{top / COMMAND}: {error.format_message()}") from None
    return found


def shown_if_complete(given: Given) -> bool:
    """Prints the table of the run to go on with if nothing is missing in it and nothing else is asked of it."""
    top: Path | None = given["resume"]
    if top is None or given["dry_run"]:
        return False
    began = origin.read(top) or origin.derived(top, _besides())
    before = _typed(top, began)
    context = click.get_current_context()
    defaults = {str(param.name): param.get_default(context) for param in context.command.params}
    if any(given[name] != before.get(name, defaults[name]) or _is_file(given[name]) for name in _besides()):
        return False
    known = origin.complete(top)
    if known is None:
        return False
    with held(top):
        runs = written(top, known)
    click.echo(f"{top} is complete: nothing was run", err=True)
    click.echo(comparison(runs).text())
    click.echo(following([top], runs))
    click.echo(f"Run folder: {top}")
    return True


def _is_file(value: Any) -> bool:
    """Whether a value names a file of the user's, in which something else may stand by now."""
    return isinstance(value, Path) or (isinstance(value, str) and value.endswith((".toml", ".jsonl")))


def begun(verb: str, given: Given, plan: "Plan") -> Origin:
    """What a run's folder says of the command that begins it: options that are not at their defaults, files by whole paths."""
    context = click.get_current_context()
    options: Given = {}
    for param in context.command.params:
        name = str(param.name)
        value = given.get(name)
        if name not in NOT_KEPT and value not in (None, ()) and value != param.get_default(context):
            options[name] = as_anywhere(name, value)
    if "match_acceptance" in options:  # that run may change
        del options["match_acceptance"]
        shares = [variant.policy.gate_p for variant in plan.variants if variant.policy.gate_p is not None]
        options |= {"gate_p": shares[0]} if shares else {}
    if not MODELS & options.keys():
        options["pair"] = plan.pair
    return Origin(command=verb, options=options | _looked_up(given, plan))


def as_anywhere(name: str, value: Any) -> Any:
    """An option's value as it can be said anywhere: a file of the user's by its whole path."""
    kinds = {singular: kind for kind, singular in SINGULAR.items()}
    if isinstance(value, Path):
        return os.path.abspath(value)
    if (name in kinds and value.endswith(".toml")) or (name == "published" and value.endswith(".jsonl")):
        return os.path.abspath(value)
    if name in kinds and (own := paths.own("eval")) and (own / kinds[name] / f"{value}.toml").exists():
        return str(own / kinds[name] / f"{value}.toml")
    if name.endswith("_model") and os.path.isdir(value):
        return os.path.abspath(value)
    return list(value) if isinstance(value, tuple) else value


def _looked_up(given: Mapping[str, Any], plan: "Plan") -> Given:
    """Files of the user's that were found without being named."""
    found: Given = {}
    if given["prompts"] is None and (own := paths.own("prompts")):
        found["prompts"] = str(own)
    folder = os.environ.get(DATA_VARIABLE)
    if "data" in given and given["data"] is None and folder:
        file = Path(folder).absolute() / f"{plan.bench.name}.jsonl"
        found |= {"data": str(file)} if file.is_file() else {}
    return found
