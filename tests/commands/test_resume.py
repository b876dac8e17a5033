"""`--resume RUN` takes everything from the folder, refuses what does not agree, and runs nothing where nothing is missing."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_engine import CharTokenizer, FakeEngine, Payload, digits
from run_folders import answers, run_folder
from user_files import BENCH, PAIR

from sgl_specreason.eval import main
from sgl_specreason.results.folder import write_json
from sgl_specreason.results.records import begun_runs
from sgl_specreason.text import chat
from sgl_specreason.text.prompts import load_prompts

Start = Callable[..., FakeEngine]
Run = Callable[..., Result]


@pytest.fixture
def servers(fake_engine: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The options for two scripted engines that run already; the working directory is empty."""

    def base(prompt: str, payload: Payload) -> Any:
        return digits(9) if "token_ids_logprob" in payload else "The answer is \\boxed{4}.\x03"

    monkeypatch.setattr(chat, "load_tokenizer", lambda *_, **__: CharTokenizer())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    one, other = fake_engine(base), fake_engine(lambda *_: "One.\n\nTwo.</think>")
    return ["--base-url", one.url, "--small-url", other.url]


def called(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def torn(top: Path) -> dict[Path, list[str]]:
    """Takes all but the first line from each run of the folder, as if it had been killed. Returns what it held."""
    found = {}
    for path in begun_runs(top):
        file = path / "trajectories.jsonl"
        found[path] = sorted(json.loads(line)["problem_id"] for line in file.read_text().splitlines())
        file.write_text(file.read_text().splitlines(keepends=True)[0])
    (top / "summary.json").unlink()
    return found


def held(top: Path) -> dict[Path, list[str]]:
    lines = {path: (path / "trajectories.jsonl").read_text().splitlines() for path in begun_runs(top)}
    return {path: sorted(json.loads(line)["problem_id"] for line in own) for path, own in lines.items()}


def only(folder: Path = Path("runs")) -> Path:
    (found,) = folder.iterdir()
    return found


def mine(name: str, text: str) -> Path:
    Path(name).write_text(text)
    return Path(name)


def own_bench() -> list[str]:
    mine("rows.jsonl", "".join(json.dumps({"id": f"q{n}", "problem": f"{n}?", "answer": "4"}) + "\n" for n in range(3)))
    return ["--bench", str(mine("mine.toml", BENCH)), "--data", "rows.jsonl"]


def own_prompts() -> list[str]:
    Path("words").mkdir()
    for name, template in load_prompts().templates.items():
        (Path("words") / f"{name}.txt").write_text(template.text + "\n")
    mine("words/math.txt", "Please: {{problem}}\n")
    return ["--bench", "demo", "--limit", "3", "--prompts", "words"]


def own_sweep() -> list[str]:
    text = 'title = "two"\nmethods = ["base", "specreason"]\n[grid]\nthreshold = [3, 9]\n'
    return ["--bench", "demo", "--limit", "3", "--sweep", str(mine("grid.toml", text))]


def own_preset() -> list[str]:
    text = 'title = "mine"\n[policy]\nthreshold = 4\n'
    return ["--bench", "demo", "--limit", "3", "--preset", str(mine("mild.toml", text))]


def own_pair() -> list[str]:
    return ["--bench", "demo", "--limit", "3", "--pair", str(mine("two.toml", PAIR))]


EVALS: dict[str, Callable[[], list[str]]] = {
    "one method": lambda: ["--bench", "demo", "--limit", "3", "--method", "specreason"],
    "two methods": lambda: ["--bench", "demo", "--limit", "3", "--method", "base", "--method", "specreason"],
    "settings": lambda: ["--bench", "demo", "--limit", "3", "--threshold", "5.5", "--no-judge-record", "--seed", "3"],
    "bench and rows": own_bench,
    "prompts": own_prompts,
    "sweep": own_sweep,
    "preset": own_preset,
    "pair": own_pair,
}


@pytest.mark.parametrize("words", EVALS.values(), ids=EVALS)
def test_a_run_goes_on_from_its_folder_alone(
    servers: list[str], words: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Issue 18: doing what the message of an interruption says gave "--bench is missing". From anywhere, and twice."""
    assert called(*words(), *servers).exit_code == 0
    top = only().absolute()
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        before = torn(top)
        done = called("--resume", top)
        assert done.exit_code == 0, done.output
        assert held(top) == before
        assert f"Run folder: {top}" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


BESIDES: dict[str, tuple[list[str], str]] = {
    "nothing": ([], ""),
    "the same": (["--bench", "demo", "--limit", "3"], ""),
    "what is the default": (["--threshold", "7", "--seed", "0"], ""),
    "no setting": (["--request-timeout", "20"], ""),
    "methods": (["--method", "base"], "method: base, specreason then, base now"),
    "more methods": (["--sweep", "threshold"], "method: base, specreason then, base, 10 x specreason now"),
    "a seed": (["--seed", "5"], "seed: 0 then, 5 now"),
    "a limit": (["--limit", "2"], "limit: 3 then, 2 now"),
    "a threshold": (["--threshold", "3"], "policy.threshold: 7.0 then, 3.0 now"),
    "a preset": (["--preset", "paper"], "preset: 'default' then, 'paper' now"),
}


@pytest.mark.parametrize("torn_first", [True, False])
@pytest.mark.parametrize(("besides", "refused"), BESIDES.values(), ids=BESIDES)
def test_what_is_given_besides_must_agree(
    servers: list[str], besides: list[str], refused: str, torn_first: bool
) -> None:
    """Issue 18: without --method, small was run into a folder of two methods."""
    words = ["--bench", "demo", "--limit", "3", "--method", "base", "--method", "specreason", *servers]
    assert called(*words).exit_code == 0
    if torn_first:
        torn(only())
    before = held(only())
    done = called("--resume", only(), *besides)
    assert (done.exit_code, refused in done.stderr) == (2 if refused else 0, True), done.output
    assert len(done.stderr.splitlines()) == 1 or not refused
    assert set(held(only())) == set(before)
    assert (held(only()) == before) is bool(refused or not torn_first)
    assert called(*words, "--resume", only()).exit_code == 0, "the original command is refused"


def test_a_run_that_had_written_nothing_yet_goes_on(servers: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while engines start: the folder holds no config, only how it was begun."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sgl_specreason.run.serving.connected", interrupted)
        done = called("--bench", "demo", "--limit", "2", "--method", "base", *servers)
    assert done.exit_code == 130
    assert f"specreason eval --resume {only()}" in done.stderr
    refused = called("--resume", only(), "--limit", "3")
    assert (refused.exit_code, "limit: 2 then, 3 now" in refused.stderr) == (2, True)
    assert called("--resume", only()).exit_code == 0
    assert list(held(only()).values()) == [["demo-001", "demo-002"]]


def test_files_of_the_users_that_have_changed_are_refused(servers: list[str]) -> None:
    assert called(*own_prompts(), *servers).exit_code == 0
    torn(only())
    mine("words/math.txt", "Now: {{problem}}\n")
    refused = called("--resume", only())
    assert refused.exit_code == 2
    assert "prompts.math: '" in refused.stderr
    assert len(refused.stderr) < 300, "hashes in full"


def test_a_folder_found_without_being_named_is_kept(
    servers: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """./prompts of the working directory and $SPECREASON_DATA."""
    own_prompts()
    Path("words").rename("prompts")
    own_bench()
    Path("rows.jsonl").rename("mine.jsonl")
    monkeypatch.setenv("SPECREASON_DATA", ".")
    assert called("--bench", "mine.toml", *servers).exit_code == 0
    top = only().absolute()
    before = torn(top)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPECREASON_DATA")
    done = called("--resume", top)
    assert done.exit_code == 0, done.output
    assert held(top) == before


def test_the_share_that_another_run_kept_is_kept(servers: list[str], tmp_path: Path) -> None:
    """That run may be gone by then."""
    other = run_folder(tmp_path / "other", [one | {"drafts": 10, "accepted": 7} for one in answers(True, True)])
    words = ["--bench", "demo", "--limit", "2", "--method", "random", "--match-acceptance", other]
    assert called(*words, *servers).exit_code == 0
    torn(only())
    (other / "config.json").unlink()
    assert called("--resume", only()).exit_code == 0
    assert json.loads((only() / "command.json").read_text())["options"]["gate_p"] == 0.7


def test_no_key_is_kept(servers: list[str]) -> None:
    key = "a-key-that-nobody-may-see"
    assert called("--bench", "demo", "--limit", "1", "--api-key", key, *servers).exit_code == 0
    assert key not in (only() / "command.json").read_text()


def test_an_older_versions_folder_goes_on(servers: list[str]) -> None:
    """It does not say how it was begun: what its runs were made with does."""
    words = ["--bench", "demo", "--limit", "2", "--method", "random", "--method", "specreason", "--gate-p", "0.5"]
    assert called(*words, "--threshold", "5", *servers).exit_code == 0
    before = torn(only())
    (only() / "command.json").unlink()
    refused = called("--resume", only(), "--threshold", "6", *servers)
    assert (refused.exit_code, "policy.threshold: 5.0 then, 6.0 now" in refused.stderr) == (2, True)
    done = called("--resume", only(), *servers)
    assert done.exit_code == 0, done.output
    assert held(only()) == before
    torn(only())
    assert called("--resume", only()).exit_code == 0, "and from then on it says so"


@pytest.mark.parametrize("form", ["shipped", "mine"])
def test_an_older_versions_sweep_goes_on_or_asks_for_its_file(servers: list[str], form: str) -> None:
    words = own_sweep() if form == "mine" else ["--bench", "demo", "--limit", "1", "--sweep", "threshold"]
    assert called(*words, *servers).exit_code == 0
    (only() / "command.json").unlink()
    before = torn(only())
    done = called("--resume", only(), *servers)
    if form == "mine":
        assert (done.exit_code, "give --sweep FILE.toml" in done.stderr) == (2, True)
        done = called("--resume", only(), "--sweep", "grid.toml", *servers)
    assert done.exit_code == 0, done.output
    assert held(only()) == before


@pytest.mark.parametrize("content", ["", "[]", '{"command": 1}', '{"command": "eval", "options": {"bnch": "demo"}}'])
def test_a_damaged_file_is_one_line(servers: list[str], content: str) -> None:
    assert called("--bench", "demo", "--limit", "1", "--method", "base", *servers).exit_code == 0
    (only() / "command.json").write_text(content)
    done = called("--resume", only())
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert "command.json: " in done.stderr


PROGRAM = """
import runpy, sys
from unittest.mock import patch
with patch("sgl_specreason.engines.startup.started", side_effect=AssertionError("an engine was started")):
    try:
        runpy.run_module("sgl_specreason", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        heavy = {"sglang", "torch", "transformers", "datasets", "matplotlib"} & sys.modules.keys()
        sys.exit(f"{end.code} {sorted(heavy)}")
"""


def test_a_complete_run_is_shown_at_once(tmp_path: Path) -> None:
    """Issue 18: it started both engines and took 190 s. Nothing heavy is imported, no model, no network is asked."""
    top = run_folder(tmp_path / "run", answers(True, True, False, True), bench="demo", method="base", limit=4)
    write_json(top / "command.json", {"command": "eval", "options": {"bench": "demo", "limit": 4, "methods": ["base"]}})
    write_json(top / "summary.json", {"partial": False})
    for besides in ([], ["--bench", "demo", "--limit", "4"]):
        command = [sys.executable, "-c", PROGRAM, "eval", "--resume", str(top), *besides]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stderr.splitlines() == [f"{top} is complete: nothing was run", "None []"], done.stderr
        assert "75.0 [19.6, 99.4]" in done.stdout
    lines = (top / "trajectories.jsonl").read_text().splitlines(keepends=True)
    (top / "trajectories.jsonl").write_text("".join(lines[:3]))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "eval", "--resume", str(top)], capture_output=True, text=True, check=False
    )
    assert "nothing was run" not in done.stderr


def test_a_dry_run_names_the_folder_that_would_go_on(servers: list[str]) -> None:
    """And not that of a new run."""
    assert called("--bench", "demo", "--limit", "2", "--method", "base", *servers).exit_code == 0
    shown = called("--resume", only(), "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert f"folder: {only()}" in shown.stdout
