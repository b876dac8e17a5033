"""The check of a GPU without engines: what is planned and for how long, what becomes of a cell, going on, and the report."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu
import gpu_check
import gpu_engines
import gpu_figures
import gpu_plan
import psutil
import pytest
from checkout import ROOT
from fake_engine import FakeEngine, Raw, answer, digits
from gpu_check import Check, played, said
from gpu_engines import Pair, failure, planned
from gpu_folder import Folder, Result
from gpu_plan import FULL, REHEARSAL, Cell, Rates, Scale, Serving, allowed_s, cells, deadline, fitted, groups
from gpu_table import markdown
from hypothesis import given
from hypothesis import strategies as st
from run_folders import record, run_folder

from sgl_specreason.engines.keeper import Engine
from sgl_specreason.errors import EngineError, UsageError
from sgl_specreason.plan import gpus
from sgl_specreason.results.records import trajectories

TOOL = [sys.executable, str(ROOT / "tools" / "gpu.py")]
EVERY = cells(REHEARSAL, Rates.of_the_bundled_pair())
NAMES = [cell.name for cell in EVERY]
TRACE = {
    "origin": "a trace", "steps": 4, "step_tokens_median": 9, "step_tokens_max": 9, "thinking_tokens_mean": 20,
    "thinking_tokens_max": 30, "prompt_tokens_mean": 5, "answer_tokens_mean": 5,
}  # fmt: skip


def request(engine: str, purpose: str, prompt: int, cached: int, written: int = 0, seconds: float = 0.1) -> Any:
    return {
        "engine": engine, "purpose": purpose, "start_s": 0.0, "seconds": 2 * seconds, "engine_seconds": seconds,
        "prompt_tokens": prompt, "cached_tokens": cached, "completion_tokens": written,
    }  # fmt: skip


JUDGED = [
    {"by": "small", "text": "a", "tokens": 10, "accepted": True},
    {"by": "base", "text": "b", "tokens": 20, "accepted": False, "draft": {"text": "c", "tokens": 5}},
    {"by": "small", "text": "d", "tokens": 10, "accepted": True},
]
ASKED = [
    request("small", "draft", 100, 0, 10, 0.02),
    request("base", "judge", 117, 0, seconds=0.3),
    request("small", "draft", 110, 109, 5, 0.01),
    request("base", "judge", 122, 110, seconds=0.08),
    request("base", "regenerate", 110, 109, 20, 0.4),
    request("small", "draft", 130, 110, 10, 0.02),
    request("base", "judge", 147, 129, seconds=0.1),
    request("base", "answer", 140, 139, 8, 0.2),
]


def replayed(place: Path, **changes: Any) -> None:
    """A run folder as a replay leaves it: base and specreason on four problems, or specreason alone where it was judging."""
    methods = ["specreason"] if "judge" in place.name else ["base", "specreason"]
    if "-standalone" in place.name or "-ngram" in place.name:
        methods = [f"{method}+decode" for method in methods]
    top = place / "a-replay"
    for method in methods:
        faster = 2 if method.startswith("specreason") else 1
        records = [
            record(number, correct=True, latency_s=(1 + number) / faster, start_s=0.0, steps=JUDGED, requests=ASKED)
            | {"correct": None, "answer": None, "thinking_tokens": 40, "answer_tokens": 8}
            for number in range(changes.get("n", 4))
        ]
        run_folder(top / method, records, method=method, trace=TRACE, replay=True)
    (top / "command.json").write_text("{}")


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr(gpus, "found", list)
    return planned({"pair": "demo"}, {"base": [], "small": []}, dummy=None, seed=0)


class Stage:
    """Scripted engines and replays: what was started and played, in order, and what is to go wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self.played: list[tuple[str, float]] = []
        self.resumed: list[str] = []
        self.dead: set[str] = set()
        self.bad: dict[str, Any] = {}
        monkeypatch.setattr(gpu_check, "started", self.started)
        monkeypatch.setattr(gpu_check, "played", self.play)
        monkeypatch.setattr(gpu_check, "is_up", lambda *_: True)
        figures = {
            "attention": "triton",
            "sglang": "0.5.23",
            "sampling": None,
            "dtype": "float32",
            "context": 100,
            "requests": 9,
        }
        monkeypatch.setattr(gpu_check, "told", lambda *_: figures | {"seconds": 5.0, "measured": {}, "cards_gb": []})

    @contextmanager
    def started(self, specs: Sequence[Any], logs: Path, **_: Any) -> Iterator[dict[str, Engine]]:
        (spec,) = specs
        self.begun.append(logs.name)
        if logs.name in self.dead:
            logs.mkdir(parents=True, exist_ok=True)
            (logs / f"{spec.role}.log").write_text("Traceback\nValueError: no such kernels\nkilled\n")
            raise EngineError(f"the {spec.role} engine ended with code 1\n  last lines")
        yield {spec.role: Engine(role=spec.role, url="http://127.0.0.1:1", model=spec.model)}

    def play(self, command: Sequence[str], log: Path, most_s: float, env: Mapping[str, str]) -> int | None:
        name = log.parent.name
        self.played.append((name, most_s))
        assert env["SPECREASON_API_KEY"]
        log.write_text("")
        wrong = self.bad.get(name)
        if wrong is KeyboardInterrupt:
            raise KeyboardInterrupt
        if wrong == "stopped":
            if "--resume" in command:
                self.resumed.append(name)
            else:
                replayed(log.parent, n=2)
            return None
        if wrong:
            log.write_text(f"some words\nerror: {wrong}\n")
            return 1
        if "--resume" in command:
            self.resumed.append(name)
        else:
            replayed(log.parent)
        return 0


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


@pytest.fixture
def check(pair: Pair, tmp_path: Path) -> Callable[..., dict[str, Result]]:
    """Runs the pending cells of a check of the rehearsal's size, and says what became of every cell."""
    folder = Folder(path=tmp_path / "out")

    def run(minutes: float = 60, pair: Pair = pair) -> dict[str, Result]:
        settings = {"pair": "demo", "models": {"base": "b", "small": "s"}, "cards": "none", "versions": {"sglang": "1"}}
        settings |= {"args": {"base": [], "small": []}, "seed": 0, "rehearsal": True, "dummy": True}
        about = {"driver": "", "commit": None, "day": "2026-01-01", "prompts": {"judge": "0" * 64}}
        folder.begin(
            settings | {"scale": {"steps": 4, "thinking_tokens": 9, "prompt_tokens": 9, "answer_tokens": 9}}, about
        )
        end = time.monotonic() + 60 * minutes
        made = Check(
            pair=pair, cells=EVERY, folder=folder, models=["--pair", "demo"], seed=0, end=end, say=lambda _: None
        )
        made.run(gpu._pending(folder, EVERY, []))
        return {name: result for name in NAMES if (result := folder.result(name))}

    return run


def report(tmp_path: Path) -> tuple[dict[str, Any], str]:
    out = tmp_path / "out"
    return json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text()


def test_every_kind_of_base_is_started_once_and_every_cell_made(
    stage: Stage, check: Callable[..., dict[str, Result]], tmp_path: Path
) -> None:
    found = check()
    assert stage.begun == ["small", "base", "base-standalone", "base-ngram"]
    assert [name for name, _ in stage.played] == [cell.name for cell in EVERY if cell.kind != "start"]
    assert list(found) == NAMES
    assert {result.state for result in found.values()} == {"done"}
    saved, text = report(tmp_path)
    assert [cell["cell"] for cell in saved["cells"]] == NAMES
    assert text == markdown(saved)
    assert "What is missing" not in text


def test_what_is_done_is_not_done_again(stage: Stage, check: Callable[..., dict[str, Result]]) -> None:
    stage.bad = {"published-4-ngram": "no room"}
    before = check()
    assert before["published-4-ngram"].state == "failed"
    stage.bad, stage.begun, stage.played = {}, [], []
    after = check()
    assert [name for name, _ in stage.played] == ["published-4-ngram"]
    assert stage.begun == ["small", "base-ngram"]
    assert {result.state for result in after.values()} == {"done"}
    again = {name for name in NAMES if before[name] != after[name] and not name.startswith("start")}
    assert again == {"published-4-ngram"}
    stage.begun = []
    check()
    assert stage.begun == []


def test_a_cell_that_fails_says_why_and_the_rest_goes_on(
    stage: Stage, check: Callable[..., dict[str, Result]], tmp_path: Path
) -> None:
    stage.bad = {"judge-2000": "problem 3 may need 9 tokens on base, which holds 8", "published-4": "stopped"}
    found = check()
    assert found["judge-2000"].state == "failed"
    assert found["judge-2000"].reason == "problem 3 may need 9 tokens on base, which holds 8"
    assert found["published-4"].state == "partial"
    assert found["published-4"].reason.startswith("stopped after")
    assert {found[name].state for name in NAMES if name not in stage.bad} == {"done"}
    _, text = report(tmp_path)
    assert "- `judge-2000`: failed: problem 3 may need" in text
    assert (
        "| published            |                 base |       4 | 2 of 4 |" in text.replace("  ", "  ")
        or "2 of 4" in text
    )


def test_what_a_stopped_replay_has_left_is_gone_on_with(stage: Stage, check: Callable[..., dict[str, Result]]) -> None:
    stage.bad = {"published-4": "stopped"}
    check()
    assert stage.resumed == ["published-4"]  # in the same call, which has time left
    stage.bad, stage.resumed = {}, []
    check()
    assert stage.resumed == ["published-4"]


@pytest.mark.parametrize("serving", ["small", "base", "base-standalone"])
def test_an_engine_that_does_not_start_costs_only_what_needs_it(
    serving: Serving, stage: Stage, check: Callable[..., dict[str, Result]]
) -> None:
    stage.dead = {serving}
    found = check()
    reason = f"the {serving.partition('-')[0]} engine ended with code 1: ValueError: no such kernels"
    needing = [cell.name for cell in EVERY if serving in ("small", cell.serving)]
    assert {found[name].reason for name in needing} == {reason}
    assert {found[name].state for name in needing} == {"failed"}
    assert {found[name].state for name in NAMES if name not in needing} <= {"done"}


def test_what_cannot_be_is_not_even_started(stage: Stage, check: Callable[..., dict[str, Result]], pair: Pair) -> None:
    found = check(pair=replace(pair, refused={"base-standalone": "different vocabularies"}))
    assert "base-standalone" not in stage.begun
    assert found["synthetic-1-standalone"].reason == "different vocabularies"
    assert found["synthetic-1-ngram"].state == "done"


def test_an_engine_that_is_gone_fails_its_cells_and_no_more(
    stage: Stage, check: Callable[..., dict[str, Result]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = itertools.count()
    monkeypatch.setattr(gpu_check, "is_up", lambda engine, _: engine.role == "small" or next(asked) > 2)
    found = check()
    failed = [name for name in NAMES if found[name].state == "failed"]
    assert failed == ["judge-500", "judge-2000", "published-1"]
    assert found["judge-500"].reason == "base: does not take requests"


def test_without_time_everything_is_skipped_and_says_so(
    stage: Stage, check: Callable[..., dict[str, Result]], tmp_path: Path
) -> None:
    found = check(minutes=0.1)
    assert {(result.state, result.reason) for result in found.values()} == {("skipped", "no time left")}
    assert stage.begun == []
    assert report(tmp_path)[1].count("no time left") == 1


def test_time_is_shared_out_and_what_later_groups_leave_goes_to_what_was_skipped(
    stage: Stage, check: Callable[..., dict[str, Result]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every replay takes a minute of fifteen; speculation fails at once, so that plain cells get what it did not need."""
    clock, play, cut = [0.0], stage.play, ["published-4"]
    monkeypatch.setattr(gpu_check, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def taking_a_minute(*words: Any) -> int | None:
        clock[0] += 60
        if words[1].parent.name in cut:  # it is cut off before anything is finished
            words[1].write_text("")
            return cut.clear()
        return play(*words)

    monkeypatch.setattr(gpu_check, "played", taking_a_minute)
    stage.dead = {"base-standalone", "base-ngram"}
    found = check(minutes=15)
    assert stage.begun == ["small", "base", "base-standalone", "base-ngram", "base"]
    assert {found[cell.name].state for cell in EVERY if cell.serving == "base"} == {"done"}
    limits = [most_s for _, most_s in stage.played]
    assert all(spent + most <= 900 for spent, most in zip(range(0, 900, 60), limits, strict=False))
    assert cut == []


def test_what_was_measured_stays_where_a_later_sitting_has_no_time_or_no_engine(
    stage: Stage, check: Callable[..., dict[str, Result]]
) -> None:
    stage.bad = {"published-4": "stopped"}
    before = check()
    for stage.dead, minutes in ((set[str](), 0.1), ({"base"}, 60)):
        after = check(minutes=minutes)
        assert {name for name in NAMES if before[name] != after[name]} <= {"start-small"}
    stage.dead, stage.bad = set(), {}
    assert check()["published-4"].state == "done"


def test_trajectories_that_fail_are_counted_with_the_words_of_the_first(
    stage: Stage, check: Callable[..., dict[str, Result]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(command: Sequence[str], log: Path, *_: Any) -> int:
        replayed(log.parent)
        for file in log.parent.glob("**/specreason*/trajectories.jsonl"):
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            file.write_text("".join(json.dumps(one | {"error": "base: no\nroom"}) + "\n" for one in lines))
        log.write_text("error: 4 trajectories failed; this runs them again:\n")
        return 1

    monkeypatch.setattr(gpu_check, "played", play)
    found = check()
    reason = "4 trajectories failed, the first one with: base: no room"
    assert (found["published-1"].state, found["published-1"].reason) == ("partial", reason)
    assert [row["method"] for row in found["published-1"].figures["rows"]] == ["base"]
    assert (found["judge-500"].state, found["judge-500"].reason) == ("failed", reason)


def test_figures_that_cannot_be_made_end_nothing(
    stage: Stage, check: Callable[..., dict[str, Result]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("internal_states")

    monkeypatch.setattr(gpu_check, "told", broken)
    monkeypatch.setattr(gpu_figures, "of_judging", broken)
    found = check()
    assert (found["start-base"].state, found["start-base"].reason) == (
        "partial", "no figures: KeyError: KeyError 'internal_states'",
    )  # fmt: skip
    assert found["judge-500"].state == "failed"
    assert found["published-1"].state == "done"


def test_an_interruption_leaves_a_report_and_the_rest_to_be_done(
    stage: Stage, check: Callable[..., dict[str, Result]], tmp_path: Path
) -> None:
    stage.bad = {"published-1": KeyboardInterrupt}
    with pytest.raises(KeyboardInterrupt):
        check()
    saved, text = report(tmp_path)
    states = {cell["cell"]: cell["state"] for cell in saved["cells"]}
    assert (states["judge-2000"], states["published-1"]) == ("done", "skipped")
    assert "not tried yet" in text
    stage.bad = {}
    assert {result.state for result in check().values()} == {"done"}


def test_a_torn_file_of_a_cell_is_made_anew(
    stage: Stage, check: Callable[..., dict[str, Result]], tmp_path: Path
) -> None:
    check()
    (tmp_path / "out" / "cells" / "judge-500.json").write_text('{"cell": "judge-5')
    stage.played = []
    check()
    assert [name for name, _ in stage.played] == ["judge-500"]


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    folder = Folder(path=tmp_path / "out")
    folder.begin({"pair": "demo", "seed": 0}, {})
    folder.begin({"pair": "demo", "seed": 0}, {})
    with pytest.raises(UsageError, match=r"seed: 0 then, 1 now\); give the same ones, or another --out"):
        folder.begin({"pair": "demo", "seed": 1}, {})


def test_cells_and_their_words_are_those_of_the_issue() -> None:
    rates = Rates.on_gpu(27.5, 3.3)
    found = {cell.name: cell for cell in cells(FULL[0], rates)}
    assert [cell.context for cell in found.values() if cell.kind == "judge"] == [500, 2000, 8000, 16000]
    for algorithm, trace, level in itertools.product(
        ("", "-standalone", "-ngram"), ("published", "synthetic"), (1, 8, 64)
    ):
        words = " ".join(found[f"{trace}-{level}{algorithm}"].words)
        assert f"--concurrency {level} " in words
        assert ("--acceptance 0.4,0.6,0.8" in words) == (trace == "synthetic")
        assert ("--lookahead 0,1" in words) == (not algorithm)
        assert ("--method specreason+decode" in words) == bool(algorithm)
        assert (f"--decode {algorithm[1:]}" in words) == bool(algorithm)
    published = found["published-64"].words
    assert int(published[published.index("--limit") + 1]) * int(published[published.index("--times") + 1]) >= 64


def test_replays_take_the_words_of_every_cell() -> None:
    from sgl_specreason.replay import main

    for scale in (*FULL, REHEARSAL):
        for cell in cells(scale, Rates.of_the_bundled_pair()):
            if cell.words:
                main.make_context("replay", [*cell.words, "--base-url", "http://h", "--small-url", "http://h"])


@pytest.mark.parametrize("weights", [(7.5, 1.1), (15.3, 1.1), (27.5, 3.3), (32.0, 3.3)])
def test_the_largest_scale_that_fits_the_time_is_taken(weights: tuple[float, float]) -> None:
    rates = Rates.on_gpu(*weights)
    scale = fitted(FULL, rates, gpu_plan.BASES, 1500)
    assert sum(cell.seconds for cell in cells(scale, rates)) <= 1500
    larger = FULL[: FULL.index(scale)]
    assert all(sum(cell.seconds for cell in cells(one, rates)) > 1500 for one in larger)
    assert fitted(FULL, rates, gpu_plan.BASES, 1) == FULL[-1]
    assert Scale.recorded(json.loads(json.dumps(scale.__dict__))) == scale


@given(st.lists(st.floats(1, 1e4), min_size=1, max_size=5), st.floats(0, 1e5), st.floats(0, 1e5))
def test_time_is_shared_out_and_none_is_promised_twice(estimates: list[float], now: float, left: float) -> None:
    end = now + left
    until = deadline(now, end, estimates)
    assert now <= until <= end + 1e-6
    assert len(estimates) > 1 or until == pytest.approx(end)


@given(st.floats(-1e3, 1e4), st.floats(1, 1e4))
def test_a_cell_never_gets_more_than_is_left(left_s: float, seconds: float) -> None:
    cell = Cell(name="c", kind="replay", serving="base", seconds=seconds)
    most = allowed_s(cell, left_s)
    assert 0 <= most <= max(0.0, left_s)
    assert most == 0 or most >= gpu_plan.ENOUGH_S or most == cell.most_s


def test_groups_have_what_is_pending_and_no_start_of_its_own() -> None:
    pending = [cell for cell in EVERY if cell.name in ("synthetic-1", "start-base-ngram")]
    assert [(serving, [cell.name for cell in group]) for serving, group in groups(pending)] == [
        ("base", ["synthetic-1"]), ("base-ngram", []),
    ]  # fmt: skip


def test_a_judgement_is_counted_in_tokens_of_base_and_reuse_in_what_was_computed(tmp_path: Path) -> None:
    """What an engine had computed: 109 and 110 of small's prompts, 110, 109, 129 and 139 of base's."""
    replayed(tmp_path / "judge-1")
    found = gpu_figures.of_judging(tmp_path / "judge-1" / "a-replay")
    assert found["judge_ms"] == pytest.approx(90)
    assert found["base_step_ms"] == pytest.approx(20)
    assert found["judge_steps"] == pytest.approx(4.5)
    assert found["small_step_ms"] == pytest.approx(2)
    assert found["judge_new_tokens"] == 15
    assert found["prefill_tokens_per_s"] == pytest.approx(117 / 0.3)
    assert (found["judgements"], found["reused_share"]) == (8, 1.0)
    (one, *_) = trajectories(tmp_path / "judge-1" / "a-replay" / "specreason")
    assert gpu_figures.reused(one) == (109 + 110 + 110 + 109 + 129 + 139,) * 2  # type: ignore[arg-type]


def test_percentiles_and_the_clients_share_are_those_of_the_records(tmp_path: Path) -> None:
    replayed(tmp_path / "published-1")
    base, ours = gpu_figures.of_replay(tmp_path / "published-1" / "a-replay")["rows"]
    assert (base["mean_s"], base["p50_s"], base["p95_s"], base["p99_s"]) == pytest.approx((2.5, 2.5, 3.85, 3.97))
    assert ours["latencies_s"] == {"p0": 0.5, "p1": 1.0, "p2": 1.5, "p3": 2.0}
    assert (base["n"], base["expected"], base["lookahead"], ours["lookahead"]) == (4, 4, None, 1)
    # requests that begin together are covered by the longest, which is 0.4 s in the middle of its 0.8 s
    assert base["client_share"] == pytest.approx(1 - 4 * 0.59 / 10, abs=0.01)


def test_the_table_says_what_the_json_says(
    stage: Stage, check: Callable[..., dict[str, Result]], tmp_path: Path
) -> None:
    check()
    saved, text = report(tmp_path)
    lines = [
        [word.strip() for word in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    rows = [row for cell in saved["cells"] if cell["kind"] == "replay" for row in cell["figures"]["rows"]]
    shown = [line for line in lines if line[0].startswith(("published", "synthetic"))]
    assert [line[4:8] for line in shown] == [
        [f"{row[n]:.3f}" for n in ("mean_s", "p50_s", "p95_s", "p99_s")] for row in rows
    ]
    assert {line[-1] for line in shown if line[1].startswith("specreason")} == {"2.00"}
    assert {line[-1] for line in shown if line[1].startswith("base")} == {"1.00"}
    judging = [cell["figures"] for cell in saved["cells"] if cell["kind"] == "judge"]
    assert [line[4] for line in lines if line[0] in ("500", "2000")] == [
        f"{each['judge_steps']:.2f}" for each in judging
    ]
    assert "A rehearsal" in text
    assert "Random weights" in text


LOGS = {
    "ValueError: not supported on device 'cpu'.": "a\nTraceback\n  File\nValueError: not supported on device 'cpu'.\n",
    "torch.OutOfMemoryError: CUDA out of memory.": "torch.OutOfMemoryError: CUDA out of memory.\n[x] Received sigquit\n",
    "ImportError: [k] CRITICAL: no ops": "ImportError: \n[k] CRITICAL: no ops\nError details from before:\n- ImportError: x\n",
    "Killed": "some words\nKilled\n\n",
    "its log is empty": "",
}


@pytest.mark.parametrize(("reason", "log"), LOGS.items())
def test_the_reason_of_a_dead_engine_is_its_last_exception(reason: str, log: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(log)
    assert failure(tmp_path / "log") == reason
    assert failure(tmp_path / "nothing") == "its log is empty"


def test_the_reason_of_a_failed_replay_is_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("words\nerror: 3 trajectories failed; this runs them again:\n  specreason\n")
    assert said(tmp_path / "log") == "3 trajectories failed; this runs them again:"


def lives(pid: int) -> bool:
    """Whether a process is there that is not merely waited for by nobody."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_has_started(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    begin = time.monotonic()
    assert played([sys.executable, "-c", code], log, 3.0, {}) is None
    assert time.monotonic() - begin < 12
    assert not lives(int(log.read_text()))
    assert (
        played([sys.executable, "-c", "import os, sys; sys.exit(len(os.environ['A']))"], log, 30.0, {"A": "123"}) == 3
    )


def test_a_command_does_not_outlive_the_check(tmp_path: Path) -> None:
    log = tmp_path / "log"
    inner = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'tools')!r}]; from pathlib import Path; from gpu_check import played; "
        f"played([sys.executable, '-c', {inner!r}], Path({str(log)!r}), 600, {{}})"
    )
    outer = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 60
    while not (log.exists() and log.read_text().endswith("\n")) and time.monotonic() < until:
        time.sleep(0.1)
    outer.send_signal(signal.SIGKILL)
    outer.wait()
    child = int(log.read_text())
    while lives(child) and time.monotonic() < until:
        time.sleep(0.1)
    assert not lives(child)


def cards(*names: str) -> list[gpus.Gpu]:
    return [gpu for name in names for gpu in gpus.named(name)]


def test_a_pair_of_two_vocabularies_is_planned_without_a_draft_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "found", lambda: cards("1xH100"))
    pair = planned({"pair": "qwq-32b+r1-1.5b"}, {"base": [], "small": []}, dummy=None, seed=0)
    assert list(pair.refused) == ["base-standalone"]
    assert "different vocabularies" in pair.refused["base-standalone"]
    assert pair.bases == ["base", "base-ngram"]
    assert pair.dummy  # nobody has its weights here
    assert pair.spec("base").args[-2:] == ("--load-format", "dummy")
    assert "NGRAM" in pair.spec("base-ngram").args
    assert pair.planned("base")["weights_gb"] == pytest.approx(61, abs=0.1)
    assert pair.planned("base-ngram")["cache_tokens"] == pair.planned("small")["cache_tokens"]
    assert pair.planned("base-ngram")["weights_gb"] == pair.planned("base")["weights_gb"]


def test_a_draft_model_is_planned_beside_what_the_server_says_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server tells its own weights and cache; a plan's share of base has those of the draft model in it."""
    monkeypatch.setattr(gpus, "found", lambda: cards("1xH100"))
    pair = planned({"pair": "qwen3-8b+qwen3-0.6b"}, {"base": [], "small": []}, dummy=True, seed=0)
    plain, drafting = pair.planned("base"), pair.planned("base-standalone")
    layout = pair.plan.placement.layout if pair.plan.placement else None
    assert layout
    assert {name: plain[name] == drafting[name] for name in plain} == {
        "weights_gb": True, "cache_gb": True, "cache_tokens": True, "headroom_gb": False,
    }  # fmt: skip
    assert sum(drafting[name] for name in ("weights_gb", "cache_gb", "headroom_gb")) == pytest.approx(
        layout.base.total_gb
    )
    assert plain["weights_gb"] == pytest.approx(15.3, abs=0.1)


def test_estimates_follow_from_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "found", lambda: cards("1xH100"))
    pair = planned({"pair": "qwq-32b+r1-1.5b"}, {"base": [], "small": []}, dummy=None, seed=0)
    assert pair.rates().base_s == pytest.approx(0.003 + 61 / 1500, abs=0.001)


def test_the_pair_is_chosen_by_the_card_and_arguments_that_are_given_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "found", lambda: cards("1xH100"))
    monkeypatch.setattr(gpu_engines.arguments, "check", lambda words: None)
    args = {"base": ["--attention-backend", "triton"], "small": ["--dtype", "bfloat16"]}
    pair = planned({}, args, dummy=False, seed=0)  # type: ignore[arg-type]
    assert pair.plan.pair != "demo"
    assert not pair.refused
    assert "--load-format" not in pair.spec("base").args
    assert pair.spec("base-standalone").args.index("triton") > pair.spec("base-standalone").args.index("fa3")
    assert pair.spec("small").args[-2:] == ("--dtype", "bfloat16")


def test_the_bundled_pairs_weights_are_here(pair: Pair) -> None:
    assert not pair.dummy
    assert pair.refused == {}  # SGLang itself says what it cannot do here


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The tool's exit code, in this process."""
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
    try:
        return gpu.main()
    except SystemExit as end:
        return int(end.code or 0)


WRONG = {
    "no gpu": ([], "no GPU was found; --rehearse"),
    "gpus": (["--gpus", "1xH100"], "--gpus is for --dry-run"),
    "a pair of its own": (["--rehearse", "--pair", "demo"], "--rehearse has a pair of its own"),
    "one model": (["--dry-run", "--gpus", "1xH100", "--base-model", "x"], "give both or neither"),
    "no such pair": (["--dry-run", "--gpus", "1xH100", "--pair", "dmo"], "dmo"),
    "no room": (["--dry-run", "--gpus", "1xL4", "--pair", "qwq-32b+r1-1.5b"], "does not fit"),
    "no such cell": (
        ["--rehearse", "--again", "judge-1"],
        "--again judge-1: no cell of that name; there are start-small",
    ),
    "no time": (["--rehearse", "--minutes", "0"], "must be at least 0.1"),
    "no argument": (["--rehearse", "--engine-args=--attention-beckend x"], "did you mean --attention-backend"),
    "nowhere": (["--rehearse", "--out", "/proc/x"], "--out /proc/x"),
    "no option": (["--fast"], "--fast"),
}


@pytest.mark.parametrize(("words", "named"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_one_line_and_nothing_is_written(
    words: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu.cards, "found", list)
    assert called(monkeypatch, *words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert named in said
    assert list(tmp_path.iterdir()) == []


def test_the_same_command_goes_on_and_one_cell_is_made_anew(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpus, "found", list)
    stage.bad = {"synthetic-4": KeyboardInterrupt}
    assert called(monkeypatch, "--rehearse") == 130
    assert f"go on with\n  {sys.executable} gpu.py --rehearse\n" in capsys.readouterr().err
    anew = ["--again", "synthetic-4", "--again=judge-500"]
    assert called(monkeypatch, "--rehearse", *anew, "--minutes", "9") == 130
    assert f"go on with\n  {sys.executable} gpu.py --rehearse --minutes 9\n" in capsys.readouterr().err
    stage.bad = {}
    assert called(monkeypatch, "--rehearse", "--minutes", "9") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("# What a GPU was measured to do")
    assert shown.out.endswith("Report: runs/gpu/gpu.md, runs/gpu/gpu.json\n")
    assert "this tries again" not in shown.err
    assert [name for name, _ in stage.played].count("published-1") == 1
    stage.played, stage.begun = [], []
    assert called(monkeypatch, "--rehearse") == 0
    assert (stage.played, stage.begun) == ([], [])
    assert called(monkeypatch, "--rehearse", "--again", "published-1", "--again", "start-base-ngram") == 0
    assert [name for name, _ in stage.played] == ["published-1"]
    assert stage.begun == ["small", "base", "base-ngram"]
    assert called(monkeypatch, "--rehearse", "--seed", "1") == 2
    assert "seed: 0 then, 1 now" in capsys.readouterr().err


def test_where_nothing_at_all_is_measured_the_exit_code_says_so(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "found", list)
    stage.dead = {"small"}
    assert called(monkeypatch, "--rehearse", "--out", str(tmp_path / "out")) == 1


def test_a_dry_run_tells_cells_minutes_and_engines_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert called(monkeypatch, "--dry-run", "--gpus", "1xH100", "--pair", "qwq-32b+r1-1.5b") == 0
    said = capsys.readouterr().out
    assert "pair qwq-32b+r1-1.5b on 1 x H100 (80 GB), random weights" in said
    assert "judge-16000" in said
    assert re.search(r"published-64 +[\d.]+ min +--trace qwq-32b\+r1-1.5b.aime24", said)
    assert "of 25 minutes" in said
    assert said.count("sglang.launch_server") == 3
    assert list(tmp_path.iterdir()) == []


def test_it_runs_from_a_checkout_that_is_not_installed(tmp_path: Path) -> None:
    """As on a machine to which packages are carried, in a folder that PYTHONPATH names."""
    packages = sysconfig.get_paths()["purelib"]
    done = subprocess.run(
        [os.path.realpath(sys.executable), *TOOL[1:], "--rehearse", "--dry-run"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONPATH": packages},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "start-base-ngram" in done.stdout


def scripted(accept_length: float | None) -> Callable[[str, dict[str, Any]], Any]:
    """A server of either model. One that speculates says of each text how many tokens a decode step gave."""

    def says(_: str, payload: dict[str, Any]) -> Any:
        written = payload["sampling_params"]["max_new_tokens"]
        content = answer(digits(5) if "token_ids_logprob" in payload else "n" * written, payload)
        content["meta_info"] |= {"spec_accept_length": accept_length} if written and accept_length else {}
        return Raw(200, json.dumps(content).encode())

    return says


@pytest.mark.slow
def test_real_replays_on_scripted_engines_of_which_one_speculates(
    pair: Pair, check: Callable[..., dict[str, Result]], fake_engine: Callable[..., FakeEngine], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A CPU cannot speculate, so that these cells of the rehearsal fail: here they are made."""

    @contextmanager
    def started(specs: Sequence[Any], logs: Path, **_: Any) -> Iterator[dict[str, Engine]]:
        (spec,) = specs
        algorithm = logs.name.partition("-")[2].upper()
        engine = fake_engine(scripted(2.5 if algorithm else None))
        engine.info = {"model_path": spec.model, "speculative_algorithm": algorithm or None, "version": "0.5.16"}
        engine.info["internal_states"] = [
            {"attention_backend": "triton", "memory_usage": {"weight": 1.5, "graph": 0.25}}
        ]
        yield {spec.role: Engine(role=spec.role, url=engine.url, model=spec.model)}

    monkeypatch.setattr(gpu_check, "started", started)
    wanted = ("judge-500", "published-1", "published-4-ngram")
    folder = Folder(path=tmp_path / "out")
    folder.place("").mkdir(parents=True)
    for name in NAMES:
        if name not in wanted:
            folder.write(Result(cell=name, state="done"))
    found = check()
    assert {name: (found[name].state, found[name].reason) for name in wanted} == dict.fromkeys(wanted, ("done", ""))
    start = found["start-base-ngram"].figures
    assert (start["attention"], start["sglang"], start["speculative_algorithm"]) == ("triton", "0.5.16", "NGRAM")
    assert (start["measured"]["weights_gb"], start["measured"]["graphs_gb"]) == (1.5, 0.25)
    lengths = [row["accept_length"] for row in found["published-4-ngram"].figures["rows"]]
    assert lengths == pytest.approx([2.5, 2.5])
    assert [row["accept_length"] for row in found["published-1"].figures["rows"]] == [None] * 3
    assert found["judge-500"].figures["judgements"] > 5
    text = report(tmp_path)[1]
    assert re.search(
        r"\| published +\| +base\+decode \(ngram\) \| +4(?: \([1-3]\))? +\| 4 ", text
    )  # as many as the machine let run
