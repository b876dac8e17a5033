"""A replay as users get it: the command of the README on the bundled pair, with real engines of its own."""

import json
import subprocess
import sys

import pytest
from checkout import ROOT

from sgl_specreason.replays.trace import TracedProblem, synthetic
from sgl_specreason.results.lines import Request
from sgl_specreason.results.records import trajectories
from sgl_specreason.results.summary import Run, load_runs

pytestmark = pytest.mark.engines
COMMAND = ("--synthetic", "--acceptance", "0.6", "--pair", "demo", "--limit", "8")
TRACE = synthetic(problems=8, thinking_tokens=320, prompt_tokens=60, answer_tokens=24).accepting(0.6, 0)


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Run]]:
    """What the command printed, and its runs by method."""
    out = tmp_path_factory.mktemp("replay")
    command = [sys.executable, "-m", "sgl_specreason.replay", *COMMAND, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2400)
    assert done.returncode == 0, done.stderr[-3000:]
    (top,) = out.iterdir()
    return done.stdout, {run.method: run for run in load_runs(top)}


def test_the_table_says_that_it_is_a_replay_and_has_no_accuracy(replay: tuple[str, dict[str, Run]]) -> None:
    lines = replay[0].splitlines()
    assert lines[0] == "Replay of a synthetic trace (seed 0): no answers, no accuracy"
    assert [line.split()[0] for line in lines[2:6]] == ["method", "base", "small", "specreason"]
    assert "accuracy %" not in replay[0]
    memory = next(line for line in lines if line.startswith("Memory: "))
    assert "GB weights" in memory
    assert "GB resident" in memory
    assert "room for 65536 tokens" in memory


def test_every_length_and_verdict_recorded_is_the_traces(replay: tuple[str, dict[str, Run]]) -> None:
    for method, run in replay[1].items():
        records = {record.problem_id: record for record in trajectories(run.path)}
        assert list(records) == [problem.id for problem in TRACE.problems]
        for problem in TRACE.problems:
            record = records[problem.id]
            drafted = {"base": False, "small": True}
            kept = [step.draft if drafted.get(method, step.accepted) else step.regenerated for step in problem.steps]
            assert (record.thinking_tokens, record.answer_tokens) == (sum(kept), problem.answer)
            if method == "specreason":
                assert [step.accepted for step in record.steps] == [step.accepted for step in problem.steps]
                assert [step.tokens for step in record.steps] == kept
    summary = replay[1]["specreason"].summary
    assert (summary.accepted_steps, summary.drafts) == (sum(map(bool, TRACE.verdicts)), len(TRACE.verdicts))
    assert summary.judge_requests == summary.drafts
    assert json.loads((replay[1]["specreason"].path / "summary.json").read_text())["accuracy"] is None


def test_engines_compute_nothing_again_that_they_have_seen(replay: tuple[str, dict[str, Run]]) -> None:
    run = replay[1]["specreason"]
    seen = cached = 0
    for record in trajectories(run.path):
        problem = next(problem for problem in TRACE.problems if problem.id == record.problem_id)
        had, found = reuse(problem, [request for request in record.requests if request.engine == "base"])
        seen, cached = seen + had, cached + found
    assert seen > 1000
    assert cached / seen >= 0.99


def reuse(problem: TracedProblem, requests: list[Request]) -> tuple[int, int]:
    """Of what base was sent, the tokens that it had computed before, and those of them that it found in its cache.

    A judge's request brings a step and a judge's turn; all before these was there, but for the last token that base wrote.
    """
    seen = cached = 0
    context, own = (
        problem.prompt,
        0,
    )  # the thought so far, and whether its last token is one that was written and not computed
    steps = iter(problem.steps)
    step = problem.steps[0]
    for number, request in enumerate(requests):
        if request.purpose == "judge":
            step = next(steps)
            if number:
                seen += context - own
                cached += min(request.cached_tokens, context - own)
            assert request.prompt_tokens > context + step.draft
            if step.accepted:
                context, own = context + step.draft, 0
        elif request.purpose == "regenerate":
            assert request.prompt_tokens == context
            seen += context - 1
            cached += min(request.cached_tokens, context - 1)
            context, own = context + step.regenerated, 1
        else:
            assert (request.purpose, request.prompt_tokens) == ("answer", context)
            seen += context - 1
            cached += min(request.cached_tokens, context - 1)
    return seen, cached
