"""From options to variants: what each method follows, and what a sweep makes of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_folders import answers, run_folder

from sgl_specreason.errors import UsageError
from sgl_specreason.method.policy import Policy
from sgl_specreason.plan.catalog import build_policy, load_sweep, names
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.plan import Plan
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.results.summary import acceptance


def plan(*methods: str, sweep: str | None = None, match: float | None = None, **policy: Any) -> Plan:
    return resolve(Options(bench="demo", methods=methods, sweep=sweep, match_acceptance=match, policy=policy))


def test_a_baseline_has_only_the_settings_it_follows() -> None:
    runs = {variant.method: variant.policy for variant in plan(threshold=3.0, drafts=1, first_n=2).variants}
    assert runs["specreason"].threshold == 3
    assert (runs["base"].threshold, runs["base"].first_n) == (Policy().threshold, 0)
    assert runs["base"].budget_tokens == runs["specreason"].budget_tokens == 512


def test_controls_have_their_gates() -> None:
    runs = {variant.method: variant.policy for variant in plan("specreason", "random", "always", gate_p=0.4).variants}
    found = {method: (policy.gate, policy.gate_p) for method, policy in runs.items()}
    assert found == {"specreason": ("judge", None), "random": ("random", 0.4), "always": ("always", None)}


def test_a_coin_needs_a_probability() -> None:
    with pytest.raises(UsageError, match="--match-acceptance"):
        plan("random")


def test_the_acceptance_of_another_run_is_matched(tmp_path: Path) -> None:
    records = [record | {"drafts": 10, "accepted": 7} for record in answers(True, True, False, True)]
    matched = acceptance(run_folder(tmp_path / "run", records))
    assert plan("random", match=matched).variants[0].policy.gate_p == pytest.approx(0.7)
    with pytest.raises(UsageError, match="not both"):
        plan("random", match=matched, gate_p=0.5)
    with pytest.raises(UsageError, match="not a run folder"):
        acceptance(tmp_path / "nothing")
    other = run_folder(tmp_path / "base", answers(True), method="base")
    with pytest.raises(UsageError, match="holds 0 runs"):
        acceptance(other)


def test_a_sweep_runs_what_does_not_change_once() -> None:
    found = plan(sweep="threshold")
    assert [v.policy.threshold for v in found.variants if v.method == "specreason"] == list(range(10))
    assert [v.method for v in found.variants].count("base") == 1
    assert len({found.name((variant,)) for variant in found.variants}) == 12


def test_a_budget_sweep_has_a_base_for_each_budget() -> None:
    found = [v.policy.budget_tokens for v in plan(sweep="budget").variants if v.method == "base"]
    assert found == [1024, 2048, 4096, 8192, 16384]


@pytest.mark.parametrize("name", names("sweeps"))
def test_every_sweep_that_ships_resolves(name: str) -> None:
    assert len(plan(sweep=name, temperature=0.6).variants) > len(load_sweep(name).methods)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[grid]\nthresold = [1]", "did you mean threshold"),
        ("[grid]\nthreshold = 3", "a list"),
        ("[grid]", "neither .grid. nor ..points.. has settings"),
        ("", "neither .grid. nor ..points.. has settings"),
        ("[[points]]\nthreshold = 11", "threshold = 11"),
        ("[[points]]\ngates = 'self'", "did you mean gate"),
        ("[points]\ngate = 'self'", "points"),
        ("[grid]\nthreshold = [11]", "threshold = 11"),
    ],
)
def test_a_wrong_sweep_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f"title = 'mine'\n{text}")
    with pytest.raises(UsageError, match=words):
        plan(sweep=str(file))


def test_points_of_a_sweep_stand_beside_its_grid(tmp_path: Path) -> None:
    """Each point has only its own settings; what a gate or a judge brings along is its own, too."""
    file = tmp_path / "mine.toml"
    points = '[[points]]\ngate = "self"\ngate_threshold = 0.8\n[[points]]\ngate = "entropy"'
    file.write_text(f"title = 'mine'\nmethods = ['specreason']\n[grid]\nthreshold = [3, 7]\n{points}")
    policies = [variant.policy for variant in plan(sweep=str(file)).variants]
    assert [(p.threshold, p.gate, p.gate_threshold, p.lookahead) for p in policies] == [
        (3, "judge", None, 1),
        (7, "judge", None, 1),
        (7, "self", 0.8, 1),
        (7, "entropy", 1.0, 0),
    ]


def test_another_judge_comes_with_its_own_rule_and_threshold() -> None:
    preset = {"threshold": 7.0, "score_rule": "greedy", "judge": "score"}

    def of(**given: Any) -> tuple[str, float]:
        policy = build_policy(preset, given)
        return policy.score_rule, policy.threshold

    assert of(judge="binary") == ("p_yes", 0.5)
    assert of(judge="likelihood") == ("min", -7)
    assert of(judge="likelihood", score_rule="mean") == ("mean", -1)
    assert of(judge="score+likelihood") == ("greedy", 7)
    assert of(judge="score+likelihood", score_rule="min", threshold=-9.0) == ("min", -9)
    assert of(score_rule="expected") == ("expected", 7)
    with pytest.raises(UsageError, match="score_rule"):
        of(judge="binary", score_rule="greedy")
    with pytest.raises(UsageError, match="threshold"):
        of(judge="binary", threshold=7.0)


def test_several_drafts_need_a_temperature() -> None:
    with pytest.raises(UsageError, match="temperature"):
        plan("specreason", drafts=2)


def test_a_switch_is_true_or_false() -> None:
    with pytest.raises(UsageError, match="salvage = 'no': wants true or false"):
        build_policy({"salvage": "no"})


def test_several_drafts_leave_no_lookahead_and_asking_for_both_is_refused() -> None:
    """Nobody knows which of them goes on; the default, which nobody asked for, gives way."""
    assert build_policy({"lookahead": 1}, {"drafts": 3, "temperature": 0.6}).lookahead == 0
    assert build_policy({"drafts": 3, "temperature": 0.6}, {"drafts": 1}).drafts == 1
    for setting, value in (("lookahead", 1), ("eager_regenerate", True)):
        with pytest.raises(UsageError, match=f"{setting} has no effect with drafts = 3"):
            build_policy({"drafts": 3, "temperature": 0.6, setting: value})


def test_setting_up_a_trajectory_costs_the_same_however_many_problems_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run of 100,000 hashed all rows for each of them."""
    made = plan("base", "specreason")
    calls: list[object] = []
    monkeypatch.setattr(Plan, "settings", counted(Plan.settings, calls))
    monkeypatch.setattr(json, "dumps", counted(json.dumps, calls))
    for variant in made.variants:
        for _ in range(20):
            made._key(variant)
    assert calls.count("settings") == calls.count("dumps") == len(made.variants)
    assert made.rows.sha256 == made.rows.sha256
    assert calls.count("dumps") == len(made.variants)


def counted(function: Callable[..., Any], calls: list[object]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        calls.append(function.__name__)
        return function(*args, **options)

    return call
