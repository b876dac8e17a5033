"""The line beside a run's table: what a measurement of its judge says, or how to make one."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import invoke
from fake_engine import CharTokenizer
from run_folders import answers, run_folder, settings
from served import scripted_engines

from sgl_specreason.judging.known import lines
from sgl_specreason.pasted import command
from sgl_specreason.results.folder import write_json
from sgl_specreason.results.summary import Run, load_runs
from sgl_specreason.text import chat

PROMPTS = {"judge": "0" * 64, "judge_answer": "1" * 64}


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    return load_runs(run_folder(tmp_path / "run", answers(True, False), prompts=PROMPTS))


def measurement(out: Path, *, bench: str = "processbench-gsm8k", base: str = "b", **prompts: str) -> Path:
    path = out / f"judge-{bench}-p-12345678"
    path.mkdir()
    config: dict[str, Any] = {
        "settings": {
            "bench": bench,
            "pair": "p",
            "models": {"base": base},
            "judges": [{"name": "score", "judge": "score", "prompts": PROMPTS | prompts}],
            "dataset_sha256": "2" * 64,
        },
        "title": "t",
        "problems": 100,
        "steps": 400,
        "thresholds": {"greedy": 7},
    }
    stated = {"threshold": 7.0, "right_kept": 0.97, "wrong_kept": 0.9}
    signal = {"auroc": 0.63, "auroc_ci95": [0.58, 0.68], "stated": stated, "thresholds": [stated]}
    write_json(path / "config.json", config)
    write_json(path / "summary.json", {"bench": bench, "problems": 100, "signals": {"score greedy": signal}})
    return path


def test_a_judge_that_was_measured_is_described(runs: list[Run], tmp_path: Path) -> None:
    path = measurement(tmp_path)
    assert lines(runs, tmp_path, command) == [
        "This judge on 100 problems of processbench-gsm8k: AUROC 0.63 [0.58, 0.68] (greedy); at threshold 7 it keeps 97 % of "
        f"right and 90 % of wrong steps ({path})."
    ]


def test_natural_steps_say_more_than_planted_ones(runs: list[Run], tmp_path: Path) -> None:
    measurement(tmp_path, bench="demo")
    measurement(tmp_path)
    assert "processbench-gsm8k" in lines(runs, tmp_path, command)[0]


@pytest.mark.parametrize("other", [{"base": "another"}, {"judge": "3" * 64}])
def test_another_model_or_template_is_another_judge(other: dict[str, str], runs: list[Run], tmp_path: Path) -> None:
    measurement(tmp_path, **other)
    (line,) = lines(runs, tmp_path, command)
    assert line.startswith("This judge has not been measured on labelled steps; with the same models: ")
    assert "judge --bench processbench-gsm8k --judge score" in line


def test_a_damaged_measurement_is_none(runs: list[Run], tmp_path: Path) -> None:
    path = measurement(tmp_path)
    (path / "summary.json").write_text(json.dumps({"signals": {}}))
    assert "has not been measured" in lines(runs, tmp_path, command)[0]
    (path / "config.json").write_text("{")
    assert "has not been measured" in lines(runs, tmp_path, command)[0]


def test_eval_says_it_under_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "load_tokenizer", lambda model, **options: CharTokenizer())
    with scripted_engines() as engines:
        urls = ["--base-url", engines["base"].url, "--small-url", engines["small"].url]
        words = ["--bench", "demo", "--limit", "1", "--method", "specreason", "--out", tmp_path]
        done = invoke("eval", *words, *urls)
    assert done.exit_code == 0, done.output
    assert "This judge has not been measured on labelled steps" in done.stdout


def test_where_no_judge_decides_nothing_is_said(tmp_path: Path) -> None:
    policy = settings()["policy"] | {"gate": "random"}
    for name, changes in {"base": {"method": "base"}, "coin": {"method": "random"}, "gate": {"policy": policy}}.items():
        assert lines(load_runs(run_folder(tmp_path / name, answers(True), **changes)), tmp_path, command) == []
