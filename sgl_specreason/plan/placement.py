"""Owns how a pair is put on given cards: where each engine sits, with which of SGLang's arguments, and how to say so.

Starts nothing. That the arguments mean what is thought here was read in SGLang 0.5.23.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sgl_specreason.engines.cards import Gpu
from sgl_specreason.engines.decode import MOST_RUNNING, Decode
from sgl_specreason.engines.servers import ROLES
from sgl_specreason.errors import UsageError
from sgl_specreason.plan import gpus
from sgl_specreason.plan.catalog import Pair
from sgl_specreason.plan.demands import LOGIT_ROWS
from sgl_specreason.plan.fitting import draft_shape, fitting, in_words, lack, shape_of, split_of, unknown
from sgl_specreason.plan.gpus import FP8, Attention, attention
from sgl_specreason.plan.memory import Layout, Share, where
from sgl_specreason.plan.shapes import Shape
from sgl_specreason.text.steps import Author
from sgl_specreason.words import counted

FRACTIONS: dict[Author, str] = {"small": "0.15", "base": "0.85"}
"""What models of unknown size get: guesses."""
NEEDS = {"awq": (7, 5), "gptq": (8, 0), "fp8": (8, 0), "modelopt": FP8}
"""The compute capability that kinds of quantised checkpoints need (get_min_capability in SGLang's layers/quantization)."""
UNTOLD = Attention(backend=None, why="SGLang's own choice, since not every model's heads are known")
SNAPSHOTS = "extra_buffer"
"""Of a hybrid. Without, SGLang keeps the state at the end of each request only, where no later one goes on from a judgement's."""
MOST_AT_ONCE = f"SGLang runs {MOST_RUNNING} requests at once then, unless base's args say --max-running-requests"
LEAST = (7, 5)
"""SGLang starts on no card before it (model_runner_components/load_model_utils.py, 0.5.23)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A pair on its cards, of which each engine has some as its `seats`.

    `layout` is None where a model's size or a card's memory is not known; `others` are the ways not taken, in words. `decode` is
    the speculation with which base is served for some methods.
    """

    pair: Pair
    cards: tuple[Gpu, ...]
    layout: Layout | None
    seats: dict[Author, tuple[int, ...]]
    others: tuple[str, ...]
    attention: Attention
    decode: Decode | None = None

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
        if drafting := self._drafting():
            lines.append(drafting)
        lines.append(f"attention: {self.attention.backend or 'default'}, pages of 1 token; {self.attention.why}")
        lines += gpus.notes(self.cards)
        for role in ROLES:
            if given := " ".join(self.pair.args.get(role, [])):
                lines.append(f"{role}: the pair's own arguments come last and win: {given}")
        return "\n".join(lines)

    def _drafting(self) -> str:
        """What speculation adds to base, in words."""
        if self.decode is None:
            return ""
        shape = draft_shape(self.pair, self.decode)
        name = self.decode.draft_model(self.pair.small.path)
        if not name:
            return f"with --decode {self.decode.algorithm} base loads no model besides its own; {MOST_AT_ONCE}"
        words = f"with --decode {self.decode.algorithm} base loads {name} in its own process, too"
        if not isinstance(shape, Shape):
            return f"{words}; its memory is not reckoned: {shape}"
        room = "" if self.layout is None else ", and its row above has room for that, its cache and its graphs"
        return f"{words}: {shape.weights_gb():.1f} GB{room}; {MOST_AT_ONCE}"

    def record(self) -> dict[str, Any]:
        """The choices for a run's config.json."""
        shares = [self.layout.small, self.layout.base] if self.layout else []
        return {
            "cards": [asdict(card) for card in self.cards],
            "engines": {share.role: asdict(share) for share in shares},
            "attention": asdict(self.attention),
        }


def place(pair: Pair, cards: Sequence[Gpu], decode: Decode | None = None) -> Placement:
    """The roomiest way to serve the pair on the cards, with room for speculation where base is also served with it.

    Raises UsageError, with what would fit, where there is none.
    """
    shapes = [shape for model in pair.models.values() if (shape := shape_of(model))]
    found = fitting(pair, cards, decode)
    known = len(shapes) == len(pair.models)
    if not found and known and all(card.memory_gb for card in cards):
        raise UsageError(lack(pair, cards, decode))
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
        decode=decode,
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
    small, base = split_of(pair, "small") or 1, split_of(pair, "base") or (1 if len(cards) == 1 else 0)
    if not base:
        raise UsageError(
            f"pair {pair.name}: over how many of {counted(len(cards), 'card')} base goes cannot be reckoned: "
            f"{'; '.join(unknown(pair)) or 'the memory of the cards is not known'}; fetch it (hf download MODEL config.json) "
            "first, or give tp_size or shape under [base] of a pair's file"
        )
    if max(small, base) > len(cards):
        raise UsageError(f"pair {pair.name}: tp_size = {max(small, base)}, and there are {in_words(cards)}")
    first = small if small + base <= len(cards) else 0
    return {"small": tuple(range(small)), "base": tuple(range(first, first + base))}


def _args(layout: Layout, role: Author) -> list[str]:
    share: Share = getattr(layout, role)
    args = ["--mem-fraction-static", f"{share.fraction:.3f}", "--max-total-tokens", str(share.tokens)]
    args += ["--chunked-prefill-size", str(layout.runtime.chunk)]
    args += ["--cuda-graph-max-bs-decode", str(layout.runtime.batch)]
    if share.states:
        args += ["--mamba-radix-cache-strategy", SNAPSHOTS, "--max-mamba-cache-size", str(share.states)]
    if not layout.runtime.prefill_graphs:
        args += ["--cuda-graph-backend-prefill", "disabled"]
    return args


def _table(layout: Layout) -> list[str]:
    """The plan per card, with what nobody has been given at the end."""
    shares = (layout.small, layout.base)
    hybrid = any(share.states for share in shares)
    states = ("states", "states GB") if hybrid else ()
    rows = [("engine", "cards", "weights GB", "KV bytes/token", "KV tokens", "KV GB", *states, "headroom GB")]
    for share in shares:
        cards = ", ".join(map(str, share.cards))
        numbers = (f"{share.weights_gb:.1f}", str(share.kv_bytes), str(share.tokens), f"{share.kv_gb:.1f}")
        pool = (str(share.states), f"{share.state_gb:.1f}") if hybrid else ()
        rows.append((share.role, cards, *numbers, *pool, f"{share.headroom_gb:.1f}"))
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
