"""Real runs on the bundled pair under a few faults of every kind that needs no engines of its own: `make faults`, in small."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from checkout import ROOT
from faults import SHARES

KINDS = [kind for kind in SHARES if not kind.startswith("own ")]


@pytest.mark.engines
def test_nothing_is_lost_written_twice_left_behind_or_waited_for_in_vain() -> None:
    missing = "root, for a small disk" if os.geteuid() else "" if shutil.which("faketime") else "faketime"
    if missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have {missing} (tools/debian.sh)")
        pytest.skip(f"needs {missing}")
    command = [sys.executable, str(ROOT / "tools" / "faults.py"), "--faults", "16", "--limit", "10"]
    done = subprocess.run(
        [*command, "--kinds", ",".join(KINDS)], capture_output=True, text=True, check=False, timeout=1500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["by_kind"]) == set(KINDS)
    assert result["injected"] >= len(KINDS)
    promises = ("lost", "duplicated", "orphans", "hangs", "wrong")
    assert {name: result[name] for name in promises} == dict.fromkeys(promises, 0)
