"""Owns nothing but the start of SGLang's own router with the key that its environment holds.

Started as `python -m sgl_specreason.engines.route` with the arguments of `sglang_router.launch_router`: a key among these would
stand in every listing of processes. That module itself is passed by: it imports all of SGLang, torch too, for a debugging tool.
"""

import argparse
import os
import sys

from sgl_specreason.engines.launch import KEY_VARIABLE


def main(words: list[str]) -> None:
    """Routes until it is ended. Requests need the key, which it also gives to its replicas."""
    from sglang_router.router import Router
    from sglang_router.router_args import RouterArgs

    parser = argparse.ArgumentParser()
    RouterArgs.add_cli_args(parser, use_router_prefix=False)
    if key := os.environ.pop(KEY_VARIABLE, ""):
        words = [*words, f"--api-key={key}"]  # one word: a key may begin with a dash
    Router.from_args(RouterArgs.from_cli_args(parser.parse_args(words), use_router_prefix=False)).start()


if __name__ == "__main__":
    main(sys.argv[1:])
