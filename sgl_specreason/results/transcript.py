"""Owns how one trajectory is read in a terminal: its steps, who wrote them, what the judge said, what was thrown away."""

from collections.abc import Iterator
from typing import Any

import click

from sgl_specreason.errors import UsageError
from sgl_specreason.results.summary import Run

BAR = " ▁▂▃▄▅▆▇█"
COLOURS = {"base": "blue", "small": "yellow"}


def transcript(runs: list[Run], wanted: str) -> str:
    """The trajectory PROBLEM or PROBLEM:SAMPLE of each run that has it. Raises UsageError where none has."""
    problem, _, sample = wanted.rpartition(":")
    keys = [(wanted, 0)]  # an id may have a colon in it
    if sample.isdecimal() and len(sample) < 10:
        keys.append((problem, int(sample)))
    found = [
        (run, record) for run in runs for record in run.records if (record["problem_id"], record["sample"]) in keys
    ]
    if not found:
        known = list(dict.fromkeys(record["problem_id"] for run in runs for record in run.records))
        words = plain(f"there are {', '.join(known[:3])}, ..., {known[-1]}") if known else "nothing has ended there"
        raise UsageError(f"no trajectory {wanted} (PROBLEM or PROBLEM:SAMPLE); {words}")
    return "\n".join(line for run, record in found for line in _lines(run, record))


def _lines(run: Run, record: dict[str, Any]) -> Iterator[str]:
    yield click.style(plain(f"{run.method}: problem {record['problem_id']}, sample {record['sample']}"), bold=True)
    if "error" in record:
        yield click.style(f"failed: {plain(record['error'])}", fg="red")
    for number, step in enumerate(record.get("steps", ()), 1):
        yield ""
        if "draft" in step:
            yield click.style(f"{number} small, {step['draft']['tokens']} tokens, rejected{_said(step)}", dim=True)
            yield click.style(_text(step["draft"]["text"], record), dim=True, strikethrough=True)
            step = {key: value for key, value in step.items() if key not in ("digits", "score")}
        colour = COLOURS[step["by"]]
        salvaged = f", {step['salvaged']} of them small's" if step.get("salvaged") else ""
        yield click.style(
            f"{number} {step['by']}, {step['tokens']} tokens{salvaged}{_said(step)}", fg=colour, bold=True
        )
        yield click.style(_text(step["text"], record), fg=colour)
    yield ""
    yield click.style(plain(f"answer, after {record.get('stop_reason')}"), bold=True)
    yield _text(record.get("answer_text", ""), record)
    if record.get("correct") is not None:
        right = click.style("right", fg="green") if record["correct"] else click.style("wrong", fg="red")
        yield f"{right}: {plain(str(record['answer']))}, gold {plain(str(record['gold']))}; {record['latency_s']:.2f} s"
    yield ""


def _said(step: dict[str, Any]) -> str:
    """The judge's number, and its ten digits as small bars."""
    if "score" not in step:
        return ""
    bars = "".join(BAR[round(p * (len(BAR) - 1))] for p in step.get("digits", []))
    return f", score {step['score']:g}" + (f" [{bars}]" if bars else "")


def _text(text: str, record: dict[str, Any]) -> str:
    return "[withheld]" if record.get("texts") == "withheld" and not text else plain(text).strip("\n")


def plain(text: str) -> str:
    """`text` with nothing in it that a terminal would obey."""
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)
