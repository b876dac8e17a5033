"""Owns what our own client costs: steps a second and CPU per step against engines that answer at once.

Knows no models: the words are numbers, the ids as wide as those of a vocabulary of 150,000.
"""

import statistics
import string
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accounts import Say
from plain_loop import Job, PlainLoop
from stub_engine import steps, vocabulary_words
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.engines.servers import ROLES
from sgl_specreason.method.policy import Policy
from sgl_specreason.method.program import run_trajectory
from sgl_specreason.method.trajectory import Texts, Trajectory
from sgl_specreason.run.runner import run_all
from sgl_specreason.text.steps import Author

VOCABULARY = 150_000
STEP_TOKENS = 20
STEPS = 40
CONCURRENCY = 64
SHORT, LONG = 500, 16_000


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one process: steps a second of wall time, and CPU seconds per step."""

    steps_per_s: float
    cpu_s: float


def client_cost(*, runs: int, say: Say) -> dict[str, list[float]]:
    """Of each run at concurrency 64 in contexts of 500 and 16,000 tokens, in turns; the growth is of CPU per step."""
    found: dict[int, list[Cost]] = {SHORT: [], LONG: []}
    with stub_engines(CONCURRENCY) as engines:
        texts = {context: texts_of(context) for context in found}
        for run in range(runs + 1):
            for context, costs in found.items():
                cost = measured(engines, texts[context], 2 * CONCURRENCY, STEPS, CONCURRENCY)
                if run:  # the first is a warm-up
                    costs.append(cost)
                    say(
                        f"client, {context:5} tokens of context, concurrency {CONCURRENCY}: {cost.steps_per_s:.0f} steps/s, "
                        f"{1e3 * cost.cpu_s:.2f} ms of CPU per step"
                    )
        plain = plain_ratios(engines, runs)
        say(
            "client alone, one trajectory at a time, engines that answer at once: "
            f"{statistics.median(plain):.1f} times the plain loop's steps/s"
        )
        memory = live_memory(engines, texts[LONG])
        say(f"client, memory of a live trajectory of {LONG} tokens: {memory / 1e3:.0f} kB")
    return {
        "client_steps_per_s": [cost.steps_per_s for cost in found[SHORT]],
        "client_steps_per_s_16k": [cost.steps_per_s for cost in found[LONG]],
        "client_cpu_ms_per_step": [1e3 * cost.cpu_s for cost in found[SHORT]],
        "client_growth_500_16k": [
            long.cpu_s / short.cpu_s for short, long in zip(found[SHORT], found[LONG], strict=True)
        ],
        "client_ratio_plain": plain,
        "client_kb_per_trajectory": [memory / 1e3],
    }


def plain_ratios(engines: dict[Author, Endpoint], runs: int) -> list[float]:
    """Our steps a second over the plain loop's, both alone on engines that answer at once, in turns: what a client can gain."""
    texts, loop = texts_of(SHORT), PlainLoop({role: endpoint.base_url for role, endpoint in engines.items()})
    job = Job(
        problem_id="",
        question=texts.prompts["base"],
        judge=texts.judge_open,
        judge_reply="The score is ",
        threshold=7,
        budget_tokens=STEPS * STEP_TOKENS,
        step_tokens=STEP_TOKENS,
        answer_tokens=STEP_TOKENS,
    )
    ratios = []
    for _ in range(runs + 1):
        ours = measured(engines, texts, 3, STEPS, 1).steps_per_s
        ratios.append(ours * loop.run(job).latency_s / STEPS)
    return ratios[1:]


def grown(lengths: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """How values grow with lengths: the exponent, the share of their variance that a line explains, and its slope."""
    exponent, _ = np.polyfit(np.log(lengths), np.log(values), 1)
    line = np.polyfit(lengths, values, 1)
    rest = np.asarray(values) - np.polyval(line, lengths)
    return float(exponent), float(1 - rest.var() / np.var(values)), float(line[0])


def growth(*, say: Say) -> dict[str, list[float]]:
    """CPU seconds of whole trajectories by their length up to 16,000 tokens, one at a time; says how they grow."""
    lengths = [1000, 2000, 4000, 8000, 12000, 16000]
    with stub_engines(1) as engines:
        measured(engines, texts_of(SHORT), 4, STEPS, 1)
        seconds = [
            statistics.median(
                measured(engines, texts_of(100), 1, length // STEP_TOKENS, 1).cpu_s * (length // STEP_TOKENS)
                for _ in range(5)
            )
            for length in lengths
        ]
    exponent, fit, slope = grown(lengths, seconds)
    say(
        f"client, whole trajectories of 1,000 to 16,000 tokens: CPU grows as length^{exponent:.2f}; "
        f"a line explains {100 * fit:.1f} % ({1e6 * slope:.0f} us a token)"
    )
    return {"tokens": list(map(float, lengths)), "client_cpu_s": seconds}


def measured(engines: dict[Author, Endpoint], texts: Texts, trajectories: int, count: int, concurrency: int) -> Cost:
    """`trajectories` of `count` accepted steps each, after the texts' prompt."""
    policy = Policy(budget_tokens=count * STEP_TOKENS, on_budget="stop", temperature=0.0)

    def work(number: int) -> int:
        t = Trajectory(problem_id=str(number), sample=0, sampling_seed=number, policy=policy, texts=texts)
        run_trajectory("specreason", t, engines)
        return len(t.kept)

    cpu, wall = time.process_time(), time.monotonic()
    done = sum(run_all(range(trajectories), work, concurrency))
    assert done == trajectories * count
    return Cost(steps_per_s=done / (time.monotonic() - wall), cpu_s=(time.process_time() - cpu) / done)


def live_memory(engines: dict[Author, Endpoint], texts: Texts, count: int = 16) -> float:
    """Bytes that each trajectory holds which has come to 16,000 tokens and is not finished."""
    policy = Policy(budget_tokens=STEPS * STEP_TOKENS, on_budget="stop", temperature=0.0)
    held = []
    tracemalloc.start()
    for number in range(count):
        t = Trajectory(problem_id=str(number), sample=0, sampling_seed=number, policy=policy, texts=texts)
        run_trajectory("specreason", t, engines)
        held.append(t)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / len(held)


def texts_of(context: int) -> Texts:
    """A prompt of about `context` tokens, and a judge turn of a usual length."""
    written = steps(VOCABULARY, STEP_TOKENS)[: max(1, context // STEP_TOKENS)]
    prompt = "".join(text for text, _ in written)
    turn = "</think>" + "".join(f"w{number}" for number in range(1, 60)) + "."
    return Texts(
        prompts={"base": prompt, "small": prompt},
        judge_open=turn,
        judge_closed=turn,
        binary_open="",
        binary_closed="",
        close="",
        think_end="</think>",
    )


def words_and_letters() -> Tokenizer:
    """The stub engine's words and, for all other text, a token for each letter: what is put together of pieces stays as it is."""
    words = [*vocabulary_words(VOCABULARY), *string.printable]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n\n|w\d+|[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


@contextmanager
def stub_servers(options: Mapping[Author, Sequence[str]]) -> Iterator[dict[Author, str]]:
    """The addresses of stub engines, each a process of its own with these options."""
    with ExitStack() as stack:
        urls = {}
        for role, words in options.items():
            command = [sys.executable, str(Path(__file__).with_name("stub_engine.py")), *words]
            server = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            assert server.stdin is not None
            assert server.stdout is not None
            stack.callback(server.stdin.close)
            urls[role] = server.stdout.readline().strip()
        yield urls


@contextmanager
def stub_engines(connections: int) -> Iterator[dict[Author, Endpoint]]:
    """Two stub engines, and endpoints over them."""
    fast = PreTrainedTokenizerFast(tokenizer_object=words_and_letters())
    with stub_servers({role: ["--vocabulary", str(VOCABULARY)] for role in ROLES}) as urls:
        engines = {
            role: Endpoint(url, role=role, tokenizer=fast, connections=2 * connections) for role, url in urls.items()
        }
        yield engines
        for endpoint in engines.values():
            endpoint.stop()
