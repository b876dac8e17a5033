"""A request's JSON as what it asks for: every field, its neutral values, and what is said of wrong ones."""

from typing import Any, get_type_hints

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_specreason.method.policy import Policy
from sgl_specreason.server.ask import OWN, Ask, Served, read
from sgl_specreason.server.budgets import BUDGETS, SHARES
from sgl_specreason.server.fields import NEUTRAL, READ, SILENT, TABLES
from sgl_specreason.server.refusal import Refusal
from sgl_specreason.text.conversation import Message

USER = {"role": "user", "content": "What?"}
POLICY = Policy(budget_tokens=8000, answer_tokens=1000, temperature=0.6, top_p=0.95)
SERVED = Served(
    names={"specreason": "specreason", "base": "base", "small": "small", "base-direct": "base-direct"},
    aliases=frozenset({"", "default", "org/Base-32B"}),
    policy=POLICY,
)


def ask(served: Served = SERVED, *, steps_header: bool = False, **body: Any) -> Ask:
    return read({"messages": [USER], **body}, served, steps_header=steps_header)


def refused(served: Served = SERVED, **body: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read({"messages": [USER], **body}, served)
    assert caught.value.status == 400
    return caught.value


def nested(path: str, value: object) -> dict[str, Any]:
    """A body with `value` at a path ("reasoning.effort")."""
    first, _, rest = path.partition(".")
    return {first: nested(rest, value) if rest else value}


def test_a_question_alone_has_the_servers_defaults() -> None:
    found = ask()
    assert found == Ask(
        model="specreason",
        method="specreason",
        messages=(Message("user", "What?"),),
        thinking=True,
        template_options={},
        policy=POLICY,
    )


@pytest.mark.parametrize(
    ("model", "name", "method", "thinking"),
    [
        (None, "specreason", "specreason", True),
        ("", "specreason", "specreason", True),
        ("default", "specreason", "specreason", True),
        ("org/Base-32B", "specreason", "specreason", True),
        ("specreason", "specreason", "specreason", True),
        ("base", "base", "base", True),
        ("small", "small", "small", True),
        ("base-direct", "base-direct", "base", False),
    ],
)
def test_a_model_is_a_method(model: str | None, name: str, method: str, thinking: bool) -> None:
    found = ask(model=model)
    assert (found.model, found.method, found.thinking) == (name, method, thinking)


def test_another_model_is_not_found_and_those_that_there_are_are_named() -> None:
    with pytest.raises(Refusal) as caught:
        ask(model="gpt-4")
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    assert "specreason, base, small, base-direct" in caught.value.message


PLAIN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "stream": ({"stream": True}, {"stream": True}),
    "usage": ({"stream_options": {"include_usage": True}}, {"include_usage": True}),
    "continuous usage": ({"stream_options": {"continuous_usage_stats": True}}, {"continuous_usage": True}),
    "n": ({"n": 16}, {"n": 16}),
    "seed": ({"seed": 1234}, {"seed": 1234}),
    "a negative seed": ({"seed": -1}, {"seed": -1}),
    "stop": ({"stop": "Q:"}, {"stop": ("Q:",)}),
    "stops": ({"stop": ["Q:", "\n\n", "Q:"]}, {"stop": ("Q:", "\n\n")}),
    "no stops": ({"stop": []}, {"stop": ()}),
    "thought unseen": ({"include_reasoning": False}, {"shows_thought": False}),
    "thought excluded": ({"reasoning": {"exclude": True}}, {"shows_thought": False}),
    "thought in the content": ({"separate_reasoning": False}, {"splits_thought": False}),
    "thought in one": ({"stream_reasoning": False}, {"streams_thought": False}),
    "total": ({"max_tokens": 4000}, {"total_tokens": 4000}),
    "total by its new name": ({"max_completion_tokens": 4000}, {"total_tokens": 4000}),
    "the smaller total": ({"max_completion_tokens": 4000, "max_tokens": 300}, {"total_tokens": 300}),
    "steps": ({"specreason": {"steps": True}}, {"steps": True}),
    "drafts": ({"specreason": {"drafts": True}}, {"drafts": True}),
    "a salt": ({"cache_salt": "me"}, {"cache_salt": "me"}),
    "template options": (
        {"chat_template_kwargs": {"enable_thinking": True, "thinking": True, "date_string": "1 May"}},
        {"template_options": {"date_string": "1 May"}},
    ),
    "effort for the template": ({"reasoning_effort": "high"}, {"template_options": {"reasoning_effort": "high"}}),
    "unknown": (
        {"zebra": 1, "a b\n": 2, "reasoning": {"summary": "auto"}}, {"ignored": ("zebra", "a?b?", "reasoning.summary")},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "found"), PLAIN.values(), ids=PLAIN)
def test_each_field_is_read(body: dict[str, Any], found: dict[str, Any]) -> None:
    seen = ask(**body)
    assert {name: getattr(seen, name) for name in found} == found


SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "temperature": ({"temperature": 0}, {"temperature": 0.0}),
    "top_p": ({"top_p": 0.5}, {"top_p": 0.5}),
    "top_k": ({"top_k": 20}, {"top_k": 20}),
    "top_k off": ({"top_k": -1}, {"top_k": -1}),
    "top_k off by another word": ({"top_k": 0}, {"top_k": -1}),
    "min_p": ({"min_p": 0.1}, {"min_p": 0.1}),
    "threshold": ({"specreason": {"threshold": 3}}, {"threshold": 3.0}),
    "on_budget": ({"specreason": {"on_budget": "stop"}}, {"on_budget": "stop"}),
    "lookahead": ({"specreason": {"lookahead": 0}}, {"lookahead": 0}),
}


@pytest.mark.parametrize(("body", "found"), SETTINGS.values(), ids=SETTINGS)
def test_each_setting_of_the_method_is_the_requests(body: dict[str, Any], found: dict[str, Any]) -> None:
    policy = ask(**body).policy
    assert {name: getattr(policy, name) for name in found} == found


def test_a_request_goes_before_the_models_own_file_and_that_before_the_server() -> None:
    served = Served(names=SERVED.names, policy=POLICY, sampling={"temperature": 1.0, "top_k": 0, "top_p": 0.9})
    policy = ask(served, top_p=0.5).policy
    assert (policy.temperature, policy.top_k, policy.top_p, policy.min_p) == (1.0, -1, 0.5, 0.0)


@pytest.mark.parametrize("path", BUDGETS)
def test_each_spelling_of_a_budget_is_the_thoughts(path: str) -> None:
    assert ask(**nested(path, 77)).policy.budget_tokens == 77
    assert ask(**nested(path, 77), reasoning_effort="low").policy.budget_tokens == 77
    assert ask(**nested(path, 9999)).policy.budget_tokens == 9999
    assert not ask(**nested(path, 0)).thinking


def test_spellings_that_differ_are_refused_and_those_that_agree_are_not() -> None:
    found = refused(thinking_budget=5, thinking={"type": "enabled", "budget_tokens": 6})
    assert found.message == "thinking.budget_tokens = 6 and thinking_budget = 5 say the same thing differently"
    assert ask(thinking_budget=5, max_thinking_tokens=5).policy.budget_tokens == 5
    assert refused(reasoning_effort="low", reasoning={"effort": "high"}).param == "reasoning.effort"


@pytest.mark.parametrize(
    ("effort", "share"), [*((e, s) for e, s in SHARES.items() if s), (0.3, 0.3), (0.0001, 1 / 8000)]
)
def test_an_effort_is_a_share_of_the_servers_budget(effort: str | float, share: float) -> None:
    for body in ({"reasoning_effort": effort}, {"reasoning": {"effort": effort}}):
        assert ask(**body).policy.budget_tokens == round(8000 * share)


def test_an_effort_may_have_a_threshold() -> None:
    served = Served(names=SERVED.names, policy=POLICY, effort_thresholds={"low": 3.0})
    assert ask(served, reasoning_effort="low").policy.threshold == 3.0
    assert ask(served, reasoning_effort="high").policy.threshold == POLICY.threshold
    assert ask(served, reasoning_effort="low", specreason={"threshold": 8}).policy.threshold == 8.0


TOTALS: dict[str, tuple[dict[str, Any], int]] = {
    "what an answer does not need": ({"max_tokens": 9000}, 8000),
    "a quarter for the answer": ({"max_tokens": 1024}, 768),
    "sixteen for the answer": ({"max_tokens": 40}, 24),
    "half for the answer": ({"max_tokens": 10}, 5),
    "one": ({"max_tokens": 1}, 1),
    "two": ({"max_tokens": 2}, 1),
    "more than the server's": ({"max_tokens": 100_000}, 99_000),
    "an explicit one": ({"max_tokens": 1024, "thinking_budget": 1000}, 1000),
    "one that leaves no answer": ({"max_tokens": 1024, "thinking_budget": 1024}, 768),
    "stops": ({"max_tokens": 1024, "specreason": {"on_budget": "stop"}}, 1024),
    "stops, explicit": ({"max_tokens": 1024, "thinking_budget": 5000, "specreason": {"on_budget": "stop"}}, 1024),
    "an effort within": ({"max_tokens": 9000, "reasoning_effort": "low"}, 2000),
    "an effort above": ({"max_tokens": 1024, "reasoning_effort": "low"}, 768),
}


@pytest.mark.parametrize(("body", "budget"), TOTALS.values(), ids=TOTALS)
def test_of_all_tokens_the_thought_leaves_some_for_the_answer(body: dict[str, Any], budget: int) -> None:
    found = ask(**body)
    assert found.policy.budget_tokens == budget
    assert found.total_tokens == body["max_tokens"]
    assert found.policy.answer_tokens == POLICY.answer_tokens


@pytest.mark.parametrize(
    "body",
    [
        {"enable_thinking": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"chat_template_kwargs": {"thinking": False}},
        {"thinking": False},
        {"thinking": {"type": "disabled"}},
        {"reasoning": {"enabled": False}},
        {"reasoning_effort": "none"},
        {"reasoning": {"effort": "none"}},
        {"reasoning_effort": 0},
        {"model": "base-direct", "enable_thinking": True},
        {"enable_thinking": True, "thinking": {"type": "disabled"}},
    ],
)
def test_no_thought_is_asked_for_in_many_ways(body: dict[str, Any]) -> None:
    assert not ask(**body).thinking


@pytest.mark.parametrize(
    "body",
    [
        {"enable_thinking": True}, {"thinking": True}, {"thinking": {"type": "enabled"}}, {"thinking": {"type": "adaptive"}},
        {"thinking": {"budget_tokens": 5}}, {"reasoning": {"enabled": True}}, {"reasoning": {}}, {"thinking": {}},
    ],
)  # fmt: skip
def test_a_thought_may_be_asked_for(body: dict[str, Any]) -> None:
    assert ask(**body).thinking


def test_a_baseline_has_only_the_settings_that_it_follows() -> None:
    """So that a setting of the method's is no error there, and its record says nothing that did not matter."""
    served = Served(names=SERVED.names, policy=Policy(drafts=3, lookahead=0, temperature=1.0))
    for model in ("base", "small", "base-direct"):
        policy = ask(served, model=model, temperature=0, specreason={"threshold": 3}).policy
        assert policy == Policy(temperature=0.0)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": 0}, "temperature"),
        ({"temperature": 1, "top_k": 1}, "top_k"),
        ({"specreason": {"lookahead": 2}, "temperature": 1}, "specreason.lookahead"),
    ],
)
def test_what_does_not_go_with_the_servers_drafts_is_refused(body: dict[str, Any], param: str) -> None:
    served = Served(names=SERVED.names, policy=Policy(drafts=3, lookahead=0))
    found = refused(served, **body)
    assert found.param == param
    assert "does not go with the 3 drafts" in found.message


def test_engines_that_cannot_have_a_min_p_are_not_given_one() -> None:
    served = Served(names=SERVED.names, policy=POLICY, min_p_fails="its engines draw by seed")
    found = refused(served, min_p=0.1)
    assert (found.param, found.code) == ("min_p", "unsupported_parameter")
    assert ask(served, min_p=0.0) == ask()


def test_a_header_asks_for_steps_too() -> None:
    assert ask(steps_header=True).steps
    assert ask(steps_header=True, specreason={"steps": False}).steps


def test_sgl_evals_and_lm_evals_own_fields_are_taken() -> None:
    """What they always send, whether anybody has asked for it or not."""
    assert ask(min_p=0.0, repetition_penalty=1.0, chat_template_kwargs={"thinking": True}, top_p=1.0).ignored == ()
    assert ask(max_tokens=256, temperature=0, stop=["\n\n"], seed=1234).ignored == ()


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_field_that_cannot_be_honoured_is_taken_at_its_neutral_values_only(name: str) -> None:
    for value in (None, *NEUTRAL[name][0]):
        assert ask(**{name: value}).ignored == ()
    found = refused(**{name: "anything else"})
    assert (found.param, found.code) == (name, "unsupported_parameter")
    assert found.message.startswith(f"{name} is not supported: ")


def test_every_field_of_openais_client_has_a_meaning_here() -> None:
    from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as Streaming

    names = {name for part in Streaming.__mro__ for name in getattr(part, "__annotations__", {})} | {
        *get_type_hints(Streaming)
    }
    assert names - READ - NEUTRAL.keys() - SILENT == set()


def test_a_null_in_a_neutral_value_asks_for_nothing() -> None:
    assert ask(response_format={"type": "text", "json_schema": None}, logit_bias={"5": None}) == ask()


UNSUPPORTED = {
    "repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": -1, "logit_bias": {"5": 1}, "logprobs": True,
    "top_logprobs": 3, "tools": [{"type": "function"}], "tool_choice": "required", "min_tokens": 5, "ignore_eos": True,
    "best_of": 2,
    "stop_token_ids": [7], "response_format": {"type": "json_object"}, "chat_template": "{{ x }}", "continue_final_message": True,
    "guided_json": {}, "modalities": ["text", "audio"],
}  # fmt: skip


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_cannot_be_honoured_is_refused_and_not_dropped(name: str) -> None:
    assert refused(**{name: UNSUPPORTED[name]}).code == "unsupported_parameter"


@pytest.mark.parametrize("name", sorted(SILENT))
def test_what_changes_nothing_about_a_reply_may_say_anything(name: str) -> None:
    assert ask(**{name: {"a": [1]}}) == ask()


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "model": ({"model": 5}, "model", "model = 5: wants text"),
    "stream": ({"stream": "yes"}, "stream", "stream = 'yes': wants true or false"),
    "stream_options": ({"stream_options": True}, "stream_options", "wants a table"),
    "usage": ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "wants true or false"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens", "max_tokens = 0: wants at least 1"),
    "max_tokens text": ({"max_completion_tokens": "5"}, "max_completion_tokens", "wants a whole number"),
    "budget": ({"thinking_budget": -1}, "thinking_budget", "thinking_budget = -1: wants at least 0"),
    "effort": ({"reasoning_effort": "lo"}, "reasoning_effort", "did you mean low?"),
    "effort number": ({"reasoning_effort": 1.5}, "reasoning_effort", "wants 0 to 0.99"),
    "reasoning": ({"reasoning": "high"}, "reasoning", "wants a table"),
    "thinking": ({"thinking": "yes"}, "thinking", "wants true or false or a table"),
    "thinking type": ({"thinking": {"type": "on"}}, "thinking.type", "wants one of enabled, disabled"),
    "temperature": ({"temperature": 2.5}, "temperature", "temperature = 2.5: wants 0 to 2"),
    "temperature bool": ({"temperature": True}, "temperature", "wants a number"),
    "top_p": ({"top_p": 0}, "top_p", "wants 0.001 to 1"),
    "top_k": ({"top_k": -2}, "top_k", "top_k = -2"),
    "min_p": ({"min_p": 2}, "min_p", "wants 0 to 1"),
    "seed": ({"seed": 1.5}, "seed", "wants a whole number"),
    "seed too large": ({"seed": 2**70}, "seed", "wants a smaller number"),
    "n": ({"n": 17}, "n", "n = 17: wants 1 to 16"),
    "n 0": ({"n": 0}, "n", "n = 0"),
    "stop": ({"stop": 5}, "stop", "wants a list"),
    "stop empty": ({"stop": ""}, "stop", "stop = '': wants"),
    "stop empty in a list": ({"stop": ["a", ""]}, "stop[1]", "stop[1] = ''"),
    "stops": ({"stop": ["a"] * 17}, "stop", "wants at most 16 values, not 17"),
    "stop of a number": ({"stop": [1]}, "stop[0]", "wants text"),
    "template option": ({"chat_template_kwargs": {"a": "<|im_end|>"}}, "chat_template_kwargs", "a: wants"),
    "template option of ours": ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs", "tokenize"),
    "template options": ({"chat_template_kwargs": []}, "chat_template_kwargs", "wants a table"),
    "specreason": ({"specreason": 5}, "specreason", "wants a table"),
    "specreason key": ({"specreason": {"treshold": 5}}, "specreason.treshold", "treshold is not known; there are threshold"),
    "threshold": ({"specreason": {"threshold": 12}}, "specreason.threshold", "score_rule greedy wants 0 to 9"),
    "threshold text": ({"specreason": {"threshold": "7"}}, "specreason.threshold", "wants a number"),
    "on_budget": ({"specreason": {"on_budget": "cry"}}, "specreason.on_budget", "wants one of answer, stop"),
    "lookahead": ({"specreason": {"lookahead": -1}}, "specreason.lookahead", "specreason.lookahead = -1: wants 0 to 64"),
    "steps": ({"specreason": {"steps": 1}}, "specreason.steps", "wants true or false"),
    "drafts": ({"specreason": {"drafts": 3}}, "specreason.drafts", "wants true or false"),
    "messages": ({"messages": []}, "messages", "wants 1 to 10000 messages"),
    "salt": ({"cache_salt": "x" * 201}, "cache_salt", "wants at most 200 characters"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "param", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_named_with_its_field_and_what_is_wanted(body: dict[str, Any], param: str, words: str) -> None:
    found = refused(**body)
    assert found.param == param
    assert words in found.message


def test_null_is_as_if_the_field_were_not_there() -> None:
    names = (READ | NEUTRAL.keys() | SILENT) - {"messages"}
    assert ask(**dict.fromkeys(sorted(names))) == ask()
    assert ask(**{name: dict.fromkeys(sorted(keys)) for name, keys in TABLES.items()}) == ask()
    assert ask(specreason=dict.fromkeys(OWN)) == ask()


def test_a_body_that_is_no_object_is_refused() -> None:
    for body in ([], "x", None, 5):
        with pytest.raises(Refusal):
            read(body, SERVED)  # type: ignore[arg-type]


def test_many_unknown_fields_are_named_in_a_header_that_stays_short() -> None:
    found = ask(**{f"field-{number}" + "x" * 500: 1 for number in range(1000)}).ignored
    assert len(found) == 17
    assert found[-1] == "..."
    assert all(len(name) <= 64 and name.isascii() and name.isprintable() for name in found)


def test_deep_nesting_is_an_error_like_any_other() -> None:
    deep: object = "x"
    for number in range(100_000):
        deep = [deep] if number % 2 else {"a": deep}
    for name in READ | NEUTRAL.keys():
        body = {"messages": [USER], name: deep}
        with pytest.raises(Refusal) as caught:
            read(body, SERVED) and read(body | {name: [deep]}, SERVED)
        assert len(orjson.dumps(caught.value.body)) < 4000
    assert ask(metadata=deep, zebra=deep).ignored == ("zebra",)


FRAGMENTS = st.sampled_from(
    [
        "user",
        "assistant",
        "",
        "text",
        "low",
        "none",
        "disabled",
        "specreason",
        "base",
        "stop",
        "answer",
        "a\ud800",
        "\x00",
        "é" * 999,
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | FRAGMENTS
    | st.text(max_size=5)
    | st.integers(5000, 5001).map(lambda digits: 10**digits)
)
KEYS = st.sampled_from(
    sorted(
        {
            "role",
            "content",
            "type",
            "text",
            "tool_calls",
            "enable_thinking",
            "effort",
            *OWN,
            *(k for t in TABLES.values() for k in t),
        }
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from(sorted(READ | NEUTRAL.keys() | SILENT)) | st.text(max_size=8)
GOOD = st.sampled_from(
    [body for body, _ in (*PLAIN.values(), *SETTINGS.values(), *TOTALS.values())]
    + [body for body, _, _ in WRONG.values()]
)


@settings(max_examples=400)
@given(st.dictionaries(FIELDS, VALUES, max_size=6), GOOD, st.booleans())
def test_whatever_is_sent_is_an_ask_or_a_short_refusal(body: dict[str, Any], good: dict[str, Any], asks: bool) -> None:
    sent = body | good | ({"messages": [USER]} if asks else {})
    found: Ask | Refusal
    try:
        found = read(sent, SERVED)
    except Refusal as refusal:
        found = refusal
    if isinstance(found, Refusal):
        assert found.status in (400, 404)
        assert len(orjson.dumps(found.body)) < 4000
        return
    assert found.policy.budget_tokens >= 1
    assert found.total_tokens is None or found.policy.budget_tokens <= found.total_tokens
    assert all(found.stop)
    assert found.messages
