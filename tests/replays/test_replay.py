"""Replays: what is sent to the engines, whose verdicts count, what is recorded, and what bad input gets."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import drawing
import pytest
from click.testing import CliRunner, Result
from fake_engine import FakeEngine, Payload, digits
from run_folders import answers, drafted, run_folder
from scripted import OTHER, TagTokenizer

from sgl_specreason import eval, report
from sgl_specreason.engines import endpoint, startup
from sgl_specreason.engines.transport import Asked, Transport
from sgl_specreason.errors import RequestError, UsageError
from sgl_specreason.method.program import run_trajectory
from sgl_specreason.plan import limits
from sgl_specreason.plan.plan import Variant
from sgl_specreason.replay import main, resolved
from sgl_specreason.replays.endpoint import ReplayEndpoint
from sgl_specreason.replays.session import ReplayPlan, ReplaySession
from sgl_specreason.replays.trace import TracedProblem
from sgl_specreason.replays.trajectory import Replayed
from sgl_specreason.results.records import begun_runs
from sgl_specreason.results.schema import ReplaySummary
from sgl_specreason.results.summary import load_runs
from sgl_specreason.text import chat
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.steps import Author

ROLES: tuple[Author, Author] = ("base", "small")


class Words(TagTokenizer):
    """As TagTokenizer, with more ordinary tokens than one: prompts are drawn from these."""

    def get_vocab(self) -> dict[str, int]:
        return {chr(code): code + self.off for code in range(32, 600)} | self.get_added_vocab()


class Noise:
    """An engine that writes noise in ids of its own, and remembers what its cache holds."""

    def __init__(self, role: str, tokenizer: Words) -> None:
        self.role, self.off = role, tokenizer.off
        self.known = frozenset(tokenizer.get_vocab().values())
        self.payloads: list[Payload] = []
        self.seen: list[tuple[str, list[int]]] = []
        self.new: list[int] = []
        self.short = 0
        self.random = random.Random(role)

    def answer(self, payload: Payload) -> bytes:
        ids, params = payload["input_ids"], payload["sampling_params"]
        assert all(self.off <= token < self.off + 0x200000 for token in ids), "an id of the other vocabulary"
        cached = max((shared(ids, old) for key, old in self.seen if key == payload["extra_key"]), default=0)
        self.payloads.append(payload)
        self.new.append(len(ids) - cached)
        # any id at all: line breaks, control tokens, and such as the tokenizer does not know
        written = [self.off + self.random.randrange(1, 2000) for _ in range(params["max_new_tokens"] - self.short)]
        if not params["max_new_tokens"]:
            written = []
        self.seen.append((payload["extra_key"], ids + written[:-1]))  # the last one is never computed
        meta: dict[str, Any] = {"prompt_tokens": len(ids), "cached_tokens": min(cached, len(ids) - 1)}
        meta |= {"completion_tokens": len(written), "finish_reason": {"type": "length"}}
        if "token_ids_logprob" in payload:
            meta["output_token_ids_logprobs"] = [[[-3.0, token, None] for token in payload["token_ids_logprob"]]]
        if "logprob_start_len" in payload:
            meta["input_token_logprobs"] = [[-1.0, token, None] for token in ids[payload["logprob_start_len"] :]]
        return json.dumps({"text": "\n\n</think>", "output_ids": written, "meta_info": meta}).encode()


class InProcess(Transport):
    """A transport of which one exchange is a function call."""

    answer: Callable[[Payload], bytes]

    def _exchange(self, asked: Asked) -> dict[str, Any]:
        if asked.path != "/generate":
            return {"model_path": "scripted"}
        return json.loads(self.answer(json.loads(asked.body or b"")))


def shared(one: list[int], other: list[int]) -> int:
    return next(
        (at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[Author, Noise], dict[Author, Any]]]:
    """Two engines of noise with endpoints for them."""
    monkeypatch.setattr(endpoint, "Transport", InProcess)

    def made(*, same_vocabulary: bool = True) -> tuple[dict[Author, Noise], dict[Author, Any]]:
        tokenizers = {"base": Words(), "small": Words(0 if same_vocabulary else OTHER)}
        noises = {role: Noise(role, tokenizers[role]) for role in ROLES}
        found = {role: ReplayEndpoint("http://scripted", role=role, tokenizer=tokenizers[role]) for role in ROLES}
        for role in ROLES:
            found[role].transport.answer = noises[role].answer  # type: ignore[attr-defined]
        return noises, found

    return made


def planned(*words: str) -> ReplayPlan:
    return resolved(main.make_context("replay", [*words]).params)


def synthetic(*words: str) -> ReplayPlan:
    lengths = [
        "--thinking-tokens",
        "400",
        "--median-step-tokens",
        "25",
        "--prompt-tokens",
        "30",
        "--answer-tokens",
        "12",
    ]
    return planned("--synthetic", "--limit", "2", "--acceptance", "0.5", *lengths, *words)


def played(plan: ReplayPlan, variant: Variant, endpoints: dict[Author, Any]) -> Iterator[Replayed]:
    chats = {role: ChatFormat(tokenizer=one.tokenizer) for role, one in endpoints.items()}
    for row in plan.problems:
        trajectory = plan.trajectory(variant, row, 0, chats)
        run_trajectory(variant.method, trajectory, endpoints)
        yield trajectory


def traced(plan: ReplayPlan, variant: Variant, number: int) -> TracedProblem:
    return plan.accepted[getattr(variant.policy, "acceptance", None)][plan.problems[number].id]


WAYS: dict[str, tuple[str, ...]] = {
    "as eval": (),
    "no lookahead": ("--lookahead", "0"),
    "three ahead": ("--lookahead", "3"),
    "eager": ("--eager-regenerate", "--acceptance", "0.2"),
    "binary": ("--judge", "binary"),
    "likelihood": ("--judge", "likelihood"),
    "both": ("--judge", "score+likelihood"),
    "small answers": ("--answer-by", "small"),
    "nothing kept": ("--acceptance", "0"),
    "everything kept": ("--acceptance", "1"),
}


@pytest.mark.parametrize("same_vocabulary", [True, False])
@pytest.mark.parametrize("words", WAYS.values(), ids=WAYS)
def test_steps_lengths_and_verdicts_are_the_traces(
    words: tuple[str, ...], same_vocabulary: bool, noise: Callable[..., Any]
) -> None:
    noises, endpoints = noise(same_vocabulary=same_vocabulary)
    plan = synthetic(*words)
    variant = next(variant for variant in plan.variants if variant.method == "specreason")
    for number, trajectory in enumerate(played(plan, variant, endpoints)):
        problem, record = traced(plan, variant, number), trajectory.record()
        assert record["stop_reason"] == "think_end"
        assert not record["truncated"]
        assert [step["accepted"] for step in record["steps"]] == [step.accepted for step in problem.steps]
        assert [step["tokens"] for step in record["steps"]] == [
            step.draft if step.accepted else step.regenerated for step in problem.steps
        ]
        assert [step["draft"]["tokens"] for step in record["steps"] if "draft" in step] == [
            step.draft for step in problem.steps if not step.accepted
        ]
        assert record["answer_tokens"] == problem.answer
        assert sum(request["purpose"] == "judge" for request in record["requests"]) == len(problem.steps)
        assert all("score" not in step and "label_mass" not in step for step in record["steps"])
    for payload in (payload for one in noises.values() for payload in one.payloads):
        params = payload["sampling_params"]
        if params["max_new_tokens"]:
            assert params["ignore_eos"] is True
            assert "stop" not in params


@pytest.mark.parametrize("method", ["base", "small"])
def test_one_model_alone_writes_a_thought_of_the_same_steps_in_one_request(
    method: str, noise: Callable[..., Any]
) -> None:
    noises, endpoints = noise()
    plan = synthetic("--method", method)
    (variant,) = plan.variants
    for number, trajectory in enumerate(played(plan, variant, endpoints)):
        problem = traced(plan, variant, number)
        total = sum(step.draft if method == "small" else step.regenerated for step in problem.steps)
        assert trajectory.tokens_kept == total
        lengths = [payload["sampling_params"]["max_new_tokens"] for payload in noises[method].payloads[-2:]]
        assert lengths == [total, problem.answer]
        assert noises[method].new[-2:] == [problem.prompt, 1]
    assert len(noises[method].payloads) == 2 * len(plan.problems)


@pytest.mark.parametrize("same_vocabulary", [True, False])
def test_an_engine_computes_only_what_it_has_not_seen(same_vocabulary: bool, noise: Callable[..., Any]) -> None:
    noises, endpoints = noise(same_vocabulary=same_vocabulary)
    plan = synthetic("--lookahead", "0", "--method", "specreason", "--limit", "1")
    (trajectory,) = played(plan, plan.variants[0], endpoints)
    problem = traced(plan, plan.variants[0], 0)
    turn = len(endpoints["base"].ids(trajectory.texts.judge_open))
    closed = len(endpoints["base"].ids(trajectory.texts.judge_closed))
    last = len(problem.steps) - 1
    base, small = [], []
    for at, step in enumerate(problem.steps):
        before = problem.steps[at - 1] if at else None
        # the newest token of what an engine itself wrote has not been computed; of what the other wrote, none has been
        own = 1 if before and not before.accepted else problem.prompt if not at else 0
        base.append(own + step.draft + (closed if at == last else turn))
        base += [] if step.accepted else [1]  # its context is cached whole; the engine computes one token again
        small.append(problem.prompt if before is None else 1 if before.accepted else before.regenerated)
    base.append(0 if problem.steps[-1].accepted else 1)
    assert [max(new, 1) for new in noises["base"].new] == [max(new, 1) for new in base]
    assert noises["small"].new == small


def test_prompts_have_nothing_in_common_and_the_length_that_is_asked_for(noise: Callable[..., Any]) -> None:
    noises, endpoints = noise()
    plan = synthetic("--method", "base", "--limit", "8")
    list(played(plan, plan.variants[0], endpoints))
    prompts = [payload["input_ids"] for payload in noises["base"].payloads[::2]]
    assert [len(prompt) for prompt in prompts] == [30] * 8
    assert max(shared(one, other) for at, one in enumerate(prompts) for other in prompts[:at]) <= 2


def test_methods_and_points_share_nothing_in_a_cache() -> None:
    plan = synthetic("--acceptance", "0.4,0.8", "--lookahead", "0,1")
    tokenizer = Words()
    chats = {role: ChatFormat(tokenizer=tokenizer) for role in ROLES}
    keys = {plan.trajectory(variant, plan.problems[0], 0, chats).cache_key for variant in plan.variants}
    assert len(keys) == len(plan.variants) == 6


def test_an_engine_that_writes_less_than_asked_for_fails_the_trajectory(noise: Callable[..., Any]) -> None:
    noises, endpoints = noise()
    noises["small"].short = 1
    plan = synthetic("--lookahead", "0")
    with pytest.raises(RequestError, match=r"small: wrote \d+ tokens instead of \d+"):
        list(played(plan, plan.variants[-1], endpoints))


def test_first_steps_that_base_wrote_unasked_are_so_in_the_replay(noise: Callable[..., Any], tmp_path: Path) -> None:
    policy = {"budget_tokens": 512, "threshold": 7.0, "score_rule": "greedy", "first_n": 1}
    folder = run_folder(tmp_path / "run", [drafted()], policy=policy)
    _, endpoints = noise()
    plan = planned(str(folder), "--method", "specreason")
    (trajectory,) = played(plan, plan.variants[0], endpoints)
    assert [(kept.by, kept.accepted, kept.step.tokens) for kept in trajectory.kept] == [
        ("base", False, 5), ("small", True, 7), ("base", False, 9),
    ]  # fmt: skip
    assert trajectory.calls[0].purpose == "regenerate"


def test_a_trace_that_does_not_fit_an_engine_is_refused_with_what_to_change() -> None:
    plan = synthetic()
    chats = {role: ChatFormat(tokenizer=Words()) for role in ROLES}
    ReplaySession.check(plan, chats, {"base": limits.Room(tokens=4000, remedy="a longer one")})
    with pytest.raises(UsageError, match=r"on small, which holds 100: 30 of prompt, \d+ of thought.*or a longer one"):
        ReplaySession.check(plan, chats, {"small": limits.Room(tokens=100, remedy="a longer one")})


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """The command over two fake servers, with tokenizers for them."""
    monkeypatch.setattr(chat, "load_tokenizer", lambda model, **options: Words())

    def says(prompt: str, payload: Payload) -> str | list[float]:
        time.sleep(0.001)
        return digits(0) if "token_ids_logprob" in payload else "n" * payload["sampling_params"]["max_new_tokens"]

    fakes = [FakeEngine(says), FakeEngine(says)]

    def run(*words: str | Path, algorithm: str | None = None) -> Result:
        fakes[0].info = {"speculative_algorithm": algorithm}
        urls = ["--base-url", fakes[0].url, "--small-url", fakes[1].url]
        return CliRunner().invoke(main, [*urls, *map(str, words)], catch_exceptions=False)

    yield run
    for fake in fakes:
        fake.close()


SHORT = ("--synthetic", "--limit", "3", "--thinking-tokens", "200", "--prompt-tokens", "20", "--answer-tokens", "9")


@pytest.mark.parametrize("concurrency", ["1", "3"])
def test_the_table_is_marked_as_a_replay_and_has_a_row_for_each_point(
    attached: Callable[..., Result], tmp_path: Path, concurrency: str
) -> None:
    result = attached(*SHORT, "--acceptance", "0.25,0.75", "--concurrency", concurrency, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "Replay of a synthetic trace (seed 0): no answers, no accuracy"
    assert "accuracy %" not in result.stdout
    assert [line.split("  ")[0] for line in lines[3:7]] == [
        "base", "small", "specreason acceptance=0.25", "specreason acceptance=0.75",
    ]  # fmt: skip
    assert "speed-up" in lines[2]
    (top,) = tmp_path.iterdir()
    runs = load_runs(top)
    for run in runs:
        assert isinstance(run.summary, ReplaySummary)
        assert json.loads((run.path / "summary.json").read_text())["accuracy"] is None
        assert run.summary.n == 3
        assert {outcome.correct for outcome in run.outcomes} == {None}
    drafts = runs[2].summary.drafts
    assert [run.summary.accepted_steps for run in runs[2:]] == [round(0.25 * drafts), round(0.75 * drafts)]
    assert json.loads((runs[2].path / "summary.json").read_text())["throughput_tokens_per_s"] > 0


def test_a_base_that_speculates_is_replayed_on_too(attached: Callable[..., Result], tmp_path: Path) -> None:
    """Each of its two methods once, specreason's at every point; what the server does not do is refused."""
    words = (*SHORT, "--acceptance", "0.2,0.8", "--method", "base+decode", "--method", "specreason+decode")
    refused = attached(*words, "--decode", "ngram", "--out", tmp_path)
    assert (refused.exit_code, "without token-level speculation" in refused.stderr) == (2, True)
    done = attached(*words, "--decode", "ngram", "--out", tmp_path, algorithm="NGRAM")
    assert done.exit_code == 0, done.stderr
    (top,) = tmp_path.iterdir()
    runs = load_runs(top)
    assert [run.method for run in runs] == ["base+decode", "specreason+decode", "specreason+decode"]
    assert {run.summary.n for run in runs} == {3}
    config = json.loads((runs[0].path / "config.json").read_text())
    assert config["settings"]["decode"]["algorithm"] == "ngram"


def test_thoughts_are_cut_after_some_steps_and_problems_repeated_with_prompts_of_their_own() -> None:
    plan = planned("--trace", "qwq-32b+r1-1.5b.aime24", "--steps", "3", "--times", "2", "--method", "base")
    whole = planned("--trace", "qwq-32b+r1-1.5b.aime24", "--method", "base").trace.problems
    assert [p.steps for p in plan.trace.problems] == [p.steps[:3] for p in [*whole, *whole]]
    assert len({row.id for row in plan.problems}) == 2 * len(whole)
    longest = max(p.most for p in plan.trace.problems)
    assert plan.variants[0].policy.budget_tokens == longest


@pytest.mark.parametrize("share", ["0.5", "0.2,0.8"])
def test_a_replay_goes_on_from_its_folder_alone(
    attached: Callable[..., Result], tmp_path: Path, share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 18: also one of another run's trace, from anywhere; eval sends it to its own command."""
    monkeypatch.chdir(tmp_path)
    assert attached(*SHORT, "--acceptance", share, "--out", "first").exit_code == 0
    (first,) = Path("first").iterdir()
    source = next(iter(begun_runs(first))) if share == "0.5" else [*begun_runs(first)][-1]
    assert attached(source, "--acceptance", share, "--method", "specreason", "--out", "second").exit_code == 0
    (second,) = Path("second").iterdir()
    for top in (first.absolute(), second.absolute()):
        before = {path: sorted(Path(path / "trajectories.jsonl").read_text().splitlines()) for path in begun_runs(top)}
        for path in before:
            file = path / "trajectories.jsonl"
            file.write_text(file.read_text().splitlines(keepends=True)[0])
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        done = CliRunner().invoke(main, ["--resume", str(top)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        counts = [len((path / "trajectories.jsonl").read_text().splitlines()) for path in before]
        assert counts == [len(lines) for lines in before.values()]
        refused = CliRunner().invoke(eval.main, ["--resume", str(top)], catch_exceptions=False)
        assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
        assert f"was begun by replay: specreason replay --resume {top}" in refused.stderr


def test_a_replay_can_be_resumed_and_replayed_and_shown(attached: Callable[..., Result], tmp_path: Path) -> None:
    words = (*SHORT, "--acceptance", "0.5", "--method", "specreason")
    assert attached(*words, "--out", tmp_path / "a").exit_code == 0
    (top,) = (tmp_path / "a").iterdir()
    whole = (top / "trajectories.jsonl").read_text().splitlines(keepends=True)
    (top / "trajectories.jsonl").write_text("".join(whole[:1]))
    assert attached(*words, "--out", tmp_path / "a", "--resume", top).exit_code == 0
    (run,) = load_runs(top)
    assert (run.summary.n, run.summary.partial) == (3, False)
    other = attached(*words, "--out", tmp_path / "a", "--resume", top, "--seed", "1")
    assert (other.exit_code, "begun with other settings" in other.stderr) == (2, True)
    again = attached(top, "--out", tmp_path / "b")
    assert again.exit_code == 0, again.stderr
    (copy,) = [run for run in load_runs(next((tmp_path / "b").iterdir())) if run.method == "specreason"]
    tokens = [
        sorted((o.problem_id, o.thinking_tokens, o.accepted, o.answer_tokens) for o in each.outcomes)
        for each in (run, copy)
    ]
    assert tokens[0] == tokens[1]
    shown = CliRunner().invoke(report.main, ["--show", str(top), "synthetic-001"])
    assert shown.exit_code == 0
    assert "tokens by" in shown.stdout
    assert "wrong" not in shown.stdout


@pytest.mark.parametrize("option", ["--rescore", "--calibrate", "--html"])
def test_nobody_asks_a_replay_for_answers(attached: Callable[..., Result], tmp_path: Path, option: str) -> None:
    assert attached(*SHORT, "--acceptance", "0.5", "--method", "specreason", "--out", tmp_path / "a").exit_code == 0
    (top,) = (tmp_path / "a").iterdir()
    page = ["-o", str(tmp_path / "page.html")] if option == "--html" else []
    result = CliRunner().invoke(report.main, [str(top), option, *page])
    assert (result.exit_code, "a replay has no answers" in result.stderr) == (2, True)
    assert CliRunner().invoke(report.main, [str(top)]).stdout.startswith("Replay of ")


def test_a_replay_is_never_shown_beside_a_run_or_drawn(attached: Callable[..., Result], tmp_path: Path) -> None:
    assert attached(*SHORT, "--acceptance", "0.5", "--method", "specreason", "--out", tmp_path / "a").exit_code == 0
    (top,) = (tmp_path / "a").iterdir()
    real = run_folder(tmp_path / "real", answers(True, False, True, True))
    result = CliRunner().invoke(report.main, [str(top), str(real), "--force"])
    assert (result.exit_code, "does not compare with a run" in result.stderr) == (2, True)
    with pytest.raises(UsageError, match="a replay has no answers and is not drawn"):
        drawing.read([top], force=True)


def test_running_servers_with_random_weights_are_said_in_the_title(
    attached: Callable[..., Result], tmp_path: Path
) -> None:
    assert attached(*SHORT, "--acceptance", "0.5", "--method", "specreason", "--out", tmp_path / "a").exit_code == 0
    (top,) = (tmp_path / "a").iterdir()
    config = json.loads((top / "config.json").read_text())
    config["server_info"]["base"]["load_format"] = "dummy"
    (top / "config.json").write_text(json.dumps(config))
    shown = CliRunner().invoke(report.main, [str(top)]).stdout
    assert shown.startswith("Replay of a synthetic trace (seed 0), with random weights: no answers")


WRONG: dict[str, tuple[list[str], str]] = {
    "no trace": ([], "--synthetic"),
    "two traces": (["runs/x", "--synthetic"], "--synthetic"),
    "two others": (["runs/x", "--trace", "qwq-32b+r1-1.5b.aime24"], "--trace NAME, or --synthetic"),
    "unknown trace": (["--trace", "qwq-32b+r1-1.5b.aime25"], "no trace named 'qwq-32b+r1-1.5b.aime25'; did you mean"),
    "missing trace": (["--trace", "mine.jsonl"], "mine.jsonl: cannot be read"),
    "length of a trace": (
        ["--trace", "qwq-32b+r1-1.5b.aime24", "--thinking-tokens", "9"],
        "--thinking-tokens is for --synthetic: a published trace has lengths of its own",
    ),
    "missing folder": (["nowhere"], "nowhere: not a run folder"),
    "too much accepted": (["--synthetic", "--acceptance", "1.5"], "--acceptance 1.5: must be from 0 to 1"),
    "one of several": (["--synthetic", "--acceptance", "0.5,-1"], "--acceptance -1: must be from 0 to 1"),
    "lookahead in words": (["--synthetic", "--acceptance", "1", "--lookahead", "far"], "--lookahead far"),
    "negative lookahead": (["--synthetic", "--acceptance", "1", "--lookahead", "-1"], "lookahead = -1"),
    "control": (
        ["--synthetic", "--acceptance", "1", "--method", "random"],
        "--method random: a replay has base, small",
    ),
    "decode": (["--synthetic", "--acceptance", "1", "--method", "base+decode"], "methods with +decode need a GPU"),
    "decode for nobody": (["--synthetic", "--acceptance", "1", "--decode", "ngram"], "are for methods with +decode"),
    "no steps": (["--synthetic", "--acceptance", "1", "--steps", "0"], "--steps"),
    "not once": (["--synthetic", "--acceptance", "1", "--times", "0"], "--times"),
    "unknown pair": (["--synthetic", "--acceptance", "1", "--pair", "dmo"], "demo"),
    "unknown judge": (["--synthetic", "--acceptance", "1", "--judge", "jury"], "jury"),
    "answer-by": (["--synthetic", "--acceptance", "1", "--answer-by", "me"], "base, small"),
    "one url": (["--synthetic", "--acceptance", "1", "--base-url", "http://127.0.0.1:1"], "--small-url"),
    "one model": (["--synthetic", "--acceptance", "1", "--base-model", "x"], "--small-model"),
    "dummy servers": (
        ["--synthetic", "--acceptance", "1", "--dummy", "--base-url", "http://h", "--small-url", "http://h"],
        "--dummy is for engines that are started here",
    ),
    "no problems": (["--synthetic", "--acceptance", "1", "--limit", "0"], "--limit"),
    "clients, one at a time": (["--synthetic", "--acceptance", "1", "--clients", "2"], "--clients 2"),
    "no concurrency": (["--synthetic", "--acceptance", "1", "--concurrency", "0"], "--concurrency"),
    "too long": (["--synthetic", "--acceptance", "1", "--thinking-tokens", "99999"], "on small, which holds"),
    "missing replay": (["--synthetic", "--acceptance", "1", "--resume", "nowhere"], "nowhere: no such run folder"),
}


@pytest.mark.parametrize(("words", "named"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_named_in_one_line_and_nothing_starts(
    words: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*args: object, **kwargs: object) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr(startup, "started", started)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert named in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_lengths_of_a_run_are_its_own(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", answers(True, True, True, True))
    result = CliRunner().invoke(main, [str(folder), "--thinking-tokens", "9"])
    assert (result.exit_code, "--thinking-tokens is for --synthetic" in result.stderr) == (2, True)


def test_dummy_weights_are_asked_for_on_both_engines_and_said_in_the_title() -> None:
    plan = planned("--synthetic", "--acceptance", "1", "--dummy", "--dry-run")
    assert [spec.args[-2:] for spec in plan.specs] == [("--load-format", "dummy")] * 2
    assert plan.settings(plan.variants[0])["dummy_weights"] is True


def test_help_and_wrong_options_answer_without_heavy_imports(tmp_path: Path) -> None:
    code = (
        "import sys; from sgl_specreason.replay import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'sglang', 'transformers', 'matplotlib', 'numpy'} & set(sys.modules)"
    )
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=os.environ, cwd=tmp_path)
    assert time.monotonic() - begin < 10


def test_problems_of_a_trace_have_lengths_that_the_plan_allows() -> None:
    plan = synthetic("--acceptance", "0.3")
    policy = plan.variants[-1].policy
    assert policy.budget_tokens == max(problem.most for problem in plan.trace.problems)
    assert policy.step_tokens == max(step.draft for problem in plan.trace.problems for step in problem.steps)
