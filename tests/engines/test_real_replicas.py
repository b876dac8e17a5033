"""Two CPU replicas of each engine behind two real routers, one of which loses a replica in the middle, beside single engines.

Each engine takes about 2.5 GB and, on an idle machine, 20 to 30 s to start.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.engines
LIMIT = 12
METHODS = ("base", "specreason")
KEY = "a key of the tests, long enough to be looked for"
FIRST_RECORDS = 4


@dataclass(frozen=True, eq=False)
class Done:
    """A command that has ended: its folder, what it said, and which processes it had."""

    folder: Path
    said: list[str]
    code: int
    processes: list[psutil.Process]

    def records(self, method: str) -> list[dict[str, Any]]:
        (path,) = self.folder.glob(f"*/demo-{method}-*/trajectories.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]

    def summary(self, method: str) -> dict[str, Any]:
        (path,) = self.folder.glob(f"*/demo-{method}-*/summary.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def run(folder: Path, *words: str, meanwhile: Callable[[list[str], psutil.Process], None] | None = None) -> Done:
    """The command as a user gives it, with something that happens while it runs."""
    command = [sys.executable, "-m", "sgl_specreason.eval", "--bench", "demo", "--limit", str(LIMIT)]
    command += [word for method in METHODS for word in ("--method", method)]
    process = subprocess.Popen(
        [*command, "--concurrency", "4", "--out", str(folder), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"SPECREASON_API_KEY": KEY},
    )
    assert process.stdout is not None
    said: list[str] = []
    reader = threading.Thread(target=lambda stream=process.stdout: said.extend(stream), daemon=True)  # type: ignore[misc]
    reader.start()
    processes: list[psutil.Process] = []
    try:
        while process.poll() is None:
            if len(finished(folder)) >= FIRST_RECORDS and not processes:
                processes = psutil.Process(process.pid).children(recursive=True)
                if meanwhile:
                    meanwhile(said, psutil.Process(process.pid))
            time.sleep(0.05)
    finally:
        process.terminate()
        process.wait()
        reader.join()
        process.stdout.close()
    return Done(folder, said, process.returncode, processes)


def finished(folder: Path) -> list[str]:
    return [line for path in folder.glob("*/*/trajectories.jsonl") for line in path.read_text().splitlines()]


def kill_second_base(said: list[str], command: psutil.Process) -> None:
    """SIGKILL for the server that answers at the second replica's port."""
    (line,) = [line for line in said if line.startswith("starting the base-2 engine")]
    port = re.search(r"--port (\d+)", line)
    assert port
    (server,) = [
        process
        for process in command.children(recursive=True)
        if process.cmdline()[1:3] == ["-m", "sgl_specreason.engines.launch"] and port[1] in process.cmdline()
    ]
    server.send_signal(signal.SIGKILL)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return run(tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("several")
    return run(folder, "--base-replicas", "2", "--small-replicas", "2", meanwhile=kill_second_base)


def test_a_replica_that_dies_in_the_middle_loses_nothing(single: Done, several: Done) -> None:
    """Every trajectory is there once, without an error and with the texts of single engines; retries are counted."""
    assert (single.code, several.code) == (0, 0), single.said + several.said
    assert any("the base-2 engine died" in line for line in several.said)
    for method in METHODS:
        alone = {record["problem_id"]: record for record in single.records(method)}
        found = {record["problem_id"]: record for record in several.records(method)}
        assert len(found) == len(several.records(method)) == LIMIT
        assert found.keys() == alone.keys()
        for name, record in found.items():
            assert "error" not in record
            texts = [[step["text"] for step in each["steps"]] + [each["answer_text"]] for each in (record, alone[name])]
            assert texts[0] == texts[1]
    assert sum(several.summary(method)["retries"] for method in METHODS) > 0


def test_trajectories_find_their_prefix_on_their_replica(single: Done, several: Done) -> None:
    """About as much is cached as with single engines; what died with a replica was computed once more."""
    for method in METHODS:
        shares = [done.summary(method)["cached_share"] for done in (single, several)]
        assert shares[1] > shares[0] - 0.1, shares


def test_the_number_of_replicas_is_recorded(single: Done, several: Done) -> None:
    assert several.summary("base")["conditions"]["replicas"] == {"small": 2, "base": 2}
    assert single.summary("base")["conditions"]["replicas"] is None


def test_engines_that_a_command_starts_end_with_it_and_its_key_is_nowhere(single: Done, several: Done) -> None:
    parts = {single: (), several: ("-1", "-2", "-router")}
    for done, names in parts.items():
        assert len(done.processes) >= 6 * max(1, len(names) - 1)
        _, alive = psutil.wait_procs(done.processes, timeout=10)
        assert alive == []
        logs = {path.name for path in done.folder.glob("*/logs/*")}
        assert logs == {f"{role}{part}.log" for role in ("base", "small") for part in names or ("",)}
        files = [path for path in done.folder.rglob("*") if path.is_file()]
        assert not any(KEY in path.read_text("utf-8", "replace") for path in files)
        assert not any(KEY in line for line in done.said)
        for path in done.folder.glob("*/*/config.json"):
            assert json.loads(path.read_text())["server_info"]["base"]["attention_backend"]
