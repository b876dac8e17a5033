"""Owns how the `messages` of a request become a conversation. Knows no template.

What a model thought in earlier turns is dropped. Here: the fields that clients send it back in, which nobody reads
(reasoning_content, reasoning, reasoning_details, thinking). A thought at the beginning of a content is dropped where the think
tags are known (`ChatFormat.opening`).
"""

from collections.abc import Iterator
from typing import Any, Literal, get_args

from sgl_specreason.server.fields import checked
from sgl_specreason.server.refusal import invalid, unsupported_content
from sgl_specreason.text.conversation import Message

Role = Literal["system", "user", "assistant"]
ROLES: dict[str, Role] = {role: role for role in get_args(Role)} | {"developer": "system"}
TOOLS = ("tool", "function")
CALLS = ("tool_calls", "function_call", "audio")
TEXT = ("text", "input_text")
MOST_MESSAGES, MOST_PARTS = 10_000, 10_000


def read_messages(messages: object) -> tuple[Message, ...]:
    """The conversation. Raises Refusal that names the first message that cannot be read."""
    if messages is None:
        raise invalid("messages is missing", param="messages")
    entries = checked(messages, list[Any], "messages")
    if not 1 <= len(entries) <= MOST_MESSAGES:
        raise invalid(f"messages: wants 1 to {MOST_MESSAGES} messages, not {len(entries)}", param="messages")
    found = tuple(_message(entry, f"messages[{number}]") for number, entry in enumerate(entries))
    if found[-1].role == "assistant":
        raise unsupported_content(
            f"messages[{len(found) - 1}]",
            "the last message is the assistant's own, and a reply that has begun is not continued",
        )
    return found


def _message(entry: object, name: str) -> Message:
    table = checked(entry, dict[str, Any], name)
    given = table.get("role")
    if given in TOOLS:
        raise unsupported_content(f"{name}.role", "these models call no tools")
    role = ROLES[checked(given, Literal["system", "developer", "user", "assistant"], f"{name}.role")]
    for call in CALLS:
        if table.get(call):
            raise unsupported_content(f"{name}.{call}", "these models call no tools and do not speak")
    content = table.get("content")
    if content is None and role != "assistant":
        raise invalid(f"{name}.content is missing", param=f"{name}.content")
    return Message(role, _text(content, f"{name}.content"))


def _text(content: object, name: str) -> str:
    if content is None:
        return ""
    if isinstance(content, list):
        if len(content) > MOST_PARTS:
            raise invalid(f"{name}: wants at most {MOST_PARTS} parts, not {len(content)}", param=name)
        return "\n".join(_parts(content, name))
    text: str = checked(content, str, name)
    return text


def _parts(content: list[object], name: str) -> Iterator[str]:
    for number, part in enumerate(content):
        table = checked(part, dict[str, Any], f"{name}[{number}]")
        if table.get("type") not in TEXT:
            raise unsupported_content(f"{name}[{number}]", "these models read text only")
        yield checked(table.get("text"), str, f"{name}[{number}].text")
