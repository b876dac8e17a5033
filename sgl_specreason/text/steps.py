"""Owns where a step ends, when thinking ends and how text is cut into pieces (pure functions).

Knows nothing of engines, scores or policies.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

BLANK_LINE = "\n\n"
Author = Literal["base", "small"]
"""The two models, by what they do: who writes a step."""
Ending = Literal["blank_line", "think_end", "eos", "cap"]
_PIECE = re.compile(r".*?\n\n|.+\Z", re.DOTALL)


def pieces(text: str) -> list[str]:
    """`text` cut after each blank line; joined they are `text` again.

    The pieces of a text that ends with a blank line stay the first pieces of everything appended to it.
    """
    return _PIECE.findall(text)


class Written(NamedTuple):
    """A text that a model wrote in one go, and the ids that it wrote, of the vocabulary with this digest.

    Without ids they are made of the text. Encoding a text again may give others than were written, which are not cached.
    """

    text: str
    vocabulary: str = ""
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one model wrote as one step.

    `text` ends with its blank line or think tag if it has one; `tokens` is what the engine generated for it, `written` its
    parts as they came. What its writer said of it, where that was asked for: `logprobs` of its tokens (natural), the `entropy`
    of the first one (bits), and as its `own` judge the probabilities that it is right, and wrong.
    """

    text: str
    tokens: int
    ending: Ending
    written: tuple[Written, ...] = ()
    logprobs: tuple[float, ...] | None = None
    entropy: float | None = None
    own: tuple[float, float] | None = None

    @property
    def parts(self) -> tuple[Written, ...]:
        """What it is made of; joined, the texts are its text."""
        return self.written or (Written(self.text),)

    @property
    def confidence(self) -> float | None:
        """The mean probability that its writer gave its tokens."""
        return sum(map(math.exp, self.logprobs)) / len(self.logprobs) if self.logprobs else None

    @property
    def ends_thought(self) -> bool:
        return self.ending in ("think_end", "eos")

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing in it to judge."""
        return not self.text.strip()

    def joined(self, more: "Step") -> "Step":
        """This step with a further piece after it."""
        known = self.logprobs is not None and more.logprobs is not None
        return Step(
            text=self.text + more.text,
            tokens=self.tokens + more.tokens,
            ending=more.ending,
            written=self.parts + more.parts,
            logprobs=(self.logprobs or ()) + (more.logprobs or ()) if known else None,
            entropy=self.entropy,
        )


def read_step(
    written: Written,
    tokens: int,
    finish: str,
    think_end: str,
    *,
    before: str = "",
    logprobs: tuple[float, ...] | None = None,
    entropy: float | None = None,
    whole: bool = False,
) -> Step:
    """One generation as a step: cut after the first blank line or think tag, whichever comes first.

    `finish` is SGLang's finish type ("stop" or "length"). A token may hold the stop in its middle (".\\n\\n\\n"), so
    the text is cut here and not trusted to end with it. A think tag may begin in what stands `before` the text: the limit
    of a step's tokens falls where it falls. Without a tag ("") the end of the sequence ends the thought.
    A `whole` thought goes on over its blank lines.
    """
    ending: Ending
    text = written.text
    begun = before[max(len(before) - len(think_end) + 1, 0) :]
    blank = -1 if whole else text.find(BLANK_LINE)
    thought = (begun + text).find(think_end) if think_end else -1
    if thought >= 0 and (blank < 0 or thought - len(begun) < blank):
        text, ending = text[: thought - len(begun) + len(think_end)], "think_end"
    elif blank >= 0:
        text, ending = text[: blank + len(BLANK_LINE)], "blank_line"
    else:
        ending = "cap" if finish == "length" else "eos"
    kept = written if text == written.text else Written(text)
    return Step(text=text, tokens=tokens, ending=ending, written=(kept,), logprobs=logprobs, entropy=entropy)


def wants_more(step: Step, *, min_step_tokens: int, room: int) -> bool:
    """Whether a piece is too short to be judged by itself and there is room (in tokens) to go on."""
    if step.ending != "blank_line" or room <= 0:
        return False
    return step.is_blank or step.tokens < min_step_tokens
