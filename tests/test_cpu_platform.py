"""What the platform plugin adds to SGLang's own CPU path."""

import torch

from sgl_specreason.cpu_platform import seeded_choice


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
