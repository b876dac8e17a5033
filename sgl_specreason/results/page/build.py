"""Owns the page that shows runs in a browser: one file with table, figures and trajectories, which asks no network for anything.

All text of models and run folders goes into it as data, and the script shows data as text only; the page's own policy
(Content-Security-Policy) forbids every other script, every request and every form besides.
"""

import base64
import html
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from sgl_specreason.results import labels
from sgl_specreason.results.folder import strict, without_texts
from sgl_specreason.results.layout import Table
from sgl_specreason.results.page.figures import Drawn, drawn
from sgl_specreason.results.page.parts import asset, filled, source
from sgl_specreason.results.page.tables import table_html
from sgl_specreason.results.page.trajectories import fitted, packed, told
from sgl_specreason.results.records import Key, record_of, trajectories
from sgl_specreason.results.summary import Run, base_of
from sgl_specreason.results.table import comparison

BYTES_EACH, FEWEST, MOST = 10_000, 500, 4_000


def page(runs: Sequence[Run]) -> str:
    """The page of these runs, at most 10 kB a trajectory (5 MB where they are fewer than 500), of at most 4,000 trajectories.

    Where their texts do not fit, the middle of the longest is left out, and where there are more trajectories, the last
    problems; the page says so. Figures that cannot be drawn of these runs are named with the reason.
    """
    figures = drawn(runs)  # first: it reads all that is needed of the records in one pass
    table = comparison(runs, wide=True)
    names = labels.names(runs)
    problems, left_out = _problems(runs)
    content = {
        "runs": [_about(run, name) for run, name in zip(runs, names, strict=True)],
        "problems": list(problems.values()),
        "left_out": left_out,
    }
    parts = _parts(runs, table, figures)
    listed = sum(len(problem["tries"]) for problem in problems.values())
    rest = sum(len(part.encode()) for part in parts.values()) + len(_json(content)) + 10 * (listed + FEWEST)
    texts, shortened = fitted(_texts(runs, problems), BYTES_EACH * max(listed, FEWEST) - rest)
    content |= {"shortened": shortened, "texts": texts}
    return filled(asset("page.html"), parts | {"data": _json(content)})


def _problems(runs: Sequence[Run]) -> tuple[dict[str, dict[str, Any]], int]:
    """By id what the list shows of each problem, in the runs' order, and how many problems are left out of it.

    A try is [run, sample, state, truncated, differs from base, seconds, number of its texts].
    """
    right = [{(r.problem_id, r.sample): bool(r.correct) for r in run.outcomes if r.error is None} for run in runs]
    bases = [base_of(run, runs) for run in runs]
    beside = [right[next(i for i, run in enumerate(runs) if run is base)] if base else {} for base in bases]
    tries: dict[str, list[list[Any]]] = {}
    gold: dict[str, str | None] = {}
    for number, run in enumerate(runs):
        for outcome in run.outcomes:
            key = outcome.problem_id, outcome.sample
            correct = right[number].get(key)
            state = "failed" if correct is None else "right" if correct else "wrong"
            differs = None not in (correct, beside[number].get(key)) and correct != beside[number][key]
            row = [number, outcome.sample, state, outcome.truncated, differs, outcome.latency_s]
            tries.setdefault(outcome.problem_id, []).append(row)
            gold[outcome.problem_id] = gold.get(outcome.problem_id) or outcome.gold
    listed: dict[str, dict[str, Any]] = {}
    count = 0
    for problem_id, rows in tries.items():
        if count + len(rows) > MOST and listed:
            break
        for row in sorted(rows, key=lambda row: row[:2]):
            row.append(count)
            count += 1
        listed[problem_id] = {"id": problem_id, "gold": gold[problem_id], "tries": rows}
    return listed, len(tries) - len(listed)


def _texts(runs: Sequence[Run], problems: dict[str, dict[str, Any]]) -> list[str]:
    """What is shown of each listed trajectory, in the order of its number."""
    places: list[dict[Key, int]] = [{} for _ in runs]
    for problem in problems.values():
        for number, sample, *_, place in problem["tries"]:
            places[number][problem["id"], sample] = place
    found = [""] * sum(map(len, places))
    for run, own in zip(runs, places, strict=True):
        for record in trajectories(run.path, own):
            place = own[record.problem_id, record.sample]
            if record.texts == "withheld":  # it stays so, also in folders that an older version wrote
                record = record_of(without_texts(msgspec.to_builtins(record)))
            found[place] = packed(told(record))
    return found


def _about(run: Run, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "folder": str(run.path),
        "threshold": run.policy.threshold,
        "samples": run.settings.samples,
    }


def _parts(runs: Sequence[Run], table: Table, figures: Sequence[Drawn]) -> dict[str, str]:
    """What the page's template is filled with, besides the data."""
    katex, script = asset("katex.min.js"), asset("mathematics.js") + asset("page.js")
    methods = ", ".join(dict.fromkeys(run.method for run in runs))
    return {
        "title": html.escape(f"{runs[0].settings.bench}: {methods}"),
        "policy": f"{source(katex)} {source(script)}",
        "style": asset("look.css") + asset("page.css"),
        "table": "".join(table_html(table)),
        "figures": "".join(map(_figure, figures)),
        "katex": katex,
        "script": script,
    }


def _figure(figure: Drawn) -> str:
    title = html.escape(figure.title)
    if figure.svg is None:
        return f"<p class=missing>{title}: not drawn, {html.escape(figure.reason)}.</p>"
    image = base64.b64encode(figure.svg).decode()
    return (
        f'<figure><figcaption>{title}</figcaption><img alt="{title}" src="data:image/svg+xml;base64,{image}"></figure>'
    )


def _json(content: Any) -> str:
    """JSON that can stand in a script element: nothing in it opens or closes a tag or a comment."""
    text = json.dumps(strict(content), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
