"""Owns the Python call: a pair that is up, and questions to it from any thread. Knows no HTTP; the server stands on it.

Example: `with SpecReason.start(pair="demo") as sr: print(sr.chat([{"role": "user", "content": "..."}]).answer)`
"""

import queue
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from msgspec import structs

from sgl_specreason.errors import Cancelled, SpecReasonError, UsageError
from sgl_specreason.method.policy import Settings
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.plan import Plan
from sgl_specreason.run.serving import Access
from sgl_specreason.server.conversation import read_messages
from sgl_specreason.server.desk import Desk, Ticket
from sgl_specreason.server.events import End, Event, Reply
from sgl_specreason.server.fit import answer_share
from sgl_specreason.server.pair import Pair, opened, planned
from sgl_specreason.server.refusal import Refusal
from sgl_specreason.server.talk import ASKED, Asked, Prepared, Question, Talk, prepared
from sgl_specreason.typed import Positive, nearest, typed

MOST_PLACES, QUEUE = 256, 1024
PATIENCE_S, REQUEST_TIMEOUT_S = 30.0, 1800.0
BREAK_OFF_S = 2.0
"""After this a request that an abort has not ended loses its connection."""
Messages = Sequence[Mapping[str, object]]


def _said(line: str) -> None:
    print(line, file=sys.stderr)


class SpecReason:
    """A pair of models that answers questions. Calls from many threads share it; `close` ends what was started.

    `desk` says who is worked on. Made by `start` and `attach`.
    """

    def __init__(self, pair: Pair, desk: Desk, ends: ExitStack) -> None:
        self.pair, self.desk = pair, desk
        self.renderer = ThreadPoolExecutor(1, "prompts")  # one, or questions would overtake each other
        ends.callback(self.renderer.shutdown, wait=False, cancel_futures=True)
        self._ends = ends

    @classmethod
    def start(
        cls,
        *,
        pair: str | None = None,
        base_model: str | None = None,
        small_model: str | None = None,
        preset: str = "default",
        prompts: str | Path | None = None,
        places: int = MOST_PLACES,
        queue: int = QUEUE,
        logs: str | Path | None = None,
        say: Callable[[str], None] = _said,
        **settings: Any,
    ) -> Self:
        """Starts both engines, which takes some ten seconds for the bundled pair and minutes for large ones.

        The pair is a name or file of `eval/pairs`, or two models, each a folder or hub id; by default the largest for the cards
        found. `settings` are those of `Policy`. At most `places` questions are worked on at once, as far as the engines'
        caches hold them, and `queue` more wait. Raises UsageError and EngineError.
        """
        asked = Options(
            pair=pair,
            base_model=base_model,
            small_model=small_model,
            preset=preset,
            prompts=Path(prompts) if prompts else None,
            policy=_checked(settings),
        )
        access = Access(urls=None, api_key=None, request_timeout_s=REQUEST_TIMEOUT_S, patience_s=PATIENCE_S)
        folder = Path(logs) if logs else None
        return cls.over(planned(asked), asked, access, places=places, queue=queue, logs=folder, say=say)

    @classmethod
    def attach(
        cls,
        *,
        base_url: str,
        small_url: str,
        pair: str | None = None,
        base_model: str | None = None,
        small_model: str | None = None,
        api_key: str | None = None,
        preset: str = "default",
        prompts: str | Path | None = None,
        places: int = MOST_PLACES,
        queue: int = QUEUE,
        say: Callable[[str], None] = _said,
        **settings: Any,
    ) -> Self:
        """Uses two SGLang servers that run already; as `start`. Models or a pair say where tokenizers are, if not there."""
        asked = Options(
            pair=pair,
            base_model=base_model,
            small_model=small_model,
            base_url=base_url,
            small_url=small_url,
            preset=preset,
            prompts=Path(prompts) if prompts else None,
            policy=_checked(settings),
        )
        access = Access(
            urls=(small_url, base_url), api_key=api_key, request_timeout_s=REQUEST_TIMEOUT_S, patience_s=PATIENCE_S
        )
        return cls.over(planned(asked), asked, access, places=places, queue=queue, logs=None, say=say)

    @classmethod
    def over(
        cls,
        plan: Plan,
        asked: Options,
        access: Access,
        *,
        places: int,
        queue: int,
        logs: Path | None,
        say: Callable[[str], None],
    ) -> Self:
        """As `start` and `attach`, of a command's options. Logs of engines go to `logs`, or to a folder that is removed."""
        with ExitStack() as stack:
            folder = logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="specreason-")))
            pair = stack.enter_context(opened(plan, asked, access, logs=folder, say=say, connections=4 * places))
            return cls(pair, Desk(places=places, rooms=pair.caches, queue=queue), stack.pop_all())

    def chat(self, messages: Messages, **asked: Any) -> Reply:
        """Answers a conversation: dictionaries with a role and a content, as in OpenAI's API.

        `asked` may have any setting of `Policy` (threshold, budget_tokens, temperature ...), `method` (ASKED), `thinking`,
        `max_tokens` of thought and answer together, `seed`, `stop` and `template`, the chat templates' own options. Raises
        UsageError for what cannot be asked, and EngineError where an engine fails.
        """
        replies: queue.SimpleQueue[Reply | SpecReasonError] = queue.SimpleQueue()

        def emit(event: Event) -> None:
            if isinstance(event, End):
                replies.put(event.reply)

        talk, ticket = self.begin(self.prepare(self.question(messages, **asked)), emit, replies.put, heard=False)
        try:
            reply = replies.get()
        except BaseException:
            self.end(talk, ticket, "interrupted")
            raise
        if isinstance(reply, SpecReasonError):
            raise reply
        return reply

    def stream(self, messages: Messages, **asked: Any) -> Iterator[Event]:
        """The same as it comes: Thought, Step and Answer, and in the end End with the reply.

        Begins when it is first read; closing it ends the work.
        """
        return self._events(self.prepare(self.question(messages, **asked)))

    def _events(self, asked: Prepared) -> Iterator[Event]:
        events: queue.SimpleQueue[Event | SpecReasonError] = queue.SimpleQueue()
        talk, ticket = self.begin(asked, events.put, events.put, heard=True)
        try:
            while True:
                event = events.get()
                if isinstance(event, SpecReasonError):
                    raise event
                yield event
                if isinstance(event, End):
                    return
        finally:
            self.end(talk, ticket, "nobody reads it any more")

    def question(
        self,
        messages: Messages,
        *,
        method: Asked = "specreason",
        thinking: bool = True,
        max_tokens: int | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        template: Mapping[str, object] | None = None,
        **settings: Any,
    ) -> Question:
        """What is asked, checked. Raises UsageError."""
        if method not in ASKED:
            raise UsageError(f"no method named {method!r} here{nearest(str(method), ASKED)}")
        policy = structs.replace(self.pair.policy, **_checked(settings))
        if max_tokens is not None:
            typed(max_tokens, Positive, "max_tokens")
        if seed is not None:
            typed(seed, int, "seed")
        stops = (stop,) if isinstance(stop, str) else tuple(typed(stop, list[str], "stop"))
        if "" in stops:
            raise UsageError("stop = '': wants at least 1 character")
        if max_tokens is not None and "budget_tokens" not in settings:
            share = answer_share(max_tokens, policy.answer_tokens, policy.on_budget)
            policy = structs.replace(policy, budget_tokens=max(1, max_tokens - share))
        try:
            turns = read_messages(messages)
        except Refusal as refusal:
            raise UsageError(refusal.message) from None
        return Question(
            method=method,
            thinking=typed(thinking, bool, "thinking"),
            messages=turns,
            policy=policy,
            total_tokens=max_tokens,
            seed=secrets.randbelow(2**31) if seed is None else seed,
            stop=stops,
            template=typed(template or {}, dict[str, object], "template"),
        )

    def prepare(self, question: Question) -> Prepared:
        """Renders and measures it. Raises UsageError and Refusal."""
        return prepared(question, self.pair)

    def begin(
        self,
        asked: Prepared,
        emit: Callable[[Event], None],
        failed: Callable[[SpecReasonError], None],
        *,
        heard: bool,
    ) -> tuple[Talk, Ticket]:
        """Has a question worked on as soon as there is a place for it. Raises Refusal where too many wait."""
        talk = Talk(asked, self.pair, emit=emit, failed=failed, heard=heard)
        return talk, self.desk.enter(asked.fitted.need, talk.run)

    def begin_all(self, talks: Sequence[Talk]) -> list[Ticket]:
        """Has several worked on, or none: as soon as there is a place for each. Raises Refusal where too many wait."""
        return self.desk.enter_all([(talk.asked.fitted.need, talk.run) for talk in talks])

    def end(self, talk: Talk, ticket: Ticket, why: str) -> None:
        """Ends a talk that is still waiting or under way; its requests on both engines end at once."""
        if talk.over:
            return
        talk.control.cancel(why)
        if self.desk.withdraw(ticket):
            talk.fail(Cancelled(why))
            return
        late = threading.Timer(BREAK_OFF_S, _break_off, [talk])
        late.daemon = True
        late.start()

    def close(self) -> None:
        """Ends everything that is under way, and the engines that were started."""
        self._ends.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _break_off(talk: Talk) -> None:
    """Breaks off what a talk still has under way, again and again: one may have been about to connect."""
    while not talk.over:
        talk.control.break_off()
        time.sleep(BREAK_OFF_S)


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of Policy by their names. Raises UsageError for others."""
    for name in settings:
        if name not in Settings.__struct_fields__:
            raise UsageError(f"no setting named {name!r}{nearest(name, Settings.__struct_fields__)}")
    return settings
