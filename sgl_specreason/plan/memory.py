"""Owns the arithmetic of two engines on given cards: weights, caches, what must stay free, who sits where (pure).

Everything here follows from published shapes, nothing is measured. A GB is 2**30 bytes throughout.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sgl_specreason.plan.demands import PROCESS_GB, Demand, Runtime
from sgl_specreason.plan.shapes import GIB
from sgl_specreason.text.steps import Author

TRAJECTORY_TOKENS = 12288
"""Of one trajectory: 8,192 thinking tokens (the benches' budget), 1,024 of answer, and problem, draft and judge turn."""
DRIVER_GB = 0.5
"""Taken of a card by its driver."""
STATES = 5
"""So many states of a hybrid SGLang 0.5.23 wants for each running request that leaves snapshots: its own, two for the next
snapshot, and two where prefixes end (_calculate_mamba_ratio in mem_cache/kv_cache_configurator.py)."""
SPARE = 0.08
"""Of the cache's room, left unplanned: allocators round up, and nobody has measured this."""
SLACK_GB = 0.5
"""What small's fraction allows for what its libraries take while it loads."""
ROUND = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one engine has of each of its `cards`, and SGLang's fraction of what is free there when it starts.

    A hybrid has a pool of `states` beside its cache, and `state_gb` is what all that takes.
    """

    role: Author
    cards: tuple[int, ...]
    weights_gb: float
    kv_bytes: int
    tokens: int
    headroom_gb: float
    fraction: float
    states: int = 0
    state_gb: float = 0.0

    @property
    def kv_gb(self) -> float:
        return self.tokens * self.kv_bytes / GIB

    @property
    def total_gb(self) -> float:
        return self.weights_gb + self.kv_gb + self.state_gb + self.headroom_gb


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
    """What one engine takes of each card that it is on, in GB; per token and per state in bytes.

    `verified` as Demand has it.
    """

    weights: float
    loading: float
    headroom: float
    kv: int
    state: int
    verified: int

    @classmethod
    def of(cls, role: Author, demand: Demand, tp: int, runtime: Runtime) -> "_Side":
        return cls(
            weights=demand.weights_gb() / tp,
            loading=demand.weights_gb(loading=True) / tp,
            headroom=runtime.headroom_gb(role, demand, tp),
            kv=demand.kv_bytes(tp),
            state=demand.state_bytes(tp),
            verified=demand.verified,
        )

    def states(self, tokens: int) -> int:
        """How many states its pool has: as many requests can run as trajectories have room in a cache of so many tokens."""
        return STATES * max(1, tokens // TRAJECTORY_TOKENS) if self.state else 0

    def state_gb(self, tokens: int) -> float:
        """With SGLang's one more state, and those of the tokens that each request, and one more, verifies together."""
        pool = self.states(tokens)
        return (pool + 1 + self.verified * (pool // STATES + 1)) * self.state / GIB

    @property
    def per_token(self) -> float:
        """In bytes, with the states."""
        return self.kv + (STATES + self.verified) * self.state / TRAJECTORY_TOKENS

    @property
    def fixed(self) -> float:
        return self.weights + self.headroom + (1 + self.verified) * self.state / GIB


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
    static = first.weights + tokens * first.kv / GIB + first.state_gb(tokens)
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
    room = (free_gb - sum(side.fixed for side in sides)) * (1 - SPARE) * GIB / sum(side.per_token for side in sides)
    *before, last = sides
    spare = free_gb - PROCESS_GB - last.loading - sum(side.fixed for side in before)
    if not before:
        return room if spare > 0 else 0.0
    return min(room, spare * GIB / sum(side.per_token for side in before))


def _share(role: Author, cards: tuple[int, ...], side: _Side, tokens: int, fraction: float) -> Share:
    return Share(
        role=role,
        cards=cards,
        weights_gb=side.weights,
        kv_bytes=side.kv,
        tokens=tokens,
        headroom_gb=side.headroom,
        fraction=fraction,
        states=side.states(tokens),
        state_gb=side.state_gb(tokens),
    )
