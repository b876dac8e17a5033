"""Owns the options that are settings of the method (`method.policy.Policy`), and what becomes of them. Knows no command."""

from collections.abc import Mapping
from typing import Any

import click

from sgl_specreason.options import OF_BENCH, OF_PRESET, PATH, Declaration, together

POLICY: dict[str, tuple[Any, str | None, str]] = {
    "gate": (
        str,
        "GATE",
        "What decides about a draft: judge, or a control (always, never, random), or what small says of it, by "
        "--gate-threshold: confident (its tokens' mean probability; else the judge decides), self (its own judgement; if it is "
        "not sure the judge decides), entropy (of its first token, before it writes more), overconfident (the share of tokens "
        f"that it is certain of).  [{OF_PRESET}, judge]",
    ),
    "gate_threshold": (
        float,
        None,
        "For the gates that go by what small says.  [default: confident 0.95, self 0.9, entropy 1 bit, overconfident 0.95]",
    ),
    "certain_perplexity": (
        float,
        None,
        "--gate overconfident: a token with less than this perplexity is one that small is certain of.  [default: 1.05]",
    ),
    "hesitations": (
        int,
        None,
        "--gate overconfident: so many steps in a row that hesitate (wait, maybe) hand the step to base; 0: never.  "
        "[default: 3]",
    ),
    "audit": (
        float,
        None,
        "The share of drafts that base judges all the same, for the record only, where such a gate decides unasked; at "
        "least 0.01.  [default: 0.05]",
    ),
    "gate_p": (float, None, "The probability of --gate random, 0-1.  [default: none]"),
    "match_acceptance": (
        PATH,
        "RUN",
        "As --gate-p, the share of drafts that this run of specreason kept.  [default: none]",
    ),
    "judge": (
        str,
        "JUDGE",
        "What base is asked: score (a digit), binary (yes or no), likelihood (of the draft's tokens, no judge turn), or "
        f"score+likelihood (both in one request, the first decides).  [{OF_PRESET}, score]",
    ),
    "judge_record": (
        bool,
        None,
        "Ask base also where the gate does not use it, for the record.  [default: --judge-record]",
    ),
    "threshold": (
        float,
        None,
        "Keep a draft with at least this: 0-9 for digits, 0-1 for p_yes, a log-probability for min and mean.  "
        f"[{OF_PRESET}: 7, 7, 7; 0.5; -7, -1]",
    ),
    "score_rule": (
        str,
        "RULE",
        "greedy (likeliest digit), expected (mean digit), p_ge (a digit at or above the threshold has probability 0.5), "
        "p_yes, min or mean (of the tokens' log-probabilities). Thresholds do not carry over between rules.  "
        f"[{OF_PRESET}: the judge's first]",
    ),
    "drafts": (int, None, f"Drafts per step; the one judged best counts.  [{OF_PRESET}, 1]"),
    "lookahead": (
        int,
        None,
        "Steps that small drafts on while base judges one; 0: it waits. Not with several drafts.  "
        f"[{OF_PRESET}, 1; paper: 0]",
    ),
    "eager_regenerate": (
        bool,
        None,
        "While fewer than half of the last drafts were kept, base begins its own step beside judging.  "
        f"[{OF_PRESET}: no]",
    ),
    "salvage": (
        bool,
        None,
        f"Of a rejected draft, keep what stands before the first token that base finds unlikely.  [{OF_PRESET}: no]",
    ),
    "salvage_floor": (float, None, "The log-probability under which a token is unlikely.  [default: -7]"),
    "first_n": (int, None, f"Steps that base writes before small may draft.  [{OF_PRESET}, 0]"),
    "budget_tokens": (
        int,
        None,
        "Thinking tokens kept, at most. Accuracies at different budgets do not compare.  "
        f"[{OF_BENCH}: demo 512, gsm8k 2048, others 8192]",
    ),
    "on_budget": (
        str,
        "answer|stop",
        f"At the budget, close the thought and answer, or stop.  [{OF_PRESET}: answer; paper: stop]",
    ),
    "step_tokens": (int, None, f"Longest step.  [{OF_PRESET}, 512; demo 64]"),
    "min_step_tokens": (int, None, f"Shorter steps are joined before judging.  [{OF_PRESET}, 8; paper: 0]"),
    "stop_loops": (
        bool,
        None,
        f"End a thought that repeats the same steps word for word, as at the budget.  [{OF_PRESET}: yes; paper: no]",
    ),
    "answer_tokens": (int, None, "Longest answer after the thought.  [default: 1024; demo 64]"),
    "answer_by": (str, "base|small", "Who writes SpecReason's answer.  [default: base]"),
    "temperature": (float, None, f"0 is greedy.  [{OF_BENCH}: demo 0, others 0.6]"),
    "top_p": (
        float,
        None,
        f"Of the next tokens, the likeliest with this probability together.  [{OF_BENCH}: demo 1, others 0.95]",
    ),
    "top_k": (int, None, "Only the K likeliest tokens are drawn from; -1: all.  [default: -1]"),
    "min_p": (
        float,
        None,
        "Only tokens at least this fraction as likely as the likeliest are drawn; 0: all.  [default: 0]",
    ),
}
"""Each setting of `Policy` as an option without a default: its type, what stands for its value, its text."""


def _setting(name: str, kind: Any, metavar: str | None, words: str) -> Declaration:
    word = name.replace("_", "-")
    flag = f"--{word}/--no-{word}" if kind is bool else f"--{word}"
    return click.option(flag, type=kind, default=None, metavar=metavar, help=words)


policy = together(*(_setting(name, *row) for name, row in POLICY.items()))


def policy_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """What `policy` asks for, as arguments of `plan.options.Options`. Raises UsageError for a run that cannot be read."""
    settings = {name: given[name] for name in POLICY}
    run = settings.pop("match_acceptance")
    if run is None:
        return {"policy": settings, "match_acceptance": None}
    from sgl_specreason.results.summary import acceptance

    return {"policy": settings, "match_acceptance": acceptance(run)}
