"""Owns what is asked of a model's tokenizer, and its loading. Knows no engine."""

import difflib
import os
import re
from pathlib import Path
from typing import Any, Protocol

from sgl_specreason.errors import UsageError, one_line
from sgl_specreason.text import hub

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "config.json")


class Tokenizer(Protocol):
    """What is asked of a Hugging Face tokenizer here."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any: ...
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...
    def decode(self, token_ids: list[int]) -> str: ...


def load_tokenizer(model: str, *, trust_remote_code: bool = False) -> Any:
    """The Hugging Face tokenizer of `model` (a folder or a hub id). Raises UsageError if there is none."""
    if words := no_model(model):
        raise UsageError(f"no tokenizer for model {model}: {words}")
    trouble = "" if os.path.isdir(model) else hub.trouble()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    except Exception as error:  # what a model's files hold may break the library in any way
        words = f"it is not on this machine, {trouble}" if trouble and isinstance(error, OSError) else one_line(error)
        raise UsageError(f"no tokenizer for model {model}{_files(model)}: {words}{near(model)}") from None


def no_model(model: str) -> str:
    """Why a name can be neither a model's folder here nor its id on the hub; "" where it can."""
    if os.path.isdir(model):
        return ""
    if os.path.exists(model):
        return "it is a file; a model is a folder, or an id on the hub"
    if _HUB_ID.fullmatch(model):
        return ""
    as_id = "" if model.startswith(("/", ".", "~")) else ", and it is no id on the hub (org/name) either"
    return f"there is no such folder{as_id}{near(model)}"


def near(model: str) -> str:
    """The folders under a name like it, where it is none itself."""
    path = Path(model)
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        return ""
    names = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    close = difflib.get_close_matches(path.name, names, n=2, cutoff=0.75)
    return f"; did you mean the folder {' or '.join(str(path.parent / name) for name in close)}?" if close else ""


def _files(model: str) -> str:
    """Those of a folder's files that hold its tokenizer."""
    found = [name for name in FILES if os.path.isfile(Path(model) / name)]
    return f" ({', '.join(found)})" if found else ""
