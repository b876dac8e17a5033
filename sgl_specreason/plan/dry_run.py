"""Owns what `--dry-run` prints: the plan, the engine commands, one problem's rendered prompts, and the settings if asked for."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from msgspec import structs

from sgl_specreason.engines import replicas
from sgl_specreason.engines.servers import ROLES
from sgl_specreason.errors import UsageError
from sgl_specreason.method.policy import Policy, is_alone
from sgl_specreason.method.trajectory import Texts
from sgl_specreason.plan import limits
from sgl_specreason.plan.benches import Row
from sgl_specreason.plan.plan import Plan
from sgl_specreason.text.chat import ChatFormat, load_chats
from sgl_specreason.text.steps import Author
from sgl_specreason.words import counted

WITHHELD = "[withheld: no text of this bench is to be written anywhere]"


def describe(
    plan: Plan,
    folder: Path,
    *,
    chats: dict[Author, ChatFormat] | None = None,
    verbose: bool = False,
    notes: Sequence[str] = (),
) -> str:
    """The plan of what would be written to `folder`, for a person to read, with these notes; `verbose`: all settings, too.
    `chats` are those of running servers.

    Loads tokenizers only; starts and writes nothing. Raises UsageError as a run would.
    """
    row = plan.problems[0]
    if plan.bench.private:
        row = replace(row, problem=WITHHELD, choices=row.choices and WITHHELD)
    prompts = _prompts(plan, row, chats)
    sections = [
        section("run", "\n".join([*_run(plan), f"folder: {folder}"])),
        *memory(plan, notes),
        engines(plan),
        section("templates", str(plan.prompts.folder)),
        *prompts,
    ]
    if verbose:
        sections.append(section("settings", json.dumps(_settings(plan), indent=1)))
    return "\n".join(sections) + ("" if verbose else "\n--verbose shows every setting, too\n")


def _run(plan: Plan) -> list[str]:
    """What would be run, in a line for each method and its settings."""
    rows, problems = len(plan.rows.rows), len(plan.problems)
    lines = [
        f"{plan.bench.title} ({plan.bench.name}), pair {plan.pair}, preset {plan.preset}",
        f"{problems} of {rows} problems, from {plan.rows.origin}; {plan.samples} of each, concurrency {plan.concurrency}, "
        f"seed {plan.seed}",
    ]
    if plan.clients > 1:
        lines.append(f"clients: {plan.clients} processes")
    lines += limits.of_one_client(plan)
    if plan.several:
        lines.append("replicas: " + ", ".join(f"{count} of {role}" for role, count in plan.replicas.items()))
    for method in dict.fromkeys(variant.method for variant in plan.variants):
        policies = [variant.policy for variant in plan.variants if variant.method == method]
        lines.append(f"{method}: {_in_short(policies, alone=is_alone(method))}")
    return lines


MATTER = ("budget_tokens", "answer_tokens", "temperature", "top_p", "judge", "score_rule", "threshold")
OF_ALONE = MATTER[:4]


def _in_short(policies: Sequence[Policy], *, alone: bool) -> str:
    """The settings that matter most, and those not at their defaults; of several policies what differs has all its values."""
    default = structs.asdict(Policy())
    tables = [structs.asdict(policy) for policy in policies]
    words = []
    for name in dict.fromkeys((*MATTER, *default)):
        values = list(dict.fromkeys(table[name] for table in tables))
        if len(values) > 1 or values[0] != default[name] or name in (OF_ALONE if alone else MATTER):
            shown = " | ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
            words.append(f"{name} {shown}")
    runs = f"{len(policies)} runs, " if len(policies) > 1 else ""
    return runs + ", ".join(words)


def memory(plan: Plan, notes: Sequence[str] = ()) -> list[str]:
    """The section on pair and memory, where there is something to say."""
    lines = [plan.why]
    if plan.specs:
        held = limits.caches(plan.specs)
        sizes = ", ".join(f"{role}'s cache holds {tokens:,} tokens" for role, tokens in held.items())
        lines.append(plan.placement.text() if plan.placement else f"no GPU: {sizes}, as pinned")
        if room := limits.places(plan, held):
            most = counted(max(min(room.values()), 1), "trajectory", "trajectories")
            lines.append(f"room for {most} at the budget, prompts not counted; --concurrency {plan.concurrency}")
        lines += [f"Warning: {words}" for words in [*limits.crowding(plan, held), *limits.cut_short(plan)]]
    lines += notes
    return [section("pair and memory", "\n".join(filter(None, lines)))] if any(lines) else []


def engines(plan: Plan) -> str:
    """The section with the commands that start the engines."""
    on_cpu = plan.specs and all(spec.on_cpu for spec in plan.specs)
    return section(
        f"engines, on {plan.hardware}, {'side by side' if on_cpu else 'in this order'}", "\n".join(commands(plan))
    )


def commands(plan: Plan) -> list[str]:
    """What is started, in order, for a person to read: base once for the methods without speculation, and once for the others."""
    if not plan.specs:
        return ["none is started: " + ", ".join(f"{role} serves {model}" for role, model in plan.models.items())]
    lines = []
    for role in ROLES:
        stages = [False] if role == "small" else list(plan.stages)
        for speculating in stages:
            methods = ", ".join(dict.fromkeys(str(variant.method) for variant in plan.stages.get(speculating, ())))
            if len(stages) > 1:
                lines.append(f"{'then ' if speculating != stages[0] else ''}{role}, for {methods}:")
            lines += replicas.commands(plan.engine(role, speculating=speculating))
    return lines


def _prompts(plan: Plan, row: Row, served: dict[Author, ChatFormat] | None) -> list[str]:
    try:
        chats = served or load_chats(plan.tokenizer_places, plan.think_tags, trust_remote_code=plan.trust_remote_code)
    except UsageError as error:
        if not plan.elsewhere:
            raise
        limits.check_budgets(plan)
        return [section("prompts", f"not rendered, nor checked against the engines' room: {error}")]
    if not served:
        limits.check_models(plan, chats)
        limits.check(plan, chats, limits.configured(plan.specs))
        limits.check_sizes(plan.specs)
    texts = plan.texts(row, chats)
    return [
        *(section(f"prompt of problem {row.id}, {role}", text) for role, text in texts.prompts.items()),
        section("judge turn, after a step", judge_turn(plan, texts)),
        section("closing at the budget", texts.close),
    ]


def judge_turn(plan: Plan, texts: Texts) -> str:
    """What asks base for its judgement of a step, and small for its own."""
    judges = dict.fromkeys(variant.policy.judge for variant in plan.variants if not is_alone(variant.method))
    turns = [texts.question(judge).opened or "none: the step's own tokens are looked at" for judge in judges]
    return (
        "\n".join([*turns, *(f"small: {question.opened}" for question in texts.own.values())])
        or "none: nothing is judged"
    )


def _settings(plan: Plan) -> dict[str, object]:
    """What all variants share, and under "runs" what each of them has of its own where there are several."""
    first, *others = [plan.settings(variant) for variant in plan.variants]
    if not others:
        return first
    runs = [{"method": variant.method, "policy": structs.asdict(variant.policy)} for variant in plan.variants]
    return {key: value for key, value in first.items() if key not in ("method", "policy")} | {"runs": runs}


def section(title: str, body: str) -> str:
    """Lines under their title."""
    return f"== {title}\n{body}\n"
