"""Owns what a check of a GPU measures: its cells, the most important ones first, and how long each may take (pure).

Knows no engines and no files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sgl_specreason.plan import traces

Serving = Literal["small", "base", "base-standalone", "base-ngram"]
"""An engine, and for base how it guesses its tokens. In the order of their starts."""
BASES: tuple[Serving, ...] = ("base", "base-standalone", "base-ngram")
Kind = Literal["start", "judge", "replay"]
ACCEPTANCES = (0.4, 0.6, 0.8)
ENOUGH_S = 15.0
"""With less time than this a cell is not begun."""
PROCESS_S = 10.0
"""A replay imports SGLang first."""
JUDGED_SHARE = 0.5
PREFILLED = 150
"""So many tokens of a prompt are taken to cost as much as one that is written."""
SPARE_S = 60.0
SPARE = 3.0
"""A cell may take so many times its estimate, and SPARE_S more: an estimate is no more than that."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One step of the check. `words` are the replay's that makes it; a start has none. `seconds` is an estimate."""

    name: str
    kind: Kind
    serving: Serving
    seconds: float
    words: tuple[str, ...] = ()
    trace: str = ""
    concurrency: int = 1
    context: int = 0

    @property
    def most_s(self) -> float:
        """How long it may take where there is time enough."""
        return SPARE * self.seconds + SPARE_S


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is run. `levels` says how many trajectories there are at each concurrency.

    Thoughts are cut: latencies are of a part of a thought, and compare with each other only.
    """

    contexts: tuple[int, ...]
    levels: dict[int, int]
    steps: int
    thinking_tokens: int
    prompt_tokens: int
    answer_tokens: int
    judged: int
    judged_tokens: int

    @classmethod
    def recorded(cls, said: Mapping[str, Any]) -> "Scale":
        """What JSON has made of one."""
        levels = {int(level): count for level, count in said["levels"].items()}
        return cls(**{**said, "contexts": tuple(said["contexts"]), "levels": levels})


def _full(alone: int, steps: int, thinking_tokens: int) -> Scale:
    return Scale(
        contexts=(500, 2000, 8000, 16000),
        levels={1: alone, 8: 16, 64: 64},
        steps=steps,
        thinking_tokens=thinking_tokens,
        prompt_tokens=200,
        answer_tokens=32,
        judged=3,
        judged_tokens=360,
    )


FULL = (_full(8, 16, 900), _full(6, 12, 640), _full(4, 8, 400), _full(4, 6, 300), _full(3, 4, 200))
"""The largest one that is thought to fit into the time is run."""
REHEARSAL = Scale(
    contexts=(500, 2000),
    levels={1: 2, 4: 4},
    steps=4,
    thinking_tokens=120,
    prompt_tokens=60,
    answer_tokens=16,
    judged=2,
    judged_tokens=240,
)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What estimates are made with: seconds of a token that base or small writes, and of each engine's start."""

    base_s: float
    small_s: float
    start_base_s: float
    start_small_s: float

    @classmethod
    def on_gpu(cls, base_gb: float, small_gb: float) -> "Rates":
        """Assumed: 1,500 GB/s of a card's memory are used, 3 ms a token are not of that, and a GB loads in a second."""
        return cls(
            base_s=0.003 + base_gb / 1500,
            small_s=0.003 + small_gb / 1500,
            start_base_s=60 + base_gb,
            start_small_s=60 + small_gb,
        )

    @classmethod
    def of_the_bundled_pair(cls) -> "Rates":
        """On two cores that others use, too."""
        return cls(base_s=0.02, small_s=0.006, start_base_s=25, start_small_s=25)

    def alone(self, tokens: float) -> float:
        return tokens * self.base_s

    def together(self, tokens: float, steps: float, share: float, answer: float) -> float:
        """Of SpecReason, which keeps this share of its drafts; a judgement is taken for three tokens of base."""
        return tokens * self.small_s + ((1 - share) * tokens + 3 * steps + answer) * self.base_s


def fitted(scales: Sequence[Scale], rates: Rates, bases: Sequence[Serving], seconds: float) -> Scale:
    """The first one that is thought to fit into the time with base served in these ways, else the last one."""

    def total(scale: Scale) -> float:
        return sum(cell.seconds for cell in cells(scale, rates) if cell.serving in ("small", *bases))

    return next((scale for scale in scales if total(scale) <= seconds), scales[-1])


def cells(scale: Scale, rates: Rates) -> list[Cell]:
    """Everything, in order: one start of each way to serve base, and under it what needs that."""
    found = [_start("small", rates)]
    for serving in BASES:
        found.append(_start(serving, rates))
        if serving == "base":
            found += [_judge(scale, rates, context) for context in scale.contexts]
        alone, *others = scale.levels
        found += [_published(scale, rates, serving, level) for level in scale.levels]
        found += [_synthetic(scale, rates, serving, level) for level in (*others, alone)]  # the longest one last
    return found


def _start(serving: Serving, rates: Rates) -> Cell:
    seconds = rates.start_small_s if serving == "small" else rates.start_base_s
    return Cell(name=f"start-{serving}", kind="start", serving=serving, seconds=seconds)


def _judge(scale: Scale, rates: Rates, context: int) -> Cell:
    words = ["--synthetic", "--limit", scale.judged, "--thinking-tokens", scale.judged_tokens]
    words += ["--prompt-tokens", context, "--answer-tokens", 8, "--acceptance", JUDGED_SHARE, "--lookahead", 0]
    words += ["--method", "specreason"]
    each = (
        rates.together(scale.judged_tokens, scale.judged_tokens / 45, JUDGED_SHARE, 8)
        + context * rates.base_s / PREFILLED
    )
    return Cell(
        name=f"judge-{context}",
        kind="judge",
        serving="base",
        seconds=PROCESS_S + scale.judged * each,
        words=tuple(map(str, words)),
        trace="synthetic",
        context=context,
    )


def _published(scale: Scale, rates: Rates, serving: Serving, level: int) -> Cell:
    count = scale.levels[level]
    times = -(-count // len(traces.load(traces.DEFAULT).runs))
    words: list[str | int] = [
        "--trace",
        traces.DEFAULT,
        "--steps",
        scale.steps,
        "--limit",
        -(-count // times),
        "--times",
        times,
    ]
    return _replay(scale, rates, serving, level, "published", words, (0.6,))


def _synthetic(scale: Scale, rates: Rates, serving: Serving, level: int) -> Cell:
    words: list[str | int] = ["--synthetic", "--limit", scale.levels[level], "--thinking-tokens", scale.thinking_tokens]
    words += ["--acceptance", ",".join(map(str, ACCEPTANCES))]
    return _replay(scale, rates, serving, level, "synthetic", words, ACCEPTANCES)


def _replay(
    scale: Scale,
    rates: Rates,
    serving: Serving,
    level: int,
    trace: str,
    words: Sequence[str | int],
    shares: Sequence[float],
) -> Cell:
    algorithm = serving.partition("-")[2]
    lookaheads = (1,) if algorithm else (0, 1)
    decode = ["--decode", algorithm] if algorithm else []
    methods = [f"{name}{'+decode' if algorithm else ''}" for name in ("base", "specreason")]
    every = [*words, "--prompt-tokens", scale.prompt_tokens, "--answer-tokens", scale.answer_tokens, *decode]
    every += ["--lookahead", ",".join(map(str, lookaheads)), "--concurrency", level]
    every += [word for method in methods for word in ("--method", method)]
    tokens, steps = 0.75 * scale.thinking_tokens, 0.75 * scale.steps
    one = rates.alone(tokens + scale.answer_tokens)
    one += len(lookaheads) * sum(rates.together(tokens, steps, share, scale.answer_tokens) for share in shares)
    slower = scale.levels[level] / level * (1 + level / 64)  # rounds, each slower the more is computed at once
    return Cell(
        name=f"{trace}-{level}{f'-{algorithm}' if algorithm else ''}",
        kind="replay",
        serving=serving,
        seconds=PROCESS_S + slower * one,
        words=tuple(map(str, every)),
        trace=trace,
        concurrency=level,
    )


def groups(pending: Sequence[Cell]) -> Iterator[tuple[Serving, list[Cell]]]:
    """The cells that are still to be made, by how base is served for them; none of a start alone."""
    for serving in BASES:
        found = [cell for cell in pending if cell.serving == serving]
        if found:
            yield serving, [cell for cell in found if cell.kind != "start"]


def deadline(now: float, end: float, estimates: Sequence[float]) -> float:
    """Until when the first of several groups may run, so that what is left of the time is shared out by their estimates."""
    return now + (end - now) * estimates[0] / sum(estimates)


def allowed_s(cell: Cell, left_s: float) -> float:
    """How long a cell may take of the time that is left; 0 where that is not enough to begin it."""
    return min(cell.most_s, left_s) if left_s >= ENOUGH_S else 0.0
