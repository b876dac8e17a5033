"""Owns the comparison of the gates: the judge and those that skip it, each beside a coin that keeps as many drafts.

Example: python tools/gates.py --out runs/gates -o gates.md --coins-at-once 8 -- --bench demo

Two sweeps of `eval`, with whatever stands after `--` for it: the gates (eval/sweeps/gates.toml, or --sweep), and the coins, with
the probabilities that the gates' acceptances ask for. What has ended there already is not run again. Prints a Markdown table.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from options import Parser, at_least

from sgl_specreason.errors import SpecReasonError
from sgl_specreason.results.conditions import notes
from sgl_specreason.results.estimates import difference, estimate, number, percent, ratio
from sgl_specreason.results.labels import names
from sgl_specreason.results.layout import Table
from sgl_specreason.results.numbers import by_problem
from sgl_specreason.results.schema import Summary
from sgl_specreason.results.stats import paired
from sgl_specreason.results.summary import Run, against_base, load_runs

TITLES = (
    "gate", "accuracy % (95 %)", "vs base (95 %)", "speed-up (95 %)", "kept %", "judge requests", "saved %",
    "judge against kept %", "judge against refused %", "its coin's accuracy %", "gate - coin (95 %)",
)  # fmt: skip


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gates"), help="folder of the two sweeps (runs/gates)")
    parser.add_argument("--sweep", default="gates", help="name or file of the sweep of gates (gates)")
    parser.add_argument(
        "--coins-at-once",
        type=at_least(1),
        metavar="N",
        help="coins side by side, whose seconds do not count (as the gates)",
    )
    parser.add_argument("-o", dest="file", type=Path, help="write the table there, too")
    parser.add_argument("eval", nargs="*", metavar="-- EVAL_OPTION", help="options of eval, after --")
    options = parser.parse_args()
    try:
        gates = swept(options.out / "gates", options.sweep, options.eval)
        words = [*options.eval, "--concurrency", str(options.coins_at_once)] if options.coins_at_once else options.eval
        text = table(gates, swept(options.out / "coins", coins(gates, options.out), words))
    except (SpecReasonError, OSError) as error:
        parser.error(str(error))
    print(text, end="")
    if options.file:
        options.file.write_text(text, encoding="utf-8")
    return 0


def swept(folder: Path, sweep: str, words: Sequence[str]) -> list[Run]:
    """The runs of a sweep in `folder`: begun, gone on with, or there already."""
    tops = [path.parent for path in folder.glob("*/command.json")]
    how = ["--resume", str(tops[0])] if tops else ["--sweep", sweep, "--out", str(folder), *words]
    done = subprocess.run([sys.executable, "-m", "sgl_specreason", "eval", *how], stdout=sys.stderr, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return load_runs(next(path.parent for path in folder.glob("*/command.json")))


def coins(gates: Sequence[Run], folder: Path) -> str:
    """The file of a sweep over the coins that keep as many drafts as the gates do."""
    shares = sorted({coin_of(run.summary) for run in gates if run.method != "base"})
    file = folder / "coins.toml"
    file.write_text(f'title = "coins beside gates"\nmethods = ["random"]\n[grid]\ngate_p = {shares}\n')
    return str(file)


def coin_of(summary: Summary) -> float:
    """The probability of the coin that keeps as many drafts."""
    return round(summary.acceptance, 4)


def table(gates: Sequence[Run], coins: Sequence[Run]) -> str:
    """Each gate with what it costs, saves and gets wrong by the judge, and beside its coin on the same problems."""
    beside = against_base(gates)
    coin = {run.settings.policy["gate_p"]: run for run in coins if run.method == "random"}
    judge = next(
        (run.summary for run in gates if run.settings.policy.get("gate") == "judge" and run.method != "base"), None
    )
    rows = [list(TITLES)]
    for name, run, pairing in zip(names(gates), gates, beside, strict=True):
        summary = run.summary
        accuracy = estimate(summary.accuracy, summary.accuracy_ci95, ".1f", 100)
        if pairing is None or pairing.accuracy is None:
            rows.append([name, accuracy, *["-"] * (len(TITLES) - 2)])
            continue
        other = coin[coin_of(summary)]
        against = paired(by_problem(run.outcomes), by_problem(other.outcomes))
        saved = 1 - summary.judge_requests / judge.judge_requests if judge and judge.judge_requests else float("nan")
        disagreed = [
            estimate(audit.disagreement, audit.disagreement_ci95, ".1f", 100) if audit else "-"
            for audit in (summary.audits.get("kept"), summary.audits.get("refused"))
        ]
        rows.append(
            [
                name,
                accuracy,
                difference(pairing.accuracy),
                ratio(pairing.speed_up),
                percent(summary.acceptance),
                str(summary.judge_requests),
                percent(saved),
                *disagreed,
                number(100 * other.summary.accuracy, ".1f"),
                difference(against),
            ]
        )
    return Table(rows=rows, notes=notes(gates, names(gates), beside, wide=True)).markdown()


if __name__ == "__main__":
    sys.exit(main())
