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
        """The answer as it would have come in one piece. Raises ProtocolError for one that breaks off or holds no events."""
        text, ids, answer = "", list[int](), dict[str, Any]()
        for line in _lines(chunks):
            if not line.startswith(EVENT):
                continue
            data = line[len(EVENT) :].strip()
            if data == DONE:
                return orjson.dumps(answer)
            try:
                event = orjson.loads(data)
                if "error" in event:
                    return bytes(data)
                new, new_ids, meta = event["text"], event.get("output_ids") or [], event["meta_info"]
                text = text + new if self._incremental else new
                ids = [*ids, *new_ids] if self._incremental else new_ids
                answer = event | {"text": text, "output_ids": ids}
                is_last = meta.get("finish_reason") is not None
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise ProtocolError(f"no event of a stream: {type(error).__name__}: {bytes(data[:100])!r}") from None
            if not is_last:
                self._hear(text)
        raise ProtocolError("the stream broke off")


def _lines(chunks: Iterable[bytes]) -> Iterable[bytes]:
    """The lines of a text that comes in pieces."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest
