"""How SGLang's server is begun; a stand-in for SGLang says how it was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sgl_specreason.engines.launch import KEY_VARIABLE

SGLANG = """
import multiprocessing, os, sys
from importlib.util import find_spec
multiprocessing.set_start_method("spawn", force=True)
if __name__ == "__main__":
    print(multiprocessing.get_start_method(), find_spec("flashinfer") is not None, *sys.argv[1:])
    assert "KEY_VARIABLE" not in os.environ
""".replace("KEY_VARIABLE", KEY_VARIABLE)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a fork is not safe")
@pytest.mark.parametrize(("device", "begun"), [("cpu", "fork False"), ("cuda", "spawn True")])
def test_without_a_gpu_its_processes_are_forked_with_what_is_imported(device: str, begun: str, tmp_path: Path) -> None:
    """Whatever SGLang asks for: on a CPU each would import all of it again. GPUs do not survive a fork."""
    for package in ("sglang", "flashinfer"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "sglang" / "launch_server.py").write_text(SGLANG)
    done = subprocess.run(
        [sys.executable, "-m", "sgl_specreason.engines.launch", "--device", device],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), KEY_VARIABLE: "secret"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{begun} --device {device} --api-key secret\n"
