"""Owns what the official openai client must see of the server: replies, streams, errors, retries.

Runs in an environment of its own, with openai 2.x or 3.x and nothing of the project. Prints one JSON object.
"""

import argparse
import json
import threading
import time
from pathlib import Path
from typing import Any

import openai
from openai import OpenAI

TOO_LONG = "1 2 3 4 5 6 7 8 9 " * 20_000


class Checks:
    """How often something held; what did not, once, with what was seen."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []

    def that(self, name: str, holds: bool, seen: Any = "") -> None:
        self.passed += holds
        if not holds and not any(words.startswith(f"{name}: ") for words in self.failed):
            self.failed.append(f"{name}: {str(seen)[:300]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--key", default="none")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=50)
    parser.add_argument("--busy-url", help="a server with one place and no queue: retries on 429 are tried there")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.data.read_text().splitlines()][: options.problems]
    begin, checks, correct = time.monotonic(), Checks(), 0
    with OpenAI(base_url=options.base_url, api_key=options.key, max_retries=0) as client:
        models(client, checks)
        for row in rows:
            correct += same(client, row, checks)
        helper(client, rows[0], checks)
        errors(client, checks)
    with OpenAI(base_url=options.base_url, api_key="not the key", max_retries=0) as client:
        if options.key != "none":
            checks.that("a wrong key is 401", raised(client, openai.AuthenticationError, code="invalid_api_key"))
    if options.busy_url:
        retries(options.busy_url, options.key, rows[0], checks)
    print(
        json.dumps(
            {
                "version": openai.__version__,
                "problems": len(rows),
                "correct": correct,
                "checks": checks.passed,
                "failed": checks.failed,
                "seconds": round(time.monotonic() - begin, 2),
            }
        )
    )


def asked(row: dict[str, Any]) -> list[Any]:
    return [{"role": "user", "content": row["problem"]}]


def models(client: OpenAI, checks: Checks) -> None:
    ids = [model.id for model in client.models.list()]
    checks.that("the first model is specreason", ids[:1] == ["specreason"], ids)
    checks.that("a model can be asked for", client.models.retrieve(ids[0]).id == ids[0])


def same(client: OpenAI, row: dict[str, Any], checks: Checks) -> bool:
    """One problem, streamed and not: the same texts, in the order that clients rely on. Whether the answer is right."""
    whole = client.chat.completions.create(model="specreason", messages=asked(row), temperature=0)
    message = whole.choices[0].message
    thought = getattr(message, "reasoning_content", None)
    checks.that("there is a thought, without tags", bool(thought) and "think>" not in thought, thought)
    usage = whole.usage
    details = usage and usage.completion_tokens_details
    checks.that("usage has reasoning tokens", bool(details and details.reasoning_tokens), usage)
    pieces: dict[str, list[str]] = {"reasoning_content": [], "content": []}
    ended: list[str] = []
    totals: list[Any] = []
    chunks = list(
        client.chat.completions.create(
            model="specreason",
            messages=asked(row),
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    for chunk in chunks:
        totals += [chunk.usage] if chunk.usage else []
        for choice in chunk.choices:
            checks.that("every delta has the thought's attribute", hasattr(choice.delta, "reasoning_content"), choice)
            found = {name: getattr(choice.delta, name, None) for name in pieces}
            checks.that("never both texts in one delta", not all(found.values()), found)
            checks.that("nothing follows the end", not (ended and any(found.values())), found)
            for name, text in found.items():
                pieces[name] += [text] if text else []
            ended += [choice.finish_reason] if choice.finish_reason else []
    checks.that("the role comes first", chunks[0].choices[0].delta.role == "assistant", chunks[0])
    checks.that("the thought is the same streamed", "".join(pieces["reasoning_content"]) == thought, row["id"])
    checks.that("the answer is the same streamed", "".join(pieces["content"]) == message.content, row["id"])
    checks.that("it ends once", ended == [whole.choices[0].finish_reason], ended)
    counts = usage and (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    streamed = [(each.prompt_tokens, each.completion_tokens, each.total_tokens) for each in totals]
    checks.that("usage comes once, last, the same", streamed == [counts] and chunks[-1].usage is not None, streamed)
    return f"boxed{{{row['expected_answer']}}}" in (message.content or "")


def helper(client: OpenAI, row: dict[str, Any], checks: Checks) -> None:
    """The client's own accumulation of a stream."""
    with client.chat.completions.stream(
        model="specreason", messages=asked(row), temperature=0, stream_options={"include_usage": True}
    ) as stream:
        done = stream.get_final_completion()
    details = done.usage and done.usage.completion_tokens_details
    checks.that("stream() has usage", bool(details and details.reasoning_tokens), done.usage)
    checks.that("stream() has the answer", bool(done.choices[0].message.content), done)
    checks.that("stream() has the thought", bool(getattr(done.choices[0].message, "reasoning_content", "")), done)
    parts = client.chat.completions.create(model="specreason", messages=asked(row), temperature=0, stream=True)
    checks.that("no usage unless asked for", not any(part.usage for part in parts))


def raised(client: OpenAI, kind: type[openai.APIStatusError], **wanted: Any) -> bool:
    """Whether a request fails in this way: `code` and `param` are the error's, the rest is the request's."""
    expected = {name: wanted.pop(name) for name in ("code", "param") if name in wanted}
    request = {"model": "specreason", "messages": [{"role": "user", "content": "1"}]} | wanted
    try:
        client.chat.completions.create(**request)
    except kind as error:
        return all(getattr(error, name) == value for name, value in expected.items()) and bool(error.message)
    except openai.APIError:
        return False
    return False


def errors(client: OpenAI, checks: Checks) -> None:
    bad = openai.BadRequestError
    for name, holds in {
        "an unknown model is 404": raised(client, openai.NotFoundError, model="nobody", code="model_not_found"),
        "tools are 400 and named": raised(
            client, bad, tools=[{"type": "function", "function": {"name": "f"}}], param="tools"
        ),
        "logprobs are 400 and named": raised(client, bad, logprobs=True, param="logprobs"),
        "a penalty is 400 and named": raised(client, bad, presence_penalty=1.0, param="presence_penalty"),
        "the same in a stream": raised(client, bad, presence_penalty=1.0, param="presence_penalty", stream=True),
        "an image is 400": raised(
            client,
            bad,
            messages=[
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}
            ],
        ),
        "a prompt too long is 400": raised(
            client, bad, messages=[{"role": "user", "content": TOO_LONG}], code="context_length_exceeded"
        ),
        "no messages are 400": raised(client, bad, messages=[]),
    }.items():
        checks.that(name, holds)


def retries(url: str, key: str, row: dict[str, Any], checks: Checks) -> None:
    """Eight at once where one fits: the client waits as Retry-After says, and all succeed in the end."""
    refused: list[str | None] = []
    answers: list[str] = []
    wrong: list[str] = []

    def ask() -> None:
        with OpenAI(base_url=url, api_key=key, max_retries=20) as client:
            client._client.event_hooks["response"].append(  # the only way to see what a retry hides
                lambda reply: refused.append(reply.headers.get("retry-after")) if reply.status_code == 429 else None
            )
            try:
                done = client.chat.completions.create(model="specreason", messages=asked(row), temperature=0)
                answers.append(done.choices[0].message.content or "")
            except openai.APIError as error:
                wrong.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    checks.that("a full server says 429", bool(refused))
    checks.that("429 has Retry-After in seconds", all(each and each.isdecimal() for each in refused), refused)
    checks.that("every retry succeeds", len(answers) == 8 and all(answers), wrong)


if __name__ == "__main__":
    main()
