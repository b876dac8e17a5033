"""Whether one client process is the limit: trajectories on stub engines that take their time."""

from client_cost import STEP_TOKENS, stub_engines
from client_pace import Paced, paced, table


def test_a_trajectory_takes_as_long_as_its_engines_say() -> None:
    """Four steps: the first draft, then what takes longer of judging a draft and writing the next one, and the last judging."""
    speed = {"small": ["--token-ms", "5"], "base": ["--judge-ms", "150"]}
    with stub_engines(2, **speed) as engines:
        found = paced(engines, 2, 4)
    assert found.streams == 2
    assert found.latency_s > STEP_TOKENS * 0.005 + 4 * 0.15
    assert found.cpu_s > 0


def test_the_table_is_beside_the_fewest() -> None:
    few = Paced(streams=4, steps=20, latency_s=2.0, cpu_s=0.001)
    many = Paced(streams=256, steps=20, latency_s=2.5, cpu_s=0.0015)
    assert table([few, many]).splitlines()[-1] == "| 256 | 2.50 | 1.25 | 2560 | 2048 | 1.50 |"
