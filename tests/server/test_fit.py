"""Budgets that fit the engines: whatever is asked for, nothing of a trajectory is ever too long for an engine."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sgl_specreason.method.policy import OnBudget, Policy
from sgl_specreason.plan.limits import INPUT_SPARE, TOTAL_SPARE
from sgl_specreason.server.fit import LEAST_TOKENS, Fitted, Size, answer_share, fitted
from sgl_specreason.server.refusal import Refusal
from sgl_specreason.text.steps import Author

TOKENS = st.integers(1, 3000)
SIZES = st.builds(
    lambda base, small, judging, closing: {
        "base": Size(prompt=base, judging=judging, closing=closing),
        "small": Size(prompt=small, closing=closing),
    },
    st.integers(1, 2500), st.integers(1, 2500), st.integers(0, 600), st.integers(0, 60),
)  # fmt: skip
ROOMS = st.dictionaries(st.sampled_from(["base", "small"]), st.integers(20, 3000))
AUTHORS: st.SearchStrategy[Author] = st.sampled_from(["base", "small"])


@given(
    sizes=SIZES, rooms=ROOMS, total=st.none() | TOKENS, budget=TOKENS, answer=TOKENS, answerer=AUTHORS,
    on_budget=st.sampled_from(["answer", "stop"]), thinking=st.booleans(),
)  # fmt: skip
def test_what_is_fitted_fits(
    sizes: dict[Author, Size],
    rooms: dict[Author, int],
    total: int | None,
    budget: int,
    answer: int,
    answerer: Author,
    on_budget: OnBudget,
    thinking: bool,
) -> None:
    """A judge's prompt after the longest thought, and the longest answer after it: what SGLang refuses or cuts is never sent."""
    policy = Policy(budget_tokens=budget, answer_tokens=answer, on_budget=on_budget)
    lacks = any(
        size.prompt + max(size.judging + INPUT_SPARE, size.closing + TOTAL_SPARE) + LEAST_TOKENS > rooms[role]
        for role, size in sizes.items()
        if role in rooms
    )
    try:
        found = fitted(policy, total, answerer=answerer, sizes=sizes, rooms=rooms, thinking=thinking)
    except Refusal:
        assert lacks
        return
    thought = found.policy.budget_tokens if thinking else 0
    assert found.total_tokens >= 1
    assert 1 <= found.policy.budget_tokens <= budget
    assert total is None or found.total_tokens <= total
    assert found.policy.budget_tokens <= found.total_tokens
    for role, room in rooms.items():
        size = sizes[role]
        assert found.need[role] <= room
        assert size.prompt + thought + TOTAL_SPARE <= room
        if size.judging:
            assert size.prompt + thought + size.judging + INPUT_SPARE <= room
    if answerer in rooms:
        size = sizes[answerer]
        assert size.prompt + found.total_tokens + size.closing + TOTAL_SPARE <= rooms[answerer]
    assert found.policy.answer_tokens == answer


@given(total=st.none() | TOKENS, budget=TOKENS, answer=TOKENS, sizes=SIZES)
def test_nothing_is_made_smaller_that_fits(
    total: int | None, budget: int, answer: int, sizes: dict[Author, Size]
) -> None:
    policy = Policy(budget_tokens=budget, answer_tokens=answer)
    found = fitted(policy, total, answerer="base", sizes=sizes, rooms={"base": 100_000, "small": 100_000})
    assert found.total_tokens == (total or budget + answer)
    share = answer_share(found.total_tokens, answer, policy.on_budget)
    assert found.policy.budget_tokens == max(1, min(budget, found.total_tokens - share))


@given(total=TOKENS, answer=TOKENS)
def test_of_all_tokens_some_are_left_to_the_answer(total: int, answer: int) -> None:
    assume(total > 1)
    share = answer_share(total, answer, "answer")
    assert 1 <= share <= max(16, total // 4)
    assert share < total
    assert answer_share(total, answer, "stop") == 0


def test_an_engine_that_does_not_say_what_it_takes_bounds_nothing() -> None:
    sizes: dict[Author, Size] = {"base": Size(prompt=10**6)}
    found = fitted(Policy(), 10**7, answerer="base", sizes=sizes, rooms={})
    assert found.total_tokens == 10**7


def fitting(room: int, size: Size) -> Fitted:
    return fitted(Policy(), None, answerer="base", sizes={"base": size}, rooms={"base": room})


def test_a_prompt_that_leaves_nothing_is_refused_in_the_words_that_clients_look_for() -> None:
    with pytest.raises(Refusal) as caught:
        fitting(1000, Size(prompt=990))
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
    assert "maximum context length is 1000 tokens" in caught.value.message
    assert "990 tokens" in caught.value.message


def test_a_prompt_that_leaves_no_room_for_the_judge_is_refused_too() -> None:
    """Sent all the same, its first judgement would be the engine's error, and not the asker's."""
    assert fitting(1000, Size(prompt=700, judging=250)).policy.budget_tokens == 1000 - 700 - 250 - INPUT_SPARE
    with pytest.raises(Refusal):
        fitting(1000, Size(prompt=760, judging=250))
