"""Owns what LiteLLM must see of the server, by both of its providers for servers like this one.

Runs in an environment of its own, with litellm and nothing of the project. Prints one JSON object.
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import litellm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--key", default="none")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=20)
    options = parser.parse_args()
    litellm.suppress_debug_info = True
    rows = [json.loads(line) for line in options.data.read_text().splitlines()][: options.problems]
    begin, correct, checks = time.monotonic(), 0, 0
    failed: list[str] = []
    for provider in ("openai", "hosted_vllm"):
        for row in rows:
            request = {
                "model": f"{provider}/specreason",
                "api_base": options.base_url,
                "api_key": options.key,
                "messages": [{"role": "user", "content": row["problem"]}],
                "temperature": 0,
            }
            whole, streamed = texts(request), streamed_texts(request)
            correct += f"boxed{{{row['expected_answer']}}}" in whole["content"]
            for name, holds in {
                "there is a thought": bool(whole["reasoning_content"]),
                "the same streamed": whole == streamed,
            }.items():
                checks += holds
                if not holds:
                    failed.append(f"{provider}, {row['id']}: {name}: {whole} {streamed}"[:400])
    try:
        litellm.completion(**{**request, "messages": [{"role": "user", "content": "1 2 3 4 5 6 7 8 9 " * 20_000}]})
        failed.append("a prompt too long was answered")
    except litellm.ContextWindowExceededError:
        checks += 1
    except litellm.exceptions.APIError as error:
        failed.append(f"a prompt too long is no ContextWindowExceededError: {error}"[:400])
    print(
        json.dumps(
            {
                "version": version("litellm"),
                "problems": len(rows),
                "correct": correct / 2,
                "checks": checks,
                "failed": failed,
                "seconds": round(time.monotonic() - begin, 2),
            }
        )
    )


def texts(request: dict[str, Any]) -> dict[str, str]:
    message = litellm.completion(**request).choices[0].message
    return {name: getattr(message, name, None) or "" for name in ("reasoning_content", "content")}


def streamed_texts(request: dict[str, Any]) -> dict[str, str]:
    found = {"reasoning_content": "", "content": ""}
    for chunk in litellm.completion(**request, stream=True):
        for choice in chunk.choices:
            for name in found:
                found[name] += getattr(choice.delta, name, None) or ""
    return found


if __name__ == "__main__":
    main()
