"""Owns grading the stored answers of a run again, without any engine."""

from pathlib import Path
from typing import Any

from sgl_specreason.grading import Verdict, grade
from sgl_specreason.records import read_trajectories, write_trajectories


def graded(record: dict[str, Any], gold: str, grader: str) -> dict[str, Any]:
    """What a record says about its answer: right or not, the answer found, the gold one, what compared them."""
    verdict: Verdict = grade(f"</think>{record['answer_text']}", gold, grader)  # type: ignore[arg-type]
    return {"correct": verdict.correct, "answer": verdict.answer, "gold": gold, "grader": verdict.grader}


def rescored(path: Path, config: dict[str, Any]) -> str:
    """Grades the answers in the run folder `path` again, replaces its records, and says how many verdicts changed."""
    records, changed = read_trajectories(path), 0
    for record in records:
        if "error" not in record:
            new = graded(record, record["gold"], config["grader"])
            changed += new["correct"] != record["correct"]
            record |= new
    write_trajectories(path, records)
    return f"{path}: {len(records)} answers graded again, {changed} verdicts changed"
