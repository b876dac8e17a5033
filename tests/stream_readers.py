"""How two chat interfaces read a stream, by rules read in their sources and written anew here: Continue and Open WebUI.

Each takes the bytes as they come off the network and gives what its user would see. Where a rule is a trap it is kept.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

LONGEST_LINE = 1 << 16
"""aiohttp, on which Open WebUI stands, gives up on a longer one."""
TAGS = ("<think>", "<thinking>", "<reason>", "<reasoning>", "<thought>", "<|begin_of_thought|>")


class Shown(NamedTuple):
    """What a user sees."""

    thought: str
    answer: str


class Unreadable(Exception):
    """What the interface says in place of a reply."""


def continue_dev(pieces: Iterable[bytes]) -> Shown:
    """Continue (packages/fetch/src/stream.ts, core/llm/openaiTypeConverters.ts).

    A line is taken as it is cut off by a newline. `: ping` and [DONE] both stop the reading of what has arrived; the rest is
    read with the next piece, or, at the end, as one line. Of a delta with both texts the thought is lost.
    """
    thought = answer = ""
    for event in _continue_events(pieces):
        choices = event.get("choices") or [{}]
        delta = choices[0].get("delta") or {}
        if delta.get("content"):
            answer += delta["content"]
        elif delta.get("reasoning_content") or delta.get("reasoning"):
            thought += delta.get("reasoning_content") or delta["reasoning"]
    return Shown(thought, answer)


def _continue_events(pieces: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    buffer = b""
    for piece in pieces:
        buffer += piece
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            over, event = _continue_line(line)
            if over:
                break
            if event:
                yield event
    if buffer:
        over, event = _continue_line(buffer)
        if event and not over:
            yield event


def _continue_line(line: bytes) -> tuple[bool, dict[str, Any] | None]:
    if line.startswith((b"data:[DONE]", b"data: [DONE]", b": ping")):
        return True, None
    if not line.startswith(b"data:"):
        return False, None
    try:
        event = json.loads(line.removeprefix(b"data:"))
    except ValueError:
        raise Unreadable(f"Malformed JSON sent from server: {line[:80]!r}") from None
    if event.get("error"):
        raise Unreadable(f"Error streaming response: {event['error']}")
    return False, event


def open_webui(pieces: Iterable[bytes]) -> Shown:
    """Open WebUI (backend/open_webui/utils/middleware.py), with the defaults of its settings.

    Lines of more than 64 KiB end it. Text after a thought begins a block of its own, and so does a thought after text. Tags in
    the answer would be taken for a thought. The last block of text is stripped. An error counts only where choices are empty.
    """
    blocks: list[list[str]] = [["text", ""]]
    for line in _lines(pieces):
        if len(line) > LONGEST_LINE:
            raise Unreadable("Chunk too big")
        if not line.startswith(b"data:"):
            continue
        try:
            event = json.loads(line.removeprefix(b"data:"))
        except ValueError:
            continue  # [DONE] too
        if not (choices := event.get("choices") or []):
            if event.get("error"):
                raise Unreadable(str(event["error"]))
            continue
        delta = choices[0].get("delta") or {}
        thought = delta.get("reasoning_content") or delta.get("reasoning") or delta.get("thinking")
        for kind, text in (("thought", thought), ("text", delta.get("content"))):
            if text:
                if blocks[-1][0] != kind:
                    blocks.append([kind, ""])
                blocks[-1][1] += text
    if blocks[-1][0] == "text":
        blocks[-1][1] = blocks[-1][1].strip()
    answer = "".join(text for kind, text in blocks if kind == "text")
    if re.search("|".join(map(re.escape, TAGS)), answer):
        raise Unreadable("what looks like a thought stands in the answer")
    return Shown("".join(text for kind, text in blocks if kind == "thought"), answer)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    yield rest


READERS: dict[str, Callable[[Iterable[bytes]], Shown]] = {"Continue": continue_dev, "Open WebUI": open_webui}
