"""The system as users get it: the real SGLang engines on the bundled pair, started once for this module."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
import sglang as sgl
import urllib3
from test_prompts import QWEN3

from sgl_specreason.demo.problems import problems
from sgl_specreason.engines import servers
from sgl_specreason.engines.account import Aborted
from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.engines.transport import Answer
from sgl_specreason.errors import ContextFull, RequestError
from sgl_specreason.method.policy import Method
from sgl_specreason.method.program import run_trajectory
from sgl_specreason.method.score import DIGITS
from sgl_specreason.method.trajectory import Trajectory
from sgl_specreason.plan import limits
from sgl_specreason.plan.benches import Row
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.plan import Plan
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.run.runner import run_all
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.steps import Author
from sgl_specreason.text.tokenizers import load_tokenizer

pytestmark = [
    # third-party code at import and in client libraries; our own warnings stay errors
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
KEY = "a key of the tests"
CLIENT = """
import sys, time
from dataclasses import replace
from pathlib import Path
from sgl_specreason.engines.servers import started
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.plan.options import Options
plan = resolve(Options(bench="demo", policy={}))
specs = [replace(spec, api_key=sys.argv[2]) for spec in plan.specs]
with started(specs, Path(sys.argv[1]), say=lambda line: print(line, file=sys.stderr)) as running:
    print(running["base"].url, running["small"].url, flush=True)
    time.sleep(3600)
"""


@dataclass(frozen=True)
class Servers:
    """The two running servers and the models they serve."""

    plan: Plan
    urls: dict[Author, str]
    client: int
    tokenizers: dict[Author, Any]

    @property
    def chats(self) -> dict[Author, ChatFormat]:
        return {role: ChatFormat(tokenizer=tokenizer) for role, tokenizer in self.tokenizers.items()}

    def endpoints(self) -> dict[Author, "Watched"]:
        return {
            role: Watched(url, role=role, tokenizer=self.tokenizers[role], api_key=KEY)
            for role, url in self.urls.items()
        }

    def trajectory(self, number: int, **policy: Any) -> Trajectory:
        problem = problems("test", 40)[number]
        row = Row(id=str(number), problem=problem.text, answer=problem.answer)
        variant = next(variant for variant in self.plan.variants if variant.method == "specreason")
        trajectory = self.plan.trajectory(variant, row, 0, self.chats)
        trajectory.policy = replace(variant.policy, **policy)
        return trajectory


class Watched(Endpoint):
    """An endpoint that remembers its requests for text and judgements, and the ids of each."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.payloads: list[dict[str, Any]] = []
        self.sent: list[tuple[str, list[int]]] = []
        call = self.transport.call

        def watched(verb: str, path: str, data: dict[str, Any] | None = None, **options: Any) -> Answer:
            if path == "/generate" and data is not None:
                self.payloads.append(data)
                kind = "select" if "token_ids_logprob" in data else "generate"
                self.sent.append((kind, orjson.loads(orjson.dumps(data["input_ids"]))))
            return call(verb, path, data, **options)

        self.transport.call = watched  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Both engines, held by a client that is killed with SIGKILL at the end: they must be gone 10 s later."""
    logs = tmp_path_factory.mktemp("engines")
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(logs), KEY], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert client.stdout is not None
    line = client.stdout.readline().split()
    assert len(line) == 2, "the engines did not start; their words are above"
    plan = resolve(Options(bench="demo", policy={}))
    yield Servers(
        plan=plan,
        urls={"base": line[0], "small": line[1]},
        client=client.pid,
        tokenizers={role: load_tokenizer(model) for role, model in plan.models.items()},
    )
    family = psutil.Process(client.pid).children(recursive=True)
    assert len(family) >= 6
    client.kill()
    client.wait()
    client.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


@pytest.mark.parametrize("method", ["specreason", "base", "small", "always"])
def test_every_method_solves_an_easy_problem_or_says_why_not(served: Servers, method: Method) -> None:
    trajectory = served.trajectory(0)
    run_trajectory(method, trajectory, served.endpoints())  # type: ignore[arg-type]
    assert trajectory.stop_reason == "think_end"
    assert "\\boxed{" in trajectory.answer
    assert not trajectory.truncated


@pytest.mark.parametrize("threshold", [0.0, 7.0, 9.0])
def test_every_prompt_extends_an_earlier_one_and_is_cached_up_to_the_last_step(
    served: Servers, threshold: float
) -> None:
    """What was sent is a prefix of what will be sent; only what is new is computed."""
    trajectory = served.trajectory(1, threshold=threshold, lookahead=0)
    endpoints = served.endpoints()
    for endpoint in endpoints.values():
        endpoint.flush_cache()
    run_trajectory("specreason", trajectory, endpoints)  # type: ignore[arg-type]
    for role, endpoint in endpoints.items():
        written = [ids for kind, ids in endpoint.sent if kind == "generate"]
        assert written
        final = written[-1]
        for ids in written:
            assert final[: len(ids)] == ids, role
    contexts = [""]
    for kept in trajectory.kept:
        contexts.append(contexts[-1] + kept.step.text)
    judged = iter([ids for kind, ids in endpoints["base"].sent if kind == "select"])
    accounts = iter([call.account for call in trajectory.calls if call.purpose == "judge"])
    base_prompt = trajectory.texts.prompts["base"]
    for number, kept in enumerate(trajectory.kept):
        if kept.judgement is None:
            continue
        ids, account = next(judged), next(accounts)
        context = endpoints["base"].ids(base_prompt + contexts[number])
        assert ids[: len(context)] == context
        last_step = len(endpoints["base"].ids(trajectory.kept[number - 1].step.text)) if number else len(context)
        assert account.cached_tokens >= len(context) - last_step - 1
    for purpose in ("draft", "regenerate"):
        calls = [call.account for call in trajectory.calls if call.purpose == purpose]
        for account in calls[1:]:
            assert account.cached_tokens >= account.prompt_tokens - 64 - 1
    first, *rest = [call.account for call in trajectory.calls if call.purpose == "draft"]
    assert first.cached_tokens == 0
    assert all(account.cached_tokens >= first.prompt_tokens - 1 for account in rest)


@pytest.mark.parametrize(("threshold", "lookahead"), [(0.0, 1), (7.0, 0), (7.0, 1), (7.0, 3), (9.0, 1)])
def test_nothing_is_computed_twice(served: Servers, threshold: float, lookahead: int) -> None:
    """Not cached of a judge's prompt: its step and turn; of a draft's: the last step, if base wrote it; of a rewrite's: a token.

    After the first request of each engine, and to the token.
    """
    requests = 0
    for number in range(10, 14):
        t = served.trajectory(number, threshold=threshold, lookahead=lookahead, min_step_tokens=0)
        t.cache_key = f"twice {threshold} {lookahead} {number}"
        endpoints = served.endpoints()
        run_trajectory("specreason", t, endpoints)  # type: ignore[arg-type]
        accounts = {
            purpose: iter([call.account for call in t.calls if call.purpose == purpose and not call.dropped])
            for purpose in ("draft", "judge", "regenerate")
        }
        for at, kept in enumerate(t.kept):
            assert kept.draft is not None
            draft, judge = next(accounts["draft"]), next(accounts["judge"])
            turn = t.texts.judge_closed if kept.draft.ending == "think_end" else t.texts.judge_open
            if at:
                before = t.kept[at - 1]
                last = len(endpoints["small"].ids(before.step.text)) if before.by == "base" else 0
                assert draft.cached_tokens >= draft.prompt_tokens - last - 1
                own = len(endpoints["base"].ids(kept.draft.text + turn))
                assert judge.cached_tokens >= judge.prompt_tokens - own - 1
            if kept.by == "base":
                rewrite = next(accounts["regenerate"])
                assert rewrite.cached_tokens >= rewrite.prompt_tokens - 1
            requests += 2 + (kept.by == "base")
    assert requests > 40


def test_looking_ahead_changes_no_decision_on_the_real_engine(served: Servers) -> None:
    """The same steps, authors and answers; what is dropped is at most one step for each rejection."""
    dropped = 0
    for number in range(20, 28):
        found = []
        for lookahead in (0, 1):
            t = served.trajectory(number, lookahead=lookahead)
            t.cache_key = f"ahead {lookahead}"
            run_trajectory("specreason", t, served.endpoints())  # type: ignore[arg-type]
            found.append(t)
        plain, ahead = found
        assert [(k.by, k.step.text) for k in ahead.kept] == [(k.by, k.step.text) for k in plain.kept]
        assert ahead.answer == plain.answer
        record = ahead.record()
        rejected = sum(kept.by == "base" for kept in ahead.kept)
        assert record["tokens_dropped"] <= rejected * ahead.policy.step_tokens
        assert sum(call.dropped for call in ahead.calls) <= rejected
        assert plain.record()["tokens_dropped"] == 0
        dropped += record["tokens_dropped"]
    assert dropped > 0


@pytest.mark.parametrize("early", [False, True])
def test_an_aborted_request_ends_on_the_server_and_leaves_its_account(served: Servers, early: bool) -> None:
    """By name, in the middle of writing or before it has begun: long before its limit, and the server goes on."""
    endpoint = served.endpoints()["base"]
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
    t = served.trajectory(0)
    run_trajectory("specreason", t, served.endpoints())  # type: ignore[arg-type]
    assert t.answer


def test_requests_say_how_urgent_they_are_where_the_server_serves_by_priority(served: Servers) -> None:
    """As the engines that we start do: a judge's request first, what may not be needed last."""
    endpoints = served.endpoints()
    run_trajectory("specreason", served.trajectory(1), endpoints)  # type: ignore[arg-type]
    found = {
        ("judge" if "token_ids_logprob" in data else "ahead" if "rid" in data else "needed", data["priority"])
        for endpoint in endpoints.values()
        for data in endpoint.payloads
    }
    assert found == {("judge", 2), ("needed", 1), ("ahead", 0)}


def test_the_judges_distribution_is_the_models_own(served: Servers) -> None:
    """Equal to teacher forcing with transformers in float32, within 0.01 of probability, with and without a cached prefix."""
    import torch
    from transformers import AutoModelForCausalLM

    trajectory = served.trajectory(2, threshold=0.0)
    endpoints = served.endpoints()
    run_trajectory("specreason", trajectory, endpoints)  # type: ignore[arg-type]
    model = AutoModelForCausalLM.from_pretrained(served.plan.models["base"], dtype=torch.float32).eval()
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
def test_a_steps_likelihood_is_the_models_own_and_the_context_stays_cached(served: Servers, judge: Any) -> None:
    """Each token's log-probability within 0.02 of transformers' in float32; all but the last token before the step is cached."""
    import torch
    from transformers import AutoModelForCausalLM

    rule, threshold = {"binary": ("p_yes", 0.0), "likelihood": ("min", -100.0)}.get(judge, ("greedy", 0.0))
    trajectory = served.trajectory(2, judge=judge, score_rule=rule, threshold=threshold)
    endpoints = served.endpoints()
    endpoints["base"].flush_cache()
    run_trajectory("specreason", trajectory, endpoints)  # type: ignore[arg-type]
    base, context = endpoints["base"], trajectory.texts.prompts["base"]
    model = AutoModelForCausalLM.from_pretrained(served.plan.models["base"], dtype=torch.float32).eval()
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


def test_salvage_mends_a_step_on_the_real_engine(served: Servers) -> None:
    """Of a wrong draft, the beginning that base agrees with stays, and base writes the rest."""
    salvaged, tokens = [], 0
    for number in range(8):
        trajectory = served.trajectory(number, salvage=True)
        run_trajectory("specreason", trajectory, served.endpoints())  # type: ignore[arg-type]
        record = trajectory.record()
        tokens += record["tokens_salvaged"]
        salvaged += [kept for kept in trajectory.kept if kept.salvaged]
        assert record["tokens_base"] + record["tokens_small_kept"] == record["thinking_tokens"]
    assert tokens > 0
    for kept in salvaged:
        assert kept.draft is not None
        assert kept.step.text != kept.draft.text
        assert kept.step.text[:2] == kept.draft.text[:2]


def test_several_drafts_are_judged_and_the_rest_is_recorded(served: Servers) -> None:
    """Three samples of one seed; the same again in another run."""

    def texts() -> list[str]:
        trajectory = served.trajectory(3, drafts=3, temperature=1.2, top_p=1.0)
        run_trajectory("specreason", trajectory, served.endpoints())  # type: ignore[arg-type]
        for kept in trajectory.kept:
            values = [trajectory.policy.value(judgement) for _, judgement in kept.others]
            assert len(values) == 2
            assert trajectory.policy.value(kept.judgement) >= max(values)
        drafts = [draft.text for kept in trajectory.kept for draft, _ in [(kept.draft, None), *kept.others] if draft]
        assert len(set(drafts)) > len(trajectory.kept)
        return drafts

    assert sorted(texts()) == sorted(texts())


def test_what_small_is_sure_of_saves_the_judge(served: Servers) -> None:
    drafts = judged = 0
    for number in range(4):
        trajectory = served.trajectory(number, gate="confident", gate_p=0.99)
        run_trajectory("specreason", trajectory, served.endpoints())  # type: ignore[arg-type]
        record = trajectory.record()
        assert all(0 < step["confidence"] <= 1 for step in record["steps"] if "confidence" in step)
        drafts, judged = drafts + record["drafts"], judged + record["judged"]
    assert 0 < judged < drafts


def test_methods_share_no_cache(served: Servers) -> None:
    """Or the second one on a problem would run on what the first one computed."""
    counts = []
    for key in ("one", "two", "two"):
        trajectory = served.trajectory(9)
        trajectory.cache_key = key
        run_trajectory("base", trajectory, served.endpoints())  # type: ignore[arg-type]
        counts.append(trajectory.calls[0].account.cached_tokens)
    assert counts[:2] == [0, 0]
    assert counts[2] > 50


def test_the_same_trajectory_twice_is_the_same_and_cached(served: Servers) -> None:
    first, second = served.trajectory(3), served.trajectory(3)
    for trajectory in (first, second):
        run_trajectory("specreason", trajectory, served.endpoints())  # type: ignore[arg-type]
    assert [k.step.text for k in first.kept] == [k.step.text for k in second.kept]
    answer = second.calls[-1].account
    assert answer.cached_tokens >= answer.prompt_tokens - 64


def test_a_template_that_rewrites_history_changes_nothing_once_rendered(served: Servers) -> None:
    """Qwen3's template puts a think block before a continued message; ours is rendered once and appended to."""
    tokenizers = {role: load_tokenizer(model) for role, model in served.plan.models.items()}
    for tokenizer in tokenizers.values():
        tokenizer.chat_template = QWEN3
    other = replace(served, tokenizers=tokenizers)
    trajectory = other.trajectory(4, threshold=9.0, first_n=1, lookahead=0)
    endpoints = other.endpoints()
    run_trajectory("specreason", trajectory, endpoints)  # type: ignore[arg-type]
    assert trajectory.texts.judge_open.count("<think>\n\n</think>") == 1
    for endpoint in endpoints.values():
        written = [ids for kind, ids in endpoint.sent if kind == "generate"]
        assert all(written[-1][: len(ids)] == ids for ids in written)
    text = tokenizers["base"].decode(endpoints["base"].sent[-1][1])
    assert text.count("<think>") == 1
    assert trajectory.texts.prompts["base"].endswith("<|im_start|>assistant\n<think>\n")


def test_the_budget_is_hard_on_the_real_engine(served: Servers) -> None:
    for method in ("specreason", "base"):
        trajectory = served.trajectory(5, budget_tokens=30)
        run_trajectory(method, trajectory, served.endpoints())  # type: ignore[arg-type]
        assert (trajectory.tokens_kept, trajectory.stop_reason) == (30, "budget")
        assert trajectory.answer


def test_many_trajectories_side_by_side_decide_as_alone(served: Servers) -> None:
    endpoints = served.endpoints()

    def run(number: int, threads: list[int]) -> list[str]:
        trajectory = served.trajectory(number)
        run_trajectory("specreason", trajectory, endpoints)  # type: ignore[arg-type]
        threads.append(threading.active_count())
        return [str(number), *(kept.step.text for kept in trajectory.kept)]

    before = threading.active_count()
    threads: list[int] = []
    alone = sorted(run(number, threads) for number in range(6))
    together = sorted(run_all(range(6), lambda number: run(number, threads), 6))
    assert together == alone
    assert max(threads) - before < 40


def test_an_empty_prompt_never_reaches_the_server(served: Servers) -> None:
    """It would kill the whole server process."""
    trajectory = served.trajectory(6)
    trajectory.texts.prompts["base"] = ""
    with pytest.raises(RequestError, match="an empty prompt"):
        run_trajectory("base", trajectory, served.endpoints())  # type: ignore[arg-type]


def test_a_request_that_the_server_refuses_ends_with_its_words(served: Servers) -> None:
    trajectory = served.trajectory(6, budget_tokens=10_000_000, step_tokens=10_000_000)
    with pytest.raises(RequestError, match=r"HTTP 400"):
        run_trajectory("base", trajectory, served.endpoints())  # type: ignore[arg-type]


def test_secrets_of_the_server_are_left_out(served: Servers) -> None:
    info = served.endpoints()["base"].server_info
    assert info["max_total_num_tokens"] > 0
    assert not [key for key in info if "api_key" in key]
    assert KEY not in json.dumps(info)


def test_engines_of_ours_listen_on_this_machine_only_and_want_their_key(served: Servers) -> None:
    for url in served.urls.values():
        for path in ("/generate", "/flush_cache", "/v1/completions"):
            assert urllib3.request("POST", url + path, json={}, timeout=5.0, retries=False).status == 401
    ours = [p for p in psutil.Process(served.client).children(recursive=True) if p.is_running()]
    listening = {p: [c.laddr.ip for c in p.net_connections() if c.status == psutil.CONN_LISTEN] for p in ours}
    assert any(listening.values())
    # torch's own meeting point of a model's processes, one for each engine, binds every address: nothing tells it otherwise
    elsewhere = [p.name() for p, addresses in listening.items() for ip in addresses if ip != "127.0.0.1"]
    assert len(elsewhere) <= len(served.urls)
    assert all(name.startswith("sglang::sch") for name in elsewhere)
    assert not [p for p in ours if KEY in " ".join(p.cmdline())]


def run_eval(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sgl_specreason.eval", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)


def attach(served: Servers) -> list[str]:
    return ["--bench", "demo", "--base-url", served.urls["base"], "--small-url", served.urls["small"], "--api-key", KEY]


def test_the_whole_command_on_running_servers(served: Servers, tmp_path: Path) -> None:
    done = run_eval(*attach(served), "--limit", "4", "--concurrency", "2", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.split("Run folder: ")[1].strip())
    group = json.loads((folder / "summary.json").read_text())
    assert set(group["methods"]) == {"specreason", "base", "small"}
    wanted = [
        "bench",
        "method",
        "pair",
        "preset",
        "n",
        "samples",
        "accuracy",
        "accuracy_se",
        "accuracy_ci95",
        "latency_mean_s",
        "latency_p50_s",
        "latency_p95_s",
        "throughput_problems_per_s",
        "concurrency",
        "budget_tokens",
        "steps",
        "accepted_steps",
        "offloaded_steps_share",
        "offloaded_tokens_share",
        "thinking_tokens_mean",
        "tokens_base",
        "tokens_small",
        "tokens_discarded",
        "judge_requests",
        "prompt_tokens",
        "cached_tokens",
        "cached_share",
        "truncated_share",
        "no_answer_share",
        "failed",
        "partial",
        "conditions",
    ]
    for method, summary in group["methods"].items():
        assert [key for key in wanted if key not in summary] == []
        assert (summary["n"], summary["failed"], summary["partial"]) == (4, 0, False)
        run = next(path for path in folder.iterdir() if path.name.startswith(f"demo-{method}-"))
        own = json.loads((run / "summary.json").read_text())
        assert own == {key: value for key, value in summary.items() if key != "vs_base"}
        lines = (run / "trajectories.jsonl").read_text().splitlines()
        assert len(lines) == 4
        assert method in done.stdout
        assert str(Path.home()) not in lines[0]
    base, spec = group["methods"]["base"], group["methods"]["specreason"]
    assert base["judge_requests"] == 0 < spec["judge_requests"]
    assert base["tokens_small"] == 0 < spec["tokens_small"]
    record = json.loads(lines[0])
    assert {"purpose", "prompt_tokens", "cached_tokens", "completion_tokens", "seconds"} <= record["requests"][0].keys()


def test_concurrency_is_measured_where_that_is_asked_for(served: Servers, tmp_path: Path) -> None:
    """The number found is what the run says and is begun with; going on takes it over without measuring again."""
    words = [*attach(served), "--method", "specreason", "--limit", "3", "--out", str(tmp_path), "--concurrency", "auto"]
    done = run_eval(*words)
    assert done.returncode == 0, done.stderr
    found = int(done.stderr.split("concurrency auto: ")[1].split()[0])
    assert 1 <= found <= 3
    (folder,) = tmp_path.iterdir()
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["concurrency"] == found
    assert config["tokens_per_s_by_concurrency"].keys() >= {"1", "2"}
    assert json.loads((folder / "summary.json").read_text())["concurrency"] == found
    lines = (folder / "trajectories.jsonl").read_text().splitlines(keepends=True)
    (folder / "trajectories.jsonl").write_text(lines[0])
    again = run_eval(*words, "--resume", str(folder))
    assert again.returncode == 0, again.stderr
    assert "concurrency auto" not in again.stderr
    measured = json.loads((folder / "config.json").read_text())["tokens_per_s_by_concurrency"]
    assert measured == config["tokens_per_s_by_concurrency"]
    assert len((folder / "trajectories.jsonl").read_text().splitlines()) == 3


def test_a_sweep_has_a_folder_for_each_point_and_is_resumed(served: Servers, tmp_path: Path) -> None:
    grid = tmp_path / "mine.toml"
    grid.write_text('title = "two"\nmethods = ["base", "specreason"]\n[grid]\nthreshold = [0, 9]\n')
    words = [*attach(served), "--sweep", str(grid), "--limit", "2", "--out", str(tmp_path)]
    done = run_eval(*words)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.split("Run folder: ")[1].strip())
    assert folder.name.startswith("demo-sweep-mine-")
    found = {path.name: path for path in folder.iterdir() if (path / "trajectories.jsonl").exists()}
    assert len(found) == 3
    assert "specreason threshold=9" in done.stdout
    summary = json.loads((folder / "summary.json").read_text())
    assert [run.get("knobs") for run in summary["runs"]] == [None, {"threshold": 0}, {"threshold": 9}]
    one = next(path for name, path in found.items() if "base" not in name)
    lines = (one / "trajectories.jsonl").read_text().splitlines()
    (one / "trajectories.jsonl").write_text(lines[0] + "\n")
    again = run_eval(*words, "--resume", str(folder))
    assert again.returncode == 0, again.stderr
    texts = [[step["text"] for step in json.loads(line)["steps"]] for line in lines]
    resumed = (one / "trajectories.jsonl").read_text().splitlines()
    assert [[step["text"] for step in json.loads(line)["steps"]] for line in resumed] == texts
    grid.write_text('title = "two"\nmethods = ["base", "specreason"]\n[grid]\nthreshold = [0, 8]\n')
    refused = run_eval(*words, "--resume", str(folder))
    assert refused.returncode != 0
    assert "policy.threshold" in refused.stderr


def test_a_sampled_trajectory_is_the_same_again_and_another_seed_is_not(served: Servers) -> None:
    """The seed reaches the engines' samplers: a function of (seed, problem, sample), whatever ran before or runs beside."""

    def texts(seed: int) -> list[str]:
        trajectory = served.trajectory(8, temperature=1.5, top_p=1.0, threshold=0.0)
        trajectory.sampling_seed = seed
        run_trajectory("specreason", trajectory, served.endpoints())  # type: ignore[arg-type]
        return [kept.step.text for kept in trajectory.kept]

    once, other, again = texts(1), texts(2), texts(1)
    assert once == again
    assert once != other


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_is_saved_and_resumed(served: Servers, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C leaves a partial summary, SIGKILL nothing but finished records; either way the rest is run and nothing twice."""
    words = [*attach(served), "--method", "base", "--limit", "12", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "sgl_specreason.eval", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while time.monotonic() < until and not [f for f in tmp_path.glob("*/trajectories.jsonl") if f.stat().st_size]:
        time.sleep(0.05)
    process.send_signal(number)
    _, words_of_end = process.communicate(timeout=30)
    (folder,) = tmp_path.iterdir()
    if number == signal.SIGINT:
        assert process.returncode == 130, words_of_end
        assert "--resume" in words_of_end
        assert json.loads((folder / "summary.json").read_text())["partial"] is True
    before = (folder / "trajectories.jsonl").read_text().splitlines(keepends=True)
    if number == signal.SIGKILL:
        (folder / "trajectories.jsonl").write_text(
            "".join(before) + '{"problem_id": "demo-0'
        )  # a line cut off in writing
    assert 0 < len(before) < 12

    refused = run_eval(*words, "--seed", "5", "--resume", str(folder))
    assert refused.returncode == 2
    assert "seed: 0 then, 5 now" in refused.stderr
    done = run_eval(*words, "--resume", str(folder))
    assert done.returncode == 0, done.stderr
    assert ("the last line was torn" in done.stderr) is (number == signal.SIGKILL)
    after = (folder / "trajectories.jsonl").read_text().splitlines(keepends=True)
    assert after[: len(before)] == before
    keys = [json.loads(line)["problem_id"] for line in after]
    assert sorted(keys) == [f"demo-{n:03d}" for n in range(1, 13)]
    assert json.loads((folder / "summary.json").read_text())["partial"] is False


def test_the_whole_command_with_its_own_engines_leaves_none_behind(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.process_iter()}
    key = "a key that nobody may read"
    words = ["--bench", "demo", "--method", "specreason", "--limit", "2", "--out", str(tmp_path / "runs")]
    done = run_eval(*words, env=os.environ | {"SPECREASON_API_KEY": key})
    assert done.returncode == 0, done.stderr
    assert key not in done.stdout + done.stderr
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file() and key in path.read_text()]
    (folder,) = (tmp_path / "runs").iterdir()
    assert {path.name for path in (folder / "logs").iterdir()} == {"base.log", "small.log"}
    config = json.loads((folder / "config.json").read_text())
    assert config["server_info"]["base"]["attention_backend"]
    left = [p for p in psutil.process_iter(["cmdline", "name"]) if p.pid not in before and "sglang" in str(p.info)]
    _, alive = psutil.wait_procs(left, timeout=10)
    assert alive == []


def test_an_engine_that_answers_no_more_fails_the_trajectory_and_not_the_run(served: Servers, tmp_path: Path) -> None:
    """A failed trajectory is counted and named; the command ends with 1, and the others are there."""
    endpoints = served.endpoints()
    endpoints["small"].stop()
    trajectory = served.trajectory(7)
    with pytest.raises(RequestError, match="small: the run was stopped"):
        run_trajectory("specreason", trajectory, endpoints)  # type: ignore[arg-type]
    assert servers.probe(served.urls["small"], KEY) is not None


def test_a_small_context_is_found_before_the_run_and_truncates_what_outgrows_it(tmp_path: Path) -> None:
    """Engines with a context of 200 tokens: what we hold to be their limits is so to the token."""
    plan = resolve(Options(bench="demo", policy={}))
    specs = [replace(spec, args=(*spec.args, "--context-length", "200"), api_key=KEY) for spec in plan.specs]
    with servers.started(specs, tmp_path / "logs", say=lambda line: None) as running:
        urls = {role: engine.url for role, engine in running.items()}
        words = ["--bench", "demo", "--limit", "3", "--method", "specreason", "--answer-tokens", "20"]
        words += ["--base-url", urls["base"], "--small-url", urls["small"], "--out", str(tmp_path / "runs")]
        refused = run_eval(*words, env=os.environ | {"SPECREASON_API_KEY": KEY})
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: problem demo-00")
        assert "which holds 200" in refused.stderr
        assert "a larger --context-length of" in refused.stderr
        assert not (tmp_path / "runs").exists()
        fitting = refused.stderr.split("; --budget-tokens ")[1].split()[0]
        done = run_eval(*words, "--budget-tokens", fitting, env=os.environ | {"SPECREASON_API_KEY": KEY})
        assert done.returncode == 0, done.stderr
        (folder,) = (tmp_path / "runs").iterdir()
        lines = [json.loads(line) for line in (folder / "trajectories.jsonl").read_text().splitlines()]
        assert len(lines) == 3
        assert "context" not in [line["stop_reason"] for line in lines]

        served = Servers(
            plan=plan,
            urls=urls,
            client=0,
            tokenizers={role: load_tokenizer(model) for role, model in plan.models.items()},
        )
        engines = served.endpoints()
        grown = served.trajectory(3, answer_tokens=20)
        run_trajectory("specreason", grown, engines)  # type: ignore[arg-type]
        assert (grown.stop_reason, grown.truncated) == ("context", True)
        assert 0 < grown.tokens_kept < 200
        with pytest.raises(ContextFull, match="HTTP 400"):
            run_trajectory("base", served.trajectory(3), engines)  # type: ignore[arg-type]

        holds = limits.served(running)["base"].tokens
        assert holds == 200

        @sgl.function  # type: ignore[untyped-decorator]
        def text(s: Any, prompt: str, tokens: int) -> None:
            s += prompt + sgl.gen("text", max_tokens=tokens, temperature=0, ignore_eos=True)

        @sgl.function  # type: ignore[untyped-decorator]
        def judgement(s: Any, prompt: str) -> None:
            s += prompt + sgl.select("digit", choices=list(DIGITS))

        def prompt(tokens: int) -> str:
            words = "Start from 7"
            while len(engines["base"].ids(words)) < tokens:
                words += "7"
            assert len(engines["base"].ids(words)) == tokens
            return words

        def written(tokens: int) -> int:
            state = text.run(prompt=prompt(100), tokens=tokens, backend=engines["base"], use_thread=False)
            return int(state.get_meta_info("text")["account"].completion_tokens)

        most = holds - 100 - limits.TOTAL_SPARE
        assert (written(most), written(most + 1)) == (most, most)
        judgement.run(prompt=prompt(holds - limits.INPUT_SPARE), backend=engines["base"], use_thread=False)
        with pytest.raises(ContextFull):
            judgement.run(prompt=prompt(holds - limits.INPUT_SPARE + 1), backend=engines["base"], use_thread=False)
