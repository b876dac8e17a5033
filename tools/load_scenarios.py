"""Owns what is done to a server under load, and what must hold then. Knows how to ask and to watch, not how it was started."""

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
import psutil  # type: ignore[import-untyped]
import urllib3
from accounts import Say
from load_streams import Seen, Server, Slow, ask
from own_server import ENGINE_KEY
from prometheus_client.parser import text_string_to_metric_families

from sgl_specreason.plan import catalog
from sgl_specreason.plan.benches import load_rows
from sgl_specreason.text.prompts import load_prompts

LEAVE_WITHIN_S = 5.0
FREE_WITHIN_S = 10.0
APART_S = 0.01
LOOK_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A running server with so many places, its process, and the engines behind it."""

    server: Server
    url: str
    pid: int
    engines: tuple[str, str]
    concurrency: int
    stub: bool
    say: Say

    def asked(self, number: int) -> tuple[dict[str, Any], str]:
        """Request `number`, and what its answer must hold."""
        rows, prompt = _bench()
        row = rows[number % len(rows)]
        message = {"role": "user", "content": prompt.fill(**row.values())}
        return {"model": "specreason", "messages": [message]}, "" if self.stub else f"boxed{{{row.answer}}}"

    def gauges(self) -> dict[str, float]:
        """What the server says of itself: the sums of its metrics by name."""
        said = urllib3.request("GET", f"{self.url}/metrics", timeout=30.0).data.decode()
        found: Counter[str] = Counter()
        for family in text_string_to_metric_families(said):
            for sample in family.samples:
                found[sample.name] += sample.value  # type: ignore[assignment]
        return dict(found)

    def places(self) -> tuple[int, int]:
        """Requests that run, and that wait."""
        gauges = self.gauges()
        return int(gauges["specreason_requests_running"]), int(gauges["specreason_requests_queued"])

    def on_engines(self) -> int:
        """Requests that the engines run or hold, both together."""
        return sum(
            load["num_running_reqs"] + load["num_waiting_reqs"]
            for url in self.engines
            for load in self.of_engine(url, "/v1/loads")["loads"]
        )

    def of_engine(self, url: str, path: str) -> Any:
        headers = {"Authorization": f"Bearer {ENGINE_KEY}"}
        return orjson.loads(urllib3.request("GET", url + path, headers=headers, timeout=30.0).data)

    def size(self) -> dict[str, Any]:
        process = psutil.Process(self.pid)
        return {"rss_mb": round(process.memory_info().rss / 1e6, 1), "threads": process.num_threads()}

    def cpu_s(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)


@cache
def _bench() -> tuple[Any, Any]:
    bench = catalog.load_bench("demo")
    return load_rows(bench).rows, load_prompts()[bench.prompt]


class Watch:
    """Looks at the server's process and places while something goes on: the most there was of each."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.most: dict[str, Any] = {"rss_mb": 0.0, "threads": 0, "running": 0, "queued": 0}

    async def run(self) -> None:
        while True:
            found = self.scene.size()
            with suppress(urllib3.exceptions.HTTPError):
                running, queued = await asyncio.to_thread(self.scene.places)
                found |= {"running": running, "queued": queued}
            self.most = {name: max(value, found.get(name, value)) for name, value in self.most.items()}
            await asyncio.sleep(LOOK_S)


@asynccontextmanager
async def watched(scene: Scene) -> Any:
    watch = Watch(scene)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def streams(scene: Scene, side_by_side: int, rounds: int) -> dict[str, Any]:
    """So many clients, each of which asks `rounds` times, one request after the other."""
    await _round(scene, min(32, side_by_side), 0)  # what is imported and made once: threads of pools, too
    await settled(scene)
    before, cpu, begin = scene.size(), scene.cpu_s(), time.monotonic()
    seen: list[Seen] = []
    wrong: list[str] = []
    right = 0

    async def client(number: int) -> None:
        nonlocal right
        for turn in range(rounds):
            body, held = scene.asked(number * rounds + turn)
            found = await ask(scene.server, body)
            right += held in found.answer
            seen.append(found)

    async with watched(scene) as watch:
        await asyncio.gather(*(client(number) for number in range(side_by_side)))
        seconds, cpu = time.monotonic() - begin, scene.cpu_s() - cpu
    steps = sum(one.account.get("steps", 0) for one in seen)
    wrong += [f"{count} x {words}" for words, count in Counter(filter(None, (one.failed for one in seen))).items()]
    if watch.most["running"] > scene.concurrency:
        wrong.append(f"{watch.most['running']} places were taken of {scene.concurrency}")
    after = await settled(scene)
    for name, least in (("rss_mb", 20.0), ("threads", 8)):
        if after[name] > before[name] + max(0.1 * before[name], least):
            wrong.append(f"{name} grew from {before[name]} to {after[name]}")
    return {
        "scenario": f"streams, {side_by_side} side by side",
        "requests": len(seen),
        "errors": sum(one.failed is not None for one in seen),
        **({} if scene.stub else {"right": right}),
        "seconds": round(seconds, 2),
        "steps": steps,
        "steps_per_s": round(steps / seconds, 1),
        "chunks_per_s": round(sum(one.chunks for one in seen) / seconds, 1),
        "cpu_ms_per_step": round(1e3 * cpu / max(1, steps), 3),
        "first_text_s": spread([one.first_text_s for one in seen]),
        "between_texts_longest_s": spread([one.pause_s for one in seen]),
        "longest_silence_s": round(max(one.silence_s for one in seen), 3),
        "request_s": spread([one.seconds for one in seen]),
        "before": before,
        "most": watch.most,
        "after": after,
        "wrong": wrong,
    }


async def settled(scene: Scene, within_s: float = FREE_WITHIN_S) -> dict[str, Any]:
    """The process once nothing runs any more, or when the time is over."""
    await until(lambda: scene.places() == (0, 0), within_s)
    await asyncio.sleep(2)
    return scene.size()


async def until(holds: Callable[[], bool], within_s: float) -> float | None:
    """Seconds until something holds; None where it does not in that time."""
    begin = time.monotonic()
    while not await asyncio.to_thread(holds):
        if time.monotonic() - begin > within_s:
            return None
        await asyncio.sleep(0.05)
    return round(time.monotonic() - begin, 2)


def is_soon(seconds: float | None) -> bool:
    return seconds is not None and seconds <= FREE_WITHIN_S


async def storm(scene: Scene, clients: int) -> dict[str, Any]:
    """All ask at once, and each leaves at a random moment. Then places must be free and the engines idle."""
    await _round(scene, min(32, clients), 0)
    await settled(scene)
    before, draw = scene.size(), random.Random(0)
    stays = [draw.uniform(0, LEAVE_WITHIN_S) for _ in range(clients)]
    async with watched(scene) as watch:
        seen = await asyncio.gather(
            *(ask(scene.server, scene.asked(number)[0], leave_after_s=stay) for number, stay in enumerate(stays))
        )
        begin = time.monotonic()
        free, idle = await asyncio.gather(
            until(lambda: scene.places() == (0, 0), FREE_WITHIN_S),
            until(lambda: scene.on_engines() == 0, FREE_WITHIN_S),
        )
    scene.say(f"places free after {free} s, engines idle after {idle} s")
    wrong = [] if is_soon(free) else [f"places free after {free} s: {scene.places()}"]
    wrong += [] if is_soon(idle) else [f"engines idle after {idle} s: {scene.on_engines()}"]
    wrong += [f"{one.error}" for one in seen if one.error and not one.left]
    last = await ask(scene.server, scene.asked(0)[0])
    wrong += [f"the next request: {last.failed}"] if last.failed else []
    aborts = [scene.of_engine(url, "/aborts") for url in scene.engines] if scene.stub else []
    after = await settled(scene)
    return {
        "scenario": f"storm, {clients} clients leave within {LEAVE_WITHIN_S:.0f} s",
        "left": sum(one.left for one in seen),
        "read to the end": sum(one.done for one in seen),
        "places free after s": free,
        "engines idle after s": idle,
        **{f"aborts on {role}": each for role, each in zip(("base", "small"), aborts, strict=False)},
        "before": before,
        "most": watch.most,
        "after": after,
        "checked s after the last one left": round(time.monotonic() - begin, 2),
        "wrong": wrong,
    }


async def slow_reader(scene: Scene, others: int, rounds: int) -> dict[str, Any]:
    """Clients beside one with a long reply, in turns: it reads as fast as they do, or a byte a second."""
    await _round(scene, others, 0)
    found: dict[str, list[Seen]] = {"fast": [], "slow": []}
    wrong: list[str] = []
    ended: list[float | None] = []
    for turn in range(rounds):
        long = scene.asked(turn)[0] | {"n": 8}
        fast = asyncio.create_task(ask(scene.server, long))
        await asyncio.sleep(APART_S)
        found["fast"] += await _round(scene, others, turn)
        await fast
        slow = Slow(scene.server, long)
        await asyncio.sleep(APART_S)
        found["slow"] += await _round(scene, others, turn)
        ended.append(await until(lambda: scene.on_engines() == 0, 60))
        wrong += ["the slow reader was cut"] if slow.over else []
        await slow.close()
        if await until(lambda: scene.places() == (0, 0), FREE_WITHIN_S) is None:
            wrong.append(f"places taken after the slow reader left: {scene.places()}")
    wrong += [f"{one.failed}" for each in found.values() for one in each if one.failed]
    return {
        "scenario": f"{others} clients beside one with n=8 that reads a byte a second",
        **{
            f"{name}, beside a {speed} reader": spread(
                [getattr(one, "seconds" if name == "request_s" else name) for one in found[speed]]
            )
            for name in ("request_s", "first_text_s")
            for speed in found
        },
        "its engines' work ended after s": ended,
        "wrong": wrong,
    }


async def _round(scene: Scene, clients: int, turn: int) -> list[Seen]:
    return await asyncio.gather(*(ask(scene.server, scene.asked(clients * turn + n)[0]) for n in range(clients)))


async def fairness(scene: Scene, clients: int) -> dict[str, Any]:
    """With one place: whoever came first has its text first, one after the other."""
    await ask(scene.server, scene.asked(0)[0])
    tasks: list[asyncio.Task[Seen]] = []
    for number in range(clients):
        coroutine: Coroutine[Any, Any, Seen] = ask(scene.server, scene.asked(number)[0])
        tasks.append(asyncio.create_task(coroutine))
        await asyncio.sleep(APART_S)
    seen = await asyncio.gather(*tasks)
    wrong = [f"{one.failed}" for one in seen if one.failed]
    firsts = [one.sent_s + (one.first_text_s or 0.0) for one in seen]
    order = sorted(range(clients), key=firsts.__getitem__)
    off = max(abs(place - number) for place, number in enumerate(order))
    wrong += [f"one came {off} places too early or too late"] if off > 1 else []
    return {"scenario": f"first come, first served, {clients} for one place", "most_out_of_order": off, "wrong": wrong}


def spread(values: Sequence[float | None]) -> dict[str, float]:
    found = sorted(value for value in values if value is not None)
    if not found:
        return {}
    p95 = found[min(len(found) - 1, int(0.95 * len(found)))]
    return {"p50": round(statistics.median(found), 3), "p95": round(p95, 3), "max": round(found[-1], 3)}
