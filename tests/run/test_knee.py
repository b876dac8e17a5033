"""How many trajectories run side by side where that is measured."""

import pytest

from sgl_specreason.run.knee import knee


@pytest.mark.parametrize(
    ("rates", "most", "expected", "tried"),
    [
        ({1: 10, 2: 20, 4: 40, 8: 42, 16: 43}, 256, 4, 5),  # a knee
        ({1: 10, 2: 20, 4: 40}, 4, 4, 3),  # no more than fit
        ({1: 10, 2: 10, 4: 10}, 256, 1, 3),  # nothing to gain
        ({1: 10, 2: 9, 4: 30, 8: 60, 16: 61, 32: 60}, 256, 8, 6),  # one slow measurement does not end the search
        ({1: 10}, 1, 1, 1),
    ],
)
def test_the_least_concurrency_that_is_nearly_as_good_as_any(
    rates: dict[int, float], most: int, expected: int, tried: int
) -> None:
    level, found = knee(lambda count: rates[count], most)
    assert level == expected
    assert len(found) == tried
