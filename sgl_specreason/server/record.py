"""Owns the records of what was answered: run folders, as those of a bench, so that whatever reads these reads them.

Knows no HTTP. They hold texts: it is for whoever starts the server to want that.
"""

import logging
import threading
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from sgl_specreason.errors import SpecReasonError
from sgl_specreason.plan.plan import Plan, Variant
from sgl_specreason.plan.versions import commit
from sgl_specreason.results.folder import RunFolder
from sgl_specreason.results.grading import grade
from sgl_specreason.server.pair import Pair
from sgl_specreason.server.talk import Talk

log = logging.getLogger("sgl_specreason.server")


class Recorder:
    """Writes each trajectory into the run folder of its method and settings under `folder`, from any thread."""

    def __init__(self, folder: Path, pair: Pair, *, places: int) -> None:
        self._folder, self._pair, self._places = folder, pair, places
        self._runs: dict[str, RunFolder] = {}
        self._lock = threading.Lock()

    def write(self, name: str, choice: int, talk: Talk, error: SpecReasonError | None) -> None:
        """One trajectory, the `choice` of the request `name`. One that cannot be written is said in the log."""
        question, t = talk.asked.question, talk.trajectory
        method = question.method if question.thinking else f"{question.method}-direct"
        taken = t.record() | {
            "problem_id": name,
            "sample": choice,
            "method": method,
            "problem": "\n\n".join(turn.content for turn in question.messages if turn.role == "user"),
            "start_s": talk.ticket.begun_s if talk.ticket else None,
            "latency_s": talk.account.seconds if talk.account else None,
        }
        if error is None:
            taken |= {
                "correct": None,
                "answer": grade(f"</think>{t.answer}", "", "math").answer,
                "gold": "",
                "grader": "none",
            }
        else:
            taken["error"] = str(error)
        try:
            with self._lock:
                self._run(method, talk).append(taken)
        except SpecReasonError as failure:
            log.error("%s", failure)

    def _run(self, method: str, talk: Talk) -> RunFolder:
        plan = self._pair.plan_of(talk.trajectory.policy)
        variant = Variant(method, plan.variants[0].policy)  # type: ignore[arg-type]
        plan = replace(plan, concurrency=self._places)
        name = plan.name((variant,))
        if name not in self._runs:
            path = self._folder / name
            run = RunFolder.found(path) if (path / "config.json").exists() else RunFolder(path=path)
            run.begin(self._config(plan, variant))
            self._runs[name] = run
        return self._runs[name]

    def _config(self, plan: Plan, variant: Variant) -> dict[str, Any]:
        infos = {role: endpoint.server_info for role, endpoint in self._pair.endpoints.items()}
        return {
            "settings": plan.settings(variant),
            **plan.conditions(),
            "grader": "math",
            "expected": 0,
            "day": date.today().isoformat(),
            "commit": commit(),
            "cache": "kept",
            "server_info": infos,
        }
