"""Owns the check of a GPU: everything that this project says of one, measured in one go, as a table and as JSON.

Example: python tools/gpu.py --dummy --base-model models/qwen2.5-14b --small-model models/r1-1.5b

Starts small once and base once for each way to serve it, asks what a judgement costs, and replays trajectories. The same
command goes on where it was interrupted: what is done is not done again. Runs from its checkout where nothing is installed.
"""

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

import in_place  # noqa: F401
from gpu_check import Check
from gpu_engines import Pair, planned
from gpu_folder import Folder, Result
from gpu_plan import FULL, REHEARSAL, Cell, Scale, cells, fitted
from options import Parser, at_least

from sgl_specreason.engines import cards
from sgl_specreason.errors import SpecReasonError, UsageError
from sgl_specreason.plan.plan import Plan
from sgl_specreason.plan.versions import commit
from sgl_specreason.results.folder import check_writable, differences, held
from sgl_specreason.text.steps import Author
from sgl_specreason.words import counted

MINUTES, REHEARSAL_MINUTES = 25.0, 10.0
MODELS = ("pair", "base_model", "small_model")


def main() -> int:
    parser = _parser()
    given = parser.parse_args()
    before = signal.signal(signal.SIGTERM, _interrupted)
    try:
        return _main(given)
    except UsageError as error:
        parser.error(str(error))
    except SpecReasonError as error:  # the disk is full
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; what is done is in {given.out}; go on with\n  {_again()}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", metavar="NAME|FILE.toml", help="[default: the largest one that fits the cards]")
    parser.add_argument(
        "--base-model", metavar="MODEL", help="a folder or hub id, with --small-model, in place of --pair"
    )
    parser.add_argument("--small-model", metavar="MODEL")
    parser.add_argument(
        "--dummy",
        action=argparse.BooleanOptionalAction,
        help="random weights: configs and tokenizers are enough  [default: where not all weights are on this machine]",
    )
    words = "SGLang's own arguments, in quotes and with =, as --engine-args='--attention-backend triton'; they win"
    parser.add_argument(
        "--engine-args", type=shlex.split, default=[], metavar="ARGS", help=f"for both engines: {words}"
    )
    parser.add_argument("--base-args", type=shlex.split, default=[], metavar="ARGS", help="for base only, after those")
    parser.add_argument(
        "--small-args", type=shlex.split, default=[], metavar="ARGS", help="for small only, after those"
    )
    parser.add_argument(
        "--minutes",
        type=at_least(0.1, float),
        help=f"when to stop; the most important comes first  [default: {MINUTES:g}, rehearsal {REHEARSAL_MINUTES:g}]",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="[default: runs/gpu]")
    parser.add_argument(
        "--again", action="append", default=[], metavar="CELL", help="make this one anew, and no other; repeatable"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the traces  [default: 0]")
    parser.add_argument(
        "--rehearse", action="store_true", help="every step in small, on the bundled pair; needs no GPU, 5 minutes"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the cells, what they take, and the engines; start nothing"
    )
    parser.add_argument("--gpus", metavar="COUNTxCARD", help="with --dry-run: plan for these, as 1xH100")
    return parser


def _main(given: argparse.Namespace) -> int:
    begin = time.monotonic()
    pair = _pair(given)
    minutes = given.minutes or (REHEARSAL_MINUTES if given.rehearse else MINUTES)
    check_writable(given.out)
    folder = Folder(path=given.out)
    settings = _settings(given, pair)
    scale = _scale(given, pair, folder, settings, minutes)
    settings |= {"scale": asdict(scale)}
    every = cells(scale, pair.rates())
    _check_names(given.again, [cell.name for cell in every])
    if not given.gpus:
        folder.check(settings)
    if given.dry_run:
        print(_described(pair, every, folder, given.again, minutes))
        return 0

    def say(line: str) -> None:
        print(f"[{time.monotonic() - begin:4.0f} s] {line}", file=sys.stderr, flush=True)

    _make(given.out)
    with held(given.out):
        folder.begin(settings, _conditions(pair.plan))
        pending = _pending(folder, every, given.again)
        for name in given.again:
            folder.forget(name)
        say(f"{len(pending)} of {len(every)} cells, at most {minutes:g} minutes; report: {given.out / 'gpu.md'}")
        end, words = begin + 60 * minutes, _words(given, pair.plan)
        Check(pair=pair, cells=every, folder=folder, models=words, seed=given.seed, end=end, say=say).run(pending)
        print(folder.report(every))
    return _last_words(given.out, [result for cell in every if (result := folder.result(cell.name))])


def _check_names(again: Sequence[str], known: Sequence[str]) -> None:
    for name in again:
        if name not in known:
            raise UsageError(f"--again {name}: no cell of that name; there are {', '.join(known)}")


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be made: {error.strerror}") from None


def _last_words(out: Path, results: Sequence[Result]) -> int:
    """The exit code: 1 where nothing at all was measured. What failed has its reason in the report."""
    if lacking := [result for result in results if result.state != "done"]:
        words = counted(len(lacking), "cell")
        print(f"not whole, for the reasons in the report: {words}; this tries again:\n  {_again()}", file=sys.stderr)
    print(f"Report: {out / 'gpu.md'}, {out / 'gpu.json'}")
    return int(not any(result.figures.get("finished") for result in results))


def _pair(given: argparse.Namespace) -> Pair:
    """The pair and its engines. Raises UsageError for options that do not go together, and where there is no GPU."""
    models = {name: getattr(given, name) for name in MODELS}
    if given.gpus and not given.dry_run:
        raise UsageError("--gpus is for --dry-run: engines run on the cards that there are")
    if given.rehearse:
        if any(models.values()) or given.gpus:
            raise UsageError("--rehearse has a pair of its own, for any machine: give no models and no --gpus")
        models["pair"] = "demo"
    elif not given.gpus and not cards.found():
        raise UsageError("no GPU was found; --rehearse tries every step here, on the bundled pair")
    return planned(models | {"gpus": given.gpus}, _args(given), dummy=given.dummy, seed=given.seed)


def _args(given: argparse.Namespace) -> dict[Author, list[str]]:
    """SGLang's own arguments for each engine."""
    return {"base": [*given.engine_args, *given.base_args], "small": [*given.engine_args, *given.small_args]}


def _settings(given: argparse.Namespace, pair: Pair) -> dict[str, Any]:
    """What the figures depend on and going on must not change."""
    about = pair.plan.conditions()
    return {
        "pair": pair.plan.pair,
        "models": about["models"],
        "cards": pair.plan.hardware,
        "versions": about["versions"],
        "dummy": pair.dummy,
        "args": _args(given),
        "seed": given.seed,
        "rehearsal": given.rehearse,
    }


def _scale(given: argparse.Namespace, pair: Pair, folder: Folder, settings: Mapping[str, Any], minutes: float) -> Scale:
    """That of the check to go on with, else the largest that is thought to fit into the time."""
    known = folder.settings()
    if known and not differences({key: known.get(key) for key in settings}, dict(settings)):
        return Scale.recorded(known["scale"])
    return REHEARSAL if given.rehearse else fitted(FULL, pair.rates(), pair.bases, 60 * minutes)


def _conditions(plan: Plan) -> dict[str, Any]:
    """What is known of the last sitting, and changes nothing."""
    prompts = plan.conditions()["prompts"]
    return {"driver": cards.driver(), "prompts": prompts, "commit": commit(), "day": date.today().isoformat()}


def _words(given: argparse.Namespace, plan: Plan) -> list[str]:
    """What names the pair to a replay."""
    if given.base_model:
        return ["--base-model", given.base_model, "--small-model", given.small_model]
    return ["--pair", given.pair or plan.pair]


def _pending(folder: Folder, every: Sequence[Cell], again: Sequence[str]) -> list[Cell]:
    """What is to be made anew, or else all that is not done."""
    if again:
        return [cell for cell in every if cell.name in again]
    return [cell for cell in every if (found := folder.result(cell.name)) is None or found.state != "done"]


def _described(pair: Pair, every: Sequence[Cell], folder: Folder, again: Sequence[str], minutes: float) -> str:
    """The plan for a person to read."""
    pending = _pending(folder, every, again)
    lines, total = [f"pair {pair.plan.pair} on {pair.plan.hardware}{', random weights' if pair.dummy else ''}"], 0.0
    lines += [f"{role}: {model}" for role, model in pair.plan.models.items()]
    for cell in every:
        refused = pair.refused.get(cell.serving)
        doing = refused or ("" if cell in pending else "done")
        total += 0 if doing else cell.seconds
        lines.append(f"{cell.name:26} {doing or f'{cell.seconds / 60:5.1f} min':10} {' '.join(cell.words)}".rstrip())
    lines.append(
        f"estimated: {total / 60:.0f} of {minutes:g} minutes; what there is no time for is skipped, the last first"
    )
    lines += [pair.spec(serving).shell() for serving in ("small", *pair.bases)]
    return "\n".join(lines)


def _again() -> str:
    """The same command, for all that is not done: what was to be made anew is not done, either."""
    words, kept = iter(sys.argv), []
    for word in words:
        if word == "--again":
            next(words)
        elif not word.startswith("--again="):
            kept.append(word)
    return shlex.join([sys.executable, *kept])


def _interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
