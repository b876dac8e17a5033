"""Data from outside become structs, or one line says where they do not fit: never anything else."""

import datetime
import json
import math
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct

from sgl_specreason.errors import UsageError
from sgl_specreason.typed import Count, Misfit, Number, Positive, flaw, nearest, typed


class Step(Struct, frozen=True, kw_only=True):
    """Unknown keys are passed over."""

    tokens: Count
    by: Literal["base", "small"] = "base"
    digits: Annotated[list[Annotated[float, Meta(ge=0, le=1)]], Meta(min_length=2, max_length=2)] = []

    def __post_init__(self) -> None:
        if self.tokens == 13:
            raise ValueError("13 tokens bring no luck")


class Thing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    title: str
    count: Positive = 1
    share: Annotated[float, Meta(gt=0)] = 1.0
    below: Annotated[float, Meta(lt=5)] = 1.0
    most: Annotated[int, Meta(le=9)] = 1
    number: Number = 1.0
    flag: bool = False
    level: Literal["auto"] | Positive = 1
    value: int | float | str | None = None
    tags: tuple[str, str] = ("a", "b")
    names: Annotated[list[str], Meta(min_length=1, max_length=9)] | str = "x"
    code: Annotated[str, Meta(min_length=2)] = "xx"
    args: dict[Literal["base", "small"], list[str]] = {}
    held: dict[str, Step] = {}
    steps: list[Step] = []
    series: tuple[Count, ...] = ()
    inner: Step | None = None
    free: Any = None


def said(**data: Any) -> str:
    with pytest.raises(Misfit) as misfit:
        typed({"title": "x"} | data, Thing)
    return str(misfit.value)


STEP = {"tokens": 3}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"titel": 1}, "unknown key 'titel'; did you mean title?"),
    "unknown key like none": ({"zzzz": 1}, "unknown key 'zzzz'; there are args, below, code,"),
    "unknown key like a place": ({"x` - at `$.steps[7]": 1}, "unknown key 'x` - at `$.steps[7]'; there are args,"),
    "unknown key like a key": ({"x` - at `key` in `$.args": 1}, "unknown key 'x` - at `key` in `$.args'; there are args,"),
    "wrong type": ({"title": 3}, "title = 3: wants text"),
    "a number in words": ({"number": "fast"}, "number = 'fast': wants a number"),
    "a truth is no number": ({"count": True}, "count = True: wants a whole number"),
    "a fraction": ({"count": 1.0}, "count = 1.0: wants a whole number"),
    "a flag": ({"flag": 1}, "flag = 1: wants true or false"),
    "a date": ({"count": datetime.date(2020, 1, 1)}, "count = datetime.date(2020, 1, 1): wants a whole number"),
    "too low": ({"count": 0}, "count = 0: wants at least 1"),
    "just too low": ({"share": 0.0}, "share = 0.0: wants more than 0"),
    "just too high": ({"below": 5}, "below = 5: wants less than 5"),
    "too high": ({"most": 10}, "most = 10: wants at most 9"),
    "a huge whole number": ({"count": 10**30}, "count = 1000000000000000000000000000000: wants a smaller number"),
    "a number of 400 digits": ({"number": -(10**400)}, "wants a larger number"),
    "a number that Python does not write": ({"count": 10**5000}, "a number of too many digits: wants a smaller number"),
    "not a number": ({"number": math.nan}, "number = nan: wants a number"),
    "infinite": ({"number": -math.inf}, "number = -inf: wants a finite number"),
    "a range": ({"inner": {"tokens": 1, "digits": [0, 1.5]}}, "inner.digits[1] = 1.5: wants 0 to 1"),
    "a fixed length": ({"inner": {"tokens": 1, "digits": [0]}}, "inner.digits: wants 2 values, not 1"),
    "a length": ({"names": []}, "names: wants 1 to 9 values, not 0"),
    "a pair": ({"tags": ["a"] * 3}, "tags: wants 2 values, not 3"),
    "a member of a pair": ({"tags": ["a", 1]}, "tags[1] = 1: wants text"),
    "a member of a series": ({"series": [1, -1]}, "series[1] = -1: wants at least 0"),
    "a short text": ({"code": "x"}, "code = 'x': wants at least 2 characters"),
    "one of several": ({"inner": {"tokens": 1, "by": "bas"}}, "inner.by = 'bas': wants one of base, small; did you mean base?"),
    "one of several, of a type": ({"inner": {"tokens": 1, "by": [1]}}, "inner.by = [1]: wants one of base, small"),
    "a word or a number": ({"level": "x"}, "level = 'x': wants auto or a whole number"),
    "a list or text": ({"names": 3}, "names = 3: wants a list or text"),
    "a union": ({"value": []}, "value = []: wants a number or text"),
    "a table's key": ({"args": {"bsae": []}}, "unknown key 'args.bsae'; did you mean base?"),
    "a key that is no text": ({"args": {3: []}}, "unknown key 'args.3'; there are base, small"),
    "a table's value": ({"args": {"base": [], "small": "x"}}, "args.small = 'x': wants a list"),
    "in a table's value": ({"args": {"base": ["x", 1]}}, "args.base[1] = 1: wants text"),
    "in a table of tables": ({"held": {"a": STEP, "b.c": {"tokens": -1}}}, "held.b.c.tokens = -1: wants at least 0"),
    "in a list of tables": ({"steps": [STEP, {"tokens": 1.5}]}, "steps[1].tokens = 1.5: wants a whole number"),
    "missing in a list of tables": ({"steps": [STEP, {}]}, "steps[1].tokens is missing"),
    "a list": ({"steps": "x"}, "steps = 'x': wants a list"),
    "a table": ({"inner": "x"}, "inner = 'x': wants a table"),
    "a table's own words": ({"steps": [{"tokens": 13}]}, "steps[0]: 13 tokens bring no luck"),
    "half a character": ({"\ud800": 1}, "'\\ud800' is no text"),
    "a long value": ({"title": ["x" * 500] * 500}, "..."),
}  # fmt: skip


@pytest.mark.parametrize(("data", "words"), WRONG.values(), ids=WRONG)
def test_the_place_the_value_and_what_is_wanted_are_named(data: dict[str, Any], words: str) -> None:
    found = said(**data)
    assert found.startswith(words) or words == "..." or found.endswith(words), found
    assert len(found) < 250


def test_what_is_not_a_table_at_all() -> None:
    for data, words in (([], "[]"), (None, "None"), ("x", "'x'"), (3, "3")):
        with pytest.raises(Misfit, match="wants a table") as misfit:
            typed(data, Thing)
        assert str(misfit.value) == f"{words}: wants a table"
        with pytest.raises(Misfit, match=r"^config = "):
            typed(data, Thing, "config")


def test_the_name_of_the_data_comes_first() -> None:
    for data, words in (
        ({}, "policy.title is missing"),
        ({"title": "x", "y": 1}, "unknown key 'policy.y'"),
        ({"title": 1}, "policy.title = 1: wants text"),
        ({"title": "x", "\ud800": 1}, "policy: "),
        ({3: "x"}, "policy: the key 3: wants text"),
    ):
        with pytest.raises(Misfit) as misfit:
            typed(data, Thing, "policy")
        assert str(misfit.value).startswith(words)


def test_a_misfit_is_the_users_mistake() -> None:
    """It needs no handling to end a command in one line; from a struct's own check it gets the struct's place."""
    assert issubclass(Misfit, UsageError)

    class Owner(Struct):
        settings: dict[str, Any]

        def __post_init__(self) -> None:
            typed(self.settings, dict[str, int], "settings")

    with pytest.raises(Misfit) as misfit:
        typed([{"settings": {"x": "out of range"}}], list[Owner], "it")
    assert str(misfit.value) == "it[0]: settings.x = 'out of range': wants a whole number"


def test_what_fits_becomes_the_type() -> None:
    thing = typed(
        {"title": "x", "number": 3, "tags": ["<", ">"], "steps": [STEP | {"more": 1}], "free": {"y": []}}, Thing
    )
    assert thing == Thing(title="x", number=3.0, tags=("<", ">"), steps=[Step(tokens=3)], free={"y": []})
    assert typed("x", str | int) == "x"  # type: ignore[arg-type]


def test_an_error_of_decoding_json_is_said_in_the_same_words() -> None:
    text = b'{"title": "x", "steps": [{"tokens": "many"}]}'
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.json.decode(text, type=Thing)
    assert flaw(error.value, json.loads(text), Thing) == "steps[0].tokens = 'many': wants a whole number"


def test_what_is_near_is_asked_for_and_else_everything_listed() -> None:
    assert nearest("treshold", ["threshold", "top_p"]) == "; did you mean threshold?"
    assert nearest("zzz", {"b": 1, "a": 2}) == "; there are a, b"
    assert nearest("zzz", []) == "; there are none"


ODD = ["x` - at `$.steps[7]", "x` - at `key` in `$.args", "[...]", "`"]
KEYS = st.sampled_from([*Thing.__struct_fields__, *Step.__struct_fields__, "base", *ODD])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
VALUES = st.recursive(
    LEAVES | st.sampled_from(["base", 10**400, 13]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
TABLES = st.fixed_dictionaries({"title": st.text()}, optional=dict.fromkeys(Thing.__struct_fields__[1:], VALUES))


@settings(max_examples=500, deadline=None)
@given(VALUES | TABLES, st.sampled_from([Thing, Step, dict[str, Step], list[Thing], str | int, Number]))
def test_anything_is_typed_or_a_misfit_that_names_it(data: Any, shape: Any) -> None:
    words = ""
    try:
        typed(data, shape, "it")
    except Misfit as misfit:
        words = str(misfit)
    assert words.startswith(("it", "unknown key 'it")) or not words


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=4), st.data())
def test_a_misfit_names_the_very_place(table: dict[str, list[Any]], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(table)))
    at = data.draw(st.integers(0, len(table[key])))
    table[key].insert(at, "x")
    with pytest.raises(Misfit) as misfit:
        typed(table, dict[str, list[int]], "it")
    assert str(misfit.value) == f"it.{key}[{at}] = 'x': wants a whole number"
