"""Owns the course of a check of a GPU: engines up, cell after cell until the time is over, and what became of each.

A cell that fails says why and ends nothing else. Knows no command line.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_figures
from gpu_engines import Pair, failure, is_up, told
from gpu_folder import STOPPED, Folder, Result, State
from gpu_plan import ENOUGH_S, Cell, Serving, allowed_s, deadline, groups

from sgl_specreason.engines import cards
from sgl_specreason.engines.keeper import Engine
from sgl_specreason.engines.servers import EngineSpec
from sgl_specreason.engines.startup import started
from sgl_specreason.errors import EngineError, one_line
from sgl_specreason.text.steps import Author

Json = dict[str, Any]
Say = Callable[[str], None]
NO_TIME = "no time left"
KEY_VARIABLE = "SPECREASON_API_KEY"
END_S, UP_S = 15.0, 120.0
RESTARTS = 1
OWN = ("--flush-cache", "--retry-for", "60")


class NotUp(Exception):
    """An engine that was not started or did not come up: the state of what needs it, and why."""

    def __init__(self, state: State, reason: str) -> None:
        super().__init__(reason)
        self.state: State = state
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check that is under way. `models` are the words that name its pair, `end` is when its time is over."""

    pair: Pair
    cells: Sequence[Cell]
    folder: Folder
    models: Sequence[str]
    seed: int
    end: float
    say: Say

    def run(self, pending: Sequence[Cell]) -> None:
        """Makes these cells, as many as there is time for. What is found is written at once."""
        for serving, words in self.pair.refused.items():
            self._lack([cell for cell in pending if cell.serving == serving], NotUp("failed", words))
        possible = [cell for cell in pending if cell.serving not in self.pair.refused]
        if not possible:
            return
        try:
            with self._engine("small", self.end) as small:
                self._groups(possible, small)
        except NotUp as reason:
            self._lack([cell for cell in possible if cell.serving != "small"], reason)

    def _groups(self, cells: Sequence[Cell], small: Engine) -> None:
        """One way to serve base after the other, each with its share of the time that is left then."""
        left = list(groups(cells))
        while left:
            starts = [self._start(serving).seconds for serving, _ in left]
            needs = [start + sum(c.seconds for c in group) for start, (_, group) in zip(starts, left, strict=True)]
            self._group(*left.pop(0), small, deadline(time.monotonic(), self.end, needs))
        cut = [cell for cell in cells if (found := self.folder.result(cell.name)) and found.lacked_time]
        for serving, group in groups(cut):  # what later groups have left of their time
            start = self.folder.result(self._start(serving).name)
            if start and start.state == "done" and time.monotonic() + start.seconds + ENOUGH_S < self.end:
                self._group(serving, group, small, self.end)

    def _group(self, serving: Serving, cells: Sequence[Cell], small: Engine, until: float) -> None:
        """What needs base served in one way."""
        try:
            with self._engine(serving, until) as base:
                for cell in cells:
                    self._replay(cell, small, base, until)
        except NotUp as reason:
            self._lack(cells, reason)

    @contextmanager
    def _engine(self, serving: Serving, until: float) -> Iterator[Engine]:
        """An engine that is up. Raises NotUp where it does not come up, which is written."""
        cell, spec = self._start(serving), self.pair.spec(serving)
        logs = self.folder.path / "engines" / serving
        begin, before = time.monotonic(), self._used_before(serving)
        with ExitStack() as stack:
            try:
                if until - begin < ENOUGH_S:
                    raise NotUp("skipped", NO_TIME)
                engines = _started(stack, spec, logs, self.say, self.end - begin)
            except NotUp as reason:
                self._lack([cell], reason)
                raise
            seconds = time.monotonic() - begin
            figures, trouble = figured(lambda: told(engines[spec.role], before, seconds))
            figures |= {"planned": self.pair.planned(serving), "command": spec.shell()} if figures else {}
            self._write(cell, "partial" if trouble else "done", trouble, seconds=seconds, figures=figures)
            yield engines[spec.role]

    def _used_before(self, serving: Serving) -> list[float]:
        """What is in use of each card before an engine starts; of the last base some may still be there for a second."""
        if serving == "small":
            return cards.used_gb()
        found = self.folder.result("start-small")
        return list(found.figures.get("cards_gb", [])) if found else []

    def _replay(self, cell: Cell, small: Engine, base: Engine, until: float) -> None:
        """A cell of a replay, in a process of its own, which is ended when its time is over."""
        begin = time.monotonic()
        most_s = allowed_s(cell, until - begin)
        if not most_s:
            self._write(cell, "skipped", NO_TIME)
            return
        for engine in (small, base):
            if not is_up(engine, min(UP_S, most_s)):
                self._write(cell, "failed", f"{engine.role}: {engine.health.gone or 'does not take requests'}")
                return
        self.say(f"{cell.name}: at most {most_s:.0f} s")
        place = self.folder.place(cell.name)
        place.mkdir(parents=True, exist_ok=True)
        log = place / "replay.log"
        command = [sys.executable, "-m", "sgl_specreason.replay", *self._words(cell, small, base)]
        code = played(command, log, most_s - (time.monotonic() - begin), {KEY_VARIABLE: self.pair.api_key})
        self._settle(cell, code, log, time.monotonic() - begin)

    def _words(self, cell: Cell, small: Engine, base: Engine) -> list[str]:
        """The replay's command line; it goes on where an earlier one stopped."""
        urls = ["--base-url", base.url, "--small-url", small.url]
        begun = self.folder.replayed(cell.name)
        if begun:
            return ["--resume", str(begun), *urls]
        own = ["--seed", str(self.seed), *OWN, "--out", str(self.folder.place(cell.name))]
        return [*cell.words, *self.models, *urls, *own]

    def _settle(self, cell: Cell, code: int | None, log: Path, seconds: float) -> None:
        """Writes what became of a replay: its figures, and why not all of it is there."""
        top = self.folder.replayed(cell.name)
        read = gpu_figures.of_judging if cell.kind == "judge" else gpu_figures.of_replay
        begun = top and any(top.glob("**/trajectories.jsonl"))
        figures, trouble = figured(lambda: read(top)) if top and begun else ({}, "")
        ended = f"{STOPPED} after {seconds:.0f} s" if code is None else "" if code == 0 else said(log)
        reason = "; ".join(filter(None, [figures.pop("errors", "") or ended, trouble]))
        state: State = "partial" if figures.get("finished") else "skipped" if code is None else "failed"
        figures |= {"cards_gb": cards.used_gb()} if figures else {}
        self._write(cell, state if reason else "done", reason, seconds=seconds, figures=figures)

    def _start(self, serving: Serving) -> Cell:
        return next(cell for cell in self.cells if cell.kind == "start" and cell.serving == serving)

    def _lack(self, cells: Sequence[Cell], reason: NotUp) -> None:
        for cell in cells:
            self._write(cell, reason.state, reason.reason)

    def _write(
        self, cell: Cell, state: State, reason: str = "", *, seconds: float = 0.0, figures: Json | None = None
    ) -> None:
        """Records what became of a cell. What was measured of it before stays where nothing was now."""
        known = self.folder.result(cell.name)
        if figures or not (known and known.figures):
            self.folder.write(
                Result(cell=cell.name, state=state, reason=reason, seconds=seconds, figures=figures or {})
            )
        self.say(f"{cell.name}: {state}{f': {reason}' if reason else f' ({seconds:.0f} s)'}")
        self.folder.report(self.cells)


def _started(stack: ExitStack, spec: EngineSpec, logs: Path, say: Say, most_s: float) -> dict[Author, Engine]:
    """The engine, up until the stack ends. Raises NotUp with the last exception in its log."""
    try:
        return stack.enter_context(started([spec], logs, say=say, timeout_s=most_s, restarts=RESTARTS))
    except (EngineError, OSError) as error:
        words = str(error).splitlines()[0]
        raise NotUp("failed", f"{words}: {failure(logs / f'{spec.name}.log')}") from None


def played(command: Sequence[str], log: Path, most_s: float, env: Mapping[str, str]) -> int | None:
    """Runs a command and returns its exit code; None where its time was over. Its guard ends it where this process is killed."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "sgl_specreason.engines.guard", *command],
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            start_new_session=True,
        )
    assert process.stdin
    try:
        return process.wait(max(1.0, most_s))
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.stdin.close()  # ends it
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def figured(read: Callable[[], Json]) -> tuple[Json, str]:
    """Figures; or none, and why: whatever is wrong with those of one cell, the others are made."""
    try:
        return read(), ""
    except Exception as error:
        return {}, f"no figures: {type(error).__name__}: {one_line(error)}"


def said(log: Path) -> str:
    """Why a replay ended, in one line."""
    lines = log.read_text("utf-8", "replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1][:300] if errors else failure(log)
