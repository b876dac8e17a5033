"""The bundled pair's judge on real engines: its steps are planted errors, a prefix is computed once, the page stands."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from real_engines import Servers

from sgl_specreason.judge import main

pytestmark = pytest.mark.engines


def test_the_demo_judge_knows_planted_errors_and_each_prefix_is_computed_once(
    real_pair: Servers, tmp_path: Path
) -> None:
    words = [*real_pair.attached, "--limit", "16", "--out", str(tmp_path), "--concurrency", "2"]
    judges = [word for name in ("score", "binary", "likelihood", "self") for word in ("--judge", name)]
    result = CliRunner().invoke(main, [*words, *judges], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (top,) = tmp_path.iterdir()
    summary = json.loads((top / "summary.json").read_text())
    assert summary["problems"] == 16
    assert summary["signals"]["score expected"]["auroc"] > 0.9
    assert summary["signals"]["likelihood min"]["auroc"] > 0.99  # also of steps that close the thought
    # who is asked first computes the step and its own turn, and nothing that came before it but the prompt
    lines = [json.loads(line) for line in (top / "steps.jsonl").read_text().splitlines()]
    later = [said for line in lines if line["step"] for said in line["said"].values()]
    assert all(said["cached_tokens"] > 40 for said in later)
    assert summary["cached_share"] > 0.5
    refused = CliRunner().invoke(main, [*words, "--judge", "decisions"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1), refused.output
    assert "--judge decisions: base: " in refused.stderr
