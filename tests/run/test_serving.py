"""Which engines a run has up, and how long."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sgl_specreason.engines import startup
from sgl_specreason.engines.keeper import Engine
from sgl_specreason.engines.servers import EngineSpec
from sgl_specreason.plan import gpus
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.run.serving import Access, Starts

ACCESS = Access(urls=None, api_key=None, request_timeout_s=1, patience_s=1)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The roles that are started with one call each, in order."""
    calls: list[list[str]] = []

    @contextmanager
    def started(specs: list[EngineSpec], logs: Path, **options: Any) -> Iterator[dict[Any, Engine]]:
        calls.append([spec.role for spec in specs])
        yield {spec.role: Engine(role=spec.role, url="http://127.0.0.1:1", model=spec.model) for spec in specs}

    monkeypatch.setattr(startup, "started", started)
    return calls


@pytest.mark.parametrize(
    ("cards", "expected"),
    [([], [["small", "base"]]), ([gpus.Gpu(name="card", memory_gb=80)], [["small"], ["base"]])],
    ids=["cpu", "gpu"],
)
def test_on_a_cpu_both_start_together_and_on_gpus_small_first(
    cards: list[gpus.Gpu], expected: list[list[str]], begun: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On GPUs base shares out what small leaves, and may be started more than once while small stays up."""
    monkeypatch.setattr(gpus, "found", lambda: cards)
    plan = resolve(Options(bench="demo", pair="demo", policy={}))
    starts = Starts(plan=plan, access=ACCESS, logs=Path("logs"), say=lambda line: None)
    with starts.for_the_run() as engines, starts.for_a_stage(engines, speculating=False) as more:
        assert sorted(engines | more) == ["base", "small"]
    assert begun == expected
