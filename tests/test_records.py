"""The run folder: what is kept, dropped and refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from sgl_specreason.errors import RecordError, UsageError
from sgl_specreason.records import RunFolder, check_writable, digest, fresh_folder, trajectories, write_json

CONFIG: dict[str, Any] = {"settings": {"seed": 1, "policy": {"threshold": 7.0}}}


def record(number: int, **more: Any) -> dict[str, Any]:
    return {"problem_id": f"p{number}", "sample": 0, "text": "é\n\u2028", **more}


def begun(path: Path) -> RunFolder:
    folder = RunFolder.open(path, CONFIG, resume=False)
    for number in range(3):
        folder.append(record(number))
    return folder


def test_records_are_on_disk_before_the_run_ends(tmp_path: Path) -> None:
    begun(tmp_path)
    assert [r["problem_id"] for r in list(trajectories(tmp_path))] == ["p0", "p1", "p2"]
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG
    assert not (tmp_path / "summary.json").exists()


def test_resuming_keeps_finished_ones_and_runs_failed_ones_again(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    folder.append(record(3, error="base: gone"))
    again = RunFolder.open(tmp_path, CONFIG, resume=True)
    assert again.done == {("p0", 0), ("p1", 0), ("p2", 0)}
    again.append(record(3))
    assert [r["problem_id"] for r in list(trajectories(tmp_path))] == ["p0", "p1", "p2", "p3"]


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    begun(tmp_path)
    file = tmp_path / "trajectories.jsonl"
    file.write_bytes(file.read_bytes() + b'{"problem_id": "p9", "sam')
    assert RunFolder.open(tmp_path, CONFIG, resume=True).done == {("p0", 0), ("p1", 0), ("p2", 0)}
    assert len(list(trajectories(tmp_path))) == 3


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"sample": 0}', b"\xff\xfe"])
def test_a_malformed_line_elsewhere_is_named(tmp_path: Path, line: bytes) -> None:
    begun(tmp_path)
    file = tmp_path / "trajectories.jsonl"
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([lines[0], line, *lines[1:]]))
    with pytest.raises(RecordError, match=r"trajectories\.jsonl:2"):
        list(trajectories(tmp_path))


def test_a_problem_written_twice_is_an_error(tmp_path: Path) -> None:
    begun(tmp_path).append(record(1))
    with pytest.raises(RecordError, match="p1, sample 0 occurs twice"):
        list(trajectories(tmp_path))


def test_other_settings_are_refused_and_the_keys_named(tmp_path: Path) -> None:
    begun(tmp_path)
    other = {"settings": {"seed": 1, "policy": {"threshold": 5.0}}}
    with pytest.raises(RecordError, match=r"policy\.threshold: 7\.0 then, 5\.0 now"):
        RunFolder.open(tmp_path, other, resume=True)
    assert len(list(trajectories(tmp_path))) == 3


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    names = [fresh_folder(tmp_path / "runs", "demo").name for _ in range(3)]
    assert names == ["demo", "demo-2", "demo-3"]


def test_a_place_that_cannot_hold_a_folder_is_a_usage_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UsageError, match="--out"):
        check_writable(file / "runs")
    with pytest.raises(UsageError, match="--out"):
        fresh_folder(file, "demo")


def test_json_has_null_for_what_is_not_a_number(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [float("nan"), 1.5], "b": float("inf")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [None, 1.5], "b": None}


def test_the_digest_depends_on_values_and_not_on_order() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
