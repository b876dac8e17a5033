"""Owns the variants of a plan that share running engines: their trajectories, grades and records.

Knows nothing of how the engines came up. Whatever it prints goes to `say`.
"""

import itertools
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sgl_specreason.errors import RequestError
from sgl_specreason.method.policy import is_alone
from sgl_specreason.method.trajectory import Trajectory
from sgl_specreason.plan import limits
from sgl_specreason.plan.benches import Row
from sgl_specreason.plan.plan import MOST, Plan, Variant
from sgl_specreason.plan.versions import commit
from sgl_specreason.results.folder import RunFolder, without_texts
from sgl_specreason.results.records import CONFIG, outcome, record_of
from sgl_specreason.results.rescore import graded
from sgl_specreason.run.interruption import Interruption
from sgl_specreason.run.knee import knee
from sgl_specreason.run.progress import Progress
from sgl_specreason.run.runner import run_all
from sgl_specreason.text.chat import ChatFormat, other_end
from sgl_specreason.text.steps import Author

if TYPE_CHECKING:
    from tqdm import tqdm

    from sgl_specreason.engines.endpoint import Endpoint

Say = Callable[[str], None]
Record = dict[str, Any]
Task = tuple[Variant, Row, int]
WARM_UP_TOKENS = 64
KNEE_TOKENS = 128
LEAST_ROUNDS, MOST_BLOCKS = 8, 8
"""A block of one variant is at least so many times the trajectories that run side by side: its end, where fewer do, is short.
And there are so many blocks at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Variants of a plan with their engines up, and what is done with them.

    Its trajectories have a part of the engines' caches for themselves (`namespace`): nothing that was computed before is of use
    to them, also where the cache is not emptied, since others use the same server (`keep_cache`). `attempts` makes a trajectory's
    record elsewhere (`clients.py`).
    """

    plan: Plan
    variants: tuple[Variant, ...]
    chats: dict[Author, ChatFormat]
    endpoints: dict[Author, "Endpoint"]
    say: Say
    rates: dict[str, float]
    keep_cache: bool = False
    namespace: str = field(default_factory=lambda: secrets.token_hex(8))
    told: set[str] = field(default_factory=set)
    attempts: Callable[..., Record] | None = None

    check = staticmethod(limits.check)

    @staticmethod
    def endpoint_class() -> "type[Endpoint]":
        """What its trajectories ask the engines through. SGLang takes seconds to import."""
        from sgl_specreason.engines.endpoint import Endpoint

        return Endpoint

    def graded(self, record: Record, gold: str) -> Record:
        """What a finished record says about its answer."""
        return graded(record["answer_text"], gold, self.plan.bench.grader)

    def asked(self, row: Row) -> Record:
        """What a record says of its problem: the question too, or nobody could judge a step; never that of a private bench."""
        record = {} if row.permutation is None else {"permutation": row.permutation}
        return record if self.plan.bench.private else record | row.values()

    def with_measured_concurrency(self) -> "Session":
        """This session at the knee of its throughput: short trajectories of the method, at ever more side by side."""
        plan = self.plan
        variant = next((variant for variant in self.variants if not is_alone(variant.method)), self.variants[0])
        self._warm_up()

        def rate(level: int) -> float:
            problems = itertools.islice(itertools.cycle(plan.problems), 2 * level)
            tasks = [self._shortened(variant, row, KNEE_TOKENS) for row in problems]
            for number, task in enumerate(tasks):  # or the second round would run on what the first computed
                task.cache_key = f"{self.namespace} concurrency {level} {number}"
            begin = time.monotonic()
            self._unrecorded(variant, tasks, level, f"measuring concurrency {level}")
            return sum(task.tokens_kept for task in tasks) / (time.monotonic() - begin)

        level, rates = knee(rate, min(MOST, plan.expected, self._fitting(variant)))
        self._flush()
        words = ", ".join(f"{count}: {value:.0f}" for count, value in rates.items())
        self.say(f"concurrency auto: {level} (thinking tokens/s by concurrency: {words})")
        return replace(
            self,
            plan=replace(plan, concurrency=level),
            rates={str(count): value for count, value in rates.items()},
        )

    def _fitting(self, variant: Variant) -> int:
        """How many trajectories at their budget the smaller one of the engines' caches holds."""
        policy, texts = variant.policy, self.plan.texts(self.plan.problems[0], self.chats)
        counts = []
        for role, endpoint in self.endpoints.items():
            need = len(endpoint.ids(texts.prompts[role])) + policy.budget_tokens + policy.answer_tokens
            each = int(endpoint.server_info.get("max_total_num_tokens", MOST * need)) // need
            counts.append(each * max(1, len(endpoint.replicas)))
        return max(1, min(counts))

    def run(self, folders: dict[Variant, RunFolder], interruption: Interruption) -> None:
        """Every trajectory that its variants' folders do not hold yet; each is written as it ends.

        The folders of other variants are begun, so that the summary of all knows that they are missing. Raises KeyboardInterrupt
        after an interruption, when all is written.
        """
        runs = self._begun(folders)
        total = self.plan.expected * len(runs)
        begun = sum(len(run.done) for run in runs.values())
        if begun < total:
            self._warm_up()
        gold = {row.id: row.answer for row in self.plan.problems}
        progress = Progress({variant: run.outcomes for variant, run in runs.items()})
        with interruption.heeded(), closing(_bar(total, begun)) as bar:
            for variant, record in self._finished(runs, interruption.halt):
                if "error" not in record:
                    record |= self.graded(record, gold[record["problem_id"]])
                if self.plan.bench.private:
                    record = without_texts(record)
                runs[variant].append(record)
                runs[variant].outcomes.append(outcome(record_of(record)))
                progress.add(variant, runs[variant].outcomes[-1])
                bar.set_postfix_str(progress.words(), refresh=False)
                bar.update()
        if interruption.halt.is_set():
            raise KeyboardInterrupt

    def _begun(self, folders: dict[Variant, RunFolder]) -> dict[Variant, RunFolder]:
        """The open folders of this session's variants; those of others are begun."""
        for variant, folder in folders.items():
            if variant in self.variants:
                folder.begin(self._config(variant))
                if folder.torn:
                    self.say(f"{folder.path}: the last line was torn and is dropped; its trajectory runs again")
            elif not (folder.path / CONFIG).exists():
                folder.begin(self._config(variant) | {"server_info": {}})
        return {variant: folders[variant] for variant in self.variants}

    def _finished(self, runs: dict[Variant, RunFolder], halt: threading.Event) -> Iterator[tuple[Variant, Record]]:
        """Every missing trajectory's record as it ends, until there is a halt."""
        attempt = self.attempts or self.attempt
        for group, numbers in self.rounds():
            if not halt.is_set():
                tasks = self._missing(group, numbers, runs)
                yield from run_all(tasks, lambda task: (task[0], attempt(*task)), self.plan.workers, halt)

    def rounds(self) -> Iterator[tuple[Sequence[Variant], range]]:
        """The work in groups, of which one begins when the last has ended: which variants, and which tasks of each.

        One trajectory at a time they take turns. Where several run side by side each variant has the engines to itself, or its
        latency would be that beside the others: a block of its tasks, then the same of the next variant, and back again, so
        that the machine's drift hits all alike. A task is a problem's sample.
        """
        count, concurrency = self.plan.expected, self.plan.workers
        if concurrency == 1 or len(self.variants) == 1:
            yield self.variants, range(count)
            return
        size = max(concurrency * LEAST_ROUNDS, -(-count // MOST_BLOCKS))
        order = list(self.variants)
        for start in range(0, count, size):
            yield from (((variant,), range(start, min(start + size, count))) for variant in order)
            order.reverse()

    def _missing(self, group: Sequence[Variant], numbers: range, runs: dict[Variant, RunFolder]) -> Iterator[Task]:
        """What of these tasks the folders of these variants do not hold yet, problem by problem."""
        for number in numbers:
            row, sample = self.plan.problems[number // self.plan.samples], number % self.plan.samples
            yield from ((variant, row, sample) for variant in group if (row.id, sample) not in runs[variant].done)

    def attempt(self, variant: Variant, row: Row, sample: int) -> Record:
        """One trajectory's record; a failed request makes a record with its error instead of an exception."""
        trajectory = self.plan.trajectory(variant, row, sample, self.chats)
        trajectory.cache_key += f" {self.namespace}"
        begin = time.monotonic()
        error: RequestError | None = None
        try:
            self._run(variant, trajectory)
        except RequestError as failure:
            error = failure
        latency_s = time.monotonic() - begin
        self._look_for_other_tags(variant, trajectory)
        record = trajectory.record() | {"method": variant.method, "start_s": begin, "latency_s": latency_s}
        record |= self.asked(row)
        return record if error is None else record | {"error": str(error)}

    def _look_for_other_tags(self, variant: Variant, trajectory: Trajectory) -> None:
        """Says once of a method that its models close their thoughts with a tag that is not looked for."""
        ours = trajectory.texts.think_end
        if trajectory.stop_reason == "think_end" or variant.method in self.told:
            return
        if tag := other_end("".join(kept.step.text for kept in trajectory.kept), ours):
            self.told.add(variant.method)
            self.say(
                f"Warning: {variant.method}: a thought did not end with {ours or 'a think tag (this pair has none)'} but holds "
                f"{tag}: are think_tags those of these models? (docs/pairs.md)"
            )

    def _warm_up(self) -> None:
        """One unrecorded short trajectory of each method, then an empty cache, so that the first problem pays nothing extra.

        Where there are replicas, as many side by side, which a router shares out among them.
        """
        count = max(self.plan.replicas.values(), default=1)
        for variant in {variant.method: variant for variant in self.variants}.values():
            tasks = [self._shortened(variant, self.plan.problems[0], WARM_UP_TOKENS) for _ in range(count)]
            for number, task in enumerate(tasks):
                task.cache_key, task.routing_key = f"{self.namespace} warm up", f"warm up {number}"
            self._unrecorded(variant, tasks, count, f"warming up {variant.method}")
        self._flush()

    def _unrecorded(self, variant: Variant, tasks: Sequence[Trajectory], workers: int, doing: str) -> None:
        """Runs trajectories that make no records. A request that fails is said: the run itself meets it, or does not."""
        try:
            for _ in run_all(tasks, partial(self._run, variant), workers):
                pass
        except RequestError as error:
            self.say(f"{doing} failed, the run goes on: {error}")

    def _flush(self) -> None:
        """Empties the engines' caches, for their memory. A server that refuses is said: it may have other users."""
        for role, endpoint in ({} if self.keep_cache else self.endpoints).items():
            try:
                endpoint.flush_cache()
            except RequestError as error:
                self.say(f"the cache of {role} could not be emptied, the run goes on: {error}")

    def _run(self, variant: Variant, trajectory: Trajectory) -> None:
        from sgl_specreason.method.program import run_trajectory

        run_trajectory(variant.method, trajectory, self.endpoints)

    def _shortened(self, variant: Variant, row: Row, tokens: int) -> Trajectory:
        """A trajectory that is not recorded, with at most `tokens` thinking tokens."""
        policy = variant.policy
        trajectory = self.plan.trajectory(variant, row, 0, self.chats)
        trajectory.policy = structs.replace(
            policy,
            budget_tokens=min(tokens, policy.budget_tokens),
            answer_tokens=min(16, policy.answer_tokens),
        )
        return trajectory

    def _config(self, variant: Variant) -> dict[str, Any]:
        return {
            "settings": self.plan.settings(variant),
            "changed": self.plan.changed.get(variant, {}),
            "prompts_from": str(self.plan.prompts.folder),
            "tokens_per_s_by_concurrency": self.rates,
            **self.plan.conditions(),
            "grader": self.plan.bench.grader,
            "expected": self.plan.expected,
            "day": self.plan.day.isoformat(),
            "commit": commit(),
            "clients": self.plan.clients,
            "cache": "kept" if self.keep_cache else "emptied",
            "placement": self.plan.placement.record() if self.plan.placement else None,
            "server_info": {role: endpoint.server_info for role, endpoint in self.endpoints.items()},
        }


def _bar(total: int, begun: int) -> "tqdm[Any]":
    from tqdm import tqdm

    every_s = 0.1 if sys.stderr.isatty() else 10  # a log is not a screen
    return tqdm(total=total, initial=begun, file=sys.stderr, mininterval=every_s)
