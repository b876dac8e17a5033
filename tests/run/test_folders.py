"""Which folders a run is written to, and which ones it goes on with."""

from pathlib import Path

import pytest

from sgl_specreason.errors import RecordError, UsageError
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.plan import Plan
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.run.folders import folders_of, settled


def plan(**changes: object) -> Plan:
    return resolve(Options(bench="demo", pair="demo", policy={}, **changes))  # type: ignore[arg-type]


def test_a_run_that_was_ended_while_its_engines_started_can_be_gone_on_with(tmp_path: Path) -> None:
    """Its folder holds no config yet, so nothing that could differ; its name says which settings it is of."""
    asked = plan(concurrency="auto")
    top, folders = folders_of(asked, tmp_path, None)
    (top / "logs").mkdir()
    assert settled(asked, top) == (asked, {})
    assert folders_of(asked, tmp_path, top) == (top, folders)
    with pytest.raises(RecordError, match="not a run folder"):
        folders_of(plan(seed=1), tmp_path, top)


def test_some_other_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="not a run folder"):
        folders_of(plan(), tmp_path, tmp_path)
    with pytest.raises(UsageError, match="no such run folder"):
        folders_of(plan(), tmp_path, tmp_path / "nowhere")
