"""README and docs say what is so: links, named paths, commands, the loop's code, the rooms.

Every command is parsed. One that needs no engine and no GPU is run, in a folder with what its words name.
"""

import argparse
import ast
import importlib
import json
import os
import pkgutil
import re
import runpy
import shlex
import shutil
import string
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, get_args

import click
import pytest
from checkout import ROOT
from click.testing import CliRunner
from run_folders import record, run_folder, settings

from sgl_specreason.judging import benches
from sgl_specreason.plan import catalog
from sgl_specreason.plan.shapes import Shape
from sgl_specreason.results.conditions import OF_COLUMNS
from sgl_specreason.results.folder import write_json
from sgl_specreason.results.layout import Table
from sgl_specreason.results.summary import load_runs
from sgl_specreason.results.table import SHORT

NOT_OURS = {"tests", "runs", "build", "dist"}
TOPS = [path for path in ROOT.iterdir() if path.name not in NOT_OURS and not path.name.startswith(".")]
DOCUMENTS = sorted(path for top in TOPS for path in ([top] if top.suffix == ".md" else top.rglob("*.md")))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w./-])(?:sgl_specreason|eval|prompts|plots|docs|tools|tests)/[\w./*+-]*")
NAME = re.compile(r"\bsgl_specreason(?:\.\w+)+")
ELSEWHERE = re.compile(r"^ {4}((?:python|make) .*)$|`((?:python|make|pip|specreason) [^`]+)`", re.MULTILINE)
RUNS = (
    "RUN",
    "COMPARE",
    "THRESHOLD",
    "SALVAGE/demo-specreason-demo-b08bbe5f",
    "runs/demo-sweep-threshold-demo-1a2b3c4d",
)
WITHOUT_ENGINES = {"--list", "--help", "--dry-run"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command: all lines of blocks marked sh, and what looks like one of ours, with options, elsewhere."""
    for language, block in FENCED.findall(text):
        if language == "sh":
            variables = dict(re.findall(r'^(\w+)="(.*?)"', block, re.MULTILINE))
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(string.Template(line).safe_substitute(variables), comments=True)
                if words and not re.match(r"\w+=", words[0]):
                    yield words
    for found in ELSEWHERE.finditer(FENCED.sub("", text)):
        words = shlex.split(found[1] or found[2], comments=True)
        if words[:2] != ["python", "-m"] or words[3:]:
            yield words


COMMANDS = {shlex.join(words): words for path in DOCUMENTS for words in commands(path.read_text())}


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(FENCED.sub("", path.read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{target}: there is no such file"
        assert not anchor or anchor in anchors(file), f"{target}: there is no such heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_named_paths_and_modules_exist(path: Path) -> None:
    text = path.read_text()
    for name in {found.rstrip(".") for found in PATH.findall(text)}:
        assert any(ROOT.glob(name)), f"{name}: there is no such file"
    for name in set(NAME.findall(text)):
        assert pkgutil.resolve_name(name)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands name: templates, benches, rows, and a run under each name that a run has there."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("eval", "prompts", "plots"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copytree(ROOT / "prompts", folder / "mine")
    shutil.copy(ROOT / "Makefile", folder)
    rows = [
        {"problem": f"{n} + 1?", "question": f"{n} + 1?", "answer": str(n + 1), "unique_id": str(n)} for n in range(3)
    ]
    for name in ("rows.jsonl", "math500.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.toml").write_text(next(text for text in examples("eval/README.md") if 'prompt = "math"' in text))
    for name in RUNS:
        sweep(folder / name)
    for level in (1, 4):
        load = [record(n, correct=True, latency_s=1.0 + n) | {"problem_id": f"demo-{n + 1:03}"} for n in range(4)]
        run_folder(folder / "runs" / "load" / str(level), load, bench="demo", concurrency=level)
    return folder


def sweep(top: Path) -> None:
    """Base, small and three thresholds of specreason on four problems of the demo bench, in a run folder each."""
    said = {"score": 9, "label_mass": 0.98, "digits": [0.01] * 9 + [0.91], "tokens": 5, "ending": "blank_line"}
    steps = [said | {"by": "small", "accepted": True, "text": "Step 1: swap. 20 -> 02.\n\n"}]
    calls = [{"engine": "small", "purpose": purpose, "seconds": 0.5, "start_s": 0.0} for purpose in ("draft", "judge")]
    for method, threshold in [("base", 7.0), ("small", 7.0), *(("specreason", level) for level in (5.0, 7.0, 9.0))]:
        drafting: dict[str, Any] = {"steps": steps, "requests": calls} if method == "specreason" else {}
        records = [
            record(n, correct=n > 1, latency_s=1 + n / 10 + threshold / 20, **drafting)
            | {"problem_id": f"demo-{n + 1:03}"}
            for n in range(4)
        ]
        policy = settings()["policy"] | {"threshold": threshold}
        run_folder(top / f"{method}-{threshold}", records, bench="demo", method=method, policy=policy)
    write_json(top / "sweep.json", {"name": "threshold", "grid": {"threshold": [5.0, 7.0, 9.0]}})


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_command_is_one_that_there_is(words: list[str], checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It parses; where it needs no engine and no GPU it runs."""
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("SPECREASON_DATA", str(checkout))
    check([name for word in words for name in (sorted(glob(word)) or [word])], monkeypatch)


def check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    match words:
        case ["python", "-m", module, *rest] if module.startswith("sgl_specreason."):
            report = module.endswith(".report")
            invoke(importlib.import_module(module).main, rest, run=report or bool(WITHOUT_ENGINES & set(rest)))
        case ["python", "-m", module, *_]:
            assert find_spec(module.partition(".")[0]), f"{module}: there is no such module"
        case ["specreason", "plot", figure, *rest]:
            invoke(importlib.import_module(figure).main, rest, run=True)
        case ["specreason"]:
            assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["specreason"]
        case ["specreason", verb, *rest]:
            check(["python", "-m", f"sgl_specreason.{verb}", *rest], monkeypatch)
        case ["python", script, *rest] if script.startswith("plots/"):
            invoke(importlib.import_module(Path(script).stem).main, rest, run=True)
        case ["python", script, *rest]:
            parse(ROOT / script, rest, monkeypatch)
        case ["make", *rest]:
            make(rest, monkeypatch)
        case ["pip", "install", *rest]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert {name for word in rest for name in re.findall(r"\[(\w+)\]", word)} <= extras.keys()
        case ["pip", "freeze", "--exclude-editable"] | [".", ".venv/bin/activate"] | ["mv", _, _]:
            pass
        case ["sgl-eval" | "lm_eval" | "inspect" | "evalscope" | "export" | "curl", *_]:
            pass  # other people's programs, in environments of their own: `make clients`
        case ["cp", "-r", source, _]:
            assert Path(source).exists()
        case _:
            pytest.fail("nobody has said how this command is checked")


def invoke(command: click.Command, words: list[str], *, run: bool) -> None:
    if run:
        done = CliRunner().invoke(command, words)
        assert done.exit_code == 0 or "no GPU found" in done.output, done.output
    else:
        command.make_context("docs", words)


def parse(script: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a script of argparse up to the end of its parsing."""

    class Parsed(Exception):
        pass

    real = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *_: Any) -> NoReturn:
        real(self, words)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Parsed):
        runpy.run_path(str(script), run_name="__main__")


def make(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The target exists, and what it would run parses."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    done = subprocess.run(
        ["make", "--dry-run", f"PYTHON={sys.executable}", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {word for word in words if "=" not in word} <= set(targets)
    for found in re.findall(r"^\.venv/bin/python ((?:-m sgl_specreason|tools/).*)$", done.stdout, re.MULTILINE):
        check(["python", *shlex.split(found)], monkeypatch)


def examples(name: str) -> list[str]:
    """The TOML files that a page shows."""
    return [block for language, block in FENCED.findall((ROOT / name).read_text()) if language == "toml"]


@pytest.mark.parametrize("text", examples("eval/README.md"), ids=lambda text: text.splitlines()[0])
def test_example_files_are_read(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    assert loader(text)(str(file)).title


def loader(text: str) -> Callable[[str], Any]:
    """What reads a file of this kind."""
    kinds = {
        "first_wrong": benches.load,
        "grader": catalog.load_bench,
        "[grid]": catalog.load_sweep,
        "base =": catalog.load_pair,
    }
    return next((load for word, load in kinds.items() if word in text), catalog.load_preset)


KEYS: dict[str, tuple[Any, ...]] = {
    "": (catalog.Bench, catalog.Pair, catalog.Preset, catalog.Sweep),
    "source": (catalog.Source,),
    "small": (catalog.Model,),
    "small.shape": (Shape,),
}


def test_every_key_of_a_file_has_a_line_with_an_example() -> None:
    """[source], a model's template and think_tags were in the files that ship and nowhere else."""
    shown: dict[str, set[str]] = {place: set() for place in KEYS}
    text = (ROOT / "eval" / "README.md").read_text()
    for block in examples("eval/README.md"):
        table: dict[str, Any] = tomllib.loads(block)
        for place in KEYS:
            inner: Any = table
            for key in filter(None, place.split(".")):
                inner = inner.get(key) if isinstance(inner, dict) else None
            shown[place] |= set(inner) if isinstance(inner, dict) else set()
    for place, kinds in KEYS.items():
        known = {name for kind in kinds for name in kind.__struct_fields__} - {"name"}
        lacking = {name for name in known - shown[place] if f"`{name} = " not in text}
        assert lacking == set(), place
    for field in get_args(catalog.Field):
        assert re.search(rf"^{field} = |`{field} = ", text, re.MULTILINE), field


def test_the_published_points_of_the_example_are_drawn(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    Path("published.toml").write_text(examples("plots/README.md")[0])
    check(["python", "plots/pareto.py", "RUN", "-o", "p.svg", "--published", "published.toml"], monkeypatch)


def test_every_key_of_a_summary_is_explained(checkout: Path) -> None:
    (run,) = load_runs(checkout / "RUN" / "specreason-7.0")
    explained = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "runs.md").read_text()))
    assert set(run.summary.__struct_fields__) - explained == set()


README = (ROOT / "README.md").read_text()


def test_the_readme_is_read_in_five_minutes() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


def test_the_readme_shows_the_loop_as_it_is() -> None:
    (text,) = [block for language, block in FENCED.findall(README) if language == "python"]
    program = ast.parse((ROOT / "sgl_specreason" / "method" / "program.py").read_text())
    (shown,) = ast.parse(text).body
    (real,) = [
        node for node in ast.walk(program) if isinstance(node, ast.While) and "thinking" in ast.unparse(node.test)
    ]
    assert isinstance(shown, ast.While)
    real.body = real.body[: len(shown.body)]  # what is recorded of a step is left out
    assert ast.unparse(shown) == ast.unparse(real)


def test_the_readme_shows_the_table_as_it_is_printed() -> None:
    """Issue 18: its headings were not those of the output."""
    (text,) = [block for language, block in FENCED.findall(README) if language == "text"]
    cells, _, notes = text.partition("\n\n")
    rows = [re.split(r" {2,}", line) for line in cells.splitlines()]
    assert [title for _, title in SHORT if title in rows[0]] == rows[0]
    assert Table(rows=rows, notes=[]).text().rstrip() == cells
    assert notes.startswith(f"{OF_COLUMNS}\n")


def test_the_readme_names_every_room_and_every_page() -> None:
    rooms = [path.parent for path in (ROOT / "sgl_specreason").glob("*/__init__.py")]
    table = README[README.index("## Rooms") :]
    assert [room.name for room in rooms if f"`sgl_specreason/{room.name}/`" not in table] == []
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in README] == []
