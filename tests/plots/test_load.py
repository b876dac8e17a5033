"""The figure and the table over concurrency: what they show, what they leave out, what they refuse."""

from collections.abc import Iterator
from pathlib import Path

import drawing
import matplotlib.pyplot as plt
import pytest
from command_line import invoke
from load import OVER, levels, load, table
from matplotlib.figure import Figure
from matplotlib.text import Text
from run_folders import record, run_folder

from sgl_specreason.errors import UsageError
from sgl_specreason.results.summary import Run


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Figures that are looked at here are nobody's afterwards."""
    yield
    plt.close("all")


def folder(top: Path, method: str, concurrency: int, count: int = 120, **changes: object) -> Path:
    """Base takes twice as long alone, and as long as specreason where 16 run side by side."""
    each = concurrency**0.5 * (2 if method == "base" and concurrency < 16 else 1)
    records = [
        record(number, correct=True, start_s=number * each / concurrency, latency_s=each * (1 + number / 100))
        for number in range(count)
    ]
    return run_folder(top / f"{method}-{concurrency}", records, method=method, concurrency=concurrency, **changes)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [folder(tmp_path, method, level) for method in ("base", "specreason") for level in (1, 4, 16)]


def read(folders: list[Path]) -> list[Run]:
    return drawing.read(folders, over=OVER, replays=True)


def shown(figure: Figure) -> str:
    figure.canvas.draw()
    return " ".join(" ".join(text.get_text() for text in figure.findobj(Text)).split())


def test_the_figure_has_its_conditions_and_nothing_under_7_points(runs: list[Path]) -> None:
    figure = load(read(runs))
    words = shown(figure)
    for said in (
        "concurrency 1/4/16",
        "p50",
        "p95",
        "p99",
        "throughput",
        "percentiles of 120 trajectories at each point",
    ):
        assert said in words
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 7
    assert [len(axes.lines) for axes in figure.axes] == [
        6,
        2,
        9,
    ]  # the third: three for base without points, a level line


def test_an_axis_has_marks_whether_it_spans_much_or_little(tmp_path: Path) -> None:
    """On a scale of doublings, seconds of 1.1 to 1.9 had no mark at all."""
    for top, levels_run in (("much", (1, 64)), ("little", (1, 2))):
        figure = load(read([folder(tmp_path / top, "specreason", level) for level in levels_run]))
        figure.canvas.draw()
        for axes in figure.axes[:2]:
            low, high = axes.get_ylim()
            assert len([1 for tick in axes.get_yticks() if low <= tick <= high]) > 1


def test_the_gain_is_beside_base_at_the_same_concurrency(runs: list[Path]) -> None:
    rows = table(read(runs)).rows
    cells = {(row[0], row[1]): row for row in rows[1:]}
    assert list(cells) == [(level, method) for level in ("1", "4", "16") for method in ("base", "specreason")]
    assert cells["1", "specreason"][7:10] == ["2.00", "2.00", "2.00"]
    assert cells["16", "specreason"][7:10] == ["1.00", "1.00", "1.00"]
    assert cells["1", "base"][7:] == ["-"] * 4


def test_a_percentile_of_too_few_trajectories_is_not_shown(tmp_path: Path) -> None:
    folders = [folder(tmp_path, "specreason", level, count=99) for level in (1, 4)]
    (one, _), words = levels(read(folders)), shown(load(read(folders)))
    assert one.n == 99
    assert one.seconds[95] == one.seconds[95]
    assert one.seconds[99] != one.seconds[99]
    assert "p99 of fewer than 100 not shown" in words
    assert [row[5] for row in table(read(folders)).rows[1:]] == ["-", "-"]
    few = [folder(tmp_path / "few", "specreason", level, count=19) for level in (1, 4)]
    assert "p95 and p99 of fewer than 20 and 100 not shown" in shown(load(read(few)))


def test_failed_trajectories_have_no_seconds(tmp_path: Path) -> None:
    folders = [folder(tmp_path, "base", level, count=100) for level in (1, 2)]
    with (folders[0] / "trajectories.jsonl").open("r+") as file:
        lines = file.read().replace('"problem_id": "p3"', '"problem_id": "p3", "error": "gone"', 1)
        file.seek(0)
        file.write(lines)
    assert [level.n for level in levels(read(folders))] == [99, 100]
    assert "percentiles of 99 to 100 trajectories" in shown(load(read(folders)))


def test_what_differs_in_more_than_concurrency_is_refused(runs: list[Path], tmp_path: Path) -> None:
    other = folder(tmp_path / "other", "base", 64, dataset_sha256="2" * 64)
    done = invoke("load", *runs, other, "-o", tmp_path / "x.svg")
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert "dataset_sha256 differ" in done.stderr
    assert "concurrency" not in done.stderr
    assert invoke("load", *runs, other, "-o", tmp_path / "x.svg", "--force").exit_code == 0


def test_one_concurrency_and_one_point_twice_are_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="all of one concurrency"):
        load(read(runs[:1]))
    again = folder(tmp_path / "again", "base", 4)
    with pytest.raises(UsageError, match="another one of these runs is base at concurrency 4"):
        load(read([*runs, again]))


def test_other_figures_still_refuse_other_concurrencies(runs: list[Path], tmp_path: Path) -> None:
    done = invoke("pareto", *runs, "-o", tmp_path / "x.svg")
    assert (done.exit_code, "concurrency differ" in done.stderr) == (2, True)


def test_the_command_says_what_it_wrote(runs: list[Path], tmp_path: Path) -> None:
    assert "--table" in invoke("load", "--help").stdout
    done = invoke("load", *runs, "-o", tmp_path / "out.svg", "--table", tmp_path / "out.md")
    assert done.stdout.split() == [str(tmp_path / name) for name in ("out.md", "out.svg", "out.png")]
    text = (tmp_path / "out.md").read_text()
    assert "p99 s" in text.splitlines()[0]
    assert "percentiles of 120 trajectories at each point" in text
    done = invoke("load", *runs, "-o", tmp_path / "out.svg", "--table", tmp_path / "no" / "out.md")
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)


def test_replays_are_drawn_since_they_have_seconds(tmp_path: Path) -> None:
    """They have no answers, which no other figure can do without."""
    trace = {
        "origin": "somewhere",
        "steps": 9,
        "step_tokens_median": 9,
        "step_tokens_max": 9,
        "thinking_tokens_mean": 9,
        "thinking_tokens_max": 9,
        "prompt_tokens_mean": 9,
        "answer_tokens_mean": 9,
    }
    replays = [folder(tmp_path, "base", level, replay=True, trace=trace) for level in (1, 8)]
    done = invoke("load", *replays, "-o", tmp_path / "x.svg", "--table", tmp_path / "x.md")
    assert done.exit_code == 0, done.stderr
    assert "nan" not in (tmp_path / "x.md").read_text()
    assert "a replay has no answers" in invoke("pareto", replays[0], "-o", tmp_path / "x.svg").stderr
