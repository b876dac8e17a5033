"""The rehearsal of the check of a GPU as users get it, on the bundled pair with real engines of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from checkout import ROOT
from gpu_table import markdown

pytestmark = pytest.mark.engines
TOOL = [sys.executable, str(ROOT / "tools" / "gpu.py"), "--rehearse"]
TRACES = ("published", "synthetic")
PLANTED = "published-4"


def tool(out: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*TOOL, "--out", str(out), *words], cwd=ROOT, capture_output=True, text=True, timeout=1500)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole rehearsal, of which one cell was made to fail: it is to go on with a run that is damaged."""
    out = tmp_path_factory.mktemp("gpu")
    damaged = out / "cells" / PLANTED / "a-run"
    damaged.mkdir(parents=True)
    (damaged / "command.json").write_text("no JSON")
    done = tool(out, "--minutes", "20")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"this tries again:\n  {sys.executable} {TOOL[1]} --rehearse" in done.stderr
    return out


def report(out: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((out / "gpu.json").read_text())
    assert (out / "gpu.md").read_text() == markdown(found)
    return {cell["cell"]: cell for cell in found["cells"]}


def test_every_kind_of_cell_has_figures(rehearsed: Path) -> None:
    cells = report(rehearsed)
    for name in ("start-small", "start-base"):
        figures = cells[name]["figures"]
        assert (figures["attention"], figures["dtype"]) == ("torch_native", "float32")
        assert figures["sglang"][0].isdecimal()
        assert figures["seconds"] > 1
        planned, measured = figures["planned"], figures["measured"]
        assert measured["cache_tokens"] == planned["cache_tokens"] == 65536
        assert measured["cache_gb"] == pytest.approx(planned["cache_gb"], abs=0.01)
        assert measured["weights_gb"] == pytest.approx(planned["weights_gb"], abs=0.02)
        assert measured["resident_gb"] > 0.3
    for context in (500, 2000):
        figures = cells[f"judge-{context}"]["figures"]
        assert figures["judge_ms"] > figures["base_step_ms"] > figures["small_step_ms"] > 0
        assert figures["judge_steps"] == pytest.approx(figures["judge_ms"] / figures["base_step_ms"])
        assert figures["reused_share"] >= 0.99
        assert figures["seen_tokens"] > 10 * context
    for cell in (cells[f"{trace}-{level}"] for trace in TRACES for level in (1, 4)):
        for row in cell["figures"].get("rows", []):
            assert 0 < row["p50_s"] <= row["p95_s"] <= row["p99_s"] <= max(row["latencies_s"].values())
            assert row["tokens_per_s"] > 0
            assert 0 <= row["client_share"] < 0.5
            assert row["n"] == row["expected"] == len(row["latencies_s"])
            assert row["at_once"] <= cell["concurrency"]


def test_every_point_of_a_trace_has_a_row(rehearsed: Path) -> None:
    cells = report(rehearsed)
    points = {
        trace: [(row["method"], row["acceptance"], row["lookahead"]) for row in cells[f"{trace}-1"]["figures"]["rows"]]
        for trace in TRACES
    }
    assert points["published"] == [("base", None, None), ("specreason", None, 0), ("specreason", None, 1)]
    assert len(points["synthetic"]) == 7
    grid = {("specreason", share, steps) for share in (0.4, 0.6, 0.8) for steps in (0, 1)}
    assert set(points["synthetic"]) == {("base", None, None), *grid}


def test_a_cell_that_fails_and_what_a_cpu_cannot_do_say_why_and_end_nothing(rehearsed: Path) -> None:
    cells = report(rehearsed)
    assert cells[PLANTED]["state"] == "failed"
    assert "command.json: cannot be read" in cells[PLANTED]["reason"]
    for algorithm, reason in (
        ("standalone", "not supported by PureTorchPlatform"),
        ("ngram", "ImportError: [sgl_kernel]"),
    ):
        needing = [cell for name, cell in cells.items() if name.endswith(f"-{algorithm}")]
        assert {cell["state"] for cell in needing} == {"failed"}
        assert all(reason in cell["reason"] for cell in needing)
    assert {cell["state"] for cell in cells.values() if cell["serving"] in ("small", "base")} == {"done", "failed"}
    assert next(name for name, cell in cells.items() if cell["state"] == "failed") == PLANTED


def test_one_cell_is_made_anew_and_the_rest_left_as_it_is(rehearsed: Path) -> None:
    before = {path.name: path.read_bytes() for path in (rehearsed / "cells").glob("*.json")}
    done = tool(rehearsed, "--again", PLANTED)
    assert done.returncode == 0, done.stderr[-3000:]
    after = {path.name: path.read_bytes() for path in (rehearsed / "cells").glob("*.json")}
    changed = {name for name in before if before[name] != after[name] and not name.startswith("start")}
    assert changed == {f"{PLANTED}.json"}
    assert report(rehearsed)[PLANTED]["state"] == "done"
    assert len(report(rehearsed)[PLANTED]["figures"]["rows"]) == 3


def test_ctrl_c_ends_the_engines_and_says_how_to_go_on(tmp_path: Path) -> None:
    """While a replay is under way."""
    words = [*TOOL, "--out", str(tmp_path / "out")]
    lines: list[str] = []
    family: list[psutil.Process] = []
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "judge-500: at most" in line:
                time.sleep(2)
                family = psutil.Process(process.pid).children(recursive=True)
                os.killpg(process.pid, signal.SIGINT)
    said = "".join(lines)
    assert process.returncode == 130, said
    assert said.endswith(f"go on with\n  {' '.join(words)}\n")
    assert len(family) >= 6
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert json.loads((tmp_path / "out" / "cells" / "start-base.json").read_text())["state"] == "done"
