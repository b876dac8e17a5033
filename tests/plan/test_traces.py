"""Published traces: what ships, what a user's file must be, and what bad ones get."""

import json
from pathlib import Path
from typing import Any

import pytest

from sgl_specreason.errors import UsageError
from sgl_specreason.plan.traces import DEFAULT, is_name, load, names

ABOUT = {"title": "Mine", "source": "me", "threshold": 7, "score_rule": "greedy", "budget_tokens": 512}
STEP = {"draft": 9, "base": None, "score": 8}


def file(path: Path, *lines: Any) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_what_ships_is_numbers_with_their_source() -> None:
    published = load(DEFAULT)
    assert "RuthvikAtte/specreason" in published.about.source
    assert (len(published.runs), len(published.steps)) == (17, 2070)
    assert sum(step.digits is not None for step in published.steps) == 1332
    assert DEFAULT in names()


def test_a_users_file_is_read(tmp_path: Path) -> None:
    name = file(tmp_path / "mine.jsonl", ABOUT, {"problem": "p", "steps": [STEP, STEP | {"base": 4}]})
    first, second = load(name).steps
    assert (first.accepted, first.written, second.accepted, second.written) == (True, 9, False, 4)
    assert is_name(name)


def test_a_run_folder_of_the_name_of_a_trace_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_name(DEFAULT)
    assert not is_name("runs/demo-specreason-demo-1a2b3c4d")
    (tmp_path / DEFAULT).mkdir()
    monkeypatch.chdir(tmp_path)
    assert not is_name(DEFAULT)


BAD: dict[str, tuple[tuple[Any, ...], str]] = {
    "nothing": ((), "wants a line that says what it is"),
    "no run": ((ABOUT,), "wants a line that says what it is"),
    "no source": (({"title": "x"}, {"problem": "p", "steps": [STEP]}), r"jsonl:1: .*missing"),
    "no steps": ((ABOUT, {"problem": "p", "steps": []}), "jsonl:2: steps: wants at least 1"),
    "eleven": ((ABOUT, {"problem": "p", "steps": [STEP | {"score": 11}]}), r"jsonl:2: steps\[0\].score = 11"),
    "nine digits": ((ABOUT, {"problem": "p", "steps": [STEP | {"digits": [0.1] * 9}]}), r"steps\[0\].digits"),
    "a list": ((ABOUT, [1]), "jsonl:2: "),
}


@pytest.mark.parametrize(("lines", "words"), BAD.values(), ids=BAD)
def test_a_bad_file_is_named_with_its_line(lines: tuple[Any, ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        load(file(tmp_path / "mine.jsonl", *lines))
