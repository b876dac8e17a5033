"""Owns where `prompts/`, `eval/`, what is in it, and `plots/` are looked up; knows nothing of what they hold."""

from pathlib import Path

from sgl_specreason.errors import UsageError

_PACKAGE = Path(__file__).parent
_MARKS = {
    "prompts": "judge.txt",
    "eval": "benches",
    "eval/judge": "demo.toml",
    "eval/traces": "qwq-32b+r1-1.5b.aime24.jsonl",
}


def find(name: str) -> Path:
    """The folder "prompts", "eval" or one in it: of the working directory, of the checkout, or the packaged copy, in this order.

    A folder counts when it holds what such a folder must hold, so that an unrelated ./eval is not taken for ours.
    """
    candidates = [Path.cwd() / name, _PACKAGE.parent / name, _PACKAGE / "data" / name]
    for candidate in candidates:
        if (candidate / _MARKS[name]).exists():
            return candidate
    raise UsageError(f"no {name}/ found in {', '.join(map(str, candidates))}")


def own(name: str) -> Path | None:
    """The working directory's folder of that name if it is what is found and not what ships."""
    found = find(name).resolve()
    return None if found in (path.resolve() for path in (_PACKAGE.parent / name, _PACKAGE / "data" / name)) else found


def plots() -> Path:
    """The folder of the checkout's figures, or the packaged copy.

    Never that of the working directory: a folder that only holds runs must not bring code along.
    """
    return next(
        path for path in (_PACKAGE.parent / "plots", _PACKAGE / "data" / "plots") if (path / "pareto.py").exists()
    )
