"""Owns the choice of how many trajectories run side by side where nobody says (pure). Knows no engines."""

from collections.abc import Callable

GAIN = 1.15
PATIENCE = 2


def knee(measure: Callable[[int], float], most: int) -> tuple[int, dict[int, float]]:
    """The least concurrency from which on throughput hardly grows, and the throughput measured at each level tried.

    `measure(level)` runs `level` trajectories side by side and returns tokens/s. Levels double from 1 up to `most`; after two
    that add less than 15 % to the best so far no more are tried, so that one noisy measurement does not end the search.
    """
    found: dict[int, float] = {}
    level, best, flat = 1, 0.0, 0
    while level <= most and flat < PATIENCE:
        found[level] = measure(level)
        flat = 0 if found[level] > GAIN * best else flat + 1
        best = max(best, found[level])
        level *= 2
    return min(level for level, rate in found.items() if GAIN * rate >= best), found
