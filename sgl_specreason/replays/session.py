"""Owns the run of a replay: a plan whose problems are those of a trace, and a session without answers and grades."""

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sgl_specreason.engines import footprint
from sgl_specreason.errors import UsageError
from sgl_specreason.method.policy import is_alone, plain
from sgl_specreason.method.trajectory import Texts
from sgl_specreason.plan import limits
from sgl_specreason.plan.benches import Row, Rows
from sgl_specreason.plan.limits import Room
from sgl_specreason.plan.plan import Plan, Variant
from sgl_specreason.replays.trace import Trace, TracedProblem
from sgl_specreason.replays.trajectory import Replayed
from sgl_specreason.results.folder import RunFolder, write_json
from sgl_specreason.results.records import CONFIG, read_config
from sgl_specreason.run.interruption import Interruption
from sgl_specreason.run.session import Record, Session
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.steps import BLANK_LINE, Author

if TYPE_CHECKING:
    from sgl_specreason.engines.endpoint import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPlan(Plan):
    """A plan whose problems are those of a trace. `dummy` says that the engines' weights are random."""

    trace: Trace
    dummy: bool = False
    accepted: dict[float | None, dict[str, TracedProblem]] = field(init=False)

    def __post_init__(self) -> None:
        Plan.__post_init__(self)
        shares = {getattr(variant.policy, "acceptance", None) for variant in self.variants}
        traces = {share: self.trace if share is None else self.trace.accepting(share, self.seed) for share in shares}
        found = {share: {problem.id: problem for problem in trace.problems} for share, trace in traces.items()}
        object.__setattr__(self, "accepted", found)

    @classmethod
    def of(cls, plan: Plan, trace: Trace, *, dummy: bool, **changes: Any) -> "ReplayPlan":
        """`plan` with the problems of a trace in place of its bench's."""
        rows = [Row(id=problem.id, problem=problem.id, answer="-") for problem in trace.problems]
        settings = {item.name: getattr(plan, item.name) for item in fields(plan) if item.init}
        settings |= {"rows": Rows(rows=rows, origin=trace.origin), "limit": None}
        settings |= {
            "bench": structs.replace(plan.bench, name=f"replay-{trace.name}", title=f"replay of {trace.origin}")
        }
        return cls(**settings | changes, trace=trace, dummy=dummy)

    def settings(self, variant: Variant) -> dict[str, Any]:
        return Plan.settings(self, variant) | {
            "replay": True,
            "dummy_weights": self.dummy,
            "trace": self.trace.statistics(),
            "dataset_sha256": self.trace.sha256,
        }

    def conditions(self) -> dict[str, Any]:
        return Plan.conditions(self) | {"dataset_sha256": self.trace.sha256}

    def texts(self, row: Row, chats: dict[Author, ChatFormat]) -> Texts:
        """Marks for prompts; what we append to them is the real thing."""
        texts = Plan.texts(self, row, chats)
        return replace(texts, prompts=dict.fromkeys(chats, f"[prompt of {row.id}]{BLANK_LINE}"), contents={})

    def trajectory(self, variant: Variant, row: Row, sample: int, chats: dict[Author, ChatFormat]) -> Replayed:
        return Replayed(
            **self._given(variant, row, sample, chats),
            problem=self.accepted[getattr(variant.policy, "acceptance", None)][row.id],
            seed=self.seed,
        )


class ReplaySession(Session):
    """A session without answers and grades."""

    __slots__ = ()

    @staticmethod
    def endpoint_class() -> "type[Endpoint]":
        from sgl_specreason.replays.endpoint import ReplayEndpoint

        return ReplayEndpoint

    @staticmethod
    def check(plan: Plan, chats: dict[Author, ChatFormat], rooms: dict[Author, Room]) -> None:
        """Raises UsageError where a trajectory of the trace does not fit an engine of `rooms`."""
        assert isinstance(plan, ReplayPlan)
        texts = plan.texts(plan.problems[0], chats)
        for role, room in rooms.items():
            variants = [
                variant for variant in plan.variants if not is_alone(variant.method) or plain(variant.method) == role
            ]
            vocabulary = chats[role].vocabulary
            rest = max((limits.rest_of(vocabulary, texts, variant, role) for variant in variants), default=0)
            problem = max(plan.trace.problems, key=lambda problem: problem.prompt + problem.most)
            need = problem.prompt + problem.most + rest
            if variants and need > room.tokens:
                raise UsageError(
                    f"problem {problem.id} of the trace may need {need} tokens on {role}, which holds {room.tokens}: "
                    f"{problem.prompt} of prompt, {problem.most} of thought, {rest} for judging or the answer; "
                    f"give a shorter trace (--thinking-tokens, --prompt-tokens, --answer-tokens) or {room.remedy}"
                )

    def graded(self, record: Record, gold: str) -> Record:
        return {"correct": None, "answer": None, "gold": "", "grader": "none"}

    def asked(self, row: Row) -> Record:
        """Nothing: the lengths of a trace ask no question."""
        return {}

    def run(self, folders: dict[Variant, RunFolder], interruption: Interruption) -> None:
        Session.run(self, folders, interruption)
        held = footprint.measured(self.endpoints)
        for variant in self.variants:
            file = folders[variant].path / CONFIG
            write_json(file, read_config(file) | {"memory": held})
