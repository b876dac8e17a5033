"""Owns what binds a trajectory to somebody who waits for it: who hears its text, what may end it, and where its answer ends.

Knows nothing of who that is.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

from sgl_specreason.engines.control import Control
from sgl_specreason.method.kept import Kept
from sgl_specreason.text.steps import Author

Phase = Literal["thought", "answer"]


class Listener(Protocol):
    """Hears a text as soon as it is certain to stay. Called in the trajectory's threads, one at a time."""

    def growing(self, phase: Phase, author: Author, text: str) -> None:
        """What is being written after the steps that are kept: this much of it so far."""

    def kept(self, kept: Kept) -> None:
        """A step has become part of the thought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Ends of one trajectory that a policy does not know, and who hears of it.

    The answer has `answer_tokens` at most, thought and answer `total_tokens` together, and the answer ends before one of `stop`.
    The `listener` hears of each step as it is kept, and of texts before that where it is so wanted (`as_it_grows`).
    """

    control: Control = field(default_factory=Control)
    listener: Listener | None = None
    as_it_grows: bool = True
    answer_tokens: int
    total_tokens: int
    stop: tuple[str, ...] = ()

    def kept(self, kept: Kept) -> None:
        if self.listener:
            self.listener.kept(kept)
