"""Owns a server that speaks just enough of SGLang's HTTP to answer every request at once, for measuring our client.

Example: python tools/stub_engine.py --vocabulary 150000 --step-tokens 20

It accepts everything: drafts and rewrites get the next of many different steps, judge requests a sure 9. It prints its
URL and answers until its standard input ends. Nothing that it says is a figure about SpecReason.
"""

import argparse
import asyncio
import random
import sys
from functools import cache
from typing import Any, NamedTuple

import orjson
from options import Parser, at_least

STEPS = 4096


def vocabulary_words(size: int) -> list[str]:
    """The words of the tokenizer that goes with it: the id of a word is its place here."""
    return ["\n\n", *(f"w{number}" for number in range(1, size))]


def steps(size: int, tokens: int) -> list[tuple[str, list[int]]]:
    """Different steps of `tokens` tokens, each with its ids; the last one is the blank line."""
    draw = random.Random(0)
    found = []
    for _ in range(STEPS):
        ids = [draw.randrange(size // 2, size) for _ in range(tokens - 1)]
        found.append((" ".join(f"w{number}" for number in ids) + "\n\n", [*ids, 0]))
    return found


class Replies(NamedTuple):
    """What it says: to requests for text, to judge requests, the same over chat completions, and to anything else."""

    written: list[bytes]
    judged: bytes
    chat_written: list[bytes]
    chat_judged: bytes
    other: bytes


@cache
def replies(size: int, tokens: int) -> Replies:
    """All of it, ready to be sent."""
    meta: dict[str, Any] = {
        "prompt_tokens": 1,
        "cached_tokens": 0,
        "completion_tokens": tokens,
        "finish_reason": {"type": "stop", "matched": "\n\n"},
        "e2e_latency": 0.0,
    }
    found = steps(size, tokens)
    written = [reply({"text": text, "output_ids": ids, "meta_info": meta}) for text, ids in found]
    digits = [[-0.01 if digit == 9 else -8.0, digit, None] for digit in range(10)]
    judged = {"completion_tokens": 0, "output_token_ids_logprobs": [digits]}
    return Replies(
        written=written,
        judged=reply({"text": "", "output_ids": [], "meta_info": meta | judged}),
        chat_written=[chat(text.removesuffix("\n\n"), tokens, "\n\n") for text, _ in found],
        chat_judged=chat("9", 1, None),
        other=reply({"model_path": "stub", "object": "list", "data": [{"id": "stub", "object": "model"}]}),
    )


def chat(text: str, tokens: int, stop: str | None) -> bytes:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop" if stop else "length",
        "matched_stop": stop,
    }
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
    head = {"id": "1", "object": "chat.completion", "created": 0, "model": "stub"}
    return reply(head | {"choices": [choice], "usage": usage})


def reply(content: Any) -> bytes:
    body = orjson.dumps(content)
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Connection(asyncio.Protocol):
    """One kept-alive connection: a request's end is known from its Content-Length; nothing is parsed."""

    def __init__(self, size: int, tokens: int) -> None:
        self.replies = replies(size, tokens)
        self.number = random.randrange(STEPS)
        self.parts: list[bytes] = []
        self.missing = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parts.append(data)
        if self.missing < 0:
            head = b"".join(self.parts)
            end = head.find(b"\r\n\r\n")
            if end < 0:
                self.parts = [head]
                return
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 : head.find(b"\r\n", at)]) if 0 <= at < end else 0
            self.missing = end + 4 + length - len(head)
        else:
            self.missing -= len(data)
        if self.missing <= 0:
            self.answer(b"".join(self.parts))
            self.parts, self.missing = [], -1

    def answer(self, request: bytes) -> None:
        self.number = (self.number + 1) % STEPS
        if request.startswith(b"POST /generate"):
            judging = b"token_ids_logprob" in request
            found = self.replies.judged if judging else self.replies.written[self.number]
        elif request.startswith(b"POST /v1/chat/completions"):
            judging = b"top_logprobs" in request
            found = self.replies.chat_judged if judging else self.replies.chat_written[self.number]
        else:
            found = self.replies.other
        self.transport.write(found)  # type: ignore[attr-defined]


async def serve(size: int, tokens: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(size, tokens), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--vocabulary", type=at_least(1), default=150_000, help="ids are as wide as those of a real model"
    )
    parser.add_argument("--step-tokens", type=at_least(1), default=20)
    options = parser.parse_args()
    try:
        import uvloop

        run: Any = uvloop.run
    except ImportError:
        run = asyncio.run
    run(serve(options.vocabulary, options.step_tokens))


if __name__ == "__main__":
    main()
