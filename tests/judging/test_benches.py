"""Labelled steps: what ships, the shapes that a user's rows may have, and what bad rows get."""

import json
from pathlib import Path
from typing import Any

import pytest
from checkout import SHARED_DATA

from sgl_specreason.errors import UsageError
from sgl_specreason.judging import benches


def rows(tmp_path: Path, toml: str, *found: Any) -> list[benches.LabelledProblem]:
    (tmp_path / "mine.toml").write_text('title = "Mine"\n' + toml)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return benches.rows(benches.load(str(tmp_path / "mine.toml")), tmp_path / "rows.jsonl").problems


def test_every_bench_that_ships_is_read() -> None:
    assert {"demo", "prm800k"} | {f"processbench-{s}" for s in ("gsm8k", "math", "olympiadbench", "omnimath")} == set(
        benches.names()
    )
    for name in benches.names():
        assert benches.load(name).title


def test_the_demos_steps_are_labelled_by_their_generator() -> None:
    from sgl_specreason.demo.problems import problems

    found = benches.rows(benches.load("demo")).problems
    assert len(found) == 200
    assert sum(not all(one.right) for one in found) == 100
    for one, problem in zip(found, problems("test", 200), strict=True):
        assert one.closes == all(one.right)
        for at, (text, right) in enumerate(zip(one.steps, one.right, strict=True)):
            assert problem.step_is_right(list(one.steps[:at]), text) == right


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the files of the sets are not here")
@pytest.mark.parametrize(("name", "problems", "steps", "wrong"), [("gsm8k", 400, 1568, 207), ("math", 1000, 4366, 594)])
def test_the_rows_of_processbench_are_those_that_the_bench_names(
    name: str, problems: int, steps: int, wrong: int
) -> None:
    bench = benches.load(f"processbench-{name}")
    found = benches.rows(bench, SHARED_DATA / f"processbench-{name}.jsonl")
    assert found.sha256 == bench.sha256
    assert len(found.problems) == problems
    assert sum(len(one.steps) for one in found.problems) == steps
    assert sum(one.right.count(False) for one in found.problems) == wrong


def test_steps_after_the_first_wrong_one_are_not_judged(tmp_path: Path) -> None:
    (one,) = rows(tmp_path, "", {"id": 7, "problem": "?", "steps": ["a", "b", "c"], "label": 1})
    assert (one.id, one.steps, one.right, one.closes) == ("7", ("a", "b"), (True, False), False)


def test_a_label_for_each_step_judges_all_of_them(tmp_path: Path) -> None:
    toml = '[fields]\nlabels = "marks"\n'
    (one, other) = rows(
        tmp_path,
        toml,
        {"problem": "?", "steps": ["a", "b", "c"], "marks": [True, False, True]},
        {"problem": "!", "steps": ["a", "b"], "marks": ["+", "-"]},
    )
    assert (one.id, one.right, other.right) == ("1", (True, False, True), (True, False))
    assert one.steps == ("a", "b", "c")


def test_the_shape_of_prm800k_is_read(tmp_path: Path) -> None:
    """A step is what was chosen of several completions, or written by a person; 0 is neutral."""
    bench = benches.load("prm800k")
    steps = [
        {"completions": [{"text": "a", "rating": -1}, {"text": "b", "rating": 1}], "chosen_completion": 1},
        {"completions": [{"text": "c", "rating": 0}], "chosen_completion": 0},
        {"completions": [{"text": "x", "rating": -1}], "human_completion": {"text": "d", "rating": None}},
        {"completions": [{"text": "e", "rating": -1}], "human_completion": None, "chosen_completion": None},
    ]
    row = {"question": {"problem": "?"}, "label": {"steps": steps}}
    empty = {"question": {"problem": "?"}, "label": {"steps": []}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(empty) + "\n")
    (one,) = benches.rows(bench, tmp_path / "rows.jsonl").problems
    assert (one.steps, one.right) == (("b", "c", "d", "e"), (True, True, True, False))


BAD: dict[str, tuple[str, Any, str]] = {
    "no steps": ("", {"problem": "?", "label": 0}, r"rows.jsonl:1: no 'steps' \(the bench's steps\)"),
    "no label": ("", {"problem": "?", "steps": ["a"]}, "rows.jsonl:1: no 'label'"),
    "beyond": ("", {"problem": "?", "steps": ["a"], "label": 1}, "the first wrong step is 1, and there are 1"),
    "text": ("", {"problem": "?", "steps": "a", "label": 0}, "steps = 'a': wants a list"),
    "blank step": ("", {"problem": "?", "steps": ["a", " "], "label": -1}, "an empty problem or step"),
    "number": ("", {"problem": "?", "steps": [3], "label": -1}, "neither a text nor a table"),
    "unrated": ("", {"problem": "?", "steps": [{"text": "a"}], "label": -1}, "no rating or label"),
    "too few labels": ('[fields]\nlabels = "l"\n', {"problem": "?", "steps": ["a", "b"], "l": [1]}, "1 labels for 2 steps"),
    "both": ('[fields]\nlabels = "l"\nfirst_wrong = "f"\n', {}, "give one of them"),
    "unknown key": ("wrongs = [0]\n", {}, "wrongs"),
    "half a pair": ("", {"problem": "?", "steps": ["\ud800"], "label": 0}, "is no text"),
    "no rows": ("", [], "a JSON object was expected"),
}  # fmt: skip


@pytest.mark.parametrize(("toml", "row", "words"), BAD.values(), ids=BAD)
def test_bad_rows_are_named(toml: str, row: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        rows(tmp_path, toml, row)


def test_an_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    row = {"id": "a", "problem": "?", "steps": ["a"], "label": -1}
    with pytest.raises(UsageError, match="the id 'a' occurs twice"):
        rows(tmp_path, "", row, row)
