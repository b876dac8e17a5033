"""Owns the report of a check of a GPU as Markdown, made of its JSON and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

from sgl_specreason.results import stats
from sgl_specreason.results.layout import Table

Json = Mapping[str, Any]
NONE = "-"
RANDOM = (
    "**Random weights.** Times and memory are those of the shapes; what token-level speculation accepts of such a model's "
    "tokens says nothing about a real one."
)


def markdown(report: Json) -> str:
    """The whole report."""
    cells: Sequence[Json] = report["cells"]
    parts = [
        "# What a GPU was measured to do\n",
        _conditions(report),
        _section("Engines", _starts([cell for cell in cells if cell["kind"] == "start"])),
        _section("Memory, planned and measured, GB", _memory(cells)),
        _section("A judgement", _judging([cell for cell in cells if cell["kind"] == "judge"])),
        _section("Replays", _replays(cells)),
        _lacking(cells),
    ]
    return "\n".join(filter(None, parts))


def _conditions(report: Json) -> str:
    settings, about = report["settings"], report["conditions"]
    scale = settings["scale"]
    lines = [
        f"- Card: {settings['cards']}" + (f", driver {about['driver']}" if about["driver"] else ""),
        f"- Base {settings['models']['base']}, small {settings['models']['small']}, pair {settings['pair']}",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in settings['versions'].items())}",
        f"- Commit {about['commit'] or 'unknown'}, {about['day']}, seed {settings['seed']}, judge prompt sha256 "
        f"{about['prompts']['judge'][:12]}",
        f"- Thoughts are cut: the published trace after {scale['steps']} steps, synthetic ones at {scale['thinking_tokens']} "
        f"tokens; prompts of {scale['prompt_tokens']} tokens, answers of {scale['answer_tokens']}",
    ]
    if given := [f"{role}: {' '.join(words)}" for role, words in settings["args"].items() if words]:
        lines.append(f"- SGLang's arguments given: {'; '.join(given)}")
    if settings["rehearsal"]:
        lines.append("- **A rehearsal**: it shows that every step runs, and says nothing about a GPU")
    if settings["dummy"]:
        lines.append(f"- {RANDOM}")
    return "\n".join(lines) + "\n"


def _section(title: str, table: Table | None) -> str:
    return f"## {title}\n\n{table.markdown()}" if table else ""


def _starts(cells: Sequence[Json]) -> Table | None:
    rows = [
        [
            _engine(cell),
            _number(figures["seconds"], 0),
            figures["sglang"] or NONE,
            figures["attention"] or NONE,
            figures["sampling"] or NONE,
            figures["dtype"] or NONE,
            _count(figures["context"]),
            _count(figures["requests"]),
        ]
        for cell, figures in _having(cells)
    ]
    titles = ["engine", "start s", "SGLang", "attention", "sampling", "dtype", "context", "requests"]
    notes = [
        "By the server: `context` is how many tokens a request may have, `requests` how many run at once; others wait."
    ]
    return _table(titles, rows, notes)


def _memory(cells: Sequence[Json]) -> Table | None:
    rows = []
    for cell, figures in _having([cell for cell in cells if cell["kind"] == "start"]):
        planned, measured = figures["planned"], figures["measured"]
        row = [_engine(cell)]
        for name, shown in (("weights_gb", _gb), ("cache_gb", _gb), ("cache_tokens", _count)):
            row += [shown(planned.get(name)), shown(measured.get(name))]
        row += [_gb(planned.get("headroom_gb")), _gb(measured.get("rest_gb"))]
        row += [_gb(measured.get(name)) for name in ("graphs_gb", "resident_gb", "card_gb")]
        rows.append(row)
    titles = ["engine", "weights", "measured", "cache", "measured", "tokens", "measured", "headroom", "measured"]
    most = max((max(figures["cards_gb"], default=0.0) for _, figures in _having(cells)), default=0.0)
    notes = [
        "Planned: by `plan/memory.py`. Measured: as the server says it; `card` by NVML, `resident` by the size of its processes. "
        "`headroom`: what is planned beside weights and cache; measured: what the card has lost less these two.",
    ]
    notes += [f"Most in use on one card after any cell, everything together: {most:.1f} GB."] if most else []
    return _table([*titles, "graphs", "resident", "card"], rows, notes)


def _judging(cells: Sequence[Json]) -> Table | None:
    rows = [
        [
            str(cell["context"]),
            _number(figures["judge_ms"], 1),
            _number(figures["judge_new_tokens"], 0),
            _number(figures["base_step_ms"], 2),
            _number(figures["judge_steps"], 2),
            _number(figures["small_step_ms"], 2),
            _number(figures["prefill_tokens_per_s"], 0),
            _percent(figures["reused_share"], 2),
            str(figures["judgements"]),
        ]
        for cell, figures in _having(cells, "judge_ms")
    ]
    titles = [
        "context",
        "judge ms",
        "new tokens",
        "base ms/token",
        "in base tokens",
        "small ms/token",
        "prefill tokens/s",
    ]
    notes = [
        "Medians, one trajectory at a time, by the engines' own clocks. `new tokens`: of a judgement, the draft and the judge's "
        "turn. `in base tokens`: what a judgement costs in decode steps of base. `prefill`: of whole prompts, on base. "
        "`reused %`: of the prompt tokens that an engine had computed before, those that it had in its cache.",
    ]
    return _table([*titles, "reused %", "judgements"], rows, notes)


def _replays(cells: Sequence[Json]) -> Table | None:
    bases = _bases(cells)
    rows = []
    for cell, figures in _having([cell for cell in cells if cell["kind"] == "replay"]):
        for row in figures["rows"]:
            base = bases.get((cell["trace"], cell["concurrency"]), {})
            rows.append([*_named(cell, row), *_measured(row), _speed_up(base, row)])
    titles = [
        "trace",
        "method",
        "at once",
        "n",
        "mean s",
        "p50 s",
        "p95 s",
        "p99 s",
        "tokens/s",
        "client %",
        "cached %",
    ]
    notes = [
        "`at once`: how many were asked for, and ran where fewer did. `n`: trajectories; where cut off, of how many. Percentiles "
        "are of these n. `client %`: wall time in which no engine worked on the trajectory. `accepted`: tokens that each of "
        "base's decode steps gave, where base speculates. `speed-up`: mean latency of base alone, without speculation, over this "
        "one's, on the same problems at the same concurrency.",
    ]
    return _table([*titles, "accepted", "speed-up"], rows, notes)


def _bases(cells: Sequence[Json]) -> dict[tuple[str, int], Mapping[str, float]]:
    """The latencies of base alone, by problem, for each trace and concurrency."""
    return {
        (cell["trace"], cell["concurrency"]): row["latencies_s"]
        for cell, figures in _having([cell for cell in cells if cell["serving"] == "base" and cell["kind"] == "replay"])
        for row in figures["rows"]
        if row["method"] == "base"
    }


def _speed_up(base: Mapping[str, float], row: Json) -> str:
    own = row["latencies_s"]
    common = [name for name in own if name in base]
    if not common:
        return NONE
    return _number(stats.mean([base[name] for name in common]) / stats.mean([own[name] for name in common]), 2)


def _named(cell: Json, row: Json) -> list[str]:
    trace = cell["trace"] if row["acceptance"] is None else f"{cell['trace']}, {100 * row['acceptance']:.0f} % kept"
    method = row["method"] if row["lookahead"] is None else f"{row['method']}, lookahead {row['lookahead']}"
    algorithm = cell["serving"].partition("-")[2]
    count = f"{row['n']}" if row["n"] == row["expected"] else f"{row['n']} of {row['expected']}"
    asked, ran = cell["concurrency"], row["at_once"]
    return [
        trace,
        f"{method} ({algorithm})" if algorithm else method,
        f"{asked}" if ran is None or ran >= asked else f"{asked} ({ran})",
        count,
    ]


def _measured(row: Json) -> list[str]:
    seconds = [_number(row[name], 3) for name in ("mean_s", "p50_s", "p95_s", "p99_s")]
    shares = [_percent(row["client_share"], 1), _percent(row["cached_share"], 1)]
    return [*seconds, _number(row["tokens_per_s"], 1), *shares, _number(row["accept_length"], 2)]


def _lacking(cells: Sequence[Json]) -> str:
    """The cells that are not whole, those of one reason together."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell["state"] != "done":
            found.setdefault((cell["state"], cell["reason"]), []).append(f"`{cell['cell']}`")
    lines = [f"- {', '.join(names)}: {state}: {reason}" for (state, reason), names in found.items()]
    return "## What is missing\n\n" + "\n".join(lines) + "\n" if lines else ""


def _engine(cell: Json) -> str:
    return str(cell["serving"]).replace("-", " with ")


def _having(cells: Sequence[Json], key: str = "") -> list[tuple[Json, Json]]:
    """The cells that have figures, with these."""
    return [(cell, cell["figures"]) for cell in cells if cell["figures"] and (not key or key in cell["figures"])]


def _table(titles: list[str], rows: list[list[str]], notes: list[str]) -> Table | None:
    return Table(rows=[titles, *rows], notes=notes) if rows else None


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _gb(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}"


def _count(value: float | None) -> str:
    return _number(value, 0)


def _percent(value: float | None, digits: int) -> str:
    return _number(None if value is None else 100 * value, digits)
