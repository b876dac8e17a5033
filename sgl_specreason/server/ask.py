"""Owns what a request asks for: its JSON in, an `Ask` or a Refusal out (pure). Knows no HTTP, no engines and no templates.

What each field means stands in docs/server.md; the fields that only have one allowed value are in `fields.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_type_hints

from msgspec import Meta, structs

from sgl_specreason.errors import UsageError
from sgl_specreason.method.policy import ALONE, Policy, Settings, is_alone
from sgl_specreason.server import fields
from sgl_specreason.server.budgets import Limits, limits_of, thinks
from sgl_specreason.server.conversation import read_messages
from sgl_specreason.server.fields import checked
from sgl_specreason.server.refusal import Refusal, invalid, model_not_found, unsupported_parameter
from sgl_specreason.text.conversation import Message, check_options

Served_as = Literal["specreason", "base", "small", "base-direct"]
Asked = Literal["specreason", "base", "small"]
SAMPLING = ("temperature", "top_p", "top_k", "min_p")
OWN_SETTINGS = ("threshold", "on_budget", "lookahead")
OWN = (*OWN_SETTINGS, "steps", "drafts", "budget_tokens")
MOST_STOPS, LONGEST_STOP = 16, 1000
Stop = Annotated[str, Meta(min_length=1, max_length=LONGEST_STOP)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
KINDS: dict[str, Any] = get_type_hints(Settings, include_extras=True)
KINDS["top_k"] = Annotated[int, Meta(ge=-1, le=2**31 - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What one server offers. `names` are its models in the order of their listing; `aliases` stand for the first of specreason.

    `sampling` is what base's generation_config says and the command does not (temperature, top_p, top_k, min_p);
    `effort_thresholds` are the thresholds that go with efforts, where the server was started so. `min_p_fails` says why its
    engines cannot have a min_p above 0, where they cannot (`writing.generate`).
    """

    names: Mapping[str, Served_as]
    policy: Policy
    aliases: frozenset[str] = frozenset({"", "default"})
    sampling: Mapping[str, float] = field(default_factory=dict)
    effort_thresholds: Mapping[str, float] = field(default_factory=dict)
    most_choices: int = 16
    min_p_fails: str = ""

    @property
    def default(self) -> str:
        """The model that is meant where none is named."""
        return next((name for name, kind in self.names.items() if kind == "specreason"), next(iter(self.names)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request, checked. `policy` is what its method follows, its budget not yet clamped to an engine's room.

    `total_tokens` bounds thought and answer together: the caller gives the answer what the thought leaves. Without `thinking`
    there is one answer and no thought, by small if that is the model, else by base. `stop` ends the answer only. Of the seed,
    a choice's own is `seed` + its index. `shows_thought`: a thought is sent at all; `splits_thought`: apart from the answer;
    `streams_thought`: as it comes. `steps` and `drafts`: what each step was, and what was rejected, is sent too.
    """

    model: str
    method: Asked
    messages: tuple[Message, ...]
    thinking: bool
    template_options: Mapping[str, object]
    policy: Policy
    total_tokens: int | None = None
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    shows_thought: bool = True
    streams_thought: bool = True
    splits_thought: bool = True
    steps: bool = False
    drafts: bool = False
    cache_salt: str = ""
    ignored: tuple[str, ...] = ()


def read(body: Mapping[str, object], served: Served, *, steps_header: bool = False) -> Ask:
    """What the JSON of a request asks for. Raises Refusal: 404 for another model, 400 that names the field for all else."""
    if not isinstance(body, Mapping):
        raise invalid("the body must be a JSON object")
    model, kind = _model(body, served)
    fields.refuse_what_cannot_be_honoured(body)
    for name in ("reasoning", "stream_options", "custom_params", "chat_template_kwargs"):
        fields.table(body, name)
    own = _own(body)
    limits = limits_of(body)
    method: Asked = "base" if kind == "base-direct" else kind
    return Ask(
        model=model,
        method=method,
        messages=read_messages(body.get("messages")),
        thinking=thinks(body, limits) and kind != "base-direct",
        template_options=_template_options(body, limits),
        policy=_policy(body, served, method, limits),
        total_tokens=limits.total,
        seed=fields.field(body, "seed", Seed),
        n=fields.field(body, "n", Annotated[int, Meta(ge=1, le=served.most_choices)]) or 1,
        stop=_stop(body),
        stream=_flag(body, "stream"),
        include_usage=_flag(body, "stream_options.include_usage"),
        continuous_usage=_flag(body, "stream_options.continuous_usage_stats"),
        shows_thought=_flag(body, "include_reasoning", default=True) and not _flag(body, "reasoning.exclude"),
        streams_thought=_flag(body, "stream_reasoning", default=True),
        splits_thought=_flag(body, "separate_reasoning", default=True),
        steps=own["steps"] or steps_header,
        drafts=own["drafts"],
        cache_salt=fields.field(body, "cache_salt", Annotated[str, Meta(max_length=200)]) or "",
        ignored=fields.ignored(body),
    )


def _model(body: Mapping[str, object], served: Served) -> tuple[str, Served_as]:
    name = fields.field(body, "model", str)
    if name is None or (name in served.aliases and name not in served.names):
        name = served.default
    if name not in served.names:
        raise model_not_found(name, list(served.names))
    return name, served.names[name]


def _flag(body: Mapping[str, object], path: str, *, default: bool = False) -> bool:
    found = fields.field(body, path, bool)
    return default if found is None else found


def _own(body: Mapping[str, object]) -> dict[str, bool]:
    """The switches of `specreason`, in which nothing unknown may stand: there are no other servers that it could be for."""
    for name in fields.table(body, "specreason"):
        if name not in OWN:
            raise invalid(
                f"specreason.{name[:100]} is not known; there are {', '.join(OWN)}", param=f"specreason.{name}"
            )
    return {name: _flag(body, f"specreason.{name}") for name in ("steps", "drafts")}


def _stop(body: Mapping[str, object]) -> tuple[str, ...]:
    found = body.get("stop")
    if found is None:
        return ()
    if isinstance(found, str):
        return (checked(found, Stop, "stop"),)
    stops = checked(found, Annotated[list[Any], Meta(max_length=MOST_STOPS)], "stop")
    return tuple(dict.fromkeys(checked(stop, Stop, f"stop[{number}]") for number, stop in enumerate(stops)))


def _template_options(body: Mapping[str, object], limits: Limits) -> dict[str, object]:
    """What both templates are told, but for the switches, which are read and not passed on."""
    given = fields.table(body, "chat_template_kwargs")
    options = {name: value for name, value in given.items() if name not in ("enable_thinking", "thinking")}
    if limits.effort is not None:
        options.setdefault("reasoning_effort", limits.effort)
    try:
        check_options(options)
    except UsageError as error:
        raise invalid(f"chat_template_kwargs: {error}", param="chat_template_kwargs") from None
    return options


def _policy(body: Mapping[str, object], served: Served, method: Asked, limits: Limits) -> Policy:
    """The server's settings, before them those of the model's own file, before both the request's."""
    paths = {name: name for name in SAMPLING} | {name: f"specreason.{name}" for name in OWN_SETTINGS}
    asked = {
        name: found for name, path in paths.items() if (found := fields.field(body, path, KINDS[name])) is not None
    }
    settings = structs.asdict(served.policy) | {
        name: served.sampling[name] for name in SAMPLING if name in served.sampling
    }
    if isinstance(limits.effort, str) and limits.effort in served.effort_thresholds:
        settings["threshold"] = served.effort_thresholds[limits.effort]
    settings |= asked
    if settings["min_p"] and served.min_p_fails:
        raise unsupported_parameter("min_p", served.min_p_fails)
    settings["top_k"] = settings["top_k"] or -1  # elsewhere 0 says all tokens too
    settings["budget_tokens"] = limits.budget(
        served.policy.budget_tokens, settings["answer_tokens"], settings["on_budget"]
    )
    if is_alone(method):
        settings = {name: settings[name] for name in ALONE}
    try:
        return Policy(**settings)
    except UsageError as error:
        raise _misfit(str(error), {name: paths[name] for name in asked}, settings) from None


def _misfit(words: str, asked: Mapping[str, str], settings: Mapping[str, Any]) -> Refusal:
    """What is said where the request's settings do not go with each other or with the server's."""
    drafts = settings.get("drafts", 1)
    if drafts > 1:
        one = "temperature" if settings["temperature"] == 0 else "top_k" if settings["top_k"] == 1 else "lookahead"
        param = asked.get(one)
        words = f"does not go with the {drafts} drafts a step of this server"
        return invalid(f"{param or one} = {settings[one]}: {words}", param=param)
    named = re.match(r"\w+", words)
    param = asked.get(named[0]) if named else None
    return invalid(f"{param}: {words}" if param else words, param=param)
