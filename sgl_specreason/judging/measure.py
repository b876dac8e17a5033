"""Owns the run of a measurement: the engines that it needs, problems side by side, its folder.

Knows no options and no statistics. Whatever it prints goes to `say`.
"""

import secrets
import threading
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sgl_specreason.engines import startup
from sgl_specreason.engines.servers import ROLES
from sgl_specreason.errors import RequestError, UsageError
from sgl_specreason.judging.asking import Asking
from sgl_specreason.judging.benches import LabelledProblem
from sgl_specreason.judging.folder import StepsFolder
from sgl_specreason.judging.measurement import Measurement, attached, checked, gone_on
from sgl_specreason.method.policy import Policy
from sgl_specreason.method.trajectory import Texts, Trajectory
from sgl_specreason.plan import limits
from sgl_specreason.results import origin
from sgl_specreason.results.folder import fresh_folder, held
from sgl_specreason.results.origin import Origin
from sgl_specreason.run import serving
from sgl_specreason.run.interruption import Interruption, naming_the_folder
from sgl_specreason.run.runner import run_all
from sgl_specreason.run.serving import Access, Chats
from sgl_specreason.run.session import Say
from sgl_specreason.text.conversation import Message
from sgl_specreason.text.steps import Author

if TYPE_CHECKING:
    from sgl_specreason.engines.endpoint import Endpoint
    from sgl_specreason.judging.program import Answers


Task = tuple[LabelledProblem, int]
"""A problem, and the number of its first step that is still to be judged."""


def run(
    measurement: Measurement,
    *,
    begun: Origin,
    out: Path,
    resume: Path | None,
    access: Access,
    interruption: Interruption,
    say: Say,
) -> tuple[Path, int]:
    """Judges every step that the folder does not hold yet. Returns the folder, and how many problems failed.

    Raises UsageError before anything is started, EngineError where an engine fails for good, Interrupted on Ctrl-C and SIGTERM.
    """
    measurement, engines = attached(gone_on(measurement, resume), access)
    chats, views = checked(measurement)
    top = resume or fresh_folder(out, measurement.name)
    folder = StepsFolder.found(top)
    if measurement.plan.why:
        say(measurement.plan.why)
    with held(top), naming_the_folder(top, interruption), ExitStack() as whole:
        folder.begin(measurement.config({}))
        if resume is None:
            origin.written(top, begun)
        if folder.torn:
            say(f"{top}: the last line was torn and is dropped; its step is judged again")
        tasks = _missing(measurement, folder)
        if not tasks:
            return top, 0
        importing = serving.importing()
        if not engines:
            specs = [replace(spec, api_key=access.api_key or spec.api_key) for spec in measurement.plan.specs]
            asked = [spec for spec in specs if spec.role in measurement.roles]
            limits.check_sizes(asked)
            engines = whole.enter_context(startup.started(asked, top / "logs", say=say))
        importing.join()
        from sgl_specreason.engines.endpoint import Endpoint

        connections = 2 * measurement.concurrency
        endpoints = whole.enter_context(serving.connected(engines, chats, access, Endpoint, connections))
        folder.begin(measurement.config({role: endpoint.server_info for role, endpoint in endpoints.items()}))
        _check_decisions(measurement, endpoints)
        session = Session(
            measurement=measurement, chats=chats, views=views, endpoints=endpoints, folder=folder, say=say
        )
        return top, session.run(tasks, interruption)


def _check_decisions(measurement: Measurement, endpoints: "dict[Author, Endpoint]") -> None:
    """Raises UsageError, in the server's words, where /v1/decisions is to be asked and base's server does not have it."""
    from sgl_specreason.judging.program import decided

    asked = next((one for one in measurement.askings if one.judging == "decisions"), None)
    if asked is None:
        return
    problem = measurement.problems[0]
    try:
        decided(endpoints["base"], asked, problem.problem, problem.steps[:1])
    except RequestError as error:
        raise UsageError(f"--judge decisions: {error}; leave this judge out") from None


def _missing(measurement: Measurement, folder: StepsFolder) -> list[Task]:
    done = {(line.problem, line.step) for line in folder.lines}
    found = []
    for problem in measurement.problems:
        missing = [at for at in range(len(problem.steps)) if (problem.id, at) not in done]
        if missing:
            found.append((problem, missing[0]))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A measurement with its engines up."""

    measurement: Measurement
    chats: Chats
    views: dict[str, Trajectory]
    endpoints: "dict[Author, Endpoint]"
    folder: StepsFolder
    say: Say

    def run(self, tasks: Sequence[Task], interruption: Interruption) -> int:
        """Every task; each step is written as it is judged. Returns how many failed.

        Raises KeyboardInterrupt after an interruption, when all is written.
        """
        from tqdm import tqdm

        failed, namespace = 0, secrets.token_hex(8)
        total = sum(len(problem.steps) for problem in self.measurement.problems)
        with interruption.heeded(), tqdm(total=total, initial=len(self.folder.lines), mininterval=1) as bar:
            work = _Work(session=self, namespace=namespace, halt=interruption.halt)
            for words in run_all(tasks, work, self.measurement.concurrency, interruption.halt):
                bar.update(len(self.folder.lines) - bar.n)
                if words is not None:
                    failed += 1
                    self.say(words)
        if interruption.halt.is_set():
            raise KeyboardInterrupt
        return failed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What is done with a task. Returns what went wrong, in words."""

    session: Session
    namespace: str
    halt: threading.Event

    def __call__(self, task: Task) -> str | None:
        problem, begin = task
        try:
            self._judge(problem, begin)
        except RequestError as error:
            return f"{problem.id}: {error}"
        return None

    def _judge(self, problem: LabelledProblem, begin: int) -> None:
        """A pass over the steps for each wording of the problem: one, where only the judges' templates differ.

        A step's line is written in the last pass.
        """
        groups: dict[str, list[Asking]] = {}
        for asking in self.session.measurement.askings:
            groups.setdefault(asking.prompts.hashes[self.session.measurement.bench.prompt], []).append(asking)
        answers: dict[int, Answers] = {}
        for number, askings in enumerate(groups.values(), 1):

            def hear(step: int, said: "Answers", last: bool = number == len(groups)) -> bool:
                answers[step] = answers.get(step, {}) | said
                if last:
                    line = {"problem": problem.id, "step": step, "right": problem.right[step], "said": answers[step]}
                    self.session.folder.append(line)
                return not self.halt.is_set()

            self._walk(problem, begin, askings, hear)

    def _walk(
        self, problem: LabelledProblem, begin: int, askings: Sequence[Asking], hear: "Callable[[int, Answers], bool]"
    ) -> None:
        """Has the steps judged over one wording of the problem."""
        from sgl_specreason.judging.program import Solution, run

        session = self.session
        content = askings[0].prompts[session.measurement.bench.prompt].fill(problem=problem.problem)
        roles = {asking.engine for asking in askings}
        openings = {role: session.chats[role].opening([Message("user", content)]) for role in ROLES if role in roles}
        end = next(iter(session.chats.values())).think_end
        texts = Texts(
            prompts={role: opening.prompt for role, opening in openings.items()},
            judge_open="", judge_closed="", binary_open="", binary_closed="", close="", think_end=end,
        )  # fmt: skip
        trajectory = Trajectory(
            problem_id=problem.id, sample=0, sampling_seed=0, policy=Policy(), texts=texts, cache_key=self.namespace
        )
        solution = Solution(
            problem=content,
            texts=problem.steps,
            closes=problem.closes,
            askings=askings,
            views={name: replace(view, calls=[]) for name, view in session.views.items()},
            hear=hear,
            begin=begin,
            # or the last of many judges would be first of long solutions only
            turn=zlib.crc32(problem.id.encode("utf-8", "surrogatepass")),
            engines={role: session.endpoints[role] for role in openings},
        )
        run(trajectory, solution, {role: opening.contents for role, opening in openings.items()})
