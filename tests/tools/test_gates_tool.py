"""The comparison of gates: what its table says of made-up runs, and which coins it asks for."""

import tomllib
from pathlib import Path
from typing import Any

import gates
import pytest
from run_folders import record, run_folder, settings

from sgl_specreason.results.summary import Run, load_runs

RIGHT = {"base": 8, "judge": 8, "self": 6, "coin": 3}


def runs(top: Path) -> tuple[list[Run], list[Run]]:
    """Eight problems by base, the judge, a gate and a coin that keeps as many drafts as each of these (half of them)."""

    def made(name: str, number: int, method: str, **policy: Any) -> None:
        judge = {"engine": "base", "purpose": "judge", "start_s": 0.0, "seconds": 0.1}
        asked = {"judge": 4, "self": 1}.get(name, 0)
        step = {"by": "small", "text": "One.\n\n", "tokens": 3, "accepted": True}
        unasked = {"unasked": True, "agrees": False, "score": 2}
        records = [
            record(
                at,
                correct=at < RIGHT[name.partition("-")[0]],
                requests=[judge] * asked,
                steps=[step | unasked] * (name == "self"),
                **{"drafts": 4, "accepted": 2, "judged": asked} if method != "base" else {},
            )
            for at in range(number)
        ]
        run_folder(top / name, records, method=method, policy=settings()["policy"] | policy)

    made("base", 8, "base")
    made("judge", 8, "specreason")
    made("self", 8, "specreason", gate="self", gate_threshold=0.9)
    made("coin-0.5", 8, "random", gate="random", gate_p=0.5)
    found = load_runs(top)
    return [run for run in found if run.method != "random"], [run for run in found if run.method == "random"]


def test_each_gate_stands_beside_its_coin_and_what_it_saves(tmp_path: Path) -> None:
    chosen, coins = runs(tmp_path)
    text = gates.table(chosen, coins)
    titles, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[:5]]
    rows = {line[0]: dict(zip(titles, line, strict=True)) for line in lines}
    own = next(row for name, row in rows.items() if "self" in name)
    assert own["accuracy % (95 %)"].startswith("75.0 ")
    assert own["judge requests"] == "8"
    assert own["saved %"] == "75.0"
    assert own["kept %"] == "50.0"
    assert own["judge against kept %"].startswith("100.0 [")
    assert own["judge against refused %"] == "-"
    assert own["its coin's accuracy %"] == "37.5"
    assert own["gate - coin (95 %)"].startswith("+37.5 [")
    judge = next(row for name, row in rows.items() if name.startswith("specreason") and "self" not in name)
    assert (judge["judge requests"], judge["saved %"]) == ("32", "0.0")
    assert "Models: base b, small s." in text


def test_the_coins_are_those_that_the_gates_ask_for(tmp_path: Path) -> None:
    chosen, _ = runs(tmp_path / "runs")
    sweep = tomllib.loads(Path(gates.coins(chosen, tmp_path)).read_text())
    assert sweep["methods"] == ["random"]
    assert sweep["grid"] == {"gate_p": [0.5]}


def test_only_the_coins_may_run_more_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their seconds do not count; of whoever is timed, none runs beside another that was not asked for."""
    chosen, flipped = runs(tmp_path / "runs")
    asked: list[list[str]] = []

    def swept(folder: Path, sweep: str, words: list[str]) -> list[Run]:
        asked.append([folder.name, *words])
        return chosen if folder.name == "gates" else flipped

    monkeypatch.setattr(gates, "swept", swept)
    monkeypatch.setattr(
        "sys.argv", ["gates.py", "--out", str(tmp_path), "--coins-at-once", "8", "--", "--bench", "demo"]
    )
    assert gates.main() == 0
    assert asked == [["gates", "--bench", "demo"], ["coins", "--bench", "demo", "--concurrency", "8"]]
    assert capsys.readouterr().out == gates.table(chosen, flipped)
