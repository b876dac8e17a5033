"""Owns the engines of a check of a GPU: how they are planned, what a start of one tells, and why one failed.

Knows nothing of cells' figures besides those of a start.
"""

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpu_plan import BASES, Rates, Serving

from sgl_specreason.engines import arguments, cards, footprint, servers
from sgl_specreason.engines.decode import Decode
from sgl_specreason.engines.keeper import Engine
from sgl_specreason.engines.servers import EngineSpec, number_given
from sgl_specreason.errors import UsageError
from sgl_specreason.plan import checkpoints
from sgl_specreason.plan.demands import Demand
from sgl_specreason.plan.fitting import shape_of
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.plan import Plan
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.plan.shapes import GIB, Shape
from sgl_specreason.text.steps import Author

DUMMY = ("--load-format", "dummy")
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
FAILURE = re.compile(r"[\w.]*(?:Error|Exception|Exit)(?::|$)")
SHOWN = 300
UNKNOWN_GB = {"base": 30.0, "small": 3.0}
"""What models of unknown size are taken for where time is estimated."""
METHODS = ("base", "specreason", "base+decode", "specreason+decode")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """How the engines of a check are started. `refused` says of a way to serve base why it cannot be, before any start."""

    plan: Plan
    dummy: bool
    api_key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    refused: Mapping[Serving, str] = field(default_factory=dict)

    @property
    def bases(self) -> list[Serving]:
        """The ways in which base is served, in order."""
        return [serving for serving in BASES if serving not in self.refused]

    def spec(self, serving: Serving) -> EngineSpec:
        """How an engine is started."""
        role: Author = "small" if serving == "small" else "base"
        spec = replace(self.plan.engine(role), api_key=self.api_key)  # a replay knows one key for both
        algorithm = serving.partition("-")[2]
        if not algorithm:
            return spec
        return Decode(algorithm=algorithm).served(spec, self.plan.models["small"])  # type: ignore[arg-type]

    def planned(self, serving: Serving) -> dict[str, Any]:
        """What it was planned to hold on each of its cards. The server says nothing of a draft model: that is in the headroom.

        Without a layout, as on a CPU, it is what its shape and its arguments say.
        """
        role: Author = "small" if serving == "small" else "base"
        layout = self.plan.placement.layout if self.plan.placement else None
        if self.plan.placement is None or layout is None:
            return self._by_arguments(role)
        model, share = self.plan.placement.pair.models[role], layout.small if role == "small" else layout.base
        shape, draft = shape_of(model), shape_of(self.plan.placement.pair.small)
        assert shape  # or there were no layout
        own = Demand(shape=shape, quantization=model.quantization)
        guesses = Decode().tokens if serving not in ("small", "base") else 0
        whole = replace(own, draft=draft if serving == "base-standalone" else None, guesses=guesses)
        tp, tokens = len(share.cards), share.tokens
        beside = (whole.weights_gb() - own.weights_gb()) / tp + tokens * (whole.kv_bytes(tp) - own.kv_bytes(tp)) / GIB
        return {
            "weights_gb": own.weights_gb() / tp,
            "cache_gb": tokens * own.kv_bytes(tp) / GIB,
            "cache_tokens": tokens,
            "headroom_gb": layout.runtime.headroom_gb(role, whole, tp) + beside,
        }

    def _by_arguments(self, role: Author) -> dict[str, Any]:
        spec, shape = self.plan.engine(role), checkpoints.shape(self.plan.models[role])
        if not isinstance(shape, Shape):
            return {}
        wide = 2 if "float32" in spec.args else 1  # shapes are reckoned at 16 bits
        tokens = number_given(spec.args, "--max-total-tokens") or 0
        cache_gb = wide * tokens * shape.kv_bytes() / GIB
        return {"weights_gb": wide * shape.weights_gb(), "cache_gb": cache_gb, "cache_tokens": tokens}

    def rates(self) -> Rates:
        """What its cells are thought to take."""
        if all(spec.on_cpu for spec in self.plan.specs):
            return Rates.of_the_bundled_pair()
        base, small = (self.planned(role).get("weights_gb") for role in ("base", "small"))
        return Rates.on_gpu(base or UNKNOWN_GB["base"], small or UNKNOWN_GB["small"])


def planned(models: Mapping[str, Any], args: Mapping[Author, Sequence[str]], *, dummy: bool | None, seed: int) -> Pair:
    """The pair, with room for the speculation that takes most of what can be. Raises UsageError where it cannot be served.

    `dummy` None: random weights where not all weights are on this machine.
    """
    refused: dict[Serving, str] = {}
    asked = {name: value for name, value in models.items() if value is not None}
    for algorithm in ("standalone", "ngram", None):
        decode = {"decode": algorithm, "methods": METHODS} if algorithm else {"methods": METHODS[:2]}
        try:
            plan = resolve(Options(seed=seed, policy={}, **decode, **asked))
            break
        except UsageError as error:
            if algorithm is None:
                raise
            refused[f"base-{algorithm}"] = str(error)  # type: ignore[index]
    if plan.placement is None:
        refused = {}  # on a CPU SGLang itself says why not
    for words in args.values():
        arguments.check(words) if words else None
    random = not all(map(has_weights, plan.models.values())) if dummy is None else dummy
    added = {role: (*args[role], *(DUMMY if random else ())) for role in plan.models}
    specs = tuple(replace(spec, args=(*spec.args, *added[spec.role])) for spec in plan.specs)
    return Pair(plan=replace(plan, specs=specs), dummy=random, refused=refused)


def has_weights(model: str) -> bool:
    """Whether a model's weights are on this machine."""
    config = checkpoints.config_file(model)
    return config is not None and any(any(config.parent.glob(pattern)) for pattern in WEIGHTS)


def told(engine: Engine, before_gb: Sequence[float], seconds: float) -> dict[str, Any]:
    """What a start took, and what the engine says of itself. `before_gb` was in use of each card before it."""
    info = servers.info(engine)
    held = footprint.held(info, engine.url)
    used = cards.used_gb()
    if used and len(used) == len(before_gb):
        held["card_gb"] = max(now - then for now, then in zip(used, before_gb, strict=True))
        held["rest_gb"] = held["card_gb"] - held.get("weights_gb", 0) - held.get("cache_gb", 0)
    # what SGLang has chosen itself stands in its state; older versions change what they were given
    settled = info | next(iter(info.get("internal_states") or []), {})
    names = {"sglang": "version", "attention": "attention_backend", "sampling": "sampling_backend", "dtype": "dtype"}
    return {
        "seconds": seconds,
        **{name: settled.get(key) for name, key in names.items()},
        "load_format": info.get("load_format"),
        "speculative_algorithm": info.get("speculative_algorithm"),
        "context": info.get("max_req_input_len"),
        "requests": settled.get("effective_max_running_requests_per_dp"),
        "measured": held,
        "cards_gb": used,
    }


def is_up(engine: Engine, patience_s: float) -> bool:
    """Whether an engine takes requests, or does so again within this time: one that died is started again."""
    until = time.monotonic() + patience_s
    while not servers.takes_requests(engine):
        if engine.health.gone or time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


def failure(log: Path) -> str:
    """Why the program that wrote this log ended, in one line: its last exception, else its last words."""
    try:
        lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    found = [number for number, line in enumerate(lines) if FAILURE.match(line)]
    if not found:
        return lines[-1][:SHOWN] if lines else "its log is empty"
    first = lines[found[-1]]
    more = lines[found[-1] + 1 : found[-1] + 2] if first.endswith(":") else []  # its message begins on the next line
    return " ".join([first, *more])[:SHOWN]
