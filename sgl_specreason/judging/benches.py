"""Owns the files of `eval/judge/` and their rows: problems with steps that are known to be right or wrong. Knows no models."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from sgl_specreason.errors import UsageError
from sgl_specreason.paths import find
from sgl_specreason.plan.benches import Generator, check_text, digest_of, raw_rows, value_at
from sgl_specreason.plan.catalog import Source, named, read_toml
from sgl_specreason.typed import Misfit, Positive, nearest, typed

Column = Literal["id", "problem", "steps", "first_wrong", "labels"]
DEFAULTS: dict[Column, str] = {"id": "id", "problem": "problem", "steps": "steps", "first_wrong": "label"}
NO_WRONG_STEP = -1


class LabelledBench(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of `eval/judge/`.

    `fields` says in which columns things are: `first_wrong` is the number of the first wrong step (from 0; -1: none), and steps
    after it are not judged; or `labels` has a label for each step, of which those in `wrong` say that it is wrong. A step may be
    a table of its text and its label. `closed`: the last step of a whole solution closes the thought. `sha256` is what the rows
    must be.
    """

    name: str
    title: str
    prompt: Literal["math"] = "math"
    source: Source = Source()
    fields: dict[Column, str] = {}
    wrong: tuple[bool | int | str, ...] = (False, -1, "-")
    closed: bool = False
    concurrency: Positive = 1
    sha256: str = ""

    def __post_init__(self) -> None:
        if {"labels", "first_wrong"} <= self.fields.keys():
            raise UsageError("fields.labels and fields.first_wrong: give one of them")

    def column(self, name: Column) -> str:
        return self.fields.get(name) or DEFAULTS[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledProblem:
    """A problem with the steps that are judged, and whether each is right. `closes`: the last of them ends the thought."""

    id: str
    problem: str
    steps: tuple[str, ...]
    right: tuple[bool, ...]
    closes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRows:
    """A bench's problems in order, and where they came from."""

    problems: list[LabelledProblem]
    origin: str
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", digest_of(self.problems))


def names() -> list[str]:
    """The benches that ship or that the user has put in `eval/judge/`."""
    return sorted(path.stem for path in find("eval/judge").glob("*.toml"))


def load(name: str) -> LabelledBench:
    """The bench `name`, or the file that a path ending in .toml names. Raises UsageError with the nearest names."""
    if name.endswith(".toml"):
        path = Path(name)
    elif name in (known := names()):
        path = find("eval/judge") / f"{name}.toml"
    else:
        raise UsageError(f"no judge bench named {name!r}{nearest(name, known)}")
    table = read_toml(path)
    with named(path):
        return typed(table, LabelledBench)


def rows(bench: LabelledBench, data: Path | None = None) -> LabelledRows:
    """The bench's problems: from `data`, else from $SPECREASON_DATA/<bench>.jsonl, else from its own source.

    One without steps is left out. Raises UsageError for what cannot be read (file:line), and where the bench's own rows are
    others than it says.
    """
    raw, origin = raw_rows(bench, data, GENERATORS)
    found = [problem for where, row in raw if (problem := _problem(bench, where, row)).steps]
    if not found:
        raise UsageError(f"{origin}: no problem with steps")
    seen: set[str] = set()
    for problem in found:
        if problem.id in seen:
            raise UsageError(f"{origin}: the id {problem.id!r} occurs twice")
        seen.add(problem.id)
    labelled = LabelledRows(problems=found, origin=origin)
    if bench.sha256 and bench.source.hub and data is None and labelled.sha256 != bench.sha256:
        raise UsageError(f"{origin}: these rows are not those of bench {bench.name} (sha256 {labelled.sha256[:12]})")
    return labelled


def _problem(bench: LabelledBench, where: str, row: Any) -> LabelledProblem:
    if not isinstance(row, dict):
        raise UsageError(f"{where}: a JSON object was expected")
    found = value_at(row, bench.column("id"))
    name = where.rsplit(":", 1)[-1] if found is None else found
    try:
        problem = typed(_given(bench, row, "problem"), str, bench.column("problem"))
        steps = [_step(item) for item in typed(_given(bench, row, "steps"), list[Any], bench.column("steps"))]
        texts, labels = [text for text, _ in steps], [label for _, label in steps]
        if not steps:
            right: tuple[bool, ...] = ()
        elif "labels" in bench.fields:
            labels = typed(_given(bench, row, "labels"), list[Any], bench.column("labels"))
            right = _of_labels(bench, texts, labels)
        elif any(label is not None for label in labels):
            right = _of_labels(bench, texts, labels)
        else:
            right = _up_to(typed(_given(bench, row, "first_wrong"), int, bench.column("first_wrong")), len(texts))
        if not problem.strip() or any(not text.strip() for text in texts):
            raise UsageError("an empty problem or step")
        row_id = str(typed(name, str | int, bench.column("id")))  # type: ignore[arg-type]
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    check_text(where, problem, *texts)
    whole = len(right) == len(texts) and all(right)
    return LabelledProblem(
        id=row_id, problem=problem, steps=tuple(texts[: len(right)]), right=right, closes=bench.closed and whole
    )


def _given(bench: LabelledBench, row: dict[str, Any], name: Column) -> Any:
    if (value := value_at(row, bench.column(name))) is None:
        raise UsageError(f"no {bench.column(name)!r} (the bench's {name}) in this row; it has {', '.join(row)}"[:300])
    return value


def _step(item: Any) -> tuple[str, Any]:
    """A step's text and its label, if that stands with it: as a text, as a table, or as PRM800K has it."""
    if isinstance(item, str):
        return item, None
    if isinstance(item, dict) and isinstance(item.get("completions"), list) and item["completions"]:
        chosen = item.get("chosen_completion")
        number = chosen if isinstance(chosen, int) and 0 <= chosen < len(item["completions"]) else 0
        by_hand = item.get("human_completion") if chosen is None else None
        item = by_hand if isinstance(by_hand, dict) else item["completions"][number]
        if isinstance(by_hand, dict) and item.get("rating") is None:  # what a person wrote in its place is right
            item = item | {"rating": 1}
    if isinstance(item, dict) and isinstance(text := item.get("text"), str):
        label = item.get("rating", item.get("label"))
        if label is None:
            raise Misfit("a step has no rating or label")
        return text, label
    raise Misfit("a step is neither a text nor a table of text and rating")


def _of_labels(bench: LabelledBench, texts: list[str], labels: list[Any]) -> tuple[bool, ...]:
    if len(labels) != len(texts):
        raise UsageError(f"{len(labels)} labels for {len(texts)} steps")
    for label in labels:
        typed(label, bool | int | str, "label")  # type: ignore[arg-type]
    return tuple(label not in bench.wrong for label in labels)


def _up_to(first_wrong: int, count: int) -> tuple[bool, ...]:
    """The steps up to the first wrong one; what comes after it is neither right nor wrong."""
    if not NO_WRONG_STEP <= first_wrong < count:
        raise UsageError(f"the first wrong step is {first_wrong}, and there are {count}, from 0")
    if first_wrong == NO_WRONG_STEP:
        return (True,) * count
    return (True,) * first_wrong + (False,)


def _demo(count: int) -> list[tuple[str, Any]]:
    """Problems of the `demo` bench, every other one with a wrong result in one of its steps."""
    return [(f"demo:{number}", row) for number, row in enumerate(_planted(count), 1)]


def _planted(count: int) -> Iterator[dict[str, Any]]:
    from sgl_specreason.demo.problems import problems, step_text

    for number, problem in enumerate(problems("test", count), 1):
        rng = random.Random(f"judge {problem.text}")
        steps, label = problem.solution, NO_WRONG_STEP
        if number % 2:
            label = rng.randrange(len(problem.ops))
            value, result = problem.values[label : label + 2]
            wrong = (result + rng.randint(1, 99)) % 100
            steps[label] = step_text(label + 1, problem.ops[label], value, wrong)
        yield {"id": f"demo-{number:03d}", "problem": problem.text, "steps": steps, "label": label}


GENERATORS: dict[str, Generator] = {"demo": _demo}
