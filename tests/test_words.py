"""Numbers have their nouns in the right number, and nothing is minus zero."""

from pathlib import Path

import pytest
from command_line import invoke
from run_folders import answers, record, run_folder

from sgl_specreason.words import counted


def test_one_is_one() -> None:
    assert [counted(n, "problem") for n in (0, 1, 2, 1200)] == [
        "0 problems",
        "1 problem",
        "2 problems",
        "1,200 problems",
    ]
    assert counted(1, "trajectory", "trajectories") == "1 trajectory"
    assert counted(3, "trajectory", "trajectories") == "3 trajectories"


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1, "there is p0"),
        (2, "there are p0 and p1"),
        (4, "there are p0, p1, p2 and p3"),
        (6, "there are p0, p1, p2, ..., p5"),
    ],
)
def test_the_problems_that_there_are(count: int, said: str, tmp_path: Path) -> None:
    """Of one it read "there are 1, ..., 1"."""
    records = [record(at, correct=True) | {"problem_id": f"p{at}"} for at in range(count)]
    done = invoke("report", "--show", run_folder(tmp_path / "run", records), "nosuch")
    assert done.stderr.endswith(f"; {said}\n")


def test_a_run_of_one_problem_has_no_interval_and_says_why(tmp_path: Path) -> None:
    for method in ("base", "specreason"):
        run_folder(tmp_path / method, answers(True), method=method)
    text = invoke("report", tmp_path / "base", tmp_path / "specreason").stdout
    assert "1 problem x 1 sample" in text
    assert "Fewer than 6 problems are too few to say anything" in text
    assert "p =" not in text
    single = invoke("report", tmp_path / "base").stdout
    assert "one problem has no interval" in single
    (line, _) = invoke("report", "--json", tmp_path / "specreason", tmp_path / "base").stdout.splitlines()
    assert '"sign_p": null' in line
    assert '"ci95": [null, null]' in line


def test_a_score_of_minus_zero_is_zero(tmp_path: Path) -> None:
    """A likelihood of 1 has the logarithm -0.0."""
    step = {"by": "small", "text": "x\n\n", "tokens": 1, "score": -0.0, "accepted": True}
    records = [record(0, correct=True) | {"problem_id": "p", "steps": [step]}]
    text = invoke("report", "--show", run_folder(tmp_path / "run", records), "p").stdout
    assert "1 small, 1 token, score 0\n" in text
