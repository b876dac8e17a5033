"""The two examples of docs/server.md, as they stand there, on the bundled pair."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from real_engines import KEY, Servers

import sgl_specreason.server.call as call

SCRIPT, CELL = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "server.md").read_text("utf-8"), re.DOTALL)
ANSWER = r"The answer is \boxed{84}."


@pytest.mark.engines
def test_the_script_of_the_docs_answers(tmp_path: Path) -> None:
    """It starts the pair itself, and prints each step, its author and its score, and the answer."""
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    assert len(SCRIPT.strip().splitlines()) <= 15
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert ANSWER in lines
    assert re.fullmatch(r"(base|small) \d(\.0)? Step 1: .*", lines[0])


def test_the_cell_of_the_docs_reads_along(
    real_pair: Servers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps come with their authors and scores before the answer does."""

    def start(**asked: Any) -> call.SpecReason:
        urls = real_pair.urls
        return call.SpecReason.attach(base_url=urls["base"], small_url=urls["small"], api_key=KEY, **asked)

    monkeypatch.setattr(call.SpecReason, "start", start)
    question = re.search(r'question = """.*?"""', SCRIPT, re.DOTALL)
    assert question
    cell: dict[str, Any] = {}
    exec(f"from sgl_specreason import SpecReason\n{question[0]}\n{CELL}", cell)
    cell["sr"].close()
    said = capsys.readouterr().out
    assert "step 1: score" in said
    assert said.index("step 1: score") < said.index(ANSWER)
