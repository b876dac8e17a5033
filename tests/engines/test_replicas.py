"""Replicas behind SGLang's own router: the real router before stub engines. `test_real_replicas.py` has the real engines."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from checkout import ROOT
from click.testing import CliRunner
from fake_engine import CharTokenizer, FakeEngine, Payload, Raw, Script, digits

from sgl_specreason.engines import replicas, servers, startup
from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.engines.keeper import Engine, Keeper
from sgl_specreason.engines.replicas import RouterSpec
from sgl_specreason.engines.servers import EngineSpec, cpu_args
from sgl_specreason.engines.transport import Asked, Health, Transport
from sgl_specreason.errors import EngineGone, RequestError, UsageError
from sgl_specreason.eval import main
from sgl_specreason.method.program import run_trajectory
from sgl_specreason.method.trajectory import Texts, Trajectory
from sgl_specreason.plan import gpus
from sgl_specreason.plan.catalog import build_policy
from sgl_specreason.plan.gpus import Gpu
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.plan import Plan
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.text.steps import Author

KEY = "a key of the tests, long enough to be looked for"
STUB = """
import http.server, json, os, sys, time
key = os.environ.pop("SPECREASON_ENGINE_KEY")
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    def do_GET(self):
        self.reply({"model_path": "stub", "pid": os.getpid()})
    def do_POST(self):
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}")
        if payload.get("too_long") or payload.get("lora_path") == "too long":
            self.reply({"error": "too long"}, 400)
            return
        time.sleep(payload.get("priority", 0))
        self.reply({"pid": os.getpid()})
    def reply(self, content, status=200):
        if self.path != "/health" and self.headers["Authorization"] != f"Bearer {key}":
            status = 401
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): ...
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> EngineSpec:
    """How two stub engines are started."""
    monkeypatch.setattr(EngineSpec, "command", lambda self, port, module="": [sys.executable, "-c", STUB, str(port)])
    return EngineSpec(role="base", model="stub", api_key=KEY, replicas=2)


def transport(engine: Engine) -> Transport:
    return Transport(engine.url, role="base", api_key=engine.api_key, connections=4, timeout_s=30, health=engine.health)


def ask(client: Transport, key: str, **fields: Any) -> tuple[int, int]:
    """Which process answers a request of this key, and after how many retries."""
    data = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 1}} | fields
    content, retries = client.call("POST", "/generate", data, patient=True, key=key)
    return content["pid"], retries


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children() -> list[psutil.Process]:
    return psutil.Process(os.getpid()).children(recursive=True)


def pid_at(url: str) -> int:
    return int(servers.said(url, "/get_model_info", KEY)["pid"])


def router_process() -> psutil.Process:
    """The router itself, not its guard."""
    (found,) = [p for p in children() if p.cmdline()[1:3] == ["-m", "sgl_specreason.engines.route"]]
    return found


def test_requests_of_a_key_stay_on_one_replica_and_keys_spread_over_both(stubs: EngineSpec, tmp_path: Path) -> None:
    """Nothing listens anywhere but on this machine, the key is in no listing of processes and no log, and nothing is left."""
    before = {process.pid for process in children()}
    with startup.started([stubs], tmp_path, say=lambda line: None) as running:
        engine = running["base"]
        client = transport(engine)
        assert engine.replicas == len(engine.workers) == 2
        homes = {f"key {number}": ask(client, f"key {number}")[0] for number in range(24)}
        for _ in range(3):
            assert {key: ask(client, key)[0] for key in homes} == homes
        assert set(homes.values()) == {pid_at(url) for url in engine.workers}
        with pytest.raises(RequestError, match="401"):
            ask(Transport(engine.url, role="base", api_key="wrong", connections=1, timeout_s=5), "key")
        mine = [process for process in children() if process.pid not in before]
        listening = [c for p in mine for c in p.net_connections("all") if c.status == psutil.CONN_LISTEN and c.laddr]
        assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}
        assert len(listening) == 4  # two engines, the router, its metrics
        assert len(mine) == 6
        for process in mine:
            assert KEY not in " ".join(process.cmdline())
        client.stop()
    assert KEY not in repr(running)
    _, alive = psutil.wait_procs(mine, timeout=10)
    assert alive == []
    logs = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(logs) == {"base-1.log", "base-2.log", "base-router.log"}
    assert not any(KEY in text for text in logs.values())
    assert "huggingface.co" not in logs["base-router.log"]  # it looks for its replicas' tokenizer


@pytest.mark.slow
def test_a_replica_that_dies_loses_nothing_and_comes_back(stubs: EngineSpec, tmp_path: Path) -> None:
    """What it was answering is asked of the other one, and counted; started again on its port, it has its keys again."""
    said: list[str] = []
    with startup.started([stubs], tmp_path, say=said.append) as running:
        engine = running["base"]
        client = transport(engine)
        url = engine.workers[0]
        first, other = map(pid_at, engine.workers)
        key = next(f"key {number}" for number in range(100) if ask(client, f"key {number}")[0] == first)
        os.kill(first, signal.SIGKILL)
        answered_by, retries = ask(client, key)
        assert retries >= 1
        assert answered_by != first
        until(lambda: sum("ready after" in line for line in said) == 4)
        again = pid_at(url)
        assert again not in (first, other)
        until(lambda: ask(client, key)[0] == again)
        client.stop()
    assert [line.split(";")[0] for line in said if "died" in line] == ["the base-1 engine died (code 137)"]


def test_a_router_that_dies_is_started_again_on_its_port(stubs: EngineSpec, tmp_path: Path) -> None:
    said: list[str] = []
    with startup.started([stubs], tmp_path, say=said.append) as running:
        client = transport(running["base"])
        router_process().kill()
        pid, retries = ask(client, "key")
        assert pid in {pid_at(url) for url in running["base"].workers}
        assert retries >= 1
        client.stop()
    assert [line.split(";")[0] for line in said if "died" in line] == ["the base router died (code 137)"]


@pytest.mark.slow
def test_without_any_replica_left_requests_wait_and_then_end_with_the_reason(stubs: EngineSpec, tmp_path: Path) -> None:
    with startup.started([stubs], tmp_path, say=lambda line: None, restarts=0) as running:
        engine = running["base"]
        client = transport(engine)
        first, second = map(pid_at, engine.workers)
        os.kill(first, signal.SIGKILL)
        ask(client, "key")
        assert engine.health.lost is None
        os.kill(second, signal.SIGKILL)
        with pytest.raises(EngineGone, match=r"the base-\d engine died \(code 137\) after 0 restarts"):
            ask(client, "key")
        client.stop()


def test_requests_that_are_refused_do_not_take_a_replica_out(stubs: EngineSpec, tmp_path: Path) -> None:
    """The router's circuit breaker counts a client's mistakes as the replica's: it is off."""
    with startup.started([stubs], tmp_path, say=lambda line: None) as running:
        client = transport(running["base"])
        home, _ = ask(client, "key")
        for _ in range(30):
            with pytest.raises(RequestError, match="400"):
                ask(client, "key", lora_path="too long")
        assert ask(client, "key") == (home, 0)
        client.stop()


Start = Callable[[Script], FakeEngine]
TEXTS = Texts(
    prompts={"base": "What is 2 + 2? B:", "small": "What is 2 + 2? S:"},
    judge_open="[SCORE]",
    judge_closed="[SCORE, CLOSED]",
    binary_open="[YES OR NO]",
    binary_closed="[YES OR NO, CLOSED]",
    close="Time is up.</think>\n\n",
    think_end="</think>",
)


@pytest.fixture
def routed(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Starts the real router before scripted engines."""
    keepers: list[Keeper] = []

    def start(*workers: FakeEngine, policy: Any = "manual") -> Engine:
        urls = tuple(worker.url for worker in workers)
        spec = RouterSpec(role="base", model="fake", workers=urls, api_key=KEY, policy=policy)
        log = tmp_path / f"router-{len(keepers)}.log"
        keeper = Keeper(spec=spec, log=log, say=lambda line: None, timeout_s=60, restarts=0)
        keepers.append(keeper)
        engine = keeper.start()
        until(lambda: servers.said(engine.url, "/readiness").get("healthy_workers") == len(workers))
        return engine

    yield start
    for keeper in keepers:
        keeper.close()


def judge(prompt: str, payload: Payload) -> Any:
    """Says yes to whatever it is asked, and writes an answer."""
    labels = payload.get("token_ids_logprob")
    return digits(9)[: len(labels)] if labels else "The answer is \\boxed{4}.\x03"


def drafter(prompt: str, payload: Payload) -> str:
    return "That is four.</think>" if "Two and two," in prompt else "Two and two, which is the sum.\n\n"


def endpoint(url: str, role: Author, workers: tuple[str, ...] = ()) -> Endpoint:
    return Endpoint(url, role=role, tokenizer=CharTokenizer(), api_key=KEY, workers=workers)


def attempt(endpoints: dict[Author, Endpoint], number: int = 0, **policy: Any) -> Trajectory:
    trajectory = Trajectory(
        problem_id=f"p-{number}",
        sample=0,
        sampling_seed=7,
        policy=build_policy({"temperature": 0.6, "top_p": 0.95} | policy),
        texts=TEXTS,
        cache_key="variant",
    )
    run_trajectory("specreason", trajectory, endpoints)
    return trajectory


@pytest.mark.parametrize(
    "policy",
    [
        {"judge": "score", "lookahead": 1},
        {"judge": "score+likelihood", "salvage": True, "lookahead": 0},
        {"judge": "binary", "gate": "confident", "gate_threshold": 0.99},
        {"judge": "likelihood", "drafts": 2, "lookahead": 0},
    ],
    ids=lambda policy: policy["judge"],
)
def test_the_router_passes_on_all_that_our_requests_hold(
    fake_engine: Start, routed: Callable[..., Engine], policy: dict[str, Any]
) -> None:
    """Every field of every request of a trajectory arrives as it was sent, and priorities are sent."""
    info = {"enable_priority_scheduling": True}
    base, small = fake_engine(judge), fake_engine(drafter)
    base.info = small.info = info
    endpoints: dict[Author, Endpoint] = {
        "base": endpoint(routed(base).url, "base", (base.url,)),
        "small": endpoint(routed(small).url, "small", (small.url,)),
    }
    sent: dict[Author, list[Payload]] = {"base": [], "small": []}
    for role, one in endpoints.items():
        exchange = one.transport._exchange

        def recorded(asked: Asked, role: Author = role, go: Any = exchange) -> Any:
            if asked.path == "/generate":
                sent[role].append(json.loads(asked.body or b""))
            return go(asked)

        one.transport._exchange = recorded  # type: ignore[method-assign]
    assert attempt(endpoints, **policy).stop_reason == "think_end"
    for one in endpoints.values():
        one.stop()
    for role, engine in (("base", base), ("small", small)):
        assert len(engine.requests) == len(sent[role]) > 0  # type: ignore[index]
        unmatched = list(engine.requests)
        for payload in sent[role]:  # type: ignore[index]
            (arrived, *_) = [got for got in unmatched if _holds(got, payload)]
            unmatched.remove(arrived)
    fields = {key for payload in sent["base"] + sent["small"] for key in payload}
    assert {"input_ids", "sampling_params", "extra_key", "priority"} <= fields


def _holds(got: Payload, sent: Payload) -> bool:
    """Whether all of `sent` is in `got`; the router adds fields of its own."""
    return all(
        key in got and (_holds(got[key], value) if isinstance(value, dict) else got[key] == value)
        for key, value in sent.items()
    )


def test_the_table_of_what_the_router_drops_is_true(fake_engine: Start, routed: Callable[..., Engine]) -> None:
    """Each row of docs/cluster.md is sent through it."""
    rows = re.findall(
        r"^\| `([\w.]+)` \| (passed|dropped) \|", (ROOT / "docs" / "cluster.md").read_text(), re.MULTILINE
    )
    said = dict(rows)
    assert len(said) == len(rows) > 20
    values: Payload = {
        "input_ids": [1, 2], "rid": "r", "extra_key": "k", "priority": 2, "return_logprob": True, "logprob_start_len": 1,
        "token_ids_logprob": [48], "top_logprobs_num": 2, "lora_path": "l", "session_params": {"id": "s"},
        "custom_logit_processor": "c", "sampling_params.max_new_tokens": 0, "sampling_params.temperature": 0.5,
        "sampling_params.top_p": 0.9, "sampling_params.top_k": 20, "sampling_params.min_p": 0.1,
        "sampling_params.stop": ["x"], "sampling_params.stop_token_ids": [7], "sampling_params.sampling_seed": 77,
        "sampling_params.ignore_eos": True, "sampling_params.no_stop_trim": True, "sampling_params.regex": "a",
        "sampling_params.skip_special_tokens": False, "sampling_params.spaces_between_special_tokens": False,
        "sampling_params.stop_regex": "x", "sampling_params.logit_bias": {"5": 1.0}, "sampling_params.custom_params": {},
        "sampling_params.min_new_tokens": 3, "unknown": 1,
    }  # fmt: skip
    assert set(said) == set(values)
    payload: Payload = {"sampling_params": {}}
    for name, value in values.items():
        scope, _, field = name.rpartition(".")
        (payload[scope] if scope else payload)[field] = value
    worker = fake_engine(lambda prompt, payload: Raw(200, b'{"text": "", "meta_info": {}}'))
    client = transport(routed(worker))
    client.call("POST", "/generate", payload, key="key")
    client.stop()
    (got,) = worker.requests
    for name, value in values.items():
        scope, _, field = name.rpartition(".")
        found = (got[scope] if scope else got).get(field)
        assert ("passed" if found == value else "dropped") == said[name], name


def test_trajectories_stay_together_and_are_shared_out_where_cache_aware_sends_all_to_one_replica(
    fake_engine: Start, routed: Callable[..., Engine]
) -> None:
    """Their prompts begin alike, which is all that `cache_aware` looks at; `round_robin` takes no heed of them."""
    spread = {}
    for policy in ("manual", "cache_aware", "round_robin"):
        workers = [fake_engine(judge), fake_engine(judge)]
        base, small = endpoint(routed(*workers, policy=policy).url, "base"), fake_engine(drafter)
        endpoints: dict[Author, Endpoint] = {"base": base, "small": endpoint(small.url, "small")}
        homes = []
        for number in range(16):
            before = [len(worker.requests) for worker in workers]
            attempt(endpoints, number, lookahead=0)
            after = [len(worker.requests) for worker in workers]
            homes.append(tuple(now - then for now, then in zip(after, before, strict=True)))
        split = sum(min(counts) > 0 for counts in homes)
        spread[policy] = (split, sum(worker.requests != [] for worker in workers))
        for one in endpoints.values():
            one.stop()
    assert spread == {"manual": (0, 2), "cache_aware": (0, 1), "round_robin": (16, 2)}


def test_what_the_router_has_no_route_for_is_asked_of_each_replica(
    fake_engine: Start, routed: Callable[..., Engine]
) -> None:
    workers = [fake_engine(judge), fake_engine(judge)]
    for worker in workers:
        worker.info = {"enable_priority_scheduling": True}
        worker.refusals = 2
    engine = routed(*workers)
    base = endpoint(engine.url, "base", tuple(worker.url for worker in workers))
    assert base.server_info["enable_priority_scheduling"] is True
    base.flush_cache()
    assert [worker.refusals for worker in workers] == [0, 0]
    base.abort("a name", iter([False, True]).__next__)
    until(lambda: [worker.aborts for worker in workers] == [["a name"]] * 2)
    workers[0].close()
    base.flush_cache()  # one that is down has no cache
    again = endpoint(engine.url, "base", tuple(worker.url for worker in workers))
    assert again.server_info["enable_priority_scheduling"] is True
    base.stop()
    again.stop()


def test_no_key_that_a_server_tells_is_recorded(fake_engine: Start) -> None:
    """SGLang 0.5.23 tells its key three times: config.json held two of them."""
    engine = fake_engine(judge)
    engine.info = {
        "launch_command": f"--model-path m --api-key '{KEY}' --admin-api-key other-secret --port 1",
        "internal_states": [{"api_key": KEY, "admin_api_key": "other-secret", "tokens": 5}],
        "note": f"Bearer {KEY}",
    }
    one = endpoint(engine.url, "base")
    one.stop()
    said = json.dumps(one.server_info)
    assert KEY not in said
    assert "secret" not in said
    assert one.server_info["internal_states"] == [{"tokens": 5}]
    assert one.server_info["launch_command"] == "--model-path m --api-key [key] --admin-api-key [key] --port 1"


def test_a_running_router_is_attached_with_its_replicas(fake_engine: Start, routed: Callable[..., Engine]) -> None:
    workers = [fake_engine(judge), fake_engine(judge)]
    url = routed(*workers).url
    engine = replicas.attached("base", url + "/", KEY, Health())
    assert sorted(engine.workers) == sorted(worker.url for worker in workers)
    assert (engine.replicas, engine.model) == (2, "fake")
    assert replicas.unknown(engine) is None
    workers[0].close()
    deadline = time.monotonic() + 20
    while (
        servers.said(url, "/readiness").get("healthy_workers") != 1
    ):  # until then it may ask the dead one for its model
        assert time.monotonic() < deadline
        time.sleep(0.1)
    engine = replicas.attached("base", url, KEY, Health())
    assert (engine.replicas, engine.workers) == (2, ())
    assert "cannot be reached from here" in str(replicas.unknown(engine))
    single = replicas.attached("base", workers[1].url, KEY, Health())
    assert (single.replicas, single.workers) == (1, ())


CARDS = [Gpu(name="a card", memory_gb=80, capability=(9, 0))] * 4


def spec(*args: str) -> EngineSpec:
    return EngineSpec(role="base", model="m", args=args, api_key=KEY)


def test_each_replica_has_the_cards_of_its_own_group() -> None:
    pair = gpus.of_one_replica(CARDS, {"base": 2, "small": 1})
    assert len(pair) == 2
    found = replicas.copies(replicas.spread(spec("--tp-size", "2"), 2, len(pair)))
    assert [one.name for one in found] == ["base-1", "base-2"]
    assert [one.args[-2:] for one in found] == [("--base-gpu-id", "0"), ("--base-gpu-id", "2")]
    beside = replicas.copies(replicas.spread(spec("--base-gpu-id", "1"), 2, 2))
    assert [one.args[-2:] for one in beside] == [("--base-gpu-id", "1"), ("--base-gpu-id", "3")]
    assert [one.args for one in replicas.copies(replicas.spread(spec(*cpu_args(10)), 2, 0))] == [cpu_args(10)] * 2


def test_a_group_is_reckoned_with_the_fullest_of_its_cards() -> None:
    cards = [Gpu(name="a", memory_gb=80, free_gb=free) for free in (79, 78, 40, 77)]
    assert [card.free_gb for card in gpus.of_one_replica(cards, {"base": 2, "small": 2})] == [40, 77]


@pytest.mark.parametrize(
    ("args", "count", "cards", "words"),
    [
        (["--tp", "4"], 2, 2, "spread it over 4 cards"),
        (["--tp-size=2", "--data-parallel-size", "2"], 1, 2, "spread it over 4 cards"),
        (["--tp-size", "2", "--base-gpu-id", "1"], 1, 2, "up to card 2"),
        (["--tp-size", "3", "--nnodes", "2"], 1, 8, "cannot share evenly"),
        (["--tp-size", "8", "--nnodes", "2"], 2, 8, "start such engines yourself"),
        (["--dp-size", "2", "--nnodes", "2"], 1, 8, "no --dp-size over several machines"),
    ],
)
def test_parallelism_that_cannot_be_is_refused(args: list[str], count: int, cards: int, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        replicas.spread(spec(*args), count, cards)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--base-replicas", "0"], "--base-replicas 0: must be from 1 to 64"),
        (["--small-replicas", "65"], "--small-replicas 65"),
        (["--base-replicas", "2", "--base-url", "http://a:1", "--small-url", "http://a:2"], "give a running router"),
        (["--gpus", "2xH100-80", "--pair", "qwen3-8b+qwen3-0.6b", "--base-replicas", "3", "--dry-run"], "there are 2"),
    ],
)
def test_wrong_numbers_of_replicas_are_refused_in_one_line(words: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["--bench", "demo", *words])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_the_router_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=re.escape("pip install -e '.[cluster]'")):
        resolve(Options(bench="demo", base_replicas=2, policy={}))


def test_a_dry_run_shows_every_replica_the_router_and_other_machines(tmp_path: Path) -> None:
    """What it prints for a second machine is what to start there; keys are not in it."""
    result = CliRunner().invoke(main, ["--bench", "demo", "--dry-run", "--base-replicas", "2", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("-m sglang.launch_server") == 3
    assert result.stdout.count("-m sglang_router.launch_router") == 1
    assert "replicas: 1 of small, 2 of base" in result.stdout
    wide = replicas.spread(spec("--tp-size", "16", "--nnodes", "2", "--dist-init-addr", "a:5000"), 1, 8)
    first, second = replicas.commands(wide)
    assert "--node-rank" not in first
    assert second.startswith("on machine 1 of base, by hand: ")
    assert second.endswith("--dist-init-addr a:5000 --node-rank 1")
    assert KEY not in first + second + result.stdout


def plans(**options: Any) -> Plan:
    return resolve(Options(bench="demo", methods=("base",), policy={}, **options))


def test_the_number_of_replicas_is_a_setting_and_a_condition() -> None:
    """Runs of one engine are named as before; others do not compare with them."""
    one, two = plans(), plans(base_replicas=2)
    assert "replicas" not in one.settings(one.variants[0])
    assert two.settings(two.variants[0])["replicas"] == {"small": 1, "base": 2}
    assert two.conditions()["replicas"] == {"small": 1, "base": 2}
    assert one.name(one.variants) != two.name(two.variants)
