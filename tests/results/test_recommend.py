"""The report of --calibrate: the verdict first, of equal thresholds none better, how many problems it takes."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
from command_line import invoke
from run_folders import record, run_folder, settings

from sgl_specreason.results.certify import (
    least_risk,
    problems_needed,
    risk_p_value,
    said_before,
)
from sgl_specreason.results.folder import write_json

SECONDS = 10.0


def sweep(top: Path, problems: int, *, levels: tuple[float, ...] = (9, 8, 7, 5, 2, 1), rule: str = "greedy") -> Path:
    """Base and thresholds over problems whose drafts are judged 9, 8, 7 or 1: 7 to 2 keep the same ones, 1 all, and is wrong."""
    for method, threshold in [("base", 7.0), *(("specreason", level) for level in levels)]:
        records = []
        for at in range(problems):
            chance = random.Random(at)
            steps, kept = [], 0
            for _ in range(6 if method == "specreason" else 0):
                digit = chance.choice([9, 9, 8, 7, 1])
                accepted = digit >= threshold
                kept += accepted
                digits = [0.01 + 0.9 * (place == digit) for place in range(10)]
                draft = {} if accepted else {"draft": {"text": "x", "tokens": 5}}
                said = {"text": "x\n\n", "tokens": 5, "score": digit, "digits": digits, "label_mass": 0.9}
                steps.append(said | {"by": "small", "accepted": accepted} | draft)
            right = threshold > 1 or method == "base" or not any(step["score"] == 1 for step in steps)
            more: dict[str, Any] = {"steps": steps, "drafts": 6, "accepted": kept} if steps else {}
            seconds = SECONDS - kept + random.Random(f"{at}{threshold}").random()
            records.append(record(at, correct=right, latency_s=seconds, **more))
        policy = settings()["policy"] | {"threshold": float(threshold), "score_rule": rule}
        run_folder(top / f"{method}-{threshold}", records, bench="mine", method=method, policy=policy)
    write_json(top / "sweep.json", {"name": "threshold", "grid": {"threshold": list(levels)}})
    return top


def report(folder: Path, *words: str) -> str:
    done = invoke("report", "--calibrate", *words, folder)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_verdict_comes_first_and_the_blocks_when_asked_for(tmp_path: Path) -> None:
    """A sweep printed 360 lines with the recommendation last."""
    folder = sweep(tmp_path / "sweep", 100)
    text = report(folder, "--risk", "5")
    assert text.startswith("## Verdict\n\nRecommended: threshold 7: ")
    assert len(text.splitlines()) < 30
    assert "Greedy digits" not in text
    verbose = report(folder, "--risk", "5", "--verbose")
    assert verbose.startswith(text.partition("--verbose shows")[0].rstrip())
    assert verbose.count("Greedy digits") == 6
    assert invoke("report", "--verbose", folder).exit_code == 2


def test_of_thresholds_that_keep_the_same_drafts_none_is_called_better(tmp_path: Path) -> None:
    """2 was recommended, since it is the lowest that is certified."""
    text = report(sweep(tmp_path / "sweep", 100), "--risk", "5")
    assert "Thresholds 2 to 7 keep the same drafts" in text
    assert "none of them is better than another" in text
    assert "7 is the strictest" in text
    assert "threshold 2:" not in text


@pytest.mark.parametrize("rule", ["greedy", "expected", "p_ge"])
def test_what_is_kept_is_compared_by_the_rule_that_decides(rule: str, tmp_path: Path) -> None:
    """The expected digit of a 9 is 8.1, of a 1 1.3: other thresholds are alike than of the likeliest digit."""
    text = report(sweep(tmp_path / "sweep", 80, levels=(8, 7, 5, 2), rule=rule), "--risk", "10")
    alike = {"greedy": "Thresholds 2 to 7", "p_ge": "Thresholds 2 to 7", "expected": "Thresholds 2 to 5"}[rule]
    assert f"{alike} keep the same drafts" in text


def test_a_speed_up_stands_beside_each_threshold(tmp_path: Path) -> None:
    lines = report(sweep(tmp_path / "sweep", 100), "--risk", "5").splitlines()
    head = next(line for line in lines if line.startswith("| threshold"))
    assert head.endswith("| certified | speed-up, 95 % |")
    rows = [line.split("|") for line in lines if line.startswith("| ") and line.split("|")[1].strip().isdecimal()]
    speeds = {row[1].strip(): float(row[6].split()[0]) for row in rows}
    assert 1 < speeds["9"] < speeds["8"] < speeds["7"] < speeds["1"]
    verdict = lines[2]
    assert f"{speeds['7']:.2f} [" in verdict
    assert "times as fast as base" in verdict


def test_a_risk_that_so_many_problems_cannot_show_is_said_with_the_one_that_they_can(tmp_path: Path) -> None:
    text = report(sweep(tmp_path / "sweep", 100))
    assert "a risk of 1 point takes 347 problems even where nothing is lost, and these are 100." in text
    (least,) = [line for line in text.splitlines() if line.startswith("The least risk that 100 problems can certify")]
    risk = least.rpartition("--risk ")[2].rstrip(".")
    assert "Measured, not certified: threshold 7 was" in text
    assert report(tmp_path / "sweep", "--risk", risk).startswith("## Verdict\n\nRecommended: threshold 7")


def test_the_least_risk_is_just_enough() -> None:
    for count in (20, 200, 500):
        least = least_risk(count, confidence=0.95)
        assert risk_p_value([0.0] * count, least, confidence=0.95) <= 0.05
        assert risk_p_value([0.0] * count, least - 0.001, confidence=0.95) > 0.05
        assert problems_needed(least, confidence=0.95) <= count
    assert math.isnan(least_risk(1, confidence=0.95))


def test_thresholds_that_lose_too_much_are_not_recommended(tmp_path: Path) -> None:
    text = report(sweep(tmp_path / "sweep", 100, levels=(1,)), "--risk", "5")
    assert "No threshold is certified: already the strictest, 1, is " in text
    assert "Recommended" not in text


def test_of_few_problems_nothing_is_said(tmp_path: Path) -> None:
    """One problem read as a loss of 0.0 with p = 0.991, and had an AUROC."""
    text = report(sweep(tmp_path / "sweep", 1))
    assert "None: 1 problem, and fewer than 6 are too few to say anything of a threshold." in text
    for word in ("0.9", "AUROC", "Recommended", "same drafts", "1 problems", "nan"):
        assert word not in text.replace("kept %", "")
    assert "Recommended" not in report(sweep(tmp_path / "five", 5), "--risk", "50")


def test_before_a_sweep_runs_it_is_said_how_many_problems_it_takes() -> None:
    done = invoke("eval", "--bench", "demo", "--sweep", "threshold", "--dry-run")
    assert "takes 347 problems, even where nothing is lost; these are 200, which can show 1.8 points" in done.stdout
    assert "--risk 1.8" in done.stdout
    assert "347 problems" not in invoke("eval", "--bench", "demo", "--sweep", "lookahead", "--dry-run").stdout
    assert "347 problems" not in invoke("eval", "--bench", "demo", "--dry-run").stdout
    several = invoke("eval", "--bench", "demo", "--sweep", "score_rule", "--dry-run").stdout
    needed = problems_needed(0.01, confidence=1 - 0.05 / 3)
    assert f"takes {needed} problems" in several


def test_what_is_said_before_a_sweep_that_is_large_enough_or_hopeless() -> None:
    assert said_before(400, risk=0.01, confidence=0.95).endswith("these are 400")
    assert said_before(1, risk=0.01, confidence=0.95).endswith("too few to certify anything")
