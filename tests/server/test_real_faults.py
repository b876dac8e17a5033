"""The real server over real engines under a few faults of every kind: `make server-faults`, in small."""

import json
import subprocess
import sys
from typing import Any

import pytest
from checkout import ROOT
from fault_proxy import IN_STREAM, TRICKS

PROMISES = ("wrong_replies", "lost", "leaked_places", "hangs", "orphans")


def faults(*words: str) -> dict[str, Any]:
    """What the tool counts, and that it found nothing wrong."""
    command = [sys.executable, str(ROOT / "tools" / "server_faults.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert {name: result[name] for name in PROMISES} == dict.fromkeys(PROMISES, 0)
    assert result["wrong"] == []
    return result


@pytest.mark.engines
def test_no_reply_is_wrong_or_lost_and_no_place_leaks() -> None:
    """Requests disturbed in every way that the proxy knows, engines that are away, clients that leave."""
    kinds = (*TRICKS, *IN_STREAM)
    words = ["--faults", str(len(kinds)), "--problems", "2", "--leaving", "6", "--parts", "storm,away,leaving"]
    result = faults(*words)
    assert result["by_kind"].keys() >= set(kinds)
    assert result["good"] > 0


@pytest.mark.engines
@pytest.mark.slow
def test_engines_of_its_own_that_are_killed_are_waited_for() -> None:
    """Streams pause and end with the same text; when restarts are used up it says so and leaves with code 1."""
    result = faults("--faults", "1", "--problems", "2", "--parts", "killed,signalled")
    assert result["by_kind"]["own engine SIGKILL"] >= 4
