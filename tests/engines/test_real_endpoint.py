"""Requests to the real engines: what they answer, how they end, who may ask; probabilities against transformers'."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import sglang as sgl
import urllib3
from real_engines import KEY, Servers

from sgl_specreason.engines import servers
from sgl_specreason.engines.account import Aborted
from sgl_specreason.errors import RequestError
from sgl_specreason.method.program import run_trajectory
from sgl_specreason.method.score import DIGITS


@pytest.mark.parametrize("early", [False, True])
def test_an_aborted_request_ends_on_the_server_and_leaves_its_account(real_pair: Servers, early: bool) -> None:
    """By name, in the middle of writing or before it has begun: long before its limit, and the server goes on."""
    endpoint = real_pair.endpoints()["base"]
    outcome: list[Any] = []

    @sgl.function  # type: ignore[untyped-decorator]
    def long_text(s: Any) -> None:
        s += "One of many words: "
        s.set_var("rid", "a request to be aborted")
        s += sgl.gen("text", max_tokens=3000, temperature=0, ignore_eos=True)

    def write() -> None:
        try:
            long_text.run(backend=endpoint, use_thread=False)
        except RequestError as error:
            outcome.append(error)

    thread = threading.Thread(target=write)
    if early:
        endpoint.abort("a request to be aborted", lambda: bool(outcome))
        time.sleep(0.2)
        thread.start()
    else:
        thread.start()
        time.sleep(0.7)
        endpoint.abort("a request to be aborted", lambda: bool(outcome))
    thread.join(10)
    assert isinstance(outcome[0], Aborted)
    assert early or outcome[0].account.completion_tokens > 0
    assert outcome[0].account.completion_tokens < 1500
    endpoint.abort("a request that never was", iter([False, True]).__next__)
    t = real_pair.trajectory(0)
    run_trajectory("specreason", t, real_pair.endpoints())  # type: ignore[arg-type]
    assert t.answer


def test_requests_say_how_urgent_they_are_where_the_server_serves_by_priority(real_pair: Servers) -> None:
    """As the engines that we start do: a judge's request first, what may not be needed last."""
    endpoints = real_pair.endpoints()
    run_trajectory("specreason", real_pair.trajectory(1), endpoints)  # type: ignore[arg-type]
    found = {
        ("judge" if "token_ids_logprob" in data else "ahead" if "rid" in data else "needed", data["priority"])
        for endpoint in endpoints.values()
        for data in endpoint.payloads
    }
    assert found == {("judge", 2), ("needed", 1), ("ahead", 0)}


def test_the_judges_distribution_is_the_models_own(real_pair: Servers) -> None:
    """Equal to teacher forcing with transformers in float32, within 0.01 of probability, with and without a cached prefix."""
    import torch
    from transformers import AutoModelForCausalLM

    trajectory = real_pair.trajectory(2, threshold=0.0)
    endpoints = real_pair.endpoints()
    run_trajectory("specreason", trajectory, endpoints)  # type: ignore[arg-type]
    model = AutoModelForCausalLM.from_pretrained(real_pair.plan.models["base"], dtype=torch.float32).eval()
    judged = [ids for kind, ids in endpoints["base"].sent if kind == "select"]
    digits = [endpoints["base"].ids(digit)[0] for digit in DIGITS]
    scores = [kept.judgement.score for kept in trajectory.kept if kept.judgement and kept.judgement.score]
    assert len(judged) == len(scores) > 3
    for ids, score in zip(judged, scores, strict=True):
        with torch.no_grad():
            forced = model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)[digits]
        served_digits = [p * score.label_mass for p in score.probabilities]
        assert served_digits == pytest.approx(forced.tolist(), abs=1e-2)
        assert score.label_mass > 0.9


@pytest.mark.parametrize("judge", ["likelihood", "score+likelihood", "binary"])
def test_a_steps_likelihood_is_the_models_own_and_the_context_stays_cached(real_pair: Servers, judge: Any) -> None:
    """Each token's log-probability within 0.02 of transformers' in float32; all but the last token before the step is cached."""
    import torch
    from transformers import AutoModelForCausalLM

    rule, threshold = {"binary": ("p_yes", 0.0), "likelihood": ("min", -100.0)}.get(judge, ("greedy", 0.0))
    trajectory = real_pair.trajectory(2, judge=judge, score_rule=rule, threshold=threshold)
    endpoints = real_pair.endpoints()
    endpoints["base"].flush_cache()
    run_trajectory("specreason", trajectory, endpoints)  # type: ignore[arg-type]
    base, context = endpoints["base"], trajectory.texts.prompts["base"]
    model = AutoModelForCausalLM.from_pretrained(real_pair.plan.models["base"], dtype=torch.float32).eval()
    accounts = [call.account for call in trajectory.calls if call.purpose == "judge"]
    assert len(accounts) == len(trajectory.kept) > 3
    for number, (kept, account) in enumerate(zip(trajectory.kept, accounts, strict=True)):
        assert kept.judgement is not None
        before, ids = base.ids(context), base.ids(context + kept.step.text)
        context += kept.step.text
        if number > 1:
            last = len(base.ids(trajectory.kept[number - 1].step.text))
            assert account.cached_tokens >= len(before) - last - 1
        if judge == "binary":
            assert kept.judgement.binary is not None
            continue
        with torch.no_grad():
            rows = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        forced = [float(rows[at - 1, ids[at]]) for at in range(len(before), len(ids))]
        assert kept.judgement.likelihood is not None
        assert list(kept.judgement.likelihood.logprobs) == pytest.approx(forced, abs=0.02)
        assert list(kept.judgement.likelihood.token_ids) == ids[len(before) :]


def test_an_empty_prompt_never_reaches_the_server(real_pair: Servers) -> None:
    """It would kill the whole server process."""
    trajectory = real_pair.trajectory(6)
    trajectory.texts.prompts["base"] = ""
    with pytest.raises(RequestError, match="an empty prompt"):
        run_trajectory("base", trajectory, real_pair.endpoints())  # type: ignore[arg-type]


def test_a_request_that_the_server_refuses_ends_with_its_words(real_pair: Servers) -> None:
    trajectory = real_pair.trajectory(6, budget_tokens=10_000_000, stop_loops=False)
    with pytest.raises(RequestError, match=r"HTTP 400"):
        run_trajectory("base", trajectory, real_pair.endpoints())  # type: ignore[arg-type]


def test_secrets_of_the_server_are_left_out(real_pair: Servers) -> None:
    info = real_pair.endpoints()["base"].server_info
    assert info["max_total_num_tokens"] > 0
    assert not [key for key in info if "api_key" in key]
    assert KEY not in json.dumps(info)


def test_engines_of_ours_listen_on_this_machine_only_and_want_their_key(real_pair: Servers) -> None:
    for url in real_pair.urls.values():
        for path in ("/generate", "/flush_cache", "/v1/completions"):
            assert urllib3.request("POST", url + path, json={}, timeout=5.0, retries=False).status == 401
    ours = [p for p in psutil.Process(real_pair.client).children(recursive=True) if p.is_running()]
    listening = {p: [c.laddr.ip for c in p.net_connections() if c.status == psutil.CONN_LISTEN] for p in ours}
    assert any(listening.values())
    # torch's own meeting point of a model's processes, one for each engine, binds every address: nothing tells it otherwise
    elsewhere = [p.name() for p, addresses in listening.items() for ip in addresses if ip != "127.0.0.1"]
    assert len(elsewhere) <= len(real_pair.urls)
    assert all(name.startswith("sglang::sch") for name in elsewhere)
    assert not [p for p in ours if KEY in " ".join(p.cmdline())]


def test_an_engine_that_answers_no_more_fails_the_trajectory_and_not_the_run(
    real_pair: Servers, tmp_path: Path
) -> None:
    """A failed trajectory is counted and named; the command ends with 1, and the others are there."""
    endpoints = real_pair.endpoints()
    endpoints["small"].stop()
    trajectory = real_pair.trajectory(7)
    with pytest.raises(RequestError, match="small: the run was stopped"):
        run_trajectory("specreason", trajectory, endpoints)  # type: ignore[arg-type]
    assert servers.probe(real_pair.urls["small"], KEY) is not None
