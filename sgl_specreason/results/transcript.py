"""Owns how one trajectory is read in a terminal: its steps, who wrote them, what the judge said, what was thrown away."""

from collections.abc import Iterator, Sequence

import click

from sgl_specreason.errors import UsageError
from sgl_specreason.results.lines import Finished, Record, Said, Step
from sgl_specreason.results.records import trajectories
from sgl_specreason.results.summary import Run
from sgl_specreason.words import counted

BAR = " ▁▂▃▄▅▆▇█"
COLOURS = {"base": "blue", "small": "yellow"}


def transcript(runs: Sequence[Run], wanted: str) -> str:
    """The trajectory PROBLEM or PROBLEM:SAMPLE of each run that has it. Raises UsageError where none has.

    Of other trajectories only the keys are read, and of those after it nothing.
    """
    problem, _, sample = wanted.rpartition(":")
    keys = [(wanted, 0)]  # an id may have a colon in it
    if sample.isdecimal() and len(sample) < 10:
        keys.append((problem, int(sample)))
    found = [line for run in runs for record in trajectories(run.path, keys) for line in lines_of(run, record)]
    if not found:
        known = list(dict.fromkeys(record.problem_id for run in runs for record in trajectories(run.path)))
        words = plain(_named(known)) if known else "nothing has ended there"
        raise UsageError(f"no trajectory {wanted} (PROBLEM or PROBLEM:SAMPLE); {words}")
    return "\n".join(found)


def _named(known: Sequence[str]) -> str:
    """Some of the problems that there are, or all of a few."""
    if len(known) == 1:
        return f"there is {known[0]}"
    if len(known) <= 4:
        return f"there are {', '.join(known[:-1])} and {known[-1]}"
    return f"there are {', '.join(known[:3])}, ..., {known[-1]}"


def lines_of(run: Run, record: Record) -> Iterator[str]:
    """One trajectory, with the colours of a terminal."""
    yield click.style(plain(f"{run.method}: problem {record.problem_id}, sample {record.sample}"), bold=True)
    if record.question:
        yield _text(record.question, record)
    elif record.texts == "withheld":
        yield "[withheld]"
    if not isinstance(record, Finished):
        yield click.style(f"failed: {plain(record.error)}", fg="red")
    for number, step in enumerate(record.steps, 1):
        yield ""
        said = _said(step)
        if step.draft is not None:
            yield click.style(f"{number} small, {counted(step.draft.tokens, 'token')}, rejected{said}", dim=True)
            yield click.style(_text(step.draft.text, record), dim=True, strikethrough=True)
            said = ""
        colour = COLOURS[step.by]
        salvaged = f", {step.salvaged} of them small's" if step.salvaged else ""
        yield click.style(f"{number} {step.by}, {counted(step.tokens, 'token')}{salvaged}{said}", fg=colour, bold=True)
        yield click.style(_text(step.text, record), fg=colour)
    yield ""
    yield click.style(plain(f"answer, after {record.stop_reason}"), bold=True)
    yield _text(record.answer_text, record)
    if isinstance(record, Finished) and record.correct is not None:
        right = click.style("right", fg="green") if record.correct else click.style("wrong", fg="red")
        yield f"{right}: {plain(str(record.answer))}, gold {plain(record.gold)}; {record.latency_s:.2f} s"
    yield ""


def _said(said: Said) -> str:
    """The judge's number, and its ten digits as small bars; and that it was not the judge who decided."""
    unasked = ", unasked" if isinstance(said, Step) and said.unasked else ""
    if said.score is None:
        return unasked
    bars = "".join(BAR[round(p * (len(BAR) - 1))] for p in said.digits)
    return f"{unasked}, score {said.score:zg}" + (f" [{bars}]" if bars else "")


def _text(text: str, record: Record) -> str:
    return "[withheld]" if record.texts == "withheld" and not text else plain(text).strip("\n")


def plain(text: str) -> str:
    """`text` with nothing in it that a terminal would obey."""
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)
