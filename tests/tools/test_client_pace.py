"""How many streams client processes keep up with: trajectories on stub engines that take their time."""

import pytest
from client_pace import STEP_TOKENS, Paced, paced, stub_pair, table


@pytest.mark.parametrize("count", [1, 2])
def test_a_trajectory_takes_as_long_as_its_engines_say(count: int) -> None:
    """Four steps: the first draft, then what takes longer of judging a draft and writing the next one, and the last judging."""
    with stub_pair({"small": ["--token-ms", "5"], "base": ["--judge-ms", "150"]}) as access:
        found = paced(access, streams=2, count=count, steps=4)
    assert (found.streams, found.clients) == (2, count)
    assert found.latency_s > STEP_TOKENS * 0.005 + 4 * 0.15
    assert found.cpu_s > 0


def test_the_table_is_beside_the_fewest() -> None:
    few = Paced(streams=4, clients=1, steps=20, latency_s=2.0, cpu_s=0.001)
    many = Paced(streams=256, clients=2, steps=20, latency_s=2.5, cpu_s=0.0015)
    assert table([few, many]).splitlines()[-1] == "| 256 | 2 | 2.50 | 1.25 | 2560 | 2048 | 1.50 |"
