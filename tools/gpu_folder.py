"""Owns the folder of a check of a GPU: its settings, one file for each cell, and the report that is made of them.

    <out>/check.json          the settings with which it was begun, and what it ran on
    <out>/cells/<cell>.json   what became of a cell
    <out>/cells/<cell>/       the replay's run folder, and its log
    <out>/engines/            the engines' logs
    <out>/gpu.json, gpu.md    the report

Knows no engines.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from gpu_plan import Cell
from gpu_table import markdown

from sgl_specreason.errors import UsageError
from sgl_specreason.results.folder import differences, write_json, write_text
from sgl_specreason.typed import Misfit, typed

State = Literal["done", "partial", "failed", "skipped"]
CHECK = "check.json"
UNTRIED, STOPPED = "not tried yet", "stopped"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a cell: its figures, or why there are none, or not all, in one line."""

    cell: str
    state: State
    reason: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = {}

    @property
    def lacked_time(self) -> bool:
        """Whether it was not begun, or cut off, because its time was over."""
        return self.state == "skipped" or (self.state == "partial" and self.reason.startswith(STOPPED))


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Where everything of a check is."""

    path: Path

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raises UsageError where a check with other settings was begun here."""
        known = self.settings()
        if known is not None and (words := differences(known, dict(settings))):
            raise UsageError(
                f"--out {self.path}: was begun with other settings ({'; '.join(words)}); give the same ones, or another --out"
            )

    def begin(self, settings: Mapping[str, Any], conditions: Mapping[str, Any]) -> None:
        """Writes what the report says of all cells. Raises UsageError as `check` does."""
        self.check(settings)
        (self.path / "cells").mkdir(parents=True, exist_ok=True)
        write_json(self.path / CHECK, {"settings": dict(settings), "conditions": dict(conditions)})

    def settings(self) -> dict[str, Any] | None:
        """Those with which it was begun; None where it was not."""
        known = self._read(CHECK)
        return None if known is None else dict(known["settings"])

    def result(self, name: str) -> Result | None:
        """What became of a cell; None where it was not tried, or its file is torn."""
        try:
            return typed(self._read(f"cells/{name}.json"), Result)
        except Misfit:
            return None

    def write(self, result: Result) -> None:
        """Records what became of a cell."""
        write_json(self.place(result.cell).with_suffix(".json"), msgspec.to_builtins(result))

    def forget(self, name: str) -> None:
        """Removes all that is of a cell."""
        self.place(name).with_suffix(".json").unlink(missing_ok=True)
        shutil.rmtree(self.place(name), ignore_errors=True)

    def place(self, name: str) -> Path:
        """A cell's own folder."""
        return self.path / "cells" / name

    def replayed(self, name: str) -> Path | None:
        """The run folder of a cell's replay; None where none was begun."""
        found = sorted(path.parent for path in self.place(name).glob("*/command.json"))
        return found[-1] if found else None

    def report(self, cells: Sequence[Cell]) -> str:
        """Writes the report of what is known by now, and returns its Markdown."""
        check = self._read(CHECK) or {}
        results = [self.result(cell.name) or Result(cell=cell.name, state="skipped", reason=UNTRIED) for cell in cells]
        entries = [_about(cell) | msgspec.to_builtins(result) for cell, result in zip(cells, results, strict=True)]
        report = {**check, "cells": entries}
        text = markdown(report)
        write_json(self.path / "gpu.json", report)
        write_text(self.path / "gpu.md", text)
        return text

    def _read(self, name: str) -> Any:
        try:
            return msgspec.json.decode((self.path / name).read_bytes())
        except (OSError, msgspec.DecodeError):
            return None


def _about(cell: Cell) -> dict[str, Any]:
    about = {"kind": cell.kind, "serving": cell.serving, "trace": cell.trace, "words": list(cell.words)}
    return about | {"concurrency": cell.concurrency, "context": cell.context}
