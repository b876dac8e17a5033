"""Owns how a run folder is made, held, written and gone on with (`../shared/design.md` fixes its shape). Knows no engines.

Each record is appended and flushed the moment it is there; whole files are replaced atomically; the summary comes last.
"""

import fcntl
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sgl_specreason.errors import RecordError, UsageError, WriteError
from sgl_specreason.results.lines import Finished, Outcome
from sgl_specreason.results.records import CONFIG, SUMMARY, TRAJECTORIES, Key, is_cut, outcome, read_config, with_lines

_HASH, TOLD = re.compile(r"[0-9a-f]{32,}"), 8
LONE_SURROGATES = "backslashreplace"
"""UTF-8 has no half pairs; inside a JSON string what this writes instead is the very escape for one."""


def fresh_folder(parent: Path, name: str) -> Path:
    """A new folder `parent`/`name`, with -2, -3, ... where that exists. Raises UsageError if it cannot be written."""
    number = 1
    while True:
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if parent.exists() and not parent.is_dir():
                raise UsageError(f"--out {parent}: is not a folder") from None
            number += 1
        except OSError as error:
            raise UsageError(f"--out {parent}: cannot be written: {error.strerror}") from None


def check_writable(parent: Path, option: str = "--out") -> None:
    """Raises UsageError if no folder can be made in `parent`; leaves nothing behind."""
    existing = next(path for path in [parent, *parent.absolute().parents] if os.path.exists(path))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {parent}: {existing} cannot be written")


def write_json(path: Path, content: Any) -> None:
    """Replaces `path` atomically."""
    text = json.dumps(strict(content), indent=1, ensure_ascii=False, default=str, allow_nan=False)
    write_text(path, text + "\n")


def strict(content: Any) -> Any:
    """`content` with null for what is not a number: JSON has no NaN."""
    if isinstance(content, dict):
        return {key: strict(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [strict(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_text(path: Path, text: str) -> None:
    """Replaces `path` atomically."""
    _write(path, [text.encode("utf-8", LONE_SURROGATES)])


def _write(path: Path, parts: Iterable[bytes]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)  # a link there must not lead the writing out of the folder
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from None


@dataclass(slots=True, kw_only=True)
class RunFolder:
    """One method's run on disk.

    `done` are the keys of the finished trajectories that it held; `outcomes` theirs, and those of all that ended since, also
    of failed ones. Where it is not `tidy`, what is to be dropped is still there: failed trajectories, and a `torn` last line.
    """

    path: Path
    outcomes: list[Outcome] = field(default_factory=list)
    done: set[Key] = field(default_factory=set)
    torn: bool = False
    tidy: bool = True

    @classmethod
    def open(cls, path: Path, config: dict[str, Any], *, resume: bool) -> "RunFolder":
        """Begins a run in `path`, or goes on with one. Raises what `found` and `begin` do."""
        run = cls.found(path) if resume else cls(path=path)
        run.begin(config)
        return run

    @classmethod
    def found(cls, path: Path) -> "RunFolder":
        """The run that stands in `path`, in one pass that changes nothing.

        Raises RecordError if a line other than a torn last one is malformed.
        """
        run, last = cls(path=path), b"\n"
        for line, record in with_lines(path):
            last = line
            if isinstance(record, Finished):
                run.done.add((record.problem_id, record.sample))
                run.outcomes.append(outcome(record))
            else:
                run.tidy = False
        if is_cut(path):
            run.torn, run.tidy = last.endswith(b"\n"), False
        return run

    def begin(self, config: dict[str, Any]) -> None:
        """Makes the folder, or drops what does not stay in it: failed trajectories run again, finished ones do not.

        Raises RecordError if the folder's settings differ (the keys are named).
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if (self.path / CONFIG).exists():
            check_settings(self.path, config["settings"])
        if not self.tidy:
            replace_lines(self.path, (line for line, _ in with_lines(self.path, self.done)))
            self.tidy = True
        (self.path / SUMMARY).unlink(missing_ok=True)
        write_json(self.path / CONFIG, config)

    def append(self, record: dict[str, Any]) -> None:
        """Writes one finished or failed trajectory; it is in the file when this returns.

        Raises WriteError where it cannot be; then the file ends with the record before.
        """
        append(self.path / TRAJECTORIES, record)


def append(path: Path, record: dict[str, Any]) -> None:
    """Writes one record at the end of a file; it is there when this returns.

    Raises WriteError where it cannot be; then the file ends with the record before.
    """
    line = line_of(record)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    end = os.fstat(file).st_size
    try:
        while line:
            line = line[os.write(file, line) :]
    except OSError as error:
        os.ftruncate(file, end)
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        os.close(file)


def without_texts(record: dict[str, Any]) -> dict[str, Any]:
    """A graded record of a private bench: what the models wrote may quote the problem, so only the letter chosen stays."""
    letter = record.get("answer")
    if letter is None or len(letter) != 1:
        letter = None
    steps = []
    for step in record.get("steps", ()):
        kept = step | {"text": ""}
        if "draft" in step:
            kept["draft"] = step["draft"] | {"text": ""}
        if "others" in step:
            kept["others"] = [other | {"text": ""} for other in step["others"]]
        steps.append(kept)
    answer_text = f"\\boxed{{{letter}}}" if letter else ""
    return (
        {key: value for key, value in record.items() if key not in ("problem", "choices")}
        | {"steps": steps, "answer_text": answer_text, "texts": "withheld"}
        | ({"answer": letter} if "answer" in record else {})
    )


def line_of(record: dict[str, Any]) -> bytes:
    """A record as it stands in the file."""
    return (json.dumps(record, ensure_ascii=False, default=str) + "\n").encode("utf-8", LONE_SURROGATES)


def replace_lines(path: Path, records: Iterable[bytes]) -> None:
    """Replaces the records of a run folder, atomically; they may be read from it meanwhile."""
    _write(path / TRAJECTORIES, (line.rstrip(b"\n") + b"\n" for line in records))


def rewrite_summary(path: Path, summary: dict[str, Any], table: str) -> None:
    """Replaces a run's summary and its table, the mark that it is over."""
    write_text(path / "summary.md", table)
    write_json(path / SUMMARY, summary)


@contextmanager
def held(*paths: Path) -> Iterator[None]:
    """Keeps every other process from writing runs in these folders, and in those that they are in as a run's parts.

    Raises RecordError where one does already.
    """
    own = {path.resolve(): path for path in paths}
    around = {path.parent: word for path, word in own.items() if path.parent not in own}
    with ExitStack() as stack:
        for path, word in [*own.items(), *around.items()]:
            try:
                folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                stack.callback(os.close, folder)
                fcntl.flock(folder, (fcntl.LOCK_EX if path in own else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RecordError(f"{word}: another process is writing this run") from None
            except OSError as error:
                if path in own:
                    raise RecordError(f"{word}: cannot be locked: {error.strerror}") from None
        yield


def check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Raises RecordError, naming the keys that differ, unless the run in `path` was begun with these settings."""
    if differing := differences(read_config(path / CONFIG)["settings"], settings):
        raise RecordError(
            f"{path}: was begun with other settings ({'; '.join(differing)}); give the same ones, or a new run"
        )


def differences(before: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """The settings in which a recorded run is not this one, in words."""
    now = json.loads(json.dumps(settings, default=str))
    return sorted(_differences(before, now))


def _differences(before: Any, now: Any, prefix: str = "") -> Iterable[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            yield from _differences(before.get(key), now.get(key), f"{prefix}.{key}" if prefix else key)
    elif before != now:
        yield f"{prefix}: {without_digits(repr(before))} then, {without_digits(repr(now))} now"


def without_digits(text: str) -> str:
    """`text` with no more of a hash in it than tells two apart."""
    return _HASH.sub(lambda found: found[0][:TOLD], text)
