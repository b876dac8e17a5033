"""Owns whether data from a file have the shape that a type says, and how to say where they have not (pure). Knows no files."""

import math
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

Check = Callable[[Any], str | None]
"""None where a value fits, else what is wrong, beginning with where: ".steps[2].tokens = 'x': wants a whole number"."""
LARGEST_INT, LARGEST_FLOAT = 2**63 - 1, 1e15
SHOWN = 60


@dataclass(frozen=True, slots=True)
class Within:
    """The range of a number, or of a list's length: `Annotated[int, Within(1)]`."""

    low: float
    high: float = math.inf


def flaw(value: Any, shape: Any, name: str = "") -> str | None:
    """What keeps `value`, the one called `name`, from being a `shape`, in words; None where it is one.

    `shape` is built of str, bool, int, float (both finite and not huge), None, Any, Literal, |, list, dict[str, ...], TypedDict
    and Annotated with Within or with a further shape. A TypedDict's unknown keys are not looked at.
    """
    found = _checker(shape)(value)
    return None if found is None else (name + found).lstrip(" =.:")


@cache
def _checker(shape: Any) -> Check:
    origin, args = get_origin(shape), get_args(shape)
    if shape is Any:
        return lambda value: None
    if is_typeddict(shape):
        return _table(shape)
    if origin is Annotated:
        return _all([_checker(args[0]), *map(_further, args[1:])])
    if origin is Literal:
        return lambda value: None if value in args else _wants(value, f"one of {', '.join(map(str, args))}")
    if origin in (Union, types.UnionType):
        return _either(args)
    if origin is list:
        return _list(_checker(args[0]))
    if origin is dict:
        return _dict(_checker(args[1]))
    return _PLAIN[shape]


def _wants(value: Any, words: str) -> str:
    text = repr(value)
    return f" = {text if len(text) <= SHOWN else text[:SHOWN] + '...'}: wants {words}"


def _plain(fits: Callable[[Any], bool], words: str) -> Check:
    return lambda value: None if fits(value) else _wants(value, words)


_PLAIN: dict[Any, Check] = {
    str: _plain(lambda value: type(value) is str, "text"),
    bool: _plain(lambda value: type(value) is bool, "true or false"),
    int: _plain(lambda value: type(value) is int and abs(value) <= LARGEST_INT, "a whole number"),
    float: _plain(lambda value: type(value) in (int, float) and abs(value) <= LARGEST_FLOAT, "a number"),
    types.NoneType: _plain(lambda value: value is None, "nothing"),
}


def _further(extra: Any) -> Check:
    if not isinstance(extra, Within):
        return _checker(extra)
    words = f"at least {extra.low:g}" if extra.high == math.inf else f"{extra.low:g} to {extra.high:g}"

    def check(value: Any) -> str | None:
        if isinstance(value, list):
            return None if extra.low <= len(value) <= extra.high else f": wants {words} values, not {len(value)}"
        return None if extra.low <= value <= extra.high else _wants(value, words)

    return check


def _all(checks: list[Check]) -> Check:
    return lambda value: next((found for check in checks if (found := check(value)) is not None), None)


def _either(shapes: tuple[Any, ...]) -> Check:
    checks = [_checker(shape) for shape in shapes]

    def check(value: Any) -> str | None:
        found = [one(value) for one in checks]
        if None in found:
            return None
        words = [str(flaw).rpartition(": wants ")[2] for flaw in found if flaw]
        return _wants(value, " or ".join(word for word in words if word != "nothing"))

    return check


def _list(item: Check) -> Check:
    def check(value: Any) -> str | None:
        if type(value) is not list:
            return _wants(value, "a list")
        return next((f"[{at}]{found}" for at, one in enumerate(value) if (found := item(one)) is not None), None)

    return check


def _dict(item: Check) -> Check:
    def check(value: Any) -> str | None:
        if type(value) is not dict:
            return _wants(value, "a table")
        return next((f".{key}{found}" for key, one in value.items() if (found := item(one)) is not None), None)

    return check


def _table(shape: Any) -> Check:
    checks = {key: _checker(hint) for key, hint in get_type_hints(shape, include_extras=True).items()}
    required = shape.__required_keys__

    def check(value: Any) -> str | None:
        if type(value) is not dict:
            return _wants(value, "a table")
        for key, one in checks.items():
            if key in value:
                if (found := one(value[key])) is not None:
                    return f".{key}{found}"
            elif key in required:
                return f".{key} is missing"
        return None

    return check
