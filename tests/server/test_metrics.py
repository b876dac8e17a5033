"""The numbers at /metrics: readable by Prometheus' own parser, and equal to what clients have counted."""

import threading
from collections import Counter
from typing import Any

import pytest
from fake_engine import Held, Raw
from prometheus_client.parser import text_string_to_metric_families
from served import Running, Story, scripted_server, until

from sgl_specreason.server.answering import Patience

STORY = Story()
STEPS = {"specreason": {"steps": True}}


def numbers(running: Running) -> dict[str, float]:
    """Each sample by its name and labels."""
    response = running.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(response.text):
        assert family.documentation
        assert family.name.startswith("specreason_")
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name.removeprefix('specreason_')}{{{labels}}}"] = sample.value
    return found


def test_the_counters_are_what_clients_have_counted() -> None:
    with scripted_server() as running:
        steps = Counter[str]()
        seen = Counter[str]()
        for fields in ({}, {"stream": False, "n": 2}, {"threshold": 0}, {"model": "base"}, {"model": "small"}):
            threshold = fields.pop("threshold", None)  # type: ignore[attr-defined]
            own = {"steps": True} | ({} if threshold is None else {"threshold": threshold})
            reply = running.ask(**fields, specreason=own)  # type: ignore[arg-type]
            account = reply["specreason"]
            for choice in account["choices"]:
                steps.update(step["by"] for step in choice["steps"])
            seen["thinking"] += reply["usage"]["reasoning_tokens"]
            seen["answer"] += reply["usage"]["completion_tokens"] - reply["usage"]["reasoning_tokens"]
            seen["discarded"] += account["tokens_discarded"]
            seen["judge"] += account["judge_requests"]
            seen["steps"] += account["steps"]
        now = numbers(running)
        assert now["steps_total{by=small}"] + now["steps_total{by=base}"] == seen["steps"]
        kept = now["tokens_total{engine=base,kind=kept}"] + now["tokens_total{engine=small,kind=kept}"]
        assert kept == seen["thinking"]
        assert (
            now["tokens_total{engine=base,kind=answer}"] + now["tokens_total{engine=small,kind=answer}"]
            == seen["answer"]
        )
        assert now["tokens_total{engine=small,kind=discarded}"] == seen["discarded"]
        assert now["engine_requests_total{engine=base,purpose=judge}"] == seen["judge"]
        assert now["label_mass_count{}"] == seen["judge"]
        sent = sum(len(engine.requests) for engine in running.engines.values())
        assert sum(value for name, value in now.items() if name.startswith("engine_requests_total{")) == sent
        prompts = sum(len(request["input_ids"]) for engine in running.engines.values() for request in engine.requests)
        assert now["tokens_total{engine=base,kind=prompt}"] + now["tokens_total{engine=small,kind=prompt}"] == prompts
        assert now["drafts_total{verdict=accepted}"] == 2 * 3 + 3
        assert now["drafts_total{verdict=rejected}"] == 1 * 3


def test_each_request_is_counted_by_its_model_and_status() -> None:
    with scripted_server() as running:
        running.ask()
        running.stream()
        running.stream(model="base")
        running.post(model="nothing")
        running.post(temperature=9)
        running.post(messages=[{"role": "user", "content": "x" * 20_000}])
        running.engines["small"].script = lambda prompt, payload: Raw(400, b"no")
        running.post()
        assert until(lambda: not running.api.under_way)
        now = numbers(running)
        counted = {name: value for name, value in now.items() if name.startswith("requests_total")}
        assert counted == {
            "requests_total{model=specreason,status=200}": 2,
            "requests_total{model=base,status=200}": 1,
            "requests_total{model=,status=404}": 1,
            "requests_total{model=,status=400}": 1,
            "requests_total{model=specreason,status=400}": 1,
            "requests_total{model=specreason,status=502}": 1,
        }
        assert now["request_seconds_count{}"] == 7
        assert now["first_text_seconds_count{}"] == 3
        assert now["queue_seconds_count{}"] == 4


def test_what_runs_and_waits_is_seen_and_so_are_the_engines() -> None:
    with scripted_server(places=1) as running:
        running.engines["small"].script = lambda prompt, payload: Held("x")
        asked = [threading.Thread(target=running.post) for _ in range(2)]
        for thread in asked:
            thread.start()
        assert until(lambda: running.house.desk.waiting == 1)
        now = numbers(running)
        assert (now["requests_running{}"], now["requests_queued{}"]) == (1, 1)
        assert (now["engine_up{engine=base}"], now["engine_up{engine=small}"]) == (1, 1)
        running.house.close()
        for thread in asked:
            thread.join(10)


def test_a_choice_is_counted_once_however_often_it_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its first reason: another choice's failure ends it, then that its request is over."""
    monkeypatch.setattr("sgl_specreason.server.call.BREAK_OFF_S", 1.0)
    go_on = threading.Event()
    with scripted_server(settings={"patience": Patience(deadline_s=0.3)}, timeout_s=30) as running:

        def hangs(prompt: str, payload: Any) -> Any:
            if len(running.engines["small"].requests) == 1:
                go_on.wait(5)
            return Held("x")

        running.engines["small"].script = hangs
        assert running.post(n=2).status_code == 504
        go_on.set()
        assert running.settles()
        now = numbers(running)
        assert {name: value for name, value in now.items() if name.startswith("cancelled_total")} == {
            "cancelled_total{why=deadline_exceeded}": 2
        }


@pytest.mark.parametrize("stream", [False, True])
def test_a_choice_that_ends_with_another_ones_failure_says_so(stream: bool) -> None:
    with scripted_server() as running:

        def one_fails(prompt: str, payload: Any) -> Any:
            if len(running.engines["small"].requests) == 1:
                assert until(lambda: running.engines["small"].running)
                return Raw(400, b"no")
            return Held("x")

        running.engines["small"].script = one_fails
        assert running.post(n=2, stream=stream).status_code == 502
        assert running.settles()
        now = numbers(running)
        assert now["cancelled_total{why=engine_failed}"] == 1
        assert not any("client_gone" in name for name in now)


def test_there_may_be_none() -> None:
    with scripted_server(settings={"metrics": False}) as running:
        response = running.get("/metrics")
        assert response.status_code == 404
        assert running.ask()["choices"]
