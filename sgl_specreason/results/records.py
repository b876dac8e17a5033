"""Owns the run folder: config, trajectories, summary (`../shared/design.md` fixes its shape). Knows nothing of engines.

Each record is appended and flushed the moment it is there; whole files are replaced atomically; the summary comes last.
"""

import fcntl
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sgl_specreason.errors import RecordError, UsageError, WriteError
from sgl_specreason.results import schema
from sgl_specreason.shapes import flaw

Key = tuple[str, int]
LONE_SURROGATES = "backslashreplace"
"""UTF-8 has no half pairs; inside a JSON string what this writes instead is the very escape for one."""
CONFIG, TRAJECTORIES, SUMMARY, SWEEP = "config.json", "trajectories.jsonl", "summary.json", "sweep.json"


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


def check_writable(parent: Path) -> None:
    """Raises UsageError if no folder can be made in `parent`; leaves nothing behind."""
    existing = next(path for path in [parent, *parent.absolute().parents] if os.path.exists(path))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"--out {parent}: {existing} cannot be written")


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
    _write(path, [text])


def _write(path: Path, parts: Iterable[str]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)  # a link there must not lead the writing out of the folder
        with temporary.open("w", encoding="utf-8", errors=LONE_SURROGATES) as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from None


def key_of(record: dict[str, Any]) -> Key:
    return str(record["problem_id"]), int(record["sample"])


@dataclass(slots=True, kw_only=True)
class RunFolder:
    """One method's run on disk. `done` holds the keys of its finished trajectories, `torn` whether a torn line was dropped."""

    path: Path
    done: set[Key]
    torn: bool = False

    @classmethod
    def open(cls, path: Path, config: dict[str, Any], *, resume: bool) -> "RunFolder":
        """Begins a run in `path`, or goes on with one.

        Going on keeps finished trajectories and drops failed ones, to be run again. Raises RecordError if the folder's
        settings differ (the keys are named) or a line other than a torn last one is malformed.
        """
        path.mkdir(parents=True, exist_ok=True)
        done: set[Key] = set()
        torn = False

        def finished() -> Iterator[dict[str, Any]]:
            for record in trajectories(path):
                if "error" not in record:
                    done.add(key_of(record))
                    yield record

        if resume and (path / CONFIG).exists():
            check_settings(path, config["settings"])
            torn = _is_torn(path / TRAJECTORIES)
            write_trajectories(path, finished())
        (path / SUMMARY).unlink(missing_ok=True)
        write_json(path / CONFIG, config)
        return cls(path=path, done=done, torn=torn)

    def append(self, record: dict[str, Any]) -> None:
        """Writes one finished or failed trajectory; it is in the file when this returns.

        Raises WriteError where it cannot be; then the file ends with the record before.
        """
        line = (json.dumps(record, ensure_ascii=False, default=str) + "\n").encode("utf-8", LONE_SURROGATES)
        file = os.open(self.path / TRAJECTORIES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        end = os.fstat(file).st_size
        try:
            while line:
                line = line[os.write(file, line) :]
        except OSError as error:
            os.ftruncate(file, end)
            raise WriteError(f"{self.path / TRAJECTORIES}: cannot be written: {error.strerror}") from None
        finally:
            os.close(file)


def without_texts(record: dict[str, Any]) -> dict[str, Any]:
    """A graded record of a private bench: what the models wrote may quote the problem, so only the letter chosen stays."""
    letter = record.get("answer")
    if letter is None or len(letter) != 1:
        letter = None
    steps = []
    for step in record["steps"]:
        kept = step | {"text": ""}
        if "draft" in step:
            kept["draft"] = step["draft"] | {"text": ""}
        if "others" in step:
            kept["others"] = [other | {"text": ""} for other in step["others"]]
        steps.append(kept)
    answer_text = f"\\boxed{{{letter}}}" if letter else ""
    return (
        record
        | {"steps": steps, "answer_text": answer_text, "texts": "withheld"}
        | ({"answer": letter} if "answer" in record else {})
    )


def write_trajectories(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Replaces the records of a run folder, atomically; they may be read from it meanwhile."""
    _write(path / TRAJECTORIES, (json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def rewrite_summary(path: Path, summary: dict[str, Any], table: str) -> None:
    """Replaces a run's summary and its table, the mark that it is over."""
    write_text(path / "summary.md", table)
    write_json(path / SUMMARY, summary)


def trajectories(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a run folder, one at a time.

    A torn last line is left out; raises RecordError (file:line) for any other bad one.
    """
    file = path / TRAJECTORIES
    if not file.exists():
        return
    seen: set[Key] = set()
    with _opened(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            record, wrong = _parsed(line)
            if wrong is not None:
                if not line.endswith(b"\n"):
                    return
                raise RecordError(f"{file}:{number}: not a trajectory's record: {wrong}")
            key = key_of(record)
            if key in seen:
                raise RecordError(f"{file}:{number}: problem {key[0]}, sample {key[1]} occurs twice")
            seen.add(key)
            yield record


def _opened(file: Path) -> BinaryIO:
    """A file of a run folder, which it must not leave. Raises RecordError."""
    if not file.resolve().is_relative_to(file.parent.resolve()):
        raise RecordError(f"{file}: leads out of its run folder")
    try:
        return file.open("rb")
    except OSError as error:
        raise RecordError(f"{file}: cannot be read: {error.strerror}") from None


def _parsed(line: bytes) -> tuple[Any, str | None]:
    """A line as a record, and what keeps it from being one."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None, "no JSON"
    failed = isinstance(record, dict) and "error" in record
    return record, flaw(record, schema.Failed if failed else schema.Finished)


def _is_torn(file: Path) -> bool:
    """Whether its last line was cut off in writing."""
    if not file.exists() or not file.stat().st_size:
        return False
    with file.open("rb") as lines:
        lines.seek(-1, os.SEEK_END)
        return lines.read() != b"\n"


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Keeps every other process from writing runs in the folder `path`. Raises RecordError where one does already."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        raise RecordError(f"{path}: another process is writing this run") from None
    try:
        yield
    finally:
        os.close(folder)


def begun_runs(top: Path) -> dict[Path, dict[str, Any]]:
    """The run folders that `top` is or holds, each with its config.

    Raises RecordError for a config that is none or lacks something, for a folder that is somewhere else (a link), and where there
    is no run folder at all.
    """
    if not os.path.isdir(top):
        raise RecordError(f"{top}: not a run folder: there is no such folder")
    found = {}
    for file in [top / CONFIG, *sorted(top.glob(f"*/{CONFIG}"))]:
        if file.exists():
            if not file.resolve().is_relative_to(top.resolve()):
                raise RecordError(f"{file.parent}: leads out of {top}; give the folder that it leads to")
            config = found[file.parent] = read_config(file)
            if wrong := flaw(config, schema.Config):
                raise RecordError(f"{file}: not a run's config: {wrong}")
    if not found:
        raise RecordError(f"{top}: not a run folder")
    return found


def swept(top: Path) -> dict[str, Any]:
    """The settings that the sweep in `top` varies; none where it is no sweep. Raises RecordError for a damaged file."""
    file = top / SWEEP
    if not file.exists():
        return {}
    try:
        with _opened(file) as content:
            sweep = json.load(content)
    except (OSError, ValueError, RecursionError):
        sweep = None
    if wrong := flaw(sweep, schema.Sweep):
        raise RecordError(f"{file}: not a sweep: {wrong}")
    return dict(sweep["grid"])


def read_config(file: Path) -> dict[str, Any]:
    """A run's config. Raises RecordError for a file that is none."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("settings"), dict):
        raise RecordError(f"{file}: not a run's config")
    return config


def check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Raises RecordError, naming the keys that differ, unless the run in `path` was begun with these settings."""
    if differing := differences(path, settings):
        raise RecordError(
            f"{path}: was begun with other settings ({'; '.join(differing)}); give the same ones, or a new run"
        )


def differences(path: Path, settings: dict[str, Any]) -> list[str]:
    """The settings in which the run in `path` is not this one, in words."""
    before = read_config(path / CONFIG)["settings"]
    now = json.loads(json.dumps(settings, default=str))
    return sorted(_differences(before, now))


def _differences(before: Any, now: Any, prefix: str = "") -> Iterable[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            yield from _differences(before.get(key), now.get(key), f"{prefix}.{key}" if prefix else key)
    elif before != now:
        yield f"{prefix}: {before!r} then, {now!r} now"
