"""Owns what `--dry-run` prints: the resolved settings, one problem's rendered prompts, the engine commands."""

import json
from dataclasses import replace
from pathlib import Path

from msgspec import structs

from sgl_specreason.engines import replicas
from sgl_specreason.errors import UsageError
from sgl_specreason.method.trajectory import Texts
from sgl_specreason.plan import limits
from sgl_specreason.plan.benches import Row
from sgl_specreason.plan.plan import Plan
from sgl_specreason.text.chat import load_chats

WITHHELD = "[withheld: no text of this bench is to be written anywhere]"


def describe(plan: Plan, out: Path) -> str:
    """The plan for a person to read. Loads tokenizers only; starts and writes nothing. Raises UsageError as a run would."""
    row = plan.problems[0]
    if plan.bench.private:
        row = replace(row, problem=WITHHELD, choices=row.choices and WITHHELD)
    sections = [
        _section("settings", json.dumps(_settings(plan), indent=1)),
        _section("problems", f"{len(plan.problems)} of {len(plan.rows.rows)}, from {plan.rows.origin}"),
        _section("templates", str(plan.prompts.folder)),
    ]
    sections += _prompts(plan, row)
    commands = [line for spec in plan.specs for line in replicas.commands(spec)] or ["none: running servers are used"]
    folder = out / plan.name(plan.variants)
    if plan.why or plan.placement:
        memory = plan.placement.text() if plan.placement else "no GPU: caches as pinned"
        sections.append(_section("pair and memory", "\n".join(filter(None, [plan.why, memory]))))
    sections += [
        _section(f"engines, on {plan.hardware}, in this order", "\n".join(commands)),
        _section("run folder", str(folder)),
    ]
    return "\n".join(sections)


def _prompts(plan: Plan, row: Row) -> list[str]:
    if not plan.specs:
        return [_section("prompts", "rendered with the running servers' own tokenizers")]
    try:
        chats = load_chats(plan.tokenizer_places, plan.think_tags, trust_remote_code=plan.trust_remote_code)
    except UsageError as error:
        if not plan.elsewhere:
            raise
        return [_section("prompts", f"not rendered, nor checked against the engines' room: {error}")]
    limits.check(plan, chats, limits.configured(plan.specs))
    limits.check_sizes(plan.specs)
    texts = plan.texts(row, chats)
    return [
        *(_section(f"prompt of problem {row.id}, {role}", text) for role, text in texts.prompts.items()),
        _section("judge turn, after a step", judge_turn(plan, texts)),
        _section("closing at the budget", texts.close),
    ]


def judge_turn(plan: Plan, texts: Texts) -> str:
    """What asks base for its judgement of a step."""
    turns = {"binary": texts.binary_open, "likelihood": "none: the step's own tokens are looked at"}
    asked = dict.fromkeys(turns.get(variant.policy.judge, texts.judge_open) for variant in plan.variants)
    return "\n".join(asked)


def _settings(plan: Plan) -> dict[str, object]:
    """What all variants share, and under "runs" what each of them has of its own where there are several."""
    first, *others = [plan.settings(variant) for variant in plan.variants]
    if not others:
        return first
    runs = [{"method": variant.method, "policy": structs.asdict(variant.policy)} for variant in plan.variants]
    return {key: value for key, value in first.items() if key not in ("method", "policy")} | {"runs": runs}


def _section(title: str, body: str) -> str:
    return f"== {title}\n{body}\n"
