"""Owns the baseline that `bench.py` compares with: SpecReason as a plain loop over chat completions.

Written as the published code is (arXiv 2504.07891): the official `openai` client, one sequential loop for each problem, every
request a whole conversation that the server renders and tokenises again, the model's name looked up before each request,
a verification that generates its digit. The same servers, prompts, threshold, limits and problems as ours.
"""

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

STOPS = ["\n\n", "</think>"]
API_KEY = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A problem as the loop needs it: the user's message, the judge's, and how the judge's reply begins."""

    problem_id: str
    question: str
    judge: str
    judge_reply: str
    threshold: float
    budget_tokens: int
    step_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of it: the steps with who wrote them, and seconds."""

    problem_id: str
    steps: tuple[tuple[str, str], ...]
    answer: str
    tokens: int
    requests: int
    latency_s: float


class PlainLoop:
    """The loop over two servers (`urls` by role), with one client for each."""

    def __init__(self, urls: dict[str, str]) -> None:
        from openai import OpenAI

        self.clients = {role: OpenAI(base_url=f"{url}/v1", api_key=API_KEY) for role, url in urls.items()}
        self.requests = 0

    def run(self, job: Job) -> Done:
        begin, self.requests = time.monotonic(), 0
        thought, tokens, steps = "", 0, []
        ended = False
        while not ended and tokens < job.budget_tokens:
            room = min(job.step_tokens, job.budget_tokens - tokens)
            text, count, ended = self.step("small", job, thought, room)
            author = "small"
            if not text.strip() or self.score(job, thought + text) < job.threshold:
                text, count, ended = self.step("base", job, thought, room)
                author = "base"
            thought, tokens = thought + text, tokens + count
            steps.append((author, text))
        closed = thought if thought.endswith("</think>") else f"{thought}\n</think>\n\n"
        reply = self.chat("base", self.conversation(job, closed), job.answer_tokens)
        return Done(
            problem_id=job.problem_id,
            steps=tuple(steps),
            answer=reply.choices[0].message.content or "",
            tokens=tokens,
            requests=self.requests,
            latency_s=time.monotonic() - begin,
        )

    def step(self, role: str, job: Job, thought: str, room: int) -> tuple[str, int, bool]:
        """The next step by one model: its text with its ending, its tokens, whether it ended the thought."""
        reply = self.chat(role, self.conversation(job, thought), room, stop=STOPS)
        choice = reply.choices[0]
        matched = getattr(choice, "matched_stop", None)
        ending = matched if matched in STOPS else ""
        ended = ending == "</think>" or (choice.finish_reason == "stop" and not ending)
        return (choice.message.content or "") + ending, reply.usage.completion_tokens, ended

    def score(self, job: Job, thought: str) -> int:
        """The digit that base answers when it is asked about the last step; 0 where it is none."""
        closed = thought if thought.endswith("</think>") else f"{thought}</think>"
        messages = [
            *self.conversation(job, f"<think>\n{closed}"),
            {"role": "user", "content": job.judge},
            {"role": "assistant", "content": job.judge_reply},
        ]
        reply = self.chat("base", messages, 1, logprobs=True, top_logprobs=10)
        text = (reply.choices[0].message.content or "").strip()
        return int(text) if text.isdigit() else 0

    def conversation(self, job: Job, thought: str) -> list[Any]:
        """A thought that is to go on; the template has opened it."""
        begun = [{"role": "assistant", "content": thought}] if thought else []
        return [{"role": "user", "content": job.question}, *begun]

    def chat(self, role: str, messages: list[Any], max_tokens: int, **options: Any) -> Any:
        client = self.clients[role]
        model = client.models.list().data[0].id
        self.requests += 2
        return client.chat.completions.create(
            model=model,
            messages=messages,
            max_tokens=max_tokens,
            temperature=0,
            extra_body={
                "continue_final_message": messages[-1]["role"] == "assistant",
                "skip_special_tokens": False,
            },
            **options,
        )


LOOP: list[PlainLoop] = []


def _begin(urls: dict[str, str]) -> None:
    LOOP.append(PlainLoop(urls))
    LOOP[0].clients["base"].models.list()


def _run(job: Job) -> Done:
    return LOOP[0].run(job)


@contextmanager
def processes(urls: dict[str, str], count: int) -> Iterator[Any]:
    """`count` processes, each with a loop that is ready, as `run(jobs) -> list of Done`: as published, one for a problem."""
    with multiprocessing.get_context("spawn").Pool(count, _begin, (urls,)) as pool:
        pool.map(time.sleep, [0.5] * count, chunksize=1)
        yield lambda jobs: pool.map(_run, jobs, chunksize=1)
