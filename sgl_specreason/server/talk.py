"""Owns one question on its way through the engines: its trajectory, who hears it, how it ends, its account.

Knows no HTTP. A question with several choices is several of these.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from msgspec import structs

from sgl_specreason.engines.control import Control
from sgl_specreason.errors import SpecReasonError
from sgl_specreason.method.live import Live
from sgl_specreason.method.policy import Method, Policy, policy_of
from sgl_specreason.method.trajectory import Texts, Trajectory, sampling_seed
from sgl_specreason.server.desk import Ticket
from sgl_specreason.server.events import Account, End, Event, Reply
from sgl_specreason.server.fit import Fitted, Size, fitted
from sgl_specreason.server.pair import Pair
from sgl_specreason.server.refusal import internal
from sgl_specreason.server.speech import Speech, Stopped
from sgl_specreason.text.conversation import Message
from sgl_specreason.text.steps import BLANK_LINE, Author

log = logging.getLogger("sgl_specreason.server")
Asked = Literal["specreason", "base", "small"]
ASKED: tuple[Asked, ...] = ("specreason", "base", "small")
"""How a question can be answered: by the method, or by one model alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, and how it is to be answered. `total_tokens` bounds thought and answer together, `stop` ends the answer.

    Without `thinking` there is one answer and no thought. Questions with different `cache_salt` share nothing in the caches.
    """

    method: Asked
    messages: tuple[Message, ...]
    policy: Policy
    seed: int
    thinking: bool = True
    total_tokens: int | None = None
    stop: tuple[str, ...] = ()
    template: Mapping[str, object] = field(default_factory=dict)
    cache_salt: str = ""

    @property
    def roles(self) -> tuple[Author, ...]:
        """The models that are asked, the one that answers first."""
        if self.drafts:
            return ("base", "small") if self.policy.answer_by == "base" else ("small", "base")
        return ("small",) if self.method == "small" else ("base",)

    @property
    def drafts(self) -> bool:
        """Whether small drafts and base judges."""
        return self.thinking and self.method == "specreason"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A question that fits: its rendered texts and its budgets."""

    question: Question
    texts: Texts
    fitted: Fitted
    prompt_tokens: int


def prepared(question: Question, pair: Pair) -> Prepared:
    """Renders a question for its models. Raises UsageError for a conversation that a chat template does not take, and Refusal
    for one that is too long."""
    chats = {role: pair.chats[role] for role in question.roles}
    openings = {
        role: chat.opening(question.messages, thinking=question.thinking, options=question.template)
        for role, chat in chats.items()
    }
    policy = question.policy
    if not question.drafts:
        policy = policy_of("base", policy)
    if not pair.chats["base"].think_end:  # the response is the thought: it has all tokens, and is cut at a limit
        budget = question.total_tokens or policy.budget_tokens
        policy = structs.replace(policy, on_budget="stop", budget_tokens=budget)
    plan = pair.plan_of(policy)
    texts = plan.texts_after(openings, pair.chats)
    sizes = {}
    for role in question.roles:
        vocabulary = chats[role].vocabulary
        count = vocabulary.ids
        closings = (BLANK_LINE + texts.close, f"\n{texts.think_end}{BLANK_LINE}")
        sizes[role] = Size(
            prompt=len(vocabulary.framed(openings[role].prompt, openings[role].contents)),
            judging=max(len(count(turn)) for turn in texts.turns(role)) if question.drafts else 0,
            closing=max(len(count(text)) for text in closings) if question.thinking else 0,
        )
    fits = fitted(
        policy,
        question.total_tokens,
        answerer=question.roles[0],
        sizes=sizes,
        rooms={role: pair.rooms[role].tokens for role in question.roles if role in pair.rooms},
        thinking=question.thinking,
    )
    return Prepared(question=question, texts=texts, fitted=fits, prompt_tokens=sizes[question.roles[0]].prompt)


class Talk:
    """A prepared question under way. Events go to `emit`, in the talk's threads; the last one is End, or `failed` is called.

    `heard` says that texts are wanted as they grow; otherwise they come with the steps and at the end. `account` is there once it
    has been worked on.
    """

    def __init__(
        self,
        asked: Prepared,
        pair: Pair,
        *,
        emit: Callable[[Event], None],
        failed: Callable[[SpecReasonError], None],
        heard: bool,
    ) -> None:
        self.asked, self.control, self._pair = asked, Control(), pair
        self._emit, self._failed = emit, failed
        self.over = False
        self.ticket: Ticket | None = None  # where it has had its turn
        self.account: Account | None = None  # where that is over
        question, texts, policy = asked.question, asked.texts, asked.fitted.policy
        think_end = texts.think_end if question.thinking else ""
        self.speech = Speech(emit, policy=policy, think_end=think_end, stops=question.stop)
        first = next((turn.content for turn in question.messages if turn.role == "user"), "")
        # the turns of a conversation share its name, and so a replica
        name = hashlib.sha256(first.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self.trajectory = Trajectory(
            problem_id=name,
            sample=0,
            sampling_seed=sampling_seed(question.seed, "", 0),
            policy=policy,
            texts=texts,
            cache_key=question.cache_salt,
            live=Live(
                control=self.control,
                listener=self.speech,
                as_it_grows=heard or bool(question.stop and not texts.think_end),  # a stop ends what is being written
                answer_tokens=policy.answer_tokens if question.total_tokens is None else asked.fitted.total_tokens,
                total_tokens=asked.fitted.total_tokens,
                stop=question.stop,
            ),
        )

    def run(self, ticket: Ticket) -> None:
        """Works through it, in this thread."""
        from sgl_specreason.method.program import run_trajectory

        question, t = self.asked.question, self.trajectory
        method: Method | Literal["direct"] = question.method if question.thinking else "direct"
        self.ticket = ticket
        try:
            try:
                self.control.check()
                with suppress(Stopped):
                    run_trajectory(method, t, {role: self._pair.endpoints[role] for role in question.roles})
                    self.speech.finish(question.roles[0], t.answer)
            finally:
                self.account = account(t, ticket, self.asked)
            reply = self._reply(self.account)
        except SpecReasonError as error:
            self.fail(error)
        except Exception:  # a fault of ours: whoever asked must hear of it, too
            log.exception("a question failed")
            self.fail(internal())
        else:
            self.over = True
            self._emit(End(reply=reply))

    def fail(self, error: SpecReasonError) -> None:
        """It has come to nothing more."""
        self.over = True
        self._failed(error)

    def _reply(self, taken: Account) -> Reply:
        t = self.trajectory
        stopped = self.speech.stopped
        cut = not t.texts.think_end and t.truncated  # of models without think tags the thought is the answer
        return Reply(
            thought=self.speech.thought,
            answer=self.speech.answer,
            steps=tuple(self.speech.steps),
            finish="stop" if stopped or (t.answer_finish == "stop" and not cut) else "length",
            thought_ended_by=t.stop_reason,
            account=taken,
            policy=t.policy,
            matched_stop=stopped or t.matched_stop,
        )


def account(t: Trajectory, ticket: Ticket, asked: Prepared) -> Account:
    """What a trajectory has taken so far."""
    record = t.record()
    own = [call.account for call in t.calls]
    answerers = [call for call in own if call.engine == asked.question.roles[0] and call.prompt_tokens]
    first = min(answerers, key=lambda call: call.start_s, default=None)
    seconds = {role: sum(call.seconds for call in own if call.engine == role) for role in ("base", "small")}
    return Account(
        prompt_tokens=asked.prompt_tokens,
        cached_tokens=min(first.cached_tokens, asked.prompt_tokens) if first else 0,
        thinking_tokens=t.tokens_kept,
        answer_tokens=record["answer_tokens"],
        tokens_base=record["tokens_base"],
        tokens_small=record["tokens_small"],
        tokens_small_kept=record["tokens_small_kept"],
        tokens_discarded=record["tokens_discarded"],
        steps=record["steps_kept"],
        steps_by_small=record["steps_by_small"],
        drafts=record["drafts"],
        accepted=record["accepted"],
        judge_requests=sum(call.purpose == "judge" for call in t.calls),
        requests=len(own),
        retries=sum(call.retries or 0 for call in own),
        seconds=time.monotonic() - (ticket.begun_s or ticket.came_s),
        queued_s=ticket.queued_s,
        seconds_base=seconds["base"],
        seconds_small=seconds["small"],
    )
