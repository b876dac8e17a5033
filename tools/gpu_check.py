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
from gpu_folder import Folder, Result, State
from gpu_plan import ENOUGH_S, Cell, Serving, allowed_s, deadline, groups

from sgl_specreason.engines import cards
from sgl_specreason.engines.keeper import Engine
from sgl_specreason.engines.startup import started
from sgl_specreason.errors import EngineError, one_line

Json = dict[str, Any]
Say = Callable[[str], None]
NO_TIME = "no time left"
KEY_VARIABLE = "SPECREASON_API_KEY"
END_S, UP_S = 15.0, 120.0
RESTARTS = 1


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
            for cell in pending:
                if cell.serving == serving:
                    self._write(cell, "failed", words)
        possible = [cell for cell in pending if cell.serving not in self.pair.refused]
        left = list(groups(possible))
        if not possible:
            return
        with self._engine("small", self.end) as small:
            while left:
                starts = [self._start(serving).seconds for serving, _ in left]
                estimates = [
                    start + sum(cell.seconds for cell in cells) for start, (_, cells) in zip(starts, left, strict=True)
                ]
                until = deadline(time.monotonic(), self.end, estimates)
                self._group(*left.pop(0), small=small, until=until)
            self._use_the_rest(possible, small)

    def _use_the_rest(self, cells: Sequence[Cell], small: Engine | None) -> None:
        """What the later groups have left of their time is for cells that there was none for, where base can start again."""
        skipped = [cell for cell in cells if (found := self.folder.result(cell.name)) and found.state == "skipped"]
        for serving, group in groups(skipped):
            start = self.folder.result(self._start(serving).name)
            if start and start.state == "done" and time.monotonic() + start.seconds + ENOUGH_S < self.end:
                self._group(serving, group, small=small, until=self.end)

    def _group(self, serving: Serving, cells: Sequence[Cell], *, small: Engine | None, until: float) -> None:
        """What needs base served in one way."""
        if small is None:
            self._fail([self._start(serving), *cells], self._start("small"))
            return
        with self._engine(serving, until) as base:
            if base is None:
                self._fail(cells, self._start(serving))
                return
            for cell in cells:
                self._replay(cell, small, base, until)

    @contextmanager
    def _engine(self, serving: Serving, until: float) -> Iterator[Engine | None]:
        """An engine that is up; None where it does not come up, which is written."""
        cell, spec = self._start(serving), self.pair.spec(serving)
        logs = self.folder.path / "engines" / serving
        begin, before = time.monotonic(), self._used_before(serving)
        if until - begin < ENOUGH_S:
            self._write(cell, "skipped", NO_TIME)
            yield None
            return
        with ExitStack() as stack:
            try:
                engines = stack.enter_context(
                    started([spec], logs, say=self.say, timeout_s=self.end - begin, restarts=RESTARTS)
                )
            except (EngineError, OSError) as error:
                words = str(error).splitlines()[0]
                reason = f"{words}: {failure(logs / f'{spec.name}.log')}"
                self._write(cell, "failed", reason, seconds=time.monotonic() - begin)
                yield None
                return
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
        own = [
            "--seed",
            str(self.seed),
            "--flush-cache",
            "--retry-for",
            "60",
            "--out",
            str(self.folder.place(cell.name)),
        ]
        return [*cell.words, *self.models, *urls, *own]

    def _settle(self, cell: Cell, code: int | None, log: Path, seconds: float) -> None:
        """Writes what became of a replay: its figures, and why not all of it is there."""
        top = self.folder.replayed(cell.name)
        read = gpu_figures.of_judging if cell.kind == "judge" else gpu_figures.of_replay
        begun = top and any(top.glob("**/trajectories.jsonl"))
        figures, trouble = figured(lambda: read(top)) if top and begun else ({}, "")
        stopped = f"stopped after {seconds:.0f} s"
        reason = trouble if code == 0 else "; ".join(filter(None, [stopped if code is None else said(log), trouble]))
        state: State = "partial" if figures.get("finished") else "failed"
        figures |= {"cards_gb": cards.used_gb()} if figures else {}
        self._write(cell, state if reason else "done", reason, seconds=seconds, figures=figures)

    def _start(self, serving: Serving) -> Cell:
        return next(cell for cell in self.cells if cell.kind == "start" and cell.serving == serving)

    def _fail(self, cells: Sequence[Cell], start: Cell) -> None:
        """What needs an engine that did not come up has its state and its reason."""
        if found := self.folder.result(start.name):
            for cell in cells:
                self._write(cell, found.state, found.reason)

    def _write(
        self, cell: Cell, state: State, reason: str = "", *, seconds: float = 0.0, figures: Json | None = None
    ) -> None:
        self.folder.write(Result(cell=cell.name, state=state, reason=reason, seconds=seconds, figures=figures or {}))
        self.say(f"{cell.name}: {state}{f': {reason}' if reason else f' ({seconds:.0f} s)'}")
        self.folder.report(self.cells)


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
