"""What a session does on its engines before and beside what it measures; scripted ones here."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner, Result
from fake_engine import CharTokenizer, FakeEngine, Payload, Raw, digits
from user_files import BENCH

from sgl_specreason.errors import UsageError
from sgl_specreason.eval import main
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.results import records
from sgl_specreason.results.summaries import written
from sgl_specreason.run.session import Session
from sgl_specreason.text import chat

Start = Callable[..., FakeEngine]


def base(prompt: str, payload: Payload) -> Any:
    return digits(9) if "token_ids_logprob" in payload else "The answer is \\boxed{4}.\x03"


@pytest.fixture
def pair(fake_engine: Start, monkeypatch: pytest.MonkeyPatch) -> tuple[FakeEngine, FakeEngine]:
    tokenizer = CharTokenizer()
    monkeypatch.setattr(chat, "load_tokenizer", lambda *_, **__: tokenizer)
    return fake_engine(base), fake_engine(lambda *_: "One.\n\nTwo.</think>")


def run(pair: tuple[FakeEngine, FakeEngine], out: Path, *words: str) -> Result:
    urls = ["--base-url", pair[0].url, "--small-url", pair[1].url]
    command = ["--bench", "demo", "--limit", "2", "--method", "specreason", "--out", str(out), *urls, *words]
    return CliRunner().invoke(main, command, catch_exceptions=False)


def only(out: Path) -> Path:
    (folder,) = out.iterdir()
    return folder


@pytest.mark.parametrize(("words", "flushed"), [((), 0), (("--keep-cache",), 0), (("--flush-cache",), 1)])
def test_other_peoples_cache_is_emptied_only_where_that_is_asked_for(
    pair: tuple[FakeEngine, FakeEngine], tmp_path: Path, words: tuple[str, ...], flushed: int
) -> None:
    """And whether it was is a condition of the numbers."""
    assert run(pair, tmp_path, *words).exit_code == 0
    assert [engine.flushes for engine in pair] == [flushed, flushed]
    config = records.read_config(only(tmp_path) / records.CONFIG)
    assert config["cache"] == ("emptied" if flushed else "kept")


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_server_whose_cache_cannot_be_emptied_ends_no_run(
    pair: tuple[FakeEngine, FakeEngine], tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgl_specreason.engines.flushing.BUSY_S", 0.1)
    for engine in pair:
        engine.refusals, engine.refusal = 10**9, status
    done = run(pair, tmp_path, "--flush-cache")
    assert done.exit_code == 0
    assert (
        f"the cache of base could not be emptied, the run goes on: base: {pair[0].url}/flush_cache: HTTP {status}"
        in done.stderr
    )


def test_nothing_that_was_computed_before_is_of_use_to_a_run(
    pair: tuple[FakeEngine, FakeEngine], tmp_path: Path
) -> None:
    """Each run has a part of the cache for itself, and what warms up has another."""
    for _ in range(2):
        assert run(pair, tmp_path).exit_code == 0
    keys = [request["extra_key"] for request in pair[0].requests]
    assert len({key.split()[-1] for key in keys if "warm up" not in key}) == 2
    assert len({key for key in keys if "warm up" in key}) == 2


def test_a_failure_while_warming_up_ends_no_run(pair: tuple[FakeEngine, FakeEngine], tmp_path: Path) -> None:
    """The same failure later on would end one trajectory."""
    sound, failures = pair[1].script, iter([Raw(400, b"odd weather")])
    pair[1].script = lambda prompt, payload: next(failures, None) or sound(prompt, payload)
    done = run(pair, tmp_path, "--lookahead", "0")
    assert done.exit_code == 0
    assert "warming up specreason failed, the run goes on: small:" in done.stderr
    assert "odd weather" in done.stderr


@pytest.mark.parametrize(
    ("count", "concurrency", "blocks"),
    [(10, 1, [("ab", 0, 10)]), (10, 2, [("a", 0, 10), ("b", 0, 10)]), (40, 2, [])],
)
def test_methods_take_turns_in_blocks_at_the_full_concurrency(
    count: int, concurrency: int, blocks: list[tuple[str, int, int]]
) -> None:
    """A drift of the machine must hit all alike, and none may run beside another."""
    plan = SimpleNamespace(expected=count, workers=concurrency)
    rounds = [
        ("".join(group), numbers.start, numbers.stop)
        for group, numbers in Session.rounds(SimpleNamespace(plan=plan, variants=("a", "b")))  # type: ignore[arg-type]
    ]
    if blocks:
        assert rounds == blocks
        return
    assert [name for name, _, _ in rounds] == ["a", "b", "b", "a", "a", "b"]
    assert [(start, stop) for name, start, stop in rounds if name == "a"] == [(0, 16), (16, 32), (32, 40)]


def test_a_run_goes_on_with_the_day_on_which_it_was_begun(
    pair: tuple[FakeEngine, FakeEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chat templates may show the date: after midnight the same problem must be asked in the same words."""
    assert run(pair, tmp_path, "--limit", "1").exit_code == 0
    folder = only(tmp_path)
    file = folder / records.CONFIG
    config = json.loads(file.read_text())
    assert config["day"] == date.today().isoformat()
    file.write_text(json.dumps(config | {"day": "2020-02-29"}))
    (folder / records.TRAJECTORIES).write_text("")
    assert run(pair, tmp_path, "--limit", "1", "--resume", str(folder)).exit_code == 0
    assert json.loads(file.read_text())["day"] == "2020-02-29"


PAIR = "title = 'mine'\nbase = 'some/base'\nsmall = 'some/small'\n"


def test_a_pair_named_for_running_servers_applies(
    pair: tuple[FakeEngine, FakeEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tags, its policy, and its models where the tokenizers are: it was passed over without a word."""
    places: list[str] = []

    def load(place: str, **_: Any) -> CharTokenizer:
        places.append(place)
        if place in ("fake", "elsewhere"):
            raise UsageError(f"no tokenizer for model {place}")
        return CharTokenizer()

    monkeypatch.setattr(chat, "load_tokenizer", load)
    pair[0].info = {"tokenizer_path": "elsewhere"}
    file = tmp_path / "mine.toml"
    file.write_text(PAIR + "think_tags = ['<t>', '</t>']\npolicy = { threshold = 9 }\n")
    pair[1].script = lambda *_: "One.\n\nTwo.</t>"
    done = run(pair, tmp_path / "runs", "--pair", str(file))
    assert done.exit_code == 0, done.stderr
    assert places == ["fake", "some/small", "elsewhere", "fake", "some/base"]
    settings = records.read_config(only(tmp_path / "runs") / records.CONFIG)["settings"]
    assert (settings["policy"]["threshold"], settings["pair"]) == (9, "mine")
    assert all("</t>" in request["sampling_params"].get("stop", ["</t>"]) for request in pair[1].requests)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--pair", "nothing-like-it"), "no pair named 'nothing-like-it'"),
        (("--pair", "auto"), "--pair auto is for engines that would be started"),
        (("--base-model", "x"), "--base-model and --small-model go together"),
    ],
)
def test_a_pair_that_cannot_be_meant_for_running_servers_is_refused(
    pair: tuple[FakeEngine, FakeEngine], tmp_path: Path, words: tuple[str, ...], error: str
) -> None:
    done = run(pair, tmp_path, *words)
    assert (done.exit_code, error in done.stderr) == (2, True)


def test_thoughts_that_close_with_another_familys_tag_are_said_once(
    pair: tuple[FakeEngine, FakeEngine], tmp_path: Path
) -> None:
    pair[1].script = lambda prompt, _: "Two.</reasoning>So 4.\x03" if "One." in prompt else "One.\n\n"
    done = run(pair, tmp_path)
    assert done.stderr.count("Warning: specreason: a thought did not end with </think> but holds </reasoning>") == 1


def test_without_think_tags_the_response_is_cut_unless_an_answer_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(PAIR + "think_tags = []\n")
    given: dict[str, Any] = {"bench": "demo", "pair": str(file), "base_url": "http://x", "small_url": "http://y"}
    assert resolve(Options(**given, policy={})).variants[-1].policy.on_budget == "stop"
    asked = resolve(Options(**given, policy={"on_budget": "answer"}))
    assert (asked.variants[-1].policy.on_budget, asked.think_tags) == ("answer", ("", ""))


def test_a_run_reads_its_file_once_when_it_goes_on_and_never_at_its_end(
    pair: tuple[FakeEngine, FakeEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 15: a resume made three passes over its file and the end of a run three more."""
    opened = Mock(wraps=records.opened)
    monkeypatch.setattr(records, "opened", opened)
    assert run(pair, tmp_path, "--limit", "3").exit_code == 0
    assert opened.call_count == 0
    folder = only(tmp_path)
    summary, file = (folder / records.SUMMARY).read_text(), folder / records.TRAJECTORIES
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2]))
    (folder / records.SUMMARY).unlink()  # as SIGKILL leaves it
    assert run(pair, tmp_path, "--limit", "3", "--resume", str(folder)).exit_code == 0
    assert opened.call_count == 1
    kept = (folder / records.SUMMARY).read_text()
    written(folder)
    assert kept == (folder / records.SUMMARY).read_text()
    assert json.loads(kept)["trajectories"] == json.loads(summary)["trajectories"] == 3


@pytest.mark.parametrize("private", [False, True])
def test_a_record_holds_the_question_but_never_that_of_a_private_bench(
    pair: tuple[FakeEngine, FakeEngine], tmp_path: Path, private: bool
) -> None:
    """Issue 18. A failed trajectory's record, too."""
    bench, rows = tmp_path / "mine.toml", tmp_path / "rows.jsonl"
    bench.write_text(
        f"{BENCH}private = {str(private).lower()}\n".replace("math", "choice") + '[fields]\nwrong = ["w"]\n'
    )
    asked = [{"id": f"q{n}", "problem": f"{n}+{n}?", "answer": str(2 * n), "w": "5"} for n in (2, 3)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in asked))
    sound, once = pair[1].script, iter([Raw(400, b"odd weather")] * 2)
    pair[1].script = lambda prompt, payload: next(once, None) or sound(prompt, payload)
    out = tmp_path / "runs"
    run(pair, out, "--bench", str(bench), "--data", str(rows))
    lines = (only(out) / records.TRAJECTORIES).read_text().splitlines()
    found = [(json.loads(line).get("problem"), "choices" in json.loads(line)) for line in lines]
    assert sorted(found, key=str) == ([(None, False)] * 2 if private else [("2+2?", True), ("3+3?", True)])
    assert any("error" in json.loads(line) for line in lines)
    everything = "".join(path.read_text() for path in only(out).rglob("*") if path.is_file())
    assert ("3+3?" in everything) is not private


def test_a_failure_while_concurrency_is_measured_ends_no_run(
    pair: tuple[FakeEngine, FakeEngine], tmp_path: Path
) -> None:
    sound = pair[1].script
    pair[1].script = lambda prompt, payload: (
        Raw(400, b"odd weather") if "concurrency" in payload["extra_key"] else sound(prompt, payload)
    )
    done = run(pair, tmp_path, "--lookahead", "0", "--concurrency", "auto")
    assert done.exit_code == 0
    assert "measuring concurrency 1 failed, the run goes on: small:" in done.stderr
