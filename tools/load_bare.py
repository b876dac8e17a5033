"""Owns what the server is compared with: the same trajectories by the same client, in one process and without HTTP before it.

Knows no server of ours. The engines are attached ones.
"""

import time
from pathlib import Path
from typing import Any

from msgspec import structs
from own_server import ENGINE_KEY, Engines

from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.method.program import run_trajectory
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.plan import Variant
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.run.runner import run_all
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.steps import Author
from sgl_specreason.text.tokenizers import load_tokenizer


def bare(engines: Engines, model: Path, policy: dict[str, Any], trajectories: int, concurrency: int) -> dict[str, Any]:
    """Steps a second, and CPU per step of this process, for so many trajectories of the demo bench side by side."""
    plan = resolve(Options(bench="demo", methods=("specreason",), policy={}))
    (variant,) = plan.variants
    variant = Variant(variant.method, structs.replace(variant.policy, **policy))
    tokenizer = load_tokenizer(str(model))
    roles: dict[Author, str] = {"base": engines.base_url, "small": engines.small_url}
    endpoints = {
        role: Endpoint(url, role=role, tokenizer=tokenizer, api_key=ENGINE_KEY, connections=2 * concurrency)
        for role, url in roles.items()
    }
    chats: dict[Author, ChatFormat] = {role: ChatFormat(tokenizer=tokenizer) for role in roles}

    def work(number: int) -> int:
        t = plan.trajectory(variant, plan.problems[number % len(plan.problems)], 0, chats)
        run_trajectory("specreason", t, endpoints)
        return len(t.kept)

    list(run_all(range(min(8, trajectories)), work, concurrency))  # warm-up
    cpu, begin = time.process_time(), time.monotonic()
    steps = sum(run_all(range(trajectories), work, concurrency))
    seconds = time.monotonic() - begin
    cpu_s = time.process_time() - cpu
    for endpoint in endpoints.values():
        endpoint.stop()
    return {
        "trajectories": trajectories,
        "steps": steps,
        "seconds": round(seconds, 2),
        "steps_per_s": round(steps / seconds, 1),
        "cpu_ms_per_step": round(1e3 * cpu_s / steps, 3),
    }
