"""Owns grading the stored answers of a run again, without any engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sgl_specreason.errors import RecordError
from sgl_specreason.plan.catalog import Grader
from sgl_specreason.results.folder import line_of, replace_lines
from sgl_specreason.results.grading import grade
from sgl_specreason.results.lines import Finished
from sgl_specreason.results.records import whole, with_lines
from sgl_specreason.results.schema import Config
from sgl_specreason.typed import Misfit


def graded(answer_text: str, gold: str, grader: Grader) -> dict[str, Any]:
    """What a record says about its answer: right or not, the answer found, the gold one, what compared them."""
    verdict = grade(f"</think>{answer_text}", gold, grader)
    return {"correct": verdict.correct, "answer": verdict.answer, "gold": gold, "grader": verdict.grader}


def rescored(path: Path, config: Config) -> str:
    """Grades the answers in the run folder `path` again, replaces its records, and says how many verdicts changed."""
    graded_again = changed = 0

    def regraded() -> Iterator[bytes]:
        nonlocal graded_again, changed
        for line, record in with_lines(path):
            if isinstance(record, Finished):
                new = graded(record.answer_text, record.gold, config.grader)
                changed += new["correct"] != record.correct
                graded_again += 1
                try:
                    line = line_of(whole(line) | new)
                except Misfit as error:
                    raise RecordError(f"{path}: problem {record.problem_id}: {error}") from None
            yield line

    replace_lines(path, regraded())
    return f"{path}: {graded_again} answers graded again, {changed} verdicts changed"
