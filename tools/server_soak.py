"""Owns the soak of the server: an hour of streams on the bundled pair, some left early, and whether anything grows or slows down.

Example: python tools/server_soak.py --minutes 60 --streams 16

Every reply that ends well must be the one that the same question had before (greedy). Prints the slopes of memory, threads and
open files as `tools/soak.py` does, and the replies of each quarter, as one JSON object in the last line.
"""

import argparse
import itertools
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from asking import Served, until
from options import Parser, at_least
from soak import EVERY_S, Sample, groups, look, slopes

from sgl_specreason.demo.problems import problems
from sgl_specreason.text.prompts import load_prompts

PROBLEMS, LEAVING, STREAMED = 40, 0.1, 0.7


class Askers:
    """Clients that ask one question after the other until they are told to end; what came of it is counted by kind."""

    def __init__(self, served: Served, pause_s: float) -> None:
        self.counts: Counter[str] = Counter()
        self.over = threading.Event()
        self._served, self._pause_s = served, pause_s
        self._known: dict[int, tuple[str, str]] = {}
        template = load_prompts()["math"]
        self._questions = [template.fill(problem=problem.text) for problem in problems("test", PROBLEMS)]

    def run(self, seed: int) -> None:
        draw = random.Random(seed)
        while not self.over.is_set():
            number = draw.randrange(PROBLEMS)
            body: dict[str, Any] = {"messages": [{"role": "user", "content": self._questions[number]}]}
            body["stream"] = draw.random() < STREAMED
            leaves_at = draw.randrange(1, 8) if body["stream"] and draw.random() < LEAVING / STREAMED else None
            outcome = self._served.asked(body, lambda chunk, at=leaves_at: at is None or chunk < at)  # type: ignore[misc]
            if leaves_at is not None:
                kind = "left"
            elif outcome.end != "good":
                kind = f"{outcome.end} {outcome.code}"
            else:
                kind = "good" if self._known.setdefault(number, outcome.text) == outcome.text else "wrong"
            self.counts[kind] += 1
            self.over.wait(self._pause_s)


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=at_least(0.1, float), default=60)
    parser.add_argument("--streams", type=at_least(1), default=16)
    parser.add_argument("--pause", type=at_least(0, float), default=0, help="seconds between a client's questions")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        words = ["--pair", "demo", "--concurrency", str(options.streams)]
        with Served(words, Path(folder) / "log") as served:
            served.ready()
            askers = Askers(served, options.pause)
            threads = [threading.Thread(target=askers.run, args=(seed,)) for seed in range(options.streams)]
            for thread in threads:
                thread.start()
            until(lambda: askers.counts["good"] > options.streams, 600)
            samples: dict[str, list[Sample]] = {name: [] for name in groups(served.process.pid)}
            marks: list[tuple[float, int]] = []
            begin, end = time.monotonic(), 60 * options.minutes
            while (now := time.monotonic() - begin) < end:
                marks.append((now, askers.counts["good"]))
                for name, processes in groups(served.process.pid).items():
                    samples[name].append(look(processes, now))
                if len(marks) % 60 == 0:
                    print(f"{now / 60:.0f} min: {dict(askers.counts)}, {samples['client'][-1]}", flush=True)
                time.sleep(EVERY_S)
            askers.over.set()
            for thread in threads:
                thread.join()
            free = until(lambda: served.under_way == 0, 10)
            code, left = served.end(), served.left()
    corners = [min(marks, key=lambda mark: abs(mark[0] - part * end / 4)) for part in range(5)]
    quarters = [(b - a) / (t - s) for (s, a), (t, b) in itertools.pairwise(corners)]
    found = {name: slopes(each) for name, each in samples.items()}
    result = {
        "minutes": options.minutes,
        "streams": options.streams,
        "replies": dict(askers.counts),
        "per_s_by_quarter": [round(rate, 3) for rate in quarters],
        "last_over_first": round(quarters[-1] / quarters[0], 3),
        "places_free_at_the_end": free,
        "exit_code": code,
        "processes_left": len(left),
        "server": found.pop("client"),
        **found,
    }
    print(json.dumps(result))
    fine = set(askers.counts) <= {"good", "left"} and free and code == 0 and not left
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
