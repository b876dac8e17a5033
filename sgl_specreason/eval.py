"""Owns the command `python -m sgl_specreason.eval`: options in, exit code out. Nothing imports it.

Example: python -m sgl_specreason.eval --bench demo --method specreason --threshold 6
"""

import os
from pathlib import Path
from typing import Any

import click

from sgl_specreason.command import Command, fail
from sgl_specreason.errors import Interrupted, UsageError
from sgl_specreason.run.interruption import Interruption

POLICY_OPTIONS = (
    "gate", "gate_p", "judge", "judge_record", "threshold", "score_rule", "drafts", "lookahead", "eager_regenerate",
    "salvage", "salvage_floor", "first_n", "budget_tokens", "on_budget", "step_tokens", "min_step_tokens",
    "stop_loops", "answer_tokens", "answer_by", "temperature", "top_p",
)  # fmt: skip
PLAN_OPTIONS = (
    "methods", "pair", "base_model", "small_model", "base_url", "small_url",
    "base_replicas", "small_replicas", "gpus", "preset", "sweep",
    "prompts", "data", "samples", "limit", "seed", "concurrency",
    "decode", "decode_tokens", "decode_model",
)  # fmt: skip
OF_PRESET = "default: the preset's"
OF_BENCH = "default: the bench's"


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--bench", metavar="NAME|FILE.toml", help="What to run; the only required option.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME",
    help="specreason, base, small, or the controls random and always; repeatable. Several run on the same engines, "
    "problem by problem, or one after the other above concurrency 1.  [default: base, small, specreason]",
)
@click.option(
    "--pair",
    metavar="NAME|FILE.toml",
    help="Base and small model; auto picks by the GPUs found and says why.  [default: auto; demo for --bench demo]",
)
@click.option("--base-model", metavar="MODEL", help="A folder or hub id, with --small-model, in place of --pair.")
@click.option("--small-model", metavar="MODEL", help="A folder or hub id, with --base-model.")
@click.option(
    "--base-url", metavar="URL", help="A running SGLang server or router for base, with --small-url; starts nothing."
)
@click.option("--small-url", metavar="URL", help="A running SGLang server or router for small, with --base-url.")
@click.option(
    "--base-replicas",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Start base so many times behind SGLang's router, each on cards of its own (docs/cluster.md).",
)
@click.option("--small-replicas", type=int, default=1, show_default=True, metavar="N", help="The same for small.")
@click.option(
    "--api-key",
    envvar="SPECREASON_API_KEY",
    metavar="KEY",
    help="For the running servers, or for those that are started. On a command line it stands in every listing of processes: "
    "use the variable.  [default: $SPECREASON_API_KEY, else none, and a random one for those that are started]",
)
@click.option(
    "--request-timeout",
    type=click.FloatRange(0.1, 86400),
    default=1800,
    show_default=True,
    metavar="SECONDS",
    help="A request without an answer after this is tried once more, then its trajectory fails.",
)
@click.option(
    "--retry-for",
    type=click.FloatRange(0, 86400),
    default=120,
    show_default=True,
    metavar="SECONDS",
    help="How long a running server that cannot be reached is waited for before the run ends.",
)
@click.option(
    "--decode",
    metavar="ALGORITHM",
    help="How base speculates for methods with +decode: standalone (small drafts its tokens; one vocabulary only), ngram, or "
    "eagle3 (a head, --decode-model).  [default: standalone]",
)
@click.option("--decode-tokens", type=int, help="Tokens that it guesses at a time.  [default: 5]")
@click.option("--decode-model", metavar="MODEL", help="The head of eagle3, or another draft model than small.")
@click.option(
    "--preset",
    default="default",
    show_default=True,
    metavar="NAME|FILE.toml",
    help="Named settings of the method; the bench's budget and sampling come before it, options before both.",
)
@click.option(
    "--sweep",
    metavar="NAME|FILE.toml",
    help="Every point of a grid of settings, one run folder each in a shared one.  [default: none]",
)
@click.option(
    "--gate",
    metavar="GATE",
    help="What decides about a draft: judge, always, never, random (with probability --gate-p), or confident (kept "
    f"unasked where small's mean token probability is above --gate-p, else the judge decides).  [{OF_PRESET}, judge]",
)
@click.option("--gate-p", type=float, help="The probability of --gate random and confident, 0-1.  [default: none]")
@click.option(
    "--match-acceptance",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="As --gate-p, the share of drafts that this run of specreason kept.  [default: none]",
)
@click.option(
    "--judge",
    metavar="JUDGE",
    help="What base is asked: score (a digit), binary (yes or no), likelihood (of the draft's tokens, no judge turn), or "
    f"score+likelihood (both in one request, the first decides).  [{OF_PRESET}, score]",
)
@click.option(
    "--judge-record/--no-judge-record",
    default=None,
    help="Ask base also where the gate does not use it, for the record.  [default: --judge-record]",
)
@click.option(
    "--threshold",
    type=float,
    help="Keep a draft with at least this: 0-9 for digits, 0-1 for p_yes, a log-probability for min and mean.  "
    f"[{OF_PRESET}: 7, 7, 7; 0.5; -7, -1]",
)
@click.option(
    "--score-rule",
    metavar="RULE",
    help="greedy (likeliest digit), expected (mean digit), p_ge (a digit at or above the threshold has probability 0.5), "
    "p_yes, min or mean (of the tokens' log-probabilities). Thresholds do not carry over between rules.  "
    f"[{OF_PRESET}: the judge's first]",
)
@click.option("--drafts", type=int, help=f"Drafts per step; the one judged best counts.  [{OF_PRESET}, 1]")
@click.option(
    "--lookahead",
    type=int,
    help=f"Steps that small drafts on while base judges one; 0: it waits. Not with several drafts.  [{OF_PRESET}, 1; paper: 0]",
)
@click.option(
    "--eager-regenerate/--no-eager-regenerate",
    default=None,
    help="While fewer than half of the last drafts were kept, base begins its own step beside judging.  "
    f"[{OF_PRESET}: no]",
)
@click.option(
    "--salvage/--no-salvage",
    default=None,
    help=f"Of a rejected draft, keep what stands before the first token that base finds unlikely.  [{OF_PRESET}: no]",
)
@click.option("--salvage-floor", type=float, help="The log-probability under which a token is unlikely.  [default: -7]")
@click.option("--first-n", type=int, help=f"Steps that base writes before small may draft.  [{OF_PRESET}, 0]")
@click.option(
    "--budget-tokens",
    type=int,
    help="Thinking tokens kept, at most. Accuracies at different budgets do not compare.  "
    f"[{OF_BENCH}: demo 512, others 8192]",
)
@click.option(
    "--on-budget",
    metavar="answer|stop",
    help=f"At the budget, close the thought and answer, or stop.  [{OF_PRESET}: answer; paper: stop]",
)
@click.option("--step-tokens", type=int, help=f"Longest step.  [{OF_PRESET}, 512; demo 64]")
@click.option(
    "--min-step-tokens", type=int, help=f"Shorter steps are joined before judging.  [{OF_PRESET}, 8; paper: 0]"
)
@click.option(
    "--stop-loops/--no-stop-loops",
    default=None,
    help=f"End a thought that repeats the same steps word for word, as at the budget.  [{OF_PRESET}: yes; paper: no]",
)
@click.option("--answer-tokens", type=int, help="Longest answer after the thought.  [default: 1024; demo 64]")
@click.option("--answer-by", metavar="base|small", help="Who writes SpecReason's answer.  [default: base]")
@click.option("--temperature", type=float, help=f"0 is greedy.  [{OF_BENCH}: demo 0, others 0.6]")
@click.option("--top-p", type=float, help=f"[{OF_BENCH}: demo 1, others 0.95]")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Templates.  [default: ./prompts, else the checkout's, else the packaged ones]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="The bench's rows.  [default: $SPECREASON_DATA/<bench>.jsonl, else the bench's source]",
)
@click.option("--samples", type=int, help=f"Attempts per problem.  [{OF_BENCH}: demo 1]")
@click.option("--limit", type=int, help="Only the first problems; makes accuracies incomparable.  [default: all]")
@click.option("--seed", type=int, default=0, show_default=True, help="Seeds sampling, with problem and sample.")
@click.option(
    "--concurrency",
    metavar="N|auto",
    help="Trajectories side by side; latencies compare only at the same one. auto: measured on these engines first, as "
    f"many as still add throughput and fit their caches.  [{OF_BENCH}: demo 1, others 16]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    metavar="DIR",
    help="Where the run folder is made.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Go on with this run folder, with the same options.  [default: a new run]",
)
@click.option(
    "--gpus",
    metavar="COUNTxGB",
    help="With --dry-run only: plan for these cards, as 2x80 or 1xH100-80.  [default: those of this machine]",
)
@click.option("--dry-run", is_flag=True, help="Print settings, prompts and engine commands; start and write nothing.")
@click.option("--list", "listing", is_flag=True, help="Print benches, pairs, methods, presets and sweeps.")
def main(**options: Any) -> None:  # fmt: skip
    """Runs a benchmark with SpecReason and its baselines, and prints accuracy beside latency.

    Small drafts each reasoning step, base scores it 0-9 in one prefill, and rewrites what it rejects.
    """
    interruption = Interruption()
    try:
        if options["listing"]:
            click.echo(_listing())
        elif not options["bench"]:
            raise UsageError("--bench is missing; --list shows what there is")
        else:
            with interruption.handled():
                _evaluate(options, interruption)
    except Interrupted as error:
        fail(
            f"interrupted; finished trajectories are in {error.folder}; go on with --resume {error.folder}", error.code
        )
    except KeyboardInterrupt:
        fail("interrupted before the run began", interruption.code)


def _evaluate(options: dict[str, Any], interruption: Interruption) -> None:
    from sgl_specreason.plan.options import Options
    from sgl_specreason.plan.resolve import resolve
    from sgl_specreason.results import records
    from sgl_specreason.results.summary import acceptance

    if options["gpus"] and not options["dry_run"]:
        raise UsageError("--gpus is for --dry-run: engines run on the cards that there are")
    out: Path = options["out"]
    matched = options["match_acceptance"]
    plan = resolve(
        Options(
            bench=options["bench"],
            policy={name: options[name] for name in POLICY_OPTIONS},
            match_acceptance=None if matched is None else acceptance(matched),
            **{name: options[name] for name in PLAN_OPTIONS},
        )
    )
    records.check_writable(out)
    if options["dry_run"]:
        from sgl_specreason.plan.dry_run import describe

        click.echo(describe(plan, out))
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from sgl_specreason.results.summaries import written
    from sgl_specreason.results.table import comparison
    from sgl_specreason.run import evaluate

    urls = (options["small_url"], options["base_url"]) if options["base_url"] else None
    access = evaluate.Access(
        urls=urls,
        api_key=options["api_key"],
        request_timeout_s=options["request_timeout"],
        patience_s=options["retry_for"],
    )
    folder = evaluate.run(
        plan,
        out=out,
        resume=options["resume"],
        access=access,
        interruption=interruption,
        say=lambda line: click.echo(line, err=True),
    )
    runs = written(folder)
    click.echo(comparison(runs).text())
    click.echo(f"Run folder: {folder}")
    if failed := sum(run.summary["failed"] for run in runs):
        fail(f"{failed} trajectories failed; --resume {folder} runs them again", 1)


def _listing() -> str:
    from sgl_specreason.method.policy import METHODS
    from sgl_specreason.paths import find
    from sgl_specreason.plan import catalog

    parts: list[tuple[str, list[tuple[str, str]]]] = [
        ("benches", [(name, catalog.load_bench(name).title) for name in catalog.names("benches")]),
        ("pairs", [(name, catalog.load_pair(name).title) for name in catalog.names("pairs")]),
        ("methods", [(str(name), words) for name, words in METHODS.items()]),
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
