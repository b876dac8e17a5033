"""Files as a user has them, good ones and such as have one thing wrong: benches, pairs, presets, sweeps, run folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from run_folders import answers, record, run_folder

Content = str | bytes | Callable[[Path], Any]


def run(**changes: Any) -> Callable[[Path], Any]:
    """A run folder of four problems, whose config or last record has these changes; with None the key is left out."""

    def make(path: Path) -> None:
        of_config = changes.get("config", {})
        of_record = changes.get("record", {})
        records = [*answers(True, False, True), record(3, correct=True) | of_record]
        run_folder(path, [without_none(one) for one in records], **changes.get("settings", {}))
        file = path / "config.json"
        file.write_text(json.dumps(without_none(json.loads(file.read_text()) | of_config)))

    return make


def without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}


def with_file(name: str, content: str | bytes) -> Callable[[Path], Any]:
    """A run folder in which this file has this content."""

    def make(path: Path) -> None:
        run()(path)
        written(path / name, content)

    return make


def written(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


BENCH = 'title = "Mine"\nprompt = "math"\ngrader = "integer"\n'
ROW = '{"id": "q", "problem": "2+2", "answer": "4"}\n'
PAIR = 'title = "Mine"\nbase = "bundled:base"\nsmall = "bundled:small"\n'
PRESET = 'title = "Mine"\n[policy]\n'
SWEEP = 'title = "Mine"\n[grid]\n'
