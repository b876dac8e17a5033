"""Owns what is asked of a model's tokenizer, and its loading. Knows no engine."""

from typing import Any, Protocol

from sgl_specreason.errors import UsageError


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
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"no tokenizer for model {model}: {first}") from None
