"""Owns how a run folder is read: its config, its trajectories, the sweep that it is a part of. Knows nothing of writing one."""

import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from sgl_specreason.errors import RecordError
from sgl_specreason.results.lines import Failed, Finished, Outcome, Record
from sgl_specreason.results.schema import Config, Data, Policy, Sweep
from sgl_specreason.typed import Count, Misfit, typed

Key = tuple[str, int]
CONFIG, TRAJECTORIES, SUMMARY, SWEEP = "config.json", "trajectories.jsonl", "summary.json", "sweep.json"


class _Keyed(Data, frozen=True, kw_only=True):
    problem_id: str
    sample: Count


_decode, _decode_key = msgspec.json.Decoder(Finished).decode, msgspec.json.Decoder(_Keyed).decode


def trajectories(path: Path, only: Collection[Key] | None = None) -> Iterator[Record]:
    """The records of a run folder, one at a time, or `only` those with these keys.

    A torn last line is left out; raises RecordError (file:line) for any other bad one.
    """
    return (record for _, record in with_lines(path, only))


def outcome(record: Record) -> Outcome:
    """What the numbers need of a record."""
    return msgspec.convert(record, Outcome, from_attributes=True)


def with_lines(path: Path, only: Collection[Key] | None = None) -> Iterator[tuple[bytes, Record]]:
    """The records of a run folder with the lines that hold them, and more than is read.

    Where `only` some are asked for, of others no more than the key is read, and nothing after the last one.
    """
    file = path / TRAJECTORIES
    if not file.exists():
        return
    seen: set[Key] = set()
    with opened(file) as content:
        for number, line in enumerate(content, 1):
            if only is not None and len(seen) == len(only):
                return
            if not line.strip():
                continue
            try:
                if only is not None and _key(line) not in only:
                    continue
                record = _read(line)
            except Misfit as error:
                if not line.endswith(b"\n"):
                    return
                raise RecordError(f"{file}:{number}: not a trajectory's record: {error}") from None
            key = record.problem_id, record.sample
            if key in seen:
                raise RecordError(f"{file}:{number}: problem {key[0]}, sample {key[1]} occurs twice")
            seen.add(key)
            yield line, record


def _read(line: bytes) -> Record:
    """What is read of a line. Raises Misfit."""
    if b'"error"' not in line:
        try:
            return _decode(line.decode())
        except (ValueError, RecursionError):
            pass  # msgspec knows no half pairs of surrogates, which a record may hold; or it is the line that is wrong
    return record_of(whole(line))


def _key(line: bytes) -> Key:
    """Raises Misfit."""
    try:
        found = _decode_key(line)
    except (ValueError, RecursionError):
        found = typed(whole(line), _Keyed)
    return found.problem_id, found.sample


def record_of(data: Any) -> Record:
    """What is read of a record. Raises Misfit, which names the place."""
    return typed(data, Failed) if isinstance(data, dict) and "error" in data else typed(data, Finished)


def whole(line: bytes) -> Any:
    """Everything in a line. Raises Misfit where it is no JSON."""
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError):
        raise Misfit("no JSON") from None


def opened(file: Path) -> BinaryIO:
    """A file of a run folder, which it must not leave. Raises RecordError."""
    if not file.resolve().is_relative_to(file.parent.resolve()):
        raise RecordError(f"{file}: leads out of its run folder")
    try:
        return file.open("rb")
    except OSError as error:
        raise RecordError(f"{file}: cannot be read: {error.strerror}") from None


def is_cut(path: Path) -> bool:
    """Whether the last line of its records does not end: all of it may be there but for that, or not."""
    file = path / TRAJECTORIES
    if not file.exists() or not file.stat().st_size:
        return False
    with file.open("rb") as content:
        content.seek(-1, os.SEEK_END)
        return content.read() != b"\n"


def begun_runs(top: Path) -> dict[Path, Config]:
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
            found[file.parent] = _config(file)
    if not found:
        raise RecordError(f"{top}: not a run folder")
    return found


def _config(file: Path) -> Config:
    try:
        config = typed(read_config(file), Config)
        typed(config.settings.policy, Policy, "settings.policy")
    except Misfit as error:
        raise RecordError(f"{file}: not a run's config: {error}") from None
    return config


def read_config(file: Path) -> dict[str, Any]:
    """Everything in a run's config. Raises RecordError for a file that is none."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("settings"), dict):
        raise RecordError(f"{file}: not a run's config")
    return config


def swept(top: Path) -> frozenset[str]:
    """The settings that the sweep in `top` varies; none where it is no sweep. Raises RecordError for a damaged file."""
    file = top / SWEEP
    if not file.exists():
        return frozenset()
    try:
        with opened(file) as content:
            sweep = typed(whole(content.read()), Sweep)
        return frozenset([*sweep.grid, *(key for point in sweep.points for key in point)])
    except (OSError, Misfit) as error:
        raise RecordError(f"{file}: not a sweep: {error}") from None
