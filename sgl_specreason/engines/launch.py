"""Owns nothing but the start of SGLang's own server, with the key that its environment holds, and sooner where there is no GPU.

Started as `python -m sgl_specreason.engines.launch` with the arguments of `sglang.launch_server`: a key among these would stand
in every listing of processes.
"""

import multiprocessing
import os
import runpy
import sys
from itertools import pairwise

KEY_VARIABLE = "SPECREASON_ENGINE_KEY"


def main() -> None:
    """Becomes `sglang.launch_server`; its own children do not inherit the variable."""
    if ("--device", "cpu") in pairwise(sys.argv) and sys.platform == "linux":
        _import_once()
    if key := os.environ.pop(KEY_VARIABLE, ""):
        sys.argv.append(f"--api-key={key}")  # one word: a key may begin with a dash
    runpy.run_module("sglang.launch_server", run_name="__main__", alter_sys=True)


def _import_once() -> None:
    """Has the scheduler and the detokenizer forked, with what is imported by then: half of a start's work on a CPU.

    SGLang asks for new processes, since a GPU's state does not outlive a fork; that wish is not heard here. Nor are the kernels
    for GPUs imported (flashinfer, an eighth of the rest).
    """
    multiprocessing.set_start_method("fork")
    multiprocessing.set_start_method = lambda *_, **__: None
    sys.modules["flashinfer"] = None  # type: ignore[assignment]  # as where it is not installed


if __name__ == "__main__":
    main()
