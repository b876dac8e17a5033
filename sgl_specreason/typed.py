"""Owns data from outside as types (msgspec), and how to say where they do not fit. Knows no files."""

import difflib
import math
import re
import reprlib
import types
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from sgl_specreason.errors import UsageError

T = TypeVar("T")
SHOWN = 60
LARGEST, LARGEST_COUNT = 1e15, 2**63 - 1
Number = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
"""A number that is finite and not huge."""
Count = Annotated[int, Meta(ge=0, le=LARGEST_COUNT)]
Positive = Annotated[int, Meta(ge=1, le=LARGEST_COUNT)]
KINDS = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", list: "a list", tuple: "a list",
}  # fmt: skip
"""In words; every other type is a table."""
LIMITS = {
    "gt": "more than", "ge": "at least", "min_length": "at least",
    "lt": "less than", "le": "at most", "max_length": "at most",
}  # fmt: skip
_SAID = re.compile(r"(.*?)(?: - at `(key` in `)?(\$[^`]*)`)?\Z", re.DOTALL)
_PLACE = re.compile(r"\.([^.\[]+)|\[(\d+)\]|\[\.\.\.\]")
_FIELD = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.DOTALL)
_KIND = re.compile(r"Expected `[^`]*`, got `|Invalid enum value")
_LENGTH = re.compile(r"Expected `[^`]*` of length (?:[<>]= )?(\d+)")
_RANGE = re.compile(r"Expected `[^`]*` [<>].*|(?:Number|Integer value) out of range")


class Misfit(UsageError, ValueError):
    """Data that are not of the type that was asked for; the message begins with where: "steps[2].tokens = 'x': wants ...".

    Raised by a struct's own check, as any ValueError, it is said of the struct's place.
    """


def typed(data: Any, shape: type[T], name: str = "") -> T:
    """`data`, the one called `name`, as a `shape`: tables become structs, checked. Raises Misfit."""
    try:
        return msgspec.convert(data, shape)
    except msgspec.ValidationError as error:
        raise Misfit(flaw(error, data, shape, name)) from None
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can escape
        raise Misfit(_at(name, f"{_shown(error.object)} is no text")) from None


def flaw(error: msgspec.ValidationError, data: Any, shape: Any, name: str = "") -> str:
    """What msgspec found wrong with `data`, in words that name the place, the value and what is wanted there."""
    message, in_key, path = _SAID.findall(str(error))[0]
    if (found := _FIELD.fullmatch(str(error))) and isinstance(data, dict) and found[2] in data:
        message, path = str(error), ""  # also of a key that looks like a place
    value, of = data, shape
    for place in _PLACE.finditer(path):
        value, of, step = _inside(value, of, place)
        name += step
    name = name.lstrip(".")
    if found := _FIELD.fullmatch(message):
        key = f"{name}.{found[2]}".lstrip(".")
        return f"{key} is missing" if "missing" in found[1] else _unknown(key, found[2], _fields(of))
    if in_key:
        return _of_key(name, value, of)
    if found := _LENGTH.match(message):
        words = _limits(of, "min_length", "max_length") or found[1]
        if isinstance(value, str):
            return f"{_is(name, value)}: wants {words} character{_s(words)}"
        return _at(name, f"wants {words} value{_s(words)}, not {len(value)}")
    if _KIND.match(message):
        close = _close(value, _choices(of)) if isinstance(value, str) else ""
        return f"{_is(name, value)}: wants {_kinds(of)}{close}"
    if _RANGE.fullmatch(message):
        return f"{_is(name, value)}: wants {_range(of, value)}"
    return _at(name, message)  # a struct's own words


def _s(words: str) -> str:
    """The ending of a noun after a number in words: "at least 1"."""
    return "" if words.split()[-1] == "1" else "s"


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?" with what is close to `name`, or the whole list."""
    names = sorted(known)
    return _close(name, names) or f"; there are {', '.join(names) or 'none'}"


def _close(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _inside(value: Any, shape: Any, place: re.Match[str]) -> tuple[Any, Any, str]:
    """One step into the data: the value there, its type, and the step in words. In a dict, to the first misfit."""
    field, index = place.groups()
    for member in _members(shape):
        kind, of = get_origin(member), get_args(member)
        if field and isinstance(value, dict) and field in value and field in _fields(member):
            return value[field], _fields(member)[field], place[0]
        if index and isinstance(value, list | tuple) and kind in (list, tuple):
            return value[int(index)], of[0] if kind is list or of[-1] is ... else of[int(index)], place[0]
        if place[0] == "[...]" and isinstance(value, dict) and kind is dict:
            key = next(key for key in value if not _fits(value[key], of[1]))
            return value[key], of[1], f".{key}"
    raise AssertionError(f"{place[0]} of {shape}")


def _of_key(name: str, table: dict[Any, Any], shape: Any) -> str:
    """What is wrong with the first key that does not fit."""
    of = next((get_args(member)[0] for member in _members(shape) if get_origin(member) is dict), str)
    key = next(key for key in table if not _fits(key, of))
    if get_origin(of) is Literal:
        return _unknown(f"{name}.{key}".lstrip("."), str(key), map(str, get_args(of)))
    return _at(name, f"the key {_shown(key)}: wants {_kinds(of)}")


def _unknown(place: str, key: str, known: Iterable[str]) -> str:
    return f"unknown key {_shown(place)}{nearest(key, known)}"


def _at(name: str, words: str) -> str:
    return f"{name}: {words}" if name else words


def _is(name: str, value: Any) -> str:
    return f"{name} = {_shown(value)}" if name else _shown(value)


def _shown(value: Any) -> str:
    """The value as Python writes it, not longer than SHOWN; of deep and long ones, no more is looked at than is shown."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = SHOWN
    try:
        text = short.repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of too many digits"
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _members(shape: Any) -> list[Any]:
    """The types that a value may have, without None and what is annotated."""
    if get_origin(shape) is Annotated:
        return _members(get_args(shape)[0])
    if get_origin(shape) in (Union, types.UnionType):
        return [part for member in get_args(shape) if member is not types.NoneType for part in _members(member)]
    return [shape]


def _metas(shape: Any) -> Iterator[Meta]:
    """The limits that a type has, or its members."""
    if get_origin(shape) is Annotated:
        yield from (extra for extra in get_args(shape)[1:] if isinstance(extra, Meta))
    if get_origin(shape) in (Annotated, Union, types.UnionType):
        for member in get_args(shape):
            yield from _metas(member)


def _fields(shape: Any) -> dict[str, Any]:
    """The types of the keys of a table that becomes a struct."""
    found: dict[str, Any] = {}
    for member in _members(shape):
        if hasattr(member, "__struct_fields__"):
            hints = get_type_hints(member, include_extras=True)
            names = zip(member.__struct_encode_fields__, member.__struct_fields__, strict=True)
            found |= {key: hints[name] for key, name in names}
    return found


def _fits(value: Any, shape: Any) -> bool:
    try:
        msgspec.convert(value, shape)
    except msgspec.ValidationError:
        return False
    return True


def _choices(shape: Any) -> list[str]:
    """The values of a type that is one of several."""
    return [str(value) for member in _members(shape) if get_origin(member) is Literal for value in get_args(member)]


def _kinds(shape: Any) -> str:
    """The types that a value may have, in words."""
    choices = _choices(shape)
    words = [f"one of {', '.join(choices)}" if len(choices) > 1 else choice for choice in choices[:1]]
    kinds = [get_origin(member) or member for member in _members(shape)]
    words += [
        KINDS.get(kind, "a table") for kind in kinds if kind is not Literal and (kind is not int or float not in kinds)
    ]
    return " or ".join(dict.fromkeys(words))


def _range(shape: Any, value: float) -> str:
    """The limits of a number, without those that only keep out huge ones, unless it is one."""
    if abs(value) == math.inf:
        return "a finite number"
    if value > LARGEST and not _limits(shape, "lt", "le"):
        return "a smaller number"
    if value < -LARGEST and not _limits(shape, "gt", "ge"):
        return "a larger number"
    return _limits(shape, "gt", "ge", "lt", "le") or "a number"


def _limits(shape: Any, *names: str) -> str:
    """Those of the type's limits with these names, in words: "at least 1", "0 to 9", "2"."""
    found = {name: limit for meta in _metas(shape) for name in names if (limit := getattr(meta, name)) is not None}
    limits = {name: f"{limit:.15g}" for name, limit in found.items() if abs(limit) < LARGEST}
    if len(limits) == 2 and not limits.keys() & {"gt", "lt"}:
        return " to ".join(dict.fromkeys(limits.values()))
    return " and ".join(f"{LIMITS[name]} {limit}" for name, limit in limits.items())
