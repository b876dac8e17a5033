"""Owns the arithmetic of two engines on given cards: weights, caches, what must stay free, who sits where (pure).

Everything here follows from published shapes, nothing is measured. A GB is 2**30 bytes throughout.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sgl_specreason.plan.shapes import GIB, Quantization, Shape
from sgl_specreason.text.steps import Author

TRAJECTORY_TOKENS = 12288
"""Of one trajectory: 8,192 thinking tokens (the benches' budget), 1,024 of answer, and problem, draft and judge turn."""
SIZES = (1, 2, 4, 8)
UNSPLIT = ("bitsandbytes",)
"""Checkpoints of these kinds are not split over cards (model_loader/loader.py of SGLang 0.5.23)."""
DRIVER_GB, PROCESS_GB, WORKSPACE_GB = 0.5, 0.6, 0.5
"""Taken of a card by its driver; by a process' CUDA context and libraries; by attention (512 MiB for Qwen in SGLang)."""
GRAPH_GB, PREFILL_GRAPHS_GB = 2 / 1024, 0.5
"""A decode graph's memory per sequence and that of all prefill graphs, as SGLang 0.5.23 reckons (arg_groups/memory_hook.py)."""
LOGIT_ROWS = 512
"""So many prompt tokens' logits SGLang is told to compute at once where likelihoods are asked for. Its own 2,048 rows
($SGLANG_LOGPROB_CHUNK_SIZE, layers/logprob_processor.py) would take 2 to 4 GB beside the cache."""
SPARE = 0.08
"""Of the cache's room, left unplanned: allocators round up, and nobody has measured this."""
SLACK_GB = 0.5
"""What small's fraction allows for what its libraries take while it loads."""
SMALL_CARD_GB = 40
ROUND = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """An engine to be placed. `tp` fixes over how many cards its layers are split; None: whatever gives most room.

    `draft` is the model that guesses its tokens in the same process, `guesses` how many at a time.
    """

    shape: Shape
    quantization: Quantization = "none"
    tp: int | None = None
    draft: Shape | None = None
    guesses: int = 0

    def weights_gb(self, *, loading: bool = False) -> float:
        """Of all that it loads; `loading`: while it does, since 8 bits are made of 16 on the card, when all of them are there."""
        made: Quantization = "fp8" if self.quantization == "fp8" and not loading else "none"
        own = self.shape.weights_gb("none" if loading and self.quantization == "fp8" else self.quantization)
        return own + (self.draft.weights_gb(made) if self.draft else 0)

    def kv_bytes(self, tp: int) -> int:
        """Of a token on each of `tp` cards. SGLang 0.5.23 takes a draft's layers to be like the engine's own where it counts
        what fits (model_executor/pool_configurator.py)."""
        own = self.shape.kv_bytes(tp)
        alike = own * self.draft.layers // self.shape.layers if self.draft else 0
        return own + max(alike, self.draft.kv_bytes(tp) if self.draft else 0)

    def splits(self, cards: int, sizes: Sequence[int] = SIZES) -> list[int]:
        """Over how many of `cards` it can be split."""
        return [tp for tp in ([self.tp] if self.tp else sizes) if tp <= cards and not self.hindrance(tp)]

    def hindrance(self, tp: int) -> str:
        """What SGLang asserts and does not hold of a split over `tp` cards, in words; "" where it can be made.

        Read in 0.5.23: models/llama.py and its kin, distributed/utils.py, and of quantised layers quantization/fp8.py,
        marlin_utils.py and awq/schemes/awq_linear.py. Fewer key-value heads than cards are copied.
        """
        if own := _hindrance(self.shape, tp):
            return own
        of_draft = _hindrance(self.draft, tp) if self.draft else ""
        return f"{of_draft} of its draft model" if of_draft else ""


def _hindrance(shape: Shape, tp: int) -> str:
    if shape.heads % tp:
        return f"{shape.heads} attention heads"
    if shape.kv_heads % tp and tp % shape.kv_heads:
        return f"{shape.kv_heads} key-value heads"
    if shape.intermediate % (tp * shape.group):
        return f"{shape.intermediate} intermediate dimensions" + (f" in groups of {shape.group}" * (shape.group > 1))
    return f"{shape.quantized} weights" if tp > 1 and shape.quantized in UNSPLIT else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """How an engine is run on a card of this size: what its graphs and activations may take."""

    chunk: int
    batch: int
    prefill_graphs: bool

    @classmethod
    def on(cls, card_gb: float) -> "Runtime":
        if card_gb < SMALL_CARD_GB:
            return cls(chunk=2048, batch=16, prefill_graphs=False)
        return cls(chunk=4096, batch=64, prefill_graphs=True)

    def headroom_gb(self, role: Author, demand: Demand, tp: int) -> float:
        """What must stay free of weights and cache on each card: context, workspace, activations, logits, graphs."""
        shape = demand.shape
        # a guess and the token before it are verified together
        rows = max(self.batch * (demand.guesses + 1), LOGIT_ROWS if role == "base" else 0)
        # a matrix of logits and one of log-probabilities; gathering them from several cards takes one more
        logits = (2 + (tp > 1)) * 4 * rows * shape.vocabulary
        activations = 2 * 2 * self.chunk * (3 * shape.intermediate // tp + 6 * shape.hidden)
        graphs = self.batch * GRAPH_GB * (2 if demand.draft else 1) + (PREFILL_GRAPHS_GB if self.prefill_graphs else 0)
        return PROCESS_GB + WORKSPACE_GB + (logits + activations) / GIB + graphs


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one engine has of each of its `cards`, and SGLang's fraction of what is free there when it starts."""

    role: Author
    cards: tuple[int, ...]
    weights_gb: float
    kv_bytes: int
    tokens: int
    headroom_gb: float
    fraction: float

    @property
    def kv_gb(self) -> float:
        return self.tokens * self.kv_bytes / GIB

    @property
    def total_gb(self) -> float:
        return self.weights_gb + self.kv_gb + self.headroom_gb


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Both engines on their cards. Both caches hold the same number of tokens, since every trajectory is in both."""

    small: Share
    base: Share
    cards_gb: tuple[float, ...]
    runtime: Runtime

    @property
    def tokens(self) -> int:
        return self.base.tokens

    @property
    def shared(self) -> bool:
        """Whether small sits on one of base's cards."""
        return not set(self.small.cards).isdisjoint(self.base.cards)

    @property
    def used(self) -> int:
        return len({*self.small.cards, *self.base.cards})

    def left_gb(self, card: int) -> float:
        """What nobody has been given of a card."""
        taken = sum(share.total_gb for share in (self.small, self.base) if card in share.cards)
        return self.cards_gb[card] - DRIVER_GB - taken

    def words(self) -> str:
        """In words, for the reason of a choice."""
        beside = "beside it" if self.shared else "alone"
        return f"base {where(self.base.cards)}, small {beside} {where(self.small.cards)}: {self.tokens:,} tokens"


def layouts(cards_gb: Sequence[float], base: Demand, small: Demand, most: int | None = None) -> list[Layout]:
    """Every way to place the two that leaves both room for one trajectory at least, the roomiest first, then the fewest cards.

    No cache gets more than `most` tokens.
    """
    placements = _placements(len(cards_gb), base, small)
    found = [layout for seats in placements if (layout := _filled(cards_gb, base, small, *seats, most))]
    return sorted(found, key=lambda layout: (-layout.tokens, layout.used))


def where(cards: Sequence[int]) -> str:
    """In words."""
    return f"over cards {cards[0]}-{cards[-1]}" if len(cards) > 1 else f"on card {cards[0]}"


def _placements(count: int, base: Demand, small: Demand) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The cards of small, one if it need not have more, and those of base: from the first one on, or all others."""
    for own in small.splits(count, (1,)):
        for tp in base.splits(count):
            yield tuple(range(own)), tuple(range(tp))
            if own + tp <= count:
                yield tuple(range(own)), tuple(range(own, own + tp))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """What one engine takes of each card that it is on, in GB, and per token in bytes."""

    weights: float
    loading: float
    headroom: float
    kv: int

    @classmethod
    def of(cls, role: Author, demand: Demand, tp: int, runtime: Runtime) -> "_Side":
        return cls(
            weights=demand.weights_gb() / tp,
            loading=demand.weights_gb(loading=True) / tp,
            headroom=runtime.headroom_gb(role, demand, tp),
            kv=demand.kv_bytes(tp),
        )

    @property
    def fixed(self) -> float:
        return self.weights + self.headroom


def _filled(
    cards_gb: Sequence[float],
    base: Demand,
    small: Demand,
    own: tuple[int, ...],
    placed: tuple[int, ...],
    most: int | None,
) -> Layout | None:
    """The layout with small on its `own` cards and base on those where it is `placed`, its caches as large as they can be."""
    runtime = Runtime.on(min(cards_gb[card] for card in {*own, *placed}))
    first, second = _Side.of("small", small, len(own), runtime), _Side.of("base", base, len(placed), runtime)
    room = math.inf
    for card in {*own, *placed}:
        here = [side for side, on in ((first, card in own), (second, card in placed)) if on]
        room = min(room, _room(cards_gb[card] - DRIVER_GB, here))
    if room < TRAJECTORY_TOKENS:
        return None
    tokens = min(int(room // ROUND * ROUND), most or sys.maxsize)
    begin = min(cards_gb[card] for card in own) - DRIVER_GB - PROCESS_GB
    static = first.weights + tokens * first.kv / GIB
    beside = static + first.headroom
    left = min(cards_gb[card] - DRIVER_GB - PROCESS_GB - (beside if card in own else 0) for card in placed)
    # small's fraction may be too large, since its tokens are pinned; base's must leave its headroom
    most_static = begin - first.headroom + PROCESS_GB
    fraction = math.ceil(1000 * min(most_static, static + SLACK_GB) / begin) / 1000
    rest = math.floor(1000 * (left - second.headroom + PROCESS_GB) / left) / 1000
    return Layout(
        small=_share("small", own, first, tokens, fraction),
        base=_share("base", placed, second, tokens, rest),
        cards_gb=tuple(cards_gb),
        runtime=runtime,
    )


def _room(free_gb: float, sides: list[_Side]) -> float:
    """How many tokens fit a card in the caches of the engines on it, which start one after the other."""
    room = (free_gb - sum(side.fixed for side in sides)) * (1 - SPARE) * GIB / sum(side.kv for side in sides)
    *before, last = sides
    spare = free_gb - PROCESS_GB - last.loading - sum(side.fixed for side in before)
    if not before:
        return room if spare > 0 else 0.0
    return min(room, spare * GIB / sum(side.kv for side in before))


def _share(role: Author, cards: tuple[int, ...], side: _Side, tokens: int, fraction: float) -> Share:
    return Share(
        role=role,
        cards=cards,
        weights_gb=side.weights,
        kv_bytes=side.kv,
        tokens=tokens,
        headroom_gb=side.headroom,
        fraction=fraction,
    )
