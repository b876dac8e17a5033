"""Owns how a number and its interval are written, and that "-" stands where there is none. Knows no tables."""

import math

from sgl_specreason.results import stats


def difference(found: stats.Paired, *, with_interval: bool = True) -> str:
    """A difference of accuracies in points."""
    if found.too_few:
        return "-"
    return estimate(found.difference, found.ci95, "+z.1f", 100) if with_interval else f"{100 * found.difference:+z.1f}"


def ratio(found: stats.Ratio) -> str:
    """A speed-up."""
    return "-" if found.too_few else estimate(found.value, found.ci95, ".2f", 1)


def estimate(value: float, ci95: stats.Interval, form: str, scale: float) -> str:
    """A number with its interval."""
    if math.isnan(value):
        return "-"
    low, high = (scale * bound for bound in ci95)
    return f"{scale * value:{form}} " + ("[-]" if math.isnan(low) else f"[{low:{form}}, {high:{form}}]")


def percent(share: float) -> str:
    """A share in %."""
    return number(100 * share, ".1f")


def number(value: float, form: str) -> str:
    """Any other number."""
    return "-" if math.isnan(value) else f"{value:{form}}"
