"""Gates in the judge's place, against scripted engines: what each keeps, refuses and asks, and what audits see of it."""

import math
from typing import Any

import pytest
from fake_engine import FakeEngine
from fake_pair import Pair, Start, thought
from hypothesis import given
from hypothesis import strategies as st

from sgl_specreason.errors import UsageError
from sgl_specreason.method.gates import SIGNALS, STRICTER_LOWER, certain_share, hesitates
from sgl_specreason.method.policy import Policy, policy_of
from sgl_specreason.plan.catalog import build_policy
from sgl_specreason.results.lines import Finished
from sgl_specreason.results.records import record_of
from sgl_specreason.text.steps import Step

NEVER_AUDIT = 0.01  # the least; none of these few steps is drawn


def purposes(t: Any) -> list[str]:
    return [call.purpose for call in t.calls]


def labels(*shares: float) -> list[float]:
    return [math.log(share) for share in shares]


def test_self_is_kept_when_sure_refused_when_sure_against_and_judged_between(fake_engine: Start) -> None:
    """ConfSpec: small's own digits at or above the threshold, below it, and neither by enough."""
    sure = labels(*[0.001] * 9, 0.95)
    against = labels(0.95, *[0.001] * 9)
    neither = labels(*[0.05] * 5, *[0.1] * 5)
    drafts = ["Sure.\n\n", "Bad.\n\n", "Hm.\n\n", "End.</think>"]
    pair = Pair(fake_engine, drafts, [9], ["Mine.\n\n", "A"], own=[sure, against, neither, sure])
    t = pair.run(gate="self", audit=NEVER_AUDIT)
    assert [kept.by for kept in t.kept] == ["small", "base", "small", "small"]
    assert purposes(t) == [
        "draft", "self", "draft", "self", "regenerate", "draft", "self", "judge", "draft", "self", "answer",
    ]  # fmt: skip
    assert pair.asked["own"][0] == "S:Sure.\n\n[SELF]"
    assert pair.asked["own"][-1].endswith("End.</think>[SELF, CLOSED]")
    record = t.record()
    assert (record["drafts"], record["judged"], record["accepted"]) == (4, 1, 3)
    assert [step.get("unasked", False) for step in record["steps"]] == [True, True, False, True]
    assert record["steps"][1]["self_wrong"] == pytest.approx(0.956, abs=1e-3)


def test_self_asks_base_where_small_does_not_understand_the_question(fake_engine: Start) -> None:
    """A tenth of its probability is on digits, all of it on 9: that is not being sure."""
    pair = Pair(fake_engine, ["One.</think>"], [0], ["Mine.</think>", "A"], own=[labels(*[1e-6] * 9, 0.1)])
    t = pair.run(gate="self", audit=NEVER_AUDIT)
    assert thought(t) == "Mine.</think>"
    assert "judge" in purposes(t)


def test_self_with_the_binary_judge_goes_by_yes_and_no(fake_engine: Start) -> None:
    own = [labels(0.97, 0.02), labels(0.02, 0.97)]
    pair = Pair(fake_engine, ["Yes.\n\n", "No.\n\n"], [9], ["Mine.</think>", "A"], own=own)
    t = pair.run(gate="self", judge="binary", score_rule="p_yes", threshold=0.5, audit=NEVER_AUDIT)
    assert [kept.by for kept in t.kept] == ["small", "base"]
    assert pair.asked["own"][0] == "S:Yes.\n\n[SELF?]"


def test_entropy_refuses_a_step_by_its_first_token_and_keeps_the_token_of_others(fake_engine: Start) -> None:
    """GlimpRouter: "?" might have been any of eight tokens (3 bits); of the step only that token is written."""
    script = {"S:": "Easy.\n\n", "S:E": "asy.\n\n", "S:Easy.\n\n": "?Hard.\n\n", "S:Easy.\n\nMine.</think>": ""}
    pair = Pair(fake_engine, ["-"], [9], ["Mine.</think>", "A"])
    pair.small.script = lambda prompt, payload: script["".join(map(chr, payload["input_ids"]))]
    t = pair.run(gate="entropy", gate_threshold=2.0, audit=NEVER_AUDIT)
    assert thought(t) == "Easy.\n\nMine.</think>"
    assert purposes(t) == ["draft", "draft", "draft", "regenerate", "answer"]
    record = t.record()
    assert [step["entropy"] for step in record["steps"]] == [0.0, 3.0]
    assert (record["drafts"], record["accepted"], record["judged"]) == (2, 1, 0)
    assert record["tokens_discarded"] == 1
    assert record["steps"][0]["tokens"] == len("Easy.\n\n")


def test_what_is_written_after_a_first_token_is_what_would_have_come_anyway(fake_engine: Start) -> None:
    steps = ["I.\n\n", "II\n\n\n", "\n\n", "III and more.\n\n", "IV.</think>"]

    def writing(engine: FakeEngine) -> None:
        whole = "".join(steps)
        engine.script = lambda prompt, payload: whole[len(prompt.removeprefix("S:")) :]

    texts = []
    for policy in ({"gate": "entropy", "gate_threshold": 64.0}, {"gate": "always", "judge_record": False}):
        pair = Pair(fake_engine, ["-"], [9], ["A"])
        writing(pair.small)
        t = pair.run(**policy, min_step_tokens=5)
        texts.append([kept.step.text for kept in t.kept])
    assert texts[0] == texts[1]


def test_overconfident_hands_over_what_small_is_too_sure_of(fake_engine: Start) -> None:
    """TrigReason: tokens with a probability of 0.61 are certain by a bound of 2 and not by one of 1.5."""
    for bound, by in ((2.0, ["base"]), (1.5, ["small"])):
        pair = Pair(fake_engine, ["One.</think>"], [9], ["Mine.</think>", "A"])
        t = pair.run(gate="overconfident", gate_threshold=0.9, certain_perplexity=bound, audit=NEVER_AUDIT)
        assert [kept.by for kept in t.kept] == by
        assert t.record()["steps"][0]["certain"] == float(by == ["base"])


@pytest.mark.parametrize(("most", "by"), [(0, "sssss"), (2, "sbsbs"), (3, "ssbss")])
def test_overconfident_hands_over_after_hesitating_steps_in_a_row(fake_engine: Start, most: int, by: str) -> None:
    """A step of base's, or one that does not hesitate, begins the count anew."""
    drafts = ["Wait, 1.\n\n", "Hmm, 2.\n\n", "Maybe 3.\n\n", "Or is it? Hmm.\n\n", "End.</think>"]
    pair = Pair(fake_engine, drafts, [9], [*[f"Plain {n}.\n\n" for n in range(by.count("b"))], "A"])
    t = pair.run(gate="overconfident", hesitations=most, audit=NEVER_AUDIT)
    assert "".join(kept.by[0] for kept in t.kept) == by


@pytest.mark.parametrize(
    ("text", "found"),
    [("Wait, no.", True), ("So we await 3.", False), ("Let me recheck.", True), ("HMM", True), ("It may be 3.", False)],
)
def test_hesitating_is_a_matter_of_whole_words(text: str, found: bool) -> None:
    assert hesitates(text) == found


RIVALS: dict[str, dict[str, Any]] = {
    "confident": {"gate_threshold": 0.5},
    "self": {},
    "entropy": {"gate_threshold": 2.0},
    "overconfident": {"gate_threshold": 0.95},
}


@pytest.mark.parametrize("gate", RIVALS)
def test_an_audit_asks_the_judge_and_changes_nothing(fake_engine: Start, gate: str) -> None:
    """All decisions of a gate are judged for the record; the judge is against all of them, and nothing comes of it."""
    found = []
    whole = "One.\n\nTwo.\n\nEnd.</think>"
    for audit in (NEVER_AUDIT, 1.0):
        sure = labels(*[0.001] * 9, 0.95)
        pair = Pair(fake_engine, ["One.\n\n", "Two.\n\n", "End.</think>"], [0], ["A"], own=[sure])
        if gate == "entropy":
            pair.small.script = lambda prompt, payload: whole[len(prompt.removeprefix("S:")) :]
        t = pair.run(gate=gate, audit=audit, **RIVALS[gate])
        found.append((thought(t), t.record()))
    (before, unaudited), (after, audited) = found
    assert before == after == whole
    assert (unaudited["judged"], audited["judged"]) == (0, 3)
    assert [step["agrees"] for step in audited["steps"]] == [False] * 3
    assert all(step["unasked"] and "agrees" not in step for step in unaudited["steps"])


def test_a_refused_step_is_written_out_where_it_is_audited(fake_engine: Start) -> None:
    """The judge cannot judge a token: small writes the step to its end, and base's stands in its place all the same."""
    pair = Pair(fake_engine, ["-"], [9], ["Mine.</think>", "A"])
    pair.small.script = lambda prompt, payload: "?Hard.\n\n"[len(prompt.removeprefix("S:")) :]
    t = pair.run(gate="entropy", gate_threshold=2.0, audit=1.0)
    assert thought(t) == "Mine.</think>"
    assert pair.asked["score"] == ["B:?Hard.\n\n[JUDGE]"]
    (step,) = t.record()["steps"]
    assert (step["accepted"], step["unasked"], step["agrees"]) == (False, True, False)
    assert step["draft"]["text"] == "?Hard.\n\n"


def test_audits_are_a_random_share_and_the_same_again(fake_engine: Start) -> None:
    def audited() -> list[bool]:
        pair = Pair(fake_engine, ["Step.\n\n"], [1], ["Mine.\n\n"])
        t = pair.run(gate="confident", gate_threshold=0.1, audit=0.3, budget_tokens=1000, stop_loops=False)
        return ["agrees" in step for step in t.record()["steps"]]

    first = audited()
    assert first == audited()
    assert len(first) > 100
    assert 0.15 < sum(first) / len(first) < 0.45


def test_a_records_audits_are_counted_by_what_the_gate_decided(fake_engine: Start) -> None:
    sure, against = labels(*[0.001] * 9, 0.95), labels(0.95, *[0.001] * 9)
    drafts = ["I.\n\n", "II.\n\n", "III.</think>"]
    pair = Pair(fake_engine, drafts, [2, 9, 9], ["Mine.\n\n", "A"], own=[sure, against, sure])
    record = pair.run(gate="self", audit=1.0).record()
    line = record | {"correct": True, "answer": "A", "gold": "A", "latency_s": 1.0}
    finished = record_of(line)
    assert isinstance(finished, Finished)
    audits = finished.audits
    assert (audits.unasked_kept, audits.audited_kept, audits.disagreed_kept) == (2, 2, 1)
    assert (audits.unasked_refused, audits.audited_refused, audits.disagreed_refused) == (1, 1, 1)


@pytest.mark.parametrize("gate", SIGNALS)
def test_a_gate_has_a_threshold_of_its_own_and_says_what_it_can_be(gate: Any) -> None:
    span = SIGNALS[gate]
    assert build_policy({"gate": gate}).gate_threshold == span.default
    with pytest.raises(UsageError, match=f"gate {gate} wants {span.low:g} to {span.high:g}"):
        build_policy({"gate": gate, "gate_threshold": span.high + 0.1})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gate_threshold": 0.9}, "gate judge has none; confident, self, entropy, overconfident have"),
        ({"gate": "self", "judge": "likelihood"}, "small cannot be asked for min"),
        ({"gate": "self", "drafts": 2, "temperature": 0.6}, "gate self looks at one draft only"),
        ({"gate": "entropy", "lookahead": 1}, "lookahead has no effect with gate entropy"),
        ({"gate": "confident", "audit": 0.0}, "audit = 0"),
        ({"gate": "overconfident", "certain_perplexity": 1.0}, "certain_perplexity = 1"),
        ({"gate": "overconfident", "hesitations": -1}, "hesitations = -1"),
    ],
    ids=str,
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_policy(settings)
    assert words in str(caught.value)


def test_a_control_has_nothing_of_the_gate_that_it_stands_beside() -> None:
    policy = build_policy({"gate": "overconfident", "gate_p": 0.4, "audit": 0.2, "hesitations": 9})
    ours, coin = policy_of("specreason", policy), policy_of("random", policy)
    assert (ours.gate, ours.gate_p, ours.audit, ours.hesitations) == ("overconfident", None, 0.2, 9)
    default = Policy()
    assert (coin.gate, coin.gate_p, coin.gate_threshold) == ("random", 0.4, None)
    assert (coin.audit, coin.hesitations) == (default.audit, default.hesitations)


NUMBERS = st.floats(0, 1)


@given(
    st.sampled_from(list(SIGNALS)), st.lists(st.floats(-5, 0), min_size=1), st.floats(0, 5), NUMBERS, NUMBERS, NUMBERS
)
def test_a_stricter_threshold_never_keeps_more_unasked(
    gate: Any, logprobs: list[float], entropy: float, right: float, low: float, high: float
) -> None:
    """Whatever small says: what is kept unasked by the strict one is kept unasked by the lenient one."""
    draft = Step(
        text="One.\n\n",
        tokens=3,
        ending="blank_line",
        logprobs=tuple(logprobs),
        entropy=entropy,
        own=(right, 1 - right),
    )
    span = SIGNALS[gate]
    ends = sorted(min(span.low + (span.high - span.low) * share, span.high) for share in (low, high))
    lenient, strict = reversed(ends) if gate in STRICTER_LOWER else ends
    kept = [
        build_policy({"gate": gate, "gate_threshold": at}).verdict(draft, hesitations=0, draw=0.5) == "keep"
        for at in (lenient, strict)
    ]
    assert kept[0] >= kept[1]


def test_a_share_of_certain_tokens_is_unknown_where_nothing_was_asked() -> None:
    step = Step(text="x", tokens=1, ending="cap")
    assert certain_share(step, 1.05) is None
    assert step.confidence is None
