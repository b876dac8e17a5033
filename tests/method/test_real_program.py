"""The programs on the real SGLang engines and the bundled pair: prefixes, caches, decisions, seeds."""

from dataclasses import replace

import pytest
from chat_templates import QWEN3
from real_engines import Servers

from sgl_specreason.method.gates import Gate
from sgl_specreason.method.policy import Method
from sgl_specreason.method.program import run_trajectory
from sgl_specreason.text.conversation import Message
from sgl_specreason.text.tokenizers import load_tokenizer


@pytest.mark.parametrize("method", ["specreason", "base", "small", "always"])
def test_every_method_solves_an_easy_problem_or_says_why_not(real_pair: Servers, method: Method) -> None:
    trajectory = real_pair.trajectory(0)
    run_trajectory(method, trajectory, real_pair.endpoints())  # type: ignore[arg-type]
    assert trajectory.stop_reason == "think_end"
    assert "\\boxed{" in trajectory.answer
    assert not trajectory.truncated


@pytest.mark.parametrize("threshold", [0.0, 7.0, 9.0])
def test_every_prompt_extends_an_earlier_one_and_is_cached_up_to_the_last_step(
    real_pair: Servers, threshold: float
) -> None:
    """What was sent is a prefix of what will be sent; only what is new is computed."""
    trajectory = real_pair.trajectory(1, threshold=threshold, lookahead=0)
    endpoints = real_pair.endpoints()
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
def test_nothing_is_computed_twice(real_pair: Servers, threshold: float, lookahead: int) -> None:
    """Not cached of a judge's prompt: its step and turn; of a draft's: the last step, if base wrote it; of a rewrite's: a token.

    After the first request of each engine, and to the token.
    """
    requests = 0
    for number in range(10, 14):
        t = real_pair.trajectory(number, threshold=threshold, lookahead=lookahead, min_step_tokens=0)
        t.cache_key = f"twice {threshold} {lookahead} {number}"
        endpoints = real_pair.endpoints()
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


def test_looking_ahead_changes_no_decision_on_the_real_engine(real_pair: Servers) -> None:
    """The same steps, authors and answers; what is dropped is at most one step for each rejection."""
    dropped = 0
    for number in range(20, 28):
        found = []
        for lookahead in (0, 1):
            t = real_pair.trajectory(number, lookahead=lookahead)
            t.cache_key = f"ahead {lookahead}"
            run_trajectory("specreason", t, real_pair.endpoints())  # type: ignore[arg-type]
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


def test_salvage_mends_a_step_on_the_real_engine(real_pair: Servers) -> None:
    """Of a wrong draft, the beginning that base agrees with stays, and base writes the rest."""
    salvaged, tokens = [], 0
    for number in range(8):
        trajectory = real_pair.trajectory(number, salvage=True)
        run_trajectory("specreason", trajectory, real_pair.endpoints())  # type: ignore[arg-type]
        record = trajectory.record()
        tokens += record["tokens_salvaged"]
        salvaged += [kept for kept in trajectory.kept if kept.salvaged]
        assert record["tokens_base"] + record["tokens_small_kept"] == record["thinking_tokens"]
    assert tokens > 0
    for kept in salvaged:
        assert kept.draft is not None
        assert kept.step.text != kept.draft.text
        assert kept.step.text[:2] == kept.draft.text[:2]


def test_several_drafts_are_judged_and_the_rest_is_recorded(real_pair: Servers) -> None:
    """Three samples of one seed; the same again in another run."""

    def texts() -> list[str]:
        trajectory = real_pair.trajectory(3, drafts=3, lookahead=0, temperature=1.2, top_p=1.0)
        run_trajectory("specreason", trajectory, real_pair.endpoints())  # type: ignore[arg-type]
        for kept in trajectory.kept:
            values = [trajectory.policy.value(judgement) for _, judgement in kept.others]
            assert len(values) == 2
            assert trajectory.policy.value(kept.judgement) >= max(values)
        drafts = [draft.text for kept in trajectory.kept for draft, _ in [(kept.draft, None), *kept.others] if draft]
        assert len(set(drafts)) > len(trajectory.kept)
        return drafts

    assert sorted(texts()) == sorted(texts())


def test_what_small_is_sure_of_saves_the_judge(real_pair: Servers) -> None:
    drafts = judged = 0
    for number in range(4):
        trajectory = real_pair.trajectory(number, gate="confident", gate_threshold=0.99)
        run_trajectory("specreason", trajectory, real_pair.endpoints())  # type: ignore[arg-type]
        record = trajectory.record()
        assert all(0 < step["confidence"] <= 1 for step in record["steps"] if "confidence" in step)
        drafts, judged = drafts + record["drafts"], judged + record["judged"]
    assert 0 < judged < drafts


GATES: dict[Gate, tuple[str, ...]] = {
    "confident": ("confidence",),
    "self": ("self_right", "self_wrong"),
    "entropy": ("entropy",),
    "overconfident": ("certain",),
}


@pytest.mark.parametrize("gate", GATES)
def test_a_gates_signal_comes_from_the_engine_and_its_audits_from_the_judge(real_pair: Servers, gate: Gate) -> None:
    """Audited at every step, a gate knows for each draft what small said and what base would have done."""
    found = []
    for number in range(3):
        trajectory = real_pair.trajectory(number, gate=gate, audit=1.0, lookahead=0 if gate == "entropy" else 1)
        run_trajectory("specreason", trajectory, real_pair.endpoints())  # type: ignore[arg-type]
        found += trajectory.record()["steps"]
    assert all(-1e-9 <= step[name] <= (20 if name == "entropy" else 1) for step in found for name in GATES[gate])
    assert all("score" in step for step in found)
    assert any(step.get("unasked") for step in found)
    assert all(("agrees" in step) == step.get("unasked", False) for step in found)


def test_looking_at_the_first_token_changes_no_draft(real_pair: Servers) -> None:
    """Two requests write what one would have written, also where tokens are drawn."""
    texts = []
    for gate, bounds in (("entropy", {"gate_threshold": 64.0}), ("always", {})):
        trajectory = real_pair.trajectory(3, gate=gate, lookahead=0, temperature=0.6, **bounds)
        run_trajectory("specreason", trajectory, real_pair.endpoints())  # type: ignore[arg-type]
        texts.append([kept.step.text for kept in trajectory.kept])
    assert texts[0] == texts[1]


def test_methods_share_no_cache(real_pair: Servers) -> None:
    """Or the second one on a problem would run on what the first one computed."""
    counts = []
    for key in ("one", "two", "two"):
        trajectory = real_pair.trajectory(9)
        trajectory.cache_key = key
        run_trajectory("base", trajectory, real_pair.endpoints())  # type: ignore[arg-type]
        counts.append(trajectory.calls[0].account.cached_tokens)
    assert counts[:2] == [0, 0]
    assert counts[2] > 50


def test_the_same_trajectory_twice_is_the_same_and_cached(real_pair: Servers) -> None:
    first, second = real_pair.trajectory(3), real_pair.trajectory(3)
    for trajectory in (first, second):
        run_trajectory("specreason", trajectory, real_pair.endpoints())  # type: ignore[arg-type]
    assert [k.step.text for k in first.kept] == [k.step.text for k in second.kept]
    answer = second.calls[-1].account
    assert answer.cached_tokens >= answer.prompt_tokens - 64


def test_a_template_that_rewrites_history_changes_nothing_once_rendered(real_pair: Servers) -> None:
    """Qwen3's template puts a think block before a continued message; ours is rendered once and appended to."""
    tokenizers = {role: load_tokenizer(model) for role, model in real_pair.plan.models.items()}
    for tokenizer in tokenizers.values():
        tokenizer.chat_template = QWEN3
    other = replace(real_pair, tokenizers=tokenizers)
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


def test_the_budget_is_hard_on_the_real_engine(real_pair: Servers) -> None:
    for method in ("specreason", "base"):
        trajectory = real_pair.trajectory(5, budget_tokens=30)
        run_trajectory(method, trajectory, real_pair.endpoints())  # type: ignore[arg-type]
        assert (trajectory.tokens_kept, trajectory.stop_reason) == (30, "budget")
        assert trajectory.answer


def test_a_sampled_trajectory_is_the_same_again_and_another_seed_is_not(real_pair: Servers) -> None:
    """The seed reaches the engines' samplers: a function of (seed, problem, sample), whatever ran before or runs beside."""

    def texts(seed: int) -> list[str]:
        trajectory = real_pair.trajectory(8, temperature=1.5, top_p=1.0, threshold=0.0)
        trajectory.sampling_seed = seed
        run_trajectory("specreason", trajectory, real_pair.endpoints())  # type: ignore[arg-type]
        return [kept.step.text for kept in trajectory.kept]

    once, other, again = texts(1), texts(2), texts(1)
    assert once == again
    assert once != other


def test_the_likeliest_of_one_token_is_greedy_and_a_high_min_p_is_too(real_pair: Servers) -> None:
    """Both reach the samplers of the engines: at a temperature of 2 nothing else would write what temperature 0 writes."""

    def thought(**sampling: float) -> str:
        trajectory = real_pair.trajectory(8, budget_tokens=100, **sampling)
        run_trajectory("base", trajectory, real_pair.endpoints())  # type: ignore[arg-type]
        return "".join(kept.step.text for kept in trajectory.kept)

    greedy = thought(temperature=0.0)
    assert thought(temperature=2.0, top_p=1.0, top_k=1) == greedy
    assert thought(temperature=2.0, top_p=1.0, min_p=1.0) == greedy
    assert thought(temperature=2.0, top_p=1.0) != greedy


def test_of_a_second_turn_only_the_answer_and_the_question_are_prefilled(real_pair: Servers) -> None:
    """Its prompt shares all of the first turn's but the opening think tag: 4 tokens at most."""
    first = real_pair.trajectory(2)
    for endpoint in real_pair.endpoints().values():
        endpoint.flush_cache()
    turns = [Message("user", "What is 12 + 7?"), Message("assistant", "19"), Message("user", "And 30 more?")]
    prompts = {}
    for count in (1, 3):
        trajectory = replace(first, kept=[], calls=[], answer="", stop_reason=None)
        openings = {role: chat.opening(turns[:count]) for role, chat in real_pair.chats.items()}
        trajectory.texts.prompts = {role: opening.prompt for role, opening in openings.items()}
        trajectory.texts.contents = {role: opening.contents for role, opening in openings.items()}
        run_trajectory("specreason", trajectory, real_pair.endpoints())  # type: ignore[arg-type]
        prompts[count] = {
            role: endpoint.ids(trajectory.texts.prompts[role]) for role, endpoint in real_pair.endpoints().items()
        }
    for purpose, role in (("draft", "small"), ("judge", "base")):
        account = next(call.account for call in trajectory.calls if call.purpose == purpose)
        assert account.cached_tokens >= len(prompts[1][role]) - 4
