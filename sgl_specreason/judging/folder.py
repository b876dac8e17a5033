"""Owns the folder of a judge's measurement: a line for each step, written as it is judged, and read again. Knows no engines.

The texts of problems and steps are not written: a line has a problem's id, a step's number, its label and what the judges said.
"""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from sgl_specreason.errors import RecordError
from sgl_specreason.results.folder import append, check_settings, write_json
from sgl_specreason.results.lines import Seconds, Share
from sgl_specreason.results.records import CONFIG, read_config, whole
from sgl_specreason.results.schema import Data
from sgl_specreason.typed import Count, Misfit, Number, typed

STEPS, SUMMARY = "steps.jsonl", "summary.json"
PREFIX = "judge-"


class Answer(Data, frozen=True, kw_only=True):
    """What one judge said of a step, and what that cost. `first`: it was asked first, so that the step was computed for it."""

    digits: Annotated[list[Share], Meta(min_length=10, max_length=10)] | None = None
    p_yes: Share | None = None
    label_mass: Share | None = None
    logprob_min: Number | None = None
    logprob_mean: Number | None = None
    seconds: Seconds
    prompt_tokens: Count = 0
    cached_tokens: Count | None = None
    first: bool = False


class StepLine(Data, frozen=True, kw_only=True):
    """A step with its label, and what was said of it."""

    problem: str
    step: Count
    right: bool
    said: dict[str, Answer]


@dataclass(slots=True, kw_only=True)
class StepsFolder:
    """A measurement on disk; safe to write from several threads. `torn` says that a cut last line was dropped."""

    path: Path
    lines: list[StepLine] = field(default_factory=list)
    torn: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def found(cls, path: Path) -> "StepsFolder":
        """What stands in `path`. Raises RecordError (file:line) for a malformed line other than a torn last one."""
        folder = cls(path=path)
        file = path / STEPS
        seen: set[tuple[str, int]] = set()
        for where, content, ended in _lines(file):
            try:
                line = typed(whole(content), StepLine)
            except Misfit as error:
                if not ended:
                    break
                raise RecordError(f"{where}: not a judged step: {error}") from None
            if (line.problem, line.step) in seen:
                raise RecordError(f"{where}: problem {line.problem}, step {line.step} occurs twice")
            seen.add((line.problem, line.step))
            folder.lines.append(line)
        folder.torn = file.exists() and file.stat().st_size > 0 and not file.read_bytes().endswith(b"\n")
        return folder

    def begin(self, config: dict[str, Any]) -> None:
        """Makes the folder or goes on with it. Raises RecordError, naming the keys, where its settings differ."""
        self.path.mkdir(parents=True, exist_ok=True)
        if (self.path / CONFIG).exists():
            check_settings(self.path, config["settings"])
        if self.torn:
            text = "".join(json.dumps(msgspec.to_builtins(line)) + "\n" for line in self.lines)
            (self.path / STEPS).write_text(text)
        (self.path / SUMMARY).unlink(missing_ok=True)
        write_json(self.path / CONFIG, config)

    def append(self, line: dict[str, Any]) -> None:
        """Writes a judged step; it is in the file when this returns. Raises WriteError."""
        with self._lock:
            append(self.path / STEPS, line)
            self.lines.append(typed(line, StepLine))


def _lines(file: Path) -> Iterator[tuple[str, bytes, bool]]:
    if not file.exists():
        return
    try:
        with file.open("rb") as content:
            for number, line in enumerate(content, 1):
                if line.strip():
                    yield f"{file}:{number}", line, line.endswith(b"\n")
    except OSError as error:
        raise RecordError(f"{file}: cannot be read: {error.strerror}") from None


def is_folder(path: Path) -> bool:
    """Whether this is the folder of a judge's measurement."""
    try:
        return os.path.isfile(path / CONFIG) and "judges" in read_config(path / CONFIG)["settings"]
    except RecordError:
        return False
