"""Owns an answer that comes in pieces (server-sent events): what it says so far, and where it ends. Knows no connection."""

from collections.abc import Callable, Iterable
from typing import Any

import orjson
from urllib3.exceptions import ProtocolError

EVENT, DONE = b"data:", b"[DONE]"
Heard = Callable[[str], None]


class Streamed:
    """One answer of /generate as it grows.

    `hear` is told the text so far, in the thread that reads it, and may raise to break the request off. What the last event
    says is left to whoever gets the whole answer. SGLang sends the text as a whole each time, or `incremental`ly, as it was
    started.
    """

    def __init__(self, hear: Heard, *, incremental: bool) -> None:
        self._hear, self._incremental = hear, incremental

    def read(self, chunks: Iterable[bytes]) -> bytes:
        """The answer as it would have come in one piece. Raises ProtocolError for one that breaks off."""
        text, ids, answer = "", list[int](), dict[str, Any]()
        for line in _lines(chunks):
            if not line.startswith(EVENT):
                continue
            data = line[len(EVENT) :].strip()
            if data == DONE and answer:
                return orjson.dumps(answer)
            event = _event(data)
            if "error" in event:
                return bytes(data)
            text = text + event["text"] if self._incremental else event["text"]
            new = event.get("output_ids") or []
            if self._incremental:
                ids += new
            else:
                ids = new
            answer = event | {"text": text, "output_ids": ids}
            if event["meta_info"].get("finish_reason") is None:
                self._hear(text)
        raise ProtocolError("the stream broke off")


def _event(data: bytes) -> dict[str, Any]:
    """A part of an answer, or its error. Raises ProtocolError for what is neither."""
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"not JSON: {error}") from None
    if isinstance(event, dict):
        if "error" in event:
            return event
        if isinstance(event.get("text"), str) and isinstance(event.get("meta_info"), dict):
            return event
    raise ProtocolError("what came is no part of an answer")


def _lines(chunks: Iterable[bytes]) -> Iterable[bytes]:
    """The lines of a text that comes in pieces."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest
