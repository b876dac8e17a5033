"""Budgets hard to the token, what does not fit an engine's context, and what becomes of a trajectory that outgrows it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_engine import FakeEngine, Payload, Raw, prompt_of
from fake_pair import WRITTEN, Pair, Start, frontend_threads, thought
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_specreason.engines import startup
from sgl_specreason.engines.servers import EngineSpec
from sgl_specreason.errors import ContextFull, RequestError, UsageError
from sgl_specreason.eval import main
from sgl_specreason.method.policy import Method
from sgl_specreason.plan import limits
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.plan import Plan
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.steps import Author
from sgl_specreason.text.tokenizers import load_tokenizer

TOO_LONG = "The input ({} tokens) is longer than the model's context length ({} tokens)."
TOO_MUCH = (
    "Requested token count exceeds the model's maximum context length of {} tokens. You requested a total of {} tokens: "
    "{} tokens from the input messages and {} tokens for the completion."
)
OVER_MAXIMUM = "Input length ({} tokens) exceeds the maximum allowed length ({} tokens). Use a shorter input."


def narrow(engine: FakeEngine, context: int) -> None:
    """Gives a scripted engine a context: it refuses and cuts as SGLang does (tokenizer_manager.py, scheduler.py of 0.5.23)."""
    script = engine.script

    def refuse(words: str) -> Raw:
        return Raw(400, json.dumps({"error": {"message": words}}).encode())

    def limited(prompt: str, payload: Payload) -> Any:
        size, asked = len(payload["input_ids"]), payload["sampling_params"]["max_new_tokens"]
        if size >= context:
            return refuse(TOO_LONG.format(size, context))
        if size + asked > context:
            return refuse(TOO_MUCH.format(context, size + asked, size, asked))
        if size >= context - 6:
            return refuse(OVER_MAXIMUM.format(size, context - 6))
        payload["sampling_params"]["max_new_tokens"] = min(asked, context - size - 2)
        return script(prompt, payload)

    engine.script = limited


def cutting(engine: FakeEngine, context: int) -> None:
    """Gives it a cache: it refuses nothing, and writes what there is room for, at last nothing at all."""
    script = engine.script

    def limited(prompt: str, payload: Payload) -> Any:
        asked = payload["sampling_params"]["max_new_tokens"]
        room = payload["sampling_params"]["max_new_tokens"] = max(0, min(asked, context - len(payload["input_ids"])))
        return "" if asked and not room else script(prompt, payload)

    engine.script = limited


@pytest.mark.parametrize(("engine", "limited"), [("base", narrow), ("small", narrow), ("small", cutting)])
@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_thought_that_outgrows_a_context_is_truncated_and_keeps_what_it_has(
    fake_engine: Start, engine: str, lookahead: int, limited: Callable[[FakeEngine, int], None]
) -> None:
    pair = Pair(fake_engine, ["1234567.\n\n"], [9], ["The answer"])
    limited(getattr(pair, engine), 100)
    t = pair.run(step_tokens=30, lookahead=lookahead, answer_tokens=40)
    assert (t.stop_reason, t.truncated) == ("context", True)
    assert 50 <= t.tokens_kept <= 100
    assert set(thought(t).split("\n\n")) <= {"1234567.", *("1234567."[:count] for count in range(8))}
    record = t.record()
    spent = sum(call.account.completion_tokens for call in t.calls if call.purpose in ("draft", "regenerate"))
    assert record["tokens_base"] + record["tokens_small"] == spent
    assert record["tokens_base"] + record["tokens_small"] - record["tokens_discarded"] == record["thinking_tokens"]
    assert frontend_threads() == []


def test_the_answer_is_asked_for_where_it_still_fits(fake_engine: Start) -> None:
    for policy, said in (({}, "The answer"), ({"answer_by": "small"}, ""), ({"on_budget": "stop"}, "")):
        pair = Pair(fake_engine, ["1234567.\n\n"], [9], ["The answer"])
        narrow(pair.small, 100)
        t = pair.run(step_tokens=30, **policy)
        assert (t.stop_reason, t.answer) == ("context", said)


def test_an_answer_for_which_there_is_no_room_is_a_truncated_one(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["One.\n\n", "Two.</think>"], [9], ["The answer"])
    narrow(pair.base, 60)
    t = pair.run(answer_tokens=50)
    assert (thought(t), t.stop_reason, t.answer, t.truncated) == ("One.\n\nTwo.</think>", "think_end", "", True)


@pytest.mark.parametrize("method", ["base", "small"])
def test_a_baseline_whose_thought_the_cache_cuts_is_truncated(fake_engine: Start, method: Method) -> None:
    """SGLang cuts silently there: finish "length" with fewer tokens than were asked for."""
    pair = Pair(fake_engine, ["x" * 500], [9], ["x" * 500])
    cutting(getattr(pair, method), 80)
    t = pair.run(method)
    assert (t.stop_reason, t.truncated, t.tokens_kept, t.answer) == ("context", True, 78, "")


def test_a_problem_that_never_fitted_is_a_failure_and_not_a_truncation(fake_engine: Start) -> None:
    for method in ("base", "specreason"):
        pair = Pair(fake_engine, ["1234567.\n\n"], [9], ["x"])
        narrow(pair.small, 20)
        narrow(pair.base, 20)
        with pytest.raises(ContextFull, match=r"HTTP 400: .*context length"):
            pair.run(method, step_tokens=30)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "words",
    [
        TOO_LONG.format(9, 8),
        TOO_MUCH.format(8, 9, 4, 5),
        OVER_MAXIMUM.format(9, 8),
        "Request prompt exceeds the KV memory budget: input_len=9.",
        "Out of memory even after retracting all other requests in the decode batch. Aborting the last request.",
    ],
)
def test_sglangs_words_for_a_full_context_are_known(fake_engine: Start, words: str) -> None:
    failure = Raw(400, json.dumps({"error": {"message": words}}).encode())
    pair = Pair(fake_engine, ["One.\n\n", failure], [9], ["A"])
    assert pair.run().stop_reason == "context"


def test_another_refusal_is_a_failure(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["One.\n\n", Raw(400, b'{"error": {"message": "temperature is too high"}}')], [9], ["A"])
    with pytest.raises(RequestError, match="temperature") as caught:
        pair.run()
    assert not isinstance(caught.value, ContextFull)


POLICIES = st.fixed_dictionaries(
    {
        "budget_tokens": st.integers(1, 60),
        "step_tokens": st.integers(1, 70),
        "min_step_tokens": st.integers(0, 12),
        "answer_tokens": st.integers(101, 112),  # more than any step may have: tells the requests apart
        "first_n": st.integers(0, 3),
        "on_budget": st.sampled_from(["answer", "stop"]),
        "answer_by": st.sampled_from(["base", "small"]),
    },
)
KNOBS = st.sampled_from(
    [
        {},
        {"lookahead": 1},
        {"lookahead": 3},
        {"drafts": 3, "lookahead": 0, "temperature": 0.5},
        {"salvage": True},
        {"salvage": True, "lookahead": 2},
        {"eager_regenerate": True},
        {"eager_regenerate": True, "lookahead": 2},
        {"judge": "likelihood", "score_rule": "min", "threshold": -7.0, "salvage": True},
        {"gate": "confident", "gate_threshold": 0.59, "lookahead": 1},
        {"gate": "never"},
        {"gate": "always", "lookahead": 4, "judge_record": False},
    ]
)
METHODS = st.sampled_from(["specreason", "specreason", "specreason", "specreason", "base", "small"])
SPOKEN = st.lists(st.one_of(WRITTEN, st.sampled_from(["a step.\n\n", "unlikely # here.\n\n", "x" * 90])), min_size=1)


@settings(max_examples=150, deadline=None)
@given(SPOKEN, st.lists(st.integers(0, 9), min_size=1), SPOKEN, POLICIES, KNOBS, METHODS)
def test_budgets_are_hard_to_the_token(
    drafts: list[str],
    scores: list[int],
    writes: list[str],
    policy: dict[str, Any],
    knobs: dict[str, Any],
    method: Method,
) -> None:
    """Whatever is said, with every way of writing and deciding: what is kept and asked for stays within what is left."""
    engines: list[FakeEngine] = []

    def start(script: Any) -> FakeEngine:
        engines.append(FakeEngine(script))
        return engines[-1]

    try:
        pair = Pair(start, list(drafts), [""] if knobs.get("judge") == "likelihood" else list(scores), list(writes))
        t = pair.run(method, **(policy | knobs))
    finally:
        for engine in engines:
            engine.close()
    assert t.stop_reason is not None
    record = t.record()
    assert record["thinking_tokens"] == sum(kept.step.tokens for kept in t.kept) <= policy["budget_tokens"]
    assert len(thought(t)) <= policy["budget_tokens"]
    assert len(t.answer) <= record["answer_tokens"] <= policy["answer_tokens"]
    for payload in pair.small.requests + pair.base.requests:
        asked, begun = payload["sampling_params"]["max_new_tokens"], prompt_of(payload)[len("B:") :]
        if 0 < asked <= 100:
            assert len(begun) + asked <= policy["budget_tokens"], begun
            assert method != "specreason" or asked <= policy["step_tokens"]
        else:
            assert asked in (0, policy["answer_tokens"])


def chats(plan: Plan) -> dict[Author, ChatFormat]:
    return {role: ChatFormat(tokenizer=load_tokenizer(model)) for role, model in plan.models.items()}


def rooms(**tokens: int) -> dict[Any, limits.Room]:
    return {role: limits.Room(tokens=count, remedy=f"more for {role}") for role, count in tokens.items()}


def test_the_defaults_of_the_demo_fit_what_its_engines_hold() -> None:
    plan = resolve(Options(bench="demo", policy={}))
    found = limits.configured(plan.specs)
    assert {role: room.tokens for role, room in found.items()} == {"base": 32768, "small": 32768}
    limits.check(plan, chats(plan), found)


@pytest.mark.parametrize("methods", [("base",), ("small",), ("specreason",), ("base", "small", "specreason")])
@pytest.mark.parametrize("policy", [{}, {"on_budget": "stop"}, {"answer_by": "small", "answer_tokens": 300}])
def test_the_budget_that_the_refusal_names_is_the_largest_that_fits(
    methods: tuple[str, ...], policy: dict[str, Any]
) -> None:
    """To the token, and for every engine at once; an engine that no method uses does not count."""

    def check(budget_tokens: int) -> None:
        plan = resolve(Options(bench="demo", methods=methods, policy=policy | {"budget_tokens": budget_tokens}))
        used = {"base": 2000} if methods == ("base",) else {"small": 1900} if methods == ("small",) else {}
        limits.check(
            plan, chats(plan), rooms(**({"base": 1, "small": 1} | used if used else {"base": 2000, "small": 1900}))
        )

    with pytest.raises(
        UsageError, match=r"problem demo-\d+ may need .*--answer-tokens or more for (base|small)"
    ) as refusal:
        check(5000)
    fitting = int(str(refusal.value).split("; --budget-tokens ")[1].split()[0])
    assert 1000 < fitting < 1900
    check(fitting)
    with pytest.raises(UsageError, match=f"--budget-tokens {fitting} fits"):
        check(fitting + 1)


def test_where_no_budget_fits_the_refusal_says_so() -> None:
    plan = resolve(Options(bench="demo", policy={"answer_tokens": 3000}))
    with pytest.raises(
        UsageError, match="no --budget-tokens fits; else give a smaller --answer-tokens or more for base"
    ):
        limits.check(plan, chats(plan), rooms(base=2000))


SPECS = {
    "the model's context": (("--max-total-tokens", "65536"), 32768, "a base model with a longer context"),
    "a shorter context": (("--context-length", "500", "--max-total-tokens", "900"), 500, "--context-length of base"),
    "a small cache": (("--context-length=500", "--max-total-tokens=400"), 400, "--max-total-tokens"),
    "nothing said": ((), 32768, "longer context"),
}


@pytest.mark.parametrize(("args", "tokens", "remedy"), SPECS.values(), ids=SPECS)
def test_an_engine_to_be_started_holds_its_context_or_its_cache(
    args: tuple[str, ...], tokens: int, remedy: str
) -> None:
    model = resolve(Options(bench="demo", policy={})).models["base"]
    room = limits.configured([EngineSpec(role="base", model=model, args=args)])["base"]
    assert room.tokens == tokens
    assert remedy in room.remedy


def test_of_a_model_that_is_not_here_nothing_is_known_before_the_start() -> None:
    assert limits.configured([EngineSpec(role="base", model="nobody/nothing")]) == {}


INFOS = {
    "context": ({"max_req_input_len": 32762, "max_total_num_tokens": 65536, "context_length": None}, 32768, "model"),
    "asked": ({"max_req_input_len": 494, "max_total_num_tokens": 900, "context_length": 500}, 500, "--context-length"),
    "cache": ({"max_req_input_len": 394, "max_total_num_tokens": 400, "context_length": 500}, 400, "cache"),
}


@pytest.mark.parametrize(("info", "tokens", "remedy"), INFOS.values(), ids=INFOS)
def test_a_running_server_says_what_it_holds(info: dict[str, Any], tokens: int, remedy: str) -> None:
    room = limits.room_of("base", info)
    assert room is not None
    assert room.tokens == tokens
    assert remedy in room.remedy
    assert limits.room_of("base", {"version": "0.5.23"}) is None


@pytest.mark.parametrize("words", [["--dry-run"], []])
def test_a_budget_over_the_context_is_refused_before_anything_starts(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*args: object, **kwargs: object) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr(startup, "started", started)
    command = ["--bench", "demo", "--budget-tokens", "100000", "--out", str(tmp_path / "runs"), *words]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: problem demo-")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_sweep_is_checked_at_its_largest_budget() -> None:
    plan = resolve(Options(bench="demo", sweep="budget", policy={}))
    largest = max(variant.policy.budget_tokens for variant in plan.variants)
    limits.check(plan, chats(plan), rooms(base=largest + 300, small=largest + 300))
    with pytest.raises(UsageError, match=f"{largest} of --budget-tokens"):
        limits.check(plan, chats(plan), rooms(base=largest + 100, small=largest + 300))
