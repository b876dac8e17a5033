"""The run folder: what is kept, dropped and refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import invoke
from run_folders import record as finished
from run_folders import run_folder

from sgl_specreason.errors import RecordError, UsageError, WriteError
from sgl_specreason.plan.plan import digest
from sgl_specreason.results.folder import RunFolder, check_writable, fresh_folder, held, write_json
from sgl_specreason.results.lines import Failed, Finished
from sgl_specreason.results.records import record_of, trajectories, with_lines

CONFIG: dict[str, Any] = {"settings": {"seed": 1, "policy": {"threshold": 7.0}}}


def record(number: int, **more: Any) -> dict[str, Any]:
    return finished(number, correct=True, answer_text="é\n\u2028", **more)


def begun(path: Path) -> RunFolder:
    folder = RunFolder.open(path, CONFIG, resume=False)
    for number in range(3):
        folder.append(record(number))
    return folder


def test_records_are_on_disk_before_the_run_ends(tmp_path: Path) -> None:
    begun(tmp_path)
    assert [record.problem_id for record in trajectories(tmp_path)] == ["p0", "p1", "p2"]
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG
    assert not (tmp_path / "summary.json").exists()


def test_resuming_keeps_finished_ones_and_runs_failed_ones_again(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    folder.append(record(3, error="base: gone"))
    again = RunFolder.open(tmp_path, CONFIG, resume=True)
    assert again.done == {("p0", 0), ("p1", 0), ("p2", 0)}
    again.append(record(3))
    assert [record.problem_id for record in trajectories(tmp_path)] == ["p0", "p1", "p2", "p3"]


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    begun(tmp_path)
    file = tmp_path / "trajectories.jsonl"
    file.write_bytes(file.read_bytes() + b'{"problem_id": "p9", "sam')
    assert RunFolder.open(tmp_path, CONFIG, resume=True).done == {("p0", 0), ("p1", 0), ("p2", 0)}
    assert len(list(trajectories(tmp_path))) == 3


def test_a_whole_last_line_is_kept_and_ended(tmp_path: Path) -> None:
    """Issue 15: a run cut off between a record and its newline was said to have lost the record, which it kept."""
    begun(tmp_path)
    file = tmp_path / "trajectories.jsonl"
    file.write_bytes((whole := file.read_bytes()).removesuffix(b"\n"))
    again = RunFolder.open(tmp_path, CONFIG, resume=True)
    assert (len(again.done), again.torn) == (3, False)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"sample": 0}', b"\xff\xfe"])
def test_a_malformed_line_elsewhere_is_named(tmp_path: Path, line: bytes) -> None:
    begun(tmp_path)
    file = tmp_path / "trajectories.jsonl"
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([lines[0], line, *lines[1:]]))
    with pytest.raises(RecordError, match=r"trajectories\.jsonl:2"):
        list(trajectories(tmp_path))


def test_a_problem_written_twice_is_an_error(tmp_path: Path) -> None:
    begun(tmp_path).append(record(1))
    with pytest.raises(RecordError, match="p1, sample 0 occurs twice"):
        list(trajectories(tmp_path))


def test_other_settings_are_refused_and_the_keys_named(tmp_path: Path) -> None:
    begun(tmp_path)
    other = {"settings": {"seed": 1, "policy": {"threshold": 5.0}}}
    with pytest.raises(RecordError, match=r"policy\.threshold: 7\.0 then, 5\.0 now"):
        RunFolder.open(tmp_path, other, resume=True)
    assert len(list(trajectories(tmp_path))) == 3


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    names = [fresh_folder(tmp_path / "runs", "demo").name for _ in range(3)]
    assert names == ["demo", "demo-2", "demo-3"]


def test_a_place_that_cannot_hold_a_folder_is_a_usage_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UsageError, match="--out"):
        check_writable(file / "runs")
    with pytest.raises(UsageError, match="--out"):
        fresh_folder(file, "demo")


def test_json_has_null_for_what_is_not_a_number(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [float("nan"), 1.5], "b": float("inf")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [None, 1.5], "b": None}


def test_the_digest_depends_on_values_and_not_on_order() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


def test_a_full_disk_leaves_whole_records_only(tmp_path: Path) -> None:
    """A file size limit in a child stands for the disk: what does not fit is taken back, and there is one line of words."""
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from sgl_specreason.errors import WriteError\n"
        "from sgl_specreason.results.folder import RunFolder\n"
        "run = RunFolder.open(Path(sys.argv[1]), {'settings': {}}, resume=False)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    for number in range(100):\n"
        "        run.append({'problem_id': 'p', 'sample': number, 'text': 'x' * 80})\n"
        "except WriteError as error:\n"
        "    sys.exit(str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stderr == f"{tmp_path / 'trajectories.jsonl'}: cannot be written: File too large\n"
    lines = (tmp_path / "trajectories.jsonl").read_text().splitlines(keepends=True)
    assert [json.loads(line)["sample"] for line in lines] == list(range(8))
    assert lines[-1].endswith("\n")


def test_a_summary_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", {"n": 1})
    (tmp_path / "summary.json.tmp").mkdir()
    with pytest.raises(WriteError, match="Is a directory"):
        write_json(tmp_path / "summary.json", {"n": 2})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"n": 1}


def test_half_a_pair_of_surrogates_survives(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path, {"settings": {}}, resume=False)
    halves = finished(1, correct=True, answer_text="\ud83d and \U0001f600")
    run.append(halves)
    for _ in range(2):
        ((line, read),) = with_lines(tmp_path)
        assert read == record_of(halves)
        assert json.loads(line) == halves
        RunFolder.open(tmp_path, {"settings": {}}, resume=True)
    (tmp_path / "trajectories.jsonl").read_bytes().decode()  # it is UTF-8


def test_two_processes_do_not_write_one_run(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom sgl_specreason.results.folder import held\n"
        "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(RecordError, match="another process"), held(tmp_path):
        pass
    other.kill()
    other.communicate()
    with held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


FIRST = {
    "problem_id": "p1", "sample": 0, "sampling_seed": 7, "stop_reason": "eos", "truncated": False, "answer_text": "\\boxed{4}",
    "thinking_tokens": 5, "tokens_base": 3, "tokens_small": 9, "tokens_small_kept": 2, "tokens_discarded": 7, "answer_tokens": 4,
    "steps_kept": 1, "steps_by_small": 0, "drafts": 1, "accepted": 0, "judged": 1, "prompt_tokens": 9, "cached_tokens": 3,
    "steps": [{"by": "base", "text": "a", "tokens": 5, "ending": "eos", "accepted": False, "score": 2.0, "digits": [0.1] * 10,
               "label_mass": 0.9, "draft": {"text": "b", "tokens": 7}}],
    "requests": [{"purpose": "draft", "engine": "small", "kind": "generate", "prompt_tokens": 9, "cached_tokens": 3,
                  "completion_tokens": 7, "start_s": 1.0, "seconds": 1.0, "engine_seconds": 1.0}],
    "method": "specreason", "start_s": 1.0, "latency_s": 2.0, "correct": True, "answer": "4", "gold": "4", "grader": "integer",
    "elapsed_s": 2.0,
}  # fmt: skip
"""A record of the first version."""


@pytest.mark.parametrize("form", [[], ["--calibrate"], ["--json"], ["--rescore"], ["--html", "-o", "page.html"]])
def test_a_folder_of_the_first_version_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    """What was not recorded then has a default, and what is not known now stays in the file."""
    monkeypatch.chdir(tmp_path)
    policy = {"threshold": 7.0, "score_rule": "greedy", "budget_tokens": 8192}
    folder = run_folder(tmp_path / "run", [FIRST], policy=policy)
    done = invoke("report", folder, *form)
    assert done.exit_code == 0, done.output
    (line,) = (folder / "trajectories.jsonl").read_text().splitlines()
    assert json.loads(line) | {"grader": "integer"} == FIRST
    record = next(trajectories(folder))
    assert (record.tokens_dropped, record.retries, record.steps[0].others) == (0, 0, [])


def test_what_this_version_does_not_know_is_no_error_and_is_kept(tmp_path: Path) -> None:
    """A run of a newer version can be gone on with and graded again."""
    steps = [{"by": "base", "text": "", "tokens": 1, "kind": {"of": [1]}}]
    newer = finished(1, correct=False, answer_text="\\boxed{4}", mood="calm", steps=steps)
    folder = run_folder(tmp_path / "run", [newer], mood="calm")
    config = json.loads((folder / "config.json").read_text())
    assert invoke("report", folder, "--rescore").exit_code == 0
    RunFolder.open(folder, config, resume=True)
    kept = json.loads((folder / "trajectories.jsonl").read_text())
    assert kept["correct"] is True
    assert (kept["mood"], kept["steps"]) == ("calm", steps)


def test_a_resumed_run_has_its_lines_as_they_were(tmp_path: Path) -> None:
    begun(tmp_path)
    file = tmp_path / "trajectories.jsonl"
    file.write_bytes(odd := file.read_bytes().replace(b", ", b" ,  "))
    RunFolder.open(tmp_path, CONFIG, resume=True)
    assert file.read_bytes() == odd


def test_a_failure_is_told_by_its_key_and_not_by_a_word_in_a_text(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path, CONFIG, resume=False)
    run.append(record(1) | {"answer_text": '{"error": 1}', "steps": [], "gold": "error"})
    run.append({"problem_id": "p2", "sample": 0, "latency_s": 1.0, "error": "gone"})
    assert [type(record) for record in trajectories(tmp_path)] == [Finished, Failed]
