"""The table in a terminal: its width, its names, what is said only where there is something to say."""

import json
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from command_line import invoke
from run_folders import answers, record, run_folder, settings

from sgl_specreason.results import labels
from sgl_specreason.results.layout import WIDTH, Table
from sgl_specreason.results.records import CONFIG
from sgl_specreason.results.summary import load_runs
from sgl_specreason.results.table import SHORT, SHORT_OF_REPLAYS, WIDE, WIDE_OF_REPLAYS

METHODS = ("base", "small", "specreason", "random", "always")


def told(path: Path, **more: Any) -> Path:
    """The run with this in its config."""
    file = path / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    return path


def table_of(printed: str) -> list[str]:
    return printed.partition("\n\n")[0].splitlines()


def comparison(top: Path, *, failing: bool = False, **changes: Any) -> Path:
    failed = {"problem_id": "one that failed", "sample": 0, "error": "base: gone", "latency_s": 20.0}
    for number, method in enumerate(METHODS):
        own = [
            one | {"latency_s": 1234.5 + number + at % 7, "truncated": failing}
            for at, one in enumerate(answers(*[True, False] * 60))
        ]
        run_folder(top / method, [*own, *[failed] * failing], method=method, **changes)
    return top


@pytest.mark.parametrize("failing", [False, True])
def test_the_table_has_at_most_100_characters_and_all_with_wide(tmp_path: Path, failing: bool) -> None:
    """Issue 18: 194 characters and 15 columns wrapped everywhere."""
    done = invoke("report", comparison(tmp_path / "top", failing=failing))
    table = table_of(done.stdout)
    assert max(map(len, table)) <= WIDTH
    titles = ["method", "n", "accuracy %", "vs base", "mean s", "speed-up", "by small", "truncated", "failed"]
    assert [title for title in titles if title in table[0]] == (titles if failing else titles[:-2])
    notes = [line for line in done.stdout.partition("\nNext:")[0].splitlines() if " " in line.strip()]
    assert max(map(len, notes)) <= WIDTH
    wide = table_of(invoke("report", "--wide", tmp_path / "top").stdout)
    assert max(map(len, wide)) > WIDTH
    for title in ("no answer %", "p95 s", "think base", "cached %", "discarded", "failed", "vs base (95 %)"):
        assert title in wide[0]
    assert "| no answer % |" in (tmp_path / "top" / "summary.md").read_text()


def test_every_heading_is_explained() -> None:
    """Issue 18: the headings were explained nowhere."""
    page = (ROOT / "docs" / "runs.md").read_text()
    titles = {
        title.removesuffix(" (95 %)")
        for columns in (SHORT, WIDE, SHORT_OF_REPLAYS, WIDE_OF_REPLAYS)
        for _, title in columns
    }
    assert {title for title in titles if f"`{title}`" not in page} == set()


@pytest.mark.parametrize("width", [30, 40, 60, 100])
def test_names_are_folded_and_never_cut(width: int) -> None:
    rows = [
        ["method", "n", "accuracy %"],
        ["base", "20", "99.0"],
        ["specreason threshold=7 eager_regenerate=True", "20", "1.0"],
    ]
    lines = table_of(Table(rows=rows, notes=[], width=width).text())
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert {"specreason", "threshold=7", "eager_regenerate=True"} <= set(words)
    assert len({line.rindex("0") for line in lines[1:] if line.endswith("0")}) == 1, "not aligned"


def test_what_to_do_next_can_be_pasted(tmp_path: Path) -> None:
    top = tmp_path / "a run"
    comparison(top)
    commands = invoke("report", top).stdout.partition("\nNext:\n")[2].splitlines()
    assert [line.split()[:3] for line in commands] == [
        ["specreason", "report", "--show"],
        ["specreason", "report", "--html"],
        ["specreason", "plot", "pareto"],
    ]
    assert f"'{top}'" in commands[0]
    assert commands[0].endswith(" p0")


def test_what_was_compared_by_force_is_drawn_by_force(tmp_path: Path) -> None:
    """And the refusal says what differs, not only in which key."""
    runs = [run_folder(tmp_path / str(seed), answers(True, False, True, True), seed=seed) for seed in (1, 2)]
    refused = invoke("report", *runs)
    assert refused.stderr == (
        "error: these runs do not compare: seed: 1 | 2; --force shows them together all the same\n"
    )
    commands = invoke("report", "--force", *runs).stdout.partition("\nNext:\n")[2].splitlines()
    assert [line.endswith(" --force") for line in commands] == [False, True, True]


def test_a_partial_run_is_told_how_it_goes_on(tmp_path: Path) -> None:
    top = run_folder(tmp_path / "run", answers(True, True))
    assert f"Next:\n  specreason eval --resume {top}\n" in invoke("report", top).stdout


@pytest.mark.parametrize("several", [False, True])
def test_settings_that_are_not_the_presets_are_told(tmp_path: Path, several: bool) -> None:
    """Issue 18: in the table, the summary and the page."""
    top, own = tmp_path / "top", {"budget_tokens": 256}
    told(run_folder(top / "s", answers(True, True)), changed=own | {"threshold": 6.0, "salvage": True})
    if several:
        told(run_folder(top / "b", answers(True, True), method="base"), changed=own)
    shown = invoke("report", top).stdout
    if several:
        assert "specreason threshold=6 salvage=True" in shown
        assert "Not the preset's: budget_tokens=256." in shown
    else:
        assert "Not the preset's: budget_tokens=256, threshold=6, salvage=True." in shown
    summary = json.loads((top / "s" / "summary.json").read_text())
    assert summary["changed"] == own | {"threshold": 6.0, "salvage": True}
    invoke("report", "--html", top, "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Not the preset&#x27;s: budget_tokens=256" in page
    assert not several or "specreason threshold=6 salvage=True" in page


def hashes(digit: str) -> dict[str, str]:
    return dict.fromkeys(("math", "judge", "judge_answer"), digit * 64) | {"close": "5" * 64}


@pytest.mark.parametrize("folders", [("/a/prompts", "/b/mine"), ("/a/prompts", "/b/prompts"), ("", "")])
def test_runs_with_other_prompts_have_names_that_tell_and_no_hashes(tmp_path: Path, folders: tuple[str, str]) -> None:
    """Issue 18: the same row names twice, and 2,400 characters of hashes."""
    runs = [
        told(run_folder(tmp_path / name, answers(True, False), prompts=hashes(digit)), prompts_from=folder)
        for name, digit, folder in zip("ab", "12", folders, strict=True)
    ]
    done = invoke("report", "--force", *runs)
    names = [line.split("  ")[0] for line in table_of(done.stdout)[1:]]
    assert len(set(names)) == 2
    if folders[1].endswith("mine"):
        assert names == ["specreason prompts=prompts (partial)", "specreason prompts=mine (partial)"]
    assert "Differs: prompts: judge 11111111 | 22222222, judge_answer 11111111 | 22222222, math 1" in done.stdout
    assert "1" * 13 not in done.stdout


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ([{"seed": 1}, {"seed": 2}], ["specreason seed=1", "specreason seed=2"]),
        ([{"pair": "x"}, {"pair": "y"}], ["specreason pair=x", "specreason pair=y"]),
        (
            [{"models": {"base": "b", "small": "s"}}, {"models": {"base": "c", "small": "s"}}],
            ["specreason base=b", "specreason base=c"],
        ),
        ([{}, {}], ["specreason #1", "specreason #2"]),
        ([{"method": "base"}, {"seed": 2}], ["base", "specreason"]),
        (
            [{"seed": 1}, {"seed": 2}, {"seed": 2, "limit": 3}],
            ["specreason limit=None seed=1", "specreason limit=None seed=2", "specreason limit=3 seed=2"],
        ),
    ],
)  # fmt: skip
def test_a_name_tells_a_run_from_the_others(tmp_path: Path, changes: list[dict[str, Any]], names: list[str]) -> None:
    runs = [load_runs(run_folder(tmp_path / str(n), answers(True), **own))[0] for n, own in enumerate(changes)]
    assert sorted(labels.names(runs)) == sorted(names)


def test_the_points_of_a_sweep_have_their_settings_for_names(tmp_path: Path) -> None:
    """Issue 18: panels "specreason 1 ... 10" were thresholds 0 ... 9."""
    from steps import steps

    drafting = [record(n, correct=True) | {"steps": [{"by": "small", "text": "a", "tokens": 3}]} for n in range(2)]
    for threshold in (0.0, 9.0):
        policy = settings()["policy"] | {"threshold": threshold}
        run_folder(tmp_path / "top" / f"t{threshold}", drafting, policy=policy)
    figure = steps(load_runs(tmp_path / "top"))
    panels = [panel.get_ylabel().replace("\n", " ") for panel in figure.axes]
    assert panels[:2] == ["specreason threshold=0", "specreason threshold=9"]


def test_a_curve_joins_no_runs_with_other_prompts(tmp_path: Path) -> None:
    from pareto import pareto

    for digit in "12":
        run_folder(tmp_path / digit, answers(True, False), prompts=hashes(digit))
    runs = [run for digit in "12" for run in load_runs(tmp_path / digit)]
    (legend,) = pareto(runs).legends
    assert len({text.get_text() for text in legend.get_texts()}) == 2
