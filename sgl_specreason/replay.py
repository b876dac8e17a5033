"""Owns the command `python -m sgl_specreason.replay`: what a pair costs on these engines, from lengths and verdicts alone.

Example: python -m sgl_specreason.replay --synthetic --acceptance 0.4,0.6,0.8 --pair demo --limit 8
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click
from msgspec.structs import asdict

from sgl_specreason import options
from sgl_specreason.command import Command, carry_out, interruptible, say
from sgl_specreason.errors import UsageError
from sgl_specreason.speculation import speculation

if TYPE_CHECKING:
    from sgl_specreason.method.policy import Method
    from sgl_specreason.plan.plan import Plan, Variant
    from sgl_specreason.replays.session import ReplayPlan
    from sgl_specreason.replays.trace import Trace

T = TypeVar("T")
METHODS: "tuple[Method, ...]" = ("base", "small", "specreason", "base+decode", "specreason+decode")
USUAL: "tuple[Method, ...]" = METHODS[:3]
DEMO = "demo"
PROBLEMS = 16
AROUND = {"prompt_tokens": 200, "answer_tokens": 300}
OF_SYNTHETIC: dict[str, int | None] = {"thinking_tokens": 8192, "median_step_tokens": None, **AROUND}
OF_DEMO = OF_SYNTHETIC | {"thinking_tokens": 320, "prompt_tokens": 60, "answer_tokens": 24}
"""Tiny models on a CPU: minutes, not hours."""


def _length(name: str, words: str) -> Callable[[Any], Any]:
    value, demo = OF_SYNTHETIC[name.replace("-", "_")], OF_DEMO[name.replace("-", "_")]
    default = f"{value or 'as published'}" if value == demo else f"{value}; pair demo {demo}"
    also = " or --trace" if name.replace("-", "_") in AROUND else ""
    help_text = f"With --synthetic{also}: {words}.  [default: {default}]"
    return click.option(f"--{name}", type=click.IntRange(1, 1_000_000), metavar="N", help=help_text)


@click.command(cls=Command)
@click.argument("trace", required=False, type=options.PATH, metavar="[RUN]")
@click.option(
    "--trace",
    "published",
    metavar="NAME|FILE.jsonl",
    help="Lengths and verdicts of real runs that somebody published (eval/traces).",
)
@click.option(
    "--synthetic",
    is_flag=True,
    help="A generated trace, of as many problems as you like: steps are drawn from a published one.",
)
@click.option(
    "--acceptance",
    metavar="P[,P...]",
    help="The share of drafts that is kept, 0-1; several make a row each.  [default: the trace's own verdicts]",
)
@_length("thinking-tokens", "longest thought; thoughts are between half of it and this")
@_length("median-step-tokens", "median length of a step")
@_length("prompt-tokens", "length of a prompt")
@_length("answer-tokens", "length of an answer")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help=f"Problems.  [default: {PROBLEMS}, or all of the trace's]"
)
@click.option(
    "--steps", type=click.IntRange(1), metavar="N", help="Of each thought only the first steps.  [default: all]"
)
@click.option(
    "--times",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    metavar="N",
    help="Each problem so often, with prompts of their own: more side by side than a trace has.",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME",
    help="base, small, specreason, base+decode, specreason+decode; repeatable.  [default: the first three]",
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
@options.clients
@options.models(".  [default: demo]")
@speculation
@click.option(
    "--dummy",
    is_flag=True,
    help="Random weights (SGLang's --load-format dummy): models need a config and a tokenizer only.",
)
@options.access
@options.prompts("Templates, of which the judge's are used.")
@options.seed("the trace, the verdicts and the prompts")
@options.runs
@options.dry_run("the trace, the plan and the engine commands")
def main(**given: Any) -> None:
    """Replays trajectories of given lengths and verdicts on real engines: latency, throughput and memory, no answers.

    The trace is that of a RUN folder of eval, a published one, or a generated one. Every request is a real one; the engines
    write as many tokens as the trace says, whatever they are, and drafts are kept as it says.
    """
    with interruptible("replay") as interruption:
        if given["resume"]:
            from sgl_specreason import resume

            given = resume.taken_up("replay", given)
            if resume.shown_if_complete(given):
                return
        from sgl_specreason.replays.session import ReplaySession
        from sgl_specreason.results.folder import check_writable
        from sgl_specreason.resume import begun

        plan = resolved(given)
        if not given["resume"]:
            check_writable(given["out"])
        if given["dry_run"]:
            click.echo(_described(plan, given), nl=False)
            return
        carry_out(
            plan,
            ReplaySession,
            interruption,
            begun=begun("replay", given, plan),
            out=given["out"],
            resume=given["resume"],
            access=options.access_of(given),
        )


def resolved(given: dict[str, Any]) -> "ReplayPlan":
    """Checks the options and reads the trace. Raises UsageError; starts and writes nothing."""
    from sgl_specreason.method.policy import is_alone
    from sgl_specreason.plan.catalog import Sweep
    from sgl_specreason.plan.options import Options
    from sgl_specreason.plan.resolve import resolve
    from sgl_specreason.replays.session import ReplayPlan

    for method in given["methods"]:
        if method not in METHODS:
            raise UsageError(f"--method {method}: a replay has {', '.join(METHODS)}")
    methods = tuple(method for method in METHODS if method in (given["methods"] or USUAL))
    drafting = [method for method in methods if not is_alone(method)]
    shares, trace = _trace(given, drafting=bool(drafting))
    if given["dummy"] and given["base_url"]:
        raise UsageError("--dummy is for engines that are started here, not for --base-url")
    models = {name: given[name] for name in options.MODELS}
    if not any(models.values()):
        models["pair"] = DEMO
    plan = resolve(
        Options(
            bench="demo",  # its problems make room for the trace's
            methods=methods,
            prompts=given["prompts"],
            seed=given["seed"],
            concurrency=given["concurrency"],
            clients=given["clients"],
            policy={},
            **models,
            **{name: given[name] for name in ("decode", "decode_tokens", "decode_model")},
        )
    )
    grid: dict[str, list[Any]] = {"acceptance": shares, "lookahead": _listed("lookahead", given["lookahead"], int)}
    changes: dict[str, Any] = {"variants": _variants(methods, trace, grid, given), "samples": 1}
    if len(shares) * len(grid["lookahead"]) > 1:
        changes["sweep"] = Sweep(name="replay", title="replay", grid=grid, methods=methods)
    if given["dummy"]:
        changes["specs"] = tuple(replace(spec, args=(*spec.args, "--load-format", "dummy")) for spec in plan.specs)
    return ReplayPlan.of(plan, trace, dummy=given["dummy"], **changes)


def _trace(given: dict[str, Any], *, drafting: bool) -> "tuple[list[float | None], Trace]":
    """The shares of drafts to be kept (None: as the trace says), and the trace."""
    from sgl_specreason.plan import traces
    from sgl_specreason.replays.trace import checked_share, from_published, from_run, synthetic

    if [given["synthetic"], given["trace"] is not None, given["published"] is not None].count(True) != 1:
        raise UsageError("give a run folder to replay, or --trace NAME, or --synthetic")
    lengths = {name: given[name] for name in OF_SYNTHETIC if given[name] is not None}
    demo = given["pair"] == DEMO or not any(given[name] for name in options.MODELS)
    usual = OF_DEMO if demo else OF_SYNTHETIC
    _check_lengths(lengths, given)
    if given["synthetic"]:
        trace = synthetic(problems=given["limit"] or PROBLEMS, seed=given["seed"], **usual | lengths)
    elif given["published"] is not None:
        around = {name: usual[name] for name in AROUND} | lengths
        trace = from_published(traces.load(given["published"]), **around).limited(given["limit"])
    else:
        trace = from_run(given["trace"]).limited(given["limit"])
    trace = trace.shortened(given["steps"]).repeated(given["times"])
    if given["acceptance"] is not None:
        return list(_listed("acceptance", given["acceptance"], checked_share)), trace
    if drafting and None in trace.verdicts:
        raise UsageError(f"{trace.origin} has no verdicts: give --acceptance, such as 0.4,0.6,0.8")
    return [None], trace


def _check_lengths(lengths: dict[str, int], given: dict[str, Any]) -> None:
    """Raises UsageError where a length is given that the trace has itself."""
    own = [] if given["synthetic"] else [name for name in lengths if given["published"] is None or name not in AROUND]
    if own:
        where = "a run" if given["published"] is None else "a published trace"
        raise UsageError(f"--{own[0].replace('_', '-')} is for --synthetic: {where} has lengths of its own")


def _listed(name: str, text: str, read: Callable[[str], T]) -> list[T]:
    """The values of a list in words, each once."""
    try:
        return list(dict.fromkeys(read(word) for word in text.split(",")))
    except ValueError:
        raise UsageError(f"--{name} {text}: must be a number, or several with commas between them") from None


def _variants(
    methods: "Sequence[Method]", trace: "Trace", grid: dict[str, list[Any]], given: dict[str, Any]
) -> "tuple[Variant, ...]":
    """Methods of one model once, others at each point of the grid; limits that no trajectory of the trace meets."""
    from sgl_specreason.method.policy import is_alone, policy_of
    from sgl_specreason.plan.catalog import build_policy
    from sgl_specreason.plan.plan import Variant
    from sgl_specreason.replays.trajectory import ReplayPolicy

    policy = build_policy(
        {
            "judge": given["judge"],
            "eager_regenerate": given["eager_regenerate"],
            "answer_by": given["answer_by"],
            "first_n": trace.first_n,
            "budget_tokens": max(problem.most for problem in trace.problems),
            "step_tokens": max(max(s.draft, s.regenerated) for problem in trace.problems for s in problem.steps),
            "answer_tokens": max(problem.answer for problem in trace.problems),
            "stop_loops": False,
        }
    )
    found = [Variant(method, policy_of(method, policy)) for method in methods if is_alone(method)]
    for method in (method for method in methods if not is_alone(method)):
        for share, steps in itertools.product(grid["acceptance"], grid["lookahead"]):
            settings = asdict(policy) | {"lookahead": steps}
            found.append(Variant(method, ReplayPolicy(**settings, acceptance=share)))
    return tuple(found)


def _described(plan: "Plan", given: dict[str, Any]) -> str:
    """The plan for a person to read. Loads tokenizers only; raises UsageError as the replay would."""
    from sgl_specreason.plan import dry_run
    from sgl_specreason.replays.session import ReplayPlan, ReplaySession
    from sgl_specreason.run import evaluate, serving

    plan, attached = serving.attached(plan, options.access_of(given), say)
    evaluate.checked(plan, attached, say, ReplaySession)
    assert isinstance(plan, ReplayPlan)
    lines = [f"{key}: {value}" for key, value in plan.trace.statistics().items()]
    lines += [f"{role}: {model}" for role, model in plan.models.items() if model]
    lines.append(f"folder: {given['out'] / plan.name(plan.variants)}")
    return "\n".join([dry_run.section("replay", "\n".join(lines)), *dry_run.memory(plan), dry_run.engines(plan)])


if __name__ == "__main__":
    main(prog_name="python -m sgl_specreason.replay")
