"""What the code may never do: run text, unpickle, trust a model's own code unasked."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import ROOT

from sgl_specreason.plan import catalog

FILES = sorted(path for folder in ("sgl_specreason", "plots", "tools") for path in (ROOT / folder).rglob("*.py"))
CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "unsafe_load"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "yaml"}


def mistakes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {name.name}" for name in node.names if name.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in MODULES:
            yield f"from {node.module}"
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in CALLS or (name.startswith("os.") and name[3:] in CALLS):
                yield f"{name}()"
            if name == "torch.load" and given.get("weights_only") != "True":
                yield "torch.load() of more than weights"
            if given.get("shell", "False") != "False":
                yield "a shell"
            if given.get("trust_remote_code") == "True":
                yield "trust_remote_code unasked"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(path: Path) -> None:
    assert list(mistakes(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "code",
    ["eval(x)", "import pickle", "from yaml import load", "os.system(x)", "torch.load(x)", "run(x, shell=True)"],
)
def test_the_look_would_find_it(code: str) -> None:
    assert list(mistakes(ast.parse(code)))


def test_no_pair_trusts_code_of_its_models_unasked() -> None:
    assert [name for name in catalog.names("pairs") if catalog.load_pair(name).trust_remote_code] == []


def test_our_own_weights_are_safetensors() -> None:
    weights = {path.suffix for path in catalog.BUNDLED.rglob("*") if path.is_file() and path.stat().st_size > 300_000}
    assert weights == {".safetensors"}
