"""Owns the choice of the two models and of how their engines are started on this machine. Starts nothing itself."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sgl_specreason.engines import replicas
from sgl_specreason.engines.cards import order
from sgl_specreason.engines.servers import ROLES, EngineSpec, cpu_args, cpu_env
from sgl_specreason.errors import UsageError
from sgl_specreason.plan import catalog, gpus
from sgl_specreason.plan.catalog import Bench, Model, Pair
from sgl_specreason.plan.memory import TRAJECTORY_TOKENS, Layout
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.placement import (
    Placement,
    check_cards,
    fitting,
    in_words,
    needs_gpu,
    place,
    remedies,
)
from sgl_specreason.plan.plan import ATTACHED
from sgl_specreason.text.steps import Author

LONGEST_PART = 48
AUTO = "auto"
COMFORT = 3
"""Side by side, so many trajectories should have room where there is a choice of pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The pair, why it was chosen, and how its engines are started. `specs` is empty where running servers are used."""

    pair: Pair
    why: str = ""
    specs: tuple[EngineSpec, ...] = ()
    hardware: str
    placement: Placement | None = None


def engines_for(options: Options, bench: Bench) -> Choice:
    """The pair and how to start it. Attached servers name their own models later. Raises UsageError for what cannot fit."""
    counts: dict[Author, int] = {"small": options.small_replicas, "base": options.base_replicas}
    for role, count in counts.items():
        replicas.check(role, count)
    if (options.base_model is None) != (options.small_model is None):
        raise UsageError("--base-model and --small-model go together: give both or neither")
    if options.base_url is not None:
        return _attached(options)
    cards = gpus.named(options.gpus) if options.gpus else gpus.found()
    pair, why = _pair(options, bench, cards)
    if cards:
        check_cards(pair, cards)
        mine = gpus.of_one_replica(cards, counts)
        placement = place(pair, mine * replicas.machines(pair.args))
        specs = tuple(replicas.spread(_on_gpu(placement, role), counts[role], len(mine)) for role in ROLES)
        return Choice(pair=pair, why=why, specs=specs, hardware=in_words(cards), placement=placement)
    if needs_gpu(pair):
        raise UsageError(
            f"pair {pair.name} needs GPUs ({' or '.join(remedies(pair, cards)) or 'several'}) and this machine has no GPU; "
            "try --pair demo, or --base-url and --small-url of running servers; --gpus with --dry-run plans for other machines"
        )
    specs = tuple(replicas.spread(_on_cpu(pair, role), counts[role], 0) for role in ROLES)
    return Choice(pair=pair, why=why, specs=specs, hardware="none (CPU, pure torch)")


def _attached(options: Options) -> Choice:
    """Running servers: a pair's tags and policy are those of what they serve, its models where tokenizers are to be had."""
    if max(options.base_replicas, options.small_replicas) > 1:
        raise UsageError("--base-replicas and --small-replicas start engines: give a running router as --base-url")
    if options.gpus:
        raise UsageError("--gpus is for engines that would be started, not for running servers")
    pair = Pair(name=ATTACHED, title="running servers", base=Model(model=""), small=Model(model=""))
    if options.pair == AUTO:
        raise UsageError(
            "--pair auto is for engines that would be started: name the pair that the servers have, or none"
        )
    if options.pair or options.base_model:
        pair, _ = _pair(options, None, ())
    return Choice(pair=pair, hardware="unknown (attached servers)")


def _pair(options: Options, bench: Bench | None, cards: Sequence[gpus.Gpu]) -> tuple[Pair, str]:
    """The pair that was asked for, or the one for these cards and why."""
    if options.base_model is not None and options.small_model is not None:
        if options.pair:
            raise UsageError("give --pair or --base-model and --small-model, not both")
        name = "+".join(map(_part, (options.base_model, options.small_model)))
        base, small = Model(model=options.base_model), Model(model=options.small_model)
        return Pair(name=name, title="given models", base=base, small=small), ""
    if options.pair and options.pair != AUTO:
        return catalog.load_pair(options.pair), ""
    assert bench is not None
    return _automatic_pair(bench, cards)


def _automatic_pair(bench: Bench, cards: Sequence[gpus.Gpu]) -> tuple[Pair, str]:
    """The pair for these cards, and why: of those with room for COMFORT trajectories the one with the largest base."""
    if bench.source.generator == "demo":
        return catalog.load_pair("demo"), "pair auto: demo, which was trained for this bench"
    if not all(card.memory_gb for card in cards):
        raise UsageError(f"--pair auto: {in_words(cards)}: a pair cannot be chosen for it; name one with --pair")
    pairs = [pair for name in catalog.names("pairs") if (pair := catalog.load_pair(name)).auto]
    found = [(pair, layouts[0]) for pair in pairs if _suits(pair, cards) and (layouts := fitting(pair, cards))]
    if not found:
        least = min(pairs, key=lambda pair: pair.base.shape.parameters if pair.base.shape else math.inf, default=None)
        raise UsageError(
            f"--bench {bench.name}: {in_words(cards)} found, and every pair that can answer it needs more"
            + (f" (the smallest, {least.name}: {' or '.join(remedies(least, cards))})" if least else "")
            + "; use --base-url and --small-url of running servers, or --pair demo to try the plumbing (its tiny models cannot "
            "answer this)"
        )
    comfortable = [item for item in found if item[1].tokens >= COMFORT * TRAJECTORY_TOKENS]
    pair, layout = max(comfortable, key=_size) if comfortable else max(found, key=lambda item: item[1].tokens)
    rule = f"the largest base with room for {COMFORT} trajectories" if comfortable else "the roomiest of those that fit"
    room = f"{layout.tokens:,} tokens in each cache are {layout.tokens // TRAJECTORY_TOKENS} of {TRAJECTORY_TOKENS:,}"
    return pair, f"pair auto: {pair.name} on {in_words(cards)}: {rule} ({room})"


def _size(item: tuple[Pair, Layout]) -> tuple[int, bool, int]:
    """The base's parameters; of the same base, one at 16 bits; then the roomier one."""
    pair, layout = item
    parameters = pair.base.shape.parameters if pair.base.shape else 0
    return parameters, pair.base.quantization == "none", layout.tokens


def _suits(pair: Pair, cards: Sequence[gpus.Gpu]) -> bool:
    """8 bits only where the cards are known to compute with them."""
    return pair.base.quantization == "none" or all(card.capability and card.capability >= gpus.FP8 for card in cards)


def _on_gpu(placement: Placement, role: Author) -> EngineSpec:
    return _spec(placement.pair, role, placement.args(role), order() | placement.env(role))


def _on_cpu(pair: Pair, role: Author) -> EngineSpec:
    return _spec(pair, role, cpu_args(pair.max_total_tokens.get(role, 32768)), cpu_env())


def _spec(pair: Pair, role: Author, args: tuple[str, ...], env: dict[str, str]) -> EngineSpec:
    trust = ("--trust-remote-code",) if pair.trust_remote_code else ()
    # SGLang takes priorities with its own order of requests only
    priority = () if "--schedule-policy" in args else ("--enable-priority-scheduling",)
    return EngineSpec(role=role, model=pair.model(role), args=(*args, *priority, *trust), env=env)


def _part(model: str) -> str:
    """What of a model's name can stand in a folder's name."""
    name = Path(model).name if Path(model).is_absolute() else model
    return re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)[:LONGEST_PART]
