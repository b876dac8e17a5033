"""The programs against a scripted engine: decisions, endings, budgets, failures that never hang."""

import gc
import threading
import time
import zlib
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from fake_engine import CharTokenizer, FakeEngine, Held, Payload, Raw, digits, prompt_of
from fake_pair import CLOSED_TURN, TEXTS, TURN, WRITTEN, Pair, Start, frontend_threads, thought
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang.lang.interpreter import StreamExecutor

from sgl_specreason.engines import transport
from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.errors import RequestError
from sgl_specreason.method.loops import LOOK_TOKENS
from sgl_specreason.method.policy import Method, Policy
from sgl_specreason.method.program import run_trajectory, salvage
from sgl_specreason.method.score import Judgement, Likelihood
from sgl_specreason.method.trajectory import Trajectory
from sgl_specreason.text.steps import Step


def test_accepted_steps_are_kept_and_the_answer_is_written_by_base(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["One.\n\n", "Two.\n\n", "So 3.</think>"], [9], ["Answer: 3"])
    t = pair.run()
    assert thought(t) == "One.\n\nTwo.\n\nSo 3.</think>"
    assert [kept.by for kept in t.kept] == ["small"] * 3
    assert (t.stop_reason, t.answer, t.truncated) == ("think_end", "Answer: 3", False)
    assert pair.asked["score"] == [
        f"B:One.\n\n{TURN}",
        f"B:One.\n\nTwo.\n\n{TURN}",
        f"B:One.\n\nTwo.\n\nSo 3.</think>{CLOSED_TURN}",
    ]
    assert pair.asked["write"] == ["B:One.\n\nTwo.\n\nSo 3.</think>"]


def test_a_rejected_step_is_replaced_in_both_contexts(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["Bad.\n\n", "End.</think>"], [2, 9], ["Good.\n\n", "A"])
    t = pair.run()
    assert [kept.by for kept in t.kept] == ["base", "small"]
    assert t.kept[0].draft is not None
    assert t.kept[0].draft.text == "Bad.\n\n"
    assert pair.asked["draft"] == ["S:", "S:Good.\n\n"]
    assert pair.asked["write"][0] == "B:"
    record = t.record()
    assert record["tokens_discarded"] == len("Bad.\n\n")
    assert record["tokens_base"] + record["tokens_small_kept"] == record["thinking_tokens"]
    assert record["steps"][0]["draft"]["text"] == "Bad.\n\n"


def test_requests_per_decision_are_two_when_accepted_and_three_when_rejected(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["Bad.\n\n", "End.</think>"], [2, 9], ["Good.\n\n", "A"])
    purposes = [call.purpose for call in pair.run().calls]
    assert purposes == ["draft", "judge", "regenerate", "draft", "judge", "answer"]


def test_first_n_steps_are_written_by_base_unasked(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["End.</think>"], [9], ["I.\n\n", "II.\n\n", "A"])
    t = pair.run(first_n=2)
    assert [kept.by for kept in t.kept] == ["base", "base", "small"]
    assert t.kept[0].judgement is None
    assert len(pair.asked["score"]) == 1


def test_a_step_counts_once_whoever_wrote_it(fake_engine: Start) -> None:
    """Issue 15: the pieces of a joined step were counted where base wrote it unasked and it ended the thought."""
    joined = ["I.\n\n", "II.</think>"]
    unasked = Pair(fake_engine, ["?"], [9], [*joined, "A"]).run(first_n=2, min_step_tokens=5).record()
    drafted = Pair(fake_engine, joined, [9], ["A"]).run(min_step_tokens=5).record()
    assert (unasked["steps_kept"], unasked["steps_by_small"]) == (1, 0)
    assert (drafted["steps_kept"], drafted["steps_by_small"]) == (1, 1)
    alone = Pair(fake_engine, ["?"], [9], ["".join(joined), "A"]).run("base", min_step_tokens=5).record()
    assert alone["steps_kept"] == 2


def test_the_cap_cuts_a_step_without_inventing_a_blank_line(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["abcdefgh", "ij</think>"], [9], ["A"])
    t = pair.run(step_tokens=4)
    assert t.kept[0].step.text == "abcd"
    assert pair.asked["draft"][1] == "S:abcd"


def test_the_end_of_sequence_ends_the_thought_and_the_answer_is_asked_for(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["All done.\x03"], [9], ["A"])
    t = pair.run()
    assert t.stop_reason == "eos"
    assert pair.asked["write"] == ["B:All done.\n</think>\n\n"]
    assert t.answer == "A"


def test_an_empty_draft_is_not_judged_but_rewritten(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["\x03"], [9], ["Step.\n\n", "End.</think>", "A"])
    t = pair.run()
    assert pair.asked["score"] == []
    assert [kept.by for kept in t.kept] == ["base", "base"]
    assert all(kept.accepted is False for kept in t.kept)


def test_blank_lines_before_a_step_belong_to_it(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["\n\nreally", "A step.\n\n", "E</think>"], [9], ["A"])
    assert pair.run().kept[0].step.text == "\n\nA step.\n\n"


def test_short_steps_are_joined_before_judging(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["a.\n\n", "b.\n\n", "end of it.</think>"], [9], ["A"])
    t = pair.run(min_step_tokens=6)
    assert [kept.step.text for kept in t.kept] == ["a.\n\nb.\n\n", "end of it.</think>"]
    assert len(pair.asked["score"]) == 2


@pytest.mark.parametrize("on_budget", ["answer", "stop"])
def test_the_budget_is_hard_to_the_token(fake_engine: Start, on_budget: str) -> None:
    pair = Pair(fake_engine, ["1234567.\n\n"], [9], ["A"])
    t = pair.run(budget_tokens=25, on_budget=on_budget)
    assert (t.tokens_kept, t.stop_reason, t.truncated) == (25, "budget", True)
    assert t.answer == ("A" if on_budget == "answer" else "")
    if on_budget == "answer":
        assert pair.asked["write"] == ["B:" + thought(t) + "\n\nTime is up.</think>\n\n"]


@pytest.mark.parametrize("method", ["base", "small"])
def test_a_baseline_is_one_request_for_the_thought_and_one_for_the_answer(fake_engine: Start, method: Method) -> None:
    say = ["One.\n\nTwo.</think>", "The answer"]
    pair = Pair(fake_engine, say, [9], say)
    t = pair.run(method)
    assert [call.purpose for call in t.calls] == ["think", "answer"]
    assert (thought(t), t.answer, t.stop_reason) == ("One.\n\nTwo.</think>", "The answer", "think_end")
    assert t.record()["steps_kept"] == 2


@pytest.mark.parametrize("method", ["base", "small"])
def test_a_baseline_obeys_the_budget(fake_engine: Start, method: Method) -> None:
    pair = Pair(fake_engine, ["x" * 100], [9], ["x" * 100])
    t = pair.run(method, budget_tokens=30, on_budget="stop")
    assert (t.tokens_kept, t.stop_reason, t.answer) == (30, "budget", "")


def test_a_judge_that_does_not_know_digits_is_recorded_as_such(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["E</think>"], [digits(9, mass=0.02)], ["A"])
    judgement = pair.run().kept[0].judgement
    assert judgement is not None
    assert judgement.label_mass == pytest.approx(0.02)


def test_a_binary_judge_says_yes_or_no(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["One.\n\n", "Two.</think>"], [[-0.1, -2.4], [-2.4, -0.1]], ["Mine.</think>", "A"])
    t = pair.run(judge="binary", score_rule="p_yes", threshold=0.5)
    assert [kept.by for kept in t.kept] == ["small", "base"]
    assert pair.asked["score"] == ["B:One.\n\n[YES OR NO]", "B:One.\n\nTwo.</think>[YES OR NO, CLOSED]"]
    assert t.record()["steps"][0]["p_yes"] == pytest.approx(0.909, abs=1e-3)


def test_a_likelihood_judge_needs_no_turn_and_looks_at_the_steps_tokens(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["One.\n\n", "T#o.</think>"], [""], ["Two.</think>", "A"])
    t = pair.run(judge="likelihood", score_rule="min", threshold=-7)
    assert [kept.by for kept in t.kept] == ["small", "base"]
    assert pair.asked["score"] == ["B:One.\n\n", "B:One.\n\nT#o.</think>"]
    steps = t.record()["steps"]
    assert (steps[0]["logprob_min"], steps[0]["logprob_mean"]) == (-0.5, -0.5)
    assert steps[1]["logprob_min"] == -12
    assert [request["logprob_start_len"] for request in pair.base.requests[:2]] == [1, 7]


def test_both_judges_are_asked_in_one_request(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["O#e.\n\n", "Two.</think>"], [9], ["Mine.", "A"])
    t = pair.run(judge="score+likelihood")
    assert [kept.by for kept in t.kept] == ["small", "small"]
    assert len(pair.asked["score"]) == 2
    assert t.record()["steps"][0]["logprob_min"] == -12
    again = Pair(fake_engine, ["O#e.\n\n", "Two.</think>"], [9], ["Mine.\n\n", "A"])
    by_likelihood = again.run(judge="score+likelihood", score_rule="min", threshold=-7)
    assert [kept.by for kept in by_likelihood.kept] == ["base", "small"]


def test_salvage_keeps_a_draft_up_to_the_first_unlikely_token(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["So 1+1 = #.\n\n", "End.</think>"], [1, 9], ["2.\n\n", "A"])
    t = pair.run(salvage=True)
    assert thought(t) == "So 1+1 = 2.\n\nEnd.</think>"
    assert pair.asked["write"][0] == "B:So 1+1 = "
    record = t.record()
    assert (record["tokens_salvaged"], record["tokens_discarded"]) == (9, 4)
    assert (record["tokens_base"], record["tokens_small_kept"]) == (4, 9 + len("End.</think>"))
    assert record["tokens_base"] + record["tokens_small_kept"] == record["thinking_tokens"]
    assert record["steps"][0]["salvaged"] == 9


@pytest.mark.parametrize("draft", ["#.\n\n", "All likely.\n\n"])
def test_salvage_keeps_nothing_without_a_likely_beginning_or_an_unlikely_token(fake_engine: Start, draft: str) -> None:
    pair = Pair(fake_engine, [draft, "End.</think>"], [1, 9], ["Mine.\n\n", "A"])
    t = pair.run(salvage=True)
    assert thought(t) == "Mine.\n\nEnd.</think>"
    assert t.record()["tokens_salvaged"] == 0


@pytest.mark.parametrize(("tokens", "begun"), [(4, 3), (3, 2), (2, 1), (1, None)])
def test_what_is_salvaged_always_leaves_base_something_to_write(
    fake_engine: Start, tokens: int, begun: int | None
) -> None:
    """Base may have more tokens for a text than small had: its count could take all the room of a draft at its cap."""
    pair = Pair(fake_engine, ["-"], [1], ["-"])
    t = Trajectory(problem_id="p", sample=0, sampling_seed=7, policy=Policy(salvage=True), texts=TEXTS)
    state = SimpleNamespace(stream_executor=SimpleNamespace(backend=pair.engines["base"]))
    judgement = Judgement(likelihood=Likelihood(logprobs=(-0.1, -0.1, -0.1, -12.0), token_ids=tuple(b"abc#")))
    found = salvage(state, Step(text="abc#", tokens=tokens, ending="cap"), judgement, t)
    assert (found and found.tokens) == begun
    assert found is None or found.text == "abc"


def test_each_kind_of_request_has_luck_of_its_own(fake_engine: Start) -> None:
    """What an engine draws is a function of seed and position: with the draft's seed base would write the draft again."""
    pair = Pair(fake_engine, ["One.\n\n", "End.</think>"], [1, 9], ["Mine.\n\n", "A"])
    pair.run(temperature=0.6, lookahead=1)
    by_role = {
        role: [r["sampling_params"] for r in engine.requests]
        for role, engine in (("small", pair.small), ("base", pair.base))
    }
    drafts = {params["sampling_seed"] for params in by_role["small"]}
    written = [params["sampling_seed"] for params in by_role["base"] if params["max_new_tokens"]]
    assert len(set(drafts)) == 1
    assert len({*drafts, *written}) == 3  # drafts, a regenerated step, the answer


def test_every_text_is_sampled_as_the_policy_says(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["One.\n\n", "End.</think>"], [1, 9], ["Mine.\n\n", "A"])
    pair.run(temperature=0.6, top_p=0.8, top_k=20, min_p=0.05)
    sent = [request["sampling_params"] for engine in (pair.small, pair.base) for request in engine.requests]
    found = [[params.get(name) for name in ("temperature", "top_p", "top_k", "min_p")] for params in sent]
    written = [values for values, params in zip(found, sent, strict=True) if params["max_new_tokens"]]
    assert written == [[0.6, 0.8, 20, 0.05]] * len(written) != []


@pytest.mark.parametrize(("device", "refused"), [("cuda", True), ("cpu", False)])
def test_an_engine_that_would_die_of_min_p_is_not_asked_for_it(fake_engine: Start, device: str, refused: bool) -> None:
    """SGLang 0.5.23 asserts in its scheduler that nobody wants min_p where seeds draw; ours on a CPU can do both."""
    pair = Pair(fake_engine, ["End.</think>"], [9], ["A"])
    for engine in pair.engines.values():
        engine.server_info = {"enable_deterministic_inference": True, "device": device}
    with pytest.raises(RequestError, match="min_p cannot be used") if refused else nullcontext():
        pair.run(temperature=0.6, min_p=0.1)
    assert bool(pair.small.requests) != refused


@pytest.mark.parametrize(("said", "kept"), [("So \ufffd", "So "), ("\ufffd\ufffd", ""), ("x\ufffdy", "x\ufffdy")])
def test_half_a_character_at_a_limit_is_nobodys_text(fake_engine: Start, said: str, kept: str) -> None:
    """A limit may fall inside the bytes of a character: what comes next would not complete it."""
    pair = Pair(fake_engine, [said, "End.</think>"], [9], ["A</think>"])
    t = pair.run(step_tokens=len(said), gate="always")
    assert t.kept[0].draft is not None
    assert t.kept[0].draft.text == kept
    assert t.kept[0].draft.parts[0].ids == (() if "\ufffd" in kept else tuple(map(ord, kept)))


def test_of_several_drafts_the_best_one_counts(fake_engine: Start) -> None:
    """Drafts are told apart by the seed of their request, since nothing else differs."""
    texts = ["A bad one.\n\n", "A good one.\n\n", "So so.\n\n"]
    attempt = Trajectory(problem_id="p", sample=0, sampling_seed=7, policy=Policy(), texts=TEXTS)
    own = [attempt.seed_of("draft", "small", number) for number in range(3)]
    scores = {"A bad": 1, "A goo": 9, "So so": 5}
    seeds: list[int] = []

    def drafts(prompt: str, payload: Payload) -> str:
        if "good" in prompt:
            return "End.</think>"
        seeds.append(payload["sampling_params"]["sampling_seed"])
        return texts[own.index(seeds[-1])]

    def base(prompt: str, payload: Payload) -> Any:
        if payload["sampling_params"]["max_new_tokens"]:
            return "A"
        step = prompt.removeprefix("B:").removeprefix(texts[1])
        return digits(scores.get(step[:5], 9))

    pair = Pair(fake_engine, [""], [9], ["A"])
    pair.small.script, pair.base.script = drafts, base
    t = pair.run(drafts=3, temperature=0.6)
    assert sorted(seeds) == sorted(own)
    assert thought(t) == "A good one.\n\nEnd.</think>"
    first, _ = t.record()["steps"]
    assert [other["score"] for other in first["others"]] == [5, 1]
    assert t.record()["tokens_discarded"] == len(texts[0]) + len(texts[2]) + 2 * len("End.</think>")


def test_a_coin_decides_in_the_judges_place_and_is_the_same_again(fake_engine: Start) -> None:
    def decisions() -> list[bool | None]:
        pair = Pair(fake_engine, ["Step.\n\n"], [1], ["Mine.\n\n"])
        t = pair.run("random", gate="random", gate_p=0.6, budget_tokens=400)
        assert all(kept.judgement is not None for kept in t.kept)
        return [kept.accepted for kept in t.kept]

    first = decisions()
    assert first == decisions()
    assert 0.4 < sum(map(bool, first)) / len(first) < 0.8


@pytest.mark.parametrize("record", [True, False])
def test_a_control_without_its_record_does_not_ask_the_judge(fake_engine: Start, record: bool) -> None:
    pair = Pair(fake_engine, ["One.\n\n", "Two.</think>"], [0], ["A"])
    t = pair.run("always", gate="always", judge_record=record)
    assert [kept.by for kept in t.kept] == ["small", "small"]
    assert len(pair.asked["score"]) == 2 * record
    assert t.record()["accepted"] == 2


def test_never_is_base_step_by_step(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["One.\n\n"], [9], ["Mine.\n\n", "End.</think>", "A"])
    assert [kept.by for kept in pair.run(gate="never").kept] == ["base", "base"]


def test_what_small_is_sure_of_is_kept_unasked(fake_engine: Start) -> None:
    pair = Pair(fake_engine, ["Sure.\n\n", "No#####.\n\n", "End.</think>"], [1], ["Mine.\n\n", "A"])
    t = pair.run(gate="confident", gate_threshold=0.5, audit=0.01)
    assert [kept.by for kept in t.kept] == ["small", "base", "small"]
    record = t.record()
    assert (record["drafts"], record["judged"], record["accepted"]) == (3, 1, 2)
    assert record["steps"][0]["confidence"] == pytest.approx(0.6065, abs=1e-3)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LONGEST_WAIT_S", 0.01)


FAILURES = {
    "a request that cannot be served": Raw(400, b'{"error": "no such thing"}'),
    "an error of the server": Raw(500, b'{"error": "out of memory"}'),
    "an answer that is not JSON": Raw(200, b"<html>"),
    "an answer of another shape": Raw(200, b'{"text": "x"}'),
    "an answer that breaks off": Raw(200, b""),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("at", ["draft", "score", "write", "answer"])
def test_a_failed_request_ends_the_trajectory_with_its_error(fake_engine: Start, failure: Raw, at: str) -> None:
    """SGLang's frontend hangs for ever after a failed `gen`; ours must end, with no thread left."""
    drafts: list[Any] = ["Good.\n\n", "Bad.\n\n", "End.</think>"]
    scores: list[Any] = [9, 1, 9]
    writes: list[Any] = ["Better.\n\n", "A"]
    turns = {"draft": drafts, "score": scores, "write": writes, "answer": writes}[at]
    place = 0 if at == "write" else 1
    turns[place : place + 1] = [failure] * 8  # as often as it is tried
    pair = Pair(fake_engine, drafts, scores, writes)
    with pytest.raises(RequestError, match=r"^(base|small): "):
        pair.run()
    assert frontend_threads() == []


def test_no_state_counts_on_a_thread_when_it_is_collected(fake_engine: Start) -> None:
    """Its finaliser, run by the collector while a thread starts, would deadlock: seen once in some 500 trajectories."""
    pair = Pair(fake_engine, ["One.\n\n", "Two.</think>"], [9, 1], ["Mine.</think>", "A"])
    threaded: list[bool] = []

    def looking(prompt: str, payload: Payload) -> Any:
        threaded.extend(thing.use_thread for thing in gc.get_objects() if isinstance(thing, StreamExecutor))
        return pair.judge_or_write(prompt, payload)

    pair.base.script = looking
    pair.run()
    assert len(threaded) > 4
    assert not any(threaded)
    assert frontend_threads() == []


def test_a_slow_answer_meets_a_deadline(fake_engine: Start) -> None:
    def slow(prompt: str, payload: Payload) -> str:
        time.sleep(1.5)
        return "late"

    pair = Pair(fake_engine, ["x"], [9], ["A"])
    pair.engines["small"] = Endpoint(fake_engine(slow).url, role="small", tokenizer=CharTokenizer(), timeout_s=0.2)
    with pytest.raises(RequestError, match=r"no answer in 0\.2 s"):
        pair.run()


def test_a_slow_trajectory_is_only_slow(fake_engine: Start) -> None:
    def slow(prompt: str, payload: Payload) -> str:
        time.sleep(0.3)
        return "End.</think>"

    pair = Pair(fake_engine, ["x"], [9], ["A"])
    pair.engines["small"] = Endpoint(fake_engine(slow).url, role="small", tokenizer=CharTokenizer())
    assert pair.run().answer == "A"


@settings(max_examples=150, deadline=None)
@given(
    st.lists(WRITTEN, min_size=1),
    st.lists(st.integers(0, 9), min_size=1),
    st.lists(WRITTEN, min_size=1),
    st.booleans(),
    st.integers(0, 2),
)
def test_any_output_ends_within_the_budget_and_adds_up(
    drafts: list[str], scores: list[int], writes: list[str], merge: bool, lookahead: int
) -> None:
    """Whatever the models say: an end, a thought that is what was kept, counts that add up."""
    engines: list[FakeEngine] = []

    def start(script: Any) -> FakeEngine:
        engines.append(FakeEngine(script))
        return engines[-1]

    try:
        pair = Pair(start, list(drafts), list(scores), list(writes))
        t = pair.run(budget_tokens=40, step_tokens=10, min_step_tokens=4 if merge else 0, lookahead=lookahead)
    finally:
        for engine in engines:
            engine.close()
    record = t.record()
    assert t.stop_reason is not None
    assert record["thinking_tokens"] <= 40
    assert record["tokens_base"] + record["tokens_small_kept"] == record["thinking_tokens"]
    assert all(kept.step.text.count("</think>") <= 1 for kept in t.kept)
    assert [k for k in t.kept[:-1] if k.step.ends_thought] == []
    assert len(pair.asked["score"]) == record["judged"]


class Sure:
    """Two engines whose words depend on the prompt and on nothing else, as a model's do at temperature 0."""

    DRAFTS = (
        "One.\n\n",
        "Two, and more.\n\n",
        "\n\nThree.\n\n",
        "a long step without an end",
        "End.</think>",
        "\x03",
        "\n\n",
    )

    def __init__(self, start: Start, seed: int) -> None:
        self.seed = seed
        self.small = start(lambda prompt, payload: self.pick(prompt, "draft", self.DRAFTS))
        self.base = start(self.judge_or_write)
        self.engines = {
            role: Endpoint(engine.url, role=role, tokenizer=CharTokenizer(), timeout_s=5)
            for role, engine in (("base", self.base), ("small", self.small))
        }

    def pick(self, prompt: str, what: str, choices: Any) -> Any:
        return choices[zlib.crc32(f"{self.seed} {what} {prompt[2:]}".encode()) % len(choices)]

    def judge_or_write(self, prompt: str, payload: Payload) -> Any:
        if payload["sampling_params"]["max_new_tokens"] == 0:
            return digits(self.pick(prompt, "score", range(10)))
        return self.pick(prompt, "write", self.DRAFTS)

    run = Pair.run


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0, 9]), st.integers(1, 4), st.booleans())
def test_looking_ahead_changes_no_decision(seed: int, least: int, depth: int, eager: bool) -> None:
    """At temperature 0 the same steps by the same authors, whatever is written ahead; every token is accounted for."""
    engines: list[FakeEngine] = []

    def start(script: Any) -> FakeEngine:
        engines.append(FakeEngine(script))
        return engines[-1]

    try:
        sure = Sure(start, seed)
        plain = sure.run(budget_tokens=120, step_tokens=20, min_step_tokens=least)  # type: ignore[arg-type]
        ahead = sure.run(  # type: ignore[arg-type]
            budget_tokens=120, step_tokens=20, min_step_tokens=least, lookahead=depth, eager_regenerate=eager
        )
    finally:
        for engine in engines:
            engine.close()
    assert [(k.by, k.step, k.draft, k.judgement) for k in ahead.kept] == [
        (k.by, k.step, k.draft, k.judgement) for k in plain.kept
    ]
    assert (ahead.answer, ahead.stop_reason) == (plain.answer, plain.stop_reason)
    record = ahead.record()
    assert record["tokens_base"] + record["tokens_small"] - record["tokens_discarded"] == record["thinking_tokens"]
    kept = [call for call in ahead.calls if not call.dropped]
    assert [call.purpose for call in kept] == [call.purpose for call in plain.calls]
    spent = sum(call.account.completion_tokens for call in ahead.calls if call.purpose in ("draft", "regenerate"))
    assert spent == record["tokens_base"] + record["tokens_small"]
    assert frontend_threads() == []


def test_a_draft_after_a_rejected_one_is_aborted_and_counted(fake_engine: Start) -> None:
    """Its request is ended on the server by name; what it had written by then is discarded."""
    pair = Pair(fake_engine, ["Bad.\n\n", Held("Never n"), "End.</think>"], [2, 9], ["Good.\n\n", "A"])
    pair.judge_after(drafts=2)
    t = pair.run(lookahead=1)
    assert thought(t) == "Good.\n\nEnd.</think>"
    assert pair.asked["draft"] == ["S:", "S:Bad.\n\n", "S:Good.\n\n"]
    held = next(request for request in pair.small.requests if prompt_of(request) == "S:Bad.\n\n")
    assert set(pair.small.aborts) == {held["rid"]}
    dropped = [call for call in t.calls if call.dropped]
    assert [call.account.completion_tokens for call in dropped] == [len("Never n")]
    record = t.record()
    assert record["tokens_dropped"] == len("Never n")
    assert record["tokens_discarded"] == len("Bad.\n\n") + len("Never n")
    assert record["tokens_small"] == len("Bad.\n\n") + len("Never n") + len("End.</think>")
    assert [request.get("dropped", False) for request in record["requests"]].count(True) == 1


def test_an_abort_that_overtakes_its_request_is_not_lost(fake_engine: Start) -> None:
    """A server forgets an abort of what it does not have yet: the draft would run on and hold up the next one."""
    pair = Pair(fake_engine, ["Bad.\n\n", Held("Never n"), "End.</think>"], [2, 9], ["Good.\n\n", "A"])

    def overtaken(prompt: str, payload: Payload) -> Any:
        reply = pair.next("draft", prompt)
        if isinstance(reply, Held):  # known to the server from here on: an abort has come before
            with pair.small.aborted:
                assert pair.small.aborted.wait_for(lambda: pair.small.aborts, 20)
        return reply

    pair.small.script = overtaken
    pair.judge_after(drafts=2)
    t = pair.run(lookahead=1)
    assert thought(t) == "Good.\n\nEnd.</think>"
    assert [call.account.completion_tokens for call in t.calls if call.dropped] == [len("Never n")]
    assert len(pair.small.aborts) > 1
    assert pair.small.running == set()


def test_small_drafts_the_next_step_before_the_judge_has_answered(fake_engine: Start) -> None:
    """The judge here waits for it: without lookahead this would never end."""
    drafted = threading.Event()

    def judge(prompt: str, payload: Payload) -> Any:
        if payload["sampling_params"]["max_new_tokens"]:
            return "A"
        assert drafted.wait(5)
        return digits(9)

    pair = Pair(fake_engine, ["One.\n\n", "Two.</think>"], [9], ["A"])
    pair.small.script = lambda prompt, payload: (
        pair.next("draft", prompt) + (drafted.set() or "" if "One" in prompt else "")
    )
    pair.base.script = judge
    assert thought(pair.run(lookahead=1)) == "One.\n\nTwo.</think>"


def test_a_failing_draft_ahead_matters_only_if_it_is_needed(fake_engine: Start) -> None:
    broken = Raw(400, b"out of order")
    needless = Pair(fake_engine, ["Bad.\n\n", broken, "End.</think>"], [2, 9], ["Good.\n\n", "A"])
    needless.judge_after(drafts=2)
    assert thought(needless.run(lookahead=1)) == "Good.\n\nEnd.</think>"
    needed = Pair(fake_engine, ["One.\n\n", broken, "End.</think>"], [9], ["A"])
    with pytest.raises(RequestError, match="out of order"):
        needed.run(lookahead=1)


def test_where_few_drafts_pass_base_begins_its_step_beside_the_judge(fake_engine: Start) -> None:
    """From the fifth step on, after four rejections; an accepted draft drops what base has begun."""
    drafts = ["Bad.\n\n"] * 5 + ["Fine.</think>"]
    pair = Pair(fake_engine, drafts, [1, 1, 1, 1, 1, 9], ["Mine.\n\n"] * 5 + [Held("Too")] + ["A"])
    pair.judge_after(writes=6, last=6)
    t = pair.run(eager_regenerate=True)
    assert thought(t) == "Mine.\n\n" * 5 + "Fine.</think>"
    assert [call.account.completion_tokens for call in t.calls if call.dropped] == [3]
    assert len(set(pair.base.aborts)) == 1
    record = t.record()
    assert record["tokens_base"] == 5 * len("Mine.\n\n") + 3
    assert record["tokens_base"] + record["tokens_small"] - record["tokens_discarded"] == record["thinking_tokens"]


def test_a_server_that_is_busy_for_a_moment_is_flushed_all_the_same(fake_engine: Start) -> None:
    """As SGLang is just after an answer: it refuses while the request still counts as running."""
    engine = fake_engine(lambda prompt, payload: "")
    engine.refusals = 3
    Endpoint(engine.url, role="base", tokenizer=CharTokenizer()).flush_cache()
    assert engine.refusals == 0


TAGLESS = replace(TEXTS, think_end="", close="Time is up.\n\n")


def untagged(pair: Pair, method: Method = "specreason", **policy: Any) -> Trajectory:
    """A trajectory of models that have no think tags."""
    settings = {"budget_tokens": 500, "step_tokens": 50, "temperature": 0.0, "lookahead": 0, "on_budget": "stop"}
    t = Trajectory(problem_id="p", sample=0, sampling_seed=7, policy=Policy(**(settings | policy)), texts=TAGLESS)
    run_trajectory(method, t, pair.engines)  # type: ignore[arg-type]
    return t


@pytest.mark.parametrize("method", ["specreason", "base", "small"])
def test_without_think_tags_the_response_is_the_chain_and_the_answer(fake_engine: Start, method: Method) -> None:
    """Qwen2.5-Math and its kin: nothing is put into their mouth, and nobody is asked for an answer after it."""
    whole = "One.\n\nSo \\boxed{2}."
    drafts = ["One.\n\n", "So \\boxed{2}."] if method == "specreason" else [whole]
    pair = Pair(fake_engine, drafts, [9], [whole])
    t = untagged(pair, method)
    assert (t.answer, t.stop_reason, t.truncated) == (whole, "eos", False)
    assert all(call.purpose != "answer" for call in t.calls)
    assert all(
        "</think>" not in prompt and "Time is up" not in prompt for asked in pair.asked.values() for prompt in asked
    )
    assert all(
        "" not in request["sampling_params"].get("stop", []) for request in [*pair.base.requests, *pair.small.requests]
    )


def test_without_think_tags_the_budget_cuts_the_response_or_asks_for_an_answer(fake_engine: Start) -> None:
    cut = untagged(Pair(fake_engine, ["Step.\n\n"], [9], ["A"]), budget_tokens=14)
    assert (cut.answer, cut.truncated) == ("Step.\n\nStep.\n\n", True)
    pair = Pair(fake_engine, ["Step.\n\n"], [9], ["So 3."])
    asked = untagged(pair, budget_tokens=14, on_budget="answer")
    assert asked.answer == "So 3."
    assert pair.asked["write"] == ["B:Step.\n\nStep.\n\nTime is up.\n\n"]


LOOPING = "So we look at this case once more, which is just like the one before it, and find the same.\n\n"


@pytest.mark.parametrize("method", ["base", "small", "specreason"])
@pytest.mark.parametrize("stops", [True, False])
def test_a_rule_that_ends_a_thought_holds_for_every_method(fake_engine: Start, method: Method, stops: bool) -> None:
    """The same looping text must not cost base its whole budget while SpecReason is let off after a few rounds."""

    def writes(prompt: str, payload: Payload) -> str:
        said = len(prompt.partition(":")[2]) % len(LOOPING)
        return (LOOPING * 100)[said:]

    pair = Pair(fake_engine, [LOOPING], [9], ["A"])
    if method != "specreason":
        pair.base.script = pair.small.script = writes
    t = pair.run(method, budget_tokens=6000, step_tokens=200, answer_tokens=20, stop_loops=stops)
    assert t.stop_reason == ("loop" if stops else "budget")
    assert (t.tokens_kept < 2000) == stops
    thoughts = [call for call in t.calls if call.purpose == "think"]
    assert stops or method == "specreason" or len(thoughts) == 1


def test_a_baselines_thought_in_stretches_is_the_one_that_it_would_have_written(fake_engine: Start) -> None:
    """The same text, the same ids, one step in its record; only what is new is sent again."""
    words = "".join(f"Step {number}.\n\n" for number in range(120)) + "End.</think>"

    def writes(prompt: str, payload: Payload) -> str:
        said = prompt.partition(":")[2]
        return "A" if said == words else words[len(said) :]

    found = []
    for stops in (True, False):
        pair = Pair(fake_engine, ["-"], [9], ["A"])
        pair.base.script = writes
        found.append(pair.run("base", budget_tokens=4000, stop_loops=stops))
    cut, whole = found
    assert (thought(cut), cut.answer, cut.tokens_kept) == (thought(whole), whole.answer, whole.tokens_kept)
    assert len(cut.kept) == len(whole.kept) == 1
    assert [call.purpose for call in cut.calls].count("think") == 3
    assert [token for part in cut.kept[0].step.parts for token in part.ids] == list(whole.kept[0].step.parts[0].ids)


@pytest.mark.parametrize("inside", range(len("</think>") + 1))
def test_a_think_tag_over_two_stretches_ends_a_baselines_thought(fake_engine: Start, inside: int) -> None:
    """The end of a stretch falls where it falls; what a model writes after its thought is no part of it."""
    words = "".join(f"Step {number}.\n\n" for number in range(100))[: LOOK_TOKENS - inside] + "</think>"

    def writes(prompt: str, payload: Payload) -> str:
        said = prompt.partition(":")[2]
        return "A" if said == words else (words + "More, which nobody asked for.")[len(said) :]

    pair = Pair(fake_engine, ["-"], [9], ["A"])
    pair.base.script = writes
    t = pair.run("base", budget_tokens=2000)
    assert (thought(t), t.answer, t.stop_reason) == (words, "A", "think_end")


def test_a_confident_draft_is_not_thrown_away_for_want_of_a_judgement(fake_engine: Start) -> None:
    """Of several drafts the one that is kept unasked comes before any that is judged."""
    pair = Pair(fake_engine, ["Sure.</think>"], [9], ["A"])
    own = Trajectory(problem_id="p", sample=0, sampling_seed=7, policy=Policy(), texts=TEXTS).seed_of(
        "draft", "small", 1
    )
    pair.small.script = lambda prompt, payload: (
        "Sure.</think>" if payload["sampling_params"]["sampling_seed"] == own else "#.</think>"
    )
    t = pair.run(gate="confident", gate_threshold=0.55, drafts=2, temperature=0.6, audit=0.01)
    assert thought(t) == "Sure.</think>"
    assert t.kept[0].judgement is None
