"""Owns what a published trace says of its judge and of its seconds: `report --calibrate` of numbers without texts.

Knows no engines and no run folders. Whether a step was right is not known of such a trace.
"""

import math
import statistics
from collections.abc import Iterator, Sequence

import numpy as np

from sgl_specreason.plan.traces import Published, PublishedStep
from sgl_specreason.results import overlap
from sgl_specreason.results.calibrate import Drafts, entropy_bits, rows, signal, thresholds, with_digits
from sgl_specreason.results.lines import Said
from sgl_specreason.words import counted

WHOSE = {"draft_s": "small drafting", "judge_s": "base judging", "base_s": "base rewriting"}


def drafts(published: Published) -> Drafts:
    """What the judge said of each draft; its ten probabilities are made to add up to 1, their sum is the label mass."""
    return rows((_said(step), None, False) for step in published.steps)


def _said(step: PublishedStep) -> Said:
    if step.digits is None:
        return Said(score=step.score)
    mass = sum(step.digits)
    return Said(score=step.score, digits=[p / mass if mass else 0.1 for p in step.digits], label_mass=min(mass, 1.0))


def calibration(published: Published) -> str:
    """The report as Markdown that also reads as text."""
    parts = (_head, _digits, _lengths, _seconds, overlap.lines)
    return "\n".join(line for part in parts for line in part(published)).rstrip("\n") + "\n"


def _head(published: Published) -> Iterator[str]:
    about, steps = published.about, published.steps
    yield f"# {about.title}"
    yield ""
    yield f"{counted(len(published.runs), 'run')}, {counted(len(steps), 'step')}; {about.source}."
    yield ""
    problems = len({run.problem for run in published.runs})
    yield (
        f"These are facts about {counted(problems, 'problem')} and one pair: no interval is given, since so few problems say "
        "nothing of others. Which steps were right is not known, so nothing here says what the judge is worth."
    )
    yield ""


def _digits(published: Published) -> Iterator[str]:
    steps, judged = published.steps, with_digits(drafts(published))
    given = np.bincount([step.score for step in steps], minlength=10)
    yield "## Digits"
    yield ""
    yield "| digit | steps | % |"
    yield "|--:|--:|--:|"
    yield from (f"| {digit} | {count} | {_percent(count / len(steps))} |" for digit, count in enumerate(given))
    yield ""
    never = [str(digit) for digit, count in enumerate(given) if not count]
    spread = f"{entropy_bits(given / len(steps)):.2f} of {math.log2(10):.2f} bits"
    yield (f"Never given: {', '.join(never)}. " if never else "") + f"The digits' entropy is {spread}."
    if len(judged):
        own = entropy_bits(judged["digits"])
        top = np.sort(judged["digits"], axis=1)
        yield (
            f"Of {counted(len(judged), 'step')} the whole distribution is known. One judgement's own entropy is {own.mean():.2f} "
            f"bits on average, its likeliest digit has a probability of {top[:, -1].mean():.2f}, and in "
            f"{_percent(float((top[:, -1] == top[:, -2]).mean()))} % two digits are equally likely. "
            f"Label mass: mean {judged['label_mass'].mean():.3f}, least {judged['label_mass'].min():.3f}."
        )
    yield ""
    yield "## Thresholds"
    yield ""
    kept = sum(step.accepted for step in steps) / len(steps)
    about = published.about
    yield (
        f"Threshold {about.threshold:g} on the {about.score_rule} digit kept {_percent(kept)} % of all {len(steps):,} drafts."
    )
    if len(judged):
        yield (
            f"On the {len(judged):,} with a distribution (of equally likely digits the lowest counts) the mean digit is "
            f"{signal(judged, 'expected').mean():.2f}, and each rule would have kept:"
        )
        yield ""
        yield from list(thresholds(judged))[2:]
    yield ""


def _lengths(published: Published) -> Iterator[str]:
    steps = published.steps
    kept, refused = ([step.draft for step in steps if step.accepted is said] for said in (True, False))
    by_base = [step.base for step in steps if step.base is not None]
    yield "## Tokens"
    yield ""
    yield "| | steps | tokens | median | mean | longest |"
    yield "|---|--:|--:|--:|--:|--:|"
    for words, sizes in (("drafts kept", kept), ("drafts refused", refused), ("base's own in their place", by_base)):
        if sizes:
            yield (
                f"| {words} | {len(sizes)} | {sum(sizes)} | {statistics.median(sizes):g} | {statistics.mean(sizes):.1f} | "
                f"{max(sizes)} |"
            )
    yield ""
    drafted, written = sum(kept) + sum(refused), sum(kept) + sum(by_base)
    yield (
        f"{_percent(sum(refused) / drafted)} % of small's tokens were thrown away. Of the tokens that stayed small wrote "
        f"{_percent(sum(kept) / written)} %."
    )
    yield ""


def _seconds(published: Published) -> Iterator[str]:
    steps = published.steps
    found = {name: [s for step in steps if (s := getattr(step, name)) is not None] for name in WHOSE}
    total = sum(map(sum, found.values()))
    if not total:
        return
    yield "## Seconds"
    yield ""
    yield "| | seconds | % | each, median |"
    yield "|---|--:|--:|--:|"
    for name, seconds in found.items():
        if seconds:
            yield (
                f"| {WHOSE[name]} | {sum(seconds):.1f} | {_percent(sum(seconds) / total)} | {statistics.median(seconds):.3f} |"
            )
    yield ""
    yield from _beside_base(steps, found, total)


def _beside_base(steps: Sequence[PublishedStep], found: dict[str, list[float]], total: float) -> Iterator[str]:
    drafted, by_base = sum(step.draft for step in steps), sum(step.base or 0 for step in steps)
    if not (drafted and by_base and found["draft_s"] and found["base_s"]):
        return
    small_ms, base_ms = 1000 * sum(found["draft_s"]) / drafted, 1000 * sum(found["base_s"]) / by_base
    alone = sum(step.written for step in steps) * base_ms / 1000
    yield (
        f"A token took small {small_ms:.1f} ms and base {base_ms:.1f} ms. At that pace base alone would have written the same "
        f"tokens in {alone:.0f} s, and the loop took {total:.0f} s: {alone / total:.2f} times as fast, if base's thoughts are as "
        "long. One thing ran at a time here: nothing was drafted while base judged."
    )
    yield ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
