"""The report: numbers from run folders alone, and what may be compared."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner
from command_line import invoke
from run_folders import answers, record, run_folder, settings

from sgl_specreason.report import main
from sgl_specreason.results import records
from sgl_specreason.results.folder import write_json
from sgl_specreason.results.lines import Finished
from sgl_specreason.results.records import trajectories
from sgl_specreason.results.summaries import written
from sgl_specreason.results.summary import against_base
from sgl_specreason.results.table import comparison


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """SpecReason right on 4 of 8, base on 6 of 8."""
    half, most = [True, True, False, False] * 2, [True, True, True, False] * 2
    spec = run_folder(tmp_path / "spec", answers(*half))
    base = run_folder(tmp_path / "base", answers(*most), method="base")
    return spec, base


def test_a_run_is_shown_and_its_summary_written(pair: tuple[Path, Path]) -> None:
    done = invoke("report", pair[0])
    assert done.exit_code == 0, done.output
    assert "specreason" in done.stdout
    assert "50.0 [15.7, 84.3]" in done.stdout  # the exact interval of 4 in 8
    summary = json.loads((pair[0] / "summary.json").read_text())
    assert (summary["accuracy"], summary["n"], summary["partial"]) == (0.5, 8, False)
    assert summary["latency_p50_s"] == 4.5
    assert summary["wall_s"] == 36.0
    assert "| specreason" in (pair[0] / "summary.md").read_text()


SUMMARY = (
    "bench method pair preset changed policy samples concurrency budget_tokens n trajectories accuracy accuracy_se "
    "accuracy_ci95 pass_at_k pass_at_k_ci95 maj_at_k maj_at_k_ci95 latency_mean_s latency_p50_s latency_p95_s "
    "wall_s most_at_once throughput_problems_per_s steps drafts judged_steps unjudged_drafts accepted_steps "
    "acceptance offloaded_steps_share offloaded_tokens_share thinking_tokens_mean tokens_base tokens_small "
    "tokens_discarded tokens_dropped tokens_salvaged answer_tokens judge_requests audits label_mass_mean prompt_tokens "
    "cached_tokens cached_share truncated_share loops no_answer_share retries accept_length_mean grader_timeouts "
    "failed partial conditions"
)
CONDITIONS = "prompts models versions gpu dataset_sha256 dataset_origin commit replicas"


def test_the_keys_of_a_summary_are_these(pair: tuple[Path, Path]) -> None:
    invoke("report", pair[0])
    summary = json.loads((pair[0] / "summary.json").read_text())
    assert (list(summary), list(summary["conditions"])) == (SUMMARY.split(), CONDITIONS.split())
    assert summary["policy"] == settings()["policy"]
    assert (summary["label_mass_mean"], summary["conditions"]["replicas"]) == (None, None)


def test_runs_are_paired_by_problem_with_base(pair: tuple[Path, Path]) -> None:
    done = invoke("report", *pair)
    assert "-25.0  " in done.stdout.splitlines()[1]
    assert "specreason vs base: -25.0 [-65.0, +24.9], better on 0, worse on 2 of 8, sign test p = 0.5" in done.stdout


def test_json_has_one_object_per_run(pair: tuple[Path, Path]) -> None:
    spec, base = (json.loads(line) for line in invoke("report", "--json", *pair).stdout.splitlines())
    assert (spec["method"], base["method"]) == ("specreason", "base")
    assert spec["vs_base"]["accuracy"]["difference"] == -0.25
    assert base["vs_base"] is None
    assert spec["vs_base"]["speed_up"] == {"n": 8, "value": 1.0, "ci95": [1.0, 1.0]}
    assert spec["conditions"]["versions"] == {"sglang": "0.5.23"}


def test_a_file_gets_the_markdown_table(pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = invoke("report", "--markdown", "--out", tmp_path / "table.md", *pair)
    assert done.stdout == (tmp_path / "table.md").read_text()
    assert done.stdout.startswith("| method")
    assert invoke("report", "--out", tmp_path / "no" / "table.md", *pair).exit_code == 2


DIFFERENT: dict[str, dict[str, Any]] = {
    "budget_tokens": {"policy": settings()["policy"] | {"budget_tokens": 16384}},
    "concurrency": {"concurrency": 8},
    "dataset_sha256": {"dataset_sha256": "2" * 64},
    "limit": {"limit": 3},
    "prompts": {"prompts": {"judge": "9" * 64}},
}


@pytest.mark.parametrize(("key", "change"), DIFFERENT.items(), ids=DIFFERENT)
def test_other_conditions_do_not_compare(pair: tuple[Path, Path], tmp_path: Path, key: str, change: Any) -> None:
    other = run_folder(tmp_path / "other", answers(True, True, True, True), method="base", **change)
    refused = invoke("report", pair[0], other)
    assert refused.exit_code == 2
    assert key in refused.stderr
    forced = invoke("report", "--force", pair[0], other)
    assert forced.exit_code == 0
    assert f"{key}: " in forced.stdout


def test_a_knob_of_the_method_is_what_is_compared(pair: tuple[Path, Path], tmp_path: Path) -> None:
    policy = settings()["policy"] | {"threshold": 5.0, "first_n": 2}
    other = run_folder(tmp_path / "other", answers(True, True, True, True), policy=policy)
    assert invoke("report", pair[0], other).exit_code == 0


def test_several_samples_show_pass_and_majority(tmp_path: Path) -> None:
    records = [record(n, sample=s, correct=(s < n)) for n in range(4) for s in range(4)]
    done = invoke("report", run_folder(tmp_path / "run", records, samples=4))
    assert "pass@2" in done.stdout
    assert "maj@4" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["accuracy"] == pytest.approx(6 / 16)
    assert summary["pass_at_k"] == {"2": pytest.approx((0 + 1 / 2 + 5 / 6 + 1) / 4), "4": 0.75}
    assert summary["maj_at_k"] == {"4": pytest.approx((0 + 0 + 0.5 + 1) / 4)}
    for at_k in ("pass_at_k", "maj_at_k"):
        for k, (low, high) in summary[f"{at_k}_ci95"].items():
            assert 0 <= low < summary[at_k][k] < high <= 1
            assert f"{100 * summary[at_k][k]:.1f} [{100 * low:.1f}, {100 * high:.1f}] %" in done.stdout


def test_at_k_the_first_k_samples_vote_not_the_first_to_end(tmp_path: Path) -> None:
    """Issue 15: where a sample has failed, the others' fourth samples do not vote at maj@3."""
    late = [record(0, sample=s, correct=s != 0) for s in (3, 2, 1, 0)]
    other = [record(1, sample=s, correct=s == 0) for s in range(3)]
    run = run_folder(tmp_path / "run", [*late, *other], samples=4)
    invoke("report", run)
    assert json.loads((run / "summary.json").read_text())["maj_at_k"] == {"3": 0.5}
    (tmp_path / "two").mkdir()
    two = run_folder(tmp_path / "two" / "run", [*late[:3], late[3], *other[:2]], samples=4)
    invoke("report", two)
    assert json.loads((two / "summary.json").read_text())["maj_at_k"] == {"2": 0.5}


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("n", [1, 2, 5, 6, 20])
def test_where_all_problems_agree_no_number_claims_to_be_certain(tmp_path: Path, n: int, right: bool) -> None:
    """Issue 15: 20 of 20 read "100.0 ± 0.0" and "+0.0 [+0.0, +0.0]". Issue 18: one problem read "1.55 [1.55, 1.55]", p = 1."""
    alike = [record(at, correct=right, latency_s=1 + at % 3 + at / 10) for at in range(n)]
    slower = [one | {"latency_s": 1.55 * one["latency_s"] + number % 2 / 5} for number, one in enumerate(alike)]
    spec = run_folder(tmp_path / "spec", alike)
    done = invoke("report", spec, run_folder(tmp_path / "base", slower, method="base"))
    assert done.exit_code == 0, done.output
    assert "nan" not in done.stdout
    assert "±" not in done.stdout
    row = done.stdout.splitlines()[1]
    if n < 6:
        assert "too few to say anything" in done.stdout
        assert "sign test" not in done.stdout
        assert row.split("]")[1].split()[:1] == ["-"]
    if n == 1:
        assert f"{100 * right:.1f} [-]" in row
    if n == 20:
        assert ("100.0 [83.2, 100.0]" if right else "0.0 [0.0, 16.8]") in row
        assert "+0.0 [-16.8, +16.8]" in done.stdout


def test_the_time_of_a_run_is_that_in_which_something_ran(tmp_path: Path) -> None:
    """Issue 15: 16 trajectories at concurrency 64 had their seconds over 64 for their time. The clock begins anew on restart."""
    before = [record(at, correct=True, start_s=9000.0 + at, latency_s=10.0) for at in range(3)]
    after = [record(at, correct=True, start_s=100.0, latency_s=5.0 + at) for at in range(3, 6)]
    run = run_folder(tmp_path / "run", [*before, *after], concurrency=64)
    done = invoke("report", run)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["wall_s"] == pytest.approx(12 + 10)
    assert summary["throughput_problems_per_s"] == pytest.approx(6 / 22)
    assert summary["most_at_once"] == 3
    assert (
        "specreason: at most 3 trajectories ran side by side: its numbers are not those of concurrency 64."
        in done.stdout
    )
    full = run_folder(tmp_path / "full", before, concurrency=3)
    assert "side by side" not in invoke("report", full).stdout


def test_failed_and_missing_trajectories_make_it_partial(tmp_path: Path) -> None:
    failed = {"problem_id": "p9", "sample": 0, "error": "base: gone", "latency_s": 20.0}
    folder = run_folder(tmp_path / "run", [*answers(True, True), failed])
    assert "specreason (partial)" in invoke("report", folder).stdout
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["n"], summary["failed"], summary["partial"]) == (2, 1, True)


def test_requests_that_were_tried_again_are_counted_under_the_table(tmp_path: Path) -> None:
    request = {"engine": "small", "purpose": "draft", "start_s": 1.0, "seconds": 2.0}
    tried = record(1, correct=True, requests=[request | {"retries": 2}, request])
    folder = run_folder(tmp_path / "run", [tried, record(2, correct=True)])
    assert "specreason: requests were tried again 2 times" in invoke("report", str(folder)).stdout
    assert json.loads((folder / "summary.json").read_text())["retries"] == 2


def test_rescoring_grades_what_is_stored(tmp_path: Path) -> None:
    """A run that an earlier grader got wrong is put right without an engine, and says how much changed."""
    wrong = [record(0, correct=False, answer_text="\\boxed{\\frac{8}{2}}"), *answers(True, True)[1:]]
    folder = run_folder(tmp_path / "run", wrong)
    done = invoke("report", "--rescore", folder)
    assert "1 verdicts changed" in done.stderr
    assert json.loads((folder / "summary.json").read_text())["accuracy"] == 1.0
    (first, *_) = trajectories(folder)
    assert isinstance(first, Finished)
    assert first.grader == "math-verify"


def test_a_folder_of_several_methods_is_its_runs(tmp_path: Path) -> None:
    run_folder(tmp_path / "top" / "a", answers(True, False, True, True))
    run_folder(tmp_path / "top" / "b", answers(True, True, True, True), method="base")
    runs = written(tmp_path / "top")
    group = json.loads((tmp_path / "top" / "summary.json").read_text())
    assert set(group["methods"]) == {"specreason", "base"}
    assert group["methods"]["specreason"]["vs_base"]["accuracy"]["difference"] == -0.25
    assert [pairing is None for pairing in against_base(runs)] == [True, False]


def test_runs_of_one_method_are_told_apart_by_their_knobs(tmp_path: Path) -> None:
    for threshold in (3, 7):
        policy = settings()["policy"] | {"threshold": threshold}
        run_folder(tmp_path / "top" / f"t{threshold}", answers(True, True, True, True), policy=policy)
    done = invoke("report", tmp_path / "top")
    assert "specreason threshold=3" in done.stdout
    assert "specreason threshold=7" in done.stdout


def test_a_sweep_over_a_condition_pairs_each_run_with_the_base_of_its_own(tmp_path: Path) -> None:
    for budget, right in ((100, False), (200, True)):
        policy = settings()["policy"] | {"budget_tokens": budget}
        for method in ("base", "specreason"):
            path = tmp_path / "top" / f"{method}{budget}"
            run_folder(path, answers(True, True, True, right), method=method, policy=policy)
    refused = invoke("report", tmp_path / "top")
    assert (refused.exit_code, "policy.budget_tokens" in refused.stderr) == (2, True)
    write_json(tmp_path / "top" / "sweep.json", {"name": "budget", "grid": {"budget_tokens": [100, 200]}})
    done = invoke("report", "--json", tmp_path / "top")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    pairings = [run["vs_base"]["accuracy"]["difference"] for run in found if run["method"] == "specreason"]
    assert pairings == [0, 0]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"settings": 1}'])
def test_what_is_no_run_folder_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    refused = invoke("report", tmp_path)
    assert refused.exit_code == 2
    assert str(tmp_path) in refused.stderr


def test_a_low_label_mass_names_the_template(tmp_path: Path) -> None:
    vague = [
        record(n, correct=True, steps=[{"by": "small", "text": "x", "tokens": 1, "label_mass": 0.2}]) for n in range(4)
    ]
    assert "prompts/judge.txt" in invoke("report", run_folder(tmp_path / "run", vague)).stdout


def test_nothing_finished_is_a_table_too(tmp_path: Path) -> None:
    (run,) = written(run_folder(tmp_path / "run", []))
    assert "-" in comparison([run]).text()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["accuracy"] is None


def shown_run(folder: Path) -> Path:
    said = {"score": 2, "digits": [0, 0, 0.9, 0.1, 0, 0, 0, 0, 0, 0], "label_mass": 1.0}
    steps = [
        {"by": "small", "tokens": 4, "text": "First.\n\n", **said, "score": 9},
        {
            "by": "base",
            "tokens": 5,
            "text": "Mine.</think>",
            "draft": {"text": "Its \x1b[2Jscreen\x07", "tokens": 6},
            **said,
        },
    ]
    return run_folder(folder, [record(1, correct=True, steps=steps, stop_reason="think_end")])


def test_one_trajectory_is_shown_without_colours_when_piped(tmp_path: Path) -> None:
    done = invoke("report", "--show", shown_run(tmp_path / "run"), "p1")
    assert done.exit_code == 0, done.output
    assert "1 small, 4 tokens, score 9" in done.stdout
    assert "2 small, 6 tokens, rejected, score 2 [  ▇▁      ]" in done.stdout
    assert "2 base, 5 tokens" in done.stdout
    assert "right: 4, gold 4" in done.stdout
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout


def test_the_question_stands_on_top(tmp_path: Path) -> None:
    """Issue 18: it was nowhere, so that nobody could judge a step. Folders of older versions do not hold it."""
    asked = record(1, correct=True) | {"problem": "What is \x1b[2J2 + 2?", "choices": "A. 4\nB. 5"}
    failed = {"problem_id": "p9", "sample": 0, "error": "base: gone", "latency_s": 2.0, "problem": "And 3 + 3?"}
    folder = run_folder(tmp_path / "run", [asked, failed, record(2, correct=True)])
    top = invoke("report", "--show", folder, "p1").stdout.splitlines()
    assert top[1:5] == ["What is �[2J2 + 2?", "", "A. 4", "B. 5"]
    assert invoke("report", "--show", folder, "p9").stdout.splitlines()[1:3] == ["And 3 + 3?", "failed: base: gone"]
    assert invoke("report", "--show", folder, "p2").stdout.splitlines()[1:3] == ["", "answer, after None"]


def test_no_text_of_a_model_reaches_the_terminal_as_a_command(tmp_path: Path) -> None:
    words = ["--show", str(shown_run(tmp_path / "run")), "p1:0"]
    coloured = CliRunner().invoke(main, words, color=True).stdout
    assert "\x1b[" in coloured
    assert "\x1b[2J" not in coloured


@pytest.mark.parametrize("words", [["p9"], ["p1:7"], ["p1:x"], [], ["p1", "p2"]])
def test_a_trajectory_that_is_not_there_is_one_line(tmp_path: Path, words: list[str]) -> None:
    done = invoke("report", "--show", shown_run(tmp_path / "run"), *words)
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize("problem", ["https://example.org/x", "a//b", "./x", "x:1", "../x", "/"])
def test_an_id_that_looks_like_a_path_is_a_word(tmp_path: Path, problem: str) -> None:
    """Issue 15: the word went through Path, so that `a//b` was looked for as `a/b`."""
    folder = run_folder(tmp_path / "run", [record(n, correct=True, problem_id=problem, sample=n) for n in range(2)])
    for word, sample in ((problem, 0), (f"{problem}:1", 1)):
        assert f"problem {problem}, sample {sample}\n" in invoke("report", "--show", folder, word).stdout


def test_of_other_trajectories_than_the_one_shown_no_more_than_the_key_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 15: 44 GiB were held to print one of 100,000. What comes after it is not even looked at."""
    folder = run_folder(tmp_path / "run", answers(True, True, True))
    with (folder / "trajectories.jsonl").open("a") as file:
        file.write("{\n")
    read = Mock(wraps=records._read)
    monkeypatch.setattr(records, "_read", read)
    assert "problem p1, sample 0" in invoke("report", "--show", folder, "p1").stdout
    assert read.call_count == 1


@pytest.mark.parametrize(
    ("form", "passes"), [([], 1), (["--json"], 1), (["--calibrate"], 1), (["--html", "-o", "page.html"], 2)]
)
def test_a_folder_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: list[str], passes: int) -> None:
    """For a page twice: once it is known which trajectories it lists, their texts are read, and nothing after the last one."""
    monkeypatch.chdir(tmp_path)
    for method in ("base", "specreason"):
        run_folder(tmp_path / "top" / method, answers(True, False), method=method)
    opened = Mock(wraps=records.opened)
    monkeypatch.setattr(records, "opened", opened)
    assert invoke("report", "top", *form).exit_code == 0
    assert opened.call_count == 2 * passes


@pytest.fixture
def going_on(tmp_path: Path) -> Iterator[Path]:
    """A run of two methods that another process writes."""
    top = tmp_path / "top"
    for method in ("base", "specreason"):
        run_folder(top / method, answers(True, False), method=method)
    program = (
        "import sys\nfrom pathlib import Path\nfrom sgl_specreason.results.folder import held\n"
        "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(top)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        yield top
        other.communicate()


def content(top: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in top.rglob("*") if path.is_file()}


@pytest.mark.parametrize("part", ["", "base"])
def test_a_run_that_goes_on_is_not_graded_again(going_on: Path, part: str) -> None:
    """Issue 15: what ended meanwhile was lost, 4 of 120 trajectories."""
    before = content(going_on)
    done = invoke("report", "--rescore", going_on / part)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"error: {going_on / part}: another process is writing this run\n"
    assert content(going_on) == before


@pytest.mark.parametrize("form", [[], ["--json"], ["--calibrate"], ["--html", "-o", "page.html"]])
@pytest.mark.parametrize("part", ["", "base"])
def test_a_run_that_goes_on_is_shown_and_not_marked_as_over(
    going_on: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: list[str], part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = content(going_on)
    done = invoke("report", going_on / part, *form)
    assert (done.exit_code, bool(done.stdout)) == (0, True)
    assert done.stderr == f"{going_on / part}: another process is writing this run; no summary is written\n"
    assert content(going_on) == before


def test_a_report_of_a_run_and_of_a_part_of_it_is_not_in_its_own_way(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "top" / "base", answers(True), method="base")
    done = invoke("report", tmp_path / "top", folder, folder)
    assert (done.exit_code, done.stderr) == (0, "")
