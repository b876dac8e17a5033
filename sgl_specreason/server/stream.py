"""Owns a reply that is sent as it comes: which chunks, in which order, how often (server-sent events).

Knows no sockets. No comments, no named events: clients stumble over them.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import orjson

from sgl_specreason.server.answering import Answering, Told
from sgl_specreason.server.events import Answer, End, Step, Thought
from sgl_specreason.server.refusal import Refusal, internal
from sgl_specreason.server.reply import CLOSED, OPENED, Format, Json, step_of

log = logging.getLogger("sgl_specreason.server")
DONE = b"data: [DONE]\n\n"


class Stream:
    """The chunks of one answering. Text is merged for `interval_s`; after `keep_alive_s` of silence comes an empty chunk."""

    def __init__(self, answering: Answering, format: Format, *, interval_s: float, keep_alive_s: float) -> None:
        self._answering, self._format = answering, format
        self._interval_s, self._keep_alive_s = interval_s, keep_alive_s
        self._open = dict.fromkeys(range(len(answering.talks)), False)  # whether a thought stands open in the content
        self._held: dict[int, str] = {}  # thoughts that are to be sent in one piece
        self._over: set[int] = set()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Everything that is sent, one event after the other; the last one is [DONE], also after a fault of ours."""
        try:
            async for piece in self._chunks():
                yield piece
        except Exception:
            log.exception("stream %s failed", self._format.id)
            yield _event(internal(self._format.id).body)
            yield DONE

    async def _chunks(self) -> AsyncIterator[bytes]:
        format, ask = self._format, self._format.ask
        for index in self._open:
            yield _event(format.opening(index))
        sent_s = looked_s = time.monotonic()
        while len(self._over) < len(self._open):
            batch = await self._batch(looked_s)
            looked_s = time.monotonic()
            failed = next((told.event for told in batch if isinstance(told.event, Refusal)), None)
            chunks = self._merged(batch)
            if not chunks and (not batch or looked_s - sent_s >= self._keep_alive_s):  # also where steps are not shown
                chunks = [format.chunk(min(self._open.keys() - self._over), {})]
            for chunk in chunks:
                yield _event(chunk | self._usage_so_far())
                sent_s = time.monotonic()
            if failed is not None:
                yield _event(failed.body)
                yield DONE
                return
        replies = [self._answering.replies[index] for index in self._open]
        if ask.include_usage:
            yield _event(format.usage(replies))
        yield DONE

    async def _batch(self, sent_s: float) -> list[Told]:
        """What has been told since the last one, a moment's worth together; nothing after a silence."""
        queue = self._answering.told
        try:
            first = await asyncio.wait_for(queue.get(), self._keep_alive_s)
        except TimeoutError:
            return []
        await asyncio.sleep(max(0.0, sent_s + self._interval_s - time.monotonic()))
        batch = [first]
        while not queue.empty():
            batch.append(queue.get_nowait())
        return batch

    def _merged(self, batch: list[Told]) -> list[Json]:
        """The chunks of a batch: texts of one kind that follow each other in a choice are one."""
        chunks: list[Json] = []
        texts: dict[int, tuple[type, str]] = {}

        def flush(index: int, **more: Json) -> None:
            kind, text = texts.pop(index, (Thought, ""))
            if text or more:
                chunks.extend(self._pieces(index, kind, text, more))

        for index, event in batch:
            if isinstance(event, Thought | Answer):
                if index in texts and texts[index][0] is not type(event):
                    flush(index)
                texts[index] = type(event), texts.get(index, (None, ""))[1] + event.text
            elif isinstance(event, Step) and self._format.ask.steps:
                flush(index, specreason={"step": step_of(event, drafts=self._format.ask.drafts)})
            elif isinstance(event, End):
                flush(index)
                chunks += self._finished(index)
        for index in list(texts):
            flush(index)
        return chunks

    def _pieces(self, index: int, kind: type, text: str, more: dict[str, Json]) -> list[Json]:
        ask, format = self._format.ask, self._format
        if kind is Answer:
            return [*self._whole_thought(index), format.chunk(index, {"content": self._closed(index) + text}, **more)]
        if not ask.shows_thought or not text:
            return [format.chunk(index, {}, **more)] if more else []
        if not ask.streams_thought:
            self._held[index] = self._held.get(index, "") + text
            return [format.chunk(index, {}, **more)] if more else []
        return [self._thought(index, text, **more)]

    def _thought(self, index: int, text: str, **more: Json) -> Json:
        if self._format.ask.splits_thought:
            return self._format.thought(index, text, **more)
        opened, self._open[index] = "" if self._open[index] else OPENED, True
        return self._format.chunk(index, {"content": opened + text}, **more)

    def _closed(self, index: int) -> str:
        """What ends a thought in the content, where one stands open there."""
        was_open, self._open[index] = self._open[index], False
        return CLOSED if was_open else ""

    def _whole_thought(self, index: int) -> list[Json]:
        text = self._held.pop(index, "")
        return [self._thought(index, text)] if text else []

    def _finished(self, index: int) -> list[Json]:
        """The end of a choice. Who wrote what goes with the usage, or with the last one of these where that is not wanted."""
        self._over.add(index)
        reply, ask = self._answering.replies[index], self._format.ask
        chunks = self._whole_thought(index)
        if closing := self._closed(index):
            chunks.append(self._format.chunk(index, {"content": closing}))
        more: Json = {}
        if not ask.include_usage and len(self._over) == len(self._open):
            more = {"specreason": self._format.said([self._answering.replies[number] for number in self._open])}
        return [*chunks, self._format.finish(index, reply, **more)]

    def _usage_so_far(self) -> Json:
        """Tokens of kept steps and whole answers, where each chunk is to say how many there are."""
        if not self._format.ask.continuous_usage:
            return {}
        talks = self._answering.talks
        prompt, kept = talks[0].asked.prompt_tokens, sum(talk.trajectory.tokens_kept for talk in talks)
        kept += sum(reply.account.answer_tokens for reply in self._answering.replies.values())
        return {"usage": {"prompt_tokens": prompt, "completion_tokens": kept, "total_tokens": prompt + kept}}


def _event(body: Json) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"
