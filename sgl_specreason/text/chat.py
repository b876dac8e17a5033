"""Owns how a model's own chat template opens a thought and frames a judge turn. Knows no engine."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property, partial
from types import MappingProxyType

from sgl_specreason.errors import UsageError, one_line
from sgl_specreason.text.conversation import (
    Message,
    Opening,
    check_options,
    frames_of,
    marks_of,
    places,
    without_thought,
)
from sgl_specreason.text.prompts import PLACEHOLDERS, PromptSet
from sgl_specreason.text.steps import BLANK_LINE, Author
from sgl_specreason.text.tokenizers import Tokenizer, load_tokenizer
from sgl_specreason.text.vocabulary import Vocabulary

_XML_TAG = re.compile(r"<\w+>")
"""Tags such as <think> stand on a line of their own; others ("[THINK]", a channel of gpt-oss) do not."""


KNOWN_ENDS = (
    "</think>", "</thinking>", "</thought>", "</reasoning>", "</reason>", "</analysis>", "[/THINK]", "</seed:think>", "◁/think▷",
    "<|END_THINKING|>", "<|end_of_thought|>", "<|channel|>final<|message|>",
)  # fmt: skip
"""How models of one family or another close a thought."""


def other_end(text: str, think_end: str) -> str | None:
    """A tag in `text` that closes the thoughts of another family of models than the one whose tag is `think_end`."""
    return next((tag for tag in KNOWN_ENDS if tag in text and (not think_end or tag not in think_end)), None)


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """How one model's chat template opens a thought and frames a judge turn, as raw text to append.

    Both think tags are "" for models that do not think before they answer: their response is the thought.

    A conversation is rendered once and only appended to afterwards: rendering it again would rewrite
    its history (Qwen3 puts an empty think block before a continued message, R1's template drops the thought).
    """

    tokenizer: Tokenizer
    think_start: str = "<think>"
    think_end: str = "</think>"
    date: date = field(default_factory=date.today)
    """The day that a template is told: a run that goes on after midnight must send what it has sent before."""

    def opening(
        self, messages: Sequence[Message], *, thinking: bool = True, options: Mapping[str, object] | None = None
    ) -> Opening:
        """A conversation and the assistant's opening: up to and with the opening think tag, or without a thought.

        Thoughts of its assistant are left out, whatever the template does. `options` are the template's own. Raises UsageError,
        with the template's words, where it does not take this conversation, does not show each content once as it is, or
        closes the thought that it is asked to open.
        """
        check_options(options or {})
        turns = [self._turn(message) for message in messages]
        marks = marks_of(turns)
        marked = [turn._replace(content=mark) for turn, mark in zip(turns, marks, strict=True)]
        render = partial(self._render, add_generation_prompt=True, options=options or {})
        text = render(turns, thinking=thinking)
        with self._saying_whose():
            order, frames = frames_of(render(marked, thinking=thinking), marks)
            contents = places(text, [turns[number].content for number in order], frames)
        if thinking:
            return Opening(text + self._opened(frames[-1]), contents)
        can_switch = render(marked, thinking=False) != render(marked, thinking=True)
        return Opening(text + self._unthought(frames[-1], can_switch=can_switch), contents)

    def prompt(self, content: str) -> str:
        """The opening of a conversation of one message, as text."""
        return self.opening([Message("user", content)]).prompt

    def _turn(self, message: Message) -> Message:
        if message.role != "assistant":
            return message
        return message._replace(content=without_thought(message.content, self.think_start, self.think_end))

    def _opened(self, end: str) -> str:
        """What opens a thought after a prompt with this end."""
        if self.think_end and end.rstrip().endswith(self.think_end):
            raise UsageError(
                f"the chat template of {self.name} closes the thought before it begins, so its model does not think: "
                "use a template that opens one"
            )
        if end.rstrip().endswith(self.think_start.strip()):
            return ""
        return self.think_start + "\n" * self._in_lines

    def _unthought(self, end: str, *, can_switch: bool) -> str:
        """What is to follow a prompt with this end so that the model does not think: an empty thought, where none is there.

        A template with a switch has said already what its model needs, unless it has opened a thought.
        """
        tail = end.rstrip()
        is_open = bool(self.think_start) and tail.endswith(self.think_start.strip())
        if not self.think_start or tail.endswith(self.think_end) or (can_switch and not is_open):
            return ""
        opening = "" if is_open else self.think_start
        if not self._in_lines:
            return opening + self.think_end
        newline = "" if end.endswith("\n") and is_open else "\n"
        return f"{opening}{newline}\n{self.think_end}{BLANK_LINE}"

    @property
    def _in_lines(self) -> bool:
        return bool(_XML_TAG.fullmatch(self.think_start))

    @property
    def name(self) -> str:
        """What the tokenizer was loaded as."""
        return getattr(self.tokenizer, "name_or_path", "") or "the model"

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The token ids of this model's text."""
        return Vocabulary(self.tokenizer)

    def judge_turn(self, prompts: PromptSet, judge: str = "judge", *, thinking: bool) -> str:
        """What follows a step to have it judged: the turn's end, the judge's instruction, its answer's opening.

        `judge` names the template, and with `_answer` the one of its reply; `thinking` says whether the thought is still open:
        it is closed first, so that the turn is well formed.
        """
        after_answer, before_reply = self._frames
        closing = self.think_end if thinking else ""
        answer = f"{judge}_answer"
        opening = prompts[answer].fill(**dict.fromkeys(PLACEHOLDERS[answer], ""))
        return f"{closing}{after_answer}{prompts[judge].text}{before_reply}{opening}"

    def question(
        self, prompts: PromptSet, judge: str, labels: Sequence[str], *, thinking: bool
    ) -> tuple[str, tuple[str, ...]]:
        """A judge turn, and its labels as this model writes them: each begins with a token of its own after the turn.

        Most vocabularies have a word together with the blank before it (" yes"): then the blank at the turn's end is the
        label's. Raises UsageError that names the template where neither works.
        """
        turn = self.judge_turn(prompts, judge, thinking=thinking)
        ways = [(turn, tuple(labels))]
        if turn.endswith(" "):
            ways.append((turn[:-1], tuple(f" {label}" for label in labels)))
        for text, words in ways:
            if self.vocabulary.first_tokens(text.rpartition(BLANK_LINE)[2], words) is not None:
                return text, words
        raise UsageError(
            f"{prompts[judge + '_answer'].source}: after this, {', '.join(labels)} do not each begin with a token of their own "
            f"for {self.name}; change how the file ends"
        )

    @cached_property
    def _frames(self) -> tuple[str, str]:
        """The text between an assistant's message and the next user's, and between that and a reply that has begun."""
        marks = ["first question", "first answer", "second question", "second answer"]
        roles = ["user", "assistant"] * 2
        text = self._render([Message(role, mark) for role, mark in zip(roles, marks, strict=True)])
        try:
            after_answer = text.split(marks[1])[1].split(marks[2])[0]
            before_reply = text.split(marks[2])[1].split(marks[3])[0]
        except IndexError:
            raise UsageError(f"the chat template of {self.name} does not show a conversation of two turns") from None
        return after_answer, before_reply

    @contextmanager
    def _saying_whose(self) -> Iterator[None]:
        try:
            yield
        except UsageError as error:
            raise UsageError(f"the chat template of {self.name} {error}") from None

    def _render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        thinking: bool = True,
        options: Mapping[str, object] = MappingProxyType({}),
    ) -> str:
        given = {
            "date_string": f"{self.date:%d %b %Y}",  # Llama 3's; others ask for the day themselves
            "strftime_now": self.date.strftime,
            **options,
            "enable_thinking": thinking,  # the switch of Qwen3, GLM and SmolLM3
            "thinking": thinking,  # that of DeepSeek-V3.1 and Granite
        }
        turns = [message._asdict() for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt, **given
            )
        except Exception as error:  # a template is a program: it may fail in any way
            raise UsageError(f"the chat template of {self.name} cannot be used: {one_line(error)}") from None
        return str(text)


def load_chats(
    places: Mapping[Author, Sequence[str]],
    think_tags: tuple[str, str],
    *,
    trust_remote_code: bool,
    day: date | None = None,
) -> dict[Author, ChatFormat]:
    """Each model's own chat format, on this day (None: today), by the first of its places that has a tokenizer.

    A place is a folder or a hub id. Raises UsageError where none has one.
    """
    start, end = think_tags
    return {
        role: ChatFormat(
            tokenizer=_first_tokenizer(found, trust_remote_code=trust_remote_code),
            think_start=start,
            think_end=end,
            date=day or date.today(),
        )
        for role, found in places.items()
    }


def _first_tokenizer(places: Sequence[str], *, trust_remote_code: bool) -> Tokenizer:
    missing = []
    for place in places:
        try:
            tokenizer: Tokenizer = load_tokenizer(place, trust_remote_code=trust_remote_code)
            return tokenizer
        except UsageError as error:
            missing.append(str(error))
    raise UsageError("; ".join(missing))
