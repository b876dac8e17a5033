"""Owns the SGL programs: SpecReason (arXiv 2504.07891, section 4) and its two baselines.

Knows no HTTP and no files. A program and its forks run in the thread that called `run_trajectory`.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import sglang as sgl
from sglang.lang.interpreter import ProgramState
from sglang.lang.ir import SglGen

from sgl_specreason.endpoint import Endpoint, written
from sgl_specreason.policy import Author, Method
from sgl_specreason.score import DIGITS, WORDS, Binary, Judgement, Score
from sgl_specreason.steps import BLANK_LINE, Ending, Step, read_step, wants_more
from sgl_specreason.trajectory import Call, Kept, Trajectory

Judged = tuple[Step, Judgement | None]


@sgl.function  # type: ignore[untyped-decorator]
def specreason(s: ProgramState, trajectory: Trajectory, small_engine: Endpoint) -> None:
    """Small speculates a step, base assesses it, and regenerates it where the score is too low."""
    t = trajectory
    with forked(s, small_engine) as small:
        s += t.texts.prompts["base"]
        small += t.texts.prompts["small"]
        while t.thinking:
            draft = judgement = None
            others: list[Judged] = []
            if not t.base_writes_next:
                (draft, judgement), *others = speculate(s, small, t)
            accepted = t.decides(draft, judgement)
            begun = salvage(s, draft, judgement, t) if draft and not accepted else None
            step = draft if draft and accepted else write_step(s, t, "regenerate", begun=begun)
            s += step.text
            small += step.text
            t.keep(
                Kept(
                    step=step,
                    by="small" if accepted else "base",
                    draft=draft,
                    judgement=judgement,
                    accepted=accepted,
                    others=tuple(others),
                    salvaged=begun.tokens if begun else 0,
                )
            )
        write_answer(s if t.policy.answer_by == "base" else small, t)


@sgl.function  # type: ignore[untyped-decorator]
def base(s: ProgramState, trajectory: Trajectory) -> None:
    """The base model alone."""
    think_alone(s, trajectory, "base")


@sgl.function  # type: ignore[untyped-decorator]
def small(s: ProgramState, trajectory: Trajectory) -> None:
    """The small model alone."""
    think_alone(s, trajectory, "small")


def speculate(s: ProgramState, small: ProgramState, t: Trajectory) -> list[Judged]:
    """The next step's drafts with base's judgement of each, the best one first; several are written side by side."""

    def one(number: int) -> Judged:
        draft = write_step(small, t, "draft", number=number)
        return draft, assess(s, draft, t)

    count = t.policy.drafts
    if count == 1:
        return [one(0)]
    with ThreadPoolExecutor(count) as pool:
        judged = list(pool.map(one, range(count)))
    return sorted(judged, key=lambda pair: t.policy.value(pair[1]), reverse=True)


def write_step(s: ProgramState, t: Trajectory, purpose: str, *, begun: Step | None = None, number: int = 0) -> Step:
    """The next step by the model behind `s`, written on a fork of it; short pieces are joined.

    `begun` is how the step begins already; `number` tells the drafts of one step apart.
    """
    step = begun
    confidence = purpose == "draft" and t.policy.wants_confidence
    room = min(t.policy.step_tokens, t.tokens_left) - (begun.tokens if begun else 0)
    with forked(s, number=number) as f:
        if begun:
            f += begun.text
        while True:
            f += gen("piece", t, max_tokens=room, stop=[BLANK_LINE, t.texts.think_end], logprobs=confidence)
            text, meta = written(f, "piece")
            t.calls.append(Call(purpose, meta["account"]))
            tokens = meta["account"].completion_tokens
            piece = read_step(text, tokens, meta["finish"], t.texts.think_end, confidence=meta.get("confidence"))
            step = step.joined(piece) if step else piece
            room -= tokens
            if not wants_more(step, min_step_tokens=t.policy.min_step_tokens, room=room):
                return step


def assess(s: ProgramState, draft: Step, t: Trajectory) -> Judgement | None:
    """Base's judgement of a drafted step, from one prefill over its cached context; None where it is not asked."""
    if draft.is_blank or not t.policy.asks(draft.confidence):
        return None
    judge, closed = t.policy.judge, draft.ending == "think_end"
    with forked(s, likelihood_of=draft.text if t.policy.wants_likelihood else "") as f:
        f += draft.text
        if judge == "binary":
            f += t.texts.binary_closed if closed else t.texts.binary_open
            f += sgl.select("judgement", choices=list(WORDS))
        elif judge == "likelihood":
            f += sgl.gen("judgement", max_tokens=0)
        else:
            f += t.texts.judge_closed if closed else t.texts.judge_open
            f += sgl.select("judgement", choices=list(DIGITS))
        _, meta = written(f, "judgement")
    t.calls.append(Call("judge", meta["account"]))
    return Judgement(
        score=Score.from_logprobs(meta["logprobs"]) if judge.startswith("score") else None,
        binary=Binary.from_logprobs(meta["logprobs"]) if judge == "binary" else None,
        likelihood=meta.get("likelihood"),
    )


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
    text = s.stream_executor.backend.tokenizer.decode(list(likelihood.token_ids[:count]))
    if not text.strip() or not draft.text.startswith(text):  # half a character is no beginning
        return None
    # base's tokens of a text may be more than small's
    return Step(text=text, tokens=min(count, draft.tokens), ending="cap")


def think_alone(s: ProgramState, t: Trajectory, author: Author) -> None:
    """A whole thought and the answer by one model: one request each."""
    s += t.texts.prompts[author]
    s += gen("thought", t, max_tokens=t.policy.budget_tokens, stop=[t.texts.think_end])
    text, meta = written(s, "thought")
    t.calls.append(Call("think", meta["account"]))
    ending: Ending = "think_end" if text.endswith(t.texts.think_end) else "eos"
    if ending == "eos" and meta["finish"] == "length":
        ending = "cap"
    tokens = meta["account"].completion_tokens
    t.keep(Kept(step=Step(text=text, tokens=tokens, ending=ending), by=author))
    write_answer(s, t)


def write_answer(s: ProgramState, t: Trajectory) -> None:
    """The text for the user, after closing a thought that did not close itself; none where the policy stops at the budget."""
    if t.stop_reason == "budget":
        if t.policy.on_budget == "stop":
            return
        s += ("" if t.kept[-1].step.ending == "blank_line" else BLANK_LINE) + t.texts.close
    elif t.stop_reason == "eos":
        s += f"\n{t.texts.think_end}{BLANK_LINE}"
    s += gen("answer", t, max_tokens=t.policy.answer_tokens, stop=[])
    t.answer, meta = written(s, "answer")
    t.calls.append(Call("answer", meta["account"]))
    t.answer_finish = meta["finish"]


def gen(name: str, t: Trajectory, *, max_tokens: int, stop: list[str], logprobs: bool = False) -> SglGen:
    """A `gen` with the trajectory's sampling; SGLang's own defaults are 128 tokens and temperature 1."""
    return sgl.gen(
        name,
        max_tokens=max_tokens,
        stop=stop,
        temperature=t.policy.temperature,
        top_p=t.policy.top_p,
        return_logprob=logprobs,
    )


@contextmanager
def forked(s: ProgramState, engine: Endpoint | None = None, **notes: str | int) -> Iterator[ProgramState]:
    """A state that begins as `s` is, on `engine` if given, run in the caller's thread like `s` itself.

    `notes` are for its endpoint (`Endpoint.generate`).

    The frontend gives every fork a thread, and its finaliser asks whether that still lives. Run by the garbage collector
    while another thread starts, that question deadlocks inside `threading`; so a fork parts with its thread at once.
    """
    fork = s.fork(1)[0]
    executor = fork.stream_executor
    executor.end()
    executor.worker.join()
    executor.use_thread = False
    if engine is not None:
        executor.backend = engine
    for name, value in notes.items():
        fork.set_var(name, value)
    yield fork


def run_trajectory(method: Method, trajectory: Trajectory, engines: dict[Author, Endpoint]) -> None:
    """Runs one trajectory to its end. Raises RequestError if a request failed; the trajectory keeps what was written."""
    if method == "base":
        base.run(trajectory=trajectory, backend=engines["base"], use_thread=False)
    elif method == "small":
        small.run(trajectory=trajectory, backend=engines["small"], use_thread=False)
    else:  # the controls differ in their policy's gate only
        specreason.run(trajectory=trajectory, small_engine=engines["small"], backend=engines["base"], use_thread=False)
