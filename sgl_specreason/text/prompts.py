"""Owns the prompt templates: the texts that a user edits.

Knows nothing of models. Templates are the files of `prompts/`: text with `{{name}}` placeholders, nothing
else is special. A file's last newline is not part of its text.
"""

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from sgl_specreason.errors import UsageError
from sgl_specreason.paths import find

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
