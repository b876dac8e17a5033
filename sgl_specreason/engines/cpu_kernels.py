"""Owns what is computed in pure torch on a machine without a GPU: seeded sampling, and attention over a batch and a cache.

Knows nothing of SGLang.
"""

from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

PADDING = 4
"""Requests of different lengths are computed together while that wastes less than this factor."""


def seeded_choice(logprobs: torch.Tensor, seed: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """One column per row, drawn by the Gumbel-max trick with noise that is a hash of (seed, position, column).

    `logprobs` is (rows, columns), natural logarithms up to a constant per row; `seed` and `positions` are (rows,). Returns
    (rows, 1). The same row gets the same column whatever it is batched with. Mixing steps: SplitMix64.
    """
    columns = torch.arange(logprobs.shape[1], device=logprobs.device)
    rows = seed.to(torch.int64) * -0x61C8864680B583EB + positions.to(torch.int64)
    mixed = _mixed(_mixed(rows)[:, None] + columns)
    uniform = ((mixed >> 11) & (2**53 - 1)).to(torch.float64).add_(0.5) / 2.0**53
    return torch.argmax(logprobs.to(torch.float64) - (-uniform.log()).log(), dim=1, keepdim=True)


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """The finaliser of SplitMix64 on int64 values that stand for 64 bits (multiplication wraps, shifts are made logical)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def likely(probs: torch.Tensor, min_ps: torch.Tensor) -> torch.Tensor:
    """`probs` (rows, columns) without what is less likely than this fraction of its row's likeliest; `min_ps` is (rows,)."""
    return probs.masked_fill(probs < (probs.amax(dim=-1) * min_ps).view(-1, 1), 0.0)


class Span(NamedTuple):
    """One request in a batch: its row of the token table, its length in tokens, and how many of these are new."""

    row: int
    length: int
    new: int


class Layout(NamedTuple):
    """Requests that are computed together: which new tokens are theirs, where their context lies, what each may see.

    `tokens` is a slice of the batch's new tokens, `slots` (requests, positions), `mask` (requests, 1, new, positions) or
    None where everything is seen, `real` (requests, new) or None where all have as many new tokens.
    """

    tokens: slice
    slots: torch.Tensor
    mask: torch.Tensor | None
    real: torch.Tensor | None


def layouts(spans: list[Span], req_to_token: torch.Tensor, start: int = 0) -> list[Layout]:
    """How a batch is computed: all at once where its requests are alike, else one by one."""
    most_new, longest = max(span.new for span in spans), max(span.length for span in spans)
    if len(spans) * most_new * longest > PADDING * sum(span.new * span.length for span in spans):
        found = []
        for span in spans:
            found += layouts([span], req_to_token, start)
            start += span.new
        return found
    tokens = slice(start, start + sum(span.new for span in spans))
    if len(spans) == 1 and most_new == 1:
        return [Layout(tokens, req_to_token[spans[0].row, None, :longest], None, None)]
    lengths = torch.tensor([span.length for span in spans])
    seen = (lengths - torch.tensor([span.new for span in spans]))[:, None] + torch.arange(most_new)
    mask = torch.arange(longest) <= seen[:, None, :, None]
    real = None if all(span.new == most_new for span in spans) else seen < lengths[:, None]
    return [Layout(tokens, req_to_token[[span.row for span in spans], :longest], mask, real)]


def attention(
    query: torch.Tensor,
    output: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    batch: list[Layout],
    *,
    scaling: float | None,
    enable_gqa: bool,
) -> None:
    """Causal attention of each request's new tokens over its whole context, into `output`.

    `query` and `output` are (new tokens of all requests, heads, size), the caches (slots, key heads, size).
    """
    for tokens, slots, mask, real in batch:
        asked = query[tokens]
        if real is None:
            asked = asked.reshape(len(slots), -1, *query.shape[1:])
        else:
            padded = query.new_zeros(*real.shape, *query.shape[1:])
            padded[real] = asked
            asked = padded
        attended = scaled_dot_product_attention(
            asked.transpose(1, 2),
            _gathered(k_cache, slots).to(query.dtype),
            _gathered(v_cache, slots).to(query.dtype),
            attn_mask=mask,
            scale=scaling,
            enable_gqa=enable_gqa,
        ).transpose(1, 2)
        output[tokens] = attended.reshape(-1, *output.shape[1:]) if real is None else attended[real]


def _gathered(cache: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """The cache's rows at `slots` as (requests, key heads, positions, size); five times as fast as indexing with them."""
    return cache.index_select(0, slots.reshape(-1)).view(*slots.shape, *cache.shape[1:]).transpose(1, 2)
