"""Owns the JSON of OpenAI's chat completions: replies, chunks, usage, models, and what this project adds to them (pure).

Knows no HTTP. Additions stand at the top level under "specreason": in a delta, clients' libraries would join them.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs

from sgl_specreason.method.policy import Policy
from sgl_specreason.method.score import RANGES
from sgl_specreason.plan.plan import digest
from sgl_specreason.server.ask import Ask
from sgl_specreason.server.events import Reply, Step
from sgl_specreason.text.steps import Author

Json = dict[str, Any]
FIELDS = {
    "reasoning_content": ("reasoning_content",),
    "reasoning": ("reasoning",),
    "both": ("reasoning_content", "reasoning"),
}
"""How a thought is called: as SGLang and most clients have it, as vLLM has it, or both."""

OPENED, CLOSED = "<think>\n", "\n</think>\n\n"
"""Around a thought that stands in the content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How one request's reply is written: its id, the model's id, when it was made, and how thoughts are called."""

    id: str
    model: str
    created: int
    ask: Ask
    thought_names: tuple[str, ...] = ("reasoning_content",)

    def whole(self, replies: Sequence[Reply]) -> Json:
        """A reply that is not streamed, one choice for each of these."""
        body: Json = {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [self._choice(index, reply) for index, reply in enumerate(replies)],
            "usage": usage(replies),
        }
        return body | {"specreason": self.said(replies)}

    def _choice(self, index: int, reply: Reply) -> Json:
        message: Json = {"role": "assistant"}
        content, thought = reply.answer, reply.thought
        if self.ask.shows_thought and not self.ask.splits_thought and thought:
            content, thought = f"{OPENED}{thought}{CLOSED}{content}", ""
        message["content"] = content
        if self.ask.shows_thought:
            message |= dict.fromkeys(self.thought_names, thought or None) if thought else {self.thought_names[0]: None}
        return {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": reply.finish,
            "matched_stop": reply.matched_stop,
        }

    def chunk(self, index: int, delta: Json, **more: Any) -> Json:
        """One piece of a stream. The key of a thought is always there, so that clients' objects have it."""
        choice = {"index": index, "delta": self._no_thought | delta, "logprobs": None, "finish_reason": None}
        return self._chunk([choice], more)

    def opening(self, index: int) -> Json:
        """The first chunk of a choice."""
        return self.chunk(index, {"role": "assistant", "content": ""})

    def thought(self, index: int, text: str, **more: Any) -> Json:
        """A chunk with a piece of the thought."""
        if not self.ask.splits_thought:
            return self.chunk(index, {"content": text}, **more)
        return self.chunk(index, dict.fromkeys(self.thought_names, text), **more)

    def finish(self, index: int, reply: Reply, **more: Any) -> Json:
        """The last chunk of a choice: no text, and why it ended."""
        choice = {
            "index": index,
            "delta": self._no_thought,
            "logprobs": None,
            "finish_reason": reply.finish,
            "matched_stop": reply.matched_stop,
        }
        return self._chunk([choice], more)

    @property
    def _no_thought(self) -> Json:
        """What stands in a delta without a thought: a key that clients read as an attribute."""
        has_key = self.ask.shows_thought and self.thought_names[0] == "reasoning_content"
        return {"reasoning_content": None} if has_key else {}

    def usage(self, replies: Sequence[Reply]) -> Json:
        """The chunk after the last one: what it took."""
        return self._chunk([], {"usage": usage(replies), "specreason": self.said(replies)})

    def said(self, replies: Sequence[Reply]) -> Json:
        """Who wrote what, over all choices; each step where that is asked for."""
        accounts = [reply.account for reply in replies]
        drafts = sum(account.drafts for account in accounts)
        policy = replies[0].policy

        def total(name: str) -> Any:
            return sum(getattr(account, name) for account in accounts)

        body: Json = {
            "method": self.ask.method,
            "steps": total("steps"),
            "steps_by_small": total("steps_by_small"),
            "acceptance": round(total("accepted") / drafts, 4) if drafts else None,
            "tokens_base": total("tokens_base"),
            "tokens_small": total("tokens_small"),
            "tokens_discarded": total("tokens_discarded"),
            "judge_requests": total("judge_requests"),
            "thought_ended_by": [reply.thought_ended_by for reply in replies]
            if len(replies) > 1
            else replies[0].thought_ended_by,
            "seconds": round(max(account.seconds for account in accounts), 4),
            "seconds_base": round(total("seconds_base"), 4),
            "seconds_small": round(total("seconds_small"), 4),
            "queued_s": round(max(account.queued_s for account in accounts), 4),
            "policy": digest_of(policy),
        }
        if self.ask.steps and not self.ask.stream:
            body["choices"] = [
                {"index": index, "steps": [step_of(step, drafts=self.ask.drafts, text=True) for step in reply.steps]}
                for index, reply in enumerate(replies)
            ]
        return body

    def _chunk(self, choices: list[Json], more: Mapping[str, Any]) -> Json:
        body = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        return body | {"choices": choices} | dict(more)


def step_of(step: Step, *, drafts: bool, text: bool = False) -> Json:
    """A step as those see it who ask for steps; the text of a rejected draft only where `drafts` are asked for."""
    body: Json = {"n": step.n, "by": step.by, "score": step.score, "accepted": step.accepted, "tokens": step.tokens}
    body["draft_tokens"] = step.draft_tokens
    if drafts and step.draft is not None:
        body["draft"] = step.draft
    return body | ({"text": step.text} if text else {})


def usage(replies: Sequence[Reply]) -> Json:
    """Tokens of a prompt and of all choices; reasoning tokens in both places where clients look for them."""
    accounts = [reply.account for reply in replies]
    reasoning = sum(account.thinking_tokens for account in accounts)
    completion = reasoning + sum(account.answer_tokens for account in accounts)
    prompt = accounts[0].prompt_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "reasoning_tokens": reasoning,
        "prompt_tokens_details": {"cached_tokens": min(accounts[0].cached_tokens, prompt)},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def digest_of(policy: Policy) -> str:
    """Eight hex digits that stand for these settings."""
    return digest(structs.asdict(policy))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The models of a server: their ids with what each stands for, the method first."""

    names: Mapping[str, str]
    roots: Mapping[Author, str]
    policy: Policy
    max_model_len: int | None
    created: int = field(default_factory=lambda: int(time.time()))

    def all(self) -> Json:
        return {"object": "list", "data": [self.one(name) for name in self.names]}

    def one(self, name: str) -> Json:
        """One model, and what it answers with that is asked for nothing else."""
        method, policy = self.names[name], self.policy
        low, high, _ = RANGES[policy.score_rule]
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "sgl-specreason",
            "root": self.roots["small" if method == "small" else "base"],
            "parent": None,
            "max_model_len": self.max_model_len,
            "specreason": {
                "method": method,
                "threshold": policy.threshold,
                "threshold_range": [low, high],
                "score_rule": policy.score_rule,
                "budget_tokens": policy.budget_tokens,
                "answer_tokens": policy.answer_tokens,
            },
        }
