"""Owns the prompt templates and how a model's own chat template wraps them.

Knows nothing of engines. Templates are the files of `prompts/`: text with `{{name}}` placeholders, nothing
else is special. A file's last newline is not part of its text.
"""

import hashlib
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from sgl_specreason.errors import UsageError
from sgl_specreason.paths import find
from sgl_specreason.policy import Author

PLACEHOLDERS: dict[str, tuple[str, ...]] = {
    "math": ("problem",),
    "choice": ("problem", "choices"),
    "judge": (),
    "judge_answer": ("score",),
    "judge_binary": (),
    "judge_binary_answer": ("verdict",),
    "close": ("think_end",),
}
_PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}")


class Tokenizer(Protocol):
    """What is asked of a Hugging Face tokenizer here."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any: ...
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...
    def decode(self, token_ids: list[int]) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One file of `prompts/`, checked: it has the placeholders its call needs and no others.

    A placeholder is a name and nothing else: it is looked up, never run. Raises UsageError that names file and placeholder.
    """

    name: str
    text: str
    source: str

    def __post_init__(self) -> None:
        wanted = PLACEHOLDERS[self.name]
        for found in _PLACEHOLDER.findall(self.text):
            if found not in wanted:
                known = ", ".join(f"{{{{{name}}}}}" for name in wanted) or "none"
                raise UsageError(f"{self.source}: unknown placeholder {{{{{found}}}}}; known here: {known}")
        for name in wanted:
            if not re.search(r"\{\{\s*" + name + r"\s*\}\}", self.text):
                raise UsageError(f"{self.source}: the placeholder {{{{{name}}}}} is missing")
        if self.name.endswith("_answer") and not re.search(r"\{\{\s*" + wanted[0] + r"\s*\}\}\Z", self.text):
            raise UsageError(f"{self.source}: {{{{{wanted[0]}}}}} must be the last thing in the file")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def fill(self, **values: str) -> str:
        """The text with each placeholder replaced once; values are never expanded again."""
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """All templates of one run and the folder they came from."""

    folder: Path
    templates: dict[str, Template] = field(repr=False)

    def __getitem__(self, name: str) -> Template:
        return self.templates[name]

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 of each template's text, for the run's record."""
        return {name: template.sha256 for name, template in sorted(self.templates.items())}


def load_prompts(folder: Path | None = None) -> PromptSet:
    """The templates of `folder`, or of the first `prompts/` that the look-up order of the design finds.

    Raises UsageError for a missing folder or file, and for bad placeholders.
    """
    where = folder or find("prompts")
    if not os.path.isdir(where):
        raise UsageError(f"--prompts {where}: no such folder")
    templates = {}
    for name in PLACEHOLDERS:
        path = where / f"{name}.txt"
        try:
            text = path.read_text(encoding="utf-8").removesuffix("\n")
        except FileNotFoundError:
            raise UsageError(f"{path}: this template is missing; copy it from the packaged prompts") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: cannot be read as UTF-8 text: {error}") from None
        templates[name] = Template(name=name, text=text, source=str(path))
    return PromptSet(folder=where, templates=templates)


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


def load_tokenizer(model: str, *, trust_remote_code: bool = False) -> Any:
    """The Hugging Face tokenizer of `model` (a folder or a hub id). Raises UsageError if there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"no tokenizer for model {model}: {first}") from None
