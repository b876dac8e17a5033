"""Owns one evaluation run: engines up, each method's trajectories, grades, records, summaries.

Knows nothing of command-line options. Whatever it prints goes to `say`.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgl_specreason import engines as servers
from sgl_specreason import records, report
from sgl_specreason.benches import Row
from sgl_specreason.errors import Interrupted, RequestError, UsageError
from sgl_specreason.plan import ROLES, Plan
from sgl_specreason.policy import Author, Method
from sgl_specreason.prompts import ChatFormat, load_tokenizer
from sgl_specreason.rescore import graded
from sgl_specreason.runner import run_all

if TYPE_CHECKING:
    from sgl_specreason.endpoint import Endpoint

Say = Callable[[str], None]
Record = dict[str, Any]
WARM_UP_TOKENS = 64


def run(
    plan: Plan,
    *,
    out: Path,
    resume: Path | None,
    urls: tuple[str, str] | None,
    api_key: str | None,
    say: Say,
) -> Path:
    """Runs every method of the plan. Returns the folder with everything.

    `urls` are of running servers, in the order of ROLES. Raises UsageError before anything is started, EngineError where an
    engine fails, Interrupted on Ctrl-C and SIGTERM.
    """
    if urls is not None:
        running = {role: servers.attached(role, url, api_key) for role, url in zip(ROLES, urls, strict=True)}
        plan = replace(plan, models={role: engine.model for role, engine in running.items()})
    chats = _chats(plan)
    top, folders = _folders(plan, out, resume)
    with ExitStack() as stack:
        stack.enter_context(_sigterm_as_interrupt())
        try:
            if urls is None:
                # SGLang takes seconds to import: meanwhile, and not after the engines are up
                threading.Thread(target=import_module, args=("sgl_specreason.program",), daemon=True).start()
                running = stack.enter_context(servers.started(list(plan.specs), top / "logs", say=say))
            endpoints = _endpoints(plan, running, chats, api_key)
            for endpoint in endpoints.values():
                stack.callback(endpoint.stop)
            session = Session(plan=plan, chats=chats, endpoints=endpoints, say=say)
            for method in plan.methods:
                session.run(method, folders[method], resume=resume is not None)
        except KeyboardInterrupt as signalled:
            raise Interrupted(top, 143 if signalled.args else 130) from None
    return top


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A plan with its engines up: runs one method after the other on them."""

    plan: Plan
    chats: dict[Author, ChatFormat]
    endpoints: dict[Author, "Endpoint"]
    say: Say

    def run(self, method: Method, folder: Path, *, resume: bool) -> None:
        """Every trajectory of `method` that `folder` does not hold yet; each is written as it ends, the summary at the end."""
        from tqdm import tqdm

        plan = self.plan
        config = self._config(method)
        run_folder = records.RunFolder.open(folder, config, resume=resume)
        if run_folder.torn:
            self.say(f"{folder}: the last line was torn and is dropped; its trajectory runs again")
        done = records.read_trajectories(folder)
        tasks = [
            (row, sample)
            for row in plan.problems
            for sample in range(plan.samples)
            if (row.id, sample) not in run_folder.done
        ]
        if tasks:
            self._warm_up(method)
        gold = {row.id: row.answer for row in plan.problems}
        before_s = max((record["elapsed_s"] for record in done), default=0.0)
        begin = time.monotonic()

        def elapsed_s() -> float:
            return before_s + time.monotonic() - begin

        every_s = 0.1 if sys.stderr.isatty() else 10  # a log is not a screen
        bar = tqdm(total=plan.expected, initial=len(done), desc=method, file=sys.stderr, mininterval=every_s)
        try:
            for record in run_all(tasks, lambda task: self._attempt(method, *task), plan.concurrency):
                if "error" not in record:
                    record |= graded(record, gold[record["problem_id"]], plan.bench.grader)
                if plan.bench.private:
                    record = records.without_texts(record)
                record["elapsed_s"] = elapsed_s()
                run_folder.append(record)
                done.append(record)
                bar.set_postfix_str(_progress(done, elapsed_s()), refresh=False)
                bar.update()
        finally:
            bar.close()
            report.written(folder)

    def _attempt(self, method: Method, row: Row, sample: int) -> Record:
        """One trajectory's record; a failed request makes a record with its error instead of an exception."""
        from sgl_specreason.program import run_trajectory

        trajectory = self.plan.trajectory(row, sample, self.chats)
        begin = time.monotonic()
        error: RequestError | None = None
        try:
            run_trajectory(method, trajectory, self.endpoints)
        except RequestError as failure:
            error = failure
        latency_s = time.monotonic() - begin
        record = trajectory.record() | {"method": method, "start_s": begin, "latency_s": latency_s}
        if row.permutation is not None:
            record["permutation"] = row.permutation
        return record if error is None else record | {"error": str(error)}

    def _warm_up(self, method: Method) -> None:
        """One unrecorded short trajectory, then an empty cache, so that the first problem pays nothing extra."""
        from sgl_specreason.program import run_trajectory

        policy = self.plan.policy
        budget = min(WARM_UP_TOKENS, policy.budget_tokens)
        step = min(policy.step_tokens, budget)
        trajectory = self.plan.trajectory(self.plan.problems[0], 0, self.chats)
        trajectory.policy = replace(
            policy,
            budget_tokens=budget,
            step_tokens=step,
            min_step_tokens=min(policy.min_step_tokens, step),
            answer_tokens=min(16, policy.answer_tokens),
        )
        run_trajectory(method, trajectory, self.endpoints)
        for endpoint in self.endpoints.values():
            endpoint.flush_cache()

    def _config(self, method: Method) -> dict[str, Any]:
        return {
            "settings": self.plan.settings(method),
            **self.plan.conditions(),
            "grader": self.plan.bench.grader,
            "expected": self.plan.expected,
            "commit": _commit(),
            "server_info": {role: endpoint.get_server_info() for role, endpoint in self.endpoints.items()},
        }


def _folders(plan: Plan, out: Path, resume: Path | None) -> tuple[Path, dict[Method, Path]]:
    """The folder of everything and each method's run folder: new ones, or those of the run to go on with.

    Raises UsageError for a folder that is no such run, and RecordError, naming the keys, for one with other settings.
    """
    if resume is None:
        top = records.fresh_folder(out, plan.name(plan.methods))
    elif resume.is_dir():
        top = resume
    else:
        raise UsageError(f"--resume {resume}: no such run folder")
    if len(plan.methods) == 1:
        folders = {plan.methods[0]: top}
    else:
        folders = {method: top / plan.name((method,)) for method in plan.methods}
    if resume is not None:
        for path, config in records.begun_runs(top).items():
            method = config["settings"].get("method")
            if method in folders and (path == top) == (len(folders) == 1):
                records.check_settings(path, plan.settings(method))
                folders[method] = path
            else:
                raise UsageError(f"--resume {resume}: holds a run of method {method}; give the same --method options")
    return top, folders


def _chats(plan: Plan) -> dict[Author, ChatFormat]:
    tokenizers = {
        role: load_tokenizer(model, trust_remote_code=plan.trust_remote_code) for role, model in plan.models.items()
    }
    return {role: ChatFormat(tokenizer=tokenizer) for role, tokenizer in tokenizers.items()}


def _endpoints(
    plan: Plan,
    running: dict[Author, servers.Engine],
    chats: dict[Author, ChatFormat],
    api_key: str | None,
) -> dict[Author, "Endpoint"]:
    """Endpoints over the running engines, after checking that the judge can answer with each digit as one token."""
    from sgl_specreason.endpoint import Endpoint
    from sgl_specreason.score import DIGITS

    endpoints = {
        role: Endpoint(
            engine.url,
            role=role,
            tokenizer=chats[role].tokenizer,
            api_key=api_key,
            connections=2 * plan.concurrency,
        )
        for role, engine in running.items()
    }
    turn = chats["base"].judge_turn(plan.prompts, thinking=True)
    for digit in DIGITS:
        endpoints["base"].single_token(turn, digit)
    return endpoints


def _progress(done: list[Record], seconds: float) -> str:
    finished = [record for record in done if "error" not in record]
    if not finished:
        return f"failed {len(done)}"
    right = sum(record["correct"] for record in finished) / len(finished)
    tokens = sum(record["thinking_tokens"] + record["answer_tokens"] for record in finished)
    words = [f"acc {100 * right:.0f} %", f"{tokens / max(seconds, 1e-9):.0f} tok/s"]
    if judged := sum(record["judged"] for record in finished):
        accepted = sum(record["accepted"] for record in finished)
        words.insert(1, f"accepted {100 * accepted / judged:.0f} %")
    if len(finished) < len(done):
        words.append(f"failed {len(done) - len(finished)}")
    return ", ".join(words)


@cache
def _commit() -> str | None:
    """The commit of the checkout that this code is run from, "+" after it where files differ; None outside one."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: saved, engines ended."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
