"""The real server on a free port: over scripted engines, or over any pair that is up already."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import httpx
import uvicorn
from fake_engine import CharTokenizer, FakeEngine, Payload, digits

from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.engines.keeper import Engine
from sgl_specreason.engines.transport import Health
from sgl_specreason.method.policy import Policy
from sgl_specreason.plan.limits import Room
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.plan import Plan
from sgl_specreason.server.api import Api, served
from sgl_specreason.server.call import SpecReason
from sgl_specreason.server.completions import Settings
from sgl_specreason.server.desk import Desk
from sgl_specreason.server.pair import Pair, planned
from sgl_specreason.server.watch import Watch
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.steps import Author

Json = dict[str, Any]
ROLES: tuple[Author, Author] = ("base", "small")
OPENED = "<|assistant|><think>\n"
POLICY: Json = {"budget_tokens": 500, "step_tokens": 100, "answer_tokens": 100, "temperature": 0.0, "lookahead": 0}
QUESTION: list[Json] = [{"role": "user", "content": "What is 1 + 2?"}]


@dataclass(frozen=True, kw_only=True)
class Story:
    """What two models say to every question: each its own thought, step by step, and the answer.

    Base rejects the drafts that hold `bad`. Where the thought has as many blank lines as a model's has steps, its last one comes
    again. Nothing is remembered: any number of questions may be asked at once.
    """

    small: tuple[str, ...] = ("One.\n\n", "Bad two.\n\n", "Three.</think>")
    base: tuple[str, ...] = ("I.\n\n", "Two.\n\n", "III.</think>")
    answer: str = "\n\nThe answer is 3."
    bad: str = "Bad"

    def says(self, role: Author, prompt: str, payload: Payload) -> str | list[float]:
        thought = prompt.rpartition(OPENED)[2]
        if payload["sampling_params"]["max_new_tokens"] == 0:
            thought = thought.partition("<|end|>")[0].removesuffix("</think>")
            step = thought.removesuffix("\n\n").rpartition("\n\n")[2]
            return digits(2 if self.bad in step else 9)
        if "</think>" in thought:
            return self.answer.removeprefix(thought.partition("</think>")[2])
        steps = self.small if role == "small" else self.base
        return "".join(steps[min(thought.count("\n\n"), len(steps) - 1) :])

    @property
    def thought(self) -> str:
        """What the two think together."""
        steps = [theirs if self.bad in ours else ours for ours, theirs in zip(self.small, self.base, strict=True)]
        return "".join(steps).removesuffix("</think>").strip()


@cache
def demo_plan() -> Plan:
    return planned(Options(pair="demo", policy={}))


@contextmanager
def scripted_engines(story: Story | None = None) -> Iterator[dict[Author, FakeEngine]]:
    """Two engines that tell a story."""
    told = story or Story()
    with ExitStack() as stack:
        engines: dict[Author, FakeEngine] = {}
        for role in ROLES:
            engines[role] = FakeEngine(lambda prompt, payload, role=role: told.says(role, prompt, payload))  # type: ignore[misc]
            stack.callback(engines[role].close)
        yield engines


@contextmanager
def scripted_house(
    engines: Mapping[Author, FakeEngine],
    *,
    room: int | None = 10_000,
    cache: int | None = 100_000,
    places: int = 16,
    queue: int = 64,
    think_end: str = "</think>",
    patience_s: float = 1.0,
    timeout_s: float = 10.0,
    **policy: Any,
) -> Iterator[SpecReason]:
    """The Python call over scripted engines: tokens are characters, each engine takes `room` of them and holds `cache`."""
    think_start = "<think>" if think_end else ""
    chats = {
        role: ChatFormat(tokenizer=CharTokenizer(), think_start=think_start, think_end=think_end) for role in ROLES
    }
    health = {role: Health(patience_s=patience_s) for role in ROLES}
    with ExitStack() as stack:
        endpoints = {}
        for role in ROLES:
            endpoints[role] = Endpoint(
                engines[role].url,
                role=role,
                tokenizer=chats[role].tokenizer,
                connections=4 * places,
                timeout_s=timeout_s,
                health=health[role],
            )
            stack.callback(endpoints[role].stop)
        pair = Pair(
            plan=replace(demo_plan(), models={"base": "org/Base", "small": "org/Small"}),
            policy=Policy(**POLICY | policy),
            chats=chats,
            engines={
                role: Engine(role=role, url=engines[role].url, model=f"org/{role}", health=health[role])
                for role in ROLES
            },
            endpoints=endpoints,
            rooms={} if room is None else {role: Room(tokens=room, remedy="") for role in ROLES},
            caches={} if cache is None else dict.fromkeys(ROLES, cache),
        )
        with SpecReason(pair, Desk(places=places, rooms=pair.caches, queue=queue), stack.pop_all()) as house:
            yield house


@dataclass(kw_only=True)
class Running:
    """A server that answers, and what is behind it."""

    url: str
    api: Api
    engines: Mapping[Author, FakeEngine] = field(default_factory=dict)

    @property
    def house(self) -> SpecReason:
        return self.api.house

    def client(self, **options: Any) -> httpx.Client:
        """A client with connections of its own."""
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, **options)

    def post(
        self, body: Json | None = None, *, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        """A chat completion, whole: QUESTION with these fields, or this body."""
        with self.client() as client:
            asked = {"messages": QUESTION, **fields} if body is None else body
            return client.post("/v1/chat/completions", json=asked, headers=headers)

    def ask(self, **fields: Any) -> Json:
        """The reply to it."""
        response = self.post(**fields)
        assert response.status_code == 200, response.text
        found: Json = response.json()
        return found

    def stream(self, **fields: Any) -> list[Json]:
        """Its chunks, if it is streamed."""
        response = self.post(stream=True, **fields)
        assert response.status_code == 200, response.text
        return chunks_of(response.text)

    def get(self, path: str, **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.get(path, **options)

    def settles(self, seconds: float = 5.0) -> bool:
        """Whether every place is free, and no engine writes, within so many seconds."""
        return until(
            lambda: (
                not self.house.desk.running
                and not self.house.desk.waiting
                and not any(engine.running for engine in self.engines.values())
            ),
            seconds,
        )


@contextmanager
def serving(
    house: SpecReason,
    *,
    engines: Mapping[Author, FakeEngine] | None = None,
    name: str = "specreason",
    thresholds: Mapping[str, float] | None = None,
    away_s: float = 30.0,
    **settings: Any,
) -> Iterator[Running]:
    """The application over a pair that is up, served until the block ends. `settings` are completions.Settings'.

    Engines that have not answered for `away_s` are not waited for.
    """
    watch = Watch(house.pair.engines, patience_s=away_s)
    api = Api(house, served(house.pair, name, thresholds or {}), watch, Settings(**settings))
    config = uvicorn.Config(
        api.app, port=0, interface="asgi3", log_config=None, access_log=False, lifespan="off", server_header=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        assert until(lambda: server.started, 10)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Running(url=f"http://127.0.0.1:{port}", api=api, engines=engines or {})
    finally:
        watch.close()
        server.should_exit = server.force_exit = True
        thread.join(10)


@contextmanager
def scripted_server(story: Story | None = None, *, settings: Json | None = None, **house: Any) -> Iterator[Running]:
    """The application over two engines that tell a story. `house` is for `scripted_house`, `settings` for `serving`."""
    with (
        scripted_engines(story) as engines,
        scripted_house(engines, **house) as made,
        serving(made, engines=engines, **(settings or {})) as running,
    ):
        yield running


def chunks_of(text: str) -> list[Json]:
    """The events of a stream, which ends with [DONE] and has nothing in it but data."""
    *events, last, nothing = text.split("\n\n")
    assert (last, nothing) == ("data: [DONE]", "")
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]


def joined(chunks: list[Json], key: str, index: int = 0) -> str:
    """The texts of one choice under this key of its deltas."""
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(delta.get(key) or "" for delta in deltas)


def until(true: Callable[[], object], seconds: float = 5.0) -> bool:
    """Whether it has come true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
