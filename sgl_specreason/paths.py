"""Owns where `prompts/`, `eval/` and what is in it are looked up; knows nothing of what is in them."""

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
