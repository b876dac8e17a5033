"""Which folders a run is written to, and which ones it goes on with."""

import shutil
from pathlib import Path

import pytest
from command_line import invoke
from run_folders import answers, run_folder

from sgl_specreason.errors import RecordError, UsageError
from sgl_specreason.plan.checkpoints import BUNDLED
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


def trained(path: Path, weights: bytes) -> Path:
    """A copy of the bundled base with other numbers in its weights, as another training of it would leave."""
    shutil.copytree(BUNDLED / "base", path)
    model = path / "model.safetensors"
    model.write_bytes(model.read_bytes()[: -len(weights)] + weights)
    return path


def test_a_run_is_not_gone_on_with_by_another_checkpoint_of_the_same_name(tmp_path: Path) -> None:
    """Two trainings end in folders of one name: mixed, or compared as one, their numbers would be nobody's."""
    first, other = (trained(tmp_path / run / "base" / "final", run.encode() * 1000) for run in ("runA", "runB"))

    def of(base: Path) -> Plan:
        models = {"base_model": str(base), "small_model": str(BUNDLED / "small")}
        return resolve(Options(bench="demo", methods=("base",), policy={}, **models))  # type: ignore[arg-type]

    plan_of = {base: of(base) for base in (first, other)}
    (variant,) = plan_of[first].variants
    assert plan_of[first].name((variant,)) != plan_of[other].name((variant,))
    top, folders = folders_of(plan_of[first], tmp_path, None)
    settings = plan_of[first].settings(variant)
    run_folder(tmp_path / "told", answers(True), **settings)
    (tmp_path / "told" / "config.json").replace(top / "config.json")
    assert folders_of(of(first), tmp_path, top) == (top, folders)
    with pytest.raises(RecordError, match=rf"models.base: '{first}@\w+' then, '{other}@\w+' now"):
        folders_of(plan_of[other], tmp_path, top)


def test_the_report_names_models_that_differ(tmp_path: Path) -> None:
    runs = [
        run_folder(
            tmp_path / name, answers(True, False), method=method, models={"small": "s@1", "base": f"final@{name}"}
        )
        for name, method in (("a", "base"), ("b", "specreason"))
    ]
    result = invoke("report", *runs)
    assert result.exit_code == 2
    assert "models" in result.stderr
    assert "final@a" in result.stderr


def test_the_bundled_pairs_settings_know_no_machine() -> None:
    asked = plan(methods=("base",))
    assert str(BUNDLED.parent) not in str(asked.settings(asked.variants[0]))
