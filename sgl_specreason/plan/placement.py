"""Owns how a pair is put on given cards: where each engine sits, with which of SGLang's arguments, and how to say so.

Starts nothing. That the arguments mean what is thought here was read in SGLang 0.5.23.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from sgl_specreason.engines.servers import ROLES
from sgl_specreason.errors import UsageError
from sgl_specreason.plan.catalog import Model, Pair
from sgl_specreason.plan.gpus import FP8, Attention, Gpu, attention
from sgl_specreason.plan.memory import DRIVER_GB, GIB, TRAJECTORY_TOKENS, Demand, Layout, Shape, Share, layouts
from sgl_specreason.text.steps import Author

CPU_GB = 2.0
"""Models with more weights are not for pure torch on a CPU."""
CARD_SIZES = (16, 24, 32, 48, 80, 96, 141, 180, 288)
MORE_CARDS = (2, 4, 8)
FRACTIONS: dict[Author, str] = {"small": "0.15", "base": "0.85"}
"""What models of unknown size get: guesses."""
CONFIG_KEYS = {
    "layers": "num_hidden_layers", "hidden": "hidden_size", "intermediate": "intermediate_size",
    "heads": "num_attention_heads", "vocabulary": "vocab_size", "context": "max_position_embeddings",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A pair on its cards. `layout` is None where a model's size is not known; `others` are the ways not taken, in words."""

    pair: Pair
    cards: tuple[Gpu, ...]
    layout: Layout | None
    others: tuple[str, ...]
    attention: Attention

    def args(self, role: Author) -> tuple[str, ...]:
        """SGLang's arguments for an engine, those of the pair's file last: the last one given wins."""
        model = self.pair.models[role]
        computed = ["--mem-fraction-static", FRACTIONS[role]] if self.layout is None else _args(self.layout, role)
        if self.attention.backend:
            computed += ["--attention-backend", self.attention.backend]
        if model.quantization == "fp8":
            computed += ["--quantization", "fp8"]
        tokens = self.pair.max_total_tokens.get(role)
        pinned = ["--max-total-tokens", str(tokens)] if tokens else []
        return (*computed, "--page-size", "1", *self.pair.args.get(role, []), *pinned)

    def env(self, role: Author) -> dict[str, str]:
        """SGLang refuses to split a model over cards of which one holds something already, and one holds small."""
        layout = self.layout
        if role == "base" and layout and layout.shared and len(layout.base.cards) > 1:
            return {"SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK": "0"}
        return {}

    def text(self) -> str:
        """The memory plan for a person to read."""
        lines = []
        if self.layout is None:
            unknown = [role for role, model in self.pair.models.items() if shape_of(model) is None]
            lines.append(
                f"unknown: {' and '.join(unknown)} has no config.json here to reckon with; "
                f"fixed shares of the free memory are asked for ({FRACTIONS['small']}, then {FRACTIONS['base']})"
            )
        else:
            lines += [f"{self.layout.words()} in each cache", *(f"not taken: {words}" for words in self.others)]
            lines += _table(self.layout)
        lines.append(f"attention: {self.attention.backend or 'default'}, pages of 1 token; {self.attention.why}")
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
    shapes = {role: shape_of(model) for role, model in pair.models.items()}
    known = [shape for shape in shapes.values() if shape is not None]
    found: list[Layout] = []
    if len(known) == len(shapes):
        found = fitting(pair, cards)
        if not found:
            raise UsageError(_lack(pair, cards))
    lowest = min((card.capability for card in cards if card.capability), default=None)
    return Placement(
        pair=pair,
        cards=tuple(cards),
        layout=found[0] if found else None,
        others=tuple(layout.words() for layout in found[1:3]),
        attention=attention(lowest, [shape.head_dim for shape in known]),
    )


def fitting(pair: Pair, cards: Sequence[Gpu]) -> list[Layout]:
    """Every layout of the pair on the cards, the roomiest first; none too where a model's size is not known."""
    demands: dict[Author, Demand] = {}
    for role, model in pair.models.items():
        shape = shape_of(model)
        if shape is None:
            return []
        demands[role] = Demand(shape=shape, quantization=model.quantization, tp=model.tp_size)
    free = [
        min(card.memory_gb, (card.memory_gb if card.free_gb is None else card.free_gb) + DRIVER_GB) for card in cards
    ]
    pinned = pair.max_total_tokens
    return layouts(free, demands["base"], demands["small"], max(pinned.values()) if len(pinned) == len(ROLES) else None)


def needs_gpu(pair: Pair) -> bool:
    """Whether the pair's models are too large for a CPU, as far as is known."""
    shapes = [shape for model in pair.models.values() if (shape := shape_of(model))]
    return sum(shape.weights_gb() for shape in shapes) > CPU_GB


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
    sizes = (size for size in CARD_SIZES if fitting(pair, [Gpu(name="", memory_gb=size)]))
    found += [f"a card of {size} GB" for size in [next(sizes, None)] if size]
    return found


def shape_of(model: Model) -> Shape | None:
    """A model's shape: the pair file's, else its config.json's where that is on this machine, else None."""
    if model.shape is not None:
        return model.shape
    path = _config(model.path)
    try:
        config = json.loads(path.read_text("utf-8")) if path else None
        return _shape(config) if isinstance(config, dict) else None
    except (OSError, ValueError, RecursionError):
        return None


def _config(model: str) -> Path | None:
    """Where the config.json of a folder or a hub id is on this machine."""
    here = Path(model) / "config.json"
    if os.path.isfile(here):
        return here
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def _shape(config: dict[str, Any]) -> Shape | None:
    """The shape of a dense decoder; None for other architectures, whose parameters this arithmetic cannot count."""
    numbers: dict[str, Any] = {name: config.get(key) for name, key in CONFIG_KEYS.items()}
    if any(type(value) is not int or value < 1 for value in numbers.values()) or any("expert" in key for key in config):
        return None
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    rest = {"kv_heads": kv_heads, "head_dim": head_dim, "tied": config.get("tie_word_embeddings") is True}
    if any(type(value) is not int or value < 1 for value in (kv_heads, head_dim)):
        return None
    return Shape(**numbers, **rest)


def _args(layout: Layout, role: Author) -> list[str]:
    share: Share = getattr(layout, role)
    args = ["--mem-fraction-static", f"{share.fraction:.3f}", "--max-total-tokens", str(share.tokens)]
    args += ["--chunked-prefill-size", str(layout.runtime.chunk)]
    args += ["--cuda-graph-max-bs-decode", str(layout.runtime.batch)]
    if not layout.runtime.prefill_graphs:
        args += ["--cuda-graph-backend-prefill", "disabled"]
    if len(share.cards) > 1:
        args += ["--tp-size", str(len(share.cards))]
    if share.cards[0] > 0:
        args += ["--base-gpu-id", str(share.cards[0])]
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
    weights = {
        role: shape.weights_gb(model.quantization) for role, model in pair.models.items() if (shape := shape_of(model))
    }
    kv = sum(shape.kv_bytes() for model in pair.models.values() if (shape := shape_of(model)))
    fits = remedies(pair, cards)
    return (
        f"pair {pair.name} does not fit {in_words(cards)}: {weights['base']:.1f} GB of base weights, {weights['small']:.1f} of "
        f"small's, {TRAJECTORY_TOKENS * kv / GIB:.1f} for one trajectory in both caches, and room to run; what would fit: "
        + ("; ".join(fits) or "nothing known")
    )


def in_words(cards: Sequence[Gpu]) -> str:
    """ "2 x NVIDIA H100 80GB HBM3 (80 GB)"."""
    kinds = dict.fromkeys(f"{card.name} ({card.memory_gb:.0f} GB)" for card in cards)
    counts = [sum(f"{card.name} ({card.memory_gb:.0f} GB)" == kind for card in cards) for kind in kinds]
    return ", ".join(f"{count} x {kind}" for count, kind in zip(counts, kinds, strict=True)) or "no GPU"
