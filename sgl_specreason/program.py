"""Owns the SGL programs: SpecReason (arXiv 2504.07891, section 4) and its two baselines.

Knows no HTTP and no files. A program and its forks run in the thread that called `run_trajectory`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import sglang as sgl
from sglang.lang.interpreter import ProgramState
from sglang.lang.ir import SglGen

from sgl_specreason.endpoint import Endpoint, chosen, written
from sgl_specreason.policy import Author, Method
from sgl_specreason.score import DIGITS, Score
from sgl_specreason.steps import BLANK_LINE, Ending, Step, read_step, wants_more
from sgl_specreason.trajectory import Call, Kept, Trajectory


@sgl.function  # type: ignore[untyped-decorator]
def specreason(s: ProgramState, trajectory: Trajectory, small_engine: Endpoint) -> None:
    """Small speculates a step, base assesses it, and regenerates it where the score is too low."""
    t = trajectory
    with forked(s, small_engine) as small:
        s += t.texts.prompts["base"]
        small += t.texts.prompts["small"]
        while t.thinking:
            draft = score = None
            if not t.base_writes_next:
                draft = write_step(small, t, "draft")
                score = assess(s, draft, t)
            accepted = score is not None and t.policy.accepts(score)
            step = draft if draft and accepted else write_step(s, t, "regenerate")
            s += step.text
            small += step.text
            by: Author = "small" if accepted else "base"
            t.keep(Kept(step=step, by=by, draft=draft, score=score, accepted=accepted))
        write_answer(s if t.policy.answer_by == "base" else small, t)


@sgl.function  # type: ignore[untyped-decorator]
def base(s: ProgramState, trajectory: Trajectory) -> None:
    """The base model alone."""
    think_alone(s, trajectory, "base")


@sgl.function  # type: ignore[untyped-decorator]
def small(s: ProgramState, trajectory: Trajectory) -> None:
    """The small model alone."""
    think_alone(s, trajectory, "small")


def write_step(s: ProgramState, t: Trajectory, purpose: str) -> Step:
    """The next step by the model behind `s`, written on a fork of it; short pieces are joined."""
    room = min(t.policy.step_tokens, t.tokens_left)
    step: Step | None = None
    with forked(s) as f:
        while True:
            f += gen("piece", t, max_tokens=room, stop=[BLANK_LINE, t.texts.think_end])
            text, meta = written(f, "piece")
            t.calls.append(Call(purpose, meta["account"]))
            tokens = meta["account"].completion_tokens
            piece = read_step(text, tokens, meta["finish"], t.texts.think_end)
            step = step.joined(piece) if step else piece
            room -= tokens
            if not wants_more(step, min_step_tokens=t.policy.min_step_tokens, room=room):
                return step


def assess(s: ProgramState, draft: Step, t: Trajectory) -> Score | None:
    """Base's score of a drafted step, from one prefill over its cached context; None where there is nothing to judge."""
    if draft.is_blank:
        return None
    turn = t.texts.judge_closed if draft.ending == "think_end" else t.texts.judge_open
    with forked(s) as judge:
        judge += draft.text + turn
        judge += sgl.select("score", choices=list(DIGITS))
        logprobs, account = chosen(judge, "score")
    t.calls.append(Call("judge", account))
    return Score.from_logprobs(logprobs)


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


def gen(name: str, t: Trajectory, *, max_tokens: int, stop: list[str]) -> SglGen:
    """A `gen` with the trajectory's sampling; SGLang's own defaults are 128 tokens and temperature 1."""
    return sgl.gen(
        name,
        max_tokens=max_tokens,
        stop=stop,
        temperature=t.policy.temperature,
        top_p=t.policy.top_p,
    )


@contextmanager
def forked(s: ProgramState, engine: Endpoint | None = None) -> Iterator[ProgramState]:
    """A state that begins as `s` is, on `engine` if given, run in the caller's thread like `s` itself.

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
    yield fork


def run_trajectory(method: Method, trajectory: Trajectory, engines: dict[Author, Endpoint]) -> None:
    """Runs one trajectory to its end. Raises RequestError if a request failed; the trajectory keeps what was written."""
    match method:
        case "specreason":
            specreason.run(
                trajectory=trajectory, small_engine=engines["small"], backend=engines["base"], use_thread=False
            )
        case "base":
            base.run(trajectory=trajectory, backend=engines["base"], use_thread=False)
        case "small":
            small.run(trajectory=trajectory, backend=engines["small"], use_thread=False)
