"""What `make bench` says of a figure beside the committed one; no engine is started."""

import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from committed import COMMITTED, KINDS, Speed, Spread, cost, lines, measured, place, read, write

from sgl_specreason.errors import UsageError


def spread(median: float, low: float | None = None, high: float | None = None) -> Spread:
    return Spread(median=median, low=median if low is None else low, high=median if high is None else high)


def speed(problems: int = 24, **figures: Spread) -> Speed:
    return Speed(commit="abc", sglang="0.5.23", cpu="2 x chip", problems=problems, runs=3, figures=figures)


@pytest.mark.parametrize(
    ("now", "then", "where"),
    [
        (spread(1.5, 1.4, 1.6), spread(1.65, 1.6, 1.7), "within"),
        (spread(1.5, 1.4, 1.55), spread(1.65, 1.6, 1.7), "below"),
        (spread(1.9, 1.8, 2.0), spread(1.65, 1.6, 1.7), "above"),
        (spread(539.3), spread(539.1), "within"),
    ],
)
def test_a_figure_is_within_where_the_spreads_touch(now: Spread, then: Spread, where: str) -> None:
    assert place(now, then) == where


def test_what_is_worse_depends_on_the_figure() -> None:
    """A smaller speed-up costs, a larger growth costs, and a share counts in parts of the whole."""
    assert cost(KINDS["speedup_base"], spread(1.2), spread(1.5)) == pytest.approx(0.25)
    assert cost(KINDS["speedup_base"], spread(1.5), spread(1.2)) == pytest.approx(-0.2)
    assert cost(KINDS["client_growth_500_16k"], spread(1.5), spread(1.2)) == pytest.approx(0.25)
    assert cost(KINDS["uncovered_share"], spread(0.05), spread(0.04)) == pytest.approx(0.01)
    assert cost(KINDS["cached_share"], spread(0.85), spread(1.0)) == pytest.approx(0.15)


def test_what_costs_more_than_a_tenth_is_named_last() -> None:
    then = speed(speedup_base=spread(1.5, 1.45, 1.55), client_ratio_plain=spread(3.5, 3.3, 3.6))
    now = speed(speedup_base=spread(1.45, 1.4, 1.5), client_ratio_plain=spread(2.8, 2.7, 2.9))
    *said, last = lines(now, then, "speed.json")
    assert last == "costs more than 10 %: our client over the plain loop's (25 %, below)"
    assert any(line.split()[0:2] == ["our", "client"] and line.endswith("below") for line in said)
    assert any("speed-up over base, default" in line and line.endswith("within") for line in said)
    assert list(lines(now, now, "speed.json"))[-1] == "costs more than 10 %: nothing"


def test_a_large_change_inside_a_wide_spread_is_named_as_such() -> None:
    then, now = speed(speedup_base=spread(1.5, 1.0, 2.0)), speed(speedup_base=spread(1.2, 1.1, 1.3))
    assert list(lines(now, then, "x"))[-1].endswith("(25 %, within)")


def test_speed_ups_of_other_problems_are_not_compared() -> None:
    figures = {"speedup_base": spread(1.5), "client_ratio_plain": spread(3.5)}
    said = list(lines(speed(problems=2, **figures), speed(**figures), "x"))
    assert not any(line.startswith("  speed-up over base, default ") for line in said)
    assert any("not compared" in line and "speed-up over base, default" in line for line in said)
    assert any(line.startswith("  our client") for line in said)


def test_another_machine_is_named() -> None:
    other = Speed(commit=None, sglang="0.6", cpu="64 x chip", problems=1, runs=1, figures={})
    assert "64 x chip, sglang 0.6" in "\n".join(lines(other, speed(), "x"))
    assert "64 x chip" not in "\n".join(lines(speed(), speed(), "x"))


def test_medians_and_spreads_of_the_repetitions_are_kept(tmp_path: Path) -> None:
    found = measured({"speedup_base": [1.4, 1.6, 1.5]}, problems=24, runs=3)
    write(tmp_path / "speed.json", found)
    assert read(tmp_path / "speed.json") == found
    assert found.figures["speedup_base"] == spread(1.5, 1.4, 1.6)


def test_what_is_committed_has_every_figure() -> None:
    assert KINDS.keys() <= read(COMMITTED).figures.keys()


@pytest.mark.parametrize("content", [None, "{", "[]", '{"figures": {"x": 1}}', "[" * 100_000])
def test_a_file_that_is_none_is_one_line(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "speed.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=str(file)):
        read(file)


def test_two_files_are_compared_by_a_command(tmp_path: Path) -> None:
    write(tmp_path / "now.json", speed(speedup_base=spread(1.0)))
    write(tmp_path / "then.json", speed(speedup_base=spread(1.5)))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "tools" / "committed.py"), *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    done = run("now.json", "--against", "then.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "costs more than 10 %: speed-up over base, default (50 %, below)"
    done = run("missing.json")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
