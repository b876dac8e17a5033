"""The command over scripted engines: what is asked, what is recorded, how it goes on, and what it says of good and bad judges."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_engine import CharTokenizer, FakeEngine, Payload, Raw, digits

from sgl_specreason.judge import main
from sgl_specreason.text import chat

Says = Callable[[str, Payload], "str | list[float] | Raw"]
BENCH = 'title = "Mine"\nconcurrency = 3\n'


def solutions(count: int, steps: int = 4) -> list[dict[str, Any]]:
    """Problems of which every other one goes wrong in one of its steps, which says so."""
    found = []
    for number in range(count):
        label = number // 2 % steps if number % 2 else -1
        texts = [f"Step {at} of {number} is {'bad' if at == label else 'good'}." for at in range(steps)]
        found.append({"id": f"p{number}", "problem": f"Problem {number}?", "steps": texts, "label": label})
    return found


def step_of(prompt: str) -> str:
    """The step that a request asks about."""
    found = re.findall(r"Step \d+ of \d+ is \w+\.", prompt)
    return str(found[-1])


def knows(prompt: str, payload: Payload) -> list[float] | str:
    """A judge that is right of every step; small says 7 to everything."""
    if "token_ids_logprob" not in payload:
        return ""
    bad = "bad" in step_of(prompt)
    if len(payload["token_ids_logprob"]) == 2:
        return [-3.0, -0.1] if bad else [-0.1, -3.0]
    return digits(2 if bad else 9)


def indifferent(prompt: str, payload: Payload) -> list[float] | str:
    return digits(9) if "token_ids_logprob" in payload else ""


class Judging:
    """The command on two fake servers."""

    def __init__(self, folder: Path) -> None:
        self.says: dict[str, Says] = {"base": knows, "small": indifferent}
        self.folder = folder
        self.engines = {
            role: FakeEngine(lambda prompt, payload, role=role: self.says[role](prompt, payload))  # type: ignore[misc]
            for role in ("base", "small")
        }
        (folder / "mine.toml").write_text(BENCH)
        self.rows(solutions(40))

    def rows(self, rows: list[dict[str, Any]]) -> None:
        (self.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(self, *words: str | Path, small: bool = False) -> Result:
        urls = ["--base-url", self.engines["base"].url] + ["--small-url", self.engines["small"].url] * small
        files = ["--bench", "mine.toml", "--data", "rows.jsonl", "--out", "runs"]
        return CliRunner().invoke(main, [*files, *urls, *map(str, words)], catch_exceptions=False)

    @property
    def top(self) -> Path:
        (found,) = Path("runs").iterdir()
        return found

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.top / "steps.jsonl").read_text().splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.top / "summary.json").read_text())
        return found


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Judging]:
    monkeypatch.setattr(chat, "load_tokenizer", lambda model, **options: CharTokenizer())
    monkeypatch.chdir(tmp_path)
    found = Judging(tmp_path)
    yield found
    for engine in found.engines.values():
        engine.close()


def test_every_judge_is_asked_about_the_same_steps_and_only_up_to_the_first_wrong_one(judging: Judging) -> None:
    result = judging.run(
        "--judge", "score", "--judge", "binary", "--judge", "likelihood", "--judge", "self", small=True
    )
    assert result.exit_code == 0, result.output
    wanted = {(row["id"], at) for row in solutions(40) for at in range(row["label"] + 1 if row["label"] >= 0 else 4)}
    lines = judging.lines()
    assert {(line["problem"], line["step"]) for line in lines} == wanted
    assert all(set(line["said"]) == {"score", "binary", "likelihood", "self"} for line in lines)
    assert all(line["right"] == (line["said"]["binary"]["p_yes"] > 0.5) for line in lines)
    assert all(
        request["sampling_params"]["max_new_tokens"] == 0
        for one in judging.engines.values()
        for request in one.requests
    )
    assert len(judging.engines["small"].requests) == len(lines)
    assert "Step 0" not in (judging.top / "steps.jsonl").read_text()


def test_a_judge_that_knows_and_one_that_does_not_are_told_apart_in_words(judging: Judging) -> None:
    result = judging.run("--judge", "score", "--judge", "self", small=True)
    said = judging.summary["sentences"]
    assert said[0].startswith("score: tells right from wrong steps with an AUROC of 1.000 [0.")
    assert said[1] == (
        "self: no better than chance on these steps (AUROC .50); at threshold 7 (greedy) it keeps every step, right or wrong."
    )
    assert said[2].startswith("score greedy against self greedy: better by .500 [.")
    for words in said:
        assert words in " ".join(result.stdout.split())
        assert words in (judging.top / "summary.md").read_text()
    signals = judging.summary["signals"]
    assert signals["score greedy"]["stated"]["f1"] == signals["score greedy"]["best"]["f1"] == 1
    assert signals["self greedy"]["stated"]["f1"] == 0
    low, high = signals["score greedy"]["auroc_ci95"]
    assert 0.8 < low < 0.98 < high <= 1


def test_what_an_engine_has_of_a_step_is_paid_by_each_judge_in_turn(judging: Judging) -> None:
    judging.run("--judge", "score", "--judge", "binary", "--judge", "likelihood")
    counts = [
        sum(line["said"][name]["first"] for line in judging.lines()) for name in ("score", "binary", "likelihood")
    ]
    assert sum(counts) == len(judging.lines())
    assert min(counts) > 0


def test_every_one_of_many_judges_is_first_of_short_solutions_too(judging: Judging) -> None:
    """Issue 17: with nine judges the ninth was first of a ninth step, which few solutions have, and its cost was unknown."""
    judging.rows([{"id": f"p{n}", "problem": "p?", "steps": ["Step 0 of 1 is good."], "label": -1} for n in range(40)])
    names = ("score", "binary", "likelihood")
    judging.run(*[word for name in names for word in ("--judge", name)])
    assert min(sum(line["said"][name]["first"] for line in judging.lines()) for name in names) > 5


def test_a_part_of_the_problems_is_spread_over_all_of_them(judging: Judging) -> None:
    """Issue 17: ProcessBench has its wrong solutions first; the first 150 had no right one, and so no F1."""
    rows = sorted(solutions(40), key=lambda row: row["label"] < 0)
    judging.rows(rows)
    assert judging.run("--limit", "8", "--judge", "score").exit_code == 0
    taken = list(dict.fromkeys(line["problem"] for line in judging.lines()))
    assert sorted(taken) == sorted(rows[at]["id"] for at in range(0, 40, 5))
    assert judging.summary["signals"]["score greedy"]["stated"]["f1"] == 1
    assert judging.run("--limit", "41", "--judge", "score", "--dry-run").stdout.count("problems: 40") == 1


def test_of_a_part_there_is_no_f1(judging: Judging) -> None:
    """Whether a problem is right throughout is not known before its last step."""
    judging.run("--judge", "score")
    lines = judging.lines()
    (judging.top / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]))
    shown = judging.run("--show", judging.top)
    assert shown.exit_code == 0
    row = next(line for line in shown.stdout.splitlines() if line.startswith("score greedy"))
    assert "-" in row.split()


def test_templates_are_compared_on_the_same_steps(judging: Judging, checkout_prompts: Path) -> None:
    other = judging.folder / "other"
    copied(checkout_prompts, other, judge="Is it BAD? Say a digit.")

    def by_template(prompt: str, payload: Payload) -> list[float] | str:
        return knows(prompt, payload) if "Is it BAD?" in prompt else indifferent(prompt, payload)

    judging.says["base"] = by_template
    result = judging.run("--judge", "score", "--judge", "likelihood", "--prompts", checkout_prompts, "--prompts", other)
    assert result.exit_code == 0, result.output
    assert set(judging.lines()[0]["said"]) == {"score@prompts", "score@other", "likelihood@prompts"}
    assert any(
        words.startswith("score@other greedy against score@prompts greedy: better by")
        for words in judging.summary["sentences"]
    )


def test_another_wording_of_the_problem_is_another_context(judging: Judging, checkout_prompts: Path) -> None:
    other = judging.folder / "other"
    copied(checkout_prompts, other, math="Solve this.\n\n{{problem}}")
    result = judging.run("--judge", "score", "--prompts", checkout_prompts, "--prompts", other)
    assert result.exit_code == 0, result.output
    prompts = ["".join(map(chr, request["input_ids"])) for request in judging.engines["base"].requests]
    assert sum("Solve this." in prompt for prompt in prompts) == len(prompts) / 2 == len(judging.lines())


def test_a_measurement_goes_on_where_it_stopped(judging: Judging) -> None:
    judging.says["base"] = lambda prompt, payload: (
        Raw(400, b"{}") if "Step 1 of 5" in prompt else knows(prompt, payload)
    )
    first = judging.run("--judge", "score")
    assert first.exit_code == 1
    assert "1 problem failed; this goes on with it:" in first.stderr
    before, asked = judging.lines(), len(judging.engines["base"].requests)
    with (judging.top / "steps.jsonl").open("a") as file:
        file.write('{"problem": "p5", "st')
    judging.says["base"] = knows
    again = CliRunner().invoke(main, ["--resume", str(judging.top)], catch_exceptions=False)
    assert again.exit_code == 0, again.output
    assert "the last line was torn" in again.stderr
    lines = judging.lines()
    assert lines[: len(before)] == before
    assert len(judging.engines["base"].requests) - asked == len(lines) - len(before) == 2
    assert judging.summary["partial"] is False
    other = judging.run("--judge", "binary", "--resume", judging.top)
    assert (other.exit_code, "was begun with other settings" in other.stderr) == (2, True)


def test_an_interrupted_measurement_keeps_every_judged_step(judging: Judging) -> None:
    seen = 0

    def ended(prompt: str, payload: Payload) -> list[float] | str:
        nonlocal seen
        seen += 1
        if seen == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return knows(prompt, payload)

    judging.says["base"] = ended
    first = judging.run("--judge", "score")
    assert first.exit_code == 128 + signal.SIGTERM
    assert "judge --resume runs/judge-mine-" in first.stderr
    lines = judging.lines()
    assert 0 < len(lines) < 130
    assert judging.run("--judge", "score", "--resume", judging.top).exit_code == 0
    assert judging.lines()[: len(lines)] == lines
    assert len(judging.lines()) == 130


def test_base_alone_is_enough_and_small_is_not_asked(judging: Judging) -> None:
    assert judging.run().exit_code == 0
    assert judging.engines["small"].requests == []
    needs = judging.run("--judge", "self")
    assert (needs.exit_code, needs.stderr.count("\n")) == (2, 1)


def test_the_servers_own_decisions_are_asked_where_it_has_them(judging: Judging) -> None:
    refused = judging.run("--judge", "decisions")
    assert refused.exit_code == 2
    assert "--judge decisions: base: " in refused.stderr
    assert refused.stderr.count("\n") == 1

    def decides(payload: Payload) -> Payload:
        best = "2" if "bad" in step_of(payload["input"]) else "9"
        return {
            "answers": {
                "step": {"label_mass": 0.9, "probabilities": {str(d): float(str(d) == best) for d in range(10)}}
            }
        }

    judging.engines["base"].decides = decides
    shutil.rmtree(judging.top)
    assert judging.run("--judge", "decisions").exit_code == 0
    assert judging.summary["signals"]["decisions greedy"]["auroc"] == 1
    assert judging.summary["judges"]["decisions"]["label_mass_mean"] == pytest.approx(0.9)


def test_a_measurement_is_shown_again_and_drawn(judging: Judging) -> None:
    from judge import main as plot

    judging.run("--judge", "score", "--judge", "likelihood")
    shown = CliRunner().invoke(main, ["--show", str(judging.top)])
    assert shown.exit_code == 0
    assert "score expected" in shown.stdout
    page = (judging.top / "judge.html").read_text()
    assert "tells right from wrong" in page
    assert "<script" not in page
    drawn = CliRunner().invoke(plot, [str(judging.top), "-o", "x.svg"], catch_exceptions=False)
    assert drawn.exit_code == 0, drawn.output
    assert Path("x.png").exists()


def test_a_step_that_no_engine_answers_fails_its_problem_and_no_other(judging: Judging) -> None:
    judging.says["base"] = lambda prompt, payload: Raw(400, b"{}")
    result = judging.run("--judge", "score")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "40 problems failed; this goes on with them:" in result.stderr
    shown = CliRunner().invoke(main, ["--show", str(judging.top)])
    assert (shown.exit_code, "no step has been judged yet" in shown.stderr) == (2, True)


def test_a_measurement_is_no_run_and_a_run_is_no_measurement(judging: Judging) -> None:
    from command_line import invoke
    from run_folders import answers, run_folder

    judging.run("--judge", "score")
    shown = invoke("report", judging.top)
    assert (shown.exit_code, "is shown by specreason judge --show" in shown.stderr) == (2, True)
    run_folder(judging.folder / "run", answers(True))
    for words in (["--show", "run"], ["--resume", "run"]):
        refused = judging.run(*words)
        assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
        assert "not a judge's measurement" in refused.stderr or "was begun by eval" in refused.stderr


def test_few_problems_say_nothing(judging: Judging) -> None:
    assert judging.run("--limit", "4", "--judge", "score").exit_code == 0
    assert judging.summary["sentences"] == [
        "Too few right or wrong steps, or problems, to say anything of how well they are told apart."
    ]
    assert judging.summary["signals"]["score greedy"]["auroc"] is None


def test_nothing_is_started_or_written_to_see_what_would_be_asked(judging: Judging) -> None:
    shown = judging.run("--dry-run", "--judge", "score", "--judge", "binary")
    assert shown.exit_code == 0
    assert "problems: 40, of 130 labelled steps, 20 of them wrong" in shown.stdout
    assert "requests: 260, of one prefill each; 3 problems side by side" in shown.stdout
    assert not Path("runs").exists()
    assert judging.engines["base"].requests == []


BAD: dict[str, tuple[list[str], str]] = {
    "unknown judge": (["--judge", "jury"], "--judge jury; there are"),
    "unknown rule": (["--threshold", "expectd=6"], "no such rule; did you mean expected"),
    "threshold in words": (["--threshold", "expected=high"], "wants RULE=NUMBER"),
    "threshold out of range": (["--threshold", "greedy=11"], "greedy wants 0 to 9"),
    "unknown bench": (["--bench", "processbench-gsm9k"], "no judge bench named 'processbench-gsm9k'; did you mean"),
    "missing rows": (["--data", "nothing.jsonl"], "nothing.jsonl: cannot be read"),
    "no templates": (["--prompts", "nowhere"], "--prompts nowhere: no such folder"),
    "twice": (["--prompts", ".", "--prompts", "."], "this template is missing"),
    "no run": (["--resume", "nowhere"], "--resume nowhere: no such run folder"),
    "no problems": (["--limit", "0"], "--limit"),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(words: list[str], message: str, judging: Judging) -> None:
    result = judging.run(*words)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert message in result.stderr
    assert not Path("runs").exists()


def copied(source: Path, target: Path, **changed: str) -> None:
    target.mkdir()
    for file in source.glob("*.txt"):
        (target / file.name).write_text(changed.get(file.stem, file.read_text()))


@pytest.fixture
def checkout_prompts() -> Path:
    from checkout import ROOT

    return ROOT / "prompts"
