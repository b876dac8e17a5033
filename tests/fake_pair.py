"""Two scripted engines as the programs' base and small: what each says in turn, and what each was asked."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from fake_engine import CharTokenizer, FakeEngine, Payload, digits
from hypothesis import strategies as st

from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.method.policy import Method, Policy
from sgl_specreason.method.program import run_trajectory
from sgl_specreason.method.score import DIGITS, WORDS
from sgl_specreason.method.trajectory import Question, Texts, Trajectory

Start = Callable[..., FakeEngine]
TURN, CLOSED_TURN = "[JUDGE]", "[JUDGE CLOSED]"
TEXTS = Texts(
    prompts={"base": "B:", "small": "S:"},
    judge_open=TURN,
    judge_closed=CLOSED_TURN,
    binary_open="[YES OR NO]",
    binary_closed="[YES OR NO, CLOSED]",
    close="Time is up.</think>\n\n",
    think_end="</think>",
    own={
        "score": Question("[SELF]", "[SELF, CLOSED]", DIGITS),
        "binary": Question("[SELF?]", "[SELF?, CLOSED]", WORDS),
    },
)


class Pair:
    """Two scripted engines: `drafts`, `scores` and `writes` are handed out in order, the last one for ever; so is what small
    says of its own drafts, `own`."""

    def __init__(
        self, start: Start, drafts: list[Any], scores: list[Any], writes: list[Any], own: Sequence[Any] = ()
    ) -> None:
        self.turns = {"draft": drafts, "score": scores, "write": writes, "own": list(own)}
        self.asked: dict[str, list[str]] = {"draft": [], "score": [], "write": [], "own": []}
        self.small = start(self.judge_oneself_or_draft)
        self.base = start(self.judge_or_write)
        self.engines = {
            role: Endpoint(engine.url, role=role, tokenizer=CharTokenizer(), timeout_s=5)
            for role, engine in (("base", self.base), ("small", self.small))
        }

    def judge_oneself_or_draft(self, prompt: str, payload: Payload) -> Any:
        return self.next("draft" if payload["sampling_params"]["max_new_tokens"] else "own", prompt)

    def judge_or_write(self, prompt: str, payload: Payload) -> Any:
        kind = "score" if payload["sampling_params"]["max_new_tokens"] == 0 else "write"
        return self.next(kind, prompt)

    def judge_after(self, drafts: int = 0, *, writes: int = 0, last: int = 0) -> None:
        """Has the judge wait until that many drafts, from its judgement `last` on also that many of base's steps, are begun."""

        def patient(prompt: str, payload: Payload) -> Any:
            deadline = time.monotonic() + 5
            judging = payload["sampling_params"]["max_new_tokens"] == 0 and len(self.asked["score"]) + 1 >= last
            while time.monotonic() < deadline and (
                len(self.asked["draft"]) < drafts or (judging and len(self.asked["write"]) < writes)
            ):
                time.sleep(0.005)
            return self.judge_or_write(prompt, payload)

        self.base.script = patient

    def next(self, kind: str, prompt: str) -> Any:
        self.asked[kind].append(prompt)
        turns = self.turns[kind]
        reply = turns[min(len(self.asked[kind]), len(turns)) - 1]
        return digits(reply) if isinstance(reply, int) else reply

    def run(self, method: Method = "specreason", **policy: Any) -> Trajectory:
        trajectory = Trajectory(
            problem_id="p",
            sample=0,
            sampling_seed=7,
            policy=Policy(**{"budget_tokens": 500, "step_tokens": 50, "temperature": 0.0, "lookahead": 0, **policy}),
            texts=TEXTS,
        )
        run_trajectory(method, trajectory, self.engines)  # type: ignore[arg-type]
        return trajectory


def thought(trajectory: Trajectory) -> str:
    return "".join(kept.step.text for kept in trajectory.kept)


def frontend_threads() -> list[str]:
    """The frontend's workers: threads whose target is a context's `run`."""
    return [thread.name for thread in threading.enumerate() if thread.name.endswith("(run)")]


PIECES = st.sampled_from(
    ["a", "bc", "\n", "\n\n", "</think>", "</thi", "nk>", "\x03", " ", "\\boxed{", "}", "é", "\x00"]
)
WRITTEN = st.lists(PIECES, max_size=8).map("".join)
