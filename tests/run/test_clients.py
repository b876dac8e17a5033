"""Trajectories that are shared out among several client processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from client_pace import stub_pair
from command_line import invoke
from real_engines import Servers

from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.errors import ClientGone, EngineGone
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.plan import Variant
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.run import clients, serving
from sgl_specreason.run.runner import run_all
from sgl_specreason.run.serving import Access, Engines
from sgl_specreason.run.session import Record, Session

COUNT, STREAMS = 3, 7


@pytest.fixture(scope="module")
def access() -> Iterator[Access]:
    """Two stub engines, which take a fifth of a second for a step."""
    with stub_pair({"small": ["--token-ms", "10"], "base": ["--token-ms", "10"]}) as access:
        yield access


class Telling(Session):
    """A session whose records say who made them; its problems are numbers, of which some are trouble."""

    __slots__ = ()

    def attempt(self, variant: Variant, row: Any, sample: int) -> Record:
        self.say("Mind this.")
        if row == "fails":
            raise ZeroDivisionError("three by none")
        if row == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(30 if row == "lasts" else 0.05)
        return {"pid": os.getpid(), "of": row, "namespace": self.namespace, "sample": sample}


@contextmanager
def shared(access: Access, said: list[str]) -> Iterator[tuple[Session, Engines]]:
    """A session of `COUNT` client processes, and its engines."""
    urls = access.urls
    assert urls
    plan = resolve(
        Options(bench="demo", small_url=urls[0], base_url=urls[1], concurrency=STREAMS, clients=COUNT, policy={})
    )
    plan, engines = serving.attached(plan, access, said.append)
    chats = serving.chats_of(plan)
    with serving.connected(engines, chats, access, Endpoint, 4) as endpoints:
        session = Telling(
            plan=plan, variants=plan.variants, chats=chats, endpoints=endpoints, say=said.append, rates={}
        )
        with clients.sharing(session, engines, access, 4) as session:
            yield session, engines


def results(session: Session, rows: list[Any]) -> list[Record]:
    assert session.attempts
    attempt = session.attempts
    return list(run_all(rows, lambda row: attempt(session.variants[0], row, 2), STREAMS))


def test_every_process_has_its_share_and_every_record_comes_back_once(access: Access) -> None:
    said: list[str] = []
    with shared(access, said) as (session, _):
        found = results(session, list(range(60)))
    assert sorted(record["of"] for record in found) == list(range(60))
    assert {(record["namespace"], record["sample"]) for record in found} == {(session.namespace, 2)}
    by_process = Counter(record["pid"] for record in found)
    assert os.getpid() not in by_process
    assert len(by_process) == COUNT
    assert min(by_process.values()) > 10
    assert said == ["Mind this."]
    assert not any(map(psutil.pid_exists, by_process))


def test_what_goes_wrong_in_a_process_ends_the_run_with_its_words(access: Access) -> None:
    with pytest.raises(ZeroDivisionError, match="three by none") as caught, shared(access, []) as (session, _):
        results(session, [1, 2, "fails", 3])
    assert "in attempt" in caught.value.__notes__[0]


def test_a_process_that_dies_ends_the_run_at_once(access: Access) -> None:
    begin = time.monotonic()
    with pytest.raises(ClientGone, match=r"client process \d died \(code -9\)"), shared(access, []) as (session, _):
        results(session, ["lasts", "dies", 1, 2])
    assert time.monotonic() - begin < 25


def test_an_engine_that_is_gone_for_good_is_known_to_the_first_process_only(access: Access) -> None:
    begin = time.monotonic()
    with shared(access, []) as (session, engines):
        engines["base"].health.gone = "the base engine died after 3 restarts"
        with pytest.raises(EngineGone, match="died after 3 restarts"):
            results(session, ["lasts"])
    assert time.monotonic() - begin < 25


def command(access: Access, out: Path, *words: str) -> list[str]:
    assert access.urls
    urls = ["--small-url", access.urls[0], "--base-url", access.urls[1]]
    method = ["--method", "specreason", "--on-budget", "stop", "--budget-tokens", "200", "--limit", "40"]
    many = ["--concurrency", "4", "--clients", "2"]
    return [
        sys.executable,
        "-m",
        "sgl_specreason.eval",
        "--bench",
        "demo",
        *urls,
        *method,
        *many,
        "--out",
        str(out),
        *words,
    ]


@contextmanager
def underway(access: Access, out: Path) -> "Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]":
    """A run of two client processes that has written a record, and these."""
    with subprocess.Popen(command(access, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 90
        while not any(file.stat().st_size for file in out.glob("*/trajectories.jsonl")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        copies = [child for child in family if any(child.pid != one.pid and child.ppid() == one.pid for one in family)]
        assert len(copies) == 2
        yield process, copies


def left_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    return psutil.wait_procs(processes, timeout=10)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["Ctrl-C", "SIGTERM", "SIGKILL"]
)
def test_an_interrupted_run_leaves_no_process_and_goes_on(access: Access, tmp_path: Path, number: int) -> None:
    with underway(access, tmp_path) as (process, copies):
        process.send_signal(number)
        words = process.communicate(timeout=30)[1]
        assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
        assert left_of(copies) == []
    assert "Traceback" not in words
    (folder,) = tmp_path.iterdir()
    assert 0 < len((folder / "trajectories.jsonl").read_text().splitlines()) < 40
    again = [sys.executable, "-m", "sgl_specreason.eval", "--resume", str(folder), "--clients", "1"]
    done = subprocess.run(again, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    held = [json.loads(line)["problem_id"] for line in (folder / "trajectories.jsonl").read_text().splitlines()]
    assert len(held) == len(set(held)) == 40
    assert json.loads((folder / "config.json").read_text())["clients"] == 1  # of the last sitting


@pytest.mark.slow
def test_a_dead_client_process_is_named_and_nothing_is_lost(access: Access, tmp_path: Path) -> None:
    with underway(access, tmp_path) as (process, copies):
        copies[0].kill()
        words = process.communicate(timeout=30)[1]
        assert process.returncode == 1
        assert left_of(copies) == []
    (folder,) = tmp_path.iterdir()
    last = words.strip().splitlines()
    assert last[-2].startswith("error: client process ")
    assert f"finished trajectories are in {folder}; go on with" in last[-2]
    assert f"--resume {folder}" in last[-1]


def test_one_client_of_the_bundled_pair_and_three_write_the_same(real_pair: Servers, tmp_path: Path) -> None:
    """The same texts, verdicts and requests; only times differ."""
    found = []
    for count in ("1", "3"):
        words = ["--method", "base", "--method", "specreason", "--limit", "9", "--concurrency", "3", "--clients", count]
        done = invoke("eval", *real_pair.attached, *words, "--out", str(tmp_path / count))
        assert done.exit_code == 0, done.stderr
        found.append(texts(tmp_path / count))
    assert len(found[0]) == 18
    assert found[0] == found[1]


def texts(top: Path) -> dict[tuple[str, str], Any]:
    """What each record says that is not of time or chance."""
    lines = [json.loads(line) for file in top.glob("*/*/trajectories.jsonl") for line in file.read_text().splitlines()]
    kept = ("steps", "answer_text", "answer", "correct", "question", "problem", "stop_reason", "grader", "gold")
    return {
        (record["method"], record["problem_id"]): [
            sorted(record),
            {key: record[key] for key in kept if key in record},
            sorted(request["purpose"] for request in record["requests"] if request["purpose"] in ("judge", "answer")),
        ]
        for record in lines
    }
