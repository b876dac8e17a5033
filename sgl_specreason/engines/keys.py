"""Owns how the keys of servers are kept out of what is written down. Knows no server. Imports nothing heavy."""

import re
from typing import Any

TELLING = 8
"""A key of at least so many characters stands for nothing else wherever it is found; a shorter one may be a part of a word."""
_OPTION = re.compile(r"(--(?:\w+-)*api-key[= ]+)(?:'[^']*'|\"[^\"]*\"|\S+)")


def without_keys(said: Any, api_key: str | None) -> Any:
    """What a server says of itself, without keys: SGLang also tells them in its parts and its command line (0.5.23)."""
    if isinstance(said, dict):
        return {name: without_keys(value, api_key) for name, value in said.items() if "api_key" not in name}
    if isinstance(said, list):
        return [without_keys(value, api_key) for value in said]
    return blacked(said, api_key or "") if isinstance(said, str) else said


def blacked(text: str, api_key: str) -> str:
    """`text` without this key, and without any that an option or a setting in it gives."""
    if api_key and text == api_key:
        return "[key]"
    text = _OPTION.sub(r"\1[key]", text)
    if not api_key:
        return text
    setting = rf"(api_key['\"]?\s*[=:]\s*)(['\"]?){re.escape(api_key)}\2(?![\w-])"
    text = re.sub(setting, r"\1[key]", text)
    return text.replace(api_key, "[key]") if len(api_key) >= TELLING else text
