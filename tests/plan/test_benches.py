"""Rows from files, the hub and the generator."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from command_line import invoke
from fake_hub import FakeHub

from sgl_specreason.errors import UsageError
from sgl_specreason.plan.benches import Row, load_rows
from sgl_specreason.plan.catalog import load_bench, names
from sgl_specreason.plan.choices import shuffled
from sgl_specreason.results.folder import without_texts


def test_the_demo_has_200_problems() -> None:
    rows = load_rows(load_bench("demo"))
    assert len(rows.rows) == 200
    assert rows.sha256 == load_rows(load_bench("demo")).sha256


@pytest.mark.parametrize(("bench", "count"), [("math500", 500), ("aime24", 30), ("aime25", 30), ("gsm8k", 1319)])
def test_the_real_files_load(bench: str, count: int, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECREASON_DATA", str(shared_data))
    rows = load_rows(load_bench(bench))
    assert len(rows.rows) == count
    assert rows.origin == str(shared_data / f"{bench}.jsonl")


BAD_LINES = {
    "not json": ('{"problem": "x", "answer": "1"}\n{oops\n', ":2"),
    "not an object": ('"text"\n', ":1"),
    "no answer": ('{"problem": "x", "answer": "1"}\n{"problem": "y"}\n', ":2"),
    "empty": ("", "no rows"),
    "twice": ('{"unique_id": "a", "problem": "x", "answer": "1"}\n' * 2, ":2"),
    "not utf-8": (b"\xff\xfe\x00", "cannot be read"),
}


@pytest.mark.parametrize(("content", "named"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, content: str | bytes, named: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=named) as error:
        load_rows(load_bench("math500"), file)
    assert str(file) in str(error.value)


def test_a_row_without_an_id_is_known_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"problem": "x", "answer": 1}\n')
    assert load_rows(load_bench("math500"), file).rows[0].id == "1"


def hub(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    fake = ModuleType("datasets")
    fake.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)


def test_rows_of_the_hub_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"unique_id": "a", "problem": "x", "answer": "1"}
    hub(monkeypatch, lambda *args, **kwargs: [row])
    with pytest.raises(UsageError, match="1 row, 500 were expected"):
        load_rows(load_bench("math500"))


def test_a_hub_that_cannot_be_reached_points_to_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("no route")

    hub(monkeypatch, offline)
    with pytest.raises(UsageError, match=r"--data FILE\.jsonl"):
        load_rows(load_bench("math500"))


def test_a_users_bench_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "q", "question": "2+2", "gold": "4"}) + "\n")
    file = tmp_path / "mine.toml"
    file.write_text(
        'title = "Mine"\nprompt = "math"\ngrader = "integer"\n[fields]\nproblem = "question"\nanswer = "gold"\n'
    )
    rows = load_rows(load_bench(str(file)), tmp_path / "rows.jsonl")
    assert (rows.rows[0].problem, rows.rows[0].answer) == ("2+2", "4")


def test_every_bench_names_its_revision_and_size() -> None:
    for name in names("benches"):
        source = load_bench(name).source
        if source.hub:
            assert source.revision is not None
            assert len(source.revision) == 40
            assert source.rows


def described(bench: str, hub: FakeHub, home: Path) -> subprocess.CompletedProcess[str]:
    """`--dry-run` in its own process: the hub's libraries read their settings when they are imported."""
    command = [sys.executable, "-m", "sgl_specreason.eval", "--bench", bench, "--pair", "demo", "--dry-run"]
    environment = {key: value for key, value in os.environ.items() if key != "SPECREASON_DATA"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=environment | hub.environment(home)
    )


@pytest.fixture
def fake_hub() -> Iterator[Callable[..., FakeHub]]:
    """Starts hubs that end with the test."""
    with ExitStack() as stack:

        def start(files: dict[str, dict[str, bytes]], gated: tuple[str, ...] = ()) -> FakeHub:
            hub = FakeHub(files, gated)
            stack.callback(hub.close)
            return hub

        yield start


def lines(*rows: dict[str, str]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.slow
def test_the_hubs_own_files_load_at_the_pinned_revision(fake_hub: Callable[..., FakeHub], tmp_path: Path) -> None:
    """Through the real `datasets`, with the columns that the hub's copy has: two configurations, one after the other."""
    readme = b"""---
configs:
- config_name: AIME2025-I
  data_files: [{split: test, path: aime2025-I.jsonl}]
- config_name: AIME2025-II
  data_files: [{split: test, path: aime2025-II.jsonl}]
---
"""
    first = lines(*({"question": f"first {n}", "answer": str(n)} for n in range(15)))
    second = lines(*({"question": f"second {n}", "answer": str(n)} for n in range(15)))
    files = {"README.md": readme, "aime2025-I.jsonl": first, "aime2025-II.jsonl": second}
    hub = fake_hub({"opencompass/AIME2025": files})
    done = described("aime25", hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "30 of 30 problems, from hub opencompass/AIME2025 at a6ad95f611d72cf628a80b58bd0432ef6638f958" in done.stdout
    assert "first 0" in done.stdout
    assert any("/resolve/a6ad95f611d72cf628a80b58bd0432ef6638f958/" in path for path in hub.asked)


@pytest.mark.slow
def test_a_gated_set_says_how_to_get_it(fake_hub: Callable[..., FakeHub], tmp_path: Path) -> None:
    done = described("gpqa", fake_hub({"Idavidrein/gpqa": {}}, ("Idavidrein/gpqa",)), tmp_path)
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for step in ("1. Log in", "2. Make a read token", "3. Give it with `hf auth login` or in $HF_TOKEN"):
        assert step in error


def gpqa_rows(count: int) -> bytes:
    rows = (
        {
            "Record ID": f"rec{n}",
            "Question": f"question {n}",
            "Correct Answer": "right",
            "Incorrect Answer 1": "wrong 1 ",
            "Incorrect Answer 2": "(D) wrong 2",
            "Incorrect Answer 3": "wrong 3",
        }
        for n in range(count)
    )
    return lines(*rows)


def test_choices_are_shuffled_by_the_question_alone(tmp_path: Path) -> None:
    """Each letter is right about equally often, the order never changes, and a choice's text stays as it is."""
    file = tmp_path / "gpqa.jsonl"
    file.write_bytes(gpqa_rows(198))
    rows = load_rows(load_bench("gpqa"), file).rows
    assert rows == load_rows(load_bench("gpqa"), file).rows
    right = [row.answer for row in rows]
    assert all(30 < right.count(letter) < 70 for letter in "ABCD")
    for row in rows:
        assert row.choices is not None
        assert row.permutation is not None
        shown = row.choices.splitlines()
        assert shown["ABCD".index(row.answer)] == f"{row.answer}. right"
        assert row.permutation["ABCD".index(row.answer)] == 0
        assert sorted(line[3:] for line in shown) == ["(D) wrong 2", "right", "wrong 1", "wrong 3"]
    assert rows[0].permutation == shuffled("question 0", 4)


def test_no_text_of_a_private_bench_is_shown_or_recorded(tmp_path: Path) -> None:
    file = tmp_path / "gpqa.jsonl"
    file.write_bytes(gpqa_rows(3))
    done = invoke("eval", "--bench", "gpqa", "--pair", "demo", "--dry-run", "--data", file)
    assert done.exit_code == 0, done.stderr
    assert "question 0" not in done.stdout
    record = {
        "problem_id": "rec0",
        "answer": "C",
        "answer_text": "As question 0 says, wrong 1, so \\boxed{C}",
        "steps": [{"by": "base", "text": "question 0", "tokens": 3, "draft": {"text": "wrong 1", "tokens": 2}}],
    }
    record["steps"][0]["others"] = [{"text": "wrong 2", "tokens": 2}]
    kept = without_texts(record)
    assert "question" not in json.dumps(kept)
    assert "wrong" not in json.dumps(kept)
    assert (kept["answer"], kept["answer_text"], kept["steps"][0]["tokens"]) == ("C", "\\boxed{C}", 3)
    quoting = without_texts(record | {"answer": "C: wrong 1"})
    assert (quoting["answer"], quoting["answer_text"]) == (None, "")


CHOOSING = 'title = "Mine"\nprompt = "choice"\ngrader = "letter"\n'


def chosen(tmp_path: Path, fields: str, *rows: dict[str, Any], more: str = "") -> list[Row]:
    (tmp_path / "rows.jsonl").write_bytes(lines(*rows))
    (tmp_path / "mine.toml").write_text(f"{CHOOSING}{more}[fields]\n{fields}")
    return load_rows(load_bench(str(tmp_path / "mine.toml")), tmp_path / "rows.jsonl").rows


MMLU = {"question": "Find the degree.", "subject": "abstract_algebra", "choices": ["0", "4", "2", "6"], "answer": 1}
ARC = {
    "id": "Mercury_7175875",
    "question": "Why?",
    "choices": {"text": ["first", "second", "third", "fourth"], "label": ["A", "B", "C", "D"]},
    "answerKey": "C",
}
AS_MMLU = 'problem = "question"\nchoices = "choices"\n'
AS_ARC = 'problem = "question"\nchoices = "choices"\nanswer = "answerKey"\n'
SETS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "MMLU": (AS_MMLU, MMLU, "B", "A. 0\nB. 4\nC. 2\nD. 6"),
    "MMLU-Pro": (
        'problem = "question"\nchoices = "options"\n',
        {"question": "x", "options": list("qrstuvwxyz"), "answer": "J", "answer_index": 9},
        "J",
        "\n".join(f"{letter}. {text}" for letter, text in zip("ABCDEFGHIJ", "qrstuvwxyz", strict=True)),
    ),
    "ARC": (AS_ARC, ARC, "C", "A. first\nB. second\nC. third\nD. fourth"),
    "ARC with numbers": (
        AS_ARC,
        ARC | {"choices": {"text": ["4", "3", "2", "1"], "label": ["1", "2", "3", "4"]}, "answerKey": "1"},
        "A",
        "A. 4\nB. 3\nC. 2\nD. 1",
    ),
    "ARC's own files": (
        'problem = "question.stem"\nchoices = "question.choices"\nanswer = "answerKey"\n',
        {
            "question": {"stem": "x", "choices": [{"text": "p", "label": "A"}, {"text": "q", "label": "B"}]},
            "answerKey": "B",
        },
        "B",
        "A. p\nB. q",
    ),
    "texts by letter": (
        'problem = "question"\nchoices = "options"\nanswer = "answer_idx"\n',
        {"question": "x", "options": {"A": "p", "B": "q", "C": "r"}, "answer": "r", "answer_idx": "C"},
        "C",
        "A. p\nB. q\nC. r",
    ),
    "the choice's own text": (AS_MMLU, MMLU | {"choices": ["yes", "no"], "answer": "no"}, "B", "A. yes\nB. no"),
    "with letters": (AS_MMLU, MMLU | {"choices": ["A)21", "B) 22"], "answer": "(b)"}, "B", "A. 21\nB. 22"),
    "an index as text": (AS_MMLU, MMLU | {"choices": ["yes", "no"], "answer": "0"}, "A", "A. yes\nB. no"),
    "an index of a spreadsheet": (AS_MMLU, MMLU | {"answer": 1.0}, "B", "A. 0\nB. 4\nC. 2\nD. 6"),
    "zeros and a one": (AS_MMLU, MMLU | {"choices": ["p", "q", "r"], "answer": [0, 0, 1]}, "C", "A. p\nB. q\nC. r"),
    "a column each": (
        'problem = "question"\nchoices = ["A", "B"]\n',
        {"question": "x", "A": "p", "B": "q", "answer": "B"},
        "B",
        "A. p\nB. q",
    ),
}


@pytest.mark.parametrize("kind", SETS)
def test_choices_are_taken_as_sets_have_them_and_in_their_order(kind: str, tmp_path: Path) -> None:
    fields, item, letter, shown = SETS[kind]
    (row,) = chosen(tmp_path, fields, item)
    assert (row.answer, row.choices, row.permutation) == (letter, shown, None)


def test_an_index_may_be_counted_from_one(tmp_path: Path) -> None:
    (row,) = chosen(tmp_path, AS_MMLU, MMLU | {"answer": 4}, more="choices_from = 1\n")
    assert row.answer == "D"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"answer": 4},
            "answer = '4' names none of 4 choices: wants an index from 0, a letter A to D.*choices_from = 1",
        ),
        ({"answer": -1}, "names none"),
        ({"answer": "E"}, "names none"),
        ({"answer": True}, "names none"),
        ({"answer": [1, 1, 0, 0]}, "names none"),
        ({"answer": [[1], 0, 0, 0]}, "names none"),
        ({"answer": {"a": 1}}, "names none"),
        ({"answer": "\ud800"}, "names none"),
        ({"choices": ["\ud800", "a"]}, "is no text"),
        ({"choices": {"text": 5}}, "choices = 5: wants a list"),
        ({"choices": [["a"], ["b"]]}, r"choices\[0\] = "),
        ({"choices": {}}, "not 0"),
        ({"answer": None}, "no 'answer' \\(the bench's answer\\)"),
        ({"choices": ["0", "2", "1"], "answer": "1"}, "may mean B \\(2\\) and C \\(1\\)"),
        ({"choices": ["one"]}, "wants 2 to 10 choices, not 1"),
        ({"choices": list("abcdefghijk")}, "not 11"),
        ({"choices": "a, b"}, "choices = 'a, b': wants a list"),
        ({"choices": ["a", ""]}, r"choices\[1\] is empty"),
        ({"choices": ["a", None]}, r"choices\[1\] = None"),
        ({"choices": None}, "no 'choices'"),
        ({"options": 1, "choices": None}, "no 'choices'"),
    ],
)
def test_an_answer_that_names_no_choice_is_said_with_its_row(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said) as refusal:
        chosen(tmp_path, AS_MMLU, MMLU | {"answer": 0}, MMLU | change)
    assert f"{tmp_path / 'rows.jsonl'}:2: " in str(refusal.value)


def test_a_missing_column_is_said_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no .text. .*; it has question, subject, choices, answer"):
        chosen(tmp_path, 'problem = "text"\nchoices = "choices"\n', MMLU)


def test_choices_are_listed_or_in_columns_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"fields\.wrong and fields\.choices: give one of them"):
        chosen(tmp_path, 'choices = "a"\nwrong = "b"\n', MMLU)
    with pytest.raises(UsageError, match="9 columns are the most"):
        chosen(tmp_path, f"wrong = {list('abcdefghij')}\n", MMLU)


def test_a_bench_of_choices_is_shown_with_its_letters(tmp_path: Path) -> None:
    chosen(tmp_path, AS_MMLU, MMLU)
    words = ("--bench", tmp_path / "mine.toml", "--data", tmp_path / "rows.jsonl", "--pair", "demo", "--dry-run")
    done = invoke("eval", *words)
    assert done.exit_code == 0, done.stderr
    assert "Find the degree.\n\nA. 0\nB. 4\nC. 2\nD. 6" in done.stdout


def test_a_gold_answer_may_be_a_number_with_a_point(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines({"problem": "x", "answer": 145.0}, {"problem": "y", "answer": 2.5}))
    (tmp_path / "mine.toml").write_text('title = "Mine"\nprompt = "math"\ngrader = "number"\n')
    rows = load_rows(load_bench(str(tmp_path / "mine.toml")), tmp_path / "rows.jsonl").rows
    assert [row.answer for row in rows] == ["145", "2.5"]
