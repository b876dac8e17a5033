"""Which folders a run is written to, and which ones it goes on with."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import invoke
from run_folders import answers, run_folder

from sgl_specreason.errors import RecordError, UsageError
from sgl_specreason.plan.checkpoints import BUNDLED
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.plan import Plan
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.results.origin import Origin
from sgl_specreason.run.folders import folders_to_go_on_with, new_folders, settled


def plan(**changes: object) -> Plan:
    return resolve(Options(bench="demo", pair="demo", policy={}, **changes))  # type: ignore[arg-type]


BEGUN = Origin(command="eval", options={"bench": "demo"})


def test_a_run_that_was_ended_while_its_engines_started_can_be_gone_on_with(tmp_path: Path) -> None:
    """Its folder holds no config yet, and says itself what it is to hold."""
    asked = plan(concurrency="auto")
    top, folders = new_folders(asked, tmp_path, BEGUN)
    (top / "logs").mkdir()
    assert settled(asked, top) == (asked, {})
    assert folders_to_go_on_with(asked, top, BEGUN) == folders
    with pytest.raises(RecordError, match=r"other settings \(seed: 0 then, 1 now\)"):
        folders_to_go_on_with(plan(concurrency="auto", seed=1), top, BEGUN)


def test_some_other_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="not a run folder"):
        folders_to_go_on_with(plan(), tmp_path, BEGUN)
    with pytest.raises(UsageError, match="no such run folder"):
        folders_to_go_on_with(plan(), tmp_path / "nowhere", BEGUN)


@pytest.mark.parametrize("fresh", [True, False])
def test_other_methods_than_those_of_the_run_are_refused(tmp_path: Path, fresh: bool) -> None:
    """Issue 18: small was run into a folder of two methods, and the original command was refused afterwards."""
    two = plan(methods=("base", "specreason"))
    top, folders = new_folders(two, tmp_path, BEGUN)
    for variant, path in folders.items():
        run_folder(path, answers(True), **two.settings(variant))
    if not fresh:
        (top / "command.json").unlink()  # as an older version left it
    assert folders_to_go_on_with(two, top, BEGUN) == folders
    for methods, now in (((), "base, small, specreason"), (("base",), "base")):
        with pytest.raises(RecordError, match=rf"\(method: base, specreason then, {now} now\)"):
            folders_to_go_on_with(plan(methods=methods), top, BEGUN)


def test_a_sweep_with_other_points_is_refused(tmp_path: Path) -> None:
    sweep = tmp_path / "mine.toml"
    text = 'title = "two"\nmethods = ["specreason"]\n[grid]\nthreshold = '
    sweep.write_text(f"{text}[3, 5, 7]")
    three = plan(sweep=str(sweep))
    top, folders = new_folders(three, tmp_path / "runs", BEGUN)
    assert folders_to_go_on_with(plan(sweep=str(sweep)), top, BEGUN) == folders
    sweep.write_text(f"{text}[3, 5]")
    with pytest.raises(RecordError, match="method: 3 x specreason then, 2 x specreason now"):
        folders_to_go_on_with(plan(sweep=str(sweep)), top, BEGUN)
    sweep.write_text(f"{text}[3, 5, 8]")
    with pytest.raises(RecordError, match=r"policy\.threshold: 7 then, [358] now"):
        folders_to_go_on_with(plan(sweep=str(sweep)), top, BEGUN)


def test_a_folders_name_tells_the_settings_and_the_served_models(tmp_path: Path) -> None:
    """Issue 18: `...-attached-68082546`, and digests for the points of a sweep."""
    sweep = plan(sweep="threshold")
    names = [sweep.name((variant,)) for variant in sweep.variants]
    assert [name.rpartition("-")[0] for name in names[:4]] == [
        "demo-base-demo",
        "demo-small-demo",
        "demo-specreason-threshold-0-demo",
        "demo-specreason-threshold-1-demo",
    ]
    assert sweep.name(sweep.variants).startswith("demo-sweep-threshold-demo-")
    asked = Options(
        bench="demo",
        methods=("specreason",),
        base_url="http://b",
        small_url="http://s",
        policy={"threshold": 6.0, "salvage_floor": -2.5, "gate": "judge"},
    )
    served = replace(
        resolve(asked),
        models={"base": "/hub/models--org--Big-8B/snapshots/0123abc", "small": "org/small model"},
    )
    name = served.name(served.variants)
    assert name.startswith("demo-specreason-threshold-6-salvage_floor--2.5-Big-8B+small_model-")
    many = {"judge": "score+likelihood", "score_rule": "expected", "threshold": 6.5, "first_n": 3, "step_tokens": 100}
    long = resolve(Options(bench="demo", pair="demo", methods=("specreason",), policy=many))
    assert len(long.name(long.variants)) < 100


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
    top, folders = new_folders(plan_of[first], tmp_path, BEGUN)
    settings = plan_of[first].settings(variant)
    run_folder(tmp_path / "told", answers(True), **settings)
    (tmp_path / "told" / "config.json").replace(top / "config.json")
    assert folders_to_go_on_with(of(first), top, BEGUN) == folders
    with pytest.raises(RecordError, match=rf"models.base: '{first}@\w+' then, '{other}@\w+' now"):
        folders_to_go_on_with(plan_of[other], top, BEGUN)


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
