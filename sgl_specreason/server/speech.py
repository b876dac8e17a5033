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


class Stopped(RequestError):
    """One of the asker's stops has come in a response that is all answer; nothing more is wanted."""


ANOTHER = "a request had to be sent again while its text was read, and another text came"


class Speech:
    """Listens to one trajectory (`live.Listener`) and emits what is final of it.

    Held back is what may be cut off again: white space at the end of a thought, and what may be the beginning of `think_end`
    or of one of the answer's `stops`. Of models without think tags ("") the steps are the answer: then one of the stops raises
    Stopped, and is `stopped`.
    """

    def __init__(
        self, emit: Callable[[Event], None], *, policy: Policy, think_end: str = "", stops: Sequence[str] = ()
    ) -> None:
        self.steps: list[Step] = []
        self._emit, self._policy, self._think_end, self._stops = emit, policy, think_end, tuple(stops)
        self._thought, self._answer = _Text(None), _Text("\n")
        self._last: Author = "base"
        self.stopped: str | None = None

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
        return self._answer.told if self._think_end else self._thought.told + self._answer.told

    def _tell_step(self, author: Author, text: str) -> None:
        self._last = author
        whole = self._thought.open + text
        if not self._think_end:
            self._tell_until_stop(whole)
            return
        thought, closed = self._until_tag(whole)
        self._tell_thought(thought if closed else held_back(thought, (self._think_end,)))

    def _tell_until_stop(self, text: str) -> None:
        """Tells a response that is all answer, as far as a stop; one of white space counts after what can be seen only."""
        begin = len(self._thought.said) or (0 if self._thought.begun else len(text) - len(text.lstrip()))
        ends = [(at, stop) for stop in self._stops if (at := text.find(stop, begin)) >= 0]
        if not ends:
            self._tell_thought(held_back(text, self._stops))
            return
        at, self.stopped = min(ends)
        self._tell_thought(text[:at])
        raise Stopped(self.stopped)

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
        self.said = ""  # of `open` and what follows it
        self.begun = False

    @property
    def told(self) -> str:
        return "".join(self._parts)

    def tell(self, text: str) -> str:
        """What is new in `text`, which begins with what was told; nothing where it is only a beginning of that.

        Raises RequestError for a text that does not: its request was sent again, and something else was written.
        """
        if not text.startswith(self.said):
            if self.said.startswith(text):
                return ""
            raise RequestError(ANOTHER)
        new = text[len(self.said) :]
        if not self.begun:
            new = new.lstrip(self._leading)
        if not new:
            return ""
        self.begun, self.said = True, text
        self._parts.append(new)
        return new

    def settle(self, text: str) -> None:
        """Goes on after `text`: of what is settled only what has not been told is looked at again. Raises RequestError."""
        whole = self.open + text
        if not whole.startswith(self.said):
            raise RequestError(ANOTHER)
        self.open = whole[len(self.said) :]
        self.said = ""


def held_back(text: str, ends: Sequence[str]) -> str:
    """`text` without an end that may be the beginning of one of `ends`, or all of it."""
    most = max((len(end) for end in ends), default=0)
    for at in range(max(len(text) - most, 0), len(text)):
        rest = text[at:]
        if any(end.startswith(rest) for end in ends):
            return text[:at]
    return text
