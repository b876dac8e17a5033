"""Owns the SGL programs: SpecReason (arXiv 2504.07891, section 4) and its two baselines.

Knows no HTTP and no files. A program runs in the thread that called `run_trajectory`, what it writes ahead in one more.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.errors import ContextFull
from sgl_specreason.method.ahead import Ahead, Ticket, writing_ahead
from sgl_specreason.method.kept import Kept
from sgl_specreason.method.loops import LOOK_TOKENS, Loops
from sgl_specreason.method.policy import Method, plain
from sgl_specreason.method.score import Binary, Judgement, Likelihood, Score
from sgl_specreason.method.states import append, backend, fork
from sgl_specreason.method.trajectory import Call, Question, Trajectory
from sgl_specreason.method.writing import generate, write_draft, write_on, write_step
from sgl_specreason.text.steps import BLANK_LINE, Author, Step, Written, read_step

Judged = tuple[Step, Judgement | None]


@sgl.function  # type: ignore[untyped-decorator]
def specreason(s: ProgramState, trajectory: Trajectory, small_engine: Endpoint) -> None:
    """Small speculates a step, base assesses it, and regenerates it where the score is too low."""
    t = trajectory
    small = fork(s, small_engine)
    s += t.texts.prompts["base"]
    small += t.texts.prompts["small"]
    with writing_ahead(t) as ahead:
        with ending_at_full_context(t):
            while t.thinking:
                draft = judgement = None
                others: list[Judged] = []
                if not t.base_writes_next:
                    (draft, judgement), *others = speculate(s, small, t, ahead)
                accepted = t.decides(draft, judgement)
                ahead.settle(accepted=accepted)
                begun = salvage(s, draft, judgement, t) if draft and not accepted else None
                step = (
                    draft
                    if draft and accepted
                    else ahead.next_regeneration() or write_step(s, t, "regenerate", begun=begun)
                )
                s += step.text
                small += step.text
                t.keep(
                    Kept(
                        step=step,
                        by="small" if accepted else "base",
                        draft=draft,
                        judgement=judgement,
                        accepted=accepted,
                        unasked=t.decides_unasked(draft),
                        others=tuple(others),
                        salvaged=begun.tokens if begun else 0,
                    )
                )
        write_answer(s if t.policy.answer_by == "base" else small, t)


@contextmanager
def ending_at_full_context(t: Trajectory) -> Iterator[None]:
    """A thought that has become too long for an engine ends there, with what is kept. Raises ContextFull where nothing is."""
    try:
        yield
    except ContextFull:
        if not t.kept:
            raise
        t.end_at_full_context()


@sgl.function  # type: ignore[untyped-decorator]
def base(s: ProgramState, trajectory: Trajectory) -> None:
    """The base model alone."""
    think_alone(s, trajectory, "base")


@sgl.function  # type: ignore[untyped-decorator]
def small(s: ProgramState, trajectory: Trajectory) -> None:
    """The small model alone."""
    think_alone(s, trajectory, "small")


def speculate(s: ProgramState, small: ProgramState, t: Trajectory, ahead: Ahead) -> list[Judged]:
    """The next step's drafts with base's judgement of each, the best one first.

    While base judges, small goes on after the draft; where few drafts pass, base begins the step itself.
    """
    if t.policy.drafts > 1:
        return compete(s, small, t)
    draft = ahead.next_draft() or write_draft(small, t)
    while len(ahead.drafts) < t.policy.lookahead and not draft.ends_thought and not draft.is_blank:
        look_ahead(small, draft, t, ahead)
    if t.policy.eager_regenerate and t.rarely_accepts:
        f, room = fork(s), t.room
        ahead.regenerate(backend(s), lambda ticket: write_on(f, t, "regenerate", room, ticket=ticket))
    draft = judge_oneself(small, draft, t)
    return [(draft, assess(s, draft, t))]


def compete(s: ProgramState, small: ProgramState, t: Trajectory) -> list[Judged]:
    """Several drafts of the next step, written and judged side by side, the best one first."""

    def one(number: int) -> Judged:
        draft = write_step(small, t, "draft", number=number)
        return draft, assess(s, draft, t)

    with ThreadPoolExecutor(t.policy.drafts) as pool:
        judged = list(pool.map(one, range(t.policy.drafts)))
    return sorted(judged, key=lambda pair: t.policy.rank(*pair), reverse=True)


def look_ahead(small: ProgramState, draft: Step, t: Trajectory, ahead: Ahead) -> None:
    """Small drafts one more step, after `draft` and what it drafts already; nothing where the thought ends with these."""
    f, budget = fork(small), t.tokens_left
    earlier = [ticket.step for ticket in ahead.drafts]

    def write(ticket: Ticket) -> Step | None:
        nonlocal f
        before = [draft]
        for future in earlier:
            step = future.result()
            if step is None or step.is_blank or step.ends_thought:
                return None
            before.append(step)
        room = min(t.policy.step_tokens, budget - sum(step.tokens for step in before))
        if room <= 0:
            return None
        for step in before:
            append(f, *step.parts)
        return write_on(f, t, "draft", room, ticket=ticket)

    ahead.draft(backend(small), write)


def assess(s: ProgramState, draft: Step, t: Trajectory) -> Judgement | None:
    """Base's judgement of a drafted step, from one prefill over its cached context; None where it is not asked."""
    if not t.asks(draft):
        return None
    judge = t.policy.judge
    meta = ask(s, draft, t.texts.question(judge), scored=t.policy.wants_likelihood)
    t.calls.append(Call("judge", meta["account"]))
    tokens = meta.get("tokens_of")
    return Judgement(
        score=Score.from_logprobs(meta["logprobs"]) if judge.startswith("score") else None,
        binary=Binary.from_logprobs(meta["logprobs"]) if judge == "binary" else None,
        likelihood=Likelihood(logprobs=tokens.logprobs, token_ids=tokens.ids) if tokens else None,
    )


def judge_oneself(small: ProgramState, draft: Step, t: Trajectory) -> Step:
    """The draft with small's own judgement of it, where the gate goes by that (ConfSpec, arXiv 2602.18447)."""
    if t.policy.gate != "self" or draft.is_blank:
        return draft
    meta = ask(small, draft, t.texts.own[t.policy.judge])
    t.calls.append(Call("self", meta["account"]))
    shares = [math.exp(value) for value in meta["logprobs"]]
    right = sum(shares[:1] if t.policy.judge == "binary" else shares[math.ceil(t.policy.threshold) :])
    return replace(draft, own=(min(right, 1.0), min(sum(shares) - right, 1.0)))  # rounding may carry them over 1


def ask(s: ProgramState, draft: Step, question: Question, *, scored: bool = False) -> dict[str, Any]:
    """What the model behind `s` says of a draft: the labels' log-probabilities and, if `scored`, those of the draft's tokens."""
    f = fork(s, scored=len(draft.parts) if scored else 0)
    append(f, *draft.parts, question.closed if draft.ending == "think_end" else question.opened)
    f += (
        sgl.select("judgement", choices=list(question.labels))
        if question.labels
        else sgl.gen("judgement", max_tokens=0)
    )
    meta: dict[str, Any] = f.get_meta_info("judgement")
    return meta


def salvage(s: ProgramState, draft: Step, judgement: Judgement | None, t: Trajectory) -> Step | None:
    """The beginning of a rejected draft, up to the first token that base finds unlikely; None where nothing is to be kept.

    A draft without an unlikely token is thrown away whole: what the judge dislikes about it is not a token.
    """
    if not t.policy.salvage or judgement is None or judgement.likelihood is None:
        return None
    likelihood = judgement.likelihood
    count = likelihood.likely_tokens(t.policy.salvage_floor)
    if count == len(likelihood.logprobs):
        return None
    ids, engine = likelihood.token_ids[:count], backend(s)
    text = engine.tokenizer.decode(list(ids))
    # base's tokens of a text may be more than small's: its end, at least, is base's to write
    tokens = min(count, draft.tokens - 1)
    if not text.strip() or not draft.text.startswith(text) or not tokens:  # half a character is no beginning
        return None
    begun = Written(text, engine.vocabulary.digest, ids)
    return Step(text=text, tokens=tokens, ending="cap", written=(begun,))


def think_alone(s: ProgramState, t: Trajectory, author: Author) -> None:
    """A whole thought and the answer by one model.

    In one request; or, where loops are looked for, in stretches, so that a loop ends it as it ends SpecReason's.
    """
    s += t.texts.prompts[author]
    f, thought, loops = fork(s), None, Loops()
    left = t.policy.budget_tokens
    while thought is None or (thought.ending == "cap" and left > 0 and not loops.add(thought.written[-1].text)):
        stretch = min(left, LOOK_TOKENS) if t.policy.stop_loops else left
        before = thought.text if thought else ""
        try:
            meta = generate(f, t, "think", max_tokens=stretch, stop=t.texts.think_stops, before=before)
        except ContextFull:
            if thought is None:
                raise
            break
        t.calls.append(Call("think", meta["account"]))
        tokens = meta["account"].completion_tokens
        step = read_step(meta["written"], tokens, meta["finish"], t.texts.think_end, before=before, whole=True)
        thought = thought.joined(step) if thought else step
        left -= step.tokens
        if step.tokens < stretch and step.ending == "cap":  # the engine had no room for what was asked
            break
    t.keep(Kept(step=thought, by=author))
    s += thought.text
    if thought.ending == "cap" and t.stop_reason is None:
        t.end_at_full_context()
    write_answer(s, t)


def write_answer(s: ProgramState, t: Trajectory) -> None:
    """The text for the user, after closing a thought that did not close itself; none where the policy stops at the budget,
    or where it does not fit any more. Of models without think tags the thought is that text, and nothing is closed."""
    closing, cut_short = "", t.stop_reason in ("budget", "loop", "context")
    if cut_short and t.policy.on_budget == "answer":
        closing = ("" if t.kept[-1].step.ending == "blank_line" else BLANK_LINE) + t.texts.close
    elif not t.texts.think_end:
        t.answer, t.answer_finish = "".join(kept.step.text for kept in t.kept), "stop"
        return
    elif cut_short:
        return
    elif t.stop_reason == "eos":
        closing = f"\n{t.texts.think_end}{BLANK_LINE}"
    answer(s, t, closing)


@sgl.function  # type: ignore[untyped-decorator]
def direct(s: ProgramState, trajectory: Trajectory, author: Author) -> None:
    """An answer of one model without a thought."""
    s += trajectory.texts.prompts[author]
    answer(s, trajectory, "")


def answer(s: ProgramState, t: Trajectory, closing: str) -> None:
    """The answer after `closing`, up to where it ends or to one of the trajectory's own stops, which is left out.

    It begins with blank lines: a stop that does, too, counts only after something that can be seen.
    """
    f, room = fork(s), t.answer_room
    append(f, closing)
    stops = list(t.live.stop) if t.live else []
    while room > 0:
        try:
            meta = generate(f, t, "answer", max_tokens=room, stop=stops, before=t.answer)
        except ContextFull:
            break
        t.calls.append(Call("answer", meta["account"]))
        t.answer, t.answer_finish = t.answer + meta["written"].text, meta["finish"]
        room -= meta["account"].completion_tokens
        by_stop = meta["finish"] == "stop" and isinstance(meta["matched"], str)
        stop = next((word for word in stops if t.answer.endswith(word)), None) if by_stop else None
        if stop is None:
            return
        before = t.answer.removesuffix(stop)
        if before.strip() or not stop[0].isspace():
            t.answer, t.matched_stop = before, stop
            return
    t.answer_finish = "length"


def run_trajectory(method: Method | Literal["direct"], trajectory: Trajectory, engines: dict[Author, Endpoint]) -> None:
    """Runs one trajectory to its end. Raises RequestError if a request failed; the trajectory keeps what was written."""
    texts = trajectory.texts
    for role, engine in engines.items():
        engine.begin(trajectory.contexts, texts.prompts[role], texts.contents.get(role, ()))
    method = method if method == "direct" else plain(method)
    if method == "base":
        base.run(trajectory=trajectory, backend=engines["base"], use_thread=False)
    elif method == "small":
        small.run(trajectory=trajectory, backend=engines["small"], use_thread=False)
    elif method == "direct":
        author, engine = next(iter(engines.items()))
        direct.run(trajectory=trajectory, author=author, backend=engine, use_thread=False)
    else:  # the controls differ in their policy's gate only
        specreason.run(trajectory=trajectory, small_engine=engines["small"], backend=engines["base"], use_thread=False)
