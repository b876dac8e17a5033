"""Owns which text of a trajectory is final, and tells it as events (pure). Knows no engine and no HTTP.

The pieces joined are the thought and the answer: a thought without its tags and the white space around it, an answer without the
line breaks that it begins with.
"""

from collections.abc import Callable, Sequence

from sgl_specreason.errors import RequestError
from sgl_specreason.method.kept import Kept
from sgl_specreason.method.live import Phase
from sgl_specreason.method.policy import Policy
from sgl_specreason.server.events import Answer, Event, Step, Thought
from sgl_specreason.text.steps import Author

ANOTHER = "a request had to be sent again while its text was read, and another text came"


class Speech:
    """Listens to one trajectory (`live.Listener`) and emits what is final of it.

    Held back is what may be cut off again: white space at the end of a thought, and what may be the beginning of `think_end`
    or of one of the answer's `stops`. Of models without think tags ("") the steps are the answer.
    """

    def __init__(
        self, emit: Callable[[Event], None], *, policy: Policy, think_end: str = "", stops: Sequence[str] = ()
    ) -> None:
        self.steps: list[Step] = []
        self._emit, self._policy, self._think_end, self._stops = emit, policy, think_end, tuple(stops)
        self._thought, self._answer = _Text(None), _Text("\n")
        self._last: Author = "base"

    def growing(self, phase: Phase, author: Author, text: str) -> None:
        """What is being written after the steps that are kept."""
        if phase == "answer":
            self._tell_answer(author, held_back(text, self._stops))
        else:
            self._tell_step(author, text)

    def kept(self, kept: Kept) -> None:
        """A step has become part of the thought."""
        self._tell_step(kept.by, kept.step.text)
        rejected = kept.draft if kept.draft is not None and kept.by == "base" else None
        step = Step(
            n=len(self.steps) + 1,
            by=kept.by,
            text=kept.step.text,
            tokens=kept.step.tokens,
            score=kept.judgement.value(self._policy.score_rule, self._policy.threshold) if kept.judgement else None,
            accepted=kept.accepted if kept.draft is not None else None,
            draft=rejected.text if rejected else None,
            draft_tokens=kept.draft.tokens if kept.draft is not None else None,
        )
        self.steps.append(step)
        self._thought.settle(kept.step.text)
        self._emit(step)

    def finish(self, author: Author, answer: str) -> None:
        """The trajectory has ended with this answer."""
        if self._think_end or not self.steps:
            self._tell_answer(author, answer)
            self._answer.settle(answer)
        else:
            self._tell_thought(self._thought.open)

    @property
    def thought(self) -> str:
        """All of the thought that has been told."""
        return self._thought.told if self._think_end else ""

    @property
    def answer(self) -> str:
        """All of the answer that has been told."""
        return self._answer.told if self._think_end or not self.steps else self._thought.told

    def _tell_step(self, author: Author, text: str) -> None:
        self._last = author
        thought, closed = self._until_tag(self._thought.open + text)
        final = thought if closed or not self._think_end else held_back(thought, (self._think_end,))
        self._tell_thought(final)

    def _tell_thought(self, text: str) -> None:
        if new := self._thought.tell(text.rstrip()):
            self._emit(Thought(by=self._last, text=new) if self._think_end else Answer(by=self._last, text=new))

    def _tell_answer(self, author: Author, text: str) -> None:
        self._tell_thought(self._until_tag(self._thought.open)[0])  # nothing can end it any more
        if new := self._answer.tell(text):
            self._emit(Answer(by=author, text=new))

    def _until_tag(self, text: str) -> tuple[str, bool]:
        """`text` as far as the tag that closes a thought, and whether that is there."""
        if not self._think_end:
            return text, False
        thought, tag, _ = text.partition(self._think_end)
        return thought, bool(tag)


class _Text:
    """A text that is told as it grows. `open` is the end of what is settled that may still grow into something else."""

    def __init__(self, leading: str | None) -> None:
        self.open = ""
        self._leading = leading  # what it does not begin with; None: white space
        self._parts: list[str] = []
        self._said = ""  # of `open` and what follows it
        self._begun = False

    @property
    def told(self) -> str:
        return "".join(self._parts)

    def tell(self, text: str) -> str:
        """What is new in `text`, which begins with what was told; nothing where it is only a beginning of that.

        Raises RequestError for a text that does not: its request was sent again, and something else was written.
        """
        if not text.startswith(self._said):
            if self._said.startswith(text):
                return ""
            raise RequestError(ANOTHER)
        new = text[len(self._said) :]
        if not self._begun:
            new = new.lstrip(self._leading)
        if not new:
            return ""
        self._begun, self._said = True, text
        self._parts.append(new)
        return new

    def settle(self, text: str) -> None:
        """Goes on after `text`: of what is settled only what has not been told is looked at again. Raises RequestError."""
        whole = self.open + text
        if not whole.startswith(self._said):
            raise RequestError(ANOTHER)
        self.open = whole[len(self._said) :]
        self._said = ""


def held_back(text: str, ends: Sequence[str]) -> str:
    """`text` without an end that may be the beginning of one of `ends`, or all of it."""
    most = max((len(end) for end in ends), default=0)
    for at in range(max(len(text) - most, 0), len(text)):
        rest = text[at:]
        if any(end.startswith(rest) for end in ends):
            return text[:at]
    return text
