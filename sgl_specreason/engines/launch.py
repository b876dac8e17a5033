"""Owns nothing but the start of SGLang's own server with the key that its environment holds.

Started as `python -m sgl_specreason.engines.launch` with the arguments of `sglang.launch_server`: a key among these would stand
in every listing of processes.
"""

import os
import runpy
import sys

KEY_VARIABLE = "SPECREASON_ENGINE_KEY"


def main() -> None:
    """Becomes `sglang.launch_server`; its own children do not inherit the variable."""
    if key := os.environ.pop(KEY_VARIABLE, ""):
        sys.argv += ["--api-key", key]
    runpy.run_module("sglang.launch_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
