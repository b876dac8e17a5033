"""Owns which engines a run has up, and how long: those that run already, or its own, for the whole run or for one stage of it.

Knows nothing of what is done on them.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgl_specreason.engines import replicas, startup
from sgl_specreason.engines.keeper import Engine, Progress
from sgl_specreason.engines.servers import ROLES, EngineSpec
from sgl_specreason.engines.transport import Health
from sgl_specreason.errors import UsageError
from sgl_specreason.plan.plan import Plan
from sgl_specreason.text.chat import ChatFormat, load_chats
from sgl_specreason.text.steps import Author

if TYPE_CHECKING:
    from sgl_specreason.engines.endpoint import Endpoint

Engines = dict[Author, Engine]
Chats = dict[Author, ChatFormat]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How the engines are reached: `urls` of running servers in the order of ROLES, or None where they are to be started.

    `api_key` is theirs, or is for the ones that are started. A request has `request_timeout_s` seconds; a running server that
    does not answer is waited for during `patience_s`. `keep_cache` says that their caches are not emptied; None: those of
    running servers are not, since others may use them.
    """

    urls: tuple[str, str] | None
    api_key: str | None
    request_timeout_s: float
    patience_s: float
    keep_cache: bool | None = None

    def __post_init__(self) -> None:
        if self.api_key and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise UsageError("--api-key: has characters that no HTTP header can hold: printable ASCII is wanted")

    @property
    def keeps_cache(self) -> bool:
        return self.urls is not None if self.keep_cache is None else self.keep_cache


def attached(plan: Plan, access: Access, say: Progress) -> tuple[Plan, Engines]:
    """The servers that run already, and the plan with what they serve; none where engines are to be started.

    Raises UsageError where one does not answer.
    """
    if access.urls is None:
        return plan, {}
    engines: Engines = {
        role: replicas.attached(role, url, access.api_key, Health(patience_s=access.patience_s))
        for role, url in zip(ROLES, access.urls, strict=True)
    }
    for words in filter(None, map(replicas.unknown, engines.values())):
        say(words)
    places = {
        role: tuple(dict.fromkeys(filter(None, (engine.tokenizer, engine.model, plan.models[role]))))
        for role, engine in engines.items()
    }
    models = {role: engine.model for role, engine in engines.items()}
    counts = {role: engine.replicas for role, engine in engines.items()}
    return replace(plan, models=models, tokenizers=places, replicas=counts), engines


@dataclass(frozen=True, slots=True, kw_only=True)
class Starts:
    """The starts of a plan's engines. Their logs go to `logs`."""

    plan: Plan
    access: Access
    logs: Path
    say: Progress

    def for_the_run(self) -> AbstractContextManager[Engines]:
        """Small's engine, which starts first: what it leaves free, base shares out. On a CPU both, side by side."""
        specs = [self._keyed(self.plan.engine(role)) for role in ROLES]
        return startup.started(specs if all(spec.on_cpu for spec in specs) else specs[:1], self.logs, say=self.say)

    def for_a_stage(self, running: Engines, *, speculating: bool) -> AbstractContextManager[Engines]:
        """Base's engine where it is not `running`, with token-level speculation or without: each needs a start of its own."""
        if "base" in running:
            return nullcontext({})
        spec = self._keyed(self.plan.engine("base", speculating=speculating))
        return startup.started([spec], self.logs / "decode" if speculating else self.logs, say=self.say)

    def _keyed(self, spec: EngineSpec) -> EngineSpec:
        return replace(spec, api_key=self.access.api_key or spec.api_key)


def chats_of(plan: Plan) -> Chats:
    """The chat formats of the plan's models, by role."""
    return load_chats(plan.tokenizer_places, plan.think_tags, trust_remote_code=plan.trust_remote_code, day=plan.day)


def importing() -> threading.Thread:
    """SGLang takes seconds to import: while the engines start, and not when they are up."""
    thread = threading.Thread(target=import_module, args=("sgl_specreason.method.program",), daemon=True)
    thread.start()
    return thread


@contextmanager
def connected(
    engines: Engines, chats: Chats, access: Access, kind: "type[Endpoint]", connections: int
) -> "Iterator[dict[Author, Endpoint]]":
    """Endpoints of this kind over running engines; their requests end with this."""
    with ExitStack() as stack:
        endpoints = {}
        for role, engine in engines.items():
            endpoints[role] = kind(
                engine.url,
                role=role,
                tokenizer=chats[role].tokenizer,
                vocabulary=chats[role].vocabulary,
                api_key=engine.api_key,
                timeout_s=access.request_timeout_s,
                health=engine.health,
                workers=engine.workers,
                connections=connections,
            )
            stack.callback(endpoints[role].stop)
        yield endpoints


def check_served(base: dict[str, Any], *, speculating: bool) -> None:
    """Raises UsageError where base, by its /server_info, speculates and its methods do not, or the other way round."""
    algorithm = base.get("speculative_algorithm")
    if algorithm and not speculating:
        raise UsageError(
            f"base is served with {algorithm} speculation: its methods are base+decode and specreason+decode"
        )
    if speculating and base and not algorithm:
        raise UsageError("base is served without token-level speculation: methods with +decode need it")
