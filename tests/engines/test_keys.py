"""Keys of servers are in nothing that is written down, and nothing else is blacked out for them."""

import pytest

from sgl_specreason.engines.keys import blacked, without_keys

LONG, SHORT = "0123456789abcdef", "1"
SAID = {
    "api_key": "KEY",
    "version": "0.5.11",
    "command": "launch --port 1 --api-key KEY --host 1",
    "args": ["--api-key=KEY", "--admin-api-key 'KEY'", "port 1"],
    "words": "ServerArgs(port=1, api_key='KEY', tp=1, other_api_key=None)",
    "alone": "KEY",
}


@pytest.mark.parametrize("key", [LONG, SHORT])
def test_no_key_is_in_what_a_server_says(key: str) -> None:
    said = {
        name: [word.replace("KEY", key) for word in value] if isinstance(value, list) else value.replace("KEY", key)
        for name, value in SAID.items()
    }
    assert without_keys(said, key) == {
        "version": "0.5.11",
        "command": "launch --port 1 --api-key [key] --host 1",
        "args": ["--api-key=[key]", "--admin-api-key [key]", "port 1"],
        "words": "ServerArgs(port=1, api_key=[key], tp=1, other_api_key=None)",
        "alone": "[key]",
    }


def test_a_long_key_is_found_wherever_it_stands() -> None:
    assert blacked(f"Bearer {LONG}, {LONG}x", LONG) == "Bearer [key], [key]x"
    assert blacked("nothing to hide", "") == "nothing to hide"


@pytest.mark.parametrize("key", ["a", "-", "x.*", "\\1"])
def test_a_short_key_changes_no_other_word(key: str) -> None:
    words = "a version of 0.1 - x.*, \\1 and more"
    assert blacked(words, key) == words
    assert blacked(f"api_key={key}, a=1", key) == "api_key=[key], a=1"
