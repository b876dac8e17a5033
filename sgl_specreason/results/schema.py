"""Owns what stands in the JSON files of a run folder, as types; those of a trajectory are in `lines.py`. Knows no files.

Only what somebody reads is here: files hold more, and what is unknown is passed over. What an older version did not write has a
default, where one can stand for it.
"""

from datetime import date
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from sgl_specreason.method.gates import SIGNALS, STRICTER_LOWER
from sgl_specreason.method.score import ScoreRule
from sgl_specreason.plan.catalog import Grader
from sgl_specreason.typed import LARGEST_COUNT, Count, Number, Positive

Whole = Annotated[int, Meta(ge=-LARGEST_COUNT, le=LARGEST_COUNT)]
Value = str | bool | Whole | Number | None


class Data(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Something in a file. It holds no circles, so that the collector need not look at 100,000 of them again and again."""


class Models(Data, frozen=True, kw_only=True):
    small: str
    base: str


class Trace(Data, frozen=True, kw_only=True):
    """What a replay followed, in numbers."""

    origin: str
    sha256: str = ""
    problems: Count = 0
    steps: Count
    step_tokens_median: Number
    step_tokens_max: Count
    thinking_tokens_mean: Number
    thinking_tokens_max: Count
    prompt_tokens_mean: Number
    answer_tokens_mean: Number


class Policy(Data, frozen=True, kw_only=True):
    """What is read by name of a method's settings."""

    budget_tokens: Positive
    threshold: Number
    score_rule: ScoreRule
    judge: str = "score"
    gate: str = "judge"
    gate_threshold: Number | None = None
    first_n: Count = 0

    @property
    def goes_by_signal(self) -> bool:
        """Whether its gate goes by a threshold of its own, and the judge at most by what that leaves open."""
        return self.gate in SIGNALS and self.gate_threshold is not None

    @property
    def dial(self) -> Literal["threshold", "gate_threshold"]:
        """The setting that says how strict it is."""
        return "gate_threshold" if self.goes_by_signal else "threshold"

    @property
    def level(self) -> float:
        """Where that stands."""
        return self.threshold if self.gate_threshold is None or not self.goes_by_signal else self.gate_threshold

    @property
    def strictness(self) -> float:
        """Higher, where fewer drafts are kept unasked, or at all."""
        return -self.level if self.gate in STRICTER_LOWER and self.goes_by_signal else self.level


class Settings(Data, frozen=True, kw_only=True):
    """What a run's numbers depend on. `policy` has every setting of the version that wrote it, `Policy` those that are read."""

    bench: str
    method: str
    pair: str
    preset: str
    policy: dict[str, Value]
    samples: Positive
    concurrency: Positive
    models: dict[str, str] = {}
    prompts: dict[str, str] = {}
    dataset_sha256: str = ""
    limit: Whole | None = None
    seed: Whole | None = None
    replicas: dict[str, Count] | None = None
    replay: bool = False
    dummy_weights: bool = False
    trace: Trace | None = None


class Held(Data, frozen=True, kw_only=True):
    """What an engine holds in memory."""

    weights_gb: Number | None = None
    cache_gb: Number | None = None
    cache_tokens: Count | None = None
    resident_gb: Number | None = None


class Memory(Data, frozen=True, kw_only=True):
    small: Held = Held()
    base: Held = Held()
    gpu_used_gb: list[Number] = []


class ServerInfo(Data, frozen=True, kw_only=True):
    """What is read of an engine's own account of itself."""

    load_format: Any = None


class Config(Data, frozen=True, kw_only=True):
    """config.json. `prompts` are the templates' hashes, `versions` those of packages, by name.

    `changed` are the settings of the method that are not the preset's, `prompts_from` the templates' folder.
    """

    settings: Settings
    expected: Count
    grader: Grader
    gpu: str
    models: Models
    prompts: dict[str, str]
    versions: dict[str, str]
    dataset_sha256: str
    dataset_origin: str | None = None
    day: date | None = None
    commit: str | None = None
    replicas: dict[str, Count] | None = None
    memory: Memory | None = None
    server_info: dict[str, ServerInfo] = {}
    tokens_per_s_by_concurrency: dict[str, Number] = {}
    changed: dict[str, Value] = {}
    prompts_from: str = ""


class Conditions(Struct, frozen=True, kw_only=True):
    """What a number must never be without (design.md)."""

    prompts: dict[str, str]
    models: Models
    versions: dict[str, str]
    gpu: str
    dataset_sha256: str
    dataset_origin: str | None
    commit: str | None
    replicas: dict[str, int] | None


class Audit(Struct, frozen=True, kw_only=True):
    """The drafts that a gate kept, or refused, unasked: how many, how many of them were judged all the same, and to the contrary.

    `disagreement`: the mean over problems of the share judged to the contrary, with its 95 % interval by problem.
    """

    unasked: int
    audited: int
    disagreed: int
    disagreement: float
    disagreement_ci95: tuple[float, float]


class Summary(Struct, frozen=True, kw_only=True):
    """summary.json of one run; what is NaN here is null there."""

    bench: str
    method: str
    pair: str
    preset: str
    changed: dict[str, Value]
    policy: dict[str, Value]
    samples: int
    concurrency: int
    budget_tokens: int
    n: int
    trajectories: int
    accuracy: float
    accuracy_se: float
    accuracy_ci95: tuple[float, float]
    pass_at_k: dict[str, float]
    pass_at_k_ci95: dict[str, tuple[float, float]]
    maj_at_k: dict[str, float]
    maj_at_k_ci95: dict[str, tuple[float, float]]
    latency_mean_s: float
    latency_p50_s: float
    latency_p95_s: float
    wall_s: float
    most_at_once: int | None
    throughput_problems_per_s: float
    steps: int
    drafts: int
    judged_steps: int
    unjudged_drafts: int
    accepted_steps: int
    acceptance: float
    offloaded_steps_share: float
    offloaded_tokens_share: float
    thinking_tokens_mean: float
    tokens_base: int
    tokens_small: int
    tokens_discarded: int
    tokens_dropped: int
    tokens_salvaged: int
    answer_tokens: int
    judge_requests: int
    audits: dict[Literal["kept", "refused"], Audit]
    label_mass_mean: float
    prompt_tokens: int
    cached_tokens: int
    cached_share: float
    truncated_share: float
    loops: int
    no_answer_share: float
    retries: int
    accept_length_mean: float
    grader_timeouts: int
    failed: int
    partial: bool
    conditions: Conditions


class ReplaySummary(Summary, frozen=True, kw_only=True):
    """summary.json of a replay."""

    replay: bool = True
    dummy_weights: bool
    trace: Trace
    throughput_tokens_per_s: float
    memory: Memory | None


class Sweep(Data, frozen=True, kw_only=True):
    """sweep.json."""

    grid: dict[str, Any]
    points: list[dict[str, Any]] = []
