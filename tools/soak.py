"""Owns the soak: one long run on the bundled pair at full concurrency, and whether anything in it grows or slows down.

Example: python tools/soak.py --minutes 60

Runs the command itself with more samples than it can ever finish, looks at its processes every few seconds, ends it with Ctrl-C.
Prints the slopes of memory, threads and open files (per hour, by least squares, the first tenth left out as warm-up) and
the trajectories of each quarter, as one JSON object in the last line.
"""

import argparse
import itertools
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from options import Parser, at_least

EVERY_S = 5.0
START_S = 300.0
WARM_UP = 0.1


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One look at a group of processes: memory that is theirs alone (MB), threads, open files."""

    at_s: float
    memory_mb: float
    threads: int
    files: int


def look(processes: Sequence[psutil.Process], at_s: float) -> Sample:
    found = [(p.memory_full_info().uss, p.num_threads(), p.num_fds()) for p in processes]
    memory, threads, files = (sum(column) for column in zip(*found, strict=True))
    return Sample(at_s=at_s, memory_mb=memory / 1e6, threads=threads, files=files)


def groups(client: int) -> dict[str, list[psutil.Process]]:
    """The client by itself, and each engine's processes."""
    found = {"client": [psutil.Process(client)]}
    for guard in psutil.Process(client).children():
        words = guard.cmdline()
        if "sgl_specreason.engines.guard" in words:
            found[Path(words[words.index("--model-path") + 1]).name] = guard.children(recursive=True)
    return found


class Finished:
    """Counts the records under a folder; reads each byte once, so that counting costs the same at the end."""

    def __init__(self, out: Path) -> None:
        self.out, self.count, self._read = out, 0, 0

    def __call__(self) -> int:
        for path in self.out.glob("*/trajectories.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            self.count += new.count(b"\n")
            self._read += len(new)
        return self.count


def slopes(samples: Sequence[Sample]) -> dict[str, Any]:
    """What there was after the warm-up, and by how much it grew in an hour."""
    later = samples[int(WARM_UP * len(samples)) :]
    hours = [sample.at_s / 3600 for sample in later]
    found = {}
    for name in ("memory_mb", "threads", "files"):
        values = [float(getattr(sample, name)) for sample in later]
        slope = statistics.linear_regression(hours, values).slope
        found[name] = {"median": round(statistics.median(values), 1), "per_hour": round(slope, 2)}
    return found


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=at_least(0.1, float), default=60)
    parser.add_argument("--concurrency", type=at_least(1), default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        out = Path(folder) / "runs"
        words = ["--bench", "demo", "--method", "specreason", "--samples", "100000", "--temperature", "0.6"]
        words += ["--concurrency", str(options.concurrency), "--out", str(out)]
        with (Path(folder) / "log").open("wb") as log:
            run = subprocess.Popen([sys.executable, "-m", "sgl_specreason.eval", *words], stdout=log, stderr=log)
        finished = Finished(out)
        begin = time.monotonic()
        while not finished():
            if run.poll() is not None or time.monotonic() - begin > START_S:
                raise SystemExit((Path(folder) / "log").read_text())
            time.sleep(0.5)
        watched = groups(run.pid)
        samples: dict[str, list[Sample]] = {name: [] for name in watched}
        counts: list[tuple[float, int]] = []
        begin, end = time.monotonic(), 60 * options.minutes
        while (now := time.monotonic() - begin) < end:
            counts.append((now, finished()))
            for name, processes in watched.items():
                samples[name].append(look(processes, now))
            time.sleep(EVERY_S)
            if len(counts) % 60 == 0:
                print(f"{now / 60:.0f} min: {counts[-1][1]} trajectories, {samples['client'][-1]}", flush=True)
        counts.append((time.monotonic() - begin, finished()))
        run.send_signal(signal.SIGINT)
        code = run.wait(120)
    marks = [min(counts, key=lambda count: abs(count[0] - part * end / 4)) for part in range(5)]
    quarters = [(b - a) / (t - s) for (s, a), (t, b) in itertools.pairwise(marks)]
    result = {
        "minutes": options.minutes,
        "concurrency": options.concurrency,
        "trajectories": counts[-1][1],
        "exit_code": code,
        "per_s_by_quarter": [round(rate, 3) for rate in quarters],
        "last_over_first": round(quarters[-1] / quarters[0], 3),
        **{name: slopes(found) for name, found in samples.items()},
    }
    print(json.dumps(result))
    return int(code != 130)


if __name__ == "__main__":
    sys.exit(main())
