"""What the platform plugin adds to SGLang's own CPU path."""

import pytest
import torch

from sgl_specreason.engines.cpu_kernels import Span, attention, layouts, likely, seeded_choice


def test_seeded_choices_follow_the_distribution() -> None:
    """40,000 draws over four columns, one of which is impossible: each share within five standard errors."""
    probabilities = torch.tensor([0.5, 0.3, 0.2, 0.0])
    rows = 40_000
    chosen = seeded_choice(
        probabilities.log().expand(rows, 4), torch.arange(rows) % 200 + 2**30, torch.arange(rows) // 200
    )
    assert chosen.shape == (rows, 1)
    shares = torch.bincount(chosen.flatten(), minlength=4) / rows
    error = (probabilities * (1 - probabilities) / rows).sqrt()
    assert ((shares - probabilities).abs() <= 5 * error).all()


def test_a_choice_depends_on_seed_and_position_and_not_on_the_batch() -> None:
    logprobs = torch.zeros(3, 500)
    seeds, positions = torch.tensor([7, 7, 8]), torch.tensor([1, 2, 1])
    together = seeded_choice(logprobs, seeds, positions)
    assert len(set(together.flatten().tolist())) == 3
    for row in range(3):
        alone = seeded_choice(logprobs[row : row + 1], seeds[row : row + 1], positions[row : row + 1])
        assert alone.item() == together[row].item()


def test_what_is_less_likely_than_a_fraction_of_the_likeliest_is_left_out() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    kept = likely(probabilities, torch.tensor([0.0, 0.5, 1.0]))
    assert kept.tolist() == torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.0], [0.0, 0.8, 0.0]]).tolist()


@pytest.mark.parametrize(
    ("shapes", "parts"),
    [
        ([(300, 1)], 1),  # one request decodes
        ([(40, 40)], 1),  # one begins
        ([(90, 17)], 1),  # one goes on after 73 cached tokens
        ([(50, 1), (61, 1), (47, 1)], 1),  # several decode together
        ([(50, 9), (61, 12), (47, 10)], 1),  # several go on together, by different lengths
        ([(400, 1), (3, 3), (5, 5), (2, 2)], 4),  # too different to be computed together
    ],
)
@pytest.mark.parametrize("key_heads", [4, 2])
def test_attention_is_what_each_request_would_get_alone(
    shapes: list[tuple[int, int]], parts: int, key_heads: int
) -> None:
    """Every new token sees its own request up to itself and nothing else, wherever the cache keeps it."""
    torch.manual_seed(0)
    heads, size, room = 4, 8, 2000
    k_cache, v_cache = torch.randn(room, key_heads, size), torch.randn(room, key_heads, size)
    table = torch.randint(0, room, (len(shapes) + 2, 512), dtype=torch.int32)
    spans = [Span(row, length, new) for row, (length, new) in enumerate(shapes, 1)]
    query = torch.randn(sum(new for _, new in shapes), heads, size)
    output = torch.full_like(query, torch.nan)
    batch = layouts(spans, table)
    assert len(batch) == parts
    attention(query, output, k_cache, v_cache, batch, scaling=0.3, enable_gqa=key_heads < heads)
    at = 0
    for row, length, new in spans:
        slots = table[row, :length].long()
        key, value = (cache[slots].repeat_interleave(heads // key_heads, dim=1) for cache in (k_cache, v_cache))
        for token in range(new):
            seen = length - new + token + 1
            weights = torch.einsum("hd,khd->hk", query[at], key[:seen]).mul(0.3).softmax(-1)
            expected = torch.einsum("hk,khd->hd", weights, value[:seen])
            assert torch.allclose(output[at], expected, atol=1e-5)
            at += 1
    assert at == len(query)
