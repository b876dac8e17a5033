"""Owns how the keys of servers are kept out of what is written down. Knows no server."""

import re
from typing import Any

_OPTION = re.compile(r"(--(?:\w+-)*api-key[= ]+)(?:'[^']*'|\"[^\"]*\"|\S+)")


def without_keys(said: Any, api_key: str | None) -> Any:
    """What a server says of itself, without keys: SGLang also tells them in its parts and its command line (0.5.23)."""
    if isinstance(said, dict):
        return {name: without_keys(value, api_key) for name, value in said.items() if "api_key" not in name}
    if isinstance(said, list):
        return [without_keys(value, api_key) for value in said]
    if not isinstance(said, str):
        return said
    return _OPTION.sub(r"\1[key]", said.replace(api_key, "[key]") if api_key else said)
