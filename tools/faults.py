"""Owns the fault injection: real runs on the bundled pair, disturbed at random moments, and a count of what was lost by it.

Example: python tools/faults.py --faults 300 --seed 1

Faults come from a proxy between client and engines (fault_proxy.py) and from signals, a full disk and a jumping clock. After each
one the run must end or go on within a deadline; resumed to its end it must hold exactly what an undisturbed run holds. Prints
what it does, and as its last line one JSON object. Needs root for its tmpfs, and libfaketime for the clock.
"""

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import psutil  # type: ignore[import-untyped]
import urllib3
from fault_proxy import TRICKS, Proxy, Trick
from options import Parser, at_least

from sgl_specreason.engines.startup import started
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.resolve import resolve

MARK = "SPECREASON_FAULTS"
KEY_VARIABLE = "SPECREASON_API_KEY"
KEY = "faults"
METHODS = ("base", "specreason")
REQUEST_TIMEOUT_S = 15
PATIENCE_S = 120
END_S, RUN_S = 60.0, 600.0  # how long an ending and a whole run may take before they count as a hang
BETWEEN_S = 0.4
FREE_BYTES = 24_000
SHARES: dict[str, int] = {
    **dict.fromkeys(TRICKS, 34),
    "client SIGKILL": 13,
    "Ctrl-C": 10,
    "Ctrl-C twice": 10,
    "SIGTERM": 8,
    "full disk": 8,
    "clock": 8,
    "engine SIGKILL": 4,
    "engine gone": 4,
    "own engine SIGKILL": 2,
    "own client SIGKILL": 1,
}
"""How many of each kind there are in 306; other totals in proportion, one of each at least."""
Key = tuple[str, str, int]
Say = Callable[[str], None]


@dataclass(kw_only=True)
class Count:
    """What happened: faults by kind, and each way in which a run can break its promises."""

    by_kind: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    duplicated: int = 0
    orphans: int = 0
    hangs: int = 0
    wrong: list[str] = field(default_factory=list)

    def result(self) -> dict[str, Any]:
        return {
            "injected": sum(self.by_kind.values()),
            "lost": self.lost,
            "duplicated": self.duplicated,
            "orphans": self.orphans,
            "hangs": self.hangs,
            "wrong": len(self.wrong),
            "by_kind": dict(self.by_kind),
        }


def finished(top: Path) -> tuple[dict[Key, str], int]:
    """Each finished trajectory under `top` with what was written in it, and how many are there twice. A torn line is none."""
    found: dict[Key, str] = {}
    twice = 0
    for file in top.glob("**/trajectories.jsonl"):
        for line in file.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                continue
            record = json.loads(line)
            if "error" in record:
                continue
            key = (record["method"], record["problem_id"], record["sample"])
            twice += key in found
            found[key] = json.dumps([step["text"] for step in record["steps"]] + [record["answer_text"]])
    return found, twice


@dataclass(kw_only=True)
class Bed:
    """Where the faults are made: engines behind proxies, a small disk, and the run that all others are compared with."""

    work: Path
    proxies: dict[str, Proxy]
    ports: dict[str, str]
    limit: int
    clients: int
    count: Count
    say: Say
    random: random.Random
    reference: dict[Key, str] = field(default_factory=dict)

    def healthy(self) -> None:
        """Waits until both engines answer: a run on servers that do not is refused, which is no fault of its own."""
        until = time.monotonic() + RUN_S
        for proxy in self.proxies.values():
            while time.monotonic() < until:
                with contextlib.suppress(urllib3.exceptions.HTTPError):
                    if proxy.upstream.request("GET", "/health", retries=False, timeout=5.0).status == 200:
                        break
                time.sleep(0.2)

    @property
    def clock(self) -> Path:
        return self.work / "clock"

    @property
    def disk(self) -> Path:
        return self.work / "disk"


class Run:
    """One run of the command in a folder of its own, launched as often as it takes to complete it."""

    def __init__(self, bed: Bed, *, own_engines: bool = False) -> None:
        self.bed, self.own = bed, own_engines
        self.mark = uuid.uuid4().hex
        self.out = bed.disk / self.mark
        self.out.mkdir()
        self.log = bed.work / f"{self.mark}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.seen: dict[Key, str] = {}

    @property
    def folder(self) -> Path | None:
        return next(iter(self.out.iterdir()), None)

    def launch(self, *, patience_s: float = PATIENCE_S, jumping: bool = False) -> subprocess.Popen[bytes]:
        """Starts the command, or goes on with what is there of it; `jumping` under a clock that can be made to jump."""
        words = ["--bench", "demo", "--limit", str(self.bed.limit), "--out", str(self.out)]
        words += ["--concurrency", "4", "--clients", str(self.bed.clients)]
        for method in METHODS:
            words += ["--method", method]
        if self.own:
            words += ["--pair", "demo"]
        else:
            words += ["--base-url", self.bed.proxies["base"].url, "--small-url", self.bed.proxies["small"].url]
        words += ["--request-timeout", str(REQUEST_TIMEOUT_S), "--retry-for", str(patience_s)]
        if self.folder:
            words += ["--resume", str(self.folder)]
        if not self.own:
            self.bed.healthy()
        env = os.environ | {MARK: self.mark}
        if jumping:
            self.bed.clock.write_text("+0")
            env |= _jumping(self.bed.clock)
        if not self.own:
            env[KEY_VARIABLE] = KEY
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sgl_specreason.eval", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                start_new_session=True,
            )
        return self.process

    def look(self) -> int:
        """Remembers what is finished, which must never be lost again; how much that is."""
        found, twice = finished(self.out)
        self.bed.count.duplicated += twice
        self.seen |= found
        return len(found)

    def wait(self, seconds: float, what: str) -> int | None:
        """The exit code; None after a hang, which is counted and ended."""
        assert self.process is not None
        try:
            code: int | None = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.bed.count.hangs += 1
            self.wrong(f"{what}: still there after {seconds:.0f} s")
            self.process.kill()
            self.process.wait()
            code = None
        self._check_orphans(what)
        found, twice = finished(self.out)
        self.bed.count.duplicated += twice
        lost = [key for key, text in self.seen.items() if found.get(key) != text]
        self.bed.count.lost += len(lost)
        if lost:
            self.wrong(f"{what}: lost {lost}")
        self.seen = found
        self._check_summary(what)
        return code

    def wrong(self, words: str) -> None:
        self.bed.count.wrong.append(words)
        self.bed.say(f"WRONG {words}; the end of its log:\n{self.log.read_text('utf-8', 'replace')[-1500:]}")

    def complete(self) -> None:
        """Goes on without faults to the end: then it must hold what the undisturbed run holds."""
        for _ in range(3):
            if self.process is None or self.process.poll() not in (None, 0):
                self.launch()
            code = self.wait(RUN_S, "completing")
            if code == 0:
                break
            if code != 1:  # trajectories failed, or an engine was gone
                self.wrong(f"completing: exit code {code}")
        there, wanted = self.seen, self.bed.reference
        missing = wanted.keys() - there.keys()
        other = [key for key in there if there[key] != wanted.get(key)]
        self.bed.count.lost += len(missing)
        if missing or other:
            self.wrong(f"at its end: missing {missing}, not as in the undisturbed run {other}")
        shutil.rmtree(self.out)

    def _check_orphans(self, what: str) -> None:
        left = [process for process in psutil.process_iter() if _carries(process, self.mark)]
        _, alive = psutil.wait_procs(left, timeout=15)
        for process in alive:
            self.bed.count.orphans += 1
            self.wrong(f"{what}: left behind {process}")
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _check_summary(self, what: str) -> None:
        """Where there is a summary, it says whether something is missing."""
        for file in self.out.glob("**/summary.json"):
            there = len(finished(file.parent)[0])
            whole = len(METHODS) * self.bed.limit if file.parent == self.folder else self.bed.limit
            if json.loads(file.read_text())["partial"] is not (there < whole):
                self.wrong(f"{what}: {file} with {there} of {whole} says otherwise")


def _jumping(clock: Path) -> dict[str, str]:
    """An environment in which the wall clock is off by what the file says, and no other clock is."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        raise SystemExit("libfaketime is missing (Debian: faketime)")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get(MARK) == mark) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


def storm(bed: Bed, wanted: Counter[str]) -> None:
    """Runs whose requests meet what the proxies do, one thing after the other at random moments, until all is done."""
    while wanted:
        run = Run(bed)
        process = run.launch()
        before = {role: proxy.hit.copy() for role, proxy in bed.proxies.items()}
        tricks = list(wanted.elements())
        bed.random.shuffle(tricks)
        begin = time.monotonic()
        while process.poll() is None and time.monotonic() - begin < RUN_S:
            time.sleep(bed.random.expovariate(1 / BETWEEN_S))
            run.look()
            quiet = [proxy for proxy in bed.proxies.values() if not proxy.armed]
            if tricks and quiet and run.seen:
                bed.random.choice(quiet).arm(cast(Trick, tricks.pop()))
        for proxy in bed.proxies.values():
            proxy.disarm()
        hit = sum((bed.proxies[role].hit - before[role] for role in before), Counter())
        bed.count.by_kind += hit
        wanted = wanted - hit
        code = run.wait(END_S, f"requests disturbed {hit.total()} times")
        bed.say(f"requests: {dict(hit)}, exit code {code}, {len(run.seen)} of {len(bed.reference)} finished")
        run.complete()


def endings(bed: Bed, wanted: Counter[str]) -> None:
    """Runs that are ended, stopped, starved or confused at random moments, and gone on with, until all is done."""
    kinds = list(wanted.elements())
    bed.random.shuffle(kinds)
    while kinds:
        run = Run(bed)
        while kinds:
            kind = kinds[-1]
            process = run.launch(patience_s=3 if kind == "engine gone" else PATIENCE_S, jumping=kind == "clock")
            if not _moment(run, process, early=kind in EARLY):
                break  # it was over before the moment came
            if kind == "clock":
                bed.clock.write_text(bed.random.choice(["+1h", "-1h", "-3d", "+4000d", "-20y"]))
            done, words = ENDINGS[kind](bed, run)
            if not done:
                break
            kinds.pop()
            bed.count.by_kind[kind] += 1
            bed.say(f"{kind}: {words}, {len(run.seen)} of {len(bed.reference)} finished")
            if process.returncode == 0:
                break
        run.complete()


def _moment(run: Run, process: subprocess.Popen[bytes], *, early: bool) -> bool:
    """Waits for a random moment of the run, sometimes `early`, before it has begun to write; False if it ends before."""
    before = run.look()
    begun = not early or run.bed.random.random() < 0.8
    until = time.monotonic() + END_S
    while begun and run.look() == before and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(run.bed.random.uniform(0, 4 if begun else 10))
        return False
    run.look()
    return True


def _signalled(*numbers: int, codes: set[int]) -> Callable[[Bed, Run], tuple[bool, str]]:
    def act(bed: Bed, run: Run) -> tuple[bool, str]:
        assert run.process is not None
        begin = time.monotonic()
        for number in numbers:
            run.process.send_signal(number)
            time.sleep(bed.random.uniform(0.01, 0.3))
        code = run.wait(END_S, f"after signals {numbers}")
        if code == 0:
            return False, "it was over already"
        if code not in codes:
            run.wrong(f"signals {numbers}: exit code {code}, not {codes}")
        return True, f"exit code {code} after {time.monotonic() - begin:.1f} s"

    return act


def _full_disk(bed: Bed, run: Run) -> tuple[bool, str]:
    filler = bed.disk / "filler"
    left = bed.random.randrange(FREE_BYTES)
    with filler.open("wb") as file, contextlib.suppress(OSError):
        free = shutil.disk_usage(bed.disk).free
        file.write(bytes(max(free - left, 0)))
    code = run.wait(END_S, "with a full disk")
    words = run.log.read_text("utf-8", "replace")
    filler.unlink()
    if code == 0:
        return False, "what was left was enough"
    if code != 1 or "No space left on device" not in words[-2000:] or "Traceback" in words:
        run.wrong(f"full disk: exit code {code}")
    return True, f"exit code {code}"


def _clock(bed: Bed, run: Run) -> tuple[bool, str]:
    """It goes on as if nothing had happened: the rest of the run is under the other time."""
    assert run.process is not None
    code = run.wait(RUN_S, "under another time")
    if code != 0:
        run.wrong(f"clock: exit code {code}")
    return True, f"{bed.clock.read_text()}, exit code {code}"


def _engine_killed(bed: Bed, run: Run) -> tuple[bool, str]:
    """An attached engine dies and is back later; the run waits for it and goes on to its end."""
    role = bed.random.choice(list(bed.proxies))
    next(server for server in servers(os.getpid()) if bed.ports[role] in server.cmdline()).kill()
    begin = time.monotonic()
    code = run.wait(RUN_S, f"with {role} killed")
    if code != 0:
        run.wrong(f"{role} killed and back: exit code {code}")
    return True, f"{role}, exit code {code} after {time.monotonic() - begin:.0f} s"


def _engine_gone(bed: Bed, run: Run) -> tuple[bool, str]:
    role = bed.random.choice(list(bed.proxies))
    bed.proxies[role].shut()
    code = run.wait(END_S, f"with {role} gone")
    bed.proxies[role].reopen()
    if code == 0:
        return False, "it was over already"
    if code != 1 or "Traceback" in run.log.read_text("utf-8", "replace"):
        run.wrong(f"{role} gone: exit code {code}")
    return True, f"{role}, exit code {code}"


EARLY = ("client SIGKILL", "Ctrl-C", "Ctrl-C twice", "SIGTERM")
ENDINGS: dict[str, Callable[[Bed, Run], tuple[bool, str]]] = {
    "client SIGKILL": _signalled(signal.SIGKILL, codes={-9}),
    "Ctrl-C": _signalled(signal.SIGINT, codes={130, -2}),
    "Ctrl-C twice": _signalled(signal.SIGINT, signal.SIGINT, codes={130, -2}),
    "SIGTERM": _signalled(signal.SIGTERM, codes={143, -15}),
    "full disk": _full_disk,
    "clock": _clock,
    "engine SIGKILL": _engine_killed,
    "engine gone": _engine_gone,
}


def own_engines(bed: Bed, wanted: Counter[str]) -> None:
    """Runs that start their own engines: these are killed and must be started again, and must end with their client."""
    wanted = wanted.copy()
    while wanted.total():
        run = Run(bed, own_engines=True)
        process = run.launch()
        if not _progress(run, 0):
            run.wrong("own engines: the run did not begin")
            return
        for _ in range(min(wanted["own engine SIGKILL"], 3)):
            time.sleep(bed.random.uniform(0, 3))
            if process.poll() is not None:
                break
            bed.random.choice(servers(process.pid)).kill()
            if not _progress(run, run.look()):
                run.wrong("own engine SIGKILL: the run did not go on")
            wanted["own engine SIGKILL"] -= 1
            bed.count.by_kind["own engine SIGKILL"] += 1
            bed.say(f"own engine SIGKILL: {len(run.seen)} of {len(bed.reference)} finished")
        if wanted["own client SIGKILL"] and process.poll() is None:
            _, words = ENDINGS["client SIGKILL"](bed, run)
            wanted["own client SIGKILL"] -= 1
            bed.count.by_kind["own client SIGKILL"] += 1
            bed.say(f"own client SIGKILL: {words}")
        run.complete()


def _progress(run: Run, before: int) -> bool:
    """Waits until more than `before` trajectories are finished, or the run has ended well; False if neither happens."""
    assert run.process is not None
    until = time.monotonic() + 300
    while run.look() <= before and run.process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    return run.look() > before or run.process.poll() == 0


def servers(pid: int) -> list[psutil.Process]:
    """The main processes of the engines that a process has started."""
    below = psutil.Process(pid).children(recursive=True)
    return [process for process in below if process.cmdline()[1:3] == ["-m", "sgl_specreason.engines.launch"]]


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A tmpfs, so that a full disk is this one only."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def shares(total: int) -> Counter[str]:
    """How many of each kind, `total` in all or a few more."""
    whole = sum(SHARES.values())
    return Counter({kind: max(1, math.ceil(total * share / whole)) for kind, share in SHARES.items()})


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=at_least(1), default=60, help="how many, of all kinds together (default: 60)")
    parser.add_argument("--limit", type=at_least(1), default=24, help="problems of each run (default: 24)")
    parser.add_argument("--clients", type=at_least(1), default=1, help="processes of each run (default: 1)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and the order (default: 1)")
    parser.add_argument("--kinds", default="", help="only these, comma-separated (default: all)")
    options = parser.parse_args()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begin:7.1f} s  {line}", flush=True)

    begin = time.monotonic()
    wanted = shares(options.faults)
    if options.kinds:
        if unknown := set(options.kinds.split(",")) - wanted.keys():
            parser.error(f"--kinds: no {', '.join(sorted(unknown))}; there are {', '.join(wanted)}")
        wanted = Counter({kind: wanted[kind] for kind in options.kinds.split(",")})
    count = Count()
    plan = resolve(Options(bench="demo", pair="demo", policy={}))
    specs = [replace(spec, api_key=KEY) for spec in plan.specs]
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
        stack.enter_context(small_disk(work / "disk"))
        engines = stack.enter_context(started(specs, work / "logs", say=say, restarts=10_000))
        proxies = {str(role): Proxy(engine.url) for role, engine in engines.items()}

        ports = {str(role): engine.url.rsplit(":", 1)[1] for role, engine in engines.items()}
        bed = Bed(
            work=work, proxies=proxies, ports=ports, limit=options.limit, clients=options.clients, count=count,
            say=say, random=random.Random(options.seed),
        )  # fmt: skip
        undisturbed = Run(bed)
        undisturbed.launch()
        if undisturbed.wait(RUN_S, "undisturbed") != 0:
            raise SystemExit(undisturbed.log.read_text())
        bed.reference = undisturbed.seen
        say(f"undisturbed: {len(bed.reference)} trajectories")
        storm(bed, Counter({kind: wanted[kind] for kind in TRICKS if wanted[kind]}))
        endings(bed, Counter({kind: wanted[kind] for kind in ENDINGS if wanted[kind]}))
        own_engines(bed, Counter({kind: wanted[kind] for kind in wanted if kind.startswith("own ")}))
    print(json.dumps(count.result()))
    return int(bool(count.wrong or count.lost or count.duplicated or count.orphans or count.hangs))


if __name__ == "__main__":
    sys.exit(main())
