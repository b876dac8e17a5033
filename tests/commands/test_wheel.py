"""The wheel, installed without the checkout: the commands work, with their data, and SGLang finds the platform plugin."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from checkout import ROOT
from run_folders import answers, run_folder

BUILT_FROM = ["pyproject.toml", "README.md", "LICENSE", "sgl_specreason", "prompts", "eval", "plots"]
WATCHED = """
import runpy, sys
checkout, others, module, *sys.argv[1:] = sys.argv[1:]
opened = []
sys.addaudithook(lambda event, found: opened.append(str(found[0])) if event == "open" else None)
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    wrong = [path for path in opened if path.startswith(checkout) and not path.startswith(others)]
    assert not wrong, f"opened in the checkout: {wrong}"
"""
PLUGIN = """
from importlib.metadata import entry_points
(found,) = [one for one in entry_points(group="sglang.srt.platforms") if one.name == "sgl_specreason_cpu"]
print(found.load().__code__.co_filename)
"""

pytestmark = pytest.mark.slow


def ran(*command: str | Path, **options: object) -> str:
    """What the command prints; PYTHONPATH must not lead it back to the checkout."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, timeout=120, env=env, **options
    )  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel, and with what the wheel needs from the present environment."""
    top = tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, top / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (top / "source").mkdir(exist_ok=True)
            shutil.copy(source, top / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    ran(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", top, top / "source")
    ran(sys.executable, "-m", "venv", "--without-pip", top / "venv")
    (wheel,) = top.glob("*.whl")
    interpreter = top / "venv" / "bin" / "python"
    ran(*pip, "--python", interpreter, "install", "--no-deps", "--no-index", wheel)
    packages = Path(ran(interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # a line in a .pth file adds a folder to the path without reading the .pth files in it, one of which is the checkout's
    (packages / "present.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return interpreter


def command(python: Path, name: str, *words: str | Path, cwd: Path) -> str:
    """What a command prints that may open nothing in the checkout but other packages' files."""
    others = sysconfig.get_path("purelib")
    return ran(python, "-c", WATCHED, f"{ROOT}{os.sep}", others, f"sgl_specreason.{name}", *words, cwd=cwd)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", ["eval", "report", "replay", "judge"])
def test_each_command_has_help(python: Path, empty: Path, name: str) -> None:
    assert command(python, name, "--help", cwd=empty).startswith("Usage: ")


def test_the_console_script_has_them_all(python: Path, empty: Path, tmp_path: Path) -> None:
    script = python.with_name("specreason")
    assert "specreason eval --bench demo" in ran(script, cwd=empty)
    spec = run_folder(tmp_path / "run", answers(True, True, False, False))
    assert "specreason report --show" in ran(script, "report", spec, cwd=empty)
    ran(script, "plot", "pareto", spec, "-o", tmp_path / "p.pdf", cwd=empty)
    assert (tmp_path / "p.pdf").exists()


def test_what_ships_is_listed(python: Path, empty: Path) -> None:
    shown = command(python, "eval", "--list", cwd=empty)
    for folder, kind in (("benches", "toml"), ("pairs", "toml"), ("presets", "toml"), ("sweeps", "toml")):
        for file in (ROOT / "eval" / folder).glob(f"*.{kind}"):
            assert file.stem in shown


def test_prompts_and_the_bundled_pair_ship(python: Path) -> None:
    (package,) = python.parent.parent.glob("lib/*/site-packages/sgl_specreason")
    traces = (ROOT / "eval").glob("traces/*")
    for file in [*(ROOT / "prompts").glob("*.txt"), *(ROOT / "eval").glob("*/*.toml"), *traces]:
        assert (package / "data" / file.relative_to(ROOT)).read_bytes() == file.read_bytes()
    for file in (ROOT / "sgl_specreason" / "demo" / "models").glob("*/*"):
        assert (package / file.relative_to(ROOT / "sgl_specreason")).read_bytes() == file.read_bytes()


def test_a_report_its_figures_and_its_page_come_from_the_wheel(python: Path, empty: Path, tmp_path: Path) -> None:
    spec = run_folder(tmp_path / "runs" / "spec", answers(True, True, False, False))
    run_folder(tmp_path / "runs" / "base", answers(True, True, True, False), method="base")
    assert "| specreason" in command(python, "report", "--markdown", spec, cwd=empty)
    page = tmp_path / "page.html"
    command(python, "report", "--html", tmp_path / "runs", "-o", page, cwd=empty)
    assert page.read_text().count("<figure>") >= 2
    assert json.loads((spec / "summary.json").read_text())["n"] == 4
    assert list(empty.iterdir()) == []


def test_sglang_finds_the_platform_plugin(python: Path, empty: Path) -> None:
    assert Path(ran(python, "-c", PLUGIN, cwd=empty).strip()).is_relative_to(python.parent.parent)
