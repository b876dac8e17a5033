"""What a published trace says of its judge: in the report, and as a figure."""

import json
from pathlib import Path

import numpy as np
from checkout import ROOT
from command_line import invoke
from judge import of_trace
from matplotlib.text import Text

from sgl_specreason.plan.traces import DEFAULT, load
from sgl_specreason.results.published import calibration, drafts


def test_what_ships_as_published_is_what_the_report_says() -> None:
    """eval/results/published.md is written by `report --calibrate`."""
    shown = invoke("report", "--calibrate", DEFAULT).stdout
    assert shown == (ROOT / "eval" / "results" / "published.md").read_text() == calibration(load(DEFAULT))


def test_a_distribution_adds_up_to_one_and_its_sum_is_the_label_mass() -> None:
    found = drafts(load(DEFAULT))
    known = found[~np.isnan(found["digits"][:, 0])]
    assert len(known) == 1332
    assert np.allclose(known["digits"].sum(axis=1), 1)
    assert 0.988 < known["label_mass"].min() < known["label_mass"].max() < 1
    assert np.isnan(found["step_right"]).all()


def test_a_trace_without_distributions_and_seconds_says_less(tmp_path: Path) -> None:
    about = {"title": "Mine", "source": "me", "threshold": 7, "score_rule": "greedy", "budget_tokens": 512}
    steps = [{"draft": 9, "base": None, "score": 8}, {"draft": 3, "base": 5, "score": 2}]
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps(about) + "\n" + json.dumps({"problem": "p", "steps": steps}) + "\n")
    shown = invoke("report", "--calibrate", file)
    assert "kept 50.0 % of all 2 drafts" in shown.stdout
    assert "25.0 % of small's tokens were thrown away" in shown.stdout
    assert "Seconds" not in shown.stdout
    assert "holds no distribution" in invoke("judge", file, "-o", tmp_path / "x.svg").stderr


def test_a_trace_and_a_run_are_not_shown_together() -> None:
    shown = invoke("report", "--calibrate", DEFAULT, "runs/x")
    assert (shown.exit_code, shown.stderr) == (
        2,
        "error: a published trace does not compare with a run; show them one by one\n",
    )


def test_the_figure_of_a_trace_names_its_source() -> None:
    figure = of_trace(DEFAULT)
    assert "RuthvikAtte/specreason" in " ".join(text.get_text() for text in figure.findobj(Text))
    assert [axes.get_xlabel() for axes in figure.axes][2] == "expected digit"
