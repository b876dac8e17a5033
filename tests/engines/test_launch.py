"""How SGLang's server is begun; a stand-in for SGLang says how it was."""

import argparse
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sgl_specreason.engines import launch, route, servers
from sgl_specreason.engines.launch import KEY_VARIABLE
from sgl_specreason.engines.servers import EngineSpec
from sgl_specreason.plan.checkpoints import BUNDLED

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
    assert done.stdout == f"{begun} --device {device} --api-key=secret\n"


def test_the_bundled_models_are_found_without_importing_all_that_sglang_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,200 modules. What a user has named for SGLang is left as it is."""
    variable, package = servers.MODELS
    assert servers.cpu_env()[variable] == package
    wanted = [json.loads(path.read_text())["architectures"][0] for path in BUNDLED.glob("*/config.json")]
    assert wanted
    told = (
        "from sglang.srt.models.registry import ModelRegistry; import sys; "
        f"print(*[ModelRegistry.resolve_model_cls([name])[1] for name in {wanted}], 'sglang.srt.models.llama4' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", told], env=os.environ | {variable: package}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [*wanted, "False"]
    monkeypatch.setenv(variable, "mine")
    assert variable not in servers.cpu_env()


KEYS = ["-secret", "--help", "-", "a=b", "--api-key", "with a blank"]


def test_any_key_reaches_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """One random key in 64 begins with a dash, and a parser takes that for an option."""
    said: list[str] = []
    monkeypatch.setattr(runpy, "run_module", lambda *_, **__: said.append(parsed(sys.argv[1:])))
    for key in KEYS + [EngineSpec(role="base", model="m").api_key for _ in range(4000)]:
        monkeypatch.setenv(KEY_VARIABLE, key)
        monkeypatch.setattr(sys, "argv", ["launch", "--port", "1"])
        launch.main()
        assert said[-1] == key
        assert KEY_VARIABLE not in os.environ


def parsed(words: list[str]) -> str:
    """The key, by a parser of the kind that SGLang has."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--api-key")
    parser.add_argument("--port")
    return str(parser.parse_args(words).api_key)


@pytest.mark.parametrize("key", KEYS)
def test_any_key_reaches_the_router(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the router's own parser."""
    from sglang_router import router

    found: list[str] = []
    monkeypatch.setenv(KEY_VARIABLE, key)
    monkeypatch.setattr(
        router.Router, "from_args", lambda args: SimpleNamespace(start=lambda: found.append(args.api_key))
    )
    route.main(["--host", "127.0.0.1"])
    assert found == [key]
