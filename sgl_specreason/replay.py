"""Owns the command `python -m sgl_specreason.replay`: what a pair costs on these engines, from lengths and verdicts alone.

Example: python -m sgl_specreason.replay --synthetic --acceptance 0.4,0.6,0.8 --pair demo --limit 8
"""

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sgl_specreason.command import Command, fail
from sgl_specreason.errors import Interrupted, UsageError
from sgl_specreason.run.interruption import Interruption

if TYPE_CHECKING:
    from sgl_specreason.plan.plan import Variant
    from sgl_specreason.replays.session import ReplayPlan
    from sgl_specreason.replays.trace import Trace

T = TypeVar("T")
METHODS = ("base", "small", "specreason")
PAIR_OPTIONS = ("pair", "base_model", "small_model", "base_url", "small_url")
DEMO = "demo"
PROBLEMS = 16
OF_SYNTHETIC = {"thinking_tokens": 8192, "median_step_tokens": 48, "prompt_tokens": 200, "answer_tokens": 300}
OF_DEMO = OF_SYNTHETIC | {"thinking_tokens": 320, "prompt_tokens": 60, "answer_tokens": 24}
"""Tiny models on a CPU: minutes, not hours."""


def _length(name: str, words: str) -> Callable[[Any], Any]:
    value, demo = OF_SYNTHETIC[name.replace("-", "_")], OF_DEMO[name.replace("-", "_")]
    default = f"{value}" if value == demo else f"{value}; pair demo {demo}"
    help_text = f"With --synthetic: {words}.  [default: {default}]"
    return click.option(f"--{name}", type=click.IntRange(1, 1_000_000), metavar="N", help=help_text)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("trace", required=False, type=click.Path(path_type=Path), metavar="[RUN]")
@click.option("--synthetic", is_flag=True, help="A generated trace in place of a run folder's.")
@click.option(
    "--acceptance",
    metavar="P[,P...]",
    help="The share of drafts that is kept, 0-1; several make a row each.  [default: the run's own verdicts]",
)
@_length("thinking-tokens", "longest thought; thoughts are between half of it and this")
@_length("median-step-tokens", "median length of a step")
@_length("prompt-tokens", "length of a prompt")
@_length("answer-tokens", "length of an answer")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help=f"Problems.  [default: {PROBLEMS}, or all of the run's]"
)
@click.option(
    "--method", "methods", multiple=True, metavar="NAME", help="base, small, specreason; repeatable.  [default: all]"
)
@click.option(
    "--lookahead", default="1", show_default=True, metavar="N[,N...]", help="As in eval; several make a row each."
)
@click.option("--eager-regenerate", is_flag=True, help="As in eval.")
@click.option(
    "--judge",
    default="score",
    show_default=True,
    help="What base is asked, as in eval; its answers are replaced by the trace's verdicts.",
)
@click.option("--answer-by", default="base", show_default=True, metavar="base|small", help="Who writes the answer.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 4096),
    default=1,
    show_default=True,
    metavar="N",
    help="Trajectories side by side; above 1, one method after the other.",
)
@click.option("--pair", metavar="NAME|FILE.toml", help="Base and small model.  [default: demo]")
@click.option("--base-model", metavar="MODEL", help="A folder or hub id, with --small-model, in place of --pair.")
@click.option("--small-model", metavar="MODEL", help="A folder or hub id, with --base-model.")
@click.option(
    "--dummy",
    is_flag=True,
    help="Random weights (SGLang's --load-format dummy): models need a config and a tokenizer only.",
)
@click.option("--base-url", metavar="URL", help="A running SGLang server for base, with --small-url; starts nothing.")
@click.option("--small-url", metavar="URL", help="A running SGLang server for small, with --base-url.")
@click.option(
    "--api-key",
    envvar="SPECREASON_API_KEY",
    metavar="KEY",
    help="As in eval; better in the variable.  [default: $SPECREASON_API_KEY, else a random one]",
)
@click.option(
    "--request-timeout", type=click.FloatRange(0.1, 86400), default=1800, show_default=True, metavar="SECONDS",
    help="A request without an answer after this is tried once more, then its trajectory fails.",
)  # fmt: skip
@click.option(
    "--retry-for", type=click.FloatRange(0, 86400), default=120, show_default=True, metavar="SECONDS",
    help="How long a running server that cannot be reached is waited for before the replay ends.",
)  # fmt: skip
@click.option(
    "--prompts", type=click.Path(path_type=Path), metavar="DIR", help="Templates, of which the judge's are used."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seeds the trace, the verdicts and the prompts.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, metavar="DIR",
    help="Where the run folder is made.",
)  # fmt: skip
@click.option(
    "--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with this replay, with the same options."
)
@click.option("--dry-run", is_flag=True, help="Print the trace and the engine commands; start and write nothing.")
def main(**options: Any) -> None:
    """Replays trajectories of given lengths and verdicts on real engines: latency, throughput and memory, no answers.

    The trace is that of a RUN folder of eval, or a generated one. Every request is a real one; the engines write as many
    tokens as the trace says, whatever they are, and drafts are kept as it says.
    """
    interruption = Interruption()
    try:
        with interruption.handled():
            _replay(options, interruption)
    except Interrupted as error:
        words = f"interrupted; finished trajectories are in {error.folder}; go on with --resume {error.folder}"
        fail(words, error.code)
    except KeyboardInterrupt:
        fail("interrupted before the replay began", interruption.code)


def _replay(options: dict[str, Any], interruption: Interruption) -> None:
    from sgl_specreason.results import records

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    plan = resolved(options)
    records.check_writable(options["out"])
    if options["dry_run"]:
        click.echo(_described(plan))
        return
    from sgl_specreason.replays.session import ReplaySession
    from sgl_specreason.results.summaries import written
    from sgl_specreason.results.table import comparison
    from sgl_specreason.run import evaluate

    access = evaluate.Access(
        urls=(options["small_url"], options["base_url"]) if options["base_url"] else None,
        api_key=options["api_key"],
        request_timeout_s=options["request_timeout"],
        patience_s=options["retry_for"],
    )
    folder = evaluate.run(
        plan,
        out=options["out"],
        resume=options["resume"],
        access=access,
        interruption=interruption,
        say=lambda line: click.echo(line, err=True),
        kind=ReplaySession,
    )
    runs = written(folder)
    click.echo(comparison(runs).text())
    click.echo(f"Run folder: {folder}")
    if failed := sum(run.summary["failed"] for run in runs):
        fail(f"{failed} trajectories failed; --resume {folder} runs them again", 1)


def resolved(options: dict[str, Any]) -> "ReplayPlan":
    """Checks the options and reads the trace. Raises UsageError; starts and writes nothing."""
    from sgl_specreason.plan.catalog import Sweep
    from sgl_specreason.plan.options import Options
    from sgl_specreason.plan.resolve import resolve
    from sgl_specreason.replays.session import ReplayPlan

    for method in options["methods"]:
        if method not in METHODS:
            raise UsageError(f"--method {method}: a replay has {', '.join(METHODS)}")
    methods = tuple(method for method in METHODS if method in (options["methods"] or METHODS))
    shares, trace = _trace(options, drafting="specreason" in methods)
    if options["dummy"] and options["base_url"]:
        raise UsageError("--dummy is for engines that are started here, not for --base-url")
    models = {name: options[name] for name in PAIR_OPTIONS}
    if not any(models.values()):
        models["pair"] = DEMO
    plan = resolve(
        Options(
            bench="demo",  # its problems make room for the trace's
            methods=methods,
            prompts=options["prompts"],
            seed=options["seed"],
            concurrency=options["concurrency"],
            policy={},
            **models,
        )
    )
    grid: dict[str, list[Any]] = {"acceptance": shares, "lookahead": _listed("lookahead", options["lookahead"], int)}
    changes: dict[str, Any] = {"variants": _variants(methods, trace, grid, options), "samples": 1}
    if len(shares) * len(grid["lookahead"]) > 1:
        changes["sweep"] = Sweep(name="replay", title="replay", grid=grid, methods=list(methods))
    if options["dummy"]:
        changes["specs"] = tuple(replace(spec, args=(*spec.args, "--load-format", "dummy")) for spec in plan.specs)
    return ReplayPlan.of(plan, trace, dummy=options["dummy"], **changes)


def _trace(options: dict[str, Any], *, drafting: bool) -> "tuple[list[float | None], Trace]":
    """The shares of drafts to be kept (None: as the trace says), and the trace."""
    from sgl_specreason.replays.trace import checked_share, from_run, synthetic

    if options["synthetic"] == (options["trace"] is not None):
        raise UsageError("give a run folder to replay, or --synthetic")
    lengths = {name: options[name] for name in OF_SYNTHETIC if options[name] is not None}
    if options["synthetic"]:
        demo = options["pair"] == DEMO or not any(options[name] for name in PAIR_OPTIONS)
        lengths = (OF_DEMO if demo else OF_SYNTHETIC) | lengths
        trace = synthetic(problems=options["limit"] or PROBLEMS, seed=options["seed"], **lengths)
    elif lengths:
        raise UsageError(f"--{next(iter(lengths)).replace('_', '-')} is for --synthetic: a run has lengths of its own")
    else:
        trace = from_run(options["trace"]).limited(options["limit"])
    if options["acceptance"] is not None:
        return list(_listed("acceptance", options["acceptance"], checked_share)), trace
    if drafting and None in trace.verdicts:
        raise UsageError(f"{trace.origin} has no verdicts: give --acceptance, such as 0.4,0.6,0.8")
    return [None], trace


def _listed(name: str, text: str, read: Callable[[str], T]) -> list[T]:
    """The values of a list in words, each once."""
    try:
        return list(dict.fromkeys(read(word) for word in text.split(",")))
    except ValueError:
        raise UsageError(f"--{name} {text}: must be a number, or several with commas between them") from None


def _variants(
    methods: Sequence[str], trace: "Trace", grid: dict[str, list[Any]], options: dict[str, Any]
) -> "tuple[Variant, ...]":
    """base and small once, specreason at each point of the grid; limits that no trajectory of the trace meets."""
    from sgl_specreason.method.policy import policy_of
    from sgl_specreason.plan.catalog import build_policy
    from sgl_specreason.plan.plan import Variant
    from sgl_specreason.replays.trajectory import ReplayPolicy

    policy = build_policy(
        {
            "judge": options["judge"],
            "eager_regenerate": options["eager_regenerate"],
            "answer_by": options["answer_by"],
            "first_n": trace.first_n,
            "budget_tokens": max(problem.most for problem in trace.problems),
            "step_tokens": max(max(s.draft, s.regenerated) for problem in trace.problems for s in problem.steps),
            "answer_tokens": max(problem.answer for problem in trace.problems),
            "stop_loops": False,
        }
    )
    found = [Variant(method, policy_of(method, policy)) for method in ("base", "small") if method in methods]
    if "specreason" in methods:
        for share, steps in itertools.product(grid["acceptance"], grid["lookahead"]):
            settings = asdict(policy) | {"lookahead": steps}
            found.append(Variant("specreason", ReplayPolicy(**settings, acceptance=share)))
    return tuple(found)


def _described(plan: "ReplayPlan") -> str:
    lines = [f"{key}: {value}" for key, value in plan.trace.statistics().items()]
    lines += [f"{role}: {model}" for role, model in plan.models.items()]
    return "\n".join([*lines, *(f"{spec.role} engine: {spec.shell()}" for spec in plan.specs)])


if __name__ == "__main__":
    main(prog_name="python -m sgl_specreason.replay")
