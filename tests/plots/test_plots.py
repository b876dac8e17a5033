"""The figures, from run folders alone: what they show, what they refuse, and that nothing in them is too small or overlaps."""

import itertools
import re
from pathlib import Path
from typing import Any

import drawing
import pytest
from command_line import invoke
from judge import judge
from knobs import knobs
from matplotlib.figure import Figure
from matplotlib.text import Text
from pareto import AXES, pareto
from run_folders import record, run_folder, settings
from steps import _seconds, steps, tallied

from sgl_specreason.errors import UsageError
from sgl_specreason.results.folder import write_json
from sgl_specreason.results.summary import load_runs


def request(purpose: str, seconds: float, start_s: float = 0.0) -> dict[str, Any]:
    return {"engine": "small", "purpose": purpose, "seconds": seconds, "start_s": start_s}


def trajectory(problem: int, *, correct: bool, seconds: float, method: str) -> dict[str, Any]:
    said = {"score": 9, "label_mass": 0.98, "digits": [0.01] * 9 + [0.91], "tokens": 5, "ending": "blank_line"}
    kept = said | {"by": "small", "accepted": True, "text": "One.\n\n"}
    rejected = said | {"by": "base", "accepted": False, "text": "Two.\n\n", "draft": {"text": "Too.\n\n", "tokens": 5}}
    drafting = method not in ("base", "small")
    return record(
        problem,
        correct=correct,
        latency_s=seconds,
        drafts=2 * drafting,
        accepted=1 * drafting,
        steps=[kept, rejected] if drafting else [{"by": method, "text": "All.", "tokens": 9, "ending": "think_end"}],
        requests=[request("draft", seconds / 2), request("judge", seconds / 4)],
    )


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Base, small and ten thresholds of specreason on 40 problems, several of them in nearly the same place."""
    top = tmp_path / "demo-sweep"
    for method, threshold, right, seconds in [
        ("base", 7.0, 0.95, 2.0),
        ("small", 7.0, 0.3, 0.5),
        *(("specreason", float(level), min(0.4 + 0.1 * level, 0.95), 1 + 0.05 * min(level, 6)) for level in range(10)),
    ]:
        policy = settings()["policy"] | {"threshold": threshold}
        records = [
            trajectory(number, correct=number < 40 * right, seconds=seconds + number / 100, method=method)
            for number in range(40)
        ]
        run_folder(top / f"{method}-{threshold}", records, method=method, policy=policy)
    write_json(top / "sweep.json", {"name": "threshold", "grid": {"threshold": list(range(10))}})
    return top


def words(figure: Figure) -> list[Text]:
    figure.canvas.draw()
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


FIGURES = {"pareto": pareto, "knobs": knobs, "judge": judge, "steps": steps}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_written_with_its_conditions_and_nothing_under_7_points(
    sweep: Path, tmp_path: Path, name: str
) -> None:
    figure = FIGURES[name](drawing.read([sweep]))
    assert min(text.get_fontsize() for text in words(figure)) >= 7
    shown = " ".join(text.get_text().replace("\n", " ") for text in words(figure))
    for condition in (
        "math500, 40 problems x 1",
        "concurrency 1",
        "budget 8192",
        "truncated at most",
        "sglang 0.5.23",
        "judge prompt",
    ):
        assert condition in shown
    svg, png = drawing.save(figure, tmp_path / "f.svg")
    assert svg.read_text().startswith("<?xml")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert len(png.read_bytes()) > 20_000


@pytest.mark.parametrize("x", AXES)
def test_the_labels_of_a_curve_do_not_overlap(sweep: Path, x: str) -> None:
    figure = pareto(drawing.read([sweep]), x=x)
    figure.canvas.draw()
    labels = [text.get_window_extent() for text in figure.axes[0].texts]
    assert labels
    assert not [1 for a, b in itertools.combinations(labels, 2) if a.overlaps(b)]


def test_one_curve_for_a_method_and_points_for_baselines(sweep: Path) -> None:
    figure = pareto(drawing.read([sweep]))
    lines = {
        str(line.get_label()): len(line.get_xdata())
        for line in figure.axes[0].lines
        if "_" not in str(line.get_label())[:1]
    }
    assert lines == {"base": 1, "small": 1, "specreason (threshold)": 10}


def test_published_points_are_drawn_with_their_source(sweep: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text('source = "somebody 2025"\n[[points]]\nlabel = "theirs"\nx = 1.5\naccuracy = 80\n')
    shown = [text.get_text() for text in words(pareto(drawing.read([sweep]), published=file))]
    assert "theirs" in shown
    assert "published: somebody 2025" in shown
    file.write_text("[[points]]")
    with pytest.raises(UsageError, match="wants source"):
        pareto(drawing.read([sweep]), published=file)


def test_a_knob_is_found_or_asked_for(sweep: Path) -> None:
    figure = knobs(drawing.read([sweep]))
    assert figure.axes[-1].get_xlabel() == "threshold"
    assert len(figure.axes) == 3
    with pytest.raises(UsageError, match="do not differ in it; they differ in threshold"):
        knobs(drawing.read([sweep]), knob="drafts")
    with pytest.raises(UsageError, match="no one setting"):
        knobs(drawing.read([sweep / "base-7.0"]))


def test_what_holds_nothing_to_draw_is_refused(sweep: Path) -> None:
    with pytest.raises(UsageError, match="no judgement"):
        judge(drawing.read([sweep / "base-7.0"]))


@pytest.mark.parametrize("name", FIGURES)
def test_each_script_has_help_and_says_what_it_wrote(sweep: Path, tmp_path: Path, name: str) -> None:
    assert "RUN..." in invoke(name, "--help").stdout
    done = invoke(name, sweep, "-o", tmp_path / "out.png")
    assert done.stdout.splitlines() == [str(tmp_path / "out.svg"), str(tmp_path / "out.png")], done.stderr


def test_runs_of_other_conditions_are_refused_by_name(sweep: Path, tmp_path: Path) -> None:
    records = [trajectory(0, correct=True, seconds=1, method="base")]
    other = run_folder(tmp_path / "other", records, method="base", dataset_sha256="2" * 64)
    done = invoke("pareto", sweep, other, "-o", tmp_path / "out")
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert re.search("dataset_sha256 differ", done.stderr)
    assert invoke("pareto", sweep, other, "-o", tmp_path / "out", "--force").exit_code == 0
    assert invoke("pareto", sweep, "-o", tmp_path / "no" / "out").exit_code == 2


def test_no_figure_prints_a_number_that_is_none(tmp_path: Path) -> None:
    """Issue 15: where every trajectory ended right a label read "AUROC nan"; one problem has no interval."""
    run = run_folder(tmp_path / "run", [trajectory(1, correct=True, seconds=2.0, method="specreason")])
    for figure in (judge(load_runs(run)), pareto(load_runs(run))):
        texts = " ".join(text.get_text() for text in figure.findobj(Text))
        assert "nan" not in texts.lower()
        assert "too few to say anything" in " ".join(texts.split())
        assert "intervals" not in texts


def test_what_ran_side_by_side_takes_its_time_once(tmp_path: Path) -> None:
    """A draft written while base judges costs only what it takes longer; what no request accounts for is waiting."""
    ran = [
        request("draft", 1.0),
        request("judge", 2.0, 1.0),
        request("draft", 2.5, 1.0),
        request("regenerate", 1.0, 4.0),
    ]
    run = run_folder(tmp_path / "run", [record(1, correct=True, requests=ran, latency_s=6.0)])
    seconds = _seconds(load_runs(run)[0].of(tallied))
    assert seconds["draft"] == pytest.approx(1.5)
    assert seconds["judge"] == pytest.approx(2.0)
    assert seconds["regenerate"] == pytest.approx(1.0)
    assert seconds["waiting"] == pytest.approx(1.5)
