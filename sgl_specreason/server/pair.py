"""Owns the two engines that questions go to, started or attached: up together, and what each of them holds.

Knows no questions.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sgl_specreason.engines.keeper import Progress
from sgl_specreason.errors import UsageError
from sgl_specreason.method.policy import Policy
from sgl_specreason.plan import catalog, limits
from sgl_specreason.plan.checkpoints import config_file
from sgl_specreason.plan.limits import Room
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.plan import Plan, Variant
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.run import serving
from sgl_specreason.run.serving import Access, Chats, Engines, Starts
from sgl_specreason.text.chat import load_chats
from sgl_specreason.text.steps import Author

if TYPE_CHECKING:
    from sgl_specreason.engines.endpoint import Endpoint

SAMPLING = ("temperature", "top_p", "top_k", "min_p")
INCREMENTAL = "--incremental-streaming-output"
"""Without it SGLang sends a text as a whole with every token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two engines that are up. `policy` is what questions are answered with that ask for nothing else.

    `rooms` are the tokens of one trajectory that each engine takes, `caches` those that it holds at once; one that does not say
    has none.
    """

    plan: Plan
    policy: Policy
    chats: Chats
    engines: Engines
    endpoints: "dict[Author, Endpoint]"
    rooms: dict[Author, Room]
    caches: dict[Author, int]

    @property
    def max_model_len(self) -> int | None:
        """The most tokens that a conversation and its reply may have, by the smaller engine."""
        return min((room.tokens for room in self.rooms.values()), default=None)

    @property
    def takes_min_p(self) -> bool:
        return all(endpoint.takes_min_p for endpoint in self.endpoints.values())

    def plan_of(self, policy: Policy) -> Plan:
        """The plan of questions that are answered with this policy."""
        return replace(self.plan, variants=(Variant("specreason", policy),))


def planned(asked: Options) -> Plan:
    """The plan for a pair that answers questions. Raises UsageError; starts and writes nothing."""
    return resolve(replace(asked, methods=("specreason",)))


@contextmanager
def opened(
    plan: Plan, asked: Options, access: Access, *, logs: Path, say: Progress, connections: int
) -> Iterator[Pair]:
    """Brings both engines up, or attaches to those that run; ends what it started.

    Raises UsageError and EngineError as a run of a bench does.
    """
    plan, attached = serving.attached(plan, access, say)
    chats = load_chats(plan.tokenizer_places, plan.think_tags, trust_remote_code=plan.trust_remote_code, day=plan.day)
    if plan.why:
        say(plan.why)
    if not attached:
        limits.check_sizes(plan.specs)
    specs = tuple(replace(spec, args=(*spec.args, INCREMENTAL)) for spec in plan.specs)
    starts = Starts(plan=replace(plan, specs=specs), access=access, logs=logs, say=say)
    with ExitStack() as stack:
        importing = serving.importing()
        engines = attached or stack.enter_context(starts.for_the_run())
        engines = engines | stack.enter_context(starts.for_a_stage(engines, speculating=False))
        importing.join()
        from sgl_specreason.engines.endpoint import Endpoint

        endpoints = stack.enter_context(serving.connected(engines, chats, access, Endpoint, connections))
        infos = {role: endpoint.server_info for role, endpoint in endpoints.items()}
        for role, info in infos.items():
            if info.get("strip_thinking_cache"):
                say(f"Warning: {role} runs with --strip-thinking-cache: each step is computed anew")
        yield Pair(
            plan=plan,
            policy=_policy(plan, asked, takes_min_p=all(one.takes_min_p for one in endpoints.values())),
            chats=chats,
            engines=engines,
            endpoints=endpoints,
            rooms=limits.served(infos),
            caches={
                role: tokens * max(1, len(endpoints[role].replicas))
                for role, info in infos.items()
                if isinstance(tokens := info.get("max_total_num_tokens"), int)
            },
        )


def _policy(plan: Plan, asked: Options, *, takes_min_p: bool) -> Policy:
    """The plan's, in which base's own advice about sampling comes before a preset's, as in SGLang's API."""
    policy = plan.variants[0].policy
    named = {name for name, value in asked.policy.items() if value is not None}
    if asked.pair or plan.pair in catalog.names("pairs"):
        named |= set(catalog.load_pair(asked.pair or plan.pair).policy)
    if not takes_min_p:
        named.add("min_p")
    advised = {name: value for name, value in _advice(plan.models["base"]).items() if name not in named}
    try:
        return structs.replace(policy, **advised)
    except UsageError:  # what a model says of itself is not the user's fault
        return policy


def _advice(model: str) -> dict[str, Any]:
    """What a model's generation_config.json says about sampling, where that file is here."""
    config = config_file(model)
    if config is None:
        return {}
    try:
        said = json.loads((Path(config).parent / "generation_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(said, dict):
        return {}
    if said.get("do_sample") is False:
        return {"temperature": 0.0}
    found = {name: said[name] for name in SAMPLING if isinstance(said.get(name), int | float)}
    if not found.get("top_k", -1):
        found["top_k"] = -1
    return found
