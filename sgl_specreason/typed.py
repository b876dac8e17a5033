"""Owns data from outside as types (msgspec), and how to say where they do not fit. Knows no files."""

import difflib
import re
import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

T = TypeVar("T")
SHOWN = 60
LARGEST = 1e15
Number = Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
"""A number that is finite and not huge."""
WORDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "array": "a list",
    "object": "a table", "null": "nothing",
}  # fmt: skip
_PLACE = re.compile(r"\.(\w+)|\[(\d+)\]|\[\.\.\.\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`")
_MISSING = re.compile(r"Object missing required field `(.*?)`")


class Misfit(ValueError):
    """Data that are not of the type that was asked for; the message begins with where: "steps[2].tokens = 'x': wants ..."."""


def typed(data: Any, shape: type[T], name: str = "") -> T:
    """`data`, the one called `name`, as a `shape`: tables become structs, checked. Raises Misfit."""
    try:
        return msgspec.convert(data, shape)
    except msgspec.ValidationError as error:
        raise Misfit(flaw(error, data, shape, name)) from None


def flaw(error: msgspec.ValidationError, data: Any, shape: Any, name: str = "") -> str:
    """What msgspec found wrong with `data`, in words that name the place, the value and what is wanted there."""
    message, _, path = str(error).partition(" - at ")
    a_key, value, of = path.startswith("`key`"), data, shape
    for place in _PLACE.finditer(path.partition("$")[2]):
        value, of, step = _inside(value, _members(of), place)
        name += step
    name = name.lstrip(".")
    if found := _UNKNOWN.match(message):
        return _unknown(
            name, found[1], [key for member in _members(of) for key in getattr(member, "__struct_fields__", ())]
        )
    if found := _MISSING.match(message):
        return f"{name}.{found[1]} is missing".lstrip(".")
    if a_key:
        known = get_args(get_args(_members(of)[0])[0])
        return _unknown(name, next(key for key in value if key not in known), known)
    if isinstance(value, list) and "length" in message:
        return f"{name}: wants {_range(of, 'length')} values, not {len(value)}".lstrip(": ")
    text = repr(value)
    return f"{name} = {text if len(text) <= SHOWN else text[:SHOWN] + '...'}: wants {_wanted(message, of)}".lstrip(" =")


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?" with what is close to `name`, or the whole list."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; there are {', '.join(names)}"


def _unknown(where: str, key: str, known: Iterable[str]) -> str:
    return f"unknown key {f'{where}.{key}'.lstrip('.')!r}{nearest(key, known)}"


def _members(shape: Any) -> list[Any]:
    """The types that a value may have, without None and what is annotated."""
    if get_origin(shape) is Annotated:
        return _members(get_args(shape)[0])
    if get_origin(shape) in (Union, types.UnionType):
        return [part for member in get_args(shape) if member is not types.NoneType for part in _members(member)]
    return [shape]


def _inside(value: Any, members: list[Any], place: re.Match[str]) -> tuple[Any, Any, str]:
    """One step into the data: the value there, its type, and the step in words. In a table, of the first misfit."""
    if place[1]:
        owner = next(member for member in members if place[1] in getattr(member, "__struct_fields__", ()))
        return value[place[1]], get_type_hints(owner, include_extras=True)[place[1]], f".{place[1]}"
    kind = list if place[2] else dict
    of = next(get_args(member)[-1] for member in members if get_origin(member) is kind)
    if place[2]:
        return value[int(place[2])], of, place[0]
    key = next(key for key in value if not _fits(value[key], of))
    return value[key], of, f".{key}"


def _fits(value: Any, shape: Any) -> bool:
    try:
        msgspec.convert(value, shape)
    except msgspec.ValidationError:
        return False
    return True


def _wanted(message: str, shape: Any) -> str:
    """What msgspec expected, in plain words."""
    choices = [
        str(choice) for member in _members(shape) if get_origin(member) is Literal for choice in get_args(member)
    ]
    if choices:
        return f"one of {', '.join(choices)}"
    if not (found := re.match(r"Expected `(.*?)`(, got)?", message)):
        return "a smaller number" if "out of range" in message else message
    if not found[2]:
        return _range(shape, "value")
    return " or ".join(WORDS.get(kind, kind) for kind in found[1].split(" | ") if kind != "null")


def _range(shape: Any, what: Literal["value", "length"]) -> str:
    """The limits of a value, or of a list's length: "at least 1", "0 to 9", "2"."""
    limits = next(extra for extra in get_args(shape)[1:] if isinstance(extra, msgspec.Meta))
    low, high = (limits.ge, limits.le) if what == "value" else (limits.min_length, limits.max_length)
    if low is None and limits.gt is not None:
        return f"more than {limits.gt:g}"
    if high == LARGEST:
        return "a number"
    if low == high:
        return f"{low}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}" if low is not None else f"at most {high:g}"
