"""Damaged files of every kind, generated: a command does what was asked for or says in one line why not, and never crashes."""

import json
import shutil
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from click.testing import Result
from command_line import invoke
from hypothesis import strategies as st
from run_folders import record
from user_files import BENCH, PAIR, PRESET, ROW, SWEEP, run, written

from sgl_specreason.engines import keeper
from sgl_specreason.plan import gpus
from sgl_specreason.text.prompts import PLACEHOLDERS, load_prompts


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpus, "found", list)
    monkeypatch.delenv("SPECREASON_DATA", raising=False)
    monkeypatch.delattr(keeper.Keeper, "start")
    monkeypatch.chdir(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
LITERALS = [
    '"x"',
    "1",
    "-1",
    "0.5",
    "nan",
    "true",
    "[]",
    "{}",
    '["a"]',
    "[1]",
    "[[]]",
    "1979-05-27",
    '"demo"',
    '"\\u0000"',
]
TOML = st.sampled_from(LITERALS)


def parts(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is anything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in parts(one, (*path, key)))]


@st.composite
def damaged(draw: st.DrawFn, whole: Any) -> Any:
    """A JSON value in which one or two parts are something else, or missing."""
    whole = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 2))):
        places = [place for place in parts(whole) if place]
        *above, last = draw(st.sampled_from(places))
        holder = whole
        for key in above:
            holder = holder[key]
        if draw(st.booleans()):
            holder[last] = draw(JSON)
        else:
            del holder[last]
    return whole


@st.composite
def bytes_like(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes that are nothing, or the whole ones with a piece of them replaced."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=64))
    begin = draw(st.integers(0, len(whole)))
    end = draw(st.integers(begin, min(len(whole), begin + 20)))
    return whole[:begin] + draw(st.binary(max_size=8)) + whole[end:]


def ended_well(result: Result) -> None:
    """No traceback: what was asked for, or one line that says why not."""
    assert result.exit_code in (0, 1, 2), result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == (result.exit_code != 0), result.stderr
    if result.exit_code == 2:
        assert len(result.stderr.splitlines()) == 1, result.stderr


FUZZED = hypothesis.settings(
    max_examples=60, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
SAID = {"score": 9.0, "digits": [0.1] * 10, "p_yes": 0.5, "label_mass": 0.9, "logprob_mean": -1.0, "logprob_min": -2.0}
STEP = {
    "by": "base",
    "text": "x",
    "tokens": 2,
    "ending": "eos",
    **SAID,
    "draft": {"text": "y", "tokens": 3},
    "others": [],
}
REQUEST = {"engine": "small", "purpose": "draft", "start_s": 1.0, "seconds": 2.0, "retries": 1, "dropped": True}
RECORD = record(3, correct=True, steps=[STEP], requests=[REQUEST], stop_reason="eos", sampling_seed=1)
FORMS = (["run"], ["run", "--json"], ["run", "--calibrate"], ["run", "p3", "--show"], ["run", "--rescore"])


def fresh_run() -> Path:
    shutil.rmtree("run", ignore_errors=True)
    run(record=RECORD)(Path("run"))
    return Path("run")


@pytest.fixture(scope="module")
def whole_config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("whole") / "run"
    run()(path)
    return dict(json.loads((path / "config.json").read_text()))


@FUZZED
@hypothesis.given(st.data(), st.sampled_from(FORMS))
def test_any_config_ends_a_report_well(whole_config: dict[str, Any], data: st.DataObject, words: list[str]) -> None:
    file = fresh_run() / "config.json"
    text = json.dumps(data.draw(damaged(whole_config)))
    file.write_bytes(data.draw(st.just(text.encode()) | bytes_like(text.encode())))
    ended_well(invoke("report", *words))


@FUZZED
@hypothesis.given(st.data(), st.sampled_from(FORMS))
def test_any_record_ends_a_report_well(data: st.DataObject, words: list[str]) -> None:
    file = fresh_run() / "trajectories.jsonl"
    first, *_ = file.read_bytes().splitlines(keepends=True)
    line = json.dumps(data.draw(damaged(RECORD))).encode()
    file.write_bytes(first + data.draw(st.just(line) | bytes_like(line)) + b"\n")
    ended_well(invoke("report", *words))


@hypothesis.settings(FUZZED, max_examples=15)
@hypothesis.given(st.data(), st.sampled_from(["pareto", "steps", "judge", "page"]))
def test_any_record_ends_a_figure_and_a_page_well(data: st.DataObject, form: str) -> None:
    file = fresh_run() / "trajectories.jsonl"
    line = json.dumps(data.draw(damaged(RECORD)))
    file.write_text(line + "\n")
    words = ("report", "run", "--html", "-o", "x.html") if form == "page" else (form, "run", "-o", "x")
    ended_well(invoke(*words))


@FUZZED
@hypothesis.given(
    st.sampled_from(["bench", "pair", "preset", "sweep"]),
    st.data(),
    st.dictionaries(st.text(max_size=5), TOML, max_size=1),
)
def test_any_declarative_file_ends_a_dry_run_well(kind: str, data: st.DataObject, more: dict[str, str]) -> None:
    whole = {"bench": BENCH + "[policy]\n", "pair": PAIR, "preset": PRESET, "sweep": SWEEP + "threshold = [3]\n"}[kind]
    keys = [
        "title",
        "name",
        "prompt",
        "grader",
        "samples",
        "fields",
        "source",
        "base",
        "small",
        "args",
        "threshold",
        "judge",
    ]
    lines = [f"{data.draw(st.sampled_from(keys))} = {data.draw(TOML)}" for _ in range(data.draw(st.integers(0, 2)))]
    lines += [f"{json.dumps(key)} = {value}" for key, value in more.items()]
    text = ("\n".join([*lines, whole]) if data.draw(st.booleans()) else "\n".join([whole, *lines])).encode()
    Path("mine.toml").write_bytes(data.draw(st.just(text) | bytes_like(text)))
    Path("rows.jsonl").write_text(ROW)
    words = ["--bench", "mine.toml" if kind == "bench" else "demo", "--pair", "mine.toml" if kind == "pair" else "demo"]
    words += ["--data", "rows.jsonl", "--dry-run"]
    ended_well(invoke("eval", *words, *([f"--{kind}", "mine.toml"] if kind in ("preset", "sweep") else [])))


@FUZZED
@hypothesis.given(bytes_like(ROW.encode()) | damaged(json.loads(ROW)).map(lambda row: json.dumps(row).encode()))
def test_any_rows_end_a_dry_run_well(content: bytes) -> None:
    Path("mine.toml").write_text(BENCH)
    Path("rows.jsonl").write_bytes(content)
    ended_well(invoke("eval", "--bench", "mine.toml", "--pair", "demo", "--data", "rows.jsonl", "--dry-run"))


@FUZZED
@hypothesis.given(st.sampled_from(list(PLACEHOLDERS)), st.data())
def test_any_template_ends_a_dry_run_well(name: str, data: st.DataObject) -> None:
    for other in PLACEHOLDERS:
        written(Path(f"p/{other}.txt"), load_prompts()[other].text + "\n")
    whole = load_prompts()[name].text.encode()
    odd = st.text("{}%problem _.[]()\n'", max_size=12).map(lambda text: whole + text.encode())
    Path(f"p/{name}.txt").write_bytes(data.draw(bytes_like(whole) | odd))
    ended_well(invoke("eval", "--bench", "demo", "--pair", "demo", "--prompts", "p", "--dry-run"))
