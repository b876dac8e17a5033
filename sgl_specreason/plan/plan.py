"""Owns a resolved run: its problems, models, variants and prompts, and what of it a run folder records.

Knows nothing of options, HTTP or run folders.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

from msgspec import structs

from sgl_specreason.engines.decode import Decode
from sgl_specreason.engines.servers import EngineSpec
from sgl_specreason.method.policy import ALONE, Method, Policy, is_alone, plain
from sgl_specreason.method.score import DIGITS, WORDS, Judge
from sgl_specreason.method.trajectory import Question, Texts, Trajectory, sampling_seed
from sgl_specreason.plan.benches import Row, Rows
from sgl_specreason.plan.catalog import Bench, Sweep
from sgl_specreason.plan.checkpoints import identity
from sgl_specreason.plan.placement import Placement
from sgl_specreason.plan.versions import versions
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.conversation import Message, Opening
from sgl_specreason.text.prompts import PromptSet
from sgl_specreason.text.steps import Author

ATTACHED = "attached"
"""The pair of running servers, which name their models themselves."""
LONGEST_PART, MOST_TOLD = 48, 48
MOST = 256
"""As many trajectories are ever tried side by side where `--concurrency auto` measures: with so many one client process keeps up
(eval/results/speed.md)."""


class Variant(NamedTuple):
    """A method with its settings: what one run folder is about."""

    method: Method
    policy: Policy

    @property
    def speculates(self) -> bool:
        """Whether base is served with token-level speculation for it."""
        return self.method != plain(self.method)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run, resolved: its problems, models, variants and prompts. `specs` is empty where running servers are used.

    `concurrency` is "auto" until it has been measured on the engines, `clients` is among how many processes that many
    trajectories are shared out, `replicas` is how many of each engine there are. `why` says why
    this pair was chosen where nobody named one; `elsewhere` that the GPUs are not this machine's. `day` is what chat templates
    are told, `tokenizers` where running servers' are looked for, the first one that is to be had. `changed` are the settings of
    a variant that were asked for and are not the preset's.
    """

    bench: Bench
    rows: Rows
    variants: tuple[Variant, ...]
    sweep: Sweep | None
    pair: str
    models: dict[Author, str]
    specs: tuple[EngineSpec, ...]
    preset: str
    prompts: PromptSet
    samples: int
    limit: int | None
    seed: int
    concurrency: int | Literal["auto"]
    trust_remote_code: bool
    hardware: str
    clients: int = 1
    decode: Decode | None = None
    think_tags: tuple[str, str] = ("<think>", "</think>")
    why: str = ""
    placement: Placement | None = None
    elsewhere: bool = False
    replicas: dict[Author, int] = field(default_factory=dict)
    tokenizers: dict[Author, tuple[str, ...]] = field(default_factory=dict)
    day: date = field(default_factory=date.today)
    changed: dict[Variant, dict[str, Any]] = field(default_factory=dict)
    problems: list[Row] = field(init=False, repr=False, compare=False)
    _keys: dict[Variant, str] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "problems", self.rows.rows[: self.limit])

    @property
    def tokenizer_places(self) -> dict[Author, tuple[str, ...]]:
        """Where each model's tokenizer is looked for, the first place first."""
        return self.tokenizers or {role: (model,) for role, model in self.models.items()}

    @property
    def workers(self) -> int:
        """How many trajectories may run side by side: as many as are ever tried where that is still to be measured."""
        return MOST if self.concurrency == "auto" else self.concurrency

    @property
    def expected(self) -> int:
        """How many trajectories each variant has."""
        return len(self.problems) * self.samples

    @property
    def stages(self) -> dict[bool, tuple[Variant, ...]]:
        """The variants by whether base speculates for them: one start of base each, one after the other."""
        found: dict[bool, tuple[Variant, ...]] = {}
        for variant in self.variants:
            found[variant.speculates] = (*found.get(variant.speculates, ()), variant)
        return found

    def engine(self, role: Author, *, speculating: bool = False) -> EngineSpec:
        """How an engine is started; base with token-level speculation, or without."""
        spec = next(spec for spec in self.specs if spec.role == role)
        if role == "base" and speculating and self.decode:
            return self.decode.served(spec, self.models["small"])
        return spec

    def settings(self, variant: Variant) -> dict[str, Any]:
        """Everything that a run's numbers depend on and that resuming must not change."""
        return {
            "bench": self.bench.name,
            "method": variant.method,
            "pair": self.pair,
            "models": {role: identity(model) for role, model in self.models.items()},
            "preset": self.preset,
            "policy": structs.asdict(variant.policy),
            "prompts": self.prompts.hashes,
            "dataset_sha256": self.rows.sha256,
            "samples": self.samples,
            "limit": self.limit,
            "seed": self.seed,
            "concurrency": self.concurrency,
            **({"decode": asdict(self.decode)} if self.decode and variant.speculates else {}),
            **self.several,
        }

    def name(self, variants: tuple[Variant, ...]) -> str:
        """The folder's name for these variants: <bench>-<method>-<own settings>-<pair>-<digest of all settings>.

        Of a sweep, each run's own settings are its point of the grid; else what was asked for and is not the preset's.
        """
        settings = [self.settings(variant) for variant in variants]
        code = digest(settings[0] if len(settings) == 1 else {"runs": settings})
        if self.sweep and len(variants) > 1:
            label = f"sweep-{self.sweep.name}"
        else:
            varied = self.sweep.varied if self.sweep else []
            told = {
                key: getattr(v.policy, key, None)
                for v in variants
                for key in varied
                if not is_alone(v.method) or key in ALONE
            }
            for variant in variants:
                told |= self.changed.get(variant, {})
            label = "-".join([variants[0].method if len(variants) == 1 else "compare", *_told(told)])
        models = [_own_name(self.models[role]) for role in ("base", "small")]
        pair = "+".join(models) if self.pair == ATTACHED and all(models) else self.pair
        return f"{self.bench.name}-{label}-{pair}-{code}"

    def conditions(self) -> dict[str, Any]:
        """What a number must never be without (design.md)."""
        return {
            "prompts": self.prompts.hashes,
            "models": {role: identity(model) for role, model in self.models.items()},
            "versions": versions(),
            "gpu": self.hardware,
            "dataset_sha256": self.rows.sha256,
            "dataset_origin": self.rows.origin,
            **self.several,
        }

    @property
    def several(self) -> dict[str, Any]:
        """How many replicas there are, where there are several of an engine."""
        return {"replicas": self.replicas} if any(count > 1 for count in self.replicas.values()) else {}

    def texts(self, row: Row, chats: dict[Author, ChatFormat]) -> Texts:
        """The rendered texts of one problem."""
        content = self.prompts[self.bench.prompt].fill(**row.values())
        return self.texts_after({role: chat.opening([Message("user", content)]) for role, chat in chats.items()}, chats)

    def texts_after(self, openings: dict[Author, Opening], chats: dict[Author, ChatFormat]) -> Texts:
        """The rendered texts of a trajectory that begins with these."""
        base = chats["base"]
        judge_open, judge_closed, digits = self._question(base, "judge", DIGITS)
        binary_open, binary_closed, words = self._question(base, "judge_binary", WORDS)
        return Texts(
            prompts={role: opening.prompt for role, opening in openings.items()},
            contents={role: opening.contents for role, opening in openings.items()},
            judge_open=judge_open,
            judge_closed=judge_closed,
            digits=digits,
            binary_open=binary_open,
            binary_closed=binary_closed,
            words=words,
            close=self.prompts["close"].fill(think_end=base.think_end),
            think_end=base.think_end,
            own=self._own_questions(chats),
        )

    def _question(self, chat: ChatFormat, template: str, labels: tuple[str, ...]) -> Question:
        """A judge's turn and its answers, which are checked where a variant asks this judge."""
        asked = {variant.policy.judge for variant in self.variants}
        if not asked & ({"binary"} if template == "judge_binary" else {"score", "score+likelihood"}):
            opened, closed = (chat.judge_turn(self.prompts, template, thinking=thinking) for thinking in (True, False))
            return Question(opened, closed, labels)
        opened, words = chat.question(self.prompts, template, labels, thinking=True)
        closed, _ = chat.question(self.prompts, template, labels, thinking=False)
        return Question(opened, closed, words)

    def _own_questions(self, chats: dict[Author, ChatFormat]) -> dict[Judge, Question]:
        """What asks small about its own step, by the judge, where a variant's gate goes by that."""
        judges = {variant.policy.judge for variant in self.variants if variant.policy.gate == "self"}
        asked: dict[Judge, tuple[str, tuple[str, ...]]] = {
            judge: ("judge_binary", WORDS) if judge == "binary" else ("judge", DIGITS) for judge in judges
        }
        return {judge: self._question(chats["small"], *words) for judge, words in asked.items() if "small" in chats}

    def trajectory(self, variant: Variant, row: Row, sample: int, chats: dict[Author, ChatFormat]) -> Trajectory:
        """A trajectory of this problem, ready to run. Variants share no cache, or one would run on what another computed."""
        return Trajectory(**self._given(variant, row, sample, chats))

    def _given(self, variant: Variant, row: Row, sample: int, chats: dict[Author, ChatFormat]) -> dict[str, Any]:
        return {
            "problem_id": row.id,
            "sample": sample,
            "sampling_seed": sampling_seed(self.seed, row.id, sample),
            "policy": variant.policy,
            "texts": self.texts(row, chats),
            "cache_key": self._key(variant),
        }

    def _key(self, variant: Variant) -> str:
        """The digest of a variant's settings, which are the same for all its trajectories."""
        if variant not in self._keys:
            self._keys[variant] = digest(self.settings(variant))
        return self._keys[variant]


def _told(settings: dict[str, Any]) -> Iterator[str]:
    """Settings as parts of a folder's name, as many as have room there."""
    room = MOST_TOLD
    for key, value in settings.items():
        part = _named(f"{key}-{value:g}" if isinstance(value, float) else f"{key}-{value}")
        room -= len(part) + 1
        if room < 0:
            return
        if value is not None:
            yield part


def _own_name(model: str) -> str:
    """What a served model is called: the last part of its path, or of the hub's copy of it (models--org--name/snapshots/hash)."""
    parts = PurePath(model).parts
    copies = [part.rpartition("--")[2] for part in parts if part.startswith("models--")]
    return _named((copies or parts or ("",))[-1])[:LONGEST_PART]


def _named(text: str) -> str:
    """`text` with what can stand in a folder's name."""
    return re.sub(r"[^\w.+-]", "_", text, flags=re.ASCII)


def digest(settings: dict[str, Any]) -> str:
    """Eight hex digits that stand for these settings in a folder's name."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
