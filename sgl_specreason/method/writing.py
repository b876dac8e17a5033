"""Owns how the model behind a state writes a step: on a fork, piece by piece, with the trajectory's sampling.

Knows nothing of who decides about it.
"""

from functools import partial
from typing import Any, cast

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from sgl_specreason.engines.account import Aborted
from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.errors import ContextFull, RequestError
from sgl_specreason.method.ahead import Ticket
from sgl_specreason.method.live import Live, Phase
from sgl_specreason.method.states import append, backend, fork, noted
from sgl_specreason.method.trajectory import Call, Trajectory
from sgl_specreason.text.steps import BLANK_LINE, Author, Step, read_step, wants_more

TOP = 100
"""How many of the likeliest tokens an entropy is made of; the others count as one."""


def write_step(s: ProgramState, t: Trajectory, purpose: str, *, begun: Step | None = None, number: int = 0) -> Step:
    """The next step by the model behind `s`, written on a fork of it.

    `begun` is how the step begins already; `number` tells the drafts of one step apart.
    """
    f = fork(s)
    if begun is None:
        return write_on(f, t, purpose, t.room, number=number)
    append(f, *begun.parts)
    return write_on(f, t, purpose, t.room - begun.tokens, begun=begun)


def write_draft(s: ProgramState, t: Trajectory) -> Step:
    """The next step by small; where the gate refuses it by its first token, that is all of it (GlimpRouter, arXiv 2601.05110).

    What comes after the first token is what would have come without looking at it.
    """
    if t.policy.gate != "entropy" or t.room < 2:
        return write_step(s, t, "draft")
    glimpse = write_on(fork(s), t, "draft", 1)
    goes_on = glimpse.ending == "cap" or wants_more(glimpse, min_step_tokens=t.policy.min_step_tokens, room=t.room - 1)
    if not goes_on or t.ends_at(glimpse):
        return glimpse
    return write_step(s, t, "draft", begun=glimpse)


def write_on(
    f: ProgramState,
    t: Trajectory,
    purpose: str,
    room: int,
    *,
    begun: Step | None = None,
    ticket: Ticket | None = None,
    number: int = 0,
) -> Step:
    """A step written at the end of `f` in at most `room` tokens; short pieces are joined.

    With a `ticket` it is written ahead: under its name, and only as long as it is wanted.
    """
    step, calls = begun, t.calls
    logprobs = purpose == "draft" and t.policy.wants_logprobs
    glimpse = purpose == "draft" and t.policy.gate == "entropy" and begun is None
    if ticket is not None:
        calls = ticket.calls
        f.set_var("rid", ticket.rid)
    while ticket is None or not ticket.dropped:
        before = f.stream_executor.text_
        heard = None if ticket or purpose == "draft" else step.text if step else ""
        try:
            stop = [BLANK_LINE, *t.texts.think_stops]
            meta = generate(
                f,
                t,
                purpose,
                max_tokens=room,
                stop=stop,
                logprobs=logprobs,
                entropy=glimpse,
                number=number,
                before=heard,
            )
        except Aborted as aborted:
            calls.append(Call(purpose, aborted.account))
            raise
        except ContextFull:
            if step is None or step is begun:
                raise
            return step
        calls.append(Call(purpose, meta["account"]))
        tokens = meta["account"].completion_tokens
        piece = read_step(
            meta["written"],
            tokens,
            meta["finish"],
            t.texts.think_end,
            before=before,
            logprobs=meta.get("logprobs"),
            entropy=meta.get("entropy"),
        )
        step = step.joined(piece) if step else piece
        room -= tokens
        if not wants_more(step, min_step_tokens=t.policy.min_step_tokens, room=room):
            return step
    raise RequestError("a step that is no longer wanted")


def generate(
    f: ProgramState,
    t: Trajectory,
    purpose: str,
    *,
    max_tokens: int,
    stop: list[str],
    logprobs: bool = False,
    entropy: bool = False,
    number: int = 0,
    before: str | None = None,
) -> dict[str, Any]:
    """Has the model behind a fork go on writing, with the trajectory's sampling, and returns what the endpoint says of it.

    `logprobs` are of its tokens, `entropy` is of the first one. SGLang's own defaults are 128 tokens and temperature 1. A text
    that is certain to stay is heard while it grows: then `before` says what there is of it already.
    """
    author = cast(Author, backend(f).role)
    f.set_var("seed", t.seed_of(purpose, author, number))
    if before is not None and t.live and t.live.listener and t.live.as_it_grows:
        phase: Phase = "answer" if purpose == "answer" else "thought"
        f.set_var("hear", partial(_heard, t.live, phase, author, before))
    _check_min_p(backend(f), t.policy.min_p)
    f += sgl.gen(
        "text",
        max_tokens=max_tokens,
        stop=stop,
        temperature=t.policy.temperature,
        top_p=t.policy.top_p,
        top_k=t.policy.top_k,
        min_p=t.policy.min_p,
        return_logprob=logprobs or entropy,
        top_logprobs_num=TOP if entropy else 0,
    )
    meta: dict[str, Any] = f.get_meta_info("text")
    noted(f, meta["written"])
    return meta


def _heard(live: Live, phase: Phase, author: Author, before: str, text: str) -> None:
    live.control.check()
    if live.listener:
        live.listener.growing(phase, author, before + text)


def _check_min_p(engine: Endpoint, min_p: float) -> None:
    """Raises RequestError for an engine that would die of it."""
    if min_p and not engine.takes_min_p:
        raise RequestError(
            f"{engine.role}: min_p cannot be used with an engine that has --enable-deterministic-inference"
        )
