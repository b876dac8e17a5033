"""Owns the replicas of an engine: several of one kind on cards of their own, with SGLang's router in front of them.

Knows nothing of requests. What the router does was tried out with sglang-router 0.3.2 (docs/cluster.md).
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Literal

from sgl_specreason.engines import servers
from sgl_specreason.engines.keeper import Engine, free_port
from sgl_specreason.engines.servers import EngineSpec, number_given
from sgl_specreason.engines.transport import Health
from sgl_specreason.errors import UsageError
from sgl_specreason.text.steps import Author
from sgl_specreason.words import counted

MOST_REPLICAS = 64
NOWHERE = "http://127.0.0.1:9"
SIZES = {
    "tp": ("--tensor-parallel-size", "--tp-size", "--tp"),
    "pp": ("--pipeline-parallel-size", "--pp-size", "--pp"),
    "dp": ("--data-parallel-size", "--dp-size", "--dp"),
    "nodes": ("--nnodes",),
    "first card": ("--base-gpu-id",),
}
"""SGLang's names for how an engine is spread over cards and machines (0.5.23)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSpec:
    """How the router before the replicas at `workers` is started.

    A trajectory's requests carry its key, and the policy `manual` sends every one of them to the same replica; `cache_aware`
    would send all trajectories to one, since their prompts begin alike. Retries are the client's, which counts them. The
    circuit breaker is off, for it takes a replica out that refuses ten requests which are too long. It reads no
    tokenizer: requests hold token ids, and it would look for one on the hub.
    Other policies are for comparison.
    """

    role: Author
    model: str
    workers: tuple[str, ...]
    api_key: str = field(repr=False)
    metrics_port: int | str = field(default_factory=free_port)
    policy: Literal["manual", "cache_aware", "round_robin"] = "manual"

    @property
    def title(self) -> str:
        return f"{self.role} router"

    def is_ready(self, url: str) -> bool:
        """Whether it knows a replica that works."""
        return bool(servers.said(url, "/readiness"))

    @property
    def env(self) -> dict[str, str]:
        return {"HF_ENDPOINT": NOWHERE, "NO_COLOR": "1"}

    def command(self, port: int | str, module: str = "sgl_specreason.engines.route") -> list[str]:
        """The command line that serves it on 127.0.0.1:`port`, with the key in $SPECREASON_ENGINE_KEY."""
        return [
            sys.executable, "-m", module, "--host", "127.0.0.1", "--port", str(port),
            "--prometheus-host", "127.0.0.1", "--prometheus-port", str(self.metrics_port),
            "--policy", self.policy, "--assignment-mode", "min_load",
            "--disable-retries", "--disable-circuit-breaker",
            "--health-check-interval-secs", "2", "--health-check-timeout-secs", "25",
            "--health-failure-threshold", "1", "--health-success-threshold", "1",
            "--worker-startup-check-interval", "2", "--request-timeout-secs", "86400", "--log-level", "warn",
            "--worker-urls", *self.workers,
        ]  # fmt: skip

    def shell(self, port: int | str = "PORT") -> str:
        """The same for a person to read, with its environment and without its key."""
        settings = [f"{key}={shlex.quote(value)}" for key, value in self.env.items()]
        return " ".join([*settings, shlex.join(self.command(port, "sglang_router.launch_router"))])


def check(role: Author, count: int) -> None:
    """Raises UsageError where so many replicas cannot be started here."""
    option = f"--{role}-replicas"
    if not 1 <= count <= MOST_REPLICAS:
        raise UsageError(f"{option} {count}: must be from 1 to {MOST_REPLICAS}")
    if count > 1 and find_spec("sglang_router") is None:
        raise UsageError(f"{option} {count} needs sglang-router: pip install -e '.[cluster]' in your checkout")


def machines(args: Mapping[Author, Sequence[str]]) -> int:
    """Over how many machines the most spread engine of a pair goes, each with cards like this one's."""
    return max([1, *(number_given(words, *SIZES["nodes"]) or 1 for words in args.values())])


def spread(spec: EngineSpec, replicas: int, cards: int) -> EngineSpec:
    """`spec` with this many replicas, each in a group of `cards` GPUs (0: a machine without any).

    Raises UsageError where its parallelism does not fit the group.
    """
    sizes = {name: number_given(spec.args, *options) for name, options in SIZES.items()}
    nodes = sizes["nodes"] or 1
    own = (sizes["tp"] or 1) * (sizes["pp"] or 1)
    if sizes["dp"] and "--enable-dp-attention" not in spec.args:
        own *= sizes["dp"]
    words = f"{spec.role}: its arguments spread it over {counted(own, 'card')}"
    if nodes > 1 and replicas > 1:
        raise UsageError(
            f"--{spec.role}-replicas {replicas} with --nnodes {nodes}: start such engines yourself and give their router's URL"
        )
    if nodes > 1 and (sizes["dp"] or 1) > 1:
        raise UsageError(
            f"{spec.role}: SGLang has no --dp-size over several machines: one engine each, behind a router"
        )
    if own % nodes:
        raise UsageError(f"{words}, which {nodes} machines (--nnodes) cannot share evenly")
    last = (sizes["first card"] or 0) + own // nodes
    if cards and last > cards:
        raise UsageError(f"{words}, up to card {last - 1} of each machine, and a replica has {cards}")
    return replace(spec, replicas=replicas, cards_apart=cards)


def copies(spec: EngineSpec) -> list[EngineSpec]:
    """Each replica's own spec, the first card moved on by the size of a group."""
    if spec.replicas == 1:
        return [spec]
    first = number_given(spec.args, *SIZES["first card"]) or 0
    found = []
    for number in range(spec.replicas):
        card = first + number * spec.cards_apart
        placed = ("--base-gpu-id", str(card)) if spec.cards_apart else ()
        found.append(replace(spec, args=(*spec.args, *placed), replicas=1, number=number + 1))
    return found


def commands(spec: EngineSpec) -> list[str]:
    """What is started for an engine, in order, for a person to read; and what to start on the other machines that it needs."""
    lines = [copy.shell() for copy in copies(spec)]
    if spec.replicas > 1:
        workers = tuple(f"http://127.0.0.1:PORT-{number + 1}" for number in range(spec.replicas))
        router = RouterSpec(
            role=spec.role, model=spec.model, workers=workers, api_key=spec.api_key, metrics_port="METRICS-PORT"
        )
        lines.append(router.shell())
    for rank in range(1, number_given(spec.args, *SIZES["nodes"]) or 1):
        other = replace(spec, args=(*spec.args, "--node-rank", str(rank)))
        lines.append(f"on machine {rank} of {spec.role}, by hand: {other.shell()}")
    return lines


def attached(role: Author, url: str, api_key: str | None, health: Health) -> Engine:
    """A server or a router that runs already. Raises UsageError if no SGLang server answers at `url`."""
    engine = servers.attached(role, url, api_key, health)
    listed = servers.said(url, "/workers", api_key).get("workers")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    found = [address for entry in entries if _is_address(address := str(entry.get("url")))]
    reached = tuple(address for address in found if servers.probe(address, api_key))
    return replace(engine, workers=reached if len(reached) == len(found) else (), replicas=len(found) or 1)


def _is_address(word: str) -> bool:
    return word.startswith(("http://", "https://")) and word.isprintable()


def unknown(engine: Engine) -> str | None:
    """What cannot be had of a router whose replicas cannot be reached, in words."""
    if engine.replicas == 1 or engine.workers:
        return None
    return (
        f"{engine.role}: {engine.url} is a router before {engine.replicas} replicas that cannot be reached from here: how they "
        "are served is not recorded, dropped drafts run to their end, and no request has a priority"
    )
