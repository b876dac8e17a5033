"""Owns grading the stored answers of a run again, without any engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sgl_specreason.results.grading import Verdict, grade
from sgl_specreason.results.records import trajectories, write_trajectories


def graded(record: dict[str, Any], gold: str, grader: str) -> dict[str, Any]:
    """What a record says about its answer: right or not, the answer found, the gold one, what compared them."""
    verdict: Verdict = grade(f"</think>{record['answer_text']}", gold, grader)  # type: ignore[arg-type]
    return {"correct": verdict.correct, "answer": verdict.answer, "gold": gold, "grader": verdict.grader}


def rescored(path: Path, config: dict[str, Any]) -> str:
    """Grades the answers in the run folder `path` again, replaces its records, and says how many verdicts changed."""
    graded_again = changed = 0

    def regraded() -> Iterator[dict[str, Any]]:
        nonlocal graded_again, changed
        for record in trajectories(path):
            if "error" not in record:
                new = graded(record, record["gold"], config["grader"])
                changed += new["correct"] != record["correct"]
                graded_again += 1
                record |= new
            yield record

    write_trajectories(path, regraded())
    return f"{path}: {graded_again} answers graded again, {changed} verdicts changed"
