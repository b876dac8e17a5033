"""Owns the choice of the two models and of how their engines are started on this machine. Starts nothing itself."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sgl_specreason import catalog, gpus
from sgl_specreason.catalog import Bench, Pair
from sgl_specreason.engines import EngineSpec, cpu_args, cpu_env
from sgl_specreason.errors import UsageError
from sgl_specreason.policy import Author

if TYPE_CHECKING:
    from sgl_specreason.plan import Options

ROLES: tuple[Author, ...] = ("small", "base")
LONGEST_PART = 48


def engines_for(options: "Options", bench: Bench) -> tuple[Pair, tuple[EngineSpec, ...], str]:
    """The pair, how to start it, and the hardware in words. Attached servers name their own models later."""
    if options.base_url is not None:
        pair = Pair(name="attached", title="running servers", base="", small="")
        return pair, (), "unknown (attached servers)"
    if (options.base_model is None) != (options.small_model is None):
        raise UsageError("--base-model and --small-model go together: give both or neither")
    cards = gpus.found()
    if options.base_model is not None and options.small_model is not None:
        if options.pair:
            raise UsageError("give --pair or --base-model and --small-model, not both")
        pair = Pair(
            name="+".join(map(_part, (options.base_model, options.small_model))),
            title="given models",
            base=options.base_model,
            small=options.small_model,
        )
    elif options.pair:
        pair = catalog.load_pair(options.pair)
    else:
        pair = _automatic_pair(bench, cards)
    largest = max((card.memory_gb for card in cards), default=0.0)
    if pair.gpu_gb > largest:
        words = f"{largest:.0f} GB at most" if cards else "no GPU"
        raise UsageError(
            f"pair {pair.name} needs a GPU with {pair.gpu_gb} GB and this machine has {words}; "
            "try --pair demo, a smaller pair (--list), or --base-url and --small-url of running servers"
        )
    specs = tuple(_spec(pair, role, on_gpu=bool(cards)) for role in ROLES)
    names = [f"{card.name} ({card.memory_gb:.0f} GB)" for card in cards]
    return pair, specs, ", ".join(names) or "none (CPU, pure torch)"


def _automatic_pair(bench: Bench, cards: list[gpus.Gpu]) -> Pair:
    if bench.source.generator == "demo":
        return catalog.load_pair("demo")
    largest = max((card.memory_gb for card in cards), default=0.0)
    pairs = [catalog.load_pair(name) for name in catalog.names("pairs")]
    fitting = [pair for pair in pairs if 0 < pair.gpu_gb <= largest]
    if not fitting:
        words = f"only {largest:.0f} GB of GPU memory" if cards else "no GPU"
        raise UsageError(
            f"--bench {bench.name}: {words} found, and every pair that can answer it needs more; use --base-url and "
            "--small-url of running servers, or --pair demo to try the plumbing (its tiny models cannot answer this)"
        )
    return max(fitting, key=lambda pair: pair.gpu_gb)


def _spec(pair: Pair, role: Author, *, on_gpu: bool) -> EngineSpec:
    tokens = pair.max_total_tokens.get(role)
    if not on_gpu:
        args, env = cpu_args(tokens or 32768), cpu_env()
    else:
        pinned = ["--max-total-tokens", str(tokens)] if tokens else []
        args, env = (*pair.args.get(role, []), *pinned), {}
    trust = ("--trust-remote-code",) if pair.trust_remote_code else ()
    # SGLang takes priorities with its own order of requests only
    priority = () if "--schedule-policy" in args else ("--enable-priority-scheduling",)
    return EngineSpec(role=role, model=pair.model(role), args=(*args, *priority, *trust), env=env)


def _part(model: str) -> str:
    """What of a model's name can stand in a folder's name."""
    return re.sub(r"[^\w.+-]", "_", short_name(model), flags=re.ASCII)[:LONGEST_PART]


def short_name(model: str) -> str:
    """A model's name without the folders of this machine: "org/name" for a hub id, the last part of a path."""
    if model.startswith(str(catalog.BUNDLED)):
        return f"bundled-{Path(model).name}"
    return Path(model).name if Path(model).is_absolute() else model.replace("/", "_")
