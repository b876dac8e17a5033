"""Owns a server that speaks just enough of SGLang's HTTP to answer every request at once, for measuring our client.

Example: python tools/stub_engine.py --vocabulary 150000 --step-tokens 20

It accepts everything: drafts and rewrites get the next of many different steps, judge requests a sure 9 (of ten, `--rejected`
get a 0). Requests with `stream` get their text token by token, each event with all of it so far, as SGLang sends it. With
`--token-ms` a text takes its time and can be aborted, with `--judge-ms` a judge request takes its.
`GET /v1/loads` says what is running, `GET /aborts` what was aborted. It prints its URL and answers until its standard input
ends. Nothing that it says is a figure about SpecReason.
"""

import argparse
import asyncio
import random
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import uvloop
from options import Parser, at_least

STEPS = 4096
STREAMS = 256
EVENT_TOKENS = 4
"""How many tokens come at a time where a text takes its time."""


def vocabulary_words(size: int) -> list[str]:
    """The words of the tokenizer that goes with it: the id of a word is its place here."""
    return ["\n\n", *(f"w{number}" for number in range(1, size))]


def steps(size: int, tokens: int) -> list[tuple[str, list[int]]]:
    """Different steps of `tokens` tokens, each with its ids; the last one is the blank line."""
    draw = random.Random(0)
    found = []
    for _ in range(STEPS):
        ids = [draw.randrange(size // 2, size) for _ in range(tokens - 1)]
        found.append(("".join(f"w{number}" for number in ids) + "\n\n", [*ids, 0]))
    return found


def steps_of(model: Path) -> list[tuple[str, list[int]]]:
    """Steps like those of the bundled pair, in its own words: 20 tokens each."""
    from tokenizers import Tokenizer

    tokenizer, draw = Tokenizer.from_file(str(model / "tokenizer.json")), random.Random(0)
    found = []
    for _ in range(STEPS):
        one, two, three = (draw.randrange(10, 100) for _ in range(3))
        text = f"Step {draw.randrange(1, 10)}: +{one}. {two} + {one} = {three}.\n\n"
        found.append((text, tokenizer.encode(text, add_special_tokens=False).ids))
    return found


class Replies(NamedTuple):
    """What it says: to requests for text, whole and as a stream, to judge requests, over chat completions, and else."""

    steps: list[tuple[str, list[int]]]
    written: list[bytes]
    streamed: list[bytes]
    judged: list[bytes]
    chat_written: list[bytes]
    chat_judged: bytes
    model: bytes
    server: bytes
    other: bytes


@cache
def replies(size: int, tokens: int, model: Path | None, rejected: int) -> Replies:
    """All of it, ready to be sent."""
    found = steps_of(model) if model else steps(size, tokens)
    judged = [reply(judgement(digit)) for digit in (9, 0)]
    name = str(model or "stub")
    return Replies(
        steps=found,
        written=[reply(content(text, ids, "stop")) for text, ids in found],
        streamed=[stream(text, ids) for text, ids in found[:STREAMS]] if model else [],
        judged=[judged[number < rejected] for number in range(10)],
        chat_written=[chat(text.removesuffix("\n\n"), len(ids), "\n\n") for text, ids in found],
        chat_judged=chat("9", 1, None),
        model=reply({"model_path": name, "tokenizer_path": name}),
        server=reply({"model_path": name, "max_total_num_tokens": 100_000_000, "max_req_input_len": 32_000}),
        other=reply({"model_path": name, "object": "list", "data": [{"id": name, "object": "model"}]}),
    )


def judgement(best: int) -> dict[str, Any]:
    digits = [[-0.01 if digit == best else -8.0, digit, None] for digit in range(10)]
    return {"text": "", "output_ids": [], "meta_info": meta_of(0, "stop") | {"output_token_ids_logprobs": [digits]}}


def meta_of(tokens: int, finish: str | None) -> dict[str, Any]:
    ends = {"stop": {"type": "stop", "matched": "\n\n"}, "abort": {"type": "abort", "message": "Abort"}}
    return {
        "prompt_tokens": 1,
        "cached_tokens": 0,
        "completion_tokens": tokens,
        "finish_reason": ends[finish] if finish else None,
        "e2e_latency": 0.0,
    }


def content(text: str, ids: list[int], finish: str | None) -> dict[str, Any]:
    return {"text": text, "output_ids": ids, "meta_info": meta_of(len(ids), finish)}


def so_far(text: str, ids: list[int], tokens: int) -> str:
    """About what the first `tokens` have of a text."""
    return text if tokens >= len(ids) else text[: len(text) * tokens // len(ids)]


def event(text: str, ids: list[int], finish: str | None) -> bytes:
    """One event, as a chunk of HTTP."""
    return chunk(b"data: " + orjson.dumps(content(text, ids, finish)) + b"\n\n")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_END = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def stream(text: str, ids: list[int]) -> bytes:
    """A whole stream at once, an event for each token."""
    events = [event(so_far(text, ids, n), ids[:n], "stop" if n == len(ids) else None) for n in range(1, len(ids) + 1)]
    return b"".join([STREAM_HEAD, *events, STREAM_END])


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


class Log:
    """What is being written, by the names of the requests, and what became of aborts."""

    def __init__(self) -> None:
        self.running: dict[str, Writing] = {}
        self.counts: Counter[str] = Counter()

    def abort(self, name: str) -> None:
        """Ends the request of exactly this name; one that is not there is forgotten, as SGLang does."""
        self.counts["asked"] += 1
        if writing := self.running.pop(name, None):
            self.counts["ended"] += 1
            writing.end("abort")

    def loads(self) -> bytes:
        return reply({"loads": [{"num_running_reqs": len(self.running), "num_waiting_reqs": 0}]})


class Writing:
    """A text that takes its time: `EVENT_TOKENS` more of it at every turn."""

    def __init__(self, connection: "Connection", name: str, step: tuple[str, list[int]], streamed: bool) -> None:
        self.connection, self.name, (self.text, self.ids), self.streamed = connection, name, step, streamed
        self.tokens = 0
        if streamed:
            connection.send(STREAM_HEAD)
        self.wait()

    def wait(self) -> None:
        after = self.connection.token_s * EVENT_TOKENS
        self.handle = asyncio.get_running_loop().call_later(after, self.turn)

    def turn(self) -> None:
        self.tokens = min(self.tokens + EVENT_TOKENS, len(self.ids))
        if self.tokens == len(self.ids):
            self.connection.log.running.pop(self.name, None)
            self.end("stop")
            return
        if self.streamed:
            self.connection.send(event(so_far(self.text, self.ids, self.tokens), self.ids[: self.tokens], None))
        self.wait()

    def end(self, finish: str) -> None:
        self.handle.cancel()
        text, ids = so_far(self.text, self.ids, self.tokens), self.ids[: self.tokens]
        self.connection.send(
            event(text, ids, finish) + STREAM_END if self.streamed else reply(content(text, ids, finish))
        )


class Connection(asyncio.Protocol):
    """One kept-alive connection: a request's end is known from its Content-Length; little is parsed."""

    def __init__(self, said: Replies, log: Log, token_s: float, judge_s: float) -> None:
        self.replies, self.log, self.token_s, self.judge_s = said, log, token_s, judge_s
        self.number = random.randrange(STEPS)
        self.parts: list[bytes] = []
        self.missing = -1
        self.name = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """Whoever asked has left: its text ends, as in SGLang."""
        if writing := self.log.running.pop(self.name, None):
            self.log.counts["left"] += 1
            writing.handle.cancel()

    def send(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]

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
        said = self.replies
        if request.startswith(b"POST /generate"):
            self.generate(request)
        elif request.startswith(b"POST /v1/chat/completions"):
            judging = b"top_logprobs" in request
            self.send(said.chat_judged if judging else said.chat_written[self.number])
        elif request.startswith(b"POST /abort_request"):
            self.log.abort(orjson.loads(request.partition(b"\r\n\r\n")[2])["rid"])
            self.send(said.other)
        elif request.startswith(b"GET /v1/loads"):
            self.send(self.log.loads())
        elif request.startswith(b"GET /aborts"):
            self.send(reply({**self.log.counts, "running": sorted(self.log.running)}))
        else:
            known = {b"GET /get_model_info": said.model, b"GET /server_info": said.server}
            self.send(known.get(b" ".join(request.split(b" ", 2)[:2]), said.other))

    def generate(self, request: bytes) -> None:
        said = self.replies
        if b"token_ids_logprob" in request:
            judged = said.judged[self.number % 10]
            if self.judge_s:
                asyncio.get_running_loop().call_later(self.judge_s, self.send, judged)
            else:
                self.send(judged)
            return
        streamed = b'"stream":true' in request
        if not self.token_s:
            self.send(said.streamed[self.number % STREAMS] if streamed else said.written[self.number])
            return
        self.name = str(
            orjson.loads(request.partition(b"\r\n\r\n")[2]).get("rid") or f"nameless {id(self)} {self.number}"
        )
        self.log.running[self.name] = Writing(self, self.name, said.steps[self.number], streamed)


async def serve(said: Replies, token_s: float, judge_s: float) -> None:
    loop, log = asyncio.get_running_loop(), Log()
    server = await loop.create_server(lambda: Connection(said, log, token_s, judge_s), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--vocabulary", type=at_least(1), default=150_000, help="ids are as wide as those of a real model"
    )
    parser.add_argument("--step-tokens", type=at_least(1), default=20)
    parser.add_argument("--model", type=Path, help="a folder with tokenizer.json: it serves this, in its words")
    parser.add_argument("--rejected", type=int, choices=range(11), default=0, help="of ten drafts")
    parser.add_argument("--token-ms", type=at_least(0, float), default=0, help="how long a token takes")
    parser.add_argument("--judge-ms", type=at_least(0, float), default=0, help="how long a judge request takes")
    options = parser.parse_args()
    said = replies(options.vocabulary, options.step_tokens, options.model, options.rejected)
    uvloop.run(serve(said, options.token_ms / 1e3, options.judge_ms / 1e3))


if __name__ == "__main__":
    main()
