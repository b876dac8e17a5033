"""Owns how a pair is put on given cards: where each engine sits, with which of SGLang's arguments, and how to say so.

Starts nothing. That the arguments mean what is thought here was read in SGLang 0.5.23.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from msgspec.structs import replace

from sgl_specreason.engines.cards import Gpu
from sgl_specreason.engines.replicas import SIZES
from sgl_specreason.engines.servers import ROLES, number_given
from sgl_specreason.errors import UsageError
from sgl_specreason.plan import checkpoints, gpus
from sgl_specreason.plan.catalog import Model, Pair
from sgl_specreason.plan.gpus import FP8, Attention, attention
from sgl_specreason.plan.memory import (
    DRIVER_GB,
    GIB,
    LOGIT_ROWS,
    TRAJECTORY_TOKENS,
    Demand,
    Layout,
    Shape,
    Share,
    layouts,
    where,
)
from sgl_specreason.text.steps import Author

CPU_GB = 2.0
"""Models with more weights are not for pure torch on a CPU."""
MORE_CARDS = (2, 4, 8)
FRACTIONS: dict[Author, str] = {"small": "0.15", "base": "0.85"}
"""What models of unknown size get: guesses."""
NEEDS = {"awq": (7, 5), "gptq": (8, 0), "fp8": (8, 0), "modelopt": FP8}
"""The compute capability that kinds of quantised checkpoints need (get_min_capability in SGLang's layers/quantization)."""
UNTOLD = Attention(backend=None, why="SGLang's own choice, since not every model's heads are known")
LEAST = (7, 5)
"""SGLang starts on no card before it (model_runner_components/load_model_utils.py, 0.5.23)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A pair on its cards, of which each engine has some as its `seats`.

    `layout` is None where a model's size or a card's memory is not known; `others` are the ways not taken, in words.
    """

    pair: Pair
    cards: tuple[Gpu, ...]
    layout: Layout | None
    seats: dict[Author, tuple[int, ...]]
    others: tuple[str, ...]
    attention: Attention

    def args(self, role: Author) -> tuple[str, ...]:
        """SGLang's arguments for an engine, those of the pair's file last: the last one given wins."""
        model = self.pair.models[role]
        computed = self._shares(role) if self.layout is None else _args(self.layout, role)
        seats = self.seats[role]
        if len(seats) > 1:
            computed += ["--tp-size", str(len(seats))]
        if seats[0] > 0:
            computed += ["--base-gpu-id", str(seats[0])]
        if self.attention.backend:
            computed += ["--attention-backend", self.attention.backend]
        if model.quantization == "fp8":
            computed += ["--quantization", "fp8"]
        tokens = self.pair.max_total_tokens.get(role)
        pinned = ["--max-total-tokens", str(tokens)] if tokens else []
        return (*computed, "--page-size", "1", *self.pair.args.get(role, []), *pinned)

    def env(self, role: Author) -> dict[str, str]:
        """Base judges, with so many logits at once as there is room for.

        SGLang refuses to split a model over cards of which one holds something already, and one may hold small.
        """
        if role == "small":
            return {}
        uneven = self._shared and len(self.seats["base"]) > 1
        check = {"SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK": "0"} if uneven else {}
        return check | {"SGLANG_LOGPROB_CHUNK_SIZE": str(LOGIT_ROWS)}

    @property
    def _shared(self) -> bool:
        return not set(self.seats["small"]).isdisjoint(self.seats["base"])

    def _shares(self, role: Author) -> list[str]:
        return ["--mem-fraction-static", FRACTIONS[role if self._shared else "base"]]

    def text(self) -> str:
        """The memory plan for a person to read."""
        lines = []
        if self.layout is None:
            reasons = unknown(self.pair) or ["the cards' memory"]
            shares = ", ".join(f"{self._shares(role)[1]} for {role} {where(self.seats[role])}" for role in ROLES)
            lines.append(f"unknown: {'; '.join(reasons)}; fixed shares of the free memory are asked for ({shares})")
        else:
            lines += [f"{self.layout.words()} in each cache", *(f"not taken: {words}" for words in self.others)]
            lines += _table(self.layout)
        lines.append(f"attention: {self.attention.backend or 'default'}, pages of 1 token; {self.attention.why}")
        lines += gpus.notes(self.cards)
        for role in ROLES:
            if given := " ".join(self.pair.args.get(role, [])):
                lines.append(f"{role}: the pair's own arguments come last and win: {given}")
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """The choices for a run's config.json."""
        shares = [self.layout.small, self.layout.base] if self.layout else []
        return {
            "cards": [asdict(card) for card in self.cards],
            "engines": {share.role: asdict(share) for share in shares},
            "attention": asdict(self.attention),
        }


def place(pair: Pair, cards: Sequence[Gpu]) -> Placement:
    """The roomiest way to serve the pair on the cards. Raises UsageError, with what would fit, where there is none."""
    shapes = [shape for model in pair.models.values() if (shape := shape_of(model))]
    found = fitting(pair, cards)
    known = len(shapes) == len(pair.models)
    if not found and known and all(card.memory_gb for card in cards):
        raise UsageError(_lack(pair, cards))
    seats: dict[Author, tuple[int, ...]]
    seats = {"small": found[0].small.cards, "base": found[0].base.cards} if found else _seats(pair, cards)
    lowest = min((card.capability for card in cards if card.capability), default=None)
    return Placement(
        pair=pair,
        cards=tuple(cards),
        layout=found[0] if found else None,
        seats=seats,
        others=tuple(layout.words() for layout in found[1:3]),
        attention=attention(lowest, [shape.head_dim for shape in shapes]) if known else UNTOLD,
    )


def check_cards(pair: Pair, cards: Sequence[Gpu]) -> None:
    """Raises UsageError where SGLang cannot run the pair on one of the cards, whatever their memory."""
    needs = [("SGLang", LEAST)]
    for role, model in pair.models.items():
        kind = shape.quantized if (shape := shape_of(model)) else ""
        needs.append((f"{role}, which comes quantised ({kind}),", NEEDS.get(kind, LEAST)))
        if model.quantization != "none" and kind not in ("", "fp8"):
            raise UsageError(
                f'{role}: quantization = "{model.quantization}" for a checkpoint that comes quantised ({kind}): leave it out'
            )
    for card in cards:
        for who, least in needs:
            if card.capability and card.capability < least:
                has, wants = (f"{major}.{minor}" for major, minor in (card.capability, least))
                raise UsageError(f"{card.name}: compute capability {has}, and {who} needs {wants}")


def _seats(pair: Pair, cards: Sequence[Gpu]) -> dict[Author, tuple[int, ...]]:
    """Where the engines sit of which too little is known to choose: as the pair's file says, or on the only card."""
    small, base = _tp(pair, "small") or 1, _tp(pair, "base") or (1 if len(cards) == 1 else 0)
    if not base:
        raise UsageError(
            f"pair {pair.name}: over how many of {len(cards)} cards base goes cannot be reckoned: "
            f"{'; '.join(unknown(pair)) or 'the memory of the cards is not known'}; fetch it (hf download MODEL config.json) "
            "first, or give tp_size or shape under [base] of a pair's file"
        )
    if max(small, base) > len(cards):
        raise UsageError(f"pair {pair.name}: tp_size = {max(small, base)}, and there are {in_words(cards)}")
    first = small if small + base <= len(cards) else 0
    return {"small": tuple(range(small)), "base": tuple(range(first, first + base))}


def _tp(pair: Pair, role: Author) -> int | None:
    """Over how many cards the pair's file splits an engine."""
    return pair.models[role].tp_size or number_given(pair.args.get(role, ()), *SIZES["tp"])


def _demands(pair: Pair) -> dict[Author, Demand]:
    """What each engine needs, of those whose model's size is known."""
    return {
        role: Demand(shape=shape, quantization=model.quantization, tp=_tp(pair, role))
        for role, model in pair.models.items()
        if (shape := shape_of(model))
    }


def fitting(pair: Pair, cards: Sequence[Gpu]) -> list[Layout]:
    """Every layout of the pair on the cards, the roomiest first; none too where a model's size or a card's is not known."""
    demands = _demands(pair)
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


def _weights_gb(model: Model) -> float | None:
    shape = shape_of(model)
    return shape.weights_gb() if shape else checkpoints.files_gb(model.path)


def remedies(pair: Pair, cards: Sequence[Gpu]) -> list[str]:
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
        if fitting(halved, cards):
            found.append('quantization = "fp8" for base in a pair file of your own')
        elif fitting(ready, cards):
            found.append('a base that comes in 8 bits (quantization = "fp8-checkpoint" in a pair file of your own)')
    if cards:
        more = next((count for count in MORE_CARDS if count > len(cards) and fitting(pair, [cards[0]] * count)), None)
        found += [f"{more} such cards"] if more else []
    sizes = (size for size, least in gpus.sizes().items() if fitting(pair, [Gpu(name="", memory_gb=least)]))
    found += [f"a card of {size} GB" for size in [next(sizes, None)] if size]
    return found


def shape_of(model: Model) -> Shape | None:
    """A model's shape: the pair file's, else its config.json's where that is on this machine, else None."""
    found = model.shape or checkpoints.shape(model.path)
    return found if isinstance(found, Shape) else None


def _args(layout: Layout, role: Author) -> list[str]:
    share: Share = getattr(layout, role)
    args = ["--mem-fraction-static", f"{share.fraction:.3f}", "--max-total-tokens", str(share.tokens)]
    args += ["--chunked-prefill-size", str(layout.runtime.chunk)]
    args += ["--cuda-graph-max-bs-decode", str(layout.runtime.batch)]
    if not layout.runtime.prefill_graphs:
        args += ["--cuda-graph-backend-prefill", "disabled"]
    return args


def _table(layout: Layout) -> list[str]:
    """The plan per card, with what nobody has been given at the end."""
    rows = [("engine", "cards", "weights GB", "KV bytes/token", "KV tokens", "KV GB", "headroom GB")]
    for share in (layout.small, layout.base):
        cards = ", ".join(map(str, share.cards))
        numbers = (f"{share.weights_gb:.1f}", str(share.kv_bytes), str(share.tokens), f"{share.kv_gb:.1f}")
        rows.append((share.role, cards, *numbers, f"{share.headroom_gb:.1f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(word.rjust(width) for word, width in zip(row, widths, strict=True)) for row in rows]
    left = ", ".join(
        f"card {card} {layout.left_gb(card):.1f} of {layout.cards_gb[card]:.1f}"
        for card in sorted({*layout.small.cards, *layout.base.cards})
    )
    return [
        "on each card, by arithmetic and not measured (GB are GiB; headroom: activations, graphs, CUDA):",
        *lines,
        f"left, GB: {left}",
    ]


def _lack(pair: Pair, cards: Sequence[Gpu]) -> str:
    demands = _demands(pair)
    for role, demand in demands.items():
        if demand.tp and (hindrance := demand.hindrance(demand.tp)):
            return f"pair {pair.name}: tp_size = {demand.tp} of {role}: SGLang cannot split its {hindrance} over so many cards"
        if demand.tp and demand.tp > len(cards):
            return f"pair {pair.name}: tp_size = {demand.tp} of {role}, and there are {in_words(cards)}"
    weights = {role: demand.shape.weights_gb(demand.quantization) for role, demand in demands.items()}
    kv = sum(demand.shape.kv_bytes() for demand in demands.values())
    return (
        f"pair {pair.name} does not fit {in_words(cards)}: {weights['base']:.1f} GB of base weights, {weights['small']:.1f} of "
        f"small's, {TRAJECTORY_TOKENS * kv / GIB:.1f} for one trajectory in both caches, and room to run; what would fit: "
        + ("; ".join(remedies(pair, cards)) or "nothing known")
    )


def in_words(cards: Sequence[Gpu]) -> str:
    """ "2 x NVIDIA H100 80GB HBM3 (80 GB)"."""
    sizes = [f"{card.memory_gb:.0f} GB" if card.memory_gb else "memory unknown" for card in cards]
    kinds = Counter(f"{card.name} ({size})" for card, size in zip(cards, sizes, strict=True))
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "no GPU"
