"""Owns the look at the server through other people's clients: one table, on the bundled pair.

Example: python tools/clients.py --only lm --problems 20

Makes the clients' environments (.venv-sgl, .venv-lm, .venv-inspect) where they are missing, starts engines and server, lets
each client ask the problems of `--bench demo`, and runs `eval` on the same engines: accuracies must be within one point.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from accounts import Say
from client_runs import CLIENTS, Row, Target, row_of, write_data
from options import Parser, at_least
from own_server import ENGINE_KEY, SERVE_KEY, Engines, bundled_pair, server

POINTS = 1.0
POLICY = (
    "--budget-tokens",
    "512",
    "--answer-tokens",
    "64",
    "--step-tokens",
    "64",
    "--temperature",
    "0",
    "--top-p",
    "1",
)
"""What the bench demo runs with: its settings are not the server's own."""


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=CLIENTS, metavar="NAME", help=f"of {', '.join(CLIENTS)}")
    parser.add_argument(
        "--base-url", help="a server of the bundled pair that runs, with /v1; its key in $SPECREASON_SERVE_KEY"
    )
    parser.add_argument("--model", default="specreason")
    parser.add_argument("--problems", type=at_least(1), default=200)
    parser.add_argument(
        "--accuracy", type=at_least(0, float), help="percent to compare with  [default: run eval for it]"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/clients"))
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    write_data(out, options.problems)
    begin = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - begin:4.0f} s] {line}", file=sys.stderr, flush=True)

    rows: list[Row] = []
    with target_of(options, out, say) as (target, engines):
        expected = [] if options.accuracy is None else [options.accuracy / 100] * target.problems
        if not expected and engines is not None:
            row, expected = evaluated(engines, target)
            rows.append(row)
        for name in options.only or CLIENTS:
            rows.append(row_of(name, target))
            (out / "clients.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
            say(" | ".join(cells(rows[-1], expected)))
    print(table(rows, expected))
    return int(not all(is_good(row, expected) for row in rows))


@contextmanager
def target_of(options: argparse.Namespace, out: Path, say: Say) -> Iterator[tuple[Target, Engines | None]]:
    """The server that was named, or two of our own over one pair of engines: one with room for all, one with room for one."""
    with ExitStack() as stack:
        engines, url, busy = None, options.base_url, None
        key = os.environ.get("SPECREASON_SERVE_KEY") or "none"
        if url is None:
            engines, key = stack.enter_context(bundled_pair(out / "engines", say)), SERVE_KEY
            words = [*engines.words, *POLICY]
            url = stack.enter_context(server([*words, "--concurrency", "16"], out / "server.log")).url + "/v1"
            one = ["--concurrency", "1", "--max-queue", "0"]
            busy = stack.enter_context(server([*words, *one], out / "busy-server.log")).url + "/v1"
        yield (
            Target(
                url=url, key=key, model=options.model, busy_url=busy, out=out, problems=int(options.problems), say=say
            ),
            engines,
        )


def evaluated(engines: Engines, target: Target) -> tuple[Row, list[float]]:
    """The same problems by the project's own command, on the same engines; and whether each is right, in their order."""
    method = target.model if target.model in ("base", "small") else "specreason"
    words = [
        *engines.words,
        "--bench",
        "demo",
        "--method",
        method,
        "--limit",
        str(target.problems),
        "--concurrency",
        "8",
    ]
    command = [sys.executable, "-m", "sgl_specreason.eval", *words, "--out", str(target.out / "runs")]
    target.say(" ".join(command))
    begin = time.monotonic()
    subprocess.run(
        command, env=os.environ | {"SPECREASON_API_KEY": ENGINE_KEY}, check=True, stdout=sys.stderr, stderr=sys.stderr
    )
    seconds = time.monotonic() - begin
    newest = max((target.out / "runs").glob("*/summary.json"), key=lambda path: path.stat().st_mtime)
    summary = json.loads(newest.read_text())
    records = [json.loads(line) for line in (newest.parent / "trajectories.jsonl").read_text().splitlines()]
    right = {record["problem_id"]: float(record["correct"]) for record in records}
    row = Row(
        client="eval of this project",
        version="",
        problems=summary["n"],
        accuracy=100 * summary["accuracy"],
        errors=summary["failed"],
        seconds=seconds,
    )
    return row, [right[key] for key in sorted(right)]


def is_good(row: Row, expected: Sequence[float]) -> bool:
    """No errors, and an accuracy within one point of eval's on the problems that the client asked: the first ones."""
    if row.skipped:
        return os.environ.get("CI") != "true"
    if row.errors or row.accuracy is None or not expected:
        return not row.errors
    return abs(row.accuracy - 100 * statistics.mean(expected[: row.problems])) <= POINTS


def cells(row: Row, expected: Sequence[float]) -> list[str]:
    accuracy = "" if row.accuracy is None else f"{row.accuracy:.1f}"
    verdict = "skipped" if row.skipped else "as it should" if is_good(row, expected) else "NOT as it should"
    return [row.client, row.version, str(row.problems), accuracy, str(row.errors), f"{row.seconds:.0f}", verdict]


def table(rows: Sequence[Row], expected: Sequence[float]) -> str:
    head = ["client", "version", "problems", "accuracy %", "errors", "seconds", ""]
    lines = [head, ["---", "---", "--:", "--:", "--:", "--:", "---"], *(cells(row, expected) for row in rows)]
    notes = [f"- {row.client}: {note}" for row in rows for note in row.notes]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *([""] if notes else []), *notes])


if __name__ == "__main__":
    sys.exit(main())
