"""Owns whether a pair fits given cards, and what would make it fit, in words. Starts nothing, and chooses no seats."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from msgspec.structs import replace

from sgl_specreason.engines.cards import Gpu
from sgl_specreason.engines.decode import Decode
from sgl_specreason.engines.replicas import SIZES
from sgl_specreason.engines.servers import ROLES, number_given
from sgl_specreason.plan import checkpoints, gpus
from sgl_specreason.plan.catalog import Model, Pair
from sgl_specreason.plan.demands import Demand
from sgl_specreason.plan.gpus import FP8
from sgl_specreason.plan.memory import DRIVER_GB, STATES, TRAJECTORY_TOKENS, Layout, layouts
from sgl_specreason.plan.shapes import GIB, Shape
from sgl_specreason.text.steps import Author

CPU_GB = 2.0
"""Models with more weights are not for pure torch on a CPU."""
MORE_CARDS = (2, 4, 8)


def fitting(pair: Pair, cards: Sequence[Gpu], decode: Decode | None = None) -> list[Layout]:
    """Every layout of the pair on the cards, the roomiest first; none too where a model's size or a card's is not known.

    Where base is also served with speculation, `decode`, both starts of it have room for that.
    """
    demands = _demands(pair, decode)
    total = [card.memory_gb for card in cards if card.memory_gb]
    if len(demands) < len(ROLES) or len(total) < len(cards):
        return []
    free = [
        min(size, (size if card.free_gb is None else card.free_gb) + DRIVER_GB)
        for size, card in zip(total, cards, strict=True)
    ]
    pinned = pair.max_total_tokens
    return layouts(free, demands["base"], demands["small"], max(pinned.values()) if len(pinned) == len(ROLES) else None)


def needs_gpu(pair: Pair) -> bool:
    """Whether the pair's models are too large for a CPU, as far as is known."""
    return sum(_weights_gb(model) or 0 for model in pair.models.values()) > CPU_GB


def unknown(pair: Pair) -> list[str]:
    """Why the models' shapes are not known, of those whose are not."""
    return [
        f"{role}: {checkpoints.shape(model.path)}" for role, model in pair.models.items() if shape_of(model) is None
    ]


def remedies(pair: Pair, cards: Sequence[Gpu], decode: Decode | None = None) -> list[str]:
    """What would make the pair fit, in words: 8 bits, more of these cards, the least single card."""
    found = []
    base = pair.models["base"]
    if (
        base.quantization == "none"
        and cards
        and all(card.capability is None or card.capability >= FP8 for card in cards)
    ):
        halved = replace(pair, base=replace(base, quantization="fp8"))
        ready = replace(pair, base=replace(base, quantization="fp8-checkpoint"))
        if fitting(halved, cards, decode):
            found.append('quantization = "fp8" for base in a pair file of your own')
        elif fitting(ready, cards, decode):
            found.append('a base that comes in 8 bits (quantization = "fp8-checkpoint" in a pair file of your own)')
    if cards:
        counts = (count for count in MORE_CARDS if count > len(cards))
        more = next((count for count in counts if fitting(pair, [cards[0]] * count, decode)), None)
        found += [f"{more} such cards"] if more else []
    sizes = (size for size, least in gpus.sizes().items() if fitting(pair, [Gpu(name="", memory_gb=least)], decode))
    found += [f"a card of {size} GB" for size in [next(sizes, None)] if size]
    return found


def lack(pair: Pair, cards: Sequence[Gpu], decode: Decode | None = None) -> str:
    """Why a pair of known size does not fit, and what would."""
    demands = _demands(pair, decode)
    for role, demand in demands.items():
        if demand.tp and (hindrance := demand.hindrance(demand.tp)):
            return f"pair {pair.name}: tp_size = {demand.tp} of {role}: SGLang cannot split its {hindrance} over so many cards"
        if demand.tp and demand.tp > len(cards):
            return f"pair {pair.name}: tp_size = {demand.tp} of {role}, and there are {in_words(cards)}"
    weights = {role: demand.weights_gb() for role, demand in demands.items()}
    cache = sum(TRAJECTORY_TOKENS * demand.kv_bytes(1) + STATES * demand.state_bytes(1) for demand in demands.values())
    drafting = " with its draft model" if demands["base"].draft else ""
    return (
        f"pair {pair.name} does not fit {in_words(cards)}: {weights['base']:.1f} GB of base weights{drafting}, "
        f"{weights['small']:.1f} of small's, {cache / GIB:.1f} for one trajectory in both caches, and room to "
        f"run; what would fit: {'; '.join(remedies(pair, cards, decode)) or 'nothing known'}"
    )


def in_words(cards: Sequence[Gpu]) -> str:
    """ "2 x NVIDIA H100 80GB HBM3 (80 GB)"."""
    sizes = [f"{card.memory_gb:.0f} GB" if card.memory_gb else "memory unknown" for card in cards]
    kinds = Counter(f"{card.name} ({size})" for card, size in zip(cards, sizes, strict=True))
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "no GPU"


def shape_of(model: Model) -> Shape | None:
    """A model's shape: the pair file's, else its config.json's where that is on this machine, else None."""
    found = model.shape or checkpoints.shape(model.path)
    return found if isinstance(found, Shape) else None


def split_of(pair: Pair, role: Author) -> int | None:
    """Over how many cards the pair's file splits an engine."""
    return pair.models[role].tp_size or number_given(pair.args.get(role, ()), *SIZES["tp"])


def draft_shape(pair: Pair, decode: Decode | None) -> Shape | str | None:
    """Of what guesses base's tokens: its shape, or why that is not known; None where that is no model."""
    if decode is None or decode.algorithm == "ngram":
        return None
    if decode.model:
        return checkpoints.shape(decode.model)
    return pair.small.shape or checkpoints.shape(pair.small.path)


def _demands(pair: Pair, decode: Decode | None) -> dict[Author, Demand]:
    """What each engine needs, of those whose model's size is known."""
    found: dict[Author, Demand] = {}
    draft = draft_shape(pair, decode)
    for role, model in pair.models.items():
        if shape := shape_of(model):
            demand = Demand(shape=shape, quantization=model.quantization, tp=split_of(pair, role))
            if role == "base" and decode:
                demand = dataclasses.replace(
                    demand, draft=draft if isinstance(draft, Shape) else None, guesses=decode.tokens
                )
            found[role] = demand
    return found


def _weights_gb(model: Model) -> float | None:
    shape = shape_of(model)
    return shape.weights_gb() if shape else checkpoints.files_gb(model.path)
