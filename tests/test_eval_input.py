"""What bad input gets: one line on stderr, exit code 2, no traceback, nothing started or written."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_engine import FakeEngine

from sgl_specreason import engines, gpus
from sgl_specreason.eval import main
from sgl_specreason.prompts import PLACEHOLDERS, load_prompts


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*args: object, **kwargs: object) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr(engines, "started", started)


def refused(result: Result, *named: str) -> None:
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for word in named:
        assert word in result.stderr


WRONG = {
    "no bench": ([], "--bench"),
    "unknown bench": (["--bench", "math50"], "math500"),
    "bench outside the folder": (["--bench", "../pairs/demo"], "no bench named"),
    "unknown pair": (["--bench", "demo", "--pair", "dmo"], "demo"),
    "unknown method": (["--bench", "demo", "--method", "specreson"], "specreason"),
    "unknown preset": (["--bench", "demo", "--preset", "papr"], "paper"),
    "missing bench file": (["--bench", "nowhere.toml"], "nowhere.toml"),
    "threshold too high": (["--bench", "demo", "--threshold", "10"], "threshold = 10"),
    "threshold below 0": (["--bench", "demo", "--threshold", "-1"], "threshold = -1"),
    "threshold not a number": (["--bench", "demo", "--threshold", "nan"], "threshold"),
    "unknown score rule": (["--bench", "demo", "--score-rule", "best"], "greedy, expected, p_ge"),
    "no budget": (["--bench", "demo", "--budget-tokens", "0"], "budget_tokens = 0"),
    "no samples": (["--bench", "demo", "--samples", "0"], "--samples 0"),
    "negative samples": (["--bench", "demo", "--samples", "-3"], "--samples -3"),
    "limit 0": (["--bench", "demo", "--limit", "0"], "--limit 0"),
    "no concurrency": (["--bench", "demo", "--concurrency", "0"], "--concurrency 0"),
    "concurrency in words": (["--bench", "demo", "--concurrency", "many"], "neither a whole number nor auto"),
    "negative lookahead": (["--bench", "demo", "--lookahead", "-1"], "lookahead = -1"),
    "eager and salvage": (["--bench", "demo", "--eager-regenerate", "--salvage"], "eager_regenerate and salvage"),
    "negative first-n": (["--bench", "demo", "--first-n", "-1"], "first_n = -1"),
    "on-budget": (["--bench", "demo", "--on-budget", "cry"], "answer, stop"),
    "answer-by": (["--bench", "demo", "--answer-by", "me"], "base, small"),
    "temperature": (["--bench", "demo", "--temperature", "3"], "temperature = 3"),
    "top-p": (["--bench", "demo", "--top-p", "0"], "top_p = 0"),
    "negative merging": (["--bench", "demo", "--min-step-tokens", "-1"], "min_step_tokens = -1"),
    "base-url alone": (["--bench", "demo", "--base-url", "http://127.0.0.1:1"], "--small-url"),
    "small-url alone": (["--bench", "demo", "--small-url", "http://127.0.0.1:1"], "--base-url"),
    "base-model alone": (["--bench", "demo", "--base-model", "x"], "--small-model"),
    "missing data": (["--bench", "demo", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
    "missing prompts": (["--bench", "demo", "--prompts", "nowhere"], "nowhere"),
    "missing run": (["--bench", "demo", "--resume", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize(("words", "named"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_named_in_one_line(
    words: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(invoke(*words), named)
    assert list(tmp_path.iterdir()) == []


def test_options_that_click_checks_also_exit_with_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["--bench", "demo", "--limit", "many"], ["--benhc", "demo"]):
        result = invoke(*words)
        assert result.exit_code == 2
        assert "Traceback" not in result.stderr


def test_a_url_where_nothing_answers(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        words = ["--bench", "demo", "--base-url", url, "--small-url", url, "--out", str(tmp_path / "runs")]
        refused(invoke(*words), url, "no SGLang server answers")
    assert not (tmp_path / "runs").exists()


def test_a_url_where_something_else_answers(
    tmp_path: Path, fake_engine: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: FakeEngine = fake_engine(lambda *_: "")  # type: ignore[operator]
    monkeypatch.setattr(engines, "probe", lambda url, key=None: None)
    words = ["--bench", "demo", "--base-url", engine.url, "--small-url", engine.url, "--out", str(tmp_path / "runs")]
    refused(invoke(*words), engine.url)


def test_a_malformed_data_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"problem": "x", "answer": "1"}\n{"problem": \n')
    refused(invoke("--bench", "demo", "--data", str(file)), f"{file}:2")


def test_a_misspelt_placeholder_names_file_and_placeholder(tmp_path: Path) -> None:
    for name in PLACEHOLDERS:
        (tmp_path / f"{name}.txt").write_text(load_prompts()[name].text + "\n")
    (tmp_path / "math.txt").write_text("Solve {{problm}}\n")
    refused(invoke("--bench", "demo", "--prompts", str(tmp_path)), str(tmp_path / "math.txt"), "{{problm}}")


def test_an_out_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    refused(invoke("--bench", "demo", "--out", str(file / "runs")), str(file))


def test_a_pair_that_needs_a_gpu_says_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "found", list)
    refused(invoke("--bench", "demo", "--pair", "qwq-32b+r1-1.5b"), "80 GB", "no GPU", "--pair demo")


def test_a_bench_without_a_gpu_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "found", list)
    refused(invoke("--bench", "math500"), "no GPU", "--pair demo", "--base-url")


@pytest.mark.parametrize(
    ("memory_gb", "pair"), [(24, "qwen3-8b+qwen3-0.6b"), (80, "r1-14b+r1-1.5b"), (141, "qwq-32b+r1-1.5b")]
)
def test_the_largest_pair_that_fits_is_taken(
    memory_gb: float, pair: str, monkeypatch: pytest.MonkeyPatch, shared_data: Path
) -> None:
    from sgl_specreason.plan import Options, resolve

    monkeypatch.setattr(gpus, "found", lambda: [gpus.Gpu(name="card", memory_gb=memory_gb)])
    plan = resolve(Options(bench="math500", data=shared_data / "math500.jsonl", policy={}))
    assert plan.pair == pair
    assert [spec.role for spec in plan.specs] == ["small", "base"]


def test_list_shows_everything_that_can_be_named() -> None:
    result = invoke("--list")
    assert result.exit_code == 0
    for word in ("demo", "math500", "aime24", "qwq-32b+r1-1.5b", "specreason", "base", "small", "paper", "default"):
        assert word in result.stdout


def test_a_dry_run_shows_settings_prompts_and_commands_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("--bench", "demo", "--dry-run", "--threshold", "6.5")
    assert result.exit_code == 0
    for word in ('"threshold": 6.5', "<think>", "Start from", "My score", "sglang.launch_server", "--sleep-on-idle"):
        assert word in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--help"], ["--list"], ["--bench", "nosuch"]])
def test_quick_answers_import_nothing_heavy(words: list[str]) -> None:
    """Help and argument errors must answer at once; SGLang and torch take seconds to import."""
    program = (
        "import sys, runpy\nsys.argv[1:] = sys.argv[1:]\n"
        "try:\n    runpy.run_module('sgl_specreason.eval', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'sglang', 'torch', 'transformers', 'datasets', 'sympy', 'matplotlib'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr
