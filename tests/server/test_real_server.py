"""The server over the bundled pair on real engines: what it says is what the programs write, turn after turn."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import invoke
from real_engines import KEY, Servers
from served import Running, chunks_of, joined, serving

from sgl_specreason.demo.problems import problems
from sgl_specreason.method.program import run_trajectory
from sgl_specreason.method.trajectory import Trajectory
from sgl_specreason.server.call import SpecReason
from sgl_specreason.server.record import Recorder
from sgl_specreason.text.prompts import load_prompts

Json = dict[str, Any]
NUMBERS = (0, 7, 12)


def question(number: int) -> list[Json]:
    content = load_prompts()["math"].fill(problem=problems("test", 40)[number].text)
    return [{"role": "user", "content": content}]


@pytest.fixture(scope="module")
def running(real_pair: Servers) -> Iterator[Running]:
    urls = real_pair.urls
    with (
        SpecReason.attach(base_url=urls["base"], small_url=urls["small"], api_key=KEY, pair="demo") as house,
        serving(house) as server,
    ):
        yield server


def thought_and_answer(t: Trajectory) -> tuple[str, str]:
    thought = "".join(kept.step.text for kept in t.kept).partition("</think>")[0]
    return thought.strip(), t.answer.lstrip("\n")


@pytest.mark.parametrize("method", ["specreason", "base", "small"])
def test_streamed_is_not_streamed_is_what_a_benchmark_writes(real_pair: Servers, running: Running, method: Any) -> None:
    """Greedy, word for word."""
    for number in NUMBERS:
        t = real_pair.trajectory(number)
        run_trajectory(method, t, real_pair.endpoints())  # type: ignore[arg-type]
        whole = running.ask(model=method, messages=question(number))
        streamed = running.stream(model=method, messages=question(number))
        message = whole["choices"][0]["message"]
        assert (message["reasoning_content"], message["content"]) == thought_and_answer(t)
        assert joined(streamed, "reasoning_content") == message["reasoning_content"]
        assert joined(streamed, "content") == message["content"]
        assert whole["usage"]["reasoning_tokens"] == t.tokens_kept
        assert whole["specreason"]["steps_by_small"] == t.record()["steps_by_small"]


def test_a_question_that_comes_again_is_cached(running: Running) -> None:
    """All of its prompt but the last token, which an engine always computes."""
    running.ask(messages=question(3))
    usage = running.ask(messages=question(3))["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= usage["prompt_tokens"] - 1


def test_a_second_turn_computes_the_answer_and_the_new_question_only(running: Running) -> None:
    """Turn 1's prompt is cached on both engines, but for the tag that opened its thought."""
    first = question(5)
    reply = running.ask(messages=first)
    turns = [*first, reply["choices"][0]["message"], {"role": "user", "content": "And in words?"}]
    for model in ("specreason", "small"):
        if model == "small":
            running.ask(messages=first, model=model)
        usage = running.ask(messages=turns, model=model)["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] >= reply["usage"]["prompt_tokens"] - 4


def test_without_a_thought_base_is_asked_once(running: Running) -> None:
    """By the model's name, by a switch, by an effort: no step, no draft, one request."""
    for asked in (
        {"model": "base-direct"},
        {"reasoning_effort": "none"},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ):
        reply = running.ask(messages=question(1), max_tokens=8, **asked)
        assert reply["choices"][0]["message"]["reasoning_content"] is None
        assert reply["specreason"]["steps"] == reply["specreason"]["judge_requests"] == 0
        assert reply["usage"]["completion_tokens"] <= 8


def test_a_stop_is_for_the_answer(running: Running) -> None:
    """A word that every thought has, and the blank line that an answer begins with."""
    plain = running.ask(messages=question(0))
    stopped = running.ask(messages=question(0), stop=["Step", "\n\n", "\\boxed"])
    assert stopped["choices"][0]["message"]["reasoning_content"] == plain["choices"][0]["message"]["reasoning_content"]
    assert stopped["choices"][0]["message"]["content"] == "The answer is "
    assert stopped["choices"][0]["matched_stop"] == "\\boxed"


@pytest.mark.parametrize("most", [24, 64, 100])
def test_no_more_tokens_than_were_asked_for(running: Running, most: int) -> None:
    """Thought and answer together; the question is still answered."""
    for number in NUMBERS:
        reply = running.ask(messages=question(number), max_tokens=most)
        assert reply["usage"]["completion_tokens"] <= most
        assert reply["choices"][0]["message"]["content"]


def test_a_seed_repeats_a_reply_and_another_one_does_not(running: Running) -> None:
    """With three choices each has a seed of its own."""
    asked: Json = {"messages": question(2), "temperature": 1.5, "n": 3, "model": "small"}
    one, again = running.ask(seed=5, **asked), running.ask(seed=5, **asked)
    other = running.ask(seed=50, **asked)
    texts = [[choice["message"]["reasoning_content"] for choice in reply["choices"]] for reply in (one, again, other)]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) > 1


def test_what_is_recorded_can_be_reported(real_pair: Servers, running: Running, tmp_path: Path) -> None:
    """Streamed or not, of two models: run folders that `report` shows, draws as a page and calibrates."""
    recorder = Recorder(tmp_path / "seen", running.house.pair, places=4)
    running.api.recorder = recorder
    try:
        for model in ("specreason", "base"):
            running.ask(model=model, messages=question(4))
            chunks_of(running.post(model=model, messages=question(6), stream=True).text)
    finally:
        running.api.recorder = None
    folder = str(tmp_path / "seen")
    shown = invoke("report", folder)
    assert shown.exit_code == 0, shown.output
    assert "specreason" in shown.output
    page = invoke("report", "--html", folder, "-o", tmp_path / "page.html")
    assert page.exit_code == 0, page.output
    calibrated = invoke("report", "--calibrate", folder)
    assert calibrated.exit_code == 0, calibrated.output
