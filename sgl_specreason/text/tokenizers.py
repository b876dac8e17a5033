"""Owns what is asked of a model's tokenizer, and its loading. Knows no engine."""

import os
from pathlib import Path
from typing import Any, Protocol

from sgl_specreason.errors import UsageError, one_line

FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "config.json")


class Tokenizer(Protocol):
    """What is asked of a Hugging Face tokenizer here."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any: ...
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...
    def decode(self, token_ids: list[int]) -> str: ...


def load_tokenizer(model: str, *, trust_remote_code: bool = False) -> Any:
    """The Hugging Face tokenizer of `model` (a folder or a hub id). Raises UsageError if there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    except Exception as error:  # what a model's files hold may break the library in any way
        raise UsageError(f"no tokenizer for model {model}{_files(model)}: {one_line(error)}") from None


def _files(model: str) -> str:
    """Those of a folder's files that hold its tokenizer."""
    found = [name for name in FILES if os.path.isfile(Path(model) / name)]
    return f" ({', '.join(found)})" if found else ""
