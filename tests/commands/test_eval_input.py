"""What the command shows before a run: what there is, what it would do, at once. Bad input: test_bad_input.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import invoke

from sgl_specreason.plan import gpus


@pytest.mark.parametrize(
    ("memory_gb", "pair"),
    [(24, "qwen3-4b+qwen3-0.6b"), (32, "qwen3-8b+qwen3-0.6b"), (80, "r1-14b+r1-1.5b"), (141, "qwq-32b+r1-1.5b")],
)
def test_the_largest_pair_that_fits_is_taken(
    memory_gb: float, pair: str, monkeypatch: pytest.MonkeyPatch, shared_data: Path
) -> None:
    from sgl_specreason.plan.options import Options
    from sgl_specreason.plan.resolve import resolve

    monkeypatch.setattr(gpus, "found", lambda: [gpus.Gpu(name="card", memory_gb=memory_gb)])
    plan = resolve(Options(bench="math500", data=shared_data / "math500.jsonl", policy={}))
    assert plan.pair == pair
    assert [spec.role for spec in plan.specs] == ["small", "base"]


def test_list_shows_everything_that_can_be_named() -> None:
    result = invoke("eval", "--list")
    assert result.exit_code == 0
    for word in ("demo", "math500", "aime24", "qwq-32b+r1-1.5b", "specreason", "base", "small", "paper", "default"):
        assert word in result.stdout


def test_a_dry_run_shows_settings_prompts_and_commands_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("eval", "--bench", "demo", "--dry-run", "--threshold", "6.5", "--verbose")
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
