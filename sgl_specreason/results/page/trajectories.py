"""Owns what a page holds of each trajectory, and how its texts are made to fit. Knows nothing of HTML."""

import base64
import json
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from sgl_specreason.results.folder import strict
from sgl_specreason.results.lines import Draft, Record, Said, Step

Told = dict[str, Any]
ENGINES = ("base", "small")
GRAIN = 200
ENDS = (
    "question",
    "answer",
    "gold",
    "answer_text",
    "stop_reason",
    "error",
    "texts",
    "thinking_tokens",
    "tokens_discarded",
)
SAID = (
    "score", "digits", "p_yes", "label_mass", "logprob_mean", "logprob_min", "confidence", "certain", "entropy",
    "self_right", "self_wrong",
)  # fmt: skip


def told(record: Record) -> Told:
    """What the page shows of a record when it is opened: steps, requests in milliseconds from the first one, the end."""
    begin = min((request.start_s for request in record.requests), default=0.0)
    out = {key: value for key in ENDS if (value := getattr(record, key, None)) is not None} | {
        "steps": [_step(step) for step in record.steps],
        "requests": [
            [
                ENGINES.index(request.engine),
                request.purpose,
                round(1e3 * (request.start_s - begin), 1),
                round(1e3 * request.seconds, 1),
                int(request.dropped),
            ]
            for request in record.requests
        ],
    }
    return dict(strict(out))


def _step(step: Step) -> Told:
    said = _said(step) | ({"unasked": True} if step.unasked else {})
    others = [_draft(draft) | _said(draft) for draft in step.others]
    return {
        "by": step.by,
        **_draft(step),
        **({} if step.draft else said),
        **({"salvaged": step.salvaged} if step.salvaged else {}),
        **({"draft": _draft(step.draft) | said} if step.draft else {}),
        **({"others": others} if others else {}),
    }


def _draft(draft: Draft) -> Told:
    return {"text": draft.text, "tokens": draft.tokens}


def _said(draft: Said) -> Told:
    """What the judge said, to the hundredth; digits in %."""
    said = {key: value for key in SAID if (value := getattr(draft, key)) not in (None, [])}
    return {key: [round(100 * p) for p in value] if key == "digits" else round(value, 2) for key, value in said.items()}


def fitted(whole: Sequence[str], room: int) -> tuple[list[str], int]:
    """Packed records, together at most `room` characters if that can be, and how many of them are shortened for it.

    Those that need less than their part of the room leave the rest to the others.
    """
    most = _share([len(text) for text in whole], room)
    texts = [text if len(text) <= most else _shortened(text, most) for text in whole]
    return texts, sum(len(text) > most for text in whole)


def _shortened(text: str, most: float) -> str:
    """The record with as much of its texts as `most` characters hold, or with none where the rest is more than that."""
    record = json.loads(zlib.decompress(base64.b64decode(text), -zlib.MAX_WBITS))

    def cut(length: int) -> str:
        return packed(_cut(record, length))

    lengths = range(0, sum(len(holder[key]) for holder, key in _texts(record)), GRAIN)
    return cut(lengths[max(bisect_right(lengths, most, key=lambda length: len(cut(length))) - 1, 0)])


def _share(sizes: Sequence[int], room: int) -> float:
    """The most that each may have, so that all together have at most `room`."""
    left = float(room)
    for done, size in enumerate(sorted(sizes)):
        if size * (len(sizes) - done) > left:
            return left / (len(sizes) - done)
        left -= size
    return float("inf")


def _texts(record: Told) -> list[tuple[Told, str]]:
    """Where its texts are, in the order in which they are read."""
    steps = [
        holder
        for step in record["steps"]
        for holder in (step.get("draft"), *step.get("others", ()), step)
        if holder is not None
    ]
    ends = [(record, key) for key in ("answer_text", "answer", "error") if isinstance(record.get(key), str)]
    asked = [(record, "question")] if "question" in record else []
    return [*asked, *((holder, "text") for holder in steps), *ends]


def _cut(record: Told, length: int) -> Told:
    """`record` with `length` characters of its texts: the middle is left out, of all of them as if they were one."""
    record = deepcopy(record) | {"shortened": True}
    texts = _texts(record)
    first, last = length // 2, sum(len(holder[key]) for holder, key in texts) - length // 2
    start = 0
    for holder, key in texts:
        text = holder[key]
        head, tail = text[: max(first - start, 0)], text[max(last - start, 0) :]
        start += len(text)
        if len(head) + len(tail) < len(text):
            head = head[: head.rfind(" ") + 1] or head  # whole words, where there are any
            tail = tail[tail.find(" ") + 1 :]
            holder[key] = f"{head}[... {len(text) - len(head) - len(tail):,} characters left out ...] {tail}"
    return record


def packed(record: Told) -> str:
    """The record as base64 of deflated JSON."""
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    deflated = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return base64.b64encode(deflated.compress(text.encode("utf-8", "replace")) + deflated.flush()).decode()
