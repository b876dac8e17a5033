"""CSV for pandas and spreadsheets: a row a trajectory, a row a run."""

import csv
import io
import re
from pathlib import Path

from checkout import ROOT
from command_line import invoke
from run_folders import answers, record, run_folder

FAILED = {"problem_id": "p9", "sample": 0, "error": 'base: gone,\n"twice"', "latency_s": 20.0}


def rows(printed: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(printed)))


def runs(top: Path) -> Path:
    run_folder(
        top / "spec", [*answers(True, False), record(2, correct=True, answer='=HYPERLINK("x")', gold="-5"), FAILED]
    )
    run_folder(top / "base", answers(True, True, True), method="base")
    return top


def test_a_row_is_a_trajectory(tmp_path: Path) -> None:
    found = rows(invoke("report", "--csv", runs(tmp_path / "top")).stdout)
    assert [(row["method"], row["problem_id"]) for row in found] == [
        ("base", "p0"), ("base", "p1"), ("base", "p2"),
        ("specreason", "p0"), ("specreason", "p1"), ("specreason", "p2"), ("specreason", "p9"),
    ]  # fmt: skip
    right, wrong, odd, failed = found[3:]
    assert (right["correct"], right["latency_s"], right["tokens_base"]) == ("true", "1.0", "10")
    assert (wrong["correct"], wrong["truncated"], wrong["error"]) == ("false", "false", "")
    assert (failed["correct"], failed["truncated"], failed["error"]) == ("", "", FAILED["error"])
    assert (odd["answer"], odd["gold"]) == ('\'=HYPERLINK("x")', "-5"), "a spreadsheet would run it"


def test_a_row_is_a_run(tmp_path: Path) -> None:
    base, spec = rows(invoke("report", "--csv-runs", runs(tmp_path / "top")).stdout)
    assert (base["method"], base["accuracy"], base["vs_base.accuracy.difference"]) == ("base", "1.0", "")
    assert (spec["n"], spec["failed"], spec["partial"], spec["policy.threshold"]) == ("3", "1", "true", "7.0")
    assert float(spec["accuracy_ci95.low"]) < float(spec["accuracy"]) < float(spec["accuracy_ci95.high"])
    assert spec["vs_base.speed_up.value"] == "1.0"
    assert spec["conditions.versions.sglang"] == "0.5.23"


def test_it_goes_to_a_file_without_being_printed(tmp_path: Path) -> None:
    top = runs(tmp_path / "top")
    printed = invoke("report", "--csv", top).stdout
    done = invoke("report", "--csv", top, "-o", tmp_path / "t.csv")
    assert (done.exit_code, done.stdout, (tmp_path / "t.csv").read_text()) == (0, "", printed)
    assert invoke("report", "--csv", "--json", top).exit_code == 2


def test_every_column_is_documented(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "runs.md").read_text()
    explained = set(re.findall(r"`([\w.]+)`", page))
    titles = invoke("report", "--csv", runs(tmp_path / "top")).stdout.splitlines()[0].split(",")
    assert set(titles) - explained == set()


def test_a_number_that_is_none_is_an_empty_cell(tmp_path: Path) -> None:
    (only,) = rows(invoke("report", "--csv-runs", run_folder(tmp_path / "run", [])).stdout)
    assert (only["accuracy"], only["trajectories"]) == ("", "0")
