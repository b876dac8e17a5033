"""Owns the fault injection between clients, server and engines: what is disturbed, and a count of what was lost by it.

Example: python tools/server_faults.py --faults 120 --seed 1

The real server over real engines of the bundled pair: first behind a proxy that disturbs its requests (fault_proxy.py), with
engines that are away and clients that leave; then with engines of its own that are killed, and signals. A reply that ends well
must be, word for word, the one without faults; a request that does not must end with one clear error. Prints what it does, and
as its last line one JSON object.
"""

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from asking import Json, Outcome, Served, until
from fault_proxy import IN_STREAM, TRICKS, InStream, Proxy, Trick
from options import Parser, at_least

from sgl_specreason import paths
from sgl_specreason.demo.problems import problems
from sgl_specreason.engines.startup import started
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.resolve import resolve

KEY = "faults"
REQUEST_TIMEOUT_S = 15
BETWEEN_S, SETTLED_S = 0.3, 1.0
CLIENTS = 8
MODELS = ("specreason", "specreason", "base", "small", "base-direct")
Say = Callable[[str], None]
Texts = dict[tuple[int, str], tuple[str, str]]


@dataclass(kw_only=True)
class Count:
    """What happened: faults by kind, how requests ended, and each way in which the server can break its promises."""

    by_kind: Counter[str] = field(default_factory=Counter)
    good: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    wrong_replies: int = 0
    lost: int = 0
    places: int = 0
    hangs: int = 0
    orphans: int = 0
    wrong: list[str] = field(default_factory=list)
    figures: Json = field(default_factory=dict)

    def result(self) -> dict[str, Any]:
        return {
            "injected": sum(self.by_kind.values()),
            "good": self.good,
            "errors": dict(self.errors),
            "wrong_replies": self.wrong_replies,
            "lost": self.lost,
            "leaked_places": self.places,
            "hangs": self.hangs,
            "orphans": self.orphans,
            "wrong": self.wrong,
            "by_kind": dict(self.by_kind),
            "figures": self.figures,
        }


@dataclass(kw_only=True)
class Bed:
    """What is asked, how it is answered without faults, and what is counted."""

    work: Path
    count: Count
    say: Say
    random: random.Random
    problems: int
    replies: Texts = field(default_factory=dict)

    def body(self, number: int, model: str, *, stream: bool, **more: Any) -> Json:
        template = (paths.find("prompts") / "math.txt").read_text("utf-8").strip()
        text = template.replace("{{problem}}", problems("test", self.problems)[number].text)
        greedy = {"temperature": 0, "max_tokens": 256}
        return {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream, **greedy, **more}

    def served(self, *words: str, name: str) -> Served:
        return Served(words, self.work / f"{name}.log", env={"SPECREASON_API_KEY": KEY})

    def broken(self, words: str) -> None:
        self.count.wrong.append(words)
        self.say(f"WRONG {words}")

    def judged(self, outcome: Outcome, number: int, model: str, what: str) -> None:
        """Counts how a request has ended."""
        if outcome.end == "good":
            self.count.good += 1
            if outcome.text != self.replies[number, model]:
                self.count.wrong_replies += 1
                self.broken(f"{what}: {model} on {number}: {outcome.text} in place of {self.replies[number, model]}")
        elif outcome.end == "error":
            self.count.errors[f"{outcome.status} {outcome.code}"] += 1
        else:
            self.count.lost += 1
            self.broken(f"{what}: {model} on {number}: lost: {outcome.code}")

    def settled(self, server: Served, what: str) -> None:
        """Every place must be free again."""
        if not until(lambda: server.under_way == 0, 10):
            self.count.places += int(max(server.under_way, 1))
            self.broken(f"{what}: {server.under_way} places are not free")

    def ended(self, server: Served, what: str, *, number: int = signal.SIGTERM, code: int = 0) -> None:
        """It must end with this code and leave nothing behind."""
        found = server.end(number)
        if found is None:
            self.count.hangs += 1
        if found != code:
            self.broken(f"{what}: exit code {found}, not {code}: {server.words[-1500:]}")
        left = server.left()
        self.count.orphans += len(left)
        for process in left:
            self.broken(f"{what}: left behind {process}")
        if "\nTraceback" in server.words:
            self.broken(f"{what}: {server.words[-3000:]}")


@contextlib.contextmanager
def attached(bed: Bed) -> Iterator[dict[str, Proxy]]:
    """Engines of the bundled pair behind proxies."""
    plan = resolve(Options(bench="demo", pair="demo", policy={}))
    specs = [
        replace(
            spec, api_key=KEY, args=(*spec.args, "--incremental-streaming-output") if spec.role == "base" else spec.args
        )
        for spec in plan.specs
    ]  # small's sends whole texts each time: both ways are read
    with started(specs, bed.work / "logs", say=bed.say) as engines:
        yield {str(role): Proxy(engine.url) for role, engine in engines.items()}


def urls(proxies: dict[str, Proxy]) -> list[str]:
    return ["--base-url", proxies["base"].url, "--small-url", proxies["small"].url]


def load(proxy: Proxy) -> int:
    """Requests that an engine has, running or waiting, by its own words."""
    reply = proxy.upstream.request("GET", "/v1/loads", headers={"Authorization": f"Bearer {KEY}"}, retries=False)
    return sum(rank["num_running_reqs"] + rank["num_waiting_reqs"] for rank in json.loads(reply.data)["loads"])


def undisturbed(bed: Bed, server: Served) -> None:
    """The replies that all others are compared with, streamed and whole."""
    for number in range(bed.problems):
        for model in sorted(set(MODELS)):
            whole, streamed = (server.asked(bed.body(number, model, stream=stream)) for stream in (False, True))
            bed.replies[number, model] = whole.text
            if whole.end != "good" or whole.text != streamed.text:
                raise SystemExit(f"{model} on {number}, without faults: {whole}, streamed {streamed}; {server.words}")
    bed.say(f"without faults: {len(bed.replies)} replies, streamed as whole")


def storm(bed: Bed, proxies: dict[str, Proxy], faults: int) -> None:
    """Requests from several clients at once that meet what the proxies do, one thing after the other at random moments."""
    kinds: list[Trick | InStream] = [*TRICKS, *IN_STREAM]
    wanted = [kinds[number % len(kinds)] for number in range(faults)]
    bed.random.shuffle(wanted)
    words = [*urls(proxies), "--request-timeout", str(REQUEST_TIMEOUT_S), "--retry-for", "60", "--keep-alive", "1"]
    with bed.served(*words, name="storm") as server:
        server.ready()
        undisturbed(bed, server)
        over, begin = threading.Event(), time.monotonic()
        draws = [random.Random(bed.random.random()) for _ in range(CLIENTS)]

        def client(draw: random.Random) -> None:
            while not over.is_set():
                number, model = draw.randrange(bed.problems), draw.choice(MODELS)
                outcome = server.asked(bed.body(number, model, stream=draw.random() < 0.6))
                bed.judged(outcome, number, model, "storm")

        clients = [threading.Thread(target=client, args=(draw,), daemon=True) for draw in draws]
        for thread in clients:
            thread.start()
        while wanted or any(proxy.armed for proxy in proxies.values()):
            time.sleep(bed.random.expovariate(1 / BETWEEN_S))
            quiet = [proxy for role, proxy in proxies.items() if not proxy.armed]
            if wanted and quiet:
                proxy = proxies["base"] if wanted[-1] in IN_STREAM else bed.random.choice(quiet)
                if not proxy.armed:
                    proxy.arm(wanted.pop())
            if time.monotonic() - begin > 60 + 6 * faults:
                bed.broken(f"storm: {len(wanted)} faults were not met")
                break
        over.set()
        for thread in clients:
            thread.join(200)
        bed.count.hangs += sum(thread.is_alive() for thread in clients)
        for proxy in proxies.values():
            bed.count.by_kind += proxy.hit
        bed.settled(server, "storm")
        bed.say(f"storm: {bed.count.result()}")
        bed.ended(server, "storm")


def away(bed: Bed, proxies: dict[str, Proxy]) -> None:
    """An attached engine is away for a while: clear refusals, first after the patience and then at once; it comes back."""
    with bed.served(*urls(proxies), "--retry-for", "4", name="away") as server:
        server.ready()
        body = bed.body(0, "specreason", stream=False)
        for role in proxies:
            proxies[role].shut()
            first = server.asked(body)
            until(lambda: server.get("/ready")[0] == 503, 10)
            time.sleep(4)
            second = server.asked(body)
            streamed = server.asked(body | {"stream": True})
            states = server.get("/ready")[0], server.get("/health")[0]
            proxies[role].reopen()
            back = until(lambda: server.get("/ready")[0] == 200, 20)
            third = server.asked(body)
            bed.judged(third, 0, "specreason", f"{role} is back")
            bed.count.by_kind["engine away"] += 1
            words = f"{role} away: {first.status} after {first.seconds:.1f} s, then after {second.seconds:.2f} s"
            bed.say(f"{words}; /ready, /health {states}; back {back}: {third.end}")
            bed.count.figures[f"{role} away"] = words
            refusals = [(outcome.status, outcome.code) for outcome in (first, second, streamed)]
            if refusals != [(503, "engine_unavailable")] * 3 or states != (503, 200) or not back:
                bed.broken(f"{role} away: {refusals}, {states}, {back}")
            if "retry-after" not in first.headers or second.seconds > 1 or streamed.seconds > 1:
                bed.broken(f"{role} away: {first.headers}, {second.seconds:.1f} s")
        bed.settled(server, "away")
        bed.ended(server, "away", number=signal.SIGINT)


def leaving(bed: Bed, proxies: dict[str, Proxy], times: int) -> None:
    """Clients that leave at random moments: within a second nothing of theirs is left, at the server or at the engines."""
    for settings in (["--lookahead", "2"], ["--lookahead", "1", "--eager-regenerate", "--threshold", "9"]):
        with bed.served(*urls(proxies), *settings, name="leaving") as server:
            server.ready()
            slowest = 0.0
            for turn in range(times):
                model = bed.random.choice(MODELS)
                body = bed.body(turn % bed.problems, model, stream=turn % 3 > 0, n=1 + turn % 2, temperature=0.6)
                connection = server.opened(body)
                time.sleep(bed.random.uniform(0.0, 0.5))
                if turn % 4 == 3:
                    connection.shutdown(1)  # half-closed
                else:
                    connection.close()
                begin = time.monotonic()
                if not until(lambda: server.under_way == 0 and not any(map(load, proxies.values())), 10):
                    bed.broken(f"leaving {settings}: {model} is still there after 10 s")
                slowest = max(slowest, time.monotonic() - begin)
                connection.close()
                bed.count.by_kind["client leaves"] += 1
            bed.count.figures[f"slowest end after a client left, {' '.join(settings)}, s"] = round(slowest, 2)
            bed.say(f"leaving {settings}: {times} clients, the slowest end after {slowest:.2f} s")
            if slowest > SETTLED_S:
                bed.broken(f"leaving {settings}: {slowest:.2f} s")
            bed.ended(server, "leaving")


def growth(bed: Bed, proxies: dict[str, Proxy], requests: int) -> None:
    """Many requests, half of whose clients leave: memory, threads and open files are then what they were."""
    with bed.served(*urls(proxies), name="growth") as server:
        server.ready()
        process = psutil.Process(server.process.pid)
        draws = [random.Random(bed.random.random()) for _ in range(CLIENTS)]

        def some(draw: random.Random, number: int) -> None:
            for _ in range(number):
                body = bed.body(draw.randrange(bed.problems), draw.choice(MODELS), stream=draw.random() < 0.5)
                if draw.random() < 0.5:
                    connection = server.opened(body)
                    time.sleep(draw.uniform(0, 0.6))
                    connection.close()
                else:
                    server.asked(body)

        def all_of(number: int) -> tuple[float, int, int]:
            clients = [threading.Thread(target=some, args=(draw, number // CLIENTS)) for draw in draws]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            bed.settled(server, "growth")
            time.sleep(8)  # connections that are kept alive end after 5 s, timers before
            return process.memory_full_info().uss / 1e6, process.num_threads(), process.num_fds()

        before, after = all_of(80), all_of(requests)
        words = ", ".join(
            f"{a:.0f} -> {b:.0f} {name}" for a, b, name in zip(before, after, ("MB", "threads", "files"), strict=True)
        )
        bed.count.figures[f"before and after {requests} requests"] = words
        bed.say(f"growth: {words}")
        if after[0] > 1.1 * before[0] or after[1] > 1.1 * before[1] + 4 or after[2] > 1.1 * before[2] + 8:
            bed.broken(f"growth: {words}")
        bed.ended(server, "growth")


def killed(bed: Bed) -> None:
    """Engines of the server's own are killed in mid-thought: the streams pause and go on; at last one does not come back."""
    with bed.served("--pair", "demo", "--keep-alive", "0.5", name="killed") as server:
        server.ready()
        for role in ("small", "base"):
            quiet: list[float] = []
            outcomes: dict[int, Outcome] = {}

            def ask(number: int, outcomes: dict[int, Outcome] = outcomes, quiet: list[float] = quiet) -> None:
                last = time.monotonic()

                def heard(_: int) -> None:
                    nonlocal last
                    quiet.append(time.monotonic() - last)
                    last = time.monotonic()

                outcomes[number] = server.asked(bed.body(number, "specreason", stream=True), heard)

            streams = [threading.Thread(target=ask, args=(number,)) for number in range(bed.problems)]
            engine = server.engines[role]
            for stream in streams:
                stream.start()
            until(lambda quiet=quiet, streams=streams: len(quiet) > 3 * len(streams), 10)  # type: ignore[misc]
            engine.kill()
            begin = time.monotonic()
            for stream in streams:
                stream.join()
            seconds = time.monotonic() - begin
            for number, outcome in outcomes.items():
                bed.judged(outcome, number, "specreason", f"own {role} killed")
            if any(outcome.end != "good" for outcome in outcomes.values()):
                bed.broken(f"own {role} killed: {[(outcome.end, outcome.code) for outcome in outcomes.values()]}")
            bed.count.by_kind["own engine SIGKILL"] += 1
            words = (
                f"{len(outcomes)} streams went on and ended {seconds:.1f} s later; longest silence {max(quiet):.1f} s"
            )
            bed.count.figures[f"own {role} killed"] = words
            bed.say(f"own {role} killed: {words}")
        _for_good(bed, server)


def _for_good(bed: Bed, server: Served) -> None:
    """Kills small's engine until it is not started again any more."""
    last: list[Outcome] = []
    asking = threading.Event()

    def ask() -> None:
        last.append(server.asked(bed.body(0, "specreason", stream=True), lambda _: asking.set()))

    while server.process.poll() is None:
        if "small" in server.engines and server.get("/ready")[0] == 200:
            asking.clear()
            stream = threading.Thread(target=ask)
            stream.start()
            asking.wait(10)
            with contextlib.suppress(psutil.Error, KeyError):
                server.engines["small"].kill()
            bed.count.by_kind["own engine SIGKILL"] += 1
        time.sleep(0.5)
    stream.join()
    bed.ended(server, "restarts used up", code=1)
    words = server.words.strip().splitlines()[-1]
    bed.count.figures["restarts used up"] = f"{last[-1].end} {last[-1].code}; {words}"
    bed.say(f"restarts used up: {[(outcome.end, outcome.code) for outcome in last]}; {words}")
    lost = any(said in server.words for said in ("after 3 restarts", "could not be started again"))
    if (last[-1].end, last[-1].code) != ("error", "engine_unavailable") or not lost:
        bed.broken(f"restarts used up: {last[-1]}, {words}")


def signalled(bed: Bed) -> None:
    """Signals: with streams under way, twice, and while the engines are still starting."""
    for number in (signal.SIGTERM, signal.SIGINT):
        with bed.served("--pair", "demo", name="starting") as server:
            until(lambda server=server: "starting the" in server.words, 60)  # type: ignore[misc]
            time.sleep(bed.random.uniform(0, 4))
            begin = time.monotonic()
            bed.ended(server, f"{number.name} while starting", number=number, code=128 + number)
            bed.count.by_kind["signal while starting"] += 1
            words = server.words.strip().splitlines()[-1]
            bed.say(f"{number.name} while starting: after {time.monotonic() - begin:.1f} s: {words}")
            if "interrupted before the server was ready" not in words:
                bed.broken(f"{number.name} while starting: {words}")
    for number, drain in ((signal.SIGTERM, 60.0), (signal.SIGINT, 60.0), (signal.SIGTERM, 0.2)):
        with bed.served("--pair", "demo", "--drain", str(drain), name="ending") as server:
            server.ready()
            _drained(bed, server, number, twice=False, short=drain < 1)
    with bed.served("--pair", "demo", name="ending") as server:
        server.ready()
        _drained(bed, server, signal.SIGTERM, twice=True, short=True)


def _drained(bed: Bed, server: Served, number: signal.Signals, *, twice: bool, short: bool) -> None:
    """Eight streams, a signal: new questions are refused; these end well, or where the time is `short` with an error event."""
    outcomes: dict[int, Outcome] = {}
    heard = Counter[int]()

    def ask(turn: int) -> None:
        model = "base" if short else "specreason"
        body = bed.body(turn % bed.problems, model, stream=True, n=16 if short else 2)
        outcomes[turn] = server.asked(body, lambda _: heard.update([turn]))

    streams = [threading.Thread(target=ask, args=(turn,)) for turn in range(8)]
    for stream in streams:
        stream.start()
    until(lambda: len(heard) == 8, 20)
    server.process.send_signal(number)
    begin = time.monotonic()
    until(lambda: server.get("/ready")[0] != 200, 5)
    new = server.asked(bed.body(0, "specreason", stream=False))
    if twice:
        server.process.send_signal(number)
    for stream in streams:
        stream.join()
    with contextlib.suppress(subprocess.TimeoutExpired):  # one more signal would have it leave at once
        server.process.wait(REQUEST_TIMEOUT_S)
    bed.ended(server, f"{number.name}, drained")
    bed.count.by_kind[f"{number.name} with 8 streams"] += 1
    ends = Counter(f"{outcome.end} {outcome.code}".strip() for outcome in outcomes.values())
    what = f"{number.name}{' twice' if twice else ''}{', a short time' if short and not twice else ''}"
    seconds = time.monotonic() - begin
    bed.count.figures[what] = f"{dict(ends)}, a new one {new.status} {new.code}, ended after {seconds:.1f} s"
    bed.say(f"{what}: {bed.count.figures[what]}")
    if set(ends) - {"good", "error draining"} or not ends["error draining" if short else "good"]:
        bed.broken(f"{what}: {ends}")
    if not short:
        for turn, outcome in outcomes.items():
            bed.judged(outcome, turn % bed.problems, "specreason", what)
        if ends["good"] != 8 or new.code != "draining":
            bed.broken(f"{what}: {ends}, a new one {new}")


def part(bed: Bed, work: Callable[[], None], name: str, wanted: Sequence[str]) -> None:
    """Does a part, if it is wanted; one that fails does not keep the others from being done."""
    if name not in wanted:
        return
    try:
        work()
    except Exception:
        bed.broken(f"{name}: {traceback.format_exc()}")
    bed.say(f"after {name}: {json.dumps(bed.count.result())}")


PARTS = ("storm", "away", "leaving", "growth", "killed", "signalled")


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=at_least(1), default=110, help="of the storm, of all kinds (default: 110)")
    parser.add_argument("--problems", type=at_least(1), default=6, help="different questions (default: 6)")
    parser.add_argument("--leaving", type=at_least(1), default=30, help="clients that leave, twice (default: 30)")
    parser.add_argument("--requests", type=at_least(80), default=300, help="of the look at growth (default: 300)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and the order (default: 1)")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)} (default: all)")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts: no {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    begin = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begin:7.1f} s  {line}", flush=True)

    with tempfile.TemporaryDirectory(prefix="server-faults-") as folder:
        bed = Bed(
            work=Path(folder), count=Count(), say=say, random=random.Random(options.seed), problems=options.problems
        )
        with attached(bed) as proxies:
            storm(bed, proxies, options.faults if "storm" in parts else 0)
            for name, behind in (
                ("away", lambda: away(bed, proxies)),
                ("leaving", lambda: leaving(bed, proxies, options.leaving)),
                ("growth", lambda: growth(bed, proxies, options.requests)),
            ):
                part(bed, behind, name, parts)
        for name, own in (("killed", lambda: killed(bed)), ("signalled", lambda: signalled(bed))):
            part(bed, own, name, parts)
        print(json.dumps(bed.count.result()))
        return int(bool(bed.count.wrong or bed.count.lost or bed.count.hangs))


if __name__ == "__main__":
    sys.exit(main())
