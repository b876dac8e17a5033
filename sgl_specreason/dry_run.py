"""Owns what `--dry-run` prints: the resolved settings, one problem's rendered prompts, the engine commands."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from sgl_specreason.plan import ROLES, Plan
from sgl_specreason.prompts import ChatFormat, load_tokenizer

WITHHELD = "[withheld: no text of this bench is to be written anywhere]"


def describe(plan: Plan, out: Path) -> str:
    """The plan for a person to read. Loads tokenizers only; starts and writes nothing."""
    row = plan.problems[0]
    if plan.bench.private:
        row = replace(row, problem=WITHHELD, choices=row.choices and WITHHELD)
    sections = [
        _section("settings", json.dumps(_settings(plan), indent=1)),
        _section("problems", f"{len(plan.problems)} of {len(plan.rows.rows)}, from {plan.rows.origin}"),
        _section("templates", str(plan.prompts.folder)),
    ]
    if plan.specs:
        chats = {
            role: ChatFormat(tokenizer=load_tokenizer(plan.models[role], trust_remote_code=plan.trust_remote_code))
            for role in ROLES
        }
        texts = plan.texts(row, chats)
        sections += [_section(f"prompt of problem {row.id}, {role}", text) for role, text in texts.prompts.items()]
        sections += [
            _section("judge turn, after a step", texts.judge_open),
            _section("closing at the budget", texts.close),
        ]
    else:
        sections.append(_section("prompts", "rendered with the running servers' own tokenizers"))
    commands = [spec.shell() for spec in plan.specs] or ["none: running servers are used"]
    folder = out / plan.name(plan.methods)
    sections += [
        _section(f"engines, on {plan.hardware}, in this order", "\n".join(commands)),
        _section("run folder", str(folder)),
    ]
    return "\n".join(sections)


def _settings(plan: Plan) -> dict[str, object]:
    settings = plan.settings(plan.methods[0]) | {"method": list(plan.methods)}
    return settings | {"policy": asdict(plan.policy)}


def _section(title: str, body: str) -> str:
    return f"== {title}\n{body}\n"
