"""The whole command on running servers: run folders, sweeps, measured concurrency, interruption and going on."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from command_line import invoke
from real_engines import Servers

from sgl_specreason.method.program import run_trajectory
from sgl_specreason.run.runner import run_all


def test_many_trajectories_side_by_side_decide_as_alone(real_pair: Servers) -> None:
    endpoints = real_pair.endpoints()

    def run(number: int, threads: list[int]) -> list[str]:
        trajectory = real_pair.trajectory(number)
        run_trajectory("specreason", trajectory, endpoints)  # type: ignore[arg-type]
        threads.append(threading.active_count())
        return [str(number), *(kept.step.text for kept in trajectory.kept)]

    before = threading.active_count()
    threads: list[int] = []
    alone = sorted(run(number, threads) for number in range(6))
    together = sorted(run_all(range(6), lambda number: run(number, threads), 6))
    assert together == alone
    assert max(threads) - before < 40


def test_the_whole_command_on_running_servers(real_pair: Servers, tmp_path: Path) -> None:
    words = [*real_pair.attached, "--limit", "4", "--concurrency", "2", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "sgl_specreason.eval", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.split("Run folder: ")[1].strip())
    group = json.loads((folder / "summary.json").read_text())
    assert set(group["methods"]) == {"specreason", "base", "small"}
    wanted = [
        "bench",
        "method",
        "pair",
        "preset",
        "n",
        "samples",
        "accuracy",
        "accuracy_se",
        "accuracy_ci95",
        "latency_mean_s",
        "latency_p50_s",
        "latency_p95_s",
        "throughput_problems_per_s",
        "concurrency",
        "budget_tokens",
        "steps",
        "accepted_steps",
        "offloaded_steps_share",
        "offloaded_tokens_share",
        "thinking_tokens_mean",
        "tokens_base",
        "tokens_small",
        "tokens_discarded",
        "judge_requests",
        "prompt_tokens",
        "cached_tokens",
        "cached_share",
        "truncated_share",
        "no_answer_share",
        "failed",
        "partial",
        "conditions",
    ]
    for method, summary in group["methods"].items():
        assert [key for key in wanted if key not in summary] == []
        assert (summary["n"], summary["failed"], summary["partial"]) == (4, 0, False)
        run = next(path for path in folder.iterdir() if path.name.startswith(f"demo-{method}-"))
        own = json.loads((run / "summary.json").read_text())
        assert own == {key: value for key, value in summary.items() if key != "vs_base"}
        lines = (run / "trajectories.jsonl").read_text().splitlines()
        assert len(lines) == 4
        assert method in done.stdout
        assert str(Path.home()) not in lines[0]
    base, spec = group["methods"]["base"], group["methods"]["specreason"]
    assert base["judge_requests"] == 0 < spec["judge_requests"]
    assert base["tokens_small"] == 0 < spec["tokens_small"]
    record = json.loads(lines[0])
    assert {"purpose", "prompt_tokens", "cached_tokens", "completion_tokens", "seconds"} <= record["requests"][0].keys()


def test_concurrency_is_measured_where_that_is_asked_for(real_pair: Servers, tmp_path: Path) -> None:
    """The number found is what the run says and is begun with; going on takes it over without measuring again."""
    words = [
        *real_pair.attached,
        "--method",
        "specreason",
        "--limit",
        "3",
        "--out",
        str(tmp_path),
        "--concurrency",
        "auto",
    ]
    done = invoke("eval", *words)
    assert done.exit_code == 0, done.stderr
    found = int(done.stderr.split("concurrency auto: ")[1].split()[0])
    assert 1 <= found <= 3
    (folder,) = tmp_path.iterdir()
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["concurrency"] == found
    assert config["tokens_per_s_by_concurrency"].keys() >= {"1", "2"}
    assert json.loads((folder / "summary.json").read_text())["concurrency"] == found
    lines = (folder / "trajectories.jsonl").read_text().splitlines(keepends=True)
    (folder / "trajectories.jsonl").write_text(lines[0])
    again = invoke("eval", *words, "--resume", str(folder))
    assert again.exit_code == 0, again.stderr
    assert "concurrency auto" not in again.stderr
    measured = json.loads((folder / "config.json").read_text())["tokens_per_s_by_concurrency"]
    assert measured == config["tokens_per_s_by_concurrency"]
    assert len((folder / "trajectories.jsonl").read_text().splitlines()) == 3


def test_a_sweep_has_a_folder_for_each_point_and_is_resumed(real_pair: Servers, tmp_path: Path) -> None:
    grid = tmp_path / "mine.toml"
    grid.write_text('title = "two"\nmethods = ["base", "specreason"]\n[grid]\nthreshold = [0, 9]\n')
    words = [*real_pair.attached, "--sweep", str(grid), "--limit", "2", "--out", str(tmp_path)]
    done = invoke("eval", *words)
    assert done.exit_code == 0, done.stderr
    folder = Path(done.stdout.split("Run folder: ")[1].strip())
    assert folder.name.startswith("demo-sweep-mine-")
    found = {path.name: path for path in folder.iterdir() if (path / "trajectories.jsonl").exists()}
    assert len(found) == 3
    assert "specreason threshold=9" in done.stdout
    summary = json.loads((folder / "summary.json").read_text())
    assert [run.get("knobs") for run in summary["runs"]] == [None, {"threshold": 0}, {"threshold": 9}]
    one = next(path for name, path in found.items() if name.startswith("demo-specreason"))
    lines = (one / "trajectories.jsonl").read_text().splitlines()
    (one / "trajectories.jsonl").write_text(lines[0] + "\n")
    again = invoke("eval", *words, "--resume", str(folder))
    assert again.exit_code == 0, again.stderr
    texts = [[step["text"] for step in json.loads(line)["steps"]] for line in lines]
    resumed = (one / "trajectories.jsonl").read_text().splitlines()
    assert [[step["text"] for step in json.loads(line)["steps"]] for line in resumed] == texts
    grid.write_text('title = "two"\nmethods = ["base", "specreason"]\n[grid]\nthreshold = [0, 8]\n')
    refused = invoke("eval", *words, "--resume", str(folder))
    assert refused.exit_code != 0
    assert "policy.threshold" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_is_saved_and_resumed(real_pair: Servers, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C leaves a partial summary, SIGKILL nothing but finished records; either way the rest is run and nothing twice."""
    words = [*real_pair.attached, "--method", "base", "--limit", "12", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "sgl_specreason.eval", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while time.monotonic() < until and not [f for f in tmp_path.glob("*/trajectories.jsonl") if f.stat().st_size]:
        time.sleep(0.05)
    process.send_signal(number)
    _, words_of_end = process.communicate(timeout=30)
    (folder,) = tmp_path.iterdir()
    if number == signal.SIGINT:
        assert process.returncode == 130, words_of_end
        assert "--resume" in words_of_end
        assert json.loads((folder / "summary.json").read_text())["partial"] is True
    before = (folder / "trajectories.jsonl").read_text().splitlines(keepends=True)
    if number == signal.SIGKILL:
        (folder / "trajectories.jsonl").write_text(
            "".join(before) + '{"problem_id": "demo-0'
        )  # a line cut off in writing
    assert 0 < len(before) < 12

    refused = invoke("eval", *words, "--seed", "5", "--resume", str(folder))
    assert refused.exit_code == 2
    assert "seed: 0 then, 5 now" in refused.stderr
    done = invoke("eval", *words, "--resume", str(folder))
    assert done.exit_code == 0, done.stderr
    assert ("the last line was torn" in done.stderr) is (number == signal.SIGKILL)
    after = (folder / "trajectories.jsonl").read_text().splitlines(keepends=True)
    assert after[: len(before)] == before
    keys = [json.loads(line)["problem_id"] for line in after]
    assert sorted(keys) == [f"demo-{n:03d}" for n in range(1, 13)]
    assert json.loads((folder / "summary.json").read_text())["partial"] is False
