"""A scripted engine that speaks SGLang's HTTP, for testing our logic under strange answers.

A test gives it a function from a request to a reply; tokens are characters. Nothing here claims that the system works:
that is what the tests on `real_engines.py` are for.
"""

import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Payload = dict[str, Any]


class CharTokenizer:
    """One token per character, and ChatML with an opened thought."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [ord(char) for char in text]

    def decode(self, token_ids: list[int]) -> str:
        return "".join(map(chr, token_ids))

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> str:
        text = "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in conversation)
        return text + "<|assistant|><think>\n" if options.get("add_generation_prompt") else text


class Raw:
    """A reply that is not an answer: sent as it is."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status, self.body = status, body


class Held:
    """A text that is still being written when its request is aborted."""

    def __init__(self, text: str) -> None:
        self.text = text


Script = Callable[[str, Payload], "str | list[float] | Raw | Held"]


def digits(best: int, mass: float = 1.0) -> list[float]:
    """Log-probabilities of a judge that is nearly sure of `best` and puts `mass` on digits."""
    return [math.log(mass * (0.91 if digit == best else 0.01)) for digit in range(10)]


class FakeEngine:
    """A server whose /generate answers what `script(prompt, payload)` says.

    The script returns the text that the model would go on writing (stops, the token limit and "\\x03" as end of sequence
    are applied here), log-probabilities for a `select`, or a Raw reply. `refusals` is how many requests for anything else it
    refuses first, `info` what it says of itself besides its model. With `break_after` the next answer that is streamed breaks off
    after so many characters.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Payload] = []
        self.refusals, self.refusal = 0, 400
        self.flushes = 0
        self.pace, self.pause_s = 3, 0.0
        self.break_after: int | None = None
        self.info: Payload = {}
        self.decides: Callable[[Payload], Payload] | None = None  # /v1/decisions; None: there is no such route
        self.cached = 0  # tokens of each prompt that it says to have had
        self.aborts: list[str] = []
        self.running: set[str] = set()  # requests that are being written, by name
        self.aborted = threading.Condition()
        self.connections: set[socket.socket] = set()
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # an answer in one piece: a head by itself waits 40 ms for its acknowledgement

            def setup(self) -> None:
                super().setup()
                engine.connections.add(self.connection)

            def finish(self) -> None:
                super().finish()
                engine.connections.discard(self.connection)

            def do_GET(self) -> None:
                self._send(200, json.dumps({"model_path": "fake", "api_key": "secret"} | engine.info).encode())

            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}")
                if self.path == "/abort_request":
                    with engine.aborted:
                        engine.aborts.append(payload["rid"])
                        engine.running.discard(payload["rid"])  # one that is not running is not remembered
                        engine.aborted.notify_all()
                    self._send(200, b"done")
                    return
                if self.path == "/v1/decisions":
                    found = engine.decides(payload) if engine.decides else {"detail": "Not Found"}
                    self._send(200 if engine.decides else 404, json.dumps(found).encode())
                    return
                if self.path != "/generate":
                    refused = engine.refusals > 0
                    engine.refusals -= refused
                    engine.flushes += self.path == "/flush_cache" and not refused
                    self._send(*((engine.refusal, b"Flush cache failed.") if refused else (200, b"done")))
                    return
                engine.requests.append(payload)
                reply = engine.script(prompt_of(payload), payload)
                if isinstance(reply, Held):
                    with engine.aborted:
                        engine.running.add(payload["rid"])
                        ended = engine.aborted.wait_for(lambda: payload["rid"] not in engine.running, 5)
                        engine.running.discard(payload["rid"])
                    finish = {"type": "abort", "message": "Aborted"} if ended else {"type": "length", "length": 0}
                    content = answer(reply.text, payload)
                    content["meta_info"] |= {"finish_reason": finish, "completion_tokens": len(reply.text)}
                    reply = Raw(200, json.dumps(content).encode())
                if isinstance(reply, Raw):
                    self._send(reply.status, reply.body)
                else:
                    content = answer(reply, payload)
                    content["meta_info"]["cached_tokens"] = min(engine.cached, len(payload["input_ids"]))
                    if payload.get("stream"):
                        self._stream(content)
                    else:
                        self._send(200, json.dumps(content).encode())

            def _stream(self, content: Payload) -> None:
                """A few characters at a time, the whole text so far each time; `engine.pause_s` apart."""
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                text, ids = content["text"], content["output_ids"]
                for end in range(engine.pace, len(text), engine.pace):
                    meta = content["meta_info"] | {"finish_reason": None, "completion_tokens": end}
                    self._event({"text": text[:end], "output_ids": ids[:end], "meta_info": meta})
                    if engine.break_after is not None and end >= engine.break_after:
                        engine.break_after = None
                        self.close_connection = True
                        return
                    time.sleep(engine.pause_s)
                self._event(content)
                self._chunk(b"data: [DONE]\n\n")
                self._chunk(b"")

            def _event(self, event: Payload) -> None:
                self._chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

            def _chunk(self, data: bytes) -> None:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                self.wfile.flush()

            def _send(self, status: int, body: bytes) -> None:
                if not body:  # an answer that breaks off
                    self.close_connection = True
                    self.connection.close()
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients leave in the middle of answers
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Ends the server and the kept-alive connections, each of which is a thread here."""
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def prompt_of(payload: Payload) -> str:
    return "".join(map(chr, payload["input_ids"]))


def likely(token: int) -> float:
    """The log-probability of a token: everybody finds "#" unlikely, and the rest quite likely."""
    return -12.0 if token == ord("#") else -0.5


def tops(char: str) -> list[list[Any]]:
    """The likeliest tokens where this one was drawn: eight equal ones for "?", else one that is certain."""
    return (
        [[math.log(1 / 8), ord("?") + number, None] for number in range(8)] if char == "?" else [[0.0, ord(char), None]]
    )


def answer(reply: str | list[float], payload: Payload) -> Payload:
    """`reply` as SGLang would send it for this request."""
    params = payload["sampling_params"]
    meta: Payload = {
        "prompt_tokens": len(payload["input_ids"]),
        "cached_tokens": 0,
        "completion_tokens": 0,
        "finish_reason": {"type": "length", "length": 0},
        "e2e_latency": 0.001,
    }
    if payload.get("logprob_start_len") is not None:
        ids = payload["input_ids"][payload["logprob_start_len"] :]
        meta["input_token_logprobs"] = [[None, ids[0], None], *([likely(token), token, None] for token in ids[1:])]
    if isinstance(reply, list):
        meta["output_token_ids_logprobs"] = [
            [[value, token, None] for value, token in zip(reply, payload["token_ids_logprob"], strict=True)]
        ]
        return {"text": "", "output_ids": [], "meta_info": meta}
    stops = params.get("stop") or []
    text, finish = "", {"type": "length", "length": params["max_new_tokens"]}
    for char in reply[: params["max_new_tokens"]]:
        text += char
        if char == "\x03":
            finish = {"type": "stop", "matched": 3}
            break
        hit = next((stop for stop in stops if stop in text), None)
        if hit:
            finish = {"type": "stop", "matched": hit}
            break
    else:
        if len(reply) < params["max_new_tokens"]:
            text, finish = text + "\x03", {"type": "stop", "matched": 3}
    meta |= {"completion_tokens": len(text), "finish_reason": finish}
    if payload.get("return_logprob"):
        meta["output_token_logprobs"] = [[likely(ord(char)), ord(char), None] for char in text]
        meta["output_top_logprobs"] = [tops(char) for char in text] if payload.get("top_logprobs_num") else []
    return {"text": text, "output_ids": [ord(char) for char in text], "meta_info": meta}
