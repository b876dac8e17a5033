"""What a run says of the drafts that a gate decided about in the judge's place."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from command_line import invoke
from run_folders import record, run_folder, settings

from sgl_specreason.results import stats
from sgl_specreason.results.calibrate import drafts_of, judged_drafts
from sgl_specreason.results.summary import load_runs


def step(*, accepted: bool, agrees: bool | None = None, unasked: bool = True, **more: Any) -> dict[str, Any]:
    said = {} if agrees is None and unasked else {"score": 7}
    found = {
        "by": "small" if accepted else "base",
        "text": "One.\n\n",
        "tokens": 3,
        "accepted": accepted,
        **said,
        **more,
    }
    if unasked:
        found["unasked"] = True
        if agrees is not None:
            found["agrees"] = agrees
    if not accepted:
        found["draft"] = {"text": "Uno.\n\n", "tokens": 3}
    return found


def gated(path: Path, *steps: list[dict[str, Any]], **policy: Any) -> Path:
    records = [record(number, correct=True, steps=mine) for number, mine in enumerate(steps)]
    return run_folder(path, records, policy=of_gate(**{"gate": "self", "gate_threshold": 0.9, **policy}))


def of_gate(**policy: Any) -> dict[str, Any]:
    return settings()["policy"] | policy


@pytest.mark.parametrize("number", [6, 20])
def test_disagreement_is_by_problem_with_an_interval(tmp_path: Path, number: int) -> None:
    """Of each problem one kept draft of two that were audited was judged wrong; a third was not audited."""
    steps = [step(accepted=True, agrees=True), step(accepted=True, agrees=False), step(accepted=True)]
    (run,) = load_runs(gated(tmp_path / "run", *[steps] * number))
    (how, audit), *others = run.summary.audits.items()
    assert (how, others) == ("kept", [])
    assert (audit.unasked, audit.audited, audit.disagreed) == (3 * number, 2 * number, number)
    assert audit.disagreement == 0.5
    assert audit.disagreement_ci95 == stats.mean_ci95([0.5] * number)


def test_a_problem_counts_once_however_many_of_its_steps_were_audited(tmp_path: Path) -> None:
    many = [step(accepted=False, agrees=False)] * 9
    one = [step(accepted=False, agrees=True)]
    (run,) = load_runs(gated(tmp_path / "run", many, one, [step(accepted=False)]))
    audit = run.summary.audits["refused"]
    assert (audit.unasked, audit.audited, audit.disagreed) == (11, 10, 9)
    assert audit.disagreement == 0.5


def test_the_table_says_what_the_judge_would_have_done(tmp_path: Path) -> None:
    steps = [step(accepted=True, agrees=False), step(accepted=False, agrees=True), step(accepted=True, unasked=False)]
    said = " ".join(invoke("report", gated(tmp_path / "run", *[steps] * 8)).stdout.split())
    assert (
        "8 drafts kept unasked; of 8 judged for the record the judge would have refused 100.0 [63.1, 100.0] %." in said
    )
    assert "8 drafts refused unasked; of 8 judged for the record the judge would have kept 0.0 [0.0, 36.9] %." in said
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["audits"]["kept"]["disagreed"] == 8


def test_a_gate_without_an_audit_says_so(tmp_path: Path) -> None:
    said = invoke("report", gated(tmp_path / "run", [step(accepted=True)])).stdout
    assert "1 draft kept unasked; none was judged for the record." in " ".join(said.split())


def test_nothing_is_said_where_the_judge_decides(tmp_path: Path) -> None:
    (run,) = load_runs(gated(tmp_path / "run", [step(accepted=True, unasked=False)]))
    assert run.summary.audits == {}


def test_a_transcript_shows_what_was_decided_unasked(tmp_path: Path) -> None:
    folder = gated(tmp_path / "run", [step(accepted=True), step(accepted=True, unasked=False)])
    first, second = [
        line for line in invoke("report", "--show", folder, "p0").stdout.splitlines() if " small, " in line
    ]
    assert first.endswith("unasked")
    assert second.endswith("score 7")


def test_small_s_own_signals_are_calibrated_also_where_base_was_not_asked(tmp_path: Path) -> None:
    """But for steps that were refused by their first token: there is no draft to be right or wrong."""
    glimpse = step(accepted=False, entropy=3.0)
    steps = [step(accepted=True, entropy=0.2), glimpse, step(accepted=False, agrees=True, entropy=2.0)]
    (run,) = load_runs(gated(tmp_path / "run", steps, gate="entropy", gate_threshold=1.0))
    run.read(judged_drafts)
    drafts = drafts_of([run])
    assert [round(value, 1) for value in drafts["entropy"]] == [0.2, 2.0]
    assert math.isnan(drafts["self_right"][0])


def test_drafts_that_base_was_not_asked_about_are_no_judged_ones(tmp_path: Path) -> None:
    judged = step(accepted=True, agrees=True, confidence=0.99, p_yes=0.9)
    steps = [judged, step(accepted=True, confidence=0.98), step(accepted=True, confidence=0.97)]
    folder = gated(tmp_path / "run", *[steps] * 8, gate="confident", gate_threshold=0.95)
    text = invoke("report", "--calibrate", "--verbose", folder).stdout
    assert "gate confident at 0.95, judge score" in text
    assert "8 judged drafts and 16 drafts that base was not asked about of 8 trajectories" in text


@pytest.mark.parametrize(
    ("gate", "levels", "strictest"),
    [("self", (0.7, 0.99), 0.99), ("entropy", (0.5, 2.0), 0.5), ("confident", (0.8, 0.9), 0.9)],
)
def test_thresholds_of_a_gate_are_tested_from_the_strictest_on(
    tmp_path: Path, gate: str, levels: tuple[float, ...], strictest: float
) -> None:
    """A hundred problems of which the lenient one loses a tenth: only the strict one is certified at two points and a half."""
    right = [record(number, correct=True, steps=[step(accepted=True, agrees=True)]) for number in range(200)]
    some = [one | ({"correct": False, "answer": "5"} if at % 10 == 0 else {}) for at, one in enumerate(right)]
    for level in levels:
        run_folder(
            tmp_path / "top" / f"at-{level}",
            right if level == strictest else some,
            policy=of_gate(gate=gate, gate_threshold=level),
        )
    run_folder(tmp_path / "top" / "base", right, method="base")
    text = invoke("report", "--calibrate", "--risk", "2.5", tmp_path / "top").stdout
    assert f"Recommended: threshold {strictest:g}" in text
    assert f"Gate {gate} (" in text
    rows = [line for line in text.splitlines() if line.startswith(("| 0", "| 2"))]
    assert [("yes" in row) for row in rows] == [True, False]
