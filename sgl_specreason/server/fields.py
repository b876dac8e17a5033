"""Owns the fields of a request that are checked one by one: of which type they are, and which of them mean nothing here.

Knows nothing of what the others mean.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from sgl_specreason.errors import UsageError
from sgl_specreason.server.refusal import invalid, unsupported_parameter
from sgl_specreason.typed import typed

T = TypeVar("T")
MOST_IGNORED, LONGEST_NAME = 16, 64

SILENT = frozenset(
    {
        "bootstrap_host", "bootstrap_port", "bootstrap_room", "data_parallel_rank", "disagg_prefill_dp_rank", "metadata",
        "parallel_tool_calls", "priority", "prompt_cache_key", "prompt_cache_retention", "request_id", "rid", "routed_dp_rank",
        "safety_identifier", "service_tier", "session_id", "store", "user", "verbosity",
    }
)  # fmt: skip
"""What changes nothing about a reply, whatever it says."""

_RESTART = "each step is a request of its own, where a penalty would begin anew"
_OURS = "requests are put together by the server"
_LOGPROBS = "the steps of a thought are not all drawn by one model, so there are no log-probabilities of a reply"
_MORE = "ask for specreason.steps to see what a reply is made of"
_TOOLS = "these models call no tools"
_BEAMS = "steps are drawn one after the other"
_SHAPE = "a reply is free text"
NEUTRAL: dict[str, tuple[tuple[object, ...], str]] = {
    "repetition_penalty": ((1,), _RESTART),
    "presence_penalty": ((0,), _RESTART),
    "frequency_penalty": ((0,), _RESTART),
    "length_penalty": ((1, 0), _RESTART),
    "no_repeat_ngram_size": ((0,), _RESTART),
    "min_tokens": ((0,), _RESTART),
    "min_new_tokens": ((0,), _RESTART),
    "min_completion_tokens": ((0,), _RESTART),
    "logit_bias": (({},), "the two models may have different vocabularies"),
    "allowed_token_ids": (([],), "the two models may have different vocabularies"),
    "stop_token_ids": (([],), "the two models may have different vocabularies"),
    "bad_words": (([],), "only what ends an answer can be given, as stop"),
    "stop_regex": (([], ""), "only words can end an answer, as stop"),
    "no_stop_trim": ((False,), "the words that end an answer are cut off"),
    "include_stop_str_in_output": ((False,), "the words that end an answer are cut off"),
    "ignore_eos": ((False,), "a model that has ended its sequence is not made to go on"),
    "skip_special_tokens": ((True,), "a reply is text"),
    "spaces_between_special_tokens": ((True,), "a reply is text"),
    "logprobs": ((False,), _LOGPROBS),
    "top_logprobs": ((0,), _LOGPROBS),
    "prompt_logprobs": ((0, False), _LOGPROBS),
    "logprob_token_ids": (([],), _LOGPROBS),
    "return_tokens_as_token_ids": ((False,), _LOGPROBS),
    "return_hidden_states": ((False,), _MORE),
    "return_input_ids_in_sglext": ((False,), _MORE),
    "return_meta_info": ((False,), _MORE),
    "return_output_ids_in_sglext": ((False,), _MORE),
    "return_prompt_token_ids": ((False,), _MORE),
    "return_routed_experts": ((False,), _MORE),
    "return_sampling_mask": ((False,), _MORE),
    "return_token_ids": ((False,), _MORE),
    "tools": (([],), _TOOLS),
    "functions": (([],), _TOOLS),
    "tool_choice": (("none", "auto"), _TOOLS),
    "function_call": (("none", "auto"), _TOOLS),
    "web_search_options": ((), _TOOLS),
    "plugins": (([],), _TOOLS),
    "documents": (([],), "put them into a message"),
    "modalities": ((["text"], []), "these models read and write text only"),
    "audio": ((), "these models read and write text only"),
    "prediction": ((), "small's drafts are what is predicted here"),
    "best_of": ((1,), "ask for several choices with n"),
    "use_beam_search": ((False,), _BEAMS),
    "early_stopping": ((False,), _BEAMS),
    "echo": ((False,), "the question is not repeated"),
    "typical_p": ((1,), "only temperature, top_p, top_k and min_p decide about what is drawn"),
    "top_a": ((0,), "only temperature, top_p, top_k and min_p decide about what is drawn"),
    "add_generation_prompt": ((True,), _OURS),
    "continue_final_message": ((False,), "a reply that has begun is not continued"),
    "add_special_tokens": ((False,), _OURS),
    "chat_template": (("",), "each model has its own"),
    "truncate_prompt_tokens": ((-1,), _OURS),
    "input_ids": ((), _OURS),
    "extra_key": ((), "give a cache_salt"),
    "session_params": ((), "a conversation is in its messages"),
    "mm_processor_kwargs": (({},), "these models read and write text only"),
    "lora_path": (("",), "a model is chosen by its name"),
    "custom_logit_processor": (("",), "code in a request is not run"),
    "logits_processors": (([],), "code in a request is not run"),
    "regex": (("",), _SHAPE),
    "ebnf": (("",), _SHAPE),
    "json_schema": (("",), _SHAPE),
    "structural_tag": (("",), _SHAPE),
    "structured_outputs": (({},), _SHAPE),
    "guided_json": ((), _SHAPE),
    "guided_regex": ((), _SHAPE),
    "guided_choice": ((), _SHAPE),
    "guided_grammar": ((), _SHAPE),
    "response_format": (({"type": "text"},), _SHAPE),
}
"""Known fields that cannot be honoured: the values at which they ask for nothing, and why not at others. Null asks nothing."""

TABLES: dict[str, frozenset[str]] = {
    "reasoning": frozenset({"effort", "max_tokens", "enabled", "exclude"}),
    "thinking": frozenset({"type", "budget_tokens"}),
    "stream_options": frozenset({"include_usage", "continuous_usage_stats"}),
    "custom_params": frozenset({"thinking_budget"}),
}
"""Fields that are tables, with what is read of them; other keys are ignored, and named."""
READ = frozenset(
    {
        "cache_salt", "chat_template_kwargs", "enable_thinking", "include_reasoning", "max_completion_tokens",
        "max_thinking_tokens", "max_tokens", "messages", "min_p", "model", "n", "reasoning_effort", "seed", "separate_reasoning",
        "specreason", "stop", "stream", "stream_reasoning", "temperature", "thinking_budget", "thinking_token_budget", "top_k",
        "top_p", *TABLES,
    }
)  # fmt: skip
"""What `ask.read` looks at."""


def checked(value: object, kind: type[T] | Any, name: str) -> Any:
    """`value`, the field called `name`, as what it must be. Raises Refusal that names both and what is wanted."""
    try:
        found = typed(value, kind, name)
        if isinstance(found, str):
            found.encode()
        return found
    except UsageError as error:
        raise invalid(str(error), param=name) from None
    except UnicodeEncodeError:
        raise invalid(f"{name} holds half of a character, which is no text", param=name) from None


def field(body: Mapping[str, object], path: str, kind: Any) -> Any:
    """The field at a path ("reasoning.max_tokens"); None where it is not there, or null. Raises Refusal for another type."""
    value: object = body
    for word in path.split("."):
        value = value.get(word) if isinstance(value, Mapping) else None
    return None if value is None else checked(value, kind, path)


def table(body: Mapping[str, object], name: str) -> dict[str, object]:
    """A field that is a table; empty where it is not there."""
    found: dict[str, object] = field(body, name, dict[str, Any]) or {}
    return found


def refuse_what_cannot_be_honoured(body: Mapping[str, object]) -> None:
    """Raises Refusal, naming the field and the reason, where one asks for something that is not done here."""
    for name, (values, why) in NEUTRAL.items():
        asked = body.get(name)
        if isinstance(asked, dict):
            asked = {key: value for key, value in asked.items() if value is not None}
        if asked is not None and asked not in values:
            raise unsupported_parameter(name, why)


def ignored(body: Mapping[str, object]) -> tuple[str, ...]:
    """The fields that nobody knows, as they may stand in a header."""
    names = list(_unknown(body))
    more = ("...",) if len(names) > MOST_IGNORED else ()
    return (*(re.sub(r"[^\w.-]", "?", name[:LONGEST_NAME], flags=re.ASCII) for name in names[:MOST_IGNORED]), *more)


def _unknown(body: Mapping[str, object]) -> Iterator[str]:
    for name, value in body.items():
        if name in TABLES and isinstance(value, dict):
            yield from (f"{name}.{key}" for key in value if key not in TABLES[name])
        elif name not in READ and name not in SILENT and name not in NEUTRAL:
            yield name
