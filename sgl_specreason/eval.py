"""Owns the command `python -m sgl_specreason.eval`: options in, exit code out. Nothing imports it.

Example: python -m sgl_specreason.eval --bench demo --method specreason --threshold 6
"""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from sgl_specreason import options
from sgl_specreason.command import Command, carry_out, interruptible, say
from sgl_specreason.errors import UsageError
from sgl_specreason.settings import policy, policy_of
from sgl_specreason.speculation import speculation

if TYPE_CHECKING:
    from sgl_specreason.plan.plan import Plan


@click.command(cls=Command)
@click.option("--bench", metavar="NAME|FILE.toml", help="What to run; the only required option.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME",
    help="specreason, base, small, the controls random and always, or base+decode and specreason+decode, with token-level "
    "speculation of base; repeatable. Several run on the same engines, "
    "problem by problem, or one after the other above concurrency 1.  [default: base, small, specreason]",
)
@options.models("; auto picks by the GPUs found and says why.  [default: auto; demo for --bench demo]")
@options.replicas
@options.access
@speculation
@options.preset
@click.option(
    "--sweep",
    metavar="NAME|FILE.toml",
    help="Every point of a grid of settings, one run folder each in a shared one.  [default: none]",
)
@policy
@options.prompts("Templates.  [default: ./prompts, else the checkout's, else the packaged ones]")
@click.option(
    "--data",
    type=options.PATH,
    metavar="FILE.jsonl",
    help="The bench's rows.  [default: $SPECREASON_DATA/<bench>.jsonl, else the bench's source]",
)
@click.option("--samples", type=int, help=f"Attempts per problem.  [{options.OF_BENCH}: demo 1]")
@click.option("--limit", type=int, help="Only the first problems; makes accuracies incomparable.  [default: all]")
@options.seed("sampling, with problem and sample")
@click.option(
    "--concurrency",
    metavar="N|auto",
    help="Trajectories side by side; latencies compare only at the same one. auto: measured on these engines first, as "
    f"many as still add throughput and fit their caches.  [{options.OF_BENCH}: demo 1, others 16]",
)
@options.clients
@options.runs
@click.option(
    "--gpus",
    metavar="COUNTxGB|COUNTxCARD",
    help="With --dry-run only: plan for these cards, as 2x80 or 1xH100.  [default: those of this machine]",
)
@options.dry_run("the plan, the engine commands and the prompts")
@options.verbose
@click.option("--list", "listing", is_flag=True, help="Print benches, pairs, methods, presets and sweeps.")
def main(**given: Any) -> None:
    """Runs a benchmark with SpecReason and its baselines, and prints accuracy beside latency.

    Small drafts each reasoning step, base scores it 0-9 in one prefill, and rewrites what it rejects.
    """
    if given["listing"]:
        click.echo(_listing())
        return
    with interruptible("eval") as interruption:
        if given["resume"]:
            from sgl_specreason import resume

            given = resume.taken_up("eval", given)
            if resume.shown_if_complete(given):
                return
        if not given["bench"]:
            raise UsageError("--bench is missing; --list shows what there is, --bench demo needs no GPU")
        plan = _plan(given)
        if given["dry_run"]:
            click.echo(_described(plan, given), nl=False)
            return
        from sgl_specreason.judging import known
        from sgl_specreason.resume import begun
        from sgl_specreason.run.session import Session

        for words in [] if given["resume"] else _notes(plan):
            say(words)
        carry_out(
            plan,
            Session,
            interruption,
            begun=begun("eval", given, plan),
            out=given["out"],
            resume=given["resume"],
            access=options.access_of(given),
            beside=known.lines,
        )


def _plan(given: dict[str, Any]) -> "Plan":
    """Checks the options. Raises UsageError; starts and writes nothing."""
    from sgl_specreason.plan.options import Options
    from sgl_specreason.plan.resolve import resolve
    from sgl_specreason.results.folder import check_writable

    if given["gpus"] and not given["dry_run"]:
        raise UsageError("--gpus is for --dry-run: engines run on the cards that there are")
    if given["verbose"] and not given["dry_run"]:
        raise UsageError("--verbose is for --dry-run: a run writes every setting to its config.json")
    asked = {field.name: given[field.name] for field in fields(Options) if field.name in given}
    plan = resolve(Options(**asked | policy_of(given)))
    if not given["resume"]:
        check_writable(given["out"])
    return plan


def _described(plan: "Plan", given: dict[str, Any]) -> str:
    """The plan in words; running servers are asked what they serve, as a run would."""
    from sgl_specreason.plan.dry_run import describe
    from sgl_specreason.run import evaluate, serving

    plan, attached = serving.attached(plan, options.access_of(given), say)
    chats = evaluate.checked(plan, attached, say) if attached else None
    folder = given["resume"] or given["out"] / plan.name(plan.variants)
    return describe(plan, folder, chats=chats, verbose=given["verbose"], notes=_notes(plan))


def _notes(plan: "Plan") -> list[str]:
    """What is to be known of a sweep over the threshold before it costs anything."""
    from msgspec import structs

    from sgl_specreason.results.certify import CONFIDENCE, RISK, said_before

    swept = [variant.policy for variant in plan.variants if variant.method == "specreason"]
    rest = [{key: value for key, value in structs.asdict(policy).items() if key != policy.dial} for policy in swept]
    groups = set(map(str, rest)) if plan.sweep else set()
    has_base = any(variant.method == "base" for variant in plan.variants)
    if not has_base or not groups or len(swept) == len(groups):
        return []
    return [said_before(len(plan.problems), risk=RISK, confidence=CONFIDENCE, groups=len(groups))]


def _listing() -> str:
    from sgl_specreason.method.gates import GATES
    from sgl_specreason.method.policy import METHODS
    from sgl_specreason.paths import find
    from sgl_specreason.plan import catalog

    parts: list[tuple[str, list[tuple[str, str]]]] = [
        ("benches", [(name, catalog.load_bench(name).title) for name in catalog.names("benches")]),
        ("pairs", [(name, catalog.load_pair(name).title) for name in catalog.names("pairs")]),
        ("methods", [(str(name), words) for name, words in METHODS.items()]),
        ("gates", [(name, words) for name, words in GATES.items()]),
        ("presets", [(name, catalog.load_preset(name).title) for name in catalog.names("presets")]),
        ("sweeps", [(name, catalog.load_sweep(name).title) for name in catalog.names("sweeps")]),
    ]
    lines = []
    for kind, entries in parts:
        width = max((len(name) for name, _ in entries), default=0)
        lines.append(f"{kind}:")
        lines += [f"  {name.ljust(width)}  {title}" for name, title in entries]
    return "\n".join([*lines, f"read from {find('eval')}"])


if __name__ == "__main__":
    main(prog_name="python -m sgl_specreason.eval")
