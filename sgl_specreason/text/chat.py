"""Owns how a model's own chat template opens a thought and frames a judge turn. Knows no engine."""

from dataclasses import dataclass
from functools import cached_property

from sgl_specreason.errors import UsageError
from sgl_specreason.text.prompts import PLACEHOLDERS, PromptSet
from sgl_specreason.text.steps import Author
from sgl_specreason.text.tokenizers import Tokenizer, load_tokenizer


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """How one model's chat template opens a thought and frames a judge turn, as raw text to append.

    A conversation is rendered once and only appended to afterwards: rendering it again would rewrite
    its history (Qwen3 puts an empty think block before a continued message, R1's template drops the thought).
    """

    tokenizer: Tokenizer
    think_start: str = "<think>"
    think_end: str = "</think>"

    def prompt(self, content: str) -> str:
        """The user's turn and the assistant's opening, up to and with the opening think tag."""
        text = self._render([{"role": "user", "content": content}], add_generation_prompt=True)
        if text.rstrip().endswith(self.think_start):
            return text
        return f"{text}{self.think_start}\n"

    def content(self, prompt: str) -> slice:
        """Where in a `prompt` the user's message stands: what is between the words that every prompt of this model has.

        Raises UsageError where the chat template does not show a message exactly once.
        """
        before, after = self._around
        start = _alike(before, prompt)
        return slice(start, len(prompt) - _alike(after[::-1], prompt[start:][::-1]))

    @cached_property
    def _around(self) -> tuple[str, str]:
        mark = "a question of the user"
        parts = self.prompt(mark).split(mark)
        if len(parts) != 2:
            raise UsageError(f"the model's chat template shows the user's message {len(parts) - 1} times, not once")
        return parts[0], parts[1]

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

    @cached_property
    def _frames(self) -> tuple[str, str]:
        """The text between an assistant's message and the next user's, and between that and a reply that has begun."""
        marks = ["first question", "first answer", "second question", "second answer"]
        roles = ["user", "assistant"] * 2
        text = self._render([{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)])
        try:
            after_answer = text.split(marks[1])[1].split(marks[2])[0]
            before_reply = text.split(marks[2])[1].split(marks[3])[0]
        except IndexError:
            raise UsageError("the model's chat template does not show a conversation of two turns") from None
        return after_answer, before_reply

    def _render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=True,
            )
        except (ValueError, TemplateError) as error:
            raise UsageError(f"the model's chat template cannot be used: {error}") from None
        return str(text)


def _alike(text: str, other: str) -> int:
    """How many characters they have in common at the beginning."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((at for at, (ours, theirs) in pairs if ours != theirs), min(len(text), len(other)))


def load_chats(
    models: dict[Author, str], think_tags: tuple[str, str], *, trust_remote_code: bool
) -> dict[Author, ChatFormat]:
    """Each model's own chat format. Raises UsageError where a tokenizer is missing."""
    start, end = think_tags
    tokenizers = {role: load_tokenizer(model, trust_remote_code=trust_remote_code) for role, model in models.items()}
    return {
        role: ChatFormat(tokenizer=tokenizer, think_start=start, think_end=end)
        for role, tokenizer in tokenizers.items()
    }
