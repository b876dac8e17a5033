"""Owns the command `python -m sgl_specreason.judge`: what a judge is worth on labelled steps, before a run of days.

Example: python -m sgl_specreason.judge --bench processbench-gsm8k --data processbench-gsm8k.jsonl --pair demo --limit 20
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sgl_specreason import options
from sgl_specreason.command import Command, fail, interruptible, say
from sgl_specreason.errors import UsageError
from sgl_specreason.words import counted

if TYPE_CHECKING:
    from sgl_specreason.judging.measurement import Measurement
    from sgl_specreason.results.origin import Origin
    from sgl_specreason.run.serving import Access

MOST_WORKERS = 4096


@click.command(cls=Command)
@click.option("--bench", metavar="NAME|FILE.toml", help="Labelled steps; the only required option.")
@click.option(
    "--judge",
    "judges",
    multiple=True,
    metavar="NAME",
    help="score (base's digit), binary, likelihood, self (small's own digit), or decisions (SGLang's /v1/decisions); "
    "repeatable, all on the same steps.  [default: score, binary, likelihood]",
)
@click.option(
    "--prompts",
    "folders",
    multiple=True,
    type=options.PATH,
    metavar="DIR",
    help="Templates; repeatable, to compare them on the same steps.  [default: ./prompts, else the checkout's, else the "
    "packaged ones]",
)
@click.option(
    "--threshold",
    "words",
    multiple=True,
    metavar="RULE=NUMBER",
    help="What is told of a threshold is told of this one, as expected=6; repeatable.  [default: 7 of digits, p_yes=0.5, "
    "min=-7, mean=-1]",
)
@options.models("; base is enough, but for self.  [default: auto; demo for --bench demo]")
@options.reach(120)
@click.option(
    "--data",
    type=options.PATH,
    metavar="FILE.jsonl",
    help="The bench's rows.  [default: $SPECREASON_DATA/<bench>.jsonl, else the bench's source]",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Only so many problems, evenly spread over the rows.  [default: all]",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, MOST_WORKERS),
    metavar="N",
    help="Problems side by side.  [default: the bench's: demo 1, others 16]",
)
@options.runs
@click.option("--dry-run", is_flag=True, help="Print what would be asked, and of whom; start and write nothing.")
@click.option("--show", type=options.PATH, metavar="RUN", help="Print a measurement again, without engines.")
@click.option("--list", "listing", is_flag=True, help="Print benches and judges.")
def main(**given: Any) -> None:
    """Says what a judge is worth: on steps that people have labelled, by prefill alone; nothing is generated.

    Prints how well right steps are told from wrong ones, what each threshold keeps, and what a judgement costs.
    """
    if given["listing"]:
        click.echo(_listing())
        return
    if given["show"] is not None:
        _shown(given["show"])
        return
    with interruptible("judge") as interruption:
        if given["resume"]:
            from sgl_specreason import resume

            given = resume.taken_up("judge", given)
        if not given["bench"]:
            raise UsageError("--bench is missing; --list shows what there is")
        from sgl_specreason.judging import measure
        from sgl_specreason.judging.folder import STEPS
        from sgl_specreason.pasted import command
        from sgl_specreason.results.folder import check_writable

        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        measurement, access = resolved(given)
        if not given["resume"]:
            check_writable(given["out"])
        if given["dry_run"]:
            click.echo(_described(measurement, access), nl=False)
            return
        folder, failed = measure.run(
            measurement,
            begun=_begun(given, measurement),
            out=given["out"],
            resume=given["resume"],
            access=access,
            interruption=interruption,
            say=say,
        )
        if not failed or (folder / STEPS).exists():
            _shown(folder)
        if failed:
            again = command("judge", "--resume", folder)
            fail(
                f"{counted(failed, 'problem')} failed; this goes on with {'it' if failed == 1 else 'them'}:\n  {again}",
                1,
            )


def resolved(given: dict[str, Any]) -> "tuple[Measurement, Access]":
    """Checks the options and reads every file that they name. Raises UsageError; starts and writes nothing."""
    from sgl_specreason.judging import asking, benches
    from sgl_specreason.judging.measurement import Measurement
    from sgl_specreason.plan.options import Options
    from sgl_specreason.plan.resolve import resolve
    from sgl_specreason.text.prompts import load_prompts

    bench = benches.load(given["bench"])
    folders = given["folders"] or (None,)
    sets = _named([load_prompts(folder) for folder in folders])
    askings = asking.askings(given["judges"], sets)
    needs_small = any(one.engine == "small" for one in askings)
    models = {name: given[name] for name in options.MODELS}
    if not any(models.values()) and bench.source.generator:
        models["pair"] = "demo"
    for base, small in (("base_model", "small_model"), ("base_url", "small_url")):
        if models[base] and not models[small] and not needs_small:  # nobody asks it anything
            models[small] = models[base]
    access = options.access_of(given | models)
    plan = resolve(Options(prompts=folders[0], methods=("specreason",), policy={}, **models))
    measurement = Measurement(
        plan=replace(plan, prompts=sets[0][1]),
        bench=bench,
        rows=benches.rows(bench, given["data"]),
        askings=askings,
        thresholds={str(rule): value for rule, value in asking.thresholds(given["words"]).items()},
        limit=given["limit"],
        concurrency=given["concurrency"] or bench.concurrency,
    )
    return measurement, access


def _begun(given: dict[str, Any], measurement: "Measurement") -> "Origin":
    """What the folder says of the command that begins it: options that are not at their defaults, files by whole paths."""
    from sgl_specreason.results.origin import Origin
    from sgl_specreason.resume import NOT_KEPT, as_anywhere

    context = click.get_current_context()
    found: dict[str, Any] = {}
    for param in context.command.params:
        name, value = str(param.name), given.get(str(param.name))
        if name not in NOT_KEPT and value not in (None, ()) and value != param.get_default(context):
            found[name] = list(value) if isinstance(value, tuple) else as_anywhere(name, value)
    bench = given["bench"]
    found["bench"] = os.path.abspath(bench) if bench.endswith(".toml") else bench
    folders = dict.fromkeys(os.path.abspath(asking.prompts.folder) for asking in measurement.askings)
    found["folders"] = list(folders)
    if os.path.isfile(measurement.rows.origin):
        found["data"] = os.path.abspath(measurement.rows.origin)
    if not any(given[name] for name in options.MODELS):
        found["pair"] = measurement.plan.pair
    return Origin(command="judge", options=found)


def _named(sets: list[Any]) -> list[tuple[str, Any]]:
    """Each set of templates with the name of its folder, or the whole path where several have the same."""
    short = [Path(one.folder).resolve().name for one in sets]
    names = [name if short.count(name) == 1 else str(one.folder) for name, one in zip(short, sets, strict=True)]
    if len(set(names)) < len(names):
        raise UsageError("--prompts: the same folder is given twice")
    return list(zip(names, sets, strict=True))


def _shown(folder: Path) -> None:
    """Writes a measurement's summary, its table and its page, and prints the table."""
    from sgl_specreason.judging import page, tables

    found, numbers = tables.written(folder)
    page.write(found, numbers)
    click.echo(tables.text(found, numbers))
    click.echo(f"Run folder: {folder} (summary.md, summary.json, judge.html)")


def _described(measurement: "Measurement", access: "Access") -> str:
    from sgl_specreason.judging.measurement import attached, checked

    measurement, _ = attached(measurement, access)
    checked(measurement)
    problems = measurement.problems
    steps = sum(len(problem.steps) for problem in problems)
    lines = [
        f"bench: {measurement.bench.name} ({measurement.bench.title})",
        f"rows: {measurement.rows.origin}, sha256 {measurement.rows.sha256[:12]}",
        f"problems: {len(problems)}, of {steps} labelled steps, {sum(p.right.count(False) for p in problems)} of them wrong",
        f"requests: {steps * len(measurement.askings)}, of one prefill each; {measurement.concurrency} problems side by side",
    ]
    lines += [f"judge: {one.name} on {one.engine}, templates {one.prompts.folder}" for one in measurement.askings]
    lines += [f"{role}: {measurement.plan.models[role]}" for role in measurement.roles]
    return "\n".join(lines) + "\n"


def _listing() -> str:
    from sgl_specreason.judging import asking, benches
    from sgl_specreason.paths import find

    parts = {
        "benches": {name: benches.load(name).title for name in benches.names()},
        "judges": {str(name): words for name, words in asking.JUDGINGS.items()},
    }
    lines = []
    for kind, entries in parts.items():
        width = max(map(len, entries), default=0)
        lines += [f"{kind}:", *(f"  {name.ljust(width)}  {words}" for name, words in entries.items())]
    return "\n".join([*lines, f"read from {find('eval/judge')}"])


if __name__ == "__main__":
    main(prog_name="python -m sgl_specreason.judge")
