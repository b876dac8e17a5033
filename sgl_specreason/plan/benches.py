"""Owns the rows of a bench: from a file, from the hub, or from a generator. Knows nothing of models or grading."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sgl_specreason.errors import UsageError
from sgl_specreason.plan import choices
from sgl_specreason.plan.catalog import Bench, Field, Source
from sgl_specreason.text import hub
from sgl_specreason.typed import Misfit, typed
from sgl_specreason.words import counted

DATA_VARIABLE = "SPECREASON_DATA"
Generator = Callable[[int], list[tuple[str, Any]]]


class Sourced(Protocol):
    """A bench of any kind."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> Source: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One problem: its id within the bench, its text, the gold answer, and what else its prompt template is given.

    Of a multiple-choice problem, `choices` is the list as it is shown, `answer` its right letter, and `permutation` says
    which of the source's choices (0: the right one) stands at each letter, where they were shuffled.
    """

    id: str
    problem: str
    answer: str
    choices: str | None = None
    permutation: tuple[int, ...] | None = None

    def values(self) -> dict[str, str]:
        """The placeholders of a prompt template."""
        return {"problem": self.problem} | ({"choices": self.choices} if self.choices is not None else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A bench's problems in order, and where they came from."""

    rows: list[Row]
    origin: str
    sha256: str = field(init=False)
    """A hash of the rows' contents, so that two runs can be shown to have had the same problems."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", digest_of(self.rows))


def digest_of(rows: Iterable[Any]) -> str:
    """The sha256 of what is read of these rows, dataclasses, in their order."""
    text = "\n".join(json.dumps(asdict(row), sort_keys=True) for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()


def load_rows(bench: Bench, data: Path | None = None) -> Rows:
    """The bench's rows: from `data`, else from $SPECREASON_DATA/<bench>.jsonl, else from its own source.

    Raises UsageError for a missing file, a malformed line (file:line), a missing column or a repeated id.
    """
    raw, origin = raw_rows(bench, data, GENERATORS)
    rows = [_row(bench, where, item) for where, item in raw]
    if not rows:
        raise UsageError(f"{origin}: no rows")
    seen: set[str] = set()
    for (where, _), row in zip(raw, rows, strict=True):
        check_text(where, row.id, row.problem, row.answer, row.choices or "")
        if row.id in seen:
            raise UsageError(f"{where}: the id {row.id!r} occurs twice")
        seen.add(row.id)
    return Rows(rows=rows, origin=origin)


def check_text(where: str, *texts: str) -> None:
    """Raises UsageError for half of a surrogate pair, which JSON can escape and nothing can send."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: {error.object[error.start]!r} in this row is no text") from None


def raw_rows(
    bench: Sourced, data: Path | None, generators: Mapping[str, Generator]
) -> tuple[list[tuple[str, Any]], str]:
    """The rows as they stand, each with its place, and where they came from; looked for as `load_rows` says."""
    folder = os.environ.get(DATA_VARIABLE)
    if data is None and folder and (path := Path(folder) / f"{bench.name}.jsonl").is_file():
        data = path
    if data is not None:
        return read_jsonl(data), str(data)
    source = bench.source
    if source.generator:
        if source.generator not in generators:
            raise UsageError(
                f"bench {bench.name}: no generator {source.generator!r}; there are {', '.join(generators)}"
            )
        return generators[source.generator](source.rows or 200), "generated"
    if source.hub:
        return read_hub(bench), f"hub {source.hub} at {source.revision or 'its newest revision'}"
    raise UsageError(f"bench {bench.name} has no source; give its rows with --data FILE.jsonl")


def _row(bench: Bench, where: str, item: Any) -> Row:
    if not isinstance(item, dict):
        raise UsageError(f"{where}: a JSON object was expected")
    row_id, problem = _field(bench, where, item, "id"), _field(bench, where, item, "problem")
    if "choices" not in bench.fields:
        row = Row(id=row_id, problem=problem, answer=_field(bench, where, item, "answer"))
        if "wrong" not in bench.fields:
            return row
        wrong = [_text(where, item, column, "wrong choice") for column in bench.columns("wrong")]
        found = choices.of_right_and_wrong(problem, row.answer, wrong)
    else:
        try:
            column = _column(bench, item, "answer")
            if (answer := value_at(item, column)) is None:
                raise UsageError(f"no {column!r} (the bench's answer) in this row{_has(item, column)}")
            found = choices.of_list(_listed(bench, item), answer, first=bench.choices_from)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
    return Row(id=row_id, problem=problem, answer=found.letter, choices=found.lines, permutation=found.permutation)


def _listed(bench: Bench, item: dict[str, Any]) -> choices.Listed:
    """The choices of a row: in one column, or in several, whose names are then their labels."""
    columns = bench.columns("choices")
    if len(columns) > 1:
        return choices.listed({column: value_at(item, column) for column in columns}, "choices")
    if (value := value_at(item, columns[0])) is None:
        raise UsageError(f"no {columns[0]!r} (the bench's choices) in this row{_has(item, columns[0])}")
    return choices.listed(value, columns[0])


def _has(item: dict[str, Any], column: str) -> str:
    """The columns of a row that lacks this one."""
    return "" if column in item else f"; it has {', '.join(map(str, item))}"[:200]


def _column(bench: Bench, item: dict[str, Any], name: Field) -> str:
    """The first of the field's columns that this row has."""
    columns = bench.columns(name)
    return next((column for column in columns if value_at(item, column) is not None), columns[0])


def value_at(item: dict[str, Any], column: str) -> Any:
    """What stands in a column; a name with dots leads into tables, as "question.stem"."""
    found: Any = item
    for key in [column] if column in item else column.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _field(bench: Bench, where: str, item: dict[str, Any], name: Field) -> str:
    """What a row has in this field; a row without an id is known by its number."""
    column = _column(bench, item, name)
    if name == "id" and value_at(item, column) is None:
        return where.rsplit(":", 1)[-1]
    return _text(where, item, column, name)


def _text(where: str, item: dict[str, Any], column: str, what: str) -> str:
    value = value_at(item, column)
    if value is None or value == "" or str(value).isspace():
        raise UsageError(f"{where}: no {column!r} (the bench's {what}) in this row{_has(item, column)}")
    if what == "answer" and isinstance(value, float) and math.isfinite(value):
        value = int(value) if value.is_integer() else str(value)
    try:
        return str(typed(value, str | int, column))  # type: ignore[arg-type]
    except Misfit as misfit:
        raise UsageError(f"{where}: {misfit} (the bench's {what})") from None


def read_jsonl(path: Path) -> list[tuple[str, Any]]:
    import jsonlines

    rows: list[tuple[str, Any]] = []
    number = 0

    def lines(file: Iterable[str]) -> Iterator[str]:
        nonlocal number
        for number, line in enumerate(file, 1):  # noqa: B007
            yield line

    try:
        with path.open(encoding="utf-8-sig") as file:
            for row in jsonlines.Reader(lines(file), loads=json.loads).iter(skip_empty=True):
                rows.append((f"{path}:{number}", row))
    except (jsonlines.InvalidLineError, RecursionError) as error:
        words = "nested too deep" if isinstance(error, RecursionError) else error.args[0]
        raise UsageError(f"{path}:{number}: not a JSON line: {words}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    return rows


def read_hub(bench: Sourced) -> list[tuple[str, Any]]:
    trouble = hub.trouble()
    import datasets

    source = bench.source
    rows: list[Any] = []
    try:
        for config in source.configs or (None,):
            rows += datasets.load_dataset(source.hub, config, split=source.split, revision=source.revision)
    except Exception as error:  # the library raises many kinds, all of which mean: not to be had
        if source.gated and _is_refusal(error):
            raise UsageError(
                f"bench {bench.name}: {source.hub} is gated. 1. Log in on the hub and accept the set's terms on its page. "
                "2. Make a read token in your settings there. 3. Give it with `hf auth login` or in $HF_TOKEN."
            ) from None
        if trouble:
            raise UsageError(
                f"bench {bench.name}: {source.hub} is not on this machine, {trouble}; give the rows with --data FILE.jsonl"
            ) from None
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        raise UsageError(
            f"bench {bench.name}: {source.hub} cannot be loaded from the hub ({type(error).__name__}: {first}); "
            "give the rows with --data FILE.jsonl"
        ) from None
    if source.rows is not None and len(rows) != source.rows:
        raise UsageError(f"{source.hub}: {counted(len(rows), 'row')}, {source.rows} were expected")
    return [(f"{source.hub}:{number}", dict(row)) for number, row in enumerate(rows, 1)]


def _is_refusal(error: BaseException | None) -> bool:
    """Whether the hub said 401 or 403, directly or in what caused this error."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403) or "gated" in f"{type(error).__name__} {error}".lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def _demo(count: int) -> list[tuple[str, Any]]:
    from sgl_specreason.demo.problems import problems

    return [
        (f"demo:{number}", {"id": f"demo-{number:03d}", "problem": p.text, "answer": p.answer})
        for number, p in enumerate(problems("test", count), 1)
    ]


GENERATORS: dict[str, Generator] = {"demo": _demo}
