"""Run folders as `eval` writes them, made up: records, settings and the files that hold them."""

import json
from pathlib import Path
from typing import Any

from sgl_specreason.method.policy import Policy
from sgl_specreason.results.folder import write_json


def settings(**changes: Any) -> dict[str, Any]:
    policy = {name: getattr(Policy(), name) for name in Policy.__struct_fields__}
    return {
        "bench": "math500",
        "method": "specreason",
        "pair": "p",
        "preset": "default",
        "models": {"base": "b", "small": "s"},
        "prompts": {"judge": "0" * 64},
        "dataset_sha256": "1" * 64,
        "samples": 1,
        "limit": None,
        "seed": 0,
        "concurrency": 1,
        "policy": policy,
    } | changes


def record(problem: int, *, correct: bool, sample: int = 0, **more: Any) -> dict[str, Any]:
    counts = (
        "thinking_tokens tokens_base tokens_small tokens_small_kept tokens_discarded answer_tokens steps_kept steps_by_small "
        "drafts accepted judged prompt_tokens cached_tokens"
    )
    return {
        "problem_id": f"p{problem}",
        "sample": sample,
        "correct": correct,
        "answer": "4" if correct else "5",
        "answer_text": "\\boxed{4}" if correct else "\\boxed{5}",
        "gold": "4",
        "grader": "integer",
        "truncated": False,
        "latency_s": 1.0 + problem,
        "steps": [],
        "requests": [],
        **dict.fromkeys(counts.split(), 10),
        **more,
    }


def run_folder(path: Path, records: list[dict[str, Any]], **changes: Any) -> Path:
    path.mkdir(parents=True)
    chosen = settings(**changes)
    config = {
        "settings": chosen,
        "expected": 4 * chosen["samples"],
        "grader": "math",
        "gpu": "none",
        "commit": "c",
        "prompts": chosen["prompts"],
        "models": chosen["models"],
        "versions": {"sglang": "0.5.23"},
        "dataset_sha256": chosen["dataset_sha256"],
        "dataset_origin": "here",
    }
    write_json(path / "config.json", config)
    (path / "trajectories.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def answers(*correct: bool) -> list[dict[str, Any]]:
    return [record(number, correct=right) for number, right in enumerate(correct)]


def drafted() -> dict[str, Any]:
    """A record with an accepted, a rejected and an unasked step."""
    steps = [
        {"by": "base", "text": "a", "tokens": 5},
        {"by": "small", "text": "b", "tokens": 7, "accepted": True},
        {"by": "base", "text": "c", "tokens": 9, "accepted": False, "draft": {"text": "d", "tokens": 11}},
    ]
    requests = [
        {"engine": "base", "purpose": "judge", "start_s": 0.0, "seconds": 1.0, "prompt_tokens": 30},
        {"engine": "base", "purpose": "regenerate", "start_s": 0.0, "seconds": 1.0, "prompt_tokens": 40},
        {"engine": "small", "purpose": "draft", "start_s": 0.0, "seconds": 1.0, "prompt_tokens": 45},
    ]
    return record(1, correct=True, answer_tokens=3) | {"steps": steps, "requests": requests}
