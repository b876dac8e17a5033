"""Owns what stands in the JSON files of a run folder, as types that are checked on reading. Knows no files.

Only what somebody reads again is here; files hold more.
"""

from typing import Annotated, Any, Literal, TypedDict

from sgl_specreason.plan.catalog import Grader
from sgl_specreason.shapes import Within

Count = Annotated[int, Within(0)]
Positive = Annotated[int, Within(1)]
Seconds = Annotated[float, Within(0)]
Share = Annotated[float, Within(-0.01, 1.01)]  # rounding may carry one over the edge
Value = str | bool | int | float | None
Role = Literal["base", "small"]


class _Policy(TypedDict):
    budget_tokens: Positive
    threshold: float
    score_rule: Literal["greedy", "expected", "p_ge", "p_yes", "min", "mean"]


Policy = Annotated[dict[str, Value], _Policy]


class Models(TypedDict):
    base: str
    small: str


class Trace(TypedDict):
    """What a replay followed, in numbers."""

    origin: str
    steps: Count
    step_tokens_median: float
    step_tokens_max: Count
    thinking_tokens_mean: float
    thinking_tokens_max: Count
    prompt_tokens_mean: float
    answer_tokens_mean: float


class _OfReplay(TypedDict, total=False):
    trace: Trace
    dummy_weights: bool


class Settings(_OfReplay):
    bench: str
    method: str
    pair: str
    preset: str
    policy: Policy
    samples: Positive
    concurrency: Positive


class _Prompts(TypedDict):
    judge: str


class _Versions(TypedDict):
    sglang: str


class Held(TypedDict, total=False):
    """What an engine holds in memory."""

    weights_gb: float
    cache_gb: float
    cache_tokens: Count
    resident_gb: float


class Memory(TypedDict, total=False):
    base: Held
    small: Held
    gpu_used_gb: list[float]


class _Measured(TypedDict, total=False):
    memory: Memory
    server_info: dict[str, dict[str, Any]]
    tokens_per_s_by_concurrency: dict[str, float]


class Config(_Measured):
    """config.json."""

    settings: Settings
    expected: Count
    grader: Grader
    gpu: str
    models: Models
    prompts: Annotated[dict[str, str], _Prompts]
    versions: Annotated[dict[str, str], _Versions]
    dataset_sha256: str


class Said(TypedDict, total=False):
    """What base said of a draft, and small's confidence in it."""

    score: float
    digits: Annotated[list[Share], Within(10, 10)]
    p_yes: Share
    label_mass: Share
    logprob_mean: float
    logprob_min: float
    confidence: Share


class _Written(TypedDict):
    text: str
    tokens: Count


class Draft(_Written, Said):
    """A draft that was thrown away."""


class _Drafted(TypedDict, total=False):
    draft: Draft
    others: list[Draft]
    salvaged: Count


class Step(_Written, Said, _Drafted):
    """A step of the thought."""

    by: Role


class _Spent(TypedDict, total=False):
    retries: Count
    dropped: bool


class Request(_Spent):
    """One request's account."""

    engine: Role
    purpose: str
    start_s: float
    seconds: Seconds


class _Optional(TypedDict, total=False):
    stop_reason: str | None
    tokens_dropped: Count
    tokens_salvaged: Count
    texts: str


class _Key(TypedDict):
    problem_id: str
    sample: Count
    latency_s: Annotated[float, Within(1e-9)]


class Finished(_Key, _Optional):
    """A line of trajectories.jsonl."""

    correct: bool | None  # null: a replay has no answers
    answer: str | None
    answer_text: str
    gold: str
    grader: str
    truncated: bool
    thinking_tokens: Count
    tokens_base: Count
    tokens_small: Count
    tokens_small_kept: Count
    tokens_discarded: Count
    answer_tokens: Count
    steps_kept: Count
    steps_by_small: Count
    drafts: Count
    accepted: Count
    judged: Count
    prompt_tokens: Count
    cached_tokens: Count
    steps: list[Step]
    requests: list[Request]


class _Begun(TypedDict, total=False):
    steps: list[Step]
    requests: list[Request]
    answer_text: str


class Failed(_Key, _Optional, _Begun):
    """A line of a trajectory that failed."""

    error: str


class Sweep(TypedDict):
    """sweep.json."""

    grid: dict[str, Any]
